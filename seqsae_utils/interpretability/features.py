"""Single features: what makes them fire, what they promote, and how far the two agree."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..hooks import hooked
from ..recommender import Recommender


def attribute_effect(logits: NDArray, attribute_matrix: NDArray) -> NDArray:
    """Logit that items with an attribute gain over the average item.

    `logits` [..., n_items + 1] is what each item gains, `attribute_matrix` is
    [n_items + 1, n_attributes]. Returns [..., n_attributes], NaN where no item has the attribute.
    """
    logits = logits[..., 1:]
    with np.errstate(invalid="ignore"):
        with_attribute = logits @ attribute_matrix[1:] / attribute_matrix[1:].sum(axis=0)
    return with_attribute - logits.mean(axis=-1, keepdims=True)


def logit_lens(directions: NDArray, head: NDArray) -> NDArray:
    """Logit that each item gains over the average item, per unit of a feature: [..., n_items + 1].

    The directions [..., d_in] are read as if they went straight to the head [n_items + 1, d_in],
    the tied item embedding (the "logit lens" [1]_): what later blocks make of them is left out.
    `measured_effect` has it in.

    .. [1] nostalgebraist, interpreting GPT: the logit lens, lesswrong.com, 2020.
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
    dose: float = 1.0,
) -> NDArray:
    """Logits that items gain on average over users when a feature is raised, per unit of dose.

    Adding `dose` times a direction at all positions of `site` is the edit that raises a feature
    and keeps what the dictionary misses; the blocks after it make of it what they will.

    Parameters
    ----------
    directions, std
        [n_features, d_in], decoder rows of norm 1, and the unit of the dose (`SAE.std`)
    histories
        Items of each user, in order; few users are enough, for the mean over them.

    Returns
    -------
    array [n_features, n_items + 1]
        0 for padding, and for items whose score is -inf because the model does not know them.
    """
    before = model.next_item_scores(histories)[:, 1:].float().mean(dim=0)
    gained = np.zeros((len(directions), len(before) + 1), np.float32)
    for feature, step in enumerate(torch.from_numpy(std * dose * directions)):
        with hooked(model, site, lambda hidden, step=step: hidden + step.to(hidden)):
            after = model.next_item_scores(histories)[:, 1:].float().mean(dim=0)
        gained[feature, 1:] = torch.where(before == -torch.inf, 0, (after - before) / dose)
    return gained


def agreement(reads: NDArray, promotes: NDArray, seed: int = 0) -> tuple[NDArray, NDArray]:
    """How far features promote what they read: correlation of the two profiles over attributes.

    Parameters
    ----------
    reads, promotes
        [n_features, n_attributes]: correlation with each attribute, and effect on its items

    Returns
    -------
    array [n_features]
        Pearson correlation of each feature's two rows; NaN where a row is constant or unknown.
    array [n_features]
        The control: each feature's reading beside the effect of another feature.
    """
    order = np.random.default_rng(seed).permutation(len(promotes))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # nobody is dealt itself
    return _row_correlation(reads, promotes), _row_correlation(reads, promotes[other])


def _row_correlation(a: NDArray, b: NDArray) -> NDArray:
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def input_output_map(reads: NDArray, promotes: NDArray, names: list[str]) -> pd.DataFrame:
    """Of the features that read an attribute best, the share that promote each attribute most.

    Returns a row for each pair: reads, promotes, share, features (how many read the first).
    """
    read, promoted = reads.argmax(axis=1), promotes.argmax(axis=1)
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (read, promoted), 1)
    first, second = np.indices(counts.shape).reshape(2, -1)
    features = counts.sum(axis=1)
    return pd.DataFrame(
        {
            "reads": np.asarray(names)[first],
            "promotes": np.asarray(names)[second],
            "share": (counts / features.clip(1)[:, None]).ravel(),
            "features": features[first].astype(int),
        }
    )


def feature_table(
    correlation: NDArray, effect: NDArray, density: NDArray, names: list[str]
) -> pd.DataFrame:
    """One row a feature: what it reads and what it promotes.

    Parameters
    ----------
    correlation, effect
        [n_features, n_attributes]: from `score` on the SAE users, and from `measured_effect`
    density
        [n_features], share of positions on which it fires

    Returns
    -------
    pandas.DataFrame
        feature, density, attribute (with the highest correlation), correlation, promotes
        (attribute whose items gain most), effect (logit they gain per unit). The attribute of a
        feature without any correlation, because it never fires, is empty.
    """
    known = np.nan_to_num(correlation, nan=-np.inf)
    effect = np.nan_to_num(effect, nan=-np.inf)
    best, names = known.max(axis=1), np.asarray(names)
    return pd.DataFrame(
        {
            "feature": np.arange(len(known)),
            "density": density,
            "attribute": np.where(np.isfinite(best), names[known.argmax(axis=1)], ""),
            "correlation": np.where(np.isfinite(best), best, np.nan),
            "promotes": names[effect.argmax(axis=1)],
            "effect": effect.max(axis=1),
        }
    )
