"""Enrichment against SciPy and enumeration; planted features get their names, noise gets none."""

from importlib import import_module
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import hypergeom, mannwhitneyu

from seqsae_utils import data, figures
from seqsae_utils.figures import interpretability as plots

# The package has a function of the same name, which hides the module from a plain import.
naming = import_module("seqsae_utils.interpretability.names")

GROUPS = ("dev", "test")


@pytest.fixture(scope="module")
def dataset():
    return data.prepare(data.synthetic(n_users=600, n_items=300))


@pytest.fixture(scope="module")
def items(dataset):
    found = {}
    for group in GROUPS:
        users = dataset.users.query("split == @group")["user"]
        table = dataset.interactions
        found[group] = table["item"][table["user"].isin(users)].to_numpy()
    return found


#: What the features of `codes` are, in order; the last fires on no test user.
KINDS = ["attribute", "attribute", "decade", "popularity", "item", "", "", "attribute"]


@pytest.fixture(scope="module")
def codes(dataset, items):
    """One attribute; two; a decade; popular items; one item; noise; two that are silent."""
    rng = np.random.default_rng(0)
    popularity = np.r_[0, dataset.items["popularity"]]
    year = np.r_[0, dataset.items["year"]]
    matrix = dataset.attribute_matrix
    of_item = np.stack(
        [
            matrix[:, 0],
            (matrix[:, 1] + matrix[:, 2]) ** 2,
            (year // 10 == 198).astype(float),
            np.maximum(popularity / popularity.max() - 0.2, 0),
            (np.arange(len(matrix)) == popularity.argmax()).astype(float),
            rng.random(len(matrix)),
            np.zeros(len(matrix)),
            matrix[:, 3],
        ],
        axis=1,
    )
    found = {}
    for group in GROUPS:
        noise = rng.uniform(0.5, 1, (len(items[group]), of_item.shape[1]))
        values = of_item[items[group]] * noise
        values[:, 7] *= group == "dev"
        found[group] = sparse.csr_array(values)
    return found


@pytest.fixture(scope="module")
def left_out(dataset, items):
    chosen = naming.held_out(dataset.n_items)
    chosen[np.r_[0, dataset.items["popularity"]].argmax()] = False
    return chosen


@pytest.fixture(scope="module")
def labels(codes, items, dataset, left_out):
    return naming.names(codes["dev"], items["dev"], dataset, left_out).set_index("feature")


def test_a_third_of_the_items_is_held_out_by_the_seed():
    chosen = naming.held_out(300, seed=1)
    assert chosen.sum() == 100 and not chosen[0]
    assert np.array_equal(chosen, naming.held_out(300, seed=1))
    assert not np.array_equal(chosen, naming.held_out(300, seed=2))


def test_enrichment_in_one_stratum_is_hypergeometric():
    has = np.zeros((41, 1))
    has[1:11] = 1
    group = np.r_[-1, np.zeros(40, dtype=int)]
    top = np.array([[1, 2, 3, 20, 21], [1, 30, 0, 0, 0]])
    hits, expected, p = naming.enrichment(top, group, has)
    assert hits.ravel().tolist() == [3, 1]
    assert np.allclose(expected.ravel(), [5 / 4, 2 / 4])
    assert np.allclose(p.ravel(), [hypergeom.sf(2, 40, 10, 5), hypergeom.sf(0, 40, 10, 2)])


def test_enrichment_in_two_strata_is_what_all_draws_say():
    """A set of two items of the first stratum and two of the second: enumerate them all."""
    has = np.array([0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0])[:, None]
    group = np.r_[-1, np.zeros(5, dtype=int), np.ones(6, dtype=int)]
    top = np.array([[1, 2, 6, 9]])
    hits, expected, p = naming.enrichment(top, group, has)
    draws = [
        has[[*a, *b]].sum()
        for a in combinations(range(1, 6), 2)
        for b in combinations(range(6, 12), 2)
    ]
    assert hits[0, 0] == 3
    assert expected[0, 0] == pytest.approx(np.mean(draws))
    assert p[0, 0] == pytest.approx(np.mean(np.array(draws) >= 3))


def test_rank_sum_is_that_of_scipy():
    popularity = np.r_[0, np.random.default_rng(0).permutation(40)]
    pool = np.arange(41) > 0
    top = np.array([[3, 9, 12, 30, 31], [1, 2, 0, 0, 0]])
    z, p = naming._rank_sum(top, pool, popularity)
    for row, some in enumerate(top):
        some = some[some > 0]
        rest = np.setdiff1d(np.arange(1, 41), some)
        expected = mannwhitneyu(
            popularity[some], popularity[rest], method="asymptotic", use_continuity=False
        )
        assert p[row] == pytest.approx(expected.pvalue)
        assert np.sign(z[row]) == np.sign(expected.statistic - len(some) * len(rest) / 2)


def test_planted_features_get_their_names(labels, dataset):
    first, second, third = dataset.attributes[:3]
    assert labels["kind"].to_dict() == {i: KINDS[i] for i in (0, 1, 2, 3, 4, 5, 7)}
    assert labels["label"][0] == labels["label_properties"][0] == first
    assert set(labels["label_properties"][1].split("|")) <= {second, third}
    assert labels["label"][2] == labels["label_properties"][2] == "1980s"
    assert labels["label"][3] == "popular items" and labels["label_popularity"][3] == 1
    best = dataset.items.loc[dataset.items["popularity"].idxmax()]
    assert labels["label"][4] == f"“{best['title']}”" and labels["label_item"][4] == best["item"]
    assert labels["label"][5] == "" and np.isnan(labels["confidence"][5])
    assert labels["confidence"][[0, 2]].min() > 0.9
    assert labels["confidence"][4] == pytest.approx(1)  # its share of the mass


def test_evidence_can_be_checked(labels, dataset):
    assert labels["evidence"][0].startswith(f"30 of 30 top items are {dataset.attributes[0]}, ")
    assert "(p < 1e-20); strongest: " in labels["evidence"][0]
    assert "100% of its activation" in labels["evidence"][4]
    assert labels["evidence"][5].startswith("nothing is enriched among 30 top items; strongest")


def test_noise_gets_no_names(dataset, items):
    """Features that know items by heart, and no more: 300 of them, one label is too many."""
    rng = np.random.default_rng(5)
    of_item = np.maximum(rng.normal(size=(dataset.n_items + 1, 300)) - 1, 0)
    labels = naming.names(sparse.csr_array(of_item[items["dev"]]), items["dev"], dataset)
    assert (labels["kind"] != "").sum() <= 1


def test_a_name_by_chance_is_given_no_confidence(dataset, items, monkeypatch):
    """A level above 1 names them all by what is there by chance: other items do not confirm it."""
    rng = np.random.default_rng(6)
    of_item = np.maximum(rng.normal(size=(dataset.n_items + 1, 300)) - 1, 0)
    codes = sparse.csr_array(of_item[items["dev"]])
    monkeypatch.setattr(naming, "LEVEL", 2)
    labels = naming.names(codes, items["dev"], dataset)
    assert (labels["kind"] != "").all()
    assert labels["confidence"].mean() == pytest.approx(0.5, abs=0.015)


def test_left_out_items_have_no_part(codes, items, dataset, left_out, labels):
    """Whatever is put on them, the labels and their evidence stay the same."""
    values = codes["dev"].toarray()
    values[left_out[items["dev"]]] *= 9
    values[items["dev"] == np.flatnonzero(left_out)[0], 5] += 1000
    again = naming.names(sparse.csr_array(values), items["dev"], dataset, left_out)
    pd.testing.assert_frame_equal(again.set_index("feature"), labels)


def test_fits_say_what_the_label_says(labels, dataset):
    fit = naming.fits(labels.reset_index(), dataset)
    assert np.array_equal(fit[0], dataset.attribute_matrix[:, 0])
    assert np.array_equal(fit[2][1:] > 0, (dataset.items["year"] // 10 == 198).to_numpy())
    assert np.array_equal(fit[3][1:], dataset.items["popularity"])
    assert fit[4].sum() == 1 and not fit[5].any()


def test_accuracy_counts_pairs_one_by_one():
    mean = np.array([[np.nan], [1.0], [0], [2], [2]])
    fit = np.array([[0, 1.0, 0, 0, 1]])
    first, second = np.array([[1, 3, 3, 4, 3]]), np.array([[2, 1, 2, 3, 4]])
    # right (1 > 2), wrong (1 is weaker than 3), a tie of the fit, and two ties of the truth
    assert naming._accuracy(fit, mean, first, second) == pytest.approx([(1 + 0 + 0.5) / 3])


def test_both_items_of_a_pair_are_equally_popular(codes, items, dataset, left_out):
    popularity = np.r_[0, dataset.items["popularity"]]
    mean = naming.mean_by_item(naming.item_sums(codes["test"], items["test"], dataset.n_items))
    pool = left_out & ~np.isnan(mean).all(axis=1)
    first, second = naming._pairs(mean, left_out, popularity, np.random.default_rng(0))
    rank = np.zeros(len(pool))
    rank[np.flatnonzero(pool)[np.argsort(popularity[pool], kind="stable")]] = range(pool.sum())
    tested = first[:, 0] > 0
    assert pool[first[tested]].all() and pool[second[tested]].all()
    assert (first[tested] != second[tested]).all()
    apart = np.abs(popularity[first[tested]] - popularity[second[tested]])
    assert apart.mean() < np.abs(popularity[pool][:, None] - popularity[pool]).mean() / 3


def test_where_no_label_can_be_tested_there_are_no_numbers(codes, items, dataset, left_out, labels):
    none = labels.reset_index().assign(kind="", label="")
    table, drawn = naming.predict_pairs(none, codes["test"], items["test"], dataset, left_out)
    assert table["features"].tolist() == [0] and np.isnan(drawn).all()
    assert table[["accuracy", "low", "high", "told", "shuffled", "p_value"]].isna().all(axis=None)
    plots.predictions(pd.concat([table.assign(representation="sae")] * 2)).canvas.draw()


def test_names_predict_and_shuffled_names_do_not(codes, items, dataset, left_out, labels):
    table, drawn = naming.predict_pairs(
        labels.reset_index(), codes["test"], items["test"], dataset, left_out, seed=1
    )
    table = table.set_index("kind")
    assert drawn.mean() == pytest.approx(table["accuracy"]["all"], abs=0.02)
    assert table["coverage"].tolist() == [n / len(labels) for n in table["features"]]
    of_all = table.loc["all"]
    assert of_all["told"] == pytest.approx(of_all["accuracy"] * of_all["coverage"])
    assert table.index.tolist() == ["all", "attribute", "decade", "item", "popularity"]
    assert table["features"].tolist() == [4, 2, 1, 1, 1]  # one is silent on the test users
    assert table["accuracy"]["decade"] == pytest.approx(1, abs=0.08)
    assert table["accuracy"]["item"] == pytest.approx(1)
    assert table["low"]["all"] <= table["accuracy"]["all"] <= table["high"]["all"]
    assert table["accuracy"]["all"] > 0.8 and table["shuffled"]["all"] < 0.7
    wrong = labels.reset_index()
    said = [name for name in wrong if name.startswith("label")]
    wrong.loc[[0, 2], said] = wrong.loc[[2, 0], said].to_numpy()
    worse, _ = naming.predict_pairs(wrong, codes["test"], items["test"], dataset, left_out)
    assert worse["accuracy"][0] < 0.75


def test_the_test_looks_at_left_out_items_and_test_users_only(
    codes, items, dataset, left_out, labels
):
    values = codes["test"].toarray()
    values[~left_out[items["test"]]] = values[~left_out[items["test"]]].max() - 1
    values[:, 4] = codes["test"].toarray()[:, 4]
    before, after = (
        naming.predict_pairs(labels.reset_index(), x, items["test"], dataset, left_out)[0]
        for x in (codes["test"], values)
    )
    pd.testing.assert_frame_equal(before, after)


def test_figure_draws_what_the_table_holds(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    figures.style()
    table = pd.DataFrame(
        {"kind": ["all", "item"] * 2, "representation": ["sae"] * 2 + ["mine"] * 2,
         "features": [30, 10, 20, 0],
         "accuracy": [0.7, 1, 0.6, np.nan], "low": [0.6, 1, 0.5, np.nan],
         "high": [0.8, 1, 0.7, np.nan], "shuffled": [0.5, 0.4, 0.5, np.nan]}
    )  # fmt: skip
    figure = plots.predictions(table)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    crosses = np.concatenate([x.get_xdata() for x in axis.lines if x.get_marker() == "x"])
    assert sorted(crosses) == [0.4, 0.5, 0.5]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["all but items", "item"]
    plt.close("all")
    plt.rcdefaults()


def test_without_an_item_that_a_set_may_have_nothing_is_enriched():
    nobody = np.full(5, -1)
    module = import_module("seqsae_utils.interpretability.names")
    hits, expected, p = module.enrichment(np.zeros((2, 3), int), nobody, np.zeros((5, 4)))
    assert not hits.any() and not expected.any() and (p == 1).all() and p.shape == (2, 4)
