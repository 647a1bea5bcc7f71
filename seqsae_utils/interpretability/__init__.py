"""What a feature is about: every feature against every attribute, and whether chance would do.

A *representation* (in the code: basis) describes a position by numbers: the hidden dimensions
themselves (``neurons``), their principal components (``pca``), an untrained dictionary
(``random_directions``), or the SAE's features (``sae``); `BASES` has them all. An attribute (a
genre) belongs to an item, and a position has the attributes of its item.

scores.py            every feature against every attribute
chance.py            the best of many features: intervals, and what chance would find
comparison.py        representations side by side
films.py             the primary score: chosen by some users and films, scored on others of both
monosemanticity.py   all features: how much each is about one thing
about.py             popularity, year, place in the history, single items
names.py             labels with evidence, and their test by prediction
features.py          what single features read and promote, and how far the two agree
"""

from .about import about
from .chance import (
    bootstrap,
    choose,
    columns,
    corrected_p_values,
    correlation_from_sums,
    draw_users,
    item_sums,
    paired_scores,
    permutation_null,
    within,
)
from .comparison import (
    BASES,
    REDRAWN,
    Positions,
    bases,
    best_features,
    choose_setting,
    compare,
    cut,
    untrained_directions,
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
from .films import film_splits, films_table, held_out_films, sparse_probes
from .monosemanticity import monosemanticity, selectivity_interval
from .names import held_out, names, predict_pairs
from .scores import Codes, score, tidy

__all__ = [
    "BASES", "REDRAWN", "Codes", "Positions", "about", "agreement", "attribute_effect", "bases",
    "best_features", "bootstrap", "choose", "choose_setting", "columns", "compare",
    "corrected_p_values", "correlation_from_sums", "cut", "draw_users", "feature_table",
    "film_splits", "films_table", "held_out", "held_out_films", "input_output_map", "item_sums",
    "measured_effect", "monosemanticity", "names", "output_effect", "paired_scores",
    "permutation_null", "predict_pairs", "score", "selectivity_interval", "sparse_probes",
    "tidy", "top_items", "untrained_directions", "within",
]  # fmt: skip
