"""The sparse autoencoder, against NumPy by hand, scikit-learn, SciPy and SAELens."""

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import r2_score

from seqsae_utils import sae
from seqsae_utils.activations import Normalisation, hooked
from seqsae_utils.recommender import CausalTransformer
from seqsae_utils.recommender import Config as RecommenderConfig
from seqsae_utils.workspace import seed_everything

D_IN, D_SAE, DIRECTIONS = 24, 64, 48
CONFIGS = {
    "topk": sae.Config(D_IN, D_SAE, "topk", k=3),
    "l1": sae.Config(D_IN, D_SAE, "l1", l1_coefficient=1.5),
}
TRAINING = sae.Training(
    learning_rate=3e-3, steps=1_000, batch_size=512, warmup_steps=50, dead_after=5_000
)
SHORT = sae.Training(steps=5, batch_size=64, warmup_steps=1)


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def random_sae(config: sae.Config, seed: int = 0) -> sae.SAE:
    """An SAE whose encoder and biases have nothing in common with its decoder."""
    torch.manual_seed(seed)
    made = sae.SAE(config)
    with torch.no_grad():
        for parameter in (made.W_enc, made.b_enc, made.b_dec):
            parameter.normal_(std=0.5)
    return made


@pytest.fixture(scope="module")
def planted():
    """Hidden states made of a few of many known directions, then shifted and scaled."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(DIRECTIONS, D_IN))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    magnitudes = 0.5 + rng.exponential(size=(20_000, DIRECTIONS))
    active = magnitudes * (rng.random(magnitudes.shape) < 0.05)
    states = 5 + 3 * (active @ directions + 0.02 * rng.normal(size=(20_000, D_IN)))
    states = states.astype(np.float32)
    return states, directions, Normalisation.of(states)


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request, planted):
    """Each variant after training, with its history."""
    states, _, normalisation = planted
    seed_everything(0)
    dictionary = sae.SAE(CONFIGS[request.param])
    return dictionary, sae.train(dictionary, states, normalisation, TRAINING)


# The forward pass


@pytest.mark.parametrize("variant", CONFIGS)
@pytest.mark.parametrize("shape", [(7,), (2, 5)])
def test_forward_is_the_formula(variant, shape):
    dictionary, x = random_sae(CONFIGS[variant]), torch.randn(*shape, D_IN)
    code = dictionary.encode(x)
    assert code.shape == (*shape, D_SAE)
    pre = (numpy(x) - numpy(dictionary.b_dec)) @ numpy(dictionary.W_enc) + numpy(dictionary.b_enc)
    if variant == "topk":
        pre = np.where(pre >= np.sort(pre)[..., -3, None], pre, 0)
    np.testing.assert_allclose(numpy(code), np.maximum(pre, 0), atol=1e-5)
    expected = numpy(code) @ numpy(dictionary.W_dec) + numpy(dictionary.b_dec)
    assert dictionary(x).shape == x.shape
    np.testing.assert_allclose(numpy(dictionary(x)), expected, atol=1e-5)


def test_keep_top_is_brute_force():
    values = torch.randn(50, 12)
    for k in (1, 4, 12):
        for row, kept in zip(values.tolist(), sae.keep_top(values, k).tolist(), strict=True):
            best = sorted(row, reverse=True)[:k]
            assert kept == [value if value in best and value > 0 else 0.0 for value in row]


def test_topk_keeps_exactly_k_and_fewer_only_where_fewer_are_positive():
    dictionary = random_sae(sae.Config(D_IN, D_SAE, k=5))
    pre = torch.randn(200, D_SAE)
    pre[100:] -= 2.0
    active = (dictionary.activate(pre) > 0).sum(dim=1)
    assert (active[:100] == 5).all()
    assert (active == (pre > 0).sum(dim=1).clamp(max=5)).all()
    assert (active[100:] < 5).any()


# The loss


def test_l1_loss_by_hand():
    dictionary, x = random_sae(CONFIGS["l1"]), torch.randn(9, D_IN)
    total, code = sae.loss(dictionary, x, torch.zeros(D_SAE, dtype=torch.bool), 1.0)
    f = numpy(dictionary.encode(x))
    squared = [np.sum((numpy(a) - numpy(b)) ** 2) for a, b in zip(x, dictionary(x), strict=True)]
    assert total.item() == pytest.approx(np.mean(squared) + 1.5 * f.sum() / 9, rel=1e-5)
    assert torch.equal(code, dictionary.encode(x))


@pytest.fixture
def with_dead():
    """A TopK SAE, a batch, and dead features: 20, none of which the main code ever uses."""
    dictionary, x = random_sae(sae.Config(8, 40, k=3)), torch.randn(30, 8)
    dead = torch.zeros(40, dtype=torch.bool)
    dead[::2] = True
    with torch.no_grad():
        dictionary.b_enc[~dead] += 20.0  # the living always win
    assert not dictionary.encode(x)[:, dead].any()
    return dictionary, x, dead


def test_auxk_by_hand(with_dead):
    """arXiv 2406.04093, A.2: the k_aux strongest dead features reconstruct what is missing."""
    dictionary, x, dead = with_dead
    plain, _ = sae.loss(dictionary, x, torch.zeros_like(dead), 0.25)
    total, _ = sae.loss(dictionary, x, dead, 0.25)
    missing = numpy(x - dictionary(x))
    assert plain.item() == pytest.approx((missing**2).sum(axis=1).mean(), rel=1e-5)
    left = []
    for pre, error in zip(numpy(dictionary.pre_activations(x)), missing, strict=True):
        strongest = [j for j in np.argsort(-pre) if dead[j]][:4]  # k_aux = d_in / 2
        guess = sum(max(pre[j], 0) * numpy(dictionary.W_dec)[j] for j in strongest)
        left.append(np.sum((error - guess) ** 2))
    assert (total - plain).item() == pytest.approx(0.25 * np.mean(left), rel=1e-4)


def gradients(dictionary, x, dead, coefficient):
    dictionary.zero_grad()
    sae.loss(dictionary, x, dead, coefficient)[0].backward()
    names = ("W_dec", "W_enc", "b_enc")
    w_dec, w_enc, b_enc = (getattr(dictionary, name).grad.clone() for name in names)
    return torch.cat([w_dec, w_enc.T, b_enc[:, None]], dim=1)  # a row for each feature


def test_dead_features_learn_from_auxk_alone_and_living_ones_never(with_dead):
    dictionary, x, dead = with_dead
    without, with_aux = (gradients(dictionary, x, dead, c) for c in (0.0, 1.0))
    assert not without[dead].any()
    assert with_aux[dead].any(dim=1).sum() >= 15
    assert torch.equal(with_aux[~dead], without[~dead])


def test_auxk_teaches_dead_features_what_is_missing(with_dead):
    """Its sign: steps down the gradient leave less of the residual, not more."""
    dictionary, x, dead = with_dead
    before = sae.loss(dictionary, x, dead, 1.0)[0].item()
    for _ in range(20):
        step = gradients(dictionary, x, dead, 1.0)
        with torch.no_grad():
            dictionary.W_dec[dead] -= 0.02 * step[dead, :8]
    main = sae.loss(dictionary, x, torch.zeros_like(dead), 1.0)[0].item()
    after = sae.loss(dictionary, x, dead, 1.0)[0].item()
    assert after - main < 0.8 * (before - main), (before - main, after - main)


def test_decoder_gradient_keeps_only_what_turns_the_directions():
    dictionary, x = random_sae(CONFIGS["l1"]), torch.randn(50, D_IN)
    sae.loss(dictionary, x, torch.zeros(D_SAE, dtype=torch.bool), 0.0)[0].backward()
    rows, before = numpy(dictionary.W_dec), numpy(dictionary.W_dec.grad)
    assert np.abs((before * rows).sum(axis=1)).max() > 0.01
    dictionary.remove_parallel_gradient()
    after = numpy(dictionary.W_dec.grad)
    np.testing.assert_allclose((after * rows).sum(axis=1), 0, atol=1e-5)
    removed = before - after
    cosine = (removed * rows).sum(axis=1) / np.linalg.norm(removed, axis=1).clip(1e-12)
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-3)


# Training


def best_match(dictionary: sae.SAE, directions: np.ndarray) -> float:
    """Mean cosine of the true directions with their partners, by Hungarian assignment."""
    cosine = directions @ numpy(F.normalize(dictionary.W_dec, dim=1)).T
    return float(cosine[linear_sum_assignment(-cosine)].mean())


def test_training_recovers_planted_directions(trained, planted):
    states, directions, normalisation = planted
    dictionary, _ = trained
    torch.manual_seed(0)
    start = best_match(sae.untrained(dictionary.config, states, normalisation), directions)
    found = best_match(dictionary, directions)
    assert found > 0.85 > start + 0.35, f"mean best-match cosine {found:.3f}, untrained {start:.3f}"


def test_decoder_has_unit_rows_after_training(trained):
    norms = np.linalg.norm(numpy(trained[0].W_dec), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_history_shows_learning(trained):
    _, history = trained
    assert list(history) == ["step", "explained_variance", "l0", "dead_fraction"]
    assert history["step"].iloc[-1] == TRAINING.steps - 1
    assert history["explained_variance"].iloc[-1] > 0.8
    assert history["explained_variance"].iloc[-1] > history["explained_variance"].iloc[0] + 0.2
    assert history["dead_fraction"].between(0, 1).all()


@pytest.mark.parametrize("variant", CONFIGS)
def test_the_seed_decides_the_weights(variant, planted):
    states, _, normalisation = planted

    def weights(seed):
        seed_everything(seed)
        dictionary = sae.SAE(CONFIGS[variant])
        sae.train(dictionary, states, normalisation, sae.Training(5e-3, 20, 64, seed=seed))
        return dictionary.state_dict()

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in ("W_enc", "W_dec", "b_enc"))


def test_the_seed_of_training_decides_the_batches(planted):
    states, _, normalisation = planted
    start = random_sae(CONFIGS["topk"]).state_dict()
    ends = []
    for seed in (0, 1):
        dictionary = sae.SAE(CONFIGS["topk"])
        dictionary.load_state_dict(start)
        sae.train(dictionary, states, normalisation, sae.Training(5e-3, 5, 64, seed=seed))
        ends.append(dictionary.W_enc)
    assert not torch.equal(*ends)


def test_an_epoch_sees_every_position_once():
    batches = sae._shuffled(12, 4, np.random.default_rng(0))
    epochs = [np.concatenate([next(batches) for _ in range(3)]) for _ in range(2)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_training_starts_at_the_mean_of_normalised_states(planted):
    states, _, normalisation = planted
    expected = ((states.astype(np.float64) - normalisation.mean) / normalisation.std).mean(axis=0)
    control = sae.untrained(CONFIGS["topk"], states, normalisation)
    np.testing.assert_allclose(numpy(control.b_dec), expected, atol=1e-6)
    assert np.abs(expected).max() > 0.01


def test_double_precision_states_are_taken_as_single(planted):
    states, _, normalisation = planted
    ends = []
    for dtype in (np.float32, np.float64):
        dictionary = random_sae(CONFIGS["topk"])
        sae.train(dictionary, states[:500].astype(dtype), normalisation, SHORT)
        ends.append(dictionary.W_enc)
    torch.testing.assert_close(*ends, atol=1e-4, rtol=0)
    assert sae.encode(dictionary, states.astype(np.float64), normalisation).dtype == np.float32


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sae.Config(4, 8, k=9), "k=9 must lie between 1 and d_sae=8"),
        (lambda: sae.Config(4, 8, k=0), "k=0 must lie"),
        (lambda: sae.Config(4, 0, "l1"), "d_sae=0"),
        (lambda: sae.Config(4, 8, "top-k"), "'top-k': choose from topk, l1"),
        (lambda: sae.Config(4, 8, "l1", l1_coefficient=-1.0), "l1_coefficient=-1.0"),
        (lambda: sae.Config(4, 8, "l1", l1_coefficient=float("nan")), "l1_coefficient=nan"),
        (lambda: sae.Training(steps=0), "steps=0 must be above 0"),
        (lambda: sae.Training(batch_size=0), "batch_size=0"),
        (lambda: sae.Training(learning_rate=-1e-3), "learning_rate=-0.001"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_l1_does_not_care_for_k():
    assert sae.Config(4, 8, "l1", k=100).k == 100


@pytest.mark.parametrize(
    ("change", "training", "message"),
    [
        (lambda x: x[:50], SHORT, "batch_size=64 is over the 50 positions: take at most 50"),
        (lambda x: x[:, :20], SHORT, "20 dimensions, the SAE expects 24: make it with d_in=20"),
        (lambda x: np.where(x == x[70, 5], np.nan, x), SHORT, r"NaN or infinite .* \[5\]"),
        (lambda x: np.where(x == x[70, 5], np.inf, x), SHORT, r"NaN or infinite .* \[5\]"),
    ],
)
def test_bad_states_are_refused_before_a_step(planted, change, training, message):
    states, _, normalisation = planted
    dictionary = random_sae(CONFIGS["topk"])
    before = {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        sae.train(dictionary, change(states[:500]), normalisation, training)
    assert all(torch.equal(before[n], tensor) for n, tensor in dictionary.state_dict().items())


def test_a_diverging_loss_names_the_learning_rate(planted):
    states, _, normalisation = planted
    wild = sae.Training(learning_rate=1e30, steps=20, batch_size=64, warmup_steps=0)
    with pytest.raises(FloatingPointError, match="at step .*lower learning_rate=1e\\+30"):
        sae.train(random_sae(CONFIGS["l1"]), states[:500], normalisation, wild)


# Quality


def test_encode_is_the_forward_pass_in_batches(trained, planted):
    states, _, normalisation = planted
    dictionary, _ = trained
    codes = sae.encode(dictionary, states[:1_000], normalisation, batch_size=300)
    x = torch.from_numpy((states[:1_000] - normalisation.mean) / np.float32(normalisation.std))
    np.testing.assert_allclose(codes.toarray(), numpy(dictionary.encode(x)), atol=1e-5)


def test_the_mean_explains_nothing_and_float32_sums_do_not_drift():
    rng = np.random.default_rng(0)
    states = (100.3 + 0.01 * rng.normal(size=(300_000, 2))).astype(np.float32)
    normalisation = Normalisation(mean=0.0, std=1.0)
    dictionary = sae.untrained(sae.Config(2, 4, k=1), states, normalisation)
    silent = sparse.csr_array((len(states), 4), dtype=np.float32)
    found = sae.quality(dictionary, states, silent, normalisation)
    assert found["explained_variance"] == pytest.approx(0, abs=1e-3)
    assert (found["l0"], found["dead_fraction"]) == (0, 1)


def test_quality_by_scikit_learn_and_by_counting(trained, planted):
    states, _, normalisation = planted
    dictionary, _ = trained
    states = states[:9_000]  # more than two blocks
    codes = sae.encode(dictionary, states, normalisation)
    found = sae.quality(dictionary, states, codes, normalisation)
    x = (states.astype(np.float64) - normalisation.mean) / normalisation.std
    dense = codes.toarray()
    r = dense @ numpy(dictionary.W_dec) + numpy(dictionary.b_dec)
    expected = r2_score(x, r, multioutput="variance_weighted")
    assert found["explained_variance"] == pytest.approx(expected, abs=1e-6)
    assert found["l0"] == np.count_nonzero(dense, axis=1).mean()
    assert found["dead_fraction"] == np.mean([not column.any() for column in dense.T])
    assert found["dense_fraction"] == np.mean([(column > 0).mean() > 0.5 for column in dense.T])
    np.testing.assert_array_equal(sae.density(codes), (dense > 0).mean(axis=0))


@pytest.mark.parametrize(("shift", "warns"), [(5.0, True), (-0.5, False)])
def test_more_active_features_than_dimensions_are_not_called_sparse(planted, shift, warns):
    states, _, normalisation = planted
    dictionary = sae.untrained(CONFIGS["l1"], states, normalisation)
    with torch.no_grad():
        dictionary.b_enc += shift
    codes = sae.encode(dictionary, states[:200], normalisation)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        l0 = sae.quality(dictionary, states[:200], codes, normalisation)["l0"]
    messages = [f"L0 is {l0:.0f} in a space of 24 dimensions: this code is not sparse"]
    assert [str(warning.message) for warning in caught] == messages * warns


# On disk


@pytest.mark.parametrize("variant", CONFIGS)
def test_save_and_load_give_the_same_sae(variant, tmp_path):
    dictionary, x = random_sae(CONFIGS[variant]), torch.randn(20, D_IN)
    sae.save(dictionary, tmp_path)
    loaded = sae.load(tmp_path)
    assert loaded.config == dictionary.config
    assert torch.equal(loaded(x), dictionary(x))


@pytest.mark.parametrize("variant", CONFIGS)
def test_layout_is_that_of_saelens(variant, tmp_path):
    """Keys, shapes and fields that `SAE.load_from_disk` of SAELens 6.54 reads."""
    sae.save(random_sae(CONFIGS[variant]), tmp_path)
    names = {"cfg.json", "sae_weights.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names
    with safe_open(tmp_path / "sae_weights.safetensors", framework="np") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name: (array.shape, str(array.dtype)) for name, array in weights.items()} == {
        "W_enc": ((D_IN, D_SAE), "float32"),
        "W_dec": ((D_SAE, D_IN), "float32"),
        "b_enc": ((D_SAE,), "float32"),
        "b_dec": ((D_IN,), "float32"),
    }
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    # Without a version in the metadata SAELens takes the file for an old one and drops the rest.
    assert int(cfg.pop("metadata")["sae_lens_version"].split(".")[0]) >= 6
    common = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    own = {
        "topk": {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": False},
        "l1": {"architecture": "standard"},
    }
    assert cfg == common | own[variant]


@pytest.mark.parametrize("variant", CONFIGS)
@pytest.mark.filterwarnings("default")
def test_saelens_loads_it_and_agrees(variant, tmp_path):
    saelens = pytest.importorskip("sae_lens", reason="SAELens is not installed (extra: interop)")
    dictionary, x = random_sae(CONFIGS[variant]), torch.randn(50, D_IN)
    sae.save(dictionary, tmp_path)
    theirs = saelens.SAE.load_from_disk(tmp_path)
    torch.testing.assert_close(theirs.encode(x), dictionary.encode(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(theirs(x), dictionary(x), atol=1e-6, rtol=0)
    theirs.save_model(tmp_path / "again")
    assert torch.equal(sae.load(tmp_path / "again")(x), dictionary(x))


def test_a_file_of_other_software_is_refused(tmp_path):
    sae.save(random_sae(CONFIGS["topk"]), tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": D_IN, "d_sae": D_SAE}))
    with pytest.raises(ValueError, match="cfg.json: not written by"):
        sae.load(tmp_path)


# Inside the recommender


@pytest.fixture
def recommender():
    """A small model with random weights, large enough to tell items apart, and its users."""
    torch.manual_seed(0)
    model = CausalTransformer(RecommenderConfig(30, d_model=8, max_length=12)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    rng = np.random.default_rng(0)
    users = [1 + rng.permutation(30)[:8] for _ in range(40)]
    return model, [user[:-1] for user in users], np.array([user[-1] for user in users])


def test_the_reconstruction_is_written_back_in_the_models_units():
    """An SAE that reconstructs everything changes nothing, whatever the mean and deviation."""
    perfect = sae.SAE(sae.Config(6, 12, "l1"))
    with torch.no_grad():
        perfect.W_dec.copy_(torch.cat([torch.eye(6), -torch.eye(6)]))
        perfect.W_enc.copy_(perfect.W_dec.T)
    hidden = 3 + 2 * torch.randn(4, 5, 6)
    before = hidden.clone()
    written = sae.reconstructed(perfect, Normalisation(0.7, 2.5))(hidden)
    torch.testing.assert_close(written, hidden, atol=1e-5, rtol=0)
    assert torch.equal(hidden, before)


def test_cost_of_replacing_has_the_original_at_one_and_the_mean_at_zero(recommender):
    model, histories, targets = recommender
    replacements = {
        "original": lambda hidden: None,
        "itself": lambda hidden: hidden.clone(),
        "half": lambda hidden: 0.5 * hidden,
        "mean": lambda hidden: torch.full_like(hidden, 0.1),
    }
    cost = sae.cost_of_replacing(model, "blocks.0", replacements, histories, targets)
    cost = cost.set_index("replacement")
    assert list(cost.index) == list(replacements)
    for score in ("ndcg_recovered", "loss_recovered"):
        assert cost.loc[["original", "itself", "mean"], score].tolist() == [1, 1, 0]
    loss = {}
    for name, function in replacements.items():
        with hooked(model, "blocks.0", function):
            scores = model.next_item_scores(histories)
        loss[name] = F.cross_entropy(scores, torch.as_tensor(targets)).item()
        assert cost.loc[name, "loss"] == pytest.approx(loss[name], rel=1e-5)
    recovered = (loss["mean"] - loss["half"]) / (loss["mean"] - loss["original"])
    assert cost.loc["half", "loss_recovered"] == pytest.approx(recovered, rel=1e-3)


def test_cost_of_replacing_needs_both_ends_of_its_scale(recommender):
    with pytest.raises(ValueError, match="'mean' is missing"):
        sae.cost_of_replacing(recommender[0], "blocks.0", {"original": None}, *recommender[1:])
