"""Hidden states block by block, and their scalar mean and standard deviation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Normalisation:
    """One scalar mean and one scalar standard deviation, as the paper's SAE expects its input.

    Scalars keep all directions and angles: a step of 1 in the normalised space is a step of
    `std` in the model's.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, states: np.ndarray) -> "Normalisation":
        """Measure it on the hidden states [n_positions, d_in] of the SAE users, never the test."""
        with np.errstate(invalid="ignore"):
            mean = sum(block.sum() for block in blocks(states)) / states.size
            std = sum(np.square(block - mean).sum() for block in blocks(states)) / states.size
            std = np.sqrt(std)
        if not np.isfinite(std):
            sums = sum(block.sum(axis=0) for block in blocks(states))
            bad = np.flatnonzero(~np.isfinite(sums)).tolist()
            raise ValueError(
                f"hidden states: NaN or infinite values in dimensions {bad}; look at the "
                "recommender's training, then run notebook 03_activations again"
            )
        if std == 0:
            raise ValueError(f"all hidden states are {mean:g}: the site is dead")
        return cls(float(mean), float(std))

    def apply(self, x):
        """To the normalised space; arrays of half precision become float32."""
        return (_single(x) - self.mean) / self.std


def _single(x):
    """Half precision is for storing: arrays of it are computed with in float32."""
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype == np.float16 else x


def blocks(states: NDArray) -> Iterator[NDArray]:
    """Hidden states [n_positions, d_in] block by block in float64, whatever they are stored as.

    A double-precision copy of a large memory map would not fit into memory; a block takes 32 MB.

    >>> [block.shape for block in blocks(np.zeros((70_000, 64), np.float16))]
    [(65536, 64), (4464, 64)]
    """
    size = max(1, 2**22 // states.shape[1])
    for start in range(0, len(states), size):
        yield states[start : start + size].astype(np.float64)
