"""Data: `load_raw` reads what was published, `prepare` makes it a `Dataset` for sequence models."""

import difflib
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ..workspace import name_nearest, write_json
from .formats import PLACEHOLDERS, Raw, in_a_second
from .order import ORDERS, neighbours_share
from .planted import synthetic
from .sources import load_raw
from .tables import DataError

#: Groups of users: the first teach the recommender, the second the SAE and choose, the third judge.
SPLITS = ("recommender", "dev", "test")
#: Development users where there are twice as many for two groups: each fifth is held out of an SAE.
MIN_DEV = 5
TABLES = ("interactions", "items", "users", "everyone")
#: What lists are counted by besides attributes: an attribute of this name gets another one.
POPULAR = "popular"
#: What the id of a user ends with who is there a second time, with items from after the cut.
LATER = " (later)"


@dataclass(frozen=True)
class Dataset:
    """Sequences of items, the items' attributes, and three groups of users.

    Users are numbered from 0, items from 1 to `n_items`; 0 is padding. `everyone`, for a protocol
    without groups, holds ALL items of all users who had three or more: items outside the catalogue
    come after it, and users are numbered anew, in the order of their ids.
    """

    interactions: pd.DataFrame  # [user, item, timestamp, position], by user and position (from 0)
    items: pd.DataFrame  # [item, item_id, title, attributes, popularity, year]
    users: pd.DataFrame  # [user, user_id, split], split is one of `SPLITS`
    everyone: pd.DataFrame  # [user, item], sorted by user and place in the history
    counts: dict[str, int]  # what was read, and what was dropped or lacked something

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue, padding not counted."""
        return len(self.items)

    @property
    def n_items_everyone(self) -> int:
        """Largest number of an item in `everyone`."""
        return int(self.everyone["item"].to_numpy().max(initial=self.n_items))

    @property
    def split_rule(self) -> str:
        """Who the test users are, in words."""
        share = f"{(self.users['split'] == 'test').mean():.0%}"
        if self.counts["interactions_without_time"]:
            return f"random {share} of the users: the data has only an order, nobody is newer"
        if self.counts["test_users_drawn_at_random"]:
            return f"random {share} of the users, as was asked for, though the data has times"
        if n := self.counts["interactions_after_the_cut"]:
            some = (self.users["split"] == "test").sum()
            return f"{some:,} of the users who were active in the last {n:,} interactions"
        return f"newest {share} of the users, by first interaction"

    @cached_property
    def attributes(self) -> list[str]:
        """Names of the attributes, the one that most items carry first; ties in alphabet order."""
        return _by_frequency(self.items["attributes"]).index.tolist()

    @cached_property
    def attribute_matrix(self) -> np.ndarray:
        """1 where the item carries the attribute, float32 [n_items + 1, n_attributes]."""
        carried = self.items["attributes"].str.get_dummies("|")[self.attributes]
        return np.pad(np.ascontiguousarray(carried, np.float32), [(1, 0), (0, 0)])

    @property
    def popularity(self) -> np.ndarray:
        """How many recommender users had each item [n_items + 1]."""
        return np.r_[0, self.items["popularity"]]

    def recent_popularity(self, days: float) -> np.ndarray:
        """How many recommender users had each item [n_items + 1] in so many days up to their last.

        Where as many did, those had by more before come first. Times of no known unit are taken
        for seconds.
        """
        taught = self.users["user"][self.users["split"] == "recommender"]
        table = self.interactions[self.interactions["user"].isin(taught)]
        window = days * 86_400 * in_a_second(self.interactions["timestamp"])
        recent = table["timestamp"] > table["timestamp"].max() - window
        return self._counted(table["item"][recent])

    def _counted(self, items: np.ndarray) -> np.ndarray:
        counts = np.bincount(items, minlength=self.n_items + 1)
        return counts + self.popularity / (1 + self.popularity.max())

    def popularity_before_targets(self, days: float) -> Iterator[np.ndarray]:
        """How many had each item [n_items + 1] in so many days before each test user's last item.

        All users count, those who judge too: a service sees what they take. Who is there twice
        (`LATER`) counts once. Test users come in the order of `recommender.new_users`; the rest is
        as in `recent_popularity`.
        """
        person, _ = pd.factorize(self.users["user_id"].str.removesuffix(LATER))
        table = self.interactions.assign(person=person[self.interactions["user"]])
        table = table.drop_duplicates(["person", "item"]).sort_values("timestamp", kind="stable")
        times, items = table["timestamp"].to_numpy(), table["item"].to_numpy()
        window = days * 86_400 * in_a_second(self.interactions["timestamp"])
        judges = self.users["user"][self.users["split"] == "test"]
        judged = self.interactions[self.interactions["user"].isin(judges)].groupby("user")
        for time in judged["timestamp"].last()[judged.size() > 1]:
            start, end = np.searchsorted(times, [time - window, time])
            yield self._counted(items[start:end])

    @cached_property
    def titles(self) -> list[str]:
        """Title of each item [n_items + 1]; padding has none."""
        return ["", *self.items["title"]]

    @cached_property
    def unique_titles(self) -> list[str]:
        """Titles as in `titles`, followed by the item's id where several items share one."""
        title, shared = self.items["title"], self.items["title"].duplicated(keep=False)
        return ["", *title.where(~shared, title + " [" + self.items["item_id"] + "]")]

    def sequences(self, split: str) -> dict[int, np.ndarray]:
        """Items [length] by user of a group or `everyone` (else ValueError), the oldest first."""
        if split == "everyone":
            table = self.everyone
        elif split in SPLITS:
            users = self.users["user"][self.users["split"] == split]
            table = self.interactions[self.interactions["user"].isin(users)]
        else:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}, everyone")
        starts = _starts(table["user"])
        items = np.split(table["item"].to_numpy(np.int64), starts)[1:]
        return dict(zip(table["user"].iloc[starts].tolist(), items, strict=True))


def prepare(
    raw: Raw,
    *,
    test_fraction: float = 0.1,
    dev_fraction: float = 0.4,
    min_attribute_items: int = 10,
    max_attributes: int = 50,
    test_users: str = "newest",
    max_group: int = 0,
    max_users: int = 0,
    seed: int = 0,
) -> Dataset:
    """Split the users, and number the items that the recommender will know.

    `test_fraction` of all users (rounded up) become test users: the ``newest``, or ``random`` ones
    (always random in data without times). Of the rest, a random `dev_fraction` become development
    users, at least `MIN_DEV` or half of them; the recommender users remain. With `max_group` above
    0, neither of the two has more users. With `max_users` above 0, so many users are drawn first.

    ``later`` is a global temporal split (arXiv 2507.16289): test users are those who took something
    of the catalogue after a cut in time that leaves `test_fraction` of all interactions after it.
    They come with all that they took. What they took up to the cut teaches the recommender, too, so
    who was active before and after it is there twice, then as `LATER`; they are never in ``dev``.

    The catalogue is what the recommender users had. Of repeated interactions the first is kept, and
    a user needs two items. Of the attributes that at least `min_attribute_items` items carry, at
    most `max_attributes` are kept, the most frequent; none that all items carry. Raises DataError
    if a group would have no users, no item is described, or no attribute is frequent enough, and
    ValueError for a setting out of its range. A UserWarning says that half of the items or more are
    not described.
    """
    if test_users not in (known := ["newest", "random", "later"]):
        raise ValueError(f"test_users={test_users!r} is unknown; {name_nearest(test_users, known)}")
    for name, value in (("test_fraction", test_fraction), ("dev_fraction", dev_fraction)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: expected a share between 0 and 1")
    rng = np.random.default_rng(seed)
    users_read, items_read = raw.interactions[["user_id", "item_id"]].nunique()
    table = _some_users(raw.interactions, max_users, rng)
    user, user_ids = pd.factorize(table["user_id"])
    n_users = len(user_ids)
    item, item_ids = pd.factorize(table["item_id"], sort=True)
    time = table["timestamp"].to_numpy()
    newest = raw.timed and test_users == "newest"
    order = np.argsort(time[_starts(user)], kind="stable") if newest else None
    first = ~pd.Series(user * len(item_ids) + item).duplicated().to_numpy()
    whole, n_test, n_after = (user, item, first), None, 0
    if test_users == "later":
        if not raw.timed:
            raise DataError("the data has an order, but no times: nobody is later")
        after = time > np.quantile(time, 1 - test_fraction, method="lower")
        later = np.isin(np.arange(n_users), user[after])
        order, n_test, n_after = np.argsort(later, kind="stable"), later.sum(), after.sum()
    split = _split(n_users, order, test_fraction, dev_fraction, rng, max_group, n_test)
    if test_users == "later":
        chosen = rng.permutation(np.flatnonzero(later))[: max_group or n_test]
        again = np.flatnonzero(np.isin(user, chosen))
        rows = np.r_[np.flatnonzero(~after), again]
        user = np.r_[user[~after], user[again] + n_users]
        item, after, time, first = item[rows], after[rows], time[rows], first[rows]
        split = np.r_[np.where(later, "recommender", split), split]
        user_ids = np.r_[user_ids, [f"{user_id}{LATER}" for user_id in user_ids]]

    taught = first & (split == "recommender")[user]
    taught &= _at_least(2, user, taught)
    catalogue = np.unique(item[taught])
    number = np.zeros(len(item_ids), dtype=np.int32)
    number[catalogue] = np.arange(1, len(catalogue) + 1)
    kept = first & (number[item] > 0)
    if test_users == "later":  # the last item, which judges, is to be one from after the cut
        kept &= (split != "test")[user] | _at_least(1, user, kept & after)
    kept &= _at_least(2, user, kept)
    members = np.unique(user[kept])
    for name in SPLITS:
        if name not in split[members]:
            user, _, first = whole
            enough = _at_least(2, user, first)[_starts(user)].sum()
            raise DataError(
                f"no {name} users: {n_users} users are too few for this split; only {enough} "
                "of them have two different items; each of the three groups needs one, and of "
                "items that recommender users had"
            )

    interactions = pd.DataFrame({"user": np.searchsorted(members, user[kept]).astype(np.int32)})
    interactions["item"], interactions["timestamp"] = number[item[kept]], time[kept]
    interactions["position"] = interactions.groupby("user").cumcount().astype(np.int32)
    _check_ids(item_ids[catalogue], raw.items["item_id"])
    items = _catalogue(raw.items, item_ids[catalogue])
    items["popularity"] = np.bincount(number[item[taught]], minlength=len(items) + 1)[1:]
    described = items["attributes"] != ""
    frequency = _by_frequency(items["attributes"])
    frequency = frequency[(told := frequency < len(items))]  # nothing can be told by what all have
    attributes = frequency[frequency >= min_attribute_items].index[:max_attributes]
    if len(told) and frequency.empty:
        raise DataError(f"every item has every attribute ({', '.join(told.index)})")
    if frequency.empty:
        none = ", ".join(map(repr, sorted(PLACEHOLDERS - {""})))
        raise DataError(f"no item of the catalogue has an attribute ({none} count as none)")
    if attributes.empty:
        raise DataError(
            f"no attribute is carried by {min_attribute_items} items; the most frequent is "
            f"{frequency.index[0]!r}, with {frequency.iloc[0]}: lower min_attribute_items"
        )
    items["attributes"] = items["attributes"].map(
        lambda text: "|".join(name for name in text.split("|") if name in attributes)
    )
    users = pd.DataFrame({"user": np.arange(len(members), dtype=np.int32)})
    users["user_id"] = np.asarray(user_ids)[members].astype(str)
    users["split"] = split[members]
    counts = {
        "interactions_read": len(raw.interactions) + raw.repeats,
        "users_read": users_read,
        "items_read": items_read,
        "users_left_out": users_read - n_users,
        "test_users_drawn_at_random": (split == "test").sum() if order is None else 0,
        "interactions_after_the_cut": n_after,
        "interactions_without_time": 0 if raw.timed else len(raw.interactions),
        "repeated_interactions_dropped": (~whole[2]).sum() + raw.repeats,
        "items_outside_catalogue_dropped": items_read - len(catalogue),
        "interactions_outside_catalogue_dropped": (first & (number[item] == 0)).sum(),
        "users_below_two_items_dropped": len(_starts(user)) - len(members),
        "items_without_title": (items["title"] == items["item_id"]).sum(),
        "items_without_attributes": (~described).sum(),
        "attributes_left_out": len(told) - len(attributes),
    }
    counts = {name: int(n) for name, n in counts.items()}
    return Dataset(interactions, items, users, _everyone(*whole, number), counts)


def save(dataset: Dataset, folder: Path) -> None:
    """Write a dataset into a folder: its tables as parquet, and its counts as JSON."""
    for name in TABLES:
        getattr(dataset, name).to_parquet(Path(folder) / f"{name}.parquet", index=False)
    write_json(Path(folder) / "counts.json", dataset.counts)


def load(folder: Path) -> Dataset:
    """Read what `save` wrote."""
    tables = {name: pd.read_parquet(Path(folder) / f"{name}.parquet") for name in TABLES}
    return Dataset(**tables, counts=json.loads((Path(folder) / "counts.json").read_text()))


def _starts(user) -> np.ndarray:
    """Where each user's rows begin, in a column that is sorted by user."""
    return np.flatnonzero(np.diff(user, prepend=-1))


def _some_users(table: pd.DataFrame, max_users: int, rng) -> pd.DataFrame:
    """The rows of at most so many users, drawn at random; of all of them where it is 0."""
    if max_users < 0:
        raise ValueError(f"max_users={max_users}: expected a number of users, or 0 for all")
    users = table["user_id"].unique()
    if not 0 < max_users < len(users):
        return table
    drawn = rng.choice(len(users), max_users, replace=False)
    return table[table["user_id"].isin(users[drawn])].reset_index(drop=True)


def _at_least(least: int, user: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """True for the rows of users who have so many of the `rows` or more (all bool, [n])."""
    return (np.bincount(user[rows], minlength=user[-1] + 1) >= least)[user]


def _everyone(user, item, first, number) -> pd.DataFrame:
    """The table `Dataset.everyone`; `number` is each item's in the catalogue, 0 outside of it."""
    rows = np.flatnonzero(first & _at_least(3, user, first))
    user, item = user[rows], item[rows]
    others = np.setdiff1d(item, np.flatnonzero(number))
    number = number.copy()
    number[others] = number.max() + np.arange(1, len(others) + 1)
    return pd.DataFrame({"user": pd.factorize(user)[0].astype(np.int32), "item": number[item]})


def _split(n_users, oldest_first, test_fraction, dev_fraction, rng, most, n_test) -> np.ndarray:
    """Name of each user's group [n_users]; without an order of arrival, test users are random.

    `most` above 0 is the size of both at most; `n_test`, if not None, takes the share's place.
    """
    order = rng.permutation(n_users) if oldest_first is None else oldest_first
    most = most or n_users
    if n_test is None:
        n_test = min(math.ceil(round(test_fraction * n_users, 6)), most)
    rest = rng.permutation(np.sort(order[: n_users - n_test]))
    split = np.full(n_users, "recommender", dtype=object)
    split[order[n_users - n_test :]] = "test"
    n_dev = max(round(dev_fraction * len(rest)), min(MIN_DEV, len(rest) // 2))
    split[rest[: min(n_dev, most)]] = "dev"
    return split


def _check_ids(taken, described: pd.Series) -> None:
    """DataError if none of the ids that were taken is described, UserWarning if few of them are."""
    missing = taken[~pd.Series(taken).isin(described).to_numpy()]
    if len(missing) < len(taken):
        if len(missing) >= len(taken) / 2:
            few = f"{len(missing)} of {len(taken)} items are not described, {missing[0]!r} first"
            warnings.warn(f"{few}: they have neither title nor attributes", stacklevel=3)
        return
    one = str(taken[0])
    known = described.astype(str).tolist()
    near = difflib.get_close_matches(one, known[:10_000], n=1, cutoff=0.0)
    raise DataError(
        f"no id of the interactions stands among the items: the former have {one!r}, the latter "
        f"{', '.join(map(repr, near)) or 'none'}. Did a program cut leading zeros, or add '.0'?"
    )


def _catalogue(items: pd.DataFrame, item_ids) -> pd.DataFrame:
    """The items of the catalogue in their new order; the title of an undescribed one is its id."""
    items = items.set_index("item_id").reindex(item_ids).rename_axis("item_id").reset_index()
    items["item_id"] = items["item_id"].astype(str)
    items[["title", "attributes"]] = items[["title", "attributes"]].fillna("")
    own = rf"(?<![^|]){POPULAR}(?![^|])"
    items["attributes"] = items["attributes"].str.replace(own, f"{POPULAR} (own)", regex=True)
    items["title"] = items["title"].where(items["title"] != "", items["item_id"])
    items.insert(0, "item", np.arange(1, len(items) + 1, dtype=np.int32))
    year = items["title"].str.extract(r"\((\d{4})\)(?: \(\w+\))?$", expand=False)
    return items.assign(popularity=0, year=year.astype("Int16"))


def _by_frequency(attributes: pd.Series) -> pd.Series:
    """Number of items by attribute, most frequent first, ties in alphabetical order."""
    names = attributes.str.split("|").explode()
    alphabetical = names[names != ""].value_counts().sort_index()
    return alphabetical.sort_values(ascending=False, kind="stable")
