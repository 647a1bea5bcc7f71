"""Many dictionaries on the same states, by as many processes or machines as joblib is given."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from ..fingerprint import digest, fingerprint
from ..workspace import plain, read_json, sha256, write_json
from .evaluation import encode, quality, sparsity_warnings
from .saelens import FILES, save
from .training import Training, fit
from .variants import Config

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    runs: Iterable[tuple[Config, Training]],
    states: np.ndarray,
    held_out: np.ndarray,
    folder: Path,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Train every run on `states` and measure it on `held_out`, both [n_positions, d_in].

    Each run gets a folder in `folder`, in SAELens' layout. Its name holds all that the run depends
    on: states, held-out states, config, training, code. A run that lies there is read, not trained
    again. Each uses one thread and its own seed, so the table is the same however it was made;
    within ``joblib.parallel_config("dask")`` a cluster that sees `folder` makes it. ValueError
    where nothing is held out.

    Columns, in the order of `runs`: the config, learning_rate, steps, seed, what `quality` measures
    on `held_out`, problems (see `sparsity_warnings`) and run, the name of the folder.
    """
    import pandas as pd
    from joblib import Parallel, delayed

    if not len(held_out):
        raise ValueError(
            "no position is held out to measure dictionaries on: each fifth development user is, "
            "so there must be five; raise dev_fraction, or take more users"
        )
    runs = list(runs)
    data = {"states": digest(states), "held_out": digest(held_out)}  # once for all runs
    names = [f"{run[0].variant}-{digest(fingerprint(sweep, run=run, **data))[:12]}" for run in runs]
    missing = {n: run for n, run in zip(names, runs, strict=True) if not _row(folder / n)}
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    jobs = (delayed(_run)(*run, states, held_out, folder / n) for n, run in missing.items())
    done = Parallel(n_jobs, return_as="generator_unordered")(jobs)
    for _ in tqdm(done, "sweep", initial=len(runs) - len(missing), total=len(runs), leave=False):
        pass
    torch.set_num_threads(threads)
    return pd.DataFrame([_row(folder / name) for name in names])


def _row(folder: Path) -> dict:
    """The row of a run; empty where it has none, and, with a warning, where a file is damaged."""
    row = read_json(folder / "row.json")
    found = row.pop("checksum", "")
    if row and found != _checksum(folder, row):
        warnings.warn(f"a file in {folder} is damaged: it is made anew", stacklevel=3)
        return {}
    return row


def _checksum(folder: Path, row: dict) -> str:
    files = [path for path in map(folder.joinpath, FILES) if path.is_file()]
    return digest([row, *map(sha256, files)])


def _run(config, training, states, held_out, folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    sae, _ = fit(states, config, training, folder / "training.checkpoint", progress=False)
    save(sae, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said in the table
        found = quality(sae, held_out, encode(sae, held_out))
    settings = {name: getattr(training, name) for name in ("learning_rate", "steps", "seed")}
    row = asdict(config) | settings | found
    row |= {"problems": "; ".join(sparsity_warnings(config, found)), "run": folder.name}
    row = plain(row)
    write_json(folder / "row.json", row | {"checksum": _checksum(folder, row)})
    for left in folder.glob("training.checkpoint*"):
        left.unlink()
