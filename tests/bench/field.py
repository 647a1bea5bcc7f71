"""ML-1M with everybody's last item held out, as most papers measure, beside what they publish.

    make bench-field PARAMS="--device cuda --jobs 9"

All items are ranked, those that a user has had are filtered out, and the last item but one chooses
the epoch. Trained are the models that the notebooks open, at this size, with three seeds; with one
seed each, the width of the notebooks, and two other orders of ratings that have the same time.
Popularity, item neighbours and EASE stand beside them. Whatever is interrupted goes on.

Whether ratings that a copy lacks matter is tried by removing more: those of items with fewer than
10 and 20 ratings, or 598 at random. `--models` trains some; the numbers of the others stay.

Writes `figures/ml-1m-last/`: `trainings.csv`, `claims.csv`. The published numbers are in
`notebooks/claims.yaml`. An H200 takes ten minutes, two cores a day (both estimated).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from seqsae_utils import data, metrics, recommender, resampling
from seqsae_utils.claims import Training, load_trainings, write_trainings
from seqsae_utils.workspace import project

CONFIG = recommender.Config(n_items=2, d_model=128, n_layers=2, n_heads=2, max_length=200)
TRAINING = recommender.Training(batch_size=4096, max_epochs=44, patience=44)
SASREC = {"architecture": "sasrec"}
#: By name: which ratings in which order, what differs from `CONFIG`, and the seeds.
MODELS = {
    "sasrec": ("published", SASREC, 3),
    "ligr": ("published", {"architecture": "ligr"}, 3),
    "sasrec_64": ("published", {"architecture": "sasrec", "d_model": 64, "dropout": 0.2}, 1),
    "sasrec_ties_by_item": ("by item", SASREC, 1),
    "sasrec_ties_shuffled": ("shuffled", SASREC, 1),
    "sasrec_10_core": ("10-core", SASREC, 3),
    "sasrec_20_core": ("20-core", SASREC, 3),
    **{f"sasrec_598_fewer_{draw}": (f"598 fewer, {draw}", SASREC, 1) for draw in range(3)},
}


def splits(names: set[str]) -> dict[str, recommender.Split]:
    """Everybody's last item held out: equal times in three orders, and with fewer ratings."""
    raw = data.load_raw("ml-1m")
    table, rng = raw.interactions, np.random.default_rng(0)
    table = table.assign(key=np.arange(len(table)))
    shuffled, of_item = rng.random(len(table)), table.groupby("item_id")["key"].transform("size")
    tables = {
        "published": table,
        "by item": table.assign(key=table["item_id"].astype(int)),
        "shuffled": table.assign(key=shuffled),
        **{f"{least}-core": table[of_item >= least] for least in (10, 20)},
    }
    for draw in range(3):
        tables[f"598 fewer, {draw}"] = table.drop(table.sample(598, random_state=draw).index)
    found = {}
    for name in names:
        ordered = tables[name].sort_values(["user_id", "timestamp", "key"], kind="stable")
        made = data.prepare(replace(raw, interactions=ordered.drop(columns="key")))
        found[name] = recommender.leave_last_out(made)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side; 2 by default")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--folder", type=Path, default=project() / "figures" / "ml-1m-last")
    arguments = parser.parse_args()
    checkpoints = project() / "runs" / "ml-1m-last"
    checkpoints.mkdir(parents=True, exist_ok=True)
    protocols = splits({"published"} | {MODELS[name][0] for name in arguments.models})
    runs = [(name, seed) for name in arguments.models for seed in range(MODELS[name][2])]
    jobs = []
    for name, seed in runs:
        order, settings, _ = MODELS[name]
        config = replace(CONFIG, n_items=protocols[order].n_items, **settings)
        training, file = replace(TRAINING, seed=seed), checkpoints / f"{name}.{seed}.checkpoint"
        fit = delayed(recommender.fit)
        jobs.append(fit(config, protocols[order], training, file, arguments.device, False))
    trained = Parallel(arguments.jobs, return_as="generator")(jobs)

    kept = load_trainings(arguments.folder)  # of models that are not asked for
    found = {seed: Training({}, {}) for seed in range(3)} | kept

    def judge(name: str, order: str, scorer, seeds: list[int]) -> None:
        rank = recommender.rank_items(scorer, *protocols[order].test).rank
        ndcg, hits = metrics.ndcg(rank), metrics.hit_rate(rank)
        for numbers, draws in (found[seed] for seed in seeds):
            key = f"last_item.{name}"
            numbers["recommender", f"{key}.ndcg@10"] = round(float(ndcg.mean()), 6)
            numbers["recommender", f"{key}.hit_rate@10"] = round(float(hits.mean()), 6)
            draws["recommender", f"{key}.ndcg@10"] = resampling.drawn_means(ndcg)
        print(f"{name}, {seeds}: NDCG@10 {ndcg.mean():.4f}, HR@10 {hits.mean():.4f}", flush=True)

    simple, settings = recommender.simple_models(protocols["published"])
    print(settings, flush=True)
    for name, scorer in simple.items():
        judge(name, "published", scorer, list(found))  # they have no seed
    for (name, seed), (model, history) in zip(runs, trained, strict=True):
        best = history.loc[history["ndcg@10"].idxmax()]
        print(f"epoch {best.epoch:.0f}, validation NDCG@10 {best['ndcg@10']:.4f}: ", end="")
        judge(name, MODELS[name][0], model.next_item_scores, [seed])
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_trainings(found, arguments.folder)


if __name__ == "__main__":
    main()
