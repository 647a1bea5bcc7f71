"""What features do on each item: sums, correlations that follow from them, and the top items.

An attribute belongs to an item, so that correlations with attributes depend on a code only through
its sums over the positions of each item, however the attributes are chosen or permuted.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from .scores import Codes, as_dense, ratio, variance

#: Items with fewer positions than this have no mean activation worth ranking by.
MIN_POSITIONS = 3


def item_sums(codes: Codes, items: NDArray, n_items: int) -> dict[str, NDArray]:
    """Sums over the positions of each item.

    Returns value and square [n_items + 1, n_features], and count [n_items + 1].
    """
    one_hot = indicator(items, np.arange(len(items)), (n_items + 1, len(items)))
    codes = codes.astype(np.float64)
    return {
        "value": as_dense(one_hot @ codes),
        "square": as_dense(one_hot @ (codes * codes)),
        "count": np.bincount(items, minlength=n_items + 1).astype(np.float64),
    }


def indicator(row: NDArray, column: NDArray, shape: tuple[int, int]) -> sparse.csr_array:
    """How often each pair of a row and a column occurs."""
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)


def correlations(sums: dict[str, NDArray], attribute_matrix: NDArray) -> NDArray:
    """Correlations [n_features, n_attributes] from `item_sums`; attributes [n_items + 1, ...].

    NaN for a feature or an attribute that does not vary.
    """
    n, total = sums["count"].sum(), sums["value"].sum(axis=0)[:, None]
    positives = sums["count"] @ attribute_matrix
    covariance = sums["value"].T @ attribute_matrix - total * positives / n
    squares = sums["square"].sum(axis=0)[:, None]
    return ratio(covariance, variance(squares, total, n), variance(positives, positives, n))


def mean_by_item(sums: dict[str, NDArray]) -> NDArray:
    """Mean activation on the positions of each item, [n_items + 1, n_features], from `item_sums`.

    NaN for items with fewer than `MIN_POSITIONS` positions.
    """
    count = np.where(sums["count"] >= MIN_POSITIONS, sums["count"], np.nan)
    return sums["value"] / count[:, None]


def top_sets(mean: NDArray, n: int) -> NDArray:
    """The items with the highest mean activation, for all features at once.

    From `mean_by_item` to [n_features, n], strongest first; 0 where fewer than n items activate
    the feature.

    >>> top_sets(np.array([[np.nan], [0.0], [2.0], [3.0]]), n=3)
    array([[3, 2, 0]])
    """
    ranked = np.nan_to_num(mean).T
    top = np.argsort(-ranked, axis=1, kind="stable")[:, : min(n, ranked.shape[1] - 1)]
    return np.where(np.take_along_axis(ranked, top, axis=1) > 0, top, 0)


def top_items(codes: Codes, items: NDArray, n_items: int, n: int = 10) -> pd.DataFrame:
    """The items on which features are strongest, a row each, by feature and then activation.

    Of the items on which a feature fires, those with fewer than `MIN_POSITIONS` positions are left
    out, unless it has no other. Columns: feature, item, activation (mean), positions (how many).
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
    """Items in groups of about `size` that are equally popular: group of each, [n_items].

    >>> strata(np.array([9, 1, 7, 2]), size=2)
    array([1, 0, 1, 0])
    """
    rank = np.argsort(np.argsort(popularity, kind="stable"), kind="stable")
    n_groups = max(1, round(len(popularity) / size))
    return rank * n_groups // len(popularity)
