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
from ..resampling import interval
from .chance import draw_users, item_sums
from .comparison import Positions
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


def selectivity_interval(
    bases: dict[str, dict[str, Codes]],
    positions: dict[str, Positions],
    table: pd.DataFrame,
    names: list[str],
    top_share: float = 0.01,
    n_draws: int = 200,
) -> pd.DataFrame:
    """Mean selectivity of each basis with its 95 % interval, test users drawn again.

    Parameters
    ----------
    table
        Rows of `monosemanticity` with their ``basis``, made with the same `top_share`.
    names
        Of the attributes, in the order of their columns.

    Returns
    -------
    pandas.DataFrame
        By basis: selectivity (mean over features), selectivity_low, selectivity_high.
    """
    test, rows = positions["test"], {}
    draws, user = draw_users(test.users, n_draws)
    draws = np.vstack([np.ones(draws.shape[1]), draws])  # the first is everybody, once
    one_hot = sparse.csr_array((np.ones(len(user)), (user, np.arange(len(user)))))
    rate = draws @ (one_hot @ test.attributes) / (draws @ one_hot.sum(axis=1))[:, None]
    for basis, of_basis in table.groupby("basis", sort=False):
        chosen = np.array([names.index(name) for name in of_basis["attribute"]])
        codes = strongest(halves(bases[basis])["test"], top_share)[:, of_basis["feature"]].tocoo()
        has = test.attributes[codes.row, chosen[codes.col]]
        mass, inside = (
            draws @ as_dense(one_hot @ sparse.coo_array((data, codes.coords), codes.shape))
            for data in (codes.data, codes.data * has)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            share, base = inside / mass, rate[:, chosen]
            found, *drawn = np.nanmean((share - base) / (1 - base), axis=1)
        low, high = interval(np.array(drawn))
        rows[basis] = {"selectivity": found, "selectivity_low": low, "selectivity_high": high}
    return pd.DataFrame(rows).T
