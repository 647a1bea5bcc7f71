"""What an edit does to recommendations, dose by dose: what is gained, what it costs, who pays."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from .. import metrics
from ..hooks import find_site
from ..recommender import rank_items
from ..resampling import drawn_means, draws, interval
from ..workspace import name_nearest
from .methods import Method

USERS_AT_A_TIME = 256


def share(lists: NDArray, attribute_matrix: NDArray) -> NDArray:
    """Share of each list that has each attribute: [..., k] -> [..., n_attributes]."""
    return attribute_matrix[lists].mean(axis=-2)


@contextmanager
def remembered(model: nn.Module, site: str) -> Iterator[None]:
    """While the block runs, the module at `site` repeats itself when it is asked the same.

    For many edits of the same users: what comes out of the site, before it is edited, is the same
    each time.
    """
    module = find_site(model, site)
    compute, kept = module.forward, []

    def forward(x, *inputs, **options):
        if not (kept and torch.equal(kept[0], x)):
            kept[:] = x, compute(x, *inputs, **options)
        return kept[1]

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@dataclass(frozen=True)
class Sweep:
    """Rankings of the same users under every setting.

    settings : DataFrame with the columns method, attribute, dose; dose 0 is the untouched model
    lists : [n_settings, n_users, k] items
    rank : [n_settings, n_users] place of the item that each user took next
    """

    settings: pd.DataFrame
    lists: NDArray
    rank: NDArray


def sweep(
    model: nn.Module,
    site: str,
    users: tuple[list[NDArray], NDArray],
    methods: dict[str, Method],
    attributes: list[str],
    doses: Iterable[float],
    names: list[str],
    k: int = 10,
) -> Sweep:
    """Rank the catalogue for all users by each method, for each attribute and dose.

    Parameters
    ----------
    users
        Histories, and the item [n_users] that each took next.
    methods
        Name -> method. All are given the same users and doses.
    attributes
        Names of the attributes to steer, out of `names`, which the methods' columns are.
    doses
        Dose 0 is measured once for all, on the untouched model.
    """
    doses = sorted({0.0, *doses})
    settings = [(m, a, d) for m in methods for a in attributes for d in doses]
    scorers = {
        (m, a, d): methods[m](names.index(a), d) if d else model.next_item_scores
        for m, a, d in settings
    }
    histories, targets = users
    # Filled in place: thousands of small results, each kept where it came to be, would cut the
    # memory between them into pieces too small for the next batch.
    lists = np.empty((len(settings), len(targets), k), np.int32)
    rank = np.empty((len(settings), len(targets)), np.int32)
    starts = range(0, len(targets), USERS_AT_A_TIME)
    bar = tqdm(total=len(starts) * len(settings), desc="doses", leave=False)
    for start in starts:
        some = slice(start, start + USERS_AT_A_TIME)
        with remembered(model, site):
            untouched = rank_items(model.next_item_scores, histories[some], targets[some], k)
            for i, setting in enumerate(settings):
                ranking = untouched
                if setting[2]:
                    ranking = rank_items(scorers[setting], histories[some], targets[some], k)
                lists[i, some], rank[i, some] = ranking.lists, ranking.rank
                bar.update()
    bar.close()
    return Sweep(pd.DataFrame(settings, columns=["method", "attribute", "dose"]), lists, rank)


def measure(swept: Sweep, names: list[str], attribute_matrix: NDArray) -> pd.DataFrame:
    """What each setting does, averaged over users.

    Returns
    -------
    pandas.DataFrame
        The settings, with share (of the steered attribute in the lists) and ndcg_change (against
        the same users' untouched lists), each with ``_low`` and ``_high`` (95 %, bootstrap over
        users), ndcg, coverage, diversity.
    """
    n_items = len(attribute_matrix) - 1
    shares, ndcg = _by_user(swept, names, attribute_matrix)
    untouched = ndcg[swept.settings["dose"] == 0][0]
    rows = []
    for lists, of_share, of_ndcg in zip(swept.lists, shares, ndcg, strict=True):
        row = {"ndcg": of_ndcg.mean()}
        for name, values in {"share": of_share, "ndcg_change": of_ndcg - untouched}.items():
            low, high = interval(drawn_means(values))
            row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(
            row
            | {
                "coverage": metrics.coverage(lists, n_items),
                "diversity": metrics.diversity(lists),
            }
        )
    return swept.settings.join(pd.DataFrame(rows))


def side_effects(swept: Sweep, names: list[str], attribute_matrix: NDArray) -> pd.DataFrame:
    """Change of every attribute's share, against the untouched lists.

    A row for each setting and attribute: the settings, other (an attribute) and change.
    """
    shares = np.array([share(lists, attribute_matrix).mean(axis=0) for lists in swept.lists])
    change = shares - shares[swept.settings["dose"] == 0][0]
    wide = swept.settings.join(pd.DataFrame(change, columns=names))
    return wide.melt(["method", "attribute", "dose"], var_name="other", value_name="change")


def _by_user(swept: Sweep, names: list[str], attribute_matrix: NDArray) -> tuple[NDArray, NDArray]:
    """Share of the steered attribute in each list, and NDCG@k: both [n_settings, n_users]."""
    k = swept.lists.shape[2]
    columns = [names.index(attribute) for attribute in swept.settings["attribute"]]
    shares = [
        attribute_matrix[lists, column].mean(axis=1)
        for lists, column in zip(swept.lists, columns, strict=True)
    ]
    return np.array(shares), metrics.ndcg(swept.rank, k)


FINE = 20  # points between two doses


def _frontier(shares: NDArray, ndcg: NDArray, gains: NDArray) -> NDArray:
    """Most of the NDCG that is kept at each gain or more, as a share of that at the first dose.

    `shares` and `ndcg` are [..., n_doses], with ascending doses from 0; between two of them both
    are taken to change evenly. 0 at a gain that no dose reaches. Returns [..., n_gains].
    """
    n_doses = shares.shape[-1]
    at = np.linspace(0, n_doses - 1, (n_doses - 1) * FINE + 1)
    left = np.minimum(at.astype(int), n_doses - 2)
    part = at - left

    def between(values):
        return values[..., left] * (1 - part) + values[..., left + 1] * part

    gained = between(shares) - shares[..., :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = between(ndcg) / ndcg[..., :1]
    return np.stack(
        [np.where(gained >= gain - 1e-9, kept, 0.0).max(axis=-1) for gain in gains], axis=-1
    )


def drawn_areas(
    swept: Sweep,
    names: list[str],
    attribute_matrix: NDArray,
    most: float = 0.3,
    strong: float | None = None,
) -> pd.DataFrame:
    """The area under kept NDCG@k against gained share, in each draw of the users.

    1 if gains were free, 0 if there were none. Gains run from 0 to `most`, in share of the list;
    at each gain counts the best NDCG among the doses that gain at least as much. Gains that are
    not reached score 0.

    Returns
    -------
    pandas.DataFrame
        A row for each method, attribute and draw (the index). Draw 0 is every user once, draws
        from 1 on are those of `resampling.draws`. Columns: pareto_area; kept_at_20, the share of
        NDCG that is kept at a gain of 20 points; and share_gain_at_strong, the change of the
        attribute's share at the dose `strong`, where one is given.
    """
    shares, ndcg = _by_user(swept, names, attribute_matrix)
    n_users = shares.shape[1]
    counts = np.vstack([np.ones(n_users), draws(n_users)]) / n_users
    shares, ndcg = shares @ counts.T, ndcg @ counts.T
    gains = np.append(np.linspace(0, most, 31), 0.2)
    tables = {}
    up = swept.settings[swept.settings["dose"] >= 0]
    for key, curve in up.groupby(["method", "attribute"], sort=False):
        order = curve.sort_values("dose").index
        kept = _frontier(shares[order].T, ndcg[order].T, gains)
        area = np.trapezoid(kept[:, :-1], gains[:-1], axis=1) / most
        tables[key] = pd.DataFrame({"pareto_area": area, "kept_at_20": kept[:, -1]})
        if strong is not None:
            (at,) = curve.index[curve["dose"] == strong]
            tables[key]["share_gain_at_strong"] = shares[at] - shares[order[0]]
    return pd.concat(tables, names=["method", "attribute", "draw"])


def areas(
    drawn: pd.DataFrame, against: str = "sae_several"
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, NDArray]]:
    """Methods compared by their areas, paired over the same draws of users.

    Parameters
    ----------
    drawn
        From `drawn_areas`; tables of several sweeps may be concatenated.
    against
        The method that the others are compared with.

    Returns
    -------
    by_attribute
        A row for each method and attribute: the columns of `drawn`, each with its interval (95 %,
        bootstrap over users).
    by_method
        A row for each method: the means over attributes with their intervals; lead, by how much
        the area exceeds that of the method `against`; wins, the number of attributes on which it
        is at least as large; and cheap, on how many nine tenths of the NDCG are kept at a gain of
        20 points, and share_cheap, their share.
    draws
        ``<method>.<column>`` -> the mean over attributes in each draw [n_draws].
    """
    by_attribute = pd.DataFrame(
        {"method": method, "attribute": attribute} | _with_intervals(table)
        for (method, attribute), table in drawn.groupby(["method", "attribute"], sort=False)
    )
    means = drawn.groupby(["method", "draw"], sort=False).mean()
    rival = means.loc[against, "pareto_area"]
    rival_by_attribute = by_attribute.set_index("attribute").query("method == @against")
    rows, found = [], {}
    for method, of_method in by_attribute.groupby("method", sort=False):
        own, area = means.loc[method], of_method.set_index("attribute")["pareto_area"]
        rows.append(
            {"method": method}
            | _with_intervals(own.assign(lead=own["pareto_area"] - rival))
            | {
                "wins": int((area >= rival_by_attribute["pareto_area"]).sum()),
                "cheap": int((of_method["kept_at_20"] >= 0.9).sum()),
                "share_cheap": float((of_method["kept_at_20"] >= 0.9).mean()),
            }
        )
        found |= {f"{method}.{name}": own[name].to_numpy()[1:] for name in own}
    return by_attribute, pd.DataFrame(rows), found


def _with_intervals(table: pd.DataFrame) -> dict[str, float]:
    """The first value of each column, and the 95 % interval of the others, which are draws."""
    row = {}
    for name in table:
        values = table[name].to_numpy()
        low, high = interval(values[1:])
        row |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return row


def at_gain(
    swept: Sweep,
    names: list[str],
    attribute_matrix: NDArray,
    popularity: NDArray,
    n_users: int,
    gain: float = 0.2,
) -> pd.DataFrame:
    """Side effects of each method where all have gained as much, between the doses around that.

    Returns
    -------
    pandas.DataFrame
        A row for each method and attribute that gains at least as much at some dose: ndcg, kept
        (share of the untouched NDCG), others (mean absolute change of the other attributes'
        shares), coverage, novelty, diversity; between two doses all are taken to change evenly.
    """
    shares, ndcg = _by_user(swept, names, attribute_matrix)
    untouched = int(np.flatnonzero(swept.settings["dose"] == 0)[0])
    before = share(swept.lists[untouched], attribute_matrix).mean(axis=0)
    rows = []
    up = swept.settings[swept.settings["dose"] >= 0]
    for (method, attribute), curve in up.groupby(["method", "attribute"], sort=False):
        order = curve.sort_values("dose").index
        gained = shares[order].mean(axis=1) - shares[order[0]].mean()
        if not (gained >= gain).any():
            continue
        stop = int((gained >= gain).argmax())
        part = (gain - gained[stop - 1]) / (gained[stop] - gained[stop - 1])
        found = []
        for at in order[stop - 1 : stop + 1]:
            lists = swept.lists[at]
            change = np.abs(share(lists, attribute_matrix).mean(axis=0) - before)
            found.append(
                [
                    ndcg[at].mean(),
                    ndcg[at].mean() / ndcg[untouched].mean(),
                    np.delete(change, names.index(attribute)).mean(),
                    metrics.coverage(lists, len(attribute_matrix) - 1),
                    metrics.novelty(lists, popularity, n_users),
                    metrics.diversity(lists),
                ]
            )
        mixed = (1 - part) * np.array(found[0]) + part * np.array(found[1])
        columns = ["ndcg", "kept", "others", "coverage", "novelty", "diversity"]
        rows.append(
            {"method": method, "attribute": attribute} | dict(zip(columns, mixed, strict=True))
        )
    return pd.DataFrame(rows)


def pick_attributes(wanted: str, names: list[str], attribute_matrix: NDArray) -> list[str]:
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
