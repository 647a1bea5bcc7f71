"""Simple recommenders to beat. X [n_users, n_items] is 1 in column j for item j + 1 of a user."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from tqdm import tqdm

from .. import metrics
from ..ranking import Scorer, Split, Users, popularity_scores, rank_items

#: EASE holds n_items x n_items numbers, 3.6 GB for so many, and its time is cubic.
MAX_ITEMS_EASE = 30_000
#: From which `simple_models` chooses.
NEIGHBOURS = (5, 10, 20, 50, 100)
REGULARISATIONS = (50.0, 100.0, 200.0, 400.0, 800.0)


def item_knn_scores(sequences: list[np.ndarray], n_items: int, n_neighbours: int = 20) -> Scorer:
    """A scorer by item neighbours: items that many users took together.

    `sequences` are the items [n], from 1, of each training user. The score of item j is the sum of

        sim(i, j) = n_ij / sqrt(n_i n_j)

    over those items i of the history that are among the `n_neighbours` most similar to j; n_i and
    n_ij count the users who took i, and both i and j: the cosine of two columns of X (Sarwar et
    al., WWW 2001, doi:10.1145/371920.372071). Memory grows with n_items times `n_neighbours`;
    ValueError if this is below 1, and, here and below, for an item outside the catalogue.
    """
    if n_neighbours < 1:
        raise ValueError(f"n_neighbours={n_neighbours} must be at least 1")
    (similarity,) = _similarities(sequences, n_items, (n_neighbours,)).values()
    return _by_neighbours(similarity)


def ease_scores(sequences: list[np.ndarray], n_items: int, regularisation: float = 100.0) -> Scorer:
    """A scorer by EASE, a linear autoencoder in which no item predicts itself.

    `sequences` are the training users' items [n], from 1. The scores are X B, where B minimises
    |X - X B|^2 + regularisation |B|^2 subject to diag(B) = 0. With
    P = (X^T X + regularisation I)^-1, it is (Steck, WWW 2019, arXiv 1905.03375, equation 8)

        B_ij = -P_ij / P_jj for i != j

    ValueError for more than `MAX_ITEMS_EASE` items, or a `regularisation` that is not positive.
    """
    _require_few(n_items)
    if regularisation <= 0:
        raise ValueError(f"regularisation={regularisation} must be positive")
    matrix = torch.empty(n_items, n_items)  # X^T X first, then P, then B
    for block, together in _co_occurrence(_taken(sequences, n_items)):
        matrix[block] = torch.from_numpy(together)
    matrix.diagonal().add_(regularisation)
    transposed = matrix.mT  # it is symmetric, and so in LAPACK's order, which makes no copy
    torch.linalg.cholesky(transposed, out=transposed)
    torch.cholesky_inverse(transposed, out=transposed)
    weights = matrix.div_(-matrix.diagonal()).fill_diagonal_(0).numpy()
    return _linear(lambda history: history @ weights, n_items)


def svd_vectors(sequences: list[np.ndarray], n_items: int, d: int, seed: int = 0) -> np.ndarray:
    """First d right singular vectors of X times singular values, [n_items + 1, d]; padding is 0.

    Where X has not so many, those that are left are 0.
    """
    taken = _taken(sequences, n_items).astype(np.float64)
    if not (possible := min(d, *(size - 1 for size in taken.shape))):
        return np.zeros((n_items + 1, d), np.float32)
    svd = TruncatedSVD(possible, algorithm="arpack", random_state=seed).fit(taken)
    vectors = (svd.components_ * svd.singular_values_[:, None]).T.astype(np.float32)
    return np.pad(vectors, [(1, 0), (0, d - possible)])


def best_of(
    build: Callable[..., Scorer], values: Iterable[float], validation: Users
) -> tuple[float, Scorer]:
    """The value whose scorer has the highest NDCG@10 on `validation`, and that scorer.

    It is built again at the end: large ones are held one at a time.
    """
    ndcg = {v: metrics.ndcg(rank_items(build(v), *validation).rank).mean() for v in values}
    best = max(ndcg, key=lambda value: ndcg[value])
    return best, build(best)


def simple_models(split: Split, ease: bool = True) -> tuple[dict[str, Scorer], dict[str, float]]:
    """Scorers by name, and their settings, which are chosen on the validation users.

    ValueError at once for more items than `ease_scores` takes.
    """
    train, n_items = split.train, split.n_items
    if ease:
        _require_few(n_items)
    scorers, settings = {"popularity": popularity_scores(split.popularity)}, {}
    similarities = _similarities(train, n_items, NEIGHBOURS)  # of all pairs of items: once
    settings["item neighbours: how many"], scorers["item_knn"] = best_of(
        lambda n: _by_neighbours(similarities[n]), NEIGHBOURS, split.validation
    )
    if ease:
        settings["EASE: regularisation"], scorers["ease"] = best_of(
            lambda r: ease_scores(train, n_items, r),
            tqdm(REGULARISATIONS, "EASE", leave=False),  # minutes each, with 10,000 items
            split.validation,
        )
    return scorers, settings


def _require_few(n_items: int) -> None:
    if n_items > MAX_ITEMS_EASE:
        raise ValueError(
            f"EASE of {n_items:,} items holds a matrix of {4 * n_items**2 / 1e9:.0f} GB: "
            f"leave it out, or rare items; it takes at most {MAX_ITEMS_EASE:,}"
        )


def _taken(histories: list[np.ndarray], n_items: int) -> sparse.csr_array:
    """X [n_users, n_items] in float32."""
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.concatenate(histories).astype(np.int64) - 1
    outside = items[(items < 0) | (items >= n_items)]
    if len(outside):
        raise ValueError(f"item {outside[0] + 1} is not in the catalogue, 1 to {n_items}")
    ones = np.ones(len(items), dtype=np.float32)
    taken = sparse.csr_array((ones, (users, items)), shape=(len(histories), n_items))
    taken.data[:] = 1  # an item that was taken twice counts once
    return taken


def _similarities(
    sequences: list[np.ndarray], n_items: int, counts: Iterable[int]
) -> dict[int, sparse.csr_array]:
    """For each number of neighbours, sim(i, j) where i is among the neighbours of j, else 0."""
    taken = _taken(sequences, n_items)
    users = taken.sum(axis=0)
    found = {n: ([], []) for n in counts}
    for block, together in _co_occurrence(taken):
        similarity = together / np.maximum(np.sqrt(users[block, None] * users), 1)
        similarity[np.arange(len(similarity)), np.arange(n_items)[block]] = 0
        for n, (weights, neighbours) in found.items():
            best = torch.from_numpy(similarity).topk(min(n, n_items), dim=1)
            weights.append(best.values.numpy())
            neighbours.append(best.indices.numpy())
    matrices = {}
    for n, parts in found.items():
        weights, neighbours = (np.concatenate(part).ravel() for part in parts)
        target = np.repeat(np.arange(n_items), min(n, n_items))
        shape = n_items, n_items
        matrices[n] = sparse.csr_array((weights, (neighbours, target)), shape=shape)
    return matrices


def _by_neighbours(similarity: sparse.csr_array) -> Scorer:
    return _linear(lambda history: (history @ similarity).toarray(), similarity.shape[0])


def _co_occurrence(taken: sparse.csr_array, rows: int = 512) -> Iterator[tuple[slice, np.ndarray]]:
    """X^T X in dense blocks [rows, n_items]: it is nearly full, and too large as a whole."""
    by_item = taken.T.tocsr()
    for start in range(0, by_item.shape[0], rows):
        block = slice(start, start + rows)
        yield block, (by_item[block] @ taken).toarray()


def _linear(scores: Callable[[sparse.csr_array], np.ndarray], n_items: int) -> Scorer:
    """A scorer from a function of X; padding is never recommended."""

    def scorer(histories: list[np.ndarray]) -> torch.Tensor:
        found = torch.full((len(histories), n_items + 1), -torch.inf)
        found[:, 1:] = torch.from_numpy(scores(_taken(histories, n_items)))
        return found

    return scorer
