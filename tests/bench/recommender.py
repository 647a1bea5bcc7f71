"""Our transformer against RecTools' SASRec: what it costs to train, and what it is worth.

    python tests/bench/recommender.py --peer .venv-recommenders/bin/python --seeds 3

Both see all users of ML-100K, or of `--dataset ml-1m`; of each user and item the first interaction
counts, ties in time stay in the publisher's row order. A user's last item is the test, the one
before it validation.
Both keep the epoch with the highest validation NDCG@10, and then rank the whole catalogue but the
history for each user. Each run is a process of its own with one thread, and the two take turns, so
that a busy machine is busy for both; processor seconds leave out what others took. Times are
printed, never asserted: believe the ratios.

The size is that of notebook 2, whose settings for the dataset are ours; all else of RecTools is its
default, tuned by nobody for this data: batches of 128 users, a fifth to a tenth of our steps an
epoch. It learns from the last `max_length` items of a user (half of the positions), ours from all,
so that an epoch is not the same for both, but a position is: one item that is predicted from those
before it. RecTools' validation scores all positions, ours the last of each user; both are inside
the clock. Of the limit: what the matrix products of our epoch would take at the speed of a large
one, over its time (those of attention on a CPU are not counted).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from seqsae_utils.data import load_raw
from seqsae_utils.run.parameters import resolve

HERE = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "SEQSAE_THREADS": "1"}
SIZE = ("d_model", "n_layers", "n_heads", "max_length")
#: SASRec's validation NDCG@10 has dips of 17 epochs; with less patience it ends at .067, not .090.
RECTOOLS = {"max_epochs": 200, "patience": 20}

#: What is shown, by name: a heading, how it is written, and whether more is better.
COLUMNS = {
    "ndcg@10": ("NDCG@10 on the test items", ".4f", True),
    "hit_rate@10": ("HitRate@10 on the test items", ".4f", True),
    "validation_ndcg@10": ("NDCG@10 on the validation items", ".4f", True),
    "best_epoch": ("best epoch", ".1f", None),
    "epochs": ("epochs", ".1f", None),
    "seconds_to_best": ("seconds to the best epoch", ".1f", False),
    "seconds_to_equal": ("seconds to 95 % of the validation NDCG@10 of the worse", ".1f", False),
    "seconds": ("seconds in all", ".1f", None),  # each is as patient as it needs
    "processor_seconds": ("processor seconds in all", ".1f", None),
    "seconds_an_epoch": ("seconds an epoch", ".2f", None),
    "positions_a_second": ("positions a second, validation included", ",.0f", True),
    "peak_mb": ("peak memory of the host [MB]", ",.0f", False),
    "of_the_limit": ("of the limit", ".3f", None),
}


def interactions(dataset: str) -> pd.DataFrame:
    """One row an interaction, in order: user, item (from 1), part = train, validation or test."""
    raw = load_raw(dataset).interactions.drop_duplicates(["user_id", "item_id"])
    user, item = (pd.factorize(raw[column])[0] for column in ("user_id", "item_id"))
    table = pd.DataFrame({"user": user, "item": 1 + item})
    left = table.groupby("user").cumcount(ascending=False)
    part = np.select([left == 0, left == 1], ["test", "validation"], "train")
    return table.assign(part=part)


def run(python: str, script: str, table: Path, settings: dict) -> dict:
    """Numbers of one training, made by a script of this folder in a process of its own."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if settings["device"] == "cpu" else {}
    done = subprocess.run(
        [python, HERE / script, table, json.dumps(settings)],
        env={**os.environ, **ONE_THREAD, **hidden, "TQDM_DISABLE": "1"},
        stdout=subprocess.PIPE,  # what it says of its progress and faults is shown at once
        text=True,
    )
    if done.returncode:
        sys.exit(f"{script} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def seconds_to_equal(runs: pd.DataFrame) -> list[float]:
    """When each run first reaches 95 % of what the worse one of its seed reaches at best.

    All of it would be the worse one's luckiest epoch, and only its.
    """
    least = 0.95 * runs.groupby("seed")["validation_ndcg@10"].transform("min")
    return [
        next(second for second, ndcg in curve if ndcg >= wanted)
        for curve, wanted in zip(runs["curve"], least, strict=True)
    ]


def report(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds side by side, and the ratio of the better to the worse, ours first."""
    runs = runs.assign(seconds_to_equal=seconds_to_equal(runs))
    mean = runs.groupby("model", sort=False)[list(COLUMNS)].mean()
    rows = []
    for name, (heading, form, more_is_better) in COLUMNS.items():
        shown = {model: f"{value:{form}}" for model, value in mean[name].items() if value == value}
        if len(mean) == 2 and more_is_better is not None:
            ours, theirs = mean[name]
            shown["ours is better by"] = (
                f"{ours / theirs if more_is_better else theirs / ours:.2f} x"
            )
        rows.append({"": heading} | shown)
    return pd.DataFrame(rows).fillna("").set_index("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="a Python that has RecTools; without it only ours is run")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each; 3 by default")
    parser.add_argument("--dataset", default="ml-100k", help="ml-100k, the default, or ml-1m")
    parser.add_argument("--device", default="cpu", help="cpu, the default, or cuda")
    parser.add_argument("--seconds", type=int, default=10**6, help="at most, of RecTools' training")
    arguments = parser.parse_args()
    ours = resolve(arguments.dataset, {})["02_recommender"] | {"device": arguments.device}
    models = {"ours": (sys.executable, "seqsae_transformer.py", ours)}
    if arguments.peer:
        settings = {name: ours[name] for name in (*SIZE, "device")} | RECTOOLS
        settings["seconds"] = arguments.seconds
        models["RecTools"] = (arguments.peer, "rectools_sasrec.py", settings)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "interactions.csv"
        interactions(arguments.dataset).to_csv(table, index=False)
        for seed in range(arguments.seeds):
            for model, (python, script, settings) in models.items():
                found = run(python, script, table, settings | {"seed": seed})
                rows.append({"model": model, "seed": seed} | found)
                print(
                    f"seed {seed}, {model}: NDCG@10 {found['ndcg@10']:.4f}, best epoch "
                    f"{found['best_epoch']} after {found['seconds_to_best']:.0f} s",
                    flush=True,
                )
    print()
    print(report(pd.DataFrame(rows)).to_string())


if __name__ == "__main__":
    main()
