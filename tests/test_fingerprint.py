"""Equal content has the same fingerprint wherever it lies, and other content another one."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from seqsae_utils import fingerprint, recommender, sae
from seqsae_utils.fingerprint import code, digest, imports


@dataclass
class Settings:
    k: int
    where: np.ndarray


@dataclass
class Others(Settings):
    pass


def module(bias: float = 0.0, p: float = 0.0) -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 2), nn.Dropout(p))
    nn.init.constant_(made[0].weight, 1.0)
    nn.init.constant_(made[0].bias, bias)
    return made


def test_an_array_is_its_content(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(1_000, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(fingerprint, "BLOCK_BYTES", 100)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    same = [mapped, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]]
    in_blocks = digest(x)
    monkeypatch.undo()
    assert {digest(y) for y in same} == {digest(x)} == {in_blocks}
    y = x.copy()
    y[-1, -1] = np.nextafter(y[-1, -1], 9, dtype=np.float32)
    others = [y, x[:-1], x.T, x.reshape(3, -1), x.astype(np.float64), x.view(np.int32)]
    assert len({digest(other) for other in [x, *others]}) == 7


@pytest.mark.parametrize(
    "values",
    [
        [1, 1.0, True, "1", b"1", None, "None", [1], [[1]], {1: 1}, (1, 1), []],
        [["ab", "c"], ["a", "bc"], ["abc"], "abc"],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}],  # users in another order
        [[np.arange(2), np.arange(3)], [np.arange(3), np.arange(2)], np.arange(5)],
        [Settings(1, np.zeros(2)), Settings(1, np.zeros(3)), Others(1, np.zeros(2))],
        [torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1, 2), torch.tensor(0)],
        [module(), module(bias=1e-9), module(p=0.5)],
    ],
)
def test_whatever_differs_is_told_apart(values):
    assert len({digest(value) for value in values}) == len(values)


class Own(nn.Module):
    """A model of somebody else: its length and its scale are no weights."""

    def __init__(self, max_length: int = 6, scale: float = 1.0):
        super().__init__()
        self.max_length, self.layer = max_length, nn.Linear(2, 2)
        self.layer.scale = scale
        nn.init.constant_(self.layer.weight, 1.0)
        nn.init.constant_(self.layer.bias, 1.0)

    def forward(self, x):
        return self.layer(x) * self.layer.scale


def test_a_model_is_more_than_its_weights(monkeypatch):
    assert digest(Own()) == digest(Own()) == digest(Own().eval())
    assert len({digest(m) for m in (Own(), Own(max_length=12), Own(scale=4.0))}) == 3
    before = digest(Own())
    monkeypatch.setattr(Own, "forward", lambda self, x: self.layer(x) * self.layer.scale * 2)
    assert digest(Own()) != before


def test_what_holds_a_value_does_not_count():
    assert digest([np.float64(0.1), np.int32(3)]) == digest((0.1, 3))
    assert digest(module()) == digest(module())
    shared = np.arange(3)
    assert digest([shared, shared]) == digest([shared, shared.copy()])


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), [lambda: 0]])
def test_what_cannot_be_told_is_refused(value):
    with pytest.raises(TypeError, match="no fingerprint of a .*: its content is not known"):
        digest(value)


def test_the_code_of_a_work_is_what_it_imports():
    of_sae = code([sae.train.__module__])
    assert {"sae/training.py", "sae/variants.py", "checkpoint.py", "workspace.py"} <= set(of_sae)
    assert not [path for path in of_sae if path.startswith(("figures", "run", "recommender"))]
    assert "recommender/models.py" in code([recommender.fit_all.__module__])
    assert list(code(["numpy", "sae"])) == ["__init__.py"]  # nothing of ours, whatever it is called


@pytest.mark.parametrize(
    "source, package, expected",
    [
        ("import seqsae_utils.sae as s", "", {"sae"}),
        ("from seqsae_utils import data, figures", "", {"data", "figures"}),
        ("from seqsae_utils.data import load", "", {"data", "data.load"}),
        ("%matplotlib inline\nimport numpy, os.path", "", set()),
        ("from . import metrics\nfrom .sae import SAE", "", {"metrics", "sae", "sae.SAE"}),
        ("from .formats import read\nfrom ..workspace import project", "data",
         {"data.formats", "data.formats.read", "workspace", "workspace.project"}),
        ("def f():\n    from seqsae_utils import control", "", {"control"}),
    ],
)  # fmt: skip
def test_imports_are_found(source, package, expected):
    found = imports(source, ".".join(["seqsae_utils"] + [package] * bool(package)))
    assert found - {"seqsae_utils"} == {f"seqsae_utils.{name}" for name in expected}


def test_of_a_folder_only_what_is_imported_counts():
    texts = {
        "__init__.py": "",
        "metrics.py": "size = 8",
        "figures/__init__.py": "from ..metrics import size",
        "figures/data.py": "from . import size",
        "figures/sae.py": "from . import size",
    }
    found = code(imports("from seqsae_utils.figures import sae as plots"), texts)
    assert list(found) == ["__init__.py", "figures/__init__.py", "figures/sae.py", "metrics.py"]


def test_what_only_explains_is_no_part_of_the_code():
    def of(text: str) -> str:
        return code(["seqsae_utils"], {"__init__.py": text})["__init__.py"]

    plain = of("def f(x):\n    return x + 1\n")
    assert of('"""A module."""\ndef f(x):\n    """Add."""\n    return x + 1  # one\n') == plain
    assert of("def f(x):\n    return x + 2\n") != plain
    assert of('def f(x):\n    "Add."\n') != of('def f(x):\n    return "Add."\n')
