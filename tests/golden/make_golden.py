"""Compute the ranking metrics of the fixed case by RecTools and RePlay: makes ``metrics.json``.

Not run by the tests, which only read what it wrote. The two libraries want other versions of
NumPy and pandas than the project, so each is used from an environment of its own:

    pip install rectools==0.19.0     then   python tests/golden/make_golden.py rectools
    pip install replay-rec==0.22.0   then   python tests/golden/make_golden.py replay

The case has what metrics stumble over: a list that is full, lists that are short, a user with no
list at all, a user whose item is at the last place of the list, just behind it, or nowhere, items
that nobody took in training, and users none of whom is in training. A list has no scores and so no
ties; the test gives the items scores that are tied and asks for the same places.

Neither library has a diversity between lists; that of RecTools is within a list, by features. But
RecTools measures how much of one list is in another, and the mean over all pairs is asked of it.
"""

import json
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent
CASE = json.loads((FOLDER / "case.json").read_text())
Ks = (1, 3, 5)


def table(lists: dict[str, list[int]]) -> pd.DataFrame:
    """One row a recommended item: user_id, item_id, rank (from 1), rating (falling with rank)."""
    rows = [
        (int(user), item, place, 1.0 / place)
        for user, items in lists.items()
        for place, item in enumerate(items, start=1)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rank", "rating"])


def held_out() -> pd.DataFrame:
    rows = [(int(user), item) for user, item in CASE["held_out"].items()]
    return pd.DataFrame(rows, columns=["user_id", "item_id"])


def training() -> pd.DataFrame:
    """One row for each training user and item: user_id, item_id."""
    rows = [(100 + user, item) for user, items in enumerate(CASE["training"]) for item in items]
    return pd.DataFrame(rows, columns=["user_id", "item_id"])


def rectools() -> dict[str, float]:
    from rectools import metrics as m

    found, catalog = {}, range(1, CASE["n_items"] + 1)
    for k in Ks:
        wanted = {
            f"ndcg@{k}": m.NDCG(k=k, divide_by_achievable=True),
            f"hit_rate@{k}": m.HitRate(k=k),
            f"mrr@{k}": m.MRR(k=k),
            f"precision@{k}": m.Precision(k=k),
            f"recall@{k}": m.Recall(k=k),
            f"coverage@{k}": m.CatalogCoverage(k=k, normalize=True),
        }
        found |= m.calc_metrics(wanted, table(CASE["lists"]), held_out(), training(), list(catalog))
        # The mean over places and not over users: each user weighs as many places as there are.
        bits = m.MeanInvUserFreq(k=k).calc_per_user(table(CASE["lists"]), training())
        places = [min(len(CASE["lists"][str(user)]), k) for user in bits.index]
        most = np.log2(len(CASE["training"]))
        found[f"novelty@{k}"] = np.average(bits, weights=places) / most
        full = [items for items in CASE["lists"].values() if len(items) >= k]
        one, other = (
            {i: pair[side] for i, pair in enumerate(permutations(full, 2))} for side in (0, 1)
        )
        found[f"diversity_of_full_lists@{k}"] = 1 - m.Intersection(k=k).calc(
            table(one), table(other)
        )
    return found


def replay() -> dict[str, float]:
    from replay import metrics as m

    names = {"query_column": "user_id", "item_column": "item_id", "rating_column": "rating"}
    found = {}
    truth = held_out()
    for k in Ks:
        for name, metric in {
            "ndcg": m.NDCG, "hit_rate": m.HitRate, "mrr": m.MRR,
            "precision": m.Precision, "recall": m.Recall,
        }.items():  # fmt: skip
            found[f"{name}@{k}"] = metric(k, **names)(table(CASE["lists"]), truth)[
                f"{metric.__name__}@{k}"
            ]
        # A list of its own length only: RePlay divides by k what a short list lacks.
        full = {user: items for user, items in CASE["lists"].items() if len(items) >= k}
        novelty = m.Surprisal(k, **names)(table(full), training())
        found[f"novelty_of_full_lists@{k}"] = novelty[f"Surprisal@{k}"]
        counted = m.Coverage(k, **names)(table(CASE["lists"]), training())[f"Coverage@{k}"]
        found[f"coverage_of_training_items@{k}"] = counted
    return found


if __name__ == "__main__":
    (library,) = sys.argv[1:]
    path = FOLDER / "metrics.json"
    golden = json.loads(path.read_text()) if path.is_file() else {}
    numbers = {"rectools": rectools, "replay": replay}[library]()
    golden[library] = {name: float(value) for name, value in numbers.items()}
    path.write_text(json.dumps(golden, indent=2, sort_keys=True) + "\n")
