"""Every figure of the notebooks: one function each, drawn from a tidy table.

`save` is the one door: it writes the figure as PNG and PDF and its table as CSV, so that
whatever is plotted can be checked, and drawn again by other means.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator, NullLocator

from .workspace import Workspace

#: Width of a text column and of a page, in inches.
COLUMN, PAGE = 4.6, 9.2
#: Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#8A8A8A",
)  # fmt: skip


def style() -> None:
    """Set the look of all figures: call once, at the top of a notebook."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY],
        font_scale=0.85,
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "grid.linewidth": 0.5,
            "legend.frameon": False,
            "pdf.fonttype": 42,
        },
    )


def save(figure: plt.Figure, table: pd.DataFrame, name: str, workspace: Workspace) -> None:
    """Write ``<name>.png``, ``<name>.pdf`` and ``tables/<name>.csv`` of the profile, then show it.

    The files hold no dates and no versions: the same figure gives the same bytes.
    """
    folder = workspace.figures
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "tables" / f"{name}.csv", index=False, float_format="%.6g")
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Producer": None})
    plt.show()
    plt.close(figure)


# 01_data


def long_tail(table: pd.DataFrame) -> plt.Figure:
    """Draw how unevenly interactions fall on items, from columns rank, interactions, share.

    `share` is that of all interactions which fall on this item and the more popular ones.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 3.2), layout="constrained")
    left.loglog(table["rank"], table["interactions"].clip(lower=1), color=BLUE, lw=2)
    left.set(xlabel="rank of the item", ylabel="interactions")
    items = 100 * table["rank"] / len(table)
    right.plot(items, 100 * table["share"], color=BLUE, lw=2, label="as it is")
    right.plot([0, 100], [0, 100], color=GREY, ls="--", label="if all items were alike")
    right.set(xlabel="most popular items [% of the catalogue]", ylabel="interactions [%]")
    right.set(xlim=(0, 100), ylim=(0, 102))
    right.legend(loc="lower right")
    return figure


def sequence_lengths(table: pd.DataFrame) -> plt.Figure:
    """Draw the share of users with at least so many items, from columns split, length, users."""
    figure, axes = plt.subplots(figsize=(COLUMN, 3.2), layout="constrained")
    dashes = ("-", "--", ":")
    for (split, group), dash in zip(table.groupby("split"), dashes, strict=True):
        group = group.sort_values("length")
        longer = group["users"][::-1].cumsum()[::-1] / group["users"].sum()
        label = f"{split} ({group['users'].sum():,})"
        axes.step(group["length"], 100 * longer, dash, where="pre", lw=2, label=label)
    axes.set(xscale="log", xlabel="items in the sequence", ylabel="users with at least so many [%]")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(title="users")
    return figure


def attribute_overlap(table: pd.DataFrame, most: int = 20) -> plt.Figure:
    """Draw frequency and overlap of attributes, from columns attribute, other, items, share.

    `items` carry both; `share` is that among the items which carry `attribute`. A row whose
    `other` is the attribute itself has its frequency. Only the `most` frequent are drawn.
    """
    names = table["attribute"].drop_duplicates().head(most)
    share = table.pivot(index="attribute", columns="other", values="share").loc[names, names]
    alone = table[table["attribute"] == table["other"]].set_index("attribute").loc[names, "items"]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE, 1.6 + 0.26 * len(names)), width_ratios=(1, 2.6), layout="constrained"
    )
    left.barh(names, alone, color=BLUE)
    left.set(xlabel="items", ylim=(len(names) - 0.5, -0.5))
    left.grid(axis="y", visible=False)
    off_diagonal = 100 * share.mask(np.eye(len(names), dtype=bool))
    sns.heatmap(
        off_diagonal, ax=right, cmap="cividis", vmin=0, yticklabels=False,
        cbar_kws={"label": "items of the row that carry the column [%]"},
    )  # fmt: skip
    right.set(xlabel="", ylabel="")
    right.set_facecolor("white")
    right.grid(False)
    right.tick_params(axis="x", rotation=90)
    return figure


# 02_recommender


def learning_curve(history: pd.DataFrame) -> plt.Figure:
    """Training loss and validation NDCG@10 by epoch; the epoch that was kept is marked.

    Columns epoch, loss, ndcg@10, and where there are several of them, model.
    """
    models = history.assign(model="") if "model" not in history else history
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    for axis, column, label in zip(
        axes, ("loss", "ndcg@10"), ("training loss (nats)", "validation NDCG@10"), strict=True
    ):
        looks = zip(sns.color_palette(), ("-", "--", "-.", ":"), strict=False)
        for (name, epochs), (color, line) in zip(
            models.groupby("model", sort=False), looks, strict=False
        ):
            best = epochs.loc[epochs["ndcg@10"].idxmax()]
            kept = f"kept: epoch {best['epoch']:.0f}"
            axis.plot(epochs["epoch"], epochs[column], line, color=color)
            axis.plot(
                *(best["epoch"], best[column]), line, color=color, marker="o",
                label=f"{name}, {kept}" if name else kept,
            )  # fmt: skip
        axis.set(xlabel="epoch", ylabel=label)
    axes[1].legend(loc="lower right")
    return figure


def where(table: pd.DataFrame) -> plt.Figure:
    """Which model wins where: NDCG@10 of each group of users, one panel for each grouping.

    Columns model, by (what groups the users), group, mean, low, high; in the order of the rows.
    """
    groupings = list(table.groupby("by", sort=False))
    models = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(
        1, len(groupings), figsize=(PAGE, 3.2), layout="constrained", sharey=True, squeeze=False
    )
    looks = list(zip(sns.color_palette(), "osD^vPX*", strict=True))
    for axis, (name, panel) in zip(axes[0], groupings, strict=True):
        groups = list(dict.fromkeys(panel["group"]))
        for i, model in enumerate(models):
            rows = panel[panel["model"] == model].set_index("group").loc[groups]
            color, marker = looks[i % len(looks)]
            axis.errorbar(
                np.arange(len(groups)) + (i - (len(models) - 1) / 2) * 0.6 / len(models),
                rows["mean"],
                [rows["mean"] - rows["low"], rows["high"] - rows["mean"]],
                linestyle="", marker=marker, color=color, elinewidth=1.5, label=model,
            )  # fmt: skip
        axis.set(xlabel=name, xticks=range(len(groups)), xlim=(-0.5, len(groups) - 0.5))
        axis.set_xticklabels(groups)
        axis.grid(axis="x", visible=False)
    axes[0, 0].set(ylabel="NDCG@10")
    axes[0, 0].set_ylim(bottom=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


# 03_activations


def hidden_states(norms: pd.DataFrame, spectrum: pd.DataFrame) -> plt.Figure:
    """How long hidden states are, and over how many directions their variance spreads."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    sns.histplot(norms, x="norm", bins=60, ax=axes[0], color=BLUE, edgecolor=None)
    axes[0].set(xlabel="norm of the normalised hidden state", ylabel="positions")
    axes[1].plot(spectrum["component"], spectrum["cumulative_variance"], color=BLUE)
    axes[1].axhline(0.9, color=GREY, linestyle=":", linewidth=1)
    axes[1].set(xlabel="principal components", ylabel="share of variance", ylim=(0, 1.02))
    return figure


def probe(table: pd.DataFrame) -> plt.Figure:
    """AUC of a linear probe for each attribute, beside the same probe on meaningless labels."""
    table = table.sort_values("auc")
    figure, axis = plt.subplots(figsize=(COLUMN, 0.21 * len(table) + 0.9), layout="constrained")
    axis.hlines(table["attribute"], table["auc_shuffled"], table["auc"], color=GREY, linewidth=1)
    axis.plot(
        table["auc_shuffled"], table["attribute"], "o", color=ORANGE, label="items' labels permuted"
    )
    axis.plot(table["auc"], table["attribute"], "o", color=BLUE, label="true labels")
    axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    axis.set(xlabel="AUC of a linear probe, test users", ylabel="")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def sites(table: pd.DataFrame) -> plt.Figure:
    """AUC of a linear probe at each site, for attributes of the current and of the next item.

    Ticks are attributes, marks their means; crosses are the means for permuted attributes.
    """
    order = list(dict.fromkeys(table["site"]))
    figure, axis = plt.subplots(figsize=(COLUMN, 0.5 * len(order) + 1.2), layout="constrained")
    looks = {"current": (-0.17, BLUE, "o"), "next": (0.17, ORANGE, "D")}
    for target, (shift, color, marker) in looks.items():
        group = table[table["target"] == target]
        y = shift + np.array([order.index(site) for site in group["site"]])
        axis.plot(group["auc"], y, "|", color=color, alpha=0.5, markersize=7)
        mean = group.groupby("site")[["auc", "auc_shuffled"]].mean().loc[order]
        y = shift + np.arange(len(order))
        axis.plot(mean["auc"], y, marker, color=color, markeredgecolor="white", markersize=8,
                  label=f"{target} item")  # fmt: skip
        axis.plot(mean["auc_shuffled"], y, "x", color="black", markersize=5,
                  label="attributes permuted" if target == "next" else None)  # fmt: skip
    axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    axis.set_yticks(range(len(order)), order)
    axis.set(xlabel="AUC of a linear probe, test users", ylim=(len(order) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure


# 04_sae


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


# 05_interpretability

BASES = {
    "neurons": "hidden dimensions",
    "pca": "principal components",
    "random_directions": "random dictionary",
    "sae": "SAE features",
}
BASIS_COLORS = dict(zip(BASES, (ORANGE, GREY, SKY, BLUE), strict=True))


def paired_bars(table: pd.DataFrame) -> plt.Figure:
    """The paper's figure: for each attribute the best hidden dimension beside the best feature.

    A tick marks the best feature of an untrained dictionary of the same size and sparsity.
    """
    wide = table.pivot(index="attribute", columns="basis", values="correlation")
    wide = wide.sort_values("sae", ascending=False)
    x = np.arange(len(wide))
    figure, axis = plt.subplots(figsize=(PAGE, 3.4), layout="constrained")
    for shift, basis in ((-0.2, "neurons"), (0.2, "sae")):
        axis.bar(x + shift, wide[basis], 0.4, label=BASES[basis], color=BASIS_COLORS[basis])
    axis.plot(x, wide["random_directions"], "_", color="black", markersize=16, markeredgewidth=2,
              label=BASES["random_directions"])  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_xticks(x, wide.index, rotation=40, ha="right")
    axis.set(ylabel="correlation, test users")
    axis.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def bases(table: pd.DataFrame) -> plt.Figure:
    """Mean over attributes of the best feature's score, by basis, with what chance gives."""
    order = [basis for basis in BASES if basis in set(table["basis"])]
    table = table.set_index("basis").loc[order]
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.42 * len(order) + 1.1), layout="constrained")
    for axis, name, label in zip(
        axes, ("max_correlation", "max_auc"), ("correlation", "AUC"), strict=True
    ):
        for y, (basis, row) in enumerate(table.iterrows()):
            axis.plot(
                [row[f"{name}_low"], row[f"{name}_high"]],
                [y, y],
                color=BASIS_COLORS[basis],
                linewidth=3,
            )
            axis.plot(row[name], y, "o", color=BASIS_COLORS[basis], markersize=8)
            if name == "max_correlation":
                axis.plot(row["null_correlation"], y, "x", color="black",
                          label="attributes permuted" if y == 0 else None)  # fmt: skip
        axis.set_yticks(range(len(order)), [BASES[basis] for basis in order])
        axis.set(
            xlabel=f"{label} of the best feature, mean over attributes",
            ylim=(len(order) - 0.5, -0.5),
        )
        axis.grid(axis="y", visible=False)
    axes[1].set_yticklabels([])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left")
    return figure


def feature_page(histogram: pd.DataFrame, promoted: pd.DataFrame, title: str) -> plt.Figure:
    """One feature: how strongly it fires with and without its attribute, and what it promotes."""
    figure, axes = plt.subplots(
        1, 2, figsize=(PAGE, 3.0), layout="constrained", width_ratios=(1, 1)
    )
    sns.histplot(
        histogram, x="activation", hue="group", bins=40, multiple="stack", ax=axes[0],
        palette=[BLUE, GREY], edgecolor=None,
    )  # fmt: skip
    axes[0].set(xlabel="activation where it fires", ylabel="positions")
    axes[0].get_legend().set_title("")
    promoted = promoted.iloc[::-1]
    colors = [BLUE if has else GREY for has in promoted["has_attribute"]]
    titles = [textwrap.shorten(title, 34, placeholder="…") for title in promoted["title"]]
    titles = [title.replace("$", r"\$") for title in titles]  # money is not mathematics
    axes[1].barh(titles, promoted["logit"], color=colors)
    axes[1].set(xlabel="logit gained per unit", ylabel="")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


# 06_control

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
