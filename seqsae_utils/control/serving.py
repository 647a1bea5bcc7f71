"""Does a knob serve the user who wants it turned? An experiment with what users took later."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from .. import metrics
from ..recommender import rank_items
from .curves import USERS_AT_A_TIME, remembered
from .methods import Method

#: What the last items hold of an attribute, and the next ones: at most, or at least, so much.
BEFORE, AFTER = 10, 5
LITTLE, MUCH = 0.1, 0.6

#: Moments at which a knob is turned, and why.
KINDS = {
    "stated": f"the user says so: of the next {AFTER} items, three have it",
    "inferred": "the last two items have it, the ten before had next to none",
    "none": f"no reason: the last {BEFORE} items have next to none, the next {AFTER} none",
}


def moments(sequences: dict[int, NDArray], attribute_matrix: NDArray) -> pd.DataFrame:
    """Where users turn to an attribute, and where they do not: the first of each kind.

    ``stated`` looks at what comes next, for it stands for a wish that only the user knows; so
    what comes next is more likely to have the attribute, for whoever raises it. ``inferred`` looks
    at nothing but the history. ``none`` is the control: a knob that nobody asked for.

    Returns
    -------
    pandas.DataFrame
        A row for each user, attribute and kind that has such a moment: kind, user, attribute
        (column), at (number of items in the history; the next one is to be found).
    """
    rows = []
    for user, items in sequences.items():
        has = attribute_matrix[items].astype(float)
        total = np.vstack([np.zeros(has.shape[1]), has.cumsum(axis=0)])
        at = np.arange(BEFORE + 2, len(items) - AFTER + 1)
        if not len(at):
            continue
        before = (total[at] - total[at - BEFORE]) / BEFORE
        after = (total[at + AFTER] - total[at]) / AFTER
        last_two = total[at] - total[at - 2]
        earlier = (total[at - 2] - total[at - 2 - BEFORE]) / BEFORE
        found = {
            "stated": (before <= LITTLE) & (after >= MUCH),
            "inferred": (earlier <= LITTLE) & (last_two == 2),
            "none": (before <= LITTLE) & (after == 0),
        }
        for kind, where in found.items():
            rows += [
                (kind, user, column, at[where[:, column].argmax()])
                for column in np.flatnonzero(where.any(axis=0))
            ]
    return pd.DataFrame(rows, columns=["kind", "user", "attribute", "at"])


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


def served(results: pd.DataFrame, n_draws: int = 1_000, seed: int = 0) -> pd.DataFrame:
    """Mean change of NDCG@10 by kind, method and dose, with 95 % intervals from drawing users.

    Users have several moments, which belong together: a user is drawn with all of them.
    Columns: kind, method, dose, moments, users, ndcg (with the knob), change, low, high.
    """
    rows = []
    for keys, group in results.groupby(["kind", "method", "dose"], sort=False):
        by_user = group.groupby("user")["change"].agg(["sum", "size"]).to_numpy()
        rng, n = np.random.default_rng(seed), len(by_user)
        draws = rng.multinomial(n, np.full(n, 1 / n), size=n_draws) @ by_user
        low, high = np.quantile(draws[:, 0] / draws[:, 1], [0.025, 0.975])
        rows.append((*keys, len(group), n, group["ndcg"].mean(), group["change"].mean(), low, high))
    columns = ["kind", "method", "dose", "moments", "users", "ndcg", "change", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
