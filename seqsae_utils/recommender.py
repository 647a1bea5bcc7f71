"""A causal transformer that predicts what a user takes next, and its training.

The model is SASRec [1]_ with GPT-2's blocks [2]_: pre-norm attention and MLP, learned positions,
and a head tied to the item embedding, trained with the full softmax over the catalogue.

.. [1] Kang and McAuley, Self-Attentive Sequential Recommendation, arXiv 1808.09781.
.. [2] Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from . import metrics
from .workspace import fsync, write_json

#: Where training keeps its state between epochs.
CHECKPOINT = "checkpoint.safetensors"


def _require_positive(settings, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}={getattr(settings, name)} must be at least 1")


@dataclass(frozen=True)
class Config:
    """Size of the transformer. Items are 1..n_items; 0 is padding."""

    n_items: int
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 2
    max_length: int = 64
    dropout: float = 0.3

    def __post_init__(self):
        if self.n_items < 2:
            raise ValueError(f"n_items={self.n_items}: ranking needs at least two items")
        _require_positive(self, "d_model", "n_layers", "n_heads", "max_length")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model} is no multiple of n_heads={self.n_heads}")


@dataclass(frozen=True)
class Training:
    """How the transformer is trained: AdamW, and early stopping on the validation NDCG@10."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 128
    stride: int = 16  # a user's training windows start this many items apart
    max_epochs: int = 100
    patience: int = 10
    seed: int = 0

    def __post_init__(self):
        _require_positive(self, "batch_size", "stride", "max_epochs", "patience")


class Attention(nn.Module):
    """Multi-head causal self-attention: each position sees itself and what came before."""

    def __init__(self, config: Config):
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, d_model = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return self.out(x.transpose(1, 2).reshape(batch, length, d_model))


class Block(nn.Module):
    """One pre-norm transformer block; its output is what the SAE reads by default."""

    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = nn.Sequential(
            nn.Linear(config.d_model, 4 * config.d_model),
            nn.GELU(),
            nn.Linear(4 * config.d_model, config.d_model),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class CausalTransformer(nn.Module):
    """From item sequences to hidden states, and from hidden states to scores of all items.

    Sequences are padded on the RIGHT with 0. A causal model never looks to the right, so padding
    needs no mask, and an item's hidden state does not depend on how long its batch is.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(config.n_items + 1, config.d_model, padding_idx=0)
        self.position_embedding = nn.Embedding(config.max_length, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.d_model)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx : module.padding_idx + 1])

    def forward(self, items: Tensor) -> Tensor:
        """Final hidden states [batch, length, d_model] of items [batch, length]."""
        length = items.shape[1]
        if length > self.config.max_length:
            raise ValueError(
                f"sequences of {length} items, but the model sees max_length="
                f"{self.config.max_length}: cut them with `pad`"
            )
        positions = torch.arange(length, device=items.device)
        x = self.dropout(self.item_embedding(items) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits [..., n_items + 1] of hidden states [..., d_model]; that of padding is -inf."""
        logits = hidden @ self.item_embedding.weight.T
        logits[..., 0] = -torch.inf
        return logits


def pad(sequences: list[np.ndarray], max_length: int) -> Tensor:
    """Stack the last `max_length` items of each sequence, padded on the right with 0.

    >>> pad([np.array([5, 6, 7]), np.array([8])], max_length=2)
    tensor([[6, 7],
            [8, 0]])
    """
    sequences = [sequence[-max_length:] for sequence in sequences]
    padded = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded)


def windows(sequence: np.ndarray, length: int, stride: int) -> list[np.ndarray]:
    """Overlapping windows of at most `length` items, the last of the sequence first.

    Every item but the first follows another one in some window, so it is a target of training;
    a stride that would leave items out is refused.

    >>> [window.tolist() for window in windows(np.arange(1, 8), length=4, stride=2)]
    [[4, 5, 6, 7], [2, 3, 4, 5], [1, 2, 3]]
    """
    if stride >= length:
        raise ValueError(
            f"stride={stride} leaves items out of windows of {length - 1} inputs: "
            f"use at most {length - 1}"
        )
    ends = range(len(sequence), 1, -stride)
    last = next((i for i, end in enumerate(ends) if end <= length), len(ends) - 1)
    return [sequence[max(0, end - length) : end] for end in ends[: last + 1]]


def train(
    model: CausalTransformer,
    sequences: list[np.ndarray],
    validation: tuple[list[np.ndarray], np.ndarray],
    training: Training,
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """Train in place and leave the model at its best epoch.

    Parameters
    ----------
    sequences
        Items of each training user, in order.
    validation
        Histories of other users, and the item that each took next: they choose the epoch.
    checkpoint
        Folder that receives the state after each epoch. If it holds one already, training goes
        on from there, and ends with the same weights as if it had not been interrupted.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: epoch, loss (cross-entropy in nats), ndcg@10 (validation).

    Raises
    ------
    FloatingPointError
        If the loss or the scores stop being numbers: the model diverged.
    """
    length = model.config.max_length + 1  # one more than the model sees: inputs and targets overlap
    samples = [w for s in sequences for w in windows(s, length, training.stride)]
    for name, users in (("training", samples), ("validation", validation[0])):
        if not len(users):
            raise ValueError(f"no {name} user has two items: there is no next item to predict")
    optimizer = torch.optim.AdamW(
        model.parameters(), training.learning_rate, weight_decay=training.weight_decay
    )
    state = _State(model, optimizer, checkpoint)
    with tqdm(total=training.max_epochs, initial=state.epoch, desc="epochs", leave=False) as bar:
        while state.epoch < training.max_epochs and state.epochs_without_gain < training.patience:
            loss = _train_epoch(model, optimizer, samples, training, state.epoch)
            rank = rank_items(partial(next_item_scores, model), *validation).rank
            ndcg = float(metrics.ndcg(rank).mean())
            state.finish_epoch(loss, ndcg)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", ndcg=f"{ndcg:.4f}")
    model.load_state_dict(state.best)
    model.eval()
    return pd.DataFrame(state.history)


def _train_epoch(model, optimizer, samples, training: Training, epoch: int) -> float:
    """Train once on all samples, in an order and with a dropout that belong to this epoch.

    So an epoch is the same whether training was interrupted before it or not.
    """
    device = next(model.parameters()).device
    generator = np.random.default_rng([training.seed, epoch])
    torch.manual_seed(int(generator.integers(2**32)))
    model.train()
    losses = []
    for batch in _batches(samples, training.batch_size, generator):
        batch = batch.to(device)
        inputs, targets = batch[:, :-1], batch[:, 1:]
        known = targets > 0
        logits = model.scores(model(inputs)[known])  # never computed at padded positions
        loss = F.cross_entropy(logits, targets[known])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} in epoch {epoch + 1}: "
                f"lower learning_rate={training.learning_rate}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _batches(samples: list[np.ndarray], size: int, generator) -> Iterator[Tensor]:
    order = generator.permutation(len(samples))
    for start in range(0, len(order), size):
        chosen = [samples[i] for i in order[start : start + size]]
        yield pad(chosen, max(map(len, chosen)))


class _State:
    """Everything that training needs to go on: weights, Adam's moments, best weights, history.

    One safetensors file, replaced in one step after each epoch: nothing is pickled, and a kill
    at any time leaves the state of the last whole epoch.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path | None):
        self.model, self.optimizer = model, optimizer
        self.file = folder / CHECKPOINT if folder else None
        self.history: list[dict] = []
        self.best = _copy(model.state_dict())
        if self.file and self.file.is_file():
            self._load()

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def epochs_without_gain(self) -> int:
        scores = [row["ndcg@10"] for row in self.history]
        return len(scores) - 1 - int(np.argmax(scores)) if scores else 0

    def finish_epoch(self, loss: float, ndcg: float) -> None:
        self.history.append({"epoch": self.epoch + 1, "loss": loss, "ndcg@10": ndcg})
        if self.epochs_without_gain == 0:
            self.best = _copy(self.model.state_dict())
        if self.file:
            self._save()

    def _save(self) -> None:
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{i}/{k}": v for k, v in moments.items()}
        temporary = self.file.with_suffix(".tmp")
        save_file(_copy(tensors), temporary, metadata={"history": json.dumps(self.history)})
        fsync(temporary)
        temporary.replace(self.file)

    def _load(self) -> None:
        with safe_open(self.file, framework="pt") as file:
            self.history = json.loads(file.metadata()["history"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        groups: dict = {"model": {}, "best": {}, "adam": {}}
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups[group][name] = tensor
        self.model.load_state_dict(groups["model"])
        self.best = groups["best"]
        moments: dict = {}
        for name, tensor in groups["adam"].items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
        parameters = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": parameters})


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone().contiguous() for key, value in tensors.items()}


#: From the histories of some users to the scores [n_users, n_items + 1] of all items.
Scorer = Callable[[list[np.ndarray]], Tensor]


@torch.no_grad()
def next_item_scores(model: CausalTransformer, histories: list[np.ndarray]) -> Tensor:
    """Scores [n_users, n_items + 1] of the item that comes after each history."""
    device = next(model.parameters()).device
    items = pad(histories, model.config.max_length)
    last = torch.count_nonzero(items, dim=1) - 1
    hidden = model.eval()(items.to(device))
    return model.scores(hidden[torch.arange(len(items)), last]).cpu()


def popularity_scores(popularity: np.ndarray) -> Scorer:
    """A scorer that knows no user: the most taken items first, ties by item number.

    `popularity` is [n_items + 1], the number of training users that took each item.
    """
    order = np.lexsort((np.arange(len(popularity)), -popularity.astype(float)))
    scores = torch.empty(len(popularity))
    scores[order] = -torch.arange(len(popularity), dtype=torch.float32)
    scores[0] = -torch.inf
    return lambda histories: scores.repeat(len(histories), 1)


def hold_out_last(sequences: dict[int, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Histories without their last item, and those last items; users with one item are left out.

    >>> hold_out_last({0: np.array([3, 1, 2]), 1: np.array([5])})
    ([array([3, 1])], array([2]))
    """
    kept = [sequence for sequence in sequences.values() if len(sequence) > 1]
    return [sequence[:-1] for sequence in kept], np.array([sequence[-1] for sequence in kept])


class Ranking(NamedTuple):
    """What each user is recommended, and where the item that the user took next stands.

    lists : [n_users, k] items, best first; 0 where a user has fewer than k unseen items
    rank : [n_users] place of the held-out item among all unseen items, from 1; ties count
        against it, so that a model that tells no items apart scores nothing
    loss : [n_users] cross-entropy of the held-out item over the whole catalogue, in nats
    """

    lists: np.ndarray
    rank: np.ndarray
    loss: np.ndarray


def rank_items(
    scorer: Scorer, histories: list[np.ndarray], targets: np.ndarray, k: int = 10
) -> Ranking:
    """Rank the whole catalogue for each user; items of the history are filtered, the target never.

    Parameters
    ----------
    scorer
        Gives the scores of all items for some histories; see `next_item_scores`.
    histories, targets
        Items of each user in order, and the item [n_users] that each took next.

    Raises
    ------
    FloatingPointError
        If scores are NaN. They compare as false, and every target would seem to come first.
    """
    if not len(histories):
        raise ValueError("no users to rank: none of them has two items")
    lists, ranks, losses = [], [], []
    for start in range(0, len(histories), 256):
        chosen = histories[start : start + 256]
        target = torch.as_tensor(targets[start : start + 256], dtype=torch.int64).unsqueeze(1)
        scores = scorer(chosen)
        if scores.isnan().any():
            raise FloatingPointError(
                f"scores of {int(scores.isnan().any(dim=1).sum())} users are NaN: the model "
                "diverged (train with a lower learning_rate), or an edit of its states did"
            )
        score_of_target = scores.gather(1, target)
        losses.append(scores.logsumexp(dim=1) - score_of_target.squeeze(1))
        rows = np.repeat(np.arange(len(chosen)), [len(history) for history in chosen])
        filtered = torch.zeros_like(scores, dtype=torch.bool)
        filtered[rows, np.concatenate(chosen)] = True
        filtered[:, 0] = True
        filtered.scatter_(1, target, False)
        scores = scores.masked_fill(filtered, -torch.inf)  # a copy: the scorer may own the scores
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        items = best.indices.masked_fill(best.values == -torch.inf, 0)
        lists.append(F.pad(items, (0, k - items.shape[1])))
        ranks.append((scores >= score_of_target).sum(dim=1))  # the target itself makes it 1
    return Ranking(*(torch.cat(parts).numpy() for parts in (lists, ranks, losses)))


def save(model: CausalTransformer, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``; a checkpoint has served and is removed."""
    write_json(folder / "config.json", asdict(model.config))
    save_file(_copy(model.state_dict()), folder / "model.safetensors")
    (folder / CHECKPOINT).unlink(missing_ok=True)


def load(folder: Path, device: torch.device | str = "cpu") -> CausalTransformer:
    """Read a model that `save` wrote, ready to predict."""
    model = CausalTransformer(Config(**json.loads((folder / "config.json").read_text())))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device).eval()
