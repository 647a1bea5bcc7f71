"""Readers: a folder as its publisher ships it, to one table of interactions and one of items.

A folder is a `pathlib.Path` or a `zipfile.Path`: both know ``/``, ``exists`` and ``open``, so an
archive is read where it lies and nothing of it is ever extracted.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

Folder = Path | zipfile.Path

#: What publishers write where an item has no attribute.
PLACEHOLDERS = {"", "unknown", "(no genres listed)"}
#: The flags of ``u.item``, in its order.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip


class DataError(ValueError):
    """A dataset is missing, altered or malformed; the message says which file and what to do."""


@dataclass(frozen=True)
class Raw:
    """A dataset as published: no row dropped, nothing renumbered.

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
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    source: str
    label: str
    timed: bool = True


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
    for layout in LAYOUTS:
        if (folder / layout.interactions).exists():
            break
    else:
        known = ", ".join(f"{layout.interactions} + {layout.items}" for layout in LAYOUTS)
        raise DataError(f"{folder} holds no known dataset; expected one of: {known}")
    if not (folder / layout.items).exists():
        raise DataError(f"{folder}: {layout.items} is missing beside {layout.interactions}")
    items = _read_items(folder / layout.items, layout)
    interactions, timed = _read_interactions(folder / layout.interactions, layout)
    return Raw(by_user_and_time(interactions), items, source, label, timed)


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
        fault = _implausible(table)
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
        line, columns = next(_records(file, layout.separator), (1, []))
    if layout.text_ids:
        if "rating" not in columns:
            del wanted["rating"]
        if "timestamp" not in columns and "order" in columns:
            wanted["timestamp"] = "order"
    _require(path, line, columns, wanted.values())
    return columns, wanted


def _require(path: Folder, line: int, columns: list[str], wanted) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        hint = " (or order)" if "timestamp" in missing and path.name == "interactions.csv" else ""
        raise DataError(
            f"{path.name}: line {line} names the columns {', '.join(columns) or '(none)'}; "
            f"missing: {', '.join(missing)}{hint}"
        )


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


def _implausible(table: pa.Table) -> str:
    """What is wrong with values that could be parsed; empty where nothing is."""
    if not table.num_rows:
        return "holds no interactions"
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            return f"{name} is missing in some line"
        smallest, largest = pa.compute.min_max(column).as_py().values()
        if pa.types.is_string(column.type):
            if smallest == "":
                return f"{name} is empty in some line"
        elif not 0 <= smallest <= largest < float("inf"):
            return f"{name} is negative or not finite in some line"
    return ""


def _first_fault(path: Folder, layout: Layout, columns: list[str], wanted: dict[str, str]) -> str:
    """File, line and expectation of the first line that breaks the layout; empty if none does."""
    checks = {wanted[name]: _number_fault for name in ("rating", "timestamp") if name in wanted}
    check_id = _text_fault if layout.text_ids else _integer_fault
    checks |= {wanted["user_id"]: check_id, wanted["item_id"]: check_id}
    with path.open("r", encoding="utf-8-sig", errors="replace", newline="") as file:
        records = _records(file, layout.separator)
        if layout.header:
            next(records)
        for line, fields in records:
            row = _row(path, line, fields, columns, layout.separator)
            for name, check in checks.items():
                if fault := check(row[name]):
                    return f"{path.name}: line {line} has {name} {row[name]!r}, expected {fault}"
    return ""


def _text_fault(text: str) -> str:
    return "" if text else "an id"


def _integer_fault(text: str) -> str:
    return "" if text.isdecimal() and int(text) < 2**31 else "a whole number below 2147483648"


def _number_fault(text: str) -> str:
    try:
        return "" if 0 <= float(text) < float("inf") else "a number that is not negative"
    except ValueError:
        return "a number that is not negative"


def _read_items(path: Folder, layout: Layout) -> pd.DataFrame:
    """Read the items line by line: there are at most some ten thousand, so every check is cheap."""
    separator = layout.item_separator or layout.separator
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    records = _records(io.StringIO(text, newline=""), separator)
    columns = list(layout.item_columns)
    if layout.header:
        line, columns = next(records, (1, []))
        _require(path, line, columns, layout.item_columns)

    rows, lines = [], {}
    for line, fields in records:
        item_id, title, attributes = layout.item(_row(path, line, fields, columns, separator))
        check_id = _text_fault if layout.text_ids else _integer_fault
        if fault := check_id(item_id):
            raise DataError(f"{path.name}: line {line} has item {item_id!r}, expected {fault}")
        if item_id in lines:
            raise DataError(
                f"{path.name}: line {line} describes item {item_id!r}, as line {lines[item_id]} "
                "did; expected each item once"
            )
        lines[item_id] = line
        attributes = dict.fromkeys(name.strip() for name in attributes)
        attributes = "|".join(name for name in attributes if name not in PLACEHOLDERS)
        rows.append((item_id, " ".join(title.split()), attributes))
    items = pd.DataFrame(rows, columns=["item_id", "title", "attributes"], dtype=str)
    return items if layout.text_ids else items.astype({"item_id": np.int32})


def _row(path: Folder, line: int, fields: list, columns: list, separator: str) -> dict[str, str]:
    if len(fields) != len(columns):
        raise DataError(
            f"{path.name}: line {line} has {len(fields)} fields, expected {len(columns)} "
            f"({separator.join(columns)})".replace("\t", "\\t")
        )
    return dict(zip(columns, fields, strict=True))


def _records(file, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every line that is not blank."""
    if separator == ",":
        reader = csv.reader(file)
        yield from ((reader.line_num, fields) for fields in reader if fields)
    else:
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, text.rstrip("\r\n").split(separator)
