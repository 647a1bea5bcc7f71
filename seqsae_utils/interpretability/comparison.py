"""Bases side by side: the best feature of each, on users that did not choose it, against chance.

The best feature for an attribute is the maximum of many scores, and a maximum over more
candidates is larger by chance alone. Therefore a feature is chosen on the SAE users and scored
on the test users, intervals come from a bootstrap over users, and the null hypothesis is tried
out by giving each item the attributes of another.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

from ..activations import Normalisation
from ..sae import SAE, encode, untrained
from .scores import Codes, as_dense, ratio, score, variance


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


def paired_scores(x: NDArray, attributes: NDArray, weights: NDArray) -> dict[str, NDArray]:
    """Correlation and AUC of column j of x with column j of the attributes, under weights.

    Parameters
    ----------
    x, attributes
        [n_positions, n_pairs]
    weights
        [n_draws, n_positions], how often each position is counted in each draw

    Returns
    -------
    dict of arrays [n_draws, n_pairs]
        correlation, auc; NaN where a draw holds no position with, or none without, the attribute.
    """
    weights = weights.astype(np.float64)
    n = weights.sum(axis=1, keepdims=True)
    sum_x, sum_y = weights @ x, weights @ attributes
    covariance = weights @ (x * attributes) - sum_x * sum_y / n
    variance_x = variance(weights @ (x * x), sum_x, n)
    correlation = ratio(covariance, variance_x, variance(sum_y, sum_y, n))
    auc = np.empty_like(correlation)
    for j in range(x.shape[1]):
        order = np.argsort(x[:, j], kind="stable")
        starts = np.flatnonzero(np.diff(x[order, j], prepend=-np.inf))  # where each tie begins
        positive = weights[:, order] * attributes[order, j]
        positive = np.add.reduceat(positive, starts, axis=1)
        negative = np.add.reduceat(weights[:, order], starts, axis=1) - positive
        below = np.cumsum(negative, axis=1) - negative / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            auc[:, j] = (positive * below).sum(axis=1) / (
                positive.sum(axis=1) * negative.sum(axis=1)
            )
    return {"correlation": correlation, "auc": auc}


def bootstrap(
    x: NDArray, attributes: NDArray, users: NDArray, n_draws: int = 500, seed: int = 0
) -> dict[str, NDArray]:
    """Scores of chosen features when the USERS are drawn again with replacement.

    Positions of one user resemble each other, so users, not positions, are what is independent.
    Returns correlation and auc, each [n_draws, n_pairs]; see `paired_scores`.
    """
    _, user = np.unique(users, return_inverse=True)
    n_users = user.max() + 1
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_users, np.full(n_users, 1 / n_users), size=n_draws)
    some = np.array_split(draws, -(-n_draws // 50))  # not all at once: [n_draws, n_positions]
    parts = [paired_scores(x, attributes, counts[:, user]) for counts in some]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(values: NDArray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values, NaN left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def item_sums(codes: Codes, items: NDArray, n_items: int) -> dict[str, NDArray]:
    """Sums over the positions of each item: all that correlations with attributes depend on.

    Returns value [n_items + 1, n_features], count [n_items + 1], and the feature's variance
    times n, [n_features].
    """
    one_hot = sparse.csr_array(
        (np.ones(len(items)), (items, np.arange(len(items)))), shape=(n_items + 1, len(items))
    )
    codes = codes.astype(np.float64)
    total = np.asarray(codes.sum(axis=0)).ravel()
    squares = np.asarray((codes * codes).sum(axis=0)).ravel()
    return {
        "value": as_dense(one_hot @ codes),
        "count": np.bincount(items, minlength=n_items + 1).astype(np.float64),
        "variance": variance(squares, total, len(items)),
    }


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
    """Mean over attributes of the chosen features' correlation when attributes mean nothing.

    Each permutation gives every item the attributes of another item, keeps everything else, and
    repeats the whole procedure: choose on one group of users, score on the other. Items, not
    positions, are permuted, because an attribute belongs to an item. Returns [n_permutations].
    """
    rng = np.random.default_rng(seed)
    null = np.empty(n_permutations)
    for i in range(n_permutations):
        shuffled = attribute_matrix.copy()
        shuffled[1:] = shuffled[1 + rng.permutation(len(shuffled) - 1)]
        chosen = choose(correlation_from_sums(choose_sums, shuffled))
        scored = correlation_from_sums(score_sums, shuffled)
        feature, attribute = chosen["feature"], chosen["attribute"]
        null[i] = np.nanmean(scored[feature, attribute] * chosen["sign"])
    return null


@dataclass(frozen=True)
class Positions:
    """Positions of one group of users: whose they are, and which attributes their items have.

    users, items : [n_positions]
    attributes : [n_positions, n_attributes] of 0 and 1
    """

    users: NDArray
    items: NDArray
    attributes: NDArray

    @classmethod
    def of(cls, index: pd.DataFrame, attribute_matrix: NDArray) -> "Positions":
        """From an activation index (user, item, position)."""
        items = index["item"].to_numpy()
        return cls(index["user"].to_numpy(), items, attribute_matrix[items])


def bases(
    sae: SAE, states: dict[str, NDArray], normalisation: Normalisation, seed: int = 0
) -> dict[str, dict[str, Codes]]:
    """The same positions in every basis that is compared: basis -> group of users -> codes.

    `states` holds hidden states [n_positions, d_in] of the groups ``sae`` and ``test``. Whatever
    is fitted (PCA) is fitted on the SAE users. The random dictionary has the SAE's size and as
    many active features: it is a TopK SAE that was never trained.
    """
    dense = {group: normalisation.apply(np.asarray(x)) for group, x in states.items()}
    pca = PCA(random_state=seed).fit(dense["sae"])
    torch.manual_seed(seed)
    trained = {group: encode(sae, x, normalisation) for group, x in states.items()}
    k = max(1, round(trained["sae"].nnz / len(states["sae"])))
    random = untrained(replace(sae.config, variant="topk", k=k), states["sae"], normalisation)
    return {
        "neurons": dense,
        "pca": {group: pca.transform(x) for group, x in dense.items()},
        "random_directions": {g: encode(random, x, normalisation) for g, x in states.items()},
        "sae": trained,
    }


def best_features(
    codes: dict[str, Codes], positions: dict[str, Positions], names: list[str]
) -> pd.DataFrame:
    """The best feature for each attribute by correlation: chosen on ``sae``, scored on ``test``.

    Returns one row an attribute: attribute, feature, sign, correlation_chosen (on the users that
    chose it), and correlation, auc, precision, recall on the test users. A feature of sign -1 is
    turned over first, for all four: a dimension that is low where the attribute is.
    """
    chosen = choose(score(codes["sae"], positions["sae"].attributes)["correlation"])
    x, y = columns(codes["test"], chosen), positions["test"].attributes
    point = paired_scores(x, y, np.ones((1, len(x))))
    hits = ((x > 0) * y).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "attribute": names,
                "feature": chosen["feature"],
                "sign": chosen["sign"],
                "correlation_chosen": chosen["score"] * chosen["sign"],
                "correlation": point["correlation"][0],
                "auc": point["auc"][0],
                "precision": hits / (x > 0).sum(axis=0),
                "recall": hits / y.sum(axis=0),
            }
        )


def summary(
    codes: dict[str, Codes],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    seed: int = 0,
    n_bootstrap: int = 500,
    n_permutations: int = 200,
) -> dict[str, float]:
    """How well the best feature of a basis tells an attribute, as a mean over attributes.

    Each score chooses its own features on the SAE users and is taken on the test users.

    Returns
    -------
    dict
        max_correlation and max_auc, each with ``_low`` and ``_high`` (95 %, bootstrap over the
        test users), null_correlation (mean under permuted attributes) and p_value.
    """
    found = {}
    test = positions["test"]
    chosen_scores = score(codes["sae"], positions["sae"].attributes)
    for name, chance in {"correlation": 0.0, "auc": 0.5}.items():
        x = columns(codes["test"], choose(chosen_scores[name], chance))
        point = paired_scores(x, test.attributes, np.ones((1, len(x))))[name]
        drawn = bootstrap(x, test.attributes, test.users, n_bootstrap, seed)[name]
        low, high = interval(np.nanmean(drawn, axis=1))
        found |= {
            f"max_{name}": float(np.nanmean(point)),
            f"max_{name}_low": low,
            f"max_{name}_high": high,
        }
    sums = {g: item_sums(codes[g], positions[g].items, len(attribute_matrix) - 1) for g in codes}
    null = permutation_null(sums["sae"], sums["test"], attribute_matrix, n_permutations, seed)
    beaten = int((null >= found["max_correlation"]).sum())
    return found | {
        "null_correlation": float(null.mean()),
        "p_value": (1 + beaten) / (1 + n_permutations),
    }


def conclusion(table: pd.DataFrame) -> str:
    """One sentence that follows from the table of summaries, whatever it is."""
    rows = table.set_index("basis")
    sae, neurons = rows.loc["sae"], rows.loc["neurons"]
    better = sae["max_correlation_low"] > neurons["max_correlation_high"]
    above = sae["above_null"] > neurons["above_null"]
    first = (
        "SAE features tell attributes better than hidden dimensions"
        if better
        else "SAE features do not tell attributes better than hidden dimensions"
    )
    second = (
        f"above what permuted attributes give, they lead by "
        f"{sae['above_null'] - neurons['above_null']:.3f}"
        if above
        else f"but above what permuted attributes give, they do not lead "
        f"({sae['above_null']:.3f} against {neurons['above_null']:.3f})"
    )
    return (
        f"{first} ({sae['max_correlation']:.3f} against {neurons['max_correlation']:.3f} "
        f"correlation); {second}."
    )
