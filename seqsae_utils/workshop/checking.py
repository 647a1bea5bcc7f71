"""Compare an answer with the solution, and where it differs, with the typical mistakes.

All of these are cells of ``workshop/solutions``, known by their tags. ``solution``: the function
that an exercise asks for. ``wrong``: the same function with a mistake; its docstring says what is
wrong and why. ``observe``: a generator that gives an answer small data to work on, and yields what
it does, a name and a number or an array each; what isolates one mistake comes first.
"""

import ast
import inspect
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..workspace import name_nearest, project

#: Three stages of the planted catalogue (data, recommender, sae): nobody waits for a training.
ARTIFACTS = project() / "workshop" / "artifacts" / "smoke"


def check(answer: Callable) -> None:
    """Print whether a function, known by its name, does what its exercise asks for.

    If not, the message says what differs first. If a typical mistake does the same there, its
    explanation follows. ValueError for a function that no exercise asks for.
    """
    name, known = answer.__name__, exercises(project())
    if name not in known:
        raise ValueError(f"no exercise asks for {name!r}; {name_nearest(name, [*known])}")
    exercise = known[name]
    found, expected = exercise.seen(answer), exercise.seen(exercise.solution)
    what = next((key for key in [*found, *expected] if not _same(found, expected, key)), None)
    if what is None:
        print(f"✓ {name}: passed")
        return
    shown = found[what] if what == "stops" else _difference(found[what], expected[what], what)
    print(f"✗ {name}: {shown}.")
    alike = []
    for mistake in exercise.mistakes:
        seen = exercise.seen(mistake)
        if _same(found, seen, what):
            alike.append((sum(_same(found, seen, key) for key in found), mistake.__doc__ or ""))
    if alike:  # the one that does the same most often
        print(inspect.cleandoc(max(alike, key=lambda pair: pair[0])[1]))


@dataclass
class Exercise:
    """The functions that the cells of an exercise define."""

    observe: Callable
    solution: Callable = print  # until its cell has been read
    mistakes: list[Callable] = field(default_factory=list)

    def seen(self, answer: Callable) -> dict:
        """What an answer does, by name; ``stops`` alone says why there is nothing to compare."""
        try:
            with torch.no_grad():
                found = dict(self.observe(_guarded(answer)))
            return {what: _array(value).astype(float) for what, value in found.items()}
        except _Stop as stop:
            return {"stops": str(stop)}
        except Exception as error:
            return {"stops": f"what it returns is of another kind ({error})"}


@cache
def exercises(root: Path) -> dict[str, Exercise]:
    """Every exercise of the project in the folder `root`, by the name of its function."""
    found = {}
    for path in sorted((root / "workshop" / "solutions").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        cells = [cell for cell in cells if cell["cell_type"] == "code"]
        names: dict = {}
        with torch.random.fork_rng(devices=[]):  # a model that is loaded was random at first
            exec("".join(cells[0]["source"]), names)  # the imports, and what the notebook loads
        names["check"] = lambda answer: None
        for cell in cells:
            tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
            if {"observe", "solution", "wrong"} & {*tags}:
                exec(source, names)
                name = ast.parse(source).body[0].name  # type: ignore[attr-defined]
                function, asked = names[name], name.removeprefix("observe_")
                if "observe" in tags:
                    found[asked] = Exercise(function)
                elif "wrong" in tags:
                    found[asked].mistakes.append(function)
                else:
                    found[asked].solution = function
    return found


class _Stop(Exception):
    """The answer raises an error, returns nothing, or changes what it was given."""


def _guarded(answer: Callable) -> Callable:
    names = [*inspect.signature(answer).parameters]

    def call(*given):
        before = [_array(x).copy() if isinstance(x, (Tensor, np.ndarray)) else None for x in given]
        try:
            found = answer(*given)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.name == answer.__name__]
            line = lines[0] - answer.__code__.co_firstlineno + 1 if lines else 1
            raise _Stop(f"line {line} raises {type(error).__name__}: {error}") from None
        if found is None:
            raise _Stop("it returns nothing yet; write your code below the docstring")
        for name, value, kept in zip(names, given, before, strict=False):
            if kept is not None and not np.array_equal(_array(value), kept, equal_nan=True):
                raise _Stop(f"it changes `{name}`, which the caller still needs")
        return found

    return call


def _array(value) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _same(found: dict, expected: dict, what: str) -> bool:
    a, b = found.get(what), expected.get(what)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
    return isinstance(a, str) and a == b


def _difference(a: np.ndarray, b: np.ndarray, what: str) -> str:
    if a.shape != b.shape:
        return f"{what} has the shape {list(a.shape)}, expected {list(b.shape)}"
    at = tuple(np.argwhere(~np.isclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))[0].tolist())
    return f"{what}{f' at {list(at)}' if at else ''} is {a[at]:.4g}, expected {b[at]:.4g}"
