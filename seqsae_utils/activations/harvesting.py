"""The hidden states of all interactions, written to a file batch by batch."""

import errno
import hashlib
import shutil
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoint import Checkpoint
from ..hooks import hooked
from ..workspace import fsync, replacing

#: After so many batches, a harvest notes how far it is.
CHECKPOINT_BATCHES = 16


@torch.no_grad()
def harvest(
    model: nn.Module,
    sequences: dict[int, np.ndarray],
    site: str,
    file: Path,
    batch_size: int = 256,
) -> pd.DataFrame:
    """Write the hidden state of every interaction to `file`, and beside it whose it is.

    `model` is any with `max_length` and `pad`, `sequences` the items of each user in order, `site`
    the module whose output is read. Each sequence is cut into consecutive pieces of the model's
    length: every interaction is seen once, with what came before it in its piece as context.

    `file` receives the states, .npy float32 [n_positions, d_in]; ``<stem>_index.parquet`` the
    index, which is returned: a row for each position with user, item, position (in the whole
    sequence), int32 but for users with names. Memory holds one batch and the index, 12 bytes a
    position. Called again with the same inputs, a killed harvest goes on, and a finished one is
    not repeated.

    Raises ValueError for no sequences, a `pad` that drops or reorders items, and a module that is
    not called exactly once in a forward pass or returns anything but [batch, length, d_in];
    OSError, before the first state is written, if the disk has no room for all.
    """
    n_positions = sum(map(len, sequences.values()))
    if not n_positions:
        raise ValueError(f"no sequences to harvest {site!r} from: the group of users is empty")
    device = next(model.parameters()).device
    given = {"model": model, "sequences": sequences, "site": site, "batch_size": batch_size}
    name = f"{file.name}.checkpoint"
    checkpoint = Checkpoint(file.with_name(name), harvest, **given, device=str(device))
    partial, index_file = (
        file.with_name(name) for name in (f"{file.name}.partial", f"{file.stem}_index.parquet")
    )
    n_pieces = sum(-(-len(sequence) // model.max_length) for sequence in sequences.values())
    n_batches, index = -(-n_pieces // batch_size), index_of(sequences)
    n_done, end, checksum = 0, 0, ""
    try:
        if found := checkpoint.load():
            n_done, end, checksum = found[0]
    except ValueError:  # of other states: these are made anew
        pass
    finished = n_done == n_batches and not partial.is_file() and index_file.is_file()
    begun = file if finished else partial
    written = _start(begun, end)
    if written.hexdigest() != checksum:
        if n_done and begun.is_file():
            warnings.warn(f"{begun} is damaged: it is made anew", stacklevel=2)
        n_done, finished = 0, False
    if finished:
        return index
    seen: list[Tensor] = []
    model.eval()
    with (
        hooked(model, site, lambda hidden: seen.append(hidden.clone())),
        tqdm(total=n_batches, initial=n_done, desc=f"harvest {site}", leave=False) as bar,
    ):
        for done, batch in enumerate(
            _batches(sequences, model.max_length, batch_size, n_done), start=n_done + 1
        ):
            items = model.pad(batch)
            if not np.array_equal(items[items > 0].numpy(), np.concatenate(batch)):
                raise ValueError(f"{type(model).__name__}.pad does not keep items and their order")
            model(items.to(device))
            shapes = [list(hidden.shape) for hidden in seen]
            if [shape[:-1] for shape in shapes] != [list(items.shape)]:
                raise ValueError(
                    f"site {site!r} returns {shapes or 'nothing'} in a forward pass, expected one "
                    f"output [{items.shape[0]}, {items.shape[1]}, d_in]; a block has it: 'blocks.0'"
                )
            rows = seen.pop().cpu()[items > 0].float().numpy()
            if done == 1:
                checkpoint.file.unlink(missing_ok=True)
                _create(partial, (n_positions, rows.shape[1]))
                end = partial.stat().st_size - n_positions * rows[0].nbytes
                written = _start(partial, end)
            # Plain writes: pages of a map count as memory of this process, and there a full disk
            # would end Python by a signal.
            with open(partial, "r+b") as states:
                states.seek(end)
                end += states.write(rows.data)
            written.update(rows.data)
            if done == n_batches:
                index_file.unlink(missing_ok=True)  # from here on, one would be of these states
            if done % CHECKPOINT_BATCHES == 0 or done == n_batches:
                fsync(partial)
                checkpoint.save([done, end, written.hexdigest()])
            bar.update()
    partial.replace(file)
    with replacing(index_file) as temporary:
        index.to_parquet(temporary, index=False)
    return index


def states_at(
    model: nn.Module, sequences: dict[str, dict[int, np.ndarray]], site: str
) -> dict[str, NDArray]:
    """Hidden states [n_positions, d_in] at a site, by group of users; nothing stays on the disk.

    `sequences` are `harvest`'s, by group. An edit that is made meanwhile counts.
    """
    found = {}
    with TemporaryDirectory() as folder:
        for group, some in sequences.items():
            harvest(model, some, site, Path(folder, f"{group}.npy"))
            found[group] = np.load(Path(folder, f"{group}.npy"))
    return found


def load(folder: Path, group: str) -> tuple[np.ndarray, pd.DataFrame]:
    """States [n_positions, d_in] of a group, ``dev`` or ``test``, a memory map; and their index."""
    states = np.load(folder / f"{group}.npy", mmap_mode="r")
    return states, pd.read_parquet(folder / f"{group}_index.parquet")


def _batches(
    sequences: dict[int, np.ndarray], length: int, size: int, skip: int
) -> Iterator[list[np.ndarray]]:
    """Batches of pieces, the first `skip` of them left out; views, made when they are needed.

    >>> [[piece.tolist() for piece in b] for b in _batches({7: np.arange(5)}, 2, size=2, skip=0)]
    [[[0, 1], [2, 3]], [[4]]]
    """
    starts = ((s, start) for s in sequences.values() for start in range(0, len(s), length))
    pieces = (s[start : start + length] for s, start in islice(starts, skip * size, None))
    while batch := list(islice(pieces, size)):
        yield batch


def index_of(sequences: dict[int, np.ndarray]) -> pd.DataFrame:
    """Whose each row of a `harvest` is: user, item, position; 12 bytes a row."""
    lengths = np.array([len(sequence) for sequence in sequences.values()])
    users = pd.Series(list(sequences)).to_numpy()  # a user may have any name
    if users.dtype.kind in "iu" and (users == (short := users.astype(np.int32))).all():
        users = short
    table = {
        "user": np.repeat(users, lengths),
        "item": np.concatenate(list(sequences.values()), dtype=np.int32),
        "position": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
    }
    return pd.DataFrame(table, copy=False)


def _start(file: Path, n_bytes: int):
    """SHA-256 of the start of a file, to go on with; of nothing, without one."""
    found = hashlib.sha256()
    if file.is_file():
        with open(file, "rb") as content:
            while block := content.read(min(n_bytes, 2**20)):
                found.update(block)
                n_bytes -= len(block)
    return found


def _create(file: Path, shape: tuple[int, int]) -> None:
    """An ``.npy`` file for all rows, if the disk has room: better no harvest than half of one."""
    file.unlink(missing_ok=True)
    size, free = int(np.prod(shape)) * 4, shutil.disk_usage(file.parent).free
    if size > free:
        message = f"no room for {size:,} bytes of hidden states, {free:,} are free"
        raise OSError(errno.ENOSPC, message, str(file))
    np.lib.format.open_memmap(file, "w+", np.float32, shape)
