"""Text files of columns, read block by block, also in a zip; a bad line is refused."""

import bz2
import codecs
import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

Folder = Path | zipfile.Path

BLOCK = 2**25  # bytes of text that are parsed at once
QUOTED = (",", ";")  # separators of columns beside which quotation marks have a meaning
TEXT = pa.large_string()  # the kind of a column whose values are not checked
NUMBER = pa.float64()
#: What times may be, the most exact first: float64 has steps of 256 at nanoseconds since 1970.
TIMES = (pa.int64(), NUMBER, pa.string())
A_TIME = (
    "a number that is not negative (seconds since 1970), or a time like 2019-01-20 14:36; "
    "pd.to_datetime(column, format='%d/%m/%Y') makes such times of others"
)
#: How packed files end, and what unpacks them.
PACKED: dict[str, Callable] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".zip": lambda file: _only_file(zipfile.ZipFile(file)),
}
csv.field_size_limit(2**30)  # of what is looked at again to name a line; a text may be long
#: The kinds of columns, and what was expected in place of a bad value.
EXPECTED = {
    TEXT: "text in one encoding",
    pa.string(): "an id",
    pa.int32(): "a whole number below 2147483648",
    pa.float32(): "a number that is not negative",
    **dict.fromkeys(TIMES[:2], A_TIME),
    pa.timestamp("s"): "a time from 1970 on, like 2019-01-20 14:36",
}


class DataError(ValueError):
    """A dataset is missing, altered or malformed; the message says which file and what to do."""

    line = 0  # of the file, where one is to blame


def header(path: Folder, separator: str) -> tuple[int, list[str]]:
    """The number of the line that names the columns, and the names."""
    if not _is_text(path):
        return 1, _parquet(path).schema_arrow.names
    return next(_records(path, separator), (1, []))


def tables(path: Folder, separator: str, kinds: dict, columns=()) -> Iterator[pa.Table]:
    """Yield some columns of a file, block by block, so that memory does not follow its length.

    The file is in UTF-8, UTF-16, or else as `encoding_of` says, and is unpacked where it is
    `PACKED`, or it is parquet. Quotation marks have a meaning only beside a `separator` of CSV, see
    `QUOTED`. `kinds` are those of the wanted columns, each one of `EXPECTED`; `columns` names all
    columns, where the first line does not. Raises DataError if a column or all rows are missing, a
    column is named twice, or a line has other fields.
    """
    skip, columns = (0, list(columns)) if columns else header(path, separator)
    if missing := [name for name in kinds if name not in columns]:
        hint = " (or order)" if "timestamp" in missing and path.name == "interactions.csv" else ""
        hint += "; columns are separated by , ; | or tabs" if len(columns) == 1 else ""
        raise DataError(
            f"{path.name}: line {skip} names the columns {', '.join(columns) or '(none)'}; "
            f"missing: {', '.join(missing)}{hint}"
        )
    if doubled := [name for name in kinds if columns.count(name) > 1]:
        raise DataError(f"{path.name}: line {skip} names the column {doubled[0]!r} twice")
    if not _is_text(path):
        yield _of_kinds(path, kinds)
        return
    if not next(islice(_records(path, separator), bool(skip), None), None):
        raise DataError(f"{path.name}: holds no rows")
    row = skip
    try:
        with _opened(path) as file:
            if separator == "::":  # the parser knows separators of one byte, and titles have a ":"
                file = io.BytesIO(file.read().replace(b"::", b"\x1f"))
            quote = '"' if separator in QUOTED else False
            parsing = partial(pa.csv.ParseOptions, quote_char=quote, newlines_in_values=bool(quote))
            # One thread: those of pyarrow abort a program that ends soon after an error.
            reading = partial(pa.csv.ReadOptions, use_threads=False, block_size=BLOCK)
            blocks = pa.csv.open_csv(
                file,
                reading(column_names=columns, encoding=encoding_of(path), skip_rows=skip),
                parsing(delimiter=separator.replace("::", "\x1f")),
                pa.csv.ConvertOptions(column_types=kinds, include_columns=[*kinds], null_values=[]),
            )
            for block in blocks:
                block = pa.RecordBatch.from_pydict({name: _trimmed(block[name]) for name in kinds})
                for name in kinds:
                    wrong = pc.index(_proper(block[name]), False).as_py()
                    if wrong >= 0:
                        place = f"column #{columns.index(name)}: Row #{row + wrong + 1}"
                        raise pa.ArrowInvalid(place)
                yield pa.Table.from_batches([block])
                row += block.num_rows
    except UnicodeDecodeError as error:  # past the beginning
        raise DataError(f"{path.name}: {error}; save it as UTF-8") from error
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
        refusal = DataError(f"{path.name}: line {line} has {fault}")
        refusal.line = line
        raise refusal from error


def _only_file(archive: zipfile.ZipFile):
    """The one file of a zip; what macOS and folders add is none."""
    names = [n for n in archive.namelist() if not n.startswith("__MACOSX/") and n[-1] != "/"]
    if len(names) != 1:
        raise zipfile.BadZipFile(f"it holds {len(names)} files, expected one")
    return archive.open(names[0])


def _parquet(path: Folder) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(io.BytesIO(path.read_bytes()))
    except pa.ArrowInvalid as error:
        raise DataError(f"{path.name} is no parquet file: {error}") from error


def _of_kinds(path: Folder, kinds: dict) -> pa.Table:
    """Columns of a parquet file, cast to kinds; lists are joined with ``|``."""
    table, columns = _parquet(path).read(list(kinds)), {}
    for name, kind in kinds.items():
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            column = pc.binary_join(column, "|")
        try:
            if pa.types.is_timestamp(column.type) and kind == pa.int64():
                raise pa.ArrowInvalid("a time is no number")  # its unit would be lost
            column = _trimmed(column.cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{path.name}: {name}: {error}; expected {EXPECTED[kind]}") from error
        columns[name] = column.fill_null("") if kind == TEXT else column
        row = pc.index(_proper(columns[name]).fill_null(False), False).as_py()
        if row >= 0:
            fault = f"{name} {table[name][row].as_py()!r}, expected {EXPECTED[kind]}"
            raise DataError(f"{path.name}: row {row + 1} has {fault}")
    return pa.table(columns)


def _trimmed(column: pa.Array) -> pa.Array:
    """Ids without the blanks around them."""
    return pc.utf8_trim_whitespace(column) if column.type == pa.string() else column


def _proper(column: pa.Array) -> pa.Array:
    """False where a value could be parsed and is wrong all the same."""
    if column.type == TEXT:
        return pc.is_valid(column)
    if column.type == pa.string():
        return pc.not_equal(column, "")
    numbers = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    proper = pc.greater_equal(numbers, 0)
    return pc.and_(proper, pc.is_finite(numbers)) if numbers.type != pa.int64() else proper


def bad_time(
    path: Folder, separator: str, columns, name: str, row: int, times, expected: str = A_TIME
) -> DataError:
    """The error for the time in a row, counted from 0; `columns` as in `tables`."""
    at = row if columns else row + 1
    line = next(islice(_records(path, separator), at, None))[0] if _is_text(path) else row + 1
    found = str(times[row])
    fault = DataError(f"{path.name}: line {line} has {name} {found!r}, expected {expected}")
    fault.line = line
    return fault


def _is_text(path: Folder) -> bool:
    return not path.name.endswith(".parquet")


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
        encoding = encoding_of(path).replace("utf-8", "utf-8-sig")
        text = io.TextIOWrapper(file, encoding, errors="replace", newline="")
        if separator in QUOTED:
            reader = csv.reader(text, delimiter=separator)
            yield from ((reader.line_num, fields) for fields in reader if fields)
        else:
            for line, content in enumerate(text, start=1):
                if content := content.rstrip("\r\n"):
                    yield line, content.split(separator)


def encoding_of(path: Folder) -> str:
    """UTF-16 if a file says so (Excel's "Unicode text"), UTF-8 if it begins in it.

    Else that of Windows, which is Latin-1 with dashes and curved quotation marks, or Latin-1 where
    a byte means nothing there. DataError for a file with zero bytes: it is no text.
    """
    with _opened(path) as file:
        beginning = file.read(BLOCK)
    if beginning[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if b"\0" in beginning:
        raise DataError(f"{path.name} is no text, for it holds zero bytes: save it as UTF-8")
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            codecs.getincrementaldecoder(encoding)().decode(beginning)
            return encoding
    return "latin-1"


@contextmanager
def _opened(path: Folder):
    """The bytes of a file, unpacked where it is packed."""
    with path.open("rb") as file:
        try:
            yield PACKED.get(Path(path.name).suffix, lambda file: file)(file)
        except (EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path.name} cannot be unpacked: {error}; get it again") from error
