"""One SAE on a file of vectors, by this project or by a peer; prints speed and worth as JSON.

Run by `sae.py` of this folder, which says what the arguments are:

    python train_sae.py vectors.npy '{"library": "seqsae", "variant": "topk", ...}'
"""

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

#: Vectors without a feature after which it is dead, in all libraries.
DEAD_AFTER = 100_000
#: dictionary-learning's threshold of BatchTopK has to settle within as few steps as ours.
THRESHOLD = {"threshold_start_step": 100, "threshold_beta": 0.99}


def batches(vectors: torch.Tensor, size: int, steps: int):
    """The batches of the peers: shuffled anew each epoch, as ours are."""
    rng, per_epoch = np.random.default_rng(0), len(vectors) // size
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(len(vectors))).to(vectors.device)
        at = step % per_epoch * size
        yield vectors[order[at : at + size]]


def now(s: dict) -> float:
    """Seconds: of the processor for one thread of it, so that other work beside it costs nothing.

    A GPU works on while the clock is read.
    """
    if s["device"] == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if (s["device"], s["threads"]) == ("cpu", 1) else time.perf_counter()


def seqsae(vectors: np.ndarray, s: dict):
    """Ours, through the one door that users have."""
    from seqsae_utils import sae

    # Ours divides vectors by their deviation, and its penalties are in that unit; the peers' are
    # in the unit of the vectors.
    std = float(vectors.std())
    units = {"l1_coefficient": std, "l0_coefficient": std**2, "bandwidth": std}
    own = {n: s[n] for n in ("variant", "k") if n in s} | {
        n: s[n] / unit for n, unit in units.items() if n in s
    }
    config = sae.Config(vectors.shape[1], s["d_sae"], **own)
    made = sae.create(config).to(s["device"])
    training = sae.Training(
        s["learning_rate"], s["steps"], s["batch_size"], s["warmup_steps"], seed=s["seed"],
        dead_after=DEAD_AFTER,
    )  # fmt: skip
    torch.optim.Adam(made.parameters())  # torch's first optimizer imports for seconds: for none
    # A training measures 25 of its steps: where there are few, that would be many of them.
    few = patch.object(sae.training, "_batch_quality", lambda *_: {})
    with few if s["steps"] < 1_000 else nullcontext():
        start = now(s)
        sae.train(made, vectors, training)
        seconds = now(s) - start
    return seconds, made.encode, made, made.W_dec


def dictionary_learning(vectors: np.ndarray, s: dict):
    """dictionary-learning's trainer, stepped as its own loop steps it."""
    from dictionary_learning import trainers

    name = {
        "relu": "StandardTrainer",
        "topk": "TopKTrainer",
        "batchtopk": "BatchTopKTrainer",
        "jumprelu": "JumpReluTrainer",
        "gated": "GatedSAETrainer",
        "matryoshka": "MatryoshkaBatchTopKTrainer",
    }[s["variant"]]
    module = {
        "relu": "standard", "topk": "top_k", "batchtopk": "batch_top_k", "jumprelu": "jumprelu",
        "gated": "gdm", "matryoshka": "matryoshka_batch_top_k",
    }[s["variant"]]  # fmt: skip
    __import__(f"dictionary_learning.trainers.{module}")
    kind = getattr(getattr(trainers, module), name)
    own = {
        "relu": {"l1_penalty": s.get("l1_coefficient"), "sparsity_warmup_steps": None},
        "topk": {"k": s.get("k")},
        "batchtopk": {"k": s.get("k"), **THRESHOLD},
        "jumprelu": {
            "target_l0": s.get("k"), "sparsity_warmup_steps": None, "bandwidth": s.get("bandwidth"),
        },
        "gated": {"l1_penalty": s.get("l1_coefficient"), "sparsity_warmup_steps": None},
        "matryoshka": {
            "k": s.get("k"), **THRESHOLD,
            "group_fractions": [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2],
        },
    }[s["variant"]]  # fmt: skip
    own = {key: value for key, value in own.items() if value is not None or "warmup" in key}
    trainer = kind(
        steps=s["steps"], activation_dim=vectors.shape[1], dict_size=s["d_sae"], layer=0,
        lm_name="none", lr=s["learning_rate"], warmup_steps=s["warmup_steps"], seed=s["seed"],
        decay_start=int(0.8 * s["steps"]), device=s["device"], **own,
    )  # fmt: skip
    data = torch.from_numpy(vectors).to(s["device"])
    if hasattr(trainer, "dead_feature_threshold"):
        trainer.dead_feature_threshold = DEAD_AFTER
    start = now(s)
    for step, x in enumerate(batches(data, s["batch_size"], s["steps"])):
        with torch.autocast(s["device"], torch.bfloat16, enabled=s["bf16"]):  # as its own loop does
            trainer.update(step, x)
    seconds = now(s) - start
    made = trainer.ae
    directions = made.W_dec if hasattr(made, "W_dec") else made.decoder.weight.T
    return seconds, made.encode, lambda x: made.decode(made.encode(x)), directions


def saelens(vectors: np.ndarray, s: dict):
    """SAELens' own trainer on an iterator of batches."""
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    common = {"d_in": vectors.shape[1], "d_sae": s["d_sae"], "device": s["device"]}
    kind, config = {
        "relu": (
            StandardTrainingSAE,
            lambda: StandardTrainingSAEConfig(l1_coefficient=s["l1_coefficient"], **common),
        ),
        "topk": (TopKTrainingSAE, lambda: TopKTrainingSAEConfig(k=s["k"], **common)),
        "batchtopk": (BatchTopKTrainingSAE, lambda: BatchTopKTrainingSAEConfig(k=s["k"], **common)),
    }[s["variant"]]
    made = kind(config())
    data = torch.from_numpy(vectors).to(s["device"])
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=s["steps"] * s["batch_size"],
            train_batch_size_samples=s["batch_size"],
            lr=s["learning_rate"],
            lr_end=s["learning_rate"] / 10,
            lr_warm_up_steps=s["warmup_steps"],
            lr_decay_steps=int(0.2 * s["steps"]),
            dead_feature_window=DEAD_AFTER // s["batch_size"],
            logger=LoggingConfig(log_to_wandb=False),
            device=s["device"],
            autocast=s["bf16"],
        ),
        made,
        batches(data, s["batch_size"], s["steps"] + 10),
    )
    start = now(s)
    trainer.fit()
    seconds = now(s) - start
    encode = made.encode
    if s["variant"] == "batchtopk":  # past training a threshold decides, as in its saved form

        def encode(x):
            pre = (x - made.b_dec) @ made.W_enc + made.b_enc
            if made.cfg.rescale_acts_by_decoder_norm:
                pre = pre * made.W_dec.norm(dim=1)
            return torch.where(pre > made.topk_threshold, pre.relu(), 0.0).float()

    return seconds, encode, lambda x: made.decode(encode(x)), made.W_dec


@torch.no_grad()
def worth(encode, forward, directions, held_out: np.ndarray, truth: np.ndarray) -> dict:
    """Reconstruction, sparsity and recovery, measured alike for all."""
    from scipy.optimize import linear_sum_assignment

    x = torch.from_numpy(held_out).to(directions.device)
    code, missed = encode(x), x - forward(x)
    found = torch.nn.functional.normalize(directions.detach(), dim=1).cpu().numpy()
    cosine = truth @ found.T
    return {
        "explained_variance": float(1 - missed.square().sum() / (x - x.mean(0)).square().sum()),
        "l0": float((code > 0).sum() / len(x)),
        "dead": int((~(code > 0).any(dim=0)).sum()),
        "recovery": float(cosine[linear_sum_assignment(-cosine)].mean()),
    }


def main(folder: str, settings: dict) -> dict:
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    vectors, held_out, truth = (
        np.load(Path(folder) / f"{name}.npy") for name in ("train", "held_out", "truth")
    )
    train = {"seqsae": seqsae, "dictionary-learning": dictionary_learning, "SAELens": saelens}
    if settings["device"] == "cuda":  # its libraries are loaded, and products are TF32 for all
        torch.set_float32_matmul_precision("high")
        train[settings["library"]](vectors, settings | {"steps": 20, "warmup_steps": 5})
    seconds, *made = train[settings["library"]](vectors, settings)
    positions = settings["steps"] * settings["batch_size"]
    return {"tokens_a_second": positions / seconds, **worth(*made, held_out, truth)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
