"""Sparse autoencoders for sequential recommenders: interpretation and control.

One package for each notebook: ``data``, ``recommender``, ``activations``, ``sae``,
``interpretability``, ``control``. Below them ``workspace``, which knows all paths, and ``metrics``;
above them ``figures``, ``apps`` (the desk and the atlas) and ``run``, which executes notebooks.
"""

import os

__version__ = "0.2.0"

# Idle OpenMP threads that spin make small matrices 14 times slower on a busy laptop. torch reads
# this when it is first imported, so it is set here, before any module of ours imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
