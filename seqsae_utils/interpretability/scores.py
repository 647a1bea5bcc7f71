"""Every feature against every attribute, exactly; only what is not zero is ever sorted."""

from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

#: Codes [n_positions, n_features]: dense where they are signed, sparse where never negative.
Codes: TypeAlias = NDArray | sparse.csr_array


def score(codes: Codes, attributes: NDArray) -> dict[str, NDArray]:
    """Score every feature against every attribute, exactly.

    `codes` are [n_positions, n_features], `attributes` [n_positions, n_attributes] of 0 and 1.
    Returns correlation (Pearson) and auc (ROC, ties count half), float64 [n_features,
    n_attributes]: NaN for an attribute that no position has, or all have, and for the correlation
    of a constant feature. `ValueError` for other attributes or another number of them, for codes
    that are not finite, and for negative sparse codes.
    """
    has = np.asarray(attributes, dtype=bool)
    if not np.array_equal(has, attributes):
        raise ValueError("attributes must be 0 or 1: compare other values with a threshold first")
    n_codes, n = codes.shape[0], len(has)
    if n != n_codes:
        raise ValueError(
            f"codes have {n_codes} positions and attributes {n}: give both for the same positions"
        )
    has, positives = has.astype(np.float64), has.sum(axis=0)
    codes = codes.tocsc() if sparse.issparse(codes) else codes
    columns = (_column(codes, j) for j in range(codes.shape[1]))
    found = np.array([_scores(values, has[rows], positives, n) for values, rows in columns])
    return {"correlation": found[:, 0], "auc": found[:, 1]}


def _column(codes: NDArray | sparse.csc_array, feature: int) -> tuple[NDArray, NDArray | slice]:
    """A feature's values, of a sparse code only those that are not zero, and their positions."""
    rows = slice(None)
    values = codes[:, feature]
    if sparse.issparse(codes):
        stored = slice(codes.indptr[feature], codes.indptr[feature + 1])
        values, rows = codes.data[stored], codes.indices[stored]
        if np.min(values, initial=0) < 0:
            raise ValueError("sparse codes must not be negative: give signed codes as dense arrays")
        values, rows = values[values != 0], rows[values != 0]
    if not np.isfinite(values).all():
        raise ValueError(
            f"feature {feature} holds values that are not finite (NaN or infinite):"
            " look for the training step or the hidden state that they come from"
        )
    return values.astype(np.float64), rows


def _scores(values: NDArray, has: NDArray, positives: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """Correlation and AUC [n_attributes] of a feature whose other values, up to n, are zero."""
    n_zeros, missed = n - len(values), positives - has.sum(axis=0)
    # Mann-Whitney's U from ranks; the zeros that are not stored share the mean of 1, ..., n_zeros.
    ranks = (rankdata(values) + n_zeros) @ has + missed * (n_zeros + 1) / 2
    u = ranks - positives * (positives + 1) / 2
    # Deviations from the mean before squares and products: nothing large cancels.
    mean = values.sum() / n
    values = values - mean
    square = values @ values + n_zeros * mean**2
    square = square if square > 1e-24 * n * mean**2 else np.nan  # constant, but for rounding
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = u / (positives * (n - positives))
        covariance = values @ has - mean * missed
        return ratio(covariance, square, variance(positives, positives, n)), auc


def as_dense(matrix) -> NDArray:
    """A sparse or dense matrix as an array of the same shape."""
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def variance(squares: NDArray, total: NDArray, n: NDArray | float) -> NDArray:
    """Variance times n, from sum of squares and sum, of one shape; NaN where only rounding."""
    variance = squares - total**2 / n
    return np.where(variance > 1e-12 * squares, variance, np.nan)


def ratio(covariance: NDArray, variance_x: NDArray | float, variance_y: NDArray) -> NDArray:
    """Covariance over both standard deviations, all times the same n; shapes broadcast."""
    return covariance / np.sqrt(variance_x * variance_y)


def tidy(scores: dict[str, NDArray], names: list[str]) -> pd.DataFrame:
    """Scores [n_features, n_attributes] as a row a pair: feature, attribute, a column a score."""
    feature, attribute = np.indices(next(iter(scores.values())).shape).reshape(2, -1)
    table = pd.DataFrame({"feature": feature, "attribute": np.asarray(names)[attribute]})
    return table.assign(**{name: values.ravel() for name, values in scores.items()})
