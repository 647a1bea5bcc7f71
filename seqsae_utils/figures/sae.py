"""Figures of notebook 4: dictionaries, what they keep and what they cost."""

from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from . import BLACK, BLUE, COLUMN, GREY, INDIGO, PAGE, plain_numbers

#: Name, colour and marker of each dictionary, and of what else replaces a hidden state.
LOOKS = {
    "topk": ("TopK", BLUE, "D"),
    "relu": ("ReLU + L1", INDIGO, "o"),
    "gated": ("Gated", BLUE, "s"),
    "jumprelu": ("JumpReLU", BLUE, "^"),
    "batchtopk": ("BatchTopK", BLUE, "v"),
    "matryoshka": ("Matryoshka", BLUE, "<"),
    "kept": ("kept SAE", BLUE, "D"),
    "paper": ("paper's settings", INDIGO, "*"),  # ReLU + L1, too
    "random": ("random directions", GREY, "x"),
    "original": ("untouched", BLACK, "o"),
    "mean": ("mean state", "#BBBBBB", "o"),
}


def pareto(table: pd.DataFrame, d_in: int) -> plt.Figure:
    """Draw the variance that is lost against sparsity: name, l0, explained_variance, problems.

    A row is a dictionary; those of one name are joined. Hollow markers have problems: they are not
    sparse, or over a tenth of their features are dead or dense.
    """
    figure, axis = plt.subplots(figsize=(PAGE, 4.2))
    axis.axvline(d_in, color="black", lw=0.8, ls=":")
    axis.text(d_in, 100, " as many as dimensions", rotation=90, fontsize="small", va="top")
    for key, rows in table.groupby("name", sort=False):
        rows, (name, color, marker) = rows.sort_values("l0"), LOOKS[key]
        draw = partial(axis.plot, color=color, marker=marker, ms=13 if marker == "*" else 7)
        lost, fine = 100 * (1 - rows["explained_variance"]), rows["problems"] == ""
        draw(rows["l0"], lost, lw=0.8, mfc="white")
        draw(rows["l0"][fine], lost[fine], ls="", label=name)
    axis.set(xscale="log", yscale="log", xlabel="L0 (features per position)", ylim=(None, 100))
    axis.set(ylabel="variance that is lost, held-out users (%)")
    plain_numbers(axis.xaxis, (1, 2, 4))
    plain_numbers(axis.yaxis)
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
    """Draw what replacing hidden states costs: replacement, ndcg@10, top10_overlap.

    The two numbers have ``_low`` and ``_high``, the ends of the lines (95 %, over users).
    """
    labels = {"ndcg@10": "NDCG@10, test users", "top10_overlap": "share of the top 10 that stays"}
    names, colors, _ = zip(*(LOOKS[key] for key in table["replacement"]), strict=True)
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.3 * len(table) + 0.8), sharey=True)
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        high = table[f"{column}_high"]
        axis.barh(names, table[column], color=colors)
        for shade, width in (("white", 4), (BLACK, 1.5)):  # it is seen on dark bars, too
            axis.hlines(names, table[f"{column}_low"], high, color=shade, linewidth=width)
        for name, value, end in zip(names, table[column], high, strict=True):
            axis.text(end, name, f"  {value:.3f}", va="center", fontsize="small")
        axis.grid(visible=False)  # its lines would strike the numbers out
        axis.set(xlabel=label, xlim=(0, 1.2 * high.max()))
        axis.locator_params(axis="x", nbins=6)
    axes[0].invert_yaxis()
    return figure
