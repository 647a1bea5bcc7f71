"""Files of hidden states."""

from pathlib import Path

import numpy as np
import pandas as pd


def load(folder: Path, group: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Hidden states of one group of users (``sae`` or ``test``), and whose they are.

    Returns
    -------
    states : float32 or float16 [n_positions, d_in], memory-mapped and not normalised
    index : one row a position: user, item, position
    """
    states = np.load(folder / f"{group}.npy", mmap_mode="r")
    return states, pd.read_parquet(folder / f"{group}_index.parquet")
