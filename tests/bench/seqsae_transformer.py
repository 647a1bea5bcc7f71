"""Our transformer on a table of interactions; prints what it cost and what it is worth as JSON.

Run by `recommender.py` of this folder, which says what the arguments are:

    python seqsae_transformer.py interactions.csv '{"seed": 0, "d_model": 64, ...}'
"""

import json
import re
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqsae_utils import metrics, recommender
from seqsae_utils.workspace import seed_everything


def known(settings: type, parameters: dict) -> dict:
    """Those of the parameters that the settings have."""
    names = {field.name for field in fields(settings)}
    return {name: value for name, value in parameters.items() if name in names}


def seconds_of_products(config, train: list, training, device: str) -> float:
    """What the matrix products of an epoch would take, at the speed of a large one."""
    with FlopCounterMode(display=False) as counter:
        model = recommender.create(config).to(device)
        recommender.train(model, train, None, replace(training, max_epochs=1))
    x, taken = torch.randn(2048, 2048, device=device), []
    for _ in range(20):
        started = time.perf_counter()
        (x @ x)[0, 0].item()  # a GPU has ended when there is a number
        taken.append(time.perf_counter() - started)
    return counter.get_total_flops() / (2 * 2048**3 / min(taken))


def main(path: str, parameters: dict) -> dict:
    table = pd.read_csv(path)
    sequences = [items.to_numpy() for _, items in table.groupby("user")["item"]]
    train = [sequence[:-2] for sequence in sequences]
    validation = train, np.array([sequence[-2] for sequence in sequences])
    test = [sequence[:-1] for sequence in sequences], np.array([s[-1] for s in sequences])

    seed_everything(parameters["seed"])
    config = recommender.Config(
        n_items=int(table["item"].max()), **known(recommender.Config, parameters)
    )
    training = recommender.Training(**known(recommender.Training, parameters))
    model = recommender.create(config).to(parameters["device"])
    torch.optim.AdamW(model.parameters())  # torch's first optimizer imports for seconds: for none
    started, busy = time.perf_counter(), time.process_time()
    history = recommender.train(model, train, validation, training)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    rank = recommender.rank_items(model.next_item_scores, *test).rank
    products = seconds_of_products(config, train, training, parameters["device"])
    best, epochs = int(history["ndcg@10"].idxmax()) + 1, len(history)
    positions = sum(len(sequence) - 1 for sequence in train)
    memory = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]
    return {
        "best_epoch": best,
        "epochs": epochs,
        "seconds_to_best": seconds * best / epochs,
        "seconds": seconds,
        "processor_seconds": busy,
        "seconds_an_epoch": seconds / epochs,
        "of_the_limit": products * epochs / seconds,
        "positions_a_second": positions * epochs / seconds,
        "peak_mb": int(memory) / 1024,
        "curve": [[seconds * (i + 1) / epochs, x] for i, x in enumerate(history["ndcg@10"])],
        "validation_ndcg@10": history["ndcg@10"].max(),
        "ndcg@10": metrics.ndcg(rank).mean(),
        "hit_rate@10": metrics.hit_rate(rank).mean(),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
