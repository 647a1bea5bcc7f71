"""Sparse autoencoders: what they are, how they are trained, judged, compared and stored.

They take hidden states of any model, and need nothing of this project's recommenders and data:

>>> import numpy as np
>>> from seqsae_utils import sae
>>> states = np.random.default_rng(0).normal(5, 3, size=(2_000, 16)).astype(np.float32)
>>> config = sae.Config(d_in=16, d_sae=64, variant="topk", k=4)
>>> training = sae.Training(steps=200, batch_size=256, warmup_steps=20, seed=0)
>>> dictionary, history = sae.fit(states, config, training, progress=False)
>>> codes = sae.encode(dictionary, states)  # sparse
>>> codes.shape, codes.nnz / len(states)
((2000, 64), 4.0)
>>> directions = dictionary.W_dec  # one for each feature, of length 1
>>> round(sae.quality(dictionary, states, codes)["explained_variance"], 1)
0.6
"""

from .evaluation import alive, density, encode, matching, quality, sparsity_warnings, stability
from .saelens import load, save
from .sweeping import sweep
from .training import Training, fit, train, untrained
from .variants import SAE, VARIANTS, Config, create, keep_top
