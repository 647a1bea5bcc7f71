"""Bases side by side: the best feature of each, on users that did not choose it, against chance.

The best feature for an attribute is the maximum of many scores, and a maximum over more
candidates is larger by chance alone. Therefore a feature is chosen on the SAE users and scored
on the test users, intervals come from a bootstrap over users, and the null hypothesis is tried
out by giving each item the attributes of another.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning

from ..activations import Normalisation
from ..sae import SAE, Config, Training, create, encode, train, untrained
from .scores import Codes, as_dense, ratio, score, variance

#: What is compared, and how to call it.
BASES = {
    "neurons": "hidden dimensions",
    "pca": "principal components",
    "ica": "independent components",
    "random_directions": "a random dictionary",
    "sae_random_model": "the SAE of an untrained recommender",
    "sae_static": "the SAE of static item embeddings",
    "sae": "the SAE",
}
#: Who chooses a feature, and who scores it.
GROUPS = ("sae", "test")


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
    x: NDArray, attributes: NDArray, draws: NDArray, user: NDArray
) -> dict[str, NDArray]:
    """Correlation and AUC of column j of x with column j of the attributes, for each draw of users.

    Parameters
    ----------
    x, attributes
        [n_positions, n_pairs]
    draws
        [n_draws, n_users], how often each user is counted in each draw
    user
        [n_positions], the column of `draws` that a position belongs to

    Returns
    -------
    dict of arrays [n_draws, n_pairs]
        correlation, auc; NaN where a draw holds no position with, or none without, the attribute.
    """
    draws = draws.astype(np.float64)
    columns = np.arange(len(user))
    of_user = sparse.csr_array((np.ones(len(user)), (user, columns)), (draws.shape[1], len(user)))
    n = draws @ of_user.sum(axis=1)[:, None]
    sum_x, sum_xx, sum_y, sum_xy = (
        draws @ (of_user @ values) for values in (x, x * x, attributes, x * attributes)
    )
    correlation = ratio(
        sum_xy - sum_x * sum_y / n, variance(sum_xx, sum_x, n), variance(sum_y, sum_y, n)
    )
    auc = np.empty_like(correlation)
    for j in range(x.shape[1]):
        auc[:, j] = _drawn_auc(x[:, j], attributes[:, j], draws, user)
    return {"correlation": correlation, "auc": auc}


def _everybody_once(x: NDArray) -> tuple[NDArray, NDArray]:
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


def draw_users(users: NDArray, n_draws: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """How often each user is drawn when users are drawn again with replacement.

    Positions of one user resemble each other, so users, not positions, are what is independent.
    Returns draws [n_draws, n_users] and the column of each position's user [n_positions].
    """
    known, user = np.unique(users, return_inverse=True)
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=n_draws), user


def bootstrap(
    x: NDArray, attributes: NDArray, users: NDArray, n_draws: int = 500, seed: int = 0
) -> dict[str, NDArray]:
    """Scores of chosen features in `draw_users`: correlation and auc, each [n_draws, n_pairs].

    The same users and seed give the same draws, so that two bases can be compared draw by draw.
    """
    draws, user = draw_users(users, n_draws, seed)
    some = np.array_split(draws, -(-n_draws // 50))  # not all at once: [n_draws, n_positions]
    parts = [paired_scores(x, attributes, part, user) for part in some]
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
    array([0.25, 1.  ])
    """
    mean, spread = np.nanmean(null, axis=0), np.nanstd(null, axis=0).clip(1e-12)
    largest = np.nanmax((null - mean) / spread, axis=1)
    reached = largest[:, None] >= (found - mean) / spread
    return np.where(np.isnan(found), np.nan, (1 + reached.sum(axis=0)) / (1 + len(null)))


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


def train_control(config: Config, training: Training, states: NDArray) -> tuple[SAE, Normalisation]:
    """A dictionary of the same kind on other states [n_positions, d_in], with their scale."""
    torch.manual_seed(training.seed)
    control, normalisation = create(config), Normalisation.of(states)
    train(control, states, normalisation, training)
    return control.eval(), normalisation


def bases(
    sae: SAE,
    states: dict[str, NDArray],
    normalisation: Normalisation,
    controls: dict[str, tuple[SAE, Normalisation, dict[str, NDArray]]] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Codes]]:
    """The same positions in every basis that is compared: basis -> group of users -> codes.

    Parameters
    ----------
    states
        Hidden states [n_positions, d_in] of the groups ``sae`` and ``test``. Whatever is fitted
        (PCA, ICA) is fitted on the SAE users. The random dictionary has the SAE's size and as
        many active features: it is a TopK SAE that was never trained.
    controls
        Other dictionaries by name, each with its scale and its own states of both groups.
    """
    dense = {group: normalisation.apply(np.asarray(x)) for group, x in states.items()}
    some = dense["sae"][:: max(1, len(dense["sae"]) // 50_000)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close is as good: it is a control
        ica = FastICA(whiten="unit-variance", random_state=seed).fit(some)
    pca = PCA(random_state=seed).fit(dense["sae"])
    trained = {group: encode(sae, x, normalisation) for group, x in states.items()}
    k = max(1, round(trained["sae"].nnz / len(states["sae"])))
    torch.manual_seed(seed)
    random = untrained(replace(sae.config, variant="topk", k=k), states["sae"], normalisation)
    return {
        "neurons": dense,
        "pca": {group: pca.transform(x) for group, x in dense.items()},
        "ica": {group: ica.transform(x) for group, x in dense.items()},
        "random_directions": {g: encode(random, x, normalisation) for g, x in states.items()},
        **{
            name: {group: encode(control, x, scale) for group, x in its_states.items()}
            for name, (control, scale, its_states) in (controls or {}).items()
        },
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
    point = paired_scores(x, y, *_everybody_once(x))
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


def compare(
    bases: dict[str, dict[str, Codes]],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    names: list[str],
    seed: int = 0,
    n_bootstrap: int = 500,
    n_permutations: int = 200,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How well the best feature of each basis tells an attribute, beside chance and each other.

    Each score chooses its own features on the SAE users and is taken on the test users.

    Returns
    -------
    best
        `best_features` of each basis, with null_correlation (mean under permuted attributes) and
        p_value (corrected over the attributes, see `corrected_p_values`).
    table
        A row for each basis: basis, features; max_correlation and max_auc, the means over
        attributes, each with ``_low`` and ``_high`` (95 %, bootstrap over the test users);
        null_correlation, p_value of the mean, told (attributes with a corrected p below .05);
        lead (of the SAE over this basis, in correlation) and lead_above_null (the same with each
        basis' own null taken off), both with an interval over the same draws of users.
    """
    best, rows, drawn = [], [], {}
    test = positions["test"]
    for name, codes in bases.items():
        row = {"basis": name, "features": codes["test"].shape[1]}
        scores = score(codes["sae"], positions["sae"].attributes)
        for kind, chance in {"correlation": 0.0, "auc": 0.5}.items():
            x = columns(codes["test"], choose(scores[kind], chance))
            point = paired_scores(x, test.attributes, *_everybody_once(x))[kind]
            draws = bootstrap(x, test.attributes, test.users, n_bootstrap, seed)[kind]
            drawn[name, kind] = np.nanmean(draws, axis=1)
            row[f"max_{kind}"] = np.nanmean(point)
            row[f"max_{kind}_low"], row[f"max_{kind}_high"] = interval(drawn[name, kind])
        sums = [item_sums(codes[g], positions[g].items, len(attribute_matrix) - 1) for g in GROUPS]
        null = permutation_null(*sums, attribute_matrix, n_permutations, seed)
        reached = np.nanmean(null, axis=1) >= row["max_correlation"]
        row |= {
            "null_correlation": np.nanmean(null),
            "p_value": (1 + reached.sum()) / (1 + len(null)),
        }
        of_basis = best_features(codes, positions, names).assign(basis=name)
        of_basis["null_correlation"] = np.nanmean(null, axis=0)
        of_basis["p_value"] = corrected_p_values(of_basis["correlation"].to_numpy(), null)
        row["told"] = int((of_basis["p_value"] < 0.05).sum())
        best.append(of_basis)
        rows.append(row)
    table = pd.DataFrame(rows)
    null_of = table.set_index("basis")["null_correlation"]
    for i, name in enumerate(table["basis"]):
        lead = drawn["sae", "correlation"] - drawn[name, "correlation"]
        difference = null_of["sae"] - null_of[name]
        for column, shift in {"lead": 0.0, "lead_above_null": difference}.items():
            mean = table["max_correlation"][list(null_of.index).index("sae")]
            table.loc[i, column] = mean - table["max_correlation"][i] - shift
            table.loc[i, [f"{column}_low", f"{column}_high"]] = np.array(interval(lead)) - shift
    return pd.concat(best, ignore_index=True), table


def conclusion(table: pd.DataFrame) -> str:
    """One sentence that follows from the table of `compare`, whatever it is."""
    others = table[table["basis"] != "sae"]
    sae = table.set_index("basis").loc["sae"]
    parts = []
    for column, what in {
        "lead": f"The best SAE feature tells an attribute with a correlation of "
        f"{sae['max_correlation']:.3f}",
        "lead_above_null": "of that, "
        f"{sae['max_correlation'] - sae['null_correlation']:.3f} is more than permuted "
        "attributes give",
    }.items():
        ahead = others[f"{column}_low"] > 0
        behind = others[f"{column}_high"] < 0
        said = {"more than": ahead, "less than": behind, "level with": ~ahead & ~behind}
        verdict = [
            f"{word} {_enumerate([BASES[basis] for basis in others.loc[rows, 'basis']])}"
            for word, rows in said.items()
            if rows.any()
        ]
        parts.append(f"{what}, {', '.join(verdict)}")
    return "; ".join(parts) + "."


def _enumerate(words: list[str]) -> str:
    """Words as a sentence has them.

    >>> _enumerate(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + words[-1:])
