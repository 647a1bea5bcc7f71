"""The bootstrap: who is drawn, how often, and the interval that follows.

The same number of users and the same seed give the same draws, so that two methods, or one method
in two trainings, are compared draw by draw.
"""

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Draws that a notebook records for each of its numbers, so that trainings can be put together.
N_DRAWS = 500


@lru_cache(maxsize=4)  # a sweep of strengths asks for the same users hundreds of times
def draws(n: int, n_draws: int = N_DRAWS, seed: int = 0) -> NDArray:
    """How often each of n users is drawn: counts [n_draws, n], each row of sum n."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=n_draws)
    counts.flags.writeable = False  # it is shared by all who ask
    return counts


def drawn_means(values: NDArray, n_draws: int = N_DRAWS, seed: int = 0) -> NDArray:
    """Mean of values [n_users, ...] in each draw of the users: [n_draws, ...]."""
    counts = draws(len(values), n_draws, seed)
    return np.tensordot(counts, values, axes=1) / len(values)


def interval(values: NDArray) -> tuple[float, float]:
    """95 % percentile interval (low, high) of drawn values [n_draws], NaN left out."""
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def known_mean(values: Any, axis: Any = None) -> Any:
    """Mean of the values [...] that are not NaN; NaN, and no warning, where there are none."""
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        return np.nanmean(values, axis=axis)
