"""Training a transformer: resumable, and stopped early by users that it has not seen."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from joblib import Parallel, delayed
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from .. import metrics
from ..checkpoint import Checkpoint, copies
from ..ranking import Split, Users, rank_items
from ..workspace import name_nearest
from .losses import sampled_softmax_loss, softmax_loss
from .models import Config, Transformer, create, require_positive

#: A catalogue of more items is large: a batch of the sampled loss takes a third of the time there
#: (1,024 positions, width 64, one core), and a twelfth at 20,000.
LARGE = 5_000
#: After its first batch, the bar of a training tells how long the rest takes at most.
BAR = "{desc}: |{bar}| {n:.1f}/{total} [{elapsed}, at most {remaining} more{postfix}]"


@dataclass(frozen=True)
class Training:
    """AdamW, and early stopping on the validation NDCG@10; ValueError for settings out of range."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 2048  # items
    max_epochs: int = 100
    patience: int = 10
    loss: str = "softmax"  # over the whole catalogue; "sampled" for large ones; "auto": by size
    n_negatives: int = 1024  # items in the sample
    precision: str = "float32"  # of the blocks; or "bfloat16"
    seed: int = 0

    def __post_init__(self):
        require_positive(self, "batch_size", "max_epochs", "patience", "n_negatives")
        choices = {"loss": ["softmax", "sampled", "auto"], "precision": ["float32", "bfloat16"]}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}={value!r} is unknown; {name_nearest(value, known)}")


def pieces(sequence: np.ndarray, length: int, offset: int, overlap: int) -> list[np.ndarray]:
    """Cut into pieces of `length`, the first `offset` long, each with `overlap` items of the next.

    >>> [piece.tolist() for piece in pieces(np.arange(1, 9), length=3, offset=2, overlap=1)]
    [[1, 2, 3], [3, 4, 5, 6], [6, 7, 8]]
    """
    starts = [0, *range(offset, len(sequence) - overlap, length)]
    ends = [start + overlap for start in [*starts[1:], len(sequence)]]
    return [sequence[start:end] for start, end in zip(starts, ends, strict=True)]


def fit(
    config: Config,
    split: Split,
    training: Training,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool | str = True,
) -> tuple[Transformer, pd.DataFrame]:
    """Create and `train` a model; returns it and its history. The seed decides all randomness."""
    torch.manual_seed(training.seed)
    model = create(config).to(device)
    return model, train(model, split.train, split.validation, training, checkpoint, progress)


def fit_all(
    runs: list[tuple[str, str, int]],
    splits: dict[str, Split],
    config: Config,
    training: Training,
    folder: Path,
    device: torch.device | str = "cpu",
    n_jobs: int = 1,
) -> tuple[dict[tuple[str, str, int], Transformer], pd.DataFrame]:
    """`fit` one model for each run: name of its split, its architecture, its seed.

    `n_jobs` processes train at the same time, with the same result. Checkpoints are kept in
    `folder`: after a kill, finished runs are only loaded, and interrupted ones go on. Returns the
    models by run, and the history of `train` with the columns protocol (split), model and seed.
    """
    n_jobs = min(n_jobs, len(runs))
    jobs = (
        delayed(fit)(
            replace(config, architecture=architecture, n_items=splits[name].n_items),
            splits[name],
            replace(training, seed=seed),
            folder / f"{i}.checkpoint",
            device,
            # Of models side by side only the first has a bar: it tells how long each takes.
            progress=f"model {i + 1} of {len(runs)}, " if n_jobs == 1 or i == 0 else False,
        )
        for i, (name, architecture, seed) in enumerate(runs)
    )
    done = Parallel(n_jobs, return_as="generator")(jobs)
    done = tqdm(done, "models", total=len(runs), leave=False)
    models, histories = {}, []
    for (name, architecture, seed), (model, history) in zip(runs, done, strict=True):
        models[name, architecture, seed] = model
        histories.append(history.assign(protocol=name, model=architecture, seed=seed))
    return models, pd.concat(histories, ignore_index=True)


def train(
    model: Transformer,
    sequences: list[np.ndarray],
    validation: Users | None,
    training: Training,
    checkpoint: Path | None = None,
    progress: bool | str = True,
) -> pd.DataFrame:
    """Train in place on the items [n] of each user, and leave the model at its best epoch.

    `validation`, histories and the item that each user took next, chooses the epoch; without it,
    the last of `max_epochs` is kept. Training goes on from the file `checkpoint` if it exists, and
    ends with the same weights as without the interruption. Returns one row an epoch: epoch, loss
    (cross-entropy in nats), ndcg@10 (validation). `progress` is whether a bar is shown, or how its
    text begins. Raises FloatingPointError if the model diverges, ValueError if there is nothing to
    learn from or the checkpoint belongs to another training.

    Processes of a group (``torchrun``, then ``torch.distributed.init_process_group()``) share each
    batch and end with the same weights; the first one keeps the checkpoint, which all must see, and
    its validation stops all.
    """
    groups = {"training": sequences} | ({"validation": validation[0]} if validation else {})
    for name, users in groups.items():
        if not any(len(sequence) > 1 - (name == "validation") for sequence in users):
            raise ValueError(f"no {name} user has two items: there is no next item to predict")
    optimizer = torch.optim.AdamW(
        model.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    given = asdict(model.config) | asdict(training)
    del given["max_epochs"], given["patience"]  # these may still be changed between two epochs
    given |= {"sequences": sequences, "validation": validation, "weights": model.state_dict()}
    keeper = Checkpoint(checkpoint, train, **given)
    whole = DistributedDataParallel(model) if dist.is_initialized() else model
    history, best = [], copies(model.state_dict())
    patience = training.patience if validation else training.max_epochs
    if found := keeper.load({"model": model}, optimizer):
        history, best = found[0], found[1]["best"]
    if (first := _of_first(len(history), model)) != len(history):
        raise ValueError(
            f"{checkpoint}: {len(history)} epochs are seen here and {first:.0f} by the first "
            "process: put the checkpoint where all processes see it"
        )
    done, hidden = len(history), {} if progress else {"disable": True}
    name = f"{progress if isinstance(progress, str) else ''}{model.config.architecture}, epochs"
    how = {"total": training.max_epochs, "leave": False, "bar_format": BAR} | hidden
    with tqdm(desc=name, initial=done, **how) as bar:
        while len(history) < training.max_epochs and _waited(history) < patience:
            loss = _train_epoch(model, whole, optimizer, sequences, training, len(history), bar)
            ndcg = float("nan")
            if validation:
                rank = rank_items(model.next_item_scores, *validation).rank
                ndcg = _of_first(float(metrics.ndcg(rank).mean()), model)
            history.append({"epoch": len(history) + 1, "loss": loss, "ndcg@10": ndcg})
            if not validation or _waited(history) == 0:
                best = copies(model.state_dict())
            if not dist.is_initialized() or dist.get_rank() == 0:
                keeper.save(history, {"model": model, "best": best}, optimizer)
            bar.set_postfix(loss=f"{loss:.3f}", ndcg=f"{ndcg:.4f}")
    model.load_state_dict(best)
    model.eval()
    return pd.DataFrame(history)


def _of_first(value: float, model: Transformer) -> float:
    """The value that the first process of the group has, if there is one."""
    if not dist.is_initialized():
        return value
    dist.broadcast(found := model.head.new_tensor(value, dtype=torch.float64), 0)
    return found.item()


def _waited(history: list[dict]) -> int:
    """Epochs since the best one."""
    scores = [row["ndcg@10"] for row in history]
    return len(scores) - 1 - int(np.argmax(scores)) if scores else 0


def _train_epoch(model, whole, optimizer, sequences, training, epoch: int, bar: tqdm) -> float:
    """Learn each item once and return the mean loss; randomness follows from seed and epoch.

    `whole` is the model, or what averages its gradients over processes: then each learns from its
    share of a batch, weighed by the positions in it.
    """
    device = model.head.device
    rank, n = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    rng = np.random.default_rng([training.seed, epoch])
    torch.manual_seed(int(rng.integers(2**32)))
    model.train()
    losses = []
    passes = (_batches(model, sequences, training.batch_size, rng) for _ in range(model.passes))
    batches = list(chain.from_iterable(passes))
    for done, batch in enumerate(batches, start=1):
        inputs, targets = model.training_pairs(batch[rank::n] or batch[:1])
        known = targets > 0
        with torch.autocast(device.type, torch.bfloat16, training.precision == "bfloat16"):
            hidden = whole(inputs.to(device))
        hidden = hidden[known.to(device)].float()  # logits are never computed at padding
        targets = targets[known].to(device)
        large = training.loss == "auto" and model.config.n_items > LARGE
        if training.loss != "sampled" and not large:
            loss = softmax_loss(hidden, model.head, targets)
        else:
            loss = sampled_softmax_loss(hidden, model.head, targets, training.n_negatives)
        mean = loss.detach().clone()
        if n > 1:
            learnt = loss.new_tensor(len(targets) if rank < len(batch) else 0)
            dist.all_reduce(everywhere := learnt.clone())
            share = learnt / everywhere
            dist.all_reduce(mean.mul_(share))
            loss = loss * share * n  # of the gradients of all, the mean is taken
        if not torch.isfinite(mean):
            raise FloatingPointError(
                f"loss is {mean.item()} in epoch {epoch + 1}: "
                f"lower learning_rate={training.learning_rate}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean.item())
        bar.update(epoch + done / len(batches) - bar.n)  # never past the end by rounding
    return float(np.mean(losses))


def _batches(model, sequences, size: int, rng) -> Iterator[list[np.ndarray]]:
    """All sequences, cut at random places so that an item's context differs between epochs."""
    offsets = rng.integers(1, model.max_length + 1, size=len(sequences))
    cut: list[np.ndarray] = []
    for sequence, offset in zip(sequences, offsets, strict=True):
        found = pieces(sequence, model.max_length, offset, model.overlap)
        cut += [piece for piece in found if len(piece) > model.overlap]  # others have no target
    # Batches hold pieces of equal length, so that almost nothing is computed for padding.
    cut = [cut[i] for i in rng.permutation(len(cut))]
    cut.sort(key=len)
    ends = np.cumsum([len(piece) for piece in cut]) // size
    batches = np.split(np.arange(len(cut)), np.flatnonzero(np.diff(ends)) + 1)
    for batch in rng.permutation(len(batches)):
        yield [cut[i] for i in batches[batch]]
