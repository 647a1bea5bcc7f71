"""Few-shot steering: a wish told by three examples, where nobody has the list of its items."""

import numpy as np
from numpy.typing import NDArray

from .methods import unit


def draw_examples(matrix: NDArray, n: int = 3, n_draws: int = 5, seed: int = 0):
    """Draw n items of each concept, `n_draws` times, and the rest of it: what must rise.

    `matrix` is 0/1 [n_items + 1, n_concepts]. Returns concepts [n_tasks], the column of each task;
    examples [n_tasks, n]; and the rest, 0/1 [n_items + 1, n_tasks]. ValueError for a concept with
    too few items to leave any.
    """
    rng = np.random.default_rng(seed)
    short = np.flatnonzero(matrix.sum(axis=0) <= n)
    if len(short):
        has = int(matrix[:, short[0]].sum())
        raise ValueError(f"concept {short[0]} has {has} items: {n} examples leave nothing to find")
    tasks = np.repeat(np.arange(matrix.shape[1]), n_draws)
    examples = np.array([rng.choice(np.flatnonzero(matrix[:, j]), n, replace=False) for j in tasks])
    rest = matrix[:, tasks].copy()
    for task, items in enumerate(examples):
        rest[items, task] = 0
    return tasks, examples, rest


def by_examples(
    mean: NDArray, examples: NDArray, decoder: NDArray, n_features: int
) -> tuple[NDArray, NDArray]:
    """Directions [n_tasks, d_in] of the features that stand out on all examples, and the features.

    `mean` [n_items + 1, d_sae] is each feature's mean activation on each item; a feature stands out
    by its SMALLEST value on the examples, in standard deviations over items: what only one of them
    has is not what they share. The `n_features` that stand out most are weighted by it. Of length
    1, or NaN where no feature fires on all examples.
    """
    spread = np.maximum(mean[1:].std(axis=0), 1e-12)
    shared = (mean / spread)[examples].min(axis=1)
    features = np.argsort(-shared, axis=1, kind="stable")[:, :n_features]
    weights = np.take_along_axis(shared, features, axis=1)
    return unit(np.einsum("tf,tfd->td", weights, decoder[features])), features


def nearest_items(vectors: NDArray, examples: NDArray, n: int) -> NDArray:
    """The n items most similar to the examples' mean, and the examples: 0/1 [n_items + 1, n_tasks].

    `vectors` are [n_items + 1, d]; similar is the cosine. This is what re-ranking can raise when it
    has three examples and no list.
    """
    directions = unit(np.nan_to_num(unit(vectors)))[examples].mean(axis=1)
    cosine = unit(vectors[1:]) @ unit(directions).T
    near = 1 + np.argsort(-cosine, axis=0, kind="stable")[:n]
    found = np.zeros((len(vectors), len(examples)), np.float32)
    for task, items in enumerate(examples):
        found[[*near[:, task], *items], task] = 1
    return found
