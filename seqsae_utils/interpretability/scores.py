"""Every feature against every attribute, exactly, at the price of what is not zero."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

#: Codes [n_positions, n_features]: dense for signed bases, sparse for non-negative ones.
Codes = NDArray | sparse.csr_array


def score(codes: Codes, attributes: NDArray) -> dict[str, NDArray]:
    """Score every feature against every attribute, exactly.

    Parameters
    ----------
    codes
        [n_positions, n_features]
    attributes
        [n_positions, n_attributes] of 0 and 1

    Returns
    -------
    dict of arrays [n_features, n_attributes]
        correlation (Pearson), auc (ROC, ties count half), precision (share of firings that have
        the attribute), recall (share of the attribute's positions where the feature fires).
        NaN where a score is not defined: the correlation of a constant feature, the precision of
        one that never fires, an attribute that no position has or (not recall) that all have.
    """
    positives = attributes.sum(axis=0, dtype=np.float64)
    fires = (codes > 0).astype(np.float64)
    hits = as_dense(fires.T @ attributes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "correlation": _correlation(codes, attributes, positives),
            "auc": _auc(codes, attributes, positives),
            "precision": hits / np.asarray(fires.sum(axis=0)).reshape(-1, 1),
            "recall": hits / positives,
        }


def as_dense(matrix) -> NDArray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def _correlation(codes: Codes, attributes: NDArray, positives: NDArray) -> NDArray:
    n = len(attributes)
    codes = codes.astype(np.float64)
    total = np.asarray(codes.sum(axis=0)).reshape(-1, 1)
    squares = np.asarray((codes * codes).sum(axis=0)).reshape(-1, 1)
    covariance = as_dense(codes.T @ attributes) - total * positives / n
    return ratio(covariance, variance(squares, total, n), variance(positives, positives, n))


def variance(squares: NDArray, total: NDArray, n: NDArray | float) -> NDArray:
    """n times the variance, from the sum of squares and the sum; NaN where it is but rounding."""
    variance = squares - total**2 / n
    return np.where(variance > 1e-12 * squares, variance, np.nan)


def ratio(covariance: NDArray, variance_x: NDArray, variance_y: NDArray) -> NDArray:
    """Covariance over both standard deviations."""
    return covariance / np.sqrt(variance_x * variance_y)


def _auc(codes: Codes, attributes: NDArray, positives: NDArray) -> NDArray:
    """ROC AUC from sums of ranks (Mann-Whitney U).

    In a sparse code all zeros tie at the bottom, at the mean rank (n_zeros + 1) / 2, so only the
    values that are not zero are ever sorted.
    """
    n = len(attributes)
    if sparse.issparse(codes):
        ranks = codes.astype(np.float64).tocsc()
        if ranks.nnz and ranks.data.min() < 0:
            raise ValueError("sparse codes must not be negative: give signed bases as dense arrays")
        ranks.eliminate_zeros()
        n_zeros = n - np.diff(ranks.indptr)
        floor = (n_zeros + 1) / 2
        for j, (start, end) in enumerate(zip(ranks.indptr[:-1], ranks.indptr[1:], strict=True)):
            ranks.data[start:end] = n_zeros[j] + rankdata(ranks.data[start:end]) - floor[j]
        rank_sum = as_dense(ranks.T @ attributes) + floor[:, None] * positives
    else:
        rank_sum = rankdata(codes, axis=0).T @ attributes
    with np.errstate(invalid="ignore", divide="ignore"):
        return (rank_sum - positives * (positives + 1) / 2) / (positives * (n - positives))


def tidy(scores: dict[str, NDArray], names: list[str]) -> pd.DataFrame:
    """Scores of `score` as one row a pair: feature, attribute, and a column for each score."""
    n_features, n_attributes = next(iter(scores.values())).shape
    feature, attribute = np.indices((n_features, n_attributes)).reshape(2, -1)
    table = pd.DataFrame({"feature": feature, "attribute": np.asarray(names)[attribute]})
    return table.assign(**{name: values.ravel() for name, values in scores.items()})
