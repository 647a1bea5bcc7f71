"""What every committed notebook keeps to. Each rule is also seen to fail, on a broken notebook."""

import ast
import copy
import io
import json
import math
import os
import re
from pathlib import Path
from statistics import median

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from seqsae_utils.claims import ENOUGH, MAIN, PUBLISHED, claims, load_trainings, rendered, table
from seqsae_utils.figures.interpretability import FEW
from seqsae_utils.run import kept
from seqsae_utils.run.clean import normalise
from seqsae_utils.run.parameters import TYPES, declared, resolve
from seqsae_utils.workspace import STAGES, sha256

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("0*.ipynb"))
COPIES = sorted((PROJECT / "notebooks").glob("*/0*.ipynb"))
PROFILES = sorted((PROJECT / "notebooks" / "params").glob("*.yaml"))
FIGURES = PROJECT / "figures" / "ml-100k"
MEGABYTE = 2**20
#: Another processor adds in another order, and training carries that on, so that a number may be as
#: far from the committed ones as another training would be: so many standard deviations over the
#: committed trainings, fewer for a number that a claim compares. Each of the five trainings, held
#: against the other four, is off by at most 7.0, and 4.6 for claims. Numbers that no training moves
#: may differ by NOISE, a rounding error.
DEVIATIONS, CLAIMED, NOISE = 8, 6, 1e-4
#: Many numbers of one thing (a model, a representation, a way to steer) must not be off together:
#: root mean square of their deviations, for things with at least so many numbers. A deviation
#: counts here by the arithmetic mean over its kind, in which the widest numbers weigh most.
TOGETHER, N_TOGETHER = 3.2, 8
#: Where the trainings set two numbers of a claim so many standard deviations of their difference
#: apart, another training must have them in the same order.
APART = 4


# The rules


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def texts(book):
    """Everything of a notebook that is text: sources and outputs, without images."""
    for cell in book.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            yield from (v for kind, v in output.get("data", {}).items() if kind.startswith("text/"))


def is_executed_in_order(book):
    counts = [cell.execution_count for cell in code_cells(book)]
    assert counts == list(range(1, len(counts) + 1)), f"executed as {counts}"


def shows_no_error_or_warning(book):
    for cell in code_cells(book):
        for output in cell.outputs:
            assert output.output_type != "error", f"an error below {cell.source!r}"
            assert output.get("name") != "stderr", f"{output.text!r} below {cell.source!r}"


def is_compared(cell) -> bool:
    """Whether nbval would notice another result: text that is more than the name of a figure."""
    if {"nbval-ignore-output", "nbval-skip"} & {*tags(cell)}:
        return False
    shown = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return any(text and not text.startswith("<Figure") for text in shown)


def has_enough_compared_cells(book):
    cells = code_cells(book)
    compared = sum(map(is_compared, cells))
    assert 3 * compared >= len(cells), f"only {compared} of {len(cells)} code cells are compared"


def has_short_cells(book):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(book)]
    assert max(lengths) <= 25, f"a cell of {max(lengths)} lines"
    lengths = [len(c.source.splitlines()) for c in code_cells(book) if "parameters" not in tags(c)]
    assert median(lengths) <= 7, f"cells have {median(lengths)} lines in the median"


def has_enough_prose(book):
    prose = sum(cell.cell_type == "markdown" for cell in book.cells) / len(book.cells)
    assert prose >= 0.45, f"{prose:.0%} of the cells are prose"


def defines_little(book):
    for cell in code_cells(book):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), f"class {node.name} belongs into the package"
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 5, f"{node.name} has {lines} lines: it belongs into the package"


def names_no_absolute_path(book):
    absolute = r"""(?<![\w.:/-])/(home|Users|tmp|work|root|mnt|opt|var)/|\b[A-Z]:\\"""
    for text in texts(book):
        assert not (found := re.search(absolute, text)), f"{found[0]!r} in {text[:200]!r}"


def shows_png_only(book):
    for cell in code_cells(book):
        for output in cell.outputs:
            kinds = {*output.get("data", {})} - {"text/plain", "text/html", "image/png"}
            assert not kinds, f"{kinds} below {cell.source!r}"


def is_small(book):
    size = len(nbformat.writes(book))
    assert size <= 2 * MEGABYTE, f"{size / MEGABYTE:.1f} MB"


def has_typed_and_commented_parameters(book):
    found = [cell for cell in code_cells(book) if "parameters" in tags(cell)]
    assert len(found) == 1, f"{len(found)} cells are tagged `parameters`"
    lines = [line for line in found[0].source.splitlines() if line.strip()]
    for line in lines:
        assert re.fullmatch(r"\w+: [^=]+ = .+?  # .+", line), (
            f"not `name: type = value  # why`: {line}"
        )
        (node,) = ast.parse(line).body
        try:
            ast.literal_eval(node.value)
        except ValueError:
            raise AssertionError(f"derived, so papermill cannot set it: {line}") from None
        kinds = {kind.partition("[")[0].strip() for kind in ast.unparse(node.annotation).split("|")}
        assert kinds <= {*TYPES, "None"}, f"a type that the runner does not check: {line}"
    assert lines[0].startswith("profile: str"), f"profile comes first, not {lines[0]}"


def is_normalised(book):
    assert nbformat.writes(book) == nbformat.writes(normalise(copy.deepcopy(book))), (
        "not as `make notebooks` writes it: times, papermill's notes or progress bars are left"
    )


def records_last(book):
    """The last code cell shows what the notebook recorded; floats there are left to pytest."""
    cell = code_cells(book)[-1]
    assert "ws.record(" in cell.source, f"the last code cell records nothing: {cell.source!r}"
    recorded = recorded_numbers(book)
    if any(isinstance(value, float) for _, value in leaves(recorded)):
        assert "nbval-ignore-output" in tags(cell), (
            "it shows measured numbers: tag it nbval-ignore-output, metrics.json is compared"
        )


def recorded_numbers(book) -> dict:
    outputs = [o for o in code_cells(book)[-1].outputs if o.output_type == "execute_result"]
    assert len(outputs) == 1, "the last code cell does not show what it recorded"
    return ast.literal_eval(outputs[0].data["text/plain"])


def leaves(numbers, path=()):
    """Pairs of path and number of a nested dictionary."""
    if not isinstance(numbers, dict):
        yield path, numbers
        return
    for key, value in numbers.items():
        yield from leaves(value, (*path, key))


RULES = [
    is_executed_in_order,
    shows_no_error_or_warning,
    has_enough_compared_cells,
    has_short_cells,
    has_enough_prose,
    defines_little,
    names_no_absolute_path,
    shows_png_only,
    is_small,
    has_typed_and_commented_parameters,
    is_normalised,
    records_last,
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_committed_notebook(path, rule):
    rule(nbformat.read(path, as_version=4))


#: Shares of cells are the chapter's: a copy has one cell more, and nbval does not run it.
OF_COPIES = [rule for rule in RULES if rule not in (has_enough_compared_cells, has_enough_prose)]


@pytest.mark.parametrize("path", COPIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("rule", OF_COPIES, ids=lambda rule: rule.__name__)
def test_an_executed_copy(path, rule):
    rule(nbformat.read(path, as_version=4))


# Each rule fails where it should


def result(text: str, **data) -> list:
    return [new_output("execute_result", {"text/plain": text, **data}, execution_count=1)]


def good_notebook():
    cells = [
        new_markdown_cell("# Title", id="title"),
        new_code_cell(
            'profile: str = "toy"  # name\nk: int = 8  # features',
            metadata={"tags": ["parameters"]},
        ),
        new_markdown_cell("One value.", id="one"),
        new_code_cell("1 + 1", outputs=result("2")),
        new_markdown_cell("And what is recorded.", id="two"),
        new_code_cell('ws.record("data", {"users": 2})', outputs=result("{'users': 2}")),
    ]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return normalise(new_notebook(cells=cells))


def test_a_good_notebook_passes():
    for rule in RULES:
        rule(good_notebook())


def cell(book, source=None, outputs=None, tags=None, index=3):
    """Change one cell of a notebook."""
    changed = book.cells[index]
    changed.source = changed.source if source is None else source
    changed.outputs = changed.outputs if outputs is None else outputs
    if tags:
        changed.metadata["tags"] = tags


def stream(name, text):
    return [new_output("stream", name=name, text=text)]


FLOATS = result("{'ndcg': 0.5}")
ERROR = [new_output("error", ename="E", evalue="", traceback=[])]
BROKEN = [
    (is_executed_in_order, lambda b: b.cells[3].update(execution_count=5)),
    (is_executed_in_order, lambda b: b.cells[3].update(execution_count=None)),
    (shows_no_error_or_warning, lambda b: cell(b, outputs=ERROR)),
    (shows_no_error_or_warning, lambda b: cell(b, outputs=stream("stderr", "careful"))),
    (has_enough_compared_cells, lambda b: [cell(b, outputs=[], index=i) for i in (3, 5)]),
    (
        has_enough_compared_cells,
        lambda b: [cell(b, tags=["nbval-ignore-output"], index=i) for i in (3, 5)],
    ),
    (
        has_enough_compared_cells,
        lambda b: [cell(b, outputs=result("<Figure size 1>"), index=i) for i in (3, 5)],
    ),
    (has_short_cells, lambda b: cell(b, source="1\n" * 26)),
    (has_short_cells, lambda b: [cell(b, source="1\n" * 8, index=i) for i in (1, 3, 5)]),
    (has_enough_prose, lambda b: b.cells.pop(0)),
    (defines_little, lambda b: cell(b, source="class A:\n    pass")),
    (defines_little, lambda b: cell(b, source="def f():\n" + "    1\n" * 5)),
    (names_no_absolute_path, lambda b: cell(b, source='open("/home/me/x.csv")')),
    (names_no_absolute_path, lambda b: cell(b, outputs=stream("stdout", "in /tmp/abc"))),
    (names_no_absolute_path, lambda b: cell(b, outputs=result("PosixPath('/Users/me')"))),
    (names_no_absolute_path, lambda b: cell(b, source=r'open("C:\\x")')),
    (shows_png_only, lambda b: cell(b, outputs=result("", **{"image/svg+xml": "<svg/>"}))),
    (shows_png_only, lambda b: cell(b, outputs=result("", **{"application/pdf": "x"}))),
    (is_small, lambda b: cell(b, outputs=result("x" * 2 * MEGABYTE))),
    (has_typed_and_commented_parameters, lambda b: b.cells[1].metadata.clear()),
    *(
        (has_typed_and_commented_parameters, lambda b, s=source: cell(b, source=s, index=1))
        for source in (
            "k: int = 8  # profile is missing",
            'profile: str = "a"  # name\nk = 8  # not typed',
            'profile: str = "a"  # name\nk: int = 8',
            'profile: str = "a"  # name\nk: int = 2 * 4  # derived',
            'profile: str = "a"  # name\nk: float = d / 4  # derived',
            'profile: str = "a"  # name\nk: Size = 8  # not checked',
        )
    ),
    (is_normalised, lambda b: b.metadata.update(papermill={"duration": 1})),
    (is_normalised, lambda b: b.cells[3].metadata.update(execution={"t": "now"})),
    (is_normalised, lambda b: cell(b, outputs=stream("stderr", "\r10%|#  | 1/9"))),
    (records_last, lambda b: cell(b, source="print(1)", index=5)),
    (records_last, lambda b: cell(b, outputs=[], index=5)),
    (records_last, lambda b: cell(b, outputs=FLOATS, index=5)),
]


@pytest.mark.parametrize("rule, damage", BROKEN, ids=lambda part: part.__name__)
def test_a_rule_refuses_a_broken_notebook(rule, damage):
    book = good_notebook()
    damage(book)
    with pytest.raises(AssertionError):
        rule(book)


# The notebooks together


def test_there_are_seven_notebooks():
    assert [path.stem for path in NOTEBOOKS] == list(STAGES.values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_metrics_are_what_the_notebook_shows(path):
    metrics = json.loads((FIGURES / "metrics.json").read_text())
    stage = next(stage for stage, name in STAGES.items() if name == path.stem)
    assert recorded_numbers(nbformat.read(path, as_version=4)) == metrics[stage]


@pytest.mark.parametrize("profile", MAIN[1:])
def test_executed_copies_are_those_of_the_chapters(profile):
    """Code and texts are the chapters', and the numbers lie where the trainings have them."""
    copies = {path.stem: path for path in COPIES if path.parent.name == profile}
    assert list(copies) == list(STAGES.values())
    folder, now = PROJECT / "figures" / profile, {}
    for stage, name in STAGES.items():
        text = copies[name].read_text(encoding="utf-8")
        assert kept(copies[name], copies[name]) == text, "run `python -m seqsae_utils.run claims`"
        now[stage] = recorded_numbers(nbformat.reads(text, as_version=4))
    committed = json.loads((folder / "metrics.json").read_text())
    assert not differences(now, committed, pd.read_csv(folder / "trainings.csv"))


@pytest.mark.parametrize("profile", MAIN)
def test_the_figures_are_those_of_the_manifest(profile):
    folder = PROJECT / "figures" / profile
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    own = {"metrics.json", "manifest.json", "timings.json"}
    lying = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert lying - own - {"trainings.csv", "draws.parquet", "claims.csv"} == set(listed)
    assert {name: sha256(folder / name) for name in listed} == listed


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_fits_the_notebooks(path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    resolved = resolve(path.stem, {})
    given = yaml.safe_load(path.read_text()) or {}
    assert given.get("profile", path.stem) == path.stem
    assert all(values["profile"] == path.stem for values in resolved.values())


def test_the_defaults_of_the_notebooks_are_the_profile_ml_100k(monkeypatch):
    monkeypatch.chdir(PROJECT)
    for name, values in resolve("ml-100k", {}).items():
        defaults = declared(PROJECT / "notebooks" / f"{name}.ipynb").items()
        assert values == {key: default for key, (_, default) in defaults}


def test_a_parameter_of_two_notebooks_is_one_parameter():
    """A profile sets a key in all notebooks at once, so it must mean the same in each."""
    seen = {}
    for path in NOTEBOOKS:
        for key, value in declared(path).items():
            first, other = seen.setdefault(key, (path.stem, value))
            assert value == other, f"{key} is {other} in {first}, but {value} in {path.stem}"


# The numbers, after nbval has executed the notebooks again


#: Names of models that are not trained: their numbers are the same in every training.
UNTRAINED = re.compile(r"(^|\.)(popularity|item_knn|ease)\.")


def _kind(name: str) -> str:
    """What a number is: its last name, or where that says what is counted, the name before."""
    *_, before, last = ["", *name.split(".")]
    if before in ("features_about", "beside"):
        return before
    return re.sub("_(low|high|reconstructed)$", "", last)


def variances(found: pd.DataFrame) -> pd.Series:
    """How retraining scatters numbers, from their columns var and kind: the larger counts.

    From few trainings a number's own variance is uncertain, and a count or a share may be the same
    in all of them by chance. The other is that of its kind: the geometric mean over the numbers of
    the same stage with the same last name, ends of intervals included.
    """
    kinds = [found.index.get_level_values(0), found["kind"]]
    of_kind = np.exp(np.log(found["var"].where(found["var"] > 0)).groupby(kinds).transform("mean"))
    return found["var"].fillna(0).clip(lower=of_kind.fillna(0))


def spreads(trainings: pd.DataFrame) -> pd.DataFrame:
    """How far retraining moves each number: mean, sd of another training, its limit, wide.

    The limit is in sd; wide is the sd by the arithmetic mean of the kind, see `TOGETHER`.
    """
    found = trainings.groupby(["stage", "name"])["value"].agg(["mean", "var", "count"])
    stages, names = (found.index.get_level_values(i) for i in range(2))
    kind = [_kind(name) for name in names]
    of_kind = found["var"].groupby([stages, kind]).transform("mean").fillna(0)
    variance = variances(found.assign(kind=kind))
    # What one training alone has was seen to scatter by nothing: it is taken to scatter like the
    # numbers of its stage that several have, in proportion to the size of its kind.
    size = np.sqrt((found["mean"] ** 2).groupby([stages, kind]).transform("mean"))
    share = (np.sqrt(found["var"].where(found["var"] > 0)) / size).groupby(stages).transform("mean")
    once = (found["count"] == 1) & (trainings["seed"].nunique() > 1)
    variance = variance.clip(lower=((share * size) ** 2).where(once, 0).fillna(0))
    of_kind = of_kind.clip(lower=variance.where(once, 0))
    wide = found["var"].fillna(0).clip(lower=of_kind)
    untrained = [bool(UNTRAINED.search(name)) for name in names]
    variance[(stages == "recommender") & untrained] = 0
    claimed = found.index.isin([(c.stage, key) for c in claims() for key in compared(c)])
    return found[["mean"]].assign(
        sd=np.sqrt(variance * (1 + 1 / found["count"])),
        limit=np.where(claimed, CLAIMED, DEVIATIONS),
        wide=np.sqrt(wide * (1 + 1 / found["count"])),
    )


def compared(claim) -> list[str]:
    return [claim.number, *(key for key in claim.baselines.values() if isinstance(key, str))]


def orders(trainings: pd.DataFrame) -> pd.Series:
    """Differences of two numbers of a claim, by (stage, one, other), where all trainings agree."""
    values = trainings.set_index(["stage", "name", "seed"])["value"].unstack()
    rows = {}
    for claim in claims():
        own, *others = ((claim.stage, key) for key in compared(claim))
        for other in others:
            if own in values.index and other in values.index:
                rows[(*own, other[1])] = values.loc[own] - values.loc[other]
    if not rows:
        return pd.Series(dtype=float)
    found = pd.DataFrame(rows).T.dropna(thresh=2)  # one training agrees with itself
    rows = list(found.index)
    kind = [f"{_kind(one)} against {_kind(other)}" for _, one, other in rows]
    table = found.agg(["mean", "var"], axis=1).assign(kind=kind)
    return table["mean"][table["mean"].abs() > APART * np.sqrt(variances(table))]


def differences(now: dict, committed: dict, trainings: pd.DataFrame) -> list[str]:
    """What is not as committed: names and texts must be equal, numbers as retraining moves them.

    A kind of label that some of the trainings have, and none for five features, may come and go.
    """
    counts = trainings[trainings["name"].str.endswith(".features")]
    counts = counts.groupby(["stage", "name"])["value"].agg(["max", "size"])
    rare = (counts["max"] < FEW) & (counts["size"] < trainings["seed"].nunique())
    come_and_go = {(s, name.removesuffix(".features")) for s, name in counts[rare].index}
    now, committed = dict(leaves(now)), dict(leaves(committed))
    numbers = {(path[0], ".".join(path[1:])): value for path, value in now.items()}
    spread, found, off = spreads(trainings), [], {}
    for path in {**committed, **now}:
        a, b = now.get(path, "nothing"), committed.get(path, "nothing")
        key = path[0], ".".join(path[1:])
        if a == b and type(a) is type(b):
            continue
        if "nothing" in (a, b) and (key[0], key[1].rpartition(".")[0]) in come_and_go:
            continue
        if all(type(x) in (int, float) for x in (a, b)) and key in spread.index:
            mean, sd, limit, wide = spread.loc[key]
            if sd > 0:
                thing = f"{key[0]}.{key[1].partition('.')[0]}" if "." in key[1] else key[0]
                off.setdefault(thing, []).append((a - mean) / wide)
            if not abs(a - mean) <= max(limit * sd, NOISE):
                what = f"{mean:.4g} +- {limit * sd:.2g}"
                found.append(f"{'.'.join(path)} is {a}, committed {b}: {what}")
        elif not (type(a) is type(b) is float and abs(a - b) <= NOISE):
            found.append(f"{'.'.join(path)} is {a}, committed {b}")
    for thing, deviations in off.items():
        together = np.sqrt(np.mean(np.square(deviations)))
        if len(deviations) >= N_TOGETHER and together > TOGETHER:
            found.append(f"{len(deviations)} numbers of {thing} are off by {together:.1f} together")
    for (stage, one, other), mean in orders(trainings).items():
        a, b = numbers.get((stage, one)), numbers.get((stage, other))
        if None not in (a, b) and (a - b) * mean <= 0:
            found.append(f"{stage}.{one} is {a}, {other} {b}: the other way round than committed")
    return found


SAID = {
    "data": {"users": 9},
    "sae": {"ndcg": 0.08, "count": 7, "change": 1e-7},
    "activations": {"site": "a", "p": None},
}
#: Three trainings: one number that they move, one count that they move, one that they do not.
MOVED = pd.DataFrame(
    [
        (seed, stage, name, value)
        for seed, (ndcg, count) in enumerate([(0.08, 7), (0.082, 8), (0.078, 6)])
        for stage, name, value in [
            ("data", "users", 9),
            ("sae", "ndcg", ndcg),
            ("sae", "count", count),
            ("sae", "change", 1e-7),
        ]
    ],
    columns=["seed", "stage", "name", "value"],
)


@pytest.mark.parametrize(
    "stage, change, equal",
    [
        ("sae", {"change": 9e-7}, True),
        ("sae", {"ndcg": 0.085}, True),
        ("sae", {"count": 9}, True),
        ("data", {"users": 10}, False),
        ("sae", {"ndcg": 0.0}, False),
        ("sae", {"ndcg": 0.11}, False),
        ("sae", {"ndcg": None}, False),
        ("sae", {"ndcg": "0.08"}, False),
        ("sae", {"count": 25}, False),
        ("sae", {"change": 1e-2}, False),
        ("activations", {"site": "b"}, False),
        ("activations", {"p": 0.5}, False),
        ("sae", {"new": 1}, False),
    ],
)
def test_differences_are_noticed(stage, change, equal):
    now = {**SAID, stage: {**SAID[stage], **change}}
    assert (differences(now, SAID, MOVED) == []) == equal
    gone = {**SAID, "sae": {"change": 1e-7, "count": 7}}
    assert differences(gone, SAID, MOVED)


@pytest.mark.parametrize(
    "features, seeds, equal",
    [(2, [0, 2], True), (7, [0, 2], False), (2, [0, 1, 2], False), (2, [], False)],
)
def test_a_kind_of_label_that_few_features_have_may_come_and_go(features, seeds, equal):
    rows = [(seed, "sae", f"names.decade.{key}", v) for seed in seeds
            for key, v in {"features": features, "accuracy": 0.6}.items()]  # fmt: skip
    rows = pd.DataFrame(rows, columns=MOVED.columns).astype(MOVED.dtypes)
    trainings = pd.concat([MOVED, rows])
    said = {**SAID["sae"], "names": {"decade": {"features": features, "accuracy": 0.6}}}
    with_it = {**SAID, "sae": said}
    assert (differences(SAID, with_it, trainings) == []) == equal
    assert (differences(with_it, SAID, trainings) == []) == equal
    assert differences({**with_it, "data": {}}, SAID, trainings)


def nested(rows: pd.DataFrame) -> dict:
    """Numbers of one training as `metrics.json` has them, but under dotted names."""
    return {stage: dict(zip(of["name"], of["value"], strict=True)) for stage, of in
            rows.groupby("stage")}  # fmt: skip


@pytest.fixture(scope="module")
def trainings() -> pd.DataFrame:
    return pd.read_csv(FIGURES / "trainings.csv")


def test_a_training_passes_by_the_spread_of_the_others(trainings):
    """The tolerance raises no false alarm: each training is held against all the others."""
    for seed, own in trainings.groupby("seed"):
        others = trainings[trainings["seed"] != seed]
        rival = others[others["seed"] == others["seed"].iloc[0]]
        own = own.merge(others[["stage", "name"]].drop_duplicates())
        rival = rival[rival["name"].isin(own["name"]) | rival["name"].str.startswith("names.")]
        assert differences(nested(own), nested(rival), others) == []


def test_what_one_training_alone_has_scatters_like_its_stage():
    once = pd.DataFrame([(0, "sae", "new", 3.0)], columns=MOVED.columns)
    committed = {**SAID, "sae": {**SAID["sae"], "new": 3.0}}
    for value, n in {3.2: 0, 9.0: 1, 0.0: 1, math.inf: 1, math.nan: 1, "3": 1}.items():
        now = {**SAID, "sae": {**SAID["sae"], "new": value}}
        assert len(differences(now, committed, pd.concat([MOVED, once]))) == n


BREAKAGES = {
    "an SAE that was not trained": ("interpretability", "sae.", "random_directions."),
    "hidden states in place of the SAE's code": ("interpretability", "sae.", "neurons."),
    "a recommender that knows popularity only": ("recommender", "", "popularity."),
    "a random feature in place of the knob": ("control", "sae_several.", "random."),
    "a code of random directions": ("sae", "by_dictionary.kept.", "by_dictionary.random."),
}


@pytest.mark.parametrize("what", BREAKAGES)
def test_a_broken_chain_is_noticed(what, trainings):
    """Numbers that something simpler gives must not pass for those of what it stands in for."""
    stage, good, bad = BREAKAGES[what]
    committed = nested(trainings[trainings["seed"] == trainings["seed"].iloc[0]])
    now = copy.deepcopy(committed)
    swapped = 0
    for name in committed[stage]:
        if name.startswith(bad) and good + name.removeprefix(bad) in committed[stage]:
            now[stage][good + name.removeprefix(bad)] = committed[stage][name]
            swapped += 1
    assert swapped >= 3
    assert differences(now, committed, trainings)


#: Single numbers that a fault gives: by what is broken, its stage, its name, and the number.
ALTERED = {
    "a recommender that learned nothing": ("recommender", "ndcg@10", 0.001),
    "a score on the films that chose": ("interpretability", "sae.held_out", 0.327),
    "features of other users": ("interpretability", "sae.held_out", 0.02),
    "an AUC that no training gives": ("interpretability", "sae.max_auc", 0.73),
    "a test that finds all significant": ("interpretability", "sae.share_significant", 1.0),
    "labels that see the answer": ("interpretability", "names.sae.all.accuracy", 0.66),
    "labels as good as shuffled ones": ("interpretability", "names.sae.all.accuracy", 0.506),
    "labels without a threshold": ("interpretability", "names.sae.all.coverage", 0.4),
    "an SAE of half the steps": ("sae", "explained_variance", 0.85),
    "lists of another dictionary": ("sae", "top10_overlap", 0.6),
    "a seed that is not another": ("sae", "stability.topk.found_again", 0.15),
    "a site that is the embedding": ("activations", "probe_auc_by_site.blocks.0.next", 0.6199),
    "a knob for a permuted genre": ("control", "sae_several.pareto_area", 0.33),
    "scores raised for other items": ("control", "rerank.pareto_area", 0.31),
    "a dial that turns half way": ("control", "dial.mean_abs_error", 0.2),
    "moments that know the target": ("control", "serving.stated.sae_several.change", 0.03),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_single_number_that_is_off_is_noticed(what, trainings):
    stage, name, value = ALTERED[what]
    committed = nested(trainings[trainings["seed"] == trainings["seed"].iloc[0]])
    assert name in committed[stage]
    now = {**committed, stage: {**committed[stage], name: value}}
    assert differences(now, committed, trainings)


@pytest.mark.rerun
def test_the_notebooks_give_the_committed_numbers_again():
    root = os.environ.get("SEQSAE_WORKSPACE")
    if not root:
        pytest.skip("needs the SEQSAE_WORKSPACE in which nbval executed the notebooks: `make test`")
    now = json.loads(Path(root, "artifacts/ml-100k/metrics.json").read_text())
    committed = json.loads((FIGURES / "metrics.json").read_text())
    assert list(now) == list(STAGES)
    assert not differences(now, committed, pd.read_csv(FIGURES / "trainings.csv"))


# The claims


@pytest.mark.parametrize("profile", PUBLISHED)
def test_the_claims_are_those_of_the_trainings(profile):
    """Numbers, trainings and verdicts of claims.csv, from the table of all trainings."""
    folder = PROJECT / "figures" / profile
    if not (folder / "claims.csv").is_file():
        pytest.skip(f"no trainings of {profile} are committed")
    found, values = pd.read_csv(folder / "claims.csv"), pd.read_csv(folder / "trainings.csv")
    by_training = values.set_index(["seed", "stage", "name"])["value"].unstack("seed")
    assert len(found) >= (4 if profile == "ml-1m-last" else 20)  # that has one stage
    known = {(claim.stage, claim.number, claim.claim): claim for claim in claims()}
    for row in found.itertuples():
        claim = known[row.stage, row.key, row.claim]
        keys = [row.key, *(k for k in claim.baselines.values() if isinstance(k, str))]
        here = by_training.loc[[(row.stage, key) for key in keys]].dropna(axis="columns")
        own = here.loc[(row.stage, row.key)]
        assert row.n_trainings == len(own) > 0
        assert row.number == pytest.approx(own.mean(), rel=1e-4, abs=1e-9)
        control = claim.baselines[row.control]
        if isinstance(control, str):
            control = here.loc[(row.stage, control)]
        assert row.control_number == pytest.approx(np.mean(control), rel=1e-4, abs=1e-9)
        if row.key == "zero_edit.max_logit_change":
            assert row.verdict == "holds" and (own == 0).all()
            continue
        ahead = (own - control) * (-1 if claim.smaller else 1)
        assert row.holds_in == (ahead > 0).sum()
        if row.verdict == "holds":
            assert ahead.mean() > 0
        if row.verdict == "does not hold":
            assert ahead.mean() < 0


@pytest.mark.parametrize("profile", PUBLISHED)
def test_the_claims_can_be_decided_again_without_training(profile):
    folder = PROJECT / "figures" / profile
    if not (folder / "claims.csv").is_file():
        pytest.skip(f"no trainings of {profile} are committed")
    found = table(list(load_trainings(folder).values()))
    found = pd.read_csv(io.StringIO(found.to_csv(index=False)))
    committed = pd.read_csv(folder / "claims.csv")
    pd.testing.assert_frame_equal(found, committed, rtol=1e-4, atol=1e-9)


def test_the_headline_dataset_has_enough_trainings():
    assert len(load_trainings(FIGURES)) >= ENOUGH


def test_readme_results_and_notebooks_show_the_claims():
    """`python -m seqsae_utils.run claims` writes them; nobody words them better."""
    for path, text in rendered().items():
        assert path.read_text() == text, f"{path.name}: run `python -m seqsae_utils.run claims`"
