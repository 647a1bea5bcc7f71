"""What hidden states hold: their spectrum, what a linear probe reads, what their loss costs."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wishart
from sklearn.metrics import roc_auc_score
from torch import Tensor

from .. import metrics
from ..hooks import find_site, hooked
from ..normalisation import blocks
from ..recommender import Recommender, cross_entropy, rank_items
from ..resampling import drawn_means, interval
from .harvesting import index_of, states_at


def spectrum(states: NDArray) -> pd.DataFrame:
    """Share of the variance of hidden states [n_positions, d_in] in their principal components.

    Columns: component (from 1, the strongest first), variance, cumulative_variance. A memory map is
    read block by block.
    """
    mean = _mean(states)
    return _shares(sum(c.T @ c for c in (block - mean for block in blocks(states))))


def isotropic_spectrum(n_positions: int, d_in: int, seed: int = 0) -> pd.DataFrame:
    """`spectrum` of Gaussian states of the same variance in each direction: the reference.

    The scatter of n_positions such states has a Wishart distribution, so none is ever drawn.
    """
    return _shares(wishart.rvs(max(n_positions - 1, d_in), np.eye(d_in), random_state=seed))


def _shares(scatter: NDArray) -> pd.DataFrame:
    variance = np.linalg.eigvalsh(scatter)[::-1]
    share = variance / variance.sum()
    component = np.arange(1, len(share) + 1)
    return pd.DataFrame(
        {"component": component, "variance": share, "cumulative_variance": share.cumsum()}
    )


def _mean(states: NDArray) -> NDArray:
    return sum(block.sum(axis=0) for block in blocks(states)) / len(states)


def ridge(states: NDArray, labels: NDArray) -> NDArray:
    """Weights [d_in, n_labels] of a ridge regression of labels [n_positions, n_labels] on states.

    The penalty is the mean variance of a dimension at one position, so the unit of the states
    [n_positions, d_in] does not matter. Memory maps are read block by block.
    """
    mean, d_in = _mean(states), states.shape[1]
    scatter, products = np.zeros((d_in, d_in)), np.zeros((d_in, labels.shape[1]))
    row = 0
    for block in blocks(states):
        block -= mean
        scatter += block.T @ block
        products += block.T @ labels[row : row + len(block)]
        row += len(block)
    penalty = scatter.trace() / d_in / len(states) or 1.0  # any, where all states are the same
    return np.linalg.solve(scatter + penalty * np.eye(d_in), products)


def probe_auc(
    states: NDArray, labels: NDArray, states_test: NDArray, labels_test: NDArray
) -> list[float]:
    """ROC AUC on the test positions of a linear probe (`ridge`), for each column of 0/1 labels.

    States are [n_positions, d_in], labels [n_positions, n_labels]. NaN where all positions of
    either group have the label, or none has.
    """
    weights = ridge(states, labels)
    scores = np.concatenate([block @ weights for block in blocks(states_test)])
    return [
        roc_auc_score(label, score) if _varies(fitted) and _varies(label) else np.nan
        for fitted, label, score in zip(labels.T, labels_test.T, scores.T, strict=True)
    ]


def _varies(label: NDArray) -> bool:
    return label.min() < label.max()


def compare_sites(
    model: Recommender,
    sequences_fit: dict[int, np.ndarray],
    sequences_test: dict[int, np.ndarray],
    attribute_matrix: NDArray,
    sites: list[str],
    seed: int = 0,
    attributes: list[str] | None = None,
    max_positions: int = 200_000,
    n_permutations: int = 1,
) -> pd.DataFrame:
    """How well attributes of the current and of the next item can be read at several sites.

    At each site the probe of `probe_auc` is fitted on the sequences of some users and scored on
    those of others; whole users of each group are drawn, up to `max_positions`. `attribute_matrix`
    is 0/1 [n_items + 1, n_attributes], row 0 is padding; `attributes` names its columns.

    The null, auc_shuffled, is the same probe for attributes permuted across items: it reads
    which item it is, not what the item is like. In a masked model each position sees its next item,
    so there only the current one tells something.

    Columns: site, target (``current`` or ``next``), attribute, auc, auc_shuffled (of the first
    permutation), auc_shuffled_low and auc_shuffled_high (the least and the largest of all). Raises
    ValueError if a site is no module, or no user of a group has two items.
    """
    for site in sites:
        find_site(model, site)
    rng = np.random.default_rng(seed)
    true, n_attributes = attribute_matrix[1:], attribute_matrix.shape[1]
    others = np.random.default_rng([seed, 1])  # with any number of them the same users are drawn
    deals = [true, rng.permutation(true)]
    deals += [others.permutation(true) for _ in range(n_permutations - 1)]
    labels = np.hstack([np.vstack([attribute_matrix[:1], deal]) for deal in deals])
    names = range(n_attributes) if attributes is None else attributes
    groups = {"fit": sequences_fit, "test": sequences_test}
    groups = {group: _some_users(some, max_positions, rng) for group, some in groups.items()}
    index, tables = [index_of(some) for some in groups.values()], []
    for site in sites:
        states = states_at(model, groups, site).values()
        for target, shift in {"current": 0, "next": 1}.items():
            pairs = [_pairs(*read, shift) for read in zip(states, index, strict=True)]
            (x, items), (x_test, items_test) = pairs
            auc = np.array(probe_auc(x, labels[items], x_test, labels[items_test]))
            auc, *shuffled = auc.reshape(len(deals), n_attributes)
            table = pd.DataFrame({"site": site, "target": target, "attribute": names})
            table["auc"], table["auc_shuffled"] = auc, shuffled[0]
            table["auc_shuffled_low"] = np.min(shuffled, axis=0)
            table["auc_shuffled_high"] = np.max(shuffled, axis=0)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _some_users(
    sequences: dict[int, np.ndarray], max_positions: int, rng: np.random.Generator
) -> dict[int, np.ndarray]:
    """Whole users drawn at random, in the order they came in, up to so many positions."""
    users = rng.permutation(np.array(list(sequences)))
    positions = np.cumsum([len(sequences[user]) for user in users])
    drawn = set(users[: max(1, np.searchsorted(positions, max_positions, side="right"))].tolist())
    return {user: sequence for user, sequence in sequences.items() if user in drawn}


def _pairs(states: NDArray, index: pd.DataFrame, shift: int) -> tuple[NDArray, NDArray]:
    """States, and the item that the same user has `shift` positions later; where there is one."""
    user, item = index["user"].to_numpy(), index["item"].to_numpy()
    at = np.flatnonzero(user[: len(user) - shift] == user[shift:])
    if not len(at):
        raise ValueError("no user of a group has two items: there is no next item to read")
    return states[at], item[at + shift]


def cost_of_replacing(
    model: Recommender,
    site: str,
    replacements: dict[str, Callable[[Tensor], Tensor | None]],
    histories: list[np.ndarray],
    targets: np.ndarray,
) -> pd.DataFrame:
    """What the recommender loses when the hidden states at `site` are replaced.

    `replacements` are functions for `hooks.hooked`, by name: an SAE puts its reconstruction in
    place of the states. ValueError without ``original`` and ``mean``, the two ends of the scale.
    `targets` is the item [n_users] that each user took after the history. Columns: replacement;
    ndcg@10; loss (cross-entropy of the next item over the catalogue, in nats); ndcg_recovered and
    loss_recovered (1: as the original, 0: as the mean); top10_overlap (the share of the original's
    ten items that stay); ndcg@10 and top10_overlap with ``_low`` and ``_high`` (95 %, users drawn
    again).
    """
    for end in ("original", "mean"):
        if end not in replacements:
            raise ValueError(f"replacements: {end!r} is missing, an end of the scale")
    rankings, losses = {}, {}
    for name, function in replacements.items():
        with hooked(model, site, function):
            rankings[name] = rank_items(model.next_item_scores, histories, targets)
            losses[name] = float(cross_entropy(model.next_item_scores, histories, targets).mean())
    ndcg = {name: metrics.ndcg(ranking.rank) for name, ranking in rankings.items()}
    before = rankings["original"].lists
    kept = {name: _shares_kept(before, ranking.lists) for name, ranking in rankings.items()}
    table = pd.DataFrame({"ndcg@10": {n: x.mean() for n, x in ndcg.items()}, "loss": losses})
    recovered = (table - table.loc["mean"]) / (table.loc["original"] - table.loc["mean"])
    table["ndcg_recovered"], table["loss_recovered"] = recovered["ndcg@10"], recovered["loss"]
    table["top10_overlap"] = pd.Series({name: x.mean() for name, x in kept.items()})
    for column, by_user in {"ndcg@10": ndcg, "top10_overlap": kept}.items():
        ends = [interval(drawn_means(by_user[name])) for name in table.index]
        table[f"{column}_low"], table[f"{column}_high"] = zip(*ends, strict=True)
    return table.rename_axis("replacement").reset_index()


def overlap(before: np.ndarray, after: np.ndarray) -> float:
    """Mean share of the items in `before` that `after` has too, both [n_users, k]; 0 is no item.

    >>> overlap(np.array([[1, 2], [3, 0]]), np.array([[2, 4], [3, 0]]))
    0.75
    """
    return float(_shares_kept(before, after).mean())


def _shares_kept(before: np.ndarray, after: np.ndarray) -> NDArray:
    """`overlap` of each user: [n_users]."""
    kept = (before[:, :, None] == after[:, None, :]).any(axis=2) & (before > 0)
    return kept.sum(axis=1) / (before > 0).sum(axis=1).clip(1)
