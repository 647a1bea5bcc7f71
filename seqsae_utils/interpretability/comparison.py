"""Bases side by side: the best feature of each, on users that did not choose it, against chance."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning

from ..activations import Normalisation
from ..sae import SAE, Config, Training, create, encode, train, untrained
from .chance import (
    bootstrap,
    choose,
    columns,
    corrected_p_values,
    correlation_from_sums,
    everybody_once,
    interval,
    item_sums,
    paired_scores,
    permutation_null,
)
from .scores import Codes, score

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
    ica = independent_components(dense["sae"][:: max(1, len(dense["sae"]) // 50_000)], seed)
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


def independent_components(states: NDArray, seed: int = 0, starts: int = 3) -> FastICA:
    """The rotation of states [n_positions, d_in] whose components are the least Gaussian.

    From one start a rival may have bad luck, so of several the one is kept that is best by ICA's
    own objective: the squared distance of E[log cosh] from that of a normal variable, summed.
    In float64, for in float32 the rounding of another number of threads leads elsewhere.
    """

    def objective(ica: FastICA) -> float:
        components = ica.transform(states)
        log_cosh = np.logaddexp(components, -components) - np.log(2)
        return float(np.square(log_cosh.mean(axis=0) - 0.374567).sum())

    states = states.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close is as good: it is a control
        found = [
            FastICA(whiten="unit-variance", random_state=seed + start).fit(states)
            for start in range(starts)
        ]
    return max(found, key=objective)


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
    point = {
        kind: paired_scores(x, y, *everybody_once(x), kind)[0] for kind in ("correlation", "auc")
    }
    hits = ((x > 0) * y).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "attribute": names,
                "feature": chosen["feature"],
                "sign": chosen["sign"],
                "correlation_chosen": chosen["score"] * chosen["sign"],
                "correlation": point["correlation"],
                "auc": point["auc"],
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
            point = paired_scores(x, test.attributes, *everybody_once(x), kind)
            draws = bootstrap(x, test.attributes, test.users, kind, n_bootstrap, seed)
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
    sae = table.set_index("basis").loc["sae"]
    for i, row in table.iterrows():
        drawn_lead = drawn["sae", "correlation"] - drawn[row["basis"], "correlation"]
        lead = sae["max_correlation"] - row["max_correlation"]
        nulls = sae["null_correlation"] - row["null_correlation"]
        for column, shift in {"lead": 0.0, "lead_above_null": nulls}.items():
            ends = [column, f"{column}_low", f"{column}_high"]
            table.loc[i, ends] = np.array([lead, *interval(drawn_lead)]) - shift
    return pd.concat(best, ignore_index=True), table


def choose_setting(
    codes: dict[str, Codes],
    positions: Positions,
    attribute_matrix: NDArray,
    n_permutations: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """What tells attributes best, without a look at the test users.

    Half of the SAE users choose each feature, the other half scores it.

    Parameters
    ----------
    codes
        Setting -> codes [n_positions, n_features] of the SAE users, whose `positions` these are.

    Returns
    -------
    pandas.DataFrame
        A row for each setting, its index: correlation (mean over attributes of the best
        feature's), null (the same under permuted attributes), above_null.
    """
    users = np.unique(positions.users)
    first = np.random.default_rng(seed).permutation(users)[: len(users) // 2]
    chooses = np.isin(positions.users, first)
    rows = {}
    for name, of_all in codes.items():
        sums = [
            item_sums(of_all[half], positions.items[half], len(attribute_matrix) - 1)
            for half in (chooses, ~chooses)
        ]
        chosen = choose(correlation_from_sums(sums[0], attribute_matrix))
        scored = correlation_from_sums(sums[1], attribute_matrix)
        found = scored[chosen["feature"], chosen["attribute"]] * chosen["sign"]
        null = permutation_null(*sums, attribute_matrix, n_permutations, seed)
        rows[name] = {"correlation": np.nanmean(found), "null": np.nanmean(null)}
    table = pd.DataFrame(rows).T.rename_axis("setting")
    return table.assign(above_null=table["correlation"] - table["null"])


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
