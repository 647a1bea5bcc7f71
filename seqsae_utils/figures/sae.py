"""Figures of notebook 4: dictionaries, what they keep and what they cost."""

from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.ticker import NullLocator

from . import BLUE, COLUMN, GREEN, GREY, ORANGE, PAGE, PURPLE, RED, SKY, plain_numbers

#: Name, colour and marker of each dictionary, and of what else replaces a hidden state.
LOOKS = {
    "topk": ("TopK", BLUE, "D"),
    "relu": ("ReLU + L1", ORANGE, "o"),
    "gated": ("Gated", GREEN, "s"),
    "jumprelu": ("JumpReLU", RED, "^"),
    "batchtopk": ("BatchTopK", PURPLE, "v"),
    "matryoshka": ("Matryoshka", SKY, "<"),
    "kept": ("kept", BLUE, "D"),
    "gpt2": ("on GPT-2", RED, "D"),
    "paper": ("paper's settings", "black", "*"),
    "random": ("random directions", GREY, "x"),
    "original": ("untouched", GREEN, "o"),
    "mean": ("mean state", GREY, "o"),
}


def sae_training(history: pd.DataFrame) -> plt.Figure:
    """Draw explained variance and L0 while dictionaries train.

    Columns variant (the variant, and after a comma which dictionary), step, explained_variance, l0.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    labels = {"explained_variance": "explained variance", "l0": "L0 (features per position)"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for variant, rows in history.groupby("variant", sort=False):
            name, color, _ = LOOKS[variant.rpartition(", ")[2]]
            axis.plot(rows["step"], rows[column], color=color, label=name)
        axis.set(xlabel="step", ylabel=label)
    axes[0].set(ylim=(0, 1))
    axes[1].set(yscale="log")
    plain_numbers(axes[1].yaxis)
    axes[1].legend()
    return figure


def pareto(table: pd.DataFrame, d_in: int) -> plt.Figure:
    """Draw reconstruction against sparsity, from columns name, l0, explained_variance, problems.

    A row is a dictionary; those of one name are joined. Hollow markers have problems: they are
    not sparse, or over a tenth of their features are dead or dense.
    """
    figure, axis = plt.subplots(figsize=(PAGE, 4.2), layout="constrained")
    axis.axvline(d_in, color="black", lw=0.8, ls=":")
    axis.text(d_in, 0.02, " as many as dimensions", rotation=90, fontsize="small", va="bottom")
    for key, rows in table.groupby("name", sort=False):
        rows, (name, color, marker) = rows.sort_values("l0"), LOOKS[key]
        draw = partial(axis.plot, color=color, marker=marker, ms=13 if marker == "*" else 7)
        draw(rows["l0"], rows["explained_variance"], lw=0.8, mfc="white")
        rows = rows[rows["problems"] == ""]
        draw(rows["l0"], rows["explained_variance"], ls="", label=name)
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="L0 (features per position)")
    axis.set(ylabel="explained variance, held-out users")
    plain_numbers(axis.xaxis, (1, 2, 4))
    figure.legend(loc="outside right center")
    return figure


def dictionary_size(table: pd.DataFrame) -> plt.Figure:
    """Draw what a larger dictionary buys.

    Columns d_sae, explained_variance, dead_fraction, stability and stability_random.
    """
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
    name, color, marker = LOOKS["random"]
    axes[2].plot(table["d_sae"], table["stability_random"], f"{marker}--", color=color, label=name)
    axes[2].legend()
    return figure


def density(table: pd.DataFrame) -> plt.Figure:
    """Draw how often features fire: the share of test positions, on a logarithmic scale.

    Columns variant, density.
    """
    alive = table[table["density"] > 0]
    alive = alive.assign(variant=[LOOKS[key][0] for key in alive["variant"]])
    figure, axis = plt.subplots(figsize=(COLUMN, 2.8), layout="constrained")
    sns.histplot(
        alive, x="density", hue="variant", bins=40, log_scale=True, element="step", ax=axis,
        palette={name: color for name, color, _ in LOOKS.values()},
    )  # fmt: skip
    axis.set(xlabel="share of positions on which a feature fires", ylabel="features")
    sns.move_legend(axis, "upper left", title="")
    return figure


def replacement_cost(table: pd.DataFrame) -> plt.Figure:
    """Draw NDCG@10 when hidden states are replaced, from columns replacement, ndcg@10."""
    figure, axis = plt.subplots(figsize=(COLUMN, 0.35 * len(table) + 0.8), layout="constrained")
    names, colors, _ = zip(*(LOOKS[key] for key in table["replacement"]), strict=True)
    axis.bar_label(axis.barh(names, table["ndcg@10"], color=colors), fmt=" %.3f", size="small")
    axis.invert_yaxis()
    axis.set(xlabel="NDCG@10, test users", ylabel="", xlim=(0, 1.2 * table["ndcg@10"].max()))
    return figure
