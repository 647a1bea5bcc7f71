"""Turn features up and down, and measure what it does to recommendations."""

from . import scenarios
from .curves import dose_response, headline, pick_attributes, recommend, share
from .dial import solve
from .edits import Delta, Edit, direction_delta, sae_delta, steered
from .methods import Method, mean_difference, turn_feature
from .scenarios import Scenario

__all__ = [
    "Delta", "Edit", "Method", "Scenario", "direction_delta", "dose_response", "headline",
    "mean_difference", "pick_attributes", "recommend", "sae_delta", "scenarios", "share", "solve",
    "steered", "turn_feature",
]  # fmt: skip
