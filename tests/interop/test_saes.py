"""SAEs of SAELens read here, ours read there.

SAELens brings along much that the project does not need, so these tests run in an environment of
their own: `make interop`.
"""

import numpy as np
import pytest
import torch

from seqsae_utils import activations, data, recommender, sae

WHY = "lives in an environment of its own: run `make interop`"
saelens = pytest.importorskip("sae_lens", reason=f"SAELens {WHY}")

D_IN, D_SAE = 24, 64
CONFIGS = {v: sae.Config(D_IN, D_SAE, v, k=3, l1_coefficient=0.5) for v in sae.VARIANTS}


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    """Far from mean 0 and deviation 1, as hidden states are."""
    return np.random.default_rng(0).normal(5, 3, (3_000, D_IN)).astype(np.float32)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory) -> np.ndarray:
    """Raw hidden states of a SASRec that learned a little of the catalogue of profile smoke."""
    dataset = data.prepare(data.synthetic(n_users=400))
    config = recommender.Config(dataset.n_items, d_model=D_IN, max_length=32)
    training = recommender.Training(learning_rate=0.003, max_epochs=8)
    split = recommender.new_users(dataset)
    model, _ = recommender.fit(config, split, training, progress=False)
    file = tmp_path_factory.mktemp("states") / "dev.npy"
    activations.harvest(model, dataset.sequences("dev"), "blocks.0", file)
    return np.load(file)


@pytest.fixture(scope="module", params=CONFIGS)
def ours(request, states):
    """Each variant, after a little training on noise: no tensor is what it was made as."""
    torch.manual_seed(0)
    made = sae.create(CONFIGS[request.param])
    sae.train(made, states, sae.Training(1e-2, 100, 256, 5))
    return made


def same(mine, theirs, x) -> None:
    """Codes and reconstructions agree to 1e-4, and the codes are no formality."""
    code = mine.encode(x)
    assert 0 < (code > 0).float().mean() < 0.9
    torch.testing.assert_close(theirs.encode(x), code, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs(x), mine(x), atol=1e-4, rtol=0)


def test_saelens_loads_each_variant_and_agrees(ours, states, tmp_path):
    sae.save(ours, tmp_path)
    theirs = saelens.SAE.load_from_disk(tmp_path)
    same(ours, theirs, torch.from_numpy(states[:500]))
    theirs.save_model(tmp_path / "again")
    same(sae.load(tmp_path / "again"), theirs, torch.from_numpy(states[:500]))


@pytest.mark.parametrize("variant", CONFIGS)
def test_raw_states_of_a_recommender_go_around(variant, hidden, tmp_path):
    """Written here, read and written by SAELens, and read here: the codes are equal."""
    assert 0.1 < hidden.std() < 0.9 and np.abs(hidden.mean(axis=0)).max() > 0.1 * hidden.std()
    made, _ = sae.fit(hidden, CONFIGS[variant], sae.Training(steps=100, batch_size=256))
    assert abs(made.std - 1) > 0.05  # a reader that leaves the scale out is far off
    raw = torch.from_numpy(hidden[:500])
    sae.save(made, tmp_path / "a")
    theirs = saelens.SAE.load_from_disk(tmp_path / "a")
    same(made, theirs, raw)
    theirs.save_model(tmp_path / "b")
    same(sae.load(tmp_path / "b"), made, raw)


def made_by_saelens(name: str, **fields):
    """An SAE for using, of SAELens' own class, with random weights."""
    torch.manual_seed(1)
    config = getattr(saelens, f"{name}SAEConfig")(d_in=D_IN, d_sae=D_SAE, **fields)
    made = getattr(saelens, f"{name}SAE")(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
        if name == "JumpReLU":
            made.threshold.abs_()
    return made


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Standard", {}),
        ("Gated", {}),
        ("JumpReLU", {}),
        ("TopK", {"k": 5}),
        ("TopK", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    ],
)
def test_what_saelens_saves_loads_here(name, fields, apply_b_dec_to_input, states, tmp_path):
    theirs = made_by_saelens(name, apply_b_dec_to_input=apply_b_dec_to_input, **fields)
    theirs.save_model(tmp_path)
    same(sae.load(tmp_path), theirs, torch.from_numpy(states[:500]))


def test_a_batchtopk_that_saelens_trained_loads_here(states, tmp_path):
    torch.manual_seed(2)
    config = saelens.BatchTopKTrainingSAEConfig(k=5, d_in=D_IN, d_sae=D_SAE)
    trained = saelens.BatchTopKTrainingSAE(config)
    trained.topk_threshold.fill_(0.02)
    trained.save_inference_model(tmp_path)
    theirs = saelens.SAE.load_from_disk(tmp_path)
    same(sae.load(tmp_path), theirs, torch.from_numpy(states[:500]))
