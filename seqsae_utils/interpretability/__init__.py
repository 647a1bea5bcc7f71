"""What a feature is about: every feature against every attribute, and whether chance would do.

A *basis* is a way to describe a position by numbers: the hidden dimensions themselves
(``neurons``), their principal components (``pca``), an untrained dictionary
(``random_directions``), or the SAE's features (``sae``). An attribute (a genre) belongs to an
item, and a position has the attributes of its item.

scores.py        every feature against every attribute
comparison.py    bases side by side, with intervals and a null
features.py      what single features read and promote
"""

from .comparison import (
    Positions,
    bases,
    best_features,
    bootstrap,
    choose,
    columns,
    conclusion,
    correlation_from_sums,
    interval,
    item_sums,
    paired_scores,
    permutation_null,
    summary,
)
from .features import feature_table, output_effect, top_items
from .scores import Codes, score, tidy

__all__ = [
    "Codes", "Positions", "bases", "best_features", "bootstrap", "choose", "columns", "conclusion",
    "correlation_from_sums", "feature_table", "interval", "item_sums", "output_effect",
    "paired_scores", "permutation_null", "score", "summary", "tidy", "top_items",
]  # fmt: skip
