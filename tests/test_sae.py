"""The sparse autoencoder, against NumPy by hand, scikit-learn, SciPy and SAELens."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import islice, permutations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import sparse
from sklearn.metrics import r2_score

from seqsae_utils import sae
from seqsae_utils.activations import cost_of_replacing, hooked, overlap
from seqsae_utils.fingerprint import LOADED
from seqsae_utils.normalisation import Normalisation
from seqsae_utils.recommender import CausalTransformer
from seqsae_utils.recommender import Config as RecommenderConfig
from seqsae_utils.sae import sweeping
from seqsae_utils.workspace import seed_everything

D_IN, D_SAE, DIRECTIONS = 24, 64, 48
CONFIGS = {
    variant: sae.Config(D_IN, D_SAE, variant, k=3, l1_coefficient=1.5, l0_coefficient=0.5)
    for variant in sae.VARIANTS
}
TRAINING = sae.Training(
    learning_rate=3e-3, steps=1_000, batch_size=512, warmup_steps=50, dead_after=5_000
)
SHORT = sae.Training(steps=5, batch_size=64, warmup_steps=1)


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def random_sae(config: sae.Config, seed: int = 0) -> sae.SAE:
    """An SAE whose encoder, biases and thresholds have nothing in common with its decoder."""
    torch.manual_seed(seed)
    made = sae.create(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name != "W_dec":
                parameter.normal_(std=0.5)
        if config.variant == "jumprelu":
            made.threshold.abs_()
        if config.variant in ("batchtopk", "matryoshka"):
            made.threshold.fill_(0.8)
    return made


def code_by_hand(dictionary: sae.SAE, x: np.ndarray) -> np.ndarray:
    """The code of [..., d_in], as the papers write it."""
    weights = {name: numpy(tensor) for name, tensor in dictionary.state_dict().items()}
    product = (x - weights["b_dec"]) @ weights["W_enc"]
    pre = product + weights["b_enc"]
    if dictionary.config.variant == "topk":
        pre = np.where(pre >= np.sort(pre)[..., -dictionary.config.k, None], pre, 0)
    if dictionary.config.variant == "gated":
        strength = product * np.exp(weights["r_mag"]) + weights["b_mag"]
        pre = np.where(pre > 0, strength, 0)
    return np.where(pre > weights.get("threshold", 0), pre, 0)


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
    return states, directions


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request, planted):
    """Each variant after training, with its history."""
    states, _ = planted
    seed_everything(0)
    dictionary = sae.create(CONFIGS[request.param])
    return dictionary, sae.train(dictionary, states, TRAINING)


# The forward pass


@pytest.mark.parametrize("variant", CONFIGS)
@pytest.mark.parametrize("shape", [(7,), (2, 5)])
def test_forward_is_the_formula(variant, shape):
    dictionary, x = random_sae(CONFIGS[variant]), torch.randn(*shape, D_IN)
    code = dictionary.encode(x)
    assert code.shape == (*shape, D_SAE)
    np.testing.assert_allclose(numpy(code), code_by_hand(dictionary, numpy(x)), atol=1e-5)
    assert 0 < (code > 0).float().mean() < 0.9
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


def squared(a, b) -> float:
    """Squared error, summed over dimensions, averaged over positions."""
    return float(np.mean(np.sum((numpy(a) - numpy(b)) ** 2, axis=1)))


def test_relu_pays_for_the_l1_norm():
    dictionary, x = random_sae(CONFIGS["relu"]), torch.randn(9, D_IN)
    total, fired = dictionary.loss(x)
    f = numpy(dictionary.encode(x))
    assert total.item() == pytest.approx(squared(x, dictionary(x)) + 1.5 * f.sum() / 9, rel=1e-5)
    np.testing.assert_array_equal(fired, (f > 0).any(axis=0))


def test_jumprelu_pays_for_the_number_of_active_features():
    dictionary, x = random_sae(CONFIGS["jumprelu"]), torch.randn(9, D_IN)
    total, fired = dictionary.loss(x)
    f = numpy(dictionary.encode(x))
    expected = squared(x, dictionary(x)) + 0.5 * np.count_nonzero(f) / 9
    assert total.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(fired, (f > 0).any(axis=0))


def test_thresholds_learn_as_the_paper_says():
    """arXiv 2407.14435, equations 11 and 12, entry by entry: the window is a rectangle."""
    config = sae.Config(D_IN, D_SAE, "jumprelu", l0_coefficient=0.7, bandwidth=0.5)
    dictionary, x = random_sae(config), torch.randn(40, D_IN)
    dictionary.loss(x)[0].backward()
    pre, threshold = numpy(dictionary.pre_activations(x)), numpy(dictionary.threshold)
    residual = numpy(dictionary(x) - x)
    expected = np.zeros(D_SAE)
    for b, j in np.ndindex(40, D_SAE):
        inside = abs((max(pre[b, j], 0) - threshold[j]) / 0.5) < 0.5
        of_error = 2 * residual[b] @ numpy(dictionary.W_dec)[j]  # d error / d f
        expected[j] += inside * (-threshold[j] / 0.5 * of_error - 0.7 / 0.5) / 40
    assert np.count_nonzero(expected) > D_SAE / 2
    np.testing.assert_allclose(numpy(dictionary.threshold.grad), expected, atol=1e-4)


def test_gated_pays_for_the_gate_and_teaches_it():
    dictionary, x = random_sae(CONFIGS["gated"]), torch.randn(9, D_IN)
    total, _ = dictionary.loss(x)
    gate = dictionary.pre_activations(x).relu()
    by_gate = gate @ dictionary.W_dec + dictionary.b_dec
    expected = squared(x, dictionary(x)) + squared(x, by_gate) + 1.5 * numpy(gate).sum() / 9
    assert total.item() == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert dictionary.r_mag.grad.any() and dictionary.b_mag.grad.any()
    with_gate = dictionary.W_dec.grad.clone()
    dictionary.zero_grad()
    (x - dictionary(x)).square().sum().div(9).backward()  # the decoder does not see the gate's
    torch.testing.assert_close(with_gate, dictionary.W_dec.grad, atol=1e-4, rtol=1e-4)


def test_batchtopk_shares_its_entries_over_the_batch():
    dictionary, x = random_sae(CONFIGS["batchtopk"]), torch.randn(50, D_IN)
    before = dictionary.threshold.item()
    total, fired = dictionary.loss(x)
    pre = numpy(dictionary.pre_activations(x))
    lowest = np.sort(pre.ravel())[-3 * 50]
    f = np.where(pre >= lowest, pre, 0)
    assert np.ptp((f > 0).sum(axis=1)) > 0  # not the same number for each
    r = f @ numpy(dictionary.W_dec) + numpy(dictionary.b_dec)
    assert total.item() == pytest.approx(np.mean(((numpy(x) - r) ** 2).sum(axis=1)), rel=1e-5)
    np.testing.assert_array_equal(fired, (f > 0).any(axis=0))
    assert dictionary.threshold.item() == pytest.approx(0.99 * before + 0.01 * lowest, rel=1e-5)


def test_matryoshka_is_the_mean_error_of_nested_dictionaries():
    config = sae.Config(D_IN, D_SAE, "matryoshka", k=3, groups=(0.125, 0.5, 1.0))
    dictionary, x = random_sae(config), torch.randn(50, D_IN)
    total, _ = dictionary.loss(x)
    pre = numpy(dictionary.pre_activations(x))
    f = np.where(pre >= np.sort(pre.ravel())[-3 * 50], pre, 0)
    errors = []
    for n in (8, 32, 64):
        r = f[:, :n] @ numpy(dictionary.W_dec)[:n] + numpy(dictionary.b_dec)
        errors.append(np.mean(((numpy(x) - r) ** 2).sum(axis=1)))
    assert total.item() == pytest.approx(np.mean(errors), rel=1e-5)


def dense_loss(dictionary, x):
    """The loss of TopK and its kin by dense products, for autograd; and which features fired."""
    config = dictionary.config
    pre = (x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    by_row = config.variant == "topk"
    best = (pre if by_row else pre.flatten()).topk(config.k * (1 if by_row else len(x)))
    code = torch.where(pre >= best.values[..., -1:], pre, 0.0).relu()
    sizes = config.group_sizes
    missed = [x - dictionary.b_dec - code[:, :n] @ dictionary.W_dec[:n] for n in sizes]
    return torch.stack(missed).square().sum() / (len(x) * len(sizes)), (code > 0).any(dim=0)


@pytest.fixture(params=["by hand", "dense"])
def both_ways(request, monkeypatch):
    """The way of a CPU, and that of a GPU on a CPU."""
    monkeypatch.setattr(sae.variants.TopK, "dense", request.param == "dense")


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("variant", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1.0), (0.0, 0.3), (3.0, 1.0), (99.0, 1.0)])
def test_gradients_are_those_of_dense_products(variant, shift, factor):
    """Also where the largest entries are not positive, some or all, and where loss is scaled."""
    dictionary, x = random_sae(CONFIGS[variant]).double(), torch.randn(50, D_IN).double()
    with torch.no_grad():
        dictionary.b_enc -= shift
    found = []
    for loss in (dictionary.loss, lambda x: dense_loss(dictionary, x)):
        dictionary.zero_grad()
        total, fired = loss(x)
        (factor * total).backward()
        gradients = {name: p.grad.clone() for name, p in dictionary.named_parameters()}
        found.append({"loss": total.detach(), "fired": fired, **gradients})
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, msg=lambda m, n=name: f"{n}: {m}")
    assert found[1]["fired"].any() == (shift < 99)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_one_weight_that_is_not_a_number_shows_in_the_loss(name, shift):
    """Also where entries that are not positive are left out."""
    dictionary, x = random_sae(CONFIGS["topk"]), torch.randn(50, D_IN)
    with torch.no_grad():
        dictionary.b_enc -= shift
        used = dictionary.loss(x)[1].nonzero()[0, 0]
        at = {"W_enc": (0, used), "b_enc": used, "W_dec": (used, 0), "b_dec": 0}[name]
        getattr(dictionary, name)[at] = float("nan")
    assert dictionary.loss(x)[0].isnan()


def test_nth_largest_is_that_of_each_sorted_row():
    values = torch.randn(20, 50)
    for n in (1, 7, 50):
        expected = values.sort(dim=1).values[:, -n, None]
        assert torch.equal(sae.sparse.nth_largest(values, n), expected)
        assert torch.equal(sae.sparse.nth_largest(values[3], n), expected[3])


@pytest.fixture
def with_dead(both_ways):
    """A TopK SAE, a batch, and dead features: 20, none of which the main code ever uses."""
    dictionary, x = random_sae(sae.Config(8, 40, k=3)), torch.randn(120, 8)
    dictionary.aux_coefficient = 0.25
    dead = torch.zeros(40, dtype=torch.bool)
    dead[::2] = True
    with torch.no_grad():
        dictionary.b_enc[~dead] += 20.0  # the living always win
    assert not dictionary.encode(x)[:, dead].any()
    return dictionary, x, dead


def test_auxk_by_hand(with_dead):
    """2406.04093, A.2: the k_aux strongest dead features reconstruct what a quarter misses."""
    dictionary, x, dead = with_dead
    plain, _ = dictionary.loss(x)
    total, _ = dictionary.loss(x, dead)
    missing = numpy(x - dictionary(x))
    assert plain.item() == pytest.approx((missing**2).sum(axis=1).mean(), rel=1e-5)
    left = []
    for pre, error in zip(numpy(dictionary.pre_activations(x)), missing, strict=True):
        strongest = [j for j in np.argsort(-pre) if dead[j]][:4]  # k_aux = d_in / 2
        guess = sum(max(pre[j], 0) * numpy(dictionary.W_dec)[j] for j in strongest)
        left.append(np.sum((error - guess) ** 2))
    assert (total - plain).item() == pytest.approx(0.25 * np.mean(left[::4]), rel=1e-4)


def gradients(dictionary, x, dead):
    dictionary.zero_grad()
    dictionary.loss(x, dead)[0].backward()
    names = ("W_dec", "W_enc", "b_enc")
    w_dec, w_enc, b_enc = (getattr(dictionary, name).grad.clone() for name in names)
    return torch.cat([w_dec, w_enc.T, b_enc[:, None]], dim=1)  # a row for each feature


def test_dead_features_learn_from_auxk_alone_and_living_ones_never(with_dead):
    dictionary, x, dead = with_dead
    dictionary.b_dec.requires_grad_(False)  # it is part of every feature's bias
    without, with_aux = gradients(dictionary, x, None), gradients(dictionary, x, dead)
    assert not without[dead].any()
    assert with_aux[dead].any(dim=1).sum() >= 15
    assert torch.equal(with_aux[~dead], without[~dead])


def test_auxk_teaches_dead_features_what_is_missing(with_dead):
    """Its sign: steps down the gradient leave less of the residual, not more."""
    dictionary, x, dead = with_dead
    dictionary.aux_coefficient = 1.0
    before = dictionary.loss(x, dead)[0].item()
    for _ in range(20):
        step = gradients(dictionary, x, dead)
        with torch.no_grad():
            dictionary.W_dec[dead] -= 0.02 * step[dead, :8]
    main = dictionary.loss(x)[0].item()
    after = dictionary.loss(x, dead)[0].item()
    assert after - main < 0.8 * (before - main), (before - main, after - main)


def test_decoder_gradient_keeps_only_what_turns_the_directions():
    dictionary, x = random_sae(CONFIGS["relu"]), torch.randn(50, D_IN)
    dictionary.loss(x)[0].backward()
    rows, before = numpy(dictionary.W_dec), numpy(dictionary.W_dec.grad)
    assert np.abs((before * rows).sum(axis=1)).max() > 0.01
    dictionary.remove_parallel_gradient()
    after = numpy(dictionary.W_dec.grad)
    np.testing.assert_allclose((after * rows).sum(axis=1), 0, atol=1e-4)
    removed = before - after
    cosine = (removed * rows).sum(axis=1) / np.linalg.norm(removed, axis=1).clip(1e-12)
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-3)


# Training


def test_training_recovers_planted_directions(trained, planted):
    states, directions = planted
    dictionary, _ = trained
    torch.manual_seed(0)
    random = sae.untrained(dictionary.config, states)
    start, found = (sae.matching(directions, numpy(d.W_dec)).mean() for d in (random, dictionary))
    least = 0.75 if dictionary.config.variant in ("matryoshka", "gated") else 0.85
    assert found > least > start + 0.25, (
        f"mean best-match cosine {found:.3f}, untrained {start:.3f}"
    )


@pytest.mark.parametrize("variant", ["relu", "gated"])
def test_l1_does_not_keep_pairs_that_fire_together(variant, planted, monkeypatch):
    """Two features of one direction share its value at no price of L1, and double the L0."""
    states, directions = planted
    x = torch.from_numpy(states[:2_000])
    config = sae.Config(D_IN, 2 * DIRECTIONS, variant, l1_coefficient=3.0)
    l0, found = [], []
    for spread in (0.0, sae.VARIANTS[variant].spread):
        monkeypatch.setattr(sae.VARIANTS[variant], "spread", spread)
        seed_everything(0)
        dictionary = sae.create(config)
        training = replace(TRAINING, learning_rate=1e-3, dead_after=50_000)
        sae.train(dictionary, states, training)
        l0.append((dictionary.encode(x) > 0).float().sum(dim=1).mean().item())
        found.append(sae.matching(directions, numpy(dictionary.W_dec)).mean())
    assert l0[1] < 0.85 * l0[0] and found[1] > found[0], (l0, found)


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
    states, _ = planted

    def weights(seed):
        seed_everything(seed)
        dictionary = sae.create(CONFIGS[variant])
        sae.train(dictionary, states, sae.Training(5e-3, 20, 64, seed=seed))
        return dictionary.state_dict()

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in ("W_enc", "W_dec", "b_enc"))


def test_the_seed_of_training_decides_the_batches(planted):
    states, _ = planted
    start = random_sae(CONFIGS["topk"]).state_dict()
    ends = []
    for seed in (0, 1):
        dictionary = sae.create(CONFIGS["topk"])
        dictionary.load_state_dict(start)
        sae.train(dictionary, states, sae.Training(5e-3, 5, 64, seed=seed))
        ends.append(dictionary.W_enc)
    assert not torch.equal(*ends)


def test_an_epoch_sees_every_position_once():
    training = sae.Training(batch_size=4, seed=1)
    states = np.arange(12, dtype=np.float32)[:, None]
    batches = [x[:, 0].tolist() for x in islice(sae.training._batches(states, training), 6)]
    epochs = [sum(batches[:3], []), sum(batches[3:], [])]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    later = next(sae.training._batches(states, training, first=4))  # within the second epoch
    assert later[:, 0].tolist() == batches[4]


@pytest.mark.parametrize("variant", ["relu", "gated", "jumprelu"])
def test_dead_features_of_penalised_variants_are_pointed_at_what_is_missed(variant, planted):
    """A feature that can never fire again gets a direction, a bias and moments of its own."""
    states, _ = planted
    seed_everything(0)
    dictionary = sae.create(CONFIGS[variant])
    with torch.no_grad():
        dictionary.b_enc[:20] = -50.0
    before = numpy(dictionary.W_dec)
    training = sae.Training(1e-3, 200, 256, warmup_steps=1, dead_after=5_000)
    history = sae.train(dictionary, states, training)
    moved = (before * numpy(dictionary.W_dec)).sum(axis=1)
    assert (moved[:20] < 0.8).all() and (numpy(dictionary.b_enc) > -5).all()
    assert history["dead_fraction"].iloc[-1] < 0.1


@pytest.mark.parametrize(("n_missed", "n_new"), [(100, 20), (5, 5), (0, 0)])
def test_dead_features_never_begin_as_twins(n_missed, n_new):
    """Each state that is missed serves one of 20 dead features, be it missed by far most."""
    dictionary = sae.create(sae.Config(D_IN, D_SAE, "relu"))
    with torch.no_grad():
        dictionary.b_enc -= 50.0  # nothing fires, so rows are missed as they are
    x = torch.zeros(100, D_IN)
    x[:n_missed] = torch.randn(n_missed, D_IN)
    x[:1] *= 100.0
    x = torch.cat([x, x])  # two positions, one state
    optimizer = torch.optim.Adam(dictionary.parameters())
    dictionary.decode(dictionary.encode(x)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        dictionary.b_dec.zero_()
    dead, before = torch.arange(D_SAE) < 20, numpy(dictionary.W_dec)
    found = sae.training._resample(dictionary, optimizer, dead, x, seed=0)
    assert found.tolist() == list(range(n_new))
    directions = numpy(dictionary.W_dec)
    assert (directions[n_new:] == before[n_new:]).all()
    alike = directions[:n_new] @ directions[:n_new].T - np.eye(n_new)
    assert n_new == 0 or alike.max() < 0.999


def test_auxk_revives_dead_features_of_topk(planted, monkeypatch):
    """Without it the same features stay dead."""
    states, _ = planted
    monkeypatch.setattr(sae.variants.TopK, "encoder_scale", 0.1)  # too short to win at first
    dead = []
    for coefficient in (0.0, 1 / 32):
        seed_everything(0)
        dictionary = sae.create(CONFIGS["topk"])
        dictionary.aux_coefficient = coefficient
        with torch.no_grad():
            dictionary.b_enc[:40] = -0.3
        training = sae.Training(3e-3, 600, 256, warmup_steps=1, dead_after=2_000)
        dead.append(sae.train(dictionary, states, training)["dead_fraction"])
    assert dead[1].iloc[-1] < 0.5 * dead[0].iloc[-1], [d.iloc[-1] for d in dead]


@pytest.mark.parametrize("variant", sae.VARIANTS)
def test_features_begin_anew_only_where_no_auxk_revives_them(variant, planted, monkeypatch):
    """With AuxK both at once made the explained variance fall to nothing, again and again."""
    began = []

    def resample(*_, **__):
        began.append(variant)
        return torch.tensor([], dtype=int)

    monkeypatch.setattr(sae.training, "_resample", resample)
    dictionary = sae.create(CONFIGS[variant])
    with torch.no_grad():
        dictionary.b_enc[:40] = -100.0  # never fires
    training = sae.Training(1e-3, 60, 256, warmup_steps=1, dead_after=2_000)
    sae.train(dictionary, planted[0], training)
    assert bool(began) == (variant in ("relu", "gated", "jumprelu"))


@pytest.mark.parametrize("variant", CONFIGS)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(variant, planted, tmp_path):
    """Killed at a step after a checkpoint, for good measure in an epoch's middle."""
    states, _ = planted
    training = sae.Training(3e-3, 60, 500, warmup_steps=5, dead_after=2_000)

    def run(stop=None, checkpoint=None):
        seed_everything(0)
        dictionary = sae.create(CONFIGS[variant])
        steps, loss = [], dictionary.loss

        def killed(x, dead):
            steps.append(1)
            if len(steps) == stop:
                raise KeyboardInterrupt
            return loss(x, dead)

        dictionary.loss = killed
        history = sae.train(dictionary, states, training, checkpoint)
        return dictionary.state_dict(), history, len(steps)

    expected, history, _ = run()
    file = tmp_path / "training.checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sae.training, "SECONDS_BETWEEN_CHECKPOINTS", 0)
        with pytest.raises(KeyboardInterrupt):
            run(stop=47, checkpoint=file)
    found, resumed, steps = run(checkpoint=file)
    assert steps == 60 - 46
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    pd.testing.assert_frame_equal(resumed, history)


def test_the_checkpoint_of_another_training_is_refused(planted, tmp_path):
    states, _ = planted
    file, config = tmp_path / "training.checkpoint", CONFIGS["topk"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sae.training, "SECONDS_BETWEEN_CHECKPOINTS", 0)
        sae.fit(states, config, SHORT, file)
    with pytest.raises(ValueError, match="another training, with other k: remove it"):
        sae.fit(states, replace(config, k=4), SHORT, file)
    one_value = states.copy()
    one_value[-1, -1] += 1
    for other in (states + 1, 2 * states, one_value):
        with pytest.raises(ValueError, match="another training, with other states: remove it"):
            sae.fit(other, config, SHORT, file)
    with pytest.raises(ValueError, match="another training, with other weights: remove it"):
        sae.train(sae.create(config), states, SHORT, file)


def test_a_constant_dimension_does_no_harm(planted):
    states, _ = planted
    states = np.concatenate([states, np.full((len(states), 1), 7.0, np.float32)], axis=1)
    dictionary = sae.create(sae.Config(D_IN + 1, D_SAE, k=3))
    history = sae.train(dictionary, states, TRAINING)
    assert history["explained_variance"].iloc[-1] > 0.8
    assert np.isfinite(numpy(dictionary(torch.zeros(1, D_IN + 1)))).all()


def test_training_starts_at_the_mean_of_the_states(planted):
    states, _ = planted
    expected = states.astype(np.float64).mean(axis=0)
    control = sae.untrained(CONFIGS["topk"], states)
    np.testing.assert_allclose(numpy(control.b_dec), expected, rtol=1e-6)
    assert expected.std() > 0.01


@pytest.mark.parametrize("k", [3, 12])
def test_no_other_scale_of_the_untrained_control_fits_better(planted, k):
    states, _ = planted
    torch.manual_seed(0)
    control = sae.untrained(replace(CONFIGS["topk"], k=k), states)
    x = torch.from_numpy(states)
    with torch.no_grad():
        parts, whole = control(x) - control.b_dec, x - control.b_dec
        missed = {s: float((whole - s * parts).square().sum()) for s in (0.95, 1.0, 1.05)}
    assert missed[1.0] == min(missed.values())
    assert missed[1.0] < whole.square().sum()


def test_double_precision_states_are_taken_as_single(planted):
    states, _ = planted
    ends = []
    for dtype in (np.float32, np.float64):
        dictionary = random_sae(CONFIGS["topk"])
        sae.train(dictionary, states[:500].astype(dtype), SHORT)
        ends.append(dictionary.W_enc)
    torch.testing.assert_close(*ends, atol=1e-4, rtol=0)
    assert sae.encode(dictionary, states.astype(np.float64)).dtype == np.float32


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sae.Config(4, 8, k=9), "k=9 must lie between 1 and d_sae=8"),
        (lambda: sae.Config(4, 8, k=0), "k=0 must lie"),
        (lambda: sae.Config(4, 0, "relu"), "d_sae=0"),
        (lambda: sae.Config(4, 8, "batchtopk", k=9), "k=9 must lie between 1 and d_sae=8"),
        (lambda: sae.Config(4, 8, "top-k"), "'top-k': choose from relu, gated, topk, jumprelu"),
        (lambda: sae.Config(4, 8, "jumprelu", bandwidth=0.0), "bandwidth=0.0 must be above 0"),
        (lambda: sae.Config(4, 8, groups=(0.5, 0.5, 1.0)), "groups=.* must be ascending shares"),
        (lambda: sae.Config(4, 8, groups=(0.5,)), "groups=.* must be ascending shares"),
        (lambda: sae.Config(4, 8, "relu", l1_coefficient=-1.0), "l1_coefficient=-1.0"),
        (lambda: sae.Config(4, 8, "relu", l1_coefficient=float("nan")), "l1_coefficient=nan"),
        (lambda: sae.Training(steps=0), "steps=0 must be above 0"),
        (lambda: sae.Training(batch_size=0), "batch_size=0"),
        (lambda: sae.Training(learning_rate=-1e-3), "learning_rate=-0.001"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_l1_does_not_care_for_k():
    assert sae.Config(4, 8, "relu", k=100).k == 100


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
    states, _ = planted
    dictionary = random_sae(CONFIGS["topk"])
    before = {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        sae.train(dictionary, change(states[:500]), training)
    assert all(torch.equal(before[n], tensor) for n, tensor in dictionary.state_dict().items())


def test_a_diverging_loss_names_the_learning_rate(planted):
    states, _ = planted
    wild = sae.Training(learning_rate=1e30, steps=20, batch_size=64, warmup_steps=0)
    with pytest.raises(FloatingPointError, match="at step .*lower learning_rate=1e\\+30"):
        sae.train(random_sae(CONFIGS["relu"]), states[:500], wild)


# Quality


def test_encode_is_the_forward_pass_in_batches(trained, planted):
    states, _ = planted
    dictionary, _ = trained
    codes = sae.encode(dictionary, states[:1_000], batch_size=300)
    code = dictionary.encode(torch.from_numpy(states[:1_000]))
    np.testing.assert_allclose(codes.toarray(), numpy(code), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.* features never fire")
def test_the_mean_explains_nothing_and_float32_sums_do_not_drift():
    rng = np.random.default_rng(0)
    states = (100.3 + 0.01 * rng.normal(size=(300_000, 2))).astype(np.float32)
    dictionary = sae.untrained(sae.Config(2, 4, k=1), states)
    silent = sparse.csr_array((len(states), 4), dtype=np.float32)
    found = sae.quality(dictionary, states, silent)
    assert found["explained_variance"] == pytest.approx(0, abs=1e-3)
    assert (found["l0"], found["dead_fraction"]) == (0, 1)


@pytest.mark.filterwarnings("ignore:.* features never fire")
def test_quality_by_scikit_learn_and_by_counting(trained, planted):
    states, _ = planted
    dictionary, _ = trained
    states = states[:9_000]  # more than two blocks
    codes = sae.encode(dictionary, states)
    found = sae.quality(dictionary, states, codes)
    x = states.astype(np.float64)
    dense = codes.toarray()
    r = dense @ numpy(dictionary.W_dec) + numpy(dictionary.b_dec)
    expected = r2_score(x, r, multioutput="variance_weighted")
    assert found["explained_variance"] == pytest.approx(expected, abs=1e-6)
    assert found["mse"] == pytest.approx(np.mean((x - r) ** 2) / dictionary.std**2, rel=1e-5)
    assert found["l0"] == np.count_nonzero(dense, axis=1).mean()
    assert found["dead_fraction"] == np.mean([not column.any() for column in dense.T])
    assert found["dense_fraction"] == np.mean([(column > 0).mean() > 0.5 for column in dense.T])
    np.testing.assert_array_equal(sae.density(codes), (dense > 0).mean(axis=0))


@pytest.mark.parametrize(("shift", "warns"), [(5.0, True), (-0.5, False)])
def test_more_active_features_than_dimensions_are_not_called_sparse(planted, shift, warns):
    states, _ = planted
    dictionary = sae.untrained(CONFIGS["relu"], states)
    with torch.no_grad():
        dictionary.b_enc += shift
    codes = sae.encode(dictionary, states[:200])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        l0 = sae.quality(dictionary, states[:200], codes)["l0"]
    messages = [
        f"relu: L0 is {l0:.0f} in a space of 24 dimensions: this code is not sparse",
        "relu: 64 of 64 features fire on over half of the positions: they can hardly be about one "
        "thing",
    ]
    assert [str(warning.message) for warning in caught] == messages * warns


# Agreement


def test_matching_is_the_best_of_all_one_to_one_pairings():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, theirs)]
    cosine = unit[0] @ unit[1].T
    best = max(sum(cosine[i, p[i]] for i in range(4)) for p in permutations(range(6), 4))
    assert sae.matching(ours, theirs).sum() == pytest.approx(best)


def test_stability_of_a_dictionary_with_itself_and_with_strangers():
    rng = np.random.default_rng(0)
    a, strangers = rng.normal(size=(2, 30, 200))
    half = np.concatenate([a[:15], strangers[15:]])
    mean, share = sae.stability([a, a[rng.permutation(30)], half])
    assert share[:15].tolist() == [1.0] * 15 and share[15:].tolist() == [0.5] * 15
    again = sae.matching(a, half).mean()
    assert mean == pytest.approx((1 + 2 * again) / 3, rel=1e-6) and 0.5 < again < 0.65
    assert sae.stability([a[:10], a])[0] == pytest.approx(1)  # some seeds keep fewer alive


def test_a_dictionary_in_which_nothing_fires_is_found_in_none():
    some, none = np.eye(3, 5), np.zeros((0, 5))
    mean, share = sae.stability([some, none, some])
    assert mean == 1 and share.tolist() == [0.5] * 3
    mean, share = sae.stability([none, none, some])
    assert np.isnan(mean) and not len(share)


def test_overlap_counts_kept_items():
    before = np.array([[1, 2, 3], [4, 5, 0], [0, 0, 0]])
    after = np.array([[3, 9, 1], [5, 6, 0], [1, 2, 3]])
    assert overlap(before, after) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


# Many at once


@pytest.fixture
def runs():
    """Three runs, so short that the processes take longer to start."""
    return [
        (CONFIGS[v], replace(SHORT, seed=s)) for v, s in (("topk", 0), ("relu", 0), ("topk", 1))
    ]


def test_a_sweep_is_a_table_with_a_row_for_each_run(runs, planted, tmp_path):
    states, _ = planted
    table = sae.sweep(runs, states[:2_000], states[2_000:3_000], tmp_path)
    assert table[["variant", "seed"]].to_numpy().tolist() == [["topk", 0], ["relu", 0], ["topk", 1]]
    dictionary = sae.load(tmp_path / table["run"][1])
    codes = sae.encode(dictionary, states[2_000:3_000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sae.quality(dictionary, states[2_000:3_000], codes)
    for name, value in found.items():
        assert table[name][1] == pytest.approx(value, rel=1e-5)
    assert table["problems"][1].startswith("relu: ") or found["dense_fraction"] <= 0.1


def test_a_run_that_a_sweep_has_twice_is_trained_once(runs, planted, tmp_path, monkeypatch):
    trained, train = [], sweeping._run
    monkeypatch.setattr(sweeping, "_run", lambda *run: [trained.append(run[-1]), train(*run)])
    table = sae.sweep([runs[0], runs[0]], planted[0][:2_000], planted[0][:1_000], tmp_path)
    assert len(trained) == 1 and table.iloc[0].equals(table.iloc[1])


def test_a_sweep_without_held_out_states_is_refused_before_it_trains(runs, planted, tmp_path):
    with pytest.raises(ValueError, match="no position is held out .* raise dev_fraction"):
        sae.sweep(runs, planted[0], planted[0][:0], tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_sweep_goes_on_where_it_was_killed_and_is_the_same_in_two_processes(
    runs, planted, tmp_path, monkeypatch
):
    states, _ = planted
    arguments = (states[:2_000], states[2_000:3_000])
    one = sae.sweep(runs, *arguments, tmp_path / "one")
    two = sae.sweep(runs, *arguments, tmp_path / "two", n_jobs=2)
    pd.testing.assert_frame_equal(one, two)
    (tmp_path / "one" / one["run"][2] / "row.json").unlink()  # what a kill leaves of the last
    trained = []
    fit = sae.sweeping.fit
    monkeypatch.setattr(
        sae.sweeping, "fit", lambda s, *rest, **more: trained.append(s) or fit(s, *rest, **more)
    )
    pd.testing.assert_frame_equal(sae.sweep(runs, *arguments, tmp_path / "one"), two)
    assert len(trained) == 1
    changed = sae.sweep(runs, states[:2_000] + 1, *arguments[1:], tmp_path / "one")
    assert len(trained) == 4 and not set(changed["run"]) & set(one["run"])


@pytest.mark.parametrize("name", ["row.json", "cfg.json", "sae_weights.safetensors"])
def test_a_damaged_run_of_a_sweep_is_named_and_made_anew(planted, tmp_path, name):
    arguments = [(CONFIGS["topk"], SHORT)], planted[0][:2_000], planted[0][2_000:3_000], tmp_path
    table = sae.sweep(*arguments)
    file = tmp_path / table["run"][0] / name
    good = file.read_bytes()
    for place in (len(good) - 4, len(good) // 2):
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.warns(UserWarning, match=r"damaged.* (it is made anew|counts as missing)"):
            pd.testing.assert_frame_equal(sae.sweep(*arguments), table)
        assert file.read_bytes() == good


def test_a_sweep_measures_anew_on_other_held_out_states_and_with_other_code(
    runs, planted, tmp_path, monkeypatch
):
    states, _ = planted
    arguments = (runs[:1], states[:2_000])
    first = sae.sweep(*arguments, states[2_000:3_000], tmp_path)
    other = sae.sweep(*arguments, states[3_000:4_000], tmp_path)
    assert first["explained_variance"][0] != other["explained_variance"][0]
    alone = sae.sweep(*arguments, states[3_000:4_000], tmp_path / "alone")
    pd.testing.assert_frame_equal(other, alone)
    for path, same in (("figures/sae.py", True), ("sae/variants.py", False)):
        monkeypatch.setitem(LOADED, path, LOADED[path] + "\nbetter = 1")
        again = sae.sweep(*arguments, states[2_000:3_000], tmp_path)
        assert (again["run"][0] == first["run"][0]) == same


# The scale of the states lies in the weights


@pytest.mark.parametrize("variant", CONFIGS)
def test_folded_weights_take_states_as_they_come(variant):
    """Codes are `std` times those of the weights for normalised states, to rounding."""
    dictionary, normalisation = random_sae(CONFIGS[variant]), Normalisation(5.0, 3.0)
    hidden = torch.from_numpy(np.random.default_rng(0).normal(5, 3, (500, D_IN))).float()
    with torch.no_grad():
        if "threshold" in dictionary.state_dict():
            dictionary.threshold.fill_(0.2)
        code = dictionary.encode(normalisation.apply(hidden))
        expected = 5.0 + 3.0 * dictionary(normalisation.apply(hidden))
        dictionary.fold(normalisation)
        torch.testing.assert_close(dictionary.encode(hidden), 3 * code, atol=1e-4, rtol=0)
        torch.testing.assert_close(dictionary(hidden), expected, atol=1e-4, rtol=0)
    assert code.count_nonzero() and dictionary.std == 3.0


def test_states_that_are_scaled_and_shifted_get_the_same_dictionary(planted):
    states, _ = planted
    found = [sae.fit(x, CONFIGS["topk"], SHORT)[0] for x in (states, 8 * states - 64)]
    torch.testing.assert_close(found[0].W_dec, found[1].W_dec, atol=1e-4, rtol=0)
    assert found[1].std == pytest.approx(8 * found[0].std, rel=1e-6)
    codes = [
        sae.encode(d, x).toarray() for d, x in zip(found, (states, 8 * states - 64), strict=True)
    ]
    np.testing.assert_allclose(8 * codes[0], codes[1], atol=0.02)


def test_a_dictionary_is_trained_once(planted):
    dictionary, _ = sae.fit(planted[0], CONFIGS["topk"], SHORT)
    with pytest.raises(ValueError, match="has been trained"):
        sae.train(dictionary, planted[0], SHORT)


def test_files_that_expect_normalised_states_are_folded_as_they_are_read(tmp_path):
    """Version 0.1 left the scale beside the weights."""
    dictionary, normalisation = random_sae(CONFIGS["jumprelu"]), Normalisation(5.0, 3.0)
    sae.save(dictionary, tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    del cfg["metadata"]["std"]
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match="expect normalised hidden states"):
        sae.load(tmp_path)
    loaded = sae.load(tmp_path, normalisation)
    dictionary.fold(normalisation)
    hidden = 5 + 3 * torch.randn(50, D_IN)
    torch.testing.assert_close(loaded.encode(hidden), dictionary.encode(hidden))
    sae.save(loaded, tmp_path)
    with pytest.raises(ValueError, match="take raw hidden states: give no normalisation"):
        sae.load(tmp_path, normalisation)  # or it would be folded twice


def test_a_sweep_leaves_the_threads_as_they_were(planted, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sae.sweep([(CONFIGS["topk"], SHORT)], planted[0], planted[0], tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


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
    biases = {"relu": ["b_enc"], "topk": ["b_enc"], "gated": ["b_gate", "b_mag", "r_mag"]}
    shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    shapes |= {name: (D_SAE,) for name in biases.get(variant, ["b_enc", "threshold"])}
    assert {name: array.shape for name, array in weights.items()} == shapes
    assert all(array.dtype == np.float32 for array in weights.values())
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
        "relu": {"architecture": "standard"},
        "gated": {"architecture": "gated"},
    }
    assert cfg == common | own.get(variant, {"architecture": "jumprelu"})


def altered(folder, **fields):
    """The folder with fields of cfg.json replaced, as another software would have them."""
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"].pop("seqsae")
    (folder / "cfg.json").write_text(json.dumps(cfg | fields))
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "temporal"),
        ("activation_fn_str", "tanh-relu"),
        ("normalize_activations", "layer_norm"),
        ("normalize_activations", "expected_average_only_in"),
        ("reshape_activations", "hook_z"),
    ],
)
def test_a_form_that_no_variant_has_is_refused(field, value, tmp_path):
    sae.save(random_sae(CONFIGS["topk"]), tmp_path)
    with pytest.raises(ValueError, match=f"cfg.json: {field} is '{value}', which is not read here"):
        sae.load(altered(tmp_path, **{field: value}))


def of_sparsify(folder, **changed):
    torch.manual_seed(3)
    tensors = {
        "encoder.weight": torch.randn(12, 4), "encoder.bias": torch.randn(12),
        "W_dec": torch.randn(12, 4), "b_dec": torch.randn(4),
    }  # fmt: skip
    cfg = {"activation": "topk", "expansion_factor": 3, "normalize_decoder": False}
    cfg |= {"num_latents": 0, "k": 3, "multi_topk": False, "skip_connection": False}
    cfg |= {"transcode": False, "d_in": 4} | changed
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file(tensors, folder / "sae.safetensors")
    return tensors


def test_a_file_of_sparsify_gives_what_its_formula_gives(tmp_path):
    tensors, x = of_sparsify(tmp_path), torch.randn(50, 4)
    loaded = sae.load(tmp_path)
    pre = ((x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]).relu()
    value, index = pre.topk(3)
    code = torch.zeros(50, 12).scatter(1, index, value)
    torch.testing.assert_close(loaded.encode(x), code)
    torch.testing.assert_close(loaded(x), code @ tensors["W_dec"] + tensors["b_dec"])


def test_what_a_file_of_sparsify_lacks_is_named(tmp_path):
    tensors = of_sparsify(tmp_path, k=None)
    with pytest.raises(ValueError, match="cfg.json: k is missing"):
        sae.load(tmp_path)
    del tensors["encoder.weight"]
    save_file(tensors, tmp_path / "sae.safetensors")
    with pytest.raises(ValueError, match="tensors are missing: W_enc"):
        sae.load(tmp_path)


def test_a_threshold_that_a_variant_has_not_is_refused(tmp_path):
    sae.save(random_sae(CONFIGS["topk"]), tmp_path)
    file = tmp_path / "sae_weights.safetensors"
    save_file({**load_file(file), "threshold": torch.ones(12)}, file)
    with pytest.raises(ValueError, match=r"tensors that do not fit cfg.json: threshold \[12\]"):
        sae.load(altered(tmp_path, metadata=None))


@pytest.mark.parametrize(
    "field, value", [("activation", "groupmax"), ("transcode", True), ("skip_connection", True)]
)
def test_a_file_of_sparsify_that_is_something_else_is_refused(tmp_path, field, value):
    of_sparsify(tmp_path, **{field: value})
    with pytest.raises(ValueError, match=f"cfg.json: {field} is {value!r}, which is not read here"):
        sae.load(tmp_path)


def test_a_pickle_of_dictionary_learning_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "ae.pt").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ValueError, match="ae.pt: a pickle of dictionary_learning could run any"):
        sae.load(tmp_path)


def test_a_topk_of_2024_keeps_k(tmp_path):
    """Its architecture was "standard"; read as ReLU, it would have many features active."""
    dictionary, x = random_sae(CONFIGS["topk"]), torch.randn(50, D_IN)
    sae.save(dictionary, tmp_path)
    old = {"architecture": "standard", "activation_fn_str": "topk"}
    loaded = sae.load(altered(tmp_path, **old, activation_fn_kwargs={"k": 2}))
    code = loaded.encode(x)
    assert torch.equal(code, sae.keep_top(dictionary.pre_activations(x), 2))
    assert code.count_nonzero() == 2 * len(x)


def test_a_file_of_early_2024_is_read_by_what_it_calls_things(tmp_path):
    """No architecture, ``activation_fn`` for ``activation_fn_str``, a scale that is 1."""
    dictionary, x = random_sae(CONFIGS["topk"]), torch.randn(50, D_IN)
    sae.save(dictionary, tmp_path)
    file, path = tmp_path / "sae_weights.safetensors", tmp_path / "cfg.json"
    d_sae = dictionary.config.d_sae
    tensors = load_file(file) | {"scaling_factor": torch.ones(d_sae)}
    save_file(tensors, file)
    old = {"d_in": D_IN, "d_sae": d_sae, "normalize_activations": False}
    path.write_text(json.dumps(old | {"activation_fn": "topk", "activation_fn_kwargs": {"k": 2}}))
    assert torch.equal(sae.load(tmp_path).encode(x), sae.keep_top(dictionary.pre_activations(x), 2))
    path.write_text(json.dumps(old))
    loaded = sae.load(tmp_path)
    assert loaded.config.variant == "relu"
    torch.testing.assert_close(loaded.encode(x), dictionary.pre_activations(x).relu())
    save_file(tensors | {"scaling_factor": torch.full((d_sae,), 2.0)}, file)
    with pytest.raises(ValueError, match="tensors that do not fit cfg.json: scaling_factor"):
        sae.load(tmp_path)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"d_sae": 7}, "tensors that do not fit cfg.json: W_dec"),
        ({"architecture": "gated"}, "do not fit cfg.json: b_mag is missing, r_mag is missing"),
        ({"k": None}, "cfg.json: k is missing"),
        ({"d_in": None}, "cfg.json: d_in is missing"),
        ({"metadata": {"seqsae": {"wide": 1}, "std": 1}}, "cfg.json: metadata.seqsae: .*'wide'"),
        ({"architecture": "standard", "activation_fn_str": "topk"}, "cfg.json: k is missing"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path, fields, message):
    sae.save(random_sae(CONFIGS["topk"]), tmp_path)
    altered(tmp_path, **fields)
    if message.endswith("k is missing"):
        cfg = json.loads((tmp_path / "cfg.json").read_text())
        cfg.pop("k")
        (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match=message):
        sae.load(tmp_path)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff" * 9])
def test_a_damaged_file_is_named(tmp_path, name, content):
    sae.save(random_sae(CONFIGS["topk"]), tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        sae.load(tmp_path)


def test_a_batchtopk_that_was_never_trained_has_no_threshold_to_save(tmp_path):
    with pytest.raises(ValueError, match="batchtopk: no threshold before it is trained"):
        sae.save(sae.create(CONFIGS["batchtopk"]), tmp_path)
    assert not list(tmp_path.iterdir())


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
    perfect = sae.create(sae.Config(6, 12, "relu"))
    normalisation = Normalisation(0.7, 2.5)
    with torch.no_grad():
        perfect.W_dec.copy_(torch.cat([torch.eye(6), -torch.eye(6)]))
        perfect.W_enc.copy_(perfect.W_dec.T)
    hidden = 3 + 2 * torch.randn(4, 5, 6)
    before = hidden.clone()
    perfect.fold(normalisation)
    written = perfect(hidden)
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
    cost = cost_of_replacing(model, "blocks.0", replacements, histories, targets)
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
    for column in ("ndcg@10", "top10_overlap"):
        low, high = cost[f"{column}_low"], cost[f"{column}_high"]
        assert ((low <= cost[column]) & (cost[column] <= high)).all()
    assert (cost.loc["original", ["top10_overlap_low", "top10_overlap_high"]] == 1).all()
    assert cost.loc["half", "top10_overlap_low"] < cost.loc["half", "top10_overlap_high"]
    recovered = (loss["mean"] - loss["half"]) / (loss["mean"] - loss["original"])
    assert cost.loc["half", "loss_recovered"] == pytest.approx(recovered, rel=1e-3)


def test_cost_of_replacing_needs_both_ends_of_its_scale(recommender):
    with pytest.raises(ValueError, match="'mean' is missing"):
        cost_of_replacing(recommender[0], "blocks.0", {"original": None}, *recommender[1:])


def test_the_folder_needs_nothing_of_the_recommender():
    """It can be lifted out: what it loads is torch, NumPy, pandas, SciPy and the like."""
    code = "import seqsae_utils.sae, sys; print(*sys.modules)"
    run = [sys.executable, "-W", "ignore", "-c", code]
    loaded = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    own = {name for name in loaded if name.startswith("seqsae_utils.")}
    basement = {"checkpoint", "fingerprint", "normalisation", "ranges", "workspace"}
    assert {name.split(".")[1] for name in own} <= {"sae"} | basement
    foreign = {"sklearn", "matplotlib", "papermill", "nbformat", "pooch", "transformers", "polars"}
    assert "safetensors" in loaded and not foreign & set(loaded)
