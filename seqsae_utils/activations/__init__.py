"""Hidden states of a recommender: read them at a named site, or write them there.

A *site* is the dotted name of a submodule (``blocks.0``, ``blocks.0.mlp``, ``final_norm``): a
forward hook sees what it returns. The model says how it wants its input, see
`recommender.Recommender`.
"""

from ..hooks import find_site, hooked
from ..normalisation import Normalisation, blocks
from .harvesting import harvest, load, states_at
from .probes import (
    compare_sites,
    cost_of_replacing,
    isotropic_spectrum,
    overlap,
    probe_auc,
    ridge,
    spectrum,
)
