"""Sparse autoencoders: what they are, how they are trained, judged, compared and stored.

variants.py      the six variants, each with its equation and its source
sparse.py        products with codes of which only a few entries are not zero
training.py      the one trainer
evaluation.py    reconstruction, sparsity, cost to the recommender, stability over seeds
sweeping.py      many trainings by joblib, on one machine or a cluster
saelens.py       files that SAELens reads, and reading SAELens' files
"""

from .evaluation import (
    cost_of_replacing,
    density,
    encode,
    hygiene,
    living,
    matching,
    overlap,
    quality,
    reconstructed,
    stability,
)
from .saelens import load, save
from .sweeping import sweep
from .training import Training, geometric_median, train, untrained
from .variants import SAE, VARIANTS, Config, create, keep_top

__all__ = [
    "SAE", "VARIANTS", "Config", "Training", "cost_of_replacing", "create", "density", "encode",
    "geometric_median", "hygiene", "keep_top", "living", "load", "matching", "overlap", "quality",
    "reconstructed", "save", "stability", "sweep", "train", "untrained",
]  # fmt: skip
