"""The dial: from the share a list should have to a strength; `has_attribute` is [n_items + 1]."""

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
from .methods import rerank, turn

#: Steps of the bisection, to 1/128 of the largest; a share is reached within half a place of ten.
STEPS, NEAR = 8, 0.05 + 1e-9
#: Turns of several attributes whose items are raised, and logits beyond the next item.
ROUNDS, MARGIN = 20, 0.01


def solve(
    share_of: Callable[[NDArray], NDArray], target: float, n_users: int, max_strength: float = 8.0
) -> pd.DataFrame:
    """The strength that brings each user's list nearest to a share of an attribute, by bisection.

    `share_of` maps strengths [n_users] to the attribute's share in each list. The nearest share
    that was met is kept, with the smaller strength where two are as near. Returns a row for each
    user: share_before, strength, share, error (distance to the target), reached (`NEAR` enough).
    ValueError for a `target` or `max_strength` that is out of range.
    """
    if not 0 <= target <= 1:
        raise ValueError(f"target {target}: a share lies between 0 and 1 (40 % is 0.4)")
    if not 0 < max_strength < np.inf:
        raise ValueError(f"max_strength {max_strength}: must be positive and finite")
    before = share_of(np.zeros(n_users))
    up = before < target
    low, high = np.zeros(n_users), np.where(up, max_strength, -max_strength)
    found = pd.DataFrame({"share_before": before, "strength": 0.0, "share": before})
    found["error"] = np.abs(before - target)
    strength = np.where(before == target, 0.0, high)
    for _ in range(STEPS):
        share = share_of(strength)
        error = np.abs(share - target)
        smaller = np.abs(strength) < found["strength"].abs()
        nearer = (error < found["error"]) | (error == found["error"]) & smaller
        found.loc[nearer, ["strength", "share", "error"]] = np.c_[strength, share, error][nearer]
        beyond = np.where(up, share >= target, share <= target)
        low, high = np.where(beyond, low, strength), np.where(beyond, strength, high)
        strength = np.where(before == target, 0.0, (low + high) / 2)
    return found.assign(reached=found["error"] <= NEAR)


def raises(scores: NDArray, matrix: NDArray, shares: NDArray, n_items: int = 10) -> NDArray:
    """What to add to the logits of each attribute's items, so that the list has their shares.

    `scores` [n_items + 1] are -inf where an item cannot be listed; `matrix` is [n_items + 1,
    n_attributes], `shares` [n_attributes]. For one attribute the k-th best item that has it passes
    the item without it that must leave, by the least raise; with k of 10 as near to the share as
    the items allow, no other list keeps more of the one before. Several attributes take turns.
    """
    listable, has = scores[np.isfinite(scores)], matrix[np.isfinite(scores)].astype(bool)
    size, added = min(n_items, len(listable)), np.zeros(len(shares))
    for _ in range(ROUNDS):
        before = added.copy()
        for j, share in enumerate(shares):
            added[j] = 0.0
            now = listable + has @ added
            sides = now[has[:, j]], now[~has[:, j]]
            parts = [np.r_[np.inf, -np.sort(-side), -np.inf] for side in sides]
            held = int(has[np.argsort(-now, kind="stable")[:size], j].sum())
            least, most = np.ceil(share * n_items - 0.5), np.floor(share * n_items + 0.5)
            wanted = int(np.clip(held, least, most))
            wanted = int(np.clip(wanted, size + 2 - len(parts[1]), len(parts[0]) - 2))
            others = size - wanted
            low = parts[1][others + 1] - parts[0][wanted]
            high = parts[1][others] - parts[0][wanted + 1]
            margin = min(MARGIN, (high - low) / 2)
            if wanted == 0 < held:  # below all others: another attribute may raise them again
                high = parts[1][-2] - parts[0][1]
            added[j] = np.clip(0.0, low + margin, high - margin)
        if np.allclose(added, before):
            break
    return added


def shares_along(
    model: nn.Module,
    site: str,
    std: float,
    direction: NDArray,
    has_attribute: NDArray,
    histories: list[NDArray],
) -> Callable[[NDArray], NDArray]:
    """A function from strengths [n_users] along a direction [d_in] to the share in each list."""
    along = torch.from_numpy(np.asarray(direction, np.float32))

    def share_of(strengths: NDArray) -> NDArray:
        by_user = torch.from_numpy(strengths.astype(np.float32))[:, None, None]
        scores = steered_scorer(model, site, direction_delta(along, by_user, std))(histories)
        return has_attribute[best(unseen(scores, histories))].mean(axis=1, dtype=float)

    return share_of


def one_list(
    model: nn.Module,
    site: str,
    std: float,
    direction: NDArray,
    has_attribute: NDArray,
    history: NDArray,
    targets: list[float],
    max_strength: float = 8.0,
) -> pd.DataFrame:
    """One user's list at growing shares of an attribute: by the dial, and by raising scores.

    Arguments as in `dial_errors`. Returns a row for each way (``dial``, ``rerank``), target (0 in
    front: the untouched list) and rank: turned (standard deviations, or logits), item, has (the
    attribute), kept (it was in the untouched list).
    """
    has_it = has_attribute[:, None].astype(float)
    ways = {"dial": turn(model, site, std, direction[None]), "rerank": rerank(model, has_it)}
    share_of = shares_along(model, site, std, direction, has_attribute, [history])
    own = unseen(model.next_item_scores([history]), [history])
    before, tables = best(own)[0].numpy(), []
    for target in (0.0, *targets):
        strengths = dict.fromkeys(ways, 0.0)
        if target:
            strengths["dial"] = solve(share_of, target, 1, max_strength)["strength"][0]
            strengths["rerank"] = raises(own[0].numpy(), has_it, np.array([target]))[0]
        for way, strength in strengths.items():
            items = best(unseen(ways[way](0, strength)([history]), [history]))[0].numpy()
            table = {"item": items, "has": has_attribute[items], "kept": np.isin(items, before)}
            table |= {"way": way, "target": target, "turned": strength}
            tables.append(pd.DataFrame(table | {"rank": 1 + np.arange(len(items))}))
    return pd.concat(tables, ignore_index=True)


def dial_errors(
    model: nn.Module,
    site: str,
    std: float,
    direction: NDArray,
    has_attribute: NDArray,
    choosing: list[NDArray],
    judging: list[NDArray],
    targets: list[float],
    max_strength: float = 8.0,
) -> pd.DataFrame:
    """How far users' lists are off the targets: by the dial, by one strength for all, untouched.

    Histories `choosing` choose the one strength along `direction` [d_in], the lists of `judging`
    count. Returns a row for each target, way and judging user: how (``dial``, ``one strength``,
    ``untouched``), target, user (place in `judging`), error (absolute, in share), reached (`NEAR`).
    """
    steering = model, site, std, direction, has_attribute
    grid, some = np.linspace(-max_strength, max_strength, 33), choosing[:USERS_AT_A_TIME]
    share_of = shares_along(*steering, some)
    with remembered(model, site):
        means = np.array([share_of(np.full(len(some), strength)).mean() for strength in grid])
    tables = []
    for start in range(0, len(judging), USERS_AT_A_TIME):
        some = judging[start : start + USERS_AT_A_TIME]
        share_of = shares_along(*steering, some)
        with remembered(model, site):
            for target in targets:
                solved = solve(share_of, target, len(some), max_strength)
                one = np.full(len(some), grid[np.abs(means - target).argmin()])
                table = pd.DataFrame({"dial": solved["share"], "one strength": share_of(one)})
                table["untouched"] = solved["share_before"]
                table = table.assign(user=start + solved.index, target=target)
                tables.append(table.melt(["target", "user"], var_name="how", value_name="share"))
    found = pd.concat(tables, ignore_index=True)
    error = (found.pop("share") - found["target"]).abs()
    return found.assign(error=error, reached=error <= NEAR)


def dial_summary(errors: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple, NDArray]]:
    """Means over users of what `dial_errors` found, with 95 % intervals from drawing users.

    Returns a row for each way and target (error, reached), and (how, target) -> errors [n_draws].
    Targets that only rounding tells apart, such as 0.3 and 0.1 + 0.2, share the row of the lowest.
    """
    same: dict[float, float] = {}
    for target in np.sort(errors["target"].unique()):
        same[target] = next((t for t in same.values() if np.isclose(t, target)), target)
    errors = errors.assign(target=errors["target"].map(same))
    by_user = errors.groupby(["how", "target", "user"], sort=False)[["error", "reached"]].mean()
    drawn = {
        key: pd.DataFrame(np.vstack([values.mean(), drawn_means(values)]), columns=values.columns)
        for key, values in by_user.groupby(["how", "target"], sort=False)
    }
    table = with_intervals(pd.concat(drawn, names=["how", "target", "draw"]))
    of_error = {key: values["error"].to_numpy()[1:] for key, values in drawn.items()}
    return table, {(how, t): of_error[how, same[t]] for how, _ in of_error for t in same}
