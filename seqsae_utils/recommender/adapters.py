"""Recommenders that somebody else built: what they must offer, and how RecTools' and RecBole's do.

Whatever offers `Recommender` is harvested, ranked and steered here as our own transformers are. The
adapters give it to two libraries: items are 1..n_items on their outside and the library's numbers
on their inside. The library's modules lie under ``model``, so that their names are sites.

======================================================  =======================================
site                                                    what it is, [batch, length, d]
======================================================  =======================================
RecTools ``model.emb_dropout``                          item and position embedding
RecTools ``model.transformer_layers``                   final hidden state, after the norm
  ``model.transformer_layers.transformer_blocks.0``     output of the first block
RecBole ``model.item_embedding``                        item embedding
RecBole ``model.trm_encoder.layer.0``                   output of the first block
======================================================  =======================================

RecTools looks its embeddings up without calling a module, so they alone are no site. RecBole's
``model.trm_encoder`` returns a list and is refused; its last layer is the final hidden state.

Neither library is imported: the trained model is handed in. ``make interop`` tests both, in an
environment of their own, because they need older versions of NumPy and pandas than we do.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


@runtime_checkable
class Recommender(Protocol):
    """What is asked of a model that is to be harvested, ranked or steered.

    It is an `nn.Module`, whose modules return hidden states [batch, length, d] or a tuple that
    begins with them. Items are 1..n_items; 0 is padding.
    """

    max_length: int  # the longest piece of a sequence that it sees

    def pad(self, sequences: list[np.ndarray]) -> Tensor:
        """The last `max_length` items of each sequence, [batch, length], 0 on either side."""

    def __call__(self, items: Tensor) -> Any:
        """A forward pass on what `pad` returns; what comes out of it is not looked at."""

    def next_item_scores(self, histories: list[np.ndarray]) -> Tensor:
        """Scores [n_users, n_items + 1] of what comes after each history, on the CPU.

        That of padding is -inf. It calls the model itself, in its evaluation mode, so that hooks
        see what they see in a harvest.
        """

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules by dotted name: the sites."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights: they tell the device."""
        ...


def numbered(histories: Iterable[Iterable[Hashable]]) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Histories of ids of any kind as items 1..n_items, in the order in which they first come.

    Returns
    -------
    sequences : items of each user, users being numbered from 0
    ids : [n_items + 1], the id of each item; that of padding is None

    >>> sequences, ids = numbered([["Heat", "Alien"], ["Alien", "Brazil"]])
    >>> sequences[1].tolist(), ids[sequences[1]].tolist()
    ([2, 3], ['Alien', 'Brazil'])
    """
    known: dict[Hashable, int] = {}
    sequences = {
        user: np.array([known.setdefault(item, len(known) + 1) for item in history], np.int64)
        for user, history in enumerate(histories)
    }
    return sequences, np.array([None, *known], dtype=object)


class _Adapter(nn.Module):
    """A module of another library, and its number for each of our items.

    `forward` gives the scores of the library's items, in the library's numbers.
    """

    pads_left: bool

    def __init__(self, model: nn.Module, max_length: int, known: dict, item_ids: Iterable):
        super().__init__()
        item_ids = list(item_ids)
        numbers = [0, *(known.get(item, -1) for item in item_ids)]
        if max(numbers) < 1:
            raise ValueError(
                f"the model knows none of the {len(item_ids)} items: it was trained on ids like "
                f"{list(known)[-1]!r}, not {item_ids[:1]}"
            )
        self.model, self.max_length = model, max_length
        self.register_buffer("numbers", torch.tensor(numbers))

    def pad(self, sequences: list[np.ndarray]) -> Tensor:
        """The last `max_length` items of each sequence, [batch, max_length], 0 where none is.

        Raises
        ------
        ValueError
            If the model was not trained on one of the items: it has no embedding.
        """
        padded = torch.zeros(len(sequences), self.max_length, dtype=torch.int64)
        for row, sequence in zip(padded, sequences, strict=True):
            items = torch.from_numpy(sequence[-self.max_length :])
            start = self.max_length - len(items) if self.pads_left else 0
            row[start : start + len(items)] = items
        unknown = padded[self.numbers.cpu()[padded] < 0].unique()
        if len(unknown):
            raise ValueError(
                f"items {unknown[:5].tolist()}: the model was not trained on them and has no "
                "embedding for them; leave them out of the sequences"
            )
        return padded

    @torch.no_grad()
    def next_item_scores(self, histories: list[np.ndarray]) -> Tensor:
        """Scores [n_users, n_items + 1] of the item that comes after each history, on the CPU.

        Padding, and items that the model was not trained on, have -inf.
        """
        items = self.pad(histories).to(next(self.parameters()).device)
        theirs = self.eval()(items).cpu()
        numbers = self.numbers.cpu()
        scores = theirs.new_full((len(items), len(numbers)), -torch.inf)
        scores[:, numbers > 0] = theirs[:, numbers[numbers > 0]]
        return scores

    def _theirs(self, items: Tensor) -> Tensor:
        # The libraries move their module from device to device without telling the adapter.
        return self.numbers.to(items.device)[items]


class RecToolsModel(_Adapter):
    """A transformer that RecTools trained: `rectools.models.SASRecModel`.

    Parameters
    ----------
    model
        The fitted model.
    item_ids
        What RecTools calls our items 1..n_items, in order: the ``item_id`` it was trained on.
    """

    pads_left = True  # always to the full length, because RecTools' attention sees padding

    def __init__(self, model, item_ids: Iterable):
        preparator = model.data_preparator
        known = preparator.item_id_map.to_internal.to_dict()
        super().__init__(model.torch_model, preparator.session_max_len, known, item_ids)

    def forward(self, items: Tensor) -> Tensor:
        """Scores of the library's items after the last of items [batch, length]."""
        embeddings = self.model.item_model.get_all_embeddings()
        hidden = self.model.encode_sessions({"x": self._theirs(items)}, embeddings)
        return self.model.similarity_module(hidden[:, -1:], embeddings)[:, 0]


class RecBoleModel(_Adapter):
    """A sequential model that RecBole trained: `recbole.model.sequential_recommender.SASRec`.

    Parameters
    ----------
    model
        The trained model.
    dataset
        RecBole's dataset that it was trained on, which numbers the items.
    item_ids
        What RecBole calls our items 1..n_items, in order: the tokens of its item field.
    """

    pads_left = False

    def __init__(self, model, dataset, item_ids: Iterable):
        known = dataset.field2token_id[model.ITEM_ID]
        super().__init__(model, model.max_seq_length, known, map(str, item_ids))

    def forward(self, items: Tensor) -> Tensor:
        """Scores of the library's items after the last of items [batch, length]."""
        lengths = torch.count_nonzero(items, dim=1)
        history = {self.model.ITEM_SEQ: self._theirs(items), self.model.ITEM_SEQ_LEN: lengths}
        return self.model.full_sort_predict(history)
