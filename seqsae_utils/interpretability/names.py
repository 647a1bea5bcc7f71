"""Names for features, with their evidence, and a test that a wrong name would fail."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import hypergeom, norm, rankdata

from ..data import Dataset
from ..resampling import N_DRAWS, drawn_means, interval, known_mean
from .items import item_sums, mean_by_item, strata, top_sets
from .scores import Codes

#: A property is part of a name if it is enriched (corrected p) and so many top items have it.
LEVEL, MIN_SHARE = 0.05, 0.5
#: Strongest items of a feature, pairs of a feature, folds of the confidence, and shuffles.
N_TOP, N_PAIRS, N_FOLDS, N_SHUFFLES = 30, 200, 3, 100
#: The columns of `predict_pairs`.
MEASURED = (
    "kind", "features", "coverage", "confidence", "accuracy", "low", "high", "told", "shuffled",
    "p_value",
)  # fmt: skip
#: The other item of a pair is at most so many places away in the order of popularity.
NEIGHBOURS = 10


def held_out(n_items: int, seed: int = 0) -> NDArray:
    """A random third of the items, which must not take part in naming: bool [n_items + 1]."""
    chosen = np.zeros(n_items + 1, dtype=bool)
    chosen[1 + np.random.default_rng(seed).permutation(n_items)[: round(n_items / 3)]] = True
    return chosen


def names(
    codes: Codes, items: NDArray, dataset: Dataset, left_out: NDArray | None = None, seed: int = 0
) -> pd.DataFrame:
    """A label for every feature that fires, with evidence, or none: by three questions in turn.

    1. Does one item carry more than half of its activation mass? Then it is called that.
    2. Which attributes and decades are enriched among its `N_TOP` items of highest mean activation
       (`enrichment`)? It is called by up to two attributes and a decade that are significant and
       that at least half of the top items have.
    3. Are the top items more, or less, popular than others (rank sum)? Then it is called that.

    Holm corrects all p-values together: with probability 1 - `LEVEL` no label is there by chance.

    `codes` [n_positions, n_features] are not negative; `items` is [n_positions]; `left_out`, bool
    [n_items + 1], keeps items for `predict_pairs`. Returns a row for each feature that fires:
    feature; label; kind (``item``, ``attribute``, ``decade``, ``popularity`` or empty); evidence, a
    sentence; what the label says, or empty or 0: label_properties (separated by |),
    label_popularity (1 popular, -1 rare), label_item; and confidence: the mean accuracy of
    `predict_pairs` on each third of the items when the feature is named anew without them; of a
    single item, its share of the mass.
    """
    sums = item_sums(codes, items, dataset.n_items)
    alive = np.flatnonzero(sums["value"].sum(axis=0) > 0)
    mean, mass = mean_by_item(sums)[:, alive], sums["value"][:, alive]
    allowed = np.ones(len(mean), dtype=bool) if left_out is None else ~left_out
    table = _label(mean, mass, allowed, dataset)
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(mean)) % N_FOLDS
    accuracy = []
    for i in range(N_FOLDS):
        anew = _label(mean, mass, allowed & (fold != i), dataset)
        pairs = _pairs(mean, allowed & (fold == i), dataset.popularity, rng)
        accuracy.append(_accuracy(fits(anew, dataset), mean, *pairs))
    estimate = pd.DataFrame(accuracy).mean().fillna(0.5)  # of the folds that could be asked
    confidence = np.where(table["kind"] == "item", table.pop("item_share"), estimate)
    table["confidence"] = np.where(table["kind"] != "", confidence, np.nan)
    table.insert(0, "feature", alive)
    return table


def enrichment(top: NDArray, group: NDArray, has: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Whether sets of items have a property more often than items of the same popularity.

    Within each stratum of popularity, the number of a set's items with the property is
    hypergeometric if the set was drawn blindly; the sum over strata is exact. `top` [n_sets, n] are
    items, 0 for none; `group` [n_items + 1] their strata, -1 for items that no set may have; `has`
    is [n_items + 1, n_properties]. Returns [n_sets, n_properties] each: how many of the set's items
    have it, how many are expected to, the one-sided p-value.
    """
    size = np.bincount(group[group >= 0])
    member = group == np.arange(len(size))[:, None]  # of no stratum, where no item is known enough
    known = member.astype(int) @ has.astype(int)
    drawn = member[:, top].sum(axis=2).T
    hits, expected = has[top].sum(axis=1), drawn @ (known / size[:, None])
    p = np.ones(hits.shape)
    probability = {}  # of 0, 1, ... n hits in a stratum: [n_properties, n + 1]
    for row, counts in enumerate(drawn):
        distribution = np.ones((has.shape[1], 1))
        for g in np.flatnonzero(counts):
            n = counts[g]
            if (g, n) not in probability:
                probability[g, n] = hypergeom.pmf(np.arange(n + 1), size[g], known[g][:, None], n)
            longer = np.zeros((has.shape[1], distribution.shape[1] + n))
            for k in range(n + 1):
                longer[:, k : k + distribution.shape[1]] += probability[g, n][:, [k]] * distribution
            distribution = longer
        tail = distribution[:, ::-1].cumsum(axis=1)[:, ::-1]
        p[row] = tail[np.arange(has.shape[1]), hits[row].astype(int)]
    return hits, expected, np.minimum(p, 1)


def holm(p: NDArray) -> NDArray:
    """Holm's correction of all p-values of an array together (Holm 1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, axis=None)
    stepped = p.ravel()[order] * np.arange(p.size, 0, -1)
    corrected = np.empty(p.size)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected.reshape(p.shape)


def _properties(dataset: Dataset) -> tuple[NDArray, list[str]]:
    """Attributes and decades of items, 0/1 [n_items + 1, n_properties], and their names: 1980s."""
    year = dataset.items["year"].to_numpy(np.float64, na_value=np.nan)
    decade = np.r_[np.nan, year // 10 * 10]
    known = np.unique(decade[~np.isnan(decade)])
    has = np.hstack([dataset.attribute_matrix, decade[:, None] == known])
    return has, [*dataset.attributes, *(f"{int(start)}s" for start in known)]


def _rank_sum(top: NDArray, pool: NDArray, popularity: NDArray) -> tuple[NDArray, NDArray]:
    """Rank sum of the sets' popularity within the pool: z, and the two-sided p (normal)."""
    rank = np.zeros(len(pool))
    rank[pool] = rankdata(popularity[pool])
    n, total = (top > 0).sum(axis=1), pool.sum()
    deviation = np.sqrt(n * (total + 1) * (total - n) / 12)
    away = rank[top].sum(axis=1) - n * (total + 1) / 2
    z = np.divide(away, deviation, out=np.zeros(len(top)), where=deviation > 0)
    return z, 2 * norm.sf(np.abs(z))


def _label(mean: NDArray, mass: NDArray, allowed: NDArray, dataset: Dataset) -> pd.DataFrame:
    """Labels of all features from the allowed items only; see `names`."""
    has, properties = _properties(dataset)
    popularity, titles = dataset.popularity, dataset.titles
    pool = allowed & ~np.isnan(mean).all(axis=1)
    group = np.full(len(pool), -1)
    group[pool] = strata(popularity[pool], size=max(1, pool.sum() // 10))
    top = top_sets(np.where(pool[:, None], mean, np.nan), N_TOP)
    n_top = (top > 0).sum(axis=1)
    hits, expected, p = enrichment(top, group, has)
    z, p_popularity = _rank_sum(top, pool, popularity)
    corrected = holm(np.column_stack([p, p_popularity]))
    p, p_popularity = corrected[:, :-1], corrected[:, -1]
    enriched = (p < LEVEL) & (hits >= MIN_SHARE * n_top[:, None])
    mass = np.where(allowed[:, None], mass, 0)
    share = mass.max(axis=0) / np.maximum(mass.sum(axis=0), 1e-300)
    rows = []
    for i, items in enumerate(top):
        found = [j for j in np.argsort(p[i], kind="stable") if enriched[i, j]]
        genres = [j for j in found if j < len(dataset.attributes)][:2]
        decades = [j for j in found if j >= len(dataset.attributes)][:1]
        said = [properties[j] for j in (*genres, *decades)]
        row = dict.fromkeys(("label", "kind", "evidence"), "") | {"item_share": share[i]}
        row |= {"label_properties": "", "label_popularity": 0, "label_item": 0}
        if share[i] > 0.5:
            row |= {"kind": "item", "label_item": int(mass[:, i].argmax())}
            row["label"] = f"“{titles[row['label_item']]}”"
            because = f"{share[i]:.0%} of its activation is on this item"
        elif said:
            row |= {"kind": "attribute" if genres else "decade", "label_properties": "|".join(said)}
            row["label"] = " ".join([*said[len(genres) :], " + ".join(said[: len(genres)])]).strip()
            because = ", ".join(
                f"{hits[i, j]:.0f} of {n_top[i]} top items are {properties[j]}, "
                f"{expected[i, j]:.1f} expected (p {_p(p[i, j])})"
                for j in found
                if j in (*genres, *decades)
            )
        elif p_popularity[i] < LEVEL:
            row |= {"kind": "popularity", "label_popularity": int(np.sign(z[i]))}
            row["label"] = "popular items" if z[i] > 0 else "rare items"
            median, of_all = (np.median(popularity[of]) for of in (items[: n_top[i]], pool))
            because = (
                f"median popularity of {n_top[i]} top items is {median:.0f}, of all {of_all:.0f} "
                f"(p {_p(p_popularity[i])})"
            )
        else:
            because = f"nothing is enriched among {n_top[i]} top items"
        strong = ", ".join(titles[item] for item in items[:3] if item)
        examples = f"strongest: {strong}" if strong else "too few positions to rank by"
        rows.append(row | {"evidence": f"{because}; {examples}"})
    return pd.DataFrame(rows)


def _p(value: float) -> str:
    return "< 1e-20" if value < 1e-20 else f"= {value:.1g}"


def fits(labels: pd.DataFrame, dataset: Dataset) -> NDArray:
    """How well each item fits each label, from the label alone: [n_labels, n_items + 1].

    The number of the label's properties that it has; its popularity, or minus that; 1 for its item.
    """
    has, properties = _properties(dataset)
    fit = np.outer(labels["label_popularity"], dataset.popularity).astype(np.float64)
    for row, said, item in zip(fit, labels["label_properties"], labels["label_item"], strict=True):
        if said:
            row += has[:, [properties.index(name) for name in said.split("|")]].sum(axis=1)
        if item:
            row[item] = 1
    return fit


def _pairs(
    mean: NDArray, pool: NDArray, popularity: NDArray, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Pairs [n_features, N_PAIRS]: an item of the pool that activates it, one as popular; or 0s."""
    pool = np.flatnonzero(pool & ~np.isnan(mean).all(axis=1))
    pool = pool[np.lexsort((rng.random(len(pool)), popularity[pool]))]
    first = np.zeros((mean.shape[1], N_PAIRS), dtype=np.int64)
    second = np.zeros_like(first)
    for j in range(mean.shape[1]):
        active = np.flatnonzero(mean[pool, j] > 0)
        if len(active):
            at = rng.choice(active, N_PAIRS)
            away = rng.integers(1, NEIGHBOURS + 1, N_PAIRS) * rng.choice([-1, 1], N_PAIRS)
            near = at + away
            near = np.where((near < 0) | (near >= len(pool)), at - away, near)
            first[j], second[j] = pool[at], pool[near.clip(0, len(pool) - 1)]
    return first, second


def _accuracy(fit: NDArray, mean: NDArray, first: NDArray, second: NDArray) -> NDArray:
    """Share of pairs of unequal activation that the fit predicts, its ties a half; or NaN."""
    row = np.arange(len(fit))[:, None]
    truth = np.nan_to_num(np.sign(mean[first, row] - mean[second, row]))
    guess = np.sign(fit[row, first] - fit[row, second])
    with np.errstate(invalid="ignore"):
        return 0.5 + 0.5 * (truth * guess).sum(axis=1) / np.abs(truth).sum(axis=1)


def predict_pairs(
    labels: pd.DataFrame,
    codes: Codes,
    items: NDArray,
    dataset: Dataset,
    left_out: NDArray,
    seed: int = 0,
) -> tuple[pd.DataFrame, NDArray]:
    """Predict, from a feature's label alone, which of two items activates it more.

    Neither the items (`left_out`) nor the users (test) took part in naming. Each pair is an item
    that activates the feature and one as popular. The one that fits the label better (`fits`) is
    predicted to have the higher mean activation; a tie counts half. A single item's name says
    nothing about two others: its pairs are that item and any left-out one, and it is counted apart.
    Two nulls: a coin, 0.5, and the same labels, shuffled `N_SHUFFLES` times between features.

    `labels` are from `names` with the same `left_out`; `codes` are [n_positions, n_features],
    `items` [n_positions]. Returns a row ``all`` (all but ``item``) and one for each kind: kind;
    features, how many have a label and fire on a left-out item; coverage, their share of all that
    fire; confidence, the mean of `names`'; accuracy, mean over features, with low and high (95 %,
    features drawn); told, accuracy times coverage; shuffled, the mean of the shuffles; p_value, the
    share of them that do as well; all from confidence on are NaN where no label could be tested.
    And the drawn accuracies of ``all`` [n_draws].
    """
    n_alive = len(labels)
    labels = labels[labels["kind"] != ""].reset_index(drop=True)
    rng = np.random.default_rng(seed)
    codes = codes[:, labels["feature"].to_numpy()]
    mean = mean_by_item(item_sums(codes, items, dataset.n_items))
    first, second = _pairs(mean, left_out, dataset.popularity, rng)
    fit = fits(labels, dataset)
    is_item = (labels["kind"] == "item").to_numpy()
    single = labels["label_item"].to_numpy()[:, None]
    pool = np.flatnonzero(left_out & ~np.isnan(mean).all(axis=1))
    if len(pool):
        second[is_item] = rng.choice(pool, (is_item.sum(), N_PAIRS))
    first = np.where(is_item[:, None], single, first)
    found = _accuracy(fit, mean, first, second)
    shuffled = np.full((N_SHUFFLES, len(labels)), np.nan)
    for draw in shuffled:
        for some in (np.flatnonzero(is_item), np.flatnonzero(~is_item)):
            dealt = rng.permutation(some)
            one = np.where(is_item[some, None], single[dealt], first[some])
            draw[some] = _accuracy(fit[dealt], mean[:, some], one, second[some])
    rows, of_all = [], np.full(N_DRAWS, np.nan)
    for kind in ["all", *sorted(set(labels["kind"]))]:
        some = ~is_item if kind == "all" else (labels["kind"] == kind).to_numpy()
        some = some & ~np.isnan(found)
        n = int(some.sum())
        row = {"kind": kind, "features": n, "coverage": n / max(n_alive, 1)}
        if n:
            drawn = drawn_means(found[some])
            of_all = drawn if kind == "all" else of_all
            accuracy, null = found[some].mean(), known_mean(shuffled[:, some], axis=1)
            row |= {"confidence": labels["confidence"][some].mean(), "accuracy": accuracy}
            row["low"], row["high"] = interval(drawn)
            row |= {"told": accuracy * n / n_alive, "shuffled": null.mean()}
            row["p_value"] = (1 + (null >= accuracy).sum()) / (1 + N_SHUFFLES)
        rows.append(row)
    return pd.DataFrame(rows, columns=MEASURED), of_all
