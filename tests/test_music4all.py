"""Music4All and Music4All-Onion, in the format of their files; songs and listeners are made up."""

import bz2
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from seqsae_utils import data
from seqsae_utils.data import formats, music4all, tables

# Listens in the order of listening. Those of user_b fall into one minute, so that only the order
# of the rows tells which came first; user_a hears Fern again, and then Moss a third time.
LISTENS = [
    ("user_a", "Moss", "2019-01-20 14:36"),
    ("user_a", "Moss", "2019-01-20 14:40"),
    ("user_a", "Fern", "2019-01-20 14:44"),
    ("user_a", "Fern", "2019-03-01 00:00"),
    ("user_a", "Moss", "2019-03-02 00:00"),
    ("user_b", "Reed", "2018-12-31 23:59"),
    ("user_b", "Fern", "2018-12-31 23:59"),
    ("user_b", "Moss", "2018-12-31 23:59"),
]
FIRST = [("user_a", "Moss"), ("user_a", "Fern")] + [("user_b", s) for s in ("Reed", "Fern", "Moss")]
SECONDS = [1547994960, 1547995440, 1546300740, 1546300740, 1546300740]
INFORMATION = [
    ("id", "artist", "song", "album_name"),
    ("Fern", "The Ferns", '"Live at ""The Barn"""', "Greens"),
    ("Moss", 'Ole "Moss" Olsen', "Señor  Moss", ""),
    ("Reed", "Reed", "Whistle", "Reeds"),
]
GENRES = [("id", "genres"), ("Moss", "folk,dark folk"), ("Fern", "folk,pop"), ("Reed", "jazz")]
WEIGHTS = [
    ("id", "dark folk", "folk", "jazz", "pop"),
    ("Moss", 0.71, 0.3, 0.0, 0.0),
    ("Fern", 0.0, 0.3, 0, 1e-3),
    ("Reed", 0.0, 0.0, 1.0, 0.0),
]
TITLES = {
    "Fern": 'The Ferns - Live at "The Barn"',
    "Moss": 'Ole "Moss" Olsen - Señor Moss',
    "Reed": "Reed - Whistle",
}
LISTENS_OF = {"base": "listening_history.csv", "onion": "userid_trackid_timestamp.tsv.bz2"}


def tabbed(rows) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def base(listens=LISTENS) -> dict[str, str]:
    """The three files of Music4All, in the order of listening."""
    return {
        "listening_history.csv": tabbed([("user", "song", "timestamp"), *listens]),
        "id_genres.csv": tabbed(GENRES),
        "id_information.csv": tabbed(INFORMATION),
    }


def onion(listens=LISTENS) -> dict[str, str]:
    """The two files of Music4All-Onion, the newest listen of each user first."""
    users = dict.fromkeys(user for user, *_ in listens)
    rows = [(u, s, f"{t}:00") for user in users for u, s, t in listens[::-1] if u == user]
    return {
        "userid_trackid_timestamp.tsv.bz2": tabbed([("user_id", "track_id", "timestamp"), *rows]),
        "id_genres_tf-idf.tsv.bz2": tabbed(WEIGHTS),
    }


EDITIONS = {"base": base, "onion": onion}


def packed(name: str, text: str) -> bytes:
    return bz2.compress(text.encode()) if name.endswith(".bz2") else text.encode()


def write(folder, files: dict[str, str]):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(packed(name, text))
    return folder


def read(folder) -> data.Raw:
    return formats.read(folder, source="", label="")


def check(raw: data.Raw) -> None:
    pairs = list(zip(raw.interactions["user_id"], raw.interactions["item_id"], strict=True))
    assert pairs == FIRST
    assert raw.interactions["timestamp"].tolist() == SECONDS
    assert raw.interactions["rating"].isna().all()
    assert raw.repeats == 3
    assert raw.timed
    items = raw.items.set_index("item_id")
    attributes = {song: set(text.split("|")) for song, text in items["attributes"].items()}
    assert attributes == {"Moss": {"folk", "dark folk"}, "Fern": {"folk", "pop"}, "Reed": {"jazz"}}


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_first_listen_of_each_user_and_song_is_read(tmp_path, edition):
    check(read(write(tmp_path / "d", EDITIONS[edition]())))


@pytest.mark.parametrize(
    "edition, block", [("base", 60), ("base", 2**25), ("onion", 150), ("onion", 2**25)]
)
@pytest.mark.parametrize("change", ["\r\n", "\ufeff", "blank lines", "no last newline"])
def test_line_ends_and_marks_do_not_matter(tmp_path, monkeypatch, edition, change, block):
    monkeypatch.setattr(tables, "BLOCK", block)
    files = EDITIONS[edition]()
    for name, text in files.items():
        files[name] = {
            "\r\n": text.replace("\n", "\r\n"),
            "\ufeff": "\ufeff" + text,
            "blank lines": text.replace("\n", "\n\n") + "\n\n\n",
            "no last newline": text.rstrip("\n"),
        }[change]
    check(read(write(tmp_path / "d", files)))


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_direction_of_the_file_does_not_matter(tmp_path, edition):
    backwards = {"base": base(LISTENS[::-1]), "onion": onion(LISTENS[::-1])}[edition]
    check(read(write(tmp_path / "d", backwards)))


def test_songs_are_called_by_artist_and_title(tmp_path):
    raw = read(write(tmp_path / "d", base()))
    assert raw.items.set_index("item_id")["title"].to_dict() == TITLES


def test_onion_names_no_songs_but_takes_the_names_of_music4all(tmp_path):
    folder = write(tmp_path / "d", onion())
    assert read(folder).items["title"].tolist() == ["", "", ""]
    write(folder, {"id_information.csv": base()["id_information.csv"]})
    assert read(folder).items.set_index("item_id")["title"].to_dict() == TITLES


def test_a_song_without_genres_has_no_attributes(tmp_path):
    files = base() | {"id_genres.csv": tabbed([*GENRES[:3], ("Reed", "")])}
    items = read(write(tmp_path / "a", files)).items.set_index("item_id")
    assert items["attributes"]["Reed"] == ""
    files = base() | {"id_genres.csv": tabbed(GENRES[:3])}
    items = read(write(tmp_path / "b", files)).items.set_index("item_id")
    assert items["attributes"]["Reed"] == ""
    assert items["title"]["Reed"] == "Reed - Whistle"


def test_unpacked_files_and_archives_are_read_too(tmp_path):
    check(read(write(tmp_path / "d", {n.removesuffix(".bz2"): t for n, t in onion().items()})))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name, text in onion().items():
            archive.writestr(f"inner/{name}", packed(name, text))
    check(read(zipfile.Path(tmp_path / "d.zip", "inner/")))


def test_a_quotation_mark_opens_nothing(tmp_path):
    listens = [("user_a", song, "2019-01-20 14:36") for song in ('"Moss', "Fern", 'Reed"')]
    raw = read(write(tmp_path / "d", base(listens)))
    assert raw.interactions["item_id"].tolist() == ['"Moss', "Fern", 'Reed"']


@pytest.mark.parametrize("block", [60, 100, 5_000])
def test_block_by_block_gives_what_pandas_gives_at_once(tmp_path, monkeypatch, block):
    """Users interleaved, songs repeated across blocks, times without order."""
    rng = np.random.default_rng(block)
    start = datetime(2019, 1, 1)
    times = [start + timedelta(minutes=int(m)) for m in rng.integers(0, 10**6, 3000)]
    users, songs = rng.integers(0, 30, 3000), rng.integers(0, 40, 3000)
    listens = [
        (f"user_{u}", f"song {s}", t.strftime("%Y-%m-%d %H:%M"))
        for u, s, t in zip(users, songs, times, strict=True)
    ]
    monkeypatch.setattr(tables, "BLOCK", block)
    raw = read(write(tmp_path / "d", base(listens)))

    table = pd.DataFrame(listens, columns=["user_id", "item_id", "time"])
    table["timestamp"] = [int(t.replace(tzinfo=UTC).timestamp()) for t in times]
    first = table.groupby(["user_id", "item_id"])["timestamp"].min().reset_index()
    columns = ["user_id", "item_id", "timestamp"]
    expected = first.sort_values(["user_id", "timestamp"])[columns].reset_index(drop=True)
    found = raw.interactions[columns].astype({"user_id": str, "item_id": str})
    assert not expected.duplicated(["user_id", "timestamp"]).any(), "no ties, or the seed is bad"
    pd.testing.assert_frame_equal(found, expected)
    assert len(found) + raw.repeats == 3000


def test_little_waits_to_be_merged(tmp_path, monkeypatch):
    """What is held follows the pairs, not the listens: that is how 253 million fit."""
    held, merged = [], music4all._merged
    monkeypatch.setattr(tables, "BLOCK", 400)
    monkeypatch.setattr(
        music4all, "_merged", lambda kept: held.append(sum(map(len, kept))) or merged(kept)
    )
    listens = [("user_a", f"song {i % 9}", "2019-01-20 14:36") for i in range(5000)]
    raw = read(write(tmp_path / "d", base(listens)))
    assert (len(raw.interactions), raw.repeats) == (9, 4991)
    assert len(held) > 100
    assert max(held) < 60


BAD = {
    "few fields": ("base", "user_b\tReed", "line 10 has 2 fields, expected 3 (user\\tsong\\t"),
    "many fields": ("onion", "1\tReed\t2019-01-20 14:36:00\t3", "line 10 has 4 fields, expected 3"),
    "no user": ("base", "\tReed\t2019-01-20 14:36", "line 10 has user '', expected an id"),
    "no song": ("onion", "1\t\t2019-01-20 14:36:00", "line 10 has track_id '', expected an id"),
    "no time": ("base", "user_b\tReed\t", "line 10 has timestamp '', expected a time from 1970"),
    "NaN": ("onion", "1\tReed\tNaN", "line 10 has timestamp 'NaN', expected a time from 1970"),
    "number": ("base", "user_b\tReed\t1547994960", "line 10 has timestamp '1547994960', expected"),
    "month 13": ("onion", "1\tReed\t2019-13-20 14:36:00", "line 10 has timestamp '2019-13-20 14"),
    "before 1970": ("base", "u\tReed\t1969-01-20 14:36", "line 10 has timestamp '1969-01-20 14"),
}


@pytest.mark.parametrize("block", [60, 2**25])
@pytest.mark.parametrize("edition, line, message", BAD.values(), ids=BAD)
def test_a_bad_listen_is_refused_with_file_line_and_expectation(
    tmp_path, monkeypatch, edition, line, message, block
):
    monkeypatch.setattr(tables, "BLOCK", block)
    files, file = EDITIONS[edition](), LISTENS_OF[edition]
    files[file] += line + "\n" + files[file].splitlines()[1] + "\n"
    with pytest.raises(data.DataError) as error:
        read(write(tmp_path / "d", files))
    assert f"{file}: {message}" in str(error.value)


BAD_SONGS = {
    "field": ("base", "id_genres.csv", "Ivy", "line 5 has 1 fields, expected 2 (id\\tgenres)"),
    "id": ("base", "id_information.csv", "\tA\tB\tC", "line 5 has id '', expected an id"),
    "twice": ("base", "id_genres.csv", "Fern\tpop", "line 5 describes item 'Fern', as line 3 did"),
    "weight": ("onion", "id_genres_tf-idf.tsv.bz2", "Ivy\t0\tx\t0\t0", "line 5 has folk 'x', "),
    "negative": ("onion", "id_genres_tf-idf.tsv.bz2", "Ivy\t0\t0\t-1\t0", "line 5 has jazz '-1',"),
    "NaN": ("onion", "id_genres_tf-idf.tsv.bz2", "Ivy\t0\t0\tnan\t0", "line 5 has jazz 'nan', "),
    "infinite": ("onion", "id_genres_tf-idf.tsv.bz2", "Ivy\t0\t0\tinf\t0", "line 5 has jazz 'inf'"),
    "fields": ("onion", "id_genres_tf-idf.tsv.bz2", "Ivy\t0", "line 5 has 2 fields, expected 5"),
    "again": (
        "onion",
        "id_genres_tf-idf.tsv.bz2",
        "Fern\t0\t0\t0\t0",
        "line 5 describes item 'Fern', as line 3 did",
    ),
}


@pytest.mark.parametrize("edition, file, line, message", BAD_SONGS.values(), ids=BAD_SONGS)
def test_a_bad_description_of_a_song_is_refused(tmp_path, edition, file, line, message):
    files = EDITIONS[edition]()
    files[file] += line + "\n"
    with pytest.raises(data.DataError) as error:
        read(write(tmp_path / "d", files))
    assert file in str(error.value)
    assert message in str(error.value)


def test_a_message_about_many_columns_stays_short(tmp_path):
    header = ("id", *(f"genre {i}" for i in range(685)))
    files = onion() | {"id_genres_tf-idf.tsv.bz2": tabbed([header, ("Moss", 0.5)])}
    with pytest.raises(data.DataError, match="line 2 has 2 fields, expected 686 ") as error:
        read(write(tmp_path / "d", files))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "edition, file, old, new",
    [
        ("base", "listening_history.csv", "timestamp", "time"),
        ("base", "id_genres.csv", "genres", "genre"),
        ("base", "id_information.csv", "artist", "band"),
        ("onion", "userid_trackid_timestamp.tsv.bz2", "track_id", "song"),
        ("onion", "id_genres_tf-idf.tsv.bz2", "id\t", "song\t"),
    ],
)
def test_a_missing_column_is_named(tmp_path, edition, file, old, new):
    files = EDITIONS[edition]()
    files[file] = files[file].replace(old, new, 1)
    with pytest.raises(data.DataError) as error:
        read(write(tmp_path / "d", files))
    assert f"{file}: line 1 names the columns" in str(error.value)
    assert f"missing: {old.strip()}" in str(error.value)


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("below", ["", "\n", "\n\n"])
def test_a_history_without_listens_is_refused(tmp_path, edition, below):
    files, file = EDITIONS[edition](), LISTENS_OF[edition]
    files[file] = files[file].splitlines()[0] + below
    with pytest.raises(data.DataError, match=f"{file}: holds no rows"):
        read(write(tmp_path / "d", files))
    with pytest.raises(data.DataError, match=f"{file}: line 1 names the columns"):
        read(write(tmp_path / "d", files | {file: ""}))


@pytest.mark.parametrize(
    "edition, file",
    [("base", "id_genres.csv"), ("base", "id_information.csv")]
    + [("onion", "id_genres_tf-idf.tsv.bz2")],
)
def test_a_missing_file_is_named(tmp_path, edition, file):
    files = EDITIONS[edition]()
    del files[file]
    with pytest.raises(data.DataError, match=f"{file} is missing beside {LISTENS_OF[edition]}"):
        read(write(tmp_path / "d", files))


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"BZh9" + b[5:], lambda b: b"no"])
def test_a_damaged_archive_is_refused(tmp_path, damage):
    folder = write(tmp_path / "d", onion())
    file = folder / LISTENS_OF["onion"]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(data.DataError, match=r"timestamp\.tsv\.bz2 cannot be unpacked: .*; get it"):
        read(folder)


@pytest.mark.parametrize("edition", EDITIONS)
def test_repeated_listens_are_counted(tmp_path, edition):
    """Twenty listeners of three songs, each twice: half of what is read is a repeat."""
    start = datetime(2019, 1, 1)
    listens = [
        (f"user_{user:02}", song, (start + timedelta(days=user, minutes=i)).strftime("%F %H:%M"))
        for user in range(20)
        for i, song in enumerate(2 * ["Moss", "Reed", "Fern"])
    ]
    raw = read(write(tmp_path / "d", EDITIONS[edition](listens)))
    dataset = data.prepare(raw, min_attribute_items=1)
    assert dataset.counts["interactions_read"] == 120
    assert dataset.counts["repeated_interactions_dropped"] == 60
    assert dataset.counts["items_without_title"] == (0 if edition == "base" else 3)
    assert len(dataset.interactions) == len(dataset.everyone) == 60
    assert dataset.items["item_id"].tolist() == ["Fern", "Moss", "Reed"]
    assert dataset.attributes[0] == "folk"
    newest = dataset.users["user_id"][dataset.users["split"] == "test"]
    assert newest.tolist() == ["user_18", "user_19"]
    assert dataset.sequences("test")[19].tolist() == [2, 3, 1]
