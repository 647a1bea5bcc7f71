"""The dial: not how far a knob is turned, but what the list should hold; the dose is solved for."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def solve(
    share_of: Callable[[NDArray], NDArray],
    target: float,
    n_users: int,
    max_dose: float = 8.0,
    iterations: int = 8,
    k: int = 10,
) -> pd.DataFrame:
    """The dose that brings each user's list nearest to a share of an attribute, by bisection.

    A list of ten moves in steps of ten points, and not every dose that is larger brings more. So
    the nearest share that was met on the way is kept, with the smaller dose where two are as near;
    a list that is there already is left alone.

    Parameters
    ----------
    share_of
        From a dose for each user [n_users] to the attribute's share in each user's list [n_users].
    target
        Share to reach, from 0 to 1.
    max_dose
        The dose is sought between this and its negative.
    k
        Places in a list.

    Returns
    -------
    pandas.DataFrame
        A row for each user: share_before, dose, share, error (how far the share is off the
        target), reached (whether that is no more than half a place).

    Raises
    ------
    ValueError
        If the target is no share, or the largest dose is not a positive number.
    """
    if not 0 <= target <= 1:
        raise ValueError(f"target {target}: a share lies between 0 and 1 (40 % is 0.4)")
    if not 0 < max_dose < np.inf:
        raise ValueError(f"max_dose {max_dose}: must be positive and finite")
    before = share_of(np.zeros(n_users))
    up = before < target
    low, high = np.zeros(n_users), np.where(up, max_dose, -max_dose)
    best = pd.DataFrame({"share_before": before, "dose": 0.0, "share": before})
    best["error"] = (best["share"] - target).abs()
    dose = np.where(before == target, 0.0, high)
    for _ in range(iterations):
        share = share_of(dose)
        error = np.abs(share - target)
        nearer = (error < best["error"]) | (
            (error == best["error"]) & (np.abs(dose) < best["dose"].abs())
        )
        best.loc[nearer, ["dose", "share", "error"]] = np.c_[dose, share, error][nearer]
        beyond = np.where(up, share >= target, share <= target)
        low, high = np.where(beyond, low, dose), np.where(beyond, dose, high)
        dose = np.where(before == target, 0.0, (low + high) / 2)
    return best.assign(reached=best["error"] <= 0.5 / k + 1e-9)
