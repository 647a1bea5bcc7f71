"""Gain and cost of edits, by strength; attribute matrices are 0/1, [n_items + 1, n_attributes]."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from .. import metrics
from ..hooks import find_site
from ..recommender import rank_items
from ..resampling import drawn_means, draws, interval
from ..workspace import name_nearest
from .methods import Method

USERS_AT_A_TIME = 256
#: Points between two strengths, and the largest gain that counts, in share of the list.
FINE, MOST = 20, 0.3


def share(lists: NDArray, attribute_matrix: NDArray) -> NDArray:
    """Share of each list that has each attribute: [..., k] -> [..., n_attributes]."""
    return attribute_matrix[lists].mean(axis=-2)


@contextmanager
def remembered(model: nn.Module, site: str) -> Iterator[None]:
    """While the block runs, the module at `site` repeats its last output for the same input.

    Arguments are compared if all are tensors, numbers, texts or None; with others it computes.
    """
    module = find_site(model, site)
    compute, kept = module.forward, []

    def forward(*inputs, **options):
        asked = {**dict(enumerate(inputs)), **options}
        known = kept and kept[0].keys() == asked.keys()
        if not (known and all(_same(kept[0][name], asked[name]) for name in asked)):
            asked = {name: _copy(value) for name, value in asked.items()}
            kept[:] = asked, compute(*inputs, **options)
        return _copy(kept[1])

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _same(a, b) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a.dtype, a.device) == (b.dtype, b.device) and torch.equal(a, b)
    return type(a) is type(b) and isinstance(a, (int, float, str, type(None))) and a == b


def _copy(value):
    """A tensor, or a tuple of some, that nobody else can change in place."""
    if isinstance(value, Tensor):
        return value.clone()
    return tuple(map(_copy, value)) if type(value) is tuple else value


class Sweep(NamedTuple):
    """Rankings of the same users under every setting."""

    settings: pd.DataFrame  # [method, attribute, strength], strength 0 is untouched
    lists: NDArray  # [n_settings, n_users, k] items
    rank: NDArray  # [n_settings, n_users] of the item taken next


def sweep(
    model: nn.Module,
    site: str,
    users: tuple[list[NDArray], NDArray],
    methods: dict[str, Method],
    attributes: list[str],
    strengths: Iterable[float],
    names: list[str],
    k: int = 10,
) -> Sweep:
    """Rank the catalogue for all users by each method, for each attribute and strength.

    `users` are histories, and the item [n_users] that each took next; `attributes` are steered,
    `names` all of them, in the order of the methods' columns. Strength 0 is measured once for all.
    """
    strengths = sorted({0.0, *strengths})
    settings = [(m, a, s) for m in methods for a in attributes for s in strengths]
    histories, targets = users
    # Filled in place: thousands of small results would cut the memory between them into pieces.
    lists = np.empty((len(settings), len(targets), k), np.int32)
    rank = np.empty((len(settings), len(targets)), np.int32)
    starts = range(0, len(targets), USERS_AT_A_TIME)
    with tqdm(total=len(starts) * len(settings), desc="strengths", leave=False) as bar:
        for start in starts:
            some = slice(start, start + USERS_AT_A_TIME)
            with remembered(model, site):
                untouched = rank_items(model.next_item_scores, histories[some], targets[some], k)
                for i, (method, attribute, strength) in enumerate(settings):
                    ranking = untouched
                    if strength:
                        scorer = methods[method](names.index(attribute), strength)
                        ranking = rank_items(scorer, histories[some], targets[some], k)
                    lists[i, some], rank[i, some] = ranking.lists, ranking.rank
                    bar.update()
    return Sweep(pd.DataFrame(settings, columns=["method", "attribute", "strength"]), lists, rank)


def measure(swept: Sweep, names: list[str], attribute_matrix: NDArray) -> pd.DataFrame:
    """What each setting does, averaged over users.

    Columns: the settings; ndcg, coverage, diversity; share (of the steered attribute in the lists)
    and ndcg_change (against the untouched lists), with ``_low`` and ``_high`` (95 %, bootstrap).
    """
    shares, ndcg = _by_user(swept, names, attribute_matrix)
    untouched = ndcg[swept.settings["strength"] == 0][0]
    rows = []
    for lists, of_share, of_ndcg in zip(swept.lists, shares, ndcg, strict=True):
        row = {"ndcg": of_ndcg.mean()}
        for name, values in {"share": of_share, "ndcg_change": of_ndcg - untouched}.items():
            low, high = interval(drawn_means(values))
            row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        row["coverage"] = metrics.coverage(lists, len(attribute_matrix) - 1)
        rows.append(row | {"diversity": metrics.diversity(lists)})
    return swept.settings.join(pd.DataFrame(rows))


def side_effects(swept: Sweep, names: list[str], attribute_matrix: NDArray) -> pd.DataFrame:
    """Change of attributes' shares from the untouched; columns: the settings, other, change."""
    shares = np.array([share(lists, attribute_matrix).mean(axis=0) for lists in swept.lists])
    change = shares - shares[swept.settings["strength"] == 0][0]
    others = [
        swept.settings.assign(other=name, change=change[:, i]) for i, name in enumerate(names)
    ]
    return pd.concat(others, ignore_index=True)


def at_same_gain(
    swept: Sweep,
    names: list[str],
    attribute_matrix: NDArray,
    attributes: list[str],
    method: str,
    strength: float,
    rival: str = "rerank",
) -> pd.DataFrame:
    """Change of all shares by a method at a strength, and by its rival at the same gain.

    The gain is that of the steered attribute, one of `attributes`; between two strengths of the
    rival all shares change evenly, and what it never gains is NaN. Columns: attribute, method,
    other, change, low, high (95 %, users drawn again).
    """
    s, tables = swept.settings, []
    untouched = share(swept.lists[s["strength"] == 0][0], attribute_matrix)
    for attribute in attributes:
        of, column = s[s["attribute"] == attribute], names.index(attribute)
        at = of.index[(of["method"] == method) & (of["strength"] == strength)][0]
        own = share(swept.lists[at], attribute_matrix) - untouched
        curve = of[(of["method"] == rival) & (of["strength"] >= 0)].sort_values("strength").index
        changes = share(swept.lists[curve], attribute_matrix) - untouched
        wanted, gained = own[:, column].mean(), changes[:, :, column].mean(axis=1)
        as_much = np.full_like(own, np.nan)
        if 0 <= wanted <= gained.max():
            after = (gained >= wanted).argmax()
            low, high = gained[max(0, after - 1)], gained[after]
            part = (wanted - low) / (high - low) if high > low else 1.0
            as_much = changes[max(0, after - 1)] * (1 - part) + changes[after] * part
        for name, by_user in ((method, own), (rival, as_much)):
            ends = np.array([interval(drawn) for drawn in drawn_means(by_user).T])
            table = pd.DataFrame({"attribute": attribute, "method": name, "other": names})
            table["change"], table["low"], table["high"] = by_user.mean(axis=0), *ends.T
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _by_user(swept: Sweep, names: list[str], attribute_matrix: NDArray) -> tuple[NDArray, NDArray]:
    """Share of the steered attribute in each list, and NDCG@k: both [n_settings, n_users]."""
    columns = [names.index(attribute) for attribute in swept.settings["attribute"]]
    pairs = zip(swept.lists, columns, strict=True)
    shares = np.array([attribute_matrix[lists, column].mean(axis=1) for lists, column in pairs])
    return shares, metrics.ndcg(swept.rank, swept.lists.shape[2])


def drawn_areas(
    swept: Sweep, names: list[str], attribute_matrix: NDArray, strong: float | None = None
) -> pd.DataFrame:
    """The area under kept NDCG@k against gained share, in each draw of the users.

    1 if gains were free, 0 if there were none. At each gain from 0 to `MOST`, the best NDCG counts,
    as a share of the untouched one, among the strengths from 0 that gain at least as much; between
    two strengths both change evenly. Gains that are not reached score 0.

    Draw 0 is every user once, the others are `resampling.draws`. Columns, by method, attribute and
    draw: pareto_area; kept_at_20, the share of NDCG that is kept at a gain of 20 points; with
    `strong`, share_gain_at_strong, the change of the share at that strength.
    """
    shares, ndcg = _by_user(swept, names, attribute_matrix)
    n_users = shares.shape[1]
    counts = np.vstack([np.ones(n_users), draws(n_users)]) / n_users
    shares, ndcg = shares @ counts.T, ndcg @ counts.T
    gains = np.append(np.linspace(0, MOST, 31), 0.2)
    tables = {}
    up = swept.settings[swept.settings["strength"] >= 0].sort_values("strength", kind="stable")
    for key, curve in up.groupby(["method", "attribute"], sort=False):
        at = np.arange((len(curve) - 1) * FINE + 1) / FINE
        between = np.array([np.interp(at, range(len(curve)), one) for one in np.eye(len(curve))])
        gained = (shares[curve.index] - shares[curve.index[0]]).T @ between
        with np.errstate(invalid="ignore", divide="ignore"):
            kept = ndcg[curve.index].T @ between / ndcg[curve.index[0]][:, None]
        best = [np.where(gained >= gain - 1e-9, kept, 0.0).max(axis=1) for gain in gains]
        area = np.trapezoid(best[:-1], gains[:-1], axis=0) / MOST
        tables[key] = pd.DataFrame({"pareto_area": area, "kept_at_20": best[-1]})
        if strong is not None:
            (there,) = curve.index[curve["strength"] == strong]
            tables[key]["share_gain_at_strong"] = shares[there] - shares[curve.index[0]]
    return pd.concat(tables, names=["method", "attribute", "draw"])


def areas(
    drawn: pd.DataFrame, against: str = "sae_several"
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, NDArray]]:
    """Methods compared by their areas with the method `against`, paired over draws of users.

    `drawn` is from `drawn_areas`, or several of them concatenated. Returns three things.
    by_attribute: for each method and attribute the columns of `drawn` with their intervals.
    by_method: means over attributes with their intervals; lead, by how much the area exceeds that
    of `against`; wins, on how many attributes it is at least as large; cheap, on how many the
    method keeps nine tenths of the NDCG at a gain of 20 points, and share_cheap, their share.
    draws: ``<method>.<column>`` -> the mean over attributes in each draw [n_draws].
    """
    means = drawn.groupby(["method", "draw"], sort=False).mean()
    area, by_attribute = means["pareto_area"], with_intervals(drawn)
    by_method = with_intervals(means.assign(lead=area.sub(area[against], level="draw")))
    rival = by_attribute.query("method == @against").set_index("attribute")["pareto_area"]
    wins = by_attribute["pareto_area"] >= by_attribute["attribute"].map(rival)
    cheap = (by_attribute["kept_at_20"] >= 0.9).groupby(by_attribute["method"], sort=False)
    by_method["wins"] = wins.groupby(by_attribute["method"], sort=False).sum().to_numpy()
    by_method["cheap"], by_method["share_cheap"] = cheap.sum().to_numpy(), cheap.mean().to_numpy()
    found = {
        f"{method}.{name}": own[name].to_numpy()[1:]
        for method, own in means.groupby("method", sort=False)
        for name in own
    }
    return by_attribute, by_method, found


def with_intervals(drawn: pd.DataFrame) -> pd.DataFrame:
    """Draw 0 of each column, ``_low`` and ``_high`` (95 %) of the others; levels become columns."""
    others = drawn.drop(0, level="draw").groupby(drawn.index.names[:-1], sort=False)
    low, high = others.quantile(0.025), others.quantile(0.975)
    parts = {"": drawn.xs(0, level="draw"), "_low": low, "_high": high}
    wide = pd.concat([part.add_suffix(end) for end, part in parts.items()], axis=1)
    return wide[[name + end for name in drawn for end in parts]].reset_index()


def pick_attributes(wanted: str, names: list[str], attribute_matrix: NDArray) -> list[str]:
    """Attributes in `wanted` (split at ``|``; ValueError if unknown), or the six of most items."""
    if not wanted:
        return [names[i] for i in np.argsort(-attribute_matrix.sum(axis=0), kind="stable")[:6]]
    chosen = list(dict.fromkeys(name.strip() for name in wanted.split("|")))
    for name in chosen:
        if name not in names:
            raise ValueError(f"attribute {name!r}: no item has it; {name_nearest(name, names)}")
    return chosen
