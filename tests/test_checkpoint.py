"""One file that a training goes on from; what the trainings do with it stands in their tests."""

import pytest
import torch
from torch import nn

from seqsae_utils import fingerprint, sae
from seqsae_utils.checkpoint import Checkpoint


def trained(seed: int):
    """A small module after two steps of Adam, and its optimizer."""
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return module, optimizer


def step(module, optimizer) -> torch.Tensor:
    """The weight after one more step, which depends on the moments too."""
    optimizer.zero_grad()
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return module.weight


def test_what_was_saved_comes_back_moments_included(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", sae.train, sizes=(3, 2))
    saved, other = trained(0), trained(1)
    extra = {"silent": torch.arange(4.0)}
    checkpoint.save([7, ["history"]], {"module": saved[0], "more": extra}, saved[1])
    progress, groups = checkpoint.load({"module": other[0]}, other[1])
    assert progress == [7, ["history"]]
    assert torch.equal(groups["more"]["silent"], extra["silent"])
    assert torch.equal(step(*saved), step(*other))
    assert [path.name for path in tmp_path.iterdir()] == ["a.checkpoint"]


def test_the_same_state_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        module, optimizer = trained(0)
        Checkpoint(tmp_path / name, sae.train).save(1, {"module": module}, optimizer)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_a_file_there_is_nothing_to_go_on_from(tmp_path):
    module, optimizer = trained(0)
    assert Checkpoint(tmp_path / "none", sae.train).load({"module": module}, optimizer) is None
    nowhere = Checkpoint(None, sae.train)
    nowhere.save(1, {"module": module}, optimizer)
    assert nowhere.load({"module": module}, optimizer) is None


def test_a_file_of_another_training_is_refused_by_the_name_of_what_differs(tmp_path):
    file = tmp_path / "a.checkpoint"
    Checkpoint(file, sae.train, seed=0, d=3).save(1)
    assert Checkpoint(file, sae.train, seed=0, d=3).load() == (1, {})
    with pytest.raises(ValueError, match="another training, with other seed: remove it"):
        Checkpoint(file, sae.train, seed=1, d=3).load()


def test_a_file_of_other_code_is_refused_and_figures_are_not_its_code(tmp_path, monkeypatch):
    file = tmp_path / "a.checkpoint"
    Checkpoint(file, sae.train).save(1)
    edited(monkeypatch, "figures/sae.py")
    assert Checkpoint(file, sae.train).load() == (1, {})
    edited(monkeypatch, "sae/variants.py")
    with pytest.raises(ValueError, match="with other sae/variants.py: remove it"):
        Checkpoint(file, sae.train).load()


def edited(monkeypatch, path: str) -> None:
    """As if the package had been loaded with one statement more in a file."""
    monkeypatch.setitem(fingerprint.LOADED, path, fingerprint.LOADED[path] + "\nmore = 1\n")


def test_a_damaged_file_is_named_and_counts_as_none(tmp_path):
    file = tmp_path / "a.checkpoint"
    module, optimizer = trained(0)
    Checkpoint(file, sae.train).save(1, {"module": module}, optimizer)
    good = file.read_bytes()
    for place in range(0, len(good), 5):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="a.checkpoint is damaged: its work starts anew"):
            assert Checkpoint(file, sae.train).load({"module": module}, optimizer) is None
    for damaged in (b"", good[:3], good[: len(good) // 2], good[:-1]):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="a.checkpoint is damaged"):
            assert Checkpoint(file, sae.train).load({"module": module}, optimizer) is None
    file.write_bytes(good)
    assert Checkpoint(file, sae.train).load({"module": module}, optimizer)
