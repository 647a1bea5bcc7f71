"""Reading, splitting and numbering: on tiny hand-written files and on the planted dataset."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seqsae_utils import data, recommender
from seqsae_utils.data import formats, tables
from seqsae_utils.data.sources import content_checksum

# One dataset in all five layouts. User 2's rows are tied in time and not in the order of items.
ROWS = [(2, 30, 4, 100), (2, 10, 5, 100), (1, 20, 3, 300), (2, 20, 1, 100), (1, 10, 2, 200)]
ITEMS = [(10, "Café, The (1995)", "Drama|War"), (20, "Bare", ""), (30, "Last (1980)", "War")]


def flags(attributes: str) -> list[str]:
    return [str(int(genre in attributes.split("|"))) for genre in formats.GENRES_100K]


def mirror_item(number: int, title: str, attributes: str) -> str:
    title, year = (title[:-7], title[-5:-1]) if title.endswith(")") else (title, "unkonwn")
    return f"{number}\t{title}\t{year}\t{attributes.replace('|', ' ') or 'unknown'}"


def lines(rows, separator: str, header: str = "") -> str:
    return "\n".join([header] * bool(header) + [separator.join(map(str, row)) for row in rows])


LAYOUTS = {
    "100k": {
        "u.data": lines(ROWS, "\t"),
        "u.item": lines([(n, t, "", "", "", *flags(a)) for n, t, a in ITEMS], "|"),
    },
    "mirror": {
        "ml-100k.inter": lines(
            ROWS, "\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float"
        ),
        "ml-100k.item": "\n".join(
            ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
            + [mirror_item(*item) for item in ITEMS]
        ),
    },
    "1m": {"ratings.dat": lines(ROWS, "::"), "movies.dat": lines(ITEMS, "::")},
    "20m": {
        "ratings.csv": lines(ROWS, ",", "userId,movieId,rating,timestamp"),
        "movies.csv": lines(
            [(n, f'"{t}"', a or "(no genres listed)") for n, t, a in ITEMS],
            ",",
            "movieId,title,genres",
        ),
    },
    "own": {
        "interactions.csv": lines(ROWS, ",", "user_id,item_id,rating,timestamp"),
        "items.csv": lines(
            [(n, f'"{t}"', a) for n, t, a in ITEMS], ",", "item_id,title,attributes"
        ),
    },
}


def write(folder, files: dict[str, str], encoding: str = "utf-8"):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes((text + "\n").encode(encoding))
    return folder


def read(folder):
    return formats.read(folder, source="", label="")


@pytest.mark.parametrize(
    "name, encoding",
    [(name, encoding) for name in LAYOUTS for encoding in ("utf-8", "latin-1")]
    + [("20m", "utf-8-sig"), ("own", "utf-8-sig")],
)
def test_every_layout_reads_to_the_same_tables(tmp_path, name, encoding):
    raw = read(write(tmp_path / "d", LAYOUTS[name], encoding))
    expected = [(1, 10, 2, 200), (1, 20, 3, 300), (2, 30, 4, 100), (2, 10, 5, 100), (2, 20, 1, 100)]
    numbers = raw.interactions.astype(float).to_numpy()
    if name == "own":  # whose ratings nobody reads
        assert np.isnan(numbers[:, 2]).all()
        numbers[:, 2] = [rating for _, _, rating, _ in expected]
    np.testing.assert_array_equal(numbers, np.array(expected, float))
    titles = ["unknown" if name == "mirror" and t == "Bare" else t for _, t, _ in ITEMS]
    assert raw.items["title"].tolist() == titles
    assert raw.items["attributes"].tolist() == [attributes for *_, attributes in ITEMS]


def test_the_content_checksum_is_that_of_the_content_not_of_the_format(tmp_path):
    sums = {
        content_checksum(read(write(tmp_path / name, LAYOUTS[name])).interactions)
        for name in ("100k", "mirror", "1m", "20m")
    }
    assert len(sums) == 1
    swapped = [ROWS[1], ROWS[0], *ROWS[2:]]
    other = write(tmp_path / "other", LAYOUTS["100k"] | {"u.data": lines(swapped, "\t")})
    assert content_checksum(read(other).interactions) not in sums, "order within ties must count"


def test_a_zip_is_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name, text in LAYOUTS["1m"].items():
            archive.writestr(f"inner/{name}", text.replace("\n", "\r\n"))
    raw = read(zipfile.Path(tmp_path / "d.zip", "inner/"))
    assert raw.interactions["item_id"].tolist() == [10, 20, 30, 10, 20]


def test_own_data_may_have_any_ids_an_order_and_further_columns(tmp_path):
    files = {
        "interactions.csv": 'order,x,item_id,user_id\n2,,"a,1",u\n1,,b,u\n7,,b,"ü"',
        "items.csv": 'attributes,item_id,title,x\nred| red |blue,"a,1",First  one,\n,b,,',
    }
    raw = read(write(tmp_path / "d", files))
    assert not raw.timed
    assert raw.interactions["user_id"].tolist() == ["u", "u", "ü"]
    assert raw.interactions["item_id"].tolist() == ["b", "a,1", "b"]
    assert raw.items["attributes"].tolist() == ["red|blue", ""]
    assert raw.items["title"].tolist() == ["First one", ""]


def test_ids_of_own_data_may_be_in_latin_1(tmp_path):
    files = {
        "interactions.csv": "user_id,item_id,timestamp\nJosé,é,3",
        "items.csv": "item_id,title,",
    }
    files["items.csv"] += "attributes\né,Été,a"
    raw = read(write(tmp_path / "d", files, "latin-1"))
    assert raw.interactions["user_id"].tolist() == ["José"]
    assert raw.interactions["rating"].isna().all()
    assert raw.items["title"].tolist() == ["Été"]


def test_a_line_is_named_whatever_blank_lines_stand_around(tmp_path):
    text = "\n\nuser_id,item_id,timestamp\n\n1,2,3\n\n1,2,{}\n  \n\n"
    items = LAYOUTS["own"]["items.csv"]
    for time, fault in (("x", "line 7 has timestamp 'x'"), ("-1", "line 7 has timestamp '-1'")):
        files = {"interactions.csv": text.format(time).replace("  ", ""), "items.csv": items}
        with pytest.raises(data.DataError, match=fault):
            read(write(tmp_path / "d", files))
    files["interactions.csv"] = text.format(4)
    with pytest.raises(data.DataError, match="line 8 has 1 fields, expected 3"):
        read(write(tmp_path / "d", files))


BAD = {
    "fields": ("1m", "ratings.dat", "3::4::5", "line 6 has 3 fields, expected 4 (user::item::"),
    "gap": ("1m", "ratings.dat", "3:x:4::5::6", "line 6 has 3 fields, expected 4"),
    "tabs": ("100k", "u.data", "3\t4\t5\t6\t7", r"line 6 has 5 fields, expected 4 (user\titem\t"),
    "comma": ("20m", "ratings.csv", "3,4,5", "line 7 has 3 fields, expected 4 (userId,movieId,"),
    "id": ("20m", "ratings.csv", "x3,4,5,6", "line 7 has userId 'x3', expected a whole number"),
    "negative id": ("1m", "ratings.dat", "3::-4::5::6", "line 6 has item '-4', expected a whole"),
    "huge id": ("1m", "ratings.dat", f"{2**31}::4::5::6", f"line 6 has user '{2**31}'"),
    "nan": ("20m", "ratings.csv", "3,4,5,NaN", "line 7 has timestamp 'NaN', expected a number"),
    "no time": ("20m", "ratings.csv", "3,4,5,", "line 7 has timestamp '', expected a number"),
    "negative": ("100k", "u.data", "3\t4\t5\t-6", "line 6 has timestamp '-6', expected a number"),
    "infinite": ("own", "interactions.csv", "3,4,5,inf", "line 7 has timestamp 'inf', expected"),
    "rating": ("1m", "ratings.dat", "3::4::good::6", "line 6 has rating 'good', expected a number"),
    "empty id": ("own", "interactions.csv", ",4,5,6", "line 7 has user_id '', expected an id"),
    "item fields": ("1m", "movies.dat", "40::Title", "line 4 has 2 fields, expected 3 (item::"),
    "item id": ("20m", "movies.csv", "x,Title,War", "line 5 has movieId 'x', expected a whole"),
    "item twice": ("own", "items.csv", "10,Again,War", "line 5 describes item '10', as line 2 did"),
    "flags": ("100k", "u.item", "40|Title||||1|0", "line 4 has 7 fields, expected 24"),
}


@pytest.mark.parametrize("layout, file, line, message", BAD.values(), ids=BAD)
def test_a_bad_line_is_refused_with_file_line_and_expectation(
    tmp_path, layout, file, line, message
):
    files = LAYOUTS[layout] | {file: LAYOUTS[layout][file] + "\n" + line}
    with pytest.raises(data.DataError) as error:
        read(write(tmp_path / "d", files))
    assert f"{file}: {message}" in str(error.value)


def test_a_time_of_another_unit_is_refused_in_a_file_without_names(tmp_path):
    rows = [(*row[:3], 10**9 + row[3]) for row in ROWS] + [(3, 10, 5, 10**15)]
    files = LAYOUTS["100k"] | {"u.data": lines(rows, "\t")}
    with pytest.raises(data.DataError, match=f"u.data: line 6 has timestamp '{10**15}', expected"):
        read(write(tmp_path / "d", files))


@pytest.mark.parametrize(
    "layout, file, header, missing",
    [
        ("20m", "ratings.csv", "userId,movieId,rating,time", "missing: timestamp"),
        ("own", "interactions.csv", "user_id,thing,rating,when", "item_id, timestamp (or order)"),
        ("own", "items.csv", "item_id,title,words", "missing: attributes"),
    ],
)
def test_a_missing_column_is_named(tmp_path, layout, file, header, missing):
    text = LAYOUTS[layout][file].split("\n", 1)[1]
    with pytest.raises(data.DataError, match="line 1 names the columns") as error:
        read(write(tmp_path / "d", LAYOUTS[layout] | {file: f"{header}\n{text}"}))
    assert file in str(error.value)
    assert missing in str(error.value)


@pytest.mark.parametrize("text", ["", "userId,movieId,rating,timestamp"])
def test_a_file_without_interactions_is_refused(tmp_path, text):
    with pytest.raises(data.DataError, match=r"ratings\.csv"):
        read(write(tmp_path / "d", LAYOUTS["20m"] | {"ratings.csv": text}))


def test_a_program_that_meets_bad_data_ends_with_the_message_alone(tmp_path):
    """Threads of a reader that are still busy at the end would abort it."""
    files = {
        "interactions.csv": "user_id,item_id,timestamp\n1,2,3\n1,b,-4\n",
        "items.csv": "item_id,title,attributes\n2,A,x|y\n",
    }
    folder = write(tmp_path / "d", files)
    command = ["-m", "seqsae_utils.run", "data", "--profile", "csv", "-p", "dataset", str(folder)]
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    message = f"interactions.csv: line 3 has timestamp '-4', expected {tables.A_TIME}"
    assert (run.returncode, run.stderr) == (1, f"error: {message}\n")


def test_a_folder_without_a_known_file_or_without_items_is_refused(tmp_path):
    with pytest.raises(data.DataError, match=r"expected one of: u\.data \+ u\.item"):
        read(write(tmp_path / "a", {"ratings.txt": ""}))
    with pytest.raises(data.DataError, match=r"movies\.dat is missing beside ratings\.dat"):
        read(write(tmp_path / "b", {"ratings.dat": LAYOUTS["1m"]["ratings.dat"]}))


def raw_of(rows, items, *, timed=True) -> data.Raw:
    """A dataset from (user, item, time) rows and (item, title, attributes) rows."""
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(rating=np.nan)
    items = pd.DataFrame(items, columns=["item_id", "title", "attributes"])
    return data.Raw(formats.by_user_and_time(table), items, "", "", timed)


def test_the_split_has_the_sizes_and_the_newcomers_of_the_protocol():
    raw = data.synthetic(n_users=943)
    users = data.prepare(raw).users
    assert users["split"].value_counts().to_dict() == {"recommender": 509, "dev": 339, "test": 95}
    arrival = raw.interactions.groupby("user_id")["timestamp"].min()
    newest = set(arrival.nlargest(95).index.astype(str))
    assert set(users["user_id"][users["split"] == "test"]) == newest


@pytest.mark.parametrize("users, dev", [(1000, 360), (15, 5), (12, 5), (11, 4)])
def test_of_few_users_enough_choose_for_a_fifth_to_be_held_out(users, dev):
    raw = data.synthetic(n_users=users, n_items=40)
    found = data.prepare(raw, min_attribute_items=1).users["split"].value_counts()
    assert found["dev"] == dev and found["recommender"] >= found["dev"]


def test_only_the_seed_moves_the_sae_users_and_nothing_moves_the_test_users():
    raw = data.synthetic(n_users=100)
    first, again, other = (data.prepare(raw, seed=seed).users for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first["split"] != other["split"]).any()
    assert ((first["split"] == "test") == (other["split"] == "test")).all()


@pytest.fixture(scope="module")
def small() -> data.Dataset:
    """Ten users; user 9 is the newest. What is dropped and why is in the test below."""
    rows = [
        (user, item, 10 * user + place) for user in range(9) for place, item in enumerate("cab")
    ]
    rows += [(9, "b", 95), (9, "only-nine", 96), (9, "c", 97), (9, "b", 98), (10, "a", 0)]
    items = [("a", "A (1995)", "x|y|rare"), ("b", "B (2001) (V)", "y"), ("only-nine", "N", "y")]
    return data.prepare(raw_of(rows, items), min_attribute_items=1, max_attributes=2, seed=3)


def test_what_cannot_be_used_is_dropped_and_counted(small):
    assert small.counts == {
        "interactions_read": 32,
        "users_read": 11,
        "items_read": 4,
        "users_left_out": 0,
        "test_users_drawn_at_random": 0,
        "interactions_after_the_cut": 0,
        "interactions_without_time": 0,
        "repeated_interactions_dropped": 1,
        "items_outside_catalogue_dropped": 1,
        "interactions_outside_catalogue_dropped": 1,
        "users_below_two_items_dropped": 1,
        "items_without_title": 1,
        "items_without_attributes": 1,
        "attributes_left_out": 1,
    }
    assert "10" not in set(small.users["user_id"])
    assert small.users["user"].tolist() == list(range(10))


def test_items_are_numbered_from_one_with_their_attributes(small):
    assert small.n_items == 3
    assert small.items["item_id"].tolist() == ["a", "b", "c"]
    assert small.titles == ["", "A (1995)", "B (2001) (V)", "c"]
    assert small.items["year"].fillna(0).tolist() == [1995, 2001, 0]
    assert small.attributes == ["y", "rare"], "most frequent first, then alphabetical"
    assert small.items["attributes"].tolist() == ["y|rare", "y", ""]
    np.testing.assert_array_equal(small.attribute_matrix, [[0, 0], [1, 1], [1, 0], [0, 0]])
    assert small.attribute_matrix.dtype == np.float32
    n_recommender = (small.users["split"] == "recommender").sum()
    assert small.items["popularity"].tolist() == [n_recommender] * 3


def test_an_attribute_of_every_item_tells_nothing_and_is_left_out():
    raw = data.synthetic(n_users=60)
    names = ("all|" + raw.items["attributes"]).str.rstrip("|")
    found = data.prepare(replace(raw, items=raw.items.assign(attributes=names)))
    assert found.attributes == data.prepare(raw).attributes
    with pytest.raises(data.DataError, match=r"every item has every attribute \(all\)"):
        data.prepare(replace(raw, items=raw.items.assign(attributes="all")))


def test_items_of_one_title_are_told_apart_by_their_ids():
    raw = data.synthetic(n_users=60)
    titles = ["Emma (1996)", "Emma (1996)", *raw.items["title"][2:]]
    found = data.prepare(replace(raw, items=raw.items.assign(title=titles)))
    ids = found.items.set_index("item")["item_id"]
    twins = [i for i, title in enumerate(found.titles) if title == "Emma (1996)"]
    assert [found.unique_titles[i] for i in twins] == [f"Emma (1996) [{ids[i]}]" for i in twins]
    others = [i for i in range(found.n_items + 1) if i not in twins]
    assert [found.unique_titles[i] for i in others] == [found.titles[i] for i in others]


def test_sequences_keep_the_order_and_the_first_of_repeated_items(small):
    for split in data.SPLITS:
        for user, items in small.sequences(split).items():
            expected = [2, 3] if small.users["user_id"][user] == "9" else [3, 1, 2]
            assert items.tolist() == expected
            assert items.dtype == np.int64
    assert list(small.sequences("test")) == [8, 9]
    assert small.interactions["position"].max() == 2
    with pytest.raises(ValueError, match="'train' is none of recommender, dev, test, everyone"):
        small.sequences("train")


def test_everyone_keeps_all_items_of_all_users_who_have_three(small):
    """User 10 has one item; user 9 keeps the one that nobody else has, after the catalogue."""
    sequences = small.sequences("everyone")
    assert list(sequences) == list(range(10))
    assert all(sequences[user].tolist() == [3, 1, 2] for user in range(9))
    assert sequences[9].tolist() == [2, 4, 3]
    assert sequences[9].dtype == np.int64
    assert (small.n_items, small.n_items_everyone) == (3, 4)
    assert small.everyone.dtypes.astype(str).to_dict() == {"user": "int32", "item": "int32"}


def test_everyone_is_numbered_in_the_order_of_ids_whatever_became_of_the_users():
    """Told item by item against the raw rows, on data of which the split drops much."""
    raw = data.synthetic(n_users=40, n_items=600)
    table = raw.interactions
    kept = (table["user_id"] % 4 != 1) | (table.groupby("user_id").cumcount() < 2)
    raw = replace(raw, interactions=table[kept].reset_index(drop=True))
    dataset = data.prepare(raw, min_attribute_items=1)
    number = dataset.items.set_index("item_id")["item"].to_dict()
    numbers, found = {}, iter(dataset.sequences("everyone").items())
    long = [rows for _, rows in raw.interactions.groupby("user_id") if len(rows) >= 3]
    for place, rows in enumerate(long):
        user, items = next(found)
        assert user == place
        for item_id, item in zip(rows["item_id"], items.tolist(), strict=True):
            assert numbers.setdefault(item_id, item) == item
            known = number.get(str(item_id))
            assert item == known if known else item > dataset.n_items
    assert next(found, None) is None
    others = sorted(set(numbers.values()) - set(number.values()))
    assert others == list(range(dataset.n_items + 1, dataset.n_items_everyone + 1))
    assert len(others) > 10
    assert len(long) == 30 < len(dataset.users)


def test_everyone_may_be_nobody():
    rows = [(user, item, 10 * user + place) for user in range(9) for place, item in enumerate("ab")]
    dataset = data.prepare(raw_of(rows, [("a", "A", "x"), ("b", "B", "y")]), min_attribute_items=1)
    assert dataset.sequences("everyone") == {}
    assert dataset.n_items_everyone == dataset.n_items == 2


def test_ties_in_time_keep_the_rows_order():
    rows = [(place % 7, place, place % 3) for place in range(2000)]
    table = raw_of(rows, []).interactions
    expected = sorted(rows, key=lambda row: (row[0], row[2], row[1]))
    assert list(table[["user_id", "item_id", "timestamp"]].itertuples(index=False)) == expected


def test_groups_never_share_a_user_and_the_catalogue_is_the_recommenders():
    dataset = data.prepare(data.synthetic(n_users=40, n_items=600), min_attribute_items=1)
    users = [set(dataset.sequences(split)) for split in data.SPLITS]
    assert set.union(*users) == set(dataset.users["user"])
    assert sum(map(len, users)) == len(dataset.users)
    trained = np.unique(np.concatenate(list(dataset.sequences("recommender").values())))
    np.testing.assert_array_equal(trained, np.arange(1, dataset.n_items + 1))
    assert dataset.counts["items_outside_catalogue_dropped"] > 0
    assert (dataset.items["popularity"] > 0).all()


def test_without_times_the_test_users_are_random_and_it_is_said(tmp_path):
    raw = replace(data.synthetic(n_users=200), timed=False)
    first, other = (data.prepare(raw, seed=seed) for seed in (0, 1))
    assert first.counts["interactions_without_time"] == len(raw.interactions)
    tests = [set(d.users["user_id"][d.users["split"] == "test"]) for d in (first, other)]
    assert len(tests[0]) == len(tests[1]) == 20
    assert tests[0] != tests[1]
    rule = "random 10% of the users: the data has only an order, nobody is newer"
    data.save(first, tmp_path)
    assert first.split_rule == data.load(tmp_path).split_rule == rule
    timed = data.prepare(replace(raw, timed=True), test_fraction=0.25)
    assert timed.split_rule == "newest 25% of the users, by first interaction"


def test_test_users_are_random_where_that_is_asked_for(tmp_path):
    raw = data.synthetic(n_users=200)
    first, again, other = (data.prepare(raw, test_users="random", seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.users, again.users)
    tests = [set(d.users["user_id"][d.users["split"] == "test"]) for d in (first, other)]
    assert [len(users) for users in tests] == [20, 20]
    newest = data.prepare(raw).users
    newest = set(newest["user_id"][newest["split"] == "test"])
    assert len({frozenset(users) for users in (*tests, newest)}) == 3
    data.save(first, tmp_path)
    rule = "random 10% of the users, as was asked for, though the data has times"
    assert first.split_rule == data.load(tmp_path).split_rule == rule
    assert first.counts["test_users_drawn_at_random"] == 20
    untimed = data.prepare(replace(raw, timed=False))
    pd.testing.assert_frame_equal(first.users, untimed.users)


@pytest.fixture(scope="module")
def later() -> data.Dataset:
    return data.prepare(data.synthetic(), test_users="later", test_fraction=0.2)


def test_after_a_cut_in_time_nobody_learns_and_everybody_active_judges(later, tmp_path):
    raw = data.synthetic().interactions
    cut = raw["timestamp"].sort_values().iloc[int(0.8 * (len(raw) - 1))]
    table = later.interactions.merge(later.users, on="user")
    judges = table[table["split"] == "test"]
    assert table["timestamp"][table["split"] != "test"].max() == cut
    assert judges.groupby("user")["timestamp"].last().min() > cut, "the item that judges is later"
    people = set(judges["user_id"].str.removesuffix(data.LATER))
    assert people == set(raw["user_id"][raw["timestamp"] > cut].astype(str))
    assert (judges["user_id"].str.endswith(data.LATER)).all()
    for _, one in judges.groupby("user_id"):  # with all that they took, before and after
        own = raw[raw["user_id"] == int(one["user_id"].iloc[0].removesuffix(data.LATER))]
        assert one["timestamp"].tolist() == own["timestamp"].tolist()
    taught = set(table["user_id"][table["split"] == "recommender"])
    chose = set(table["user_id"][table["split"] == "dev"])
    assert people & taught and not people & chose, "known people judge, none of them chooses"
    n = (raw["timestamp"] > cut).sum()
    data.save(later, tmp_path)
    rule = f"{len(people):,} of the users who were active in the last {n:,} interactions"
    assert later.split_rule == data.load(tmp_path).split_rule == rule
    pd.testing.assert_frame_equal(later.everyone, data.prepare(data.synthetic()).everyone)


def test_who_takes_nothing_of_the_catalogue_after_the_cut_does_not_judge():
    rows = [(user, item, 10 * user + place) for user in range(8) for place, item in enumerate("ab")]
    rows += [(0, "new", 90), (1, "c", 91), (1, "new", 92), (2, "c", 5), (3, "c", 6)]
    raw = raw_of(rows, [(item, item.upper(), "x" * (item == "a")) for item in ("a", "b", "c")])
    found = data.prepare(raw, test_users="later", test_fraction=0.15, min_attribute_items=1)
    judges = found.users[found.users["split"] == "test"]
    assert judges["user_id"].tolist() == [f"1{data.LATER}"]
    last = found.interactions[found.interactions["user"] == judges["user"].iloc[0]].iloc[-1]
    assert (found.items["item_id"][last["item"] - 1], last["timestamp"]) == ("c", 91)


def test_without_times_nobody_is_later():
    raw = replace(data.synthetic(n_users=50), timed=False)
    with pytest.raises(data.DataError, match="an order, but no times: nobody is later"):
        data.prepare(raw, test_users="later")


@pytest.mark.parametrize("test_users", ["newest", "random", "later"])
def test_groups_are_no_larger_than_is_asked_for_and_the_others_teach(test_users):
    raw = data.synthetic(n_users=200)
    free, held = (data.prepare(raw, test_users=test_users, max_group=n) for n in (0, 8))
    sizes, few = (found.users["split"].value_counts() for found in (free, held))
    assert few["test"] == few["dev"] == 8 < min(sizes["test"], sizes["dev"])
    assert few["recommender"] > sizes["recommender"]
    if test_users == "newest":
        newest = free.users["user_id"][free.users["split"] == "test"].tolist()[-8:]
        assert held.users["user_id"][held.users["split"] == "test"].tolist() == newest


def test_recent_popularity_counts_the_last_days_of_those_who_teach(later):
    table = later.interactions.merge(later.users, on="user").query("split == 'recommender'")
    recent = table[table["timestamp"] > table["timestamp"].max() - 7 * 86_400]
    counts = recent["item"].value_counts()
    found = later.recent_popularity(7)
    assert found[0] == 0 and counts.max() > 1
    for item in range(1, later.n_items + 1):
        assert int(found[item]) == counts.get(item, 0)
        assert np.isclose(
            found[item] % 1, later.popularity[item] / (1 + later.popularity.max()), atol=1e-9
        )


def test_popularity_before_each_target_counts_all_users_and_not_the_target(later):
    judges = recommender.new_users(later).test
    found = list(later.popularity_before_targets(7))
    assert len(found) == len(judges[1]) > 10
    by_user = dict(list(later.interactions.groupby("user")))
    test = later.users["user"][later.users["split"] == "test"]
    last = [by_user[user].iloc[-1] for user in test if len(by_user[user]) > 1]
    people = later.users["user_id"].str.removesuffix(data.LATER)
    assert people.duplicated().sum() > 10  # who is there twice counts once
    table = later.interactions.assign(person=later.interactions["user"].map(people))
    table, some = table.drop_duplicates(["person", "item"]), 0
    for counts, target, item in zip(found, last, judges[1], strict=True):
        assert target["item"] == item
        age = target["timestamp"] - table["timestamp"]
        expected = table["item"][(age > 0) & (age <= 7 * 86_400)]
        assert np.floor(counts).tolist() == np.bincount(expected, minlength=len(counts)).tolist()
        assert np.allclose(counts % 1, later.popularity / (1 + later.popularity.max()))
        some += len(expected)
    assert some > len(found)


def test_days_are_days_whatever_the_unit_of_times(later):
    finer = later.interactions.assign(timestamp=later.interactions["timestamp"] * 1_000)
    finer = replace(later, interactions=finer)
    np.testing.assert_array_equal(finer.recent_popularity(7), later.recent_popularity(7))
    for one, other in zip(*(d.popularity_before_targets(7) for d in (finer, later)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_some_users_are_drawn_before_the_split():
    """As if nobody else had been published; what was published is still told."""
    raw = data.synthetic(n_users=200)
    small, again, other = (data.prepare(raw, max_users=80, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(small.users, again.users)
    assert set(small.users["user_id"]) != set(other.users["user_id"])
    assert small.users["split"].value_counts().to_dict() == {
        "recommender": 43,
        "dev": 29,
        "test": 8,
    }
    assert small.counts["users_left_out"] == 120
    assert small.counts["interactions_read"] == len(raw.interactions)
    assert small.counts["users_read"] == 200

    drawn = raw.interactions["user_id"].astype(str).isin(small.users["user_id"])
    table = raw.interactions[drawn].reset_index(drop=True)
    assert small.everyone["user"].nunique() == len(small.users) == 80
    arrival = table.groupby("user_id")["timestamp"].min()
    tests = small.users["user_id"][small.users["split"] == "test"]
    assert set(tests) == set(arrival.nlargest(8).index.astype(str))
    for users in (0, 200, 999):
        everybody = data.prepare(raw, max_users=users)
        assert everybody.counts["users_left_out"] == 0
        pd.testing.assert_frame_equal(everybody.users, data.prepare(raw).users)


def test_repeats_that_a_reader_left_out_are_counted():
    raw = data.synthetic(n_users=100)
    counts = data.prepare(replace(raw, repeats=7)).counts
    assert counts["interactions_read"] == len(raw.interactions) + 7
    assert counts["repeated_interactions_dropped"] == 7


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"min_attribute_items": 999}, "most frequent is 'Desert', with 54: lower min_attribute"),
        ({"test_fraction": 1.5}, "test_fraction=1.5: expected a share between 0 and 1"),
        ({"dev_fraction": 0}, "dev_fraction=0: expected a share"),
        ({"test_users": "later", "test_fraction": 1.5}, "test_fraction=1.5: expected a share"),
        ({"max_users": -1}, "max_users=-1: expected a number of users, or 0 for all"),
        ({"max_users": 2}, "2 users are too few for this split"),
        ({"test_users": "newset"}, "test_users='newset' is unknown; nearest: 'newest'"),
        ({"test_fraction": 0.999}, "no recommender users|no dev users"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        data.prepare(data.synthetic(n_users=60), **settings)


def test_a_dataset_without_attributes_is_refused():
    raw = data.synthetic(n_users=60)
    raw = replace(raw, items=raw.items.assign(attributes=""))
    with pytest.raises(data.DataError, match="no item of the catalogue has an attribute"):
        data.prepare(raw)


def test_save_and_load_give_the_same_dataset_back(tmp_path, small):
    data.save(small, tmp_path)
    loaded = data.load(tmp_path)
    for name in ("interactions", "items", "users", "everyone"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(small, name))
    assert loaded.counts == small.counts
    assert loaded.attributes == small.attributes
    names = {path.name for path in tmp_path.iterdir()}
    tables = {"interactions.parquet", "items.parquet", "users.parquet", "everyone.parquet"}
    assert names == tables | {"counts.json"}
    assert loaded.n_items_everyone == small.n_items_everyone


# --- order ---


def test_neighbours_share_counts_pairs_inside_a_history():
    """Told by hand: pairs of one user alone, and an attribute beyond the eighth counts too."""
    many = "|".join(f"a{i}" for i in range(9))
    items = [(1, "A", many), (2, "B", "a0"), (3, "C", "a8"), (4, "D", "")]
    rows = [(user, item, time) for user in range(9) for time, item in enumerate((2, 1, 3, 2, 4))]
    dataset = data.prepare(raw_of(rows, items), min_attribute_items=1)
    assert data.neighbours_share(dataset)[0] == 2 / 3  # 2-1 and 1-3; the second 2 is dropped
    with pytest.raises(ValueError, match="'ties' is unknown; nearest: 'ties shuffled'"):
        data.neighbours_share(dataset, "ties")


def test_shuffling_ties_keeps_the_order_of_times():
    """Two tied items of one kind, then two of another: neighbours that differ stay where the
    time changes, however ties are shuffled, until all is."""
    items = [(item, str(item), "ab"[item > 1]) for item in range(4)]
    rows = [(user, item, 100 * user + item // 2) for user in range(300) for item in range(4)]
    dataset = data.prepare(raw_of(rows, items), min_attribute_items=1)
    as_it_is, ties, everything = (data.neighbours_share(dataset, order)[0] for order in data.ORDERS)
    assert as_it_is == ties == 2 / 3
    assert everything == pytest.approx(1 / 3, abs=0.02)
    assert everything == data.neighbours_share(dataset, "all shuffled")[0]


def test_ties_are_shuffled():
    """Items a, b, a, b, ... at one time: no neighbours are alike, until the tie is shuffled."""
    items = [(item, str(item), "ab"[item % 2]) for item in range(10)]
    rows = [(user, item, user) for user in range(100) for item in range(10)]
    dataset = data.prepare(raw_of(rows, items), min_attribute_items=1)
    assert data.neighbours_share(dataset)[0] == 0
    assert data.neighbours_share(dataset, "ties shuffled")[0] == pytest.approx(4 / 9, abs=0.02)


# --- made up ---


def test_the_planted_dataset_is_seeded_and_follows_its_concepts():
    raw, again, other = data.synthetic(0), data.synthetic(0), data.synthetic(1)
    pd.testing.assert_frame_equal(raw.interactions, again.interactions)
    assert len(raw.interactions) != len(other.interactions)
    assert raw.items["title"].is_unique
    assert not raw.interactions.duplicated(["user_id", "item_id"]).any()
    assert raw.interactions.groupby("user_id").size().between(20, 60).all()

    dataset = data.prepare(raw)
    assert len(dataset.attributes) == 12
    assert (dataset.attribute_matrix[1:].sum(1) == 2).all()
    table = dataset.interactions
    same_user = table["user"].diff().eq(0).to_numpy()[1:]
    carried = dataset.attribute_matrix[table["item"]]
    neighbours = (carried[1:] * carried[:-1]).any(axis=1)[same_user].mean()
    distant = (carried[500:] * carried[:-500]).any(axis=1).mean()
    assert neighbours > 0.8 > 0.4 > distant, "a mood must last, and differ between users"


def test_too_many_planted_items_are_refused():
    with pytest.raises(ValueError, match="at most 660 items"):
        data.synthetic(n_items=661)
