"""Whether a notebook must run again, by the content of all that it depends on and wrote."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import nbformat

from ..data.concepts import USER_FILES
from ..data.sources import at_hand
from ..fingerprint import changes, code, digest, imports, sources
from ..workspace import (
    MANIFEST,
    STAGES,
    Kind,
    StageError,
    Workspace,
    output_root,
    project,
    read_json,
    sha256,
)
from .parameters import notebook

PACKAGE = Path(__file__).parents[1]
#: What the record of a run holds; a notebook may have recorded no metrics.
RECORD: dict[str, Kind] = {
    "fingerprint": dict, "files": dict, "metrics": (dict, type(None)),
    "seconds": (int, float), "memory_mb": (int, float),
}  # fmt: skip


def fingerprint(workspace: Workspace, stage: str, parameters: dict) -> dict[str, str]:
    """Checksums of all that the outputs of one notebook depend on, by the name of the thing."""
    cells = nbformat.read(notebook(STAGES[stage]), as_version=4).cells
    own = [cell.source for cell in cells if cell.cell_type == "code"]
    text = "\n".join(own)
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    read = {name for name in earlier if re.search(rf"""["']{name}["']""", text)}
    manifest = workspace.artifacts / stage / "manifest.json"
    if manifest.is_file():
        read |= {*read_json(manifest, MANIFEST).get("reads", ())} & {*STAGES}
    manifests = {name: workspace.artifacts / name / "manifest.json" for name in sorted(read)}
    # How many models are trained side by side changes none of them: each has one process and seed.
    counted = {key: value for key, value in parameters.items() if key != "n_jobs"}
    beside = [p for p in (project() / "notebooks").glob("*.yaml") if p.name in text]
    return {
        "a code cell": digest(own),
        **{p.name: sha256(p) for p in beside},
        **{f"parameter {key}": digest(value) for key, value in counted.items()},
        **code(imports(text), sources(PACKAGE)),  # as it is on the disk: kernels load it anew
        "requirements.txt": sha256(project() / "requirements.txt"),
        "SEQSAE_THREADS": digest(os.environ.get("SEQSAE_THREADS")),
        **{f"stage {n}": sha256(p) for n, p in manifests.items() if p.is_file()},
        **({} if earlier else _own_data(parameters.get("dataset"))),
        **(_told(manifests.get("data")) if "load_concepts" in text else {}),
    }


def _own_data(dataset: str | None, names: Iterable[str] = ()) -> dict[str, str]:
    """Checksums of the files, not folders, of the user's own dataset, wherever it is found.

    With `names`, of those alone, or of the zip that may hold them.
    """
    if not dataset or not (place := at_hand(dataset)):
        return {}
    files = [place] if place.is_file() else [place / name for name in names or os.listdir(place)]
    return {path.name: sha256(path) for path in sorted(files) if path.is_file()}


def _told(manifest: Path | None) -> dict[str, str]:
    """Checksums of what `data.concepts` reads later, beside the dataset or from `make concepts`."""
    if manifest is None or not manifest.is_file():
        return {}
    dataset = read_json(manifest, MANIFEST).get("parameters", {}).get("dataset", "")
    asked = project() / "data" / "concepts" / f"{dataset}.csv"
    found = {"make concepts": sha256(asked)} if asked.is_file() else {}
    return found | _own_data(dataset, ("concepts.csv", *USER_FILES))


def outdated(workspace: Workspace, stage: str, parameters: dict) -> str:
    """Why a notebook must run again; empty if it does not have to."""
    record = workspace.runs / f"{STAGES[stage]}.json"
    if not record.is_file():
        return "not run yet"
    record = read_json(record, RECORD)
    if not record:
        return "its record is damaged"
    if changed := changes(fingerprint(workspace, stage, parameters), record["fingerprint"]):
        return f"{changed} changed"
    files = record["files"]
    found = checksums(path for path in map(output_root().joinpath, files) if path.is_file())
    if altered := [name for name in files if found.get(name) != files[name]]:
        return f"{altered[0]} was altered or is gone"
    if metrics(workspace).get(stage) != record["metrics"]:
        return "its numbers in metrics.json were altered or are gone"
    try:
        workspace.load(stage)
    except StageError as error:
        return str(error).partition(": ")[0]
    return ""


def checksums(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files of a run by their paths below the output's root."""
    return {path.relative_to(output_root()).as_posix(): sha256(path) for path in paths}


def metrics(workspace: Workspace) -> dict:
    """The numbers that the notebooks of a profile recorded, by stage."""
    return read_json(workspace.artifacts / "metrics.json")
