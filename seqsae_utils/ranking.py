"""Ranking the catalogue for users, and what a ranking is judged by."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import metrics

#: From the histories of some users to the scores [n_users, n_items + 1] of all items.
Scorer = Callable[[list[np.ndarray]], Tensor]
#: Histories, and the item [n_users] that each user took next.
Users = tuple[list[np.ndarray], np.ndarray]


def popularity_scores(popularity: np.ndarray) -> Scorer:
    """A scorer that ranks by `popularity` [n_items + 1], the highest first, ties by item number."""
    order = np.argsort(-popularity.astype(float), kind="stable")
    scores = torch.empty(len(popularity))
    scores[order] = -torch.arange(len(popularity), dtype=torch.float32)
    scores[0] = -torch.inf
    return lambda histories: scores.repeat(len(histories), 1)


def popularity_of_each(popularity: Iterable[np.ndarray]) -> Tensor:
    """`popularity_scores` [n_users, n_items + 1] of users with a popularity each."""
    return torch.cat([popularity_scores(own)([own]) for own in popularity])


class Split(NamedTuple):
    """Who teaches a recommender, who chooses among its epochs and settings, and who judges it."""

    n_items: int  # size of the catalogue
    train: list[np.ndarray]  # items of each training user, in order
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


def new_users(dataset) -> Split:
    """The paper's split: some users teach; others, never seen, choose and judge by a last item.

    `dataset`, here and below, is a `data.Dataset`: `n_items`, and `sequences` of a group of users.
    """
    validation, test = (hold_out_last(dataset.sequences(name)) for name in ("dev", "test"))
    train = list(dataset.sequences("recommender").values())
    return Split(dataset.n_items, train, validation, test)


def leave_last_out(dataset) -> Split:
    """The split of most papers: all users teach; their last item judges, the one before chooses."""
    test = hold_out_last(dataset.sequences("everyone"))
    validation = hold_out_last(dict(enumerate(test[0])))
    return Split(dataset.n_items_everyone, validation[0], validation, test)


def hold_out_last(sequences: dict[int, np.ndarray]) -> Users:
    """Histories without their last item, and those last items; users with one item are left out.

    >>> hold_out_last({0: np.array([3, 1, 2]), 1: np.array([5])})
    ([array([3, 1])], array([2]))
    """
    kept = [sequence for sequence in sequences.values() if len(sequence) > 1]
    return [sequence[:-1] for sequence in kept], np.array([sequence[-1] for sequence in kept])


class Ranking(NamedTuple):
    """What each user is recommended, and where the held-out item stands that came next."""

    lists: np.ndarray  # [n_users, k] items, best first; 0 where fewer than k are unseen
    rank: np.ndarray  # [n_users] place of the held-out item among the unseen items, from 1
    # Ties count against it, so that a model that tells no items apart scores nothing.


def rank_items(
    scorer: Scorer | Tensor, histories: list[np.ndarray], targets: np.ndarray, k: int = 10
) -> Ranking:
    """Rank the whole catalogue for each user; items of the history are filtered, the target never.

    `targets` [n_users] is what came next; `scorer` may be the scores of these users themselves.
    ValueError: no users; FloatingPointError: scores are NaN.
    """
    if not len(histories):
        raise ValueError("no users to rank: none of them has two items")
    lists, ranks = [], []
    for start in range(0, len(histories), 256):
        chosen = histories[start : start + 256]
        target = torch.as_tensor(targets[start : start + 256], dtype=torch.int64).unsqueeze(1)
        scores = scorer(chosen) if callable(scorer) else scorer[start : start + 256]
        if scores.amax().isnan():  # one NaN is enough; `isnan` would make a matrix of answers
            raise FloatingPointError(
                f"scores of {int(scores.isnan().any(dim=1).sum())} users are NaN: the model "
                "diverged (train with a lower learning_rate), or an edit of its states did"
            )
        score_of_target = scores.gather(1, target)
        scores = unseen(scores, chosen).scatter_(1, target, score_of_target)
        lists.append(best(scores, k))
        beaten_by = (scores >= score_of_target).numpy()
        ranks.append(np.count_nonzero(beaten_by, axis=1))  # the target itself makes it 1
    return Ranking(torch.cat(lists).numpy(), np.concatenate(ranks))


def cross_entropy(scorer: Scorer, histories: list[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Of the item that each user took next, over the whole catalogue, in nats: [n_users]."""
    losses = []
    for start in range(0, len(histories), 256):
        scores = scorer(histories[start : start + 256])
        target = torch.as_tensor(targets[start : start + 256], dtype=torch.int64).unsqueeze(1)
        losses.append(scores.logsumexp(dim=1) - scores.gather(1, target).squeeze(1))
    return torch.cat(losses).numpy()


def unseen(scores: Tensor, histories: list[np.ndarray]) -> Tensor:
    """A copy of scores [n_users, n_items + 1] with -inf at padding and at each user's history."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    scores = scores.clone()
    scores[rows, np.concatenate(histories)] = -torch.inf
    scores[:, 0] = -torch.inf
    return scores


def best(scores: Tensor, k: int = 10) -> Tensor:
    """The k items [n_users, k] of the highest scores, best first; 0 where fewer are above -inf.

    >>> best(torch.tensor([[float("-inf"), 0.5, 2.0, float("-inf")]]), k=3)
    tensor([[2, 1, 0]])
    """
    top = scores.topk(min(k, scores.shape[1]), dim=1)
    items = top.indices.masked_fill(top.values == -torch.inf, 0)
    return F.pad(items, (0, k - items.shape[1]))


def ndcg_of_shuffled(
    scorer: Scorer, histories: list[np.ndarray], targets: np.ndarray, keep_last: int = 0
) -> np.ndarray:
    """NDCG@10 of each user [n_users] with histories in random order: the mean of ten orders.

    The `keep_last` last items stay where they are; the orders are the same for every scorer.
    """
    found = []
    for draw in range(10):
        rng = np.random.default_rng([0, draw])
        parts = [np.split(history, [max(len(history) - keep_last, 0)]) for history in histories]
        shuffled = [np.append(rng.permutation(before), last) for before, last in parts]
        found.append(metrics.ndcg(rank_items(scorer, shuffled, targets).rank))
    return np.mean(found, axis=0)


def summary(ranking: Ranking, split: Split) -> dict[str, float]:
    """All ranking metrics of one model, NDCG and HitRate with 95 % intervals over users."""
    lists, rank = ranking
    k, found = lists.shape[1], {}
    for name, of_users in {"ndcg": metrics.ndcg, "hit_rate": metrics.hit_rate}.items():
        values = of_users(rank, k)
        low, high = metrics.bootstrap_mean(values)
        found |= {f"{name}@{k}": values.mean(), f"{name}@{k}_low": low, f"{name}@{k}_high": high}
    return found | {
        f"mrr@{k}": metrics.mrr(rank, k).mean(),
        f"coverage@{k}": metrics.coverage(lists, split.n_items),
        f"novelty@{k}": metrics.novelty(lists, split.popularity, len(split.train)),
        f"diversity@{k}": metrics.diversity(lists),
    }
