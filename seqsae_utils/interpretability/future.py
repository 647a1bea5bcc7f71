"""What the sequence adds: what a feature tells of the NEXT items, given what is known by now."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..resampling import draws, interval, known_mean
from .chance import choose, columns, of_chosen
from .scores import Codes, as_dense

#: Items whose share of each attribute counts as the history, the current one among them.
HISTORY = 10
#: Weight of an item in the decayed mean of a history, against that of the item after it.
DECAY = 0.8


def decayed_mean(vectors: NDArray, index: pd.DataFrame, decay: float = DECAY) -> NDArray:
    """A state that knows the history and needs no model: the mean of its items' vectors, decaying.

    `vectors` are [n_items + 1, d]; `index` (user, item, position) is sorted by user and position.
    Returns float32 [n_positions, d]: at each position the weighted mean of the user's items so far,
    the latest with weight 1, each earlier one with `decay` times that of its successor.
    """
    item, position = index["item"].to_numpy(), index["position"].to_numpy()
    total, found = np.zeros(vectors.shape[1]), np.empty((len(item), vectors.shape[1]), np.float32)
    for row, (i, p) in enumerate(zip(item, position, strict=True)):
        total = vectors[i] + (decay * total if p else 0)
        found[row] = total * (1 - decay) / (1 - decay ** (p + 1))
    return found


def shares_of_last(matrix: NDArray, index: pd.DataFrame, n: int = HISTORY) -> NDArray:
    """Share of the last n items, the current one included, with each attribute: [n_positions, a].

    `matrix` is 0/1 [n_items + 1, n_attributes]; `index` is sorted by user and position. Early
    positions have fewer items.
    """
    has = matrix[index["item"]].astype(np.float64)
    total = np.vstack([np.zeros(has.shape[1]), has.cumsum(axis=0)])
    row, taken = np.arange(len(has)), np.minimum(index["position"].to_numpy() + 1, n)
    return (total[row + 1] - total[row + 1 - taken]) / taken[:, None]


def wanted(matrix: NDArray, index: pd.DataFrame, horizon: int) -> tuple[NDArray, NDArray]:
    """Rows that have `horizon` later items of the same user, and the share of each attribute there.

    Returns rows [n] and shares [n, n_attributes]; with a horizon of 1 they are 0 or 1.
    """
    user = index["user"].to_numpy()
    rows = np.flatnonzero(user[:-horizon] == user[horizon:])
    has = matrix[index["item"]].astype(np.float64)
    return rows, sum(has[rows + step] for step in range(1, horizon + 1)) / horizon


def exchanged(index: pd.DataFrame, rows: NDArray, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Pairs of rows at the same place in the histories of two users: a state, another's future.

    Each user gets the future of the next one in a random circle, as far as both histories reach.
    """
    user, position = index["user"].to_numpy()[rows], index["position"].to_numpy()[rows]
    circle = np.random.default_rng(seed).permutation(np.unique(user))
    other = dict(zip(circle, np.roll(circle, 1), strict=True))
    own = pd.DataFrame({"user": user, "position": position, "own": np.arange(len(rows))})
    theirs = own.rename(columns={"own": "theirs"})
    pairs = own.assign(user=own["user"].map(other)).merge(theirs, on=["user", "position"])
    return pairs["own"].to_numpy(), pairs["theirs"].to_numpy()


def partial_correlations(codes: Codes, targets: NDArray, given: NDArray) -> NDArray:
    """Correlation of each feature with each target, given other variables: [n_features, n_targets].

    `codes` are [n, n_features], `targets` [n, n_targets], `given` [n, n_given]; a constant is
    always given. Both sides are what a least-squares fit on `given` leaves; NaN for nothing.
    """
    basis = _basis(given)
    left = targets - basis @ (basis.T @ targets)
    cross = as_dense(codes.T @ left).astype(np.float64)
    wide = codes.astype(np.float64)
    squares = np.asarray((wide * wide).sum(axis=0)).ravel()
    explained = np.square(as_dense(codes.T @ basis)).sum(axis=1)
    rest = np.where(squares - explained > 1e-9 * squares, squares - explained, np.nan)
    variance = np.square(left).sum(axis=0)
    variance = np.where(variance > 1e-9 * len(left), variance, np.nan)
    return cross / np.sqrt(rest[:, None] * variance)


def _basis(given: NDArray) -> NDArray:
    """Orthonormal columns that span a constant and what is given; dependent ones are dropped."""
    u, s, _ = np.linalg.svd(np.column_stack([np.ones(len(given)), given]), full_matrices=False)
    return u[:, s > 1e-8 * s[0]]


def ahead(
    representations: dict[str, Mapping[str, Codes]],
    index: dict[str, pd.DataFrame],
    matrix: NDArray,
    horizon: int = 1,
    history: bool = False,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, NDArray]]:
    """How much one feature tells of the attributes of the next items beyond what is known.

    Partial correlation with an attribute of the next item (its share of the next `horizon` items),
    given all attributes of the current one, and with `history` also their shares of the last
    `HISTORY` items. Each attribute chooses the feature with the largest one on the development
    users; the score is taken on the test users. The null pairs states with another user's future.

    `representations` are codes [n_positions, n_features] by name and group, in the order of
    `index` (user, item, position); `matrix` is 0/1 [n_items + 1, n_attributes]. Returns three
    things. table, by representation: ahead, the mean over attributes, with ``_low`` and ``_high``
    (95 %, test users drawn again), and null. scores [n_attributes], a column each. drawn: name ->
    [N_DRAWS], all representations in the same draws.
    """
    known, targets, rows, null = {}, {}, {}, {}
    for group, table in index.items():
        rows[group], targets[group] = wanted(matrix, table, horizon)
        known[group] = matrix[table["item"]][rows[group]].astype(np.float64)
        if history:
            shares = shares_of_last(matrix, table)[rows[group]]
            known[group] = np.hstack([known[group], shares])
        null[group] = exchanged(table, rows[group], seed)
    _, user = np.unique(index["test"]["user"].to_numpy()[rows["test"]], return_inverse=True)
    result, scores, drawn = {}, {}, {}
    for name, codes in representations.items():
        own = {group: codes[group][rows[group]] for group in index}
        chosen = choose(partial_correlations(own["dev"], targets["dev"], known["dev"]))
        x = columns(own["test"], *chosen)
        found, redrawn = _drawn(x, targets["test"], known["test"], user)
        of_null = {
            g: partial_correlations(own[g][mine], targets[g][theirs], known[g][theirs])
            for g, (mine, theirs) in null.items()
        }
        by_chance = of_chosen(of_null["test"], *choose(of_null["dev"]))
        low, high = interval(redrawn)
        result[name] = {"ahead": known_mean(found), "ahead_low": low, "ahead_high": high}
        result[name]["null"] = known_mean(np.nan_to_num(by_chance))
        scores[name], drawn[name] = found, redrawn
    return pd.DataFrame(result).T, pd.DataFrame(scores), drawn


def of_next(
    codes: Mapping[str, Codes], index: dict[str, pd.DataFrame], matrix: NDArray
) -> tuple[NDArray, NDArray]:
    """The attribute of the next item that each feature tells best, given those of the current one.

    Codes [n_positions, n_features] and `index` (user, item, position) by group; `matrix` is 0/1
    [n_items + 1, n_attributes]. Returns the attribute's number [n_features], chosen on the
    development users, and the partial correlation on the test users [n_features].
    """
    found = {}
    for group, table in index.items():
        rows, targets = wanted(matrix, table, 1)
        given = matrix[table["item"]][rows].astype(np.float64)
        found[group] = partial_correlations(codes[group][rows], targets, given)
    attribute, _ = choose(found["dev"].T)
    return attribute, found["test"][np.arange(len(attribute)), attribute]


def _drawn(x: NDArray, y: NDArray, given: NDArray, user: NDArray) -> tuple[NDArray, NDArray]:
    """Partial correlations of columns of x and y [n, a], of everybody [a]; mean in each draw.

    Each user's sums of products are made once: a draw adds them up as often as each user counts. A
    feature that never fires scores 0, an attribute that nobody has NaN.
    """
    a = x.shape[1]
    z = np.column_stack([np.ones(len(x)), given, y, x / np.maximum(x.std(axis=0), 1e-12)])
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    ends = np.append(starts[1:], len(user))
    grams = np.stack([z[s:e].T @ z[s:e] for s, e in zip(starts, ends, strict=True)])
    weights = np.vstack([np.ones(len(grams)), draws(len(grams))])
    found, n = [], z.shape[1] - 2 * a
    for gram in (weights @ grams.reshape(len(grams), -1)).reshape(len(weights), *grams.shape[1:]):
        inverse = np.linalg.pinv(gram[:n, :n], rcond=1e-9, hermitian=True)
        left = gram[n:, n:] - gram[n:, :n] @ inverse @ gram[:n, n:]
        variance_y, variance_x = np.diag(left)[:a], np.diag(left)[a:]
        enough = variance_y > 1e-9 * gram[0, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            score = np.diag(left[:a, a:]) / np.sqrt(variance_y * variance_x)
        score = np.where(variance_x > 1e-9 * gram[0, 0], score, 0.0)
        found.append(np.where(enough, score, np.nan))
    return found[0], known_mean(found[1:], axis=1)
