"""Popularity turned down: planted features, and what lists become, counted by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from seqsae_utils import control, metrics
from seqsae_utils.recommender import CausalTransformer, Config, Ranking, rank_items

POPULARITY = np.array([0, 50, 20, 10, 10, 4, 3, 2, 1])
GROUPS = metrics.popularity_groups(POPULARITY)


def test_groups_split_the_interactions_and_not_the_items():
    expected = [0, 1, 1, 2, 2, 2, 2, 2]  # above them are 0, 50, 70, 80, ... of 100
    assert GROUPS.argmax(axis=1)[1:].tolist() == expected
    assert GROUPS.sum(axis=1).tolist() == [0] + 8 * [1]
    popularity = np.append(0, np.random.default_rng(0).integers(1, 100, 500))
    shares = popularity @ metrics.popularity_groups(popularity) / popularity.sum()
    np.testing.assert_allclose(shares, [0.2, 0.6, 0.2], atol=0.01)


def test_equally_popular_items_and_very_few_ones_are_split_too():
    assert metrics.popularity_groups(np.array([0, *10 * [7]])).sum(axis=0).tolist() == [2, 6, 2]
    assert metrics.popularity_groups(np.array([0, 7])).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert metrics.popularity_groups(np.zeros(4, int)).sum(axis=0).tolist() == [3, 0, 0]


def test_lists_are_as_popular_as_counted_by_hand():
    lists = np.array([[1, 2], [8, 0], [0, 0]])
    mean = metrics.average_popularity(lists, POPULARITY)
    np.testing.assert_allclose(mean, [35, 1, np.nan])


def test_gini_is_half_the_relative_mean_difference():
    rng = np.random.default_rng(0)
    lists = rng.choice(31, (40, 5), p=np.arange(31) / 465)
    x = np.bincount(lists[lists > 0], minlength=31)[1:]
    expected = np.abs(x[:, None] - x).mean() / (2 * x.mean())
    assert metrics.gini(lists, 30) == pytest.approx(expected)
    assert np.isnan(metrics.gini(np.zeros((2, 3), int), 30))


def test_a_list_like_the_history_does_not_deviate_and_an_opposite_one_does_by_one_bit():
    histories = [np.array([1, 8]), np.array([1, 1]), np.array([1, 8]), np.array([1])]
    lists = np.array([[7, 1], [5, 6], [8, 8], [0, 0]])
    found = metrics.popularity_deviation(lists, histories, GROUPS)
    one_sided = 0.5 * np.log2(1 / 0.75) + 0.5 * (
        0.5 * np.log2(0.5 / 0.25) + 0.5 * np.log2(0.5 / 0.75)
    )
    np.testing.assert_allclose(found, [0, 1, one_sided, np.nan], atol=1e-12)
    thirds = np.repeat(np.eye(3), [3, 6, 1], axis=0)  # rounding makes its divergence negative
    same = np.arange(10)
    assert metrics.popularity_deviation(same[None], [same], thirds).tolist() == [0]


def test_popsteer_finds_the_features_that_fire_on_popular_or_on_unpopular_items():
    rng = np.random.default_rng(0)
    popular, unpopular = rng.random((2, 200, 6))
    popular[:, 2] += 2  # planted: popular
    unpopular[:, 4] += 1  # planted: the long tail
    popular[:, 5] = unpopular[:, 5] = 0  # fires never
    weights = control.popsteer(popular, unpopular, threshold=1.0)
    assert np.flatnonzero(weights).tolist() == [2, 4]
    assert weights[2] < 0 < weights[4] and -weights[2] > weights[4]
    assert np.count_nonzero(control.popsteer(popular, unpopular)) == 5
    np.testing.assert_array_equal(control.popsteer(popular, popular), 0)
    # The largest |d| is turned by one standard deviation over all synthetic users.
    assert -weights[2] == pytest.approx(np.concatenate([popular, unpopular])[:, 2].std())


def test_synthetic_users_take_nothing_else_once_each():
    users = control.synthetic_users(GROUPS[:, 2], [2, 4, 400], seed=1)
    assert [len(items) for items in users.values()] == [2, 4, 5]
    assert all(GROUPS[items, 2].all() and len(set(items)) == len(items) for items in users.values())


@pytest.fixture
def model() -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(Config(8, d_model=8, max_length=6)).eval()


@pytest.mark.parametrize("kind", ["turn", "rerank"])
def test_each_user_gets_the_own_dose(model, kind):
    tail = GROUPS[:, 2]
    histories = [np.array([1, 2]), np.array([8, 7]), np.array([1, 8, 2, 3])]
    dose = control.own_taste(tail, histories)
    shares = np.array([0, 1, 0.25])
    np.testing.assert_allclose(dose(histories), shares / shares.mean(), rtol=1e-6)
    np.testing.assert_allclose(dose(histories[1:2]), 1 / shares.mean(), rtol=1e-6)  # a piece alone
    directions = np.ones((1, 8)) * np.arange(8)
    method, n_axes = {
        "turn": (control.turn(model, "blocks.0", 1.0, directions), 2),
        "rerank": (control.rerank(model, tail[:, None]), 1),
    }[kind]
    found = control.dosed(method, dose, n_axes)(0, 0.5)(histories)
    for user, share in enumerate(dose(histories)):
        alone = method(0, 0.5 * float(share))(histories[user : user + 1])
        torch.testing.assert_close(found[user, 1:], alone[0, 1:])
    assert not torch.equal(found[1, 1:], model.next_item_scores(histories)[1, 1:])


def test_the_gap_is_what_the_untouched_list_lacks(model):
    tail = GROUPS[:, 2]
    histories, targets = [np.array([1, 2]), np.array([8, 7])], np.array([3, 3])
    lists = rank_items(model.next_item_scores, histories, targets).lists
    expected = [tail[h].mean() - tail[row].mean() for h, row in zip(histories, lists, strict=True)]
    np.testing.assert_allclose(control.taste_gap(model, tail)(histories), expected, atol=1e-6)


def test_the_strength_of_a_gain_lies_between_two_that_were_tried():
    curves = pd.DataFrame(
        {"method": 3 * ["near"] + 3 * ["never"], "strength": 2 * [0, 1, 2],
         "share": [0.2, 0.25, 0.35, 0.2, 0.22, 0.21]}
    )  # fmt: skip
    found = control.strengths_for(0.1, curves)
    assert found == {"near": pytest.approx(1.5), "never": pytest.approx(1.0)}


def test_the_table_has_what_the_metrics_say_and_survives_a_recommender_that_hits_nothing():
    lists, histories = np.array([[1, 2], [8, 7]]), [np.array([3]), np.array([1])]
    before = Ranking(lists, np.array([1, 20]))
    after = Ranking(lists[::-1], np.array([3, 20]))
    table = control.popularity_table({"untouched": before, "turned": after}, histories, POPULARITY)
    assert table.loc["turned", ["arp", "long_tail", "ndcg_kept"]].tolist() == [18.25, 0.5, 0.5]
    assert table.loc["untouched", "ndcg_kept"] == 1
    nothing = before._replace(rank=np.array([20, 20]))
    table = control.popularity_table({"untouched": nothing}, histories, POPULARITY)
    assert np.isnan(table.loc["untouched", "ndcg_kept"])
