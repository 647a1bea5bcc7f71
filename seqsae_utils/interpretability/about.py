"""What a feature is about besides genre: popularity, year, place in the history, or one item."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data import Dataset
from .chance import item_sums
from .scores import Codes, as_dense

#: What a feature may follow besides the attributes. The last two belong to an item.
CONFOUNDERS = ("position", "history_length", "popularity", "year")
#: What a feature is called by what it follows most: if it rises with that, and if it falls.
KINDS = {
    "position": ("late", "early"),
    "history_length": ("long history", "short history"),
    "popularity": ("popular", "rare"),
    "year": ("recent", "old"),
    "attributes": ("attributes", "attributes"),
}


def about(
    codes: Codes,
    index: pd.DataFrame,
    dataset: Dataset,
    n_permutations: int = 100,
    seed: int = 0,
    threshold: float = 0.1,
) -> pd.DataFrame:
    """What each feature follows, all else being equal.

    For popularity (log of 1 + number of recommender users), release year, position in the history
    (log of 1 + position) and history length (log): the partial correlation with the feature's
    value, given the other three and all attributes. For the attributes: the multiple partial
    correlation given the four, the square root of the share of the variance left by the four that
    the attributes explain. All are exact; they follow from one least-squares regression, whose
    normal equations need only sums over the positions of each item.

    Popularity, year and attributes are of items, and a feature that knows a few items follows
    whatever these items have. The null therefore gives each item the popularity, year and
    attributes of another. A correlation counts (`kind`) only if it exceeds the largest hundredth
    of its own null, and if what it explains beyond the null's mean is at least `threshold`
    squared: 1 % of the variance, below which a name would tell too little. Position and history
    length do not need it: they differ between positions, of which there are many.

    Parameters
    ----------
    codes
        [n_positions, n_features], not negative: cut a signed basis into `halves` first
    index
        One row a position: user, item, position; all positions of each user.
    n_permutations, seed
        Of the null.
    threshold
        The least correlation beyond the null's mean that gives a feature its kind.

    Returns
    -------
    pandas.DataFrame
        One row for each feature that varies: feature; position, history_length, popularity, year,
        attributes, the partial correlations (NaN where all items have the same, or no year);
        null_popularity, null_year, null_attributes, the 99 % quantile of their size in the null;
        item_share, share of the mass (sum of values) on its strongest item; half_items,
        how many items carry half of it; item_variance, share of the feature's variance that lies
        between items (adjusted R²): the rest depends on the context; and kind:

        ``item`` if one item carries over half the mass; else what it follows most: ``popular``,
        ``rare``, ``recent``, ``old``, ``late``, ``early``, ``long history``, ``short history``
        or ``attributes``; empty where nothing counts.
    """
    if codes.min() < 0:
        raise ValueError("codes must not be negative: cut a signed basis with halves first")
    item = index["item"].to_numpy()
    sums = item_sums(codes, item, dataset.n_items)
    living = np.flatnonzero(~np.isnan(sums["variance"]))
    value, count, total = sums["value"][:, living], sums["count"], sums["variance"][living]
    length = index.groupby("user")["user"].transform("size")
    context = np.log(np.stack([1.0 + index["position"], length], axis=1))
    context -= context.mean(axis=0)
    context_value = item_sums(context, item, dataset.n_items)["value"]
    context_gram, context_cross = context.T @ context, as_dense(codes.T @ context)[living].T

    def measure(own: NDArray) -> NDArray:
        own = own - count @ own / count.sum()
        both = own.T @ context_value
        gram = np.block([[context_gram, both.T], [both, own.T @ (count[:, None] * own)]])
        return partial_correlations(gram, np.vstack([context_cross, own.T @ value]), total)

    own = _own(dataset)
    found = measure(own)
    rng = np.random.default_rng(seed)
    shuffled = own.copy()
    null = np.empty((n_permutations, *found.shape))
    for draw in null:
        shuffled[1:] = own[1 + rng.permutation(len(own) - 1)]
        draw[:] = measure(shuffled)
    null[:, :2] = 0  # position and history length were not permuted
    table = pd.DataFrame(found.T, columns=[*CONFOUNDERS, "attributes"])
    limit = pd.DataFrame(np.quantile(np.abs(null), 0.99, axis=0).T, columns=table.columns)
    beyond = found**2 - (null**2).mean(axis=0)
    counts = (np.abs(found) > limit.to_numpy().T) & (beyond >= threshold**2)
    beyond = np.where(counts, beyond, 0)
    most, sign = beyond.argmax(axis=0), np.take_along_axis(found, beyond.argmax(axis=0)[None], 0)[0]
    names = np.array([KINDS[name] for name in table.columns])
    kind = np.where(sign > 0, names[most, 0], names[most, 1])
    kind = np.where(beyond.max(axis=0) > 0, kind, "")
    for name in ("popularity", "year", "attributes"):
        table[f"null_{name}"] = limit[name]
    table = table.join(of_items(value, count, total))
    table["kind"] = np.where(table["item_share"] > 0.5, "item", kind)
    table.insert(0, "feature", living)
    return table


def partial_correlations(gram: NDArray, cross: NDArray, total: NDArray) -> NDArray:
    """Correlations of features with each of the first four predictors, given all others.

    With b = pinv(gram) cross, the least-squares coefficients, and S, what they leave of the
    variance, the partial correlation with predictor k is b_k / sqrt(b_k² + S pinv(gram)_kk).

    Parameters
    ----------
    gram
        Covariances of the predictors, [4 + 1 + n_attributes, ...]: `CONFOUNDERS`, 'has no year',
        attributes. All three arguments are times the same number of positions.
    cross
        Covariances with the features [4 + 1 + n_attributes, n_features]
    total
        Variances of the features [n_features]

    Returns
    -------
    array [5, n_features]
        For each of the four, NaN if the others determine it; and the multiple correlation with
        the attributes, given what comes before them.
    """
    n, first = len(CONFOUNDERS), len(CONFOUNDERS) + 1
    size = np.sqrt(np.diag(gram))
    size = np.where(size > 0, size, np.inf)  # a predictor that does not vary counts for nothing
    gram, cross = gram / np.outer(size, size), cross / size[:, None]
    inverse = np.linalg.pinv(gram, rcond=1e-9, hermitian=True)
    coefficients = inverse @ cross
    least = 1e-12 * total  # of a feature that the predictors explain, rounding is left
    left = np.maximum(total - (coefficients * cross).sum(axis=0), least)
    before = np.linalg.pinv(gram[:first, :first], rcond=1e-9, hermitian=True) @ cross[:first]
    left_before = np.maximum(total - (before * cross[:first]).sum(axis=0), least)
    b, own = coefficients[:n], np.diag(inverse)[:n, None]
    known = np.isclose(np.diag(inverse @ gram)[:n], 1)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        partial = np.where(known, b / np.sqrt(b**2 + left * own), np.nan)
    return np.vstack([partial, np.sqrt(np.maximum(1 - left / left_before, 0))])


def of_items(value: NDArray, count: NDArray, total: NDArray) -> pd.DataFrame:
    """How much of a feature is single items: item_share, half_items, item_variance (see `about`).

    Parameters
    ----------
    value
        [n_items + 1, n_features], sums over the positions of each item
    count
        [n_items + 1], positions of each item
    total
        [n_features], variance of each feature, times the number of positions
    """
    n, n_items = count.sum(), (count > 0).sum()
    mass = value.sum(axis=0)
    strongest = np.sort(value, axis=0)[::-1]
    between = (value**2 / np.maximum(count, 1)[:, None]).sum(axis=0) - mass**2 / n
    within = (total - between) / max(n - n_items, 1)
    return pd.DataFrame(
        {
            "item_share": strongest[0] / mass,
            "half_items": 1 + (strongest.cumsum(axis=0) < mass / 2).sum(axis=0),
            "item_variance": 1 - within / (total / (n - 1)),
        }
    )


def _own(dataset: Dataset) -> NDArray:
    """What is of an item: popularity, year, 'has no year', attributes, [n_items + 1, ...]."""
    year = dataset.items["year"].to_numpy(np.float64, na_value=np.nan)
    unknown = np.isnan(year)
    year = np.where(unknown, year[~unknown].mean() if not unknown.all() else 0.0, year)
    columns = np.stack([np.log1p(dataset.items["popularity"]), year, unknown], axis=1)
    return np.hstack([np.vstack([np.zeros(3), columns]), dataset.attribute_matrix])
