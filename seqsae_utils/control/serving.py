"""Does a knob serve the user who wants it turned? An experiment with what users took later."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from .. import metrics
from ..recommender import rank_items
from ..resampling import drawn_means, interval
from .curves import USERS_AT_A_TIME, remembered
from .methods import Method

#: The last items before a moment hold little of an attribute, those after the next one much.
BEFORE, AFTER = 10, 5
LITTLE, MUCH = 0.1, 0.6
#: So many moments are drawn where there are more: each ranks the catalogue at every setting.
MOST = 65_536


def moments(sequences: dict[int, NDArray], attribute_matrix: NDArray) -> pd.DataFrame:
    """Where users turn to an attribute: stated intent, a wish that only the user knows.

    At most one of the last ten items has it, and at least three of the five after the next one do.
    The next one is to be found and must not decide, so overlapping ones all count. A history of
    twelve items is the shortest. A row for each, or for `MOST` of them that are drawn by chance:
    user, attribute (column of [n_items + 1, n_attributes]), at (number of items in the history).
    """
    rows = []
    for user, items in sequences.items():
        has = attribute_matrix[items].astype(float)
        total = np.vstack([np.zeros(has.shape[1]), has.cumsum(axis=0)])
        at = np.arange(BEFORE + 2, len(items) - AFTER)
        before = (total[at] - total[at - BEFORE]) / BEFORE
        after = (total[at + 1 + AFTER] - total[at + 1]) / AFTER
        found = np.argwhere(((before <= LITTLE) & (after >= MUCH)).T)
        rows += [(user, column, at[i]) for column, i in found]
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST])
    return pd.DataFrame(rows, columns=["user", "attribute", "at"]).iloc[drawn]


def serve(
    model: nn.Module,
    site: str,
    sequences: dict[int, NDArray],
    found: pd.DataFrame,
    methods: dict[str, Method],
    strengths: Iterable[float],
) -> pd.DataFrame:
    """NDCG@10 of the item that came next, with the attribute's knob turned at each moment.

    `found` is from `moments`. Returns its rows by method, strength; ndcg; change, by the knob.
    """
    settings = [(name, strength) for name in methods for strength in strengths]
    ndcg = np.empty((1 + len(settings), len(found)))  # the first: untouched
    for column, places in found.reset_index(drop=True).groupby("attribute").groups.items():
        turned = [methods[name](column, strength) for name, strength in settings]
        for start in range(0, len(places), USERS_AT_A_TIME):
            here = places[start : start + USERS_AT_A_TIME]
            some = found[["user", "at"]].iloc[here].to_numpy()
            histories = [sequences[user][:at] for user, at in some]
            targets = np.array([sequences[user][at] for user, at in some])
            with remembered(model, site):
                for i, scorer in enumerate([model.next_item_scores, *turned]):
                    ndcg[i, here] = metrics.ndcg(rank_items(scorer, histories, targets, 0).rank)
    parts = [
        found.assign(method=name, strength=strength, ndcg=values, change=values - ndcg[0])
        for (name, strength), values in zip(settings, ndcg[1:], strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def served(results: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple, NDArray]]:
    """Mean change of NDCG@10 by method and strength, with 95 % intervals from drawing users.

    Returns a table (method, strength, moments, users, ndcg, change, low, high), and
    (method, strength) -> the change in each draw of users [n_draws].
    """
    rows, found = [], {}
    for keys, group in results.groupby(["method", "strength"], sort=False):
        by_user = group.groupby("user")["change"].agg(["sum", "size"]).to_numpy()
        found[keys] = np.divide(*drawn_means(by_user).T)
        means = group["ndcg"].mean(), group["change"].mean()
        rows.append((*keys, len(group), len(by_user), *means, *interval(found[keys])))
    columns = ["method", "strength", "moments", "users", "ndcg", "change", "low", "high"]
    return pd.DataFrame(rows, columns=columns), found
