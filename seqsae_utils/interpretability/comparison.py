"""Bases side by side: the best feature of each, on users that did not choose it, against chance."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score

from ..normalisation import Normalisation
from ..resampling import interval
from ..sae import SAE, encode, untrained
from .chance import (
    choose,
    columns,
    corrected_p_values,
    drawn_auc,
    drawn_correlations,
    everybody_then_drawn,
    of_chosen,
    permutation_null,
)
from .items import item_sums
from .scores import Codes, score

#: The representations that are compared, and how to call them. `_cut` keeps at each position as
#: many entries as the SAE has active features; `gpt2_` is on the states of another recommender.
BASES = {
    "neurons": "hidden dimensions",
    "neurons_cut": "hidden dimensions, strongest only",
    "pca": "principal components",
    "pca_cut": "principal components, strongest only",
    "ica": "independent components",
    "ica_cut": "independent components, strongest only",
    "kmeans": "k-means directions",
    "random_directions": "random directions",
    "random_covariance": "random directions, states' covariance",
    "sae_random_model": "SAE of an untrained recommender",
    "sae_static": "SAE of static item embeddings",
    "sae_svd": "SAE of SVD item vectors",
    "sae_fewer": "SAE, as many features as dimensions",
    "sae": "SAE",
    "gpt2_neurons": "GPT-2: hidden dimensions",
    "gpt2_sae": "GPT-2: SAE",
}
#: Controls that are drawn at random, and how often they are drawn.
REDRAWN, N_REDRAWS = ("kmeans", "random_directions", "random_covariance", "sae_fewer"), 3
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


def bases(
    sae: SAE,
    states: dict[str, NDArray],
    controls: dict[str, tuple[SAE, dict[str, NDArray]]] | None = None,
    seed: int = 0,
) -> dict[str, list[dict[str, Codes]]]:
    """The same positions in every representation: name -> draws of it -> group of users -> codes.

    Those of `REDRAWN` are drawn `N_REDRAWS` times, the others are what they are.

    Parameters
    ----------
    states
        Hidden states [n_positions, d_in] of the groups ``sae`` and ``test``. Whatever is fitted
        (PCA, ICA, k-means) is fitted on the SAE users. Dictionaries that were never trained have
        the SAE's size and as many active features.
    controls
        Other dictionaries by name, each with its own states of both groups.
    """
    normalisation = Normalisation.of(states["sae"])
    dense = {group: normalisation.apply(np.asarray(x)) for group, x in states.items()}
    some = dense["sae"][:: max(1, len(dense["sae"]) // 50_000)]
    rotations = {"pca": PCA(random_state=seed).fit(dense["sae"])}
    rotations["ica"] = independent_components(some, seed)
    rotated = {n: {g: r.transform(x) for g, x in dense.items()} for n, r in rotations.items()}
    trained = {group: encode(sae, x) for group, x in states.items()}
    k = max(1, round(trained["sae"].nnz / len(states["sae"])))
    found = {"neurons": [dense], **{name: [codes] for name, codes in rotated.items()}}
    found |= {f"{name}_cut": [cut(codes[0], k)] for name, codes in found.items()}
    found |= {name: [] for name in REDRAWN}
    config = replace(sae.config, variant="topk", k=k)
    for draw in range(N_REDRAWS):
        rng = np.random.default_rng([seed, draw])
        for name, directions in untrained_directions(some, config.d_sae, rng).items():
            torch.manual_seed(int(rng.integers(2**32)))
            control = untrained(config, states["sae"], directions)
            found[name].append({g: encode(control, x) for g, x in states.items()})
        few = np.sort(rng.permutation(config.d_sae)[: config.d_in])
        found["sae_fewer"].append({group: codes[:, few] for group, codes in trained.items()})
    for name, (control, its_states) in (controls or {}).items():
        found[name] = [{group: encode(control, x) for group, x in its_states.items()}]
    found["sae"] = [trained]
    return {name: found[name] for name in BASES if name in found}


def cut(codes: dict[str, NDArray], k: int) -> dict[str, NDArray]:
    """Only the k entries of each position that are furthest from their mean, as sparse as an SAE.

    Entries are counted in standard deviations of the group ``sae``; the others become 0.

    >>> x = np.array([[3.0, 1.0], [-3.0, 5.0], [0.0, -6.0]])
    >>> cut({"sae": x}, k=1)["sae"].astype(float).round(2).tolist()
    [[1.22, 0.0], [-1.22, 0.0], [0.0, -1.32]]
    """
    mean, spread = codes["sae"].mean(axis=0), codes["sae"].std(axis=0)
    k, found = min(k, len(mean)), {}
    for group, x in codes.items():
        z = ((x - mean) / np.maximum(spread, 1e-12)).astype(np.float32)
        edge = -np.partition(-np.abs(z), k - 1, axis=1)[:, [k - 1]]
        found[group] = np.where(np.abs(z) >= edge, z, 0)
    return found


def untrained_directions(
    states: NDArray, n: int, rng: np.random.Generator
) -> dict[str, NDArray | None]:
    """Directions [n, d_in] that cost next to nothing, for dictionaries that learn nothing more.

    From normalised states [n_positions, d_in]: the centres of k-means, seen from the mean; random
    ones (None: as an SAE begins); and random ones with the covariance of the states.
    """
    seed, shape = int(rng.integers(2**31)), (n, states.shape[1])
    some = states[:: max(1, len(states) // (100 * n))]
    kmeans = MiniBatchKMeans(
        min(n, len(some)), random_state=seed, n_init=1, batch_size=4096, max_iter=20
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different states than centres
        centres = np.resize(kmeans.fit(some).cluster_centers_, shape)
    spread = np.linalg.cholesky(np.cov(states.T) + 1e-6 * np.eye(states.shape[1]))
    return {
        "kmeans": centres - states.mean(axis=0),
        "random_directions": None,
        "random_covariance": rng.standard_normal(shape) @ spread.T,
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


def compare(
    bases: dict[str, dict[str, Codes]],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    names: list[str],
    seed: int = 0,
    n_permutations: int = 200,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, NDArray]]:
    """How well the best feature of each representation tells an attribute, on all films.

    Each score chooses its own features on the users ``sae`` and is taken on the users ``test``,
    but the films are the same: `held_out_films` asks for others.

    Returns
    -------
    best
        A row for each attribute and basis, the feature chosen by correlation: attribute, feature,
        sign, correlation_chosen (on the users that chose it); correlation, auc, average_precision
        on the test users; null_correlation (mean under permuted attributes) and p_value (corrected
        over the attributes, see `corrected_p_values`); basis. A feature of sign -1 (low where the
        attribute is) is turned over first.
    table
        A row for each: basis, features; max_correlation and max_auc, the means over attributes,
        each with ``_low`` and ``_high`` (95 %, test users drawn again); average_precision, of the
        features chosen by correlation; null_correlation, p_value of the mean, n_significant
        (attributes with a corrected p below .05) and the share_significant of all.
    drawn
        ``<basis>.max_correlation`` and ``<basis>.max_auc`` -> [N_DRAWS].
    """
    best, rows, drawn = [], [], {}
    has = positions["test"].attributes
    _, user = np.unique(positions["test"].users, return_inverse=True)
    counts = everybody_then_drawn(user.max() + 1)
    for name, codes in bases.items():
        known, new = (score(codes[group], positions[group].attributes) for group in GROUPS)
        chosen = choose(known["correlation"])
        x = columns(codes["test"], *chosen)
        by_correlation = drawn_correlations(x, has, (some[:, user] for some in counts))
        found = of_chosen(new["correlation"], *chosen)
        choosing, scoring = (
            item_sums(codes[g], positions[g].items, len(attribute_matrix) - 1) for g in GROUPS
        )
        null = permutation_null(choosing, scoring, attribute_matrix, n_permutations, seed)
        columns_of_best = {
            "attribute": names,
            "feature": chosen[0],
            "sign": chosen[1],
            "correlation_chosen": of_chosen(known["correlation"], *chosen),
            "correlation": found,
            "auc": of_chosen(new["auc"], *chosen, 0.5),
            "average_precision": [
                average_precision_score(y, value) if y.any() else np.nan
                for y, value in zip(has.T, x.T, strict=True)
            ],
            "null_correlation": np.nanmean(null, axis=0),
            "p_value": corrected_p_values(found, null),
            "basis": name,
        }
        best.append(of_basis := pd.DataFrame(columns_of_best))

        chosen_by_auc = choose(known["auc"], 0.5)
        pairs = zip(columns(codes["test"], *chosen_by_auc).T, has.T, strict=True)
        by_auc = np.stack([drawn_auc(*pair, user, counts) for pair in pairs], axis=1)
        row = {"basis": name, "features": codes["test"].shape[1]}
        for kind, point, draws in (
            ("correlation", found, by_correlation[:, 0]),
            ("auc", of_chosen(new["auc"], *chosen_by_auc, 0.5), by_auc),
        ):
            drawn[f"{name}.max_{kind}"] = np.nanmean(draws[1:], axis=1)
            row[f"max_{kind}"] = np.nanmean(point)
            row[f"max_{kind}_low"], row[f"max_{kind}_high"] = interval(drawn[f"{name}.max_{kind}"])
        reached = np.nanmean(null, axis=1) >= row["max_correlation"]
        row |= {
            "average_precision": of_basis["average_precision"].mean(),
            "null_correlation": np.nanmean(null),
            "p_value": (1 + reached.sum()) / (1 + len(null)),
            "n_significant": int((of_basis["p_value"] < 0.05).sum()),
            "share_significant": float((of_basis["p_value"] < 0.05).mean()),
        }
        rows.append(row)
    return pd.concat(best, ignore_index=True), pd.DataFrame(rows), drawn
