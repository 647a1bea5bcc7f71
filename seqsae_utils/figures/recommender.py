"""Figures of notebook 2: how the recommenders learn, and where each wins."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from . import PAGE

#: How figures and tables call the models.
NAMES = {
    "popularity": "popularity",
    "item_knn": "item neighbours",
    "ease": "EASE",
    "sasrec": "SASRec",
    "gpt2": "GPT-2",
    "bert4rec": "BERT4Rec",
}


def learning_curve(history: pd.DataFrame) -> plt.Figure:
    """Training loss and validation NDCG@10 by epoch; the epoch that was kept is marked.

    Columns epoch, loss, ndcg@10, and where there are several of them, model.
    """
    models = history.assign(model="") if "model" not in history else history
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    for axis, column, label in zip(
        axes, ("loss", "ndcg@10"), ("training loss (nats)", "validation NDCG@10"), strict=True
    ):
        looks = zip(sns.color_palette(), ("-", "--", "-.", ":"), strict=False)
        for (name, epochs), (color, line) in zip(
            models.groupby("model", sort=False), looks, strict=False
        ):
            best = epochs.loc[epochs["ndcg@10"].idxmax()]
            kept = f"kept: epoch {best['epoch']:.0f}"
            axis.plot(epochs["epoch"], epochs[column], line, color=color)
            axis.plot(
                *(best["epoch"], best[column]), line, color=color, marker="o",
                label=f"{NAMES.get(name, name)}, {kept}" if name else kept,
            )  # fmt: skip
        axis.set(xlabel="epoch", ylabel=label)
    axes[1].legend(loc="lower right")
    return figure


def where(table: pd.DataFrame) -> plt.Figure:
    """Which model wins where: NDCG@10 of each group of users, one panel for each grouping.

    Columns model, by (what groups the users), group, mean, low, high; in the order of the rows.
    """
    groupings = list(table.groupby("by", sort=False))
    models = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(
        1, len(groupings), figsize=(PAGE, 3.2), layout="constrained", sharey=True, squeeze=False
    )
    looks = list(zip(sns.color_palette(), "osD^vPX*", strict=True))
    for axis, (name, panel) in zip(axes[0], groupings, strict=True):
        groups = list(dict.fromkeys(panel["group"]))
        for i, model in enumerate(models):
            rows = panel[panel["model"] == model].set_index("group").loc[groups]
            color, marker = looks[i % len(looks)]
            axis.errorbar(
                np.arange(len(groups)) + (i - (len(models) - 1) / 2) * 0.6 / len(models),
                rows["mean"],
                [rows["mean"] - rows["low"], rows["high"] - rows["mean"]],
                linestyle="", marker=marker, color=color, elinewidth=1.5,
                label=NAMES.get(model, model),
            )  # fmt: skip
        axis.set(xlabel=name, xticks=range(len(groups)), xlim=(-0.5, len(groups) - 0.5))
        axis.set_xticklabels(groups)
        axis.grid(axis="x", visible=False)
    axes[0, 0].set(ylabel="NDCG@10")
    axes[0, 0].set_ylim(bottom=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure
