"""Figures of notebook 6: what happens when a knob is turned."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba

from ..control import METHODS
from ..control.curves import MOST
from . import BLACK, BLUE, GREY, PAGE, color, name_rows

#: The lines of figures in which few methods stand for all.
LINES = {
    "sae_feature": "o--", "sae_several": "o-", "diffmean": "s--", "rerank": "^-.", "random": "x:",
}  # fmt: skip
#: Attributes beside the steered one that a figure has room for.
MOST_ROWS = 20


def _curve(axis, table: pd.DataFrame, x: str, y: str, line: str, shade, label: str) -> None:
    """Draw a column against another, with the band between its ``_low`` and ``_high`` if any."""
    fill = "white" if "--" in line else shade
    axis.plot(table[x], table[y], line, color=shade, label=label, ms=4, mfc=fill)
    if f"{y}_low" in table:
        low, high = table[f"{y}_low"], table[f"{y}_high"]
        axis.fill_between(table[x], low, high, color=shade, alpha=0.12, linewidth=0)


def dose_response(curves: pd.DataFrame) -> plt.Figure:
    """Share of the attribute, change of NDCG@10, coverage, by strength: rows of `measure`.

    A column an attribute; the same rows but for the share are the work of the same feature.
    """
    labels = {
        "share": "share in\nthe top 10",
        "ndcg_change": "change of\nNDCG@10",
        "coverage": "catalogue\nrecommended",
    }
    groups = dict(list(curves.groupby("attribute", sort=False)))
    figure, axes = plt.subplots(
        3, len(groups), figsize=(PAGE, 4.6), sharex=True, sharey="row", squeeze=False
    )
    first = {}  # which attribute was turned with the feature that gives these lists
    for column, (attribute, curve) in zip(axes.T, groups.items(), strict=True):
        for axis, (name, label) in zip(column, labels.items(), strict=True):
            _curve(axis, curve, "strength", name, "o-", color(curve["method"].iloc[0]), attribute)
            for line in (axis.axhline, axis.axvline):
                line(0, color=GREY, linestyle=":", linewidth=1)
            axis.set(ylabel=label if axis in axes[:, 0] else "")
        column[0].set_title(attribute)
        other = first.setdefault(tuple(curve[["ndcg", "coverage"]].stack()), attribute)
        if other != attribute:
            column[0].text(0.03, 0.97, f"the feature\nof {other}", va="top", fontsize="small",
                           transform=column[0].transAxes)  # fmt: skip
    figure.supxlabel("strength (standard deviations)", fontsize="medium")
    return figure


def gain_against_loss(curves: pd.DataFrame) -> plt.Figure:
    """NDCG@10 that each method keeps against what it gains of the attribute: rows of `measure`.

    The vertical line is the gain up to which `areas` measures.
    """
    attributes = list(dict.fromkeys(curves["attribute"]))
    n_columns = min(3, len(attributes))
    n_rows = -(-len(attributes) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(PAGE, 2.3 * n_rows + 0.7), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axis, attribute in zip(axes.ravel(), attributes, strict=False):
        for method, line in LINES.items():
            curve = curves[(curves["attribute"] == attribute) & (curves["method"] == method)]
            curve = curve[curve["strength"] >= 0].sort_values("strength")
            if curve.empty:
                continue
            untouched = curve.iloc[0]
            kept = {"gain": 100 * (curve["share"] - untouched["share"])}
            kept["kept"] = 100 * curve["ndcg"] / untouched["ndcg"]
            for end in ("_low", "_high") if method in ("sae_several", "rerank") else ():
                kept[f"kept{end}"] = 100 * (1 + curve[f"ndcg_change{end}"] / untouched["ndcg"])
            _curve(axis, pd.DataFrame(kept), "gain", "kept", line, color(method), METHODS[method])
        axis.axvline(100 * MOST, color=BLACK, linestyle=":", linewidth=1)
        axis.axhline(100, color=GREY, linestyle=":", linewidth=1)
        axis.set_title(attribute)
    axes[0, 0].set_ylim(0)  # of all panels
    figure.supylabel("NDCG@10 kept (%)", fontsize="medium")
    figure.supxlabel("gained share of the top 10 (points)", fontsize="medium")
    for axis in axes.ravel()[len(attributes) :]:
        axis.remove()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def side_effects(table: pd.DataFrame) -> plt.Figure:
    """Change of other attributes' shares, in points, by two methods at the same gain of one.

    A panel for each steered attribute; rows of `at_same_gain`. Of many attributes the `MOST_ROWS`
    that move furthest are drawn.
    """
    table = table.assign(**{name: 100 * table[name] for name in ("change", "low", "high")})
    beside = table[table["attribute"] != table["other"]]
    furthest = beside["change"].abs().groupby(beside["other"]).max().nlargest(MOST_ROWS).index
    others = [name for name in dict.fromkeys(table["other"]) if name in furthest]
    methods, attributes = (list(dict.fromkeys(table[key])) for key in ("method", "attribute"))
    n_columns = min(3, len(attributes))
    n_rows = -(-len(attributes) // n_columns)
    size = (PAGE, n_rows * (0.19 * len(others) + 0.5) + 0.8)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for axis, attribute in zip(axes.ravel(), attributes, strict=False):
        for method, marker, shift in zip(methods, "o^", (-0.17, 0.17), strict=True):
            rows = table[(table["attribute"] == attribute) & (table["method"] == method)]
            rows, y = rows.set_index("other"), shift + np.arange(len(others))
            if method == methods[0]:
                gain, low, high = rows.loc[attribute, ["change", "low", "high"]]
                axis.set_title(f"{attribute} {gain:+.0f} [{low:.0f}, {high:.0f}]")
            rows = rows.drop(attribute).reindex(others)
            axis.hlines(y, rows["low"], rows["high"], color=color(method), linewidth=1.2)
            axis.plot(rows["change"], y, marker, color=color(method), ms=4, label=METHODS[method])
        axis.axvline(0, color=BLACK, linewidth=0.6)
        name_rows(axis, others)
    figure.supxlabel("change of the share in the top 10 (points)", fontsize="medium")
    for axis in axes.ravel()[len(attributes) :]:
        axis.remove()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def areas(by_attribute: pd.DataFrame, by_method: pd.DataFrame, against: str) -> plt.Figure:
    """Area under kept NDCG against gain and lead of `against`, from `areas`; nulls are hollow."""
    order = by_method.sort_values("pareto_area")["method"].tolist()
    table = by_method.set_index("method").loc[order]
    rows = np.arange(len(order))
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 0.27 * len(order) + 1.2), sharey=True)
    spots = by_attribute["method"].map(order.index)
    left.plot(by_attribute["pareto_area"], spots, "|", color=GREY, alpha=0.6)
    for axis, column, flip in ((left, "pareto_area", 1), (right, "lead", -1)):
        low, point, high = (flip * table[f"{column}{end}"] for end in ("_low", "", "_high"))
        axis.hlines(rows, low, high, colors=[color(method) for method in order])
        for method, row in zip(order, rows, strict=True):
            null = method == "random" or method.endswith("permuted")
            fill = "white" if null else color(method)
            edge = "black" if method == against else color(method)
            axis.plot(point[method], row, "o", color=color(method), ms=5, mfc=fill, mec=edge)
    left.set(yticks=rows, yticklabels=[METHODS[method] for method in order])
    left.set(ylim=(-0.5, len(order) - 0.5))
    left.set(xlabel="area under kept NDCG@10\nagainst gained share", xlim=(0, None))
    right.axvline(0, color=GREY, linestyle=":", linewidth=1)
    lead = textwrap.fill(f"lead of “{METHODS[against]}” over it (right of the line: ahead)", 36)
    right.set(xlabel=lead)
    return figure


def dial(table: pd.DataFrame) -> plt.Figure:
    """How far lists are off the requested share, and how many reach it, from `dial_summary`."""
    labels = {
        "dial": ("solved for each user", BLUE, "o-"),
        "one strength": ("one strength for all", BLUE, "s--"),
        "untouched": ("untouched", "black", "^:"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.7))
    for how, (label, shade, line) in labels.items():
        rows = 100 * table[table["how"] == how].select_dtypes("number")
        for axis, column in zip(axes, ("error", "reached"), strict=True):
            _curve(axis, rows, "target", column, line, shade, label)
    axes[0].set(ylabel="mean absolute error (points)", ylim=(0, None))
    axes[1].set(ylabel="lists within half a place (%)", ylim=(0, 105))
    plt.setp(axes, xlabel="share asked for (%)")
    axes[0].legend()
    return figure


def one_list(table: pd.DataFrame) -> plt.Figure:
    """A user's titles by the share of an attribute that was requested, a sheet for each way.

    Columns of `control.one_list`, attribute and title.
    """
    long = r"^(.{26}).{2,}$"
    said = {"dial": ("knobs turned", "sd"), "rerank": ("scores raised", "logits")}
    figure, axes = plt.subplots(len(said), 1, figsize=(PAGE, 5.2))
    for axis, (way, (title, unit)) in zip(axes, said.items(), strict=True):
        lists = dict(list(table[table["way"] == way].groupby("target", sort=False)))
        heads = [f"{share:.0%}: {of['turned'].iloc[0]:+.1f} {unit}" for share, of in lists.items()]
        sheet = axis.table(
            np.column_stack(
                [of["title"].replace(long, r"\1…", regex=True) for of in lists.values()]
            ),
            colLabels=["untouched", *heads[1:]],
            cellLoc="left",
            bbox=(0, 0, 1, 1),
        )
        sheet.auto_set_font_size(False)
        for (row, column), cell in sheet.get_celld().items():
            cell.set(linewidth=0.3, edgecolor=GREY, fontsize=7)
            cell.PAD = 0.02
            has, kept = [*lists.values()][column].iloc[row - 1][["has", "kept"]] if row else (0, 1)
            cell.set_facecolor(to_rgba(BLUE, 0.25) if has else "white")
            cell.get_text().set_fontweight("bold" if kept else "normal")
        axis.set_title(f"{table['attribute'].iloc[0]}: {title}")
        axis.set_axis_off()
    figure.supxlabel("requested share of the list, and how far that turns", fontsize="medium")
    return figure


def serving(table: pd.DataFrame) -> plt.Figure:
    """Change of NDCG@10 as a knob is turned at moments at which it was asked for, from `served`."""
    figure, axis = plt.subplots(figsize=(0.6 * PAGE, 3.0))
    for method, rows in table.groupby("method", sort=False):
        rows = rows.rename(columns={"low": "change_low", "high": "change_high"})
        line = LINES.get(method, "o-")  # the knobs may be another method
        _curve(axis, rows, "strength", "change", line, color(method), METHODS[method])
    axis.axhline(0, color=GREY, linestyle=":", linewidth=1)
    axis.set(xlabel="strength", ylabel="change of NDCG@10")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
