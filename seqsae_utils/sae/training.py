"""One trainer for all variants."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import Checkpoint
from ..normalisation import Normalisation
from .variants import SAE, Config, create

SECONDS_BETWEEN_CHECKPOINTS = 30


@dataclass(frozen=True)
class Training:
    """How the dictionary is trained: Adam, linear warm-up, linear decay over the last fifth.

    At each tenth of the way, but for the last two, features that are dead begin anew.
    """

    learning_rate: float = 1e-3
    steps: int = 4_000
    batch_size: int = 1_024
    warmup_steps: int = 200
    dead_after: int = 100_000  # positions without firing after which a feature counts as dead
    center: str = "mean"  # where b_dec starts: mean or median (the geometric one)
    seed: int = 0

    def __post_init__(self):
        for name in ("learning_rate", "steps", "batch_size", "dead_after"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if self.center not in ("mean", "median"):
            raise ValueError(f"center {self.center!r}: choose from mean, median")

    def learning_rate_factor(self, step: int) -> float:
        """Share of the learning rate at a step, from 0.

        >>> [Training(steps=100, warmup_steps=10).learning_rate_factor(s) for s in (0, 50, 90)]
        [0.1, 1.0, 0.5]
        """
        warmup = (step + 1) / max(1, self.warmup_steps)
        decay = (self.steps - step) / (0.2 * self.steps)
        return min(1.0, warmup, decay)


def fit(
    states: np.ndarray,
    config: Config,
    training: Training,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> tuple[SAE, pd.DataFrame]:
    """Create an SAE and `train` it: one seed decides weights and batches.

    Parameters
    ----------
    states
        Hidden states [n_positions, d_in] of any model: an array, or a memory map of a file.

    Returns
    -------
    sae : ready for hidden states as they come
    history : what `train` returned
    """
    torch.manual_seed(training.seed)
    sae = create(config)
    history = train(sae, states, training, checkpoint, progress)
    return sae.eval(), history


def train(
    sae: SAE,
    states: np.ndarray,
    training: Training,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a new SAE in place on hidden states [n_positions, d_in].

    The states are brought to mean 0 and standard deviation 1 batch by batch; when training ends,
    that is folded into the weights.

    Parameters
    ----------
    checkpoint
        File that receives the state every half a minute. If it exists, training goes on from
        there and ends with the same weights as if it had not been interrupted.
    progress
        Show a bar: several at a time would write over each other.

    Returns
    -------
    pandas.DataFrame
        A row for each of about 25 steps: step, explained_variance, l0, dead_fraction.

    Raises
    ------
    ValueError
        Before any step: states of another width than d_in, fewer positions than a batch,
        values that are not finite, or the checkpoint of another training.
    FloatingPointError
        If the loss ceases to be finite.
    """
    if sae.std != 1.0:
        raise ValueError("this SAE has been trained: make a new one with create")
    _check(sae.config, states, training)
    normalisation = Normalisation.of(states)
    with _threads_that_pay(training.batch_size * sae.W_enc.numel()):
        history = _train(sae, states, normalisation, training, checkpoint, progress)
    sae.fold(normalisation)
    return history


@contextmanager
def _threads_that_pay(products: int) -> Iterator[None]:
    """One thread for steps of up to 2^28 products: more would wait for each other (measured)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if products <= 2**28 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(sae, states, normalisation, training, checkpoint, progress) -> pd.DataFrame:
    given = asdict(sae.config) | asdict(training)
    keeper = Checkpoint(checkpoint, train, **given, states=states, weights=sae.state_dict())
    start_at_center(sae, states, normalisation, training.center)
    sae.begin()
    device = sae.W_dec.device
    parameters = list(sae.parameters())
    optimizer = torch.optim.Adam(parameters, training.learning_rate, fused=True)
    silent = torch.zeros(sae.config.d_sae, device=device)  # positions since each last fired
    first, history = 0, []
    tenth, every = max(1, training.steps // 10), max(1, training.steps // 25)
    if found := keeper.load({"sae": sae}, optimizer):
        (first, history), tensors = found
        silent = tensors["features"]["silent"].to(device)
    batches = _Batches(states, normalisation, training, device)
    saved = time.monotonic()
    steps = range(first, training.steps)
    if progress:
        name = f"{sae.config.variant} steps"
        steps = tqdm(steps, name, initial=first, total=training.steps, leave=False)
    for step in steps:
        x = batches[step]
        dead = silent > training.dead_after
        total, fired = sae.loss(x, dead if dead.any() else None)
        if not math.isfinite(total.item()):
            raise FloatingPointError(
                f"loss is {total.item()} at step {step}: "
                f"lower learning_rate={training.learning_rate}"
            )
        optimizer.param_groups[0]["lr"] = training.learning_rate * training.learning_rate_factor(
            step
        )
        for parameter in parameters:  # as zero_grad, which records itself for a profiler
            parameter.grad = None
        total.backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        sae.constrain()
        silent.add_(len(x)).masked_fill_(fired, 0.0)
        if step % tenth == 0 and step < 0.8 * training.steps and dead.any():
            silent[_resample(sae, optimizer, dead, x, seed=[training.seed, step])] = 0.0
        if step % every == 0 or step == training.steps - 1:
            found = _batch_quality(sae, x)
            history.append({"step": step, **found, "dead_fraction": float(dead.float().mean())})
        if checkpoint and time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
            state = {"sae": sae, "features": {"silent": silent}}
            keeper.save([step + 1, history], state, optimizer)
            saved = time.monotonic()
    return pd.DataFrame(history)


def _check(config: Config, states: np.ndarray, training: Training) -> None:
    n_positions, d_in = states.shape
    if d_in != config.d_in:
        raise ValueError(
            f"the hidden states have {d_in} dimensions, the SAE expects {config.d_in}: "
            f"make it with d_in={d_in}"
        )
    if n_positions < training.batch_size:
        raise ValueError(
            f"batch_size={training.batch_size} is over the {n_positions} positions: "
            f"take at most {n_positions}"
        )


class _Batches:
    """Batch number i of an endless, shuffled sequence; each epoch sees every row once."""

    def __init__(self, states, normalisation, training: Training, device):
        self.states, self.normalisation, self.device = states, normalisation, device
        self.size, self.seed = training.batch_size, training.seed
        self.per_epoch = len(states) // training.batch_size
        self.epoch = -1

    def __getitem__(self, i: int) -> Tensor:
        epoch, batch = divmod(i, self.per_epoch)
        if epoch != self.epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self.epoch, self.order = epoch, rng.permutation(len(self.states))
        rows = np.sort(self.order[batch * self.size : (batch + 1) * self.size])
        return as_input(np.take(self.states, rows, axis=0), self.normalisation, self.device)


def as_input(states: np.ndarray, normalisation: Normalisation, device="cpu") -> Tensor:
    """Normalised hidden states as training takes them, in float32 whatever they come in."""
    x = normalisation.apply(np.asarray(states)).astype(np.float32, copy=False)
    return torch.from_numpy(x).to(device)


def start_at_center(
    sae: SAE, states: np.ndarray, normalisation: Normalisation, center: str = "mean"
) -> None:
    """Set b_dec to the center of the states, so that the directions need not describe it."""
    mean = normalisation.apply(np.mean(states, axis=0, dtype=np.float64))
    if center == "median":
        sample = states[:: max(1, len(states) // 50_000)].astype(np.float64)
        mean = geometric_median(normalisation.apply(sample))
    with torch.no_grad():
        sae.b_dec.copy_(torch.from_numpy(mean))


def geometric_median(points: np.ndarray, iterations: int = 100) -> np.ndarray:
    """The point with the least sum of distances to points [n, d], by Weiszfeld's iteration.

    >>> geometric_median(np.array([[0.0], [1.0], [100.0]])).round(3)
    array([1.])
    """
    center = points.mean(axis=0)
    for _ in range(iterations):
        distance = np.linalg.norm(points - center, axis=1).clip(1e-12)
        moved = (points / distance[:, None]).sum(axis=0) / (1 / distance).sum()
        if np.linalg.norm(moved - center) < 1e-9:
            break
        center = moved
    return moved


@torch.no_grad()
def untrained(config: Config, states: np.ndarray, directions: np.ndarray | None = None) -> SAE:
    """The control: directions around the mean of the states that nothing has trained.

    Random ones, as training starts from, or `directions` [d_sae, d_in] of any length. Many
    directions that overlap reconstruct too much together. To be a fair control they get the one
    scale that fits best, as training would find it.
    """
    sae, normalisation = create(config), Normalisation.of(states)
    if directions is not None:
        sae.W_dec.copy_(torch.from_numpy(np.asarray(directions, np.float32)))
        sae.constrain()
        sae.W_enc.copy_(sae.W_dec.T)
    start_at_center(sae, states, normalisation)
    some = as_input(states[:: max(1, len(states) // 10_000)], normalisation)
    parts, whole = sae(some) - sae.b_dec, some - sae.b_dec
    sae.W_enc *= (parts * whole).sum() / parts.square().sum().clamp(min=1e-12)
    sae.fold(normalisation)
    return sae.eval()


@torch.no_grad()
def _resample(sae: SAE, optimizer, dead: Tensor, x: Tensor, seed) -> Tensor:
    """Point dead features at what is reconstructed worst: states drawn by squared error [1]_.

    None is drawn twice, for features that begin as twins stay twins. So features that are left
    over stay dead; returns those that began anew [n].

    .. [1] Bricken et al., Towards Monosemanticity, transformer-circuits.pub, 2023, "Neuron
       Resampling".
    """
    x = x.unique(dim=0)
    residual = (x - sae(x)).cpu().numpy().astype(np.float64)
    error = np.square(residual).sum(axis=1) ** 2
    chance = error / (error.sum() or 1.0)
    features = dead.nonzero()[: np.count_nonzero(chance), 0]
    if not len(features):  # nothing is missed
        return features
    rows = np.random.default_rng(seed).choice(len(x), len(features), replace=False, p=chance)
    directions = torch.from_numpy(residual[rows]).to(sae.W_dec)
    sae.reset(features, torch.nn.functional.normalize(directions, dim=1))
    for name, parameter in sae.named_parameters():  # their gradients of before mean nothing now
        if name != "b_dec":
            for moment in ("exp_avg", "exp_avg_sq"):
                values = optimizer.state[parameter][moment]
                (values.T if name == "W_enc" else values)[features] = 0.0
    return features


@torch.no_grad()
def _batch_quality(sae: SAE, x: Tensor) -> dict[str, float]:
    code = sae.encode(x)
    missed = (x - sae.decode(code)).square().sum()
    return {
        "explained_variance": float(1 - missed / (x - x.mean(dim=0)).square().sum()),
        "l0": float(code.count_nonzero() / len(x)),
    }
