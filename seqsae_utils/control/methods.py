"""Ways to steer towards an attribute: SAE features, and what they must be compared with."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..activations import ridge
from ..recommender import Scorer
from .edits import direction_delta, steered_scorer

#: From the column of an attribute and a strength to how the catalogue is then scored.
Method = Callable[[int, float], Scorer]
#: What is compared, and how to call it.
METHODS = {
    "sae_feature": "SAE feature, by what it reads",
    "sae_output": "SAE feature, by what it does",
    "sae_several": "several SAE features",
    "neuron": "hidden dimension",
    "pca": "principal component",
    "diffmean": "difference of means",
    "probe": "linear probe",
    "output_direction": "direction, by what it does",
    "rerank": "scores raised (re-ranking)",
    "random": "random SAE feature",
    "sae_examples": "SAE features, from three examples",
    "diffmean_examples": "difference of means, from three examples",
    "nearest": "scores of the nearest items raised",
    "popsteer": "SAE features of synthetic users (PopSteer)",
    "penalty": "popularity penalty",
    "sae_several_dosed": "several SAE features, a dose for each user",
    "penalty_dosed": "popularity penalty, a dose for each user",
    "sae_several_gap": "several SAE features, towards each user's share",
    "penalty_gap": "popularity penalty, towards each user's share",
    "rerank_gap": "scores raised, towards each user's share",
    "sae_several_permuted": "several SAE features, attributes permuted",
    "output_direction_permuted": "direction by what it does, attributes permuted",
}


def turn(model: nn.Module, site: str, std: float, directions: NDArray) -> Method:
    """Add strength * std along an attribute's direction [n_attributes, d_in], at all positions."""
    rows = torch.from_numpy(np.asarray(directions, np.float32))

    return lambda j, strength: steered_scorer(model, site, direction_delta(rows[j], strength, std))


def rerank(model: nn.Module, attribute_matrix: NDArray) -> Method:
    """Re-ranking: strength times a matrix, 0/1 or not, [n_items + 1, n_attributes], in logits."""
    has = torch.from_numpy(attribute_matrix.T.astype(np.float32))

    return lambda j, strength: lambda users: model.next_item_scores(users) + strength * has[j]


def unit(directions: NDArray) -> NDArray:
    """Directions [..., d_in] at length 1."""
    with np.errstate(invalid="ignore"):
        return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def mean_difference(states: NDArray, attributes: NDArray) -> NDArray:
    """Supervised directions [n_attributes, d_in]: mean with the attribute minus mean without.

    From states [n_positions, d_in] and 0/1 [n_positions, n_attributes]. Of norm 1, or 0 where no
    or every position has it. SAEs often lose to it (arXiv 2501.17148).
    """
    with np.errstate(invalid="ignore"):
        with_it = attributes.T @ states / attributes.sum(axis=0)[:, None]
        without = (1 - attributes).T @ states / (1 - attributes).sum(axis=0)[:, None]
        return np.nan_to_num(unit(with_it - without))


def probe(states: NDArray, attributes: NDArray) -> NDArray:
    """Weights of a linear probe (`activations.ridge`), shapes as in `mean_difference`, norm 1."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(unit(ridge(states, attributes).T))


def by_effect(gained: NDArray, attribute_matrix: NDArray, importance: NDArray) -> NDArray:
    """Weighted correlation over items between a direction's effect and an attribute.

    `gained` [n_directions, n_items + 1] is `interpretability.measured_effect`, `attribute_matrix`
    [n_items + 1, n_attributes], `importance` [n_items + 1] each item's weight (`expected_top`).
    Returns [n_directions, n_attributes], 0 where nothing is gained or no item has the attribute.
    """
    weight = importance[1:] / importance[1:].sum()
    x, y = gained[:, 1:], attribute_matrix[1:].astype(float)
    x, y = x - (x @ weight)[:, None], y - weight @ y
    scale = np.sqrt(np.square(x) @ weight)[:, None] * np.sqrt(weight @ np.square(y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num((x * weight) @ y / scale, posinf=0.0, neginf=0.0)


def combine(
    gained: NDArray, attribute: NDArray, importance: NDArray, n_features: int, penalty: float = 0.1
) -> tuple[NDArray, NDArray]:
    """A few features whose effects add up to a gain of the attribute's items, and of no others.

    Orthogonal matching pursuit (Pati et al., Asilomar, 1993) with a ridge of `penalty` times the
    mean square of a feature's effect. `attribute` is [n_items + 1] of 0 and 1, the rest as for
    `by_effect`. Returns features and weights, both [n_chosen], in the order in which they joined.
    """
    root = np.sqrt(importance[1:] / importance[1:].sum())
    x, y = gained[:, 1:].astype(float), attribute[1:].astype(float)
    x, y = (x - (x @ root**2)[:, None]) * root, (y - y @ root**2) * root
    scatter, products = x @ x.T, x @ y
    ridge = penalty * np.trace(scatter) / len(scatter)
    norm = np.sqrt(np.diag(scatter)) + 1e-12
    features, weights = [], np.zeros(0)
    while len(features) < min(n_features, len(x)):
        missing = products - scatter[:, features] @ weights
        score = np.abs(missing) / norm
        score[features] = -1.0
        features.append(int(score.argmax()))
        chosen = scatter[np.ix_(features, features)] + ridge * np.eye(len(features))
        weights = np.linalg.solve(chosen, products[features])
    return np.array(features), weights


def one_feature(names: list[str], features: NDArray, signs: NDArray | float = 1.0) -> pd.DataFrame:
    """Knobs (attribute, feature, weight) of one feature [n_names] each; weights are signs."""
    return pd.DataFrame({"attribute": names, "feature": features, "weight": signs})


def several_features(
    names: list[str],
    decoder: NDArray,
    gained: NDArray,
    attribute_matrix: NDArray,
    importance: NDArray,
    n_features: int,
) -> pd.DataFrame:
    """Knobs as in `one_feature`, from `combine`, with its shapes; 1 adds a vector of length 1."""
    tables = []
    for name, attribute in zip(names, attribute_matrix.T, strict=True):
        if attribute.any():
            features, weights = combine(gained, attribute, importance, n_features)
            weights = weights / np.linalg.norm(weights @ decoder[features])
            tables.append(pd.DataFrame({"attribute": name, "feature": features, "weight": weights}))
    return pd.concat(tables, ignore_index=True)


def directions(knobs: pd.DataFrame, decoder: NDArray, names: list[str]) -> NDArray:
    """What a strength of 1 of each attribute's knob adds, in units of `SAE.std`.

    `decoder` is [d_sae, d_in]. Returns [n_attributes, d_in], NaN where an attribute has no knob.
    """
    rows = knobs["weight"].to_numpy()[:, None] * decoder[knobs["feature"]]
    return pd.DataFrame(rows).groupby(knobs["attribute"].to_numpy()).sum().reindex(names).to_numpy()


def expected_top(scores: Tensor) -> NDArray:
    """How near items are to lists: mean softmax [n_items + 1] of scores [n_users, n_items + 1]."""
    return scores.softmax(dim=1).mean(dim=0).numpy()
