"""The state of a piece of work in one file: after a kill it goes on, with the same result."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .fingerprint import changes, digest, fingerprint
from .workspace import replacing


class Checkpoint:
    """One safetensors file, replaced in one step: nothing is pickled, no half-written file is read.

    With file None nothing is kept. `work` and `inputs` are what is done and with what, see
    `fingerprint`: `load` refuses a file of other work.
    """

    def __init__(self, file: Path | None, work: Callable, **inputs):
        self.file = file
        self.fingerprint = fingerprint(work, **inputs) if file else {}

    def save(
        self, progress, modules: dict[str, nn.Module | dict[str, Tensor]] | None = None, adam=None
    ) -> None:
        """Write progress (as JSON), weights of modules (or tensors by name), and Adam's moments."""
        if self.file is None:
            return
        tensors = {}
        for group, module in (modules or {}).items():
            state = module.state_dict() if isinstance(module, nn.Module) else module
            tensors |= {f"{group}/{name}": tensor for name, tensor in state.items()}
        for i, moments in (adam.state_dict()["state"] if adam else {}).items():
            tensors |= {f"adam/{i}/{name}": tensor for name, tensor in moments.items()}
        text = json.dumps({"fingerprint": self.fingerprint, "progress": progress})
        # One entry: safetensors writes several in an order that differs from run to run.
        metadata = {"state": f"{_checksum(text, tensors)} {text}"}
        with replacing(self.file) as temporary:
            temporary.write_bytes(save(copies(tensors), metadata))

    def load(self, modules: dict[str, nn.Module] | None = None, adam=None):
        """Fill modules and optimizer; returns progress and tensors by group, None without a file.

        A damaged file counts as none, with a warning. ValueError for one of work with other inputs
        or code.
        """
        if self.file is None or not self.file.is_file():
            return None
        checksum, text, tensors = "", "", {}
        try:
            with safe_open(self.file, framework="pt") as file:
                checksum, _, text = file.metadata()["state"].partition(" ")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError):
            pass
        if checksum != _checksum(text, tensors):
            warnings.warn(f"{self.file} is damaged: its work starts anew", stacklevel=2)
            return None
        found = json.loads(text)
        if different := changes(self.fingerprint, found["fingerprint"]):
            raise ValueError(
                f"{self.file} is the checkpoint of another training, with other {different}: "
                "remove it to start anew"
            )
        groups: dict[str, dict] = {}
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensor
        for name, module in (modules or {}).items():
            module.load_state_dict(groups[name])
        moments: dict[int, dict] = {}
        for name, tensor in groups.pop("adam", {}).items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
        if adam:
            parameters = adam.state_dict()["param_groups"]
            adam.load_state_dict({"state": moments, "param_groups": parameters})
        return found["progress"], groups


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    return digest([text, dict(sorted(tensors.items()))])


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors of any shape by name, detached and contiguous."""
    return {key: torch.clone(value.detach()).contiguous() for key, value in tensors.items()}
