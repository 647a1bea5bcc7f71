"""The hidden states of all interactions, written to a file batch by batch."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..hooks import hooked
from ..workspace import fsync, name_nearest, write_json

#: How hidden states may be stored. Half precision takes half the disk and keeps three digits.
DTYPES = ("float32", "float16")
#: After so many batches, a harvest notes how far it is.
CHECKPOINT_BATCHES = 16


def chunks(sequence: np.ndarray, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a sequence into pieces of at most `length`, each with the position where it starts.

    >>> [(start, piece.tolist()) for start, piece in chunks(np.arange(1, 6), length=2)]
    [(0, [1, 2]), (2, [3, 4]), (4, [5])]
    """
    for start in range(0, len(sequence), length):
        yield start, sequence[start : start + length]


@torch.no_grad()
def harvest(
    model: nn.Module,
    sequences: dict[int, np.ndarray],
    site: str,
    file: Path,
    batch_size: int = 256,
    dtype: str = "float32",
) -> pd.DataFrame:
    """Write the hidden state of every interaction to `file`, and beside it whose it is.

    Each user's sequence is cut into consecutive pieces of the model's length, so that every
    interaction is seen once, with what came before it in its piece as context. Rows are written
    batch by batch: of all users at once, memory holds only the index, 12 bytes a position.

    A harvest that was killed goes on where it was when it is called again with the same model,
    sequences and settings, and one that was finished is not repeated; the files are the same bytes
    as without the interruption. While it lasts, they are called ``<file>.partial`` and
    ``<file>.progress``.

    Parameters
    ----------
    model
        Any model with `max_length` and `pad`; see the top of this module.
    sequences
        Items of each user, in order.
    site
        Dotted name of the module whose output is read.
    file
        The ``.npy`` file to write, [n_positions, d_in]. The index goes to ``<stem>_index.parquet``.
    dtype
        How to store: ``float32``, or ``float16`` for half the disk and three digits.

    Returns
    -------
    pandas.DataFrame
        The index, one row a position: user, item, position (in the user's whole sequence); int32.

    Raises
    ------
    ValueError
        If the module at `site` is not called exactly once in a forward pass, or returns anything
        but hidden states [batch, length, d_in]; if a state does not fit `dtype`; if the model's
        `pad` leaves items out or turns them round.
    OSError
        If the disk has no room for all states: before the first is written, where the file
        system can tell.
    """
    n_positions = sum(map(len, sequences.values()))
    if not n_positions:
        raise ValueError(f"no sequences to harvest {site!r} from: the group of users is empty")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; {name_nearest(dtype, list(DTYPES))}")
    device = next(model.parameters()).device
    fingerprint = _fingerprint(model, sequences, site, batch_size, dtype, str(device))
    index_file = file.with_name(f"{file.stem}_index.parquet")
    if file.is_file() and index_file.is_file():
        index = pd.read_parquet(index_file)
        if index.attrs.get("harvest") == fingerprint:
            return index
    n_pieces = sum(-(-len(sequence) // model.max_length) for sequence in sequences.values())
    n_batches = -(-n_pieces // batch_size)
    seen: list[Tensor] = []
    model.eval()
    with (
        _Rows(file, n_positions, np.dtype(dtype), fingerprint) as rows,
        hooked(model, site, lambda hidden: seen.append(hidden.clone())),
        tqdm(total=n_batches, initial=rows.batches, desc=f"harvest {site}", leave=False) as bar,
    ):
        for batch in _batches(sequences, model.max_length, batch_size, rows.batches):
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
            rows.append(seen.pop().cpu()[items > 0].float().numpy())
            bar.update()
        index = _index(sequences)
        index.attrs["harvest"] = fingerprint
        rows.finish(index, index_file)
    return index


def _batches(
    sequences: dict[int, np.ndarray], length: int, size: int, skip: int
) -> Iterator[list[np.ndarray]]:
    """Batches of pieces, the first `skip` of them left out; views, made when they are needed."""
    pieces = (piece for sequence in sequences.values() for _, piece in chunks(sequence, length))
    pieces = islice(pieces, skip * size, None)
    while batch := list(islice(pieces, size)):
        yield batch


def _index(sequences: dict[int, np.ndarray]) -> pd.DataFrame:
    """Whose each row is: user, item, position; 12 bytes a row."""
    lengths = np.array([len(sequence) for sequence in sequences.values()])
    table = {
        "user": np.repeat(np.array(list(sequences), dtype=np.int32), lengths),
        "item": np.concatenate(list(sequences.values()), dtype=np.int32),
        "position": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
    }
    return pd.DataFrame(table, copy=False)


def _fingerprint(model: nn.Module, sequences: dict[int, np.ndarray], *settings) -> str:
    """SHA-256 of all that the hidden states depend on."""
    built = [repr(model), repr(getattr(model, "config", None))]
    digest = hashlib.sha256(json.dumps([*settings, *built]).encode())
    for name, weights in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for user, sequence in sequences.items():
        digest.update(np.array([user, len(sequence)], dtype=np.int64))
        digest.update(np.ascontiguousarray(sequence, dtype=np.int64))
    return digest.hexdigest()


class _Rows:
    """A ``.npy`` file that grows batch by batch, and is there under its name when it is complete.

    Plain writes, no memory map: what was written does not count as memory of this process, and a
    full disk is an `OSError` where a map would end Python by a signal.
    """

    def __init__(self, file: Path, n_rows: int, dtype: np.dtype, fingerprint: str):
        self.file, self.n_rows, self.dtype, self.fingerprint = file, n_rows, dtype, fingerprint
        self.partial = file.with_name(file.name + ".partial")
        self.progress = file.with_name(file.name + ".progress")
        self.batches = 0
        self.stream = None
        noted = json.loads(self.progress.read_text()) if self.progress.is_file() else {}
        if noted.get("fingerprint") == fingerprint and self.partial.is_file():
            self.stream = open(self.partial, "r+b")
            self.stream.seek(noted["offset"])
            self.batches = noted["batches"]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.stream:
            self.stream.close()

    def append(self, rows: NDArray) -> None:
        """Write the rows [n, d_in] of one batch after those that are there."""
        if self.stream is None:
            self._create(rows.shape[1])
        with np.errstate(over="ignore"):
            stored = rows.astype(self.dtype)
        lost = np.isinf(stored) & np.isfinite(rows)
        if lost.any():
            raise ValueError(
                f"{lost.sum()} values of a batch do not fit {self.dtype}, the largest is "
                f"{np.abs(rows[lost]).max():g} (at most {np.finfo(self.dtype).max:g} fits): "
                "store them as float32"
            )
        self.stream.write(stored)
        self.batches += 1
        if self.batches % CHECKPOINT_BATCHES == 0:
            self.note_progress()

    def note_progress(self) -> None:
        """Say how far the file is, once all of that is on the disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        note = {"fingerprint": self.fingerprint, "batches": self.batches}
        write_json(self.progress, note | {"offset": self.stream.tell()})

    def finish(self, index: pd.DataFrame, index_file: Path) -> None:
        """Put states and index in their place; the index comes last and vouches for both."""
        self.note_progress()
        temporary = index_file.with_name(index_file.name + ".tmp")
        index.to_parquet(temporary, index=False)
        fsync(temporary)
        index_file.unlink(missing_ok=True)
        self.partial.replace(self.file)
        temporary.replace(index_file)
        self.progress.unlink()

    def _create(self, d_in: int) -> None:
        """Start the file, and take the room for all of it: better no harvest than half of one."""
        self.progress.unlink(missing_ok=True)
        self.stream = open(self.partial, "w+b")
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.n_rows, d_in),
        }
        np.lib.format.write_array_header_1_0(self.stream, header)
        size = self.stream.tell() + self.n_rows * d_in * self.dtype.itemsize
        if not hasattr(os, "posix_fallocate"):
            return  # macOS, Windows: a full disk is met later, by a write
        try:
            os.posix_fallocate(self.stream.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return  # a file system that cannot promise room
            self.partial.unlink()
            message = f"no room for {size:,} bytes of hidden states: {os.strerror(error.errno)}"
            raise OSError(error.errno, message, str(self.file)) from None
