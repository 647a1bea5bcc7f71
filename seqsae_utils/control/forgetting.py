"""Make a model forget who a user is: three edits of hidden states, from weak to thorough."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..sae import SAE
from .edits import Delta, Edit, sae_delta
from .methods import mean_difference


def suppress(sae: SAE, features: NDArray) -> Delta:
    """Set features of an SAE to 0 wherever they fire."""
    return sae_delta(sae, [Edit(int(feature), 0.0, "scale") for feature in features])


def project_out(states: NDArray, has: NDArray) -> Delta:
    """Remove the direction between the means with and without a group (one step of INLP's kind).

    `states` are [n_positions, d_in], `has` bool [n_positions]: whose user belongs to the group. The
    component along the direction is set to its mean (Ravfogel et al., arXiv 2004.07667).
    """
    (along,) = mean_difference(states, has[:, None].astype(np.float64))
    direction = torch.from_numpy(along).float()
    middle = float(states.mean(axis=0) @ direction.numpy())
    return lambda hidden: (middle - hidden @ direction.to(hidden))[..., None] * direction.to(hidden)


def leace(states: NDArray, has: NDArray) -> Delta:
    """The least edit after which no linear probe tells the group: LEACE (arXiv 2306.03819).

    `states` are [n_positions, d_in], `has` bool [n_positions].
    """
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        from concept_erasure import LeaceEraser  # it compiles a function when imported

    x, z = (torch.from_numpy(np.asarray(given, np.float64)) for given in (states, has))
    eraser = LeaceEraser.fit(x, z)

    def delta(hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1]).double()
        return (eraser(flat) - flat).reshape(hidden.shape).to(hidden)

    return delta
