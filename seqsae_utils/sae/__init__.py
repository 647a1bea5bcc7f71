"""Sparse autoencoders: what they are, how they are trained, judged, compared and stored.

variants.py      the six variants, each with its equation and its source
sparse.py        products with codes of which only a few entries are not zero
training.py      the one trainer
evaluation.py    reconstruction, sparsity, stability over seeds
sweeping.py      many trainings by joblib, on one machine or a cluster
saelens.py       files that SAELens reads, and reading SAELens' files
"""

from .evaluation import (
    alive,
    density,
    encode,
    matching,
    quality,
    sparsity_warnings,
    stability,
)
from .saelens import load, save
from .sweeping import sweep
from .training import Training, fit, geometric_median, train, untrained
from .variants import SAE, VARIANTS, Config, create, keep_top

__all__ = [
    "SAE", "VARIANTS", "Config", "Training", "alive", "create", "density",
    "encode", "fit", "geometric_median", "keep_top", "load", "matching", "quality",
    "save", "sparsity_warnings", "stability", "sweep", "train", "untrained",
]  # fmt: skip
