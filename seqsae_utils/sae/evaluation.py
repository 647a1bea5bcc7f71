"""What a dictionary keeps, what it costs the recommender, and whether another seed finds it too."""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .. import metrics
from ..activations import Normalisation, hooked
from ..recommender import Transformer, rank_items
from .training import as_input
from .variants import SAE


@torch.no_grad()
def encode(
    sae: SAE, states: np.ndarray, normalisation: Normalisation, batch_size: int = 4_096
) -> sparse.csr_array:
    """Sparse codes [n_positions, d_sae] of hidden states [n_positions, d_in]."""
    rows = []
    for start in range(0, len(states), batch_size):
        x = as_input(states[start : start + batch_size], normalisation, sae.W_dec.device)
        rows.append(sparse.csr_array(sae.encode(x).cpu().numpy()))
    return sparse.vstack(rows, format="csr")


def density(codes: sparse.csr_array) -> np.ndarray:
    """Share of positions on which each feature fires: [n_positions, d_sae] -> [d_sae]."""
    return np.diff(codes.tocsc().indptr) / codes.shape[0]


def living(sae: SAE, states: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Directions [n_features, d_in] of the features that fire anywhere on hidden states."""
    fires = density(encode(sae, states, normalisation)) > 0
    return sae.W_dec.detach().cpu().numpy()[fires]


def quality(
    sae: SAE, states: np.ndarray, codes: sparse.csr_array, normalisation: Normalisation
) -> dict:
    """Reconstruction and sparsity on hidden states and their codes.

    Returns
    -------
    dict
        explained_variance (share of the variance kept), mse (squared error of a dimension, in
        the normalised space), l0 (features that fire per position), dead_fraction (share of
        features that never fire here), dense_fraction (that fire on over half of the positions).

    Warns
    -----
    UserWarning
        If L0 exceeds d_in, or over a tenth of the features are dead, or dense.
    """
    missed = total = 0.0
    mean = normalisation.apply(np.mean(states, axis=0, dtype=np.float64))
    weights, bias = sae.W_dec.detach().cpu().numpy(), sae.b_dec.detach().cpu().numpy()
    for start in range(0, len(states), 4_096):
        x = normalisation.apply(np.asarray(states[start : start + 4_096]))
        reconstruction = codes[start : start + 4_096] @ weights + bias
        missed += np.square(x - reconstruction, dtype=np.float64).sum()
        total += np.square(x - mean).sum()
    fired = density(codes)
    found = {
        "explained_variance": 1 - missed / total,
        "mse": missed / states.size,
        "l0": codes.nnz / len(states),
        "dead_fraction": float((fired == 0).mean()),
        "dense_fraction": float((fired > 0.5).mean()),
    }
    for problem in hygiene(sae.config, found):
        warnings.warn(problem, stacklevel=2)
    return found


def hygiene(config, found: dict) -> list[str]:
    """What is wrong with the sparsity of a dictionary of that `quality`, in words.

    >>> from seqsae_utils.sae import Config
    >>> hygiene(Config(64, k=8), {"l0": 90, "dead_fraction": 0.0, "dense_fraction": 0.01})
    ['topk: L0 is 90 in a space of 64 dimensions: this code is not sparse']
    """
    problems = []
    if found["l0"] > config.d_in:
        problems.append(
            f"L0 is {found['l0']:.0f} in a space of {config.d_in} dimensions: "
            "this code is not sparse"
        )
    for name, meaning in (
        ("dead", "never fire: train for longer, or take fewer"),
        ("dense", "fire on over half of the positions: they can hardly be about one thing"),
    ):
        if found[f"{name}_fraction"] > 0.1:
            count = round(found[f"{name}_fraction"] * config.d_sae)
            problems.append(f"{count} of {config.d_sae} features {meaning}")
    return [f"{config.variant}: {problem}" for problem in problems]


def reconstructed(sae: SAE, normalisation: Normalisation) -> Callable[[Tensor], Tensor]:
    """For `activations.hooked`: put the reconstruction in place of hidden states.

    This measures what the SAE misses. To steer, use `control`, which keeps what the SAE misses.
    """
    return lambda hidden: normalisation.invert(sae(normalisation.apply(hidden)))


def cost_of_replacing(
    model: Transformer,
    site: str,
    replacements: dict[str, Callable[[Tensor], Tensor | None]],
    histories: list[np.ndarray],
    targets: np.ndarray,
) -> pd.DataFrame:
    """What the recommender loses when the hidden states at `site` are replaced.

    Parameters
    ----------
    replacements
        Name -> function for `activations.hooked`. ``original`` and ``mean`` must be among them:
        they are the two ends of the scale.

    Returns
    -------
    pandas.DataFrame
        A row for each replacement: ndcg@10, loss (cross-entropy of the next item over the whole
        catalogue, in nats), how much of the way from ``mean`` to ``original`` each of the two
        recovers (ndcg_recovered, loss_recovered: 1 is no loss, 0 is no better than the mean),
        and top10_overlap, the share of the original's ten items that are still among the ten.
    """
    for end in ("original", "mean"):
        if end not in replacements:
            raise ValueError(f"replacements: {end!r} is missing, an end of the scale")
    rows, lists = {}, {}
    for name, function in replacements.items():
        with hooked(model, site, function):
            ranking = rank_items(model.next_item_scores, histories, targets)
        rows[name] = {"ndcg@10": metrics.ndcg(ranking.rank).mean(), "loss": ranking.loss.mean()}
        lists[name] = ranking.lists
    table = pd.DataFrame(rows).T
    recovered = (table - table.loc["mean"]) / (table.loc["original"] - table.loc["mean"])
    table["ndcg_recovered"], table["loss_recovered"] = recovered["ndcg@10"], recovered["loss"]
    table["top10_overlap"] = [overlap(lists["original"], lists[name]) for name in table.index]
    return table.rename_axis("replacement").reset_index()


def overlap(before: np.ndarray, after: np.ndarray) -> float:
    """Mean share of the items of each list [n_users, k] that the other list has too; 0 is none.

    >>> overlap(np.array([[1, 2], [3, 0]]), np.array([[2, 4], [3, 0]]))
    0.75
    """
    kept = (before[:, :, None] == after[:, None, :]).any(axis=2) & (before > 0)
    return float((kept.sum(axis=1) / (before > 0).sum(axis=1).clip(1)).mean())


def matching(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Cosine of each of `ours` [n, d] with its partner among `theirs` [m, d]; n at most m.

    Partners are chosen one to one, so that the sum of cosines is largest (Hungarian assignment).

    >>> matching(np.eye(2), np.array([[0.0, 2.0], [3.0, 0.0]]))
    array([1., 1.])
    """
    ours, theirs = (
        x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in (ours, theirs)
    )
    cosine = ours @ theirs.T
    rows, columns = linear_sum_assignment(-cosine)
    return cosine[rows, columns]


def stability(dictionaries: list[np.ndarray], same: float = 0.7) -> tuple[float, np.ndarray]:
    """How far dictionaries of several seeds agree.

    Parameters
    ----------
    dictionaries
        Living directions [n_features, d_in] of each seed; the numbers may differ.
    same
        Cosine from which a direction counts as found again.

    Returns
    -------
    float
        Mean cosine of the best match, one to one, over all pairs of seeds (PW-MCC).
    numpy.ndarray
        For each feature of the FIRST dictionary, the share of the other seeds that have it.
    """
    pairs = [
        matching(*sorted((a, b), key=len)).mean()
        for i, a in enumerate(dictionaries)
        for b in dictionaries[i + 1 :]
    ]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in dictionaries]
    again = [(unit[0] @ other.T).max(axis=1) >= same for other in unit[1:]]
    return float(np.mean(pairs)), np.mean(again, axis=0)
