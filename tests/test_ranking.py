"""Lists of recommendations and places of held-out items, against brute force."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from test_recommender import CONFIG, fresh_model, held_out, random_sequences

from seqsae_utils import data, metrics, recommender


def brute_force(
    scores: np.ndarray, history: np.ndarray, target: int
) -> tuple[list[int], int, float]:
    """All candidates best first, the target's place, and its cross-entropy."""
    candidates = [i for i in range(1, len(scores)) if i not in history or i == target]
    rank = 1 + sum(scores[i] >= scores[target] for i in candidates if i != target)
    loss = -log_softmax(scores[1:])[target - 1]
    return sorted(candidates, key=lambda i: -scores[i]), rank, loss


def scorer_of(histories: list[np.ndarray], scores: torch.Tensor) -> recommender.Scorer:
    row = {id(history): i for i, history in enumerate(histories)}
    return lambda chosen: scores[[row[id(history)] for history in chosen]]


@pytest.fixture
def users():
    """600 users, more than one batch: histories of 1 to 30 of 60 items, some with the target."""
    rng = np.random.default_rng(0)
    histories = [1 + rng.permutation(60)[: rng.integers(1, 31)] for _ in range(600)]
    targets = rng.integers(1, 61, size=600)
    scores = torch.from_numpy(rng.normal(size=(600, 61)).astype(np.float32))
    scores[:, 0] = -torch.inf
    assert min(map(len, histories)) == 1
    assert 0 < sum(t in h for h, t in zip(histories, targets, strict=True)) < 600
    return histories, targets, scores


def test_ranking_is_that_of_brute_force(users):
    histories, targets, scores = users
    ranking = recommender.rank_items(scorer_of(histories, scores), histories, targets, k=10)
    losses = recommender.cross_entropy(scorer_of(histories, scores), histories, targets)
    for i in range(600):
        ordered, rank, loss = brute_force(scores[i].numpy(), histories[i], targets[i])
        assert ranking.lists[i].tolist() == ordered[:10]
        assert ranking.rank[i] == rank == ordered.index(targets[i]) + 1
        assert losses[i] == pytest.approx(loss, rel=1e-5)


def test_ties_count_against_the_target(users):
    histories, targets, scores = users
    scores = scores.round()  # seven different values for 60 items
    ranking = recommender.rank_items(scorer_of(histories, scores), histories, targets, k=10)
    for i in range(600):
        ordered, rank, _ = brute_force(scores[i].numpy(), histories[i], targets[i])
        assert ranking.rank[i] == rank
        assert set(ranking.lists[i]) <= set(ordered) and len(set(ranking.lists[i])) == 10
        assert scores[i, ranking.lists[i]].tolist() == scores[i, ordered[:10]].tolist()


def test_a_model_that_tells_no_items_apart_scores_nothing(users):
    histories, targets, scores = users
    ranking = recommender.rank_items(
        lambda chosen: torch.zeros(len(chosen), 61), histories, targets
    )
    assert metrics.ndcg(ranking.rank).mean() == 0


def test_the_whole_history_is_filtered_and_not_what_the_model_sees():
    model, sequences = fresh_model(), random_sequences(40)
    histories, targets = held_out(sequences)
    assert max(map(len, histories)) > 2 * CONFIG.max_length
    scorer = model.next_item_scores
    ranking = recommender.rank_items(scorer, histories, targets, k=5)
    for history, target, shown in zip(histories, targets, ranking.lists, strict=True):
        assert not (set(shown) & set(history)) - {target}


def test_ranking_leaves_the_scores_and_the_histories_as_they_were(users):
    histories, targets, scores = (part[:200] for part in users)
    scores_before, histories_before = scores.clone(), [history.copy() for history in histories]
    first = recommender.rank_items(lambda chosen: scores, histories, targets)
    again = recommender.rank_items(lambda chosen: scores, histories, targets)
    assert torch.equal(scores, scores_before)
    assert all(map(np.array_equal, histories, histories_before))
    assert all(map(np.array_equal, first, again))


def test_places_for_which_no_item_is_left_are_empty():
    """Four items, of which the user took two: the list has two items and three empty places."""
    scores = torch.tensor([[-torch.inf, 0.1, 0.2, 0.3, 0.4]])
    history, target = [np.array([4, 1])], np.array([2])
    for k, expected in {1: [3], 2: [3, 2], 4: [3, 2, 0, 0], 7: [3, 2, 0, 0, 0, 0, 0]}.items():
        ranking = recommender.rank_items(lambda chosen: scores, history, target, k)
        assert ranking.lists.tolist() == [expected]
        assert ranking.rank.tolist() == [2]


def test_padding_is_never_recommended():
    """Even by a scorer that has not heard of it; and the last item is an item like any other."""
    scores = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    ranking = recommender.rank_items(lambda chosen: scores, [np.array([2])], np.array([1]), k=2)
    assert ranking.lists.tolist() == [[3, 1]]
    assert ranking.rank.tolist() == [2]


def test_ranking_nobody_or_by_nan_is_refused(users):
    histories, targets, scores = users
    with pytest.raises(ValueError, match="no users to rank"):
        recommender.rank_items(scorer_of(histories, scores), [], np.array([]))
    scores[7, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="scores of 1 users are NaN"):
        recommender.rank_items(scorer_of(histories, scores), histories, targets)


def test_popularity_ranks_by_count_and_then_by_number():
    scorer = recommender.popularity_scores(np.array([0, 3, 0, 7, 3, 12]))
    scores = scorer([np.array([1]), np.array([2])])
    assert scores.shape == (2, 6)
    assert torch.equal(scores[0], scores[1])
    assert scores[0].argsort(descending=True).tolist() == [5, 3, 1, 4, 2, 0]
    ranking = recommender.rank_items(scorer, [np.array([5])], np.array([4]), k=3)
    assert ranking.lists.tolist() == [[3, 1, 4]]
    assert ranking.rank.tolist() == [3]


def test_users_who_have_a_popularity_each_are_ranked_by_their_own():
    counts = np.random.default_rng(0).integers(0, 50, size=(300, 8)).astype(float)
    histories, targets = [np.array([1 + i % 3]) for i in range(300)], np.arange(300) % 4 + 4
    together = recommender.rank_items(recommender.popularity_of_each(counts), histories, targets)
    for i in (0, 5, 255, 256, 299):  # more than one batch
        scorer = recommender.popularity_scores(counts[i])
        alone = recommender.rank_items(scorer, histories[i : i + 1], targets[i : i + 1])
        assert together.lists[i].tolist() == alone.lists[0].tolist()
        assert together.rank[i] == alone.rank[0]
    assert len(set(together.rank)) > 3


def test_hold_out_last_never_shows_the_target():
    sequences = {5: np.array([3, 1, 2]), 6: np.array([4]), 9: np.array([2, 9])}
    histories, targets = recommender.hold_out_last(sequences)
    assert [history.tolist() for history in histories] == [[3, 1], [2]]
    assert targets.tolist() == [2, 9]


# --- histories in random order ---


def random_users() -> tuple[list[np.ndarray], np.ndarray]:
    return held_out(random_sequences(60, seed=3))


def seen_by(**options) -> list[list[np.ndarray]]:
    """The histories of each draw, as a scorer gets them."""
    seen = []

    def scorer(chosen):
        seen.append(chosen)
        return torch.zeros(len(chosen), 21)

    recommender.ndcg_of_shuffled(scorer, *random_users(), **options)
    return seen


@pytest.mark.parametrize("keep_last", [0, 1, 3, 99])
def test_shuffled_histories_hold_the_same_items_and_keep_their_end(keep_last):
    histories, _ = random_users()
    draws = seen_by(keep_last=keep_last)
    assert len(draws) == 10
    for draw in draws:
        for shuffled, history in zip(draw, histories, strict=True):
            assert sorted(shuffled) == sorted(history)
            moved = max(len(history) - keep_last, 0)
            assert shuffled[moved:].tolist() == history[moved:].tolist()
    longest = np.argmax([len(history) for history in histories])
    orders = {tuple(draw[longest].tolist()) for draw in draws}
    assert len(orders) == (1 if keep_last == 99 else 10)


def test_the_orders_are_the_same_each_time():
    for one, same in zip(seen_by(), seen_by(), strict=True):
        assert all(map(np.array_equal, one, same))


def test_only_a_scorer_that_knows_order_loses_by_shuffling():
    histories, targets = random_users()
    order_free = recommender.popularity_scores(np.arange(21)[::-1])
    plain = metrics.ndcg(recommender.rank_items(order_free, histories, targets).rank)
    np.testing.assert_allclose(recommender.ndcg_of_shuffled(order_free, histories, targets), plain)

    def after_the_last(chosen):
        return torch.eye(21)[[1 + history[-1] % 20 for history in chosen]]

    histories = [1 + np.random.default_rng(i).permutation(20)[:8] for i in range(60)]
    users = histories, np.array([1 + history[-1] % 20 for history in histories])
    assert (recommender.ndcg_of_shuffled(after_the_last, *users, keep_last=1) == 1).all()
    lost = recommender.ndcg_of_shuffled(after_the_last, *users)
    assert lost.mean() == pytest.approx(1 / 8, abs=0.05)  # the last one comes last by chance


# --- protocols ---


@pytest.fixture(scope="module")
def dataset():
    return data.prepare(data.synthetic())


def test_new_users_teach_choose_and_judge_apart(dataset):
    protocol = recommender.new_users(dataset)
    assert protocol.n_items == dataset.n_items
    taught = list(dataset.sequences("recommender").values())
    assert all(map(np.array_equal, protocol.train, taught))
    for (histories, targets), split in ((protocol.validation, "dev"), (protocol.test, "test")):
        whole = [np.append(h, t) for h, t in zip(histories, targets, strict=True)]
        assert all(map(np.array_equal, whole, dataset.sequences(split).values()))


def test_leave_last_out_teaches_all_but_the_last_two(dataset):
    protocol = recommender.leave_last_out(dataset)
    (chosen, second), (judged, last) = protocol.validation, protocol.test
    assert protocol.n_items == dataset.n_items_everyone
    everyone = dataset.sequences("everyone").values()
    assert len(protocol.train) == len(chosen) == len(judged) == len(everyone)
    for i, sequence in enumerate(everyone):
        assert protocol.train[i].tolist() == chosen[i].tolist() == sequence[:-2].tolist()
        assert judged[i].tolist() == sequence[:-1].tolist()
        assert [second[i], last[i]] == sequence[-2:].tolist()


def test_popularity_counts_training_users_alone():
    users = [np.array([1, 3]), np.array([3])]
    others = [np.array([2, 2])], np.array([2])
    protocol = recommender.Split(4, users, others, others)
    assert protocol.popularity.tolist() == [0, 1, 0, 2, 0]
    assert protocol.sizes == {
        "items": 4, "users who teach": 2, "users who choose": 1, "users who judge": 1,
    }  # fmt: skip
