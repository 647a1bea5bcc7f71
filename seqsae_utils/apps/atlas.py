"""The feature atlas: every feature on a page of its own, in one HTML file that needs no network.

The file holds titles and parts of users' histories, which the licence of a dataset may forbid to
pass on: it lies in ``artifacts/``, which is never committed. What a browser does with the content
is in ``atlas.html``, beside this module.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from .. import activations, data, interpretability, recommender, sae
from ..workspace import Workspace, write_text

TEMPLATE = Path(__file__).with_name("atlas.html")
#: The line of the template that gives way to the content.
PLACE = "__CONTENT__"
#: Rows of a list of items, bars of a histogram, and links to other features, on one page.
N_ITEMS, N_BARS, N_NEAREST = 10, 24, 8
#: Histories on a page, and interactions before and after the strongest one of each.
N_HISTORIES, BEFORE, AFTER = 3, 8, 3
#: What the page can tell of a feature, where it is known.
COLUMNS = (
    "feature", "label", "kind", "confidence", "evidence", "density", "attribute", "correlation",
    "selectivity", "coherence", "item_share", "promotes", "effect",
)  # fmt: skip
#: The lists of items on a page.
LISTS = ("top", "promoted", "suppressed")


def build(workspace: Workspace) -> Path:
    """Write the atlas of a profile into ``artifacts/<profile>/atlas.html``; returns its path.

    Raises
    ------
    StageError
        If a stage that it reads is missing or was altered; the message says what repairs it.
    """
    dataset = data.load(workspace.load("data"))
    model = recommender.load(workspace.load("recommender"))
    dictionary = sae.load(workspace.load("sae"))
    folder = workspace.load("activations")
    states, index = activations.load(folder, "test")
    file = workspace.artifacts / "atlas.html"
    write(
        file,
        workspace.label,
        pd.read_parquet(workspace.load("interpretability") / "features.parquet"),
        dictionary.W_dec.detach().numpy(),
        model.head.detach().numpy(),
        sae.encode(dictionary, states),
        index,
        dataset.items,
    )
    return file


def write(
    file: Path,
    label: str,
    features: pd.DataFrame,
    directions: NDArray,
    head: NDArray,
    codes: sparse.csr_array,
    index: pd.DataFrame,
    items: pd.DataFrame,
) -> None:
    """Write the atlas: complete or not at all, and the same bytes for the same input.

    Parameters
    ----------
    label
        Name of the dataset, for the heading.
    features
        One row a feature, in the order of the dictionary: feature, density, and what else is
        known of it (`COLUMNS`). The page leaves out a column that is lacking.
    directions, head
        Decoder directions [d_sae, d_in]; item embedding [n_items + 1, d_in], row 0 is padding.
    codes, index
        [n_positions, d_sae] of the test users; and whose the positions are: user, item, position,
        sorted by user and position.
    items
        The catalogue: item (1 to n_items), title, attributes (joined by ``|``), year.

    Raises
    ------
    ValueError
        If the features are not those of the dictionary.
    """
    if not len(features) == len(directions) == codes.shape[1]:
        raise ValueError(
            f"{len(features)} rows in the table of features, {len(directions)} directions, "
            f"{codes.shape[1]} columns of codes: expected the same number, of one dictionary"
        )
    found = content(label, features, directions, head, codes, index, items)
    # A title may hold what ends a script; in JSON, and nowhere else, this is the same character.
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    page = TEMPLATE.read_text(encoding="utf-8").replace(PLACE, text.replace("<", "\\u003c"))
    write_text(file, page)


def content(label, features, directions, head, codes, index, items) -> dict:
    """What the page shows, ready for JSON: a table of columns, the items, and a page a feature.

    The arguments are those of `write`. Items are numbered by their place in the list ``items``,
    which has only those that are shown: title, year, attributes.
    """
    user, item, position = (index[name].to_numpy() for name in ("user", "item", "position"))
    tops = interpretability.top_items(codes, item, int(items["item"].max()), N_ITEMS)
    of_feature = dict(list(tops.groupby("feature")[["item", "activation", "positions"]]))
    logits = interpretability.logit_lens(directions, head)[:, 1:]
    codes = sparse.csc_array(codes)
    pages: list[dict] = []
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-12)
    alive = np.asarray((codes > 0).sum(axis=0)).ravel() > 0
    for feature in range(len(directions)):
        rows, values = _column_of(codes, feature)
        pages.append(
            {
                "positions": len(rows),
                "strongest": _short(values.max(initial=0)),
                "histogram": _histogram(values),
                "top": [
                    [int(i), _short(mean), int(n)]
                    for i, mean, n in of_feature.get(feature, tops.iloc[:0]).itertuples(False, None)
                ],
                "histories": _histories(rows, values, user, item, position),
                **_promoted(logits[feature]),
                "nearest": _nearest(unit, alive, feature),
            }
        )
    shown = _shown(pages)
    described = items.set_index("item").loc[shown, ["title", "year", "attributes"]]
    place = {item: number for number, item in enumerate(shown)}
    for page in pages:
        for name in LISTS:
            page[name] = [[place[item], *numbers] for item, *numbers in page[name]]
        for history in page["histories"]:
            history["items"] = [place[item] for item in history["items"]]
    return {
        "label": label,
        "n_positions": len(index),
        "n_users": int(index["user"].nunique()),
        "table": {name: _column(features[name]) for name in COLUMNS if name in features},
        "items": [
            [title, None if pd.isna(year) else int(year), attributes.replace("|", ", ")]
            for title, year, attributes in described.itertuples(index=False)
        ],
        "pages": pages,
    }


def _short(value: float) -> float:
    """Three significant digits: more would be bytes that nobody reads."""
    return float(f"{value:.3g}")


def _column(column: pd.Series) -> list:
    """A column as plain values; what is missing is null."""
    if pd.api.types.is_float_dtype(column):
        return [_short(value) if np.isfinite(value) else None for value in column]
    return [None if pd.isna(value) else value for value in column.tolist()]


def _column_of(matrix: sparse.csc_array, feature: int) -> tuple[NDArray, NDArray]:
    """Rows in which a column is positive, in order, and its values there."""
    entries = slice(matrix.indptr[feature], matrix.indptr[feature + 1])
    rows, values = matrix.indices[entries], matrix.data[entries]
    return rows[values > 0], values[values > 0]


def _histogram(values: NDArray) -> list[int]:
    """Positions by activation, in `N_BARS` equal steps from 0 to the strongest."""
    if not len(values):
        return []
    return np.histogram(values, bins=N_BARS, range=(0, values.max()))[0].tolist()


def _histories(rows, values, user, item, position) -> list[dict]:
    """What the users with the strongest activations had around these, and how the feature fired.

    `rows` and `values` are where it fires and how much; `user`, `item` and `position` are those
    of all positions, [n_positions]. A history is counted from 1, as readers count.
    """
    fires = np.zeros(len(user))
    fires[rows] = values
    strongest = rows[np.argsort(-values, kind="stable")]
    _, first = np.unique(user[strongest], return_index=True)
    histories = []
    for peak in strongest[np.sort(first)[:N_HISTORIES]]:
        start, end = np.searchsorted(user, [user[peak], user[peak] + 1])
        start, last = max(start, peak - BEFORE), end - 1
        window = slice(start, min(end, peak + AFTER + 1))
        histories.append(
            {
                "user": int(user[peak]),
                "first": int(position[start]) + 1,
                "of": int(position[last]) + 1,
                "peak": int(peak - start),
                "items": item[window].tolist(),
                "activations": [_short(value) for value in fires[window]],
            }
        )
    return histories


def _promoted(logits: NDArray) -> dict[str, list]:
    """Items that gain and lose most: [item, logit over the average item, per unit of a feature]."""
    order = np.argsort(-logits, kind="stable")
    found = {"promoted": order[:N_ITEMS], "suppressed": order[::-1][:N_ITEMS]}
    return {name: [[int(i) + 1, _short(logits[i])] for i in best] for name, best in found.items()}


def _nearest(unit: NDArray, alive: NDArray, feature: int) -> list[list]:
    """The alive features whose directions are most alike: [feature, cosine]."""
    cosine = unit @ unit[feature]
    order = np.argsort(-cosine, kind="stable")
    order = order[alive[order] & (order != feature)][:N_NEAREST]
    return [[int(other), round(float(cosine[other]), 2)] for other in order]


def _shown(pages: list[dict]) -> list[int]:
    """The items that any page shows, in order."""
    items = {item for page in pages for name in LISTS for item, *_ in page[name]}
    return sorted(items.union(*(h["items"] for page in pages for h in page["histories"])))
