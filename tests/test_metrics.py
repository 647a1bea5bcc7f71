"""Metrics against scikit-learn, against brute force, and against cases counted by hand."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from seqsae_utils import metrics


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


def test_diversity_reaches_both_ends():
    assert metrics.diversity(np.array([[1, 2], [2, 1], [1, 2]])) == 0
    assert metrics.diversity(np.array([[1, 2], [3, 4], [5, 6]])) == 1
    assert metrics.diversity(np.array([[1, 0], [2, 0]])) == 1  # empty places are not in common


def test_diversity_of_a_single_list_is_not_defined():
    assert np.isnan(metrics.diversity(np.array([[1, 2]])))


def test_bootstrap_interval_is_that_of_the_normal_law(rng):
    values = rng.normal(5, 2, size=400)
    low, high = metrics.bootstrap_mean(values, n_draws=4_000)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_bootstrap_depends_on_the_seed_alone(rng):
    values = rng.random(50)
    assert metrics.bootstrap_mean(values, seed=1) == metrics.bootstrap_mean(values, seed=1)
    assert metrics.bootstrap_mean(values, seed=1) != metrics.bootstrap_mean(values, seed=2)


def test_bootstrap_of_a_higher_level_is_wider(rng):
    values = rng.random(50)
    low, high = metrics.bootstrap_mean(values, level=0.99)
    assert low < metrics.bootstrap_mean(values)[0] < metrics.bootstrap_mean(values)[1] < high


def test_summary_gathers_them_all(rng, lists):
    rank, popularity = rng.integers(1, 30, size=40), rng.integers(1, 100, size=61)
    summary = metrics.summary(lists, rank, popularity, n_users=100)
    assert summary["ndcg@10"] == metrics.ndcg(rank).mean()
    assert summary["hit_rate@10"] == (rank <= 10).mean()
    assert summary["mrr@10"] == metrics.mrr(rank).mean()
    assert summary["coverage@10"] == len(np.unique(lists)) / 60
    assert summary["novelty@10"] == metrics.novelty(lists, popularity, 100)
    assert summary["diversity@10"] == metrics.diversity(lists)
    for name in ("ndcg@10", "hit_rate@10"):
        assert summary[f"{name}_low"] < summary[name] < summary[f"{name}_high"]
    assert "ndcg@5_low" in metrics.summary(lists[:, :5], rank, popularity, 100)
