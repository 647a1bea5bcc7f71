"""Partial correlations against least squares position by position, and kinds that are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from seqsae_utils import data
from seqsae_utils.interpretability.about import CONFOUNDERS, about


@pytest.fixture(scope="module")
def dataset():
    dataset = data.prepare(data.synthetic(n_users=300, n_items=120))
    items = dataset.items.copy()
    items.loc[[4, 50], "year"] = pd.NA
    return replace(dataset, items=items)


@pytest.fixture(scope="module")
def index(dataset):
    users = dataset.users.query("split == 'sae'")["user"]
    return dataset.interactions[dataset.interactions["user"].isin(users)].reset_index(drop=True)


@pytest.fixture(scope="module")
def predictors(dataset, index):
    """What a position has, one column each."""
    item = dataset.items.set_index("item").loc[index["item"]]
    year = item["year"].astype(float)
    known = dataset.items["year"].astype(float)
    return {
        "position": np.log(1 + index["position"].to_numpy()),
        "history_length": np.log(index["user"].map(index["user"].value_counts()).to_numpy()),
        "popularity": np.log(1 + item["popularity"].to_numpy()),
        "year": year.fillna(known.mean()).to_numpy(),
        "unknown": year.isna().to_numpy(float),
        "attributes": dataset.attribute_matrix[index["item"]].astype(float),
    }


def residual(y: np.ndarray, predictors: list[np.ndarray]) -> np.ndarray:
    design = np.column_stack([np.ones(len(y)), *predictors])
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


@pytest.fixture(scope="module")
def codes(predictors, index):
    """Follows position; popularity; falls with the year; attributes; one item; noise; silent."""
    rng = np.random.default_rng(0)
    n = len(index)
    z = {name: (x - x.mean(axis=0)) / x.std(axis=0) for name, x in predictors.items()}
    columns = np.stack(
        [
            z["position"] + rng.normal(size=n),
            z["popularity"] + rng.normal(size=n),
            -z["year"] + 0.5 * z["popularity"] + rng.normal(size=n),
            z["attributes"][:, 3] - z["attributes"][:, 1] + rng.normal(size=n),
            3 * (index["item"].to_numpy() == 7),
            rng.normal(size=n),
            np.zeros(n),
        ],
        axis=1,
    )
    return np.maximum(columns, 0)


@pytest.fixture(scope="module")
def table(codes, index, dataset):
    return about(sparse.csr_array(codes), index, dataset).set_index("feature")


def test_partial_correlations_are_those_of_residuals(table, codes, predictors):
    for feature in range(6):
        x = codes[:, feature]
        for name in CONFOUNDERS:
            others = [z for other, z in predictors.items() if other != name]
            expected = np.corrcoef(residual(x, others), residual(predictors[name], others))[0, 1]
            assert table.loc[feature, name] == pytest.approx(expected, abs=1e-9)
        before = [z for name, z in predictors.items() if name != "attributes"]
        left = residual(x, list(predictors.values())).var() / residual(x, before).var()
        assert table.loc[feature, "attributes"] == pytest.approx(np.sqrt(1 - left), abs=1e-9)


def test_items_are_counted_one_by_one(table, codes, index):
    items = index["item"].to_numpy()
    for feature in range(6):
        x = pd.Series(codes[:, feature])
        mass = x.groupby(items).sum().sort_values(ascending=False)
        assert table.loc[feature, "item_share"] == pytest.approx(mass.iloc[0] / mass.sum())
        half = next(n for n in range(1, 121) if mass.iloc[:n].sum() >= mass.sum() / 2)
        assert table.loc[feature, "half_items"] == half
        within = ((x - x.groupby(items).transform("mean")) ** 2).sum()
        adjusted = 1 - within / (len(x) - len(mass)) / x.var(ddof=1)
        assert table.loc[feature, "item_variance"] == pytest.approx(adjusted)


def test_features_are_called_what_they_follow(table):
    assert table["kind"].to_dict() == {
        0: "late", 1: "popular", 2: "old", 3: "attributes", 4: "item", 5: "",
    }  # fmt: skip
    assert table.loc[4, "item_variance"] == pytest.approx(1)
    assert table.loc[5, "item_variance"] == pytest.approx(0, abs=0.02)


def test_a_feature_of_a_few_items_is_not_taken_for_what_they_have(index, dataset):
    """Two of a few items may be popular or old by chance: the null of such a feature is wide."""
    rng = np.random.default_rng(1)
    few = [np.isin(index["item"], 1 + rng.permutation(120)[:3]) for _ in range(60)]
    codes = sparse.csr_array(np.stack(few, axis=1).astype(float))
    table = about(codes, index, dataset)
    beyond = (table["year"].abs() > table["null_year"]).mean()
    assert beyond < 0.06  # nominally 0.01
    assert (table["year"].abs() > 0.1).mean() > 0.1  # which would have had a name without it


def test_dense_and_sparse_agree_and_the_seed_decides(codes, index, dataset):
    dense = about(codes, index, dataset, n_permutations=5, seed=3)
    thin = about(sparse.csr_array(codes), index, dataset, n_permutations=5, seed=3)
    pd.testing.assert_frame_equal(dense, thin)
    other = about(codes, index, dataset, n_permutations=5, seed=4)
    assert not np.allclose(dense["null_year"], other["null_year"])


def test_what_does_not_vary_has_no_correlation(codes, index, dataset):
    items = dataset.items.assign(year=pd.array([pd.NA] * dataset.n_items, dtype="Int16"))
    table = about(codes, index, replace(dataset, items=items), n_permutations=5)
    assert table["year"].isna().all() and table["popularity"].notna().all()
    assert table.set_index("feature")["kind"][1] == "popular"


def test_signed_codes_are_refused(index, dataset):
    with pytest.raises(ValueError, match="cut a signed basis with halves"):
        about(np.full((len(index), 1), -1.0), index, dataset)
