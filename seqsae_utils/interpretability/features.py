"""Single features: what makes them fire, what they promote, and how far the two agree."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..hooks import hooked
from ..recommender import Recommender


def attribute_effect(logits: NDArray, attribute_matrix: NDArray) -> NDArray:
    """Logit that items with an attribute gain over the average item: [..., n_attributes].

    `logits` is [..., n_items + 1]; NaN where no item has the attribute.
    """
    logits = logits[..., 1:]
    with np.errstate(invalid="ignore"):
        with_attribute = logits @ attribute_matrix[1:] / attribute_matrix[1:].sum(axis=0)
    return with_attribute - logits.mean(axis=-1, keepdims=True)


def logit_lens(directions: NDArray, head: NDArray) -> NDArray:
    """Logit that each item gains over the average item, per unit of a feature: [..., n_items + 1].

    The directions [..., d_in] go straight to the head [n_items + 1, d_in], the tied item embedding
    (nostalgebraist, interpreting GPT: the logit lens, lesswrong.com, 2020).
    """
    return directions @ (head - head[1:].mean(axis=0)).T


def output_effect(directions: NDArray, head: NDArray, attribute_matrix: NDArray) -> NDArray:
    """`attribute_effect` of the `logit_lens`: [..., n_attributes]."""
    return attribute_effect(logit_lens(directions, head), attribute_matrix)


@torch.no_grad()
def measured_effect(
    model: Recommender,
    site: str,
    directions: NDArray,
    std: float,
    histories: list[NDArray],
    strength: float = 1.0,
) -> NDArray:
    """Logits that items gain per unit of a feature's strength: [n_features, n_items + 1].

    `strength` times a direction is added at all positions of `site`. `directions` are decoder rows
    of norm 1 [n_features, d_in], `std` is the unit of strengths (`SAE.std`), and `histories` the
    items of a few users. The gain is 0 for padding, and for items that the model scores -inf.
    """
    before = model.next_item_scores(histories)[:, 1:].float().mean(dim=0)
    gained = np.zeros((len(directions), len(before) + 1), np.float32)
    for feature, step in enumerate(torch.from_numpy(std * strength * directions)):
        with hooked(model, site, lambda hidden, step=step: hidden + step.to(hidden)):
            after = model.next_item_scores(histories)[:, 1:].float().mean(dim=0)
        gained[feature, 1:] = torch.where(before == -torch.inf, 0, (after - before) / strength)
    return gained


def agreement(reads: NDArray, promotes: NDArray, seed: int = 0) -> tuple[NDArray, NDArray]:
    """How far features promote what they read: correlation of the two profiles over attributes.

    Both are [n_features, n_attributes]. Returns Pearson's correlation of each feature's two rows
    [n_features], NaN where a row is constant, and as a null that with another feature's effect.
    """
    order = np.random.default_rng(seed).permutation(len(promotes))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # no feature gets itself
    return _row_correlation(reads, promotes), _row_correlation(reads, promotes[other])


def _row_correlation(a: NDArray, b: NDArray) -> NDArray:
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def feature_table(
    correlation: NDArray, effect: NDArray, density: NDArray, names: list[str]
) -> pd.DataFrame:
    """One row a feature: what it reads and what it promotes.

    `correlation` (`score` on the development users) and `effect` (`measured_effect`) are
    [n_features, n_attributes]; `density` [n_features] is the share of positions where it fires.
    Columns: feature, density, attribute (with the highest correlation; empty if it never fires),
    correlation, promotes (attribute whose items gain most), effect (logit they gain per unit).
    """
    known = np.nan_to_num(correlation, nan=-np.inf)
    effect = np.nan_to_num(effect, nan=-np.inf)
    best, names = known.max(axis=1), np.asarray(names)
    table = pd.DataFrame({"feature": np.arange(len(known)), "density": density})
    table["attribute"] = np.where(np.isfinite(best), names[known.argmax(axis=1)], "")
    table["correlation"] = np.where(np.isfinite(best), best, np.nan)
    table["promotes"], table["effect"] = names[effect.argmax(axis=1)], effect.max(axis=1)
    return table
