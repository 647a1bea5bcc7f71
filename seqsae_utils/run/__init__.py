"""Execute the notebooks of a profile in order, each only when something it depends on changed.

``python -m seqsae_utils.run paper --profile ml-100k -p k 16`` is what ``make paper`` calls. Code
cells, parameters, modules, pins and stages are compared by content, as git changes their times.
"""

import argparse
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError

from ..apps import atlas as pages
from ..apps.desk import Desk
from ..claims import PUBLISHED, publish
from ..control import pick_attributes
from ..data import dbpedia, load, load_raw, prepare
from ..workspace import STAGES, StageError, Workspace, locked, project, write_json, write_text
from .changes import checksums, fingerprint, metrics, outdated
from .clean import beside, normalise, with_outputs
from .demo import prepare as prepare_demo
from .parameters import RunError, declared, notebook, resolve
from .results import begin, compare, folder_of, gather
from .trainings import KERNEL, seeds

#: What lies beside the figures and is the runner's own.
OWN = "metrics.json manifest.json timings.json trainings.csv draws.parquet claims.csv".split()

#: Parameters that name attributes: which there are is known after the first notebook.
OF_DATA = ("attribute", "attributes")


def execute(workspace: Workspace, stage: str, parameters: dict) -> float:
    """Run a notebook, record what it depended on and left, return seconds; RunError if it fails."""
    name, runs = STAGES[stage], workspace.runs
    source, record_file = notebook(name), runs / f"{name}.json"
    partial, failed = runs / f"{name}.partial.ipynb", runs / f"{name}.failed.ipynb"
    runs.mkdir(parents=True, exist_ok=True)
    for old in (record_file, partial, failed):
        old.unlink(missing_ok=True)
    depends = fingerprint(workspace, stage, parameters)
    before, start = _outputs(workspace), time.perf_counter()
    peak, done = [0], threading.Event()
    threading.Thread(target=_follow_memory, args=[peak, done], daemon=True).start()
    defaults = declared(source)
    changed = {key: value for key, value in parameters.items() if value != defaults[key][1]}
    os.environ.update(KERNEL)
    try:
        papermill.execute_notebook(
            source,
            partial,
            changed,
            cwd=source.parent,
            progress_bar=False,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=ERROR"],  # its notices would tear up the progress bars
        )
        workspace.load(stage)
    except Exception as error:  # also a kernel that died, e.g. for want of memory
        where = f"\nTraceback: {partial.replace(failed)}" if partial.is_file() else ""
        what = f": {type(error).__name__}: {error}"
        if isinstance(error, PapermillExecutionError):
            what = f" in cell [{error.exec_count}]: {error.ename}: {error.evalue}"
        raise RunError(f"{name} failed{what}{where}") from error
    finally:
        done.set()
    seconds = round(time.perf_counter() - start, 1)
    final = runs / f"{name}.ipynb"
    write_text(final, nbformat.writes(normalise(nbformat.read(partial, as_version=4))) + "\n")
    partial.unlink()
    written = [path for path, state in _outputs(workspace).items() if before.get(path) != state]
    # What it read is known only now that its manifest says so; the rest may have been edited since.
    now = fingerprint(workspace, stage, parameters)
    depends |= {key: value for key, value in now.items() if key.startswith("stage ")}
    record = {
        "fingerprint": depends,
        "files": checksums([final, *written]),
        "metrics": metrics(workspace).get(stage),
        "seconds": seconds,
        "memory_mb": round(peak[0] / 2**20),
    }
    write_json(record_file, record)
    workspace.forget(stage)
    return seconds


def _follow_memory(peak: list[int], done: threading.Event) -> None:
    """Note the most that a kernel and its workers hold together, shared pages counted once."""
    while not done.wait(1):
        used = 0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                memory = process.memory_full_info()
                used += getattr(memory, "pss", memory.uss)
        peak[0] = max(peak[0], used)


def _outputs(workspace: Workspace) -> dict[Path, tuple]:
    """Figures, tables and what lies beside the stages' own files, with their state on the disk.

    Any writing changes that. Manifests have checksums of the files of a stage; here is theirs.
    """
    own = {workspace.figures / name for name in OWN}
    files = {p for p in workspace.figures.rglob("*") if p.is_file()} - own
    for pattern in ("*.jsonl", "draws/*.parquet", "*/manifest.json"):
        files |= {*workspace.artifacts.glob(pattern)}
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(files)}


def paper(profile: str, overrides: dict) -> None:
    """Bring all notebooks of a profile up to date and gather their results in ``figures/``."""
    workspace = Workspace(profile)
    parameters = resolve(profile, overrides)
    with locked(workspace.runs, f"profile {profile}"):
        for number, (stage, name) in enumerate(STAGES.items(), start=1):
            why = outdated(workspace, stage, parameters[name])
            print(f"[{number}/{len(STAGES)}] {name:<20}{why or 'up to date'}", flush=True)
            if why:
                print(f"{'':26}{execute(workspace, stage, parameters[name]):.0f} s", flush=True)
            if stage == "data":
                attributes_exist(workspace, parameters)
        gather(workspace)


def attributes_exist(workspace: Workspace, parameters: dict[str, dict]) -> None:
    """ValueError for an attribute that no item has: notebooks 05 and 06 would say so, but later."""
    named = [own[key] for own in parameters.values() for key in OF_DATA if own.get(key)]
    if named:
        dataset = load(workspace.load("data"))
        pick_attributes("|".join(named), dataset.attributes, dataset.attribute_matrix)


def notebooks(profile: str, overrides: dict) -> None:
    """Execute the notebooks, and keep outputs (ml-100k) or copies (another published profile).

    `RunError` for a profile that is not published, and if defaults or cells differ.
    """
    if profile not in PUBLISHED:
        raise RunError(f"`notebooks` keeps what is committed: {', '.join(PUBLISHED)}")
    own = profile == "ml-100k"
    for name, parameters in resolve(profile, overrides).items() if own else ():
        for key, (_, default) in declared(notebook(name)).items():
            if parameters[key] != default:
                raise RunError(
                    f"{name} has {key} = {default!r}, the profile ml-100k {parameters[key]!r}: "
                    "a notebook's defaults are that profile"
                )
    paper(profile, overrides)
    books, folder = {}, project() / "notebooks" / profile
    for name in STAGES.values():
        path = notebook(name) if own else folder / f"{name}.ipynb"
        try:
            books[path] = kept(path, Workspace(profile).runs / f"{name}.ipynb")
        except ValueError as error:
            raise RunError(f"{name}: {error}; was it edited just now? Start again") from None
    for path, text in books.items():
        write_text(path, text)


def kept(path: Path, executed: Path) -> str:
    """Text of a committed notebook as executed: a chapter, or a copy in a profile's folder."""
    book, done = (nbformat.read(file, as_version=4) for file in (notebook(path.stem), executed))
    copy = path != notebook(path.stem)
    book = beside(book, done, PUBLISHED[path.parent.name]) if copy else with_outputs(book, done)
    return nbformat.writes(book) + "\n"


def data(profile: str, overrides: dict) -> None:
    """Fetch and check the dataset of a profile."""
    raw = load_raw(resolve(profile, overrides)[STAGES["data"]]["dataset"])
    print(f"{raw.label}: {len(raw.interactions):,} interactions, from {raw.source}")


def concepts(profile: str, overrides: dict) -> None:
    """Ask DBpedia for concepts of a profile's films, and keep them in ``data/concepts/``."""
    dataset = resolve(profile, overrides)[STAGES["data"]]["dataset"]
    print(os.path.relpath(dbpedia.build(dataset, prepare(load_raw(dataset)))))


def atlas(profile: str, overrides: dict) -> None:
    """Write the atlas of a profile's features: one HTML file, to be opened in any browser."""
    resolve(profile, {})  # refuses an unknown profile
    file = pages.build(Workspace(profile))
    print(f"{os.path.relpath(file)}: {file.stat().st_size / 1e6:.1f} MB")


def desk(profile: str, overrides: dict) -> None:
    """Show the steering desk of a profile in the browser of this machine, until interrupted."""
    resolve(profile, {})  # refuses an unknown profile
    Desk.of(profile)  # what is missing is said here, before a server starts
    os.environ.update(KERNEL, SEQSAE_PROFILE=profile)
    from ..apps.desk.server import serve  # optional: the extra `app`

    serve(notebook("desk"), profile)


def demo(profile: str, overrides: dict) -> None:
    """Show atlas and desk of the planted catalogue, from artifacts that are committed."""
    prepare_demo()
    atlas("smoke", {})
    desk("smoke", {})


def claims(profile: str, overrides: dict) -> None:
    """Put the committed tables of claims, and the chapters' texts, where they are read."""
    publish()
    for path in (project() / "notebooks").glob("*/0*.ipynb"):
        write_text(path, kept(path, path))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 for an error, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m seqsae_utils.run", description=__doc__)
    parser.add_argument(
        "command",
        choices="paper notebooks data concepts atlas desk demo seeds compare claims".split(),
    )
    parser.add_argument("--profile", default="ml-100k", help="a file of notebooks/params")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("-n", type=int, help="seeds: how many trainings (default 5)")
    parser.add_argument("--jobs", type=int, help="seeds: how many side by side (default 2)")
    parser.add_argument("--name", default="", help="of the folder of a run with other parameters")
    parser.add_argument("--end-with-stdin", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command != "seeds" and (options.n, options.jobs) != (None, None):
        parser.error("-n and --jobs belong to the command seeds")
    has_folder = options.command in ("paper", "seeds", "compare", "atlas", "desk")
    if options.name and not has_folder:
        parser.error(f"`{options.command}` has no run with a --name")
    for name in ("SEQSAE_WORKSPACE", "SEQSAE_DATA_DIR", "SEQSAE_STUDY"):
        if os.environ.get(name):  # kernels start in another folder
            os.environ[name] = str(Path(os.environ[name]).absolute())
    if options.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    home = os.environ.get("SEQSAE_WORKSPACE", "")
    try:
        command, overrides = options.command, dict(options.p)
        if command in ("atlas", "desk") and overrides:
            raise RunError(f"`{command}` shows what the notebooks left, and has no parameters")
        own = options.profile == "ml-100k" and not overrides
        if command in ("claims", "demo") and not own:
            raise RunError(f"`{command}` shows what is committed, and has no profile or parameters")
        if command == "notebooks" and overrides:
            raise RunError("`notebooks` keeps what a profile's own parameters give: no others here")
        root = None
        if has_folder and not options.end_with_stdin:
            root = folder_of(options.profile, overrides, options.name)
        if command == "compare":
            compare(options.profile, root)
            return 0
        if root:
            if command in ("paper", "seeds"):
                begin(root, Workspace(options.profile))
            print(f"other parameters, so in {os.path.relpath(root)}", flush=True)
            os.environ["SEQSAE_WORKSPACE"] = str(root)
        if command == "seeds":
            n, jobs = options.n, options.jobs
            seeds(options.profile, overrides, 5 if n is None else n, 2 if jobs is None else jobs)
        else:
            globals()[command](options.profile, overrides)
    except KeyboardInterrupt:
        print("\ninterrupted; the next run goes on from here", file=sys.stderr)
        return 130
    except (RunError, StageError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        os.environ["SEQSAE_WORKSPACE"] = home
    return 0


def _end_with_stdin() -> None:
    """End as after Ctrl-C when standard input closes: `seeds`, which held it, was killed."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    os._exit(130)
