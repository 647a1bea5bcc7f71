"""Edits against the explicit formula, and a sweep against counting by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from seqsae_utils import control, metrics, resampling, sae
from seqsae_utils.activations import Normalisation, hooked
from seqsae_utils.control import Edit
from seqsae_utils.recommender import CausalTransformer, Config, best, rank_items, unseen
from seqsae_utils.resampling import N_DRAWS

D_IN, D_SAE, N_ITEMS = 16, 40, 30
NAMES = ["Noir", "War", "Musical"]
#: Far from 1: who mixes up the two units is found out.
STD = 2.5
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
    made.fold(Normalisation(mean=0.7, std=STD))
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
    return dictionary.encode(hidden) / STD


def steered_scores(model, site, delta, histories):
    with control.steered(model, site, delta):
        return model.next_item_scores(histories)[:, 1:]


# The edit


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    "edit", [Edit(3, 0.0), Edit(0, 0.0), Edit(3, 1.0, "scale"), Edit(3, 1e9, "clamp")]
)
def test_the_zero_edit_changes_no_logit_at_all(model, dictionary, users, site, edit):
    plain = model.next_item_scores(users[0])[:, 1:]
    delta = control.sae_delta(dictionary, [edit])
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
    delta = control.sae_delta(dictionary, edits)
    assert (steered_scores(model, site, delta, history) - plain).abs().max().item() == 0.0


def test_an_untouched_model_is_what_a_steered_one_goes_back_to(model, dictionary, users):
    plain = model.next_item_scores(users[0])
    delta = control.sae_delta(dictionary, [Edit(0, 9.0)])
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
        [Edit(3, 0.4, "clamp"), Edit(5, -0.5, "clamp")],
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
            "add": value + edit.value, "set": 0 * value + edit.value, "scale": edit.value * value,
            "clamp": torch.minimum(value, torch.tensor(edit.value)),
        }[edit.mode]  # fmt: skip
    expected = dictionary.decode(STD * wanted) - dictionary.decode(STD * code)
    delta = control.sae_delta(dictionary, edits)(hidden)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(delta, expected, atol=1e-5, rtol=0)


def test_two_edits_of_a_feature_add_up(dictionary, hidden):
    both = control.sae_delta(dictionary, [Edit(2, 1.0), Edit(2, 0.5)])(hidden)
    one = control.sae_delta(dictionary, [Edit(2, 1.5)])(hidden)
    torch.testing.assert_close(both, one)


def test_feature_zero_can_be_edited(model, dictionary, users):
    plain = model.next_item_scores(users[0])[:, 1:]
    delta = control.sae_delta(dictionary, [Edit(0, 4.0)])
    assert (steered_scores(model, "blocks.0", delta, users[0]) - plain).abs().max() > 0.01


def test_a_strength_of_one_moves_the_state_by_one_standard_deviation(dictionary, hidden):
    """A unit of the normalised space is `std` in the model's, and the mean has no part in it."""
    by_feature = control.sae_delta(dictionary, [Edit(5, 1.0)])(hidden)
    direction = torch.nn.functional.normalize(torch.randn(D_IN), dim=0)
    by_direction = control.direction_delta(direction, 1.0, STD)(hidden)
    for delta in (by_feature, by_direction):
        moved = (hidden + delta - hidden).norm(dim=-1)
        torch.testing.assert_close(moved, torch.full((5, 7), 2.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(by_direction, (2.5 * direction).expand_as(hidden))


def test_a_direction_goes_where_the_hidden_states_are():
    """Directions come from arrays; the model may be on a GPU, which meta stands for here."""
    delta = control.direction_delta(torch.ones(D_IN), 1.0, STD)
    assert delta(torch.empty(2, 3, D_IN, device="meta")).device.type == "meta"


def test_nothing_that_was_given_is_changed(model, dictionary, users, hidden):
    before, weights = hidden.clone(), [p.clone() for p in model.parameters()]
    histories = [history.copy() for history in users[0]]
    delta = control.sae_delta(dictionary, [Edit(1, 3.0), Edit(2, 0.0, "set")])
    delta(hidden)
    seen = []

    def watched(states):
        kept = states.clone()
        change = delta(states)
        seen.append(torch.equal(kept, states))
        return change

    rank_items(control.steered_scorer(model, "blocks.0", watched), *users)
    assert seen and all(seen)
    assert torch.equal(hidden, before)
    assert all(map(np.array_equal, histories, users[0]))
    assert all(map(torch.equal, weights, model.parameters()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit(3, 1.0, "multiply"), "mode 'multiply': choose from add, set, scale, clamp"),
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
        control.sae_delta(dictionary, [Edit(0, 1.0), Edit(feature, 1.0)])


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
    assert found.norm(dim=1).tolist() == pytest.approx([1, 0, 0])
    probes = torch.from_numpy(control.probe(states, attributes))
    assert torch.isfinite(probes).all()
    assert (control.direction_delta(found[1], 1.0, STD)(torch.ones(1, 2, 4)) == 0).all()


def test_attributes_may_be_called_as_our_columns_are():
    names = ["method", "strength", "attribute", "change", "other"]
    settings = pd.DataFrame({"method": "sae", "attribute": "strength", "strength": [0.0, 2.0]})
    matrix = np.vstack([np.zeros(5), np.eye(5)])
    swept = control.Sweep(settings, np.array([[[1, 2]], [[2, 3]]]), np.ones((2, 1)))
    found = control.side_effects(swept, names, matrix)
    assert found.columns.tolist() == ["method", "attribute", "strength", "other", "change"]
    changes = found[found["strength"] == 2.0].set_index("other")["change"].to_dict()
    assert changes == {"method": -0.5, "strength": 0, "attribute": 0.5, "change": 0, "other": 0}


# Where an edit falls


def test_an_edit_of_the_last_position_touches_no_other(model, dictionary, users):
    """On the right of the last item is padding: it is the last of each history, not of the row."""
    histories = [np.array([3, 4, 5, 6]), np.array([7, 8])]
    delta = control.sae_delta(dictionary, [Edit(5, 2.0)])
    states = {}
    for positions in ("none", "all", "last"):
        seen = states.setdefault(positions, [])
        with hooked(model, "blocks.1.attention_norm", lambda h, seen=seen: seen.append(h.clone())):
            if positions == "none":
                model.next_item_scores(histories)
            else:
                with control.steered(model, "blocks.0", delta, positions):
                    model.next_item_scores(histories)
    moved = (states["last"][0] != states["none"][0]).any(dim=2)
    assert moved.tolist() == [[False, False, False, True], [False, True, False, False]]
    assert (states["all"][0] != states["none"][0]).any(dim=2)[0].all()


def test_padding_on_the_left_is_told_from_items_too():
    """Any torch model that is called on items: here one that pads on the left."""
    torch.manual_seed(0)
    other = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.GRU(4, 4, batch_first=True))
    items = torch.tensor([[0, 0, 3], [1, 2, 5]])
    plain = other(items)[0]
    with control.steered(other, "1", lambda hidden: torch.ones_like(hidden), "last"):
        steered = other(items)[0]
    expected = torch.zeros(2, 3, 4)
    expected[:, 2] = 1.0
    torch.testing.assert_close(steered - plain, expected)
    assert torch.equal(other(items)[0], plain)


def test_the_last_position_of_nobody_knows_what_is_refused(model, dictionary):
    delta = control.sae_delta(dictionary, [Edit(5, 2.0)])
    with (
        pytest.raises(ValueError, match="positions 'last': the states at 'blocks.0' are"),
        control.steered(model, "blocks.0", delta, "last"),
    ):
        model.blocks[0](torch.zeros(1, 3, D_IN), None)
    with (
        pytest.raises(ValueError, match="positions 'first': choose from all, last"),
        control.steered(model, "blocks.0", delta, "first"),
    ):
        pass


def test_what_is_remembered_is_what_would_be_computed(model, users, monkeypatch):
    """Once for the same input; anew for another; and not at all once the block is left."""
    calls = []
    compute = type(model.blocks[0]).forward

    def counted(self, *arguments):
        calls.append(self is model.blocks[0])
        return compute(self, *arguments)

    monkeypatch.setattr(type(model.blocks[0]), "forward", counted)
    histories = users[0]
    plain, others = model.next_item_scores(histories), model.next_item_scores(histories[:3])
    calls.clear()
    with control.remembered(model, "blocks.0"):
        assert torch.equal(model.next_item_scores(histories), plain)
        assert torch.equal(model.next_item_scores(histories), plain)
        assert sum(calls) == 1
        assert torch.equal(model.next_item_scores(histories[:3]), others)
        assert sum(calls) == 2
    assert torch.equal(model.next_item_scores(histories), plain)
    assert sum(calls) == 3


class Masked(torch.nn.Module):
    """States times their mask, or doubled, as a tuple; it counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.block, self.calls = torch.nn.Identity(), 0
        self.block.forward = self.compute

    def compute(self, states, mask=None, double=False):
        self.calls += 1
        return (states * (1.0 if mask is None else mask) * (2.0 if double else 1.0),)


def test_what_is_remembered_was_asked_with_all_the_same_arguments():
    model, states = Masked(), torch.ones(2, 3)
    masks = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    with control.remembered(model, "block"):
        for arguments, options in [
            ((states, masks[0]), {}), ((states, masks[1]), {}), ((states,), {"mask": masks[0]}),
            ((states,), {"mask": masks[1]}), ((states,), {}), ((states, None, True), {}),
            ((states,), {"double": True}), ((states.double(),), {"double": True}),
        ]:  # fmt: skip
            calls = model.calls
            expected = model.compute(*arguments, **options)
            for _ in range(2):
                found = model.block(*arguments, **options)
                torch.testing.assert_close(found, expected, rtol=0, atol=0)
            assert model.calls == calls + 2, "computed here, and once when it was asked first"


def test_what_is_remembered_is_not_changed_in_place():
    """Neither by who gave the states, nor by a block that goes on with the result."""
    model, states = Masked(), torch.ones(2, 3)
    with control.remembered(model, "block"):
        model.block(states)[0].mul_(5)
        assert model.block(states)[0].eq(1).all() and model.calls == 1
        states.mul_(3)
        assert model.block(states)[0].eq(3).all() and model.calls == 2


def test_arguments_that_cannot_be_compared_are_not_remembered():
    model, states = Masked(), torch.ones(2, 3)
    with control.remembered(model, "block"):
        for _ in range(3):
            model.block(states, None, np.True_)
    assert model.calls == 3


# The sweep


@pytest.fixture
def directions() -> np.ndarray:
    return control.unit(np.random.default_rng(7).normal(size=(3, D_IN)))


@pytest.fixture
def methods(model, dictionary, attribute_matrix, directions):
    decoder = dictionary.W_dec.detach().numpy()
    return {
        "sae_feature": control.turn(model, "blocks.0", STD, decoder[[0, 8, 21]]),
        "diffmean": control.turn(model, "blocks.0", STD, directions),
        "rerank": control.rerank(model, attribute_matrix),
    }


@pytest.fixture
def swept(model, users, methods):
    """Two attributes, out of order."""
    strengths = [-2.0, 3.0, 1.0]
    return control.sweep(model, "blocks.0", users, methods, ["Musical", "Noir"], strengths, NAMES)


def rankings(swept):
    return zip(swept.settings.itertuples(), swept.lists, swept.rank, strict=True)


def test_a_sweep_is_each_setting_by_itself(
    model, dictionary, users, swept, directions, attribute_matrix
):
    assert len(swept.settings) == 3 * 2 * 4
    assert list(swept.settings["attribute"][:8]) == ["Musical"] * 4 + ["Noir"] * 4
    assert list(swept.settings["strength"][:4]) == [-2.0, 0.0, 1.0, 3.0]
    plain = model.next_item_scores
    for row, lists, rank in rankings(swept):
        column = NAMES.index(row.attribute)
        if row.method == "rerank":

            def scorer(histories, c=column, strength=row.strength):
                return (
                    plain(histories) + strength * torch.from_numpy(attribute_matrix[:, c]).float()
                )
        else:
            edits = [Edit([0, 8, 21][column], row.strength)]
            delta = control.sae_delta(dictionary, edits)
            if row.method == "diffmean":
                step = 2.5 * row.strength * torch.from_numpy(directions[column]).float()
                delta = lambda hidden, step=step: step.expand_as(hidden)  # noqa: E731
            scorer = control.steered_scorer(model, "blocks.0", delta)
        expected = rank_items(scorer, *users)
        np.testing.assert_array_equal(lists, expected.lists)
        np.testing.assert_array_equal(rank, expected.rank)


def test_strength_zero_is_the_untouched_model_for_every_method(
    model, users, swept, attribute_matrix
):
    before = rank_items(model.next_item_scores, *users)
    for row, lists, _ in rankings(swept):
        assert np.array_equal(lists, before.lists) == (row.strength == 0)
    curves = control.measure(swept, NAMES, attribute_matrix)
    untouched = curves[curves["strength"] == 0]
    assert not untouched[["ndcg_change", "ndcg_change_low", "ndcg_change_high"]].any(axis=None)


def test_curves_and_side_effects_by_counting(swept, attribute_matrix):
    curves = control.measure(swept, NAMES, attribute_matrix)
    side_effects = control.side_effects(swept, NAMES, attribute_matrix)
    (untouched,) = {
        (lists.tobytes(), rank.tobytes())
        for row, lists, rank in rankings(swept)
        if not row.strength
    }
    before = next((lists, rank) for row, lists, rank in rankings(swept) if not row.strength)
    assert (before[0].tobytes(), before[1].tobytes()) == untouched

    def share(lists, name):
        column = NAMES.index(name)
        return np.mean([attribute_matrix[i, column] for row in lists for i in row])

    def ndcg(ranks):
        return np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks])

    for row, (_, lists, rank) in zip(curves.itertuples(), rankings(swept), strict=True):
        assert row.share == pytest.approx(share(lists, row.attribute))
        assert row.share_low <= row.share <= row.share_high
        assert row.ndcg == pytest.approx(ndcg(rank))
        assert row.ndcg_change == pytest.approx(ndcg(rank) - ndcg(before[1]))
        assert row.coverage == len(set(lists.ravel())) / N_ITEMS
        key = ["method", "attribute", "strength"]
        same = (side_effects[key] == [row.method, row.attribute, row.strength]).all(axis=1)
        changes = side_effects[same].set_index("other")["change"]
        assert list(changes.index) == NAMES
        for name in NAMES:
            assert changes[name] == pytest.approx(share(lists, name) - share(before[0], name))


def test_side_effects_are_compared_at_the_same_gain(swept, attribute_matrix):
    """Written out: the rival's lists are mixed so that the steered attribute gains as much."""
    steered, methods, strengths = (
        list(dict.fromkeys(swept.settings[key])) for key in ("attribute", "method", "strength")
    )
    method, rival, strength = methods[0], methods[-1], max(strengths)
    found = control.at_same_gain(swept, NAMES, attribute_matrix, steered, method, strength, rival)
    changes = control.side_effects(swept, NAMES, attribute_matrix)
    assert found["other"].tolist() == NAMES * 2 * len(steered)
    n_reached = 0
    for attribute, of in found.groupby("attribute", sort=False):
        own, other = (of[of["method"] == name].set_index("other") for name in (method, rival))
        mine = changes.query(
            "attribute == @attribute and method == @method and strength == @strength"
        )
        np.testing.assert_allclose(own["change"], mine["change"])
        wanted = own.loc[attribute, "change"]
        up = changes.query("attribute == @attribute and method == @rival and strength >= 0")
        curve = up.pivot(index="strength", columns="other", values="change")[NAMES]
        if 0 <= wanted <= curve[attribute].max():
            n_reached += 1
            assert other.loc[attribute, "change"] == pytest.approx(wanted)
            least = min(s for s in curve.index if curve.loc[s, attribute] >= wanted)
            near = curve.loc[[max([s for s in curve.index if s < least], default=least), least]]
            assert (near.min() - 1e-9 <= other["change"]).all()
            assert (other["change"] <= near.max() + 1e-9).all()
        else:
            assert other["change"].isna().all()
        known = of.dropna()
        assert ((known["low"] <= known["change"]) & (known["change"] <= known["high"])).all()
    assert n_reached


# The area under kept NDCG against gained share


def made_up_sweep(curves: dict[str, list[tuple[float, float, float]]], n_users=40) -> control.Sweep:
    """Users who are all alike: (strength, share of the attribute in ten places, rank) by method."""
    settings, lists, ranks = [], [], []
    for method, points in curves.items():
        for strength, share, rank in points:
            settings.append((method, "Noir", strength))
            with_it = round(10 * share)
            lists.append([[1] * with_it + [2] * (10 - with_it)] * n_users)
            ranks.append([rank] * n_users)
    columns = ["method", "attribute", "strength"]
    return control.Sweep(pd.DataFrame(settings, columns=columns), np.array(lists), np.array(ranks))


ONE_HAS_IT = np.array([[0.0], [1.0], [0.0]])


def test_area_by_hand():
    """Ranks 1, 3 and 7 have an NDCG of 1, 1/2 and 1/3."""
    swept = made_up_sweep(
        {
            "free": [(0, 0.1, 1), (1, 0.4, 1)],
            "dear": [(0, 0.1, 1), (1, 0.4, 3)],
            "short": [(0, 0.1, 1), (1, 0.2, 1), (2, 0.1, 7)],
            "useless": [(0, 0.1, 1), (1, 0.1, 3)],
            "down": [(-1, 0.9, 1), (0, 0.1, 1), (1, 0.1, 1)],
        }
    )
    drawn = control.drawn_areas(swept, ["Noir"], ONE_HAS_IT)
    by_attribute, by_method, draws = control.areas(drawn, against="dear")
    area = by_attribute.set_index("method")["pareto_area"]
    assert area["free"] == pytest.approx(1.0)
    assert area["dear"] == pytest.approx(0.75, abs=0.01)  # kept falls from 1 to 1/2, evenly
    assert area["short"] == pytest.approx(0.35, abs=0.01)  # a third is reached, and half a step
    assert area["useless"] == area["down"] == pytest.approx(1 / 60)  # only the gain of 0
    kept = by_attribute.set_index("method")["kept_at_20"]
    assert kept["free"] == 1 and kept["short"] == 0
    assert kept["dear"] == pytest.approx(2 / 3, abs=0.02)
    table = by_method.set_index("method")
    assert table.loc["free", ["lead", "lead_low", "lead_high"]].tolist() == pytest.approx(
        [0.25] * 3, abs=0.01
    )
    assert table["wins"].to_dict() == {
        "free": 1, "dear": 1, "short": 0, "useless": 0, "down": 0
    }  # fmt: skip
    assert table["cheap"].sum() == 1
    assert list(draws) == [f"{m}.{n}" for m in table.index for n in ("pareto_area", "kept_at_20")]
    assert draws["dear.pareto_area"] == pytest.approx([area["dear"]] * N_DRAWS)


def test_the_interval_of_an_area_comes_from_drawing_users(swept, attribute_matrix):
    drawn = control.drawn_areas(swept, NAMES, attribute_matrix)
    by_attribute, by_method, draws = control.areas(drawn, against="sae_feature")
    wide = by_attribute["pareto_area_high"] - by_attribute["pareto_area_low"]
    assert (wide >= 0).all() and (wide > 0.1).sum() >= 3
    table = by_method.set_index("method")
    assert table.loc["sae_feature", ["lead", "lead_low", "lead_high"]].tolist() == [0, 0, 0]
    low, high = np.quantile(draws["rerank.pareto_area"], [0.025, 0.975])
    assert table.loc["rerank", ["pareto_area_low", "pareto_area_high"]].tolist() == [low, high]
    means = by_attribute.groupby("method")["pareto_area"].mean()
    assert table["pareto_area"].to_dict() == pytest.approx(means.to_dict())


def test_a_draw_is_the_sweep_of_the_users_who_were_drawn(swept, attribute_matrix):
    """The third draw by hand: each user's lists and ranks as often as that user was drawn."""
    drawn = control.drawn_areas(swept, NAMES, attribute_matrix, strong=3.0)
    again = np.repeat(np.arange(25), resampling.draws(25)[2])
    other = control.Sweep(swept.settings, swept.lists[:, again], swept.rank[:, again])
    expected = control.drawn_areas(other, NAMES, attribute_matrix, strong=3.0)
    pd.testing.assert_frame_equal(drawn.xs(3, level="draw"), expected.xs(0, level="draw"))
    curves = control.measure(swept, NAMES, attribute_matrix).pivot(
        index=["method", "attribute"], columns="strength", values="share"
    )
    gained = drawn.xs(0, level="draw")["share_gain_at_strong"]
    for key, value in (curves[3.0] - curves[0.0]).items():
        assert gained[key] == pytest.approx(value)


def test_sweeps_of_other_attributes_are_compared_draw_by_draw(swept, attribute_matrix):
    """The null: the same lists judged by permuted attributes, under another name."""
    other = control.Sweep(
        swept.settings.replace({"sae_feature": "sae_several_permuted"}), swept.lists, swept.rank
    )
    shuffled = control.permuted(attribute_matrix, np.zeros(N_ITEMS + 1))
    parts = [
        control.drawn_areas(swept, NAMES, attribute_matrix),
        control.drawn_areas(other, NAMES, shuffled).loc[["sae_several_permuted"]],
    ]
    _, by_method, draws = control.areas(pd.concat(parts), against="sae_feature")
    row = by_method.set_index("method").loc["sae_several_permuted"]
    lead = draws["sae_several_permuted.pareto_area"] - draws["sae_feature.pareto_area"]
    assert [row["lead_low"], row["lead_high"]] == pytest.approx(
        np.quantile(lead, [0.025, 0.975]).tolist()
    )


# Which feature does what


def test_by_effect_is_a_weighted_correlation():
    rng = np.random.default_rng(8)
    gained, importance = rng.normal(size=(5, 21)), rng.random(21)
    matrix = (rng.random((21, 2)) < 0.5).astype(float)
    found = control.by_effect(gained, matrix, importance)
    for i, j in np.ndindex(5, 2):
        both = np.cov(gained[i, 1:], matrix[1:, j], aweights=importance[1:])
        assert found[i, j] == pytest.approx(both[0, 1] / np.sqrt(both[0, 0] * both[1, 1]))
    assert not control.by_effect(np.zeros((1, 21)), matrix, importance).any()
    same_for_all = control.by_effect(np.ones((1, 21)), matrix, importance)
    np.testing.assert_allclose(same_for_all, 0, atol=1e-9)  # rounding differs between processors


def test_combine_finds_the_features_that_make_an_effect():
    """A sum of two effects is taken apart; without a penalty to the last digit."""
    rng = np.random.default_rng(9)
    gained, importance = rng.normal(size=(12, 61)), rng.random(61)
    attribute = 0.8 * gained[3] - 0.5 * gained[7]
    features, weights = control.combine(gained, attribute, importance, 2, penalty=0.0)
    assert dict(zip(features.tolist(), weights.round(6), strict=True)) == {3: 0.8, 7: -0.5}
    features, _ = control.combine(gained, attribute, importance, 99)
    assert sorted(features.tolist()) == list(range(12))  # not more than there are, each once


def test_knobs_of_several_features_move_by_one():
    rng = np.random.default_rng(10)
    decoder, gained = control.unit(rng.normal(size=(12, 6))), rng.normal(size=(12, 31))
    matrix = np.column_stack([rng.random(31) < 0.5, np.zeros(31)]).astype(float)
    knobs = control.several_features(["Noir", "War"], decoder, gained, matrix, rng.random(31), 4)
    assert knobs["attribute"].tolist() == ["Noir"] * 4  # no item has the other
    rows = control.directions(knobs, decoder, ["War", "Noir"])
    assert np.isnan(rows[0]).all()
    assert np.linalg.norm(rows[1]) == pytest.approx(1.0)
    by_hand = sum(w * decoder[f] for f, w in zip(knobs["feature"], knobs["weight"], strict=True))
    np.testing.assert_allclose(rows[1], by_hand)


def test_permuted_attributes_stay_among_items_of_like_popularity():
    """Whole rows change places inside a block, and no row is lost; the padding has none."""
    rng = np.random.default_rng(13)
    popularity, matrix = rng.permutation(201), rng.integers(0, 2, (201, 40))
    matrix[0] = 0
    before = matrix.copy()
    found = control.permuted(matrix, popularity, block=50, seed=1)
    np.testing.assert_array_equal(matrix, before)
    assert not found[0].any()
    by_rank = 1 + np.argsort(-popularity[1:])
    for start in range(0, 200, 50):
        items = by_rank[start : start + 50]
        assert sorted(found[items].tolist()) == sorted(matrix[items].tolist())
        assert (found[items] == matrix[items]).all(axis=1).sum() < 10
    np.testing.assert_array_equal(found, control.permuted(matrix, popularity, block=50, seed=1))
    assert (found != control.permuted(matrix, popularity, block=50, seed=2)).any()


def test_probe_is_ridge_regression():
    rng = np.random.default_rng(11)
    states = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5))
    attributes = (states[:, :2] + rng.normal(size=(200, 2)) > 0).astype(int)
    centred = states - states.mean(axis=0)
    penalty = np.square(centred).sum() / 5 / 200
    expected = Ridge(alpha=penalty).fit(states, attributes).coef_
    found = control.probe(states, attributes)
    np.testing.assert_allclose(found, control.unit(expected), atol=1e-9)


# The dial


def test_the_dial_finds_the_strength_of_each_user():
    """Lists that gain a place at each whole strength, from another start for each user."""
    start = np.array([0.0, 0.2, 0.4, 0.9])

    def share_of(strengths):
        return np.clip(start + np.floor(strengths + 1e-9) / 10, 0, 1).round(9)

    found = control.solve(share_of, 0.4, 4, max_strength=8.0)
    assert found["share"].tolist() == pytest.approx([0.4] * 4)
    assert found["reached"].all() and found.loc[2, "strength"] == 0.0
    assert found.loc[0, "strength"] > 0 > found.loc[3, "strength"]
    short = control.solve(share_of, 1.0, 4, max_strength=4.0)
    assert short["reached"].tolist() == [False, False, False, True]
    assert short["share"].tolist() == pytest.approx([0.4, 0.6, 0.8, 1.0])
    between = control.solve(share_of, 0.45, 4)
    assert between["error"].tolist() == pytest.approx([0.05] * 4) and between["reached"].all()


@pytest.mark.parametrize(
    ("target", "max_strength", "message"),
    [
        (40, 8.0, r"target 40: a share lies between 0 and 1 \(40 % is 0.4\)"),
        (float("nan"), 8.0, "target nan"),
        (0.4, float("inf"), "max_strength inf: must be positive and finite"),
    ],
)
def test_an_impossible_dial_is_refused(target, max_strength, message):
    with pytest.raises(ValueError, match=message):
        control.solve(lambda strengths: 0 * strengths, target, 3, max_strength)


def test_the_dial_turns_each_user_alone(model, users, attribute_matrix, directions):
    histories, has_it = users[0], attribute_matrix[:, 0]
    share_of = control.shares_along(model, "blocks.0", STD, directions[0], has_it, histories)
    found = control.solve(share_of, 0.5, len(histories))
    assert found["strength"].nunique() > 5
    for i in (0, 7, 24):
        step = torch.from_numpy(2.5 * found.loc[i, "strength"] * directions[0]).float()
        scorer = control.steered_scorer(model, "blocks.0", lambda h, s=step: s.expand_as(h))
        lists = best(unseen(scorer(histories[i : i + 1]), histories[i : i + 1]))
        assert has_it[lists].mean() == pytest.approx(found.loc[i, "share"])
    assert found["error"].mean() < np.abs(found["share_before"] - 0.5).mean()


def test_who_has_seen_nearly_all_is_dialled_no_seen_item(model, directions):
    """Two items are left: the best share that ten places can have of either is a tenth."""
    has_it = np.zeros(N_ITEMS + 1)
    has_it[[7, *range(9, N_ITEMS + 1)]] = 1
    histories = [np.array([i for i in range(1, N_ITEMS + 1) if i not in (7, 8)])]
    share_of = control.shares_along(model, "blocks.0", STD, directions[0], has_it, histories)
    found = control.solve(share_of, 0.8, 1)
    assert found["share"].tolist() == [0.1] and not found["reached"].any()


def test_dial_errors_by_hand(model, users, attribute_matrix, directions, monkeypatch):
    arguments = model, "blocks.0", STD, directions[0], attribute_matrix[:, 0]
    errors = control.dial_errors(*arguments, users[0], users[0], [0.5, 0.2])
    assert len(errors) == 25 * 3 * 2
    monkeypatch.setattr("seqsae_utils.control.dial.USERS_AT_A_TIME", 10)
    parts = control.dial_errors(*arguments, users[0][:10], users[0], [0.5, 0.2])
    solved = [table[table["how"] == "dial"].sort_values(["target", "user"]) for table in
              (errors, parts)]  # fmt: skip
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in solved))
    found, draws = control.dial_summary(errors)
    assert found["how"].tolist() == ["dial", "one strength", "untouched"] * 2
    by = found.set_index(["how", "target"])
    dialled = control.solve(control.shares_along(*arguments, users[0]), 0.5, 25)
    assert by.loc[("dial", 0.5), "error"] == pytest.approx(dialled["error"].mean())
    untouched = np.abs(dialled["share_before"] - 0.5)
    assert by.loc[("untouched", 0.5), "error"] == pytest.approx(untouched.mean())
    assert by.loc[("untouched", 0.5), "reached"] == pytest.approx((untouched < 0.051).mean())
    assert by.loc[("dial", 0.5), "error"] < by.loc[("one strength", 0.5), "error"]
    expected = resampling.draws(25) @ untouched.to_numpy() / 25
    np.testing.assert_allclose(draws["untouched", 0.5], expected)


def test_one_list_along_the_dial(model, users, attribute_matrix, directions):
    """The untouched list comes first; each later one is that of the dial, or of raised scores."""
    has_it, history = attribute_matrix[:, 0], users[0][3]
    arguments = model, "blocks.0", STD, directions[0], has_it
    found = control.one_list(*arguments, history, [0.3, 0.9]).set_index(["way", "target"])
    own = unseen(model.next_item_scores([history]), [history])
    for way in ("dial", "rerank"):
        first = found.loc[(way, 0.0)]
        assert first["item"].tolist() == best(own)[0].tolist() and first["kept"].all()
        assert (first["turned"] == 0).all() and first["rank"].tolist() == [*range(1, 11)]
    solved = control.solve(control.shares_along(*arguments, [history]), 0.3, 1)
    assert found.loc[("dial", 0.3), "has"].mean() == pytest.approx(solved["share"][0])
    assert (found.loc[("dial", 0.3), "turned"] == solved["strength"][0]).all()
    assert found.loc[("rerank", 0.3), "has"].sum() == 3
    assert (found["has"] == has_it[found["item"]]).all()
    assert not found.loc[("rerank", 0.9), "kept"].all()


def test_targets_that_only_rounding_tells_apart_are_one():
    """As notebook 06 asks: the target of the reader beside its own, and then looks for one row."""
    for target in (0.1 + 0.2, 0.300001, 0.299999, 0.3):
        asked = sorted({0.1, 0.3, target})
        rows = [("dial", t, user, 0.1 * user, True) for t in asked for user in range(5)]
        table = pd.DataFrame(rows, columns=["how", "target", "user", "error", "reached"])
        summary, draws = control.dial_summary(table)
        assert np.isclose(summary["target"], target).sum() == 1 and len(summary) == 2
        np.testing.assert_array_equal(draws["dial", target], draws["dial", 0.3])


def test_a_user_is_drawn_with_all_attributes_that_the_dial_was_asked_for():
    """Two attributes whose errors add up to the same for every user: there is nothing to draw."""
    rows = [("dial", 0.4, user, error, error < 0.05)
            for errors in ([0.0, 0.1, 0.2], [0.2, 0.1, 0.0])
            for user, error in enumerate(errors)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["how", "target", "user", "error", "reached"])
    (row,) = control.dial_summary(table)[0].to_dict("records")
    assert [row["error"], row["error_low"], row["error_high"]] == pytest.approx([0.1] * 3)
    assert row["reached"] == pytest.approx(1 / 3)


# Serving a wish


def sequence_of(pattern: str) -> np.ndarray:
    """Items 1 with the attribute (x), and 2 without (.)."""
    return np.array([1 if letter == "x" else 2 for letter in pattern])


def test_moments_by_hand():
    sequences = {
        4: sequence_of(".............xx.x............."),  # of the items 13 to 17 three have it
        5: sequence_of("xxxxxxxxxxxxxxxxxxxxxxxx"),  # always had it
        6: sequence_of(".................."),  # never does
        7: sequence_of("....xxx"),  # too short
    }
    assert control.moments(sequences, ONE_HAS_IT).values.tolist() == [[4, 0, 12]]
    late = {4: sequence_of("........................xx.x......")}
    assert control.moments(late, ONE_HAS_IT).values.tolist() == [
        [4, 0, 22],  # 23 to 27
        [4, 0, 23],  # also where the target has none
    ]


def test_of_very_many_moments_some_are_drawn(monkeypatch):
    """From all users, in their order, the same in each run; fewer than that all stay."""
    sequences = dict(enumerate([sequence_of(".............xx.x.............")] * 50))
    every = control.moments(sequences, ONE_HAS_IT)
    assert every["user"].tolist() == list(range(50))
    monkeypatch.setattr(control.serving, "MOST", 20)
    some = control.moments(sequences, ONE_HAS_IT)
    assert len(some) == 20 and some["user"].is_monotonic_increasing and some["user"].max() > 20
    pd.testing.assert_frame_equal(some, control.moments(sequences, ONE_HAS_IT))
    pd.testing.assert_frame_equal(some, every.loc[some.index])


def test_no_moment_depends_on_the_item_that_is_to_be_found():
    """Whatever was taken there, it is a moment: also among the earlier ones."""
    rng = np.random.default_rng(14)
    matrix = np.array([[0, 0], [1, 0], [0, 1], [0, 0]])
    n_changed = 0
    for user in range(200):
        items = rng.choice([1, 2, 3], size=40, p=[0.15, 0.1, 0.75])
        for row in control.moments({user: items}, matrix).itertuples(index=False):
            for other in (1, 2, 3):
                changed = items.copy()
                changed[row.at] = other
                found = control.moments({user: changed}, matrix)
                assert (found == list(row)).all(axis=1).any(), f"{row} with {other} there"
                n_changed += other != items[row.at]
    assert n_changed > 100


def test_serve_ranks_what_came_next(model, methods, attribute_matrix):
    rng = np.random.default_rng(12)
    sequences = {u: 1 + rng.permutation(N_ITEMS)[:20] for u in range(6)}
    found = pd.DataFrame({"user": [2, 4, 5], "attribute": [1, 1, 0], "at": [12, 9, 7]})
    found.index = [7, 3, 5]  # as of moments that were drawn
    results = control.serve(model, "blocks.0", sequences, found, methods, [1.0, 2.0])
    assert len(results) == 3 * len(methods) * 2
    for row in results.itertuples():
        history, target = sequences[row.user][: row.at], sequences[row.user][row.at]
        ranks = {}
        for strength in (0.0, row.strength):
            scorer = methods[row.method](row.attribute, strength)
            ranks[strength] = rank_items(scorer, [history], np.array([target])).rank
        assert row.ndcg == pytest.approx(metrics.ndcg(ranks[row.strength])[0])
        change = metrics.ndcg(ranks[row.strength])[0] - metrics.ndcg(ranks[0.0])[0]
        assert row.change == pytest.approx(change)
    table, draws = control.served(results)
    row = table.query("method == 'sae_feature' and strength == 2").iloc[0]
    same = results.query("method == 'sae_feature' and strength == 2")["change"]
    assert (row["moments"], row["users"]) == (3, 3)
    assert row["change"] == pytest.approx(same.mean())
    assert row["low"] <= row["change"] <= row["high"]
    expected = resampling.draws(3) @ same.to_numpy() / 3
    np.testing.assert_allclose(draws["sae_feature", 2.0], expected)


def test_a_user_with_many_moments_is_drawn_with_all_of_them():
    """Ten moments of one user say no more than one: the interval spans both users."""
    rows = [(1, 0, i, "sae_feature", 1.0, 0.0, 1.0) for i in range(10)]
    rows.append((2, 0, 0, "sae_feature", 1.0, 0.0, -1.0))
    columns = ["user", "attribute", "at", "method", "strength", "ndcg", "change"]
    row = control.served(pd.DataFrame(rows, columns=columns))[0].iloc[0]
    assert (row["low"], row["high"]) == (-1.0, 1.0)
    assert row["change"] == pytest.approx(9 / 11)


def test_held_out_items_never_enter_the_edit(model, dictionary, users):
    """Other targets, the same lists; and what is edited is as long as the history alone."""
    histories, targets = users
    other = np.array([next(i for i in range(1, 31) if i not in h and i != t)
                      for h, t in zip(histories, targets, strict=True)])  # fmt: skip
    delta = control.sae_delta(dictionary, [Edit(4, 3.0)])
    lengths = []

    def watched(states):
        lengths.append(states.shape[1])
        return delta(states)

    scorer = control.steered_scorer(model, "blocks.0", watched)
    first, second = rank_items(scorer, histories, targets), rank_items(scorer, histories, other)
    np.testing.assert_array_equal(first.lists, second.lists)
    assert first.rank.tolist() != second.rank.tolist()
    assert set(lengths) == {max(map(len, histories))}


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


def listed(scores: np.ndarray, n_items: int = 10) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:n_items]


def test_raised_scores_reach_a_share_and_keep_the_most_items():
    rng = np.random.default_rng(0)
    for share in np.linspace(0, 1, 21):
        scores, has = rng.normal(size=80), rng.random((80, 1)) < 0.3
        scores[:3] = -np.inf
        (raised,) = control.raises(scores, has, np.array([share]))
        before, after = listed(scores), listed(scores + has[:, 0] * raised)
        held, wanted = has[before].sum(), has[after].sum()
        assert abs(wanted - 10 * share) <= 0.5 + 1e-9
        assert len({*before} & {*after}) == 10 - abs(wanted - held)  # no list has more
        if wanted == held:
            assert raised == 0


def test_several_shares_are_reached_together():
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores, has = rng.normal(size=200), rng.random((200, 3)) < 0.3
        raised = control.raises(scores, has, np.array([0.5, 0.0, 0.2]))
        assert has[listed(scores + has @ raised)].sum(axis=0).tolist() == [5, 0, 2]


def test_a_share_that_the_items_do_not_allow_is_missed_by_the_least():
    scores, has = np.linspace(1, 0, 30), np.arange(30)[:, None] >= 27
    (raised,) = control.raises(scores, has, np.array([0.6]))
    assert has[listed(scores + has[:, 0] * raised)].sum() == 3
    (raised,) = control.raises(scores[22:], has[22:], np.array([0.0]))  # a list of eight
    assert has[22:][listed(scores[22:] + has[22:, 0] * raised)].sum() == 3
