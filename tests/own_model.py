"""From a recurrent network of one's own to a list with more of what is wanted, in twelve lines.

The README shows this text; `test_contract.py` runs it.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from seqsae_utils import activations, control, interpretability, recommender, sae


class GRU(nn.Module):
    """All that `recommender.Recommender` asks for; it may be trained anywhere."""

    def __init__(self, n_items: int, d: int = 16, max_length: int = 6):
        super().__init__()
        self.max_length = max_length
        self.embedding = nn.Embedding(n_items + 1, d, padding_idx=0)
        self.gru = nn.GRU(d, d, batch_first=True)

    def pad(self, sequences):
        return recommender.pad(sequences, self.max_length)

    def forward(self, items):
        return self.gru(self.embedding(items))[0]

    @torch.no_grad()
    def next_item_scores(self, histories):
        items = self.pad(histories)
        last = torch.count_nonzero(items, dim=1) - 1
        scores = self.eval()(items)[torch.arange(len(items)), last] @ self.embedding.weight.T
        scores[:, 0] = -torch.inf  # padding is no item
        return scores


def more_of(
    wanted: Iterable, model: nn.Module, sequences: dict, ids: np.ndarray, file: Path
) -> np.ndarray:
    """Lists [n_users, 10] of ids; `sequences, ids = recommender.numbered(histories)`."""
    activations.harvest(model, sequences, "gru", file)
    states, histories = np.load(file), list(sequences.values())
    config = sae.Config(d_in=states.shape[1], d_sae=64, k=4)
    dictionary, _ = sae.fit(states, config, sae.Training(steps=100, batch_size=128))
    decoder, is_wanted = dictionary.W_dec.detach().numpy(), np.isin(ids, wanted)[:, None]
    gained = interpretability.measured_effect(model, "gru", decoder, dictionary.std, histories)
    near = control.expected_top(model.next_item_scores(histories))
    knobs = control.several_features(["wanted"], decoder, gained, is_wanted, near, n_features=8)
    along = control.directions(knobs, decoder, ["wanted"])
    scores = control.turn(model, "gru", dictionary.std, along)(0, 4.0)(histories)
    return ids[recommender.best(recommender.unseen(scores, histories))]
