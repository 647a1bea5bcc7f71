"""Readers: a folder as its publisher ships it, to one table of interactions and one of items."""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from .music4all import first_listens, unquoted
from .tables import (
    NUMBER,
    PACKED,
    TEXT,
    TIMES,
    DataError,
    Folder,
    bad_time,
    encoding_of,
    header,
    refuse_repeats,
    tables,
)

#: The flags of ``u.item``, in its order.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
#: The columns of RecBole's ``ml-100k.item``.
RECBOLE = "item_id:token movie_title:token_seq release_year:token class:token_seq"
#: What publishers write where an item has no attribute.
PLACEHOLDERS = {"", "unknown", "(no genres listed)"}

#: From where on times are seconds since 1970, or of a finer unit, and from where on of none.
SIZES = (10**8, 10**11, 10**14, 10**17, 10**20)
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")


@dataclass(frozen=True)
class Raw:
    """A dataset as published, without repeated listens; by user and time, then the rows' order."""

    interactions: pd.DataFrame  # [user_id, item_id, rating (NaN if not given), timestamp]
    items: pd.DataFrame  # [item_id, title, attributes (separated by |)]
    source: str  # where it came from, in words
    label: str  # how results call it, e.g. ML-100K
    timed: bool = True  # False where timestamp is only an order within each user
    repeats: int = 0  # rows left out because the user had taken the item earlier, see music4all


@dataclass(frozen=True)
class Layout:
    """How one family of datasets writes its files."""

    interactions: tuple[str, str, str, str | None, str]  # file; columns user, item, rating, time
    items: tuple[str, ...]  # file; columns id, parts of the title, attributes
    separator: str  # of the columns
    item_separator: str = ""  # the same in items, where it is another
    title: Callable[..., str] = str  # makes the title from its parts
    attributes: Callable[[str], list[str]] = lambda text: text.split("|")
    weights: int = 0  # columns before those of the attributes, each above 0 where an item has it
    titles: tuple[str, ...] = ()  # a file of id and parts of the title, where items has none
    untitled: bool = False  # that file may be missing
    header: bool = True  # a line of names comes first
    ids: pa.DataType = pa.int32()
    times: pa.DataType = NUMBER  # seconds: the file is a history of listens

    @property
    def files(self) -> list[str]:
        """Files without which it cannot be read."""
        return [self.interactions[0], self.items[0], *self.titles[: not self.untitled]]


MUSIC4ALL = {
    "separator": "\t",
    "title": lambda artist, song: f"{unquoted(artist)} - {unquoted(song)}",
    "titles": ("id_information.csv", "id", "artist", "song"),
    "ids": pa.string(),
    "times": pa.timestamp("s"),
}
MOVIELENS_CSV = Layout(
    ("ratings.csv", "userId", "movieId", "rating", "timestamp"),
    ("movies.csv", "movieId", "title", "genres"),
    separator=",",
)
LAYOUTS = (
    Layout(
        ("u.data", "user", "item", "rating", "timestamp"),
        ("u.item", "movie id", "movie title", "release date", "video date", "URL", *GENRES_100K),
        separator="\t",
        item_separator="|",
        title=lambda title, *_: title,
        weights=5,
        header=False,
    ),
    Layout(
        ("ml-100k.inter", "user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ("ml-100k.item", *RECBOLE.split()),
        separator="\t",
        # It cuts the year off the title, and writes this where the title is unknown.
        title=lambda title, year: "unknown" if year == "unkonwn" else f"{title} ({year})",
        attributes=str.split,
    ),
    Layout(
        ("ratings.dat", "user", "item", "rating", "timestamp"),
        ("movies.dat", "item", "title", "genres"),
        separator="::",
        header=False,
    ),
    MOVIELENS_CSV,
    replace(  # Kaggle's copies
        MOVIELENS_CSV,
        interactions=("rating.csv", *MOVIELENS_CSV.interactions[1:]),
        items=("movie.csv", *MOVIELENS_CSV.items[1:]),
    ),
    Layout(
        ("listening_history.csv", "user", "song", None, "timestamp"),
        ("id_genres.csv", "id", "genres"),
        attributes=lambda text: unquoted(text).split(","),
        **MUSIC4ALL,
    ),
    Layout(
        ("userid_trackid_timestamp.tsv.bz2", "user_id", "track_id", None, "timestamp"),
        ("id_genres_tf-idf.tsv.bz2", "id"),
        weights=1,
        untitled=True,
        **MUSIC4ALL,
    ),
)
#: How files of own data may end.
ENDS = re.compile(r".+\.(csv|tsv|txt|inter|item)(\.(gz|bz2|zip))?|.+\.parquet")
#: What the columns of own data may be called, in small letters and digits.
ALIASES = {
    "user_id": ("userid", "user", "customerid", "reviewerid", "uid"),
    "item_id": (
        "itemid",
        "item",
        "movieid",
        "productid",
        "articleid",
        "bookid",
        "trackid",
        "isbn",
        "asin",
        "parentasin",
        "businessid",
        "videoid",
        "newsid",
        "songid",
        "artistid",
        "gameid",
    ),
    "timestamp": ("timestamp", "time", "unixreviewtime", "eventtime", "datetime", "date", "tdat"),
    "order": ("order",),
    "title": ("title", "itemtitle", "movietitle", "name"),
    "attributes": ("attributes", "genres", "genre", "categories", "category", "tags", "class"),
}


def read(folder: Folder, *, source: str, label: str) -> Raw:
    """Read whichever layout a folder holds; DataError for none, two, or where a file breaks it.

    Own data are told by ``interactions`` and ``items`` with any ending, or by RecBole's ``.inter``
    and ``.item``. What is taken for what is added to `source`.
    """
    found = [known for known in LAYOUTS if _file(folder, known.files[0]).exists()]
    taken = {_file(folder, name).name for known in found for name in known.files}
    names = sorted(path.name for path in folder.iterdir() if path.name not in taken)
    own = [name for name in names if re.match(r"interactions\.|.+\.inter(\.|$)", name)]
    first = [*(known.files[0] for known in found), *own]
    if len(first) > 1:
        raise DataError(f"{folder} holds {' and '.join(first)}: keep the one that is to be read")
    if not first:
        known = [*(" + ".join(known.files) for known in LAYOUTS), "interactions.csv + items.csv"]
        raise DataError(f"{folder} holds no known dataset; expected one of: {', '.join(known)}")
    layout, said = (found[0], []) if found else _own(folder, own[0], names)
    for name in layout.files:
        if not _file(folder, name).exists():
            raise DataError(f"{folder}: {name} is missing beside {layout.files[0]}")
    items = _read_items(folder, layout)
    interactions, timed, repeats = _read_interactions(folder, layout)
    if timed and (unit := _unit(interactions["timestamp"])):
        said.append(unit)
    texts = items["attributes"]
    if own and not texts.str.contains("|", regex=False).any():
        beside = max(",;", key=lambda mark: texts.str.count(mark).sum())
        if (many := texts.str.contains(beside).mean()) > 0.25:
            said.append(f"{many:.0%} of attributes hold {beside!r}, but only | separates them")
    source = f"{source} ({'; '.join(said)})" if said else source
    return Raw(by_user_and_time(interactions), items, source, label, timed, repeats)


def _own(folder: Folder, file: str, names: list[str]) -> tuple[Layout, list[str]]:
    """The layout of own data, whose names, separators and columns may vary, and what was taken."""
    pattern = r".+\.item(\.|$)" if ".inter" in file else r"items\."
    beside = [name for name in names if re.match(pattern, name)]
    if len(beside) != 1:
        found = " and ".join(beside) or "no items.csv"
        raise DataError(f"{folder} holds {found} beside {file}: expected one file of items")
    for name in (file, *beside):
        if not ENDS.fullmatch(name):
            ends = "csv, tsv, txt (also packed: .gz, .bz2, .zip) or parquet"
            raise DataError(f"{folder}: {name} is of no known kind; save it as {ends}")
    said = [name for name in (file, *beside) if name not in ("interactions.csv", "items.csv")]
    columns = ("user_id", "item_id", "timestamp", "order")
    separator, user, item, time, order = _columns(folder / file, columns, said)
    columns = ("item_id", "title", "attributes")
    item_separator, key, title, attributes = _columns(folder / beside[0], columns, said)
    split = str.split if attributes.endswith(":token_seq") else Layout.attributes
    layout = Layout(
        (file, user or "user_id", item or "item_id", None, time or order or "timestamp"),
        (beside[0], key or "item_id", *([title] if title else []), attributes or "attributes"),
        separator,
        item_separator,
        title=lambda text="": unquoted(text),
        attributes=lambda text: split(unquoted(text)),
        ids=pa.string(),
    )
    return layout, list(dict.fromkeys(said))


def _columns(path: Folder, wanted: tuple[str, ...], said: list[str]) -> list[str]:
    """The separator, and what columns of own data are called, empty without one; adds to `said`.

    DataError if two are called so.
    """
    line = ",".join(header(path, ",")[1])
    found = [separator := max(",;\t|", key=line.count)]
    if not path.name.endswith(".parquet") and (encoding := encoding_of(path)) != "utf-8":
        said.append(f"{path.name} in {encoding}")
    if separator != ",":
        said.append(f"columns separated by {separator!r}")
    names = header(path, separator)[1]
    for column in wanted:
        ways = (column, *ALIASES[column])
        same = ([n for n in names if called in (n, _plain(n))] for called in ways)
        called = next(filter(None, same), [""])
        if len(called) > 1:
            raise DataError(f"{path.name}: line 1 names {column} twice ({', '.join(called)})")
        if called[0].strip() not in ("", column):
            said.append(f"{called[0].strip()} as {column}")
        found += called
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())


def _unit(times: pd.Series) -> str:
    """What the size of times says that are no seconds since 1970; or nothing.

    Dates as numbers (20190120, 2019) and days since 1900 are too small, and serve as an order.
    """
    if not (size := _size(times.median())):
        return "times too small for seconds since 1970: only their order counts"
    return f"times in {(*UNITS, 'no known unit')[size - 1]}" if size > 1 else ""


def in_a_second(times: pd.Series) -> int:
    """How many units of these times are a second: 1,000 milliseconds; 1 for no known unit."""
    size = _size(times.median())
    return 1_000 ** (size - 1) if 0 < size <= len(UNITS) else 1


def _size(time: float) -> int:
    return bisect_right(SIZES, time)


def _stray(times: np.ndarray) -> int | None:
    """The first row whose time is in another unit than most are, such as 1e19 among seconds.

    What is too small for seconds is let through: 0 is written where a time is unknown.
    """
    if not (most := _size(np.median(times))):
        return None
    least, limit = SIZES[most - 1], (*SIZES, np.inf)[most]
    stray = (times >= SIZES[0]) & ((times < least) | (times >= limit))
    return int(stray.argmax()) if stray.any() else None


def by_user_and_time(interactions: pd.DataFrame) -> pd.DataFrame:
    """Sort by user_id, then timestamp, with ties in the order of the rows."""
    user, _ = pd.factorize(interactions["user_id"], sort=True)
    order = np.lexsort((interactions["timestamp"].to_numpy(), user))
    return interactions.take(order).reset_index(drop=True)


def _file(folder: Folder, name: str) -> Folder:
    """The file as it is shipped, or else as it is called when unpacked, or packed."""
    plain = name.removesuffix(".bz2")
    names = (name, plain, *(plain + end for end in PACKED))
    return next((folder / one for one in names if (folder / one).exists()), folder / plain)


def _read_interactions(folder: Folder, layout: Layout) -> tuple[pd.DataFrame, bool, int]:
    """The table of interactions, whether it has times, and how many repeats were left out."""
    name, user, item, rating, time = layout.interactions
    path = _file(folder, name)
    columns = () if layout.header else (user, item, rating, time)
    kinds = {user: layout.ids, item: layout.ids, rating: pa.float32(), time: layout.times}
    if rating is None:
        del kinds[rating]
    if layout.times == pa.timestamp("s"):
        interactions, repeats = first_listens(tables(path, layout.separator, kinds, columns))
        return interactions, True, repeats
    table = _with_times(path, layout, kinds, columns, time)
    table = table.to_pandas(split_blocks=True, self_destruct=True)
    names = {user: "user_id", item: "item_id", rating: "rating", time: "timestamp"}
    table = table.rename(columns=names)
    if rating is None:
        table.insert(2, "rating", np.float32("nan"))
    return table, _plain(time) != "order", 0


def _with_times(path: Folder, layout: Layout, kinds: dict, columns, time: str) -> pa.Table:
    """The table of interactions with whole numbers as times where they are, texts in seconds."""
    faults = []
    for kind in TIMES:
        try:
            table = pa.concat_tables(tables(path, layout.separator, kinds | {time: kind}, columns))
        except DataError as error:
            faults.append(error)
            continue
        times = table[time].to_numpy()
        if kind == NUMBER and (times < 2**53).all() and not (times % 1).any():
            times = times.astype(np.int64)
        where = path, layout.separator, columns, time
        if kind != pa.string() and _plain(time) != "order" and (row := _stray(times)) is not None:
            near = f"one in the unit of the others, such as {np.median(times):.0f}; mend the line"
            raise bad_time(*where, row, times, near)
        if kind == pa.string():
            texts = pd.Series(times).str.strip()
            seconds = texts.where(texts.str.fullmatch(r"\d{9,11}(\.\d+)?"))  # among others
            seconds = pd.to_datetime(pd.to_numeric(seconds), unit="s", utc=True)
            dates = texts.where(seconds.isna())
            when = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
            when = when.fillna(seconds)
            if (wrong := ~when.dt.year.between(1970, 2261)).any():  # also what is no time
                faults.append(bad_time(*where, int(wrong.argmax()), times))
                continue
            times = when.dt.as_unit("ns").astype(np.int64).to_numpy()
            times = times if (times % 10**9).any() else times // 10**9
        return table.set_column(table.column_names.index(time), time, pa.array(times))
    raise max(faults, key=lambda error: error.line)  # the first of the furthest


def _read_items(folder: Folder, layout: Layout) -> pd.DataFrame:
    """The table of items in the order of the file, or of the ids where there are two files."""
    described = _described(folder, layout, layout.items, layout.weights)
    parts, attributes = described.iloc[:, :-1], described.iloc[:, -1]
    if layout.titles:
        titled = (folder / layout.titles[0]).exists()
        parts = _described(folder, layout, layout.titles) if titled else parts.iloc[:0]
    titles = [" ".join(layout.title(*row).split()) for row in parts.itertuples(False, None)]
    attributes = attributes.map(lambda text: _joined(layout.attributes(text)))
    items = {"title": pd.Series(titles, parts.index, dtype=str), "attributes": attributes}
    items = pd.DataFrame(items).fillna("").rename_axis("item_id").reset_index()
    return items if layout.ids == pa.string() else items.astype({"item_id": np.int32})


def _described(folder: Folder, layout: Layout, file, weights: int = 0) -> pd.DataFrame:
    """Texts of a file (its name and columns) by item; attributes with `weights` are joined last."""
    path, columns = _file(folder, file[0]), file[1:]
    separator = layout.item_separator or layout.separator
    key, *texts = columns[:weights] if weights else columns
    names = header(path, separator)[1] if layout.header else columns
    weighted = np.array([name for name in names if name not in (key, *texts)] if weights else [])
    kinds = {key: layout.ids, **dict.fromkeys(texts, TEXT), **dict.fromkeys(weighted, pa.float32())}
    table = pa.concat_tables(tables(path, separator, kinds, () if layout.header else columns))
    described = table.select([key, *texts]).to_pandas()
    if weights:
        carries = np.stack([table[name].to_numpy() for name in weighted], axis=1) > 0
        described["attributes"] = ["|".join(weighted[row]) for row in carries]
    refuse_repeats(path, separator, described[key])
    return described.set_index(key)


def _joined(names: list[str]) -> str:
    """Attributes separated by ``|``, each once, without `PLACEHOLDERS`."""
    names = dict.fromkeys(name.strip() for name in names)
    return "|".join(name for name in names if name not in PLACEHOLDERS)
