"""What the recommender is never told: concepts of items that no genre names, and who users are."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD

from ..workspace import project
from . import LATER, Dataset
from .sources import find
from .tables import TEXT, DataError, Folder, header, tables

#: Files of user attributes as publishers name them: separator, and columns where no line has them.
USER_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "users.csv": (",", ()),
    "u.user": ("|", ("user_id", "age", "gender", "occupation", "zip")),
    "users.dat": ("::", ("user_id", "gender", "age", "occupation", "zip")),
    "ml-100k.user": ("\t", ()),
}
#: Where the age groups of MovieLens begin: ML-1M has only these, ML-100K has years.
AGES = np.array([1, 18, 25, 35, 45, 50, 56])
#: What the numbers 0 to 20 of ML-1M's occupations mean, as its publisher says.
OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student",
    "customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker",
    "K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist",
    "self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip
#: A numeric column of users with more values than this is cut into four equal groups.
MAX_VALUES = 25
#: The number, subtitle or part at which the name of a series ends in a title.
SEQUEL = re.compile(
    r"(?::| - |,? [Pp]art |,? [Cc]hapter | \d+\b| [IVX]{1,5}\b(?!$)| [IVX]{2,5}$).*"
)
#: Items in a cluster of co-consumption, on average, and dimensions in which they are clustered.
CLUSTER, N_DIMENSIONS = 40, 32


class Concepts(NamedTuple):
    """Which items have which concept; a row of the table is a column of the matrix."""

    table: pd.DataFrame  # [kind, concept, items (how many), name (both, as one text)]
    matrix: sparse.csr_array  # float32 [n_items + 1, n_concepts], 0 or 1; row 0 is padding


def load_concepts(name: str, dataset: Dataset, min_items: int = 8) -> Concepts:
    """Concepts that at least `min_items` items of the catalogue have, and at most nine tenths.

    They come from ``concepts.csv`` (item_id, kind, concept) in the folder of the dataset `name`, or
    from ``data/concepts/<name>.csv`` of the project. Where there is neither, everybody has these:
    decade, popularity (fifths), series found in titles, and clusters of items with a like audience
    among the recommender users. Raises DataError for ids that match no item, showing both sides,
    and where no concept is left.
    """
    file = _beside(name, "concepts.csv") or project() / "data" / "concepts" / f"{name}.csv"
    found = _read(file, dataset) if file.exists() else built_in(dataset)
    found = found.drop_duplicates(["item", "kind", "concept"])
    counts = found.groupby(["kind", "concept"])["item"].size()
    kept = counts[(counts >= min_items) & (counts <= 0.9 * dataset.n_items)]
    if kept.empty:
        largest = f"the largest has {counts.max()}" if len(counts) else "there is none at all"
        raise DataError(
            f"no concept has {min_items} to {0.9 * dataset.n_items:.0f} items: {largest}; "
            "lower min_items (notebook 07), or take more items"
        )
    table = kept.rename("items").reset_index()
    table["name"] = table["kind"] + ": " + table["concept"]
    has = found.merge(table.assign(column=table.index), on=["kind", "concept"])
    ones, shape = np.ones(len(has), np.float32), (dataset.n_items + 1, len(table))
    return Concepts(table, sparse.csr_array((ones, (has["item"], has["column"])), shape=shape))


def built_in(dataset: Dataset) -> pd.DataFrame:
    """Concepts that any dataset has: columns item, kind, concept; see `load_concepts`."""
    items = dataset.items
    fifths = np.argsort(np.argsort(items["popularity"], kind="stable")) * 5 // len(items)
    words = ("rarest fifth", "second fifth", "middle fifth", "fourth fifth", "most popular fifth")
    series = items["title"].map(series_of)
    known = series[series != items["title"].map(bare)]  # a first part bears its series' bare name
    concepts = items[["item"]].assign(
        decade=(items["year"] // 10 * 10).astype(str) + "s",
        popularity=[words[i] for i in fifths],
        series=series.where(series.isin(known)),
        audience=_audiences(dataset),
    )
    return concepts.melt("item", var_name="kind", value_name="concept").dropna()


def series_of(title: str) -> str:
    """The series that a title names, or the whole title where it is no sequel.

    >>> series_of("Star Trek III: The Search for Spock (1984)"), series_of("Jaws 2 (1978)")
    ('Star Trek', 'Jaws')
    """
    return SEQUEL.sub("", bare(title)).strip() or bare(title)


def bare(title: str) -> str:
    """A title without its year and without an article that was put last."""
    return re.sub(r"(?:, (?:The|A|An))? *(?:\([^()]*\) *)*$", "", title).strip()


def _audiences(dataset: Dataset) -> list[str | None]:
    """For each item its cluster of co-consumption, named by the two most popular items in it."""
    sequences = dataset.sequences("recommender").values()
    if len(sequences) == 1:  # one user tells no items apart
        return [None] * dataset.n_items
    user = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    items = np.concatenate(list(sequences)) - 1
    shape = dataset.n_items, len(sequences)
    taken = sparse.csr_array((np.ones(len(items)), (items, user)), shape=shape)
    n = min(N_DIMENSIONS, min(shape) - 1)
    vectors = TruncatedSVD(n, random_state=0).fit_transform(taken)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    n_clusters = max(2, dataset.n_items // CLUSTER)
    cluster = KMeans(n_clusters, random_state=0, n_init=1).fit_predict(vectors)
    order = np.argsort(-dataset.items["popularity"].to_numpy(), kind="stable")
    taken_by = pd.Series(order).groupby(cluster[order])
    examples = {c: [dataset.titles[1 + i] for i in some.head(2)] for c, some in taken_by}
    return ["like " + " and ".join(map(bare, examples[c])) for c in cluster]


def _read(file: Folder, dataset: Dataset) -> pd.DataFrame:
    """``concepts.csv`` as item, kind, concept; rows of items outside the catalogue are dropped."""
    kinds = dict.fromkeys(("item_id", "kind", "concept"), pa.string())
    table = pa.concat_tables(tables(file, ",", kinds)).to_pandas()
    number = pd.Series(dataset.items["item"].to_numpy(), dataset.items["item_id"])
    table["item"] = table["item_id"].map(number)
    if table["item"].isna().all():
        theirs, ours = (", ".join(map(repr, ids[:3])) for ids in (table["item_id"], number.index))
        raise DataError(
            f"{file.name}: none of its items is in the catalogue; it has item_id {theirs}, ... and "
            f"the catalogue {ours}, ...: write the ids as the file of items does"
        )
    table = table.dropna(subset="item").astype({"item": np.int64})
    return table[["item", "kind", "concept"]]


def load_users(name: str, dataset: Dataset, min_users: int = 20) -> pd.DataFrame:
    """Groups of users that nobody told the recommender: bool, a row for each user in order.

    Columns are (attribute, value), e.g. (gender, F), of values that at least `min_users` users have
    and as many lack; of two values that divide the users, only the first. They come from the
    publisher's file of users, or from ``users.csv``: user_id, then any columns. Ages are put in
    MovieLens' groups, called by where they begin, other numbers with many values in quarters;
    occupations of ML-1M get their names, and postal codes are left out.
    Without a file there are no columns. Raises DataError for ids that match no user, showing both.
    """
    ids = pd.Index(dataset.users["user_id"])
    empty = pd.DataFrame(index=dataset.users["user"])
    file = next((f for f in (_beside(name, one) for one in USER_FILES) if f), None)
    if file is None:
        return empty
    separator, columns = USER_FILES[file.name]
    named = list(columns) or header(file, separator)[1]
    kinds = {name: TEXT for name in named if not name.startswith("zip")}
    kinds |= {name: pa.string() for name in named if name.partition(":")[0] == "user_id"}
    table = pa.concat_tables(tables(file, separator, kinds, columns)).to_pandas()
    table.columns = [column.partition(":")[0] for column in table]
    if "user_id" not in table:
        raise DataError(f"{file.name}: names the columns {', '.join(table)}; missing: user_id")
    if file.name == "users.dat":
        names = {str(number): name for number, name in enumerate(OCCUPATIONS)}
        table["occupation"] = table["occupation"].replace(names)
    table = table.drop_duplicates("user_id").set_index("user_id").apply(lambda c: c.str.strip())
    table = table[table != ""]  # an empty cell is no value
    if not table.index.isin(ids).any():
        theirs, ours = (", ".join(map(repr, some[:3])) for some in (table.index, ids))
        raise DataError(
            f"{file.name}: none of its users is in the data; it has user_id {theirs}, ... and the "
            f"interactions {ours}, ...: write the ids in one way"
        )
    table = table.reindex(ids.where(ids.isin(table.index), ids.str.removesuffix(LATER)))
    found = {}
    for attribute, values in table.items():
        values = _grouped(str(attribute), values)
        sizes = values.value_counts().sort_index()
        if len(sizes) == 2 and sizes.sum() == len(values):
            sizes = sizes[:1]  # who is not the one is the other
        for value, n in sizes.items():
            if min_users <= n <= len(values) - min_users:
                found[attribute, value] = (values == value).to_numpy()
    return pd.DataFrame(found, index=empty.index)


def _grouped(attribute: str, values: pd.Series) -> pd.Series:
    """Values of a column of users as texts: numbers in groups where there are many."""
    numbers = pd.to_numeric(values, errors="coerce")
    if attribute == "age" and numbers.notna().any():
        group = AGES[np.digitize(numbers.fillna(1), AGES[1:])]
        return pd.Series(group.astype(str), values.index).where(numbers.notna())
    if numbers.notna().any() and values.nunique() > MAX_VALUES:
        quarter = pd.qcut(numbers, 4, duplicates="drop")
        return quarter.astype(str).where(numbers.notna())
    return values


def _beside(name: str, file: str) -> Folder | None:
    """A file in the folder of a dataset, if there is such a file; ``smoke`` has no folder."""
    path = None if name == "smoke" else find(name)[0] / file
    return path if path is not None and path.exists() else None
