"""Readers: a folder as its publisher ships it, to one table of interactions and one of items."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from . import music4all
from .tables import DataError, Folder, header, refuse_repeats, tables

#: The flags of ``u.item``, in its order.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
#: What publishers write where an item has no attribute.
PLACEHOLDERS = {"", "unknown", "(no genres listed)"}


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
    """How one family of datasets writes its files.

    Attributes
    ----------
    interactions, columns
        A file, and what it calls user, item, rating and time.
    items, item_columns
        A file, and what it calls id, parts of the title, and attributes. With `weights`, the
        number of columns before them, each attribute has a column, above 0 where an item has it.
    separator, item_separator
        Of the columns, in both or in the latter.
    title, attributes
        Function that makes the title from its parts, and one that makes a list from a text.
    titles
        File [id, parts of the title], where the items have none.
    untitled
        True where `titles` may be missing.
    header
        True where a line of names comes first.
    text_ids
        True where an id may be any text.
    listens
        True where there are no ratings, and times are text: see `music4all`.
    """

    interactions: str
    columns: tuple[str, str, str, str]
    items: str
    item_columns: tuple[str, ...]
    separator: str
    item_separator: str = ""
    title: Callable[..., str] = str
    attributes: Callable[[str], list[str]] = lambda text: text.split("|")
    weights: int = 0
    titles: str = ""
    untitled: bool = False
    header: bool = True
    text_ids: bool = False
    listens: bool = False

    @property
    def files(self) -> list[str]:
        """Files without which it cannot be read."""
        titles = [self.titles] if self.titles and not self.untitled else []
        return [self.interactions, self.items, *titles]


def _mirror_title(title: str, year: str) -> str:
    """The mirror cuts the last parenthesis off the title, and spells the one without it its way."""
    return "unknown" if year == "unkonwn" else f"{title} ({year})"


MUSIC4ALL = {"separator": "\t", "titles": "id_information.csv", "text_ids": True, "listens": True}
LAYOUTS = (
    Layout(
        "u.data",
        ("user", "item", "rating", "timestamp"),
        "u.item",
        ("movie id", "movie title", "release date", "video date", "IMDb URL", *GENRES_100K),
        separator="\t",
        item_separator="|",
        title=lambda title, *_: title,
        weights=5,
        header=False,
    ),
    Layout(
        "ml-100k.inter",
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        "ml-100k.item",
        ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
        separator="\t",
        title=_mirror_title,
        attributes=str.split,
    ),
    Layout(
        "ratings.dat",
        ("user", "item", "rating", "timestamp"),
        "movies.dat",
        ("item", "title", "genres"),
        separator="::",
        header=False,
    ),
    Layout(
        "ratings.csv",
        ("userId", "movieId", "rating", "timestamp"),
        "movies.csv",
        ("movieId", "title", "genres"),
        separator=",",
    ),
    Layout(
        "interactions.csv",
        ("user_id", "item_id", "rating", "timestamp"),
        "items.csv",
        ("item_id", "title", "attributes"),
        separator=",",
        text_ids=True,
    ),
    Layout(
        "listening_history.csv",
        ("user", "song", "", "timestamp"),
        "id_genres.csv",
        ("id", "genres"),
        title=music4all.title,
        attributes=music4all.genres,
        **MUSIC4ALL,
    ),
    Layout(
        "userid_trackid_timestamp.tsv.bz2",
        ("user_id", "track_id", "", "timestamp"),
        "id_genres_tf-idf.tsv.bz2",
        ("id",),
        title=music4all.title,
        weights=1,
        untitled=True,
        **MUSIC4ALL,
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
    layout = next((known for known in LAYOUTS if _file(folder, known.interactions).exists()), None)
    if not layout:
        known = [" + ".join(known.files) for known in LAYOUTS]
        raise DataError(f"{folder} holds no known dataset; expected one of: {', '.join(known)}")
    for name in layout.files:
        if not _file(folder, name).exists():
            raise DataError(f"{folder}: {name} is missing beside {layout.interactions}")
    items = _read_items(folder, layout)
    interactions, timed, repeats = _read_interactions(folder, layout)
    return Raw(by_user_and_time(interactions), items, source, label, timed, repeats)


def by_user_and_time(interactions: pd.DataFrame) -> pd.DataFrame:
    """Sort by user, then time, with ties in the order of the rows."""
    user, _ = pd.factorize(interactions["user_id"], sort=True)
    order = np.lexsort((interactions["timestamp"].to_numpy(), user))
    return interactions.take(order).reset_index(drop=True)


def _file(folder: Folder, name: str) -> Folder:
    """The file as it is shipped, or else as it is called when unpacked."""
    path = folder / name
    return path if path.exists() else folder / name.removesuffix(".bz2")


def _read_interactions(folder: Folder, layout: Layout) -> tuple[pd.DataFrame, bool, int]:
    """The table of interactions, whether it has times, and how many repeats were left out."""
    path = _file(folder, layout.interactions)
    user, item, rating, time = layout.columns
    identifier = pa.string() if layout.text_ids else pa.int32()
    kinds = {user: identifier, item: identifier}
    if layout.listens:
        listens = tables(path, layout.separator, kinds | {time: pa.timestamp("s")})
        interactions, repeats = music4all.first_listens(listens)
        return interactions, True, repeats
    columns = header(path, layout.separator)[1] if layout.header else layout.columns
    if layout.text_ids and time not in columns and "order" in columns:
        time = "order"
    if rating in columns or not layout.text_ids:
        kinds[rating] = pa.float32()
    kinds[time] = pa.float64()
    table = pa.concat_tables(
        tables(path, layout.separator, kinds, columns=() if layout.header else columns)
    )
    frame = table.to_pandas(split_blocks=True, self_destruct=True)
    names = {user: "user_id", item: "item_id", rating: "rating", time: "timestamp"}
    frame = frame.rename(columns=names)
    if "rating" not in frame:
        frame.insert(2, "rating", np.float32("nan"))
    whole = frame["timestamp"].to_numpy().astype(np.int64)
    if np.array_equal(whole, frame["timestamp"].to_numpy()):
        frame["timestamp"] = whole
    return frame, time != "order", 0


def _read_items(folder: Folder, layout: Layout) -> pd.DataFrame:
    """The table of items; its order is the file's, or that of the ids where there are two files."""
    described = _described(_file(folder, layout.items), layout, layout.item_columns, layout.weights)
    parts, attributes = described.iloc[:, :-1], described.iloc[:, -1]
    if layout.titles:
        path = folder / layout.titles
        parts = _described(path, layout, music4all.SONG) if path.exists() else parts.iloc[:0]
    titles = [" ".join(layout.title(*row).split()) for row in parts.itertuples(False, None)]
    attributes = attributes.map(lambda text: join_attributes(layout.attributes(text)))
    items = {"title": pd.Series(titles, parts.index, dtype=str), "attributes": attributes}
    items = pd.DataFrame(items).fillna("").rename_axis("item_id").reset_index()
    return items if layout.text_ids else items.astype({"item_id": np.int32})


def _described(path: Folder, layout: Layout, columns, weights: int = 0) -> pd.DataFrame:
    """Some columns of a file that describes items, by their ids, which come first.

    Where attributes have `weights`, those above 0 make the last column, separated by ``|``.
    """
    separator = layout.item_separator or layout.separator
    key, *texts = columns[:weights] if weights else columns
    names = header(path, separator)[1] if layout.header else columns
    weighted = np.array([name for name in names if name not in (key, *texts)] if weights else [])
    kinds = {key: pa.string() if layout.text_ids else pa.int32()}
    kinds |= dict.fromkeys(weighted.tolist(), pa.float32())
    pieces = []
    for table in tables(path, separator, kinds, texts, () if layout.header else columns):
        piece = table.select([key, *texts]).to_pandas()
        if weights:
            carries = np.stack([table[name].to_numpy() for name in weighted], axis=1) > 0
            piece["attributes"] = ["|".join(weighted[row]) for row in carries]
        pieces.append(piece)
    described = pd.concat(pieces, ignore_index=True)
    refuse_repeats(path, separator, described[key])
    return described.set_index(key)


def join_attributes(names) -> str:
    """Attributes separated by ``|``, each once, without what stands for none.

    >>> join_attributes(["rock", " pop", "rock", "unknown"])
    'rock|pop'
    """
    names = dict.fromkeys(name.strip() for name in names)
    return "|".join(name for name in names if name not in PLACEHOLDERS)
