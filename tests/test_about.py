"""Partial correlations against least squares position by position, and features that are known."""

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
    users = dataset.users.query("split == 'dev'")["user"]
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


def test_the_share_of_the_strongest_item(table, codes, index):
    items = index["item"].to_numpy()
    for feature in range(6):
        mass = pd.Series(codes[:, feature]).groupby(items).sum()
        assert table.loc[feature, "item_share"] == pytest.approx(mass.max() / mass.sum())
    assert table.loc[4, "item_share"] == pytest.approx(1)
    assert 6 not in table.index  # it never fires


def test_features_follow_what_they_were_made_of(table):
    most = table[list(CONFOUNDERS)].abs().idxmax(axis=1)
    assert most[:3].tolist() == ["position", "popularity", "year"]
    assert table["year"][2] < -0.3 and table["position"][0] > 0.3
    assert table.loc[5, list(CONFOUNDERS)].abs().max() < 0.1  # noise


def test_dense_and_sparse_agree(codes, index, dataset, table):
    pd.testing.assert_frame_equal(about(codes, index, dataset).set_index("feature"), table)


def test_what_does_not_vary_has_no_correlation(codes, index, dataset):
    items = dataset.items.assign(year=pd.array([pd.NA] * dataset.n_items, dtype="Int16"))
    table = about(codes, index, replace(dataset, items=items))
    assert table["year"].isna().all() and table["popularity"].notna().all()
