"""Names for features, with their evidence, and a test that a wrong name would fail."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import hypergeom, norm, rankdata

from ..data import Dataset
from ..resampling import N_DRAWS, drawn_means, interval
from .chance import item_sums
from .monosemanticity import mean_by_item, strata, top_sets
from .scores import Codes

#: How many of a feature's strongest items are looked at.
N_TOP = 30
#: A property is part of a name if at least this share of the top items has it.
MIN_SHARE = 0.5
N_PAIRS, N_FOLDS = 200, 3
#: The other item of a pair is at most so many places away in the order of popularity.
NEIGHBOURS = 10


def held_out(n_items: int, share: float = 1 / 3, seed: int = 0) -> NDArray:
    """A random share of the items, which must not take part in naming: bool [n_items + 1]."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(n_items + 1, dtype=bool)
    chosen[1 + rng.permutation(n_items)[: round(share * n_items)]] = True
    return chosen


def names(
    codes: Codes,
    items: NDArray,
    dataset: Dataset,
    left_out: NDArray | None = None,
    level: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """A short label for every feature that fires, with evidence and confidence, or honestly none.

    What is asked of a feature, in this order:

    1. Does one item carry more than half of its activation mass? Then it is called that.
    2. Which attributes and decades are enriched among its `N_TOP` items of highest mean activation,
       against items of the same popularity (`enrichment`)? It is called by up to two attributes
       and a decade that are significant and that at least half of the top items have.
    3. Are the top items more, or less, popular than others (rank sum)? Then it is called that.

    The unit of every test is the item: positions of one item have all the same attributes. All
    p-values are corrected together (Holm), so that with probability 1 - `level` no label at all
    is there by chance.

    Parameters
    ----------
    codes
        [n_positions, n_features] on the SAE users, not negative; see `halves` for signed bases
    items
        [n_positions]
    left_out
        bool [n_items + 1], items that take no part: labels to be tested by `predict_pairs`.
    level
        Of the corrected p-values.
    seed
        Of the folds and pairs of the confidence.

    Returns
    -------
    pandas.DataFrame
        One row for each feature that fires: feature; label; kind (``item``, ``attribute``,
        ``decade``, ``popularity`` or empty); confidence; evidence, a sentence; and what the label
        says: label_attributes (separated by |), label_decade, label_popularity (1 popular, -1
        rare), label_item, each with its empty value where the label does not say it.

        The confidence of a label is an estimate of what `predict_pairs` finds: the feature is named
        anew without a third of the items, and the chance that the new label tells which of two
        items of this third activates the feature more (0.5: a coin) is averaged over the thirds.
        No other item can confirm the name of a single item: its confidence is its share of the
        mass. NaN where there is no label.
    """
    sums = item_sums(codes, items, dataset.n_items)
    living = np.flatnonzero(sums["value"].sum(axis=0) > 0)
    mean, mass = mean_by_item(sums)[:, living], sums["value"][:, living]
    allowed = np.ones(len(mean), dtype=bool) if left_out is None else ~left_out
    table = _label(mean, mass, allowed, dataset, level)
    rng = np.random.default_rng(seed)
    popularity = np.r_[0, dataset.items["popularity"]]
    fold = rng.permutation(len(mean)) % N_FOLDS
    right, folds = np.zeros(len(living)), np.zeros(len(living))
    for i in range(N_FOLDS):
        anew = _label(mean, mass, allowed & (fold != i), dataset, level)
        pairs = _pairs(mean, allowed & (fold == i), popularity, rng)
        accuracy = _accuracy(fits(anew, dataset), mean, *pairs)
        right += np.nan_to_num(accuracy)
        folds += ~np.isnan(accuracy)
    estimate = np.where(folds > 0, right / np.maximum(folds, 1), 0.5)
    confidence = np.where(table["kind"] == "item", table.pop("item_share"), estimate)
    table.insert(2, "confidence", np.where(table["kind"] != "", confidence, np.nan))
    table.insert(0, "feature", living)
    return table


def enrichment(top: NDArray, group: NDArray, has: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Whether sets of items have a property more often than items of the same popularity.

    Within each stratum of popularity, the number of a set's items with the property is
    hypergeometric if the set was drawn blindly; the number in all strata is the sum of
    independent ones, and its distribution, by convolution, is exact.

    Parameters
    ----------
    top
        [n_sets, n], items; 0 where there is none
    group
        [n_items + 1], the stratum of each item, -1 for items that no set may have
    has
        [n_items + 1, n_properties] of 0 and 1

    Returns
    -------
    hits, expected, p : [n_sets, n_properties]
        How many of the set's items have it, how many would, and the one-sided p-value.
    """
    size = np.bincount(group[group >= 0])
    known = np.stack([has[group == g].sum(axis=0) for g in range(len(size))])
    n_properties = has.shape[1]
    hits, expected, p = (np.zeros((len(top), n_properties)) for _ in range(3))
    probability = {}  # of 0, 1, ... n hits in a stratum: [n_properties, n + 1]
    for row, items in enumerate(top):
        items = items[items > 0]
        distribution = np.ones((n_properties, 1))
        for g, n in enumerate(np.bincount(group[items], minlength=len(size))):
            if not n:
                continue
            if (g, n) not in probability:
                k = np.arange(n + 1)
                probability[g, n] = hypergeom.pmf(k, size[g], known[g][:, None].astype(int), n)
            longer = np.zeros((n_properties, distribution.shape[1] + n))
            for k in range(n + 1):
                longer[:, k : k + distribution.shape[1]] += probability[g, n][:, [k]] * distribution
            distribution = longer
            expected[row] += n * known[g] / size[g]
        hits[row] = has[items].sum(axis=0)
        tail = distribution[:, ::-1].cumsum(axis=1)[:, ::-1]
        p[row] = tail[np.arange(n_properties), hits[row].astype(int)]
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


def _decades(dataset: Dataset) -> tuple[NDArray, list[str]]:
    """0/1 [n_items + 1, n_decades], and their names: 1980s."""
    year = dataset.items["year"].to_numpy(np.float64, na_value=np.nan)
    decade = np.r_[np.nan, year // 10 * 10]
    known = np.unique(decade[~np.isnan(decade)])
    return (decade[:, None] == known).astype(float), [f"{int(start)}s" for start in known]


def _popularity(top: NDArray, pool: NDArray, popularity: NDArray) -> tuple[NDArray, NDArray]:
    """Rank sum of the sets' popularity within the pool: z, and the two-sided p (normal)."""
    rank = np.zeros(len(pool))
    rank[pool] = rankdata(popularity[pool])
    n, total = (top > 0).sum(axis=1), pool.sum()
    deviation = np.sqrt(n * (total + 1) * (total - n) / 12)
    away = rank[top].sum(axis=1) - n * (total + 1) / 2
    z = np.divide(away, deviation, out=np.zeros(len(top)), where=deviation > 0)
    return z, 2 * norm.sf(np.abs(z))


def _label(
    mean: NDArray, mass: NDArray, allowed: NDArray, dataset: Dataset, level: float
) -> pd.DataFrame:
    """Labels of all features from the allowed items only; see `names`."""
    popularity = np.r_[0, dataset.items["popularity"]]
    pool = allowed & ~np.isnan(mean).all(axis=1)
    pool[0] = False
    group = np.full(len(pool), -1)
    group[pool] = strata(popularity[pool], size=max(1, pool.sum() // 10))
    top = top_sets(np.where(pool[:, None], mean, np.nan), N_TOP)
    decade, decade_names = _decades(dataset)
    has = np.hstack([dataset.attribute_matrix, decade])
    properties = [*dataset.attributes, *decade_names]
    hits, expected, p = enrichment(top, group, has)
    z, p_popularity = _popularity(top, pool, popularity)
    corrected = holm(np.hstack([p, p_popularity[:, None]]))
    p, p_popularity = corrected[:, :-1], corrected[:, -1]

    mass = np.where(allowed[:, None], mass, 0)
    strongest = mass.argmax(axis=0)
    item_share = mass.max(axis=0) / np.maximum(mass.sum(axis=0), 1e-300)
    n_top = (top > 0).sum(axis=1)
    enriched = (p < level) & (hits >= MIN_SHARE * n_top[:, None])
    n_attributes = len(dataset.attributes)
    titles = dataset.titles
    rows = []
    for i in range(len(top)):
        found = np.flatnonzero(enriched[i])
        found = found[np.argsort(p[i, found], kind="stable")]
        genres = [properties[j] for j in found if j < n_attributes][:2]
        decades = [properties[j] for j in found if j >= n_attributes][:1]
        row = {"label": "", "kind": "", "label_attributes": "", "label_decade": "",
               "label_popularity": 0, "label_item": 0, "item_share": item_share[i]}  # fmt: skip
        strong = [titles[item] for item in top[i, :3] if item]
        examples = f"strongest: {', '.join(strong)}" if strong else "too few positions to rank by"
        if item_share[i] > 0.5:
            title = titles[strongest[i]]
            row |= {"kind": "item", "label": f"“{title}”", "label_item": int(strongest[i])}
            because = f"{item_share[i]:.0%} of its activation is on this item"
        elif genres or decades:
            row |= {"kind": "attribute" if genres else "decade", "label_decade": "".join(decades)}
            row |= {"label_attributes": "|".join(genres)}
            row["label"] = " ".join([*decades, " + ".join(genres)]).strip()
            because = ", ".join(
                f"{hits[i, j]:.0f} of {n_top[i]} top items are {properties[j]}, "
                f"{expected[i, j]:.1f} expected (p {_p(p[i, j])})"
                for j in found
                if properties[j] in genres + decades
            )
        elif p_popularity[i] < level:
            row |= {"kind": "popularity", "label_popularity": int(np.sign(z[i]))}
            row["label"] = "popular items" if z[i] > 0 else "rare items"
            because = (
                f"median popularity of {n_top[i]} top items is "
                f"{np.median(popularity[top[i, : n_top[i]]]):.0f}, of all "
                f"{np.median(popularity[pool]):.0f} (p {_p(p_popularity[i])})"
            )
        else:
            because = f"nothing is enriched among {n_top[i]} top items"
        rows.append(row | {"evidence": f"{because}; {examples}"})
    table = pd.DataFrame(rows)
    return table[["label", "kind", "evidence", *table.columns.drop(["label", "kind", "evidence"])]]


def _p(value: float) -> str:
    return "< 1e-20" if value < 1e-20 else f"= {value:.1g}"


def fits(labels: pd.DataFrame, dataset: Dataset) -> NDArray:
    """How well each item fits each label, from the label alone: [n_labels, n_items + 1].

    The number of the label's attributes and decades that the item has; for ``popularity`` the
    item's popularity, or its negative; for an ``item`` 1 for that one. 0 without a label.
    """
    decade, decade_names = _decades(dataset)
    has = np.hstack([dataset.attribute_matrix, decade])
    column = {name: j for j, name in enumerate([*dataset.attributes, *decade_names])}
    says = np.zeros((len(labels), has.shape[1]))
    for i, row in enumerate(labels.itertuples()):
        for name in [*row.label_attributes.split("|"), row.label_decade]:
            if name:
                says[i, column[name]] = 1
    popularity = np.r_[0, dataset.items["popularity"]]
    fit = says @ has.T + np.outer(labels["label_popularity"], popularity)
    item = labels["label_item"].to_numpy()
    fit[np.flatnonzero(item), item[item > 0]] = 1
    return fit


def _pairs(
    mean: NDArray, pool: NDArray, popularity: NDArray, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Pairs of items of the pool for each feature: one that activates it, one as popular.

    So that popularity tells nothing of them: what is popular activates more of anything.
    Returns two arrays [n_features, N_PAIRS]; 0, 0 where no item of the pool activates it.
    """
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
    """Share of pairs of which the fit tells the stronger item; ties of the fit count half.

    Pairs that activate the feature alike are left out; NaN where no other is left.
    """
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
    n_shuffles: int = 100,
    seed: int = 0,
) -> tuple[pd.DataFrame, NDArray]:
    """From its label alone, tell which of two items activates a feature more.

    Neither the items (`left_out`) nor the users (test) took part in naming. Each pair is an item
    that activates the feature and one as popular, so that no label gets anything for popularity;
    the one that fits the label better (`fits`) is predicted to have the higher mean activation,
    and where both fit alike a coin decides (one half). The name of a single item says nothing of
    two others: its pairs are that item and any left-out one, so that only the users are new; it
    is counted apart.

    Pairs are harder the more items activate a feature, so that bases compare only if they are
    equally sparse: cut each down to the `strongest` share of positions first, before `names` too.

    Two controls: a coin, 0.5, and the same labels dealt out among the features of the same kind
    of test, `n_shuffles` times. Labels that all features would fit alike do no better than these.

    Parameters
    ----------
    labels
        From `names` with the same `left_out`.
    codes, items
        [n_positions, n_features] and [n_positions] on the test users

    Returns
    -------
    table : pandas.DataFrame
        One row for each kind, after a row ``all`` (all but ``item``): kind; features, how many
        were tested: those with a label that fire on a left-out item; coverage, their share of all
        features that fire; confidence, the mean of what `names` had promised; accuracy, mean over
        features, with low and high (95 %, bootstrap over features); told, accuracy times coverage:
        the share of all features whose label tells right; shuffled, the mean over the shuffles;
        p_value, the share of shuffles that do as well.
    drawn : [n_draws], the accuracy of ``all`` when features are drawn again
    """
    n_living = len(labels)
    labels = labels[labels["kind"] != ""].reset_index(drop=True)
    rng = np.random.default_rng(seed)
    codes = codes[:, labels["feature"].to_numpy()]
    mean = mean_by_item(item_sums(codes, items, dataset.n_items))
    first, second = _pairs(mean, left_out, np.r_[0, dataset.items["popularity"]], rng)
    fit = fits(labels, dataset)
    is_item = (labels["kind"] == "item").to_numpy()
    single = labels["label_item"].to_numpy()[:, None]
    pool = np.flatnonzero(left_out & ~np.isnan(mean).all(axis=1))
    if len(pool):
        second[is_item] = rng.choice(pool, (is_item.sum(), N_PAIRS))
    first = np.where(is_item[:, None], single, first)
    found = _accuracy(fit, mean, first, second)
    shuffled = np.full((n_shuffles, len(labels)), np.nan)
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
        row = {"kind": kind, "features": n, "coverage": n / max(n_living, 1)}
        if n:
            drawn = drawn_means(found[some])
            of_all = drawn if kind == "all" else of_all
            low, high = interval(drawn)
            null = np.nanmean(shuffled[:, some], axis=1)
            row |= {
                "confidence": labels["confidence"][some].mean(),
                "accuracy": found[some].mean(),
                "low": low,
                "high": high,
                "told": found[some].mean() * n / n_living,
                "shuffled": null.mean(),
                "p_value": (1 + (null >= found[some].mean()).sum()) / (1 + n_shuffles),
            }
        rows.append(row)
    return pd.DataFrame(rows), of_all
