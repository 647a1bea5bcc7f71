"""Is a feature about one thing? Beyond the best score of a few features: all of them.

Everything here depends on a feature only through its *mass*, the sum of its activation over the
positions of each item. Signed bases (hidden dimensions, principal components) are first cut into
`halves`, since the high and the low end of a dimension may be about different things.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..data import Dataset
from ..workspace import name_nearest
from .comparison import Positions, correlation_from_sums, item_sums
from .scores import Codes, as_dense

#: Items with fewer positions than this have no mean activation worth ranking by.
MIN_POSITIONS = 3


def halves(codes: dict[str, Codes]) -> dict[str, Codes]:
    """Each signed dimension as two features: what is above its mean, and what is below.

    The mean is that of the group ``sae``. Dimension j becomes feature j (above) and feature
    n_features + j (below). Sparse codes are not negative and stay what they are.

    >>> halves({"sae": np.array([[1.0], [3.0]])})["sae"]
    array([[0., 1.],
           [1., 0.]])
    """
    if sparse.issparse(codes["sae"]):
        return codes
    mean = codes["sae"].mean(axis=0, dtype=np.float64).astype(codes["sae"].dtype)
    return {group: np.maximum(np.hstack([x - mean, mean - x]), 0) for group, x in codes.items()}


def strongest(codes: Codes, share: float) -> sparse.csc_array:
    """Only the strongest positions of each feature, at most this share of all; ties at the edge.

    >>> strongest(np.array([[3.0, 0], [1, 0], [2, 5], [0, 0]]), share=0.5).toarray()
    array([[3., 0.],
           [0., 0.],
           [2., 5.],
           [0., 0.]])
    """
    n = max(1, round(share * codes.shape[0]))
    columns = codes.tocsc() if sparse.issparse(codes) else codes.T
    rows, values = [], []
    for j in range(codes.shape[1]):
        if sparse.issparse(codes):
            of = slice(columns.indptr[j], columns.indptr[j + 1])
            row, value = columns.indices[of], columns.data[of]
        else:
            row = np.flatnonzero(columns[j] > 0)
            value = columns[j][row]
        edge = np.partition(value, -n)[-n] if len(value) > n else 0
        kept = (value >= edge) & (value > 0)
        rows.append(row[kept])
        values.append(value[kept])
    ends = np.cumsum([0, *map(len, rows)])
    return sparse.csc_array((np.concatenate(values), np.concatenate(rows), ends), codes.shape)


def strata(popularity: NDArray, size: int = 50) -> NDArray:
    """Items in groups of about `size` that are equally popular: group of each, [n_items].

    >>> strata(np.array([9, 1, 7, 2]), size=2)
    array([1, 0, 1, 0])
    """
    rank = np.argsort(np.argsort(popularity, kind="stable"), kind="stable")
    n_groups = max(1, round(len(popularity) / size))
    return rank * n_groups // len(popularity)


def exchanged(group: NDArray, rng: np.random.Generator) -> NDArray:
    """A permutation [n_items + 1] that gives each item another of its stratum; 0 stays 0."""
    order = np.lexsort((rng.random(len(group)), group))
    permutation = np.zeros(len(group) + 1, dtype=np.int64)
    permutation[1 + np.argsort(group, kind="stable")] = 1 + order
    return permutation


def mean_by_item(sums: dict[str, NDArray]) -> NDArray:
    """Mean activation on the positions of each item, [n_items + 1, n_features], from `item_sums`.

    NaN for items with fewer than `MIN_POSITIONS` positions.
    """
    count = np.where(sums["count"] >= MIN_POSITIONS, sums["count"], np.nan)
    return sums["value"] / count[:, None]


def top_sets(mean: NDArray, n: int) -> NDArray:
    """The items with the highest mean activation, for all features at once.

    From `mean_by_item` to [n_features, n], strongest first; 0 where fewer than n items activate
    the feature.

    >>> top_sets(np.array([[np.nan], [0.0], [2.0], [3.0]]), n=3)
    array([[3, 2, 0]])
    """
    ranked = np.nan_to_num(mean).T
    n = min(n, ranked.shape[1] - 1)
    top = np.argpartition(-ranked, n - 1, axis=1)[:, :n]
    strength = np.take_along_axis(ranked, top, axis=1)
    order = np.lexsort((top, -strength), axis=1)
    top, strength = (np.take_along_axis(x, order, axis=1) for x in (top, strength))
    return np.where(strength > 0, top, 0)


def audiences(dataset: Dataset) -> sparse.csr_array:
    """Who had each item, [n_items + 1, n_users], rows of length 1, among the recommender users."""
    users = dataset.users["user"][dataset.users["split"] == "recommender"]
    table = dataset.interactions[dataset.interactions["user"].isin(users)]
    had = sparse.csr_array(
        (np.ones(len(table)), (table["item"], table["user"])),
        shape=(dataset.n_items + 1, len(dataset.users)),
    )
    length = np.sqrt(np.asarray(had.sum(axis=1)).ravel())
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(length, 1)) @ had)


def coherence(top: NDArray, dataset: Dataset) -> pd.DataFrame:
    """Whether the top items of a feature belong together by what is no attribute.

    Two measures, each a mean over pairs of the top items, and beside each what pairs of items of
    the same popularity give (`strata`). That expectation is exact, not drawn: the mean over all
    pairs of different items of the two strata.

    Release years were never seen by the model. Co-consumption, the cosine of the two items'
    audiences, was: the recommender users taught it to the model. But neither the SAE nor the test
    users have a part in it.

    Parameters
    ----------
    top
        [n_features, n], items; 0 where there is none

    Returns
    -------
    pandas.DataFrame
        One row a feature: year_gap (years apart), year_gap_chance, co_consumption (cosine),
        co_consumption_chance; NaN where fewer than two items are left (with a year).
    """
    group = np.r_[-1, strata(dataset.items["popularity"].to_numpy())]
    year = np.r_[np.nan, dataset.items["year"].to_numpy(np.float64, na_value=np.nan)]
    audience = audiences(dataset)
    dated = np.where(np.isnan(year[top]), 0, top)
    pairs = {"year_gap": dated, "co_consumption": top}
    chance = {"year_gap": _year_gaps(year, group), "co_consumption": _cosines(audience, group)}

    columns = {
        name: np.full(len(top), np.nan) for pair in pairs for name in (pair, f"{pair}_chance")
    }
    for feature in range(len(top)):
        for name, sets in pairs.items():
            items = sets[feature][sets[feature] > 0]
            first, second = np.triu_indices(len(items), 1)
            if not len(first):
                continue
            if name == "year_gap":
                found = np.abs(year[items[first]] - year[items[second]]).mean()
            else:
                together = audience[items].sum(axis=0)
                found = (together @ together - audience[items].power(2).sum()) / 2 / len(first)
            columns[name][feature] = found
            expected = chance[name][group[items[first]], group[items[second]]]
            columns[f"{name}_chance"][feature] = expected.mean()
    return pd.DataFrame(columns)


def _year_gaps(year: NDArray, group: NDArray) -> NDArray:
    """Mean distance in years of items of two strata, [n_strata, n_strata]."""
    known = np.flatnonzero(~np.isnan(year))
    member = _members(group[known], group.max() + 1)
    total = np.stack(
        [
            member @ np.abs(year[known[rows.indices], None] - year[known]).sum(axis=0)
            for rows in member
        ]
    )
    return _over_pairs(total, 0.0, np.asarray(member.sum(axis=1)).ravel())


def _cosines(audience: sparse.csr_array, group: NDArray) -> NDArray:
    """Mean cosine of the audiences of items of two strata, [n_strata, n_strata]."""
    member = _members(group[1:], group.max() + 1)
    sums = as_dense(member @ audience[1:])
    itself = member @ np.asarray(audience[1:].power(2).sum(axis=1)).ravel()
    return _over_pairs(sums @ sums.T, itself, np.asarray(member.sum(axis=1)).ravel())


def _members(group: NDArray, n_groups: int) -> sparse.csr_array:
    ones, columns = np.ones(len(group)), np.arange(len(group))
    return sparse.csr_array((ones, (group, columns)), shape=(n_groups, len(group)))


def _over_pairs(total: NDArray, itself: NDArray | float, count: NDArray) -> NDArray:
    """Sums over pairs to means; no item is its own partner."""
    n_pairs = np.outer(count, count) - np.diag(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            n_pairs > 0, (total - np.diag(np.broadcast_to(itself, count.shape))) / n_pairs, np.nan
        )


def concentration(mass: NDArray, base: NDArray, attribute_matrix: NDArray) -> dict[str, NDArray]:
    """How concentrated activation mass is over attributes.

    The mass of an item with several attributes is split evenly between them for entropy and
    divergence, so that shares add up to 1, and counts in full for the precision.

    Parameters
    ----------
    mass
        [n_items + 1, n_features], sum of activations over the positions of each item
    base
        [n_items + 1], positions of each item: the mass of a feature that is always the same
    attribute_matrix
        [n_items + 1, n_attributes]

    Returns
    -------
    dict of arrays
        entropy [n_features], 0 (one attribute) to 1 (all alike); divergence [n_features], bits
        from the base rates to the feature's shares (Kullback-Leibler), which is fairer than
        entropy, because attributes are not equally frequent to begin with; selectivity
        [n_features, n_attributes], (share of the mass that has the attribute - share of the
        positions) / (1 - share of the positions): 1 is all, 0 is the base rate, below it less.
        NaN for a feature without mass, and where no or every position has the attribute.
    """
    n_attributes = attribute_matrix.shape[1]
    each = attribute_matrix / np.maximum(attribute_matrix.sum(axis=1, keepdims=True), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        split = mass.T @ each
        split /= split.sum(axis=1, keepdims=True)
        split_base = base @ each
        split_base /= split_base.sum()
        share = mass.T @ attribute_matrix / mass.sum(axis=0)[:, None]
        rate = base @ attribute_matrix / base.sum()
        selectivity = np.where((rate > 0) & (rate < 1), (share - rate) / (1 - rate), np.nan)
        logs = np.where(split > 0, np.log2(split), 0)
        log_base = np.where(split_base > 0, np.log2(split_base), 0)
        return {
            "entropy": -(split * logs).sum(axis=1) / np.log2(max(n_attributes, 2)),
            "divergence": (split * (logs - log_base)).sum(axis=1),
            "selectivity": selectivity,
        }


def monosemanticity(
    codes: dict[str, Codes],
    positions: dict[str, Positions],
    dataset: Dataset,
    top_share: float = 0.01,
    n_permutations: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """How much every living feature is about one thing; compare bases by the distributions.

    The attribute of a feature is chosen on the SAE users, everything is measured on the test
    users. The null gives each item the attributes of another of the same popularity and repeats
    the choice: a feature that knows only one film is perfectly selective under any attributes.

    Bases differ in how many positions a feature is active on: every second one for half a hidden
    dimension, one in 64 for a feature of a dictionary of 512 with 8 active. Whoever fires more
    often has to be more mixed. Therefore the mass is that of each feature's strongest `top_share`
    of the positions, the same for all bases; 1 % is what a feature of such a sparse code has to
    give, and where a reader who wants to know what a feature is about looks. A feature that fires
    on fewer positions keeps all.

    Parameters
    ----------
    codes
        Codes [n_positions, n_features] of the groups ``sae`` and ``test``; dense ones are cut into
        `halves`: the feature of a row is that of the halves.
    top_share
        1 for all positions.

    Returns
    -------
    pandas.DataFrame
        One row for each feature that fires on the SAE users: feature, positions (test positions
        that count), entropy, divergence, divergence_null, attribute, selectivity,
        selectivity_null (see `concentration`; nulls are means over permutations), and the columns
        of `coherence` for its ten top items on the test users. NaN if it is silent there.
    """
    codes = halves(codes)
    n_items, attributes = dataset.n_items, dataset.attribute_matrix
    mass, base = {}, {}
    for group in ("sae", "test"):
        top = strongest(codes[group], top_share)
        sums = item_sums(top, positions[group].items, n_items)
        mass[group], base[group] = sums["value"], sums["count"]
    positions_kept = np.diff(top.indptr)
    living = np.flatnonzero(mass["sae"].sum(axis=0) > 0)
    mass = {group: values[:, living] for group, values in mass.items()}

    def measure(matrix: NDArray) -> tuple[NDArray, dict[str, NDArray]]:
        known = concentration(mass["sae"], base["sae"], matrix)["selectivity"]
        chosen = np.nan_to_num(known, nan=-np.inf).argmax(axis=1)
        found = concentration(mass["test"], base["test"], matrix)
        found["selectivity"] = found["selectivity"][np.arange(len(chosen)), chosen]
        return chosen, found

    chosen, found = measure(attributes)
    rng = np.random.default_rng(seed)
    group = strata(dataset.items["popularity"].to_numpy())
    null = [measure(attributes[exchanged(group, rng)])[1] for _ in range(n_permutations)]
    table = pd.DataFrame({"feature": living, "positions": positions_kept[living]})
    table["entropy"] = found["entropy"]
    table["divergence"] = found["divergence"]
    table["divergence_null"] = np.mean([one["divergence"] for one in null], axis=0)
    table["attribute"] = np.asarray(dataset.attributes)[chosen]
    table["selectivity"] = found["selectivity"]
    table["selectivity_null"] = np.mean([one["selectivity"] for one in null], axis=0)
    mean = mean_by_item(item_sums(codes["test"], positions["test"].items, n_items))
    return table.join(coherence(top_sets(mean[:, living], n=10), dataset))


def family(positions: Positions, names: list[str], min_share: float = 0.02) -> tuple[str, str]:
    """Parent and child: the attribute that most of another, rarer one's positions also have.

    Only attributes on at least `min_share` of the positions are looked at.

    Raises
    ------
    ValueError
        If no two attributes are that frequent and share a position.
    """
    attributes = positions.attributes.astype(np.float64)
    count = attributes.sum(axis=0)
    frequent = count >= max(1, min_share * len(attributes))
    both = attributes.T @ attributes
    allowed = (count[:, None] > count) & frequent & frequent[:, None] & (both > 0)
    if not allowed.any():
        raise ValueError(
            f"no two attributes on at least {min_share:.0%} of the positions share one: name a "
            "parent and a child, or lower min_share"
        )
    overlap = np.where(allowed, both / np.maximum(count, 1), -1)
    parent, child = np.unravel_index(overlap.argmax(), overlap.shape)
    return names[parent], names[child]


def splitting(
    codes: dict[str, Codes],
    positions: dict[str, Positions],
    dataset: Dataset,
    parent: str,
    child: str,
    n: int = 5,
) -> pd.DataFrame:
    """How a dictionary divides an attribute and one that lies inside it among its features.

    Feature splitting (Bricken et al. 2023, https://transformer-circuits.pub/2023/monosemantic-features):
    a larger dictionary has several features where a smaller one has one, and each covers a part.
    `covered` shows it: how much of the attribute the first feature covers, and how much the first
    n together.

    Parameters
    ----------
    codes
        Sparse codes [n_positions, n_features] of the groups ``sae``, which chooses the features,
        and ``test``, which measures them.
    parent, child
        Names of two attributes; see `family`.
    n
        So many features for each, those with the highest correlation.

    Returns
    -------
    pandas.DataFrame
        One row for each role (parent, child) and rank: role, rank (from 1), feature, correlation
        (SAE users); recall and precision for the positions that have the parent but not the child
        (recall_parent_only, precision_parent_only) and that have both (recall_both,
        precision_both); covered, the share of the positions with the role's attribute on which
        this feature or one of those above it fires.
    """
    has = _has(positions["test"], dataset, parent, child)
    chosen = _best_of_both(codes["sae"], positions["sae"], dataset, parent, child, n)
    zones = {"parent_only": has["parent"] & ~has["child"], "both": has["parent"] & has["child"]}
    tables = []
    for role, (features, correlation) in chosen.items():
        fires = as_dense(codes["test"][:, features]) > 0
        table = pd.DataFrame(
            {
                "role": role,
                "rank": 1 + np.arange(n),
                "feature": features,
                "correlation": correlation,
            }
        )
        for zone, here in zones.items():
            hits = (fires & here[:, None]).sum(axis=0)
            table[f"recall_{zone}"] = _share(hits, here.sum())
            table[f"precision_{zone}"] = _share(hits, fires.sum(axis=0))
        any_so_far = np.logical_or.accumulate(fires, axis=1) & has[role][:, None]
        table["covered"] = _share(any_so_far.sum(axis=0), has[role].sum())
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def absorption(
    codes: dict[str, Codes],
    positions: dict[str, Positions],
    dataset: Dataset,
    parent: str,
    child: str,
) -> dict[str, float]:
    """Whether the child's feature fires instead of the parent's, where both attributes hold.

    Absorption (Chanin et al. 2024, arXiv:2409.14507): a sparse code saves one active feature if
    the child's feature takes over the parent's direction, and the parent's feature learns to be
    silent there; it then has exceptions that its name does not tell. A silent feature alone is
    no sign of it, since features cover only a part of an attribute anyway. The signs are that
    the parent's feature is silent more often with the child than without, and that it is silent
    *when* the child's fires more often than if the two did not know of each other.

    The features are those with the highest correlation on the SAE users; the parent's is the best
    but for the child's.

    Returns
    -------
    dict
        parent_feature, child_feature; on the test users silent_parent_only and silent_both
        (shares of the positions with the parent but not the child, and with both, on which the
        parent's feature is silent), absorbed (share of the latter on which it is silent and the
        child's fires) and absorbed_chance (the same if both fired independently there).
    """
    has = _has(positions["test"], dataset, parent, child)
    chosen = _best_of_both(codes["sae"], positions["sae"], dataset, parent, child, 2)
    of_child = chosen["child"][0][0]
    of_parent = next(feature for feature in chosen["parent"][0] if feature != of_child)
    fires = as_dense(codes["test"][:, [of_parent, of_child]]) > 0
    silent, takes_over = ~fires[:, 0], fires[:, 1]
    only, both = has["parent"] & ~has["child"], has["parent"] & has["child"]
    return {
        "parent_feature": int(of_parent),
        "child_feature": int(of_child),
        "silent_parent_only": float(_share(silent[only].sum(), only.sum())),
        "silent_both": float(_share(silent[both].sum(), both.sum())),
        "absorbed": float(_share((silent & takes_over)[both].sum(), both.sum())),
        "absorbed_chance": float(
            _share(silent[both].sum(), both.sum()) * _share(takes_over[both].sum(), both.sum())
        ),
    }


def _has(positions: Positions, dataset: Dataset, parent: str, child: str) -> dict[str, NDArray]:
    """Which positions have the parent, and which the child: role -> bool [n_positions]."""
    for name in (parent, child):
        if name not in dataset.attributes:
            raise ValueError(
                f"attribute {name!r} is unknown; {name_nearest(name, dataset.attributes)}"
            )
    return {
        role: positions.attributes[:, dataset.attributes.index(name)] > 0
        for role, name in {"parent": parent, "child": child}.items()
    }


def _best_of_both(
    codes: Codes, positions: Positions, dataset: Dataset, parent: str, child: str, n: int
) -> dict[str, tuple[NDArray, NDArray]]:
    """For either role the n features with the highest correlation, and the correlations."""
    sums = item_sums(codes, positions.items, dataset.n_items)
    both = dataset.attribute_matrix[:, [dataset.attributes.index(n) for n in (parent, child)]]
    correlation = np.nan_to_num(correlation_from_sums(sums, both), nan=-np.inf)
    best = np.argsort(-correlation, axis=0, kind="stable")[:n]
    known = np.take_along_axis(correlation, best, axis=0)
    return {role: (best[:, j], known[:, j]) for j, role in enumerate(("parent", "child"))}


def _share(part, whole):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(part, whole)
