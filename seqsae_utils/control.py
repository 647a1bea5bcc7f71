"""Turn features up and down, and measure what it does to recommendations.

Every edit keeps what the SAE could not reconstruct. With the code f of a hidden state h, the
edited code f', and the standard deviation s of the normalisation,

    h' = h + s * (decode(f') - decode(f))

so that an edit that changes nothing costs nothing: h' is h, to the last bit. Replacing h by the
reconstruction, as is often done, pays for the reconstruction error before anything is steered.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import metrics
from .activations import Normalisation, hooked
from .recommender import Ranking, rank_items
from .sae import SAE
from .workspace import name_nearest

#: From hidden states [batch, length, d_in] to what is added to them.
Delta = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """What happens to one feature: ``add`` a value, ``set`` it to a value, or ``scale`` it.

    Values of ``add`` and ``set`` are in units of the normalised space. ``add`` may leave the
    range that the feature takes by itself: below zero it steers away from the direction.
    """

    feature: int
    value: float
    mode: str = "add"

    def __post_init__(self):
        if self.mode not in ("add", "set", "scale"):
            raise ValueError(f"mode {self.mode!r}: choose from add, set, scale")
        if not np.isfinite(self.value):
            raise ValueError(f"feature {self.feature}: a knob cannot stand at {self.value}")

    def change(self, value: Tensor) -> Tensor:
        """By how much a feature at `value` is raised."""
        if self.mode == "add":
            return torch.full_like(value, self.value)
        return self.value - value if self.mode == "set" else (self.value - 1) * value


def sae_delta(sae: SAE, normalisation: Normalisation, edits: list[Edit]) -> Delta:
    """The error-preserving edit: s * (f' - f) @ W_dec, which is s * (decode(f') - decode(f))."""
    for edit in edits:
        if not 0 <= edit.feature < sae.config.d_sae:
            raise ValueError(
                f"feature {edit.feature}: the SAE has features 0 to {sae.config.d_sae - 1}"
            )

    def delta(hidden: Tensor) -> Tensor:
        code = sae.encode(normalisation.apply(hidden))
        change = torch.zeros_like(code)
        for edit in edits:
            change[..., edit.feature] += edit.change(code[..., edit.feature])
        return normalisation.std * (change @ sae.W_dec)

    return delta


def direction_delta(direction: Tensor, dose: float, normalisation: Normalisation) -> Delta:
    """Add a direction [d_in] of norm 1, `dose` units of the normalised space, at every position."""
    step = normalisation.std * dose * direction
    if not torch.isfinite(step).all():
        raise ValueError(
            f"dose {dose} of this direction is not finite; a difference of means is NaN for an "
            "attribute that no position, or every position, has"
        )
    return lambda hidden: step


@contextmanager
def steered(model: nn.Module, site: str, delta: Delta):
    """Add `delta` to the hidden states at `site`, at all positions, while the block runs."""
    with hooked(model, site, lambda hidden: hidden + delta(hidden)):
        yield


def mean_difference(states: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """Supervised directions [n_attributes, d_in]: mean with the attribute minus mean without.

    Each has norm 1. The baseline that sparse autoencoders often lose to (arXiv 2501.17148).
    `states` is [n_positions, d_in], `attributes` [n_positions, n_attributes] of 0 and 1; one that
    no position has, or every position, has no direction: NaN.
    """
    with np.errstate(invalid="ignore"):
        with_it = attributes.T @ states / attributes.sum(axis=0)[:, None]
        without = (1 - attributes).T @ states / (1 - attributes).sum(axis=0)[:, None]
    difference = with_it - without
    return difference / np.linalg.norm(difference, axis=1, keepdims=True)


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


#: From the column of an attribute and a dose to the edit that a method makes for them.
Method = Callable[[int, float], Delta]


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


def turn_feature(sae: SAE, normalisation: Normalisation, features, signs) -> Method:
    """The method that adds the dose to one SAE feature for each attribute.

    `features` and `signs` hold one value for each column of the attribute matrix. A feature that
    was chosen because it is silent where the attribute is (sign -1) is turned the other way.
    """
    knobs = [(int(feature), int(sign)) for feature, sign in zip(features, signs, strict=True)]

    def method(column: int, dose: float) -> Delta:
        feature, sign = knobs[column]
        return sae_delta(sae, normalisation, [Edit(feature, sign * dose)])

    return method


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
