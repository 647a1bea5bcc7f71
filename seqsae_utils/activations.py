"""Hidden states of a recommender: read them at a named site, or write them there.

A *site* is the dotted name of a submodule (``blocks.0``, ``blocks.0.mlp``, ``final_norm``), so the
same few lines serve any torch model: a forward hook sees what the submodule returns.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm import tqdm

from .recommender import CausalTransformer, pad
from .workspace import name_nearest


def find_site(model: nn.Module, site: str) -> nn.Module:
    """The submodule called `site`; a wrong name is refused with the nearest right one."""
    names = [name for name, _ in model.named_modules() if name]
    if site not in names:
        raise ValueError(
            f"site {site!r}: {type(model).__name__} has no such module; {name_nearest(site, names)}"
        )
    return model.get_submodule(site)


@contextmanager
def hooked(model: nn.Module, site: str, function: Callable[[Tensor], Tensor | None]):
    """Show `function` what the module at `site` returns while the block runs.

    `function` takes hidden states [batch, length, d]. If it returns a tensor, the model goes on
    with that; if it returns None, nothing changes. The hook is removed whatever happens.
    A tensor of another shape is refused: broadcasting would hide the mistake.
    """

    def hook(module, inputs, output):
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        changed = function(hidden)
        if changed is None:
            return None
        if changed.shape != hidden.shape:
            raise ValueError(
                f"site {site!r}: the replacement is {list(changed.shape)}, "
                f"the hidden states are {list(hidden.shape)}"
            )
        return (changed, *rest) if isinstance(output, tuple) else changed

    handle = find_site(model, site).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def chunks(sequence: np.ndarray, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a sequence into pieces of at most `length`, each with the position where it starts.

    >>> [(start, piece.tolist()) for start, piece in chunks(np.arange(1, 6), length=2)]
    [(0, [1, 2]), (2, [3, 4]), (4, [5])]
    """
    for start in range(0, len(sequence), length):
        yield start, sequence[start : start + length]


@torch.no_grad()
def harvest(
    model: CausalTransformer,
    sequences: dict[int, np.ndarray],
    site: str,
    file: Path,
    batch_size: int = 256,
) -> pd.DataFrame:
    """Write the hidden state of every interaction to `file`, and tell whose it is.

    Each user's sequence is cut into consecutive pieces of the model's length, so that every
    interaction is seen once, with what came before it in its piece as context. Rows are written
    batch by batch into a memory map: memory does not grow with the number of users.

    Parameters
    ----------
    sequences
        Items of each user, in order.
    site
        Dotted name of the module whose output is read.
    file
        The ``.npy`` file to write: float32 [n_positions, d_in].

    Returns
    -------
    pandas.DataFrame
        One row a position: user, item, position (in the user's whole sequence).

    Raises
    ------
    ValueError
        If the module at `site` is not called exactly once in a forward pass, or returns anything
        but hidden states [batch, length, d_in].
    """
    device = next(model.parameters()).device
    pieces = [
        (user, start, piece)
        for user, sequence in sequences.items()
        for start, piece in chunks(sequence, model.config.max_length)
    ]
    if not pieces:
        raise ValueError(f"no sequences to harvest {site!r} from: the group of users is empty")
    seen: list[Tensor] = []
    states, row = None, 0
    n_positions = sum(len(piece) for _, _, piece in pieces)
    with hooked(model, site, seen.append):
        for first in tqdm(range(0, len(pieces), batch_size), desc=f"harvest {site}", leave=False):
            batch = [piece for *_, piece in pieces[first : first + batch_size]]
            items = pad(batch, model.config.max_length)
            model.eval()(items.to(device))
            shapes = [list(hidden.shape) for hidden in seen]
            if [shape[:-1] for shape in shapes] != [list(items.shape)]:
                raise ValueError(
                    f"site {site!r} returns {shapes or 'nothing'} in a forward pass, expected one "
                    f"output [{items.shape[0]}, {items.shape[1]}, d_in]; a block has it: 'blocks.0'"
                )
            hidden = seen.pop().cpu()[items > 0].numpy()
            if states is None:
                shape = (n_positions, hidden.shape[1])
                states = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=shape)
            states[row : row + len(hidden)] = hidden
            row += len(hidden)
    states.flush()
    return pd.DataFrame(
        {
            "user": np.repeat([user for user, _, _ in pieces], [len(p) for *_, p in pieces]),
            "item": np.concatenate([piece for *_, piece in pieces]),
            "position": np.concatenate([start + np.arange(len(p)) for _, start, p in pieces]),
        }
    )


@dataclass(frozen=True)
class Normalisation:
    """One scalar mean and one scalar standard deviation, as the paper's SAE expects its input.

    Scalars keep all directions and angles: a step of 1 in the normalised space is a step of
    `std` in the model's.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, states: np.ndarray) -> "Normalisation":
        """Measure it on the hidden states [n_positions, d_in] of the SAE users, never the test."""
        # In blocks: a double-precision copy of a large memory map would not fit into memory.
        blocks = [states[start : start + 65_536] for start in range(0, len(states), 65_536)]
        with np.errstate(invalid="ignore"):
            mean = sum(block.sum(dtype=np.float64) for block in blocks) / states.size
            std = np.sqrt(sum(np.square(block - mean).sum() for block in blocks) / states.size)
        if not std > 0:  # which NaN is not either
            raise ValueError(
                f"hidden states have mean {mean:g} and standard deviation {std:g}: "
                "look for NaN or a dead site before training on them"
            )
        return cls(float(mean), float(std))

    def apply(self, x):
        """To the normalised space."""
        return (x - self.mean) / self.std

    def invert(self, x):
        """Back to the model's space."""
        return x * self.std + self.mean


def save_normalisation(normalisation: Normalisation, folder: Path) -> None:
    """Write ``normalisation.json``, in full precision: edits are written back through it."""
    (folder / "normalisation.json").write_text(json.dumps(asdict(normalisation)) + "\n")


def load_normalisation(folder: Path) -> Normalisation:
    """Read the ``normalisation.json`` of the activations stage."""
    return Normalisation(**json.loads((folder / "normalisation.json").read_text()))


def load(folder: Path, group: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Hidden states of one group of users (``sae`` or ``test``), and whose they are.

    Returns
    -------
    states : float32 [n_positions, d_in], memory-mapped and not normalised
    index : one row a position: user, item, position
    """
    states = np.load(folder / f"{group}.npy", mmap_mode="r")
    return states, pd.read_parquet(folder / f"{group}_index.parquet")


def spectrum(x: np.ndarray) -> pd.DataFrame:
    """Share of the variance of x [n_positions, d_in] in its principal components.

    One row a component, the strongest first: component (from 1), variance (share of the total),
    cumulative_variance.
    """
    variance = np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1]
    share = variance / variance.sum()
    component = np.arange(1, len(share) + 1)
    return pd.DataFrame(
        {"component": component, "variance": share, "cumulative_variance": share.cumsum()}
    )


def probe_auc(
    x: np.ndarray, labels: np.ndarray, x_test: np.ndarray, labels_test: np.ndarray
) -> list[float]:
    """ROC AUC of a linear probe (ridge regression) for each column of 0/1 labels.

    Fitted on x [n_positions, d_in] and labels [n_positions, n_labels], scored on the test ones.
    NaN where the positions of either group all have the label, or none has.
    """
    scores = Ridge(alpha=1.0).fit(x, labels).predict(x_test).reshape(labels_test.shape)
    return [
        roc_auc_score(label, score) if np.ptp(fitted) and np.ptp(label) else np.nan
        for fitted, label, score in zip(labels.T, labels_test.T, scores.T, strict=True)
    ]
