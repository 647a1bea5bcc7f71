"""Every score of every pair against SciPy, scikit-learn and counting by hand."""

import tracemalloc
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from seqsae_utils import interpretability as interp

N = 500


def quietly(function, *arguments):
    """A score of another library, NaN where that library warns that it is not defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return function(*arguments)
        except (Warning, ValueError):
            return np.nan


def by_others(codes: np.ndarray, attributes: np.ndarray) -> dict[str, np.ndarray]:
    """What `interp.score` promises, pair by pair from SciPy and scikit-learn."""
    functions = {
        "correlation": lambda y, x: quietly(lambda: pearsonr(x, y).statistic),
        "auc": lambda y, x: quietly(roc_auc_score, y, x),
    }
    return {
        name: np.array([[function(y, x) for y in attributes.T] for x in codes.T])
        for name, function in functions.items()
    }


def assert_same(found: dict, expected: dict, atol: float = 1e-9) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], values, atol=atol, rtol=0, err_msg=name)


@pytest.fixture
def attributes():
    """[500, 4] of 0 and 1: one frequent, one rare, one that nobody has, one that all have."""
    rng = np.random.default_rng(1)
    columns = [rng.random(N) < 0.4, rng.random(N) < 0.03, np.zeros(N), np.ones(N)]
    return np.stack(columns, axis=1).astype(np.float32)


def dense_codes() -> np.ndarray:
    """Signed, shifted, with ties, with constants that rounding makes look as if they varied."""
    rng = np.random.default_rng(2)
    codes = rng.normal(size=(N, 8)) + np.array([0, 3, -40, 0, 0, 0, 0, 1e5])
    codes[:, 3] = rng.integers(-2, 3, size=N)
    codes[:, 4], codes[:, 5] = 0.1, 1e6 + 0.1
    codes[:, 6] *= 1e-9
    return codes


def sparse_codes() -> np.ndarray:
    """Not negative, mostly zero, with ties, a dead feature, and some that always fire."""
    rng = np.random.default_rng(3)
    codes = rng.exponential(size=(N, 8)) * (rng.random((N, 8)) < 0.1)
    codes[:, 1] = rng.integers(0, 4, size=N)
    codes[:, 2], codes[:, 3] = 0.0, 0.3
    codes[:, 4] = rng.exponential(size=N)
    codes[:, 5] = 1e5 + rng.normal(size=N)
    codes[:, 6:] = 0.3 * (codes[:, 6:] > 0)  # neighbours whose values must not tie
    return codes


CODES = {
    "dense": (dense_codes(), dense_codes()),
    "dense by columns": (np.asfortranarray(dense_codes()), dense_codes()),
    "sparse": (sparse.csr_array(sparse_codes()), sparse_codes()),
    "sparse by columns": (sparse.csc_array(sparse_codes()), sparse_codes()),
    "sparse given dense": (sparse_codes(), sparse_codes()),
    "float32": (
        sparse.csr_array(sparse_codes().astype(np.float32)),
        sparse_codes().astype(np.float32).astype(np.float64),
    ),
}


@pytest.mark.parametrize(("given", "codes"), CODES.values(), ids=CODES)
def test_score_is_that_of_scipy_and_scikit_learn(given, codes, attributes):
    found = interp.score(given, attributes)
    assert_same(found, by_others(codes, attributes))
    defined = ~np.isnan(found["correlation"])
    assert not defined[:, 2:].any()  # attributes of one class
    assert defined[:, 0].sum() == 6  # and features that do not vary


def test_auc_is_the_share_of_pairs_with_ties_counted_half():
    """As a fraction, over all pairs of a position with and one without: not a digit is lost."""
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 4, size=(60, 5)) / 3
    has = rng.random((60, 2)) < 0.3
    found = interp.score(sparse.csr_array(codes), has)["auc"]
    for i, j in np.ndindex(5, 2):
        above = codes[has[:, j], i][:, None] - codes[~has[:, j], i]
        share = Fraction(int(2 * (above > 0).sum() + (above == 0).sum()), 2 * above.size)
        assert found[i, j] == float(share)


def test_what_is_not_defined_is_nan():
    """Dead and always firing features against an attribute of none, some and all positions."""
    codes = sparse.csr_array(np.array([[0.0, 2.0], [0.0, 2.0]]))
    found = interp.score(codes, np.array([[0, 1, 1], [0, 0, 1]]))
    nan = np.nan
    expected = {"correlation": np.full((2, 3), nan), "auc": [[nan, 0.5, nan], [nan, 0.5, nan]]}
    assert_same(found, expected, atol=1e-15)


def test_codes_that_never_fire_have_scores(attributes):
    found = interp.score(sparse.csr_array((N, 3)), attributes)
    assert_same(found, by_others(np.zeros((N, 3)), attributes))


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_array])
def test_explicit_zeros_are_zeros_and_stay_where_they_are(kind, attributes):
    stored = kind(sparse_codes())
    stored.data[::3] = 0.0
    n_stored = stored.nnz
    found = interp.score(stored, attributes)
    assert_same(found, by_others(stored.toarray(), attributes))
    assert stored.nnz == n_stored


def test_dense_codes_stay_as_they_are(attributes):
    codes = np.asfortranarray(dense_codes())
    interp.score(codes, attributes)
    np.testing.assert_array_equal(codes, dense_codes())


def test_sparse_codes_are_never_made_dense():
    """Not even as one byte a value: 20,000 positions x 4,000 features would take 80 MB."""
    rng = np.random.default_rng(6)
    feature = rng.integers(0, 4_000, size=60_000)
    codes = sparse.csr_array(
        (rng.exponential(size=60_000), feature, np.arange(0, 60_001, 3)), shape=(20_000, 4_000)
    )
    attributes = rng.random((20_000, 3)) < 0.2
    tracemalloc.start()
    interp.score(codes, attributes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_bad_input_is_refused(attributes):
    codes = sparse_codes()
    with pytest.raises(ValueError, match="give signed codes as dense arrays"):
        interp.score(sparse.csr_array(dense_codes()), attributes)
    with pytest.raises(ValueError, match="attributes must be 0 or 1"):
        interp.score(codes, attributes * 0.5)
    with pytest.raises(ValueError, match="codes have 499 positions and attributes 500"):
        interp.score(codes[1:], attributes)
    codes[7, 4] = np.nan
    for given in (codes, sparse.csr_array(codes)):
        with pytest.raises(ValueError, match="feature 4 holds values that are not finite"):
            interp.score(given, attributes)


def test_tidy_has_a_row_for_each_pair():
    scores = {"auc": np.array([[0.1, 0.2], [0.3, 0.4]]), "recall": np.zeros((2, 2))}
    table = interp.tidy(scores, ["a", "b"])
    assert table[["feature", "attribute", "auc"]].to_numpy().tolist() == [
        [0, "a", 0.1], [0, "b", 0.2], [1, "a", 0.3], [1, "b", 0.4]
    ]  # fmt: skip
