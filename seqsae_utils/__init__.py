"""Sparse autoencoders for sequential recommenders: interpretation and control.

One module for each notebook: ``data``, ``recommender``, ``activations``, ``sae``,
``interpretability``, ``control``. Beside them ``metrics`` and ``figures``; below them
``workspace``, which knows where everything lies; above them ``run``, which executes notebooks.
"""

__version__ = "0.1.0"
