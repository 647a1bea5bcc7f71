"""Turn features up and down, and measure what it does to recommendations."""

from .curves import (
    Sweep,
    areas,
    drawn_areas,
    measure,
    pick_attributes,
    remembered,
    share,
    side_effects,
    sweep,
)
from .dial import dial_errors, dial_summary, shares_along, solve
from .edits import Edit, direction_delta, sae_delta, steered, steered_scorer
from .methods import (
    METHODS,
    boost,
    by_effect,
    combine,
    directions,
    expected_top,
    mean_difference,
    one_feature,
    permuted,
    probe,
    several_features,
    turn,
    unit,
)
from .scenarios import Scenario
from .serving import moments, serve, served

__all__ = [
    "METHODS", "Edit", "Scenario", "Sweep", "areas", "boost", "by_effect",
    "combine", "dial_errors", "dial_summary", "direction_delta", "directions",
    "drawn_areas", "expected_top", "mean_difference", "measure", "moments", "one_feature",
    "permuted", "pick_attributes", "probe", "remembered", "sae_delta", "serve",
    "served", "several_features", "share", "shares_along", "side_effects",
    "solve", "steered", "steered_scorer", "sweep", "turn", "unit",
]  # fmt: skip
