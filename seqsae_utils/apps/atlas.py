"""The feature atlas: every feature on a page of its own, in one HTML file that needs no network."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from .. import activations, control, data, interpretability, recommender, sae
from ..workspace import Workspace, write_text
from . import names

TEMPLATE = Path(__file__).with_name("atlas.html")
#: Rows of a list of items, bars of a histogram, and links to other features, on one page.
N_ITEMS, N_BARS, N_NEAREST = 10, 24, 8
#: Histories on a page, and interactions before and after the strongest one of each.
N_HISTORIES, BEFORE, AFTER = 3, 8, 3
#: Columns of a feature that the page shows, where they are known.
COLUMNS = (
    "feature", "label", "kind", "confidence", "evidence", "density", "attribute", "correlation",
    "selectivity", "coherence", "item_share", "promotes", "effect", "concept", "auc", "found_again",
    "next", "next_correlation",
)  # fmt: skip
LISTS = ("top", "promoted", "suppressed")  # of items, on each page
STRENGTHS = 0.0, 2.0, 4.0  # at which one user's list is measured
BLOCK = 64  # features that are looked at together


def build(workspace: Workspace) -> Path:
    """Write ``artifacts/<profile>/atlas.html``; `StageError` if a stage is missing or altered."""
    dataset = data.load(workspace.load("data"))
    items = dataset.items.assign(title=dataset.unique_titles[1:])
    model = recommender.load(workspace.load("recommender"))
    head = model.head.detach().numpy()
    dictionary = sae.load(workspace.load("sae"))
    codes, index = {}, {}
    for group in ("dev", "test"):
        states, index[group] = activations.load(workspace.load("activations"), group)
        codes[group] = sae.encode(dictionary, states)
    features = names.load(workspace, dataset, dictionary, head)
    following, told = interpretability.of_next(codes, index, dataset.attribute_matrix)
    user, history = next(iter(dataset.sequences("test").items()))
    site = workspace.manifest("activations")["parameters"]["site"]
    features = features.assign(
        next=np.array(dataset.attributes)[following],
        next_correlation=told,
        turned=lists(model, site, dictionary, history, features["feature"]).tolist(),
    )
    directions = dictionary.W_dec.detach().numpy()
    found = content(features, directions, head, codes["test"], index["test"], items)
    file = workspace.artifacts / "atlas.html"
    write(file, {"label": workspace.label, "user": int(user), **found})
    return file


def lists(model, site: str, dictionary: sae.SAE, history: NDArray, features) -> NDArray:
    """The items of a list [n_features, n_strengths, N_ITEMS] with a feature at each strength."""

    def listed(*edits: control.Edit) -> NDArray:
        delta = control.sae_delta(dictionary, [*edits])
        scores = control.steered_scorer(model, site, delta)([history])
        return recommender.best(recommender.unseen(scores, [history]), N_ITEMS)[0].numpy()

    untouched = listed()
    return np.array(
        [
            [listed(control.Edit(int(feature), s)) if s else untouched for s in STRENGTHS]
            for feature in features
        ]
    )


def write(file: Path, found: dict) -> None:
    """Write the `content` of an atlas, with its label and the user whose list is turned.

    Complete or not at all, and the same bytes for the same input.
    """
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A title may contain "</script>": JSON can escape the first character.
    text = text.replace("<", "\\u003c")
    write_text(file, TEMPLATE.read_text(encoding="utf-8").replace("__CONTENT__", text))


def content(
    features: pd.DataFrame,
    directions: NDArray,
    head: NDArray,
    codes: sparse.csr_array,
    index: pd.DataFrame,
    items: pd.DataFrame,
) -> dict:
    """What the page shows, for JSON; pages name an item by its place in the list ``items``.

    `features` has a row for each feature, in the order of the dictionary: feature, density, and
    other columns of `COLUMNS`, and turned, its `lists`; the page leaves out what is missing.
    `directions` [d_sae, d_in] are the decoder's, `head` [n_items + 1, d_in] the item embedding,
    `codes` [n_positions, d_sae] those of the test users. `index` has user, item and position of
    each position, sorted by user and position; `items` has item (1 to n_items), title, attributes
    (joined by ``|``), year. `ValueError` if the features are not those of the dictionary.
    """
    if not len(features) == len(directions) == codes.shape[1]:
        raise ValueError(
            f"{len(features)} rows in the table of features, {len(directions)} directions, "
            f"{codes.shape[1]} columns of codes: expected the same number, of one dictionary"
        )
    turned = features.get("turned", [[]] * len(features))
    user, item, position = (index[name].to_numpy() for name in ("user", "item", "position"))
    codes, n_items = sparse.csc_array(codes), int(items["item"].max())
    table = {name: _column(features[name]) for name in COLUMNS if name in features}
    pages: list[dict] = []
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-12)
    alive = np.asarray((codes > 0).sum(axis=0)).ravel() > 0
    for feature in range(len(directions)):
        number = feature % BLOCK
        if number == 0:  # all features x all items may not fit in memory
            some = slice(feature, feature + BLOCK)
            tops = interpretability.top_items(codes[:, some], item, n_items, N_ITEMS)
            logits = interpretability.logit_lens(directions[some], head)[:, 1:]
        rows, _, values = sparse.find(codes[:, [feature]])
        top = tops.loc[tops["feature"] == number, ["item", "activation", "positions"]]
        page = {
            "positions": len(rows),
            "strongest": _short(values.max(initial=0)),
            "histogram": _histogram(values),
            "top": [[int(i), _short(mean), int(n)] for i, mean, n in top.itertuples(False, None)],
            "histories": _histories(rows, values, user, item, position),
            **_promoted(logits[number]),
            "nearest": _nearest(unit, alive, feature),
            "turned": turned[feature],
        }
        _hide_weak(table, feature, logits[number].std())
        pages.append(page)
    found = {i for page in pages for name in LISTS for i, *_ in page[name]}
    found = found.union(*(h["items"] for page in pages for h in page["histories"]))
    shown = sorted(found.union(*(row for page in pages for row in page["turned"])) - {0})
    described = items.set_index("item").loc[shown, ["title", "year", "attributes"]]
    place = {item: number for number, item in enumerate(shown)}
    for page in pages:
        for name in LISTS:
            page[name] = [[place[item], *numbers] for item, *numbers in page[name]]
        page["turned"] = [[place[item] for item in row if item] for row in page["turned"]]
        for history in page["histories"]:
            history["items"] = [place[item] for item in history["items"]]
    return {
        "n_positions": len(index),
        "n_users": int(index["user"].nunique()),
        "table": table,
        "items": [
            [title, None if pd.isna(year) else int(year), attributes.replace("|", ", ")]
            for title, year, attributes in described.itertuples(index=False)
        ],
        "pages": pages,
    }


def _short(value: float) -> float:
    """Three significant digits, to keep the file small."""
    return float(f"{value:.3g}")


def _column(column: pd.Series) -> list:
    """A column as plain values; what is missing is null."""
    if pd.api.types.is_float_dtype(column):
        return [_short(value) if np.isfinite(value) else None for value in column]
    return [None if pd.isna(value) else value for value in column.tolist()]


def _hide_weak(table: dict[str, list], feature: int, deviation: float) -> None:
    """An attribute that a feature hardly knows, or hardly raises, is no name for it."""
    for what, number, least in (
        ("attribute", "correlation", names.MIN_CORRELATION),
        ("promotes", "effect", names.MIN_EFFECT * deviation),
    ):
        if what in table and number in table and (table[number][feature] or 0) < least:
            table[what][feature] = table[number][feature] = None


def _histogram(values: NDArray) -> list[int]:
    """Positions by activation, in `N_BARS` equal steps from 0 to the strongest."""
    if not len(values):
        return []
    return np.histogram(values, bins=N_BARS, range=(0, values.max()))[0].tolist()


def _histories(rows, values, user, item, position) -> list[dict]:
    """Histories of the users with the strongest activations, around these, counted from 1."""
    fires = np.zeros(len(user))
    fires[rows] = values
    strongest = rows[np.argsort(-values, kind="stable")]
    _, first = np.unique(user[strongest], return_index=True)
    histories = []
    for peak in strongest[np.sort(first)[:N_HISTORIES]]:
        start, end = np.searchsorted(user, [user[peak], user[peak] + 1])
        start = max(start, peak - BEFORE)
        window = slice(start, min(end, peak + AFTER + 1))
        histories.append(
            {
                "user": int(user[peak]),
                "first": int(position[start]) + 1,
                "of": int(position[end - 1]) + 1,
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
    """The alive features with the most similar directions: [feature, cosine]."""
    cosine = unit @ unit[feature]
    order = np.argsort(-cosine, kind="stable")
    order = order[alive[order] & (order != feature)][:N_NEAREST]
    return [[int(other), round(float(cosine[other]), 2)] for other in order]
