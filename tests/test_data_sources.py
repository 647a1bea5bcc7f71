"""Where datasets come from. The publisher is a server on this machine; nothing leaves it."""

import functools
import hashlib
import http.server
import os
import threading
import zipfile
from dataclasses import replace

import pytest

from seqsae_utils import data
from seqsae_utils.data import sources

DATA = "\n".join(f"{user}\t{item}\t3\t{100 * user}" for user in (1, 2, 3) for item in (3, 1, 2))
ITEM = "\n".join(f"{item}|Title {item} (1999)||||" + "0|1" + "|0" * 17 for item in (1, 2, 3))
FILES = {"toy/u.data": DATA, "toy/u.item": ITEM}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty project of its own, without a data folder."""
    (tmp_path / "project" / "notebooks" / "params").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("SEQSAE_DATA_DIR", raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "project"


@pytest.fixture
def downloads(home):
    return home / "data" / "downloads"


@pytest.fixture
def own(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("SEQSAE_DATA_DIR", str(folder))
    return folder


def write_zip(path, files) -> str:
    """Write a zip and return its checksum as pooch wants it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


def write_folder(folder, files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name.split("/")[-1]).write_text(text)
    return folder


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """A server that publishes the dataset 'toy'; returns its folder and counts its requests."""
    folder = tmp_path / "www"
    folder.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    checksum = write_zip(folder / "toy.zip", FILES)
    url = f"http://127.0.0.1:{server.server_port}/toy.zip"
    publish(monkeypatch, archives=(sources.Archive(url, "toy.zip", "toy", checksum),))
    yield folder, requests
    server.shutdown()
    thread.join()
    server.server_close()


def publish(monkeypatch, **changes):
    """Make 'toy' a published dataset, or change what is published of it."""
    toy = sources.PUBLISHED.get("toy") or sources.Published("TOY", 9, 3, 3)
    monkeypatch.setitem(sources.PUBLISHED, "toy", replace(toy, **changes))


def unreachable(name: str = "toy.zip") -> sources.Archive:
    return sources.Archive(f"http://127.0.0.1:9/{name}", name, "toy", "md5:0")


def test_a_download_is_kept_and_not_asked_for_again(publisher, downloads):
    raw = data.load_raw("toy")
    assert raw.label == "TOY"
    assert "http://127.0.0.1" in raw.source
    assert raw.interactions["item_id"].tolist() == [3, 1, 2] * 3, "ties in the publisher's order"
    assert [path.name for path in downloads.iterdir()] == ["toy.zip"]
    assert data.load_raw("toy").label == "TOY"
    assert len(publisher[1]) == 1


def test_an_altered_download_is_refused_and_nothing_is_left(publisher, downloads):
    write_zip(publisher[0] / "toy.zip", FILES | {"toy/extra": "altered"})
    with pytest.raises(
        data.DataError, match=r"hash of downloaded file \(toy\.zip\) does not match"
    ):
        data.load_raw("toy")
    assert list(downloads.iterdir()) == []


def test_a_truncated_file_in_the_cache_is_replaced(publisher, downloads):
    downloads.mkdir(parents=True)
    content = (publisher[0] / "toy.zip").read_bytes()
    (downloads / "toy.zip").write_bytes(content[:-20])
    assert len(data.load_raw("toy").interactions) == 9
    assert (downloads / "toy.zip").read_bytes() == content
    assert [path.name for path in downloads.iterdir()] == ["toy.zip"]


@pytest.mark.parametrize(
    "published, message",
    [
        ({"interactions": 10}, "it has 9 interactions, expected 10"),
        ({"users": 4}, "it has 3 users, expected 4"),
        ({"items": 2}, "it has 3 items, expected 2"),
        (
            {"content": "0" * 64},
            "its size is right, but some value or the order within a user differs",
        ),
    ],
)
def test_a_download_of_other_content_is_refused(publisher, monkeypatch, published, message):
    publish(monkeypatch, **published)
    with pytest.raises(data.DataError, match=f"toy.zip/toy/ is not TOY as published: {message}"):
        data.load_raw("toy")


def test_the_mirror_is_asked_when_the_publisher_is_silent(tmp_path, downloads, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    wheel = links / "toy_mirror-1.0-py3-none-any.whl"
    about = {
        "toy_mirror-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy-mirror\n"
        "Version: 1.0",
        "toy_mirror-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any",
        "toy_mirror-1.0.dist-info/RECORD": "",
    }
    checksum = write_zip(wheel, FILES | about)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    mirror = sources.Archive("toy-mirror==1.0", wheel.name, "toy", checksum)
    publish(monkeypatch, archives=(unreachable(), mirror))
    raw = data.load_raw("toy")
    assert len(raw.interactions) == 9
    assert raw.source.startswith("toy-mirror==1.0")
    assert [path.name for path in downloads.iterdir()] == [wheel.name]

    (downloads / wheel.name).unlink()
    publish(monkeypatch, archives=(replace(mirror, checksum="md5:" + "0" * 32),))
    with pytest.raises(
        data.DataError,
        match=r"hash of downloaded file \(toy_mirror-1.0-py3-none-any.whl\) does not",
    ):
        data.load_raw("toy")
    assert list(downloads.iterdir()) == []


def test_nothing_found_says_what_was_tried_why_it_failed_and_what_to_do(downloads, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    mirror = sources.Archive("no-such-mirror==1.0", "no.whl", "toy", "md5:0")
    publish(monkeypatch, archives=(unreachable(), mirror))
    with pytest.raises(data.DataError) as error:
        data.load_raw("toy")
    message = str(error.value).splitlines()
    assert message[0] == "dataset 'toy' was not found. Tried:"
    assert message[1] == "  $SEQSAE_DATA_DIR/toy: SEQSAE_DATA_DIR is not set"
    assert message[2].startswith("  http://127.0.0.1:9/toy.zip: ")
    assert "refused" in message[2]
    assert message[3].startswith("  no-such-mirror==1.0: ERROR: No matching distribution")
    assert message[4] == (
        f"Put toy.zip into {downloads}, or its files, unzipped, into $SEQSAE_DATA_DIR/toy."
    )
    assert len(message) == 5


def test_an_own_folder_comes_first_and_needs_no_network(own, monkeypatch):
    publish(monkeypatch, archives=(unreachable(),))
    write_folder(own / "toy", FILES)
    raw = data.load_raw("toy")
    assert raw.label == "TOY"
    assert raw.source.startswith("the folder toy")


@pytest.mark.parametrize("published", [{"interactions": 10}, {"content": "0" * 64}])
def test_an_own_folder_of_other_content_is_used_with_a_warning(own, monkeypatch, published):
    publish(monkeypatch, archives=(unreachable(),), **published)
    write_folder(own / "toy", FILES)
    with pytest.warns(UserWarning, match="is not TOY as published"):
        assert data.load_raw("toy").label == "TOY (rebuilt)"
    with pytest.warns(UserWarning):
        assert data.load_raw("toy", label="Mine").label == "Mine"
    assert (own / "toy" / "u.data").exists()


def test_any_folder_can_be_named_or_given_as_a_path(own):
    folder = write_folder(own / "mine", FILES)
    assert data.load_raw("mine").label == "mine"
    assert data.load_raw(str(folder)).label == "mine"
    assert data.load_raw("mine", label="My data").label == "My data"


def test_an_unknown_name_is_refused_with_the_nearest(own):
    (own / "my-songs").mkdir()
    with pytest.raises(
        data.DataError, match="nearest: 'ml-100k'; all of them: smoke, ml-100k, .*, my-songs"
    ):
        data.load_raw("ml-100")
    with pytest.raises(data.DataError, match="nor known; nearest: 'my-songs'"):
        data.load_raw("my-song")


def test_smoke_is_made_up_and_needs_nothing():
    assert data.load_raw("smoke").label == "Planted concepts"
    assert data.load_raw("smoke", label="Test").label == "Test"


@pytest.mark.parametrize(
    "name, files",
    [
        ("music4all", ["listening_history.csv", "id_genres.csv", "id_information.csv"]),
        ("music4all-onion", ["userid_trackid_timestamp.tsv.bz2", "id_genres_tf-idf.tsv.bz2"]),
    ],
)
def test_a_dataset_on_request_says_whom_to_ask_and_what_to_put_where(
    tmp_path, monkeypatch, downloads, name, files
):
    with pytest.raises(data.DataError) as error:
        data.load_raw(name)
    message = str(error.value)
    assert message.startswith(f"dataset {name!r} was not found: $SEQSAE_DATA_DIR/{name}: ")
    assert "SEQSAE_DATA_DIR is not set" in message
    assert "on request from its authors: write to contact4music4all@gmail.com" in message
    assert "https://sites.google.com/view/contact4music4all" in message
    assert all(file in message for file in files)
    assert message.endswith(f"into $SEQSAE_DATA_DIR/{name}.")
    assert not downloads.exists(), "nothing to download"
    monkeypatch.setenv("SEQSAE_DATA_DIR", str(tmp_path))
    with pytest.raises(data.DataError, match=f"{tmp_path / name}: no such folder"):
        data.load_raw(name)


def test_a_dataset_on_request_is_held_to_its_size_with_repeats(own, monkeypatch):
    files = {
        "listening_history.csv": "user\tsong\ttimestamp\n" + 3 * "a\tx\t2019-01-20 14:36\n",
        "id_genres.csv": "id\tgenres\nx\tfolk",
        "id_information.csv": "id\tartist\tsong\nx\tA\tX",
    }
    write_folder(own / "music4all", files)
    with pytest.warns(UserWarning, match="it has 3 interactions, expected 5,109,592"):
        assert data.load_raw("music4all").label == "Music4All (rebuilt)"
    published = replace(sources.PUBLISHED["music4all"], interactions=3, users=1, items=1)
    monkeypatch.setitem(sources.PUBLISHED, "music4all", published)
    assert data.load_raw("music4all").label == "Music4All"


def test_the_published_sizes_and_addresses_are_complete():
    for name, published in sources.PUBLISHED.items():
        assert bool(published.archives) != bool(published.access)
        if published.archives:
            assert published.archives[0].origin.endswith(f"/{name}.zip")
        for archive in published.archives:
            algorithm, digits = archive.checksum.split(":")
            assert len(digits) == {"md5": 32, "sha256": 64}[algorithm]


def test_movielens_100k_is_what_the_protocol_says(request, monkeypatch):
    """The real dataset, where an earlier run has fetched it: this test downloads nothing."""
    downloads = request.config.rootpath / "data" / "downloads"
    files = [archive.file for archive in sources.PUBLISHED["ml-100k"].archives]
    if not any((downloads / file).is_file() for file in files):
        pytest.skip("ML-100K is not in data/downloads; `make data` fetches it")
    monkeypatch.chdir(request.config.rootpath)
    dataset = data.prepare(data.load_raw("ml-100k"))
    sizes = dataset.users["split"].value_counts().to_dict()
    assert sizes == {"recommender": 509, "dev": 339, "test": 95}
    assert (dataset.n_items, len(dataset.attributes)) == (1573, 18)
