"""Where datasets come from: a folder of yours, their publisher, a mirror; in that order.

Archives are downloaded to ``data/downloads/`` of the project under a temporary name, compared
with a checksum, renamed, and then read in place: a download that was cut short is never read,
and nothing is ever extracted.
"""

import difflib
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pandas as pd
from tqdm import TqdmWarning, tqdm

from ..workspace import project
from .formats import DataError, Folder, Raw, read
from .planted import synthetic

with warnings.catch_warnings():
    # It looks for a notebook's progress bar and warns where there is none; ours is plain text.
    warnings.simplefilter("ignore", TqdmWarning)
    import pooch

#: Seconds to wait for a connection, and for each next piece of the download.
TIMEOUT = (5, 30)


@dataclass(frozen=True)
class Archive:
    """A zip that holds a dataset in its folder `inside`, and where to get it.

    `origin` is a URL, or what ``pip download`` is to be asked for: a wheel is a zip too.
    """

    origin: str
    file: str
    inside: str
    checksum: str


@dataclass(frozen=True)
class Published:
    """What a publisher says of a dataset: its size, and where known the SHA-256 of its content.

    One without archives is not downloaded: `access` tells how to get it, and which files to put
    where.
    """

    label: str
    archives: tuple[Archive, ...]
    interactions: int
    users: int
    items: int
    content: str = ""
    access: str = ""


@dataclass(frozen=True)
class Source:
    """A folder that holds a dataset, and where it came from; `archive` where it was downloaded."""

    folder: Folder
    description: str
    archive: Path | None = None


def _movielens(name: str, md5: str, inside: str | None = None) -> Archive:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return Archive(url, f"{name}.zip", inside or name, f"md5:{md5}")


MUSIC4ALL_REQUEST = (
    "write to contact4music4all@gmail.com (https://sites.google.com/view/contact4music4all)"
)

PUBLISHED = {
    "ml-100k": Published(
        "ML-100K",
        (
            _movielens("ml-100k", "0e33842e24a9c977be4e0107933c0723"),
            Archive(
                "recbole==1.2.1",
                "recbole-1.2.1-py3-none-any.whl",
                "recbole/dataset_example/ml-100k",
                "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            ),
        ),
        *(100_000, 943, 1_682),
        content="0e201c730db8473429f3a48db09e557df8e043c6a1066eea3affcb672ae78f97",
    ),
    "ml-1m": Published(
        "ML-1M",
        (_movielens("ml-1m", "c4d9eecfca2ab87c1945afe126590906"),),
        *(1_000_209, 6_040, 3_706),
    ),
    "ml-10m": Published(
        "ML-10M",
        (_movielens("ml-10m", "ce571fd55effeba0271552578f2648bd", "ml-10M100K"),),
        *(10_000_054, 69_878, 10_677),
    ),
    "ml-20m": Published(
        "ML-20M",
        (_movielens("ml-20m", "cd245b17a1ae2cc31bb14903e1204af3"),),
        *(20_000_263, 138_493, 26_744),
    ),
    "ml-25m": Published(
        "ML-25M",
        (_movielens("ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada"),),
        *(25_000_095, 162_541, 59_047),
    ),
    "ml-32m": Published(
        "ML-32M",
        (_movielens("ml-32m", "d472be332d4daa821edc399621853b57"),),
        *(32_000_204, 200_948, 84_432),
    ),
    # Counted in the files by those who have them; the paper speaks of 15,602 users.
    "music4all": Published(
        "Music4All",
        (),
        *(5_109_592, 14_127, 99_596),
        access=f"Access is on request from its authors: {MUSIC4ALL_REQUEST}. "
        "Put listening_history.csv, id_genres.csv and id_information.csv, unzipped, into",
    ),
    "music4all-onion": Published(
        "Music4All-Onion",
        (),
        *(252_984_396, 119_140, 56_512),
        access="Get userid_trackid_timestamp.tsv.bz2 (2.2 GB) and id_genres_tf-idf.tsv.bz2 from "
        "https://zenodo.org/records/15394646 and, for the titles, id_information.csv of Music4All, "
        f"to which access is on request from its authors: {MUSIC4ALL_REQUEST}. Put them into",
    ),
}


def load_raw(dataset: str, *, label: str = "") -> Raw:
    """Find, read and check a dataset.

    Parameters
    ----------
    dataset
        A published name (``ml-100k``), ``smoke`` (made up), the name of a folder in
        ``$SEQSAE_DATA_DIR``, or the path of a folder.
    label
        What results shall call it, in place of what this function would.

    Warns
    -----
    UserWarning
        If a folder of yours bears a published name but holds other content. Its label then says
        ``(rebuilt)``.

    Raises
    ------
    DataError
        If it is nowhere to be found, malformed, or a download that differs from what was
        published; such a download is removed.
    """
    if dataset == "smoke":
        raw = synthetic()
        return replace(raw, label=label or raw.label)
    source = fetch(dataset)
    published = PUBLISHED.get(dataset)
    name = published.label if published else Path(dataset).name
    try:
        raw = read(source.folder, source=source.description, label=label or name)
        difference = _difference(raw, published) if published else ""
        if difference and source.archive:
            raise DataError(f"{source.archive} is not {name} as published: {difference}")
    except DataError:
        if source.archive:
            source.archive.unlink()
        raise
    if difference:
        warnings.warn(f"{source.folder} is not {name} as published: {difference}", stacklevel=2)
        raw = replace(raw, label=label or f"{name} (rebuilt)")
    return raw


def fetch(dataset: str, directory: Path | None = None) -> Source:
    """Find a dataset, and download it where no copy is at hand.

    Parameters
    ----------
    dataset
        As for `load_raw`, except ``smoke``, which is not read from anywhere.
    directory
        Folder of downloads; ``data/downloads`` of the project by default.

    Raises
    ------
    DataError
        With every source that was tried, why it failed, and where to put the files by hand.
    """
    if dataset == "smoke":
        raise DataError("dataset 'smoke' is made up: nothing to fetch, load_raw makes it")
    published = PUBLISHED.get(dataset)
    archives = published.archives if published else ()
    for folder in _folders(dataset, published):
        if folder.is_dir():
            return Source(folder, f"the folder {folder.name}")
    if not published:
        raise DataError(_unknown(dataset))

    directory = Path(directory) if directory else project() / "data" / "downloads"
    for archive in archives:
        path = directory / archive.file
        if path.exists() and _intact(path, archive.checksum):
            return _open(archive, path)
    failures = []
    for archive in archives:
        try:
            return _open(archive, _download(archive, directory))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            failures.append(f"  {archive.origin}: {_reason(error)}")
    raise DataError(_nowhere(dataset, published, directory, failures))


def content_checksum(interactions: pd.DataFrame) -> str:
    """SHA-256 of (user, item, rating, timestamp), each column as little-endian float64.

    Of the sorted table, so that it is the same whatever format the publisher or a mirror chose.
    """
    digest = hashlib.sha256()
    for column in ("user_id", "item_id", "rating", "timestamp"):
        digest.update(interactions[column].to_numpy().astype("<f8").tobytes())
    return digest.hexdigest()


def _difference(raw: Raw, published: Published) -> str:
    """How the content differs from what was published; empty where it does not."""
    table = raw.interactions
    sizes = {
        "interactions": len(table) + raw.repeats,
        "users": table["user_id"].nunique(),
        "items": table["item_id"].nunique(),
    }
    for name, size in sizes.items():
        expected = getattr(published, name)
        if size != expected:
            return f"it has {size:,} {name}, expected {expected:,}"
    if published.content and content_checksum(table) != published.content:
        return "its size is right, but some value or the order within a user differs"
    return ""


def _folders(dataset: str, published: Published | None) -> list[Path]:
    """Folders of the reader's own that may hold the dataset."""
    own = os.environ.get("SEQSAE_DATA_DIR")
    archives = published.archives if published else ()
    names = [dataset, *(archive.inside for archive in archives)]
    folders = [Path(own, name) for name in names] if own else []
    return folders if published else [*folders, Path(dataset)]


def _download(archive: Archive, directory: Path) -> Path:
    """Download under a temporary name, compare, rename. Returns the archive's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / archive.file
    with tempfile.TemporaryDirectory(prefix="partial-", dir=directory) as temporary:
        if "://" in archive.origin:
            _download_url(archive, Path(temporary))
        else:
            _download_wheel(archive, Path(temporary))
        partial = Path(temporary) / archive.file
        if not _intact(partial, archive.checksum):
            raise DataError(f"what arrived does not have the checksum {archive.checksum}")
        partial.replace(path)
    return path


def _download_url(archive: Archive, folder: Path) -> None:
    pooch.get_logger().setLevel("WARNING")
    # The total is set once the server has named it; until then the bar must not count as empty.
    with tqdm(desc=archive.file, total=1, unit="B", unit_scale=True, leave=False) as bar:
        fetcher = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT)
        pooch.retrieve(archive.origin, archive.checksum, archive.file, folder, downloader=fetcher)


def _download_wheel(archive: Archive, folder: Path) -> None:
    """Let pip fetch it, so that the reader's own package index and proxy are asked."""
    options = "--no-deps --only-binary :all: --no-cache-dir --timeout 15 --retries 1 --quiet"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "-d", str(folder)]
    subprocess.run([*command, archive.origin], check=True, capture_output=True, text=True)


def _intact(path: Path, checksum: str) -> bool:
    algorithm, expected = checksum.split(":")
    return path.is_file() and pooch.file_hash(str(path), alg=algorithm) == expected


def _open(archive: Archive, path: Path) -> Source:
    """The dataset's folder inside the archive; a harmful or broken archive is removed."""
    try:
        with zipfile.ZipFile(path) as content:
            names = [PurePosixPath(name.replace("\\", "/")) for name in content.namelist()]
    except zipfile.BadZipFile as error:
        path.unlink()
        raise DataError(f"{path} is no zip file ({error}); it was removed") from error
    for name in names:
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            path.unlink()
            raise DataError(f"{path} has a path outside its folder, {name}; it was removed")
    description = f"{archive.origin}, folder {archive.inside}"
    return Source(zipfile.Path(path, archive.inside + "/"), description, archive=path)


def _reason(error: Exception) -> str:
    """One line that says why a source failed."""
    text = getattr(error, "stderr", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[-1].split("Caused by ")[-1][:300]


def _nowhere(dataset: str, published: Published, directory: Path, failures: list[str]) -> str:
    own = os.environ.get("SEQSAE_DATA_DIR")
    place = Path(own) / dataset if own else f"$SEQSAE_DATA_DIR/{dataset}"
    why = "no such folder" if own else "SEQSAE_DATA_DIR is not set"
    if published.access:
        return f"dataset {dataset!r} was not found: {place}: {why}.\n{published.access} {place}."
    return "\n".join(
        [
            f"dataset {dataset!r} was not found. Tried:",
            f"  {place}: {why}",
            *failures,
            f"Put {published.archives[0].file} into {directory}, or its files, unzipped, "
            f"into {place}.",
        ]
    )


def _unknown(dataset: str) -> str:
    own = os.environ.get("SEQSAE_DATA_DIR")
    known = ["smoke", *PUBLISHED]
    if own and Path(own).is_dir():
        known += sorted(path.name for path in Path(own).iterdir() if path.is_dir())
    nearest = difflib.get_close_matches(dataset, known, n=1)
    return (
        f"dataset {dataset!r} is neither a folder, here or in $SEQSAE_DATA_DIR ({own or 'not set'})"
        f", nor one of {', '.join(dict.fromkeys(known))}"
        + (f"; did you mean {nearest[0]!r}?" if nearest else "")
    )
