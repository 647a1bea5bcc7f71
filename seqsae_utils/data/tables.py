"""Text files of columns, read block by block, also in a zip; a bad line is refused."""

import bz2
import codecs
import csv
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

Folder = Path | zipfile.Path

BLOCK = 2**25  # bytes of text that are parsed at once
TEXT = pa.large_string()  # the kind of a column whose values are not checked
#: The kinds of columns, and what was expected in place of a bad value.
EXPECTED = {
    TEXT: "text in one encoding",
    pa.string(): "an id",
    pa.int32(): "a whole number below 2147483648",
    pa.float32(): "a number that is not negative",
    pa.float64(): "a number that is not negative",
    pa.timestamp("s"): "a time from 1970 on, like 2019-01-20 14:36",
}


class DataError(ValueError):
    """A dataset is missing, altered or malformed; the message says which file and what to do."""


def header(path: Folder, separator: str) -> tuple[int, list[str]]:
    """The number of the line that names the columns, and the names."""
    return next(_records(path, separator), (1, []))


def tables(path: Folder, separator: str, kinds: dict, columns=()) -> Iterator[pa.Table]:
    """Yield some columns of a file, block by block, so that memory does not follow its length.

    The file is in UTF-8, or else in Latin-1, and is unpacked where it ends in ``.bz2``. Quotation
    marks have a meaning only where the `separator` is a comma, as in CSV. `kinds` are those of the
    wanted columns, each one of `EXPECTED`; `columns` names all columns, where the first line does
    not. Raises DataError if a column or all rows are missing, or a line has other fields.
    """
    skip, columns = (0, list(columns)) if columns else header(path, separator)
    if missing := [name for name in kinds if name not in columns]:
        hint = " (or order)" if "timestamp" in missing and path.name == "interactions.csv" else ""
        raise DataError(
            f"{path.name}: line {skip} names the columns {', '.join(columns) or '(none)'}; "
            f"missing: {', '.join(missing)}{hint}"
        )
    if not next(islice(_records(path, separator), bool(skip), None), None):
        raise DataError(f"{path.name}: holds no rows")
    row = skip
    try:
        with _opened(path) as file:
            if separator == "::":  # the parser knows separators of one byte, and titles have a ":"
                file = io.BytesIO(file.read().replace(b"::", b"\x1f"))
            quote = '"' if separator == "," else False
            parsing = partial(pa.csv.ParseOptions, quote_char=quote, newlines_in_values=bool(quote))
            # One thread: those of pyarrow abort a program that ends soon after an error.
            reading = partial(pa.csv.ReadOptions, use_threads=False, block_size=BLOCK)
            blocks = pa.csv.open_csv(
                file,
                reading(column_names=columns, encoding=_encoding(path), skip_rows=skip),
                parsing(delimiter=separator.replace("::", "\x1f")),
                pa.csv.ConvertOptions(column_types=kinds, include_columns=[*kinds], null_values=[]),
            )
            for block in blocks:
                for name in kinds:
                    wrong = pc.index(_proper(block[name]), False).as_py()
                    if wrong >= 0:
                        place = f"column #{columns.index(name)}: Row #{row + wrong + 1}"
                        raise pa.ArrowInvalid(place)
                yield pa.Table.from_batches([block]).select(list(kinds))
                row += block.num_rows
    except pa.ArrowInvalid as error:
        place = re.search(r"(?:column #(\d+): )?Row #(\d+)", str(error))
        # Blank lines above the names are counted, others are not.
        above = int(place[2]) - max(skip, 1) if place else 0
        line, fields = next(islice(_records(path, separator), above, None), (0, []))
        if not (place and line):
            raise DataError(f"{path.name}: {error}") from error
        if len(fields) != len(columns):
            named = separator.join(columns if len(columns) <= 24 else [*columns[:3], "..."])
            fault = f"{len(fields)} fields, expected {len(columns)} ({named})"
        else:
            name = columns[int(place[1])]
            fault = f"{name} {fields[int(place[1])]!r}, expected {EXPECTED[kinds[name]]}"
        fault = fault.replace("\t", "\\t")
        raise DataError(f"{path.name}: line {line} has {fault}") from error


def _proper(column: pa.Array) -> pa.Array:
    """False where a value could be parsed and is wrong all the same."""
    if column.type == TEXT:
        return pc.is_valid(column)
    if column.type == pa.string():
        return pc.not_equal(column, "")
    numbers = column.cast(pa.int64()) if column.type == pa.timestamp("s") else column
    return pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, float("inf")))


def refuse_repeats(path: Folder, separator: str, items: pd.Series) -> None:
    """DataError if a file, whose last lines describe `items`, describes one of them twice."""
    repeated = items[items.duplicated()]
    if len(repeated):
        lines = [line for line, _ in _records(path, separator)][-len(items) :]
        first, again = np.flatnonzero(items == repeated.iloc[0])[:2]
        raise DataError(
            f"{path.name}: line {lines[again]} describes item {str(repeated.iloc[0])!r}, as line "
            f"{lines[first]} did; expected each item once"
        )


def _records(path: Folder, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every line that is not blank."""
    with _opened(path) as file:
        encoding = _encoding(path).replace("utf-8", "utf-8-sig")
        text = io.TextIOWrapper(file, encoding, errors="replace", newline="")
        if separator == ",":
            reader = csv.reader(text)
            yield from ((reader.line_num, fields) for fields in reader if fields)
        else:
            for line, content in enumerate(text, start=1):
                if content := content.rstrip("\r\n"):
                    yield line, content.split(separator)


def _encoding(path: Folder) -> str:
    """UTF-8 if a file begins in it, else Latin-1."""
    with _opened(path) as file:
        beginning = file.read(BLOCK)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


@contextmanager
def _opened(path: Folder):
    """The bytes of a file, unpacked where it is packed."""
    with path.open("rb") as file:
        try:
            yield bz2.open(file) if path.name.endswith(".bz2") else file
        except (EOFError, OSError) as error:
            raise DataError(f"{path.name} cannot be unpacked: {error}; get it again") from error
