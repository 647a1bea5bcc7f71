"""Files of hidden states: read them, and bring them to mean 0 and standard deviation 1."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
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
        if not std > 0:  # which NaN is not either
            raise ValueError(
                f"hidden states have mean {mean:g} and standard deviation {std:g}: "
                "look for NaN or a dead site before training on them"
            )
        return cls(float(mean), float(std))

    def apply(self, x):
        """To the normalised space; arrays of half precision become float32."""
        return (_single(x) - self.mean) / self.std

    def invert(self, x):
        """Back to the model's space; arrays of half precision become float32."""
        return _single(x) * self.std + self.mean


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


def save_normalisation(normalisation: Normalisation, folder: Path) -> None:
    """Write ``normalisation.json``, in full precision: edits are written back through it."""
    (folder / "normalisation.json").write_text(json.dumps(asdict(normalisation)) + "\n")


def load_normalisation(folder: Path) -> Normalisation:
    """Read the ``normalisation.json`` of the activations stage."""
    return Normalisation(**json.loads((folder / "normalisation.json").read_text()))


def load(folder: Path, group: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Hidden states of one group of users (``sae`` or ``test``), and whose they are.

    Returns
    -------
    states : float32 or float16 [n_positions, d_in], memory-mapped and not normalised
    index : one row a position: user, item, position
    """
    states = np.load(folder / f"{group}.npy", mmap_mode="r")
    return states, pd.read_parquet(folder / f"{group}_index.parquet")
