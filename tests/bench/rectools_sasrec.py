"""SASRec of RecTools on a table of interactions; prints what it cost and what it is worth as JSON.

Run by `recommender.py` of this folder, with the Python of an environment that holds RecTools.

    python rectools_sasrec.py interactions.csv '{"seed": 0, "d_model": 64, ...}'

The table has columns user, item, part (train, validation or test), and is sorted by user and time.
"""

import json
import logging
import re
import sys
import time
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def ndcg(rank: np.ndarray, k: int = 10) -> float:
    return float(np.where(rank <= k, 1 / np.log2(1 + rank), 0).mean())


class Validation(Callback):
    """NDCG@10 of the validation items after each epoch, whole histories filtered; early stopping.

    The logits are those that the library's own validation step has computed.
    """

    def __init__(self, seen: dict[int, list[int]], n_users: int, patience: int, seconds: int):
        self.seen, self.n_users, self.patience, self.seconds = seen, n_users, patience, seconds
        self.ndcg, self.ended, self.best = [], [], None

    def on_fit_start(self, trainer, module):
        preparator = module.data_preparator
        table = preparator.val_interactions.sort_values(Columns.Datetime, kind="stable")
        users = table[Columns.User].drop_duplicates()  # the order of the library's batches
        external = preparator.train_dataset.user_id_map.convert_to_external(users.to_numpy())
        known = preparator.item_id_map
        # Once, and before the clock starts: it takes longer than an epoch on a GPU.
        self.histories = [known.convert_to_internal(self.seen[u], strict=False) for u in external]
        self.started, self.busy = time.perf_counter(), time.process_time()

    def on_validation_start(self, trainer, module):
        self.ranks, self.left = [], iter(self.histories)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        logits, target = outputs["logits"].clone(), batch["y"]
        score = logits.gather(1, target)
        seen = [next(self.left) for _ in logits]
        rows = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
        logits[rows, np.concatenate(seen)] = -torch.inf
        logits[:, 0] = -torch.inf
        logits.scatter_(1, target, score)
        self.ranks.append((logits >= score).sum(dim=1).cpu())

    def on_validation_end(self, trainer, module):
        rank = torch.cat(self.ranks).numpy()
        missed = np.full(self.n_users - len(rank), 10**6)  # items that the model does not know
        self.ndcg.append(ndcg(np.concatenate([rank, missed])))
        self.ended.append(time.perf_counter() - self.started)
        if self.ndcg[-1] == max(self.ndcg):
            self.best = deepcopy(module.state_dict())
            shown = f"epoch {len(self.ndcg)}: validation NDCG@10 {self.ndcg[-1]:.4f}"
            print(f"{shown} after {self.ended[-1]:.0f} s", file=sys.stderr, flush=True)
        waited = len(self.ndcg) - 1 - int(np.argmax(self.ndcg))
        trainer.should_stop = waited >= self.patience or self.ended[-1] > self.seconds


def is_validation(interactions: pd.DataFrame) -> np.ndarray:
    """The last interaction of each user; what RecTools calls a validation mask."""
    last = interactions.groupby(Columns.User)[Columns.Datetime].transform("max")
    return (interactions[Columns.Datetime] == last).to_numpy()


def main(path: str, settings: dict) -> dict:
    torch.set_num_threads(1)
    table = pd.read_csv(path)
    interactions = pd.DataFrame(
        {
            Columns.User: table["user"],
            Columns.Item: table["item"],
            Columns.Weight: 1,
            # The order of the rows is the order of the items: one second between them.
            Columns.Datetime: pd.to_datetime(np.arange(len(table)), unit="s"),
        }
    )
    known = interactions[table["part"] != "test"].reset_index(drop=True)
    train = table[table["part"] == "train"].groupby("user")["item"]
    target = table[table["part"] == "test"].set_index("user")["item"]
    limits = settings["patience"], settings["seconds"]
    callback = Validation(train.agg(list).to_dict(), len(target), *limits)

    seed_everything(settings["seed"])
    model = SASRecModel(
        n_factors=settings["d_model"],
        n_blocks=settings["n_layers"],
        n_heads=settings["n_heads"],
        session_max_len=settings["max_length"],
        recommend_torch_device=settings["device"],
        get_val_mask_func=is_validation,
        get_trainer_func=lambda: Trainer(
            max_epochs=settings["max_epochs"],
            accelerator=settings["device"],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[callback],
        ),
    )
    model.fit(Dataset.construct(known))
    # The trainer has worked on a copy of the callback.
    (callback,) = [c for c in model.fit_trainer.callbacks if isinstance(c, Validation)]
    busy = time.process_time() - callback.busy
    model.lightning_model.load_state_dict(callback.best)
    shown = model.recommend(target.index.to_numpy(), Dataset.construct(known), 10, True)
    shown = shown[shown[Columns.Item].to_numpy() == target[shown[Columns.User]].to_numpy()]
    rank = np.full(len(target), 10**6)
    rank[: len(shown)] = shown[Columns.Rank]
    memory = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]
    best = int(np.argmax(callback.ndcg))
    positions = np.minimum(train.size() - 1, settings["max_length"]).sum()
    return {
        "best_epoch": best + 1,
        "epochs": len(callback.ndcg),
        "seconds_to_best": callback.ended[best],
        "seconds": callback.ended[-1],
        "processor_seconds": busy,
        "seconds_an_epoch": callback.ended[-1] / len(callback.ended),
        "positions_a_second": float(positions * len(callback.ended) / callback.ended[-1]),
        "peak_mb": int(memory) / 1024,
        "validation_ndcg@10": callback.ndcg[best],
        "curve": [list(pair) for pair in zip(callback.ended, callback.ndcg, strict=True)],
        "ndcg@10": ndcg(rank),
        "hit_rate@10": float((rank <= 10).mean()),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
