"""Ranking metrics and their intervals, each a few lines.

A list of recommendations holds items 1..n_items, best first; 0 is an empty place. `rank` [n_users]
is the place of the held-out item among all items that the user has not seen, 1 being the best.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from .resampling import drawn_means, interval


def ndcg(rank: NDArray, k: int = 10) -> NDArray:
    """NDCG@k of each user with one relevant item: 1 / log2(1 + rank) within the first k, else 0.

    >>> ndcg(np.array([1, 3, 11]))
    array([1. , 0.5, 0. ])
    """
    return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)


def hit_rate(rank: NDArray, k: int = 10) -> NDArray:
    """1 where the held-out item is within the first k, else 0: with one such item, Recall@k."""
    return (rank <= k).astype(float)


def mrr(rank: NDArray, k: int = 10) -> NDArray:
    """Reciprocal rank within the first k, else 0."""
    return np.where(rank <= k, 1 / rank, 0.0)


def coverage(lists: NDArray, n_items: int) -> float:
    """Share of the catalogue that is recommended to anybody. `lists` is [n_users, k]."""
    return len(np.unique(lists[lists > 0])) / n_items


def novelty(lists: NDArray, popularity: NDArray, n_users: int) -> float:
    """Mean self-information of the recommended items, as a share of its maximum.

    An item that a share p of the `n_users` training users took carries -log2(p) bits, at most
    log2(n_users). `popularity` [n_items + 1] is the number of training users that took each item.
    """
    share = np.maximum(popularity[lists[lists > 0]], 1) / n_users
    return float(-np.log2(share).mean() / np.log2(n_users))


def diversity(lists: NDArray) -> float:
    """Inter-list diversity: 1 minus the mean share of items that two users' lists have in common.

    An item in c lists [n_users, k] is shared by c (c - 1) ordered pairs. NaN for a single list.

    >>> diversity(np.array([[1, 2], [1, 3]]))
    0.5
    """
    n_users, k = lists.shape
    if n_users < 2:
        return float("nan")
    counts = np.bincount(lists[lists > 0])
    return float(1 - (counts * (counts - 1.0)).sum() / (n_users * (n_users - 1) * k))


def popularity_groups(popularity: NDArray) -> NDArray:
    """Which items are popular, in the middle, in the long tail: 0/1 [n_items + 1, 3].

    By their share of all interactions: the most popular items with the first fifth, those with the
    next three, and those with the last fifth (Abdollahpouri et al., UMAP 2021, arXiv 2103.06364).
    `popularity` is [n_items + 1]; ties go by item number, and few items may leave a group empty.

    >>> popularity_groups(np.array([0, 5, 1, 1, 1, 1, 1])).tolist()[1:4]
    [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    """
    order = 1 + np.argsort(-popularity[1:].astype(float), kind="stable")
    above = np.cumsum(popularity[order]) - popularity[order]  # interactions of more popular items
    groups = np.zeros((len(popularity), 3), int)
    groups[order, np.searchsorted([0.2, 0.8], above / max(1, popularity.sum()), "right")] = 1
    return groups


def average_popularity(lists: NDArray, popularity: NDArray) -> NDArray:
    """Mean popularity of each list [n_users]; over users, the ARP (Yin et al., VLDB 2012).

    `popularity` [n_items + 1]: how many training users took each item. NaN for an empty list.
    """
    with np.errstate(invalid="ignore"):
        return np.where(lists > 0, popularity[lists], 0).sum(axis=1) / (lists > 0).sum(axis=1)


def gini(lists: NDArray, n_items: int) -> float:
    """Gini coefficient of how often items are recommended: 0 all alike, near 1 a few only.

    sum_i (2 i - n - 1) x_i / (n sum x), x sorted from rare to frequent; NaN if nothing is.

    >>> gini(np.array([[1, 2], [3, 4]]), 4), gini(np.array([[1], [1]]), 4)
    (0.0, 0.75)
    """
    exposure = np.sort(np.bincount(lists[lists > 0], minlength=n_items + 1)[1:])
    rank = 2 * np.arange(1, n_items + 1) - n_items - 1
    total = n_items * exposure.sum()
    return float(rank @ exposure / total) if total else float("nan")


def popularity_deviation(lists: NDArray, histories: list[NDArray], groups: NDArray) -> NDArray:
    """How far each list's popularity is off the user's own [n_users]: 0 calibrated, at most 1.

    The Jensen-Shannon divergence, in bits, of the shares of `popularity_groups` in list and history
    (Abdollahpouri et al., as there). NaN for an empty list.
    """
    own = np.array([groups[history].mean(axis=0) for history in histories])
    listed = groups[lists].sum(axis=1)
    with np.errstate(invalid="ignore"):
        found = jensenshannon(listed, own, base=2, axis=1) ** 2
    found[listed.any(axis=1) & np.isnan(found)] = 0  # equal ones: the root of -1e-17
    return found


def bootstrap_mean(values: NDArray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of values [n_users] when users are drawn again."""
    return interval(drawn_means(values, 1_000, seed))


def terciles(values: NDArray) -> pd.Categorical:
    """Names of three groups of users (fewer for many ties), from low to high values [n_users].

    >>> list(terciles(np.array([2, 900, 31, 32, 50, 2])))
    ['2', '50-900', '31-32', '31-32', '50-900', '2']
    """
    bounds = np.unique(np.quantile(values, [1 / 3, 2 / 3, 1], method="inverted_cdf"))
    group = np.searchsorted(bounds, values)
    lowest = [values[group == i].min() for i in range(len(bounds))]
    names = [
        f"{low:,}" if low == high else f"{low:,}-{high:,}"
        for low, high in zip(lowest, bounds, strict=True)
    ]
    return pd.Categorical.from_codes(group, names, ordered=True)


def by_group(values: NDArray, groups, seed: int = 0) -> pd.DataFrame:
    """Mean of values [n_users] by group [n_users]: group, users, mean, low and high (95 %)."""
    rows = [
        (group, len(members), members.mean(), *bootstrap_mean(members.to_numpy(), seed=seed))
        for group, members in pd.Series(values).groupby(groups, observed=True)
    ]
    return pd.DataFrame(rows, columns=["group", "users", "mean", "low", "high"])
