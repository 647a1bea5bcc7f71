"""What a dictionary keeps of hidden states, and whether another seed finds it too."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from .variants import SAE

if TYPE_CHECKING:
    from scipy import sparse  # loaded below, where it is used: SciPy takes longer than the rest


@torch.no_grad()
def encode(sae: SAE, states: np.ndarray, batch_size: int = 4_096) -> sparse.csr_array:
    """Sparse codes [n_positions, d_sae] of hidden states [n_positions, d_in]."""
    from scipy import sparse

    rows = []
    for start in range(0, len(states), batch_size):
        x = torch.from_numpy(np.asarray(states[start : start + batch_size], np.float32).copy())
        rows.append(sparse.csr_array(sae.encode(x.to(sae.W_dec.device)).cpu().numpy()))
    return sparse.vstack(rows, format="csr")


def density(codes: sparse.csr_array) -> np.ndarray:
    """Share of positions on which each feature fires: [n_positions, d_sae] -> [d_sae]."""
    return np.diff(codes.tocsc().indptr) / codes.shape[0]


def alive(sae: SAE, states: np.ndarray) -> np.ndarray:
    """Directions [n_alive, d_in] of the features that fire anywhere on states [n, d_in]."""
    fires = density(encode(sae, states)) > 0
    return sae.W_dec.detach().cpu().numpy()[fires]


def quality(sae: SAE, states: np.ndarray, codes: sparse.csr_array) -> dict:
    """Reconstruction and sparsity on hidden states [n_positions, d_in] and their codes.

    explained_variance (share of the variance kept), mse (of a dimension, in units of `SAE.std`
    squared), l0 (features that fire per position), dead_fraction and dense_fraction (features that
    never fire, or on over half of the positions). Warns of what `sparsity_warnings` finds.
    """
    missed = total = 0.0
    mean = np.mean(states, axis=0, dtype=np.float64)
    weights, bias = sae.W_dec.detach().cpu().numpy(), sae.b_dec.detach().cpu().numpy()
    for start in range(0, len(states), 4_096):
        x = np.asarray(states[start : start + 4_096], np.float64)
        reconstruction = codes[start : start + 4_096] @ weights + bias
        missed += np.square(x - reconstruction).sum()
        total += np.square(x - mean).sum()
    fired = density(codes)
    found = {
        "explained_variance": float(1 - missed / total),
        "mse": float(missed / states.size / sae.std**2),
        "l0": codes.nnz / len(states),
        "dead_fraction": float((fired == 0).mean()),
        "dense_fraction": float((fired > 0.5).mean()),
    }
    for problem in sparsity_warnings(sae.config, found):
        warnings.warn(problem, stacklevel=2)
    return found


def sparsity_warnings(config, found: dict) -> list[str]:
    """What is wrong with the sparsity of a dictionary, in words, from its `quality`.

    >>> from seqsae_utils.sae import Config
    >>> sparsity_warnings(Config(64, k=8), {"l0": 90, "dead_fraction": 0.0, "dense_fraction": 0.01})
    ['topk: L0 is 90 in a space of 64 dimensions: this code is not sparse']
    """
    problems, start = [], f"{config.variant}: "
    if found["l0"] > config.d_in:
        space = f"a space of {config.d_in} dimensions"
        problems.append(f"{start}L0 is {found['l0']:.0f} in {space}: this code is not sparse")
    for name, meaning in (
        ("dead", "never fire: train for longer, or take fewer"),
        ("dense", "fire on over half of the positions: they can hardly be about one thing"),
    ):
        if found[f"{name}_fraction"] > 0.1:
            count = round(found[f"{name}_fraction"] * config.d_sae)
            problems.append(f"{start}{count} of {config.d_sae} features {meaning}")
    return problems


def matching(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Cosine of each of `ours` [n, d] with its partner among `theirs` [m, d]; n at most m.

    Partners are chosen one to one, so that the sum of cosines is largest (Hungarian assignment).

    >>> matching(np.eye(2), np.array([[0.0, 2.0], [3.0, 0.0]]))
    array([1., 1.])
    """
    from scipy.optimize import linear_sum_assignment

    cosine = _unit(ours) @ _unit(theirs).T
    return cosine[linear_sum_assignment(-cosine)]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def stability(dictionaries: list[np.ndarray], same: float = 0.7) -> tuple[float, np.ndarray]:
    """How far the dictionaries of several seeds agree, each [n_alive_features, d_in].

    Returns the mean cosine of the best match, one to one, over all pairs of seeds (PW-MCC), and for
    each feature of the FIRST dictionary the share of the other seeds that have it: a direction of
    at least the cosine `same`. A dictionary in which no feature is alive matches none: a pair with
    it does not count, and the mean is NaN where no pair does.
    """
    pairs = [matching(*sorted(two, key=len)) for two in combinations(filter(len, dictionaries), 2)]
    first, *others = map(_unit, dictionaries)
    again = [(first @ other.T).max(axis=1, initial=-1.0) >= same for other in others]
    mean = float(np.mean([pair.mean() for pair in pairs])) if pairs else float("nan")
    return mean, np.mean(again, axis=0)
