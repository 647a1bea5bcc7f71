"""Ranking the catalogue for users, and what a ranking is judged by."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import metrics
from ..data import Dataset

#: From the histories of some users to the scores [n_users, n_items + 1] of all items.
Scorer = Callable[[list[np.ndarray]], Tensor]


def popularity_scores(popularity: np.ndarray) -> Scorer:
    """A scorer that knows no user: the most taken items first, ties by item number.

    `popularity` is [n_items + 1], the number of training users that took each item.
    """
    order = np.lexsort((np.arange(len(popularity)), -popularity.astype(float)))
    scores = torch.empty(len(popularity))
    scores[order] = -torch.arange(len(popularity), dtype=torch.float32)
    scores[0] = -torch.inf
    return lambda histories: scores.repeat(len(histories), 1)


Users = tuple[list[np.ndarray], np.ndarray]


class Split(NamedTuple):
    """Who teaches a recommender, who chooses among its epochs and settings, and who judges it.

    n_items : size of the catalogue
    train : items of each training user, in order
    validation, test : histories, and the item [n_users] that each user took next
    """

    n_items: int
    train: list[np.ndarray]
    validation: Users
    test: Users

    @property
    def sizes(self) -> dict[str, int]:
        """Number of items, and of users in each part."""
        return {
            "items": self.n_items,
            "users who teach": len(self.train),
            "users who choose": len(self.validation[1]),
            "users who judge": len(self.test[1]),
        }

    @property
    def popularity(self) -> np.ndarray:
        """How many training users took each item [n_items + 1]."""
        return np.bincount(np.concatenate(self.train), minlength=self.n_items + 1)


def new_users(dataset: Dataset) -> Split:
    """The paper's split: taught by some users, chosen and judged by others, never seen.

    The recommender users teach, the SAE users' last items choose, the test users' judge.
    """
    validation, test = (hold_out_last(dataset.sequences(name)) for name in ("sae", "test"))
    train = list(dataset.sequences("recommender").values())
    return Split(dataset.n_items, train, validation, test)


def leave_last_out(dataset: Dataset) -> Split:
    """The split that most papers use: all users teach, and their last two items do not.

    The last but one chooses; the last judges, after a history that holds the last but one.
    """
    sequences = list(dataset.sequences("everyone").values())
    train = [sequence[:-2] for sequence in sequences]
    validation = train, np.array([sequence[-2] for sequence in sequences])
    test = [sequence[:-1] for sequence in sequences], np.array([s[-1] for s in sequences])
    return Split(dataset.n_items_everyone, train, validation, test)


def hold_out_last(sequences: dict[int, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Histories without their last item, and those last items; users with one item are left out.

    >>> hold_out_last({0: np.array([3, 1, 2]), 1: np.array([5])})
    ([array([3, 1])], array([2]))
    """
    kept = [sequence for sequence in sequences.values() if len(sequence) > 1]
    return [sequence[:-1] for sequence in kept], np.array([sequence[-1] for sequence in kept])


class Ranking(NamedTuple):
    """What each user is recommended, and where the item that the user took next stands.

    lists : [n_users, k] items, best first; 0 where a user has fewer than k unseen items
    rank : [n_users] place of the held-out item among all unseen items, from 1; ties count
        against it, so that a model that tells no items apart scores nothing
    loss : [n_users] cross-entropy of the held-out item over the whole catalogue, in nats
    """

    lists: np.ndarray
    rank: np.ndarray
    loss: np.ndarray


def rank_items(
    scorer: Scorer, histories: list[np.ndarray], targets: np.ndarray, k: int = 10
) -> Ranking:
    """Rank the whole catalogue for each user; items of the history are filtered, the target never.

    `targets` is the item [n_users] that each user took next. Scores that are NaN are a
    FloatingPointError: they compare as false, and every target would seem to come first.
    """
    if not len(histories):
        raise ValueError("no users to rank: none of them has two items")
    lists, ranks, losses = [], [], []
    for start in range(0, len(histories), 256):
        chosen = histories[start : start + 256]
        target = torch.as_tensor(targets[start : start + 256], dtype=torch.int64).unsqueeze(1)
        scores = scorer(chosen)
        if scores.isnan().any():
            raise FloatingPointError(
                f"scores of {int(scores.isnan().any(dim=1).sum())} users are NaN: the model "
                "diverged (train with a lower learning_rate), or an edit of its states did"
            )
        score_of_target = scores.gather(1, target)
        losses.append(scores.logsumexp(dim=1) - score_of_target.squeeze(1))
        scores = unseen(scores, chosen).scatter_(1, target, score_of_target)
        lists.append(best(scores, k))
        ranks.append((scores >= score_of_target).sum(dim=1))  # the target itself makes it 1
    return Ranking(*(torch.cat(parts).numpy() for parts in (lists, ranks, losses)))


def unseen(scores: Tensor, histories: list[np.ndarray]) -> Tensor:
    """A copy of scores [n_users, n_items + 1] with -inf at padding and at each user's history."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    scores = scores.clone()
    scores[rows, np.concatenate(histories)] = -torch.inf
    scores[:, 0] = -torch.inf
    return scores


def best(scores: Tensor, k: int = 10) -> Tensor:
    """The k items of the highest scores [n_users, n_items + 1], best first: [n_users, k].

    0 where fewer than k are above -inf.

    >>> best(torch.tensor([[float("-inf"), 0.5, 2.0, float("-inf")]]), k=3)
    tensor([[2, 1, 0]])
    """
    top = scores.topk(min(k, scores.shape[1]), dim=1)
    return F.pad(
        top.indices.masked_fill(top.values == -torch.inf, 0), (0, k - top.indices.shape[1])
    )


def ndcg_of_shuffled(
    scorer: Scorer, histories: list[np.ndarray], targets: np.ndarray, keep_last: int = 0
) -> np.ndarray:
    """NDCG@10 of each user [n_users] where histories stand in random order: the mean of ten.

    Whole histories are shuffled, so that a model with a short memory also sees other items of
    them; `keep_last` of their last items stay where they are. The orders are the same for every
    scorer.
    """
    found = []
    for draw in range(10):
        rng = np.random.default_rng([0, draw])
        parts = [np.split(history, [max(len(history) - keep_last, 0)]) for history in histories]
        shuffled = [np.append(rng.permutation(before), last) for before, last in parts]
        found.append(metrics.ndcg(rank_items(scorer, shuffled, targets).rank))
    return np.mean(found, axis=0)


def summary(ranking: Ranking, split: Split) -> dict[str, float]:
    """All ranking metrics of one model, with intervals over users; see `metrics.summary`."""
    return metrics.summary(ranking.lists, ranking.rank, split.popularity, len(split.train))
