"""One trainer for all variants."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import Checkpoint
from ..normalisation import Normalisation
from .variants import SAE, Config, create

if TYPE_CHECKING:
    import pandas as pd

SECONDS_BETWEEN_CHECKPOINTS = 30


@dataclass(frozen=True)
class Training:
    """Adam with linear warm-up, and linear decay over the last fifth; ValueError for bad settings.

    Variants without AuxK begin their dead features anew at each tenth of the way but the last two.
    """

    learning_rate: float = 1e-3
    steps: int = 4_000
    batch_size: int = 1_024
    warmup_steps: int = 200
    dead_after: int = 100_000  # positions without firing after which a feature counts as dead
    seed: int = 0

    def __post_init__(self):
        for name in ("learning_rate", "steps", "batch_size", "dead_after"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")

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
    """Train a dictionary on hidden states of any model; the place to begin.

    The states [n_positions, d_in] are as the model has them, neither centred nor scaled: an array,
    or a memory map (``np.load(file, mmap_mode="r")``) of which a batch at a time is read.
    `training.seed` decides the initial weights and the batches: the same inputs and number of
    threads give the same dictionary. A small one, 64 x 512, is trained best on one thread,
    ``torch.set_num_threads(1)``. Returns the SAE, which takes states as they are, and the history
    of `train`; raises what it raises.
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

    The states are normalised batch by batch; when training ends, that is folded into the weights.
    The file `checkpoint` receives the state every half minute; if it exists, training goes on from
    there, to the same weights. Returns a row for each of about 25 steps: step, explained_variance,
    l0, dead_fraction.

    Raises ValueError, before any step, for an SAE that was trained before, states of another width
    than d_in, fewer positions than a batch, values that are all equal or not finite, or the
    checkpoint of another training; FloatingPointError if the loss ceases to be finite.
    """
    import pandas as pd

    _check(sae, states, training)
    normalisation = Normalisation.of(states)
    given = asdict(sae.config) | asdict(training)
    keeper = Checkpoint(checkpoint, train, **given, states=states, weights=sae.state_dict())
    start_at_mean(sae, states, normalisation)
    sae.begin()
    device = sae.W_dec.device
    optimizer = torch.optim.Adam(sae.parameters(), training.learning_rate, fused=True)
    silent = torch.zeros(sae.config.d_sae, device=device)  # positions since each last fired
    first, history = 0, []
    tenth, every = max(1, training.steps // 10), max(1, training.steps // 25)
    if found := keeper.load({"sae": sae}, optimizer):
        (first, history), tensors = found
        silent = tensors["features"]["silent"].to(device)
    saved = time.monotonic()
    steps = range(first, training.steps)
    if progress:
        name = f"{sae.config.variant} steps"
        steps = tqdm(steps, name, initial=first, total=training.steps, leave=False)
    batches = _ahead(_batches(states, training, first), normalisation, device)
    any_dead = bool((silent > training.dead_after).any())
    for step, x in zip(steps, batches, strict=False):  # batches never end
        dead = silent > training.dead_after
        loss, fired = sae.loss(x, dead if any_dead else None)
        factor = training.learning_rate_factor(step)
        optimizer.param_groups[0]["lr"] = training.learning_rate * factor
        optimizer.zero_grad()
        loss.backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        sae.constrain()
        silent.add_(len(x)).masked_fill_(fired, 0.0)
        asked = loss.isfinite(), (silent > training.dead_after).any()
        finite, any_dead = torch.stack(asked).tolist()  # at once: each answer waits for a GPU
        if not finite:
            way_out = f"lower learning_rate={training.learning_rate}"
            raise FloatingPointError(f"loss is {loss.item()} at step {step}: {way_out}")
        if sae.resamples and step % tenth == 0 and step < 0.8 * training.steps and dead.any():
            silent[_resample(sae, optimizer, dead, x, seed=[training.seed, step])] = 0.0
        if step % every == 0 or step == training.steps - 1:
            found = _batch_quality(sae, x)
            history.append({"step": step, **found, "dead_fraction": float(dead.float().mean())})
        if checkpoint and time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
            state = {"sae": sae, "features": {"silent": silent}}
            keeper.save([step + 1, history], state, optimizer)
            saved = time.monotonic()
    sae.fold(normalisation)
    return pd.DataFrame(history)


def _check(sae: SAE, states: np.ndarray, training: Training) -> None:
    if sae.std != 1.0:
        raise ValueError("this SAE has been trained: make a new one with create")
    n_positions, d_in = states.shape
    if d_in != sae.config.d_in:
        expected = f"the SAE expects {sae.config.d_in}: make it with d_in={d_in}"
        raise ValueError(f"the hidden states have {d_in} dimensions, {expected}")
    if n_positions < training.batch_size:
        over = f"is over the {n_positions} positions: take at most {n_positions}"
        raise ValueError(f"batch_size={training.batch_size} {over}")


def _batches(states: np.ndarray, training: Training, first: int = 0) -> Iterator[np.ndarray]:
    """States [batch_size, d_in] from step `first`, without end: shuffled anew each epoch."""
    size, per_epoch = training.batch_size, len(states) // training.batch_size
    for step in count(first):
        epoch, batch = divmod(step, per_epoch)
        if batch == 0 or step == first:
            order = np.random.default_rng([training.seed, epoch]).permutation(len(states))
        rows = np.sort(order[batch * size : (batch + 1) * size])
        yield np.take(states, rows, axis=0)


def _ahead(
    batches: Iterator[np.ndarray], normalisation: Normalisation, device: torch.device
) -> Iterator[Tensor]:
    """Normalised batches on the device; a GPU learns from one while the next one is read."""
    if device.type != "cuda":
        yield from (as_input(x, normalisation).to(device) for x in batches)
        return
    with ThreadPoolExecutor(1) as reader:
        pinned = (torch.from_numpy(x).pin_memory() for x in batches)
        read = reader.submit(next, pinned)
        while True:
            x = read.result().to(device, non_blocking=True)
            read = reader.submit(next, pinned)
            yield normalisation.apply(x.float())


def as_input(states: np.ndarray, normalisation: Normalisation) -> Tensor:
    """Hidden states [n, d_in] as training takes them: normalised, float32 whatever they come in."""
    return torch.from_numpy(normalisation.apply(np.asarray(states)).astype(np.float32, copy=False))


@torch.no_grad()
def start_at_mean(sae: SAE, states: np.ndarray, normalisation: Normalisation) -> None:
    """Set b_dec to the mean of states [n_positions, d_in]: no direction has to describe it."""
    mean = normalisation.apply(np.mean(states, axis=0, dtype=np.float64))
    sae.b_dec.copy_(torch.from_numpy(mean))


@torch.no_grad()
def untrained(config: Config, states: np.ndarray, directions: np.ndarray | None = None) -> SAE:
    """A baseline: directions that nothing has trained, around the mean of states [n, d_in].

    They are random, or `directions` [d_sae, d_in] of any length. Directions that overlap
    reconstruct too much together, so the code gets the one scale that fits best.
    """
    sae, normalisation = create(config), Normalisation.of(states)
    if directions is not None:
        sae.W_dec.copy_(torch.from_numpy(np.asarray(directions, np.float32)))
        sae.constrain()
        sae.W_enc.copy_(sae.W_dec.T)
    start_at_mean(sae, states, normalisation)
    some = as_input(states[:: max(1, len(states) // 10_000)], normalisation)
    parts, whole = sae(some) - sae.b_dec, some - sae.b_dec
    sae.W_enc *= (parts * whole).sum() / parts.square().sum().clamp(min=1e-12)
    sae.fold(normalisation)
    return sae.eval()


@torch.no_grad()
def _resample(sae: SAE, optimizer, dead: Tensor, x: Tensor, seed) -> Tensor:
    """Point dead features at what is reconstructed worst: states drawn by their loss, squared [1]_.

    No state is drawn twice: features with the same initial weights never separate. Returns the
    features that began anew [n].

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
    for name, parameter in sae.named_parameters():  # Adam must forget what they were
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
