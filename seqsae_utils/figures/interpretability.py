"""Figures of notebook 5: what features are about, beside the controls."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ..interpretability import BASES
from . import BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, SKY, YELLOW

BASIS_COLORS = dict(zip(BASES, (ORANGE, YELLOW, GREEN, SKY, GREY, PURPLE, BLUE), strict=True))


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
    """Mean over attributes of the best feature's score, by basis, with what chance gives.

    The last panel has the lead of the SAE over each basis, above each basis' own null.
    """
    table = table.set_index("basis").loc[[basis for basis in BASES if basis in set(table["basis"])]]
    y, colors = np.arange(len(table)), [BASIS_COLORS[basis] for basis in table.index]
    figure, axes = plt.subplots(
        1, 3, figsize=(PAGE, 0.34 * len(table) + 1.2), layout="constrained", sharey=True
    )
    labels = {
        "max_correlation": "correlation",
        "max_auc": "AUC",
        "lead_above_null": "lead of the SAE above chance",
    }
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        axis.hlines(y, table[f"{name}_low"], table[f"{name}_high"], colors=colors, linewidth=3)
        axis.scatter(table[name], y, c=colors, s=55, zorder=3, edgecolors="black", linewidths=0.4)
        axis.set(xlabel=label)
        axis.grid(axis="y", visible=False)
    axes[0].plot(table["null_correlation"], y, "x", color="black", label="attributes permuted")
    axes[2].axvline(0, color="black", linewidth=0.8)
    axes[0].set_yticks(y, [BASES[basis] for basis in table.index])
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right")
    return figure


def input_output(pairs: pd.DataFrame, agreement: pd.DataFrame) -> plt.Figure:
    """Which attribute features read and which they promote, and how far the two profiles agree.

    `pairs` is that of `input_output_map`; `agreement` has a row a feature and what it is compared
    with: columns what, agreement.
    """
    names = list(dict.fromkeys(pairs["reads"]))
    share = 100 * pairs.pivot(index="reads", columns="promotes", values="share").loc[names, names]
    count = pairs.drop_duplicates("reads").set_index("reads")["features"]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE, 0.17 * len(names) + 1.6), layout="constrained", width_ratios=(1.5, 1)
    )
    sns.heatmap(
        share, ax=left, cmap="cividis", vmin=0, vmax=100, square=True,
        cbar_kws={"label": "features of the row [%]"},
        yticklabels=[f"{name} ({count[name]})" for name in names],
    )  # fmt: skip
    left.set(xlabel="promotes most", ylabel="reads best (features)")
    left.tick_params(labelsize="small")
    left.grid(False)
    sns.ecdfplot(agreement, x="agreement", hue="what", ax=right, palette=[BLUE, ORANGE, GREY])
    right.set(xlabel="correlation of what a feature reads\nand what it promotes")
    right.set(ylabel="share of features", xlim=(-1, 1))
    right.axvline(0, color="black", linewidth=0.8)
    sns.move_legend(right, "upper left", title="", fontsize="small")
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
