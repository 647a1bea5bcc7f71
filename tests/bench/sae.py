"""Our SAE trainer against dictionary-learning's and SAELens': speed, and what comes out.

    python tests/bench/sae.py --peer .venv-saes/bin/python

The vectors are made: 200,000 x 64, sums of on average 6 of 256 unit directions that are not
orthogonal, with magnitudes of 0.2 + Exp(1) and noise of .02. Each library trains 512 features
with its own trainer, in batches of 1,024, at the same learning rate, for as many steps; penalties
are in the unit of the vectors, and a feature is dead after as many vectors without it. All are
measured alike on 20,000 vectors that none has seen. `--sizes` has others, with vectors of as many
numbers in all. Recovery is the mean cosine of the true directions with their partners, one to one.
The libraries take turns, three times, each run in a process of its own; speeds are medians, with
the slowest and fastest run beside them. With one thread of a CPU, seconds are the processor's.
Times are printed, never asserted: believe the ratios.

The limit is what the five dense matrix products of a step take alone on this machine, a median over
all runs: x W, f W', and their three gradients. Products with k-sparse codes can beat it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from train_sae import now

from seqsae_utils import sae

HERE = Path(__file__).parent
TRUE = 256
LIBRARIES = ("seqsae", "dictionary-learning", "SAELens")
MAIN = ("topk", "batchtopk", "relu")  # which all libraries have; by more than one thread, too
#: What each variant is asked for, so that all libraries end near the same L0; k is an option.
SETTINGS = {
    "topk": {"k": None},
    "batchtopk": {"k": None},
    "relu": {"l1_coefficient": 1.5},
    "gated": {"l1_coefficient": 2.0},
    "jumprelu": {"k": None, "l0_coefficient": 0.5, "bandwidth": 0.1},
    "matryoshka": {"k": None},
}
#: Settings of the same name mean other things elsewhere: the windows and weights that suit each.
OF_PEERS = {
    ("dictionary-learning", "relu"): {"l1_coefficient": 1.55},
    ("dictionary-learning", "jumprelu"): {"bandwidth": 0.001},
}


def make_vectors(folder: Path, d_in: int, seed: int = 0) -> None:
    """Write train.npy, held_out.npy and truth.npy."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(TRUE, d_in))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)

    def draw(n: int) -> np.ndarray:
        active = rng.random((n, TRUE)) < 6 / TRUE
        magnitudes = active * (0.2 + rng.exponential(size=(n, TRUE)))
        return magnitudes @ truth + 0.02 * rng.normal(size=(n, d_in))

    for name, blocks in {"train": 10, "held_out": 1}.items():
        vectors = np.concatenate([draw(20_000 * 64 // d_in) for _ in range(blocks)])
        np.save(folder / f"{name}.npy", vectors.astype(np.float32))
    np.save(folder / "truth.npy", truth.astype(np.float32))


def limit(threads: int, d_in: int, d_sae: int, arguments) -> float:
    """Vectors a second, if a step were its five dense products and nothing else."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if arguments.device == "cuda" else "highest")
    batch, draw = arguments.batch, partial(torch.randn, device=arguments.device)
    x, code = draw(batch, d_in), draw(batch, d_sae)
    wide, tall = draw(d_in, d_sae), draw(d_sae, d_in)
    clock = {"device": arguments.device, "threads": threads}
    seconds = []
    for _ in range(min(50, arguments.steps)):
        start = now(clock)
        x @ wide, code @ tall, code.T @ x, x @ tall.T, x.T @ code
        seconds.append(now(clock) - start)
    return batch / float(np.median(seconds))


def run(library: str, variant: str, threads: int, d_sae: int, folder: Path, arguments) -> dict:
    """Numbers of one training, made by `train_sae.py` in a process of its own."""
    settings = {
        "library": library, "variant": variant, "threads": threads, "d_sae": d_sae,
        "batch_size": arguments.batch, "steps": arguments.steps, "learning_rate": 1e-3,
        "warmup_steps": min(100, arguments.steps // 4), "seed": 0, "device": arguments.device,
        "bf16": arguments.bf16,
        **SETTINGS[variant], **OF_PEERS.get((library, variant), {}),
    }  # fmt: skip
    if "k" in settings:
        settings["k"] = arguments.k
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if arguments.device == "cpu" else {}
    python = sys.executable if library == "seqsae" else arguments.peer
    done = subprocess.run(
        [python, "-W", "ignore", HERE / "train_sae.py", folder, json.dumps(settings)],
        env={
            **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
            "TQDM_DISABLE": "1", **hidden,
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
    parser.add_argument(
        "--sizes", type=lambda size: tuple(map(int, size.split("x"))), nargs="+",
        default=[(64, 512)], help="widths and features, such as 64x512 256x4096",
    )  # fmt: skip
    parser.add_argument("--k", type=int, default=8, help="active features, 8 by default")
    parser.add_argument("--batch", type=int, default=1_024, help="1,024 by default")
    parser.add_argument(
        "--device", default="cpu", help="cuda: with TF32, the first steps unmeasured"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="the peers in bf16, which ours does not offer"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.variants or []) - set(SETTINGS):
        parser.error(f"--variants {','.join(sorted(unknown))}: choose from {','.join(SETTINGS)}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for d_in, d_sae in arguments.sizes:
            make_vectors(folder, d_in)
            for threads in arguments.threads:
                for variant in arguments.variants or (SETTINGS if threads == 1 else MAIN):
                    libraries = LIBRARIES if variant in MAIN else LIBRARIES[:2]
                    row = {"size": f"{d_in} x {d_sae}", "threads": threads, "variant": variant}
                    for turn in range(arguments.turns):
                        for library in libraries:
                            found = run(library, variant, threads, d_sae, folder, arguments)
                            found["limit"] = limit(threads, d_in, d_sae, arguments)
                            rows.append({**row, "library": library, **found})
                        told = " ".join(map(str, row.values()))
                        print(f"{told}: turn {turn + 1} done", flush=True)
        truth = np.load(folder / "truth.npy")
    same = ["size", "threads", "variant"]
    runs = pd.DataFrame(rows).groupby([*same, "library"], sort=False)
    table = runs.median()
    at_most = table.pop("limit").groupby(["size", "threads"]).transform("median")
    table["of_the_limit"] = table["tokens_a_second"] / at_most
    speed = runs["tokens_a_second"]
    table.insert(1, "slowest", speed.min())
    table.insert(2, "fastest", speed.max())
    table = table.reset_index()
    peers = table[table["library"] != "seqsae"]
    best = peers.groupby(same)["tokens_a_second"].max().rename("best_peer")
    table = table.join(best, on=same)
    ours = table["library"] == "seqsae"
    table["ours_is_faster_by"] = (table["tokens_a_second"] / table["best_peer"]).where(ours)
    torch.manual_seed(0)
    random = sae.create(sae.Config(*arguments.sizes[-1])).W_dec.detach().numpy()
    print()
    speeds = ["tokens_a_second", "slowest", "fastest"]
    shown = table.drop(columns="best_peer").astype(dict.fromkeys(speeds, int))
    print(shown.round(3).to_string(index=False, na_rep=""))
    print()
    of_all = table[table["variant"].isin(MAIN)]
    for (size, name), of_variant in of_all.groupby(["size", "variant"], sort=False):
        apart = np.ptp(of_variant[["explained_variance", "l0"]], axis=0)
        share = apart["l0"] / of_variant["l0"].max()
        ev = apart["explained_variance"]
        print(f"{size}, {name}: EV differs by up to {ev:.3f}, L0 by {share:.0%}")
    print(f"\nrecovery of random directions: {sae.matching(truth, random).mean():.3f}")


if __name__ == "__main__":
    main()
