"""The transformer sees no future, learns what can be learned, and goes on after a kill."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax

from seqsae_utils import metrics, recommender
from seqsae_utils.recommender import CausalTransformer, Config, Training, windows
from seqsae_utils.workspace import seed_everything

CONFIG = Config(n_items=20, d_model=16, n_layers=2, n_heads=2, max_length=6, dropout=0.2)
TRAINING = Training(learning_rate=3e-3, batch_size=8, stride=3, max_epochs=6, patience=6)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices of this size are slower with two, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQSAE_THREADS", "1")  # for the processes that are killed here, too
        yield
    torch.set_num_threads(threads)


def fresh_model(config: Config = CONFIG, seed: int = 0) -> CausalTransformer:
    """The same weights for the same seed, in any process."""
    seed_everything(seed)
    return CausalTransformer(config)


def random_sequences(n_users: int, seed: int = 0, n_items: int = 20) -> list[np.ndarray]:
    """Sequences of 2 to 15 different items."""
    rng = np.random.default_rng(seed)
    return [1 + rng.permutation(n_items)[: rng.integers(2, 16)] for _ in range(n_users)]


def held_out(sequences: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    return recommender.hold_out_last(dict(enumerate(sequences)))


def train(model: CausalTransformer, training: Training = TRAINING, folder: Path | None = None):
    """A training of a second or less; `tests` start it in other processes too."""
    return recommender.train(
        model, random_sequences(30), held_out(random_sequences(20, seed=1)), training, folder
    )


def same_weights(one: CausalTransformer, other: CausalTransformer) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


# --- sequences ---


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 8, 20, 61])
@pytest.mark.parametrize(("length", "stride"), [(2, 1), (5, 1), (5, 3), (5, 4), (7, 6), (30, 7)])
def test_every_item_but_the_first_is_a_target(n, length, stride):
    pieces = windows(np.arange(n), length, stride)
    assert max(map(len, pieces)) <= length
    assert all((np.diff(piece) == 1).all() for piece in pieces)
    assert set(np.concatenate([piece[1:] for piece in pieces])) == set(range(1, n))


def test_a_sequence_as_long_as_the_window_is_one_window():
    (window,) = windows(np.arange(5), length=5, stride=2)
    assert window.tolist() == [0, 1, 2, 3, 4]


def test_one_item_makes_no_window():
    assert windows(np.array([7]), length=5, stride=2) == []


@pytest.mark.parametrize("stride", [5, 50])
def test_a_stride_that_leaves_items_out_is_refused(stride):
    with pytest.raises(ValueError, match=f"stride={stride} leaves items out.*use at most 4"):
        windows(np.arange(100), length=5, stride=stride)


def test_pad_keeps_the_last_items_and_pads_on_the_right():
    padded = recommender.pad([np.arange(1, 9), np.array([5]), np.array([3, 4])], max_length=3)
    assert padded.tolist() == [[6, 7, 8], [5, 0, 0], [3, 4, 0]]
    assert padded.dtype == torch.int64


def test_hold_out_last_never_shows_the_target():
    sequences = {5: np.array([3, 1, 2]), 6: np.array([4]), 9: np.array([2, 9])}
    histories, targets = recommender.hold_out_last(sequences)
    assert [history.tolist() for history in histories] == [[3, 1], [2]]
    assert targets.tolist() == [2, 9]


# --- the model ---


@pytest.mark.parametrize("changed", range(6))
def test_a_later_item_changes_no_earlier_state(changed):
    model = fresh_model().eval()
    items = torch.tensor([[4, 9, 1, 20, 7, 3]])
    other = items.clone()
    other[0, changed] = 13
    difference = (model(items) - model(other)).abs().amax(dim=2)[0]
    assert (difference[:changed] == 0).all()
    assert (difference[changed:] > 0).all()


def test_padding_changes_nothing():
    model = fresh_model().eval()
    histories = random_sequences(10)
    items = recommender.pad(histories, 6)
    together = model(items)
    for i, history in enumerate(histories):
        alone = model(torch.from_numpy(history[-6:])[None])
        torch.testing.assert_close(together[i, : alone.shape[1]], alone[0])


def test_every_item_has_a_score_and_padding_has_none():
    model = fresh_model().eval()
    scores = model.scores(model(torch.tensor([[1, 20]])))
    assert scores.shape == (1, 2, 21)
    assert scores[..., 1:].isfinite().all()
    assert (scores[..., 0] == -torch.inf).all()


def test_next_item_scores_are_those_of_each_history_alone():
    model, histories = fresh_model(), random_sequences(12)
    assert {len(history) > 6 for history in histories} == {True, False}
    scores = recommender.next_item_scores(model, histories)
    model.eval()
    for row, history in zip(scores, histories, strict=True):
        last_state = model(torch.from_numpy(history[-6:])[None])[0, -1]
        torch.testing.assert_close(row, model.scores(last_state))


def test_a_sequence_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="7 items.*max_length=6.*pad"):
        fresh_model()(torch.ones(1, 7, dtype=torch.int64))


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


@pytest.mark.parametrize("name", ["batch_size", "stride", "max_epochs", "patience"])
def test_a_wrong_training_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        Training(**{name: 0})


def test_saved_and_loaded_it_is_the_same_and_ready_to_predict(tmp_path):
    model = fresh_model()
    recommender.save(model, tmp_path)
    loaded = recommender.load(tmp_path)
    assert loaded.config == CONFIG
    assert same_weights(loaded, model)
    assert not loaded.training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


# --- training ---


def test_the_loss_is_that_of_the_real_positions():
    """One batch of windows of different lengths, against each window alone and unpadded."""
    sequences = [np.array([4, 9, 1, 20, 7, 2, 11]), np.array([3, 2]), np.array([5, 6, 8])]
    model = fresh_model(replace(CONFIG, dropout=0.0)).eval()
    losses = []
    with torch.no_grad():
        for sequence in sequences:
            scores = model.scores(model(torch.from_numpy(sequence[:-1])[None])[0])[:, 1:].numpy()
            losses += list(-log_softmax(scores, axis=1)[np.arange(len(scores)), sequence[1:] - 1])
    assert len(losses) == 6 + 1 + 2  # the longest fills the model: six inputs, six targets
    once = replace(TRAINING, max_epochs=1)
    history = recommender.train(model, sequences, held_out(sequences), once)
    assert history["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_padding_learns_nothing():
    model = fresh_model()
    train(model)
    assert (model.item_embedding.weight[0] == 0).all()


def test_it_learns_a_cycle():
    """After item i comes i + 1: popularity knows nothing of it, the transformer everything."""

    def cycles(n_users, seed):
        starts = np.random.default_rng(seed).integers(24, size=n_users)
        return [1 + (start + np.arange(10)) % 24 for start in starts]

    model = fresh_model(replace(CONFIG, n_items=24))
    training = replace(TRAINING, learning_rate=1e-2, max_epochs=12)
    validation = held_out(cycles(40, seed=1))
    history = recommender.train(model, cycles(100, seed=2), validation, training)
    rank = recommender.rank_items(
        partial(recommender.next_item_scores, model), *held_out(cycles(40, seed=3))
    ).rank
    assert metrics.ndcg(rank).mean() > 0.95
    assert history["ndcg@10"].max() > 0.95
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))


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


def test_every_epoch_has_an_order_of_its_own():
    """Nothing is learned and nothing dropped: other batches alone make another mean loss."""
    model = fresh_model(replace(CONFIG, dropout=0.0))
    history = train(model, replace(TRAINING, learning_rate=1e-30, max_epochs=4))
    assert history["loss"].nunique() == 4


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Model, history and checkpoint of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    model = fresh_model()
    history = train(model, folder=folder)
    return model, history, (folder / recommender.CHECKPOINT).read_bytes()


def assert_the_same(model, history, folder, uninterrupted):
    expected_model, expected_history, checkpoint = uninterrupted
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    assert same_weights(model, expected_model)
    assert (folder / recommender.CHECKPOINT).read_bytes() == checkpoint  # Adam's moments too


@pytest.mark.parametrize("epochs", [1, 4, 6])
def test_training_goes_on_from_its_checkpoint(tmp_path, uninterrupted, epochs):
    train(fresh_model(), replace(TRAINING, max_epochs=epochs), tmp_path)
    model = fresh_model(seed=99)  # whatever it starts with, the checkpoint takes over
    history = train(model, folder=tmp_path)
    assert_the_same(model, history, tmp_path, uninterrupted)


def train_until_killed(place: str, time: int, folder: str) -> None:
    """Train, and die without a word when `place` is reached for the `time`-th time."""
    owner, name = {"step": (torch.optim.AdamW, "step"), "fsync": (recommender, "fsync")}[place]
    function, calls = getattr(owner, name), []

    def killer(*args):
        calls.append(args)
        if len(calls) == time:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)

    setattr(owner, name, killer)
    train(fresh_model(), folder=Path(folder))


@pytest.mark.parametrize(
    ("place", "time", "left"),
    [
        ("step", 2, set()),  # in the first epoch: nothing to go on from
        ("step", 25, {"checkpoint.safetensors"}),  # in the middle of a later one
        ("fsync", 3, {"checkpoint.safetensors", "checkpoint.tmp"}),  # while it writes the third
    ],
)
def test_killed_training_goes_on(tmp_path, uninterrupted, place, time, left):
    script = (
        f"import test_recommender as t; t.train_until_killed({place!r}, {time}, {str(tmp_path)!r})"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == left
    model = fresh_model(seed=99 if left else 0)
    history = train(model, folder=tmp_path)
    assert_the_same(model, history, tmp_path, uninterrupted)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors"}


def test_a_finished_model_leaves_no_checkpoint(tmp_path):
    model = fresh_model()
    train(model, replace(TRAINING, max_epochs=1), tmp_path)
    recommender.save(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


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


def test_nothing_to_predict_is_refused_before_any_training():
    one, two = [np.array([3])], [np.array([3, 4])]
    with pytest.raises(ValueError, match="no training user has two items"):
        recommender.train(fresh_model(), one, held_out(two), TRAINING)
    with pytest.raises(ValueError, match="no validation user has two items"):
        recommender.train(fresh_model(), two, held_out(one), TRAINING)


# --- ranking ---


def brute_force(
    scores: np.ndarray, history: np.ndarray, target: int
) -> tuple[list[int], int, float]:
    """All candidates best first, the target's place, and its cross-entropy."""
    candidates = [i for i in range(1, len(scores)) if i not in history or i == target]
    rank = 1 + sum(scores[i] >= scores[target] for i in candidates if i != target)
    loss = -log_softmax(scores[1:])[target - 1]
    return sorted(candidates, key=lambda i: -scores[i]), rank, loss


def scorer_of(histories: list[np.ndarray], scores: torch.Tensor) -> recommender.Scorer:
    row = {id(history): i for i, history in enumerate(histories)}
    return lambda chosen: scores[[row[id(history)] for history in chosen]]


@pytest.fixture
def users():
    """600 users, more than one batch: histories of 1 to 30 of 60 items, some with the target."""
    rng = np.random.default_rng(0)
    histories = [1 + rng.permutation(60)[: rng.integers(1, 31)] for _ in range(600)]
    targets = rng.integers(1, 61, size=600)
    scores = torch.from_numpy(rng.normal(size=(600, 61)).astype(np.float32))
    scores[:, 0] = -torch.inf
    assert min(map(len, histories)) == 1
    assert 0 < sum(t in h for h, t in zip(histories, targets, strict=True)) < 600
    return histories, targets, scores


def test_ranking_is_that_of_brute_force(users):
    histories, targets, scores = users
    ranking = recommender.rank_items(scorer_of(histories, scores), histories, targets, k=10)
    for i in range(600):
        ordered, rank, loss = brute_force(scores[i].numpy(), histories[i], targets[i])
        assert ranking.lists[i].tolist() == ordered[:10]
        assert ranking.rank[i] == rank == ordered.index(targets[i]) + 1
        assert ranking.loss[i] == pytest.approx(loss, rel=1e-5)


def test_ties_count_against_the_target(users):
    histories, targets, scores = users
    scores = scores.round()  # seven different values for 60 items
    ranking = recommender.rank_items(scorer_of(histories, scores), histories, targets, k=10)
    for i in range(600):
        ordered, rank, _ = brute_force(scores[i].numpy(), histories[i], targets[i])
        assert ranking.rank[i] == rank
        assert set(ranking.lists[i]) <= set(ordered) and len(set(ranking.lists[i])) == 10
        assert scores[i, ranking.lists[i]].tolist() == scores[i, ordered[:10]].tolist()


def test_a_model_that_tells_no_items_apart_scores_nothing(users):
    histories, targets, scores = users
    ranking = recommender.rank_items(
        lambda chosen: torch.zeros(len(chosen), 61), histories, targets
    )
    assert metrics.ndcg(ranking.rank).mean() == 0


def test_the_whole_history_is_filtered_and_not_what_the_model_sees():
    model, sequences = fresh_model(), random_sequences(40)
    histories, targets = held_out(sequences)
    assert max(map(len, histories)) > 2 * CONFIG.max_length
    scorer = partial(recommender.next_item_scores, model)
    ranking = recommender.rank_items(scorer, histories, targets, k=5)
    for history, target, shown in zip(histories, targets, ranking.lists, strict=True):
        assert not (set(shown) & set(history)) - {target}


def test_ranking_leaves_the_scores_and_the_histories_as_they_were(users):
    histories, targets, scores = (part[:200] for part in users)
    scores_before, histories_before = scores.clone(), [history.copy() for history in histories]
    first = recommender.rank_items(lambda chosen: scores, histories, targets)
    again = recommender.rank_items(lambda chosen: scores, histories, targets)
    assert torch.equal(scores, scores_before)
    assert all(map(np.array_equal, histories, histories_before))
    assert all(map(np.array_equal, first, again))


def test_places_for_which_no_item_is_left_are_empty():
    """Four items, of which the user took two: the list has two items and three empty places."""
    scores = torch.tensor([[-torch.inf, 0.1, 0.2, 0.3, 0.4]])
    history, target = [np.array([4, 1])], np.array([2])
    for k, expected in {1: [3], 2: [3, 2], 4: [3, 2, 0, 0], 7: [3, 2, 0, 0, 0, 0, 0]}.items():
        ranking = recommender.rank_items(lambda chosen: scores, history, target, k)
        assert ranking.lists.tolist() == [expected]
        assert ranking.rank.tolist() == [2]


def test_padding_is_never_recommended():
    """Even by a scorer that has not heard of it; and the last item is an item like any other."""
    scores = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    ranking = recommender.rank_items(lambda chosen: scores, [np.array([2])], np.array([1]), k=2)
    assert ranking.lists.tolist() == [[3, 1]]
    assert ranking.rank.tolist() == [2]


def test_ranking_nobody_or_by_nan_is_refused(users):
    histories, targets, scores = users
    with pytest.raises(ValueError, match="no users to rank"):
        recommender.rank_items(scorer_of(histories, scores), [], np.array([]))
    scores[7, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="scores of 1 users are NaN"):
        recommender.rank_items(scorer_of(histories, scores), histories, targets)


def test_popularity_ranks_by_count_and_then_by_number():
    scorer = recommender.popularity_scores(np.array([0, 3, 0, 7, 3, 12]))
    scores = scorer([np.array([1]), np.array([2])])
    assert scores.shape == (2, 6)
    assert torch.equal(scores[0], scores[1])
    assert scores[0].argsort(descending=True).tolist() == [5, 3, 1, 4, 2, 0]
    ranking = recommender.rank_items(scorer, [np.array([5])], np.array([4]), k=3)
    assert ranking.lists.tolist() == [[3, 1, 4]]
    assert ranking.rank.tolist() == [3]
