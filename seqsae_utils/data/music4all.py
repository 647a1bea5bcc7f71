"""Music4All and Music4All-Onion: who listened to which song, and when.

Both are histories of Last.fm, a line for each listen, in files of tab-separated columns below a
line of names. Most listens are repeats: the first one of each user and song is kept, and the rest
is counted. It is kept while reading, block by block, so that memory follows the pairs of user and
song (50 million in Onion), not the listens (253 million).

* Music4All [1]_, as its authors send it: ``listening_history.csv`` (user, song, timestamp as in
  ``2019-01-20 14:36``), ``id_genres.csv`` (id, genres separated by commas), ``id_information.csv``
  (id, artist, song, album_name).
* Music4All-Onion [2]_, the same songs with more listeners, Zenodo record 15394646:
  ``userid_trackid_timestamp.tsv.bz2`` (user_id, track_id, timestamp as in ``2019-01-20 14:36:00``)
  and ``id_genres_tf-idf.tsv.bz2`` (id, and a column of weights for each of 685 genres; above 0
  means that the song has it). It names neither artists nor songs: put ``id_information.csv`` of
  Music4All beside them, else a song is called by its id. Unpacked files (``.tsv``) do too.

Written from what others report of these files, not from the files: names, columns, separators and
sizes are agreed on by several. Not reported are the order of the rows in Music4All (Onion's are the
newest first), so either is taken, and whether a title that holds quotation marks is quoted as in
CSV, so both are read. Times bear no zone; they are taken as UTC.

.. [1] Santana et al., Music4All: A New Music Database and Its Applications, IWSSIP 2020.
.. [2] Moscati et al., Music4All-Onion: A Large-Scale Multi-faceted Content-Centric Music
   Recommendation Dataset, CIKM 2022, doi:10.1145/3511808.3557656.
"""

import bz2
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from .rows import (
    DataError,
    Folder,
    described,
    first_fault,
    implausible,
    join_attributes,
    number_fault,
    records,
    require,
    require_once,
    text_fault,
)

INFORMATION = "id_information.csv"
#: Bytes of text that are parsed at once.
BLOCK = 2**25


@dataclass(frozen=True)
class Edition:
    """One of the two: its files, and what it calls user, song and time."""

    listens: str
    columns: tuple[str, str, str]
    genres: str
    titled: bool

    @property
    def required(self) -> list[str]:
        """Files without which it cannot be read."""
        return [self.listens, self.genres, *[INFORMATION] * self.titled]


EDITIONS = (
    Edition("listening_history.csv", ("user", "song", "timestamp"), "id_genres.csv", True),
    Edition(
        "userid_trackid_timestamp.tsv.bz2",
        ("user_id", "track_id", "timestamp"),
        "id_genres_tf-idf.tsv.bz2",
        False,
    ),
)


def found(folder: Folder) -> Edition | None:
    """The edition whose listens the folder holds."""
    return next((edition for edition in EDITIONS if _file(folder, edition.listens).exists()), None)


def read(folder: Folder, edition: Edition) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Read interactions and items as `formats.Raw` has them, and count the repeats left out.

    Interactions come in the order of the rows, or, where the file runs back in time as Onion's
    does, in the opposite one: so that listens of the same time stay in the order of listening.
    """
    for name in edition.required:
        if not _file(folder, name).exists():
            raise DataError(f"{folder}: {name} is missing beside {edition.listens}")
    genres = _listed_genres if edition.titled else _weighted_genres
    attributes = genres(_file(folder, edition.genres))
    information = folder / INFORMATION
    titles = _titles(information) if information.exists() else {}
    items = pd.DataFrame({"title": titles, "attributes": attributes}, dtype=str).fillna("")
    listens, repeats = _first_listens(_file(folder, edition.listens), edition.columns)
    return listens, items.rename_axis("item_id").reset_index(), repeats


def _file(folder: Folder, name: str) -> Folder:
    """The file as it is shipped, or else as it is called when unpacked."""
    path = folder / name
    return path if path.exists() else folder / name.removesuffix(".bz2")


def _titles(path: Folder) -> dict[str, str]:
    """``artist - song`` of each id."""
    titles, lines = {}, {}
    for line, row in described(path, "\t", ("id", "artist", "song"), header=True):
        require_once(path, line, row["id"], lines, text_fault)
        titles[row["id"]] = f"{_unquoted(row['artist'])} - {_unquoted(row['song'])}"
    return titles


def _unquoted(text: str) -> str:
    """Text without the quotation marks that CSV puts around it.

    >>> print(_unquoted('"Live at ""The Barn"", 2"'), _unquoted('"Live" or "dead"'), sep="; ")
    Live at "The Barn", 2; "Live" or "dead"
    """
    inside = text[1:-1]
    quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inside.replace('""', "")
    return " ".join((inside.replace('""', '"') if quoted else text).split())


def _listed_genres(path: Folder) -> dict[str, str]:
    genres, lines = {}, {}
    for line, row in described(path, "\t", ("id", "genres"), header=True):
        require_once(path, line, row["id"], lines, text_fault)
        genres[row["id"]] = join_attributes(_unquoted(row["genres"]).split(","))
    return genres


def _weighted_genres(path: Folder) -> dict[str, str]:
    """The genres whose weight is above 0, of a table with a column for each genre."""
    columns = _columns(path, ("id",))
    names = np.array([name for name in columns if name != "id"])
    types = {"id": pa.string()} | dict.fromkeys(names.tolist(), pa.float32())
    genres = {}
    for table in _tables(path, columns, types):
        weights = np.stack([column.to_numpy() for column in table.columns[1:]], axis=1)
        for song, has in zip(table["id"].to_pylist(), weights > 0, strict=True):
            if song in genres:
                raise DataError(f"{path.name} describes {song!r} twice; expected each song once")
            genres[song] = join_attributes(names[has].tolist())
    return genres


def _first_listens(path: Folder, columns: tuple[str, str, str]) -> tuple[pd.DataFrame, int]:
    """The first listen of each user and song, and how many others there are."""
    types = dict(zip(columns, (pa.string(), pa.string(), pa.timestamp("s")), strict=True))
    users, songs = {}, {}
    kept, n_read, ahead = [], 0, 0
    for table in _tables(path, _columns(path, columns), types):
        user, song = _numbered(table[columns[0]], users), _numbered(table[columns[1]], songs)
        time = table[columns[2]].cast(pa.int64()).to_numpy()
        n_read += len(time)
        ahead += np.sign(np.diff(time))[user[1:] == user[:-1]].sum()
        kept.append(_earliest(user << 32 | song, time))
        # Merged when they have doubled: each listen is sorted a few times, and few wait.
        if sum(len(pair) for pair, _ in kept[1:]) > len(kept[0][0]):
            kept = [_merged(kept)]
    if not n_read:
        raise DataError(f"{path.name}: holds no listens")
    pair, time = _merged(kept)
    if ahead < 0:
        pair, time = pair[::-1], time[::-1]
    listens = pd.DataFrame(
        {
            "user_id": _categorical(pair >> 32, users),
            "item_id": _categorical(pair & 0xFFFFFFFF, songs),
            "rating": np.float32("nan"),
            "timestamp": time,
        }
    )
    return listens, n_read - len(listens)


def _earliest(pair: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of each pair that has the smallest time, in the order of the rows."""
    order = np.lexsort((time, pair))
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    rows = np.sort(order[starts])
    return pair[rows], time[rows]


def _merged(pieces: list) -> tuple[np.ndarray, np.ndarray]:
    return _earliest(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _numbered(column: pa.ChunkedArray, ids: dict[str, int]) -> np.ndarray:
    """Number of each text in `ids`, which learns new ones: int64 [n]."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = [ids.setdefault(text, len(ids)) for text in encoded.dictionary.to_pylist()]
    return np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy()]


def _categorical(numbers: np.ndarray, ids: dict[str, int]) -> pd.Categorical:
    """The texts that the numbers stand for; a categorical holds each text once."""
    texts = np.array(list(ids), dtype=object)
    order = np.argsort(texts)
    place = np.empty(len(texts), dtype=np.int32)
    place[order] = np.arange(len(texts))
    return pd.Categorical.from_codes(place[numbers], texts[order])


def _columns(path: Folder, wanted: tuple[str, ...]) -> list[str]:
    """The names in the first line of a file."""
    with _opened(path) as file:
        columns = file.readline().decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
    require(path, 1, columns, wanted)
    return columns


def _tables(path: Folder, columns: list[str], types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
    """Yield the columns in `types`, block by block; one that breaks them is read again slowly."""
    for start, block in _blocks(path):
        if not block.strip():
            continue
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(block),
                pa.csv.ReadOptions(column_names=columns, use_threads=False),
                pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                pa.csv.ConvertOptions(column_types=types, include_columns=list(types)),
            )
            fault = implausible(table)
        except pa.ArrowInvalid as error:
            fault = str(error)
        if fault:
            lines = records(io.StringIO(block.decode("utf-8", "replace"), newline=""), "\t")
            lines = ((start - 1 + line, fields) for line, fields in lines)
            checks = {name: CHECKS[kind] for name, kind in types.items()}
            known = first_fault(path, lines, columns, "\t", checks)
            raise DataError(known or f"{path.name}, from line {start}: {fault}")
        yield table


def _blocks(path: Folder) -> Iterator[tuple[int, bytes]]:
    """Yield the lines below the names, some `BLOCK` bytes at once, after the first one's number."""
    start, rest = 2, b""
    with _opened(path) as file:
        file.readline()
        while chunk := file.read(BLOCK):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            yield start, whole + newline
            start += whole.count(b"\n") + len(newline)
    yield start, rest


@contextmanager
def _opened(path: Folder):
    """The bytes of a file, unpacked where it is packed."""
    with path.open("rb") as file:
        try:
            yield bz2.open(file) if path.name.endswith(".bz2") else file
        except (EOFError, OSError) as error:
            raise DataError(f"{path.name} cannot be unpacked: {error}; get it again") from error


def _time_fault(text: str) -> str:
    try:
        seconds = pa.scalar(text).cast(pa.timestamp("s")).value
    except pa.ArrowInvalid:
        seconds = -1
    return "" if seconds >= 0 else "a time from 1970 on, like 2019-01-20 14:36"


#: What says why a text is no value of a type.
CHECKS = {pa.string(): text_fault, pa.float32(): number_fault, pa.timestamp("s"): _time_fault}
