"""Figures of notebook 4: dictionaries, what they keep and what they cost."""

from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from . import BLACK, BLUE, COLUMN, GREY, OLIVE, PAGE, PURPLE, RED, TEAL, WINE, plain_numbers

#: Name, colour and marker of each dictionary, and of what else replaces a hidden state.
LOOKS = {
    "topk": ("TopK", BLUE, "D"),
    "relu": ("ReLU + L1", RED, "o"),
    "gated": ("Gated", TEAL, "s"),
    "jumprelu": ("JumpReLU", OLIVE, "^"),
    "batchtopk": ("BatchTopK", PURPLE, "v"),
    "matryoshka": ("Matryoshka", WINE, "<"),
    "kept": ("kept", BLUE, "D"),
    "paper": ("paper's settings", RED, "*"),  # ReLU + L1, too
    "random": ("random directions", GREY, "x"),
    "original": ("untouched", BLACK, "o"),
    "mean": ("mean state", "#BBBBBB", "o"),
}


def pareto(table: pd.DataFrame, d_in: int) -> plt.Figure:
    """Draw reconstruction against sparsity, from columns name, l0, explained_variance, problems.

    A row is a dictionary; those of one name are joined. Hollow markers have problems: they are not
    sparse, or over a tenth of their features are dead or dense.
    """
    figure, axis = plt.subplots(figsize=(PAGE, 4.2))
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


def density(table: pd.DataFrame) -> plt.Figure:
    """Draw how often features fire (share of test positions), from columns variant, density."""
    alive = table.query("density > 0").assign(variant=lambda t: [LOOKS[v][0] for v in t["variant"]])
    figure, axis = plt.subplots(figsize=(COLUMN, 2.8))
    if len(alive):
        colors = {name: color for name, color, _ in LOOKS.values()}
        draw = partial(sns.histplot, bins=40, log_scale=True, element="step", palette=colors)
        draw(alive, x="density", hue="variant", ax=axis)
        sns.move_legend(axis, "upper left", title="")
    axis.set(xlabel="share of positions on which a feature fires", ylabel="features")
    axis.xaxis.set_major_formatter("{x:g}")
    return figure


def replacement_cost(table: pd.DataFrame) -> plt.Figure:
    """Draw NDCG@10 when hidden states are replaced, from columns replacement, ndcg@10."""
    figure, axis = plt.subplots(figsize=(COLUMN, 0.35 * len(table) + 0.8))
    names, colors, _ = zip(*(LOOKS[key] for key in table["replacement"]), strict=True)
    axis.bar_label(axis.barh(names, table["ndcg@10"], color=colors), fmt=" %.3f", size="small")
    axis.invert_yaxis()
    axis.grid(visible=False)  # its lines would strike the numbers out
    axis.locator_params(axis="x", nbins=4)
    axis.set(xlabel="NDCG@10, test users", ylabel="", xlim=(0, 1.2 * table["ndcg@10"].max()))
    return figure
