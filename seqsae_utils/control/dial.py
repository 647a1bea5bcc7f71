"""The dial: not how far a knob is turned, but what the list should hold; the dose is solved for."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..resampling import drawn_means, interval
from .curves import USERS_AT_A_TIME, remembered
from .edits import steered

#: Of the bisection: a dose is found to 1/128 of the largest.
STEPS = 8


def solve(
    share_of: Callable[[NDArray], NDArray],
    target: float,
    n_users: int,
    max_dose: float = 8.0,
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
    for _ in range(STEPS):
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


def dial(
    model: nn.Module,
    site: str,
    std: float,
    direction: NDArray,
    has_attribute: NDArray,
    histories: list[NDArray],
    target: float,
    max_dose: float = 8.0,
    k: int = 10,
) -> pd.DataFrame:
    """`solve` for many users at once: how far along a direction [d_in] each of them must go.

    Parameters
    ----------
    has_attribute
        [n_items + 1] of 0 and 1; of its items each list of `k` shall hold the share `target`.
    """
    parts = []
    for start in range(0, len(histories), USERS_AT_A_TIME):
        some = histories[start : start + USERS_AT_A_TIME]
        with remembered(model, site):
            share_of = _share_of(model, site, std, direction, has_attribute, some, k)
            parts.append(solve(share_of, target, len(some), max_dose, k=k))
    return pd.concat(parts, ignore_index=True)


def _share_of(model, site, std, direction, has_attribute, histories, k=10):
    """From a dose for each user to the attribute's share in each user's list."""
    step = std * torch.from_numpy(np.asarray(direction, np.float32))

    def share_of(doses: NDArray) -> NDArray:
        by_user = torch.from_numpy(doses.astype(np.float32))[:, None, None]

        def delta(hidden: Tensor) -> Tensor:
            return (by_user * step).to(hidden.device).expand_as(hidden)

        with steered(model, site, delta):
            lists = top(model.next_item_scores(histories), histories, k)
        return has_attribute[lists].mean(axis=1)

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
        Histories of the users who choose the one dose for all, and of those whose lists count.

    Returns
    -------
    pandas.DataFrame
        A row for each target, way and judging user: how (``dial``; ``one dose``, with which the
        choosing users' mean share is nearest to the target; ``untouched``), target, user (place in
        `judging`), error (absolute, in share of the list), reached (whether the list is within
        half a place of the target).
    """
    arguments = model, site, std, direction, has_attribute
    grid = np.linspace(-max_dose, max_dose, 33)
    with remembered(model, site):
        some = choosing[:USERS_AT_A_TIME]
        share_of = _share_of(*arguments, some)
        means = np.array([share_of(np.full(len(some), dose)).mean() for dose in grid])
    tables = []
    for target in targets:
        dialled = dial(*arguments, judging, target, max_dose)
        dose = grid[np.abs(means - target).argmin()]
        share = _share_of(*arguments, judging)(np.full(len(judging), dose))
        for how, values in {
            "dial": dialled["share"], "one dose": share, "untouched": dialled["share_before"],
        }.items():  # fmt: skip
            error = np.abs(np.asarray(values) - target)
            by_user = {"user": range(len(error)), "error": error, "reached": error <= 0.05 + 1e-9}
            tables.append(pd.DataFrame({"how": how, "target": target, **by_user}))
    return pd.concat(tables, ignore_index=True)


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
    rows, found = [], {}
    for (how, target), values in by_user.groupby(["how", "target"], sort=False):
        row = {"how": how, "target": target}
        for name in values:
            drawn = drawn_means(values[name].to_numpy())
            low, high = interval(drawn)
            row |= {name: values[name].mean(), f"{name}_low": low, f"{name}_high": high}
            if name == "error":
                found[how, target] = drawn
        rows.append(row)
    return pd.DataFrame(rows), found


def top(scores: Tensor, histories: list[NDArray], k: int = 10) -> NDArray:
    """The k best items [n_users, k] by scores [n_users, n_items + 1] that no history holds."""
    scores = scores.clone()
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    scores[rows, np.concatenate(histories)] = -torch.inf
    return scores.topk(k, dim=1).indices.numpy()
