"""Transformers that predict what a user takes next.

SASRec (Kang and McAuley, arXiv 1808.09781) and GPT-2 (Radford et al., Language Models are
Unsupervised Multitask Learners, 2019) are causal, BERT4Rec (Sun et al., arXiv 1904.06690) is not.
LiGR gates what a block adds, as LinkedIn's ranker does (Borisyuk et al., arXiv 2502.03417).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..workspace import name_nearest, write_json

WEIGHTS = "model.safetensors"


class Architecture(NamedTuple):
    """The only differences between the architectures. Blocks are pre-norm, heads are tied."""

    causal: bool  # each position sees what came before it, or all
    mlp_ratio: int  # width of the MLP's hidden layer, in widths of the model
    activation: type[nn.Module]
    scale_embedding: bool  # item embeddings times the square root of the width
    gated: bool = False  # what a block adds is weighed by a sigmoid of what it reads


ARCHITECTURES = {
    "gpt2": Architecture(True, 4, nn.GELU, False),
    "sasrec": Architecture(True, 1, nn.ReLU, True),
    "bert4rec": Architecture(False, 4, nn.GELU, False),
    "ligr": Architecture(True, 4, nn.GELU, True, gated=True),
}


@dataclass(frozen=True)
class Config:
    """Sizes; ValueError if impossible. Items are 1..n_items, 0 is padding, n_items + 1 [MASK]."""

    n_items: int
    architecture: str = "gpt2"
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 2
    max_length: int = 64
    dropout: float = 0.3

    def __post_init__(self):
        if self.architecture not in ARCHITECTURES:
            nearest = name_nearest(self.architecture, list(ARCHITECTURES))
            raise ValueError(f"architecture {self.architecture!r} is unknown; {nearest}")
        if self.n_items < 2:
            raise ValueError(f"n_items={self.n_items}: ranking needs at least two items")
        require_positive(self, "d_model", "n_layers", "n_heads", "max_length")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model} is no multiple of n_heads={self.n_heads}")


def require_positive(settings, *names: str) -> None:
    """Raise ValueError if one of the named numbers in the settings is below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}={getattr(settings, name)} must be at least 1")


class Attention(nn.Module):
    """Multi-head self-attention to `visible`, bool [batch, 1, 1, length]; None is a causal mask."""

    def __init__(self, config: Config):
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """States that each position takes from those it sees, [batch, length, d_model]."""
        batch, length, d_model = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None)
        return self.out(x.transpose(1, 2).reshape(batch, length, d_model))


class Block(nn.Module):
    """One pre-norm transformer block; its output is what the SAE reads by default."""

    def __init__(self, config: Config):
        super().__init__()
        settings, d = ARCHITECTURES[config.architecture], config.d_model
        width = settings.mlp_ratio * d
        self.attention_norm = nn.LayerNorm(d)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, width), settings.activation(), nn.Linear(width, d))
        self.dropout = nn.Dropout(config.dropout)
        self.gates = nn.ModuleList(nn.Linear(d, d) for _ in range(2)) if settings.gated else None

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """The states after the block from those before it, both [batch, length, d_model]."""
        read = self.attention_norm(x)
        x = x + self._gated(0, read, self.dropout(self.attention(read, visible)))
        read = self.mlp_norm(x)
        return x + self._gated(1, read, self.dropout(self.mlp(read)))

    def _gated(self, i: int, read: Tensor, added: Tensor) -> Tensor:
        return added if self.gates is None else self.gates[i](read).sigmoid() * added


class Transformer(nn.Module):
    """From item sequences, padded on the RIGHT with 0, to hidden states and scores of items."""

    def __init__(self, config: Config):
        super().__init__()
        settings = ARCHITECTURES[config.architecture]
        self.config, self.causal, self.max_length = config, settings.causal, config.max_length
        self.scale = config.d_model**0.5 if settings.scale_embedding else 1.0
        n_tokens = config.n_items + (1 if self.causal else 2)  # padding, and where needed [MASK]
        self.item_embedding = nn.Embedding(n_tokens, config.d_model, padding_idx=0)
        self.position_embedding = nn.Embedding(config.max_length, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.d_model)
        self.apply(self._initialise)
        nn.init.zeros_(self.item_embedding.weight[:1])  # padding

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, items: Tensor) -> Tensor:
        """States [batch, length, d_model] of items [batch, length]; ValueError if too long."""
        length = items.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"sequences of {length} items, but the model sees max_length="
                f"{self.max_length}: cut them with `pad`"
            )
        positions = torch.arange(length, device=items.device)
        x = self.item_embedding(items) * self.scale + self.position_embedding(positions)
        x = self.dropout(x)
        visible = None if self.causal else (items > 0)[:, None, None, :]
        for block in self.blocks:
            x = block(x, visible)
        return self.final_norm(x)

    @property
    def head(self) -> Tensor:
        """Unembedding [n_items + 1, d_model], tied to the item embedding; [MASK] has none."""
        return self.item_embedding.weight[: self.config.n_items + 1]

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits [..., n_items + 1] of hidden states [..., d_model]; that of padding is -inf."""
        logits = hidden @ self.head.T
        logits[..., 0] = -torch.inf
        return logits

    def pad(self, sequences: list[np.ndarray]) -> Tensor:
        """The last `max_length` items of each sequence, [batch, length], as `forward` wants it."""
        return pad(sequences, self.max_length)

    @torch.no_grad()
    def next_item_scores(self, histories: list[np.ndarray]) -> Tensor:
        """Scores [n_users, n_items + 1] of the item that comes after each history."""
        items = self.query(histories)
        last = torch.count_nonzero(items, dim=1) - 1
        hidden = self.eval()(items.to(self.head.device))
        return self.scores(hidden[torch.arange(len(items)), last]).cpu()


class CausalTransformer(Transformer):
    """Predicts each item from those before it (GPT-2, SASRec)."""

    overlap = 1  # the target of a piece's last position is the first item of the next piece
    passes = 1  # through the data, until each item was learnt once

    def training_pairs(self, sequences: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Inputs and targets [batch, length]: the next item, 0 where a piece ends."""
        items = pad(sequences, self.max_length + 1)
        return items[:, :-1], items[:, 1:]

    def query(self, histories: list[np.ndarray]) -> Tensor:
        """Padded histories [n_users, length]: the state of the last item predicts the next one."""
        return self.pad(histories)


class MaskedTransformer(Transformer):
    """Predicts items that were hidden, from those on both sides (BERT4Rec)."""

    overlap = 0
    mask_probability = 0.2
    passes = round(1 / mask_probability)

    @property
    def mask(self) -> int:
        """The [MASK] token."""
        return self.config.n_items + 1

    def training_pairs(self, sequences: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Inputs with [MASK] for random items, and targets, 0 elsewhere: both [batch, length]."""
        items = self.pad(sequences)
        hidden = torch.rand(items.shape) < self.mask_probability
        # Always the last item, because prediction asks for the last.
        hidden[torch.arange(len(items)), torch.count_nonzero(items, dim=1) - 1] = True
        hidden &= items > 0
        return items.masked_fill(hidden, self.mask), items.masked_fill(~hidden, 0)

    def query(self, histories: list[np.ndarray]) -> Tensor:
        """Histories [n_users, length] with [MASK] appended, whose state predicts the next item."""
        return self.pad([np.append(history, self.mask) for history in histories])


def create(config: Config) -> Transformer:
    """A new model with random weights."""
    causal = ARCHITECTURES[config.architecture].causal
    return CausalTransformer(config) if causal else MaskedTransformer(config)


def pad(sequences: list[np.ndarray], max_length: int) -> Tensor:
    """Stack the last `max_length` items of each sequence, padded on the right with 0: [n, length].

    >>> pad([np.array([5, 6, 7]), np.array([8])], max_length=2)
    tensor([[6, 7],
            [8, 0]])
    """
    sequences = [sequence[-max_length:] for sequence in sequences]
    padded = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded)


def save(model: Transformer, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    write_json(folder / "config.json", asdict(model.config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)


def load(folder: Path, device: torch.device | str = "cpu") -> Transformer:
    """Read a model that `save` wrote, ready to predict; ValueError, with its file, if damaged."""
    file = folder / "config.json"
    try:
        model = create(Config(**json.loads(file.read_text())))
        file = folder / WEIGHTS
        model.load_state_dict(load_file(file))
    except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    return model.to(device).eval()


def load_beside(folder: Path, device: torch.device | str = "cpu") -> dict[str, Transformer]:
    """Models that `save` wrote into folders of this one, by the name of their folder."""
    files = sorted(folder.glob("*/config.json"))
    return {file.parent.name: load(file.parent, device) for file in files}
