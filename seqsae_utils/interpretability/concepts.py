"""Concepts with a feature of their own: chosen by half of a concept's items, scored on the rest."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import diags_array

from ..resampling import N_DRAWS, drawn_means, draws, interval, known_mean
from .chance import choose, of_chosen
from .comparison import GROUPS, Positions
from .items import MIN_POSITIONS, indicator, item_sums, permuted
from .scores import Codes, as_dense

#: A concept counts as found above these AUCs.
FOUND = (0.8, 0.85, 0.9)
#: Items of a concept that each half of the catalogue must hold for it to be scored.
MIN_ITEMS = 4
#: Times that concepts are dealt anew among equally popular items, and draws of users and items.
N_PERMUTATIONS, N_CONCEPT_DRAWS = 10, 50


def ranks(values: NDArray, weights: NDArray) -> NDArray:
    """Mid-rank of each entry in its column, items counted `weights` [n_items] times.

    `values` are [n_items, n_features]; a rank is the weight of all lower values and half of that of
    equal ones, its own included.

    >>> ranks(np.array([[0.0], [2.0], [0.0]]), np.array([1.0, 1.0, 1.0])).ravel().tolist()
    [1.0, 2.5, 1.0]
    """
    found = np.empty(values.shape)
    for start in range(0, values.shape[1], 32):  # all at once would take nine times the memory
        some = values[:, start : start + 32]
        order = np.argsort(some, axis=0, kind="stable")
        ordered, weight = np.take_along_axis(some, order, axis=0), weights[order]
        total = weight.cumsum(axis=0)
        edge = np.ones((1, some.shape[1]), dtype=bool)
        steps = ordered[1:] > ordered[:-1]
        below = np.maximum.accumulate(np.where(np.vstack([edge, steps]), total - weight, 0), axis=0)
        to_last = np.where(np.vstack([steps, edge]), total, np.inf)
        upto = np.minimum.accumulate(to_last[::-1], axis=0)[::-1]
        np.put_along_axis(found[:, start : start + 32], order, (below + upto) / 2, axis=0)
    return found


def auc(ranked: NDArray, matrix: Codes, weights: NDArray) -> NDArray:
    """How often an item with a concept has the higher value: [n_features, n_concepts].

    All pairs at once, by Mann and Whitney's U: `ranked` [n_items, n_features] are the values'
    `ranks`, `matrix` is 0/1 [n_items, n_concepts], items count `weights` [n_items] times; ties
    count half. NaN where every item has the concept, or none.
    """
    weighted = diags_array(weights) @ matrix
    inside, total = weighted.sum(axis=0), weights.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranked.T @ weighted - inside**2 / 2) / (inside * (total - inside))


def find_concepts(
    representations: dict[str, Mapping[str, Codes]],
    positions: dict[str, Positions],
    matrix: Codes,
    folds: NDArray,
    popularity: NDArray,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, NDArray]]:
    """How many concepts a representation has a feature for, judged by items that did not choose it.

    A feature's value on an item is its mean activation there (items with `MIN_POSITIONS` positions
    of the group). In each fold (`film_splits`), each concept takes the feature, and its sign, whose
    AUC is furthest from one half on the development users and the items that choose; its AUC on the
    test users and the other items is the score. Concepts count where both halves hold `MIN_ITEMS`
    of their items. The control deals concepts anew among equally popular items, `N_PERMUTATIONS`
    times, and chooses and scores again.

    `representations` are codes by name and group, `matrix` 0/1 [n_items + 1, n_concepts],
    `popularity` [n_items + 1]. Returns three things. table, by representation: concepts (scored),
    auc (their mean), for each of `FOUND` above_80, ... (how many, mean over folds) and chance_80,
    ... (the same of dealt concepts); ``_low`` and ``_high`` of auc and above (95 %). scores:
    [n_concepts], a column for each representation, mean over folds, NaN where never scored. drawn:
    ``<representation>.<column>`` -> [N_DRAWS], `N_CONCEPT_DRAWS` draws of users and items,
    repeated. A count of noisy scores above a threshold is biased, so its draws are moved to have
    the count as their mean.
    """
    n_items, test = matrix.shape[0] - 1, positions["test"]
    _, user = np.unique(test.users, return_inverse=True)
    of_users = draws(user.max() + 1, N_CONCEPT_DRAWS).astype(np.float64)
    of_items = draws(n_items, N_CONCEPT_DRAWS, seed=1).astype(np.float64)
    one_hot = indicator(test.items, np.arange(len(test.items)), (n_items + 1, len(test.items)))
    dealt = _deals(popularity, seed)
    rows, scores, drawn = {}, {}, {}
    for name, made in representations.items():
        codes = {group: made[group] for group in GROUPS}
        per_fold, by_chance, redrawn = [], [], []
        for half in folds:
            halves = _Halves.of(codes, positions, half)
            found, feature, sign = halves.score(matrix)
            per_fold.append(found)
            by_chance += [_summary(halves.score(matrix[order])[0]) for order in dealt]
            some, column = np.unique(feature, return_inverse=True)
            x, scoring = codes["test"][:, some], halves.items["test"]
            for users, items in zip(of_users, of_items, strict=True):
                count = np.bincount(test.items, users[user], n_items + 1)[scoring]
                summed = as_dense((one_hot * users[user]) @ x)[scoring]
                value = summed / np.maximum(count, 1e-12)[:, None]
                weights = items[scoring - 1] * (count > 0)
                again = auc(ranks(value, weights), matrix[scoring], weights)
                again = of_chosen(again, column, sign, 0.5)
                redrawn.append(_summary(np.where(np.isnan(found), np.nan, again)))
        table = pd.DataFrame(redrawn).groupby(np.arange(len(redrawn)) % N_CONCEPT_DRAWS).mean()
        points = pd.DataFrame(map(_summary, per_fold)).mean()
        table += points - table.mean()
        chance = pd.DataFrame(by_chance).mean().drop("auc")
        rows[name] = {"concepts": np.isfinite(per_fold).sum(axis=1).mean(), **points}
        rows[name] |= {key.replace("above", "chance"): value for key, value in chance.items()}
        for key, values in table.items():
            rows[name][f"{key}_low"], rows[name][f"{key}_high"] = interval(values.to_numpy())
            drawn[f"{name}.{key}"] = np.resize(values, N_DRAWS)
        scores[name] = pd.DataFrame(per_fold).mean()
    return pd.DataFrame(rows).T, pd.DataFrame(scores), drawn


class _Halves(NamedTuple):
    """Ranks of mean activations: of items that choose (``dev``), of those that score (``test``)."""

    items: dict[str, NDArray]  # [n_some]
    fires: NDArray  # bool [n_features], on items of both
    ranked: dict[str, NDArray]  # [n_some, n_features], see `ranks`

    @classmethod
    def of(cls, codes: Mapping[str, Codes], positions: dict[str, Positions], half: NDArray):
        """From codes [n_positions, n_features]; `half` of the items choose: bool [n_items + 1]."""
        items, ranked, fires = {}, {}, np.array(True)
        for group, chosen in zip(GROUPS, (half, ~half), strict=True):
            sums = item_sums(codes[group], positions[group].items, len(half) - 1)
            enough = (sums["count"] >= MIN_POSITIONS) & chosen
            enough[0] = False
            items[group] = np.flatnonzero(enough)
            mean = sums["value"][enough] / sums["count"][enough, None]
            ranked[group], fires = ranks(mean, np.ones(len(mean))), fires & (mean != 0).any(axis=0)
        return cls(items, fires, ranked)

    def auc(self, group: str, matrix: Codes) -> NDArray:
        """AUC [n_features, n_concepts] on the items of a group; NaN where too few have it."""
        enough = np.min([matrix[some].sum(axis=0) for some in self.items.values()], axis=0)
        has = matrix[self.items[group]]
        found = auc(self.ranked[group], has, np.ones(has.shape[0]))
        return np.where(enough >= MIN_ITEMS, found, np.nan)

    def score(self, matrix: Codes) -> tuple[NDArray, NDArray, NDArray]:
        """The chosen features' AUC, their number and their sign: three arrays [n_concepts]."""
        feature, sign = choose(self.auc("dev", matrix), 0.5)
        return of_chosen(self.auc("test", matrix), feature, sign, 0.5), feature, sign


def _deals(popularity: NDArray, seed: int) -> list[NDArray]:
    """Whose concepts each item [n_items + 1] gets in each deal among equally popular items."""
    items = np.arange(len(popularity))
    return [permuted(items, popularity, seed=seed + i) for i in range(N_PERMUTATIONS)]


def _summary(found: NDArray) -> dict[str, float]:
    """Mean AUC, and how many concepts are above each of `FOUND`, from scores [n_concepts]."""
    above = {f"above_{100 * level:.0f}": float((found > level).sum()) for level in FOUND}
    return {"auc": float(known_mean(found)), **above}


def explained(
    codes: Mapping[str, Codes],
    positions: dict[str, Positions],
    matrix: Codes,
    names: list[str],
    half: NDArray,
    popularity: NDArray,
    seed: int = 0,
) -> pd.DataFrame:
    """For each feature the concept that explains it best, and honestly none.

    On the development users and the items of `half` (bool [n_items + 1]), each feature takes the
    concept with the highest AUC; on the test users and the other items it must exceed what 95 % of
    the features reach when concepts are dealt among equally popular items. Columns: feature,
    concept (empty: none), candidate (before the test), auc (of the candidate, on the other items),
    needed (what chance reaches).
    """
    halves = _Halves.of(codes, positions, half)
    alive = np.flatnonzero(halves.fires)

    def best(has: Codes) -> tuple[NDArray, NDArray]:
        known, new = (np.nan_to_num(halves.auc(group, has)[alive], nan=0.5) for group in GROUPS)
        concept = known.argmax(axis=1)
        return concept, new[np.arange(len(alive)), concept]

    concept, found = best(matrix)
    by_chance = [best(matrix[order])[1] for order in _deals(popularity, seed)]
    needed = float(np.quantile(by_chance, 0.95)) if len(alive) else np.nan
    candidate = np.asarray(names)[concept]
    table = pd.DataFrame({"feature": alive, "candidate": candidate, "auc": found})
    table.insert(1, "concept", np.where(found > needed, candidate, ""))
    return table.assign(needed=needed)


def told_by_labels(
    representations: dict[str, Mapping[str, Codes]],
    positions: dict[str, Positions],
    matrix: Codes,
    half: NDArray,
    strata: NDArray,
    genres: NDArray,
) -> tuple[pd.DataFrame, dict[str, NDArray]]:
    """Does a feature's label tell which of two alike items activates it more? As many of each.

    Every feature is labelled with the concept that it tells best on the development users and the
    items of `half` (bool [n_items + 1]). The representation with the fewest features sets the
    number, and the others give those whose density (share of test positions) is nearest, one to
    one. On the test users and the other items each item with the concept is set against all without
    it in the same stratum (`strata` [n_items + 1], e.g. of popularity and year); ``hard``: only
    items of the genre that the concept's items have most often (`genres` 0/1 [n_items + 1, n]).

    `matrix` is 0/1 [n_items + 1, n_concepts]. Returns a table by representation: features (how many
    could be asked), accuracy and hard (share of pairs in which the item with the concept activates
    the feature more, ties half; mean over features), each with ``_low`` and ``_high`` (features
    drawn); and drawn: ``<representation>.<column>`` -> [N_DRAWS].
    """
    own_genre = (matrix.T @ genres).argmax(axis=1)
    halves, alive, density = {}, {}, {}
    for name, made in representations.items():
        codes = {group: made[group] for group in GROUPS}
        halves[name] = _Halves.of(codes, positions, half)
        alive[name] = np.flatnonzero(halves[name].fires)
        share = np.asarray((codes["test"] > 0).mean(axis=0)).ravel()
        density[name] = np.log(share[alive[name]])
    fewest = min(alive, key=lambda name: len(alive[name]))
    rows, drawn = {}, {}
    for name, found in halves.items():
        apart = np.abs(density[fewest][:, None] - density[name])
        features = alive[name][linear_sum_assignment(apart)[1]]
        known = np.nan_to_num(found.auc("dev", matrix)[features], nan=0.0)
        items, values = found.items["test"], found.ranked["test"][:, features]
        scores = {"accuracy": [], "hard": []}
        for value, concept in zip(values.T, known.argmax(axis=1), strict=True):
            has = as_dense(matrix[:, [concept]])[items, 0] > 0
            alike = genres[items, own_genre[concept]] > 0
            scores["accuracy"].append(_ahead(value, has, strata[items], np.ones_like(has)))
            scores["hard"].append(_ahead(value, has, strata[items], alike))
        rows[name] = {"features": float(np.isfinite(scores["accuracy"]).sum())}
        for column, each in scores.items():
            values = np.asarray(each)[np.isfinite(each)]
            of_draws = drawn_means(values) if len(values) else np.full(N_DRAWS, np.nan)
            rows[name][column] = values.mean() if len(values) else np.nan
            rows[name][f"{column}_low"], rows[name][f"{column}_high"] = interval(of_draws)
            drawn[f"{name}.{column}"] = of_draws
    return pd.DataFrame(rows).T, drawn


def _ahead(value: NDArray, has: NDArray, strata: NDArray, among: NDArray) -> float:
    """Share of pairs of one stratum whose item that `has` it has the higher value; NaN for none."""
    own, other = np.flatnonzero(has & among), np.flatnonzero(~has & among)
    same = strata[own][:, None] == strata[other]
    higher = np.sign(value[own][:, None] - value[other])
    return 0.5 + 0.5 * (higher * same).sum() / same.sum() if same.any() else np.nan
