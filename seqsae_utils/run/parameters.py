"""What each notebook is to be run with: its defaults, the profile, and what is asked for."""

import ast
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import yaml

from .. import ranges
from ..control.scenarios import load_yaml
from ..workspace import STAGES, name_nearest, project

TYPES: dict[str, Any] = {kind.__name__: kind for kind in (int, str, bool, list, dict)}
TYPES["float"] = (int, float)


class RunError(RuntimeError):
    """A run that cannot start or go on; the message says why and what to do."""


def notebook(name: str) -> Path:
    """Path of a notebook by its name, e.g. ``04_sae``."""
    return project() / "notebooks" / f"{name}.ipynb"


def declared(path: Path) -> dict[str, tuple[str, object]]:
    """Type and default of each line of a notebook's parameters cell, by name."""
    cells = nbformat.read(path, as_version=4).cells
    cell = next((c for c in cells if "parameters" in c.metadata.get("tags", [])), None)
    lines = ast.parse(cell.source).body if cell else []
    return {
        ast.unparse(line.target): (ast.unparse(line.annotation), ast.literal_eval(line.value))
        for line in lines
        if isinstance(line, ast.AnnAssign) and line.value
    }


def resolve(profile: str, overrides: dict) -> dict[str, dict]:
    """Values of the declared parameters, by notebook: defaults, then profile, then overrides.

    Raises `RunError` for an unknown profile or key, and for a value that does not fit the type or
    lies out of its range.
    """
    profiles = {path.stem: path for path in (project() / "notebooks/params").glob("*.yaml")}
    if profile not in profiles:
        nearest = name_nearest(profile, sorted(profiles))
        here = "" if profiles else " here; start in the folder of the project"
        raise RunError(f"no profile {profile!r}; {nearest}{here}")
    file = profiles[profile]
    try:
        text = file.read_text(encoding="utf-8")
        given = load_yaml(text) or {}
    except UnicodeDecodeError as error:
        raise RunError(f"{file.name} is not UTF-8: {error}; save it anew") from None
    except ValueError as error:
        raise RunError(f"{file.name}: {error}") from None
    if not isinstance(given, dict):
        raise RunError(f"{file.name}: expected lines `key: value`, found {given!r}")
    keys = yaml.compose(text).value if given else []
    where = {str(k.value): f"{file.name}: line {k.start_mark.line + 1}: " for k, _ in keys}
    known = {name: declared(notebook(name)) for name in STAGES.values()}
    every_key = {key: kind for keys in known.values() for key, (kind, _) in keys.items()}
    where |= dict.fromkeys(overrides, "")
    given |= {key: _read(key, value, every_key.get(key, "")) for key, value in overrides.items()}
    given["profile"] = profile
    for key in given:
        if key not in every_key:
            nearest = name_nearest(key, sorted(every_key))
            raise RunError(
                f"{where.get(str(key), '')}no notebook has a parameter {key!r}; {nearest}"
            )
    found = {
        name: {
            key: fit(key, given[key], kind) if key in given else default
            for key, (kind, default) in parameters.items()
        }
        for name, parameters in known.items()
    }
    try:
        ranges.check({key: value for own in found.values() for key, value in own.items()})
    except ValueError as error:
        raise RunError(f"parameter {error}") from None
    return found


def fit(key: str, value, kind: str):
    """The value as the declared type has it; raises `RunError` where it does not fit.

    >>> fit("lr", "1e-3", "float")  # for YAML a number without a point or a sign is a text
    0.001
    """
    kinds = [part.strip().partition("[")[0] for part in kind.split("|")]
    if "float" in kinds and "str" not in kinds and isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    if (value is None and "None" in kinds) or any(name not in (*TYPES, "None") for name in kinds):
        return value
    fits = [isinstance(value, TYPES[name]) for name in kinds if name != "None"]
    if not any(fits) or (isinstance(value, bool) and "bool" not in kinds):
        raise RunError(f"parameter {key!r} is {value!r}, but the notebooks declare `{key}: {kind}`")
    return value


def _read(key: str, value, kind: str):
    """A value from the command line: YAML, but where text is declared the text as it stands.

    >>> _read("k", "16", "int"), _read("name", "16", "str"), _read("name", "", "str")
    (16, '16', '')
    """
    if not isinstance(value, str) or kind == "str":
        return value
    try:
        return load_yaml(value)
    except ValueError as error:
        raise RunError(f"parameter {key!r} is {value!r}: {error}") from None
