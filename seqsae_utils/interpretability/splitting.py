"""What dictionaries make of an attribute that lies inside another: splitting and absorption."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data import Dataset
from ..workspace import name_nearest
from .chance import correlation_from_sums, item_sums
from .comparison import Positions
from .scores import Codes, as_dense


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
