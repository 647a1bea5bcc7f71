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

#: What the last items hold of an attribute, and those after the next one: at most, or at least.
BEFORE, AFTER = 10, 5
LITTLE, MUCH = 0.1, 0.6

#: Moments at which a knob is turned, and why. None of them looks at the item to be found.
KINDS = {
    "stated": f"the user says so: three of the {AFTER} items after the next one have it",
    "inferred": "the last two items have it, the ten before at most one",
    "none": f"no reason: at most one of the last {BEFORE} items has it, and none of the {AFTER} "
    "after the next one",
}


def moments(sequences: dict[int, NDArray], attribute_matrix: NDArray) -> pd.DataFrame:
    """Where users turn to an attribute, and where they do not.

    No moment depends on the item at `at`, which is to be found. ``stated`` stands for a wish that
    only the user knows, and is read from the items after that one; ``inferred`` looks at nothing
    but the history; ``none`` is the control: a knob that nobody asked for.

    Of ``inferred`` and ``none`` the first moment of each user and attribute is kept. For ``none``
    only every sixth position is looked at, so that no earlier moment looks at the item to be found
    either: where the window at 20 holds an attribute and the window at 21 does not, item 21 must
    have it, and "the first" would tell the target. ``stated`` keeps every moment.

    Returns
    -------
    pandas.DataFrame
        A row for each moment: kind, user, attribute (column), at (number of items in the history;
        the next one is to be found).
    """
    rows = []
    for user, items in sequences.items():
        has = attribute_matrix[items].astype(float)
        total = np.vstack([np.zeros(has.shape[1]), has.cumsum(axis=0)])
        at = np.arange(BEFORE + 2, len(items) - AFTER)
        if not len(at):
            continue
        before = (total[at] - total[at - BEFORE]) / BEFORE
        after = (total[at + 1 + AFTER] - total[at + 1]) / AFTER
        last_two = total[at] - total[at - 2]
        earlier = (total[at - 2] - total[at - 2 - BEFORE]) / BEFORE
        apart = (at % (AFTER + 1) == 0)[:, None]
        found = {
            "stated": (before <= LITTLE) & (after >= MUCH),
            "inferred": _first((earlier <= LITTLE) & (last_two == 2)),
            "none": _first((before <= LITTLE) & (after == 0) & apart),
        }
        for kind, where in found.items():
            rows += [(kind, user, column, at[i]) for column, i in np.argwhere(where.T)]
    return pd.DataFrame(rows, columns=["kind", "user", "attribute", "at"])


def _first(where: NDArray) -> NDArray:
    """The first true value of each column, and no other."""
    return where & (where.cumsum(axis=0) == 1)


def serve(
    model: nn.Module,
    site: str,
    sequences: dict[int, NDArray],
    found: pd.DataFrame,
    methods: dict[str, Method],
    doses: Iterable[float],
) -> pd.DataFrame:
    """NDCG@10 of the item that came next, with the attribute's knob turned at each moment.

    Parameters
    ----------
    found
        From `moments`.

    Returns
    -------
    pandas.DataFrame
        A row for each moment, method and dose: the moment's columns, method, dose, ndcg, change
        (against the untouched model).
    """
    settings = [(name, dose) for name in methods for dose in doses]
    ndcg = np.empty((1 + len(settings), len(found)))  # the first: untouched
    for column, places in found.reset_index(drop=True).groupby("attribute").groups.items():
        scorers = [
            model.next_item_scores,
            *(methods[name](column, dose) for name, dose in settings),
        ]
        for start in range(0, len(places), USERS_AT_A_TIME):
            here = places[start : start + USERS_AT_A_TIME]
            some = found[["user", "at"]].iloc[here].itertuples(index=False)
            taken = [(sequences[user][:at], sequences[user][at]) for user, at in some]
            histories, targets = [h for h, _ in taken], np.array([t for _, t in taken])
            with remembered(model, site):
                for i, scorer in enumerate(scorers):
                    ndcg[i, here] = metrics.ndcg(rank_items(scorer, histories, targets).rank)
    parts = [
        found.assign(method=name, dose=dose, ndcg=values, change=values - ndcg[0])
        for (name, dose), values in zip(settings, ndcg[1:], strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def served(results: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple, NDArray]]:
    """Mean change of NDCG@10 by kind, method and dose, with 95 % intervals from drawing users.

    Users have several moments, which belong together: a user is drawn with all of them.

    Returns
    -------
    table
        Columns: kind, method, dose, moments, users, ndcg (with the knob), change, low, high.
    draws
        (kind, method, dose) -> the change in each draw of users [n_draws].
    """
    rows, found = [], {}
    for keys, group in results.groupby(["kind", "method", "dose"], sort=False):
        by_user = group.groupby("user")["change"].agg(["sum", "size"]).to_numpy()
        sums, sizes = drawn_means(by_user).T
        found[keys] = sums / sizes
        means = group["ndcg"].mean(), group["change"].mean()
        rows.append((*keys, len(group), len(by_user), *means, *interval(found[keys])))
    columns = ["kind", "method", "dose", "moments", "users", "ndcg", "change", "low", "high"]
    return pd.DataFrame(rows, columns=columns), found
