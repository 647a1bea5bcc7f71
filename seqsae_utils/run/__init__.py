"""Execute the notebooks of a profile in order, each only when something it depends on changed.

``python -m seqsae_utils.run paper --profile ml-100k -p k 16`` is what ``make paper`` calls.
What a notebook depends on is compared by content, never by time, which git changes: its cells,
parameters, modules, the pins, and the stages that it reads.
"""

import argparse
import json
import os
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from ..data import load_raw
from ..interpretability import atlas as pages
from ..workspace import STAGES, StageError, Workspace, output_root, project, sha256, write_json
from .changes import fingerprint, metrics, outdated
from .clean import normalise
from .parameters import RunError, declared, notebook, resolve

try:
    import fcntl
except ImportError:  # Windows has no flock: two runs at a time are then the user's care
    fcntl = None

#: What the kernels run with: our own Python, threads that sleep when idle, one order of sets.
KERNEL = {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0"}
#: What the desk's page tells the browser: ask this server, and no other (Voila names a CDN).
OWN_SERVER_ONLY = {
    "headers": {
        "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
        "connect-src 'self' ws:"
    }
}
#: The numbers shown at the end; each is left out where no notebook recorded it.
HEADLINES = {
    "NDCG@10 of the recommender": "recommender.ndcg@10",
    "NDCG@10 of popularity": "recommender.popularity.ndcg@10",
    "explained variance of the SAE": "sae.explained_variance",
    "active features (L0)": "sae.l0",
    "NDCG recovered by the SAE": "sae.ndcg_recovered",
    "correlation with attributes, neurons": "interpretability.neurons.max_correlation",
    "correlation with attributes, SAE": "interpretability.sae.max_correlation",
    "largest logit change of the zero edit": "control.zero_edit.max_logit_change",
    "share of a steered attribute before": "control.sae.mean.share_at_0",
    "share of it with its feature turned up": "control.sae.mean.share_at_strong",
}


def execute(workspace: Workspace, stage: str, parameters: dict) -> float:
    """Run one notebook and record what it depended on and left; returns its seconds.

    It gets its name only when it has succeeded; one that fails is kept as ``.failed.ipynb``.
    """
    name, runs = STAGES[stage], workspace.runs
    final, partial, failed = (
        runs / f"{name}{end}" for end in (".ipynb", ".partial.ipynb", ".failed.ipynb")
    )
    runs.mkdir(parents=True, exist_ok=True)
    for old in (runs / f"{name}.json", partial, failed):
        old.unlink(missing_ok=True)
    depends = fingerprint(workspace, stage, parameters)
    before, start = _figures(workspace), time.perf_counter()
    defaults = declared(notebook(name))
    changed = {key: value for key, value in parameters.items() if value != defaults[key][1]}
    os.environ.update(KERNEL)
    try:
        papermill.execute_notebook(
            notebook(name),
            partial,
            changed,
            cwd=notebook(name).parent,
            progress_bar=False,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=ERROR"],  # its notices would tear up the progress bars
        )
        workspace.load(stage)
    except Exception as error:  # also a kernel that died, e.g. for want of memory
        where = ""
        if partial.is_file():
            where = f"\nTraceback: {partial.replace(failed)}"
        what = f": {type(error).__name__}: {error}"
        if isinstance(error, PapermillExecutionError):
            what = f" in cell [{error.exec_count}]: {error.ename}: {error.evalue}"
        raise RunError(f"{name} failed{what}{where}") from error
    seconds = round(time.perf_counter() - start, 1)
    nbformat.write(normalise(nbformat.read(partial, as_version=4)), partial)
    partial.replace(final)
    written = [path for path, state in _figures(workspace).items() if before.get(path) != state]
    # What it read is known only now that its manifest says so; the rest may have been edited since.
    now = fingerprint(workspace, stage, parameters)
    depends |= {key: value for key, value in now.items() if key.startswith("stage ")}
    record = {
        "fingerprint": depends,
        "files": {p.relative_to(output_root()).as_posix(): sha256(p) for p in (final, *written)},
        "metrics": metrics(workspace).get(stage),
        "seconds": seconds,
        "memory_mb": _peak_memory_mb(),
    }
    write_json(runs / f"{name}.json", record)
    return seconds


def _figures(workspace: Workspace) -> dict[Path, tuple]:
    """Figures and tables with their state on the disk, which any writing changes."""
    own = {workspace.figures / f"{name}.json" for name in ("metrics", "manifest", "timings")}
    files = [path for path in sorted(workspace.figures.rglob("*")) if path.is_file()]
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in files if p not in own}


def _peak_memory_mb() -> int:
    """The most memory that any kernel of this run has held so far."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / 2 ** (20 if sys.platform == "darwin" else 10))


def paper(profile: str, overrides: dict) -> None:
    """Bring all notebooks of a profile up to date and gather their results in ``figures/``."""
    workspace = Workspace(profile)
    parameters = resolve(profile, overrides)
    with locked(workspace):
        for number, (stage, name) in enumerate(STAGES.items(), start=1):
            why = outdated(workspace, stage, parameters[name])
            print(f"[{number}/{len(STAGES)}] {name:<20}{why or 'up to date'}", flush=True)
            if why:
                print(f"{'':26}{execute(workspace, stage, parameters[name]):.0f} s", flush=True)
        gather(workspace)


def notebooks() -> None:
    """Execute the notebooks with the profile ml-100k and copy them back, to be committed."""
    for name, parameters in resolve("ml-100k", {}).items():
        for key, (_, default) in declared(notebook(name)).items():
            if parameters[key] != default:
                raise RunError(
                    f"{name} has {key} = {default!r}, the profile ml-100k {parameters[key]!r}: "
                    "a notebook's defaults are that profile"
                )
    paper("ml-100k", {})
    for name in STAGES.values():
        temporary = notebook(name).with_suffix(".tmp")
        temporary.write_bytes((Workspace("ml-100k").runs / f"{name}.ipynb").read_bytes())
        temporary.replace(notebook(name))


def data(profile: str, overrides: dict) -> None:
    """Fetch and check the dataset of a profile."""
    parameters = resolve(profile, overrides)[STAGES["data"]]
    raw = load_raw(parameters["dataset"])
    print(f"{raw.label}: {len(raw.interactions):,} interactions, from {raw.source}")


def atlas(profile: str, overrides: dict) -> None:
    """Write the atlas of a profile's features: one HTML file, to be opened in any browser."""
    if overrides:
        raise RunError("the atlas shows what notebook 5 left behind, and has no parameters")
    resolve(profile, {})  # refuses a profile that nobody knows
    file = pages.build(Workspace(profile))
    print(f"{os.path.relpath(file)}: {file.stat().st_size / 1e6:.1f} MB")


def desk(profile: str, overrides: dict) -> None:
    """Show the steering desk of a profile in the browser, until it is interrupted.

    Only this machine can reach the page, and the page asks nothing of a network.
    """
    if overrides:
        raise RunError("the desk shows what the notebooks left behind, and has no parameters")
    resolve(profile, {})  # refuses a profile that nobody knows
    from voila.app import Voila  # optional: the extra `app`

    os.environ.update(KERNEL, SEQSAE_PROFILE=profile)
    page = str(project() / "notebooks" / "desk.ipynb")
    Voila.launch_instance([page, "--Voila.ip=127.0.0.1"], tornado_settings=OWN_SERVER_ONLY)


@contextmanager
def locked(workspace: Workspace):
    """Keep a second run of the same profile out while the first one writes."""
    workspace.runs.mkdir(parents=True, exist_ok=True)
    with open(workspace.runs / ".lock", "w") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"profile {workspace.profile} is being run already; wait") from None
        yield


def gather(workspace: Workspace) -> None:
    """Write and show the results of a profile: its metrics, manifest and timings."""
    records = [json.loads((workspace.runs / f"{n}.json").read_text()) for n in STAGES.values()]
    manifests = {stage: workspace.manifest(stage) for stage in STAGES}
    files = {name: digest for record in records for name, digest in record["files"].items()}
    inside = workspace.figures.relative_to(output_root()).as_posix() + "/"
    figures = {n.removeprefix(inside): files[n] for n in sorted(files) if n.startswith(inside)}
    first = manifests["data"]
    summary = {"label": first["label"], "profile": workspace.profile, "seed": first["seed"]}
    summary |= {"version": first["version"], "files": figures}
    summary["parameters"] = {stage: found["parameters"] for stage, found in manifests.items()}
    seconds = {name: r["seconds"] for name, r in zip(STAGES.values(), records, strict=True)}
    memory = max(record["memory_mb"] for record in records)
    write_json(workspace.figures / "metrics.json", metrics(workspace))
    write_json(workspace.figures / "manifest.json", summary)
    write_json(workspace.figures / "timings.json", {"seconds": seconds, "memory_mb": memory})

    print(f"\n{workspace.label} in {sum(seconds.values()):.0f} s, {memory:,} MB at most")
    print("Figures, each as PDF too and with its table in tables/:")
    for name in figures:
        if "/" not in name and not name.endswith(".pdf"):
            print("  " + os.path.relpath(workspace.figures / name))
    print()
    numbers = _flat(metrics(workspace))
    for title, key in HEADLINES.items():
        if numbers.get(key) is not None:
            low, high = numbers.get(f"{key}_low"), numbers.get(f"{key}_high")
            interval = f"  [{low:.3f}, {high:.3f}]" if None not in (low, high) else ""
            print(f"  {title:<40}{numbers[key]:>8.4g}{interval}")


def _flat(numbers: dict, prefix: str = "") -> dict:
    """Nested numbers under dotted names."""
    flat = {}
    for key, value in numbers.items():
        name = prefix + key
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 for an error, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m seqsae_utils.run", description=__doc__)
    parser.add_argument("command", choices=["paper", "notebooks", "data", "atlas", "desk"])
    parser.add_argument("--profile", default="ml-100k", help="a file of notebooks/params")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    options = parser.parse_args(arguments)
    try:
        overrides = dict(options.p)
        if options.command == "notebooks":
            if options.profile != "ml-100k" or overrides:
                raise RunError("the committed notebooks are those of ml-100k with its own values")
            notebooks()
        else:
            globals()[options.command](options.profile, overrides)
    except KeyboardInterrupt:
        print("\ninterrupted; the next run goes on with this notebook", file=sys.stderr)
        return 130
    except (RunError, StageError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
