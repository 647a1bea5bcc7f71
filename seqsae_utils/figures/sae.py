"""Figures of notebook 4: dictionaries, what they keep and what they cost."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator, NullLocator

from . import BLUE, COLUMN, GREEN, GREY, ORANGE, PAGE, PURPLE, RED, SKY


def sae_training(history: pd.DataFrame) -> plt.Figure:
    """Explained variance and L0 while the dictionaries train."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    for axis, column, label in zip(
        axes,
        ("explained_variance", "l0"),
        ("explained variance", "L0 (features per position)"),
        strict=True,
    ):
        sns.lineplot(history, x="step", y=column, hue="variant", ax=axis, legend=axis is axes[1])
        axis.set(xlabel="step", ylabel=label)
    axes[0].set(ylim=(0, 1))
    axes[1].set(yscale="log")
    axes[1].legend(title="")
    return figure


def pareto(table: pd.DataFrame, d_in: int) -> plt.Figure:
    """Draw reconstruction against sparsity, from columns name, l0, explained_variance, problems.

    A row is a dictionary; those of one name are joined. Hollow markers have problems: they are
    not sparse, or over a tenth of their features are dead or dense. ``paper`` and ``random`` in
    `name` are set apart.
    """
    figure, axis = plt.subplots(figsize=(PAGE, 4.2), layout="constrained")
    axis.axvline(d_in, color="black", lw=0.8, ls=":")
    axis.text(d_in, 0.02, " as many as dimensions", rotation=90, fontsize="small", va="bottom")
    palette = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY]
    names = [name for name in table["name"].unique() if name not in ("paper", "random")]
    colors = dict(zip(names, palette, strict=False)) | {"random": GREY, "paper": "black"}
    for name, marker in zip([*names, "random", "paper"], "os^Dv<x*", strict=False):
        rows = table[table["name"] == name].sort_values("l0")
        color, healthy = colors[name], rows["problems"] == ""
        style = {"ls": "", "ms": 13 if name == "paper" else 7, "color": color, "marker": marker}
        axis.plot(rows["l0"], rows["explained_variance"], color=color, lw=1.2, alpha=0.6)
        axis.plot(rows["l0"][healthy], rows["explained_variance"][healthy], **style)
        axis.plot(rows["l0"][~healthy], rows["explained_variance"][~healthy], **style, mfc="white")
        axis.plot([], [], label=name, **style)
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="L0 (features per position)")
    axis.set(ylabel="explained variance, held-out users")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside right center")
    return figure


def dictionary_size(table: pd.DataFrame) -> plt.Figure:
    """Draw what a larger dictionary buys, from columns d_sae, explained_variance, dead_fraction,
    stability and stability_random."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.7), layout="constrained")
    labels = {
        "explained_variance": "explained variance",
        "dead_fraction": "dead features (share)",
        "stability": "found by another seed (cosine)",
    }
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        axis.plot(table["d_sae"], table[column], "o-", color=BLUE)
        axis.set(xscale="log", xlabel="features in the dictionary", ylabel=label, ylim=(0, 1.02))
        axis.set_xticks(table["d_sae"], [f"{n:,}" for n in table["d_sae"]])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[2].plot(table["d_sae"], table["stability_random"], "o--", color=GREY, label="random")
    axes[2].legend()
    return figure


def density(table: pd.DataFrame) -> plt.Figure:
    """How often features fire: the share of test positions, on a logarithmic scale."""
    alive = table[table["density"] > 0]
    figure, axis = plt.subplots(figsize=(COLUMN, 2.8), layout="constrained")
    sns.histplot(
        alive, x="density", hue="variant", bins=40, log_scale=True, element="step", ax=axis
    )
    axis.set(xlabel="share of positions on which a feature fires", ylabel="features")
    sns.move_legend(axis, "upper left", title="")
    return figure


def replacement_cost(table: pd.DataFrame) -> plt.Figure:
    """NDCG@10 when the hidden states are replaced by something else."""
    figure, axis = plt.subplots(figsize=(COLUMN, 0.35 * len(table) + 0.8), layout="constrained")
    colors = [BLUE if name == "original" else SKY for name in table["replacement"]]
    axis.barh(table["replacement"], table["ndcg@10"], color=colors)
    for y, value in enumerate(table["ndcg@10"]):
        axis.text(value, y, f" {value:.3f}", va="center", fontsize="small")
    axis.invert_yaxis()
    axis.set(xlabel="NDCG@10, test users", ylabel="", xlim=(0, 1.2 * table["ndcg@10"].max()))
    return figure
