"""Hidden states are those of the plain model, each with the right name, and probes are honest."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from seqsae_utils import activations
from seqsae_utils.activations import Normalisation, find_site, hooked
from seqsae_utils.recommender import CausalTransformer, Config

MAX_LENGTH = 5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Config(n_items=30, d_model=8, n_layers=2, max_length=MAX_LENGTH, dropout=0.5)
    return CausalTransformer(config)


@pytest.fixture
def sequences(rng):
    """Users whose numbers and lengths follow no pattern: shorter, as long, longer, far longer."""
    lengths = {7: 1, 3: 5, 12: 6, 4: 13, 0: 10, 8: 2}
    return {user: 1 + rng.permutation(30)[:length] for user, length in lengths.items()}


class Recurrent(nn.Module):
    """Any torch model will do; its GRU returns a tuple."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        states, last = self.gru(x)
        return self.head(states), last


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


# --- sites and hooks ---


def test_a_site_is_found_by_its_name(model):
    assert find_site(model, "blocks.1.mlp.0") is model.blocks[1].mlp[0]


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("block.0", "blocks.0"), ("final_nrom", "final_norm"), ("", "mlp")]
)
def test_a_wrong_site_is_refused_with_the_nearest(model, wrong, nearest):
    with pytest.raises(ValueError, match=f"site {wrong!r}: CausalTransformer.*nearest.*{nearest}"):
        find_site(model, wrong)


def test_a_hook_sees_what_the_module_returns(model):
    items, seen = torch.tensor([[1, 2, 3]]), []
    with hooked(model.eval(), "final_norm", seen.append):
        returned = model(items)
    assert len(seen) == 1
    assert torch.equal(seen[0], returned)
    model(items)
    assert len(seen) == 1  # and nothing after the block


def test_the_model_goes_on_with_the_replacement(model):
    items = torch.tensor([[1, 2, 3]])
    plain = model.eval()(items)
    with hooked(model, "blocks.1", torch.zeros_like):
        assert torch.equal(model(items), model.final_norm(torch.zeros(1, 3, 8)))
    assert torch.equal(model(items), plain)


def test_a_module_that_returns_a_tuple(rng):
    model, seen = Recurrent(), []
    x = torch.from_numpy(rng.normal(size=(2, 3, 4)).astype(np.float32))
    states, last = model.gru(x)
    with hooked(model, "gru", seen.append):
        model(x)
    assert torch.equal(seen[0], states)
    with hooked(model, "gru", lambda hidden: hidden + 1):
        scores, untouched = model(x)
    assert torch.equal(scores, model.head(states + 1))
    assert torch.equal(untouched, last)


def test_the_hook_is_removed_after_an_error(model):
    with pytest.raises(ZeroDivisionError), hooked(model, "blocks.0", lambda hidden: 1 / 0):
        assert n_hooks(model) == 1
        model(torch.tensor([[1]]))
    assert n_hooks(model) == 0


def test_a_replacement_of_another_shape_is_refused(model):
    first = "site 'blocks.0': the replacement is \\[8\\], the hidden states are \\[1, 3, 8\\]"
    with pytest.raises(ValueError, match=first), hooked(model, "blocks.0", lambda h: h[0, 0]):
        model(torch.tensor([[1, 2, 3]]))


# --- harvest ---


@torch.no_grad()
def states_without_hooks(model: CausalTransformer, items: np.ndarray, site: str) -> np.ndarray:
    """Hidden states [length, d] of one unpadded piece, by calling the parts one by one."""
    x = (
        model.item_embedding(torch.from_numpy(items))
        + model.position_embedding.weight[: len(items)]
    )
    parts = {f"blocks.{i}": block for i, block in enumerate(model.blocks)}
    for name, part in (parts | {"final_norm": model.final_norm}).items():
        x = part(x[None])[0]
        if name == site:
            return x.numpy()


@pytest.mark.parametrize("site", ["blocks.0", "blocks.1", "final_norm"])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_harvest_is_the_plain_model_row_for_row(model, sequences, tmp_path, site, batch_size):
    index = activations.harvest(model, sequences, site, tmp_path / "x.npy", batch_size)
    states = np.load(tmp_path / "x.npy")
    assert states.dtype == np.float32
    assert states.shape == (37, 8) and len(index) == 37
    model.eval()
    rows, names = [], []
    for user, sequence in sequences.items():
        for start in range(0, len(sequence), MAX_LENGTH):
            piece = sequence[start : start + MAX_LENGTH]
            rows.append(states_without_hooks(model, piece, site))
            names += [(user, item, start + i) for i, item in enumerate(piece)]
    np.testing.assert_allclose(states, np.concatenate(rows), rtol=1e-4, atol=1e-6)
    assert list(index.itertuples(index=False, name=None)) == names
    assert index.columns.tolist() == ["user", "item", "position"]


def test_the_index_names_every_interaction_once(model, sequences, tmp_path):
    index = activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy", batch_size=3)
    for user, sequence in sequences.items():
        rows = index[index["user"] == user]
        assert rows["position"].tolist() == list(range(len(sequence)))
        assert rows["item"].tolist() == sequence.tolist()


def test_harvest_leaves_the_model_and_the_sequences_as_they_were(model, sequences, tmp_path):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    items = {user: sequence.copy() for user, sequence in sequences.items()}
    activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy")
    assert n_hooks(model) == 0
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    assert all(np.array_equal(sequences[user], items[user]) for user in items)


@pytest.mark.parametrize(
    ("site", "returned"),
    [
        ("blocks", "nothing"),  # a list of modules is never called itself
        ("position_embedding", "[[5, 8]]"),  # one row a position, whoever the user is
        ("blocks.0.dropout", "[[10, 5, 8], [10, 5, 8]]"),  # called twice: which one?
    ],
)
def test_a_site_without_one_state_a_position_is_refused(model, sequences, tmp_path, site, returned):
    with pytest.raises(ValueError) as error:
        activations.harvest(model, sequences, site, tmp_path / "x.npy")
    assert str(error.value).startswith(f"site {site!r} returns {returned} in a forward pass")
    assert not (tmp_path / "x.npy").exists()


def test_nobody_to_harvest_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="no sequences to harvest 'blocks.0'"):
        activations.harvest(model, {}, "blocks.0", tmp_path / "x.npy")


@pytest.mark.parametrize("n", [1, 4, 5, 6, 10, 11])
def test_chunks_make_up_the_sequence(n):
    sequence = np.arange(100, 100 + n)
    pieces = list(activations.chunks(sequence, length=5))
    assert np.concatenate([piece for _, piece in pieces]).tolist() == sequence.tolist()
    assert [start for start, _ in pieces] == list(range(0, n, 5))
    assert {len(piece) for _, piece in pieces[:-1]} <= {5}


def test_what_was_harvested_is_loaded(model, sequences, tmp_path):
    for group in ("sae", "test"):
        half = {
            user: sequence for user, sequence in sequences.items() if (user > 5) == (group == "sae")
        }
        index = activations.harvest(model, half, "blocks.0", tmp_path / f"{group}.npy")
        index.to_parquet(tmp_path / f"{group}_index.parquet", index=False)
    states, index = activations.load(tmp_path, "test")
    assert isinstance(states, np.memmap)
    assert set(index["user"]) == {0, 3, 4} and len(states) == len(index)
    np.testing.assert_array_equal(states, np.load(tmp_path / "test.npy"))


# --- normalisation ---


def test_normalisation_is_the_mean_and_deviation_of_all_values(rng):
    """More rows than one block of the sum, and an uneven rest."""
    states = rng.normal(3, 2, size=(150_001, 2)).astype(np.float32)
    normalisation = Normalisation.of(states)
    assert normalisation.mean == pytest.approx(states.astype(np.float64).mean(), rel=1e-12)
    assert normalisation.std == pytest.approx(states.astype(np.float64).std(), rel=1e-12)


def test_apply_gives_mean_0_and_deviation_1_and_invert_undoes_it(rng):
    x = rng.normal(3, 2, size=(500, 4))
    normalisation = Normalisation.of(x)
    normalised = normalisation.apply(x)
    assert normalised.mean() == pytest.approx(0, abs=1e-12)
    assert normalised.std() == pytest.approx(1)
    np.testing.assert_allclose(normalisation.invert(normalised), x)
    assert np.abs(normalised - x).max() > 1


def test_a_state_written_back_is_the_state_that_was_read(model, sequences, tmp_path):
    activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy")
    normalisation = Normalisation.of(np.load(tmp_path / "x.npy"))
    items = torch.tensor([[1, 2, 3]])
    plain = model.eval()(items)
    with hooked(model, "blocks.0", lambda h: normalisation.invert(normalisation.apply(h))):
        torch.testing.assert_close(model(items), plain, atol=1e-5, rtol=1e-5)


def test_normalised_states_keep_their_precision():
    x = np.ones((2, 3), np.float32)
    normalisation = Normalisation(0.5, 2.0)
    assert normalisation.apply(x).dtype == normalisation.invert(x).dtype == np.float32
    assert normalisation.apply(torch.from_numpy(x)).dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, np.nan, np.inf, -np.inf])
def test_states_that_cannot_be_normalised_are_refused(rng, value):
    states = rng.normal(size=(999, 7)).astype(np.float32)
    if np.isfinite(value):
        states[:] = value
    else:
        states[500, 3] = value
    with pytest.raises(ValueError, match="hidden states have mean .* and standard deviation"):
        Normalisation.of(states)


def test_a_saved_normalisation_is_exact(tmp_path):
    normalisation = Normalisation(mean=0.1 + 0.2, std=1 / 3)
    activations.save_normalisation(normalisation, tmp_path)
    assert activations.load_normalisation(tmp_path) == normalisation


# --- what the states hold ---


def test_spectrum_is_that_of_scikit_learn(rng):
    x = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 5
    spectrum = activations.spectrum(x)
    np.testing.assert_allclose(spectrum["variance"], PCA().fit(x).explained_variance_ratio_)
    assert spectrum["variance"].sum() == pytest.approx(1)
    assert spectrum["cumulative_variance"].iloc[-1] == pytest.approx(1)
    assert spectrum["variance"].is_monotonic_decreasing
    assert spectrum["component"].tolist() == [1, 2, 3, 4, 5, 6]


def planted(rng, direction, n):
    """States of noise in which the first of two labels is written along `direction`."""
    labels = rng.integers(2, size=(n, 2))
    return rng.normal(size=(n, len(direction))) + 3 * labels[:, [0]] * direction, labels


def test_a_probe_finds_a_planted_direction_and_nothing_else(rng):
    direction = np.array([0.6, 0.0, -0.8, 0.0])
    planted_auc, other_auc = activations.probe_auc(
        *planted(rng, direction, 2_000), *planted(rng, direction, 2_000)
    )
    assert planted_auc > 0.95
    assert abs(other_auc - 0.5) < 0.05


def test_a_probe_is_fitted_on_the_first_group_and_scored_on_the_second(rng):
    """Ridge regression and AUC from their definitions; the two groups differ in all they can."""
    x, labels = planted(rng, np.array([1.0, 0, 0]), 60)
    x_test, labels_test = planted(rng, np.array([0.3, 0.7, 0]), 40)
    x_test = 5 * x_test + 1
    centred, mean = x - x.mean(axis=0), labels.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + np.eye(3), centred.T @ (labels - mean))
    scores = (x_test - x.mean(axis=0)) @ weights + mean
    expected = []
    for label, score in zip(labels_test.T, scores.T, strict=True):
        wins = score[label == 1][:, None] > score[label == 0]
        expected.append(wins.mean())
    assert activations.probe_auc(x, labels, x_test, labels_test) == pytest.approx(expected)


def test_a_label_that_all_or_none_have_gets_no_auc(rng):
    x, labels = rng.normal(size=(50, 3)), rng.integers(2, size=(50, 5))
    labels_test = labels.copy()
    labels_test[:, 1], labels_test[:, 2] = 0, 1
    labels[:, 3], labels[:, 4] = 0, 1  # nothing to learn from
    aucs = activations.probe_auc(x, labels, x, labels_test)
    assert np.isnan(aucs).tolist() == [False, True, True, True, True]


def test_a_probe_of_a_single_label(rng):
    x, labels = planted(rng, np.array([1.0, 0.0]), 100)
    both = activations.probe_auc(x, labels, x, labels)
    assert activations.probe_auc(x, labels[:, :1], x, labels[:, :1]) == pytest.approx(both[:1])
