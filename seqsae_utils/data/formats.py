"""Readers: a folder as its publisher ships it, to one table of interactions and one of items.

A folder is a `pathlib.Path` or a `zipfile.Path`: both know ``/``, ``exists`` and ``open``, so an
archive is read where it lies and nothing of it is ever extracted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from . import music4all
from .rows import (
    DataError,
    Folder,
    described,
    first_fault,
    implausible,
    integer_fault,
    join_attributes,
    number_fault,
    records,
    require,
    require_once,
    text_fault,
)

#: The flags of ``u.item``, in its order.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """A dataset as published: nothing renumbered, and no row dropped but repeated listens.

    Attributes
    ----------
    interactions
        DataFrame [user_id, item_id, rating, timestamp], sorted by user and time; what is tied in
        time stays in the publisher's row order. A rating that was not given is NaN.
    items
        DataFrame [item_id, title, attributes], the attributes separated by ``|``.
    source
        Where it came from, in words.
    label
        How results call it, e.g. ``ML-100K``.
    timed
        False where ``timestamp`` is only an order within each user.
    repeats
        Rows that the reader left out because the user had taken the item earlier: histories of
        listening are mostly that, and too long to hold.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    source: str
    label: str
    timed: bool = True
    repeats: int = 0


@dataclass(frozen=True)
class Layout:
    """How one family of datasets writes its two files.

    ``columns`` are user, item, rating and time as the file calls them; `item` turns one row of
    the items file into (id, title, attributes).
    """

    interactions: str
    items: str
    separator: str
    columns: tuple[str, str, str, str]
    item_columns: tuple[str, ...]
    item: Callable[[dict], tuple[str, str, list[str]]]
    item_separator: str | None = None
    header: bool = False
    text_ids: bool = False


def _item_100k(row: dict) -> tuple[str, str, list[str]]:
    return row["movie id"], row["movie title"], [g for g in GENRES_100K if row[g] == "1"]


def _item_mirror(row: dict) -> tuple[str, str, list[str]]:
    """The mirror cuts the last parenthesis off the title, and spells the one without it its way."""
    title, year = row["movie_title:token_seq"], row["release_year:token"]
    title = "unknown" if year == "unkonwn" else f"{title} ({year})"
    return row["item_id:token"], title, row["class:token_seq"].split(" ")


LAYOUTS = (
    Layout(
        "u.data",
        "u.item",
        "\t",
        ("user", "item", "rating", "timestamp"),
        ("movie id", "movie title", "release date", "video date", "IMDb URL", *GENRES_100K),
        _item_100k,
        item_separator="|",
    ),
    Layout(
        "ml-100k.inter",
        "ml-100k.item",
        "\t",
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
        _item_mirror,
        header=True,
    ),
    Layout(
        "ratings.dat",
        "movies.dat",
        "::",
        ("user", "item", "rating", "timestamp"),
        ("item", "title", "genres"),
        lambda row: (row["item"], row["title"], row["genres"].split("|")),
    ),
    Layout(
        "ratings.csv",
        "movies.csv",
        ",",
        ("userId", "movieId", "rating", "timestamp"),
        ("movieId", "title", "genres"),
        lambda row: (row["movieId"], row["title"], row["genres"].split("|")),
        header=True,
    ),
    Layout(
        "interactions.csv",
        "items.csv",
        ",",
        ("user_id", "item_id", "rating", "timestamp"),
        ("item_id", "title", "attributes"),
        lambda row: (row["item_id"], row["title"], row["attributes"].split("|")),
        header=True,
        text_ids=True,
    ),
)


def read(folder: Folder, *, source: str, label: str) -> Raw:
    """Read a dataset, whichever layout its folder holds.

    Raises
    ------
    DataError
        If the folder holds no known layout, or a file breaks it: with the file, the line and
        what was expected.
    """
    layout = next((known for known in LAYOUTS if (folder / known.interactions).exists()), None)
    if layout:
        if not (folder / layout.items).exists():
            raise DataError(f"{folder}: {layout.items} is missing beside {layout.interactions}")
        items, repeats = _read_items(folder / layout.items, layout), 0
        interactions, timed = _read_interactions(folder / layout.interactions, layout)
    elif edition := music4all.found(folder):
        interactions, items, repeats = music4all.read(folder, edition)
        timed = True
    else:
        known = [f"{known.interactions} + {known.items}" for known in LAYOUTS]
        known += [" + ".join(edition.required) for edition in music4all.EDITIONS]
        raise DataError(f"{folder} holds no known dataset; expected one of: {', '.join(known)}")
    return Raw(by_user_and_time(interactions), items, source, label, timed, repeats)


def by_user_and_time(interactions: pd.DataFrame) -> pd.DataFrame:
    """Sort by user, then time, with ties in the order of the rows."""
    user, _ = pd.factorize(interactions["user_id"], sort=True)
    order = np.lexsort((interactions["timestamp"].to_numpy(), user))
    return interactions.take(order).reset_index(drop=True)


def _read_interactions(path: Folder, layout: Layout) -> tuple[pd.DataFrame, bool]:
    """Read with pyarrow; only where that fails is the file read again, slowly, to say why."""
    columns, wanted = _columns(path, layout)
    try:
        table = _parse(path, layout, columns, wanted)
        fault = implausible(table) if table.num_rows else "holds no interactions"
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        table, fault = None, str(error)
    if fault:
        raise DataError(_first_fault(path, layout, columns, wanted) or f"{path.name}: {fault}")

    frame = table.to_pandas(split_blocks=True, self_destruct=True)
    if "rating" not in frame:
        frame["rating"] = np.float32("nan")
    whole = frame["timestamp"].to_numpy().astype(np.int64)
    if np.array_equal(whole, frame["timestamp"].to_numpy()):
        frame["timestamp"] = whole
    return frame[["user_id", "item_id", "rating", "timestamp"]], wanted["timestamp"] != "order"


def _columns(path: Folder, layout: Layout) -> tuple[list[str], dict[str, str]]:
    """The file's columns in its order, and which of them is what."""
    wanted = dict(zip(("user_id", "item_id", "rating", "timestamp"), layout.columns, strict=True))
    if not layout.header:
        return list(layout.columns), wanted
    with path.open("r", encoding="utf-8-sig", errors="replace", newline="") as file:
        line, columns = next(records(file, layout.separator), (1, []))
    if layout.text_ids:
        if "rating" not in columns:
            del wanted["rating"]
        if "timestamp" not in columns and "order" in columns:
            wanted["timestamp"] = "order"
    require(path, line, columns, wanted.values())
    return columns, wanted


def _parse(path: Folder, layout: Layout, columns: list[str], wanted: dict[str, str]) -> pa.Table:
    identifier = pa.string() if layout.text_ids else pa.int32()
    types = {"user_id": identifier, "item_id": identifier}
    types |= {"rating": pa.float32(), "timestamp": pa.float64()}
    types = {wanted[name]: types[name] for name in wanted}
    if layout.separator == "::":
        # A parser of one-byte separators sees an empty column between any two.
        gaps = [f"gap {i}" for i in range(1, len(columns))]
        columns = [name for pair in zip(columns, [*gaps, ""], strict=True) for name in pair][:-1]
        types |= dict.fromkeys(gaps, pa.null())
    with path.open("rb") as file:
        # One thread: those of pyarrow abort a program that ends soon after an error in the data.
        table = pa.csv.read_csv(
            file,
            pa.csv.ReadOptions(
                column_names=columns, skip_rows=int(layout.header), use_threads=False
            ),
            pa.csv.ParseOptions(
                delimiter=layout.separator[0], quote_char='"' if layout.separator == "," else False
            ),
            pa.csv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
    return table.select(list(wanted.values())).rename_columns(list(wanted))


def _first_fault(path: Folder, layout: Layout, columns: list[str], wanted: dict[str, str]) -> str:
    """What the first line that breaks the layout breaks; empty if none does."""
    checks = {wanted[name]: number_fault for name in ("rating", "timestamp") if name in wanted}
    check_id = text_fault if layout.text_ids else integer_fault
    checks |= {wanted["user_id"]: check_id, wanted["item_id"]: check_id}
    with path.open("r", encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = records(file, layout.separator)
        if layout.header:
            next(lines)
        return first_fault(path, lines, columns, layout.separator, checks)


def _read_items(path: Folder, layout: Layout) -> pd.DataFrame:
    separator = layout.item_separator or layout.separator
    fault = text_fault if layout.text_ids else integer_fault
    rows, lines = [], {}
    for line, row in described(path, separator, layout.item_columns, layout.header):
        item_id, title, attributes = layout.item(row)
        require_once(path, line, item_id, lines, fault)
        rows.append((item_id, " ".join(title.split()), join_attributes(attributes)))
    items = pd.DataFrame(rows, columns=["item_id", "title", "attributes"], dtype=str)
    return items if layout.text_ids else items.astype({"item_id": np.int32})
