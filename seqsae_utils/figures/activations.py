"""Figures of notebook 3: hidden states, and what a probe reads in them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from . import BLACK, COLUMN, GREY, ORANGE, PAGE, name_rows


def hidden_states(norms: pd.DataFrame, spectrum: pd.DataFrame) -> plt.Figure:
    """Draw hidden states' norms (norm) and their spectrum (component, cumulative_variance)."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8))
    sns.histplot(norms, x="norm", bins=60, ax=axes[0], color=ORANGE, edgecolor=None)
    axes[0].set(xlabel="norm of the normalised hidden state", ylabel="positions")
    axes[1].plot(spectrum["component"], spectrum["cumulative_variance"], color=ORANGE)
    axes[1].axhline(0.9, color=GREY, linestyle=":", linewidth=1)
    axes[1].set(xlabel="principal components", ylabel="share of variance", ylim=(0, 1.02))
    return figure


def probe(table: pd.DataFrame) -> plt.Figure:
    """Draw AUC of probes on true and on permuted labels: columns attribute, auc, auc_shuffled."""
    table = table.sort_values("auc")
    figure, axis = plt.subplots(figsize=(COLUMN, 0.21 * len(table) + 0.9))
    names = table["attribute"]
    axis.hlines(names, table["auc_shuffled"], table["auc"], color=GREY, linewidth=1)
    axis.plot(table["auc_shuffled"], names, "o", color=GREY, label="items' labels permuted")
    axis.plot(table["auc"], names, "o", color=ORANGE, label="true labels")
    axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    axis.set(xlabel="AUC of a linear probe, test users")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def sites(table: pd.DataFrame) -> plt.Figure:
    """Draw AUC of a linear probe at each site, for attributes of the current and the next item.

    From `compare_sites`: ticks are attributes, marks means, crosses means for permuted attributes.
    """
    order = list(dict.fromkeys(table["site"]))
    figure, axis = plt.subplots(figsize=(COLUMN, 0.5 * len(order) + 1.2))
    for target, shift, marker in (("current", -0.17, "o"), ("next", 0.17, "D")):
        group = table[table["target"] == target]
        y = shift + np.array([order.index(site) for site in group["site"]])
        axis.plot(group["auc"], y, "|", color=ORANGE, alpha=0.5, ms=7)
        mean = group.groupby("site")[["auc", "auc_shuffled"]].mean().loc[order]
        y = shift + np.arange(len(order))
        fill, label = ORANGE if target == "current" else "white", f"{target} item"
        axis.plot(mean["auc"], y, marker, color=ORANGE, mec=BLACK, ms=7, mfc=fill, label=label)
        label = "attributes permuted" if target == "next" else None  # once for both
        axis.plot(mean["auc_shuffled"], y, "x", color=BLACK, ms=5, label=label)
    axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    axis.set(xlabel="AUC of a linear probe, test users")
    name_rows(axis, order)
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure
