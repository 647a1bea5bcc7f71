"""Held-out films against brute force: a feature that knows films by heart must get nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from seqsae_utils import interpretability as interp
from seqsae_utils.interpretability import Positions
from seqsae_utils.interpretability.chance import choose, drawn_correlations, of_chosen
from seqsae_utils.interpretability.items import correlations, item_sums

N_ITEMS, N_USERS, LENGTH = 80, 40, 30
rng = np.random.default_rng(0)
MATRIX = np.vstack([np.zeros(3), rng.random((N_ITEMS, 3)) < [0.5, 0.3, 0.2]]).astype(np.float32)
POPULARITY = np.r_[0, rng.integers(1, 100, N_ITEMS)]


@pytest.fixture(scope="module")
def positions():
    found = {}
    for first, group in ((0, "dev"), (N_USERS, "test")):
        items = rng.integers(1, N_ITEMS + 1, size=N_USERS * LENGTH)
        users = np.repeat(first + np.arange(N_USERS), LENGTH)
        found[group] = Positions(users, items, MATRIX[items])
    return found


@pytest.fixture(scope="module")
def codes(positions):
    """Features that know the first attribute, and ones that know a few films by heart."""
    by_heart = np.zeros((N_ITEMS + 1, 40))
    for j in range(40):
        by_heart[rng.choice(N_ITEMS, 4, replace=False) + 1, j] = 1
    found = {}
    for group, p in positions.items():
        noise = rng.random((len(p.items), 1)) < 0.2
        found[group] = {
            "attribute": np.hstack(
                [np.abs(p.attributes[:, [0]] - noise), by_heart[p.items][:, :3]]
            ),
            "by heart": by_heart[p.items],
        }
    return {name: {g: c[name] for g, c in found.items()} for name in ("attribute", "by heart")}


def test_each_split_parts_the_films_into_equally_popular_halves():
    folds = interp.film_splits(POPULARITY)
    assert folds.shape == (20, N_ITEMS + 1) and not folds[:, 0].any()
    for first, second in folds.reshape(10, 2, -1):
        assert (first[1:] ^ second[1:]).all()
        assert abs(POPULARITY[first].mean() - POPULARITY[second].mean()) < 5
    assert len({fold.tobytes() for fold in folds}) == 20
    np.testing.assert_array_equal(folds, interp.film_splits(POPULARITY))


def test_the_score_is_that_of_brute_force(positions, codes):
    folds = interp.film_splits(POPULARITY)[:4]
    everything = {
        "attribute": [codes["attribute"]],
        "both": [codes["attribute"], codes["by heart"]],
    }
    scores, drawn = interp.held_out_films(everything, positions, MATRIX, folds)

    def brute(code):
        found = []
        for films in folds:
            choose, score = films[positions["dev"].items], ~films[positions["test"].items]
            row = []
            for j in range(3):
                has = positions["dev"].attributes[choose, j]
                known = [
                    pearsonr(x, has).statistic if x.std() else 0 for x in code["dev"][choose].T
                ]
                best = int(np.argmax(np.abs(known)))
                x, y = code["test"][score, best], positions["test"].attributes[score, j]
                row.append(np.sign(known[best]) * pearsonr(x, y).statistic if x.std() else 0.0)
            found.append(row)
        return np.mean(found, axis=0)

    one, two = brute(codes["attribute"]), brute(codes["by heart"])
    np.testing.assert_allclose(scores["attribute"], one, atol=1e-4)
    np.testing.assert_allclose(scores["both"], (one + two) / 2, atol=1e-4)
    assert drawn["attribute"].shape == (500,)
    low, high = np.quantile(drawn["attribute"], [0.005, 0.995])
    assert low < scores["attribute"].mean() < high
    for name in everything:
        assert (scores[f"{name}_low"] <= scores[name]).all()
        assert (scores[name] <= scores[f"{name}_high"]).all()


def test_the_interval_of_the_only_attribute_is_that_of_the_mean(positions, codes):
    folds = interp.film_splits(POPULARITY)[:2]
    alone = {g: Positions(p.users, p.items, p.attributes[:, :1]) for g, p in positions.items()}
    scores, drawn = interp.held_out_films(
        {"sae": [codes["attribute"]]}, alone, MATRIX[:, :1], folds
    )
    table = interp.films_table(scores, drawn).loc["sae"]
    assert scores.loc[0, ["sae", "sae_low", "sae_high"]].tolist() == pytest.approx(
        table[["held_out", "held_out_low", "held_out_high"]].tolist()
    )


def test_knowing_films_by_heart_is_worth_nothing_on_other_films(positions, codes):
    folds = interp.film_splits(POPULARITY)
    scores, _ = interp.held_out_films(
        {name: [code] for name, code in codes.items()}, positions, MATRIX, folds
    )
    known, same = (
        correlations(item_sums(codes["by heart"][g], p.items, N_ITEMS), MATRIX)
        for g, p in positions.items()
    )
    same = of_chosen(same, *choose(known))
    assert scores["attribute"][0] > 0.4
    assert same.mean() > 0.15, "on the same films it seems to know the attribute"
    assert abs(scores["by heart"].mean()) < 0.05


def test_sparse_and_dense_codes_score_alike(positions, codes):
    folds = interp.film_splits(POPULARITY)[:2]
    as_sparse = {g: sparse.csr_array(x) for g, x in codes["attribute"].items()}
    scores, _ = interp.held_out_films(
        {"a": [codes["attribute"]], "b": [as_sparse]}, positions, MATRIX, folds
    )
    np.testing.assert_allclose(scores["a"], scores["b"], atol=1e-6)


def test_draws_are_of_users_and_films_together(positions, codes):
    """Weights of one user and of one film only: what is left is their common positions."""
    x, y = codes["attribute"]["test"][:, :3], positions["test"].attributes
    weights = rng.integers(0, 3, (4, len(x))).astype(np.float32)
    found = drawn_correlations([x], y, [weights[:2], weights[2:]])
    for draw, weight in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(len(x)), weight.astype(int))
        for j in range(3):
            expected = pearsonr(x[rows, j], y[rows, j]).statistic
            assert draw[0, j] == pytest.approx(expected, abs=1e-4)


def test_an_attribute_that_no_film_has_is_unknown_without_a_warning(positions, codes):
    folds = interp.film_splits(POPULARITY)[:2]
    none = {g: Positions(p.users, p.items, 0 * p.attributes) for g, p in positions.items()}
    of = {"attribute": codes["attribute"]}
    scores, drawn = interp.held_out_films({"sae": [of["attribute"]]}, none, 0 * MATRIX, folds)
    assert scores.isna().all(axis=None) and np.isnan(drawn["sae"]).all()
    assert interp.films_table(scores, drawn).isna().all(axis=None)
    assert np.isnan(
        [*interp.sparse_probes(of["attribute"], none, 0 * MATRIX, folds).values()]
    ).all()
    best, table, _ = interp.compare(of, none, 0 * MATRIX, [*"abc"], n_permutations=2)
    assert best[["correlation", "p_value"]].isna().all(axis=None)
    assert np.isnan(table["max_correlation"][0])


def test_a_probe_on_one_feature_is_that_feature(positions, codes):
    folds = interp.film_splits(POPULARITY)[:2]
    found = interp.sparse_probes(codes["attribute"], positions, MATRIX, folds)
    assert set(found) == {"1", "2", "4", "8", "dense"}
    expected = []
    for films in folds:
        score = ~films[positions["test"].items]
        has = positions["test"].attributes[score, 0]
        expected.append(roc_auc_score(has, codes["attribute"]["test"][score, 0]))
    one = {g: Positions(p.users, p.items, p.attributes[:, [0]]) for g, p in positions.items()}
    alone = interp.sparse_probes(codes["attribute"], one, MATRIX[:, [0]], folds)
    assert alone["1"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_the_table_has_the_lead_over_each():
    scores = pd.DataFrame({"sae": [0.4, 0.2], "neurons": [0.1, 0.1]})
    drawn = {"sae": np.linspace(0.2, 0.4, 101), "neurons": np.linspace(0.0, 0.2, 101)}
    table = interp.films_table(scores, drawn)
    assert table.loc["neurons", "lead"] == pytest.approx(0.2)
    assert table.loc["neurons", "lead_low"] == pytest.approx(0.2)
    assert table.loc["sae", ["lead", "lead_low", "lead_high"]].tolist() == [0, 0, 0]


def test_sums_by_item_do_not_depend_on_how_many_positions_are_looked_at_together(monkeypatch):
    rng = np.random.default_rng(0)
    codes = sparse.csr_array(np.maximum(rng.normal(size=(250, 6)) - 0.5, 0).astype(np.float32))
    items = rng.integers(1, 20, 250)
    for given in (codes, codes.toarray()):
        whole = item_sums(given, items, 22)
        monkeypatch.setattr("seqsae_utils.interpretability.items.AT_A_TIME", 7)
        parts = item_sums(given, items, 22)
        monkeypatch.undo()
        assert whole["value"].shape == (23, 6) and whole["count"].sum() == 250
        for name, sums in whole.items():
            np.testing.assert_allclose(parts[name], sums, rtol=1e-12)
        dense = codes.toarray().astype(np.float64)
        np.testing.assert_allclose(whole["square"][5], (dense[items == 5] ** 2).sum(axis=0))
