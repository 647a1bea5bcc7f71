"""What a feature is about: every feature against every attribute, and whether chance would do.

A *basis* is a way to describe a position by numbers: the hidden dimensions themselves
(``neurons``), their principal components (``pca``), an untrained dictionary
(``random_directions``), or the SAE's features (``sae``). An attribute (a genre) belongs to an
item, and a position has the attributes of its item.

scores.py            every feature against every attribute
chance.py            the best of many features: intervals, and what chance would find
comparison.py        bases side by side
monosemanticity.py   all features: how much each is about one thing
splitting.py         what becomes of an attribute inside another
about.py             popularity, year, place in the history, single items
names.py             labels with evidence, and their test by prediction
features.py          what single features read and promote, and how far the two agree
atlas.py             a page for every feature, to be opened in a browser
"""

from .about import about
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
from .monosemanticity import monosemanticity, selectivity_interval
from .names import held_out, names, predict_pairs
from .scores import Codes, score, tidy
from .splitting import absorption, family, splitting

__all__ = [
    "BASES", "Codes", "Positions", "about", "absorption", "agreement", "attribute_effect", "bases",
    "best_features", "bootstrap", "choose", "choose_setting", "columns", "compare", "conclusion",
    "corrected_p_values", "correlation_from_sums", "draw_users", "family", "feature_table",
    "held_out", "input_output_map", "interval", "item_sums", "measured_effect", "monosemanticity",
    "names", "output_effect", "paired_scores", "permutation_null", "predict_pairs", "score",
    "selectivity_interval", "splitting", "tidy", "top_items", "train_control",
]  # fmt: skip
