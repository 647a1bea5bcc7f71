"""What a feature is about besides genre: popularity, year, place in the history, or one item."""

import numpy as np
import pandas as pd

from ..data import Dataset
from .items import item_sums
from .scores import Codes, as_dense

#: What a feature may follow besides the attributes.
CONFOUNDERS = ("position", "history_length", "popularity", "year")


def about(codes: Codes, index: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """What each feature follows, all else being equal.

    The partial correlation of a feature's value with each of `CONFOUNDERS` (logs, but for the
    year), given the others and all attributes. With b = inverse(X'X) X'x, the least-squares
    coefficients, and S, what they leave of the feature's squares, it is
    b_k / sqrt(b_k² + S inverse(X'X)_kk).

    `codes` is [n_positions, n_features]; `index` (user, item, position) has all positions of each
    user. Returns a row for each feature that fires: feature; the partial correlations, NaN where
    the others determine the confounder; item_share, the share of its sum on its strongest item.
    """
    item = index["item"].to_numpy()
    year = np.r_[np.nan, dataset.items["year"].to_numpy(np.float64, na_value=np.nan)]
    dated = year[~np.isnan(year)]
    predictors = [
        np.log1p(index["position"]),
        np.log(index.groupby("user")["user"].transform("size")),
        np.log1p(dataset.popularity)[item],
        np.nan_to_num(year, nan=dated.mean() if len(dated) else 0.0)[item],
        np.isnan(year)[item],
        *dataset.attribute_matrix.T[:, item],
    ]
    x = np.stack(predictors, axis=1).astype(np.float64)
    x -= x.mean(axis=0)
    size = np.linalg.norm(x, axis=0)
    x /= np.where(size > 1e-6, size, np.inf)  # what does not vary counts for nothing
    mass = item_sums(codes, item, dataset.n_items)["value"]
    alive = np.flatnonzero(mass.any(axis=0))
    mass, values = mass[:, alive], codes[:, alive].astype(np.float64)
    n, squares = len(item), np.asarray((values * values).sum(axis=0)).ravel()
    total = squares - np.asarray(values.sum(axis=0)).ravel() ** 2 / n
    gram, cross = x.T @ x, as_dense(values.T @ x).T
    inverse = np.linalg.pinv(gram, rcond=1e-9, hermitian=True)
    coefficients = inverse @ cross
    left = total - (coefficients * cross).sum(axis=0)
    left = np.maximum(left, 1e-12 * total)  # of a feature that the predictors explain, rounding
    k = len(CONFOUNDERS)
    b, own = coefficients[:k], np.diag(inverse)[:k, None]
    known = np.isclose(np.diag(inverse @ gram)[:k], 1)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        partial = np.where(known, b / np.sqrt(b**2 + left * own), np.nan)
    table = pd.DataFrame(partial.T, columns=list(CONFOUNDERS))
    table.insert(0, "feature", alive)
    return table.assign(item_share=mass.max(axis=0) / mass.sum(axis=0))
