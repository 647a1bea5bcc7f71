"""Recommenders that somebody else built: what they must offer, and adapters for two libraries.

Neither library is imported, because both need older versions of NumPy and pandas than we do: ``make
interop`` tests them in an environment of their own.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


@runtime_checkable
class Recommender(Protocol):
    """An `nn.Module` that can be harvested, ranked and steered; items are 1..n_items, padding is 0.

    Its modules return hidden states [batch, length, d] or a tuple that begins with them.
    """

    max_length: int  # the longest piece of a sequence that it sees

    def pad(self, sequences: list[np.ndarray]) -> Tensor:
        """The last `max_length` items of each sequence, [batch, length], 0 on either side."""

    def __call__(self, items: Tensor) -> Any:
        """A forward pass on what `pad` returns; its output is not used."""

    def next_item_scores(self, histories: list[np.ndarray]) -> Tensor:
        """CPU scores [n_users, n_items + 1] from a call in evaluation mode; padding has -inf."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules by dotted name: the sites."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights: they tell the device."""


def numbered(
    histories: Mapping[Hashable, Iterable[Hashable]] | Iterable[Iterable[Hashable]],
) -> tuple[dict[Hashable, np.ndarray], np.ndarray]:
    """Histories of any ids as items 1..n_items in order of appearance, and ids [n_items + 1].

    Users keep their names, or are counted from 0 where histories have none.

    >>> sequences, ids = numbered([["Heat", "Alien"], ["Alien", "Brazil"]])
    >>> sequences[1].tolist(), ids[sequences[1]].tolist()
    ([2, 3], ['Alien', 'Brazil'])
    """
    known: dict[Hashable, int] = {}
    users = histories if isinstance(histories, Mapping) else dict(enumerate(histories))
    sequences = {
        user: np.array([known.setdefault(item, len(known) + 1) for item in history], np.int64)
        for user, history in users.items()
    }
    return sequences, np.array([None, *known], dtype=object)


class _Adapter(nn.Module):
    """A module of another library, and the library's number of each of our items."""

    pads_left = False

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
        """The last items of each sequence [batch, max_length]; ValueError for an unknown item."""
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

    def forward(self, items: Tensor) -> Tensor:
        """Scores of the library's items, in its numbers, after the last of [batch, length]."""
        # The libraries move their module from device to device without telling the adapter.
        return self._scores(self.numbers.to(items.device)[items])

    @torch.no_grad()
    def next_item_scores(self, histories: list[np.ndarray]) -> Tensor:
        """See `Recommender`; items that the model was not trained on have -inf, as padding has."""
        items = self.pad(histories).to(next(self.parameters()).device)
        numbers = self.numbers.cpu()
        scores = self.eval()(items).cpu()[:, numbers.clamp(min=0)]
        return scores.masked_fill_(numbers < 1, -torch.inf)


class RecToolsModel(_Adapter):
    """A fitted SASRecModel or HSTUModel of `rectools.models`; `item_ids` are those of 1..n_items.

    Sites: ``model.emb_dropout`` (item and position embedding; no module returns the first alone),
    ``model.transformer_layers.transformer_blocks.0`` (first block; HSTU: ``stu_blocks``),
    ``model.transformer_layers`` (final state). ValueError if the model knows none of the items, or
    reads times, which histories here do not have.
    """

    pads_left = True  # always to the full length, because RecTools' attention sees padding

    def __init__(self, model, item_ids: Iterable):
        preparator = model.data_preparator
        if getattr(preparator, "add_unix_ts", False):
            raise ValueError(
                "the model reads times, and histories here are items alone: train it with "
                "relative_time_attention=False"
            )
        known = preparator.item_id_map.to_internal.to_dict()
        super().__init__(model.torch_model, preparator.session_max_len, known, item_ids)

    def _scores(self, items: Tensor) -> Tensor:
        embeddings = self.model.item_model.get_all_embeddings()
        hidden = self.model.encode_sessions({"x": items}, embeddings)
        return self.model.similarity_module(hidden[:, -1:], embeddings)[:, 0]


class RecToolsFlatModel(_Adapter):
    """A trained `rectools.fast_transformers.FlatSASRecNet`; `item_ids` are those of 1..n_items.

    `known` are the ids that ``build_sequences`` gave as ``unique_items``. Sites:
    ``model.item_emb``, ``model.blocks.0`` (first block), ``model.final_ln`` (final state).
    ValueError if the model knows none of the items.
    """

    pads_left = True

    def __init__(self, model: nn.Module, known: Iterable, item_ids: Iterable):
        numbers = {item: i for i, item in enumerate(np.asarray(known).tolist(), start=1)}
        super().__init__(model, model.session_max_len, numbers, np.asarray(item_ids).tolist())

    def _scores(self, items: Tensor) -> Tensor:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it makes NaN of padding on the left
        try:
            return self.model.encode_last(items) @ self.model.item_emb.weight.T
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


class RecBoleModel(_Adapter):
    """A model that RecBole trained on `dataset`; `item_ids` are the tokens of items 1..n_items.

    Sites: ``model.item_embedding``, ``model.trm_encoder.layer.0`` (first block), and the last layer
    (final state); not ``model.trm_encoder``, a list. ValueError if it knows none of the items.
    """

    def __init__(self, model, dataset, item_ids: Iterable):
        known = dataset.field2token_id[model.ITEM_ID]
        super().__init__(model, model.max_seq_length, known, map(str, item_ids))

    def _scores(self, items: Tensor) -> Tensor:
        lengths = torch.count_nonzero(items, dim=1)
        history = {self.model.ITEM_SEQ: items, self.model.ITEM_SEQ_LEN: lengths}
        return self.model.full_sort_predict(history)
