"""Figures of notebook 1: what the data looks like."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ..data import SPLITS
from . import BLACK, BLUE, COLUMN, GREY, PAGE, plain_numbers


def long_tail(table: pd.DataFrame) -> plt.Figure:
    """Draw how interactions fall on items: columns rank and share (cumulative)."""
    figure, axis = plt.subplots(figsize=(COLUMN, 3.2))
    items = 100 * table["rank"] / len(table)
    axis.plot(items, 100 * table["share"], color=BLACK, lw=2, label="as it is")
    axis.plot([0, 100], [0, 100], color=GREY, ls="--", label="if all items were alike")
    axis.set(xlabel="most popular items [% of the catalogue]", ylabel="interactions [%]")
    axis.set(xlim=(0, 100), ylim=(0, 102))
    axis.legend(loc="lower right")
    return figure


def sequence_lengths(table: pd.DataFrame, max_length: int) -> plt.Figure:
    """Draw the share of users with at least so many items, from columns split, length, users.

    The vertical line is the window of the model: the last `max_length` items.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 3.2))
    for split, color, dash in zip(SPLITS, (GREY, BLUE, BLACK), ("-", "--", ":"), strict=True):
        group = table[table["split"] == split].sort_values("length")
        longer = group["users"][::-1].cumsum()[::-1] / group["users"].sum()
        name = "development" if split == "dev" else split
        label = f"{name} ({group['users'].sum():,})"
        axes.step(group["length"], 100 * longer, dash, lw=2, color=color, label=label)
    axes.axvline(max_length, color=BLACK, lw=0.8)
    axes.text(max_length, 0, f"model's window: {max_length} ", ha="right", fontsize="small")
    axes.set(xscale="log", xlabel="items in the sequence", ylabel="users with at least so many [%]")
    plain_numbers(axes.xaxis, (1, 2, 3, 5))
    axes.legend(title="users")
    return figure


def attribute_overlap(table: pd.DataFrame, most: int = 20) -> plt.Figure:
    """Draw frequency and overlap of attributes, from columns attribute, other, items, share.

    `items` carry both; `share` is among those with `attribute`. Only the `most` frequent are drawn.
    """
    names = table["attribute"].drop_duplicates().head(most)
    share = table.pivot(index="attribute", columns="other", values="share").loc[names, names]
    alone = table[table["attribute"] == table["other"]].set_index("attribute").loc[names, "items"]
    size = (PAGE, 1.6 + 0.26 * len(names))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(1, 2.6))
    left.barh(names, alone, color=GREY)
    left.set(xlabel="items", ylim=(len(names) - 0.5, -0.5))
    left.grid(axis="y", visible=False)
    off_diagonal = 100 * share.mask(np.eye(len(names), dtype=bool))
    often = off_diagonal.map(lambda value: f"{value:.0f}" if value >= 30 else "")
    draw = partial(sns.heatmap, annot=often, fmt="", annot_kws={"size": 7}, yticklabels=False)
    bar = {"label": "items of the row that carry the column [%]"}
    draw(off_diagonal, ax=right, cmap="Greys", vmin=0, vmax=100, linewidths=0.5, cbar_kws=bar,
         linecolor="#EEEEEE")  # fmt: skip
    right.set(xlabel="", ylabel="")
    right.grid(False)
    right.tick_params(axis="x", rotation=90)
    return figure
