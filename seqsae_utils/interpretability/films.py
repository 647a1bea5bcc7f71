"""The primary score: a feature is chosen on some users and films, and scored on others of both.

A dictionary of 512 features can know 1,573 films by heart: half of them choose, half score.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..activations import probe_auc
from ..resampling import interval, known_mean
from .chance import choose, columns, drawn_correlations, everybody_then_drawn
from .comparison import Positions
from .items import correlations, item_sums
from .scores import Codes, as_dense

#: Splits of the catalogue; each is used twice, for either half may choose.
N_SPLITS = 10
#: Features that a sparse probe may use, and positions that it is fitted on at most.
SIZES, MAX_POSITIONS = (1, 2, 4, 8), 100_000


def film_splits(popularity: NDArray) -> NDArray:
    """The films that choose, in each fold: bool [2 * N_SPLITS, n_items + 1]; the others score.

    Films are sorted by popularity [n_items + 1], and a coin separates each two neighbours.
    """
    rng = np.random.default_rng(0)  # the same films in every training
    n = len(popularity) - 1
    folds = np.zeros((N_SPLITS, 2, n + 1), dtype=bool)
    for first, second in folds:
        order = 1 + np.lexsort((rng.random(n), -popularity[1:]))
        heads = np.repeat(rng.random(-(-n // 2)) < 0.5, 2)[:n]
        first[order] = heads ^ (np.arange(n) % 2 == 1)
        second[1:] = ~first[1:]
    return folds.reshape(2 * N_SPLITS, n + 1)


def held_out_films(
    representations: dict[str, list[Mapping[str, Codes]]],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    folds: NDArray,
) -> tuple[pd.DataFrame, dict[str, NDArray]]:
    """Correlation with attributes of features that were chosen by other users and other films.

    In each fold (`film_splits`), on the development users' positions with films that choose, each
    attribute chooses the feature with the largest |correlation|; its correlation (with that sign)
    is taken on the test users' positions with the other films, 0 if it never fires there. Returns
    two things. scores: a row for each attribute, a column for each representation, with ``_low``
    and ``_high`` (95 %, test users and films drawn again); means over folds and redraws, NaN for an
    attribute that no film of a half has. drawn: name -> [N_DRAWS], the mean over attributes in each
    draw, all representations in the same draws.
    """
    n_items, test = len(attribute_matrix) - 1, positions["test"]
    _, user = np.unique(test.users, return_inverse=True)
    of_users = everybody_then_drawn(user.max() + 1)
    of_films = everybody_then_drawn(n_items, seed=1)
    every = []  # of each draw its name, and per fold the columns that were chosen
    for name, codes in ((name, codes) for name, some in representations.items() for codes in some):
        sums = item_sums(codes["dev"], positions["dev"].items, n_items)
        chosen = [choose(correlations(sums, attribute_matrix, films)) for films in folds]
        used = np.unique([feature for feature, _ in chosen])
        places = [(np.searchsorted(used, feature), sign) for feature, sign in chosen]
        every.append((name, codes["test"][:, used], places))
    found = []
    for fold, films in enumerate(folds):
        rows = np.flatnonzero(~films[test.items])
        of_codes = (columns(codes[rows], *places[fold]) for _, codes, places in every)
        x = map(np.ascontiguousarray, of_codes)  # sums by row, were codes sparse or not
        pairs = zip(of_users, of_films, strict=True)
        weights = (users[:, user[rows]] * some[:, test.items[rows] - 1] for users, some in pairs)
        found.append(drawn_correlations(x, test.attributes[rows], weights, silent=0.0))
    means = known_mean([known_mean(of_fold[1:], axis=2) for of_fold in found], axis=0)
    found = known_mean(found, axis=0)  # [1 + N_DRAWS, n_codes, n_attributes]
    names, scores, drawn = np.array([name for name, _, _ in every]), {}, {}
    for name in representations:
        own = found[:, names == name].mean(axis=1)
        ends = np.array([interval(values) for values in own[1:].T])
        scores |= {name: own[0], f"{name}_low": ends[:, 0], f"{name}_high": ends[:, 1]}
        drawn[name] = means[:, names == name].mean(axis=1)
    return pd.DataFrame(scores), drawn


def films_table(scores: pd.DataFrame, drawn: dict[str, NDArray]) -> pd.DataFrame:
    """Held_out, and the SAE's lead, by representation, with 95 % intervals of `drawn` [n_draws]."""
    columns = [name + end for name in ("held_out", "lead") for end in ("", "_low", "_high")]
    rows = {}
    for name, values in drawn.items():
        mean, lead = scores[name].mean(), scores["sae"].mean() - scores[name].mean()
        rows[name] = [mean, *interval(values), lead, *interval(drawn["sae"] - values)]
    return pd.DataFrame(rows, index=columns).T


def sparse_probes(
    codes: dict[str, Codes],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    folds: NDArray,
) -> dict[str, float]:
    """AUC of linear probes that may use only a few features, and of one that may use all.

    Features, in the order of |correlation|, and the ridge regression come from the development
    users and the films that choose; the AUC from the test users and the other films. Returns means
    over attributes and `folds` [n_folds, n_items + 1]: ``1``, ... (`SIZES`), ``dense``. Codes are
    [n_positions, n_features]. Kantamneni et al., arXiv 2502.16681.
    """
    dev, test = positions["dev"], positions["test"]
    sums = item_sums(codes["dev"], dev.items, len(attribute_matrix) - 1)
    found = {str(size): [] for size in [*SIZES, "dense"]}
    for films in folds:
        rows, test_rows = np.flatnonzero(films[dev.items]), np.flatnonzero(~films[test.items])
        rows = rows[:: -(-len(rows) // MAX_POSITIONS)]
        x, y = as_dense(codes["dev"][rows]), dev.attributes[rows]
        x_test, y_test = as_dense(codes["test"][test_rows]), test.attributes[test_rows]
        away = np.abs(correlations(sums, attribute_matrix, films))
        order = np.argsort(-np.nan_to_num(away, nan=-1.0), axis=0, kind="stable")
        found["dense"] += probe_auc(x, y, x_test, y_test)
        for size in SIZES:
            for j in range(y.shape[1]):
                few = order[:size, j]
                found[str(size)] += probe_auc(x[:, few], y[:, [j]], x_test[:, few], y_test[:, [j]])
    return {size: float(known_mean(values)) for size, values in found.items()}
