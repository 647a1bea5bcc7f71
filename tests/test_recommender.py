"""The transformer sees no future, learns what can be learned, and goes on after a kill."""

import io
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from tqdm import tqdm

from seqsae_utils import metrics, recommender
from seqsae_utils.recommender import Config, Training, Transformer, losses, pieces, training
from seqsae_utils.workspace import seed_everything

CONFIG = Config(n_items=20, d_model=16, n_layers=2, n_heads=2, max_length=6, dropout=0.2)
TRAINING = Training(learning_rate=3e-3, batch_size=40, max_epochs=6, patience=6)
MASK = CONFIG.n_items + 1
NAME, TEMPORARY = "gpt2.checkpoint", "gpt2.checkpoint.PID.tmp"


def fresh_model(config: Config = CONFIG, seed: int = 0, **changes) -> Transformer:
    """The same weights for the same seed, in any process."""
    seed_everything(seed)
    return recommender.create(replace(config, **changes))


def random_sequences(n_users: int, seed: int = 0, n_items: int = 20) -> list[np.ndarray]:
    """Sequences of 2 to 15 different items."""
    rng = np.random.default_rng(seed)
    return [1 + rng.permutation(n_items)[: rng.integers(2, 16)] for _ in range(n_users)]


def held_out(sequences: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    return recommender.hold_out_last(dict(enumerate(sequences)))


def train(model: Transformer, how: Training = TRAINING, file: Path | None = None):
    """A training of a second or less; `tests` start it in other processes too."""
    return recommender.train(
        model, random_sequences(30), held_out(random_sequences(20, seed=1)), how, file
    )


def same_weights(one: Transformer, other: Transformer) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


# --- sequences ---


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 8, 20, 61])
@pytest.mark.parametrize(("length", "offset"), [(1, 1), (4, 1), (4, 4), (6, 2), (30, 7), (30, 30)])
@pytest.mark.parametrize("overlap", [0, 1])
def test_every_item_is_learnt_once(n, length, offset, overlap):
    """With an overlap of one an item is learnt where it follows another, else wherever it is."""
    cut = pieces(np.arange(n), length, offset, overlap)
    assert np.concatenate([piece[overlap:] for piece in cut]).tolist() == list(range(overlap, n))
    assert all((np.diff(piece) == 1).all() for piece in cut)
    lengths = [len(piece) - overlap for piece in cut]
    assert lengths[0] == min(offset, n - overlap)
    assert set(lengths[1:-1]) <= {length} and 0 < lengths[-1] <= max(length, offset)


@pytest.mark.parametrize("architecture", recommender.ARCHITECTURES)
def test_batches_hold_every_item_once_an_epoch_and_next_to_no_padding(architecture):
    model = fresh_model(architecture=architecture)
    sequences = [1000 * i + np.arange(1 + i % 40) for i in range(1, 400)]
    sequences.append(np.array([7]))  # nothing to learn from for a causal model
    batches = list(training._batches(model, sequences, 120, np.random.default_rng(0)))
    learnt = np.concatenate([piece[model.overlap :] for batch in batches for piece in batch])
    expected = np.concatenate([sequence[model.overlap :] for sequence in sequences])
    assert sorted(learnt) == sorted(expected)
    sizes = [sum(map(len, batch)) for batch in batches]
    assert max(sizes) < 120 + 7 and np.mean(sizes) > 100
    padded = sum(len(batch) * max(map(len, batch)) for batch in batches)
    assert sum(sizes) > 0.95 * padded


def test_no_batch_is_of_users_with_nothing_to_predict():
    """Own data have many users with three items; without their last two, one is left."""
    model = fresh_model()
    sequences = [np.array([i]) for i in range(1, 400)] + [np.arange(1, 10)]
    batches = training._batches(model, sequences, 100, np.random.default_rng(0))
    assert min(len(piece) for batch in batches for piece in batch) > model.overlap
    settings = recommender.Training(batch_size=100, max_epochs=1)
    history = recommender.train(model, sequences, None, settings, progress=False)
    assert np.isfinite(history["loss"]).all()


def test_batches_are_cut_anew_in_each_epoch():
    model, sequences = fresh_model(), random_sequences(30)
    first, again, other = (
        list(training._batches(model, sequences, 40, np.random.default_rng([0, epoch])))
        for epoch in (0, 0, 1)
    )
    assert str(first) == str(again) != str(other)


def test_pad_keeps_the_last_items_and_pads_on_the_right():
    padded = recommender.pad([np.arange(1, 9), np.array([5]), np.array([3, 4])], max_length=3)
    assert padded.tolist() == [[6, 7, 8], [5, 0, 0], [3, 4, 0]]
    assert padded.dtype == torch.int64


# --- the models ---

architectures = pytest.mark.parametrize("architecture", recommender.ARCHITECTURES)


@pytest.mark.parametrize("architecture", ["gpt2", "sasrec"])
@pytest.mark.parametrize("changed", range(6))
def test_a_causal_model_sees_no_later_item(architecture, changed):
    model = fresh_model(architecture=architecture).eval()
    items = torch.tensor([[4, 9, 1, 20, 7, 3]])
    other = items.clone()
    other[0, changed] = 13
    difference = (model(items) - model(other)).abs().amax(dim=2)[0]
    assert (difference[:changed] == 0).all()
    assert (difference[changed:] > 0).all()


@pytest.mark.parametrize("changed", range(6))
def test_a_masked_model_sees_all_items(changed):
    model = fresh_model(architecture="bert4rec").eval()
    items = torch.tensor([[4, 9, 1, 20, 7, 3]])
    other = items.clone()
    other[0, changed] = 13
    assert ((model(items) - model(other)).abs().amax(dim=2)[0] > 0).all()


@architectures
def test_padding_changes_nothing(architecture):
    model = fresh_model(architecture=architecture).eval()
    histories = random_sequences(10)
    items = model.pad(histories)
    together = model(items)
    for i, history in enumerate(histories):
        alone = model(torch.from_numpy(history[-6:])[None])
        torch.testing.assert_close(together[i, : alone.shape[1]], alone[0])


@architectures
def test_every_item_has_a_score_and_neither_padding_nor_mask_has_one(architecture):
    model = fresh_model(architecture=architecture).eval()
    scores = model.scores(model(torch.tensor([[1, 20]])))
    assert scores.shape == (1, 2, 21)
    assert scores[..., 1:].isfinite().all()
    assert (scores[..., 0] == -torch.inf).all()


@architectures
def test_the_head_is_tied_to_the_item_embedding(architecture):
    model = fresh_model(architecture=architecture).eval()
    state = torch.randn(16)
    for item in (1, 20):
        score = model.item_embedding.weight[item] @ state
        torch.testing.assert_close(model.scores(state)[item], score)


@architectures
def test_next_item_scores_are_those_of_each_history_alone(architecture):
    model, histories = fresh_model(architecture=architecture), random_sequences(12)
    assert {len(history) > 6 for history in histories} == {True, False}
    scores = model.next_item_scores(histories)
    model.eval()
    for row, history in zip(scores, histories, strict=True):
        asked = history if model.causal else np.append(history, MASK)
        last_state = model(torch.from_numpy(asked[-6:])[None])[0, -1]
        torch.testing.assert_close(row, model.scores(last_state))


def test_the_mask_is_appended_to_ask_for_the_next_item():
    model = fresh_model(architecture="bert4rec")
    histories = [np.array([4, 9]), np.arange(1, 11)]
    assert model.query(histories).tolist() == [[4, 9, MASK, 0, 0, 0], [6, 7, 8, 9, 10, MASK]]
    assert model.mask == MASK == len(model.item_embedding.weight) - 1
    unasked = model.scores(model.eval()(torch.tensor([[4, 9]]))[0, -1])
    assert not torch.allclose(model.next_item_scores(histories[:1])[0], unasked)


def test_a_causal_model_learns_each_next_item():
    inputs, targets = fresh_model().training_pairs([np.arange(1, 8), np.array([5, 3])])
    assert inputs.tolist() == [[1, 2, 3, 4, 5, 6], [5, 3, 0, 0, 0, 0]]
    assert targets.tolist() == [[2, 3, 4, 5, 6, 7], [3, 0, 0, 0, 0, 0]]


def test_a_masked_model_learns_hidden_items_the_last_among_them():
    model = fresh_model(architecture="bert4rec")
    sequences = [np.arange(1, 7), np.array([5, 3])] * 500
    items = model.pad(sequences)
    inputs, targets = model.training_pairs(sequences)
    hidden = targets > 0
    assert (inputs[hidden] == MASK).all() and (targets[hidden] == items[hidden]).all()
    assert (inputs[~hidden] == items[~hidden]).all()
    assert hidden[0::2, 5].all() and hidden[1::2, 1].all()
    assert not hidden[1::2, 2:].any()
    others = torch.cat([hidden[0::2, :5].flatten(), hidden[1::2, 0]]).float()
    assert others.mean().item() == pytest.approx(0.2, abs=0.03)
    assert (items < MASK).all()  # the batch itself is as it was


def test_sasrec_and_gpt2_differ_in_settings_alone():
    gpt2, sasrec = (fresh_model(architecture=name) for name in ("gpt2", "sasrec"))
    assert type(gpt2) is type(sasrec)
    assert gpt2.blocks[0].mlp[0].out_features == 64 and sasrec.blocks[0].mlp[0].out_features == 16
    assert isinstance(gpt2.blocks[0].mlp[1], torch.nn.GELU)
    assert isinstance(sasrec.blocks[0].mlp[1], torch.nn.ReLU)
    inputs = {}
    for model in (gpt2, sasrec):
        torch.nn.init.zeros_(model.position_embedding.weight)
        model.blocks[0].register_forward_pre_hook(lambda m, x: inputs.update(x=x[0]))
        model.eval()(torch.tensor([[3]]))
        scaled = inputs["x"][0, 0] / model.item_embedding.weight[3]
        torch.testing.assert_close(scaled, torch.full((16,), 4.0 if model is sasrec else 1.0))


def test_an_unknown_architecture_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="architecture 'bert4rek' is unknown; nearest: 'bert4rec'"):
        replace(CONFIG, architecture="bert4rek")


@architectures
def test_a_sequence_longer_than_the_model_is_refused(architecture):
    with pytest.raises(ValueError, match="7 items.*max_length=6.*pad"):
        fresh_model(architecture=architecture)(torch.ones(1, 7, dtype=torch.int64))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_items": 1}, "n_items=1.*two items"),
        ({"d_model": 15}, "d_model=15.*n_heads=2"),
        ({"n_heads": 0}, "n_heads=0 must be at least 1"),
        ({"max_length": 0}, "max_length=0 must be at least 1"),
        ({"n_layers": 0}, "n_layers=0 must be at least 1"),
    ],
)
def test_a_wrong_config_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **wrong)


@pytest.mark.parametrize("name", ["batch_size", "n_negatives", "max_epochs", "patience"])
def test_a_wrong_training_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        Training(**{name: 0})


@pytest.mark.parametrize("name", ["loss", "precision"])
def test_a_misspelt_choice_is_refused_with_the_nearest(name):
    right = getattr(Training(), name)
    with pytest.raises(ValueError, match=f"{name}='{right}s' is unknown; nearest: '{right}'"):
        Training(**{name: right + "s"})


@architectures
def test_saved_and_loaded_it_is_the_same_and_ready_to_predict(tmp_path, architecture):
    model = fresh_model(architecture=architecture)
    recommender.save(model, tmp_path)
    loaded = recommender.load(tmp_path)
    assert loaded.config == model.config
    assert same_weights(loaded, model)
    assert not loaded.training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_models_are_saved_beside_another(tmp_path):
    recommender.save(fresh_model(), tmp_path)
    assert recommender.load_beside(tmp_path) == {}
    beside = {name: fresh_model(architecture=name, seed=1) for name in ("sasrec", "bert4rec")}
    for name, model in beside.items():
        recommender.save(model, tmp_path / name)
    found = recommender.load_beside(tmp_path)
    assert list(found) == ["bert4rec", "sasrec"]
    assert all(same_weights(found[name], model) for name, model in beside.items())
    assert same_weights(recommender.load(tmp_path), fresh_model())


# --- losses ---


@pytest.fixture
def states():
    """More positions than one block has, with gradients: hidden, head, targets."""
    torch.manual_seed(0)
    hidden = torch.randn(700, 16, requires_grad=True)
    head = torch.randn(1001, 16, requires_grad=True)
    return hidden, head, torch.randint(1, 1001, (700,))


def gradients(loss: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(3 * loss, leaves))  # times three: the outer gradient counts


def test_the_blockwise_softmax_is_the_plain_one(states):
    hidden, head, targets = states
    logits = hidden @ head.T
    plain = F.cross_entropy(logits[:, 1:], targets - 1)
    ours = losses.softmax_loss(hidden, head, targets)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradients(ours, hidden, head), gradients(plain, hidden, head))


def test_the_blockwise_softmax_survives_an_improbable_target(states):
    """Its probability is zero in float32, its logarithm is not."""
    hidden, head, targets = (part.detach() for part in states)
    loss = losses.softmax_loss(50 * hidden, head, targets)
    torch.testing.assert_close(loss, F.cross_entropy(50 * hidden @ head[1:].T, targets - 1))


def test_a_sample_of_all_items_is_the_full_softmax(states):
    hidden, head, targets = states
    full = losses.softmax_loss(hidden, head, targets)
    sampled = losses.sampled_softmax_loss(hidden, head, targets, n_negatives=5000)
    torch.testing.assert_close(sampled, full)
    torch.testing.assert_close(gradients(sampled, hidden, head), gradients(full, hidden, head))


def test_a_small_sample_estimates_the_full_softmax(states):
    hidden, head, targets = (part.detach() * 0.3 for part in states)
    targets = states[2]
    full = losses.softmax_loss(hidden, head, targets)
    estimates = [losses.sampled_softmax_loss(hidden, head, targets, 100) for _ in range(50)]
    assert torch.stack(estimates).mean().item() == pytest.approx(full.item(), rel=0.01)
    assert torch.stack(estimates).std() > 0


# --- training ---


def test_the_loss_is_that_of_the_real_positions(monkeypatch):
    """One batch of windows of different lengths, against each window alone and unpadded."""
    sequences = [np.array([4, 9, 1, 20, 7, 2, 11]), np.array([3, 2]), np.array([5, 6, 8])]
    model = fresh_model(dropout=0.0).eval()
    expected = []
    with torch.no_grad():
        for sequence in sequences:
            scores = model.scores(model(torch.from_numpy(sequence[:-1])[None])[0])[:, 1:].numpy()
            expected += list(-log_softmax(scores, axis=1)[np.arange(len(scores)), sequence[1:] - 1])
    assert len(expected) == 6 + 1 + 2  # the longest fills the model: six inputs, six targets
    once = replace(TRAINING, max_epochs=1)
    monkeypatch.setattr(training, "pieces", lambda sequence, *_: [sequence])  # not cut
    history = recommender.train(model, sequences, held_out(sequences), once)
    assert history["loss"].item() == pytest.approx(np.mean(expected), rel=1e-5)


@architectures
@pytest.mark.parametrize("loss", ["softmax", "sampled"])
def test_padding_learns_nothing(architecture, loss):
    model = fresh_model(architecture=architecture)
    train(model, replace(TRAINING, loss=loss, n_negatives=5))
    assert (model.item_embedding.weight[0] == 0).all()


@pytest.mark.parametrize(
    ("architecture", "how"),
    [
        ("gpt2", {}),
        ("sasrec", {}),
        ("bert4rec", {"max_epochs": 40}),
        ("gpt2", {"loss": "sampled", "n_negatives": 12}),
        ("gpt2", {"precision": "bfloat16"}),
    ],
)
def test_it_learns_a_cycle(architecture, how):
    """After item i comes i + 1: popularity knows nothing of it, the transformer everything."""

    def cycles(n_users, seed):
        starts = np.random.default_rng(seed).integers(24, size=n_users)
        return [1 + (start + np.arange(10)) % 24 for start in starts]

    model = fresh_model(n_items=24, architecture=architecture)
    how = replace(TRAINING, **{"learning_rate": 1e-2, "max_epochs": 15, "patience": 40} | how)
    validation = held_out(cycles(40, seed=1))
    history = recommender.train(model, cycles(100, seed=2), validation, how)
    rank = recommender.rank_items(model.next_item_scores, *held_out(cycles(40, seed=3))).rank
    assert metrics.ndcg(rank).mean() > 0.95
    assert history["ndcg@10"].max() > 0.95
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))


#: What `torchrun` starts in the test below.
SCRIPT = """
import sys
import torch.distributed as dist
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_recommender import replace, recommender, fresh_model, train, TRAINING
if sys.argv[1] == "group":
    dist.init_process_group("gloo")
rank = str(dist.get_rank()) if dist.is_initialized() else ""
checkpoint = Path("a.checkpoint" if sys.argv[2] == "shared" else f"a.checkpoint{{rank}}")
for epochs in (2, 4):  # the second goes on from the checkpoint of the first
    model = fresh_model(dropout=0.0)
    history = train(model, replace(TRAINING, max_epochs=epochs), checkpoint)
place = Path(sys.argv[1] + rank)
place.mkdir()
recommender.save(model, place)
history.to_csv(place / "history.csv", index=False)
if dist.is_initialized():
    dist.destroy_process_group()
"""


def test_two_processes_learn_what_one_does(tmp_path):
    """Every batch is shared: losses and weights are those of one process, but for rounding.

    Interrupted after two epochs, they go on if both see the checkpoint, and fail if not.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    histories, weights = {}, {}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for name, command in {"alone": [sys.executable], "group": torchrun}.items():
        folder = tmp_path / name
        folder.mkdir()
        subprocess.run([*command, script, name, "shared"], cwd=folder, check=True)
        for place in folder.glob("*/history.csv"):
            histories[place.parent.name] = pd.read_csv(place)
            weights[place.parent.name] = recommender.load(place.parent).state_dict()
    assert sorted(histories) == ["alone", "group0", "group1"]
    one = histories["alone"]["loss"]
    assert one.iloc[-1] < one.iloc[0] and one.nunique() == 4
    for name in ("group0", "group1"):
        assert histories[name]["loss"].to_numpy() == pytest.approx(one.to_numpy(), rel=1e-4)
        for key, value in weights["alone"].items():
            torch.testing.assert_close(weights[name][key], value, rtol=1e-2, atol=1e-3)
    for key, value in weights["group0"].items():
        assert torch.equal(value, weights["group1"][key])
    command = [*torchrun, script, "group", "apart"]
    apart = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert apart.returncode and "a.checkpoint1: 0 epochs are seen here and 2 by the" in apart.stderr


@pytest.mark.parametrize("large, like", [(10**6, "softmax"), (1, "sampled")])
def test_the_loss_follows_the_size_of_the_catalogue(monkeypatch, large, like):
    monkeypatch.setattr(training, "LARGE", large)
    found = []
    for loss in ("auto", like):
        model = fresh_model()
        train(model, replace(TRAINING, loss=loss, n_negatives=5, max_epochs=2))
        found.append(model.item_embedding.weight)
    assert torch.equal(*found)


def test_early_stopping_keeps_the_weights_of_the_best_epoch():
    """Random sequences: the best epoch comes early, and a training that ends there is the same."""
    patient = replace(TRAINING, max_epochs=20, patience=3)
    stopped, until_best = fresh_model(), fresh_model()
    history = train(stopped, patient)
    best = int(history["ndcg@10"].idxmax()) + 1
    assert 1 < best and len(history) == best + 3 < 20
    train(until_best, replace(patient, max_epochs=best))
    assert same_weights(stopped, until_best)
    assert not stopped.training


def test_the_seed_decides():
    models = [fresh_model() for _ in range(3)]
    first, again, other = (
        train(model, replace(TRAINING, max_epochs=2, seed=seed))
        for model, seed in zip(models, (0, 0, 1), strict=True)
    )
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert same_weights(models[0], models[1])
    assert (first["loss"] != other["loss"]).all()
    assert not same_weights(models[0], models[2])


@architectures
def test_an_epoch_learns_each_item_about_once(architecture, monkeypatch):
    """So that learning curves of causal and masked models can be laid side by side."""
    learnt = []

    def count(hidden, head, targets):
        learnt.append(targets)
        return losses.softmax_loss(hidden, head, targets)

    monkeypatch.setattr(training, "softmax_loss", count)
    model = fresh_model(architecture=architecture, max_length=40)
    sequences = [1 + np.arange(20)] * 200
    how = replace(TRAINING, max_epochs=1)
    recommender.train(model, sequences, held_out(random_sequences(20)), how)
    times = torch.bincount(torch.cat(learnt), minlength=21) / 200
    assert times[:2].tolist() == [0, 0] if model.causal else times[0] == 0
    assert ((times[2:19] > 0.7) & (times[2:19] < 1.3)).all() or not model.causal
    assert times[2:].mean().item() == pytest.approx(1, abs=0.35)


def test_every_epoch_has_an_order_of_its_own():
    """Nothing is learned and nothing dropped: other batches alone make another mean loss."""
    model = fresh_model(dropout=0.0)
    history = train(model, replace(TRAINING, learning_rate=1e-30, max_epochs=4))
    assert history["loss"].nunique() == 4


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Model, history and checkpoint of a training that nothing interrupted."""
    file = tmp_path_factory.mktemp("uninterrupted") / NAME
    model = fresh_model()
    history = train(model, file=file)
    return model, history, file.read_bytes()


def assert_the_same(model, history, file, uninterrupted):
    expected_model, expected_history, checkpoint = uninterrupted
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    assert same_weights(model, expected_model)
    assert file.read_bytes() == checkpoint  # Adam's moments too


@pytest.mark.parametrize("epochs", [1, 4, 6])
def test_training_goes_on_from_its_checkpoint(tmp_path, uninterrupted, epochs):
    file = tmp_path / NAME
    train(fresh_model(), replace(TRAINING, max_epochs=epochs), file)
    model = fresh_model()
    history = train(model, file=file)
    assert_the_same(model, history, file, uninterrupted)


@pytest.mark.parametrize(
    ("named", "config", "how", "n_users"),
    [
        ("d_model", {"d_model": 32}, {}, 30),
        ("n_items", {"n_items": 21}, {}, 30),
        ("seed", {}, {"seed": 1}, 30),
        ("sequences", {}, {}, 29),
        ("validation", {}, {}, 30),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(tmp_path, named, config, how, n_users):
    file = tmp_path / NAME
    train(fresh_model(), replace(TRAINING, max_epochs=1), file)
    before, model = file.read_bytes(), fresh_model(**config)
    others = random_sequences(19 if named == "validation" else 20, seed=1)
    users, validation = random_sequences(n_users), held_out(others)
    with pytest.raises(ValueError, match=rf"{NAME} is the checkpoint of another.* other {named}\b"):
        recommender.train(model, users, validation, replace(TRAINING, **how), file)
    assert file.read_bytes() == before


def train_until_killed(place: str, time: int, file: str) -> None:
    """Train, and die without a word when `place` is reached for the `time`-th time."""
    owner, name = {"step": (torch.optim.AdamW, "step"), "fsync": (os, "fsync")}[place]
    function, calls = getattr(owner, name), []

    def killer(*args):
        calls.append(args)
        if len(calls) == time:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)

    setattr(owner, name, killer)
    train(fresh_model(), file=Path(file))


@pytest.mark.parametrize(
    ("place", "time", "left"),
    [
        ("step", 2, set()),  # in the first epoch: nothing to go on from
        ("step", 25, {NAME}),  # in the middle of a later one
        ("fsync", 3, {NAME, TEMPORARY}),  # while it writes the third
    ],
)
def test_killed_training_goes_on(tmp_path, uninterrupted, place, time, left):
    file = tmp_path / NAME
    script = f"import test_recommender as t; t.train_until_killed({place!r}, {time}, {str(file)!r})"
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    assert {re.sub(r"\d{2,}", "PID", path.name) for path in tmp_path.iterdir()} == left
    model = fresh_model()
    history = train(model, file=file)
    assert_the_same(model, history, file, uninterrupted)
    assert {path.name for path in tmp_path.iterdir()} == {NAME}


def test_a_loss_that_is_no_number_names_the_way_out():
    model = fresh_model()
    torch.nn.init.constant_(model.final_norm.weight, torch.nan)
    with pytest.raises(
        FloatingPointError, match="loss is nan in epoch 1: lower learning_rate=0.003"
    ):
        train(model)


def test_a_model_that_diverges_in_its_last_step_is_not_the_best():
    """All comparisons with NaN are false: every target would stand first."""
    with pytest.raises(FloatingPointError, match="NaN.*lower learning_rate"):
        train(fresh_model(), replace(TRAINING, learning_rate=1e36, batch_size=1000, max_epochs=1))


def test_without_validation_the_last_epoch_is_kept():
    """Then no user chooses: a control learns as long as what it is held against."""
    users, how = random_sequences(30), replace(TRAINING, max_epochs=4, patience=1)
    model, again = fresh_model(), fresh_model()
    history = recommender.train(model, users, None, how)
    assert list(history["epoch"]) == [1, 2, 3, 4] and history["ndcg@10"].isna().all()
    recommender.train(again, users, None, replace(how, max_epochs=3))
    assert not torch.equal(again.head, model.head)
    assert history["loss"].is_monotonic_decreasing


def test_nothing_to_predict_is_refused_before_any_training():
    one, two = [np.array([3])], [np.array([3, 4])]
    with pytest.raises(ValueError, match="no training user has two items"):
        recommender.train(fresh_model(), one, held_out(two), TRAINING)
    with pytest.raises(ValueError, match="no validation user has two items"):
        recommender.train(fresh_model(), two, held_out(one), TRAINING)


@pytest.mark.parametrize("n_jobs, shown", [(1, 3), (2, 1)])
def test_models_say_which_of_how_many_they_are(tmp_path, monkeypatch, n_jobs, shown):
    """Of those side by side the first alone: bars of several processes would tear one another."""
    said = []

    def parallel(n, **options):
        return lambda jobs: said.extend(job[2]["progress"] for job in jobs) or []

    monkeypatch.setattr(training, "Parallel", parallel)
    split = recommender.Split(20, random_sequences(30), None, held_out(random_sequences(20)))
    runs = [("few", name, 0) for name in ("gpt2", "sasrec", "bert4rec")]
    with pytest.raises(ValueError, match="zip"):
        recommender.fit_all(runs, {"few": split}, CONFIG, TRAINING, tmp_path, n_jobs=n_jobs)
    assert said == [f"model {i} of 3, " for i in range(1, shown + 1)] + [False] * (3 - shown)


def test_fit_all_trains_each_run_and_goes_on_where_it_was(tmp_path, monkeypatch):
    users, others = random_sequences(30), held_out(random_sequences(20, seed=1))
    protocols = {
        "few": recommender.Split(20, users, others, others),
        "more": recommender.Split(25, users, others, others),
    }
    runs = [("few", "gpt2", 0), ("few", "bert4rec", 0), ("more", "gpt2", 7)]
    how = replace(TRAINING, max_epochs=2)
    models, history = recommender.fit_all(runs, protocols, CONFIG, how, tmp_path, n_jobs=2)
    assert list(models) == runs
    assert history.groupby(["protocol", "model", "seed"], sort=False).size().to_dict() == {
        run: 2 for run in runs
    }
    sizes = [(model.config.architecture, model.config.n_items) for model in models.values()]
    assert sizes == [("gpt2", 20), ("bert4rec", 20), ("gpt2", 25)]
    alone, _ = recommender.fit(replace(CONFIG, n_items=25), protocols["more"], replace(how, seed=7))
    assert same_weights(models["more", "gpt2", 7], alone)

    monkeypatch.setattr(training, "_train_epoch", None)  # there is nothing left to train
    again, same = recommender.fit_all(runs, protocols, CONFIG, how, tmp_path)
    pd.testing.assert_frame_equal(history, same, check_exact=True)
    assert all(same_weights(again[run], models[run]) for run in runs)


def test_the_bar_says_which_model_of_how_many_and_how_long_at_most(tmp_path, monkeypatch):
    """The time that is left is there before the first epoch has ended."""
    shown = io.StringIO()

    class Bar(tqdm):
        def __init__(self, *arguments, **settings):
            settings |= {"file": shown, "disable": False, "mininterval": 0}
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(training, "tqdm", Bar)
    users = random_sequences(30)
    protocols = {"a": recommender.Split(20, users, held_out(users), held_out(users))}
    runs = [("a", "sasrec", 0), ("a", "gpt2", 0)]
    how = replace(TRAINING, max_epochs=2, patience=1)
    recommender.fit_all(runs, protocols, CONFIG, how, tmp_path)
    text = shown.getvalue()
    for start in ("model 1 of 2, sasrec, epochs", "model 2 of 2, gpt2, epochs"):
        own = [line for line in re.split(r"[\r\n]", text) if line.startswith(start)]
        early = [line for line in own if re.search(r" 0\.[1-9]/2 ", line)]
        assert early and re.search(r"at most \d\d:\d\d more", early[-1])
        assert re.search(r" 2\.0/2 ", own[-1])


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b'["a"]', b'{"a": {"b": [1]}}', b"\xff\xfe\x00"])
def test_a_damaged_model_is_named(tmp_path, file, content):
    recommender.save(recommender.create(CONFIG), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is damaged: "):
        recommender.load(tmp_path)
