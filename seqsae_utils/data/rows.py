"""Rows of text files: their fields, and one message for each way in which they can be wrong."""

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute

Folder = Path | zipfile.Path

#: What publishers write where an item has no attribute.
PLACEHOLDERS = {"", "unknown", "(no genres listed)"}


class DataError(ValueError):
    """A dataset is missing, altered or malformed; the message says which file and what to do."""


def records(file, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every line that is not blank."""
    if separator == ",":
        reader = csv.reader(file)
        yield from ((reader.line_num, fields) for fields in reader if fields)
    else:
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, text.rstrip("\r\n").split(separator)


def as_dict(path: Folder, line: int, fields: list, columns: list, separator: str) -> dict[str, str]:
    """The fields of a line by their columns; refuses another number of fields."""
    if len(fields) != len(columns):
        named = columns if len(columns) <= 24 else [*columns[:3], "..."]
        raise DataError(
            f"{path.name}: line {line} has {len(fields)} fields, expected {len(columns)} "
            f"({separator.join(named)})".replace("\t", "\\t")
        )
    return dict(zip(columns, fields, strict=True))


def described(
    path: Folder, separator: str, columns: tuple[str, ...], header: bool
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a file that describes items, in UTF-8 or else in Latin-1.

    For files of at most some hundred thousand lines, so that every check is cheap.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = records(io.StringIO(text, newline=""), separator)
    names = list(columns)
    if header:
        line, names = next(lines, (1, []))
        require(path, line, names, columns)
    for line, fields in lines:
        yield line, as_dict(path, line, fields, names, separator)


def require(path: Folder, line: int, columns: list[str], wanted) -> None:
    """Refuse a line of column names that lacks a wanted one."""
    missing = [name for name in wanted if name not in columns]
    if missing:
        hint = " (or order)" if "timestamp" in missing and path.name == "interactions.csv" else ""
        raise DataError(
            f"{path.name}: line {line} names the columns {', '.join(columns) or '(none)'}; "
            f"missing: {', '.join(missing)}{hint}"
        )


def require_once(
    path: Folder, line: int, item: str, lines: dict[str, int], fault: Callable[[str], str]
) -> None:
    """Refuse an item that has no proper id, or that an earlier of the `lines` describes too."""
    if expected := fault(item):
        raise DataError(f"{path.name}: line {line} has item {item!r}, expected {expected}")
    if item in lines:
        raise DataError(
            f"{path.name}: line {line} describes item {item!r}, as line {lines[item]} "
            "did; expected each item once"
        )
    lines[item] = line


def join_attributes(names) -> str:
    """Attributes separated by ``|``, each once, without what stands for none.

    >>> join_attributes(["rock", " pop", "rock", "unknown"])
    'rock|pop'
    """
    names = dict.fromkeys(name.strip() for name in names)
    return "|".join(name for name in names if name not in PLACEHOLDERS)


def first_fault(
    path: Folder,
    lines: Iterator[tuple[int, list[str]]],
    columns: list[str],
    separator: str,
    checks: dict[str, Callable[[str], str]],
) -> str:
    """File, line and expectation of the first line that a check refuses; empty if none does.

    `checks` says of the text of a column what was expected in its place, or nothing.
    """
    for line, fields in lines:
        row = as_dict(path, line, fields, columns, separator)
        for name, check in checks.items():
            if expected := check(row[name]):
                return f"{path.name}: line {line} has {name} {row[name]!r}, expected {expected}"
    return ""


def implausible(table: pa.Table) -> str:
    """What is wrong with values that could be parsed; empty where nothing is."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            return f"{name} is missing in some line"
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        smallest, largest = pa.compute.min_max(column).as_py().values()
        if pa.types.is_string(column.type):
            if smallest == "":
                return f"{name} is empty in some line"
        elif not 0 <= smallest <= largest < float("inf"):
            return f"{name} is negative or not finite in some line"
    return ""


def text_fault(text: str) -> str:
    """What was expected in place of the text; empty where it is an id."""
    return "" if text else "an id"


def integer_fault(text: str) -> str:
    """What was expected in place of the text; empty where it is a number for an id."""
    return "" if text.isdecimal() and int(text) < 2**31 else "a whole number below 2147483648"


def number_fault(text: str) -> str:
    """What was expected in place of the text; empty where it is a number from 0."""
    try:
        return "" if 0 <= float(text) < float("inf") else "a number that is not negative"
    except ValueError:
        return "a number that is not negative"
