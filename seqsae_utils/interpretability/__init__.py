"""What a feature is about: every feature against every attribute, and whether chance would do.

A *basis* is a way to describe a position by numbers: the hidden dimensions themselves
(``neurons``), their principal components (``pca``), an untrained dictionary
(``random_directions``), or the SAE's features (``sae``). An attribute (a genre) belongs to an
item, and a position has the attributes of its item.

scores.py        every feature against every attribute
chance.py        the best of many features: intervals, and what chance would find
comparison.py    bases side by side
features.py      what single features read and promote, and how far the two agree
"""

from .chance import (
    bootstrap,
    choose,
    columns,
    corrected_p_values,
    correlation_from_sums,
    draw_users,
    interval,
    item_sums,
    paired_scores,
    permutation_null,
)
from .comparison import (
    BASES,
    Positions,
    bases,
    best_features,
    choose_setting,
    compare,
    conclusion,
    train_control,
)
from .features import (
    agreement,
    attribute_effect,
    feature_table,
    input_output_map,
    measured_effect,
    output_effect,
    top_items,
)
from .scores import Codes, score, tidy

__all__ = [
    "BASES", "Codes", "Positions", "agreement", "attribute_effect", "bases", "best_features",
    "bootstrap", "choose", "choose_setting", "columns", "compare", "conclusion",
    "corrected_p_values", "correlation_from_sums", "draw_users", "feature_table",
    "input_output_map", "interval", "item_sums", "measured_effect", "output_effect",
    "paired_scores", "permutation_null", "score", "tidy", "top_items", "train_control",
]  # fmt: skip
