"""Figures of notebook 6: what happens when a knob is turned."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from . import BLUE, GREY, ORANGE, PAGE

METHODS = {
    "sae": ("one SAE feature", BLUE, "-"),
    "diffmean": ("difference of means", ORANGE, "--"),
    "random": ("a random feature", GREY, ":"),
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
        axis.set(xlabel="dose (normalised units)", ylabel=label)
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
        for method, (label, color, line) in METHODS.items():
            curve = curves[(curves["attribute"] == attribute) & (curves["method"] == method)]
            curve = curve[curve["dose"] >= 0].sort_values("dose")
            axis.plot(
                curve["share"],
                curve["ndcg"],
                line,
                marker="o",
                markersize=3,
                color=color,
                label=label,
            )
        axis.set(title=attribute)
    for axis in axes[:, 0]:
        axis.set(ylabel="NDCG@10")
    figure.supxlabel("share of the attribute in the top 10", fontsize="medium")
    for axis in axes.ravel()[len(attributes) :]:
        axis.remove()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
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
    axis.set_xticks(axis.get_xticks(), axis.get_xticklabels(), rotation=40, ha="right")
    return figure
