"""Figures of notebook 5: what features are about, beside the controls."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from . import BLUE, GREY, ORANGE, PAGE, SKY

BASES = {
    "neurons": "hidden dimensions",
    "pca": "principal components",
    "random_directions": "random dictionary",
    "sae": "SAE features",
}
BASIS_COLORS = dict(zip(BASES, (ORANGE, GREY, SKY, BLUE), strict=True))


def paired_bars(table: pd.DataFrame) -> plt.Figure:
    """The paper's figure: for each attribute the best hidden dimension beside the best feature.

    A tick marks the best feature of an untrained dictionary of the same size and sparsity.
    """
    wide = table.pivot(index="attribute", columns="basis", values="correlation")
    wide = wide.sort_values("sae", ascending=False)
    x = np.arange(len(wide))
    figure, axis = plt.subplots(figsize=(PAGE, 3.4), layout="constrained")
    for shift, basis in ((-0.2, "neurons"), (0.2, "sae")):
        axis.bar(x + shift, wide[basis], 0.4, label=BASES[basis], color=BASIS_COLORS[basis])
    axis.plot(x, wide["random_directions"], "_", color="black", markersize=16, markeredgewidth=2,
              label=BASES["random_directions"])  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_xticks(x, wide.index, rotation=40, ha="right")
    axis.set(ylabel="correlation, test users")
    axis.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def bases(table: pd.DataFrame) -> plt.Figure:
    """Mean over attributes of the best feature's score, by basis, with what chance gives."""
    order = [basis for basis in BASES if basis in set(table["basis"])]
    table = table.set_index("basis").loc[order]
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.42 * len(order) + 1.1), layout="constrained")
    for axis, name, label in zip(
        axes, ("max_correlation", "max_auc"), ("correlation", "AUC"), strict=True
    ):
        for y, (basis, row) in enumerate(table.iterrows()):
            axis.plot(
                [row[f"{name}_low"], row[f"{name}_high"]],
                [y, y],
                color=BASIS_COLORS[basis],
                linewidth=3,
            )
            axis.plot(row[name], y, "o", color=BASIS_COLORS[basis], markersize=8)
            if name == "max_correlation":
                axis.plot(row["null_correlation"], y, "x", color="black",
                          label="attributes permuted" if y == 0 else None)  # fmt: skip
        axis.set_yticks(range(len(order)), [BASES[basis] for basis in order])
        axis.set(
            xlabel=f"{label} of the best feature, mean over attributes",
            ylim=(len(order) - 0.5, -0.5),
        )
        axis.grid(axis="y", visible=False)
    axes[1].set_yticklabels([])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left")
    return figure


def feature_page(histogram: pd.DataFrame, promoted: pd.DataFrame, title: str) -> plt.Figure:
    """One feature: how strongly it fires with and without its attribute, and what it promotes."""
    figure, axes = plt.subplots(
        1, 2, figsize=(PAGE, 3.0), layout="constrained", width_ratios=(1, 1)
    )
    sns.histplot(
        histogram, x="activation", hue="group", bins=40, multiple="stack", ax=axes[0],
        palette=[BLUE, GREY], edgecolor=None,
    )  # fmt: skip
    axes[0].set(xlabel="activation where it fires", ylabel="positions")
    axes[0].get_legend().set_title("")
    promoted = promoted.iloc[::-1]
    colors = [BLUE if has else GREY for has in promoted["has_attribute"]]
    titles = [textwrap.shorten(title, 34, placeholder="…") for title in promoted["title"]]
    titles = [title.replace("$", r"\$") for title in titles]  # money is not mathematics
    axes[1].barh(titles, promoted["logit"], color=colors)
    axes[1].set(xlabel="logit gained per unit", ylabel="")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
