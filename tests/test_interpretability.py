"""Paired scores, choosing, intervals and the null, against SciPy, scikit-learn, brute force."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score

from seqsae_utils import interpretability as interp
from seqsae_utils import recommender, resampling, sae
from seqsae_utils.activations import Normalisation, hooked
from seqsae_utils.interpretability import Positions
from seqsae_utils.interpretability.chance import (
    choose,
    columns,
    corrected_p_values,
    drawn_auc,
    drawn_correlations,
    of_chosen,
    permutation_null,
)
from seqsae_utils.interpretability.comparison import REDRAWN, cut
from seqsae_utils.interpretability.items import correlations, item_sums

N_ITEMS, N_ATTRIBUTES = 60, 4
NAMES = ["Noir", "War", "Musical", "Western"]


@pytest.fixture
def attributes():
    """[500, 4] of 0 and 1: one frequent, one rare, one that nobody has, one that all have."""
    rng = np.random.default_rng(1)
    columns = [rng.random(500) < 0.4, rng.random(500) < 0.03, np.zeros(500), np.ones(500)]
    return np.stack(columns, axis=1).astype(float)


def dense_codes() -> np.ndarray:
    """Signed, shifted, with ties, with constants that rounding makes look as if they varied."""
    rng = np.random.default_rng(2)
    codes = rng.normal(size=(500, 7)) + np.array([0, 3, -40, 0, 0, 0, 0])
    codes[:, 3] = rng.integers(-2, 3, size=500)
    codes[:, 4], codes[:, 5] = 0.1, 1e6 + 0.1
    codes[:, 6] *= 1e-9
    return codes


def sparse_codes() -> np.ndarray:
    """Not negative, mostly zero, with ties, a dead feature, and one that always fires."""
    rng = np.random.default_rng(3)
    codes = rng.exponential(size=(500, 7)) * (rng.random((500, 7)) < 0.1)
    codes[:, 1] = rng.integers(0, 4, size=500)
    codes[:, 2], codes[:, 3] = 0.0, 0.3
    codes[:, 4] = rng.exponential(size=500)
    return codes


@pytest.mark.parametrize(
    "x",
    [sparse_codes()[:, [0, 1]], dense_codes()[:, [0, 3]], -sparse_codes()[:, [0, 1]]],
    ids=["sparse", "dense", "negative"],
)
def test_drawn_scores_are_those_of_repeated_rows(x, attributes):
    y = attributes[:, [0, 1]]
    user = np.random.default_rng(4).integers(0, 60, size=500)  # in no order
    draws = np.random.default_rng(4).integers(0, 4, size=(3, 60))
    correlation = drawn_correlations([x], y, [draws[:2, user], draws[2:, user]])
    auc = [drawn_auc(*pair, user, [draws[:2], draws[2:]]) for pair in zip(x.T, y.T, strict=True)]
    for draw, counts in enumerate(draws):
        rows = np.repeat(np.arange(500), counts[user])
        for j in range(2):
            expected = pearsonr(x[rows, j], y[rows, j]).statistic
            assert correlation[draw, 0, j] == pytest.approx(expected, abs=1e-5)  # in float32
            expected = roc_auc_score(y[rows, j], x[rows, j])
            assert auc[j][draw] == pytest.approx(expected, abs=1e-9)


def test_a_draw_without_the_attribute_has_no_score(attributes):
    counts = np.stack([np.ones(500), attributes[:, 0] == 0, attributes[:, 0] == 1])
    x, y = sparse_codes()[:, 0], attributes[:, 0]
    auc = drawn_auc(x, y, np.arange(500), [counts])
    correlation = drawn_correlations([x[:, None]], y[:, None], [counts])[:, 0, 0]
    for values in (auc, correlation):
        assert np.isnan(values).tolist() == [False, True, True]


def test_a_feature_that_is_silent_in_a_draw_scores_what_is_asked(attributes):
    x, y = sparse_codes()[:, [0]], attributes[:, [0]]
    counts = np.stack([np.ones(500), x[:, 0] == 0])
    found = [drawn_correlations([x], y, [counts], silent)[:, 0, 0] for silent in (np.nan, 0.0)]
    np.testing.assert_allclose(found[0], [pearsonr(x[:, 0], y[:, 0]).statistic, np.nan], atol=1e-5)
    np.testing.assert_allclose(found[1], [found[0][0], 0])


# Choosing


def test_choose_takes_the_furthest_from_chance_and_keeps_the_sign():
    nan = np.nan
    scores = np.array([[0.2, -0.1, nan, nan], [-0.3, 0.05, 0.1, nan], [0.1, nan, -0.2, nan]])
    feature, sign = choose(scores)
    assert feature.tolist()[:3] == [1, 0, 2] and sign.tolist()[:3] == [-1, -1, -1]
    np.testing.assert_array_equal(of_chosen(scores, feature, sign), [0.3, 0.1, 0.2, nan])
    auc = np.array([[0.6, 0.9], [0.2, 0.55]])
    feature, sign = choose(auc, chance=0.5)
    assert feature.tolist() == [1, 0] and sign.tolist() == [-1, 1]
    np.testing.assert_allclose(of_chosen(auc, feature, sign, 0.5), [0.8, 0.9])


def test_columns_turn_negative_features_over():
    codes = np.arange(6.0).reshape(2, 3)
    for given in (codes, sparse.csr_array(codes)):
        found = columns(given, np.array([2, 0]), np.array([-1, 1]))
        np.testing.assert_array_equal(found, [[-2, 0], [-5, 3]])


# A made-up world: items with attributes, and two groups of users who take them


def group_of_users(rng, matrix, first_user: int, n_users: int = 30, length: int = 40) -> Positions:
    items = rng.integers(1, N_ITEMS + 1, size=n_users * length)
    return Positions(np.repeat(first_user + np.arange(n_users), length), items, matrix[items])


@pytest.fixture
def world():
    """Attributes of items [n_items + 1, 4], and positions of both groups of users."""
    rng = np.random.default_rng(5)
    matrix = (rng.random((N_ITEMS + 1, N_ATTRIBUTES)) < 0.3).astype(float)
    matrix[0] = 0
    groups = {"dev": group_of_users(rng, matrix, 0), "test": group_of_users(rng, matrix, 100)}
    return matrix, groups


def random_codes(positions: Positions, seed: int) -> np.ndarray:
    """Twenty features that fire anywhere."""
    rng = np.random.default_rng(seed)
    shape = (len(positions.items), 20)
    return rng.exponential(size=shape) * (rng.random(shape) < 0.2)


def planted_codes(positions: Positions, seed: int) -> np.ndarray:
    """The same, but feature 5 + j fires more on attribute j, and feature 3 less on attribute 3."""
    rng = np.random.default_rng(seed + 50)
    codes = random_codes(positions, seed)
    codes[:, 5:8] += rng.exponential(size=(len(codes), 3)) * positions.attributes[:, :3]
    codes[:, 3] = rng.exponential(size=len(codes)) * (1 - positions.attributes[:, 3])
    return codes


def test_correlations_from_sums_are_those_of_score(world):
    matrix, groups = world
    for codes in (planted_codes(groups["dev"], 0), dense_codes_for(groups["dev"])):
        expected = interp.score(codes, groups["dev"].attributes)["correlation"]
        found = correlations(item_sums(codes, groups["dev"].items, N_ITEMS), matrix)
        np.testing.assert_allclose(found, expected, atol=1e-9, rtol=0)
        as_sparse = item_sums(sparse.csr_array(codes), groups["dev"].items, N_ITEMS)
        again = correlations(as_sparse, matrix)
        np.testing.assert_allclose(again, expected, atol=1e-9, rtol=0)


def dense_codes_for(positions: Positions) -> np.ndarray:
    codes = np.random.default_rng(6).normal(size=(len(positions.items), 5))
    codes[:, 2] = 0.1  # constant
    return codes


def test_positions_carry_the_attributes_of_their_items(world):
    matrix, _ = world
    index = pd.DataFrame({"user": [7, 7, 9], "item": [3, 60, 3], "position": [0, 1, 0]})
    positions = Positions.of(index, matrix)
    assert positions.users.tolist() == [7, 7, 9]
    np.testing.assert_array_equal(positions.attributes, matrix[[3, 60, 3]])


def best_of(codes, groups, matrix) -> pd.DataFrame:
    return interp.compare({"sae": codes}, groups, matrix, NAMES, n_permutations=2)[0]


def test_best_features_are_scored_on_the_test_users(world):
    matrix, groups = world
    codes = {group: planted_codes(groups[group], i) for i, group in enumerate(groups)}
    best = best_of(codes, groups, matrix)
    assert best["attribute"].tolist() == NAMES
    assert best["feature"].tolist() == [5, 6, 7, 3]
    assert best["sign"].tolist() == [1, 1, 1, -1]
    for j, (feature, sign) in enumerate(zip(best["feature"], best["sign"], strict=True)):
        for column, group in {"correlation_chosen": "dev", "correlation": "test"}.items():
            expected = pearsonr(sign * codes[group][:, feature], groups[group].attributes[:, j])
            assert best.loc[j, column] == pytest.approx(expected.statistic, abs=1e-9)
        x, y = sign * codes["test"][:, feature], groups["test"].attributes[:, j]
        assert best.loc[j, "auc"] == pytest.approx(roc_auc_score(y, x), abs=1e-9)
        assert best.loc[j, "average_precision"] == pytest.approx(average_precision_score(y, x))
    assert (best["correlation"] > 0.2).all()


def test_best_features_do_not_look_at_the_test_users_to_choose(world):
    matrix, groups = world
    codes = {"dev": planted_codes(groups["dev"], 0), "test": planted_codes(groups["test"], 1)}
    other = codes | {"test": planted_codes(groups["test"], 2)[:, ::-1]}
    first, second = (best_of(c, groups, matrix) for c in (codes, other))
    for column in ("feature", "sign", "correlation_chosen"):
        assert first[column].tolist() == second[column].tolist()
    assert first["correlation"].min() > 0.2 > second["correlation"].max()
    swapped = {"dev": other["test"], "test": codes["dev"]}
    exchanged = {"dev": groups["test"], "test": groups["dev"]}
    third = best_of(swapped, exchanged, matrix)
    assert third["feature"].tolist() != first["feature"].tolist()


# Chance


def test_users_are_drawn_not_positions(world):
    """Positions that repeat their user's own add nothing, so they must move no interval."""
    matrix, groups = world
    codes = {group: planted_codes(groups[group], i) for i, group in enumerate(groups)}
    twice = np.repeat(np.arange(len(codes["test"])), 2)
    test = groups["test"]
    again = Positions(test.users[twice], test.items[twice], test.attributes[twice])
    (_, table, drawn), (_, other, repeated) = (
        interp.compare({"sae": c}, g, matrix, NAMES, n_permutations=2)
        for c, g in (
            (codes, groups),
            (codes | {"test": codes["test"][twice]}, groups | {"test": again}),
        )
    )
    for name, values in drawn.items():
        np.testing.assert_allclose(repeated[name], values, atol=1e-5)
    columns = ["max_correlation_low", "max_auc_high"]
    np.testing.assert_allclose(other[columns], table[columns], atol=1e-5)


def test_interval_is_that_of_percentiles():
    low, high = resampling.interval(np.append(np.arange(1_001.0), np.nan))
    assert (low, high) == pytest.approx((25.0, 975.0))


def row_of(codes, groups, matrix) -> pd.Series:
    """The row of one representation in the table of `compare`, and its best features."""
    best, table, _ = interp.compare({"sae": codes}, groups, matrix, NAMES, 0, 99)
    return table.iloc[0], best


def test_null_is_not_beaten_by_codes_that_know_nothing(world):
    matrix, groups = world
    codes = {group: random_codes(groups[group], i) for i, group in enumerate(groups)}
    found, best = row_of(codes, groups, matrix)
    assert found["p_value"] > 0.1, found
    assert (best["p_value"] > 0.05).all()


def test_null_is_not_beaten_by_features_that_know_items_by_heart(world):
    """A feature of a few items correlates with whatever these items are, for all users alike.

    Permuting positions would call that significant; an attribute belongs to an item.
    """
    matrix, groups = world
    loves = np.random.default_rng(8).random((N_ITEMS + 1, 20)) < 0.1
    codes = {
        group: random_codes(positions, i) + 2 * loves[positions.items]
        for i, (group, positions) in enumerate(groups.items())
    }
    found, _ = row_of(codes, groups, matrix)
    assert found["max_correlation"] > 0.1 and found["null_correlation"] > 0.1
    assert found["p_value"] > 0.1, found


def test_null_is_beaten_by_planted_codes(world):
    matrix, groups = world
    codes = {group: planted_codes(groups[group], i) for i, group in enumerate(groups)}
    codes = {group: sparse.csr_array(dense) for group, dense in codes.items()}
    found, best = row_of(codes, groups, matrix)
    assert found["p_value"] == pytest.approx(1 / 100)
    assert (best["p_value"] == 1 / 100).all() and found["n_significant"] == N_ATTRIBUTES
    assert found["max_correlation"] > found["null_correlation"] + 0.2, found
    assert found["max_correlation"] == pytest.approx(best["correlation"].mean())
    for name in ("max_correlation", "max_auc"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_permutation_null_permutes_items_and_never_padding(world):
    matrix, groups = world
    codes = {group: planted_codes(groups[group], i) for i, group in enumerate(groups)}
    sums = {group: item_sums(codes[group], groups[group].items, N_ITEMS) for group in groups}
    null = permutation_null(sums["dev"], sums["test"], matrix, 25, seed=1)
    by_hand = []
    rng = np.random.default_rng(1)
    for _ in range(25):
        shuffled = np.concatenate([matrix[:1], matrix[1 + rng.permutation(N_ITEMS)]])
        by_hand.append([])
        for j in range(N_ATTRIBUTES):
            y = {group: shuffled[groups[group].items, j] for group in groups}
            r = [pearsonr(feature, y["dev"]).statistic for feature in codes["dev"].T]
            chosen = int(np.argmax(np.abs(r)))
            scored = pearsonr(codes["test"][:, chosen], y["test"]).statistic
            by_hand[-1].append(scored * np.sign(r[chosen]))
    np.testing.assert_allclose(null, by_hand, atol=1e-9)


def test_popularity_alone_is_beyond_chance_unless_the_null_keeps_it():
    """Popular items carry the attribute, and a "feature" is nothing but popularity."""
    items = np.arange(1, 1001)
    popularity = np.r_[0.0, items]
    matrix = (popularity > 700).astype(np.float32)[:, None]
    sums = item_sums(popularity[items][:, None], items, 1000)
    found = correlations(sums, matrix)[0, 0]
    free, kept = (
        permutation_null(sums, sums, matrix, 25, 1, popularity=some) for some in (None, popularity)
    )
    assert found > free.max() + 0.5
    assert abs(found - kept.mean()) < 0.01


def test_corrected_p_values_keep_the_error_over_all_attributes():
    """Of made-up worlds in which nothing is true, one in twenty may find anything at all."""
    rng = np.random.default_rng(0)
    spreads = np.array([0.01, 0.1, 1.0])
    found = [
        corrected_p_values(spreads * rng.normal(size=3), spreads * rng.normal(size=(99, 3)))
        for _ in range(400)
    ]
    any_below = np.mean([(p <= 0.05).any() for p in found])
    assert 0.02 < any_below < 0.09
    each = np.mean([p <= 0.05 for p in found], axis=0)
    assert each.min() > 0.25 * each.max()  # no attribute is left out for its smaller spread


def test_the_table_of_all_films_and_its_draws(world):
    matrix, groups = world
    good = {group: planted_codes(groups[group], i) for i, group in enumerate(groups)}
    poor = {group: random_codes(groups[group], i) for i, group in enumerate(groups)}
    best, table, drawn = interp.compare(
        {"neurons": poor, "sae": good}, groups, matrix, NAMES, n_permutations=30
    )
    table = table.set_index("representation")
    assert best["representation"].unique().tolist() == ["neurons", "sae"]
    for name, row in table.iterrows():
        low, high = np.quantile(drawn[f"{name}.max_correlation"], [0.025, 0.975])
        assert (row["max_correlation_low"], row["max_correlation_high"]) == pytest.approx(
            (low, high)
        )
        assert low < row["max_correlation"] < high
        of_name = best[best["representation"] == name]
        assert row["n_significant"] == (of_name["p_value"] < 0.05).sum()
        assert row["share_significant"] == row["n_significant"] / len(NAMES)
    assert table.loc["sae", "n_significant"] > table.loc["neurons", "n_significant"]


# Representations


@pytest.fixture
def compared():
    rng = np.random.default_rng(9)
    mixing = rng.normal(size=(6, 6))
    states = {g: (2 + rng.normal(size=(n, 6)) @ mixing).astype(np.float32)
              for g, n in {"dev": 300, "test": 120}.items()}  # fmt: skip
    torch.manual_seed(0)
    dictionary = sae.create(sae.Config(6, 24, "relu"))
    with torch.no_grad():
        dictionary.b_enc -= 1.0  # about three features fire
    return dictionary, states


def test_representations_fit_on_the_development_users_only(compared):
    dictionary, states = compared
    found = interp.representations(dictionary, states)
    assert list(found) == [
        "neurons", "neurons_cut", "pca", "pca_cut", "ica", "ica_cut", "kmeans",
        "random_directions", "random_covariance", "sae_fewer", "sae",
    ]  # fmt: skip
    for name, drawn in found.items():
        assert len(drawn) == (3 if name in REDRAWN else 1)
    found = {name: drawn[0] for name, drawn in found.items()}
    normalisation = Normalisation.of(states["dev"])
    x = {g: (s - normalisation.mean) / normalisation.std for g, s in states.items()}
    np.testing.assert_allclose(found["neurons"]["test"], x["test"], atol=1e-5)
    pca = PCA(random_state=0).fit(x["dev"]).transform(x["test"])
    np.testing.assert_allclose(np.abs(found["pca"]["test"]), np.abs(pca), atol=1e-4)
    ica = found["ica"]["dev"]
    np.testing.assert_allclose(np.cov(ica.T), np.eye(6), atol=0.02)  # uncorrelated, of variance 1
    other = interp.representations(dictionary, states | {"test": 5 * states["test"]})
    for name in found:
        first, second = found[name]["dev"], other[name][0]["dev"]
        assert abs(first - second).max() == 0, name


def test_a_dictionary_in_which_nothing_fires_is_refused(compared):
    dictionary, states = compared
    with torch.no_grad():
        dictionary.b_enc -= 1_000
    with pytest.raises(ValueError, match="no feature of the SAE fires on the dev users: train"):
        interp.representations(dictionary, states)


def test_independent_components_do_not_hang_on_rounding(compared):
    """As other numbers of threads round otherwise; here, as another order of the rows does."""
    dictionary, states = compared
    rng = np.random.default_rng(0)
    states["dev"] = rng.laplace(size=(2_000, 6)).astype(np.float32) @ states["dev"][:6]
    shuffled = states | {"dev": rng.permutation(states["dev"])}
    first, second = (
        interp.representations(dictionary, each)["ica"][0]["test"] for each in (states, shuffled)
    )
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_of_several_starts_the_least_gaussian_components_are_kept():
    """Whatever the starts, none of them alone is farther from normal by the kurtosis."""
    rng = np.random.default_rng(1)
    states = rng.laplace(size=(500, 12)) @ rng.normal(size=(12, 12))

    def kurtosis(seed, starts):
        components = interp.comparison.independent_components(states, seed, starts).transform(
            states
        )
        return round(float(np.square((components**4).mean(axis=0) - 3).sum()), 6)

    alone = [kurtosis(seed, 1) for seed in range(4)]
    assert len(set(alone)) > 1  # it has local optima
    assert kurtosis(0, 4) == max(alone)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_random_dictionary_is_as_large_and_as_sparse(compared, shift):
    dictionary, states = compared
    with torch.no_grad():
        dictionary.b_enc += shift
    found = interp.representations(dictionary, states)
    trained, random = found["sae"][0]["dev"], found["random_directions"][0]["dev"]
    for name in ("kmeans", "random_directions", "random_covariance"):
        draws = [codes["dev"] for codes in found[name]]
        assert all(codes.shape == trained.shape for codes in draws)
        assert all(codes.nnz / 300 == pytest.approx(trained.nnz / 300, abs=0.7) for codes in draws)
        assert abs(draws[0] - draws[1]).max() > 0
    assert all(codes["test"].shape == (120, 6) for codes in found["sae_fewer"])
    assert random.shape == trained.shape
    assert random.nnz / 300 == pytest.approx(trained.nnz / 300, abs=0.7)
    assert abs(random - trained).max() > 0
    again = interp.representations(dictionary, states)["random_directions"][0]["dev"]
    other = interp.representations(dictionary, states, seed=1)["random_directions"][0]["dev"]
    assert abs(random - again).max() == 0 < abs(random - other).max()


def test_controls_stand_between_their_own_states_and_the_rest(compared):
    dictionary, states = compared
    training = sae.Training(steps=20, batch_size=100, warmup_steps=1, seed=3)
    others = {group: 7 - 3 * x for group, x in states.items()}
    control, _ = sae.fit(others["dev"], sae.Config(6, 24, k=2), training)
    found = interp.representations(dictionary, states, {"sae_static": (control, others)})
    assert list(found)[-3:] == ["sae_static", "sae_fewer", "sae"]
    expected = sae.encode(control, others["test"])
    assert abs(found["sae_static"][0]["test"] - expected).max() == 0
    again, _ = sae.fit(others["dev"], sae.Config(6, 24, k=2), training)
    assert torch.equal(again.W_dec, control.W_dec)


# Output and tables


def test_output_effect_by_hand():
    """Logits 2, 4, 9 for items 1, 2, 3 with mean 5; padding has no say."""
    head = np.array([[100.0, 100.0], [1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    matrix = np.array([[1.0, 1, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]])
    effect = interp.output_effect(np.array([2.0, 3.0]), head, matrix)
    np.testing.assert_allclose(effect, [3 - 5, 9 - 5, np.nan])
    several = interp.output_effect(np.array([[2.0, 3.0], [4.0, 6.0]]), head, matrix)
    np.testing.assert_allclose(several, [effect, 2 * effect])


def test_measured_effect_is_what_hooking_by_hand_does():
    torch.manual_seed(0)
    model = recommender.create(recommender.Config(20, d_model=8, max_length=6)).eval()
    histories = [np.array([1, 2, 3]), np.array([4, 5])]
    directions = np.eye(8, dtype=np.float32)[:3]
    found = interp.measured_effect(model, "blocks.0", directions, 2.0, histories, strength=0.5)
    before = model.next_item_scores(histories)[:, 1:]
    step = torch.from_numpy(directions[1])
    with hooked(model, "blocks.0", lambda hidden: hidden + 1.0 * step):  # std 2 x strength 0.5
        after = model.next_item_scores(histories)[:, 1:]
    expected = ((after - before) / 0.5).mean(dim=0)
    np.testing.assert_allclose(found[1, 1:], expected, atol=1e-5)
    assert found.shape == (3, 21) and not found[:, 0].any()
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_without_blocks_behind_the_site_the_effect_is_the_logit_lens():
    torch.manual_seed(0)
    model = recommender.create(recommender.Config(20, d_model=8, max_length=6)).eval()
    directions = np.eye(8, dtype=np.float32)[:3]
    matrix = (np.random.default_rng(0).random((21, 3)) < 0.4).astype(float)
    logits = interp.measured_effect(model, "final_norm", directions, 1.0, [np.array([1, 2])])
    head = model.head.detach().numpy()
    np.testing.assert_allclose(
        interp.attribute_effect(logits, matrix),
        interp.output_effect(directions, head, matrix),
        atol=1e-5,
    )


def test_agreement_is_the_correlation_of_rows():
    rng = np.random.default_rng(0)
    reads, promotes = rng.normal(size=(2, 50, 6))
    promotes[0], promotes[1] = 2 * reads[0] + 1, -reads[1]
    reads[2] = 1.0
    found, dealt = interp.agreement(reads, promotes)
    assert found[:2] == pytest.approx([1, -1])
    assert np.isnan(found[2])
    expected = [pearsonr(a, b).statistic for a, b in zip(reads[3:], promotes[3:], strict=True)]
    np.testing.assert_allclose(found[3:], expected)
    assert not np.isclose(dealt[3:], expected).any()


def test_top_items_need_three_positions_where_any_item_has_them():
    items = np.array([1, 1, 1, 2, 2, 2, 3])
    codes = sparse.csr_array(np.array([[1, 2, 3, 4, 4, 4, 9.0]]).T)
    top = interp.top_items(codes, items, 3)
    assert top.to_numpy().tolist() == [[0, 2, 4, 3], [0, 1, 2, 3]]
    assert interp.top_items(codes, np.arange(1, 8), 7, n=2)["item"].tolist() == [7, 4]


def test_an_item_on_which_a_feature_is_silent_is_no_top_item():
    """And does not keep out those on which it fires, where these are rare."""
    codes = sparse.csr_array(np.array([[0, 0, 0, 5.0, 7.0]]).T)
    top = interp.top_items(codes, np.array([1, 1, 1, 2, 3]), 3)
    assert top["item"].tolist() == [3, 2]


def test_feature_table_does_not_name_what_never_fires():
    correlation = np.array([[0.1, 0.5], [np.nan, np.nan], [-0.2, -0.1]])
    effect = np.array([[0.3, 0.2], [np.nan, 0.1], [0.0, -0.4]])
    table = interp.feature_table(correlation, effect, np.array([0.2, 0.0, 0.1]), ["a", "b"])
    assert table["feature"].tolist() == [0, 1, 2]
    assert table["attribute"].tolist() == ["b", "", "b"]
    np.testing.assert_array_equal(table["correlation"], [0.5, np.nan, -0.1])
    assert table["promotes"].tolist() == ["a", "b", "a"]
    assert table["effect"].tolist() == [0.3, 0.1, 0.0]


def test_what_is_cut_keeps_the_strongest_entries_of_each_position():
    rng = np.random.default_rng(0)
    x = {g: rng.normal(size=(50, 8)) * np.arange(1, 9) + 3 for g in ("dev", "test")}
    found = cut(x, k=3)
    z = (x["test"] - x["dev"].mean(axis=0)) / x["dev"].std(axis=0)
    assert ((found["test"] != 0).sum(axis=1) == 3).all()
    for row, kept in zip(z, found["test"], strict=True):
        strongest = np.sort(np.argsort(-np.abs(row))[:3])
        np.testing.assert_array_equal(np.flatnonzero(kept), strongest)
        np.testing.assert_allclose(kept[strongest], row[strongest], rtol=1e-5)


def test_svd_vectors_of_few_users_are_filled_with_zeros():
    sequences = [np.array([1, 2, 3]), np.array([2, 1, 3]), np.array([4, 5])]
    found = recommender.svd_vectors(sequences, n_items=6, d=5)
    assert found.shape == (7, 5)
    np.testing.assert_allclose(found[:, :2], recommender.svd_vectors(sequences, 6, d=2))
    assert (found[:, 2:] == 0).all()
    assert (recommender.svd_vectors(sequences[:1], n_items=6, d=5) == np.zeros((7, 5))).all()


def test_svd_vectors_know_who_took_what_and_no_order():
    sequences = [np.array([1, 2, 3]), np.array([2, 1, 3]), np.array([4, 5]), np.array([5, 4, 3])]
    found = recommender.svd_vectors(sequences, n_items=6, d=3)
    taken = np.zeros((4, 7))
    for row, items in zip(taken, sequences, strict=True):
        row[items] = 1
    gram = found @ found.T
    u, s, v = np.linalg.svd(taken)
    np.testing.assert_allclose(gram, (v[:3].T * s[:3] ** 2) @ v[:3], atol=1e-4)
    np.testing.assert_allclose(found[[0, 6]], 0, atol=1e-6)
    again = recommender.svd_vectors([np.sort(items) for items in sequences], n_items=6, d=3)
    np.testing.assert_allclose(again @ again.T, gram, atol=1e-4)
