"""Item neighbours and EASE against brute force, and what bad or strange input gets."""

import weakref
from functools import partial

import numpy as np
import pytest
import torch

from seqsae_utils import metrics
from seqsae_utils.recommender import (
    Split,
    baselines,
    hold_out_last,
    popularity_scores,
    rank_items,
)
from seqsae_utils.recommender.baselines import (
    best_of,
    ease_scores,
    item_knn_scores,
    simple_models,
)

N_ITEMS = 30  # items 29 and 30 are taken by nobody


@pytest.fixture(scope="module")
def sequences():
    """200 users with 2 to 15 of 28 items; item i is mostly followed by those near it."""
    rng = np.random.default_rng(0)
    popular = 1 / np.arange(1, 29)
    found = []
    for _ in range(200):
        weights = popular * np.exp(-0.5 * ((np.arange(28) - rng.integers(28)) / 5) ** 2)
        items = rng.choice(28, size=rng.integers(2, 16), replace=False, p=weights / weights.sum())
        found.append(1 + items)
    return found


@pytest.fixture(scope="module")
def taken(sequences):
    """The matrix X [n_users, n_items], filled one by one."""
    matrix = np.zeros((200, N_ITEMS))
    for user, sequence in enumerate(sequences):
        for item in sequence:
            matrix[user, item - 1] = 1
    return matrix


HISTORIES = [np.array([3, 7, 1]), np.array([5]), np.array([28, 2, 9, 4])]


def score_by_hand(weights: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Sum of the weights [n_items, n_items] from the history's items to each item."""
    return sum(weights[item - 1] for item in set(history.tolist()))


@pytest.mark.parametrize("regularisation", [0.5, 100.0])
def test_ease_is_least_squares_with_each_item_left_out_of_its_own_equation(
    sequences, taken, regularisation
):
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for j in range(N_ITEMS):
        others = np.arange(N_ITEMS) != j
        ridge = np.sqrt(regularisation) * np.eye(N_ITEMS - 1)
        inputs = np.vstack([taken[:, others], ridge])
        outputs = np.concatenate([taken[:, j], np.zeros(N_ITEMS - 1)])
        weights[others, j] = np.linalg.lstsq(inputs, outputs)[0]
    scores = ease_scores(sequences, N_ITEMS, regularisation)(HISTORIES)
    for row, history in zip(scores, HISTORIES, strict=True):
        np.testing.assert_allclose(row[1:], score_by_hand(weights, history), atol=1e-5)


@pytest.mark.parametrize("n_neighbours", [1, 4, 29, 500])
def test_item_knn_is_that_of_brute_force(sequences, taken, n_neighbours):
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for j in range(N_ITEMS):
        similarity = np.zeros(N_ITEMS)
        for i in range(N_ITEMS):
            together = np.sum(taken[:, i] * taken[:, j])
            if i != j and together:
                alone = np.sqrt(taken[:, i].sum() * taken[:, j].sum())
                similarity[i] = together / alone
        nearest = np.argsort(-similarity, kind="stable")[:n_neighbours]
        weights[nearest, j] = similarity[nearest]
    scores = item_knn_scores(sequences, N_ITEMS, n_neighbours)(HISTORIES)
    for row, history in zip(scores, HISTORIES, strict=True):
        np.testing.assert_allclose(row[1:], score_by_hand(weights, history), atol=1e-5)


def test_blocks_are_put_together_again(sequences, monkeypatch):
    """A catalogue of several blocks, the last of them not full."""
    builders = [partial(item_knn_scores, n_neighbours=3), ease_scores]
    whole = [build(sequences, N_ITEMS)(HISTORIES) for build in builders]
    small = partial(baselines._co_occurrence, rows=7)
    monkeypatch.setattr(baselines, "_co_occurrence", small)
    for build, expected in zip(builders, whole, strict=True):
        torch.testing.assert_close(build(sequences, N_ITEMS)(HISTORIES), expected)


SCORERS = pytest.mark.parametrize("build", [item_knn_scores, ease_scores])


@SCORERS
def test_scores_are_what_the_ranking_expects(build, sequences):
    scores = build(sequences, N_ITEMS)(HISTORIES)
    assert scores.shape == (3, N_ITEMS + 1) and scores.dtype == torch.float32
    assert (scores[:, 0] == -torch.inf).all()
    assert scores[:, 1:].isfinite().all()


@SCORERS
def test_an_item_counts_once_however_often_it_was_taken(build, sequences):
    repeated = [np.concatenate([s, s[: len(s) // 2], s[:1]]) for s in sequences]
    expected = build(sequences, N_ITEMS)(HISTORIES)
    torch.testing.assert_close(build(repeated, N_ITEMS)(HISTORIES), expected)
    scorer = build(sequences, N_ITEMS)
    torch.testing.assert_close(
        scorer([np.array([3, 7, 3, 1, 3])]), scorer([np.array([3, 7, 1])]), rtol=0, atol=0
    )


@SCORERS
def test_an_empty_history_has_no_favourite(build, sequences):
    scorer = build(sequences, N_ITEMS)
    scores = scorer([np.array([]), HISTORIES[0]])
    assert (scores[0, 1:] == 0).all()
    torch.testing.assert_close(scores[1:], scorer(HISTORIES[:1]))


@SCORERS
def test_items_that_nobody_took_are_neither_recommended_nor_a_reason(build, sequences):
    scorer = build(sequences, N_ITEMS)
    assert (scorer(HISTORIES)[:, 29:] == 0).all()
    assert (scorer([np.array([29, 30])])[0, 1:] == 0).all()


@SCORERS
@pytest.mark.parametrize("item", [0, N_ITEMS + 1])
def test_an_item_outside_the_catalogue_is_refused(build, sequences, item):
    with pytest.raises(ValueError, match=f"item {item} .* 1 to {N_ITEMS}"):
        build([*sequences, np.array([1, item])], N_ITEMS)


@SCORERS
def test_they_beat_popularity_where_items_belong_together(build, sequences):
    histories, targets = hold_out_last(dict(enumerate(sequences)))
    scorer = build(histories, N_ITEMS)
    popularity = np.bincount(np.concatenate(histories), minlength=N_ITEMS + 1)
    ours, popular = (
        metrics.ndcg(rank_items(s, histories, targets).rank).mean()
        for s in (scorer, popularity_scores(popularity))
    )
    assert ours > 1.1 * popular


def test_ease_refuses_what_no_memory_holds_before_it_takes_any(sequences, monkeypatch):
    def unexpected(*args):
        raise AssertionError("the matrix was asked for")

    monkeypatch.setattr(baselines, "_taken", unexpected)
    users = hold_out_last(dict(enumerate(sequences)))
    for ask in (ease_scores, lambda _, n: simple_models(Split(n, users[0], users, users))):
        with pytest.raises(ValueError, match="EASE of 84,432 items .* 29 GB.*at most 30,000"):
            ask(sequences, 84_432)


@pytest.mark.parametrize("regularisation", [0.0, -1.0])
def test_ease_needs_a_regularisation(sequences, regularisation):
    with pytest.raises(ValueError, match=f"regularisation={regularisation} must be positive"):
        ease_scores(sequences, N_ITEMS, regularisation)


def test_item_knn_needs_a_neighbour(sequences):
    with pytest.raises(ValueError, match="n_neighbours=0 must be at least 1"):
        item_knn_scores(sequences, N_ITEMS, 0)


def test_best_of_takes_the_best_on_validation(sequences):
    validation = hold_out_last(dict(enumerate(sequences)))
    build = partial(item_knn_scores, validation[0], N_ITEMS)
    values = [2, 16, 1]
    ndcg = [metrics.ndcg(rank_items(build(k), *validation).rank).mean() for k in values]
    assert np.argmax(ndcg) == 1, "the case must tell the best from the first and the last"
    value, scorer = best_of(build, values, validation)
    assert value == 16
    torch.testing.assert_close(scorer(HISTORIES), build(value)(HISTORIES))


def test_best_of_takes_the_first_of_equals(sequences):
    validation = hold_out_last(dict(enumerate(sequences)))
    build = partial(item_knn_scores, validation[0], N_ITEMS)
    assert best_of(build, [100, 200], validation)[0] == 100


def test_best_of_holds_one_scorer_at_a_time(sequences):
    validation = hold_out_last(dict(enumerate(sequences)))
    held, alive = weakref.WeakSet(), []

    def build(k):
        alive.append(len(held))
        held.add(scorer := partial(item_knn_scores(validation[0], N_ITEMS, k)))
        return scorer

    _, scorer = best_of(build, [1, 16, 2], validation)
    assert alive == [0, 0, 0, 0] and list(held) == [scorer]


def test_simple_models_choose_their_setting_on_validation_and_never_on_test(sequences, monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBOURS", (1, 16))  # the first is not the best
    monkeypatch.setattr(baselines, "REGULARISATIONS", (800.0, 50.0))
    validation = hold_out_last(dict(enumerate(sequences)))
    misleading = [np.array([1])], np.array([29])
    protocol = Split(N_ITEMS, validation[0], validation, misleading)
    scorers, settings = simple_models(protocol)
    neighbours, _ = best_of(
        partial(item_knn_scores, protocol.train, N_ITEMS), baselines.NEIGHBOURS, validation
    )
    regularisation, _ = best_of(
        partial(ease_scores, protocol.train, N_ITEMS), baselines.REGULARISATIONS, validation
    )
    assert list(settings.values()) == [neighbours, regularisation] == [16, 50.0]
    expected = {
        "popularity": popularity_scores(protocol.popularity),
        "item_knn": item_knn_scores(protocol.train, N_ITEMS, neighbours),
        "ease": ease_scores(protocol.train, N_ITEMS, regularisation),
    }
    assert list(scorers) == list(expected)
    for name, scorer in scorers.items():
        torch.testing.assert_close(scorer(HISTORIES), expected[name](HISTORIES))


def test_simple_models_leave_ease_out_where_it_is_not_wanted(sequences, monkeypatch):
    monkeypatch.setattr(baselines, "ease_scores", None)
    users = hold_out_last(dict(enumerate(sequences)))
    scorers, settings = simple_models(Split(N_ITEMS, users[0], users, users), ease=False)
    assert list(scorers) == ["popularity", "item_knn"] and len(settings) == 1
