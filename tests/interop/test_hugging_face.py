"""A transformer of Hugging Face as a recommender: `make interop` runs it."""

import pytest
import torch
from test_contract import N_ITEMS, check_every_consumer
from torch import nn

from seqsae_utils import recommender

WHY = "lives in an environment of its own: run `make interop`"
transformers = pytest.importorskip("transformers", reason=f"Hugging Face {WHY}")


class HuggingFace(nn.Module):
    """A causal language model whose tokens are items; its sites are ``lm.transformer.h.0``, ..."""

    def __init__(self, lm: nn.Module):
        super().__init__()
        self.lm, self.max_length = lm, lm.config.max_position_embeddings

    def pad(self, sequences):
        return recommender.pad(sequences, self.max_length)

    def forward(self, items):
        return self.lm(items).logits

    @torch.no_grad()
    def next_item_scores(self, histories):
        items = self.pad(histories).to(self.lm.device)
        last = torch.count_nonzero(items, dim=1) - 1
        scores = self.eval()(items)[torch.arange(len(items)), last].cpu()
        scores[:, 0] = -torch.inf  # padding is no item
        return scores


def test_every_consumer_takes_it(tmp_path):
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 6}
    lm = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=N_ITEMS + 1, **sizes))
    check_every_consumer(HuggingFace(lm), "lm.transformer.h.1", tmp_path)
