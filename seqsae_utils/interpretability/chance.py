"""How good the best of many features would be by chance, and how sure its score is.

The best feature for an attribute is the maximum of many scores, and a maximum over more
candidates is larger by chance alone. Therefore a feature is chosen on some users and scored on
others, intervals come from drawing users (and films) again, and the null hypothesis is tried out
by giving each item the attributes of another.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..resampling import draws
from .items import correlations, indicator
from .scores import Codes, as_dense, ratio, variance

#: Draws that are looked at together: what is in between takes draws x positions.
BATCH = 50


def choose(scores: NDArray, chance: float = 0.0) -> tuple[NDArray, NDArray]:
    """The best feature for each attribute: the one furthest from chance, whatever its sign.

    Parameters
    ----------
    scores
        [n_features, n_attributes] on the users that are used to choose
    chance
        The score of a useless feature: 0 for a correlation, 0.5 for an AUC.

    Returns
    -------
    feature, sign : [n_attributes]

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

    Positions of one user resemble each other, so users, not positions, are what is independent.
    The same users give the same draws, so that two bases can be compared draw by draw.
    Some rows at a time, float32 [at most `BATCH`, n]; the first time everybody alone.
    """
    counts = np.vstack([np.ones(n), draws(n, seed=seed)]).astype(np.float32)
    return np.split(counts, range(1, len(counts), BATCH))


def drawn_correlations(
    x: NDArray, y: NDArray, weights: Iterable[NDArray], silent: float = np.nan
) -> NDArray:
    """Correlation of each column of x with its attribute, under weights of the positions.

    Parameters
    ----------
    x, y
        [n, n_codes * n_attributes] and [n, n_attributes]
    weights
        Some draws at a time, float32 [n_some, n]
    silent
        What a column scores that does not vary.

    Returns
    -------
    array [n_draws, n_codes, n_attributes]
        NaN where the attribute does not vary.
    """
    n_attributes = y.shape[1]
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)  # sums in float32: nothing cancels
    x, y = x.astype(np.float32), y.astype(np.float32)
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


def drawn_auc(x: NDArray, has: NDArray, user: NDArray, counts: list[NDArray]) -> NDArray:
    """AUC of values x with an attribute, both [n], when users are drawn again: [n_draws].

    `user` [n] is the column that a position belongs to in `counts`, [n_some, n_users] each. NaN
    where a draw holds no position with, or none without, the attribute.
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
    choose_sums: dict[str, NDArray],
    score_sums: dict[str, NDArray],
    attribute_matrix: NDArray,
    n_permutations: int,
    seed: int,
) -> NDArray:
    """Correlation of the chosen features when attributes mean nothing.

    Each permutation gives every item the attributes of another item, keeps everything else, and
    repeats the whole procedure: choose on one group of users, score on the other. Items, not
    positions, are permuted, because an attribute belongs to an item. Both sums are `item_sums`.
    Returns [n_permutations, n_attributes].
    """
    rng = np.random.default_rng(seed)
    null = []
    for start in range(0, n_permutations, 10):  # ten at once make one product large enough
        n = min(10, n_permutations - start)
        orders = [np.append(0, 1 + rng.permutation(len(attribute_matrix) - 1)) for _ in range(n)]
        shuffled = np.hstack([attribute_matrix[order] for order in orders])
        chosen = choose(correlations(choose_sums, shuffled))
        null.append(of_chosen(correlations(score_sums, shuffled), *chosen))
    return np.concatenate(null).reshape(n_permutations, -1)


def corrected_p_values(found: NDArray, null: NDArray) -> NDArray:
    """P-values of several scores at once: how often chance does as well ANYWHERE.

    Each score [n_attributes] is put in units of the spread of its own null [n_permutations,
    n_attributes], and held against the largest of each permutation (single-step maxT [1]_).

    .. [1] Westfall and Young, Resampling-Based Multiple Testing, 1993, section 2.3.

    >>> null = np.array([[0.1, 0.1], [0.2, 0.3], [0.3, 0.2]])
    >>> corrected_p_values(np.array([0.9, 0.2]), null)
    array([0.25, 0.75])
    """
    mean, spread = np.nanmean(null, axis=0), np.nanstd(null, axis=0).clip(1e-12)
    largest = np.nanmax((null - mean) / spread, axis=1)
    reached = largest[:, None] >= (found - mean) / spread
    return np.where(np.isnan(found), np.nan, (1 + reached.sum(axis=0)) / (1 + len(null)))
