"""What features do on each item: sums, correlations that follow from them, and the top items."""

from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from .scores import Codes, as_dense, ratio, variance

#: Of the positions of each item: value and square [n_items + 1, n_features], count [n_items + 1].
Sums: TypeAlias = dict[str, NDArray]
#: Items with fewer positions than this have no mean activation worth ranking by.
MIN_POSITIONS = 3
#: Positions that are summed at a time: their codes are copied in float64.
AT_A_TIME = 100_000


def item_sums(codes: Codes, items: NDArray, n_items: int) -> Sums:
    """Sums over the positions of each item, from codes and the items [n_positions]."""
    value, square = np.zeros((2, n_items + 1, codes.shape[1]))
    for start in range(0, len(items), AT_A_TIME):
        own = items[start : start + AT_A_TIME]
        x = codes[start : start + AT_A_TIME].astype(np.float64)
        one_hot = indicator(own, np.arange(len(own)), (n_items + 1, len(own)))
        value += as_dense(one_hot @ x)
        square += as_dense(one_hot @ (x * x))
    count = np.bincount(items, minlength=n_items + 1).astype(np.float64)
    return {"value": value, "square": square, "count": count}


def indicator(row: NDArray, column: NDArray, shape: tuple[int, int]) -> sparse.csr_array:
    """How often each pair of `row` and `column`, both [n], occurs: a sparse matrix of `shape`."""
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)


def correlations(sums: Sums, attribute_matrix: NDArray, only=slice(None)) -> NDArray:
    """Correlations [n_features, n_attributes] over the items `only` (all); NaN for a constant."""
    sums, attribute_matrix = {n: x[only] for n, x in sums.items()}, attribute_matrix[only]
    n, total = sums["count"].sum(), sums["value"].sum(axis=0)[:, None]
    positives = sums["count"] @ attribute_matrix
    covariance = sums["value"].T @ attribute_matrix - total * positives / n
    squares = sums["square"].sum(axis=0)[:, None]
    return ratio(covariance, variance(squares, total, n), variance(positives, positives, n))


def mean_by_item(sums: Sums) -> NDArray:
    """Mean activation [n_items + 1, n_features], NaN for items below `MIN_POSITIONS` positions."""
    count = np.where(sums["count"] >= MIN_POSITIONS, sums["count"], np.nan)
    return sums["value"] / count[:, None]


def top_sets(mean: NDArray, n: int) -> NDArray:
    """From `mean_by_item` the strongest items of each feature first, [n_features, n]; 0 for none.

    >>> top_sets(np.array([[np.nan], [0.0], [2.0], [3.0]]), n=3)
    array([[3, 2, 0]])
    """
    ranked = np.nan_to_num(mean).T
    top = np.argsort(-ranked, axis=1, kind="stable")[:, : min(n, ranked.shape[1] - 1)]
    return np.where(np.take_along_axis(ranked, top, axis=1) > 0, top, 0)


def top_items(codes: Codes, items: NDArray, n_items: int, n: int = 10) -> pd.DataFrame:
    """The items on which features are strongest, a row each, by feature and then activation.

    From codes [n_positions, n_features] and the items [n_positions] that were taken there. Of the
    items on which a feature fires, those with fewer than `MIN_POSITIONS` positions are left out,
    unless it has no other. Columns: feature, item, activation (mean), positions (how many).
    """
    sums = item_sums(codes, items, n_items)
    count, fires = sums["count"].astype(int), sums["value"] > 0
    enough = fires & (count >= MIN_POSITIONS)[:, None]
    allowed = np.where(enough.any(axis=0), enough, fires)
    mean = np.where(allowed, sums["value"] / count.clip(1)[:, None], 0)
    top = top_sets(mean, n)
    feature, place = np.nonzero(top)
    item = top[feature, place]
    columns = {"feature": feature, "item": item, "activation": mean[item, feature]}
    return pd.DataFrame(columns | {"positions": count[item]})


def strata(popularity: NDArray, size: int = 50) -> NDArray:
    """Items in groups of about `size` that are equally popular: group of each, [n_items]."""
    rank = np.argsort(np.argsort(popularity, kind="stable"), kind="stable")
    n_groups = max(1, round(len(popularity) / size))
    return rank * n_groups // len(popularity)


def permuted(
    attribute_matrix: NDArray, popularity: NDArray, block: int = 50, seed: int = 0
) -> NDArray:
    """Attributes [n_items + 1, n_attributes] permuted within blocks of equally popular items."""
    rng = np.random.default_rng(seed)
    order = 1 + np.argsort(-popularity[1:], kind="stable")
    found = attribute_matrix.copy()
    for items in np.split(order, range(block, len(order), block)):
        found[items] = attribute_matrix[rng.permutation(items)]
    return found
