"""Where datasets come from: your own folder, their publisher, a mirror; zips are read in place."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from tqdm import TqdmWarning

from ..workspace import name_nearest, project
from .formats import Raw, read
from .planted import synthetic
from .tables import DataError, Folder

with warnings.catch_warnings():
    # It looks for a notebook's progress bar and warns where there is none; text will do.
    warnings.simplefilter("ignore", TqdmWarning)
    import pooch


@dataclass(frozen=True)
class Archive:
    """A zip that holds a dataset, and where to get it."""

    origin: str  # a URL, or the requirement of ``pip download``: a wheel is a zip too
    file: str
    inside: str  # the folder of the dataset in the zip
    checksum: str


@dataclass(frozen=True)
class Published:
    """What a publisher says of a dataset: its size, and how to get it."""

    label: str
    interactions: int
    users: int
    items: int
    archives: tuple[Archive, ...] = ()
    content: str = ""  # its `content_checksum`, where known
    access: str = ""  # without archives: how to get it, and which files to put where


#: MovieLens: MD5 of the archive, then interactions, users and items in it.
MOVIELENS = {
    "ml-100k": ("0e33842e24a9c977be4e0107933c0723", 100_000, 943, 1_682),
    "ml-1m": ("c4d9eecfca2ab87c1945afe126590906", 1_000_209, 6_040, 3_706),
    "ml-10m": ("ce571fd55effeba0271552578f2648bd", 10_000_054, 69_878, 10_677),
    "ml-20m": ("cd245b17a1ae2cc31bb14903e1204af3", 20_000_263, 138_493, 26_744),
    "ml-25m": ("6b51fb2759a8657d3bfcbfc42b592ada", 25_000_095, 162_541, 59_047),
    "ml-32m": ("d472be332d4daa821edc399621853b57", 32_000_204, 200_948, 84_432),
}
MIRROR_100K = Archive(
    "recbole==1.2.1",
    "recbole-1.2.1-py3-none-any.whl",
    "recbole/dataset_example/ml-100k",
    "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
CONTENT_100K = "0e201c730db8473429f3a48db09e557df8e043c6a1066eea3affcb672ae78f97"
ON_REQUEST = (
    "access is on request from its authors: write to contact4music4all@gmail.com "
    "(https://sites.google.com/view/contact4music4all). Put"
)
MUSIC4ALL = (
    f"For listening_history.csv, id_genres.csv and id_information.csv, {ON_REQUEST} "
    "them, unzipped, into"
)
ONION = (
    "Get userid_trackid_timestamp.tsv.bz2 (2.2 GB) and id_genres_tf-idf.tsv.bz2 from "
    "https://zenodo.org/records/15394646 and, for the titles, id_information.csv of Music4All, "
    f"to which {ON_REQUEST} them into"
)


def _movielens(name: str) -> Published:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    inside = {"ml-10m": "ml-10M100K"}.get(name, name)
    checksum, interactions, users, items = MOVIELENS[name]
    archive = Archive(url, f"{name}.zip", inside, f"md5:{checksum}")
    published = Published(name.upper(), interactions, users, items, (archive,))
    if name != "ml-100k":
        return published
    return replace(published, archives=(archive, MIRROR_100K), content=CONTENT_100K)


PUBLISHED = {
    **{name: _movielens(name) for name in MOVIELENS},
    # Counted in the files by those who have them; the paper speaks of 15,602 users.
    "music4all": Published("Music4All", 5_109_592, 14_127, 99_596, access=MUSIC4ALL),
    "music4all-onion": Published("Music4All-Onion", 252_984_396, 119_140, 56_512, access=ONION),
}


def load_raw(dataset: str, *, label: str = "") -> Raw:
    """Find, read and check a dataset, and download it where no copy is at hand.

    `dataset` is a published name (``ml-100k``), ``smoke`` (made up), the name of a folder in
    ``$SEQSAE_DATA_DIR``, or the path of a folder, from the project's; a zip may stand for a folder.
    `label` is how results call it. A folder with a published name and other content gives a
    UserWarning, and the label ``(rebuilt)``. Raises DataError if it is malformed, a download that
    differs from what was published, or not found.
    """
    if dataset == "smoke":
        raw = synthetic()
        return replace(raw, label=label or raw.label)
    published = PUBLISHED.get(dataset)
    name = published.label if published else Path(dataset).name
    folder, source = find(dataset)
    raw = read(folder, source=source, label=label or name)
    if published and (difference := _difference(raw, published)):
        difference = f"{folder} is not {name} as published: {difference}"
        if isinstance(folder, zipfile.Path):
            raise DataError(difference)
        warnings.warn(difference, stacklevel=2)
        raw = replace(raw, label=label or f"{name} (rebuilt)")
    return raw


def content_checksum(interactions: pd.DataFrame) -> str:
    """SHA-256 of user_id, item_id, rating and timestamp, sorted, each as little-endian float64."""
    digest = hashlib.sha256()
    for column in ("user_id", "item_id", "rating", "timestamp"):
        digest.update(interactions[column].to_numpy().astype("<f8").tobytes())
    return digest.hexdigest()


def _difference(raw: Raw, published: Published) -> str:
    """How the content differs from what was published, or nothing."""
    table = raw.interactions
    users, items = table[["user_id", "item_id"]].nunique()
    sizes = {"interactions": len(table) + raw.repeats, "users": users, "items": items}
    for name, size in sizes.items():
        if size != (expected := getattr(published, name)):
            return f"it has {size:,} {name}, expected {expected:,}"
    if published.content and content_checksum(table) != published.content:
        return "its size is right, but some value or the order within a user differs"
    return ""


def at_hand(dataset: str) -> Path | None:
    """The folder or the zip of a dataset that need not be downloaded, if there is one."""
    published = PUBLISHED.get(dataset)
    own = os.environ.get("SEQSAE_DATA_DIR")
    names = [dataset, *(archive.inside for archive in (published.archives if published else ()))]
    folders = [project() / own / name for name in names] if own else []
    for folder in folders if published else [*folders, project() / dataset]:
        if folder.is_dir():
            return folder
        if (packed := folder.with_name(folder.name.removesuffix(".zip") + ".zip")).is_file():
            return packed
    return None


def find(dataset: str) -> tuple[Folder, str]:
    """A folder that holds the dataset, and where it came from; see `load_raw`."""
    if path := at_hand(dataset):
        return (path, f"the folder {path.name}") if path.is_dir() else (_inside(path), path.name)
    published = PUBLISHED.get(dataset)
    own = os.environ.get("SEQSAE_DATA_DIR")
    if not published:
        mine = sorted(path.name for path in (project() / own).glob("*/")) if own else []
        raise DataError(
            f"dataset {dataset!r} is neither a folder, here or in $SEQSAE_DATA_DIR "
            f"({own or 'not set'}), nor known; "
            + name_nearest(dataset, list(dict.fromkeys(["smoke", *PUBLISHED, *mine])))
        )

    place = project() / own / dataset if own else f"$SEQSAE_DATA_DIR/{dataset}"
    tried = f"{place}: {'no such folder' if own else 'SEQSAE_DATA_DIR is not set'}"
    if published.access:
        raise DataError(f"dataset {dataset!r} was not found: {tried}.\n{published.access} {place}.")
    downloads = project() / "data" / "downloads"
    failures = []
    for archive in sorted(published.archives, key=lambda a: not (downloads / a.file).exists()):
        try:
            return download(archive, downloads)
        except (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            why = (getattr(error, "stderr", None) or str(error) or repr(error)).strip()
            why = why.splitlines()[-1].split("Caused by ")[-1][:300]
            failures.append(f"\n  {archive.origin}: {why}")
    raise DataError(
        f"dataset {dataset!r} was not found. Tried:\n  {tried}{''.join(failures)}\n"
        f"Put {published.archives[0].file} into {downloads}, or its files, unzipped, into {place}."
    )


def _inside(packed: Path) -> Folder:
    """The root of a zip, or the one folder that it holds."""
    try:
        root = zipfile.Path(packed)
    except zipfile.BadZipFile as error:
        raise DataError(f"{packed.name} cannot be unpacked: {error}; get it again") from error
    found = [path for path in root.iterdir() if path.name != "__MACOSX"]
    return found[0] if len(found) == 1 and found[0].is_dir() else root


def download(archive: Archive, folder: Path) -> tuple[zipfile.Path, str]:
    """The dataset's folder in an archive, which is downloaded unless it is there and intact."""
    pooch.get_logger().setLevel("WARNING")
    seconds = 5, 30  # to wait for a connection, and for each next piece
    web = pooch.HTTPDownloader(progressbar=True, timeout=seconds)
    downloader = web if "://" in archive.origin else _pip_download
    what = archive.origin, archive.checksum, archive.file
    path = pooch.retrieve(*what, folder, downloader=downloader)
    return zipfile.Path(path, f"{archive.inside}/"), f"{archive.origin}, folder {archive.inside}"


def _pip_download(requirement: str, file: str, _) -> None:
    """Let pip fetch a wheel, so that the reader's own package index and proxy are asked."""
    options = "--no-deps --only-binary :all: --no-cache-dir --timeout 15 --retries 1 --quiet"
    command = [sys.executable, "-m", "pip", "download", *options.split(), requirement]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "-d", folder], check=True, capture_output=True, text=True)
        (wheel,) = Path(folder).iterdir()
        shutil.move(wheel, file)
