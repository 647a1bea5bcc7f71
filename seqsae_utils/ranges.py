"""What each parameter of the notebooks may be: said once, for the runner and for whoever opens one.

>>> check({"dropout": 0.3, "device": "cuda:1", "of your own": -1})
"""

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import NamedTuple


class Interval(NamedTuple):
    """Numbers from `low` to `high`; `closed`: whether the ``left`` end, the ``right`` belongs."""

    low: float
    high: float
    closed: str

    def holds(self, value: float) -> bool:
        """Whether a number lies in it; NaN never does."""
        above = value >= self.low if self.closed in ("left", "both") else value > self.low
        return above and (
            value <= self.high if self.closed in ("right", "both") else value < self.high
        )

    def __str__(self):
        left = "[" if self.closed in ("left", "both") else "("
        return f"{left}{self.low}, {self.high}" + ("]" if self.closed in ("right", "both") else ")")


SEED = Interval(0, 2**32 - 10, closed="left")  # some add a little to it
SHARE = Interval(0, 1, closed="neither")
RATE = Interval(0, 1, closed="right")
SIZE = Interval(1, 2**20, closed="both")
WIDTH = Interval(1, 2**14, closed="both")  # a block has 12 times its square of weights
MANY = Interval(1, 10**9, closed="both")
WEIGHT = Interval(0, 10**6, closed="both")
STRENGTH = Interval(0, 100, closed="right")  # states are of the order of 1
A_FEW = Interval(1, 1_000, closed="both")
UP_TO = Interval(0, 10**9, closed="both")
SOME = Interval(2, 10**9, closed="both")
FOLDER = r"\w[\w. -]*"
SITE = r"item_embedding|dropout|blocks\.\d+(\.(attention|mlp)[\w.]*)?|final_norm"
MODEL = "sasrec|gpt2|ligr|bert4rec"
VARIANT = "relu|gated|topk|jumprelu|batchtopk|matryoshka"
#: Numbers lie in an interval, and texts are as a regular expression says; others may be anything.
RANGES: dict[str, Interval | str] = {
    "profile": FOLDER, "dataset": ".+", "split_seed": SEED,
    "max_users": UP_TO, "max_group": UP_TO,
    "test_users": "newest|random|later", "test_fraction": SHARE, "dev_fraction": SHARE,
    "min_attribute_items": MANY, "max_attributes": MANY,
    "seed": SEED, "architecture": MODEL, "compare": f"({MODEL}| )*", "d_model": WIDTH,
    "n_layers": A_FEW, "n_heads": A_FEW, "max_length": Interval(2, 2**16, closed="both"),
    "dropout": Interval(0, 1, closed="left"), "learning_rate": RATE, "batch_size": MANY,
    "loss": "softmax|sampled|auto", "n_negatives": MANY, "precision": "float32|bfloat16",
    "max_epochs": MANY, "patience": MANY, "n_jobs": Interval(1, 256, closed="both"),
    "device": r"auto|cpu|cuda(:\d+)?", "site": SITE,
    "variant": VARIANT, "d_sae": Interval(1, 2**17, closed="both"), "k": SIZE,
    "l1_coefficient": WEIGHT, "l0_coefficient": WEIGHT, "sae_learning_rate": RATE,
    "sae_steps": MANY, "sae_batch_size": MANY, "variants": f"({VARIANT}| )*", "sweep_steps": MANY,
    "n_permutations": SIZE, "n_raised": MANY,
    "strong": STRENGTH, "max_strength": STRENGTH, "target": Interval(0, 1, closed="both"),
    "min_items": SIZE, "last_site": SITE, "n_cards": A_FEW, "n_steered": A_FEW,
    "max_choosing": SOME, "max_judging": SOME,
}  # fmt: skip


def check(values: Mapping) -> None:
    """Raise `ValueError` for the first value, by name, that is out of its range."""
    for name in [name for name in RANGES if name in values]:
        value, allowed = values[name], RANGES[name]
        if isinstance(allowed, str):
            fits = isinstance(value, str) and re.fullmatch(allowed, value)
        else:
            number = isinstance(value, Real) and not isinstance(value, bool)
            fits = number and allowed.holds(value)
        if not fits:
            raise ValueError(f"{name} is {value!r}, expected {allowed}")
    if {"k", "d_sae"} <= values.keys() and values["k"] > values["d_sae"]:
        raise ValueError(f"k is {values['k']}, expected at most d_sae, {values['d_sae']}")
    if {"d_model", "n_heads"} <= values.keys() and values["d_model"] % values["n_heads"]:
        raise ValueError(f"d_model is {values['d_model']}, no multiple of n_heads")
    n_layers = values.get("n_layers", math.inf)
    for name in [name for name in ("site", "last_site") if name in values]:
        block = re.match(r"blocks\.(\d+)", values[name])
        if block and int(block[1]) >= n_layers:
            raise ValueError(f"{name} is {values[name]!r}, expected a block below {n_layers}")
