"""Time and memory of every notebook on made-up data of the shape of a published dataset, or a part.

    make bench-size PARAMS="--parts 100 10 1"
    make bench-size PARAMS="--profile music4all --parts 1"

A hundredth has a hundredth of the users; the catalogue, the lengths of the histories and the groups
of users are those of the whole. Users follow planted moods, as in the profile smoke, through items
of Zipf's popularity. The notebooks run with the profile, but for a short training: one epoch of the
sampled loss, no EASE, whose time is that of its items, and few steps of the dictionaries.

Writes a figure and its table into `figures/PROFILE-made-up/`; parts that are not asked for
keep their rows, and a part that was interrupted goes on. The whole takes hours on two cores.
"""

import argparse
import os
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from seqsae_utils import figures, run
from seqsae_utils.data.planted import CONCEPTS, DAY, START, SWITCH
from seqsae_utils.data.sources import PUBLISHED, Published
from seqsae_utils.workspace import STAGES, Workspace, project, read_json, replacing

SHORT = {"max_epochs": 1, "loss": "sampled", "ease": False, "sae_steps": 1000, "sweep_steps": 200}


def write(folder: Path, shape: Published, part: int, seed: int = 0) -> None:
    """Write interactions and items of a `part`-th of the users, a thousand users at a time."""
    rng = np.random.default_rng(seed)
    pairs = np.array(list(combinations(range(len(CONCEPTS)), 2)))[np.arange(shape.items) % 66]
    a, b = (np.array(CONCEPTS)[pairs[:, side]] for side in (0, 1))
    ids = np.arange(1, shape.items + 1)
    titles = [f"{x} and {y}, part {n} ({1950 + n % 65})" for x, y, n in zip(a, b, ids, strict=True)]
    items = pd.DataFrame({"item_id": ids, "title": titles})
    appeal = rng.permutation(1 / (np.arange(shape.items) + 20))  # Zipf's law, with a flatter head
    carries = (pairs[:, :, None] == np.arange(len(CONCEPTS))).any(axis=1)
    chances = np.cumsum(appeal[:, None] * carries, axis=0)  # of each concept
    folder.mkdir(parents=True, exist_ok=True)
    items.assign(attributes=[f"{x}|{y}" for x, y in zip(a, b, strict=True)]).to_csv(
        folder / "items.csv", index=False
    )
    n_users, mean = shape.users // part, shape.interactions / shape.users
    lengths = np.maximum(20, rng.lognormal(np.log(mean) - 0.5, 1, n_users)).clip(max=2_000)
    lengths = (lengths * mean / lengths.mean()).astype(int)
    with replacing(folder / "interactions.csv") as file:
        for start in range(0, n_users, 1_000):
            length = lengths[start : start + 1_000]
            user = np.repeat(np.arange(start, start + len(length)), 2 * length)
            first = np.r_[True, np.diff(user) > 0]
            switch = first | (rng.random(len(user)) < SWITCH)
            mood = rng.integers(len(CONCEPTS), size=switch.sum())[np.cumsum(switch) - 1]
            item = np.empty(len(user), dtype=int)
            for concept in range(len(CONCEPTS)):
                rows = np.flatnonzero(mood == concept)
                drawn = rng.random(len(rows)) * chances[-1, concept]
                item[rows] = np.searchsorted(chances[:, concept], drawn, side="right")
            table = pd.DataFrame({"user_id": user + 1, "item_id": item + 1}).drop_duplicates()
            place = table.groupby("user_id").cumcount()
            table = table[place < length[table["user_id"] - 1 - start]]
            arrival = START + table["user_id"] * (20 * 365 * DAY // shape.users)
            step = pd.Series(rng.integers(60, DAY, len(table)), table.index)
            table["timestamp"] = arrival + step.groupby(table["user_id"]).cumsum()
            table.to_csv(file, index=False, header=not start, mode="a")


def measure(profile: str, part: int, scratch: Path) -> pd.DataFrame:
    """Run the notebooks on a part; rows of those that were done before are read."""
    folder = scratch / profile / f"1-{part}"
    os.environ["SEQSAE_WORKSPACE"] = str(folder)
    if not (folder / "data" / "interactions.csv").is_file():
        write(folder / "data", PUBLISHED[profile], part)
    label = f"made up, 1/{part} of {PUBLISHED[profile].label}"
    own = {"dataset": str(folder / "data"), "label": label}
    parameters = run.resolve(profile, {**SHORT, **own, "attributes": "", "n_jobs": 1})
    workspace, file = Workspace(profile), folder / "size.csv"
    rows = pd.read_csv(file).to_dict("records") if file.is_file() else []
    for stage, name in STAGES.items():
        if not run.outdated(workspace, stage, parameters[name]):
            continue
        before = kernels_seconds()
        run.execute(workspace, stage, parameters[name])
        sizes = read_json(workspace.artifacts / "metrics.json")["data"]
        rows = [row for row in rows if row["notebook"] != name]
        rows.append(
            {
                "part": part,
                "users": sizes["users"],
                "interactions": sizes["interactions"],
                "notebook": name,
                "seconds": kernels_seconds() - before,
                "memory_mb": read_json(workspace.runs / f"{name}.json")["memory_mb"],
            }
        )
        print(rows[-1], flush=True)
        pd.DataFrame(rows).round(1).to_csv(file, index=False)
    return pd.DataFrame(rows)


def kernels_seconds() -> float:
    """Processor seconds of the kernels that have ended."""
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Slopes of log processor seconds and log memory over log interactions, by notebook."""
    of = {}
    for name, rows in table.groupby("notebook"):
        if len(rows) > 1:
            x = np.log(rows["interactions"])
            slopes = [np.polyfit(x, np.log(rows[y]), 1)[0] for y in ("seconds", "memory_mb")]
            of[name] = slopes
    return pd.DataFrame(of, index=["seconds", "memory_mb"]).T


def draw(table: pd.DataFrame):
    """Two panels, log-log: seconds, and memory, over interactions; a line for each notebook."""
    figures.style()
    slopes = exponents(table)
    figure, axes = plt.subplots(1, 2, figsize=(figures.PAGE, 5))
    said = {"seconds": "processor seconds", "memory_mb": "memory at most (MB)"}
    for axis, (column, label) in zip(axes, said.items(), strict=True):
        for marker, (name, rows) in zip("osD^vP*", table.groupby("notebook"), strict=False):
            slope = f": {slopes[column][name]:.2f}" if name in slopes.index else ""
            axis.loglog(rows["interactions"], rows[column], marker=marker, label=name + slope)
        axis.xaxis.set_major_locator(FixedLocator(sorted(table["interactions"].unique())))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            side.set_minor_locator(NullLocator())
        axis.set(xlabel="interactions", ylabel=label)
        axis.legend(
            title="notebook: exponent", loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2
        )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PUBLISHED, default="ml-20m")
    parser.add_argument("--parts", type=int, nargs="+", default=[100, 10], help="1 is the whole")
    parser.add_argument("--scratch", type=Path, default=project() / "runs" / "size")
    arguments = parser.parse_args()
    scratch, home = arguments.scratch.absolute(), os.environ.get("SEQSAE_WORKSPACE", "")
    tables = [measure(arguments.profile, part, scratch) for part in arguments.parts]
    os.environ["SEQSAE_WORKSPACE"] = home
    workspace = Workspace(f"{arguments.profile}-made-up")
    file = workspace.figures / "tables" / "size.csv"
    if file.is_file():
        kept = pd.read_csv(file)
        tables.append(kept[~kept["part"].isin(arguments.parts)])
    table = pd.concat(tables).sort_values(["part", "notebook"], ascending=[False, True])
    print(table.to_string(index=False), exponents(table).round(2).to_string(), sep="\n\n")
    figures.save(draw(table), table, "size", workspace)


if __name__ == "__main__":
    main()
