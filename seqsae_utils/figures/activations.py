"""Figures of notebook 3: hidden states, and what a probe reads in them."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from ..resampling import drawn_means, interval
from . import BLACK, COLUMN, GREY, ORANGE, PAGE, name_rows


def hidden_states(norms: pd.DataFrame, spectrum: pd.DataFrame) -> plt.Figure:
    """Draw hidden states' norms (norm) and their spectrum (component, cumulative_variance).

    Beside it stands the cumulative variance of isotropic states (isotropic).
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8))
    sns.histplot(norms, x="norm", bins=60, ax=axes[0], color=ORANGE, edgecolor=None)
    axes[0].set(xlabel="norm of the normalised hidden state", ylabel="positions")
    axes[1].plot(
        spectrum["component"], spectrum["cumulative_variance"], color=ORANGE, label="hidden states"
    )
    axes[1].plot(
        spectrum["component"], spectrum["isotropic"], "--", color=GREY, label="isotropic states"
    )
    axes[1].legend(loc="lower right")
    axes[1].axhline(0.9, color=GREY, linestyle=":", linewidth=1)
    axes[1].set(xlabel="principal components", ylabel="share of variance", ylim=(0, 1.02))
    return figure


def probe(table: pd.DataFrame) -> plt.Figure:
    """Draw AUC of probes on true and on permuted labels, from `compare_sites`.

    Columns attribute, auc, auc_shuffled_low, auc_shuffled_high: the ends of the grey bars.
    """
    table = table.sort_values("auc")
    figure, axis = plt.subplots(figsize=(COLUMN, 0.21 * len(table) + 0.9))
    names, low, high = (table[c] for c in ("attribute", "auc_shuffled_low", "auc_shuffled_high"))
    axis.hlines(names, low, high, color=GREY, linewidth=5, label="items' labels permuted")
    axis.plot(table["auc"], names, "o", color=ORANGE, label="true labels")
    axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    axis.set(xlabel="AUC of a linear probe, test users")
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def sites(table: pd.DataFrame) -> plt.Figure:
    """AUC of a linear probe at each site, and its difference to the first site.

    From `compare_sites`, for attributes of the current and of the next item. Marks are means over
    attributes, crosses those for permuted attributes, ticks attributes, lines 95 % intervals over
    attributes.
    """
    order = list(dict.fromkeys(table["site"]))
    size = (PAGE, 0.45 * len(order) + 1.1)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True)
    for target, marker, shift in (("current", "o", -0.17), ("next", "D", 0.17)):
        group = table[table["target"] == target].dropna()
        y = shift + np.arange(len(order))
        fill = ORANGE if target == "current" else "white"
        draw = partial(plt.Axes.plot, color=ORANGE, ls="", mec=BLACK, mfc=fill, ms=7, marker=marker)
        means = group.groupby("site")[["auc", "auc_shuffled"]].mean().loc[order]
        draw(left, means["auc"], y, label=f"{target} item")
        label = "attributes permuted" if target == "next" else None  # once for both
        left.plot(means["auc_shuffled"], y, "x", color=BLACK, ms=5, label=label)
        auc = group.pivot(index="attribute", columns="site", values="auc")[order]
        more = auc.sub(auc[order[0]], axis=0)[order[1:]].to_numpy()
        right.plot(more.T, y[1:], "|", color=ORANGE, alpha=0.5, ms=7)
        ends = [interval(drawn) for drawn in drawn_means(more).T]
        right.hlines(y[1:], *np.array(ends).T, color=BLACK, linewidth=2)
        draw(right, more.mean(axis=0), y[1:])
    left.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    left.set(xlabel="AUC of a linear probe, test users")
    right.axvline(0, color=GREY, linestyle=":", linewidth=1)
    names = [site.replace("_", " ") for site in order]
    right.set(xlabel=f"difference to {names[0]}")
    right.xaxis.set_major_locator(MaxNLocator(5))
    for axis in (left, right):
        name_rows(axis, names)
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure
