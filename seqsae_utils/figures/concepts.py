"""Figures of notebook 7: concepts, the next items, groups of users, and knobs from examples."""

import textwrap
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..interpretability import REPRESENTATIONS
from . import BLACK, BLUE, GREY, PAGE, color, name_rows
from .interpretability import points


def found(table: pd.DataFrame) -> plt.Figure:
    """How many concepts have a feature above two levels of AUC, from `find_concepts`."""
    levels = ("80", "90")
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.27 * len(table) + 1.0), sharey=True)
    for axis, level in zip(axes, levels, strict=True):
        points(axis, table, f"above_{level}", f"chance_{level}")
        axis.set(xlabel=f"concepts with a feature of AUC above .{level[0]}")
        axis.set(xlim=(-0.03 * axis.get_xlim()[1], None))  # crosses at 0 are seen whole
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right")
    return figure


def ahead(tables: dict[str, pd.DataFrame]) -> plt.Figure:
    """What one feature tells of the next items, by what is given: from `interpretability.ahead`."""
    n = max(map(len, tables.values()))
    figure, axes = plt.subplots(
        1, len(tables), figsize=(PAGE, 0.27 * n + 1.0), sharey=True, sharex=True
    )
    order = max(tables.values(), key=len).index
    for axis, (given, table) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        points(axis, table.reindex(order), "ahead", "null")
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set(xlabel="partial correlation", title=given)
    return figure


def groups(table: pd.DataFrame) -> plt.Figure:
    """AUC of a probe for each group of users and representation, from `tell_groups`.

    Groups of an attribute stand in the order of their mean AUC over representations.
    """
    mean = table.groupby(["attribute", "value"], sort=False)["auc"].mean()
    attributes = list(dict.fromkeys(table["attribute"]))
    order = [group for name in attributes for group in mean[[name]].sort_values().index[::-1]]
    kinds = list(dict.fromkeys(table["representation"]))
    figure, axis = plt.subplots(figsize=(PAGE, 0.42 * len(order) + 1.0))
    for i, name in enumerate(kinds):
        rows = table[table["representation"] == name].set_index(["attribute", "value"])
        rows = rows.reindex(order)
        y = np.arange(len(order)) + 0.75 * ((i + 0.5) / len(kinds) - 0.5)
        shade = color(name) if name in REPRESENTATIONS else (BLACK, GREY)[i % 2]
        marker = "D" if name.startswith("sae") else "o" if name in REPRESENTATIONS else "s^"[i % 2]
        fill = "white" if "_last" in name else shade
        axis.hlines(y, rows["low"], rows["high"], color=shade, linewidth=1)
        draw = partial(axis.plot, rows["auc"], y, marker, color=shade, mfc=fill, ms=4)
        draw(label=REPRESENTATIONS.get(name, name))
    for row in range(1, len(order), 2):  # leads the eye from a row's name to its marks
        axis.axhspan(row - 0.5, row + 0.5, color="#F2F2F2", zorder=0)
    axis.axvline(0.5, color="black", linewidth=0.6)
    axis.set(xlabel="AUC of a probe, test users")
    name_rows(axis, [f"{attribute}: {value}" for attribute, value in order])
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def forgetting(table: pd.DataFrame) -> plt.Figure:
    """What a fresh probe reads after each edit (auc, low, high), and what the lists keep."""
    y = np.arange(len(table))
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.27 * len(table) + 1.0), sharey=True)
    axes[0].hlines(y, table["low"], table["high"], color=BLUE, linewidth=2)
    axes[0].plot(table["auc"], y, "o", color=BLUE)
    axes[0].axvline(0.5, color="black", linewidth=0.6)
    axes[0].set(xlabel="AUC of a fresh probe afterwards")
    axes[1].plot(table["ndcg_kept"], y, "o", color=BLACK, label="NDCG@10")
    axes[1].plot(table["list_kept"], y, "o", color=BLACK, markerfacecolor="white", label="items")
    axes[1].set(xlabel="share that is kept", xlim=(0, None))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    for axis in axes:
        name_rows(axis, table["edit"])
    return figure


def cards(table: pd.DataFrame, n_columns: int = 3) -> plt.Figure:
    """A card for each feature: columns feature, concept, auc, density, found, fires, promotes."""
    n_rows = max(1, -(-len(table) // n_columns))
    figure, axes = plt.subplots(n_rows, n_columns, figsize=(PAGE, 1.3 * n_rows), squeeze=False)
    for axis in axes.ravel()[len(table) :]:
        axis.remove()
    if table.empty:
        figure.text(0, 0.5, "no feature could be shown on a card")
    for axis, row in zip(axes.ravel(), table.itertuples(), strict=False):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.axhline(1, color=GREY, linewidth=0.8)
        name = row.concept or "no concept"
        title = textwrap.shorten(f"{row.feature} · {name}", 42, placeholder="…")
        found_again = f"found again in {row.found} of {row.retrained} other trainings of the SAE"
        lines = [f"AUC on other items {row.auc:.2f} · fires on {row.density:.1%}", found_again]
        for verb, titles in (("fires on", row.fires), ("promotes", row.promotes)):
            first, *others = (textwrap.shorten(title, 42, placeholder="…") for title in titles)
            lines += [f"{verb}: {first}", *(f"   {title}" for title in others)]
        text = "\n".join(lines)
        axis.text(0, 0.97, title, fontweight="bold", fontsize=8, va="top",
                  color=BLUE if row.concept else "black", transform=axis.transAxes)  # fmt: skip
        axis.text(0, 0.83, text, fontsize=6.5, va="top", linespacing=1.35, transform=axis.transAxes)
    return figure
