"""Figures of notebook 5: what features are about, beside the baselines."""

import textwrap
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ..interpretability import REPRESENTATIONS
from . import BLUE, COLUMN, GREY, PAGE, color, name_rows

#: Fewer features of a kind are not drawn: another training has others, or none.
FEW = 5


def genres(table: pd.DataFrame, films: pd.DataFrame) -> plt.Figure:
    """For each attribute the best SAE feature, hidden dimension and random direction.

    Correlations sae, neurons, random_directions by attribute, with ``_low`` and ``_high`` (95 %);
    hollow where p_value is over .05. The top row is their mean over attributes, from `films_table`.
    """
    table = table.sort_values("sae", ascending=False).reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(COLUMN, 0.29 * len(table) + 1.3))
    looks = {"sae": ("D", -0.25), "neurons": ("o", 0), "random_directions": ("|", 0.25)}
    for name, (marker, down) in looks.items():
        mean = films.loc[name, ["held_out", "held_out_low", "held_out_high"]]
        rows = np.vstack([mean, table[[name, f"{name}_low", f"{name}_high"]]]).astype(float)
        value, low, high = rows.T
        y, shade = down + np.arange(len(rows)), color(name)
        sure = np.append(True, (table["p_value"] < 0.05) | (name != "sae"))
        axis.hlines(y, low, high, color=shade, linewidth=1)
        draw = partial(axis.plot, marker=marker, color=shade, ls="", ms=8 if marker == "|" else 4.5)
        draw(value[sure], y[sure], label=REPRESENTATIONS[name])
        draw(value[~sure], y[~sure], mfc="white")
    axis.axvline(0, color="black", linewidth=0.6)
    axis.axhline(0.5, color=GREY, linewidth=0.6)
    axis.set(xlabel="correlation, other users and other films", xlim=(None, 1))
    name_rows(axis, ["mean", *table["attribute"]])
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure


def points(axis: plt.Axes, table: pd.DataFrame, column: str, null: str = "") -> None:
    """A row for each representation: the number, its interval, and what chance gives."""
    names = [name for name in REPRESENTATIONS if name in table.index]
    table, y = table.loc[names], np.arange(len(names))
    colors = [color(name) for name in names]
    axis.hlines(y, table[f"{column}_low"], table[f"{column}_high"], colors=colors, linewidth=2.5)
    axis.scatter(table[column], y, c=colors, s=45, zorder=3, edgecolors="black", linewidths=0.4)
    if null:
        axis.plot(table[null], y, "x", color="black", markersize=5, label="by chance")
    name_rows(axis, [REPRESENTATIONS[name] for name in names])


def held_out(table: pd.DataFrame) -> plt.Figure:
    """The primary score of each representation and the SAE's lead over it, from `films_table`."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.25 * len(table) + 1.0), sharey=True)
    labels = {"held_out": "correlation, other users and other films", "lead": "lead of the SAE"}
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        points(axis, table, name)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlabel=label)
    return figure


def probes(table: pd.DataFrame) -> plt.Figure:
    """AUC of sparse probes, from columns representation, features (or ``dense``), auc."""
    figure, axis = plt.subplots(figsize=(COLUMN, 3.9))
    sizes = list(dict.fromkeys(table["features"]))
    for name, rows in table.groupby("representation", sort=False):
        line = "-" if name == "sae" else "--" if name.startswith("sae") else ":"
        draw = partial(axis.plot, marker="o", ms=4, color=color(name), label=REPRESENTATIONS[name])
        draw(rows["features"], rows["auc"], line)
    axis.set(xlabel="features that the probe may use", ylabel="AUC, other users and other films")
    axis.set_xticks(range(len(sizes)), sizes)
    figure.legend(loc="outside upper center", ncols=2, fontsize="x-small")
    return figure


def monosemanticity(medians: pd.DataFrame) -> plt.Figure:
    """How far two measures of being about one thing exceed chance, in the median feature.

    `medians` holds the columns of `interpretability.monosemanticity` by representation.
    """
    panels = {
        "selectivity": ("selectivity_null", "selectivity above chance"),
        "co_consumption": ("co_consumption_chance", "cosine of audiences above chance"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.27 * len(medians) + 1.0), sharey=True)
    for axis, (name, (chance, label)) in zip(axes, panels.items(), strict=True):
        above, y = medians[name] - medians[chance], range(len(medians))
        colors = [color(key) for key in medians.index]
        axis.hlines(y, 0, above, colors=colors, linewidth=2.5)
        axis.scatter(above, y, c=colors, s=60, zorder=3, edgecolors="black", linewidths=0.4)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlabel=label)
        name_rows(axis, [REPRESENTATIONS.get(key, key) for key in medians.index])
    return figure


def predictions(table: pd.DataFrame) -> plt.Figure:
    """Accuracy of predicting, from a feature's label, which of two items activates it more.

    `table` holds rows of `interpretability.predict_pairs` with their ``representation``. Points
    with 95 % intervals and numbers of features, by kind, unless no representation has `FEW` of it;
    the cross is the mean for shuffled labels, the line is chance.
    """
    often = table.groupby("kind")["features"].transform("max") >= FEW
    table = table[often & (table["features"] > 0)]
    if table.empty:
        figure, axis = plt.subplots(figsize=(PAGE, 0.5))
        axis.text(0.5, 0.5, f"fewer than {FEW} labels of each kind could be tested", ha="center")
        return figure
    names, kinds = (list(dict.fromkeys(table[key])) for key in ("representation", "kind"))
    figure, axis = plt.subplots(figsize=(PAGE, 0.5 + 0.16 * len(kinds) * (len(names) + 2)))
    for i, name in enumerate(names):
        rows = table[table["representation"] == name]
        y = rows["kind"].map(kinds.index) + 0.8 * ((i + 0.5) / len(names) - 0.5)
        around = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
        draw = partial(axis.errorbar, fmt="o", linewidth=2, color=color(name))
        draw(rows["accuracy"], y, xerr=around, label=REPRESENTATIONS.get(name, name))
        axis.plot(rows["shuffled"], y, "x", color="black", label=None if i else "labels shuffled")
        for n, high, at in zip(rows["features"], rows["high"], y, strict=True):
            axis.text(high, at, f"  {n:.0f}", va="center", fontsize="x-small", color=GREY)
    axis.axvline(0.5, color="black", linewidth=0.6)
    axis.set(xlabel="accuracy on pairs of items")
    name_rows(axis, ["all but items" if k == "all" else k for k in kinds])
    figure.legend(loc="outside right upper")
    return figure


def feature_page(histogram: pd.DataFrame, promoted: pd.DataFrame, title: str) -> plt.Figure:
    """Where a feature fires (activation, group), what it promotes (title, logit, has_attribute)."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 3.0))
    if histogram.empty:
        axes[0].text(0.5, 0.5, "it fires for no test user", ha="center")
    else:
        colors = [BLUE, GREY][: histogram["group"].nunique()]
        draw = partial(sns.histplot, multiple="stack", palette=colors, edgecolor=None)
        draw(histogram, x="activation", hue="group", bins=40, ax=axes[0])
    axes[0].set(xlabel="activation where it fires", ylabel="positions")
    if legend := axes[0].get_legend():
        legend.set_title("")
    promoted = promoted.iloc[::-1]
    colors = [BLUE if has else GREY for has in promoted["has_attribute"]]
    titles = [textwrap.shorten(title, 34, placeholder="…") for title in promoted["title"]]
    axes[1].barh(range(len(titles)), promoted["logit"], color=colors)  # titles may be the same
    axes[1].set_yticks(range(len(titles)), titles)
    axes[1].set(xlabel="logit gained per unit", ylabel="")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
