"""What single features read and promote."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .scores import Codes, as_dense


def output_effect(direction: NDArray, head: NDArray, attribute_matrix: NDArray) -> NDArray:
    """Logit that items with an attribute gain, over the average item, per unit of a feature.

    The direction is read as if it went straight to the head (the "logit lens"): what later blocks
    make of it is left out.

    Parameters
    ----------
    direction
        [..., d_in], decoder directions
    head
        [n_items + 1, d_in], the tied item embedding
    attribute_matrix
        [n_items + 1, n_attributes]

    Returns
    -------
    array [..., n_attributes], NaN where no item has the attribute
    """
    logits = direction @ head[1:].T
    with np.errstate(invalid="ignore"):
        with_attribute = logits @ attribute_matrix[1:] / attribute_matrix[1:].sum(axis=0)
    return with_attribute - logits.mean(axis=-1, keepdims=True)


def top_items(codes: Codes, feature: int, items: NDArray, n: int = 10) -> pd.DataFrame:
    """Items on which a feature is strongest: item, activation (mean), positions (how many).

    Items with fewer than three positions are left out, unless no item has that many.
    """
    values = as_dense(codes[:, [feature]]).ravel()
    table = pd.DataFrame({"item": items, "activation": values}).groupby("item")["activation"]
    table = table.agg(activation="mean", positions="size").reset_index()
    enough = table[table["positions"] >= 3]
    return (enough if len(enough) else table).nlargest(n, "activation").reset_index(drop=True)


def feature_table(
    correlation: NDArray, effect: NDArray, density: NDArray, names: list[str]
) -> pd.DataFrame:
    """One row a feature: what it reads and what it promotes.

    Parameters
    ----------
    correlation, effect
        [n_features, n_attributes]: from `score` on the SAE users, and from `output_effect`
    density
        [n_features], share of positions on which it fires

    Returns
    -------
    pandas.DataFrame
        feature, density, label (attribute with the highest correlation), correlation, promotes
        (attribute whose items gain most), effect (logit they gain per unit). The label of a
        feature without any correlation, because it never fires, is empty.
    """
    known = np.nan_to_num(correlation, nan=-np.inf)
    effect = np.nan_to_num(effect, nan=-np.inf)
    best, names = known.max(axis=1), np.asarray(names)
    return pd.DataFrame(
        {
            "feature": np.arange(len(known)),
            "density": density,
            "label": np.where(np.isfinite(best), names[known.argmax(axis=1)], ""),
            "correlation": np.where(np.isfinite(best), best, np.nan),
            "promotes": names[effect.argmax(axis=1)],
            "effect": effect.max(axis=1),
        }
    )
