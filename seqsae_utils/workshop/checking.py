"""Compare an answer with the solution, and where it differs, with the typical mistakes.

All of these are cells of ``workshop/solutions``, known by their tags. ``solution``: the function
that an exercise asks for. ``wrong``: the same function with a mistake; its docstring says what is
wrong and why. ``observe``: a generator that gives an answer small data to work on, and yields what
it does, a name and a number or an array each; what isolates one mistake comes first.
"""

import _thread
import ast
import inspect
import json
import signal
import threading
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..workspace import name_nearest, project

#: Three stages of the planted catalogue (data, recommender, sae): nobody waits for a training.
ARTIFACTS = project() / "workshop" / "artifacts" / "smoke"
#: An answer that has not ended by then has a loop without an end.
SECONDS = 10.0


def check(answer: Callable) -> None:
    """Print whether a function, known by its name, does what its exercise asks for.

    If not, the message says what differs first. If a typical mistake does the same there, its
    explanation follows. Whatever it is given, it explains, and raises nothing.
    """
    if not inspect.isfunction(answer) or answer.__name__ == "<lambda>":
        given = " ".join(repr(answer).split())[:60]
        print(f"✗ check needs a function written with `def`, as in check(keep_top), not {given}.")
        return
    name, known = answer.__name__, exercises(project())
    if name not in known:
        print(f"✗ no exercise asks for {name!r}; {name_nearest(name, [*known])}.")
        return
    exercise = known[name]
    found, expected = exercise.seen(answer), exercise.seen(exercise.solution)
    differ = (key for key in [*found, *expected] if not _same(found, expected, key))
    what = "stops" if "stops" in found else next(differ, None)
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
        names = self.observe.__globals__
        own = {name: x for name, x in names.items() if isinstance(x, torch.nn.Module)}
        names.update(deepcopy(own))  # an answer may leave a hook on the model, or its dropout on
        try:
            with torch.no_grad():
                found = dict(self.observe(_guarded(answer)))
            return {what: _array(value).astype(float) for what, value in found.items()}
        except _Stop as stop:
            return {"stops": str(stop)}
        except Exception as error:
            return {"stops": f"what it returns is of another kind ({error})"}
        finally:
            names.update(own)


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
    """The answer raises an error, has no end, returns nothing, or changes what it was given."""


def _guarded(answer: Callable) -> Callable:
    names = [*inspect.signature(answer).parameters]

    def call(*given):
        before = [_array(x).copy() if isinstance(x, (Tensor, np.ndarray)) else None for x in given]
        late: list = []
        clock = threading.Timer(SECONDS, lambda: (late.append(1), _thread.interrupt_main()))
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored
        clock.start()
        try:
            found = answer(*given)
        except KeyboardInterrupt:
            if not late:  # somebody pressed stop
                raise
            what = f"it has not ended after {SECONDS:.0f} seconds"
            raise _Stop(f"{what}; look for a loop that never ends") from None
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.name == answer.__name__]
            line = lines[0] - answer.__code__.co_firstlineno + 1 if lines else 1
            raise _Stop(f"line {line} raises {type(error).__name__}: {error}") from None
        finally:
            clock.cancel()
            signal.signal(signal.SIGINT, handler)
        if found is None:
            what = "write your code below the docstring, and `return` what it asks for"
            raise _Stop(f"it returns nothing yet; {what}")
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
