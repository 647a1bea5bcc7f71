"""Figures of notebook 5: what every feature is about, not only the best ones."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from . import BLUE, GREY, ORANGE, PAGE
from .interpretability import BASES


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
