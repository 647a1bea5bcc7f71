"""Selectivity and co-consumption: by brute force, and on features that are known."""

from importlib import import_module
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from seqsae_utils import data, figures
from seqsae_utils import interpretability as interp
from seqsae_utils.figures import interpretability as plots
from seqsae_utils.interpretability import Positions
from seqsae_utils.interpretability.items import item_sums, mean_by_item, strata, top_sets

# The package has a function of the same name, which hides the module from a plain import.
mono = import_module("seqsae_utils.interpretability.monosemanticity")


@pytest.fixture(scope="module")
def dataset():
    return data.prepare(data.synthetic(n_users=300, n_items=120))


@pytest.fixture(scope="module")
def positions(dataset):
    groups = {}
    for group in ("dev", "test"):
        users = dataset.users.query("split == @group")["user"]
        index = dataset.interactions[dataset.interactions["user"].isin(users)]
        groups[group] = Positions.of(index, dataset.attribute_matrix)
    return groups


def known_features(dataset, positions) -> dict:
    """An attribute; the most popular item; noise on all positions; and one that never fires."""
    rng = np.random.default_rng(3)
    item = int(dataset.items.set_index("item")["popularity"].idxmax())
    codes = {}
    for group, some in positions.items():
        columns = [
            some.attributes[:, 2] * rng.uniform(1, 2, len(some.items)),
            some.items == item,
            rng.random(len(some.items)),
            np.zeros(len(some.items)),
        ]
        codes[group] = sparse.csr_array(np.stack(columns, axis=1))
    return codes


def test_halves_are_about_the_mean_of_the_sae_users():
    rng = np.random.default_rng(0)
    codes = {"dev": rng.normal(5, 1, (40, 3)), "test": rng.normal(6, 1, (30, 3))}
    cut = mono.halves(codes)
    above, below = cut["test"][:, :3], cut["test"][:, 3:]
    assert np.allclose(above - below, codes["test"] - codes["dev"].mean(axis=0))
    assert (above * below == 0).all() and (cut["test"] >= 0).all()
    thin = {group: sparse.csr_array(x) for group, x in codes.items()}
    assert mono.halves(thin) is thin


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_the_strongest_positions_are_those_of_a_sort(kind):
    codes = np.maximum(np.random.default_rng(0).normal(size=(200, 4)), 0)
    codes[3:, 3] = 0  # fires less often than the share
    expected = np.zeros_like(codes)
    for j, column in enumerate(codes.T):
        for i in np.argsort(-column)[:2]:  # TOP_SHARE of 200
            expected[i, j] = column[i]
    given = kind(codes)
    assert np.array_equal(mono.strongest(given).toarray(), expected)
    assert abs(given - codes).max() == 0  # it stays as it is


def test_exchanged_items_are_as_popular():
    popularity = np.random.default_rng(0).permutation(90)
    group = strata(popularity, size=30)
    permutation = mono.exchanged(group, np.random.default_rng(1))
    assert permutation[0] == 0 and sorted(permutation) == list(range(91))
    assert np.array_equal(group[permutation[1:] - 1], group)
    assert (permutation[1:] != np.arange(1, 91)).mean() > 0.8
    assert [popularity[group == g].max() for g in range(3)] == [29, 59, 89]


def test_top_sets_are_the_top_items_of_each_feature(positions, dataset):
    codes = known_features(dataset, positions)["test"]
    sums = item_sums(codes, positions["test"].items, dataset.n_items)
    mean = mean_by_item(sums)
    tops = top_sets(mean, n=5)
    for feature in (0, 2):
        table = interp.top_items(codes[:, [feature]], positions["test"].items, dataset.n_items, 5)
        assert tops[feature].tolist() == table["item"].tolist()
        assert np.allclose(mean[tops[feature], feature], table["activation"])
    assert (tops[1] > 0).sum() == 1 and not tops[3].any()
    twice = np.array([[9.0], [9], [1], [1], [1]])  # two positions are too few to rank by
    mean = mean_by_item(item_sums(twice, np.array([1, 1, 2, 2, 2]), n_items=2))
    assert np.isnan(mean[1, 0]) and top_sets(mean, n=2).tolist() == [[2, 0]]


def test_selectivity_is_what_positions_say_one_by_one():
    rng = np.random.default_rng(0)
    attributes = (rng.random((21, 5)) < 0.4).astype(float)
    attributes[0] = attributes[:, 4] = 0
    items = rng.integers(1, 21, 400)
    codes = np.maximum(rng.normal(size=(400, 3)), 0)
    found = mono.selectivity(item_sums(codes, items, 20), attributes)
    for j, a in np.ndindex(3, 4):
        has = attributes[items, a] > 0
        share = codes[has, j].sum() / codes[:, j].sum()
        expected = (share - has.mean()) / (1 - has.mean())
        assert found[j, a] == pytest.approx(expected)
    assert np.isnan(found[:, 4]).all()


def test_co_consumption_is_what_all_pairs_say(dataset):
    items = dataset.items.set_index("item")
    recommender = set(dataset.users.query("split == 'recommender'")["user"])
    table = dataset.interactions[dataset.interactions["user"].isin(recommender)]
    had = {item: set(users) for item, users in table.groupby("item")["user"]}
    group = dict(zip(items.index, strata(items["popularity"].to_numpy()), strict=True))

    def cosine(a, b):
        return len(had[a] & had[b]) / np.sqrt(len(had[a]) * len(had[b]))

    tops = np.array([[3, 5, 40, 77], [5, 9, 0, 0], [8, 0, 0, 0]])
    found, chance = mono.co_consumption(tops, dataset)
    pairs = list(combinations(tops[0], 2))
    alike = [
        np.mean([
            cosine(x, y) for x in items.index for y in items.index
            if x != y and group[x] == group[a] and group[y] == group[b]
        ])
        for a, b in pairs
    ]  # fmt: skip
    assert found[0] == pytest.approx(np.mean([cosine(a, b) for a, b in pairs]))
    assert chance[0] == pytest.approx(np.mean(alike))
    assert found[1] == pytest.approx(cosine(5, 9))
    assert np.isnan([found[2], chance[2]]).all()


def test_known_features_get_what_they_are(dataset, positions):
    table = mono.monosemanticity(known_features(dataset, positions), positions, dataset)
    assert table["feature"].tolist() == [0, 1, 2]  # the last one never fires
    attribute, item, noise = table.itertuples()
    assert attribute.attribute == dataset.attributes[2]
    assert attribute.selectivity == pytest.approx(1)
    assert attribute.selectivity_null < 0.5
    assert item.selectivity == pytest.approx(1)
    assert item.selectivity_null == pytest.approx(1)  # any attributes would do
    assert noise.selectivity < 0.4
    assert attribute.co_consumption > attribute.co_consumption_chance  # users follow attributes


def test_the_ends_of_a_dimension_are_two_features(dataset, positions):
    rng = np.random.default_rng(0)
    dense = {group: rng.normal(3, 1, (len(some.items), 4)) for group, some in positions.items()}
    table = mono.monosemanticity(dense, positions, dataset)
    assert len(table) == 8
    pd.testing.assert_frame_equal(table, mono.monosemanticity(dense, positions, dataset))


def test_a_feature_that_is_silent_on_the_test_users_has_no_values(dataset, positions):
    codes = known_features(dataset, positions)
    codes["test"] = codes["test"].copy()
    codes["test"].data[:] = 0
    table = mono.monosemanticity(codes, positions, dataset)
    assert table[["selectivity", "co_consumption"]].isna().all().all()


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    figures.style()
    yield
    plt.close("all")
    plt.rcdefaults()


def test_figures_draw_what_the_tables_hold(screen, dataset, positions):
    table = mono.monosemanticity(known_features(dataset, positions), positions, dataset)
    both = pd.concat([table.assign(representation="sae"), table.assign(representation="mine")])
    medians = both.groupby("representation", sort=False).median(numeric_only=True)
    figure = plots.monosemanticity(medians)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        plots.REPRESENTATIONS["sae"], "mine",
    ]  # fmt: skip
    dots = figure.axes[0].collections[-1].get_offsets()[:, 0]
    assert np.allclose(dots, table["selectivity"].median() - table["selectivity_null"].median())
    figure.draw_without_rendering()
