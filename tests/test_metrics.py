"""Metrics against scikit-learn, against brute force, and against cases counted by hand."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, recall_score

from seqsae_utils import metrics
from seqsae_utils.recommender import Ranking, Split, summary


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def lists(rng):
    """Ten recommended items for each of 40 users, out of 60."""
    return np.array([1 + rng.permutation(60)[:10] for _ in range(40)])


@pytest.mark.parametrize("k", [1, 5, 10, 30])
def test_ndcg_is_that_of_scikit_learn(rng, k):
    scores, target = rng.random((50, 30)), rng.integers(30, size=50)
    relevant = np.eye(30)[target]
    rank = 1 + (scores > scores[np.arange(50), target][:, None]).sum(axis=1)
    expected = [ndcg_score([y], [s], k=k) for y, s in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(metrics.ndcg(rank, k), expected)


def test_mrr_is_that_of_scikit_learn(rng):
    scores, target = rng.random((50, 30)), rng.integers(30, size=50)
    rank = 1 + (scores > scores[np.arange(50), target][:, None]).sum(axis=1)
    expected = label_ranking_average_precision_score(np.eye(30)[target], scores)
    assert metrics.mrr(rank, k=30).mean() == pytest.approx(expected)


def test_the_last_place_that_counts_is_k():
    rank = np.array([1, 2, 10, 11, 500])
    assert metrics.hit_rate(rank).tolist() == [1, 1, 1, 0, 0]
    assert metrics.mrr(rank).tolist() == [1, 0.5, 0.1, 0, 0]
    assert (metrics.ndcg(rank) > 0).tolist() == [True, True, True, False, False]


def test_hit_rate_is_the_recall_of_scikit_learn(rng):
    scores, target = rng.random((50, 30)), rng.integers(30, size=50)
    rank = 1 + (scores > scores[np.arange(50), target][:, None]).sum(axis=1)
    shown = scores >= np.sort(scores, axis=1)[:, -10:][:, :1]  # the ten best of each user
    expected = recall_score(np.eye(30)[target], shown, average="samples", zero_division=0)
    assert metrics.hit_rate(rank).mean() == pytest.approx(expected)


def test_coverage_counts_items_and_not_places():
    assert metrics.coverage(np.array([[1, 2], [2, 3]]), n_items=6) == 0.5
    assert metrics.coverage(np.array([[1, 2], [2, 0]]), n_items=4) == 0.5  # 0 is an empty place


def test_novelty_reaches_both_ends_and_moves_between_them():
    popularity = np.array([0, 8, 4, 2, 1])  # out of 8 users: 0, 1, 2 and 3 bits
    novelty = [metrics.novelty(np.array([[item]]), popularity, 8) for item in (1, 2, 3, 4)]
    assert novelty == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert metrics.novelty(np.array([[1, 4], [4, 0]]), popularity, 8) == pytest.approx(2 / 3)


def test_novelty_of_an_item_that_nobody_took_is_the_maximum():
    assert metrics.novelty(np.array([[1]]), np.array([0, 0]), 8) == 1


def test_diversity_is_that_of_all_pairs(lists):
    shared = [len(set(a) & set(b)) / 10 for a, b in combinations(lists.tolist(), 2)]
    assert metrics.diversity(lists) == pytest.approx(1 - np.mean(shared))


def test_diversity_of_short_lists_is_that_of_all_pairs(rng):
    lists = [(1 + rng.permutation(12)[: rng.integers(0, 6)]).tolist() for _ in range(20)]
    assert {len(shown) for shown in lists} >= {0, 1, 5}
    shared = [len(set(a) & set(b)) / 5 for a, b in combinations(lists, 2)]
    padded = np.array([shown + [0] * (5 - len(shown)) for shown in lists])
    assert metrics.diversity(padded) == pytest.approx(1 - np.mean(shared))


def test_diversity_reaches_both_ends():
    assert metrics.diversity(np.array([[1, 2], [2, 1], [1, 2]])) == 0
    assert metrics.diversity(np.array([[1, 2], [3, 4], [5, 6]])) == 1
    assert metrics.diversity(np.array([[1, 0], [2, 0]])) == 1  # empty places are not in common


def test_diversity_of_a_single_list_is_not_defined():
    assert np.isnan(metrics.diversity(np.array([[1, 2]])))


def test_bootstrap_interval_is_that_of_the_normal_law(rng):
    values = rng.normal(5, 2, size=400)
    low, high = metrics.bootstrap_mean(values)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half_width, abs=0.15 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.15 * half_width)


def test_bootstrap_depends_on_the_seed_alone(rng):
    values = rng.random(50)
    assert metrics.bootstrap_mean(values, seed=1) == metrics.bootstrap_mean(values, seed=1)
    assert metrics.bootstrap_mean(values, seed=1) != metrics.bootstrap_mean(values, seed=2)


def test_terciles_are_equal_where_values_differ(rng):
    values = rng.permutation(99) + 2
    groups = metrics.terciles(values)
    assert groups.ordered and groups.categories.tolist() == ["2-34", "35-67", "68-100"]
    for name in groups.categories:
        low, high = map(int, name.split("-"))
        assert sorted(values[groups == name]) == list(range(low, high + 1))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1, 1, 1, 2, 3], ["1", "2-3"]),
        ([5, 1, 9], ["1", "5", "9"]),
        ([1, 2, 3, 3, 3, 3], ["1-2", "3"]),
        ([7, 7, 7], ["7"]),
        ([3, 4], ["3", "4"]),
        ([6], ["6"]),
        ([10, 2_000, 9, 31_000], ["9-10", "2,000", "31,000"]),
    ],
)
def test_terciles_part_no_ties_and_are_never_empty(values, expected):
    groups = metrics.terciles(np.array(values))
    assert groups.categories.tolist() == expected
    assert set(groups) == set(expected)
    for value, name in zip(values, groups, strict=True):
        bounds = [int(part.replace(",", "")) for part in name.split("-")]
        assert bounds[0] <= value <= bounds[-1]


def test_by_group_is_each_group_alone_in_the_order_of_the_names(rng):
    values, lengths = rng.random(60), rng.integers(2, 200, size=60)
    groups = metrics.terciles(lengths)
    table = metrics.by_group(values, groups, seed=3)
    assert table["group"].tolist() == groups.categories.tolist()
    assert table["users"].sum() == 60
    for name, row in table.set_index("group").iterrows():
        chosen = values[groups == name]
        assert row["users"] == len(chosen) and row["mean"] == pytest.approx(chosen.mean())
        assert (row["low"], row["high"]) == metrics.bootstrap_mean(chosen, seed=3)
        assert row["low"] < row["mean"] < row["high"]


def test_by_group_names_no_group_that_nobody_is_in():
    groups = pd.Categorical(["b", "a", "b"], categories=["b", "x", "a"], ordered=True)
    table = metrics.by_group(np.array([1.0, 2.0, 3.0]), groups)
    assert table[["group", "users", "mean"]].to_numpy().tolist() == [["b", 2, 2.0], ["a", 1, 2.0]]


def test_summary_gathers_them_all(rng, lists):
    train = [1 + rng.permutation(60)[:20] for _ in range(100)]
    split, rank = Split(60, train, ([], train[0]), ([], train[0])), rng.integers(1, 30, size=40)
    found = summary(Ranking(lists, rank), split)
    assert found["ndcg@10"] == metrics.ndcg(rank).mean()
    assert found["hit_rate@10"] == (rank <= 10).mean()
    assert found["mrr@10"] == metrics.mrr(rank).mean()
    assert found["coverage@10"] == len(np.unique(lists)) / 60
    assert found["novelty@10"] == metrics.novelty(lists, split.popularity, 100)
    assert found["diversity@10"] == metrics.diversity(lists)
    for name in ("ndcg@10", "hit_rate@10"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert "ndcg@5_low" in summary(Ranking(lists[:, :5], rank), split)
