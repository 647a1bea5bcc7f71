"""Hidden states of a recommender: read them at a named site, or write them there.

A *site* is the dotted name of a submodule (``blocks.0``, ``blocks.0.mlp``, ``final_norm``), so the
same few lines serve any torch model: a forward hook sees what the submodule returns. How the model
wants its input it says itself: see `recommender.Recommender`.

==============  ================================================================================
``harvesting``  the states of all interactions, written to a file as they come
``states``      files of states
``probes``      what the states hold, and how it differs from site to site
==============  ================================================================================
"""

from ..hooks import find_site, hooked
from ..normalisation import Normalisation, blocks
from .harvesting import DTYPES, harvest
from .probes import compare_sites, cost_of_replacing, overlap, probe_auc, ridge, spectrum
from .states import load

__all__ = [
    "DTYPES", "Normalisation", "blocks", "compare_sites", "cost_of_replacing",
    "find_site", "harvest", "hooked", "load", "overlap", "probe_auc", "ridge", "spectrum",
]  # fmt: skip
