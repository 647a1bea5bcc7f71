"""What an edit does to recommendations, dose by dose: what is gained, what it costs, who pays."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from torch import nn
from tqdm import tqdm

from .. import metrics
from ..recommender import Ranking, rank_items
from ..workspace import name_nearest
from .edits import Delta, steered
from .methods import Method


def share(lists: np.ndarray, attribute_matrix: np.ndarray) -> np.ndarray:
    """Share of each list that has each attribute: [n_users, k] -> [n_users, n_attributes]."""
    return attribute_matrix[lists].mean(axis=1)


def recommend(
    model: nn.Module,
    histories: list[np.ndarray],
    targets: np.ndarray,
    site: str,
    delta: Delta | None = None,
    k: int = 10,
) -> Ranking:
    """Rank the catalogue for each user while `delta` is added at `site` (None: untouched)."""
    scorer = model.next_item_scores
    if delta is None:
        return rank_items(scorer, histories, targets, k)
    with steered(model, site, delta):
        return rank_items(scorer, histories, targets, k)


def dose_response(
    ranking_of: Callable[[Delta | None], Ranking],
    methods: dict[str, Method],
    attributes: list[str],
    doses: list[float],
    names: list[str],
    attribute_matrix: np.ndarray,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Steer each attribute by each method at each dose, and measure all that moves.

    Parameters
    ----------
    ranking_of
        Ranks the catalogue for all test users under an edit; see `recommend`.
    methods
        Name -> method. All are given the same users, doses and seed.
    attributes
        Names of the attributes to steer, out of `names`, the columns of `attribute_matrix`.

    Returns
    -------
    curves
        A row for each method, attribute and dose: share (of the attribute in the lists) and
        ndcg_change (against the same users' unsteered lists), each with ``_low`` and ``_high``
        (95 %, bootstrap over users), ndcg, coverage, diversity.
    side_effects
        A row for each method, attribute, dose and other attribute: change of the other's share.
    """
    n_items = len(attribute_matrix) - 1
    before = ranking_of(None)
    share_before = share(before.lists, attribute_matrix).mean(axis=0)
    ndcg_before = metrics.ndcg(before.rank)
    curves, side_effects = [], []
    settings = [(m, a, d) for m in methods for a in attributes for d in doses]
    for method, attribute, dose in tqdm(settings, desc="doses", leave=False):
        column = names.index(attribute)
        after = ranking_of(methods[method](column, dose))
        shares, ndcg = share(after.lists, attribute_matrix), metrics.ndcg(after.rank)
        row = {"method": method, "attribute": attribute, "dose": dose}
        curve = {"ndcg": ndcg.mean()}
        for name, values in {"share": shares[:, column], "ndcg_change": ndcg - ndcg_before}.items():
            low, high = metrics.bootstrap_mean(values, seed=seed)
            curve |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        curve["coverage"] = metrics.coverage(after.lists, n_items)
        curve["diversity"] = metrics.diversity(after.lists)
        curves.append(row | curve)
        change = shares.mean(axis=0) - share_before
        side_effects += [row | {"other": o, "change": change[i]} for i, o in enumerate(names)]
    return pd.DataFrame(curves), pd.DataFrame(side_effects)


def pick_attributes(wanted: str, names: list[str], attribute_matrix: np.ndarray) -> list[str]:
    """Attributes named in `wanted`, separated by ``|``; the six of most items where it is empty.

    >>> pick_attributes("b | a", ["a", "b"], np.zeros((3, 2)))
    ['b', 'a']
    """
    if not wanted:
        return [names[i] for i in np.argsort(-attribute_matrix.sum(axis=0), kind="stable")[:6]]
    chosen = list(dict.fromkeys(name.strip() for name in wanted.split("|")))
    for name in chosen:
        if name not in names:
            raise ValueError(f"attribute {name!r}: no item has it; {name_nearest(name, names)}")
    return chosen


def headline(curves: pd.DataFrame, strong: float) -> dict[str, dict]:
    """The numbers of a sweep for ``metrics.json``: method -> attribute -> share and ndcg.

    Each at dose 0 and at the strong dose: share_at_0, share_at_strong, ndcg_at_0, ndcg_at_strong.
    ``mean`` is the mean over the attributes.
    """
    found: dict[str, dict] = {}
    mean = curves.groupby(["method", "dose"], sort=False)[["share", "ndcg"]].mean().reset_index()
    curves = pd.concat([curves, mean.assign(attribute="mean")])
    for (method, attribute), curve in curves.groupby(["method", "attribute"], sort=False):
        at = curve.set_index("dose")
        found.setdefault(method, {})[attribute] = {
            f"{name}_at_{when}": at.loc[dose, name]
            for name in ("share", "ndcg")
            for when, dose in {"0": 0.0, "strong": strong}.items()
        }
    return found
