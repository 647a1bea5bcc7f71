"""Less popularity: knobs from synthetic users, a dose for each user, and what lists become."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import metrics
from ..recommender import Ranking, Recommender, best, unseen
from ..resampling import drawn_means, interval
from .methods import Method

#: From the histories of some users to the part of a strength that each gets [n_users].
Dose = Callable[[list[NDArray]], Tensor]


def synthetic_users(group: NDArray, lengths: list[int], seed: int = 0) -> dict[int, NDArray]:
    """Users who took nothing but items of a group, by number: sequences, as for `states_at`.

    `group` is 0/1 [n_items + 1]. User i has `lengths[i]` items, at most 50 and at most all of them,
    drawn without repetition.
    """
    rng, items = np.random.default_rng(seed), np.flatnonzero(group)
    most = min(50, len(items))
    return {i: rng.choice(items, min(n, most), replace=False) for i, n in enumerate(lengths)}


def popsteer(popular: NDArray, unpopular: NDArray, threshold: float = 0.0) -> NDArray:
    """Weight of each feature [d_sae] that turns popularity down (PopSteer, arXiv 2601.15122).

    From codes [n_users, d_sae] of synthetic users of popular and of unpopular items. With Cohen's
    d_j = (mean of popular - mean of unpopular) / pooled standard deviation, the weight is

        -d_j / max |d| * s_j    where |d_j| >= threshold, else 0

    with the standard deviation s_j over all of them. A feature that never fires weighs 0. As all
    knobs here, it is added to the code; PopSteer adds it before the SAE's activation function.
    """
    pooled = np.sqrt((popular.var(axis=0) + unpopular.var(axis=0)) / 2)
    d = (popular.mean(axis=0) - unpopular.mean(axis=0)) / np.maximum(pooled, 1e-12)
    spread = np.concatenate([popular, unpopular]).std(axis=0)
    return np.where(np.abs(d) >= threshold, -d / max(np.abs(d).max(), 1e-12) * spread, 0.0)


def own_taste(group: NDArray, histories: list[NDArray]) -> Dose:
    """The share of a group in each user's own history, over its mean in `histories`.

    Who never takes the group's items, 0/1 [n_items + 1], is left alone.
    """
    mean = max(float(_share(group, histories).mean()), 1e-12)
    return lambda users: _share(group, users) / mean


def taste_gap(model: Recommender, group: NDArray) -> Dose:
    """The share of a group in each user's own history, minus that in the untouched list.

    A knob is turned up for who gets too few of the group's items, and down for who gets too many,
    as SPREE does (arXiv 2604.01036), which estimates the gap from the hidden state.
    """

    def gap(users: list[NDArray]) -> Tensor:
        lists = best(unseen(model.next_item_scores(users), users)).numpy()
        return _share(group, users) - _share(group, lists)

    return gap


def _share(group: NDArray, lists) -> Tensor:
    return torch.tensor([group[items].mean() for items in lists], dtype=torch.float32)


def dosed(method: Method, dose: Dose, n_axes: int) -> Method:
    """A method whose strength each user gets by the dose: [n_users], and `n_axes` of length 1.

    Two axes for `turn`, which edits states [n_users, length, d_in]; one for `rerank`.
    """
    shape = -1, *[1] * n_axes
    return lambda j, strength: lambda users: method(j, strength * dose(users).reshape(shape))(users)


def strengths_for(gain: float, curves: pd.DataFrame) -> dict[str, float]:
    """The smallest strength of each method that gains as much, or else that of its largest gain.

    `curves` are rows of `measure`, for one attribute; between two strengths the share changes
    evenly.
    """
    found = {}
    for method, curve in curves.groupby("method", sort=False):
        fine = np.linspace(0, curve["strength"].max(), 801)
        gained = np.interp(fine, curve["strength"], curve["share"] - curve["share"].iloc[0])
        enough = gained >= gain - 1e-9
        found[method] = float(fine[enough.argmax() if enough.any() else gained.argmax()])
    return found


def popularity_table(
    rankings: dict[str, Ranking], histories: list[NDArray], popularity: NDArray
) -> pd.DataFrame:
    """How popular the lists of each method are; the first of `rankings` is the untouched one.

    A row a method: gini; arp, long_tail, deviation (`metrics.popularity_deviation`) and ndcg_kept
    (share of the untouched NDCG) with ``_low`` and ``_high`` (95 %, users drawn again).
    """
    groups = metrics.popularity_groups(popularity)
    before, rows = next(iter(rankings.values())), {}
    for name, (lists, rank) in rankings.items():
        row = rows[name] = {"gini": metrics.gini(lists, len(popularity) - 1)}
        for column, values, over in (
            ("arp", metrics.average_popularity(lists, popularity), 1.0),
            ("long_tail", groups[lists, 2].mean(axis=1), 1.0),
            ("deviation", metrics.popularity_deviation(lists, histories, groups), 1.0),
            ("ndcg_kept", metrics.ndcg(rank), metrics.ndcg(before.rank)),
        ):
            base = np.append(np.mean(over), drawn_means(np.broadcast_to(over, len(values))))
            base[base == 0] = np.nan
            found = np.append(values.mean(), drawn_means(values)) / base
            low, high = interval(found[1:])
            row |= {column: found[0], f"{column}_low": low, f"{column}_high": high}
    return pd.DataFrame(rows).T.rename_axis("method")
