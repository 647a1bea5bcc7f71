"""How good the best of many features would be by chance, and how sure its score is.

The best feature for an attribute is the maximum of many scores, and a maximum over more
candidates is larger by chance alone. Therefore a feature is chosen on some users and scored on
others, intervals come from drawing the users again, and the null hypothesis is tried out by giving
each item the attributes of another.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..resampling import N_DRAWS, draws
from .scores import Codes, as_dense, ratio, variance


def choose(scores: NDArray, chance: float = 0.0) -> pd.DataFrame:
    """The best feature for each attribute: the one furthest from chance, whatever its sign.

    Parameters
    ----------
    scores
        [n_features, n_attributes] on the users that are used to choose
    chance
        The score of a useless feature: 0 for a correlation, 0.5 for an AUC.

    Returns
    -------
    pandas.DataFrame
        One row an attribute: attribute (its column), feature, sign (+1 or -1), score.

    >>> choose(np.array([[0.1, 0.2], [-0.3, 0.1]])).to_dict("list")
    {'attribute': [0, 1], 'feature': [1, 0], 'sign': [-1, 1], 'score': [-0.3, 0.2]}
    """
    away = np.nan_to_num(np.abs(scores - chance), nan=-1.0)
    feature = away.argmax(axis=0)
    attribute = np.arange(scores.shape[1])
    best = scores[feature, attribute]
    sign = np.where(best < chance, -1, 1)
    return pd.DataFrame({"attribute": attribute, "feature": feature, "sign": sign, "score": best})


def columns(codes: Codes, chosen: pd.DataFrame) -> NDArray:
    """The chosen features' values [n_positions, n_attributes], turned so that more is more."""
    picked = codes[:, chosen["feature"].to_numpy()]
    return as_dense(picked).astype(np.float64) * chosen["sign"].to_numpy()


def paired_scores(
    x: NDArray, attributes: NDArray, draws: NDArray, user: NDArray, kind: str
) -> NDArray:
    """Score of column j of x for column j of the attributes, for each draw of users.

    Parameters
    ----------
    x, attributes
        [n_positions, n_pairs]
    draws
        [n_draws, n_users], how often each user is counted in each draw
    user
        [n_positions], the column of `draws` that a position belongs to
    kind
        ``correlation`` or ``auc``

    Returns
    -------
    array [n_draws, n_pairs]
        NaN where a draw holds no position with, or none without, the attribute.
    """
    draws = draws.astype(np.float64)
    if kind == "auc":
        pairs = zip(x.T, attributes.T, strict=True)
        return np.stack([_drawn_auc(*pair, draws, user) for pair in pairs], axis=1)
    columns = np.arange(len(user))
    of_user = sparse.csr_array((np.ones(len(user)), (user, columns)), (draws.shape[1], len(user)))
    n = draws @ of_user.sum(axis=1)[:, None]
    sum_x, sum_xx, sum_y, sum_xy = (
        draws @ (of_user @ values) for values in (x, x * x, attributes, x * attributes)
    )
    return ratio(sum_xy - sum_x * sum_y / n, variance(sum_xx, sum_x, n), variance(sum_y, sum_y, n))


def everybody_once(x: NDArray) -> tuple[NDArray, NDArray]:
    """Arguments of `paired_scores` for the score itself: one draw, of everybody."""
    return np.ones((1, 1)), np.zeros(len(x), dtype=int)


def _drawn_auc(x: NDArray, has: NDArray, draws: NDArray, user: NDArray) -> NDArray:
    """AUC [n_draws] of values x with an attribute, both [n_positions].

    Zeros tie, so they are counted by user and never sorted: in a sparse code they are nearly all.
    """
    at = np.flatnonzero(x)
    at = at[np.argsort(x[at], kind="stable")]
    starts = np.flatnonzero(np.diff(x[at], prepend=-np.inf))  # where each tie begins
    zero = (x == 0).astype(np.float64)
    place = np.searchsorted(x[at][starts], 0.0)
    counts = []
    for of in (has, 1 - has):  # how often each value occurs with, and without, the attribute
        of_zero = draws @ np.bincount(user, zero * of, draws.shape[1])
        some = np.zeros((len(draws), 0))
        if len(at):
            some = np.add.reduceat(draws[:, user[at]] * of[at], starts, axis=1)
        counts.append(np.insert(some, place, of_zero, axis=1))
    positive, negative = counts
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


def draw_users(users: NDArray, n_draws: int = N_DRAWS) -> tuple[NDArray, NDArray]:
    """How often each user is drawn when users are drawn again with replacement.

    Positions of one user resemble each other, so users, not positions, are what is independent.
    Returns draws [n_draws, n_users] and the column of each position's user [n_positions].
    """
    known, user = np.unique(users, return_inverse=True)
    return draws(len(known), n_draws), user


def bootstrap(
    x: NDArray, attributes: NDArray, users: NDArray, kind: str, n_draws: int = N_DRAWS
) -> NDArray:
    """A score of chosen features in `draw_users`, [n_draws, n_pairs]; see `paired_scores`.

    The same users give the same draws, so that two bases can be compared draw by draw.
    """
    drawn, user = draw_users(users, n_draws)
    some = np.array_split(drawn, -(-n_draws // 50))  # not all at once: [n_draws, n_positions]
    return np.concatenate([paired_scores(x, attributes, part, user, kind) for part in some])


def item_sums(codes: Codes, items: NDArray, n_items: int) -> dict[str, NDArray]:
    """Sums over the positions of each item: all that correlations with attributes depend on.

    Returns value and square [n_items + 1, n_features], count [n_items + 1], and the feature's
    variance times n, [n_features].
    """
    one_hot = sparse.csr_array(
        (np.ones(len(items)), (items, np.arange(len(items)))), shape=(n_items + 1, len(items))
    )
    codes = codes.astype(np.float64)
    return _with_variance(
        as_dense(one_hot @ codes),
        as_dense(one_hot @ (codes * codes)),
        np.bincount(items, minlength=n_items + 1).astype(np.float64),
    )


def _with_variance(value: NDArray, square: NDArray, count: NDArray) -> dict[str, NDArray]:
    spread = variance(square.sum(axis=0), value.sum(axis=0), count.sum())
    return {"value": value, "square": square, "count": count, "variance": spread}


def within(
    sums: dict[str, NDArray], items: NDArray, attribute_matrix: NDArray
) -> tuple[dict[str, NDArray], NDArray]:
    """`item_sums` and attributes of some items, bool [n_items + 1]: as if there were no others.

    Returns the two arguments of `correlation_from_sums`.
    """
    some = _with_variance(*(sums[name][items] for name in ("value", "square", "count")))
    return some, attribute_matrix[items]


def correlation_from_sums(sums: dict[str, NDArray], attribute_matrix: NDArray) -> NDArray:
    """Correlations [n_features, n_attributes]; attributes are of items: [n_items + 1, ...]."""
    n = sums["count"].sum()
    positives = sums["count"] @ attribute_matrix
    covariance = sums["value"].T @ attribute_matrix
    covariance -= sums["value"].sum(axis=0)[:, None] * positives / n
    return ratio(covariance, sums["variance"][:, None], variance(positives, positives, n))


def permutation_null(
    choose_sums: dict[str, NDArray],
    score_sums: dict[str, NDArray],
    attribute_matrix: NDArray,
    n_permutations: int = 200,
    seed: int = 0,
) -> NDArray:
    """Correlation of the chosen features when attributes mean nothing.

    Each permutation gives every item the attributes of another item, keeps everything else, and
    repeats the whole procedure: choose on one group of users, score on the other. Items, not
    positions, are permuted, because an attribute belongs to an item.
    Returns [n_permutations, n_attributes].
    """
    rng = np.random.default_rng(seed)
    n_attributes = attribute_matrix.shape[1]
    null = np.empty((n_permutations, n_attributes))
    for start in range(0, n_permutations, 10):  # ten at once make one product large enough
        n = min(10, n_permutations - start)
        orders = [np.append(0, 1 + rng.permutation(len(attribute_matrix) - 1)) for _ in range(n)]
        shuffled = np.hstack([attribute_matrix[order] for order in orders])
        chosen = choose(correlation_from_sums(choose_sums, shuffled))
        scored = correlation_from_sums(score_sums, shuffled)[chosen["feature"], chosen["attribute"]]
        null[start : start + n] = (scored * chosen["sign"].to_numpy()).reshape(n, n_attributes)
    return null


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
