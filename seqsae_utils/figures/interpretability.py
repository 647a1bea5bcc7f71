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
        "lead_above_null": "the SAE's lead above chance",
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


def monosemanticity(table: pd.DataFrame) -> plt.Figure:
    """Four measures of being about one thing, all features of a basis as one box.

    `table` holds rows of `interpretability.monosemanticity` with their ``basis``. A box holds half
    of the features, its whiskers nine tenths; the cross is the median of what chance gives.
    """
    panels = {
        "selectivity": ("selectivity_null", "selectivity for the best attribute"),
        "divergence": ("divergence_null", "divergence from the base rates, bits"),
        "year_gap": ("year_gap_chance", "top items: years apart"),
        "co_consumption": ("co_consumption_chance", "top items: cosine of audiences"),
    }
    order = list(dict.fromkeys(table["basis"]))
    groups = [table[table["basis"] == basis] for basis in order]
    figure, axes = plt.subplots(
        2, 2, figsize=(PAGE, 0.6 * len(order) + 2.2), sharey=True, layout="constrained"
    )
    for axis, (name, (chance, label)) in zip(axes.flat, panels.items(), strict=True):
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
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right")
    return figure


def splitting(table: pd.DataFrame, parent: str, child: str) -> plt.Figure:
    """Which part of two nested attributes each of their features covers, a panel a dictionary.

    `table` holds rows of `interpretability.splitting` with their ``dictionary``.
    """
    groups = list(table.groupby("dictionary", sort=False))
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(PAGE, rows * (0.22 * len(groups[0][1]) + 1.1)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    names = {"parent": parent, "child": child}
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    for axis, (dictionary, group) in zip(axes.flat, groups, strict=False):
        y = np.arange(len(group)) + (group["role"] == "child").to_numpy()  # a gap between roles
        axis.hlines(y, group["recall_parent_only"], group["recall_both"], color=GREY, linewidth=1)
        axis.plot(group["recall_parent_only"], y, "o", color=ORANGE, label=f"{parent}, not {child}")
        axis.plot(group["recall_both"], y, "s", color=BLUE, label=f"{parent} and {child}")
        labels = [f"{names[row.role]} {row.rank}: {row.feature}" for row in group.itertuples()]
        axis.set_yticks(y, labels)
        axis.set(title=dictionary, ylim=(y.max() + 0.6, -0.6), xlim=(-0.03, 1.03))
        axis.grid(axis="y", visible=False)
    figure.supxlabel("share of these positions on which the feature fires", fontsize="medium")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2)
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
