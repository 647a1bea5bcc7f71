"""Every figure of the notebooks: one function each, from a tidy table, a module a notebook."""

import warnings
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullLocator

from ..workspace import Workspace

#: Width of a text column and of a page, in inches.
COLUMN, PAGE = 4.6, 9.2
#: Okabe and Ito's colours, and three of Paul Tol's: colour-blind readers can tell them apart.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#8A8A8A",
)  # fmt: skip
WINE, TEAL, OLIVE, BROWN = "#882255", "#44AA99", "#999933", "#661100"
INDIGO, BLACK = "#332288", "#000000"
#: The colour of a representation or method, in all figures, by how its name begins.
COLORS = {
    "neuron": ORANGE, "gpt2_neurons": ORANGE, "pca": YELLOW, "ica": GREEN, "kmeans": OLIVE,
    "random": GREY, "sae": BLUE, "gpt2_sae": BLUE, "sae_random_model": SKY, "sae_static": PURPLE,
    "sae_svd": PURPLE, "sae_decayed": BROWN, "decayed": BROWN, "shares": BLACK, "sae_shuffled": SKY,
    "diffmean": RED, "probe": OLIVE, "output_direction": TEAL, "rerank": WINE,
    "popsteer": PURPLE, "penalty": BROWN,
}  # fmt: skip
#: How figures and tables call the recommenders.
NAMES = {
    "popularity": "popularity", "popular_7": "popularity, 7 days",
    "popular_30": "popularity, 30 days", "popular_90": "popularity, 90 days",
    "popular_7_then": "popularity, 7 days before it",
    "popular_30_then": "popularity, 30 days before it",
    "popular_90_then": "popularity, 90 days before it",
    "item_knn": "item neighbours", "ease": "EASE",
    "sasrec": "SASRec", "gpt2": "GPT-2", "ligr": "LiGR", "bert4rec": "BERT4Rec",
}  # fmt: skip
#: Typefaces with other scripts than ours, for titles of one's own data; one that is here is taken.
OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "PingFang SC",
    "WenQuanYi Zen Hei", "Microsoft YaHei", "Hiragino Sans", "Yu Gothic", "Malgun Gothic",
    "Noto Sans Arabic", "Noto Sans Devanagari", "Arial Unicode MS",
)  # fmt: skip


def color(name: str) -> str:
    """The colour of a representation or method: that of the longest beginning in `COLORS`.

    >>> color("sae_several") == color("sae"), color("sae_svd") == color("sae"), color("own")
    (True, False, '#8A8A8A')
    """
    return COLORS[max((key for key in COLORS if name.startswith(key)), key=len, default="random")]


def style() -> None:
    """Set the look of all figures: call once, at the top of a notebook."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=PALETTE,
        font_scale=0.85,
        rc={
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "grid.linewidth": 0.5,
            "legend.frameon": False,
            "text.parse_math": False,  # "$$" is a price, not mathematics
            "pdf.fonttype": 42,
        },
    )
    here = font_manager.get_font_names()
    plt.rcParams["font.family"] = ["sans-serif", *(name for name in OTHER_SCRIPTS if name in here)]


def plain_numbers(axis: Axis, multiples: tuple[int, ...] = (1, 2, 5)) -> None:
    """Mark a logarithmic axis at these multiples of powers of ten, without exponents."""
    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_minor_locator(NullLocator())


def name_rows(axis: plt.Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a figure from the top downwards, and draw no line along them."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def claims(table: pd.DataFrame) -> plt.Figure:
    """How many times as good as their best baseline the results are, from `claims.figure_table`.

    A row a claim, below its question; a mark a dataset, the last filled; lines: 95 % intervals.
    """
    questions = list(dict.fromkeys(table["question"]))
    sizes = [table.loc[table["question"] == question, "row"].nunique() for question in questions]
    figure, axes = plt.subplots(
        len(questions), 1, figsize=(PAGE, 0.3 * sum(sizes) + 1.8), sharex=True, height_ratios=sizes
    )
    names = list(dict.fromkeys(table["data"]))
    for axis, (question, of) in zip(axes, table.groupby("question", sort=False), strict=True):
        rows = list(dict.fromkeys(of["row"]))
        for name, fill, shift in zip(names, ("white", BLUE), (0.15, -0.15), strict=True):
            own = of[of["data"] == name]
            y = own["row"].map(rows.index) + shift
            axis.hlines(y, own["ratio_low"], own["ratio_high"], color=BLUE, linewidth=1.5)
            axis.plot(own["ratio"], y, "o", color=BLUE, mfc=fill, ms=7, label=name)
        axis.axvline(1, color=BLACK, linewidth=1)
        axis.set(title=question, xscale="log")
        name_rows(axis, rows)
    axes[-1].set_xticks([0.5, 0.7, 1, 1.5, 2, 3, 4], ["0.5", "0.7", "1", "1.5", "2", "3", "4"])
    axes[-1].xaxis.set_minor_locator(NullLocator())
    axes[-1].set(
        xlabel="times as good as the best baseline of its kind (right of the line: better)"
    )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def save(figure: plt.Figure, table: pd.DataFrame, name: str, workspace: Workspace) -> None:
    """Write PNG, PDF and table as CSV, without dates: the same bytes each time; then show it.

    A UserWarning says that no typeface here has some of its characters.
    """
    folder = workspace.figures
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "tables" / f"{name}.csv", index=False, float_format="%.6g")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Producer": None})
        plt.show()
        plt.close(figure)
    missing = [str(w.message) for w in said if "missing from font" in str(w.message)]
    for other in (w for w in said if str(w.message) not in missing):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if missing:
        warnings.warn(
            f"{name}: no typeface here has {len({*missing})} of its characters, which are drawn as "
            "boxes (tables have them): install one, as Noto Sans CJK, and run the notebook again",
            stacklevel=2,
        )
