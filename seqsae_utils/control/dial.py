"""The dial: a user says what the list should hold, and the strength is solved for."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from ..recommender import best, unseen
from ..resampling import drawn_means
from .curves import USERS_AT_A_TIME, remembered, with_intervals
from .edits import direction_delta, steered_scorer

#: Of the bisection: a strength is found to 1/128 of the largest.
STEPS = 8


def solve(
    share_of: Callable[[NDArray], NDArray],
    target: float,
    n_users: int,
    max_dose: float = 8.0,
    k: int = 10,
) -> pd.DataFrame:
    """The strength that brings each user's list nearest to a share of an attribute, by bisection.

    A list of ten moves in steps of ten points, and a larger strength does not always bring more.
    So the nearest share that was met on the way is kept, with the smaller strength where two are
    as near; a list that is there already is left alone.

    Parameters
    ----------
    share_of
        From strengths [n_users] to the attribute's share in each user's list [n_users].
    target, max_dose, k
        Share to reach, from 0 to 1; strengths are sought up to this, either way; places in a list.

    Returns
    -------
    pandas.DataFrame
        A row for each user: share_before, dose, share, error (how far the share is off the
        target), reached (whether that is no more than half a place).
    """
    if not 0 <= target <= 1:
        raise ValueError(f"target {target}: a share lies between 0 and 1 (40 % is 0.4)")
    if not 0 < max_dose < np.inf:
        raise ValueError(f"max_dose {max_dose}: must be positive and finite")
    before = share_of(np.zeros(n_users))
    up = before < target
    low, high = np.zeros(n_users), np.where(up, max_dose, -max_dose)
    found = pd.DataFrame({"share_before": before, "dose": 0.0, "share": before})
    found["error"] = np.abs(before - target)
    dose = np.where(before == target, 0.0, high)
    for _ in range(STEPS):
        share = share_of(dose)
        error = np.abs(share - target)
        smaller = np.abs(dose) < found["dose"].abs()
        nearer = (error < found["error"]) | (error == found["error"]) & smaller
        found.loc[nearer, ["dose", "share", "error"]] = np.c_[dose, share, error][nearer]
        beyond = np.where(up, share >= target, share <= target)
        low, high = np.where(beyond, low, dose), np.where(beyond, dose, high)
        dose = np.where(before == target, 0.0, (low + high) / 2)
    return found.assign(reached=found["error"] <= 0.5 / k + 1e-9)


def shares_along(
    model: nn.Module,
    site: str,
    std: float,
    direction: NDArray,
    has_attribute: NDArray,
    histories: list[NDArray],
    k: int = 10,
) -> Callable[[NDArray], NDArray]:
    """What `solve` turns: from a strength for each user to the attribute's share in each list.

    Steered is along a direction [d_in]; `has_attribute` is [n_items + 1] of 0 and 1, and lists
    have `k` places.
    """
    along = torch.from_numpy(np.asarray(direction, np.float32))

    def share_of(doses: NDArray) -> NDArray:
        by_user = torch.from_numpy(doses.astype(np.float32))[:, None, None]
        scores = steered_scorer(model, site, direction_delta(along, by_user, std))(histories)
        return has_attribute[best(unseen(scores, histories), k)].mean(axis=1, dtype=float)

    return share_of


def dial_errors(
    model: nn.Module,
    site: str,
    std: float,
    direction: NDArray,
    has_attribute: NDArray,
    choosing: list[NDArray],
    judging: list[NDArray],
    targets: list[float],
    max_dose: float = 8.0,
) -> pd.DataFrame:
    """How far off the targets the lists of some users are, by the dial and by what is simpler.

    Parameters
    ----------
    choosing, judging
        Histories of the users who choose the one strength for all, and of those whose lists count.

    Returns
    -------
    pandas.DataFrame
        A row for each target, way and judging user: how (``dial``; ``one dose``, with which the
        choosing users' mean share is nearest to the target; ``untouched``), target, user (place in
        `judging`), error (absolute, in share of the list), reached (whether the list is within
        half a place of the target).
    """
    steering = model, site, std, direction, has_attribute
    grid, some = np.linspace(-max_dose, max_dose, 33), choosing[:USERS_AT_A_TIME]
    share_of = shares_along(*steering, some)
    with remembered(model, site):
        means = np.array([share_of(np.full(len(some), dose)).mean() for dose in grid])
    tables = []
    for start in range(0, len(judging), USERS_AT_A_TIME):
        some = judging[start : start + USERS_AT_A_TIME]
        share_of = shares_along(*steering, some)
        with remembered(model, site):
            for target in targets:
                solved = solve(share_of, target, len(some), max_dose)
                one = np.full(len(some), grid[np.abs(means - target).argmin()])
                shares = {
                    "dial": solved["share"],
                    "one dose": share_of(one),
                    "untouched": solved["share_before"],
                }
                table = pd.DataFrame(shares).assign(user=start + solved.index, target=target)
                tables.append(table.melt(["target", "user"], [*shares], "how", "share"))
    found = pd.concat(tables, ignore_index=True)
    error = (found.pop("share") - found["target"]).abs()
    return found.assign(error=error, reached=error <= 0.05 + 1e-9)


def dial_summary(errors: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple, NDArray]]:
    """Means over users of what `dial_errors` found, with 95 % intervals from drawing users.

    A user's rows (one for each attribute that was asked for) are averaged first.

    Returns
    -------
    table
        A row for each way and target: how, target, error, reached, each of the two with
        ``_low`` and ``_high``.
    draws
        (how, target) -> the mean error in each draw of users [n_draws].
    """
    by_user = errors.groupby(["how", "target", "user"], sort=False)[["error", "reached"]].mean()
    drawn = {
        key: pd.DataFrame(np.vstack([values.mean(), drawn_means(values)]), columns=values.columns)
        for key, values in by_user.groupby(["how", "target"], sort=False)
    }
    table = with_intervals(pd.concat(drawn, names=["how", "target", "draw"]))
    return table, {key: values["error"].to_numpy()[1:] for key, values in drawn.items()}
