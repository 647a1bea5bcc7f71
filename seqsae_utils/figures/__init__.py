"""Every figure of the notebooks: one function each, drawn from a tidy table, a module a notebook.

`save` is the one door: it writes the figure as PNG and PDF and its table as CSV, so that
whatever is plotted can be checked, and drawn again by other means.

A notebook imports its own chapter (``from seqsae_utils.figures import sae as plots``), so that
another look of one chapter does not make the others run again.
"""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullLocator

from ..workspace import Workspace

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


def plain_numbers(axis: Axis, multiples: tuple[int, ...] = (1, 2, 5)) -> None:
    """Mark a logarithmic axis at these multiples of powers of ten, without exponents."""
    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_minor_locator(NullLocator())


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
