"""Turn features up and down while a model runs.

Every edit keeps what the SAE could not reconstruct: with the code f of a hidden state h, and the
edited code f', h' = h + decode(f') - decode(f). One that changes nothing leaves h as it is, to the
last bit.
"""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..hooks import hooked
from ..recommender import Scorer
from ..sae import SAE

#: From hidden states [batch, length, d_in] to what is added to them.
Delta = Callable[[Tensor], Tensor]
#: By how much an edit raises a feature, by its mode: exactly 0 where it changes nothing.
MODES = {
    "add": lambda value, by: torch.full_like(value, by),
    "set": lambda value, to: to - value,
    "scale": lambda value, by: (by - 1) * value,
    "clamp": lambda value, limit: value.clamp(max=limit) - value,
}


@dataclass(frozen=True)
class Edit:
    """The change of a feature at edited positions; ValueError unless mode is known, value finite.

    ``add`` a value, also to a silent feature; ``set`` it; ``scale`` it; or ``clamp`` it to no more.
    All values except that of ``scale`` are in standard deviations of the hidden states (`SAE.std`).
    """

    feature: int
    value: float
    mode: str = "add"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r}: choose from {', '.join(MODES)}")
        if not np.isfinite(self.value):
            raise ValueError(f"feature {self.feature}: a knob cannot stand at {self.value}")

    def change(self, value: Tensor) -> Tensor:
        """By how much the feature is raised where it has a `value`; the shape stays."""
        return MODES[self.mode](value, self.value)


def sae_delta(sae: SAE, edits: list[Edit]) -> Delta:
    """The edit (f' - f) @ W_dec = decode(f') - decode(f); ValueError for an unknown feature."""
    d_sae = sae.config.d_sae
    for edit in edits:
        if not 0 <= edit.feature < d_sae:
            raise ValueError(f"feature {edit.feature}: the SAE has features 0 to {d_sae - 1}")
    if all(edit.mode == "add" for edit in edits):  # whatever the features are: no need to look
        step = torch.zeros(d_sae).to(sae.W_dec)
        for edit in edits:
            step[edit.feature] += edit.value
        step = sae.std * (step @ sae.W_dec.detach())
        return lambda hidden: step.expand_as(hidden)

    def delta(hidden: Tensor) -> Tensor:
        code = sae.encode(hidden) / sae.std
        change = torch.zeros_like(code)
        for edit in edits:
            change[..., edit.feature] += edit.change(code[..., edit.feature])
        return sae.std * (change @ sae.W_dec)

    return delta


def direction_delta(direction: Tensor, strength: float | Tensor, std: float) -> Delta:
    """Add `strength` (one, or [n_users, 1, 1]) * std * direction [d_in]; ValueError: not finite."""
    step = std * strength * direction
    if not torch.isfinite(step).all():
        raise ValueError(
            "a step along this direction is not finite; `directions` are NaN for an attribute "
            "without a knob"
        )
    return lambda hidden: step.to(hidden.device).expand_as(hidden)


@contextmanager
def steered(model: nn.Module, site: str, delta: Delta, positions: str = "all"):
    """Add `delta` to the hidden states at `site` while the block runs.

    The model is any torch module with this site that is called on items [batch, length], 0 for
    padding on either side. ``all`` edits every position, ``last`` only the predicting one.
    ValueError for other `positions`, and for ``last`` without such items.
    """
    if positions not in ("all", "last"):
        raise ValueError(f"positions {positions!r}: choose from all, last")
    seen = {}

    def edit(hidden: Tensor) -> Tensor:
        change = delta(hidden)
        if positions == "last":
            items = seen.get("items")
            if items is None or items.shape != hidden.shape[:2]:
                raise ValueError(
                    f"positions 'last': the states at {site!r} are {list(hidden.shape)}, and "
                    f"{type(model).__name__} was not called on items [batch, length] to match; "
                    "take 'all'"
                )
            last = items.shape[1] - 1 - (items > 0).int().flip(1).argmax(dim=1)
            here = torch.arange(items.shape[1], device=hidden.device) == last[:, None]
            change = torch.where(here[..., None], change, 0.0)
        return hidden + change

    look = model.register_forward_pre_hook(lambda _, x: seen.update(items=x[0] if x else None))
    with look, hooked(model, site, edit):
        yield


def steered_scorer(model: nn.Module, site: str, delta: Delta | None = None) -> Scorer:
    """The model's `next_item_scores` while `delta` is added at `site` (None: untouched)."""

    def scorer(histories):
        with steered(model, site, delta) if delta is not None else nullcontext():
            return model.next_item_scores(histories)

    return scorer
