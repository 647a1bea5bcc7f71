"""How good the best of many features would be by chance, and how sure its score is.

A maximum over many is larger by chance: a feature is chosen on some users and scored on others,
intervals come from drawing users (and films) again, the null gives each item other attributes.
"""

import warnings
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..resampling import draws
from .items import Sums, correlations, indicator, permuted
from .scores import Codes, as_dense, ratio, variance

#: Draws that are looked at together: what is in between takes draws x positions.
BATCH = 50


def choose(scores: NDArray, chance: float = 0.0) -> tuple[NDArray, NDArray]:
    """The best feature for each attribute, and its sign: the one furthest from chance.

    `scores` is [n_features, n_attributes] on the users who choose; `chance` is the score of a
    useless feature, 0 for a correlation and 0.5 for an AUC. Returns two arrays [n_attributes].

    >>> choose(np.array([[0.1, 0.2], [-0.3, 0.1]]))
    (array([1, 0]), array([-1,  1]))
    """
    feature = np.nan_to_num(np.abs(scores - chance), nan=-1.0).argmax(axis=0)
    return feature, np.where(scores[feature, np.arange(len(feature))] < chance, -1, 1)


def columns(codes: Codes, feature: NDArray, sign: NDArray) -> NDArray:
    """The chosen features' values [n_positions, n_attributes], turned so that more is more."""
    return as_dense(codes[:, feature]).astype(np.float64) * sign


def of_chosen(scores: NDArray, feature: NDArray, sign: NDArray, chance: float = 0.0) -> NDArray:
    """The scores [n_attributes] of the chosen features, turned so that more is more."""
    return chance + sign * (scores[feature, np.arange(len(feature))] - chance)


def everybody_then_drawn(n: int, seed: int = 0) -> list[NDArray]:
    """How often each of n users (or films) counts: once, then in each draw, 1 + N_DRAWS rows.

    Users are drawn, not positions, because positions of one user resemble each other. float32
    [at most `BATCH`, n] at a time, first everybody alone; the same n and seed draw the same.
    """
    counts = np.vstack([np.ones(n), draws(n, seed=seed)]).astype(np.float32)
    return np.split(counts, range(1, len(counts), BATCH))


def drawn_correlations(
    codes: Iterable[NDArray], y: NDArray, weights: Iterable[NDArray], silent: float = np.nan
) -> NDArray:
    """Correlation of each column of codes with its attribute: [n_draws, n_codes, n_attributes].

    Each of the `codes` and `y` are [n, n_attributes]; `weights` of the positions are float32
    [n_some, n], some draws at a time. A column that does not vary scores `silent`, and NaN where
    the attribute does not vary.
    """
    n_attributes = y.shape[1]
    x, y = np.hstack([_standardised(own) for own in codes]), y.astype(np.float32)
    products = x, x * x, x * np.tile(y, x.shape[1] // n_attributes)
    found = []
    for some in weights:
        n = some.sum(axis=1, dtype=np.float64)[:, None, None]
        sum_x, sum_xx, sum_xy, sum_y = (
            (some @ values).astype(np.float64).reshape(len(some), -1, n_attributes)
            for values in (*products, y)
        )
        var_x, var_y = variance(sum_xx, sum_x, n), variance(sum_y, sum_y, n)
        scored = ratio(sum_xy - sum_x * sum_y / n, var_x, var_y)
        found.append(np.where(np.isnan(var_x) & ~np.isnan(var_y), silent, scored))
    return np.concatenate(found)


def _standardised(x: NDArray) -> NDArray:
    """Columns of mean 0 and deviation 1 in float32: in sums of them nothing cancels."""
    return ((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)).astype(np.float32)


def drawn_auc(x: NDArray, has: NDArray, user: NDArray, counts: list[NDArray]) -> NDArray:
    """AUC of values x with an attribute, both [n], when users are drawn again: [n_draws], or NaN.

    `user` [n] is the column that a position belongs to in `counts`, [n_some, n_users] each.
    """
    values, place = np.unique(x, return_inverse=True)  # equal values, as all zeros, share a place
    shape = counts[0].shape[1], len(values)
    with_it, without = (indicator(user[y], place[y], shape) for y in (has > 0, has == 0))
    found = []
    for some in counts:
        positive, negative = some @ with_it, some @ without
        below = negative.cumsum(axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        with np.errstate(invalid="ignore"):
            found.append((positive * below).sum(axis=1) / pairs)
    return np.concatenate(found)


def permutation_null(
    choosing: Sums,
    scoring: Sums,
    attribute_matrix: NDArray,
    n_permutations: int,
    seed: int,
    popularity: NDArray | None = None,
) -> NDArray:
    """Correlation [n_permutations, n_attributes] of the chosen features when attributes are random.

    Each permutation gives every item the attributes of another, with `popularity` [n_items + 1] of
    one that is as popular (`permuted`), and features are chosen anew.
    """
    rng = np.random.default_rng(seed)
    null, n_items = [], len(attribute_matrix) - 1

    def exchanged() -> NDArray:
        if popularity is None:
            return attribute_matrix[np.append(0, 1 + rng.permutation(n_items))]
        return permuted(attribute_matrix, popularity, seed=int(rng.integers(2**32)))

    for start in range(0, n_permutations, 10):  # ten at once make one product large enough
        n = min(10, n_permutations - start)
        shuffled = np.hstack([exchanged() for _ in range(n)])
        chosen = choose(correlations(choosing, shuffled))
        null.append(of_chosen(correlations(scoring, shuffled), *chosen))
    return np.concatenate(null).reshape(n_permutations, -1)


def corrected_p_values(found: NDArray, null: NDArray) -> NDArray:
    """P-values of several scores at once: how often chance does as well ANYWHERE.

    Each score [n_attributes], in units of the spread of its null [n_permutations, n_attributes], is
    compared with the largest of each permutation (single-step maxT, Westfall and Young,
    Resampling-Based Multiple Testing, 1993, section 2.3).
    """
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # nothing is known
        mean, spread = np.nanmean(null, axis=0), np.nanstd(null, axis=0).clip(1e-12)
        largest = np.nanmax((null - mean) / spread, axis=1)
    reached = largest[:, None] >= (found - mean) / spread
    return np.where(np.isnan(found), np.nan, (1 + reached.sum(axis=0)) / (1 + len(null)))
