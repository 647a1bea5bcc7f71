"""The claims, and what decides them: a table that is computed, never worded.

A claim compares a number with its best baseline, in the same trainings and the same draws of users.
Each training leaves its numbers (``metrics.json``) and, for those that claims compare, their values
in 500 draws of the users (``draws/``). `write_trainings` gathers both in ``figures/<profile>/``, so
that the claims can be computed again without a training.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from .resampling import interval
from .workspace import STAGES, flat, project, replacing, write_text

INTRODUCTION = (
    "Computed from trainings of the whole chain (`make seeds`); *trainings* says how many, and in "
    "how many of them the result is better than the baseline, the best of its kind. Means over "
    "trainings, with 95 % intervals over trainings and users († over trainings only, ‡ over "
    "trainings and features; with one training, over users or features only). A claim **holds** if "
    "the interval of the paired difference is on the right side of 0, **does not hold** if it is "
    "on the wrong side, and is **undecided** if it covers 0. A † needs several trainings: with one "
    "it is **not tested**."
)
RESULTS = (
    f"# All claims\n\n{INTRODUCTION} The same tables as data: `figures/*/claims.csv`; every "
    "number of every training: `figures/*/trainings.csv`. In all, and how many verdicts (*holds* "
    "or *does not hold*) stay if all claims of a dataset are tested together, with a false "
    "discovery rate of 5 % (Benjamini and Hochberg):"
)
#: Draws of trainings and users for an interval.
N_DRAWS = 2000
DECIDED = ("holds", "does not hold")
MARKS = {"users": "", "features": " ‡", "trainings": " †"}  # in tables, by what was drawn
COLUMNS = [
    "claim", "criterion", "number", "low", "high", "control", "control_number", "control_low",
    "control_high", "ratio", "ratio_low", "ratio_high", "n_trainings", "holds_in", "verdict",
    "p", "drawn", "stage", "key", "headline",
]  # fmt: skip


class Claim(NamedTuple):
    """A number, and what it must exceed."""

    stage: str  # where `metrics.json` has the numbers
    claim: str
    measured: str  # what is measured, for a reader of the table
    number: str
    baselines: Mapping[str, str | float]  # name -> number, or a constant; the best of them counts
    smaller: bool = False  # whether the smaller number is the better one
    of: str = "users"  # whose draws the numbers have, if any: users or features
    headline: bool = False  # whether the README's table has it
    figure: tuple[str, str] | None = None  # question and row of the README's figure


def claims() -> list[Claim]:
    """All claims, as ``notebooks/claims.yaml`` has them, in the order of the notebooks."""
    found = yaml.safe_load((project() / "notebooks" / "claims.yaml").read_text(encoding="utf-8"))
    return [Claim(stage, **given) for stage, some in found.items() for given in some]


class Training(NamedTuple):
    """What a training left: numbers by (stage, dotted name), and draws [n_draws] where recorded."""

    numbers: dict[tuple[str, str], float]
    draws: dict[tuple[str, str], NDArray]


def read_training(root: Path, profile: str) -> Training:
    """Numbers and draws of the training whose output lies under `root`."""
    artifacts = root / "artifacts" / profile
    metrics = json.loads((artifacts / "metrics.json").read_text())
    numbers = {(s, k): v for s, found in metrics.items() for k, v in flat(found).items()}
    files = {stage: artifacts / "draws" / f"{stage}.parquet" for stage in metrics}
    tables = {stage: pd.read_parquet(file) for stage, file in files.items() if file.is_file()}
    drawn = {(s, key): x.to_numpy() for s, found in tables.items() for key, x in found.items()}
    return Training(numbers, drawn)


def write_trainings(trainings: dict[int, Training], folder: Path) -> pd.DataFrame:
    """Write ``trainings.csv``, ``draws.parquet`` and ``claims.csv`` of several seeds.

    Returns the finite numbers, tidy: columns seed, stage, name, value; in the order of
    ``metrics.json``. Draws are kept of the numbers that claims compare.
    """
    rows, drawn = [], {}
    compared = {(c.stage, key) for c in claims() for key in (c.number, *c.baselines.values())}
    for seed, training in sorted(trainings.items()):
        rows += [
            (seed, stage, name, value)
            for (stage, name), value in training.numbers.items()
            if type(value) in (int, float) and math.isfinite(value)
        ]
        drawn |= {
            f"{seed} {stage} {key}": values.astype(np.float32)
            for (stage, key), values in training.draws.items()
            if (stage, key) in compared
        }
    # Objects, so that whole numbers stay whole and the digits are those of metrics.json.
    numbers = pd.DataFrame(rows, columns=["seed", "stage", "name", "value"], dtype=object)
    write_text(folder / "trainings.csv", numbers.to_csv(index=False))
    pd.DataFrame(drawn).to_parquet(folder / "draws.parquet", index=False)
    write_claims(folder)
    return numbers


def load_trainings(folder: Path) -> dict[int, Training]:
    """What `write_trainings` wrote, by seed; empty where there is nothing."""
    if not (folder / "trainings.csv").is_file():
        return {}
    found: dict[int, Training] = {}
    numbers = pd.read_csv(folder / "trainings.csv", dtype={"value": str})
    for row in numbers.itertuples():
        training = found.setdefault(row.seed, Training({}, {}))
        training.numbers[row.stage, row.name] = json.loads(row.value)  # whole ones stay whole
    for name, values in pd.read_parquet(folder / "draws.parquet").items():
        seed, stage, key = name.split(" ", 2)
        found[int(seed)].draws[stage, key] = values.to_numpy(np.float64)
    return found


def points(trainings: list[Training], stage: str, key: str | float) -> NDArray:
    """A number, or a constant, in each training: [n_trainings]; NaN where one has none."""
    if isinstance(key, float):
        return np.full(len(trainings), key)
    return np.array([t.numbers.get((stage, key), np.nan) for t in trainings], dtype=float)


def hierarchical(
    trainings: list[Training], stage: str, key: str | float, users: bool = True
) -> NDArray:
    """What the mean of a number over trainings may be, in draws of trainings and users: [N_DRAWS].

    The same users are drawn in all trainings; not `users`: it varies with the trainings only.
    Interactions of user and training count twice (Owen, AOAS 1(2), 2007): the interval is too wide
    rather than too narrow.
    """
    if isinstance(key, float):
        return np.full(N_DRAWS, key)
    found = points(trainings, stage, key)
    drawn = found[:, None]
    if users:
        drawn = np.array([t.draws[stage, key] for t in trainings])
    of_users = drawn.mean(axis=0)
    return of_users[np.arange(N_DRAWS) % len(of_users)] + found @ _retrained(len(trainings))


def _retrained(n: int) -> NDArray:
    """How far other trainings may move a mean, as weights of n trainings in each draw [n, N_DRAWS].

    Under them x is s / sqrt(n) times Student's t with n - 1 degrees of freedom, where s is the
    standard deviation of x; the draws are the same for every x. To draw few trainings again with
    replacement (the bootstrap) gives intervals that are too narrow.
    """
    if n == 1:
        return np.zeros((1, N_DRAWS))
    rng = np.random.default_rng(2)
    normal, squares = rng.standard_normal((n, N_DRAWS)), rng.chisquare(n - 1, N_DRAWS)
    return (normal - normal.mean(axis=0)) / np.sqrt(n * squares)


def table(trainings: list[Training]) -> pd.DataFrame:
    """All claims that the trainings can decide, a row each with `COLUMNS`, see `INTRODUCTION`.

    ``holds``: the 95 % interval of the difference to the best baseline, paired over trainings and
    users, is on the right side of 0; ``does not hold``: on the wrong side; ``not tested``: of one
    training, where nothing was drawn; else ``undecided``. ratio: how many times as good the number
    is as its best baseline, with its paired interval; NaN where the baseline may be 0. holds_in:
    trainings with a difference on the right side; p: twice the share of draws on the other side of
    0, see `lasting`; drawn: trainings alone, or what else was drawn. The zero edit must change
    nothing, and has no p. A training without a number does not count for its claims.
    """
    rows, everything = [], trainings
    for claim in claims():
        keys = [claim.number, *(k for k in claim.baselines.values() if isinstance(k, str))]
        trainings = [t for t in everything if all((claim.stage, k) in t.numbers for k in keys)]
        if not trainings:
            continue  # e.g. a profile without GPT-2
        sign = -1 if claim.smaller else 1
        found = {n: points(trainings, claim.stage, k) for n, k in claim.baselines.items()}
        name = max(found, key=lambda n, found=found, sign=sign: sign * found[n].mean())
        control, theirs = claim.baselines[name], found[name]
        own = points(trainings, claim.stage, claim.number)
        users = all((claim.stage, k) in t.draws for t in trainings for k in keys)
        drawn, drawn_control = (
            hierarchical(trainings, claim.stage, key, users) for key in (claim.number, control)
        )
        ahead = sign * (own - theirs)
        lead = sign * (drawn - drawn_control)
        low, high = interval(lead)
        p = min(1.0, 2 * (1 + min((lead <= 0).sum(), (lead >= 0).sum())) / (1 + len(lead)))
        if claim.number == "zero_edit.max_logit_change":  # nothing to exceed: exactly zero or not
            verdict, holds, p = "holds" if (own == 0).all() else "does not hold", own == 0, np.nan
        elif not users and len(trainings) == 1:
            verdict, holds, p = "not tested", ahead > 0, np.nan
        else:
            verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
            holds = ahead > 0
        row = [claim.claim, claim.measured, own.mean(), *interval(drawn), name, theirs.mean()]
        row += [*interval(drawn_control), *_ratio(own, theirs, drawn, drawn_control, sign)]
        row += [len(trainings), int(holds.sum()), verdict, p, claim.of if users else "trainings"]
        rows.append([*row, claim.stage, claim.number, claim.headline])
    return pd.DataFrame(rows, columns=COLUMNS)


def _ratio(own, theirs, drawn, drawn_control, sign: int) -> tuple[float, ...]:
    """Ratio of two numbers, the better one above 1, and its interval; NaN if either may be 0."""
    least = min(*interval(drawn), *interval(drawn_control), own.min(), theirs.min())
    if least <= 0:
        return (np.nan,) * 3
    with np.errstate(divide="ignore", invalid="ignore"):  # one draw in hundreds
        drawn = (np.maximum(drawn, 0) / np.maximum(drawn_control, 0)) ** sign
    return (own.mean() / theirs.mean()) ** sign, *interval(drawn)


def lasting(found: pd.DataFrame) -> NDArray:
    """Whether each claim is decided also if all of them are: rows of `table` -> bool [n_claims].

    At a false discovery rate of 5 % (Benjamini and Hochberg, JRSS B 57(1), 1995); exact ones stay.
    """
    drawn = found["p"].notna()
    lasts = found["verdict"].isin(DECIDED)
    lasts[drawn] &= false_discovery_control(found["p"][drawn]) <= 0.05
    return lasts.to_numpy()


def write_claims(folder: Path) -> None:
    """Write ``claims.csv`` from the trainings that lie beside it."""
    found = table(list(load_trainings(folder).values()))
    write_text(folder / "claims.csv", found.to_csv(index=False, float_format="%.6g"))


def shown(found: pd.DataFrame, stage: str | None = None) -> str:
    """Rows of ``claims.csv`` as a markdown table: those of a stage, or the headlines in brief."""

    def value(row, name: str) -> str:
        prefix = "" if name == "number" else "control_"
        point, low, high = (printed(row[key]) for key in (name, f"{prefix}low", f"{prefix}high"))
        return point if low == high == point else f"{point} [{low}, {high}]"

    rows = found[found["headline"] if stage is None else found["stage"] == stage]
    columns = ["claim", "measured by", "result", "best baseline", "trainings", "verdict"]
    lines = [columns if stage else ["claim", "SAE", "best baseline", "verdict"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows.to_dict("records"):
        mark = MARKS[row["drawn"]]
        own, control = value(row, "number"), f"{row['control']}: {value(row, 'control_number')}"
        verdict, count = f"**{row['verdict']}**", f"{row['holds_in']} of {row['n_trainings']}"
        measured = [f"{row['criterion']}{mark}"]
        brief = [row["claim"] + mark, own, control, f"{verdict} ({count})"]
        lines.append([row["claim"], *measured, own, control, count, verdict] if stage else brief)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def printed(value: float) -> str:
    """Three digits after the point, one from ten on, and no zero before it, as papers print them.

    >>> printed(0.1234), printed(-0.02), printed(0.0), printed(1.046), printed(10.167)
    ('.123', '-.020', '0', '1.046', '10.2')
    """
    digits = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return "0" if value == 0 else re.sub(r"^(-?)0\.", r"\1.", digits)


#: What has a committed table, and how to call it: profiles, and the last, which
#: tests/bench/field.py trains. README and notebooks show `MAIN`, and notebook 2 `PROTOCOLS`, too.
PUBLISHED = {
    "ml-100k": "MovieLens-100K",
    "ml-1m": "ML-1M (rebuilt)",
    "ml-1m-small": "ML-1M (rebuilt), as many users as MovieLens-100K",
    "ml-100k-again": "MovieLens-100K, four other trainings, made after all claims were fixed",
    "ml-100k-fresh": "MovieLens-100K, other users in each group, looked at once",
    "ml-1m-later": "ML-1M (rebuilt), cut in time: nobody learns from the last tenth",
    "ml-1m-last": "ML-1M (rebuilt), trained on everybody, two layers of width 128",
}
MAIN = ("ml-100k", "ml-1m")
PROTOCOLS = ("ml-1m-later", "ml-1m-last")
#: So many trainings one of `MAIN` must have before it is shown; each row says how many it has.
ENOUGH = 5


def rendered() -> dict[Path, str]:
    """The text of each file that shows claims, made anew from the committed tables, by its path.

    The README has the headlines between two comments, ``figures/RESULTS.md`` every claim, and each
    notebook those of its stage in the markdown cell with the tag ``claims``.
    """
    import nbformat  # of an extra, and slow to load: whoever reads claims needs none of it

    files = {name: project() / "figures" / name / "claims.csv" for name in PUBLISHED}
    tables = {name: pd.read_csv(file) for name, file in files.items() if file.is_file()}

    def counted(name: str, here: pd.DataFrame) -> str:
        of = here["verdict"].value_counts()
        verdicts = [*DECIDED, "undecided", *(["not tested"] if "not tested" in of else [])]
        counts = [f"{of.get(v, 0)} × {v}" for v in verdicts]
        return f"**{PUBLISHED[name]}**: {len(here)} claims, " + ", ".join(counts)

    def of(stage: str | None, profiles=MAIN) -> str:
        parts = []
        for name, found in tables.items():
            here = found[found["stage"] == stage] if stage else found
            enough = name not in MAIN or found["n_trainings"].max() >= ENOUGH
            if name in profiles and enough and len(here):
                parts.append(f"{counted(name, here)}\n\n{shown(found, stage)}")
        return "\n\n".join(parts)

    corrected = "\n".join(
        f"* {counted(name, found)}; {lasting(found).sum()} of the "
        f"{found['verdict'].isin(DECIDED).sum()} verdicts stay in a test of all claims"
        for name, found in tables.items()
    )
    texts = {}
    readme = project() / "README.md"
    before, _, rest = readme.read_text().partition("<!-- claims -->")
    _, _, after = rest.partition("<!-- end of claims -->")
    texts[readme] = f"{before}<!-- claims -->\n{of(None)}\n<!-- end of claims -->{after}"
    stages = "\n\n".join(
        f"## {stage.capitalize().replace('Sae', 'SAE')}\n\n{of(stage, PUBLISHED)}"
        for stage in STAGES
    )
    texts[project() / "figures" / "RESULTS.md"] = f"{RESULTS}\n\n{corrected}\n\n{stages}\n"
    for stage, name in STAGES.items():
        path = project() / "notebooks" / f"{name}.ipynb"
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            if "claims" in cell.metadata.get("tags", []):
                cell.source = (
                    f"<!-- claims: {stage} -->\n## The question, answered\n\n{INTRODUCTION}\n\n"
                    f"{of(stage, (*MAIN, *(PROTOCOLS if stage == 'recommender' else ())))}"
                )
        texts[path] = nbformat.writes(book) + "\n"
    return texts


#: What the README's figure asks, from top to bottom, as claims.yaml names it.
QUESTIONS = {
    "interpretable": "Is a feature interpretable?",
    "sequence": "What does the sequence add?",
    "knobs": "Do knobs work?",
}


def figure_table() -> pd.DataFrame:
    """What the README's figure shows: rows of the tables of `MAIN`, with data, question and row."""
    asked = [(c.claim, QUESTIONS[c.figure[0]], c.figure[1]) for c in claims() if c.figure]
    asked = pd.DataFrame(asked, columns=["claim", "question", "row"])
    asked = asked.sort_values(
        "question", kind="stable", key=lambda q: q.map([*QUESTIONS.values()].index)
    )
    files = {name: project() / "figures" / name / "claims.csv" for name in MAIN}
    tables = [pd.read_csv(file).assign(data=PUBLISHED[name]) for name, file in files.items()]
    return asked.merge(pd.concat(tables), on="claim").dropna(subset="ratio")


def publish() -> None:
    """Decide the claims anew from the committed trainings; draw them, and write `rendered`."""
    from . import figures  # slow to load: whoever decides claims draws none

    for folder in (project() / "figures" / name for name in PUBLISHED):
        if (folder / "trainings.csv").is_file():
            write_claims(folder)
    figures.style()
    with replacing(project() / "figures" / "claims.png") as file:
        figures.claims(figure_table()).savefig(file, format="png", metadata={"Software": None})
    for path, text in rendered().items():
        write_text(path, text)
