"""Hidden states block by block, and their scalar mean and standard deviation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Normalisation:
    """One scalar mean and one scalar standard deviation, so that directions and angles stay."""

    mean: float
    std: float

    @classmethod
    def of(cls, states: np.ndarray) -> "Normalisation":
        """Measure it on hidden states [n_positions, d_in]; ValueError for NaN or a dead site."""
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
        """Hidden states [..., d_in] at mean 0 and standard deviation 1; float16 becomes float32."""
        if isinstance(x, np.ndarray) and x.dtype == np.float16:
            x = x.astype(np.float32)
        return (x - self.mean) / self.std


def blocks(states: NDArray) -> Iterator[NDArray]:
    """Hidden states [n_positions, d_in] in blocks of 32 MB in float64, for large memory maps."""
    size = max(1, 2**22 // states.shape[1])
    for start in range(0, len(states), size):
        yield states[start : start + size].astype(np.float64)
