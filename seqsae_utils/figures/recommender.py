"""Figures of notebook 2: how the recommenders learn, and where each wins."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from . import BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, RED

#: How figures and tables call the models.
NAMES = {
    "popularity": "popularity",
    "item_knn": "item neighbours",
    "ease": "EASE",
    "sasrec": "SASRec",
    "gpt2": "GPT-2",
    "bert4rec": "BERT4Rec",
}
#: Marker and colour of each model, in all figures.
LOOKS = {
    "popularity": ("o", GREY),
    "item_knn": ("s", ORANGE),
    "ease": ("D", GREEN),
    "sasrec": ("^", BLUE),
    "gpt2": ("v", RED),
    "bert4rec": ("P", PURPLE),
}


def learning_curve(history: pd.DataFrame) -> plt.Figure:
    """Draw training loss and validation NDCG@10 by epoch; the epoch that was kept is marked.

    Columns model, epoch, loss, ndcg@10.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    labels = {"loss": "training loss (nats)", "ndcg@10": "validation NDCG@10"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for model, epochs in history.groupby("model", sort=False):
            best = epochs["ndcg@10"].argmax()
            axis.plot(
                epochs["epoch"], epochs[column], "o-", color=LOOKS[model][1], markevery=[best],
                label=f"{NAMES[model]}, kept: epoch {epochs['epoch'].iloc[best]}",
            )  # fmt: skip
        axis.set(xlabel="epoch", ylabel=label)
    axes[1].legend(loc="lower right")
    return figure


def where(table: pd.DataFrame) -> plt.Figure:
    """Draw which model wins where: NDCG@10 of each group of users, one panel for each grouping.

    Columns model, by (what groups the users), group, mean, low, high; in the order of the rows.
    """
    panels = table.groupby("by", sort=False)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(PAGE, 3.2), layout="constrained", sharey=True, squeeze=False
    )
    for axis, (by, panel) in zip(axes[0], panels, strict=True):
        models = panel.groupby("model", sort=False)
        for shift, (model, rows) in zip(np.linspace(-0.25, 0.25, len(models)), models, strict=True):
            marker, color = LOOKS[model]
            axis.errorbar(
                np.arange(len(rows)) + shift, rows["mean"],
                [rows["mean"] - rows["low"], rows["high"] - rows["mean"]],
                fmt=marker, color=color, elinewidth=1.5, label=NAMES[model],
            )  # fmt: skip
        axis.set(xlabel=by, xlim=(-0.5, len(rows) - 0.5))
        axis.set_xticks(range(len(rows)), rows["group"])
        axis.grid(axis="x", visible=False)
    axes[0, 0].set(ylabel="NDCG@10", ylim=(0, None))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure
