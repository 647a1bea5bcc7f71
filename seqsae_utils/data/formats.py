"""Readers: a folder as its publisher ships it, to one table of interactions and one of items."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from .music4all import first_listens, unquoted
from .tables import TEXT, DataError, Folder, header, refuse_repeats, tables

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
    times: pa.DataType = pa.float64()  # a timestamp: the file is a history of listens

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
    Layout(
        ("ratings.csv", "userId", "movieId", "rating", "timestamp"),
        ("movies.csv", "movieId", "title", "genres"),
        separator=",",
    ),
    Layout(
        ("interactions.csv", "user_id", "item_id", "rating", "timestamp"),
        ("items.csv", "item_id", "title", "attributes"),
        separator=",",
        ids=pa.string(),
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


def read(folder: Folder, *, source: str, label: str) -> Raw:
    """Read whichever layout a folder holds; DataError for none, or where a file breaks it."""
    layout = next((known for known in LAYOUTS if _file(folder, known.files[0]).exists()), None)
    if not layout:
        known = ", ".join(" + ".join(known.files) for known in LAYOUTS)
        raise DataError(f"{folder} holds no known dataset; expected one of: {known}")
    for name in layout.files:
        if not _file(folder, name).exists():
            raise DataError(f"{folder}: {name} is missing beside {layout.files[0]}")
    items = _read_items(folder, layout)
    interactions, timed, repeats = _read_interactions(folder, layout)
    return Raw(by_user_and_time(interactions), items, source, label, timed, repeats)


def by_user_and_time(interactions: pd.DataFrame) -> pd.DataFrame:
    """Sort by user_id, then timestamp, with ties in the order of the rows."""
    user, _ = pd.factorize(interactions["user_id"], sort=True)
    order = np.lexsort((interactions["timestamp"].to_numpy(), user))
    return interactions.take(order).reset_index(drop=True)


def _file(folder: Folder, name: str) -> Folder:
    """The file as it is shipped, or else as it is called when unpacked."""
    path = folder / name
    return path if path.exists() else folder / name.removesuffix(".bz2")


def _read_interactions(folder: Folder, layout: Layout) -> tuple[pd.DataFrame, bool, int]:
    """The table of interactions, whether it has times, and how many repeats were left out."""
    name, user, item, rating, time = layout.interactions
    path = _file(folder, name)
    columns = header(path, layout.separator)[1] if layout.header else [user, item, rating, time]
    if time not in columns and "order" in columns:
        time = "order"
    kinds = {user: layout.ids, item: layout.ids, rating: pa.float32(), time: layout.times}
    if rating not in columns:
        del kinds[rating]
    blocks = tables(path, layout.separator, kinds, () if layout.header else columns)
    if layout.times == pa.timestamp("s"):
        interactions, repeats = first_listens(blocks)
        return interactions, True, repeats
    table = pa.concat_tables(blocks).to_pandas(split_blocks=True, self_destruct=True)
    names = {user: "user_id", item: "item_id", rating: "rating", time: "timestamp"}
    table = table.rename(columns=names)
    if rating not in columns:
        table.insert(2, "rating", np.float32("nan"))
    whole = table["timestamp"].to_numpy().astype(np.int64)
    if np.array_equal(whole, table["timestamp"].to_numpy()):
        table["timestamp"] = whole
    return table, time != "order", 0


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
