"""Figures of notebook 6: what happens when a knob is turned."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ..control import METHODS
from . import BLUE, GREEN, GREY, ORANGE, PAGE, SKY

#: The lines of figures in which few methods stand for all.
LINES = {
    "sae": (BLUE, "-"),
    "sae_several": (SKY, "-"),
    "diffmean": (ORANGE, "--"),
    "boost": (GREEN, "-."),
    "random": (GREY, ":"),
}


def dose_response(curves: pd.DataFrame) -> plt.Figure:
    """Share of the steered attribute, change of NDCG@10, and coverage, as a feature is turned."""
    panels = {
        "share": "share in the top 10",
        "ndcg_change": "change of NDCG@10",
        "coverage": "coverage",
    }
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 3.1), layout="constrained")
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        for color, (attribute, curve) in zip(
            sns.color_palette(), curves.groupby("attribute", sort=False), strict=False
        ):
            dose = curve["dose"]
            axis.plot(dose, curve[column], "o-", markersize=3, color=color, label=attribute)
            if f"{column}_low" in curve:
                low, high = curve[f"{column}_low"], curve[f"{column}_high"]
                axis.fill_between(dose, low, high, color=color, alpha=0.1, linewidth=0)
        axis.axvline(0, color=GREY, linestyle=":", linewidth=1)
        axis.set(xlabel="strength (standard deviations)", ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def gain_against_loss(curves: pd.DataFrame) -> plt.Figure:
    """What each method pays for what it gains: NDCG@10 against the attribute's share."""
    attributes = list(dict.fromkeys(curves["attribute"]))
    n_columns = min(3, len(attributes))
    n_rows = -(-len(attributes) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(PAGE, 2.3 * n_rows + 0.4), layout="constrained",
        sharey=True, squeeze=False,
    )  # fmt: skip
    for axis, attribute in zip(axes.ravel(), attributes, strict=False):
        for method, (color, line) in LINES.items():
            curve = curves[(curves["attribute"] == attribute) & (curves["method"] == method)]
            curve = curve[curve["dose"] >= 0].sort_values("dose")
            axis.plot(
                curve["share"], curve["ndcg"], line, marker="o", markersize=3, color=color,
                label=METHODS[method],
            )  # fmt: skip
        axis.set(title=attribute)
    for axis in axes[:, 0]:
        axis.set(ylabel="NDCG@10")
    figure.supxlabel("share of the attribute in the top 10", fontsize="medium")
    for axis in axes.ravel()[len(attributes) :]:
        axis.remove()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def side_effects(table: pd.DataFrame) -> plt.Figure:
    """Change of every attribute's share, in points, when one is turned up (SAE feature)."""
    wide = (100 * table.pivot(index="attribute", columns="other", values="change")).round() + 0.0
    wide = wide.loc[list(dict.fromkeys(table["attribute"])), list(dict.fromkeys(table["other"]))]
    limit = np.abs(wide.to_numpy()).max()
    figure, axis = plt.subplots(figsize=(PAGE, 0.32 * len(wide) + 1.5), layout="constrained")
    sns.heatmap(
        wide, cmap="vlag", vmin=-limit, vmax=limit, annot=True, fmt=".0f", ax=axis,
        annot_kws={"size": 7}, cbar_kws={"label": "points"}, linewidths=0.5,
    )  # fmt: skip
    axis.set(xlabel="share of this attribute in the top 10", ylabel="turned up")
    plt.setp(axis.get_xticklabels(), rotation=40, ha="right")
    return figure


def areas(by_attribute: pd.DataFrame, by_method: pd.DataFrame, against: str) -> plt.Figure:
    """Area under kept NDCG against gained share, and how far the method `against` is ahead.

    Hollow marks are nulls: a random feature, and choices for permuted attributes.
    """
    order = by_method.sort_values("pareto_area")["method"].tolist()
    table = by_method.set_index("method").loc[order]
    rows = np.arange(len(order))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE, 0.27 * len(order) + 1.0), layout="constrained", sharey=True
    )
    spots = by_attribute.set_index("method")["pareto_area"]
    for row, method in enumerate(order):
        left.plot(spots[[method]], np.full(len(spots[[method]]), row), "|", color=GREY, alpha=0.6)
    for axis, column, flip in ((left, "pareto_area", 1), (right, "lead", -1)):
        point = flip * table[column]
        ends = np.sort(flip * table[[f"{column}_low", f"{column}_high"]].to_numpy(), axis=1)
        error = np.abs(ends.T - point.to_numpy())
        for method, row in zip(order, rows, strict=True):
            null = method == "random" or method.endswith("permuted")
            color = GREY if null else BLUE if method.startswith("sae") else ORANGE
            axis.errorbar(
                point[method], row, xerr=error[:, [row]], fmt="o", color=color, markersize=5,
                markeredgecolor="black" if method == against else color,
                markerfacecolor="white" if null else color,
            )  # fmt: skip
    left.set(yticks=rows, yticklabels=[METHODS[method] for method in order])
    left.set(xlabel="area under kept NDCG@10\nagainst gained share", xlim=(0, None))
    right.axvline(0, color=GREY, linestyle=":", linewidth=1)
    right.set(xlabel=f"lead of “{METHODS[against]}”\nover it (right of the line: ahead)")
    return figure


def dial(table: pd.DataFrame) -> plt.Figure:
    """How far lists are off the share that was asked for: solved for each user, or not."""
    labels = {
        "dial": ("solved for each user", BLUE, "o-"),
        "one dose": ("one strength for all", ORANGE, "s--"),
        "untouched": ("untouched", GREY, "^:"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.7), layout="constrained")
    for how, (label, color, line) in labels.items():
        rows = table[table["how"] == how]
        for axis, column in zip(axes, ("error", "reached"), strict=True):
            axis.plot(100 * rows["target"], 100 * rows[column], line, color=color, label=label)
            if f"{column}_low" in rows:
                low, high = 100 * rows[f"{column}_low"], 100 * rows[f"{column}_high"]
                axis.fill_between(100 * rows["target"], low, high, color=color, alpha=0.15, lw=0)
    axes[0].set(ylabel="mean absolute error (points)", ylim=(0, None))
    axes[1].set(ylabel="lists within half a place (%)", ylim=(0, 105))
    for axis in axes:
        axis.set(xlabel="share asked for (%)")
    axes[0].legend()
    return figure


def serving(table: pd.DataFrame) -> plt.Figure:
    """Change of NDCG@10 as a knob is turned at moments at which it was asked for."""
    figure, axis = plt.subplots(figsize=(0.6 * PAGE, 3.0), layout="constrained")
    for method, rows in table.groupby("method", sort=False):
        color, line = LINES.get(method, (BLUE, "-"))  # the knobs may be another
        axis.plot(
            rows["dose"], rows["change"], line, marker="o", markersize=3, color=color,
            label=METHODS[method],
        )  # fmt: skip
        axis.fill_between(rows["dose"], rows["low"], rows["high"], color=color, alpha=0.12, lw=0)
    axis.axhline(0, color=GREY, linestyle=":", linewidth=1)
    axis.set(xlabel="strength", ylabel="change of NDCG@10")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
