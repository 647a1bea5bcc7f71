"""Representations side by side: the best feature of each, on new users, against chance."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score

from ..normalisation import Normalisation
from ..resampling import interval, known_mean
from ..sae import SAE, encode, untrained
from . import chance
from .items import item_sums
from .scores import Codes, score

#: The representations that are compared, and how to call them. `_cut` keeps at each position as
#: many entries as the SAE has active features; `gpt2_` is on the states of another recommender.
REPRESENTATIONS = {
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
    "shares": "genre shares of the last ten items",
    "decayed": "decayed mean of item embeddings",
    "sae_decayed": "SAE of the decayed mean",
    "sae_shuffled": "SAE of a model trained without order",
    "sae_fewer": "SAE, as many features as dimensions",
    "sae": "SAE",
    "neurons_last": "hidden dimensions, last layer",
    "sae_last": "SAE, last layer",
    "gpt2_neurons": "GPT-2: hidden dimensions",
    "gpt2_sae": "GPT-2: SAE",
}
#: Baselines that are drawn at random, and how often.
REDRAWN, N_REDRAWS = ("kmeans", "random_directions", "random_covariance", "sae_fewer"), 3
#: Who chooses a feature, and who scores it.
GROUPS = ("dev", "test")


@dataclass(frozen=True)
class Made(Mapping):
    """Codes by group of users that are made whenever they are asked for, and kept by nobody."""

    make: Callable[[Codes], Codes]
    source: Mapping[str, Codes]

    def __getitem__(self, group):
        return self.make(self.source[group])

    def __iter__(self):
        return iter(self.source)

    def __len__(self):
        return len(self.source)


class Positions(NamedTuple):
    """Users and items [n_positions] of a group, and 0 or 1 [n_positions, n_attributes]."""

    users: NDArray
    items: NDArray
    attributes: NDArray

    @classmethod
    def of(cls, index: pd.DataFrame, attribute_matrix: NDArray) -> "Positions":
        """From an activation index (user, item, position) and 0/1 [n_items + 1, n_attributes]."""
        items = index["item"].to_numpy()
        return cls(index["user"].to_numpy(), items, attribute_matrix[items])


def representations(
    sae: SAE,
    states: dict[str, NDArray],
    others: dict[str, tuple[SAE, dict[str, NDArray]]] | None = None,
    seed: int = 0,
) -> dict[str, list[Mapping[str, Codes]]]:
    """The same positions in every representation: name -> draws of it -> group of users -> codes.

    `states` are hidden states [n_positions, d_in] of the groups ``dev`` and ``test``; PCA, ICA and
    k-means are fitted on ``dev``. Dictionaries that were never trained have the SAE's size and as
    many active features. `others` are dictionaries by name, each with its own states of
    both groups. Those of `REDRAWN` are drawn `N_REDRAWS` times; all codes but the SAE's and the
    states are `Made`. ValueError for an SAE in which nothing fires.
    """
    normalisation = Normalisation.of(states["dev"])
    dense = {group: normalisation.apply(np.asarray(x)) for group, x in states.items()}
    some = dense["dev"][:: max(1, len(dense["dev"]) // 50_000)]
    rotations = {"pca": PCA(random_state=seed).fit(dense["dev"])}
    rotations["ica"] = independent_components(some, seed)
    trained = {group: encode(sae, x) for group, x in states.items()}
    if silent := [group for group, codes in trained.items() if not codes.nnz]:
        raise ValueError(
            f"no feature of the SAE fires on the {silent[0]} users: train it for longer, or with a "
            "lower l1_coefficient or l0_coefficient (notebook 04)"
        )
    k = max(1, round(trained["dev"].nnz / len(states["dev"])))
    found: dict[str, list[Mapping[str, Codes]]] = {"neurons": [dense]}
    for name, rotation in rotations.items():
        found[name] = [Made(rotation.transform, dense)]
    found |= {f"{name}_cut": [cut(codes[0], k)] for name, codes in found.items()}
    found |= {name: [] for name in REDRAWN}
    config = replace(sae.config, variant="topk", k=k)
    for draw in range(N_REDRAWS):
        rng = np.random.default_rng([seed, draw])
        for name, directions in untrained_directions(some, config.d_sae, rng).items():
            torch.manual_seed(int(rng.integers(2**32)))
            baseline = untrained(config, states["dev"], directions)
            found[name].append(Made(partial(encode, baseline), states))
        few = np.sort(rng.permutation(config.d_sae)[: config.d_in])
        found["sae_fewer"].append(Made(itemgetter((slice(None), few)), trained))
    for name, (other, its_states) in (others or {}).items():
        found[name] = [Made(partial(encode, other), its_states)]
    found["sae"] = [trained]
    return {name: found[name] for name in REPRESENTATIONS if name in found}


def cut(codes: Mapping[str, NDArray], k: int) -> Made:
    """The k entries furthest from the mean, in deviations of ``dev``, of codes [n_positions, d]."""
    known = codes["dev"]
    mean, spread = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-12)
    k = min(k, len(mean))

    def strongest(x: NDArray) -> NDArray:
        z = ((x - mean) / spread).astype(np.float32)
        edge = -np.partition(-np.abs(z), k - 1, axis=1)[:, [k - 1]]
        return np.where(np.abs(z) >= edge, z, 0)

    return Made(strongest, codes)


def untrained_directions(
    states: NDArray, n: int, rng: np.random.Generator
) -> dict[str, NDArray | None]:
    """Directions [n, d_in]: k-means centres, random with states' covariance; None: plain random."""
    seed, shape = int(rng.integers(2**31)), (n, states.shape[1])
    some = states[:: max(1, len(states) // (100 * n))]
    kmeans = MiniBatchKMeans(
        min(n, len(some)), random_state=seed, n_init=1, batch_size=4096, max_iter=20
    )
    # There may be fewer different states than centres.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        centres = np.resize(kmeans.fit(some).cluster_centers_, shape)
    spread = np.linalg.cholesky(np.cov(states.T) + 1e-6 * np.eye(states.shape[1]))
    return {
        "kmeans": centres - states.mean(axis=0),
        "random_directions": None,
        "random_covariance": rng.standard_normal(shape) @ spread.T,
    }


def independent_components(states: NDArray, seed: int = 0, starts: int = 3) -> FastICA:
    """The rotation of states [n_positions, d_in] whose components are the least Gaussian.

    Of several starts the best by ICA's own objective is kept: the squared distance of E[log cosh]
    from that of a normal variable, summed. float64, because float32's rounding varies with threads.
    """

    def objective(ica: FastICA) -> float:
        components = ica.transform(states)
        log_cosh = np.logaddexp(components, -components) - np.log(2)
        return float(np.square(log_cosh.mean(axis=0) - 0.374567).sum())

    states = states.astype(np.float64)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fits = (FastICA(whiten="unit-variance", random_state=seed + i) for i in range(starts))
        return max((ica.fit(states) for ica in fits), key=objective)


def compare(
    representations: dict[str, dict[str, Codes]],
    positions: dict[str, Positions],
    attribute_matrix: NDArray,
    names: list[str],
    seed: int = 0,
    n_permutations: int = 200,
    intervals: bool = True,
    popularity: NDArray | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, NDArray]]:
    """How well the best feature of each representation tells an attribute, on all films.

    Each score chooses its own features on the development users and is taken on the test users.
    With `popularity` [n_items + 1] the null exchanges attributes among items of like popularity.
    Returns three things. best: a row for each attribute and representation, of the feature chosen
    by correlation: attribute, feature, sign (-1 if low where the attribute is, and turned over),
    correlation_chosen (on the users who chose); correlation, auc, average_precision on test users;
    null_correlation (mean under permuted attributes), p_value (`corrected_p_values`). table: a row
    for each representation: features (how many); max_correlation and max_auc, means over
    attributes, with ``_low`` and ``_high`` (95 %, test users drawn again); the other means; p_value
    of the mean; n_significant (corrected p below .05) and share_significant. drawn:
    ``<representation>.max_correlation`` and ``.max_auc`` -> [N_DRAWS], empty without `intervals`.
    """
    best, rows, drawn = [], [], {}
    has, n_items = positions["test"].attributes, len(attribute_matrix) - 1
    _, user = np.unique(positions["test"].users, return_inverse=True)
    counts = chance.everybody_then_drawn(user.max() + 1)
    for name, codes in representations.items():
        known, new = (score(codes[group], positions[group].attributes) for group in GROUPS)
        chosen = chance.choose(known["correlation"])
        chosen_by_auc = chance.choose(known["auc"], 0.5)
        x = chance.columns(codes["test"], *chosen)
        found = chance.of_chosen(new["correlation"], *chosen)
        choosing, scoring = (item_sums(codes[g], positions[g].items, n_items) for g in GROUPS)
        null = chance.permutation_null(
            choosing, scoring, attribute_matrix, n_permutations, seed, popularity
        )
        table = pd.DataFrame({"attribute": names, "feature": chosen[0], "sign": chosen[1]})
        table["correlation_chosen"] = chance.of_chosen(known["correlation"], *chosen)
        table["correlation"] = found
        table["auc"] = chance.of_chosen(new["auc"], *chosen, 0.5)
        table["average_precision"] = [
            average_precision_score(y, value) if y.any() else np.nan
            for y, value in zip(has.T, x.T, strict=True)
        ]
        table["null_correlation"] = known_mean(null, axis=0)
        table["p_value"] = chance.corrected_p_values(found, null)
        best.append(table.assign(representation=name))
        redrawn = {}
        if intervals:
            weights = (some[:, user] for some in counts)
            redrawn["correlation"] = chance.drawn_correlations([x], has, weights)[:, 0]
            pairs = zip(chance.columns(codes["test"], *chosen_by_auc).T, has.T, strict=True)
            of_pairs = [chance.drawn_auc(*pair, user, counts) for pair in pairs]
            redrawn["auc"] = np.stack(of_pairs, axis=1)
        row = {"representation": name, "features": codes["test"].shape[1]}
        points = {"correlation": found, "auc": chance.of_chosen(new["auc"], *chosen_by_auc, 0.5)}
        for kind, point in points.items():
            row[f"max_{kind}"] = known_mean(point)
            if intervals:
                means = drawn[f"{name}.max_{kind}"] = known_mean(redrawn[kind][1:], axis=1)
                row[f"max_{kind}_low"], row[f"max_{kind}_high"] = interval(means)
        reached = known_mean(null, axis=1) >= row["max_correlation"]
        significant = table["p_value"] < 0.05
        row["average_precision"] = table["average_precision"].mean()
        row["null_correlation"] = known_mean(null)
        row["p_value"] = (1 + reached.sum()) / (1 + len(null))
        row["n_significant"], row["share_significant"] = significant.sum(), significant.mean()
        rows.append(row)
    return pd.concat(best, ignore_index=True), pd.DataFrame(rows), drawn
