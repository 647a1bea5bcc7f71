"""Our SAE trainer against dictionary-learning's and SAELens': speed, and what comes out.

    python tests/bench/sae.py --peer .venv-saes/bin/python

The vectors are made: 200,000 x 64, sums of on average 6 of 256 unit directions that are not
orthogonal, with magnitudes of 0.2 + Exp(1) and noise of .02. Each library trains 512 features
with its own trainer, on the same batches of 1,024, at the same learning rate, for as many steps;
all are measured alike on 20,000 vectors that none has seen. Recovery is the mean cosine of the
true directions with their partners, one to one. The libraries take turns, three times, each run
in a process of its own; speeds are medians, with the slowest and fastest run beside them. Times
are printed, never asserted: believe the ratios.

The limit is what the five dense matrix products of a step take alone, on this machine at that
moment: x W, f W', and their three gradients. Products with k-sparse codes can beat it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from seqsae_utils import sae

HERE = Path(__file__).parent
D_IN, D_SAE, BATCH, TRUE = 64, 512, 1_024, 256
LIBRARIES = ("seqsae", "dictionary-learning", "SAELens")
MAIN = ("topk", "batchtopk", "relu")  # which all libraries have; by more than one thread, too
#: What each variant is asked for, so that all libraries end near the same L0.
SETTINGS = {
    "topk": {"k": 8},
    "batchtopk": {"k": 8},
    "relu": {"l1_coefficient": 1.5},
    "gated": {"l1_coefficient": 2.0},
    "jumprelu": {"k": 8, "l0_coefficient": 0.5, "bandwidth": 0.1},
    "matryoshka": {"k": 8},
}
#: Settings of the same name mean other things elsewhere: the windows and weights that suit each.
OF_PEERS = {
    ("dictionary-learning", "relu"): {"l1_coefficient": 1.55},
    ("dictionary-learning", "jumprelu"): {"bandwidth": 0.001},
}


def make_vectors(folder: Path, seed: int = 0) -> None:
    """Write train.npy, held_out.npy and truth.npy."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(TRUE, D_IN))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)

    def draw(n: int) -> np.ndarray:
        active = rng.random((n, TRUE)) < 6 / TRUE
        magnitudes = active * (0.2 + rng.exponential(size=(n, TRUE)))
        return magnitudes @ truth + 0.02 * rng.normal(size=(n, D_IN))

    for name, blocks in {"train": 10, "held_out": 1}.items():
        vectors = np.concatenate([draw(20_000) for _ in range(blocks)])
        np.save(folder / f"{name}.npy", vectors.astype(np.float32))
    np.save(folder / "truth.npy", truth.astype(np.float32))


def limit(threads: int, repeats: int = 50) -> float:
    """Vectors a second, if a step were its five dense products and nothing else."""
    torch.set_num_threads(threads)
    x, code = torch.randn(BATCH, D_IN), torch.randn(BATCH, D_SAE)
    wide, tall = torch.randn(D_IN, D_SAE), torch.randn(D_SAE, D_IN)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        x @ wide, code @ tall, code.T @ x, x @ tall.T, x.T @ code
        seconds.append(time.perf_counter() - start)
    return BATCH / float(np.median(seconds))


def run(library: str, variant: str, threads: int, folder: Path, arguments) -> dict:
    """Numbers of one training, made by `train_sae.py` in a process of its own."""
    settings = {
        "library": library, "variant": variant, "threads": threads, "d_sae": D_SAE,
        "batch_size": BATCH, "steps": arguments.steps, "learning_rate": 1e-3, "warmup_steps": 100,
        "seed": 0, **SETTINGS[variant], **OF_PEERS.get((library, variant), {}),
    }  # fmt: skip
    python = sys.executable if library == "seqsae" else arguments.peer
    done = subprocess.run(
        [python, "-W", "ignore", HERE / "train_sae.py", folder, json.dumps(settings)],
        env={
            **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1",
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{library}, {variant}: failed\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="a Python that has both libraries")
    parser.add_argument("--steps", type=int, default=2_000, help="2,000 by default")
    parser.add_argument("--turns", type=int, default=3, help="runs of each; 3 by default")
    parser.add_argument(
        "--variants", type=lambda names: names.split(","),
        help=f"of {','.join(SETTINGS)}; by default all with one thread, three with more",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads; 1 2 by default"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.variants or []) - set(SETTINGS):
        parser.error(f"--variants {','.join(sorted(unknown))}: choose from {','.join(SETTINGS)}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_vectors(folder)
        for threads in arguments.threads:
            for variant in arguments.variants or (SETTINGS if threads == 1 else MAIN):
                libraries = LIBRARIES if variant in MAIN else LIBRARIES[:2]
                for turn in range(arguments.turns):
                    for library in libraries:
                        found = run(library, variant, threads, folder, arguments)
                        row = {"threads": threads, "variant": variant, "library": library}
                        rows.append({**row, **found, "limit": limit(threads)})
                    print(f"{threads} threads, {variant}: turn {turn + 1} done", flush=True)
        truth = np.load(folder / "truth.npy")
    runs = pd.DataFrame(rows).groupby(["threads", "variant", "library"], sort=False)
    table = runs.median()
    table["of_the_limit"] = table["tokens_a_second"] / table.pop("limit")
    speed = runs["tokens_a_second"]
    table.insert(1, "slowest", speed.min())
    table.insert(2, "fastest", speed.max())
    table = table.reset_index()
    peers = table[table["library"] != "seqsae"]
    best = peers.groupby(["threads", "variant"])["tokens_a_second"].max().rename("best_peer")
    table = table.join(best, on=["threads", "variant"])
    ours = table["library"] == "seqsae"
    table["ours_is_faster_by"] = (table["tokens_a_second"] / table["best_peer"]).where(ours)
    torch.manual_seed(0)
    random = sae.create(sae.Config(D_IN, D_SAE)).W_dec.detach().numpy()
    print()
    speeds = ["tokens_a_second", "slowest", "fastest"]
    shown = table.drop(columns="best_peer").astype(dict.fromkeys(speeds, int))
    print(shown.round(3).to_string(index=False, na_rep=""))
    print()
    for name, of_variant in table[table["variant"].isin(MAIN)].groupby("variant", sort=False):
        apart = np.ptp(of_variant[["explained_variance", "l0"]], axis=0)
        share = apart["l0"] / of_variant["l0"].max()
        print(f"{name}: EV differs by up to {apart['explained_variance']:.3f}, L0 by {share:.0%}")
    print(f"\nrecovery of random directions: {sae.matching(truth, random).mean():.3f}")


if __name__ == "__main__":
    main()
