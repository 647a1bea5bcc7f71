"""What a feature is about: every feature against every attribute, and whether chance would do.

A *representation* (`REPRESENTATIONS`) describes a position by numbers: hidden dimensions, principal
components, SAE features, ... An attribute (a genre) belongs to an item; a position has its item's.
"""

from .about import about
from .comparison import (
    REPRESENTATIONS,
    Made,
    Positions,
    compare,
    independent_components,
    representations,
)
from .concepts import explained, find_concepts, told_by_labels
from .features import (
    agreement,
    attribute_effect,
    feature_table,
    logit_lens,
    measured_effect,
    output_effect,
)
from .films import film_splits, films_table, held_out_films, sparse_probes
from .future import ahead, decayed_mean, of_next, shares_of_last, wanted
from .groups import of_users, tell_groups, telling_features
from .items import item_sums, mean_by_item, top_items
from .monosemanticity import monosemanticity
from .names import held_out, names, predict_pairs
from .scores import score, tidy
