"""What a piece of work depends on, as checksums: its inputs by their content, and its code."""

import ast
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

PACKAGE = Path(__file__).parent
BLOCK_BYTES = 2**25
PLAIN = (str, bytes, int, float, type(None))


def fingerprint(work: Callable, **inputs) -> dict[str, str]:
    """Checksums of a function's inputs (see `digest`) and of its code, by the name of the thing.

    A result is stored with this, and is used again only if this is the same. The code is what the
    function's module imports from the package, directly or not, without comments and docstrings: a
    figure's caption is no part of a training.
    """
    return {name: digest(value) for name, value in inputs.items()} | code([work.__module__])


def changes(now: Mapping, then: Mapping) -> str:
    """Names of what differs between two fingerprints, three at most; empty if nothing does."""
    names = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    return ", ".join(names[:3]) + " ..." * (len(names) > 3)


def digest(value) -> str:
    """SHA-256 of a value by its content, the same in every process.

    `value` is an array (read block by block: a map may be larger than the memory), a tensor, a
    torch module (its weights, repr, plain attributes, and the code of classes that are not torch's
    or ours, which `code` covers), a dataclass, a plain value, or a list, tuple or dict of those;
    TypeError for anything else. (joblib.hash pickles: there equal values may differ.)
    """
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value) -> Iterator[bytes]:
    """The content in pieces, each thing after its kind and size: no two values run together."""
    if isinstance(value, torch.nn.Module):
        said = repr(value), repr(getattr(value, "config", None)), getattr(value, "max_length", None)
        value = [type(value).__qualname__, *said, value.state_dict(), list(_beside_weights(value))]
    elif is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        value = [type(value).__qualname__, content]
    elif isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)  # also of bfloat16
        value = [str(value.dtype), list(value.shape), flat.numpy()]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"array {value.dtype.str} {value.shape};".encode()
        rows = np.atleast_1d(value)
        size = max(1, BLOCK_BYTES // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), size):
            yield rows[start : start + size].tobytes()
    elif isinstance(value, Mapping):
        yield f"dict {len(value)};".encode()
        for pair in value.items():
            yield from _parts(pair)
    elif isinstance(value, (list, tuple)):
        yield f"list {len(value)};".encode()
        for item in value:
            yield from _parts(item)
    else:
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, PLAIN):
            raise TypeError(f"no fingerprint of a {type(value).__name__}: its content is not known")
        text = repr(value).encode()
        yield f"{type(value).__name__} {len(text)};".encode() + text


def _beside_weights(model: torch.nn.Module) -> Iterator[str]:
    """What a module's output depends on beside its weights: plain attributes, and foreign code."""
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, PLAIN)}
        yield f"{name}: {sorted((plain | {'training': False}).items())}"
        if type(module).__module__.split(".")[0] not in ("torch", PACKAGE.name):
            for key, function in sorted(vars(type(module)).items()):
                if part := getattr(function, "__code__", None):
                    plain = [value for value in part.co_consts if isinstance(value, PLAIN)]
                    yield f"{name}.{key}: {part.co_code!r} {part.co_names} {plain}"


def sources(package: Path = PACKAGE) -> dict[str, str]:
    """Texts of a package's files as they are on the disk, by their path in it."""
    files = sorted(package.rglob("*.py"))
    return {file.relative_to(package).as_posix(): file.read_text("utf-8") for file in files}


#: The package as this process has loaded it: what is edited afterwards does not run here.
LOADED = sources()


def code(modules: Iterable[str], texts: Mapping[str, str] = LOADED) -> dict[str, str]:
    """Checksums, by path, of modules, all that they import from the package, and its parents."""
    root = PACKAGE.name
    waiting, seen, found = {root, *modules}, set(), set()
    while waiting:
        seen.add(name := waiting.pop())
        top, *below = name.split(".")
        if top != root:
            continue
        above = name.rpartition(".")[0]
        file = "/".join(below)
        for path, package in ((f"{file}/__init__.py".lstrip("/"), name), (f"{file}.py", above)):
            if path in texts:
                found.add(path)
                waiting |= imports(texts[path], package) - seen
        waiting |= {above or root} - seen
    return {path: digest(_statements(texts[path])) for path in sorted(found)}


@cache
def _statements(source: str) -> str:
    """The part of a source that runs: its syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            if ast.get_docstring(node) is not None:
                del node.body[0]
    return ast.dump(tree)


@cache
def imports(source: str, package: str = "") -> set[str]:
    r"""Dotted names that a source may import from this package, in full.

    `package` is the one that the source lies in, which its relative imports start from.

    >>> sorted(imports("from . import metrics\nimport numpy", "seqsae_utils"))
    ['seqsae_utils', 'seqsae_utils.metrics']
    """
    names = set()
    for node in ast.walk(ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = above * bool(node.level) + ([node.module] if node.module else [])
            names |= {".".join(parts), *(".".join([*parts, a.name]) for a in node.names)}
    return {name for name in names if name.split(".")[0] == PACKAGE.name}
