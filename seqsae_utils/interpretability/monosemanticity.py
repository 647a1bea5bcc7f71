"""Is a feature about one thing? Beyond the best score of a few features: all of them."""

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..data import Dataset
from .comparison import GROUPS, Positions
from .items import Sums, indicator, item_sums, mean_by_item, strata, top_sets
from .scores import Codes, as_dense

#: Frequent features mix more attributes: all are judged by this share of strongest positions.
TOP_SHARE = 0.01
#: Top items whose audiences are compared, and permutations of the null.
N_TOP, N_PERMUTATIONS = 10, 20


def monosemanticity(
    codes: dict[str, Codes], positions: dict[str, Positions], dataset: Dataset, seed: int = 0
) -> pd.DataFrame:
    """How much every feature is about one thing; compare representations by the distributions.

    `selectivity` is for the best attribute, chosen on the development users. Its null gives each
    item the attributes of another of the same popularity and repeats the choice: a feature that
    knows only one film is perfectly selective under any attributes. `codes` [n_positions,
    n_features] are of the groups ``dev`` and ``test``; dense (signed) ones go through `halves`.

    Returns a row for each feature that fires on the development users: feature, attribute,
    selectivity and its _null (mean over permutations), co_consumption and its _chance; measured on
    the test users, and NaN if it is silent there.
    """
    codes = halves(codes)
    sums = [item_sums(strongest(codes[g]), positions[g].items, dataset.n_items) for g in GROUPS]
    alive = np.flatnonzero(sums[0]["value"].sum(axis=0) > 0)

    def measure(matrix: NDArray) -> tuple[NDArray, NDArray]:
        known, found = (selectivity(some, matrix)[alive] for some in sums)
        chosen = np.nan_to_num(known, nan=-np.inf).argmax(axis=1)
        return chosen, found[np.arange(len(alive)), chosen]

    rng = np.random.default_rng(seed)
    group = strata(dataset.items["popularity"].to_numpy())
    matrix = dataset.attribute_matrix
    chosen, found = measure(matrix)
    null = [measure(matrix[exchanged(group, rng)])[1] for _ in range(N_PERMUTATIONS)]
    mean = mean_by_item(item_sums(codes["test"], positions["test"].items, dataset.n_items))
    table = pd.DataFrame({"feature": alive, "attribute": np.asarray(dataset.attributes)[chosen]})
    table["selectivity"], table["selectivity_null"] = found, np.mean(null, axis=0)
    together = co_consumption(top_sets(mean[:, alive], N_TOP), dataset)
    table["co_consumption"], table["co_consumption_chance"] = together
    return table


def halves(codes: dict[str, Codes]) -> dict[str, Codes]:
    """Each signed dimension as two features: what is above the mean of ``dev``, and what is below.

    Dimension j becomes j (above) and n_features + j (below). Sparse codes stay what they are.

    >>> halves({"dev": np.array([[1.0], [3.0]])})["dev"]
    array([[0., 1.],
           [1., 0.]])
    """
    if sparse.issparse(codes["dev"]):
        return codes
    mean = codes["dev"].mean(axis=0, dtype=np.float64).astype(codes["dev"].dtype)
    return {group: np.maximum(np.hstack([x - mean, mean - x]), 0) for group, x in codes.items()}


def strongest(codes: Codes) -> sparse.csc_array:
    """Codes [n_positions, n_features], of each feature only `TOP_SHARE` of positions, and ties."""
    n = max(1, round(TOP_SHARE * codes.shape[0]))
    codes = sparse.csc_array(codes, copy=True)
    for start, end in pairwise(codes.indptr):
        values = codes.data[start:end]
        if len(values) > n:
            values[values < np.partition(values, -n)[-n]] = 0
    codes.eliminate_zeros()
    return codes


def selectivity(sums: Sums, attribute_matrix: NDArray) -> NDArray:
    """(share of the mass - share of the positions) / (1 - share of the positions) of an attribute.

    [n_features, n_attributes]; NaN without mass, and where no or every position has the attribute.
    """
    mass, count = sums["value"], sums["count"]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = mass.T @ attribute_matrix / mass.sum(axis=0)[:, None]
        rate = count @ attribute_matrix / count.sum()
        return np.where((rate > 0) & (rate < 1), (share - rate) / (1 - rate), np.nan)


def exchanged(group: NDArray, rng: np.random.Generator) -> NDArray:
    """A permutation [n_items + 1] within the strata `group` [n_items]; 0 stays 0."""
    order = np.lexsort((rng.random(len(group)), group))
    permutation = np.zeros(len(group) + 1, dtype=np.int64)
    permutation[1 + np.argsort(group, kind="stable")] = 1 + order
    return permutation


def co_consumption(top: NDArray, dataset: Dataset) -> tuple[NDArray, NDArray]:
    """Mean cosine of the audiences of all pairs of a feature's top items, and what is expected.

    An item's audience are the recommender users who had it. Expected of a pair is the mean over all
    pairs of different items of its strata of popularity. From `top_sets` to two arrays
    [n_features]; NaN where fewer than two items are left.
    """
    users = dataset.users["user"][dataset.users["split"] == "recommender"]
    table = dataset.interactions[dataset.interactions["user"].isin(users)]
    had = indicator(table["item"], table["user"], (dataset.n_items + 1, len(dataset.users)))
    length = np.sqrt(had.sum(axis=1))
    audience = sparse.diags_array(1 / np.maximum(length, 1)) @ had
    itself = (length > 0).astype(float)  # the cosine of an item with itself
    group = strata(dataset.items["popularity"].to_numpy())
    member = indicator(group, np.arange(1, len(group) + 1), (group.max() + 1, len(itself)))
    sums, count = as_dense(member @ audience), member.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = sums @ sums.T - np.diag(member @ itself)
        cosine /= np.outer(count, count) - np.diag(count)
        feature, _ = np.nonzero(top)
        tops = indicator(feature, top[top > 0], (len(top), len(itself)))
        n = tops.sum(axis=1)
        pairs = np.where(n > 1, n * (n - 1), np.nan)
        together = (tops @ audience).power(2).sum(axis=1) - tops @ itself
        in_group = as_dense(tops @ member.T)
        cosine = np.nan_to_num(cosine)  # no pair is in a stratum of one item
        expected = ((in_group @ cosine) * in_group).sum(axis=1) - in_group @ np.diag(cosine)
        return together / pairs, expected / pairs
