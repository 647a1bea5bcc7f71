"""Hidden states are those of the plain model, each with the right name, and probes are honest."""

import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from torch import nn

from seqsae_utils import activations, recommender
from seqsae_utils.activations import Normalisation, find_site, harvesting, hooked
from seqsae_utils.recommender import CausalTransformer, Config

MAX_LENGTH = 5
#: Of all sequences below in pieces of that length.
N_POSITIONS, N_PIECES = 37, 10


def fresh_model(seed: int = 0, **settings) -> CausalTransformer:
    torch.manual_seed(seed)
    size = {"n_items": 30, "d_model": 8, "n_layers": 2, "max_length": MAX_LENGTH, "dropout": 0.5}
    return CausalTransformer(Config(**(size | settings)))


def fresh_sequences() -> dict[int, np.ndarray]:
    """Users whose numbers and lengths follow no pattern: shorter, as long, longer, far longer."""
    rng = np.random.default_rng(0)
    lengths = {7: 1, 3: 5, 12: 6, 4: 13, 0: 10, 8: 2}
    return {user: 1 + rng.permutation(30)[:length] for user, length in lengths.items()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def model():
    return fresh_model()


@pytest.fixture
def sequences():
    return fresh_sequences()


class ByItem(nn.Module):
    """A foreign model, of which each site's states are known: they depend on single items.

    Padded on the left, and always to its full length.
    """

    def __init__(self, n_items: int = 30, d_model: int = 4, max_length: int = MAX_LENGTH):
        super().__init__()
        self.max_length, self.n_forwards = max_length, 0
        self.embedding = nn.Embedding(n_items + 1, d_model)
        self.current, self.ahead = nn.Identity(), nn.Identity()
        self.scaled, self.listed = nn.Identity(), Listed()

    def pad(self, sequences: list[np.ndarray]) -> torch.Tensor:
        padded = torch.zeros(len(sequences), self.max_length, dtype=torch.int64)
        for row, sequence in zip(padded, sequences, strict=True):
            row[self.max_length - len(sequence) :] = torch.from_numpy(sequence)
        return padded

    def forward(self, items):
        self.n_forwards += 1
        x = self.current(self.embedding(items))
        self.ahead(torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1))
        self.listed(x)
        x = self.scaled(x * 2)
        x += 1000  # in place: who kept a reference to the site's output has lost it
        return x


class Listed(nn.Module):
    def forward(self, x):
        return [x, x]


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


def test_a_replacement_of_another_dtype_takes_that_of_the_model(model):
    """As the mean of float16 states of one's own."""
    items = torch.tensor([[1, 2, 3]])
    with hooked(model.eval(), "blocks.0", torch.zeros_like):
        expected = model(items)
    with hooked(model, "blocks.0", lambda hidden: torch.zeros_like(hidden, dtype=torch.float16)):
        assert torch.equal(model(items), expected)


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
    embedded = model.item_embedding(torch.from_numpy(items))[None]
    found = {"item_embedding": embedded}
    x = embedded + model.position_embedding.weight[: len(items)]
    for i, block in enumerate(model.blocks):
        x = x + block.attention(block.attention_norm(x), None)
        found[f"blocks.{i}.mlp"] = block.mlp(block.mlp_norm(x))
        x = found[f"blocks.{i}"] = x + found[f"blocks.{i}.mlp"]
    found["final_norm"] = model.final_norm(x)
    return found[site][0].numpy()


@pytest.mark.parametrize(
    "site", ["item_embedding", "blocks.0", "blocks.0.mlp", "blocks.1", "final_norm"]
)
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_harvest_is_the_plain_model_row_for_row(model, sequences, tmp_path, site, batch_size):
    index = activations.harvest(model, sequences, site, tmp_path / "x.npy", batch_size)
    states = np.load(tmp_path / "x.npy")
    assert states.dtype == np.float32
    assert states.shape == (N_POSITIONS, 8) and len(index) == N_POSITIONS
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


@pytest.mark.parametrize(
    "names", [[3_000_000_000, -1_294_967_296], [("a", 1), ("a", 2)], ["1", 1], [2**70, 1]]
)
def test_users_keep_the_names_that_they_have(names):
    index = harvesting.index_of(dict.fromkeys(names, np.array([4, 5])))
    assert index["user"].tolist() == [names[0]] * 2 + [names[1]] * 2


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_padding_may_stand_on_the_left(sequences, tmp_path, batch_size):
    model = ByItem()
    index = activations.harvest(model, sequences, "current", tmp_path / "x.npy", batch_size)
    states = model.embedding.weight.detach().numpy()[index["item"]]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), states)
    for user, sequence in sequences.items():
        assert index[index["user"] == user]["item"].tolist() == sequence.tolist()


def test_a_model_that_sees_both_sides(sequences, tmp_path):
    """Nothing is hidden when states are read: each knows what comes before and after it."""
    model = recommender.create(Config(30, "bert4rec", d_model=8, max_length=MAX_LENGTH))
    activations.harvest(model, sequences, "blocks.1", tmp_path / "x.npy", batch_size=4)
    seen = []
    with hooked(model.eval(), "blocks.1", seen.append), torch.no_grad():
        model(model.pad([sequences[7]]))
        model(model.pad([sequences[3]]))
    expected = np.concatenate([hidden[0].numpy() for hidden in seen])
    np.testing.assert_allclose(np.load(tmp_path / "x.npy")[:6], expected, rtol=1e-4, atol=1e-6)


def test_states_are_those_at_the_site_whatever_the_model_does_to_them_later(sequences, tmp_path):
    model = ByItem()
    index = activations.harvest(model, sequences, "scaled", tmp_path / "x.npy")
    states = 2 * model.embedding.weight.detach().numpy()[index["item"]]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), states)


@pytest.mark.parametrize("wrong", ["turned round", "cut"])
def test_a_padding_that_would_mix_up_the_index_is_refused(sequences, tmp_path, wrong):
    model = ByItem()
    change = {"turned round": lambda s: s[::-1].copy(), "cut": lambda s: s[-4:]}[wrong]
    pad = model.pad
    model.pad = lambda sequences: pad([change(s) for s in sequences])
    with pytest.raises(ValueError, match="ByItem.pad does not keep items and their order"):
        activations.harvest(model, sequences, "current", tmp_path / "x.npy")


def test_the_index_lies_beside_the_states_and_is_small(model, sequences, tmp_path):
    index = activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy")
    assert {str(dtype) for dtype in index.dtypes} == {"int32"}
    saved = pd.read_parquet(tmp_path / "x_index.parquet")
    pd.testing.assert_frame_equal(saved, index)
    names = ["x.npy", "x.npy.checkpoint", "x_index.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


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
    assert not list(tmp_path.iterdir())


def test_a_site_that_returns_no_tensor_is_refused(sequences, tmp_path):
    with pytest.raises(ValueError, match="site 'listed' returns a list, not hidden states"):
        activations.harvest(ByItem(), sequences, "listed", tmp_path / "x.npy")


def test_nobody_to_harvest_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="no sequences to harvest 'blocks.0'"):
        activations.harvest(model, {}, "blocks.0", tmp_path / "x.npy")


def test_what_was_harvested_is_loaded(model, sequences, tmp_path):
    for group in ("dev", "test"):
        half = {
            user: sequence for user, sequence in sequences.items() if (user > 5) == (group == "dev")
        }
        activations.harvest(model, half, "blocks.0", tmp_path / f"{group}.npy")
    states, index = activations.load(tmp_path, "test")
    assert isinstance(states, np.memmap)
    assert set(index["user"]) == {0, 3, 4} and len(states) == len(index)
    np.testing.assert_array_equal(states, np.load(tmp_path / "test.npy"))


# --- half precision ---


def test_a_state_that_is_no_number_is_kept_for_who_can_say_more(sequences, tmp_path):
    """`Normalisation.of` names it."""
    model = ByItem()
    nn.init.constant_(model.embedding.weight, torch.inf)
    activations.harvest(model, sequences, "current", tmp_path / "x.npy")
    with pytest.raises(ValueError, match="NaN or infinite values in dimensions"):
        Normalisation.of(np.load(tmp_path / "x.npy"))


def test_a_model_in_half_precision_is_read_too(sequences, tmp_path):
    """NumPy has no bfloat16."""
    model = ByItem().to(torch.bfloat16)
    index = activations.harvest(model, sequences, "current", tmp_path / "x.npy")
    states = np.load(tmp_path / "x.npy")
    assert states.dtype == np.float32
    weights = model.embedding.weight.detach().float().numpy()
    np.testing.assert_array_equal(states, weights[index["item"]])


def test_what_is_stored_in_half_precision_is_not_computed_in_it(rng):
    """Sums of 50,000 values overflow in float16, and its third digit is lost by a subtraction."""
    half = rng.normal(30, 5, size=(50_000, 3)).astype(np.float16)
    wide = half.astype(np.float64)
    normalisation = Normalisation.of(half)
    assert normalisation.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert normalisation.std == pytest.approx(wide.std(), rel=1e-12)
    assert normalisation.apply(half).dtype == np.float32
    np.testing.assert_allclose(normalisation.apply(half), normalisation.apply(wide), atol=1e-5)
    labels = rng.integers(2, size=(50_000, 2))
    pd.testing.assert_frame_equal(activations.spectrum(half), activations.spectrum(wide))
    half_auc, wide_auc = (activations.probe_auc(x, labels, x, labels) for x in (half, wide))
    assert half_auc == wide_auc


# --- interrupted, and out of room ---


def count_forwards(model: nn.Module) -> list:
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    return calls


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    """The files of a harvest that nothing interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    activations.harvest(fresh_model(), fresh_sequences(), "blocks.0", folder / "x.npy", 1)
    return contents(folder)


def run_here(line: str) -> subprocess.CompletedProcess:
    """Run a line of Python in a process of its own, with this module as `t`."""
    command = [sys.executable, "-c", f"import test_activations as t; {line}"]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def harvest_until_killed(place: str, time: int, folder: str) -> None:
    """Harvest, and die without a word when `place` is reached for the `time`-th time."""
    owner, name = {
        "forward": (CausalTransformer, "forward"),
        "fsync": (os, "fsync"),
        "replace": (Path, "replace"),
    }[place]
    function, calls = getattr(owner, name), []

    def killer(*args):
        calls.append(args)
        if len(calls) == time:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)

    setattr(owner, name, killer)
    harvesting.CHECKPOINT_BATCHES = 2
    model, sequences = fresh_model(), fresh_sequences()
    activations.harvest(model, sequences, "blocks.0", Path(folder) / "x.npy", batch_size=1)


@pytest.mark.parametrize(
    ("place", "time", "forwards_left"),
    [
        ("forward", 2, N_PIECES),  # nothing noted yet
        ("forward", 6, N_PIECES - 4),
        ("fsync", 4, N_PIECES - 2),  # rows written, and the checkpoint not
        ("replace", 6, 0),  # all done, and nothing in its place
        ("replace", 7, N_PIECES),  # states without an index: nobody can say whose they are
    ],
)
def test_a_killed_harvest_goes_on(tmp_path, uninterrupted, place, time, forwards_left):
    killed = run_here(f"t.harvest_until_killed({place!r}, {time}, {str(tmp_path)!r})")
    assert killed.returncode == -signal.SIGKILL
    assert not {"x.npy", "x_index.parquet"} <= set(contents(tmp_path))
    model = fresh_model()
    forwards = count_forwards(model)
    index = activations.harvest(model, fresh_sequences(), "blocks.0", tmp_path / "x.npy", 1)
    assert len(forwards) == forwards_left
    assert contents(tmp_path) == uninterrupted
    assert len(index) == N_POSITIONS


class Interrupted(Exception):
    pass


def interrupt(folder: Path, monkeypatch, at: int = 6) -> None:
    """Leave a harvest of blocks.0 that was interrupted in the `at`-th forward pass."""
    monkeypatch.setattr(harvesting, "CHECKPOINT_BATCHES", 2)
    model, calls = fresh_model(), []

    def stop(module, inputs):
        calls.append(inputs)
        if len(calls) == at:
            raise Interrupted

    model.register_forward_pre_hook(stop)
    with pytest.raises(Interrupted):
        activations.harvest(model, fresh_sequences(), "blocks.0", folder / "x.npy", batch_size=1)
    assert set(contents(folder)) == {"x.npy.partial", "x.npy.checkpoint"}


@pytest.mark.parametrize("place", [3, 200, -1])
@pytest.mark.parametrize("finished", [False, True])
def test_damaged_states_are_named_and_made_anew(
    tmp_path, uninterrupted, monkeypatch, place, finished
):
    interrupt(tmp_path, monkeypatch, at=5)
    arguments = fresh_model(), fresh_sequences(), "blocks.0", tmp_path / "x.npy", 1
    file = tmp_path / "x.npy.partial"
    if finished:
        activations.harvest(*arguments)
        file = tmp_path / "x.npy"
    damaged = bytearray(file.read_bytes())
    if not finished and place == -1:
        place = 300
    damaged[place] ^= 1
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match=f"{file.name} is damaged: it is made anew"):
        activations.harvest(*arguments)
    assert contents(tmp_path) == uninterrupted


def other(what: str) -> tuple[nn.Module, dict, str, dict]:
    """Model, sequences, site and settings of a harvest that differs from `interrupt`'s."""
    model, sequences, site, settings = fresh_model(), fresh_sequences(), "blocks.0", {}
    if what == "weight":
        with torch.no_grad():
            model.blocks[0].mlp[0].bias[3] += 1e-3
    elif what == "architecture":
        model = fresh_model(n_heads=1)
    elif what == "item":
        sequences[12][3] = sequences[12][3] % 30 + 1
    elif what == "user":
        sequences = {user + (user == 8): sequence for user, sequence in sequences.items()}
    elif what == "border between users":  # the same items in the same order
        sequences[7], sequences[3] = np.append(sequences[7], sequences[3][:1]), sequences[3][1:]
    elif what == "site":
        site = "blocks.1"
    else:
        settings = {"batch_size": 2}
    return model, sequences, site, settings


DIFFERENT = ["weight", "architecture", "item", "user", "border between users", "site"]


@pytest.mark.parametrize("what", [*DIFFERENT, "batch size"])
def test_an_interrupted_harvest_of_something_else_is_not_continued(tmp_path, monkeypatch, what):
    model, sequences, site, settings = other(what)
    settings = {"batch_size": 1} | settings
    (tmp_path / "alone").mkdir()
    (tmp_path / "after").mkdir()
    activations.harvest(model, sequences, site, tmp_path / "alone" / "x.npy", **settings)
    interrupt(tmp_path / "after", monkeypatch)
    activations.harvest(model, sequences, site, tmp_path / "after" / "x.npy", **settings)
    assert contents(tmp_path / "after") == contents(tmp_path / "alone")


def test_a_finished_harvest_is_not_repeated(model, sequences, tmp_path):
    """The second group of users may be the one that was killed."""
    forwards = count_forwards(model)
    first = activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy")
    assert len(forwards) == 1
    before = contents(tmp_path)
    again = activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy")
    assert len(forwards) == 1
    pd.testing.assert_frame_equal(again, first)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_finished_harvest_of_something_else_is_replaced(tmp_path, what):
    model, sequences, site, settings = other(what)
    (tmp_path / "alone").mkdir()
    (tmp_path / "after").mkdir()
    activations.harvest(model, sequences, site, tmp_path / "alone" / "x.npy", **settings)
    file = tmp_path / "after" / "x.npy"
    activations.harvest(fresh_model(), fresh_sequences(), "blocks.0", file)
    activations.harvest(model, sequences, site, file, **settings)
    assert contents(tmp_path / "after") == contents(tmp_path / "alone")


def test_an_index_never_stands_beside_states_of_another_harvest(tmp_path, monkeypatch):
    """Killed after the new states were put in place, and before their index was."""
    activations.harvest(fresh_model(1), fresh_sequences(), "blocks.0", tmp_path / "x.npy")
    replace = Path.replace

    def stop(path, target):
        if target.name == "x_index.parquet":
            raise Interrupted
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(Interrupted):
        activations.harvest(fresh_model(2), fresh_sequences(), "blocks.0", tmp_path / "x.npy")
    assert not (tmp_path / "x_index.parquet").exists()


def test_the_file_is_one_that_numpy_writes(uninterrupted, tmp_path):
    (tmp_path / "x.npy").write_bytes(uninterrupted["x.npy"])
    np.save(tmp_path / "again.npy", np.load(tmp_path / "x.npy"))
    assert (tmp_path / "again.npy").read_bytes() == uninterrupted["x.npy"]


def test_without_room_for_all_states_none_is_written(model, sequences, tmp_path, monkeypatch):
    forwards, full = count_forwards(model), SimpleNamespace(free=N_POSITIONS * 8 * 4 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(OSError, match="no room for 1,184 bytes of hidden states, 1,183 are free"):
        activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy", batch_size=1)
    assert len(forwards) == 1 and not contents(tmp_path)
    full.free += 1
    assert len(activations.harvest(model, sequences, "blocks.0", tmp_path / "x.npy"))


def harvest_onto_a_full_disk(folder: str) -> None:
    """Harvest where files may have 6,000 bytes; print how many forward passes, and the error."""
    import resource

    harvesting.CHECKPOINT_BATCHES = 2
    model, sequences = fresh_model(d_model=64), fresh_sequences()
    forwards, create = count_forwards(model), harvesting._create

    def then_fill(*arguments):
        create(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    harvesting._create = then_fill
    try:
        activations.harvest(model, sequences, "blocks.0", Path(folder, "x.npy"), batch_size=1)
    except OSError as error:
        print(len(forwards), error)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are those of Linux")
def test_a_disk_that_fills_up_is_an_error_and_no_signal(tmp_path):
    """A limit on the size of files stands for the disk: over half of the states fit."""
    run = run_here(f"t.harvest_onto_a_full_disk({str(tmp_path)!r})")
    assert run.returncode == 0, run.stderr
    forwards, _, message = run.stdout.partition(" ")
    assert 1 < int(forwards) < N_PIECES and "File too large" in message
    assert set(contents(tmp_path)) == {"x.npy.partial", "x.npy.checkpoint"}
    model = fresh_model(d_model=64)
    again = count_forwards(model)
    activations.harvest(model, fresh_sequences(), "blocks.0", tmp_path / "x.npy", 1)
    assert len(again) < N_PIECES  # it went on
    activations.harvest(model, fresh_sequences(), "blocks.0", tmp_path / "alone.npy", 1)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()


def peak_memory() -> int:
    """The most memory that this process ever had, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def growth_of_memory(folder: str) -> tuple[int, int]:
    """Bytes by which memory grows when five times as many users are harvested, and of their file.

    All users share one array, so that there is no input that could grow.
    """
    model, sequence = ByItem(d_model=256, max_length=64), np.arange(64) % 30 + 1
    peaks = []
    for n_users in (500, 2_500):
        file = Path(folder, f"{n_users}.npy")
        activations.harvest(model, dict.fromkeys(range(n_users), sequence), "current", file, 32)
        peaks.append(peak_memory())
    return peaks[1] - peaks[0], file.stat().st_size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_users(tmp_path):
    run = run_here(f"print(*t.growth_of_memory({str(tmp_path)!r}))")
    assert run.returncode == 0, run.stderr
    growth, size = map(int, run.stdout.split())
    assert size > 150e6
    assert growth < 0.2 * size


# --- normalisation ---


def test_normalisation_is_the_mean_and_deviation_of_all_values(rng):
    """More rows than one block of the sum, and an uneven rest."""
    states = rng.normal(3, 2, size=(75_001, 64)).astype(np.float32)
    normalisation = Normalisation.of(states)
    assert normalisation.mean == pytest.approx(states.astype(np.float64).mean(), rel=1e-12)
    assert normalisation.std == pytest.approx(states.astype(np.float64).std(), rel=1e-12)


def test_apply_gives_mean_0_and_deviation_1(rng):
    x = rng.normal(3, 2, size=(500, 4))
    normalisation = Normalisation.of(x)
    normalised = normalisation.apply(x)
    assert normalised.mean() == pytest.approx(0, abs=1e-12)
    assert normalised.std() == pytest.approx(1)
    np.testing.assert_allclose(normalised * normalisation.std + normalisation.mean, x)
    assert np.abs(normalised - x).max() > 1


def test_normalised_states_keep_their_precision():
    x = np.ones((2, 3), np.float32)
    normalisation = Normalisation(0.5, 2.0)
    assert normalisation.apply(x).dtype == np.float32
    assert normalisation.apply(torch.from_numpy(x)).dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, np.nan, np.inf, -np.inf])
def test_states_that_cannot_be_normalised_are_refused(rng, value):
    states = rng.normal(size=(999, 7)).astype(np.float32)
    if np.isfinite(value):
        states[:] = value
    else:
        states[500, 3] = value
    with pytest.raises(ValueError, match="infinite values in dimensions .3.|all hidden states are"):
        Normalisation.of(states)


# --- what the states hold ---


def test_spectrum_is_that_of_scikit_learn(rng):
    x = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 5
    spectrum = activations.spectrum(x)
    np.testing.assert_allclose(spectrum["variance"], PCA().fit(x).explained_variance_ratio_)
    assert spectrum["variance"].sum() == pytest.approx(1)
    assert spectrum["cumulative_variance"].iloc[-1] == pytest.approx(1)
    assert spectrum["variance"].is_monotonic_decreasing
    assert spectrum["component"].tolist() == [1, 2, 3, 4, 5, 6]


def test_isotropic_states_need_nearly_all_components(rng):
    found = activations.isotropic_spectrum(5_000, 20)
    drawn = activations.spectrum(rng.normal(size=(5_000, 20)))
    np.testing.assert_allclose(found["variance"], drawn["variance"], rtol=0.06)
    assert found["cumulative_variance"].iloc[-1] == pytest.approx(1)
    pd.testing.assert_frame_equal(found, activations.isotropic_spectrum(5_000, 20))
    few = activations.isotropic_spectrum(1, 4)  # fewer positions than dimensions
    assert np.isfinite(few).all(axis=None)


@pytest.fixture(scope="module")
def many_states():
    """More than one block of them and an uneven rest, far from zero: float32, 100 MB."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(size=(400_001, 64), dtype=np.float32)
    x *= np.linspace(1, 3, 64, dtype=np.float32)
    x[300_000:] += 20
    return x


def test_spectrum_in_blocks_is_that_of_the_covariance(many_states):
    variance = np.linalg.eigvalsh(np.cov(many_states, rowvar=False))[::-1]
    spectrum = activations.spectrum(many_states)
    np.testing.assert_allclose(spectrum["variance"], variance / variance.sum(), rtol=1e-9)


@pytest.mark.parametrize("reader", ["spectrum", "normalisation", "probe"])
def test_no_copy_of_all_states_is_made_to_read_them(many_states, reader):
    labels = np.zeros((len(many_states), 1), np.float32)
    labels[::3] = 1
    read = {
        "spectrum": lambda: activations.spectrum(many_states),
        "normalisation": lambda: Normalisation.of(many_states),
        "probe": lambda: activations.probe_auc(
            many_states, labels, many_states[:1000], labels[:1000]
        ),
    }[reader]
    tracemalloc.start()
    read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * many_states.nbytes  # a copy in double precision alone has twice that


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
    penalty = centred.var() * np.eye(3)
    weights = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (labels - mean))
    scores = (x_test - x.mean(axis=0)) @ weights + mean
    expected = []
    for label, score in zip(labels_test.T, scores.T, strict=True):
        wins = score[label == 1][:, None] > score[label == 0]
        expected.append(wins.mean())
    assert activations.probe_auc(x, labels, x_test, labels_test) == pytest.approx(expected)


def test_a_probe_in_blocks_is_that_of_scikit_learn(many_states):
    rng = np.random.default_rng(1)
    x = many_states[::2]
    noise = rng.normal(scale=4, size=(len(x), 3))
    labels = (x[:, [5, 40, 63]] + noise > 8).astype(np.float32)
    penalty = x.astype(np.float64).var(axis=0).mean()
    scores = Ridge(alpha=penalty).fit(x.astype(np.float64), labels).predict(x[:3000])
    expected = roc_auc_score(labels[:3000], scores, average=None)
    found = activations.probe_auc(x, labels, x[:3000], labels[:3000])
    assert found == pytest.approx(expected, abs=1e-6)


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


def test_a_probe_does_not_care_in_which_unit_states_are(rng):
    """A trained model's states are a hundred times as large as a fresh one's."""
    direction = np.array([1.0, 0.5, 0, 0, 0])
    x, labels = planted(rng, direction, 50)
    x_test, labels_test = planted(rng, direction, 400)
    first = activations.probe_auc(x, labels, x_test, labels_test)
    for scale in (1e-3, 1e3):
        again = activations.probe_auc(scale * x + 7, labels, scale * x_test + 7, labels_test)
        assert again == pytest.approx(first)


def test_a_probe_of_states_that_are_all_the_same_reads_nothing():
    labels = np.array([[0], [1], [1]])
    assert activations.probe_auc(np.ones((3, 2)), labels, np.ones((3, 2)), labels) == [0.5]


# --- sites compared ---

SITES = ["current", "ahead"]


@pytest.fixture
def catalogue(rng):
    """A model of 300 items whose first attribute is written in their embedding, and users."""
    torch.manual_seed(0)
    model = ByItem(n_items=300, d_model=6, max_length=20)
    matrix = np.vstack([np.zeros((1, 2)), rng.integers(2, size=(300, 2))]).astype(np.float32)
    with torch.no_grad():
        model.embedding.weight[:, 2] += 4 * torch.from_numpy(matrix[:, 0])
    users = {user: rng.integers(1, 301, size=20) for user in range(300)}
    fit = {user: sequence for user, sequence in users.items() if user < 200}
    return model, fit, {user: users[user] for user in users if user >= 200}, matrix


def test_sites_tell_current_from_next(catalogue):
    table = activations.compare_sites(*catalogue, SITES, attributes=["written", "other"])
    scores = ["auc", "auc_shuffled", "auc_shuffled_low", "auc_shuffled_high"]
    assert table.columns.tolist() == ["site", "target", "attribute", *scores]
    keys = [(s, t, a) for s in SITES for t in ("current", "next") for a in ("written", "other")]
    assert list(table[["site", "target", "attribute"]].itertuples(index=False, name=None)) == keys
    auc = table.set_index(["site", "target", "attribute"])["auc"]
    assert auc["current", "current", "written"] > 0.95
    assert auc["ahead", "next", "written"] > 0.95
    assert abs(auc["current", "next", "written"] - 0.5) < 0.05
    assert abs(auc["ahead", "current", "written"] - 0.5) < 0.05
    assert (table["auc_shuffled"] < 0.75).all()


def test_sites_are_compared_by_the_probe_and_its_control(catalogue, tmp_path):
    """Written out: who is harvested, which labels a position gets, and how they are permuted."""
    model, fit, test, matrix = catalogue
    shuffled = matrix.copy()
    shuffled[1:] = np.random.default_rng(3).permutation(matrix[1:])
    states, items, following = {}, {}, {}
    for group, sequences in {"fit": fit, "test": test}.items():
        activations.harvest(model, sequences, "ahead", tmp_path / f"{group}.npy")
        states[group] = np.load(tmp_path / f"{group}.npy")
        items[group] = np.concatenate(list(sequences.values()))
        following[group] = np.concatenate([np.append(s[1:], 0) for s in sequences.values()])
    table = activations.compare_sites(model, fit, test, matrix, ["ahead"], seed=3)
    assert table["attribute"].tolist() == [0, 1, 0, 1]
    for target, item in {"current": items, "next": following}.items():
        known = {group: item[group] > 0 for group in item}
        for column, labels in {"auc": matrix, "auc_shuffled": shuffled}.items():
            expected = activations.probe_auc(
                states["fit"][known["fit"]], labels[item["fit"][known["fit"]]],
                states["test"][known["test"]], labels[item["test"][known["test"]]],
            )  # fmt: skip
            found = table[table["target"] == target][column]
            assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_more_permutations_leave_the_first_and_the_users_as_they_are(catalogue):
    read = partial(activations.compare_sites, *catalogue, ["current"], max_positions=400)
    one, many = read(), read(n_permutations=20)
    ends = ["auc_shuffled_low", "auc_shuffled_high"]
    pd.testing.assert_frame_equal(one.drop(columns=ends), many.drop(columns=ends))
    assert (one[ends].to_numpy() == one[["auc_shuffled"]].to_numpy()).all()
    low, high = many["auc_shuffled_low"], many["auc_shuffled_high"]
    assert ((low <= one["auc_shuffled"]) & (one["auc_shuffled"] <= high) & (low < high)).all()
    assert many["auc"][0] > high[0]  # what is written in the embedding


@pytest.mark.parametrize(("most", "n_fit", "n_test"), [(400, 20, 20), (3_000, 150, 100), (1, 1, 1)])
def test_no_more_positions_are_read_than_allowed(catalogue, monkeypatch, most, n_fit, n_test):
    harvested, harvest = [], activations.harvest

    def watch(model, sequences, site, file):
        harvested.append(sequences)
        return harvest(model, sequences, site, file)

    monkeypatch.setattr(harvesting, "harvest", watch)
    tables = [
        activations.compare_sites(*catalogue, SITES, seed=seed, max_positions=most)
        for seed in (0, 0, 1)
    ]
    for users, n in zip(harvested, [n_fit, n_test] * 6, strict=True):
        assert len(users) == n  # whole users, of 20 items each
        assert all(len(sequence) == 20 for sequence in users.values())
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert list(harvested[0]) == list(harvested[2]) == list(harvested[4])  # at all sites the same
    assert list(harvested[0]) != list(harvested[8])


def test_a_wrong_site_is_refused_before_any_is_read(catalogue):
    model = catalogue[0]
    with pytest.raises(ValueError, match="site 'behind': ByItem has no such module"):
        activations.compare_sites(*catalogue, ["current", "behind"])
    assert model.n_forwards == 0


def test_users_of_one_item_have_no_next_one(catalogue):
    model, fit, _, matrix = catalogue
    with pytest.raises(ValueError, match="no user of a group has two items"):
        activations.compare_sites(model, fit, {1: np.array([4])}, matrix, ["current"])
