"""Sparse autoencoders: a hidden state as a sparse sum of dictionary directions.

For a normalised hidden state x [d_in] and a dictionary of d_sae directions,

    f = activation((x - b_dec) @ W_enc + b_enc)        the code, [d_sae], mostly zero
    r = f @ W_dec + b_dec                              the reconstruction, [d_in]

Two activations, two ways to make the code sparse:

* ``topk`` keeps the k largest values, and an auxiliary loss lets dead features learn what the
  others missed [1]_;
* ``l1`` is a ReLU with an L1 penalty on the code [2]_, the default of the paper [3]_.

.. [1] Gao et al., Scaling and evaluating sparse autoencoders, arXiv 2406.04093.
.. [2] Bricken et al., Towards Monosemanticity, transformer-circuits.pub, 2023.
.. [3] Klenitskiy et al., Sparse Autoencoders for Sequential Recommendation Models: Interpretation
   and Flexible Control, arXiv 2507.12202.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor, nn
from tqdm import tqdm

from . import metrics
from .activations import Normalisation, hooked
from .recommender import Transformer, rank_items
from .workspace import write_json

#: Our variants, and what SAELens calls them.
ARCHITECTURES = {"topk": "topk", "l1": "standard"}
#: The SAELens whose on-disk layout `save` writes. It drops the metadata of files that name none.
SAELENS_VERSION = "6.54.12"


@dataclass(frozen=True)
class Config:
    """Size and kind of the dictionary. `k` belongs to ``topk``, `l1_coefficient` to ``l1``."""

    d_in: int
    d_sae: int = 512
    variant: str = "topk"
    k: int = 8
    l1_coefficient: float = 0.1

    def __post_init__(self):
        if self.variant not in ARCHITECTURES:
            raise ValueError(f"variant {self.variant!r}: choose from {', '.join(ARCHITECTURES)}")
        if min(self.d_in, self.d_sae) < 1:
            raise ValueError(f"d_in={self.d_in}, d_sae={self.d_sae}: both must be at least 1")
        if self.variant == "topk" and not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k={self.k} must lie between 1 and d_sae={self.d_sae}")
        if not 0 <= self.l1_coefficient < float("inf"):
            raise ValueError(f"l1_coefficient={self.l1_coefficient} must be 0 or positive")


@dataclass(frozen=True)
class Training:
    """How the dictionary is trained: Adam, linear warm-up, linear decay over the last fifth."""

    learning_rate: float = 1e-3
    steps: int = 4_000
    batch_size: int = 1_024
    warmup_steps: int = 200
    aux_coefficient: float = 1 / 32  # weight of the auxiliary loss of topk
    dead_after: int = 100_000  # positions without firing after which a feature counts as dead
    seed: int = 0

    def __post_init__(self):
        for name in ("learning_rate", "steps", "batch_size"):
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


class SAE(nn.Module):
    """A sparse autoencoder with the parameters and names that the field uses.

    W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in] with rows of norm 1, b_dec [d_in].
    As it is made, with random directions, it is the control to hold a trained one against.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        directions = F.normalize(torch.randn(config.d_sae, config.d_in), dim=1)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))

    def pre_activations(self, x: Tensor) -> Tensor:
        """What the features see before the activation: [..., d_in] -> [..., d_sae]."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def activate(self, pre: Tensor) -> Tensor:
        """From pre-activations to the sparse code, both [..., d_sae]."""
        return keep_top(pre, self.config.k) if self.config.variant == "topk" else pre.relu()

    def encode(self, x: Tensor) -> Tensor:
        """The sparse code [..., d_sae] of normalised hidden states [..., d_in]."""
        return self.activate(self.pre_activations(x))

    def decode(self, code: Tensor) -> Tensor:
        """The reconstruction [..., d_in] of a code [..., d_sae]."""
        return code @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Rows of norm 1, so that a feature's value is a length in the space of x."""
        self.W_dec.copy_(F.normalize(self.W_dec, dim=1))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Drop the part of the decoder's gradient that only changes lengths; the norm is fixed."""
        along = (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True)
        self.W_dec.grad -= along * self.W_dec


def keep_top(values: Tensor, k: int) -> Tensor:
    """Keep the k largest values of each row where they are positive; the rest is zero.

    >>> keep_top(torch.tensor([[3.0, -1.0, 2.0, 1.0]]), k=2)
    tensor([[3., 0., 2., 0.]])
    """
    top = values.topk(k, dim=-1)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values.relu())


def loss(sae: SAE, x: Tensor, dead: Tensor, aux_coefficient: float) -> tuple[Tensor, Tensor]:
    """Training loss of a batch x [batch, d_in], and its code [batch, d_sae].

    Both variants pay for the squared error, summed over dimensions. ``l1`` adds
    ``l1_coefficient * |f|_1``. ``topk`` adds AuxK: the k_aux = d_in / 2 strongest DEAD features
    ([d_sae] booleans in `dead`) reconstruct the residual, and the squared error that they leave
    is added with weight `aux_coefficient` (appendix A.2 of arXiv 2406.04093).
    """
    pre = sae.pre_activations(x)
    code = sae.activate(pre)
    residual = x - sae.decode(code)
    error = residual.square().sum(dim=1).mean()
    if sae.config.variant == "l1":
        return error + sae.config.l1_coefficient * code.abs().sum(dim=1).mean(), code
    if not dead.any():
        return error, code
    k_aux = min(sae.config.d_in // 2, int(dead.sum()))
    dead_code = keep_top(pre.masked_fill(~dead, -torch.inf), k_aux)
    missed = residual.detach() - dead_code @ sae.W_dec
    return error + aux_coefficient * missed.square().sum(dim=1).mean(), code


def train(
    sae: SAE, states: np.ndarray, normalisation: Normalisation, training: Training
) -> pd.DataFrame:
    """Train in place on hidden states [n_positions, d_in], which are normalised batch by batch.

    Returns
    -------
    pandas.DataFrame
        A row for each of about 200 steps: step, explained_variance, l0, dead_fraction.

    Raises
    ------
    ValueError
        Before any step: states of another width than d_in, fewer positions than a batch, or
        values that are not finite.
    FloatingPointError
        If the loss ceases to be finite.
    """
    n_positions, d_in = states.shape
    if d_in != sae.config.d_in:
        raise ValueError(
            f"the hidden states have {d_in} dimensions, the SAE expects {sae.config.d_in}: "
            f"make it with d_in={d_in}"
        )
    if n_positions < training.batch_size:
        raise ValueError(
            f"batch_size={training.batch_size} is over the {n_positions} positions: "
            f"take at most {n_positions}"
        )
    rng = np.random.default_rng(training.seed)
    batch_of = _shuffled(n_positions, training.batch_size, rng)
    start_at_mean(sae, states, normalisation)
    optimizer = torch.optim.Adam(sae.parameters(), training.learning_rate, betas=(0.9, 0.999))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, training.learning_rate_factor)
    silent = torch.zeros(sae.config.d_sae)  # positions since each feature last fired
    history, every = [], max(1, training.steps // 200)
    for step in tqdm(range(training.steps), desc=f"{sae.config.variant} steps", leave=False):
        x = _input(states[next(batch_of)], normalisation)
        total, code = loss(sae, x, silent > training.dead_after, training.aux_coefficient)
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"loss is {total.item()} at step {step}: "
                f"lower learning_rate={training.learning_rate}"
            )
        optimizer.zero_grad()
        total.backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        scheduler.step()
        sae.normalise_decoder()
        fired = (code.detach() > 0).any(dim=0)
        silent = torch.where(fired, 0.0, silent + len(x))
        if step % every == 0 or step == training.steps - 1:
            dead_fraction = float((silent > training.dead_after).float().mean())
            history.append({"step": step, **_batch_quality(sae, x, code.detach())})
            history[-1]["dead_fraction"] = dead_fraction
    return pd.DataFrame(history)


def _input(states: np.ndarray, normalisation: Normalisation) -> Tensor:
    """Normalised hidden states as the SAE takes them, in float32 whatever they come in."""
    return torch.from_numpy(normalisation.apply(np.asarray(states)).astype(np.float32, copy=False))


def start_at_mean(sae: SAE, states: np.ndarray, normalisation: Normalisation) -> None:
    """Set b_dec to the mean of the hidden states, so that the directions need not describe it."""
    mean = normalisation.apply(np.mean(states, axis=0, dtype=np.float64))
    if not np.isfinite(mean).all():  # one bad value anywhere shows in the mean of its dimension
        raise ValueError(
            f"hidden states: NaN or infinite values in dimensions "
            f"{np.flatnonzero(~np.isfinite(mean)).tolist()}; "
            "look at the recommender's training, then run notebook 03_activations again"
        )
    with torch.no_grad():
        sae.b_dec.copy_(torch.from_numpy(mean))


def untrained(config: Config, states: np.ndarray, normalisation: Normalisation) -> SAE:
    """The control: random directions around the mean of the states, as training starts from."""
    sae = SAE(config)
    start_at_mean(sae, states, normalisation)
    return sae


def _shuffled(n_positions: int, batch_size: int, rng):
    """Batches of row numbers without end; each epoch sees every row once, in a new order."""
    while True:
        order = rng.permutation(n_positions)
        for start in range(0, n_positions - batch_size + 1, batch_size):
            yield np.sort(order[start : start + batch_size])


@torch.no_grad()
def _batch_quality(sae: SAE, x: Tensor, code: Tensor) -> dict[str, float]:
    missed = (x - sae.decode(code)).square().sum()
    return {
        "explained_variance": float(1 - missed / (x - x.mean(dim=0)).square().sum()),
        "l0": float((code > 0).sum(dim=1).float().mean()),
    }


@torch.no_grad()
def encode(
    sae: SAE, states: np.ndarray, normalisation: Normalisation, batch_size: int = 4_096
) -> sparse.csr_array:
    """Sparse codes [n_positions, d_sae] of hidden states [n_positions, d_in]."""
    rows = []
    for start in range(0, len(states), batch_size):
        x = _input(states[start : start + batch_size], normalisation)
        rows.append(sparse.csr_array(sae.encode(x).numpy()))
    return sparse.vstack(rows, format="csr")


def density(codes: sparse.csr_array) -> np.ndarray:
    """Share of positions on which each feature fires: [n_positions, d_sae] -> [d_sae]."""
    return np.diff(codes.tocsc().indptr) / codes.shape[0]


def quality(
    sae: SAE, states: np.ndarray, codes: sparse.csr_array, normalisation: Normalisation
) -> dict:
    """Reconstruction and sparsity on hidden states and their codes.

    Returns
    -------
    dict
        explained_variance (share of the variance kept), l0 (features that fire per position),
        dead_fraction (share of features that never fire here), dense_fraction (that fire on over
        half of the positions). Warns where L0 exceeds d_in: such a code is not sparse.
    """
    missed = total = 0.0
    mean = normalisation.apply(np.mean(states, axis=0, dtype=np.float64))
    weights, bias = sae.W_dec.detach().numpy(), sae.b_dec.detach().numpy()
    for start in range(0, len(states), 4_096):
        x = normalisation.apply(np.asarray(states[start : start + 4_096]))
        reconstruction = codes[start : start + 4_096] @ weights + bias
        missed += np.square(x - reconstruction, dtype=np.float64).sum()
        total += np.square(x - mean).sum()
    fired = density(codes)
    l0 = codes.nnz / len(states)
    if l0 > sae.config.d_in:
        warnings.warn(
            f"L0 is {l0:.0f} in a space of {sae.config.d_in} dimensions: this code is not sparse",
            stacklevel=2,
        )
    return {
        "explained_variance": 1 - missed / total,
        "l0": l0,
        "dead_fraction": float((fired == 0).mean()),
        "dense_fraction": float((fired > 0.5).mean()),
    }


def reconstructed(sae: SAE, normalisation: Normalisation) -> Callable[[Tensor], Tensor]:
    """For `activations.hooked`: put the reconstruction in place of hidden states.

    This measures what the SAE misses. To steer, use `control`, which keeps what the SAE misses.
    """
    return lambda hidden: normalisation.invert(sae(normalisation.apply(hidden)))


def cost_of_replacing(
    model: Transformer,
    site: str,
    replacements: dict[str, Callable[[Tensor], Tensor | None]],
    histories: list[np.ndarray],
    targets: np.ndarray,
) -> pd.DataFrame:
    """What the recommender loses when the hidden states at `site` are replaced.

    Parameters
    ----------
    replacements
        Name -> function for `activations.hooked`. ``original`` and ``mean`` must be among them:
        they are the two ends of the scale.

    Returns
    -------
    pandas.DataFrame
        A row for each replacement: ndcg@10, loss (cross-entropy of the next item over the whole
        catalogue, in nats), and how much of the way from ``mean`` to ``original`` each of the two
        recovers: ndcg_recovered, loss_recovered. 1 is no loss, 0 is no better than the mean.
    """
    for end in ("original", "mean"):
        if end not in replacements:
            raise ValueError(f"replacements: {end!r} is missing, an end of the scale")
    rows = {}
    for name, function in replacements.items():
        with hooked(model, site, function):
            ranking = rank_items(model.next_item_scores, histories, targets)
        rows[name] = {"ndcg@10": metrics.ndcg(ranking.rank).mean(), "loss": ranking.loss.mean()}
    table = pd.DataFrame(rows).T
    recovered = (table - table.loc["mean"]) / (table.loc["original"] - table.loc["mean"])
    table["ndcg_recovered"], table["loss_recovered"] = recovered["ndcg@10"], recovered["loss"]
    return table.rename_axis("replacement").reset_index()


def save(sae: SAE, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` in the on-disk layout of SAELens."""
    config = asdict(sae.config)
    cfg = {
        "architecture": ARCHITECTURES[sae.config.variant],
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": SAELENS_VERSION, "seqsae": config},
    }
    if sae.config.variant == "topk":
        cfg |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    write_json(folder / "cfg.json", cfg)
    tensors = {name: tensor.detach().contiguous() for name, tensor in sae.state_dict().items()}
    save_file(tensors, folder / "sae_weights.safetensors")


def load(folder: Path) -> SAE:
    """Read an SAE that `save` wrote."""
    cfg = json.loads((folder / "cfg.json").read_text())
    if "seqsae" not in cfg.get("metadata", {}):
        raise ValueError(f"{folder / 'cfg.json'}: not written by seqsae_utils.sae.save")
    sae = SAE(Config(**cfg["metadata"]["seqsae"]))
    sae.load_state_dict(load_file(folder / "sae_weights.safetensors"))
    return sae.eval()
