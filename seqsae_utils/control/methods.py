"""Ways to steer towards an attribute: SAE features, and what they must be held against."""

from collections.abc import Callable

import numpy as np

from ..activations import Normalisation
from ..sae import SAE
from .edits import Delta, Edit, sae_delta

#: From the column of an attribute and a dose to the edit that a method makes for them.
Method = Callable[[int, float], Delta]


def mean_difference(states: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """Supervised directions [n_attributes, d_in]: mean with the attribute minus mean without.

    Each has norm 1. The baseline that sparse autoencoders often lose to (arXiv 2501.17148).
    `states` is [n_positions, d_in], `attributes` [n_positions, n_attributes] of 0 and 1; one that
    no position has, or every position, has no direction: NaN.
    """
    with np.errstate(invalid="ignore"):
        with_it = attributes.T @ states / attributes.sum(axis=0)[:, None]
        without = (1 - attributes).T @ states / (1 - attributes).sum(axis=0)[:, None]
    difference = with_it - without
    return difference / np.linalg.norm(difference, axis=1, keepdims=True)


def turn_feature(sae: SAE, normalisation: Normalisation, features, signs) -> Method:
    """The method that adds the dose to one SAE feature for each attribute.

    `features` and `signs` hold one value for each column of the attribute matrix. A feature that
    was chosen because it is silent where the attribute is (sign -1) is turned the other way.
    """
    knobs = [(int(feature), int(sign)) for feature, sign in zip(features, signs, strict=True)]

    def method(column: int, dose: float) -> Delta:
        feature, sign = knobs[column]
        return sae_delta(sae, normalisation, [Edit(feature, sign * dose)])

    return method
