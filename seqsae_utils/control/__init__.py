"""Turn features up and down, and measure what it does to recommendations."""

from ..interpretability.items import permuted
from .curves import (
    Sweep,
    areas,
    at_same_gain,
    drawn_areas,
    measure,
    pick_attributes,
    remembered,
    share,
    side_effects,
    sweep,
)
from .dial import NEAR, dial_errors, dial_summary, one_list, raises, shares_along, solve
from .edits import Edit, direction_delta, sae_delta, steered, steered_scorer
from .examples import by_examples, draw_examples, nearest_items
from .forgetting import leace, project_out, suppress
from .methods import (
    METHODS,
    by_effect,
    combine,
    directions,
    expected_top,
    mean_difference,
    one_feature,
    probe,
    rerank,
    several_features,
    turn,
    unit,
)
from .popularity import (
    dosed,
    own_taste,
    popsteer,
    popularity_table,
    strengths_for,
    synthetic_users,
    taste_gap,
)
from .scenarios import Scenario
from .serving import moments, serve, served
