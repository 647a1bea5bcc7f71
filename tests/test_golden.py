"""Ranking metrics against the numbers of RecTools and RePlay; see golden/make_golden.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from seqsae_utils import metrics
from seqsae_utils.recommender import rank_items

FOLDER = Path(__file__).parent / "golden"
CASE = json.loads((FOLDER / "case.json").read_text())
GOLDEN = json.loads((FOLDER / "metrics.json").read_text())
N_ITEMS, N_TRAINING, LENGTH = CASE["n_items"], len(CASE["training"]), 5
POPULARITY = np.bincount(np.concatenate(CASE["training"]), minlength=N_ITEMS + 1)


def place(user: str) -> int:
    """Place of the user's held-out item; behind the whole catalogue where no list holds it."""
    found = CASE["lists"].get(user, [])
    item = CASE["held_out"][user]
    return 1 + found.index(item) if item in found else N_ITEMS + 1


RANK = np.array([place(user) for user in CASE["held_out"]])
LISTS = np.array(
    [(CASE["lists"].get(user, []) + [0] * LENGTH)[:LENGTH] for user in CASE["held_out"]]
)


def full_lists(k: int) -> np.ndarray:
    return LISTS[(LISTS > 0).sum(axis=1) >= k][:, :k]


@pytest.mark.parametrize("library", GOLDEN)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("name", ["ndcg", "hit_rate", "mrr"])
def test_metrics_of_the_held_out_item(library, name, k):
    ours = getattr(metrics, name)(RANK, k).mean()
    assert ours == pytest.approx(GOLDEN[library][f"{name}@{k}"], abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_coverage(k):
    ours = metrics.coverage(LISTS[:, :k], N_ITEMS)
    assert ours == pytest.approx(GOLDEN["rectools"][f"coverage@{k}"], abs=1e-6)
    of_training_items = ours * N_ITEMS / np.count_nonzero(POPULARITY)
    expected = GOLDEN["replay"][f"coverage_of_training_items@{k}"]
    assert of_training_items == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_novelty(k):
    ours = metrics.novelty(LISTS[:, :k], POPULARITY, N_TRAINING)
    assert ours == pytest.approx(GOLDEN["rectools"][f"novelty@{k}"], abs=1e-6)
    ours = metrics.novelty(full_lists(k), POPULARITY, N_TRAINING)
    assert ours == pytest.approx(GOLDEN["replay"][f"novelty_of_full_lists@{k}"], abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_diversity(k):
    ours = metrics.diversity(full_lists(k))
    assert ours == pytest.approx(GOLDEN["rectools"][f"diversity_of_full_lists@{k}"], abs=1e-6)


def test_scores_with_ties_give_the_places_of_the_case():
    """The held-out item shares its score with the item before it, and still stands behind it."""
    users = [user for user in CASE["held_out"] if 1 < place(user) <= N_ITEMS]
    assert users
    for user in users:
        shown, target = CASE["lists"][user], CASE["held_out"][user]
        scores = torch.full((1, N_ITEMS + 1), -100.0)
        scores[0, shown] = -torch.arange(len(shown), dtype=torch.float32)
        scores[0, target] += 1
        seen = [item for item in range(1, N_ITEMS + 1) if item not in shown]
        ranking = rank_items(lambda _, s=scores: s, [np.array(seen)], np.array([target]), k=LENGTH)
        assert ranking.rank.tolist() == [place(user)]
        assert sorted(ranking.lists[0]) == sorted(shown)
