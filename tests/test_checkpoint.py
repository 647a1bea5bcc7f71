"""One file that a training goes on from; what the trainings do with it stands in their tests."""

import pytest
import torch
from torch import nn

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
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", {"sizes": (3, 2)})
    saved, other = trained(0), trained(1)
    extra = {"silent": torch.arange(4.0)}
    checkpoint.save({"module": saved[0], "more": extra}, saved[1], [7, ["history"]])
    progress, groups = checkpoint.load({"module": other[0]}, other[1])
    assert progress == [7, ["history"]]
    assert torch.equal(groups["more"]["silent"], extra["silent"])
    assert torch.equal(step(*saved), step(*other))
    assert [path.name for path in tmp_path.iterdir()] == ["a.checkpoint"]


def test_the_same_state_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        module, optimizer = trained(0)
        Checkpoint(tmp_path / name, {}).save({"module": module}, optimizer, 1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_a_file_there_is_nothing_to_go_on_from(tmp_path):
    module, optimizer = trained(0)
    assert Checkpoint(tmp_path / "none", {}).load({"module": module}, optimizer) is None
    nowhere = Checkpoint(None, {})
    nowhere.save({"module": module}, optimizer, 1)
    assert nowhere.load({"module": module}, optimizer) is None


def test_a_file_of_another_training_is_refused_by_the_name_of_what_differs(tmp_path):
    file = tmp_path / "a.checkpoint"
    module, optimizer = trained(0)
    Checkpoint(file, {"seed": 0, "d": 3}).save({"module": module}, optimizer, 1)
    with pytest.raises(ValueError, match="another training, with other seed: remove it"):
        Checkpoint(file, {"seed": 1, "d": 3}).load({"module": module}, optimizer)
