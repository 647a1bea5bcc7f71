"""Scores of every feature against every attribute: ours, and scikit-learn's pair by pair.

    python tests/bench/scores.py          # the loop over all pairs is timed on 200 of them
    python tests/bench/scores.py --all    # on all: minutes

Codes and attributes are made: k of d_sae features fire at each position, some far more often than
others, and the shares of positions with an attribute fall as those of genres do. At the first size
three ways take turns on one thread:

* `roc_auc_score` of one feature and one attribute after the other: AUC alone;
* each feature ranked once, zeros and all, and one matrix product: AUC alone;
* `interpretability.score`: both scores.

The second size is that of ML-20M's test positions. There attributes belong to one of 27,000 items,
or are drawn anew at each position, so that few positions are alike: the harder case. Everything
runs in a process of its own; peak memory includes the codes. Seconds are those of the processor,
which leave out what others took; they are printed, never asserted: believe the ratios.
"""

import argparse
import multiprocessing
import os
import resource
import time

# Before numpy is imported, and inherited by the processes that are started.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np  # noqa: E402
from scipy import sparse  # noqa: E402
from scipy.stats import rankdata  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from seqsae_utils import interpretability as interp  # noqa: E402

SMALL = {"n_positions": 50_000, "d_sae": 512, "k": 8}
LARGE = {"n_positions": 1_400_000, "d_sae": 4_096, "k": 16}
#: Share of positions with each of 19 attributes: from a drama's to less than a film noir's.
SHARES = 0.44 * 0.75 ** np.arange(19)


def make_codes(n_positions: int, d_sae: int, k: int) -> sparse.csr_array:
    """Codes of a TopK dictionary, float32 [n_positions, d_sae], k above zero at each position.

    Each of the k comes from a range of its own, so that no feature is drawn twice; its first
    feature fires about ten times as often as the others do on average.
    """
    rng = np.random.default_rng(0)
    width = d_sae // k
    indices = (width * rng.random((n_positions, k), np.float32) ** 2).astype(np.int32)
    indices += np.arange(0, d_sae, width, dtype=np.int32)
    values = rng.standard_exponential(n_positions * k, np.float32)
    indptr = np.arange(0, n_positions * k + 1, k, dtype=np.int32)
    return sparse.csr_array((values, indices.ravel(), indptr), shape=(n_positions, d_sae))


def make_attributes(n_positions: int, n_items: int | None = None) -> np.ndarray:
    """Float32 [n_positions, 19]: those of an item that is drawn, or drawn for each position."""
    rng = np.random.default_rng(1)
    drawn = rng.random((n_items or n_positions, len(SHARES)), np.float32) < SHARES
    drawn = drawn.astype(np.float32)
    return drawn[rng.integers(n_items, size=n_positions)] if n_items else drawn


def by_ranks(features: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """AUC [n_features, n_attributes], of features [n_features, n_positions] with all zeros."""
    positives = attributes.sum(axis=0, dtype=np.float64)
    ranks = np.stack([rankdata(feature) for feature in features])
    above = ranks @ attributes.astype(np.float64) - positives * (positives + 1) / 2
    return above / (positives * (len(attributes) - positives))


def timed(function, *arguments):
    start = time.process_time()
    found = function(*arguments)
    return time.process_time() - start, found


def small(every_pair: bool) -> None:
    """Print the three ways at the first size."""
    codes, attributes = make_codes(**SMALL), make_attributes(SMALL["n_positions"])
    features = np.ascontiguousarray(codes.toarray().T)
    labels = np.ascontiguousarray(attributes.T)
    pairs = list(np.ndindex(len(features), len(labels)))
    n_pairs = len(pairs)
    if not every_pair:
        pairs = np.random.default_rng(2).choice(pairs, size=200, replace=False)
    interp.score(codes[:100], attributes[:100])  # whatever is loaded at the first call
    runs = [
        (timed(interp.score, codes, attributes), timed(by_ranks, features, attributes))
        for _ in range(5)
    ]
    ours, ranking = (min(seconds for seconds, _ in way) for way in zip(*runs, strict=True))
    (_, scores), (_, ranked) = runs[0]
    auc = scores["auc"]
    loop, looped = timed(lambda: [roc_auc_score(labels[j], features[i]) for i, j in pairs])
    loop *= n_pairs / len(pairs)
    how = "measured" if every_pair else f"extrapolated from {len(pairs)} of {n_pairs:,} pairs"
    heading(SMALL)
    print(f"roc_auc_score, pair by pair     {loop:8.2f} s       1 x  AUC, {how}")
    print(f"each feature ranked, a product  {ranking:8.2f} s  {loop / ranking:6.0f} x  AUC")
    print(f"interpretability.score          {ours:8.2f} s  {loop / ours:6.0f} x  both scores")
    print(
        f"largest difference of an AUC: {abs(auc[tuple(np.transpose(pairs))] - looped).max():.1e}"
        f" from roc_auc_score, {abs(auc - ranked).max():.1e} from ranks"
    )


def large(n_items: int | None) -> None:
    """Print seconds and memory of `score` at the second size."""
    codes, attributes = make_codes(**LARGE), make_attributes(LARGE["n_positions"], n_items)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = timed(interp.score, codes, attributes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    of = f"of {n_items:,} items" if n_items else "drawn at each position"
    print(
        f"attributes {of:<23} {seconds:8.1f} s  peak {peak / 2**20:.2f} GiB,"
        f" of which {before / 2**20:.2f} before"
    )


def heading(size: dict) -> None:
    print(
        "\n{d_sae:,} features x 19 attributes x {n_positions:,} positions, k = {k}".format(**size)
    )


def alone(function, argument) -> None:
    """Call it in a new process."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=[argument])
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__}({argument}): failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="time the loop on every pair")
    alone(small, parser.parse_args().all)
    print(
        "\n{d_sae:,} features x 19 attributes x {n_positions:,} positions, k = {k}".format(**LARGE)
    )
    for n_items in (27_000, None):
        alone(large, n_items)


if __name__ == "__main__":
    main()
