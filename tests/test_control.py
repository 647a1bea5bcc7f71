"""Edits against the explicit formula, and a sweep against counting by hand."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from seqsae_utils import control, sae
from seqsae_utils.activations import Normalisation
from seqsae_utils.control import Edit
from seqsae_utils.recommender import CausalTransformer, Config

D_IN, D_SAE, N_ITEMS = 16, 40, 30
NAMES = ["Noir", "War", "Musical"]
#: Far from mean 0 and deviation 1: who mixes up the two spaces is found out.
NORMALISATION = Normalisation(mean=0.7, std=2.5)
SITES = [
    "item_embedding", "blocks.0", "blocks.0.attention", "blocks.0.mlp", "blocks.1", "final_norm",
]  # fmt: skip


@pytest.fixture(params=["topk", "relu"])
def dictionary(request) -> sae.SAE:
    """An SAE with random biases, whose encoder is not the transpose of its decoder."""
    torch.manual_seed(0)
    made = sae.create(sae.Config(D_IN, D_SAE, request.param, k=6))
    with torch.no_grad():
        for parameter in (made.W_enc, made.b_enc, made.b_dec):
            parameter.add_(0.5 * torch.randn_like(parameter))
    return made


@pytest.fixture
def model() -> CausalTransformer:
    """Random weights, large enough to tell items apart."""
    torch.manual_seed(1)
    made = CausalTransformer(Config(N_ITEMS, d_model=D_IN, max_length=12)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        made.item_embedding.weight[0] = 0
    return made


@pytest.fixture
def users():
    """Histories of several lengths, and an item that each took next."""
    rng = np.random.default_rng(2)
    sequences = [1 + rng.permutation(N_ITEMS)[: rng.integers(3, 11)] for _ in range(25)]
    return [sequence[:-1] for sequence in sequences], np.array([s[-1] for s in sequences])


@pytest.fixture
def attribute_matrix() -> np.ndarray:
    matrix = (np.random.default_rng(3).random((N_ITEMS + 1, 3)) < 0.4).astype(float)
    matrix[0] = 0
    return matrix


@pytest.fixture
def hidden() -> torch.Tensor:
    torch.manual_seed(4)
    return 0.7 + 2.5 * torch.randn(5, 7, D_IN)


def code_of(dictionary, hidden) -> torch.Tensor:
    return dictionary.encode((hidden - NORMALISATION.mean) / NORMALISATION.std)


def steered_scores(model, site, delta, histories):
    with control.steered(model, site, delta):
        return model.next_item_scores(histories)[:, 1:]


# The edit


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("edit", [Edit(3, 0.0), Edit(0, 0.0), Edit(3, 1.0, "scale")])
def test_the_zero_edit_changes_no_logit_at_all(model, dictionary, users, site, edit):
    plain = model.next_item_scores(users[0])[:, 1:]
    delta = control.sae_delta(dictionary, NORMALISATION, [edit])
    edited = steered_scores(model, site, delta, users[0])
    assert (edited - plain).abs().max().item() == 0.0


@pytest.mark.parametrize("site", SITES)
def test_setting_features_to_what_they_are_changes_no_logit_at_all(model, dictionary, site):
    history = [np.array([5])]  # one position, so that one value fits all of them
    seen = []
    plain = steered_scores(model, site, lambda h: seen.append(h) or torch.zeros_like(h), history)
    values = code_of(dictionary, seen[0])[0, 0].tolist()
    assert 0 < np.count_nonzero(values) < D_SAE
    edits = [Edit(feature, value, "set") for feature, value in enumerate(values)]
    delta = control.sae_delta(dictionary, NORMALISATION, edits)
    assert (steered_scores(model, site, delta, history) - plain).abs().max().item() == 0.0


def test_an_untouched_model_is_what_a_steered_one_goes_back_to(model, dictionary, users):
    plain = model.next_item_scores(users[0])
    delta = control.sae_delta(dictionary, NORMALISATION, [Edit(0, 9.0)])
    with pytest.raises(KeyError), control.steered(model, "blocks.0", delta):
        raise KeyError
    assert torch.equal(model.next_item_scores(users[0]), plain)


@pytest.mark.parametrize(
    "edits",
    [
        [Edit(0, 3.0)],
        [Edit(7, -4.0)],
        [Edit(0, 2.0, "set")],
        [Edit(11, 0.0, "set")],
        [Edit(3, 0.0, "scale")],
        [Edit(3, -1.5, "scale"), Edit(0, 1.0), Edit(39, 2.0, "set")],
    ],
    ids=str,
)
def test_the_edit_keeps_the_error(dictionary, hidden, edits):
    """h' - h is s * (decode(f') - decode(f)), where f' is made entry by entry."""
    code = code_of(dictionary, hidden)
    wanted = code.clone()
    for edit in edits:
        value = code[..., edit.feature]
        wanted[..., edit.feature] = {
            "add": value + edit.value, "set": 0 * value + edit.value, "scale": edit.value * value
        }[edit.mode]  # fmt: skip
    expected = NORMALISATION.std * (dictionary.decode(wanted) - dictionary.decode(code))
    delta = control.sae_delta(dictionary, NORMALISATION, edits)(hidden)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(delta, expected, atol=1e-5, rtol=0)


def test_two_edits_of_a_feature_add_up(dictionary, hidden):
    both = control.sae_delta(dictionary, NORMALISATION, [Edit(2, 1.0), Edit(2, 0.5)])(hidden)
    one = control.sae_delta(dictionary, NORMALISATION, [Edit(2, 1.5)])(hidden)
    torch.testing.assert_close(both, one)


def test_feature_zero_can_be_edited(model, dictionary, users):
    plain = model.next_item_scores(users[0])[:, 1:]
    delta = control.sae_delta(dictionary, NORMALISATION, [Edit(0, 4.0)])
    assert (steered_scores(model, "blocks.0", delta, users[0]) - plain).abs().max() > 0.01


def test_a_dose_of_one_moves_the_state_by_one_standard_deviation(dictionary, hidden):
    """A unit of the normalised space is `std` in the model's, and the mean has no part in it."""
    by_feature = control.sae_delta(dictionary, NORMALISATION, [Edit(5, 1.0)])(hidden)
    direction = torch.nn.functional.normalize(torch.randn(D_IN), dim=0)
    by_direction = control.direction_delta(direction, 1.0, NORMALISATION)(hidden)
    for delta in (by_feature, by_direction):
        moved = (hidden + delta - hidden).norm(dim=-1)
        torch.testing.assert_close(moved, torch.full((5, 7), 2.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(by_direction, 2.5 * direction)


def test_nothing_that_was_given_is_changed(model, dictionary, users, hidden):
    before, weights = hidden.clone(), [p.clone() for p in model.parameters()]
    histories = [history.copy() for history in users[0]]
    delta = control.sae_delta(dictionary, NORMALISATION, [Edit(1, 3.0), Edit(2, 0.0, "set")])
    delta(hidden)
    seen = []

    def watched(states):
        kept = states.clone()
        change = delta(states)
        seen.append(torch.equal(kept, states))
        return change

    control.recommend(model, *users, "blocks.0", watched)
    assert seen and all(seen)
    assert torch.equal(hidden, before)
    assert all(map(np.array_equal, histories, users[0]))
    assert all(map(torch.equal, weights, model.parameters()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit(3, 1.0, "multiply"), "mode 'multiply': choose from add, set, scale"),
        (lambda: Edit(3, float("inf")), "feature 3: a knob cannot stand at inf"),
        (lambda: Edit(3, float("nan"), "set"), "feature 3: a knob cannot stand at nan"),
    ],
)
def test_impossible_edits_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("feature", [-1, D_SAE, 512])
def test_a_feature_that_the_sae_lacks_is_refused_before_the_model_runs(dictionary, feature):
    with pytest.raises(ValueError, match=f"feature {feature}: the SAE has features 0 to 39"):
        control.sae_delta(dictionary, NORMALISATION, [Edit(0, 1.0), Edit(feature, 1.0)])


# Directions


def test_mean_difference_by_hand():
    rng = np.random.default_rng(5)
    states, attributes = rng.normal(size=(30, 4)), (rng.random((30, 2)) < 0.5).astype(float)
    found = control.mean_difference(states, attributes)
    for direction, labels in zip(found, attributes.T, strict=True):
        with_it = np.mean([s for s, label in zip(states, labels, strict=True) if label], axis=0)
        without = np.mean([s for s, label in zip(states, labels, strict=True) if not label], axis=0)
        difference = with_it - without
        np.testing.assert_allclose(direction, difference / np.sqrt(difference @ difference))


def test_an_attribute_without_positions_cannot_be_steered_but_harms_no_other():
    states = np.random.default_rng(6).normal(size=(10, 4))
    attributes = np.stack([np.arange(10) < 5, np.zeros(10), np.ones(10)], axis=1).astype(float)
    found = torch.from_numpy(control.mean_difference(states, attributes))
    assert torch.isfinite(found).all(dim=1).tolist() == [True, False, False]
    control.direction_delta(found[0], 1.0, NORMALISATION)
    with pytest.raises(ValueError, match="an attribute that no position, or every position, has"):
        control.direction_delta(found[1], 1.0, NORMALISATION)


# The sweep


@pytest.fixture
def methods(dictionary):
    directions = torch.nn.functional.normalize(torch.randn(3, D_IN), dim=1)
    return {
        "sae": control.turn_feature(dictionary, NORMALISATION, np.array([0, 8, 21]), [1, 1, 1]),
        "diffmean": lambda c, dose: control.direction_delta(directions[c], dose, NORMALISATION),
    }


@pytest.fixture
def sweep(model, users, methods, attribute_matrix):
    """A sweep of two attributes out of order, and the rankings that it asked for."""
    asked = []

    def ranking_of(delta):
        asked.append(control.recommend(model, *users, "blocks.0", delta))
        return asked[-1]

    curves, side_effects = control.dose_response(
        ranking_of, methods, ["Musical", "Noir"], [-2.0, 0.0, 3.0], NAMES, attribute_matrix
    )
    return curves, side_effects, asked


def test_dose_zero_is_the_untouched_model_for_every_method(sweep):
    curves, side_effects, asked = sweep
    before, steered = asked[0], asked[1:]
    assert len(steered) == len(curves) == 2 * 2 * 3
    for row, ranking in zip(curves.itertuples(), steered, strict=True):
        if row.dose == 0:
            assert all(map(np.array_equal, ranking, before))
            assert (row.ndcg_change, row.ndcg_change_low, row.ndcg_change_high) == (0, 0, 0)
        else:
            assert not np.array_equal(ranking.lists, before.lists)
    assert not side_effects.loc[side_effects["dose"] == 0, "change"].any()
    assert side_effects.loc[side_effects["dose"] != 0, "change"].any()


def test_curves_and_side_effects_by_counting(sweep, attribute_matrix):
    curves, side_effects, (before, *steered) = sweep
    assert list(curves["attribute"][:6]) == ["Musical"] * 3 + ["Noir"] * 3

    def share(ranking, name):
        column = NAMES.index(name)
        return np.mean([attribute_matrix[i, column] for row in ranking.lists for i in row])

    def ndcg(ranking):
        return np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranking.rank])

    for row, ranking in zip(curves.itertuples(), steered, strict=True):
        assert row.share == pytest.approx(share(ranking, row.attribute))
        assert row.share_low <= row.share <= row.share_high
        assert row.ndcg == pytest.approx(ndcg(ranking))
        assert row.ndcg_change == pytest.approx(ndcg(ranking) - ndcg(before))
        assert row.coverage == len(set(ranking.lists.ravel())) / N_ITEMS
        key = ["method", "attribute", "dose"]
        same = (side_effects[key] == [row.method, row.attribute, row.dose]).all(axis=1)
        changes = side_effects[same].set_index("other")["change"]
        assert list(changes.index) == NAMES
        for name in NAMES:
            assert changes[name] == pytest.approx(share(ranking, name) - share(before, name))


def test_turn_feature_gives_each_column_its_own_feature_and_sign(dictionary, hidden):
    features, signs = pd.Series([0, 8, 21]), pd.Series([1, 1, -1])
    turn = control.turn_feature(dictionary, NORMALISATION, features, signs)
    for column, feature, dose in ((1, 8, 1.5), (2, 21, -1.5)):  # chosen negative: turned down
        expected = (2.5 * dose * dictionary.W_dec[feature]).expand_as(hidden)
        torch.testing.assert_close(turn(column, 1.5)(hidden), expected, atol=1e-5, rtol=0)


def test_held_out_items_never_enter_the_edit(model, dictionary, users):
    """Other targets, the same lists; and what is edited is as long as the history alone."""
    histories, targets = users
    other = np.array([next(i for i in range(1, 31) if i not in h and i != t)
                      for h, t in zip(histories, targets, strict=True)])  # fmt: skip
    delta = control.sae_delta(dictionary, NORMALISATION, [Edit(4, 3.0)])
    lengths = []

    def watched(states):
        lengths.append(states.shape[1])
        return delta(states)

    recommend = partial(control.recommend, model, histories, site="blocks.0", delta=watched)
    first, second = recommend(targets=targets), recommend(targets=other)
    np.testing.assert_array_equal(first.lists, second.lists)
    assert first.rank.tolist() != second.rank.tolist()
    assert set(lengths) == {max(map(len, histories))}


def test_recommend_filters_what_was_seen_and_is_plain_without_an_edit(model, users):
    histories, targets = users
    plain = control.recommend(model, histories, targets, "blocks.0", k=5)
    scores = model.next_item_scores(histories).numpy()
    for row, history, lists in zip(scores, histories, plain.lists, strict=True):
        unseen = [i for i in np.argsort(-row) if i > 0 and i not in history]
        assert lists.tolist() == unseen[:5]


# Settings and numbers


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("War", ["War"]),
        ("Musical|Noir", ["Musical", "Noir"]),
        (" Noir | War|Noir", ["Noir", "War"]),
        ("", ["War", "Noir", "Musical"]),
    ],
)
def test_pick_attributes(wanted, chosen):
    matrix = np.array([[0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    assert control.pick_attributes(wanted, NAMES, matrix) == chosen


def test_pick_attributes_takes_the_six_of_most_items():
    matrix = np.tril(np.ones((8, 8)))
    names = [f"attribute {i}" for i in range(8)]
    assert control.pick_attributes("", names, matrix) == names[:6]


def test_an_unknown_attribute_names_the_nearest(attribute_matrix):
    message = "attribute 'Musicals': .* nearest: 'Musical'; all of them: Noir, War, Musical"
    with pytest.raises(ValueError, match=message):
        control.pick_attributes("War|Musicals", NAMES, attribute_matrix)


def test_headline_by_hand():
    rows = [("sae", a, d, s, s / 10) for a, base in {"War": 0.2, "Noir": 0.4}.items()
            for d, s in {-4.0: 0.0, 0.0: base, 4.0: base + 0.3}.items()]  # fmt: skip
    curves = pd.DataFrame(rows, columns=["method", "attribute", "dose", "share", "ndcg"])
    found = control.headline(curves, strong=4.0)
    assert list(found) == ["sae"]
    assert list(found["sae"]) == ["War", "Noir", "mean"]
    expected = {
        "share_at_0": 0.2,
        "share_at_strong": 0.5,
        "ndcg_at_0": 0.02,
        "ndcg_at_strong": 0.05,
    }
    assert found["sae"]["War"] == pytest.approx(expected)
    assert found["sae"]["mean"]["share_at_strong"] == pytest.approx(0.6)
