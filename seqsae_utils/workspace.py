"""Where everything lies: paths, stages, manifests, atomic writes and seeds.

Each notebook reads the *stages* before it and writes one: a folder of ``artifacts/<profile>/``
that is complete or not there, with a ``manifest.json`` that names its parameters and the SHA-256
of all that it read and wrote. No other module knows a path.
"""

import difflib
import glob
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from filelock import FileLock, Timeout

from . import __version__
from .fingerprint import fingerprint
from .ranges import check

#: The stages in their order, each with the notebook that writes it.
STAGES = {
    "data": "01_data",
    "recommender": "02_recommender",
    "activations": "03_activations",
    "sae": "04_sae",
    "interpretability": "05_interpretability",
    "control": "06_control",
    "concepts": "07_concepts",
}
Kind = type | tuple[type, ...]
#: What a manifest holds.
MANIFEST: dict[str, Kind] = {
    "label": str, "profile": str, "version": str, "seed": object,
    "files": dict, "parameters": dict, "reads": dict,
}  # fmt: skip
#: What the work in a folder was begun with, see `Workspace.save`.
CLAIM = "claim.json"


class StageError(RuntimeError):
    """A stage is missing, altered, or does not fit the stages it was made from."""


def project() -> Path:
    """Project folder: the nearest one from here upwards with ``notebooks/params``, or else here."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks" / "params").is_dir():
            return folder
    return here


def output_root() -> Path:
    """Folder that receives artifacts, runs and figures: ``$SEQSAE_WORKSPACE`` or the project."""
    return Path(os.environ.get("SEQSAE_WORKSPACE") or project())


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that a rename never outruns its content."""
    if os.name == "nt":  # Windows opens no folder, and waits for no file that is only read
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, what: str, name: str = ".lock") -> Iterator[None]:
    """Hold a folder for the block, or raise `StageError`; the lock ends with the process anyway."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / name).acquire(blocking=False)
    except Timeout:
        raise StageError(f"{what} is being run already; wait") from None
    with lock:
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; the file is complete, or as it was before.

    The name is this process' own: of two that write one file, the last wins. What processes that
    were killed have left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        if not ((writer := left.suffixes[-2][1:]).isdecimal() and psutil.pid_exists(int(writer))):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(temporary)
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text (UTF-8), see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Write JSON, see `replacing`; floats keep six significant digits, not finite ones are null."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kinds: Mapping[str, Kind] = {}) -> dict:
    """The object in a JSON file: empty without one, and, with a warning, where it is damaged.

    It is damaged, too, where it lacks a key of `kinds`, or has a value of another kind there.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if isinstance(found, dict):
        if all(key in found and isinstance(found[key], kind) for key, kind in kinds.items()):
            return found
    warnings.warn(f"{path} is damaged and counts as missing", stacklevel=2)
    return {}


def plain(value):
    """Plain Python for JSON: NumPy scalars unwrapped, floats to six significant digits."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def flat(numbers: dict, prefix: str = "") -> dict:
    """Nested numbers under dotted names.

    >>> flat({"a": {"b": 1, "c": 2}, "d": 3})
    {'a.b': 1, 'a.c': 2, 'd': 3}
    """
    found = {}
    for key, value in numbers.items():
        name = prefix + key
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def name_nearest(word: str, known: list[str], n: int = 1) -> str:
    """The end of an error message about a word that is not known: the nearest one, and all.

    With n above 1 the n nearest, and not all, for words that are too many to list.

    >>> name_nearest("Westerns", ["Comedy", "Western"])
    "nearest: 'Western'; all of them: Comedy, Western"
    >>> name_nearest("Western", [])
    'there is none to choose from'
    """
    if not known:
        return "there is none to choose from"
    by_lower = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=n, cutoff=0.0)
    said = f"nearest: {', '.join(repr(by_lower[name]) for name in near)}"
    return said if n > 1 else f"{said}; all of them: {', '.join(map(str, known))}"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and fix the number of threads: ``$SEQSAE_THREADS``, or one.

    Workers that start later have as many. The number changes the order of sums. ML-100K is fastest
    on one, ML-1M 1.6 times faster on two.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    threads = os.environ.get("SEQSAE_THREADS") or "1"
    if not threads.isdecimal() or not int(threads):
        raise ValueError(f"SEQSAE_THREADS is {threads!r}, expected a number of threads")
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)  # of workers
    torch.set_num_threads(int(threads))


def pick_device(name: str = "auto") -> torch.device:
    """Device by name; ``auto`` is CUDA where there is one. ValueError for CUDA without a GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: torch sees no GPU here; use 'cpu' or 'auto'")
    return device


def _end_with_parent(parent: int) -> None:
    """Leave when the process that started this one is gone: its workers would write on."""
    started_by = os.getppid()
    while os.getppid() == started_by and psutil.pid_exists(parent):
        time.sleep(1)
    os._exit(1)


if process := multiprocessing.parent_process():
    threading.Thread(target=_end_with_parent, args=[process.pid], daemon=True).start()


def _claimed(folder: Path, claim: str) -> bool:
    file = folder / CLAIM
    return bool(claim) and file.is_file() and file.read_bytes() == claim.encode()


@dataclass(frozen=True)
class Workspace:
    """The folders of one profile, and the only door to its stages.

    >>> Workspace("ml-100k").artifacts.parts[-2:]
    ('artifacts', 'ml-100k')
    """

    profile: str

    def __post_init__(self):
        check({"profile": self.profile})  # it is the name of a folder

    @property
    def artifacts(self) -> Path:
        """What notebooks hand on to each other."""
        return output_root() / "artifacts" / self.profile

    @property
    def figures(self) -> Path:
        """Figures, tables and metrics that are meant to be looked at."""
        return output_root() / "figures" / self.profile

    @property
    def runs(self) -> Path:
        """Executed copies of the notebooks, and what they were executed with."""
        return output_root() / "runs" / self.profile

    @property
    def label(self) -> str:
        """Name of the dataset as results must show it, e.g. ``ML-1M (rebuilt)``."""
        return self.manifest("data")["label"]

    def manifest(self, stage: str) -> dict:
        """The manifest of a stage; raises `StageError` where none fits this version and profile."""
        path = self.artifacts / stage / "manifest.json"
        if not path.is_file():
            raise StageError(f"{path.parent} is missing: {self._repair(stage)}")
        found = read_json(path, MANIFEST)
        if not found or not {*found["reads"]} <= {*STAGES}:
            raise StageError(f"{path} is damaged: {self._repair(stage)}")
        if found["profile"] != self.profile:
            other = f"was written for the profile {found['profile']!r}"
            raise StageError(f"{path.parent} {other}: {self._repair(stage)}")
        if found["version"].split(".")[:2] != __version__.split(".")[:2]:
            versions = f"version {found['version']}, this is {__version__}"
            raise StageError(f"{path.parent} was written by {versions}: {self._repair(stage)}")
        return found

    def load(self, stage: str) -> Path:
        """Folder of a complete stage, after every file and the chain before it has been checked.

        Raises `StageError`, with the command that repairs it, if the stage is missing or of another
        version, a file differs from its checksum, or a stage that it was made from was made again.
        """
        folder = self.artifacts / stage
        for name, expected in self.manifest(stage)["files"].items():
            path = folder / name
            if not path.is_file():
                raise StageError(f"{path} is missing: {self._repair(stage)}")
            if sha256(path) != expected:
                altered = f"{path} was altered since {STAGES[stage]} wrote it"
                raise StageError(f"{altered}: {self._repair(stage)}")
        self._check_chain(stage)
        return folder

    def _check_chain(self, stage: str) -> None:
        for earlier, expected in self.manifest(stage)["reads"].items():
            self._check_chain(earlier)
            if sha256(self.artifacts / earlier / "manifest.json") != expected:
                other = f"was made from another {earlier!r} than the one that lies there now"
                raise StageError(f"{self.artifacts / stage} {other}: {self._repair(stage)}")

    def _repair(self, stage: str) -> str:
        return f"run `make paper PROFILE={self.profile}`, or notebook {STAGES[stage]}"

    @contextmanager
    def save(self, stage: str, *, reads=(), parameters=None, seed=None, label=None, resume=None):
        """Give an empty folder to write a stage into, and put it in place when the block ends.

        An error in the block, or a kill, leaves the stage as it was before. `reads` names the
        stages that it is made from; `parameters` and `seed` go into the manifest, and so does
        `label`, the name of the dataset for figures, which only the first stage gives. Raises
        `StageError` while another process writes the stage.

        `resume` is the function that does the long work of the block. With it, a folder that an
        earlier attempt with the same inputs and code left (``<stage>.partial``, see `fingerprint`)
        is handed out again, so that the work goes on from its ``*.checkpoint`` files. These lie
        beside a finished stage (``<stage>.done``) until `forget`: a notebook that was killed after
        it had written its stage does not do the work again.
        """
        manifest = {
            "stage": stage,
            "profile": self.profile,
            "label": label or self.label,
            "parameters": plain(parameters or {}),
            "seed": seed,
            "version": __version__,
            "reads": {name: sha256(self.artifacts / name / "manifest.json") for name in reads},
        }
        final = self.artifacts / stage
        partial, done, old = (
            final.with_name(f"{stage}.{end}") for end in ("partial", "done", "old")
        )
        claim = json.dumps(fingerprint(resume, **manifest)) if resume else ""
        with locked(self.runs, f"{final}", f".{stage}.lock"):
            if not _claimed(partial, claim):
                shutil.rmtree(partial, ignore_errors=True)
                if _claimed(done, claim):
                    shutil.copytree(final, partial, ignore=shutil.ignore_patterns("manifest.json"))
                    shutil.copytree(done, partial, dirs_exist_ok=True)
                partial.mkdir(parents=True, exist_ok=True)
                (partial / CLAIM).write_text(claim)

            yield partial

            # What work goes on from; the claim last, for without it the rest is void.
            progress = [*sorted(partial.rglob("*.checkpoint*")), partial / CLAIM]
            files = sorted({*filter(Path.is_file, partial.rglob("*"))} - {*progress})
            for path in files:
                fsync(path)
            named = {path.relative_to(partial).as_posix(): sha256(path) for path in files}
            write_json(partial / "manifest.json", manifest | {"files": named})
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(done, ignore_errors=True)
            if final.exists():
                final.rename(old)
            partial.rename(final)
            for path in progress:
                to = done / path.relative_to(partial)
                to.parent.mkdir(parents=True, exist_ok=True)
                (final / path.relative_to(partial)).rename(to)
            if not claim:
                shutil.rmtree(done, ignore_errors=True)
            fsync(self.artifacts)
            shutil.rmtree(old, ignore_errors=True)

    def forget(self, stage: str) -> None:
        """Remove what the work of a finished stage would go on from, also ``<stage>.*checkpoint``.

        The latter is of work that a notebook does outside of `save`.
        """
        shutil.rmtree(self.artifacts / f"{stage}.done", ignore_errors=True)
        for left in self.artifacts.glob(f"{stage}.*checkpoint"):
            left.unlink()

    def record(self, stage: str, numbers: dict, draws: dict[str, np.ndarray] | None = None) -> dict:
        """Record the nested numbers of one stage in ``metrics.json``; returns them as written.

        A number that is not finite is written as null. `draws` are for numbers that claims rest
        on, by their dotted name in the stage: the value in each draw of the users [n_draws], see
        `resampling.draws`. They go to ``draws/<stage>.parquet``.
        """
        import pandas as pd  # not above: the SAE's modules get along without

        with replacing(self.artifacts / "draws" / f"{stage}.parquet") as temporary:
            pd.DataFrame(draws or {}).to_parquet(temporary)
        path = self.artifacts / "metrics.json"
        metrics = read_json(path)
        metrics[stage] = plain(numbers)
        write_json(path, {name: metrics[name] for name in STAGES if name in metrics})
        return metrics[stage]
