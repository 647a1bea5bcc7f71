"""Own data in the forms in which they come: read alike, or refused with what is wrong."""

import bz2
import gzip
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqsae_utils import data
from seqsae_utils.data import formats, tables

USERS = [f"u{n}" for n in range(30)]
INTERACTIONS = pd.DataFrame(
    [(user, f"i{(3 * n + 7 * i) % 40}", 1_600_000_000 + 60 * n + i)
     for n, user in enumerate(USERS) for i in range(6)],
    columns=["user_id", "item_id", "timestamp"],
)  # fmt: skip
ITEMS = pd.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(40)],
        "title": [f'The "{n}", again (1999)' for n in range(40)],
        "attributes": ["red|old", "red", "blue|old", ""] * 10,
    }
)
DATES = pd.to_datetime(INTERACTIONS["timestamp"], unit="s")


def write(folder, interactions, items=None, ends=("csv", "csv"), **options):
    folder.mkdir()
    tables = (interactions, ITEMS if items is None else items)
    for name, table, end in zip(("interactions", "items"), tables, ends, strict=True):
        path = folder / f"{name}.{end}"
        if end == "parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, **options)
    return folder


def read(folder):
    return formats.read(folder, source="here", label="")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return read(write(tmp_path_factory.mktemp("plain") / "d", INTERACTIONS))


def renamed(table, **names):
    return table.rename(columns=names)


def recbole(folder, *_):
    folder.mkdir()
    tokens = {
        "user_id": "user_id:token",
        "item_id": "item_id:token",
        "timestamp": "timestamp:float",
    }
    table = renamed(INTERACTIONS, **tokens)
    table.to_csv(folder / "mine.inter", sep="\t", index=False)
    items = ITEMS.assign(attributes=ITEMS["attributes"].str.replace("|", " "))
    names = ["item_id:token", "movie_title:token_seq", "class:token_seq"]
    lines = ["\t".join(names), *("\t".join(row) for row in items.itertuples(False, None))]
    (folder / "mine.item").write_text("\n".join(lines))
    return folder


def pipes(folder):
    """Interactions alone: in items, attributes have this separator."""
    write(folder, INTERACTIONS)
    INTERACTIONS.to_csv(folder / "interactions.csv", sep="|", index=False)
    return folder


def mixed(dates, among: bool = False) -> list[str]:
    """The same times in three of the ways that ISO 8601 knows, and maybe seconds `among` them."""
    forms = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.000+00:00"]
    written = [date.strftime(forms[i % 3]) for i, date in enumerate(dates)]
    seconds = INTERACTIONS["timestamp"].astype(str)
    return [seconds[i] if among and i % 4 == 1 else text for i, text in enumerate(written)]


FORMS = {
    "semicolons": (lambda f: write(f, INTERACTIONS, sep=";"), "separated by ';'"),
    "tabs": (lambda f: write(f, INTERACTIONS, sep="\t", ends=("tsv", "tsv")), "interactions.tsv"),
    "gzip": (lambda f: write(f, INTERACTIONS, ends=("csv.gz", "csv.gz")), "interactions.csv.gz"),
    "zip": (lambda f: write(f, INTERACTIONS, ends=("csv.zip", "csv")), "interactions.csv.zip"),
    "parquet": (lambda f: write(f, INTERACTIONS, ends=("parquet",) * 2), "interactions.parquet"),
    "times": (
        lambda f: write(f, INTERACTIONS.assign(timestamp=DATES), ends=("parquet", "csv")),
        "interactions.parquet",
    ),
    "iso": (lambda f: write(f, INTERACTIONS.assign(timestamp=DATES.map(str))), ""),
    "zone": (lambda f: write(f, INTERACTIONS.assign(timestamp=DATES.map("{}Z".format))), ""),
    "mixed": (lambda f: write(f, INTERACTIONS.assign(timestamp=mixed(DATES))), ""),
    "seconds": (
        lambda f: write(f, INTERACTIONS.assign(timestamp=mixed(DATES, among=True))), ""
    ),
    "floats": (lambda f: write(f, INTERACTIONS.astype({"timestamp": float})), ""),
    "rating": (lambda f: write(f, INTERACTIONS.assign(rating=[-1, None, "1,5"] * 60)), ""),
    "index": (lambda f: write(f, INTERACTIONS.reset_index(names="Unnamed: 0")), ""),
    "pipes": (pipes, "separated by '|'"),
    "utf-16": (lambda f: write(f, INTERACTIONS, sep="\t", encoding="utf-16"), "csv in utf-16"),
    "latin-1": (
        lambda f: write(f, INTERACTIONS.assign(by="Zoë"), encoding="latin-1"),
        "interactions.csv in cp1252",
    ),
    "no Windows": (
        lambda f: write(f, INTERACTIONS.assign(by="\x81"), encoding="latin-1"),
        "interactions.csv in latin-1",
    ),
    "names": (
        lambda f: write(
            f,
            renamed(INTERACTIONS, item_id="parent_asin"),
            renamed(ITEMS, item_id="parent_asin"),
        ),
        "parent_asin as item_id",
    ),
    "shops": (
        lambda f: write(
            f,
            renamed(INTERACTIONS, user_id="customer_id", item_id="article_id", timestamp="t_dat"),
        ),
        "customer_id as user_id; article_id as item_id; t_dat as timestamp",
    ),
    "capitals": (
        lambda f: write(f, renamed(INTERACTIONS, user_id=" User_ID", item_id="movieId")),
        "User_ID as user_id; movieId as item_id",
    ),
    "genres": (
        lambda f: write(f, INTERACTIONS, renamed(ITEMS, attributes="Genres")),
        "Genres as attributes",
    ),
    "lists": (
        lambda f: write(
            f,
            INTERACTIONS,
            ITEMS.assign(attributes=ITEMS["attributes"].str.split("|")),
            ends=("csv", "parquet"),
        ),
        "items.parquet",
    ),
    "blanks": (lambda f: write(f, INTERACTIONS.assign(item_id=INTERACTIONS["item_id"] + " ")), ""),
    "recbole": (recbole, "mine.inter"),
}  # fmt: skip


@pytest.mark.parametrize("form, said", FORMS.values(), ids=FORMS)
def test_every_form_reads_to_the_same_tables_and_says_what_was_taken(tmp_path, plain, form, said):
    raw = read(form(tmp_path / "d"))
    pd.testing.assert_frame_equal(raw.interactions, plain.interactions)
    pd.testing.assert_frame_equal(raw.items, plain.items, check_dtype=False)
    assert said in raw.source
    assert (raw.source == "here") == (not said)


def test_nanoseconds_keep_their_order_and_are_called_so(tmp_path):
    times = 1_600_000_000_000_000_000 + 100 * np.arange(180)[::-1]
    raw = read(write(tmp_path / "d", INTERACTIONS.assign(timestamp=times)))
    assert raw.interactions["timestamp"].is_unique
    first = raw.interactions[raw.interactions["user_id"] == "u0"]["item_id"].tolist()
    assert first == INTERACTIONS["item_id"][:6].tolist()[::-1]
    assert "nanoseconds" in raw.source


def test_a_fraction_of_a_second_keeps_the_order(tmp_path):
    times = DATES.min() + pd.to_timedelta(np.arange(180)[::-1] * 1000, unit="ns")
    raw = read(
        write(tmp_path / "d", INTERACTIONS.assign(timestamp=times.map(lambda t: t.isoformat())))
    )
    assert raw.interactions["timestamp"].is_unique


@pytest.mark.parametrize(
    "times", [[20190120 + n for n in range(6)], [43485.5 + n for n in range(6)]]
)
def test_times_too_small_for_seconds_are_called_so(tmp_path, times):
    """Dates as numbers, and days since 1900 as spreadsheets count them."""
    raw = read(write(tmp_path / "d", INTERACTIONS.assign(timestamp=times * 30)))
    first = raw.interactions[raw.interactions["user_id"] == "u0"]["item_id"].tolist()
    assert first == INTERACTIONS["item_id"][:6].tolist()
    assert "only their order counts" in raw.source


def test_titles_from_windows_keep_their_dashes_and_quotation_marks(tmp_path):
    items = ITEMS.assign(title="Zoë – the “second”")
    raw = read(write(tmp_path / "d", INTERACTIONS, items, encoding="cp1252"))
    assert set(raw.items["title"]) == {"Zoë – the “second”"}
    assert "items.csv in cp1252" in raw.source


def test_a_byte_that_means_nothing_late_in_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 500)  # what the encoding is told by
    text = ITEMS.assign(title="Zoë").to_csv(index=False) + "i99,T\x81,red\n"
    folder = write(tmp_path / "d", INTERACTIONS)
    (folder / "items.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(data.DataError, match="items.csv: .*0x81.*save it as UTF-8"):
        read(folder)


@pytest.mark.parametrize("mark", [", ", ";"])
def test_attributes_that_are_separated_otherwise_are_said(tmp_path, mark):
    items = ITEMS.assign(attributes=ITEMS["attributes"].str.replace("|", mark))
    raw = read(write(tmp_path / "d", INTERACTIONS, items))
    assert f"50% of attributes hold {mark.strip()!r}, but only | separates them" in raw.source


def test_what_is_no_table_is_refused_for_what_it_is(tmp_path):
    folder = write(tmp_path / "d", INTERACTIONS, encoding="utf-16-le")  # which does not say so
    with pytest.raises(data.DataError, match="interactions.csv is no text"):
        read(folder)
    write(tmp_path / "e", INTERACTIONS, sep=" ")
    with pytest.raises(data.DataError, match="columns are separated by , ; | or tabs"):
        read(tmp_path / "e")
    for end in ("jsonl", "xlsx", "csv.xz"):
        folder = write(tmp_path / end, INTERACTIONS)
        (folder / "interactions.csv").rename(folder / f"interactions.{end}")
        with pytest.raises(data.DataError, match=f"interactions.{end} is of no known kind"):
            read(folder)


def test_quoted_line_ends_are_read_however_long_the_file(tmp_path):
    title = "a\nlong title, " * 4000
    items = ITEMS.assign(title=title)
    raw = read(write(tmp_path / "d", INTERACTIONS, items))
    assert (tmp_path / "d" / "items.csv").stat().st_size > 2**20
    assert set(raw.items["title"]) == {" ".join(title.split())}


def test_a_column_that_is_named_twice_is_refused(tmp_path):
    folder = write(tmp_path / "d", INTERACTIONS)
    for header, message in {
        "user_id,item_id,timestamp,timestamp": "interactions.csv: line 1 names timestamp twice",
        "user_id,User_ID,item_id,timestamp": None,  # the exact name is meant
        "userId,User_ID,item_id,timestamp": "names user_id twice .userId, User_ID.",
    }.items():
        (folder / "interactions.csv").write_text(f"{header}\n1,1,1,1\n")
        if message:
            with pytest.raises(data.DataError, match=message):
                read(folder)
        else:
            assert len(read(folder).interactions) == 1
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp,timestamp\n1,1,1,1,1\n")
    (folder / "movies.csv").write_text("movieId,title,genres\n1,A,War\n")
    (folder / "interactions.csv").unlink()
    with pytest.raises(data.DataError, match="line 1 names the column 'timestamp' twice"):
        read(folder)


def test_two_datasets_in_one_folder_are_refused(tmp_path):
    folder = write(tmp_path / "d", INTERACTIONS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,1,1\n")
    with pytest.raises(data.DataError, match="holds ratings.csv and interactions.csv: keep"):
        read(folder)
    (folder / "ratings.csv").rename(folder / "interactions.parquet")
    with pytest.raises(data.DataError, match="holds interactions.csv and interactions.parquet"):
        read(folder)


@pytest.mark.parametrize("time", ["05/01/2021", "-3", "", "soon", "inf"])
def test_a_time_in_no_known_form_is_refused_by_its_line(tmp_path, time):
    folder = write(tmp_path / "d", INTERACTIONS)
    with open(folder / "interactions.csv", "a") as file:
        file.write(f"u1,i1,{time}\n")
    with pytest.raises(
        data.DataError, match=f"line 182 has timestamp '{time}', expected .*seconds"
    ):
        read(folder)


@pytest.mark.parametrize(
    "time, said", [("1e19", "1e+19"), ("1e30", "1e+30"), ("1600000000000", "1600000000000")]
)
def test_one_time_of_another_unit_is_refused_by_its_line(tmp_path, time, said):
    """It would be the last of its user, whatever it means; 0 is written where it is unknown."""
    folder = write(tmp_path / "d", INTERACTIONS)
    with open(folder / "interactions.csv", "a") as file:
        file.write("u1,i1,0\n")
    read(folder)
    with open(folder / "interactions.csv", "a") as file:
        file.write(f"u1,i2,{time}\n")
    message = f"line 183 has timestamp '{said}', expected one in the unit of the others"
    with pytest.raises(data.DataError, match=re.escape(message)):
        read(folder)


@pytest.mark.parametrize("name", ["interactions.csv.gz", "interactions.csv.zip", "items.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    ends = [name.partition(".")[2] if name.startswith(n) else "csv" for n in ("inter", "items")]
    folder = write(tmp_path / "d", INTERACTIONS, ends=ends)
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(data.DataError, match=name):
        read(folder)


def test_a_time_that_no_number_holds_is_read_or_refused_without_a_warning(tmp_path):
    raw = read(write(tmp_path / "d", INTERACTIONS.assign(timestamp="1e19")))
    assert (raw.interactions["timestamp"] == 1e19).all()


def test_kaggles_copy_of_movielens_is_read(tmp_path):
    rows = "\n".join(f"{n},{i},3.5,2005-04-02 23:53:{n}{i}" for n in (1, 2) for i in (1, 2))
    (tmp_path / "rating.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}\n")
    (tmp_path / "movie.csv").write_text("movieId,title,genres\n1,A,War\n2,B,War\n")
    raw = read(tmp_path)
    assert raw.interactions["timestamp"].tolist() == [1112485980 + t for t in (11, 12, 21, 22)]
    assert raw.interactions["item_id"].dtype == np.int32


def test_a_zip_of_own_data_is_read_in_place(tmp_path, monkeypatch, plain):
    monkeypatch.setenv("SEQSAE_DATA_DIR", str(tmp_path))
    folder = write(tmp_path / "loose", INTERACTIONS)
    for top in ("", "inner/"):
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
            for path in folder.iterdir():
                archive.write(path, top + path.name)
        for name in ("mine", "mine.zip"):
            raw = data.load_raw(name)
            pd.testing.assert_frame_equal(raw.interactions, plain.interactions)
            assert raw.source == "mine.zip"
    (tmp_path / "mine.zip").write_bytes(b"PK")
    with pytest.raises(data.DataError, match="mine.zip cannot be unpacked"):
        data.load_raw("mine")


def test_a_relative_folder_is_the_same_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "params").mkdir(parents=True)
    write(tmp_path / "mine", INTERACTIONS)
    for own, name in (("", "mine"), (".", "mine"), ("", "./mine")):
        monkeypatch.setenv("SEQSAE_DATA_DIR", own)
        for place in (tmp_path, tmp_path / "notebooks"):
            monkeypatch.chdir(place)
            assert len(data.load_raw(name).interactions) == 180


@pytest.mark.parametrize(
    "change, theirs, ours",
    [
        (lambda ids: ids.str.replace("i", "00"), "'i0'", r"'00\d+'"),
        (lambda ids: ids.str.replace("i", "") + ".0", "'i0'", r"'\d+\.0'"),
    ],
)
def test_ids_that_match_nothing_are_shown_from_both_sides(tmp_path, change, theirs, ours):
    folder = write(tmp_path / "d", INTERACTIONS, ITEMS.assign(item_id=change(ITEMS["item_id"])))
    with pytest.raises(data.DataError, match=f"no id .* have {theirs}, the latter {ours}"):
        data.prepare(read(folder), min_attribute_items=1)


def test_ids_half_of_which_match_nothing_are_said(tmp_path):
    folder = write(tmp_path / "d", INTERACTIONS, ITEMS[:15])
    with pytest.warns(UserWarning, match="of 40 items are not described, 'i15' first"):
        data.prepare(read(folder), min_attribute_items=1)


def test_users_of_one_item_are_called_so(tmp_path):
    folder = write(tmp_path / "d", INTERACTIONS.drop_duplicates("user_id"))
    with pytest.raises(
        data.DataError, match="only 0 of them have two different items; each of the three groups"
    ):
        data.prepare(read(folder), min_attribute_items=1)


def test_an_attribute_called_popular_is_told_from_what_we_count(tmp_path):
    names = ITEMS["attributes"].replace(
        {"red": "popular", "red|old": "unpopular|popular|popular x"}
    )
    folder = write(tmp_path / "d", INTERACTIONS, ITEMS.assign(attributes=names))
    found = data.prepare(read(folder), min_attribute_items=1).attributes
    assert set(found) == {"popular (own)", "unpopular", "popular x", "blue", "old"}
    assert data.POPULAR not in found


def test_a_zip_of_one_file_may_hold_what_macos_adds_and_no_second(tmp_path, plain):
    folder = write(tmp_path / "d", INTERACTIONS)
    text = (folder / "interactions.csv").read_text()
    (folder / "interactions.csv").unlink()

    def pack(*names):
        with zipfile.ZipFile(folder / "interactions.csv.zip", "w") as archive:
            for name in names:
                archive.writestr(name, "" if name.endswith("/") else text)

    pack("__MACOSX/._interactions.csv", "inner/", "inner/interactions.csv")
    pd.testing.assert_frame_equal(read(folder).interactions, plain.interactions)
    for names in ((), ("a.csv", "b.csv")):
        pack(*names)
        with pytest.raises(data.DataError, match=f"it holds {len(names)} files, expected one"):
            read(folder)


def test_packed_files_are_unpacked_by_their_endings(tmp_path):
    folder = write(tmp_path / "d", INTERACTIONS)
    text = (folder / "items.csv").read_bytes()
    (folder / "items.csv").unlink()
    for end, pack in {".bz2": bz2.compress, ".gz": gzip.compress}.items():
        file = Path(folder, f"items.csv{end}")
        file.write_bytes(pack(text))
        assert len(read(folder).items) == 40
        file.unlink()
