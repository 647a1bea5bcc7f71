"""Whether a notebook must run again, told by the content of all that it depends on and left."""

import ast
import hashlib
import json
import os
import re
from pathlib import Path

import nbformat

from ..workspace import STAGES, StageError, Workspace, output_root, project, sha256
from .parameters import notebook

PACKAGE = Path(__file__).parents[1]


def imports(source: str, package: str = "") -> set[str]:
    """Dotted names that a source may import from the project's package, in full.

    `package` is the one that the source lies in, which its relative imports start from.

    >>> sorted(imports("from . import metrics\\nimport numpy", "seqsae_utils"))
    ['seqsae_utils', 'seqsae_utils.metrics']
    """
    names = set()
    for node in ast.walk(ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = above * bool(node.level) + [node.module] * bool(node.module)
            names |= {".".join(parts), *(".".join([*parts, a.name]) for a in node.names)}
    return {name for name in names if name.split(".")[0] == PACKAGE.name}


def modules(code: str) -> dict[str, str]:
    """Checksums of the package's files that a notebook's code imports, however indirectly.

    Of a folder only what is imported counts: a new look of one chapter's figures is no reason to
    train the recommender again.
    """
    files, waiting, seen = set(), imports(code) | {PACKAGE.name}, set()
    while waiting:
        seen.add(name := waiting.pop())
        above, _, own = name.rpartition(".")
        path = PACKAGE.parent.joinpath(*name.split("."))
        waiting |= {above} - {"", *seen}
        for file, package in ((path / "__init__.py", name), (path.with_name(f"{own}.py"), above)):
            if file.is_file():
                files.add(file)
                waiting |= imports(file.read_text(), package) - seen
    return {path.relative_to(PACKAGE).as_posix(): sha256(path) for path in sorted(files)}


def fingerprint(workspace: Workspace, stage: str, parameters: dict) -> dict[str, str]:
    """Checksums of all that the outputs of one notebook depend on, by the name of the thing."""
    cells = nbformat.read(notebook(STAGES[stage]), as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    code = "\n".join(sources)
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    read = {name for name in earlier if re.search(rf"""["']{name}["']""", code)}
    manifest = workspace.artifacts / stage / "manifest.json"
    if manifest.is_file():
        read |= json.loads(manifest.read_text())["reads"].keys()
    manifests = {name: workspace.artifacts / name / "manifest.json" for name in sorted(read)}
    # How many models are trained side by side changes none of them: each has one process and seed.
    counted = {key: value for key, value in parameters.items() if key != "n_jobs"}
    return {
        "a code cell": _digest(sources),
        **{f"parameter {key}": _digest(value) for key, value in counted.items()},
        **modules(code),
        "requirements.txt": sha256(project() / "requirements.txt"),
        "SEQSAE_THREADS": _digest(os.environ.get("SEQSAE_THREADS")),
        **{f"stage {n}": sha256(p) for n, p in manifests.items() if p.is_file()},
        **({} if earlier else _own_data(parameters)),
    }


def _own_data(parameters: dict) -> dict[str, str]:
    """Checksums of the files in the folders of the reader's own that the parameters name.

    Not of what lies in folders below: no reader looks there, and it may be much (songs).
    """
    roots = [project() / "notebooks", Path(os.environ.get("SEQSAE_DATA_DIR", os.devnull))]
    names = [value for value in parameters.values() if isinstance(value, str) and value]
    folders = [root / name for root in roots for name in names if (root / name).is_dir()]
    return {p.name: sha256(p) for f in folders for p in sorted(f.iterdir()) if p.is_file()}


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def outdated(workspace: Workspace, stage: str, parameters: dict) -> str:
    """Why a notebook must run again; empty where it need not."""
    record = workspace.runs / f"{STAGES[stage]}.json"
    if not record.is_file():
        return "not run yet"
    record = json.loads(record.read_text())
    now, then = fingerprint(workspace, stage, parameters), record["fingerprint"]
    changed = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    if changed:
        return f"{', '.join(changed[:3])}{' ...' * (len(changed) > 3)} changed"
    for name, expected in record["files"].items():
        path = output_root() / name
        if not path.is_file() or sha256(path) != expected:
            return f"{name} was altered or is gone"
    if metrics(workspace).get(stage) != record["metrics"]:
        return "its numbers in metrics.json were altered or are gone"
    try:
        workspace.load(stage)
    except StageError as error:
        return str(error).partition(": ")[0]
    return ""


def metrics(workspace: Workspace) -> dict:
    """The numbers that the notebooks of a profile recorded, by stage."""
    path = workspace.artifacts / "metrics.json"
    return json.loads(path.read_text()) if path.is_file() else {}
