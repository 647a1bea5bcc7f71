"""ML-1M with everybody's last item held out, as most papers measure, beside what they publish.

    make bench-field PARAMS="--device cuda --jobs 9"

All items are ranked, those that a user has had are filtered out, and the last item but one chooses
the epoch. Trained are the models that the notebooks open, at this size, with three seeds; with one
seed each, the width of the notebooks, and two other orders of ratings that have the same time.
Popularity, item neighbours and EASE stand beside them. Whatever is interrupted goes on.

Writes `figures/ml-1m-last/`: `trainings.csv`, `claims.csv`. The published numbers are in
`notebooks/claims.yaml`. An H200 takes five minutes, two cores half a day (estimated).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from seqsae_utils import data, metrics, recommender, resampling
from seqsae_utils.claims import Training, write_trainings
from seqsae_utils.workspace import project

CONFIG = recommender.Config(n_items=2, d_model=128, n_layers=2, n_heads=2, max_length=200)
TRAINING = recommender.Training(batch_size=4096, max_epochs=44, patience=44)
#: By name: in which order equal times stand, what differs from `CONFIG`, and the seeds.
MODELS = {
    "sasrec": ("published", {"architecture": "sasrec"}, 3),
    "ligr": ("published", {"architecture": "ligr"}, 3),
    "sasrec_64": ("published", {"architecture": "sasrec", "d_model": 64, "dropout": 0.2}, 1),
    "sasrec_ties_by_item": ("by item", {"architecture": "sasrec"}, 1),
    "sasrec_ties_shuffled": ("shuffled", {"architecture": "sasrec"}, 1),
}


def splits() -> dict[str, recommender.Split]:
    """Everybody's last item held out, with ratings of one time in three orders."""
    raw = data.load_raw("ml-1m")
    table, rng = raw.interactions, np.random.default_rng(0)
    keys = {"published": np.arange(len(table)), "by item": table["item_id"].astype(int)}
    keys["shuffled"] = rng.random(len(table))
    found = {}
    for name, key in keys.items():
        ordered = table.assign(key=key).sort_values(["user_id", "timestamp", "key"], kind="stable")
        made = data.prepare(replace(raw, interactions=ordered.drop(columns="key")))
        found[name] = recommender.leave_last_out(made)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side; 2 by default")
    parser.add_argument("--folder", type=Path, default=project() / "figures" / "ml-1m-last")
    arguments = parser.parse_args()
    checkpoints = project() / "runs" / "ml-1m-last"
    checkpoints.mkdir(parents=True, exist_ok=True)
    protocols = splits()
    runs = [(name, seed) for name, (_, _, seeds) in MODELS.items() for seed in range(seeds)]
    jobs = []
    for name, seed in runs:
        order, settings, _ = MODELS[name]
        config = replace(CONFIG, n_items=protocols[order].n_items, **settings)
        training, file = replace(TRAINING, seed=seed), checkpoints / f"{name}.{seed}.checkpoint"
        fit = delayed(recommender.fit)
        jobs.append(fit(config, protocols[order], training, file, arguments.device, False))
    trained = Parallel(arguments.jobs, return_as="generator")(jobs)

    found = {seed: Training({}, {}) for seed in range(3)}

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
