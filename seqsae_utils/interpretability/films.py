"""The primary score: a feature is chosen on some users and films, and scored on others of both.

A dictionary of 512 features on 1,574 films can know films instead of genres. A feature that knows
ten Westerns by heart tells nothing of the other Westerns. So half of the films choose the feature,
on the SAE users, and the other half score it, on the test users.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..activations import probe_auc
from ..resampling import N_DRAWS, draws, interval
from .chance import choose, columns, correlation_from_sums, item_sums, within
from .comparison import Positions
from .scores import Codes, as_dense, ratio, variance

#: Splits of the catalogue; each is used twice, for either half may choose.
N_SPLITS = 10
#: Features that a sparse probe may use.
SIZES = (1, 2, 4, 8)


def film_splits(popularity: NDArray, n_splits: int = N_SPLITS) -> NDArray:
    """The films that choose, in each fold: bool [2 * n_splits, n_items + 1].

    Films are sorted by popularity [n_items + 1], and of each two neighbours a coin gives one to
    either half, so that both halves are equally popular. The rest of the films score.

    >>> film_splits(np.array([0, 9, 8, 2, 1]), n_splits=1).sum(axis=1)
    array([2, 2])
    """
    rng = np.random.default_rng(0)  # the same films in every training
    n = len(popularity) - 1
    folds = np.zeros((n_splits, 2, n + 1), dtype=bool)
    for first, second in folds:
        order = 1 + np.lexsort((rng.random(n), -popularity[1:]))
        heads = np.repeat(rng.random(-(-n // 2)) < 0.5, 2)[:n]
        first[order] = heads ^ (np.arange(n) % 2 == 1)
        second[1:] = ~first[1:]
    return folds.reshape(2 * n_splits, n + 1)


def held_out_films(
    representations: dict[str, list[dict[str, Codes]]],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    folds: NDArray,
    n_draws: int = N_DRAWS,
) -> tuple[pd.DataFrame, dict[str, NDArray]]:
    """Correlation with attributes of features that were chosen by other users and other films.

    In each fold, on the SAE users' positions with films that choose, each attribute chooses the
    feature with the largest |correlation|; its correlation (with that sign) is taken on the test
    users' positions with the other films. A feature that never fires there scores 0.

    Parameters
    ----------
    representations
        Name -> codes of the groups ``sae`` and ``test``; several where a control is drawn at
        random: their mean is reported.
    folds
        From `film_splits`.

    Returns
    -------
    scores : DataFrame [n_attributes, n_representations]
        Mean over folds (and redraws). NaN for an attribute that no film of a half has.
    drawn : name -> [n_draws]
        The mean over attributes and folds when test users and films are drawn again; all
        representations in the same draws.
    """
    n_items, n_attributes = len(attribute_matrix) - 1, attribute_matrix.shape[1]
    test = positions["test"]
    _, user = np.unique(test.users, return_inverse=True)
    of_users = draws(user.max() + 1, n_draws, seed=0).astype(np.float32)
    of_films = np.pad(draws(n_items, n_draws, seed=1), ((0, 0), (1, 0))).astype(np.float32)
    every = [(name, codes) for name, some in representations.items() for codes in some]
    sums = [item_sums(codes["sae"], positions["sae"].items, n_items) for _, codes in every]
    points = np.zeros((len(folds), len(every), n_attributes))
    means = np.zeros((len(folds), n_draws, len(every)))
    for i, films in enumerate(folds):
        rows = np.flatnonzero(~films[test.items])
        y = test.attributes[rows].astype(np.float32)
        chosen = [choose(correlation_from_sums(*within(s, films, attribute_matrix))) for s in sums]
        x = np.hstack(
            [columns(c["test"][rows], best) for (_, c), best in zip(every, chosen, strict=True)]
        )
        prepared = _products(x, y)
        once = np.ones((1, len(rows)), np.float32)
        points[i] = _weighted_correlations(*prepared, once)[0]
        for start in range(0, n_draws, 50):
            some = slice(start, start + 50)
            weights = of_users[some][:, user[rows]] * of_films[some][:, test.items[rows]]
            found = _weighted_correlations(*prepared, weights)
            means[i, some] = np.nanmean(found, axis=2)
    points, means = np.nanmean(points, axis=0), np.nanmean(means, axis=0)
    names = np.array([name for name, _ in every])
    scores = {name: points[names == name].mean(axis=0) for name in representations}
    drawn = {name: means[:, names == name].mean(axis=1) for name in representations}
    return pd.DataFrame(scores), drawn


def _products(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """All that weights are put on, the same in every draw: x standardised, x^2, x y, and y."""
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)  # sums in float32: nothing cancels
    x = x.astype(np.float32)
    return x, x * x, x * np.tile(y, x.shape[1] // y.shape[1]), y


def _weighted_correlations(
    x: NDArray, xx: NDArray, xy: NDArray, y: NDArray, weights: NDArray
) -> NDArray:
    """Correlation of each column of x with its attribute, under weights of the positions.

    From `_products` of x [n, n_codes * n_attributes] and y [n, n_attributes], and weights
    [n_draws, n]; returns [n_draws, n_codes, n_attributes]. 0 where x does not vary, NaN where y
    does not.
    """
    n_attributes = y.shape[1]
    n_codes = x.shape[1] // n_attributes
    total = weights.sum(axis=1, dtype=np.float64)[:, None]
    sum_x, sum_xx, sum_xy = (
        (weights @ values).astype(np.float64).reshape(len(weights), n_codes, n_attributes)
        for values in (x, xx, xy)
    )
    sum_y = (weights @ y).astype(np.float64)
    var_y = variance(sum_y, sum_y, total)[:, None]
    var_x = variance(sum_xx, sum_x, total[:, None])
    with np.errstate(invalid="ignore"):
        found = ratio(sum_xy - sum_x * sum_y[:, None] / total[:, None], var_x, var_y)
    return np.where(np.isnan(var_x) & ~np.isnan(var_y), 0.0, found)


def films_table(scores: pd.DataFrame, drawn: dict[str, NDArray]) -> pd.DataFrame:
    """A row for each representation: its mean over attributes, and the SAE's lead over it.

    Columns: held_out, its interval (95 %, users and films drawn), lead with its interval (paired
    over the same draws).
    """
    rows = {}
    for name, values in drawn.items():
        lead = scores["sae"].mean() - scores[name].mean()
        low, high = interval(values)
        lead_low, lead_high = interval(drawn["sae"] - values)
        rows[name] = {"held_out": scores[name].mean(), "held_out_low": low, "held_out_high": high}
        rows[name] |= {"lead": lead, "lead_low": lead_low, "lead_high": lead_high}
    return pd.DataFrame(rows).T


def sparse_probes(
    codes: dict[str, Codes],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    folds: NDArray,
    sizes: tuple[int, ...] = SIZES,
    max_positions: int = 100_000,
) -> dict[str, float]:
    """AUC of linear probes that may use only a few features, and of one that may use all [1]_.

    Features, in the order of |correlation|, and the probe (ridge regression) come from the SAE
    users and the films that choose; the AUC from the test users and the other films.

    Returns
    -------
    dict
        ``1``, ``2``, ... and ``dense``: mean over attributes and folds.

    .. [1] Kantamneni et al., Are Sparse Autoencoders Useful? (sae-probes), arXiv 2502.16681.
    """
    sums = item_sums(codes["sae"], positions["sae"].items, len(attribute_matrix) - 1)
    found = {str(size): [] for size in [*sizes, "dense"]}
    for films in folds:
        rows = np.flatnonzero(films[positions["sae"].items])
        rows = rows[:: -(-len(rows) // max_positions)]
        test_rows = np.flatnonzero(~films[positions["test"].items])
        x, y = as_dense(codes["sae"][rows]), positions["sae"].attributes[rows]
        x_test, y_test = as_dense(codes["test"][test_rows]), positions["test"].attributes[test_rows]
        score = np.abs(correlation_from_sums(*within(sums, films, attribute_matrix)))
        order = np.argsort(-np.nan_to_num(score, nan=-1.0), axis=0, kind="stable")
        found["dense"] += probe_auc(x, y, x_test, y_test)
        for size in sizes:
            for j in range(y.shape[1]):
                few = order[:size, j]
                found[str(size)] += probe_auc(x[:, few], y[:, [j]], x_test[:, few], y_test[:, [j]])
    return {size: float(np.nanmean(values)) for size, values in found.items()}
