"""Every feature against every attribute, exactly, at the price of what is not zero.

Two things make it cheap. The zeros of a sparse code all tie at the bottom of a feature's ranking,
so that only what is not zero is ever sorted. And positions with the same set of attributes, a
*pattern*, look alike to every score: sums are taken over patterns, of which ML-1M has 299, and so
few numbers that they stay near the processor.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

#: Codes [n_positions, n_features]: dense for signed bases, sparse for non-negative ones.
Codes = NDArray | sparse.csr_array

#: How many values are ranked at a time: what is in between takes some 100 bytes a value.
BLOCK = 2**21


def score(codes: Codes, attributes: NDArray) -> dict[str, NDArray]:
    """Score every feature against every attribute, exactly.

    Parameters
    ----------
    codes
        [n_positions, n_features]; a feature *fires* where its value is above zero
    attributes
        [n_positions, n_attributes] of 0 and 1, or of bool

    Returns
    -------
    dict of arrays [n_features, n_attributes], float64
        correlation (Pearson), auc (ROC, ties count half), precision (share of firings that have
        the attribute), recall (share of the attribute's positions where the feature fires), f1
        (2 precision recall / (precision + recall); 0 where a feature never fires),
        mean_activation (mean value over the positions that have the attribute).
        NaN where a score is not defined: the correlation of a constant feature, the precision of
        one that never fires; all but precision and f1 of an attribute that no position has, and
        correlation and auc of one that all have; f1 where there is neither firing nor attribute.

    Raises
    ------
    ValueError
        If attributes are not 0 or 1 or not as many as the codes, a code is not finite, or a sparse
        code is negative.
    """
    has = np.asarray(attributes, dtype=bool)
    if not np.array_equal(has, attributes):
        raise ValueError("attributes must be 0 or 1: compare other values with a threshold first")
    if len(has) != codes.shape[0]:
        raise ValueError(
            f"codes have {codes.shape[0]} positions and attributes {len(has)}: give both for the"
            " same positions"
        )
    pattern, patterns = _patterns(has)
    counts = np.bincount(pattern)
    blocks = [
        _score_block(values, indptr, pattern[positions], patterns, counts)
        for values, indptr, positions in _blocks(codes)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _patterns(has: NDArray) -> tuple[NDArray, NDArray]:
    """Number of the pattern of each position [n_positions]; patterns [n_patterns, n_attributes]."""
    packed = pd.DataFrame(np.packbits(has, axis=1))
    number = packed.groupby(list(packed), sort=False).ngroup().to_numpy(np.int32)
    return number, has[~packed.duplicated()].astype(np.float64)


def _blocks(codes: Codes) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Some features at a time: their values one after another, where each begins, the positions.

    Of sparse codes only what is not zero, of dense codes everything.
    """
    n, n_features = codes.shape
    if sparse.issparse(codes):
        codes = codes.tocsc()
        stored = np.diff(codes.indptr)
    else:
        stored = np.full(n_features, n)
    cuts = np.flatnonzero(np.diff(stored.cumsum() // BLOCK)) + 1
    for start, end in pairwise([0, *cuts.tolist(), n_features]):
        block = codes[:, start:end]
        if sparse.issparse(block):
            block.eliminate_zeros()
            values, indptr, positions = block.data, block.indptr, block.indices
            if (values < 0).any():
                raise ValueError(
                    "sparse codes must not be negative: give signed bases as dense arrays"
                )
        else:
            values, indptr = block.T.ravel(), np.arange(end - start + 1) * n
            positions = np.tile(np.arange(n, dtype=np.int32), end - start)
        if not np.isfinite(values).all():
            raise ValueError(
                f"features {start} to {end - 1} hold values that are not finite (NaN or infinite):"
                " look for the training step or the hidden state that they come from"
            )
        yield values, indptr, positions


def _score_block(
    values: NDArray, indptr: NDArray, pattern: NDArray, patterns: NDArray, counts: NDArray
) -> dict[str, NDArray]:
    """The scores of some features.

    Parameters
    ----------
    values, pattern
        [n_values]: what is stored, feature after feature, and the patterns of these positions
    indptr
        [n_features + 1], where each feature begins
    patterns, counts
        [n_patterns, n_attributes], and on how many positions each is
    """
    n, positives = counts.sum(), counts @ patterns
    stored = np.diff(indptr)
    n_zeros = (n - stored)[:, None]  # the zeros that are not stored

    def by_feature(x: NDArray) -> sparse.csr_array:
        """[n_features, n_patterns]; its product with the patterns sums x over each attribute."""
        return sparse.csr_array((x, pattern, indptr), shape=(len(stored), len(patterns)))

    fires = by_feature((values > 0).astype(np.float64))
    n_fires, hits = fires.sum(axis=1)[:, None], fires @ patterns

    # Mann-Whitney's U from ranks; zeros that are not stored share the mean of 1, ..., n_zeros.
    at_zero = (n_zeros + 1) / 2
    above = _ranks(values, indptr) + np.repeat((n_zeros - at_zero).ravel(), stored)
    u = by_feature(above) @ patterns + at_zero * positives - positives * (positives + 1) / 2

    # Deviations from the mean before squares and products: nothing large cancels.
    values = values.astype(np.float64)
    mean = by_feature(values).sum(axis=1)[:, None] / n
    values -= np.repeat(mean.ravel(), stored)
    squares = by_feature(values**2).sum(axis=1)[:, None] + n_zeros * mean**2
    squares[squares <= 1e-24 * n * mean**2] = np.nan  # constant, but for rounding
    at_zeros = np.where(n_zeros > 0, positives - hits, 0)  # stored values of sparse codes fire
    covariance = by_feature(values) @ patterns - mean * at_zeros

    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "correlation": ratio(covariance, squares, variance(positives, positives, n)),
            "auc": u / (positives * (n - positives)),
            "precision": hits / n_fires,
            "recall": hits / positives,
            "f1": 2 * hits / (n_fires + positives),
            "mean_activation": mean + covariance / positives,
        }


def _ranks(values: NDArray, indptr: NDArray) -> NDArray:
    """Rank of each value within its feature, from 1; ties share their mean rank."""
    order = np.empty(len(values), dtype=np.int64)
    for start, end in pairwise(indptr.tolist()):
        order[start:end] = start + np.argsort(values[start:end])
    ascending = values[order]
    new = np.ones(len(values) + 1, dtype=bool)
    new[1:-1] = ascending[1:] != ascending[:-1]
    new[indptr] = True  # a feature's first value does not tie with the last of the one before
    ties = np.flatnonzero(new)  # where each group of equal values begins, and where the last ends
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((ties[:-1] + ties[1:] + 1) / 2, np.diff(ties))
    return ranks - np.repeat(indptr[:-1], np.diff(indptr))


def as_dense(matrix) -> NDArray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def variance(squares: NDArray, total: NDArray, n: NDArray | float) -> NDArray:
    """n times the variance, from the sum of squares and the sum; NaN where it is but rounding."""
    variance = squares - total**2 / n
    return np.where(variance > 1e-12 * squares, variance, np.nan)


def ratio(covariance: NDArray, variance_x: NDArray, variance_y: NDArray) -> NDArray:
    """Covariance over both standard deviations."""
    return covariance / np.sqrt(variance_x * variance_y)


def tidy(scores: dict[str, NDArray], names: list[str]) -> pd.DataFrame:
    """Scores of `score` as one row a pair: feature, attribute, and a column for each score."""
    n_features, n_attributes = next(iter(scores.values())).shape
    feature, attribute = np.indices((n_features, n_attributes)).reshape(2, -1)
    table = pd.DataFrame({"feature": feature, "attribute": np.asarray(names)[attribute]})
    return table.assign(**{name: values.ravel() for name, values in scores.items()})
