"""The state of a training in one file, so that a killed one goes on as if nothing had happened."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .workspace import fsync


class Checkpoint:
    """One safetensors file, replaced in one step: nothing is pickled, nothing half-written read.

    Parameters
    ----------
    file
        Where it lies; None keeps nothing.
    fingerprint
        What the training depends on, as JSON has it: a file of another training is refused.
    """

    def __init__(self, file: Path | None, fingerprint: dict):
        self.file, self.fingerprint = file, json.loads(json.dumps(fingerprint))

    def save(self, modules: dict[str, nn.Module | dict[str, Tensor]], optimizer, progress) -> None:
        """Weights of modules (or plain tensors), Adam's moments, and what JSON can hold."""
        if self.file is None:
            return
        tensors = {}
        for group, module in modules.items():
            state = module.state_dict() if isinstance(module, nn.Module) else module
            tensors |= {f"{group}/{name}": tensor for name, tensor in state.items()}
        for i, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{i}/{name}": tensor for name, tensor in moments.items()}
        temporary = self.file.with_name(self.file.name + ".tmp")
        # One entry: safetensors writes several in an order that differs from run to run.
        metadata = json.dumps({"fingerprint": self.fingerprint, "progress": progress})
        save_file(copies(tensors), temporary, metadata={"training": metadata})
        fsync(temporary)
        temporary.replace(self.file)

    def load(self, modules: dict[str, nn.Module], optimizer):
        """Fill modules and optimizer; returns the progress and all tensors by group, or None.

        Raises
        ------
        ValueError
            If the file belongs to a training of other data or settings, which it names.
        """
        if self.file is None or not self.file.is_file():
            return None
        with safe_open(self.file, framework="pt") as file:
            metadata = json.loads(file.metadata()["training"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        theirs, ours = metadata["fingerprint"], self.fingerprint
        if theirs != ours:
            differing = [key for key in ours if ours[key] != theirs.get(key)]
            raise ValueError(
                f"{self.file} is the checkpoint of another training, with other "
                f"{', '.join(differing)}: remove it to start anew"
            )
        groups: dict[str, dict] = {}
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensor
        for name, module in modules.items():
            module.load_state_dict(groups[name])
        moments: dict[int, dict] = {}
        for name, tensor in groups.pop("adam", {}).items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
        parameters = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": parameters})
        return metadata["progress"], groups


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own, detached and contiguous."""
    return {key: torch.clone(value.detach()).contiguous() for key, value in tensors.items()}
