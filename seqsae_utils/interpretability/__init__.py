"""What a feature is about: every feature against every attribute, and whether chance would do.

A *representation* (in the code: basis) describes a position by numbers: the hidden dimensions
themselves (``neurons``), their principal components (``pca``), an untrained dictionary
(``random_directions``), or the SAE's features (``sae``); `BASES` has them all. An attribute (a
genre) belongs to an item, and a position has the attributes of its item.

scores.py            every feature against every attribute
items.py             what features do on each item, and correlations that follow from that
chance.py            the best of many features: users drawn again, and what chance would find
comparison.py        representations side by side
films.py             the primary score: chosen by some users and films, scored on others of both
monosemanticity.py   all features: how much each is about one thing
about.py             popularity, year, place in the history, single items
names.py             labels with evidence, and their test by prediction
features.py          what single features read and promote, and how far the two agree
"""

from .about import about
from .comparison import BASES, Positions, bases, compare
from .features import (
    agreement,
    attribute_effect,
    feature_table,
    input_output_map,
    logit_lens,
    measured_effect,
    output_effect,
)
from .films import film_splits, films_table, held_out_films, sparse_probes
from .items import top_items
from .monosemanticity import monosemanticity
from .names import held_out, names, predict_pairs
from .scores import score, tidy

__all__ = [
    "BASES", "Positions", "about", "agreement", "attribute_effect", "bases", "compare",
    "feature_table", "film_splits", "films_table", "held_out", "held_out_films",
    "input_output_map", "logit_lens", "measured_effect", "monosemanticity", "names",
    "output_effect", "predict_pairs", "score", "sparse_probes", "tidy", "top_items",
]  # fmt: skip
