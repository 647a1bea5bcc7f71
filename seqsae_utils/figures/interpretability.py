"""Figures of notebook 5: what features are about, beside the controls."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ..interpretability import BASES
from . import BLUE, COLUMN, GREEN, GREY, ORANGE, PAGE, PURPLE, SKY, YELLOW

#: One colour for each family of representations.
FAMILIES = {
    "neurons": ORANGE,
    "pca": YELLOW,
    "ica": GREEN,
    "kmeans": GREY,
    "random": GREY,
    "sae_random_model": SKY,
    "sae_static": PURPLE,
    "sae_svd": PURPLE,
    "sae": BLUE,
    "gpt2_neurons": ORANGE,
    "gpt2_sae": BLUE,
}


def _color(basis: str) -> str:
    """The colour of a representation: that of the longest family name that it begins with."""
    return FAMILIES[max((name for name in FAMILIES if basis.startswith(name)), key=len)]


def genres(table: pd.DataFrame) -> plt.Figure:
    """For each attribute the best SAE feature, hidden dimension and random direction.

    Columns attribute, sae, neurons, random_directions (correlations on other users and other
    films) and p_value of the SAE's: hollow where it is over .05.
    """
    table = table.sort_values("sae", ascending=True, na_position="first").reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(COLUMN, 0.21 * len(table) + 1.0), layout="constrained")
    y = table.index
    axis.hlines(y, table[["neurons", "sae"]].min(axis=1), table[["neurons", "sae"]].max(axis=1),
                color=GREY, linewidth=1)  # fmt: skip
    axis.plot(table["random_directions"], y, "|", color="black", markersize=9, label="random")
    axis.plot(table["neurons"], y, "o", color=ORANGE, label="hidden dimension")
    sure = table["p_value"] < 0.05
    axis.plot(table["sae"][sure], y[sure], "o", color=BLUE, label="SAE feature")
    axis.plot(table["sae"][~sure], y[~sure], "o", color=BLUE, markerfacecolor="white")
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_yticks(y, table["attribute"])
    axis.set(xlabel="correlation, other users and other films")
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure


def held_out(table: pd.DataFrame) -> plt.Figure:
    """The primary score of each representation, and the SAE's lead over it, with intervals.

    `table` is that of `interpretability.films_table`.
    """
    names = [name for name in BASES if name in table.index]
    table, y = table.loc[names], np.arange(len(names))
    colors = [_color(name) for name in names]
    figure, axes = plt.subplots(
        1, 2, figsize=(PAGE, 0.25 * len(table) + 1.0), layout="constrained", sharey=True
    )
    labels = {"held_out": "correlation, other users and other films", "lead": "lead of the SAE"}
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        axis.hlines(y, table[f"{name}_low"], table[f"{name}_high"], colors=colors, linewidth=2.5)
        axis.scatter(table[name], y, c=colors, s=45, zorder=3, edgecolors="black", linewidths=0.4)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlabel=label)
        axis.grid(axis="y", visible=False)
    axes[0].set_yticks(y, [BASES[name] for name in names])
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    return figure


def probes(table: pd.DataFrame) -> plt.Figure:
    """AUC of sparse probes against the features that they may use, from `sparse_probes`.

    Columns basis, features (a number, or ``dense``), auc.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 3.2), layout="constrained")
    sizes = list(dict.fromkeys(table["features"]))
    for basis, rows in table.groupby("basis", sort=False):
        line = "-" if basis == "sae" else "--" if basis.startswith("sae") else ":"
        axis.plot(rows["features"], rows["auc"], line, marker="o", markersize=4,
                  color=_color(basis), label=BASES[basis])  # fmt: skip
    axis.set(xlabel="features that the probe may use", ylabel="AUC, other users and other films")
    axis.set_xticks(range(len(sizes)), sizes)
    axis.legend(fontsize="x-small")
    return figure


def monosemanticity(table: pd.DataFrame) -> plt.Figure:
    """Two measures of being about one thing, all features of a basis as one box.

    `table` holds rows of `interpretability.monosemanticity` with their ``basis``. A box holds half
    of the features, its whiskers nine tenths; the cross is the median of what chance gives.
    """
    panels = {
        "selectivity": ("selectivity_null", "selectivity for the best attribute"),
        "co_consumption": ("co_consumption_chance", "top items: cosine of audiences"),
    }
    order = list(dict.fromkeys(table["basis"]))
    groups = [table[table["basis"] == basis] for basis in order]
    figure, axes = plt.subplots(
        1, 2, figsize=(PAGE, 0.3 * len(order) + 1.2), sharey=True, layout="constrained"
    )
    for axis, (name, (chance, label)) in zip(axes, panels.items(), strict=True):
        axis.boxplot(
            [group[name].dropna() for group in groups], positions=range(len(order)),
            orientation="horizontal", widths=0.6, whis=(5, 95), showfliers=False,
            patch_artist=True, medianprops={"color": "black"},
            boxprops={"facecolor": BLUE, "alpha": 0.45, "linewidth": 0.8},
        )  # fmt: skip
        expected = [group[chance].median() for group in groups]
        axis.plot(expected, range(len(order)), "x", color="black", label="by chance")
        axis.set(xlabel=label, ylim=(len(order) - 0.5, -0.5))
        axis.set_yticks(range(len(order)), [BASES.get(basis, basis) for basis in order])
        axis.grid(axis="y", visible=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right")
    return figure


def predictions(table: pd.DataFrame) -> plt.Figure:
    """How often a label tells which of two items activates its feature more, by kind and basis.

    `table` holds rows of `interpretability.predict_pairs` with their ``basis``. Points with 95 %
    intervals; the cross is the mean when the labels are dealt out anew, the line a coin.
    """
    table = table[table["features"] > 0]
    bases, kinds = (list(dict.fromkeys(table[name])) for name in ("basis", "kind"))
    figure, axis = plt.subplots(
        figsize=(PAGE, 0.5 + 0.16 * len(kinds) * (len(bases) + 2)), layout="constrained"
    )
    for i, basis in enumerate(bases):
        rows = table[table["basis"] == basis]
        y = rows["kind"].map(kinds.index) + 0.8 * ((i + 0.5) / len(bases) - 0.5)
        around = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
        axis.errorbar(
            rows["accuracy"], y, xerr=around, fmt="o", linewidth=2, label=BASES.get(basis, basis)
        )
        axis.plot(
            rows["shuffled"], y, "x", color="black", label="labels shuffled" if i == 0 else None
        )
    axis.axvline(0.5, color="black", linewidth=0.6)
    axis.set_yticks(range(len(kinds)), ["all but items" if k == "all" else k for k in kinds])
    axis.set(xlabel="pairs told right from the label", ylim=(len(kinds) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside right upper")
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
