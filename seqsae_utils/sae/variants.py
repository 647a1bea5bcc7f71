"""Sparse autoencoders: a hidden state as a sparse sum of dictionary directions.

    z = (x - b_dec) @ W_enc + b_enc                    the pre-activations, [d_sae]
    f = activation(z)                                  the code, [d_sae], mostly zero
    r = f @ W_dec + b_dec                              the reconstruction of x, [d_in]

The variants differ in the activation and in what makes the code sparse; each is a class with its
`activate` and its `loss`. Errors are squared, summed over dimensions and averaged over positions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..normalisation import Normalisation
from .sparse import Autoencode, dense_loss, nth_largest


@dataclass(frozen=True)
class Config:
    """Size and kind of the dictionary, and settings of each variant; ValueError for bad ones."""

    d_in: int
    d_sae: int = 512
    variant: str = "topk"
    k: int = 8  # active features of a position (topk), or on average (batchtopk, matryoshka)
    l1_coefficient: float = 0.1  # weight of the L1 norm of the code (relu, gated)
    l0_coefficient: float = 0.1  # weight of the number of active features (jumprelu)
    bandwidth: float = 0.5  # width of the window in which thresholds learn (jumprelu)
    groups: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # nested shares (matryoshka)

    def __post_init__(self):
        object.__setattr__(self, "groups", tuple(self.groups))  # JSON has lists only
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r}: choose from {', '.join(VARIANTS)}")
        if min(self.d_in, self.d_sae) < 1:
            raise ValueError(f"d_in={self.d_in}, d_sae={self.d_sae}: both must be at least 1")
        if issubclass(VARIANTS[self.variant], TopK) and not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k={self.k} must lie between 1 and d_sae={self.d_sae}")
        for name in ("l1_coefficient", "l0_coefficient"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or positive")
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth={self.bandwidth} must be above 0")
        shares = self.groups
        if not (shares and 0 < shares[0] and shares[-1] == 1 and sorted(set(shares)) == [*shares]):
            raise ValueError(f"groups={shares} must be ascending shares of d_sae, up to 1")

    @property
    def group_sizes(self) -> list[int]:
        """Features in each nested dictionary, ascending; only Matryoshka has more than one.

        >>> Config(64, 512, "matryoshka").group_sizes
        [32, 64, 128, 256, 512]
        """
        shares = self.groups if self.variant == "matryoshka" else (1.0,)
        return sorted({max(1, int(share * self.d_sae)) for share in shares})


class SAE(nn.Module):
    """What all variants share.

    W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in] with rows of norm 1, b_dec [d_in].
    `std` is the standard deviation of the hidden states it was trained on, the unit in which
    steering counts; 1.0 before it is trained.
    """

    #: Length of the encoder's directions at first: at 1, a dense code reconstructs far too much.
    encoder_scale = 0.1
    #: Initial biases are drawn from U(-spread, 0), in units of `encoder_scale`: with equal ones L1
    #: leaves pairs of like features that fire together.
    spread = 0.0
    #: Whether dead features begin anew in training, see `training._resample`.
    resamples = True
    #: The parameters with one value for each feature, and what they start from.
    starts = {"b_enc": 0.0}
    #: Those that scale with x.
    lengths: tuple[str, ...] = ("b_enc",)

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.std = 1.0
        directions = F.normalize(torch.randn(config.d_sae, config.d_in), dim=1)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.T.clone(memory_format=torch.contiguous_format))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        for name, value in self.starts.items():
            setattr(self, name, nn.Parameter(torch.full((config.d_sae,), value)))

    def pre_activations(self, x: Tensor) -> Tensor:
        """What the features see before the activation: [..., d_in] -> [..., d_sae]."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def activate(self, pre: Tensor) -> Tensor:
        """From pre-activations to the sparse code, both [..., d_sae]; each variant defines it."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Hidden states [..., d_in] to their sparse code [..., d_sae]."""
        return self.activate(self.pre_activations(x))

    def decode(self, code: Tensor) -> Tensor:
        """The reconstruction [..., d_in] of a code [..., d_sae]."""
        return code @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def loss(self, x: Tensor, dead: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Training loss of a batch x [batch, d_in], and which features fired [d_sae], by variant.

        `dead` [d_sae] tells which features have not fired for long; None stands for none.
        """
        raise NotImplementedError

    @torch.no_grad()
    def fold(self, normalisation: Normalisation) -> None:
        """From weights for (x - mean) / std to weights for x; codes become `std` times as large."""
        for name in self.lengths:
            getattr(self, name).mul_(normalisation.std)
        self.b_dec.mul_(normalisation.std).add_(normalisation.mean)
        self.std *= normalisation.std

    @torch.no_grad()
    def begin(self) -> None:
        """Before the first step: a short encoder, and different thresholds."""
        self.W_enc *= self.encoder_scale
        self.b_enc -= self.encoder_scale * self.spread * torch.rand_like(self.b_enc)

    @torch.no_grad()
    def constrain(self) -> None:
        """After a step: rows of norm 1, so that a feature's value is a length in the space of x."""
        length = torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
        self.W_dec.div_(length.clamp_(min=1e-12))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Drop the part of the decoder's gradient that only changes lengths; the norm is fixed."""
        along = (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True)
        self.W_dec.grad -= along * self.W_dec

    @torch.no_grad()
    def reset(self, features: Tensor, directions: Tensor) -> None:
        """Begin features [n] anew, along directions of norm 1 [n, d_in]; they fire at once."""
        self.W_dec[features] = directions
        self.W_enc[:, features] = self.W_enc.norm(dim=0).mean() * directions.T
        for name, value in self.starts.items():
            getattr(self, name)[features] = value


class ReLU(SAE):
    """A ReLU, and a penalty on the L1 norm of the code [1]_: the default of the paper [2]_.

        loss = |x - r|^2 + l1_coefficient * |f|_1

    .. [1] Bricken et al., Towards Monosemanticity, transformer-circuits.pub, 2023.
    .. [2] Klenitskiy et al., Sparse Autoencoders for Sequential Recommendation Models:
       Interpretation and Flexible Control, arXiv 2507.12202.
    """

    spread = 2.5

    def activate(self, pre: Tensor) -> Tensor:
        return pre.relu()

    def loss(self, x, dead=None):
        code = self.encode(x)
        error, l1 = squared_error(x, self.decode(code)), code.sum() / len(x)
        return error + self.config.l1_coefficient * l1, code.detach().amax(dim=0) > 0


class TopK(SAE):
    """The k largest pre-activations of each position; dead features learn from AuxK [1]_.

        loss = |x - r|^2 + |(x - r) - r_dead|^2 / 32

    where r_dead is the reconstruction of what is missing, taken as given, by the d_in / 2
    strongest DEAD features.

    .. [1] Gao et al., Scaling and evaluating sparse autoencoders, arXiv 2406.04093, section 2.3
       and appendix A.2.
    """

    encoder_scale = 0.3  # the k largest are sparse from the start, and shorter ones never win
    aux_coefficient = 1 / 32
    resamples = False  # AuxK revives them; anew, they would take most of the k places at once

    def activate(self, pre: Tensor) -> Tensor:
        return keep_top(pre, self.config.k)

    def bound(self, pre: Tensor) -> Tensor:
        """What an entry of a batch [batch, d_sae] must reach, and be positive, to be active."""
        return nth_largest(pre, self.config.k)

    @property
    def dense(self) -> bool:
        """Whether training multiplies dense codes and all features: on a GPU that is faster."""
        return self.W_dec.is_cuda

    def loss(self, x, dead=None):
        with torch.set_grad_enabled(self.dense):
            pre = self.pre_activations(x)
        with torch.no_grad():
            bound = self.bound(pre).clamp(min=torch.finfo(pre.dtype).tiny)
            active = ~(pre < bound)  # with what is not a number: the loss must show it
        batch = x, pre, active, self.config.group_sizes
        if self.dense:
            loss, residual, fired = dense_loss(*batch, self.W_dec, self.b_dec)
        else:
            weights = self.W_enc, self.b_enc, self.W_dec, self.b_dec
            loss, residual, fired = Autoencode.apply(*batch, *weights)
        if dead is not None:  # AuxK, estimated from a quarter of the batch
            some = slice(None) if self.dense else dead
            pre = (x[::4] - self.b_dec) @ self.W_enc[:, some] + self.b_enc[some]
            pre = pre.masked_fill(~dead[some], -torch.inf)
            code = keep_top(pre, min(max(1, self.config.d_in // 2), pre.shape[1]))
            error = squared_error(residual[::4], code @ self.W_dec[some])
            loss = loss + self.aux_coefficient * error
        return loss, fired


class BatchTopK(TopK):
    """The k * batch largest pre-activations of a batch, so that positions share what they need.

    A single position has no batch: to encode, an entry is active above `threshold`, the mean over
    batches of the smallest active entry [1]_, followed in training as a moving average.

    .. [1] Bussmann et al., BatchTopK Sparse Autoencoders, arXiv 2412.06410, equations 3 to 5.
    """

    lengths = ("b_enc", "threshold")

    def __init__(self, config: Config):
        super().__init__(config)
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def activate(self, pre: Tensor) -> Tensor:
        """Above the threshold; as long as none was learnt, the k largest of each position."""
        if self.threshold.isnan():
            return keep_top(pre, self.config.k)
        return torch.where(pre > self.threshold, pre, 0.0)

    def bound(self, pre):
        lowest = nth_largest(pre.flatten(), self.config.k * len(pre))[0].clamp(min=0.0)
        followed = self.threshold.lerp(lowest, 0.01)
        self.threshold.copy_(torch.where(self.threshold.isnan(), lowest, followed))
        return lowest


class Matryoshka(BatchTopK):
    """BatchTopK whose first features must do without the later ones, so that they stay general.

    The first 1/16, 1/8, ... of the features each reconstruct the state by themselves, and the
    loss is the mean of their errors [1]_.

    .. [1] Bussmann et al., Learning Multi-Level Features with Matryoshka Sparse Autoencoders,
       arXiv 2503.17547, section 3.
    """


class JumpReLU(SAE):
    """A threshold for each feature, and a penalty on the number of active features [1]_.

        f = z * [z > threshold],    loss = |x - r|^2 + l0_coefficient * |f|_0

    Neither step has a gradient, so the thresholds get that of a window of `bandwidth` around them.

    .. [1] Rajamanoharan et al., Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU
       Sparse Autoencoders, arXiv 2407.14435, equations 9 to 12.
    """

    starts = {"b_enc": 0.0, "threshold": 0.1}
    lengths = ("b_enc", "threshold")

    def activate(self, pre: Tensor) -> Tensor:
        return torch.where(pre > self.threshold, pre, 0.0)

    def loss(self, x, dead=None):
        pre = self.pre_activations(x).relu()
        code, given = self.activate(pre), self.threshold.detach()
        fired = code.detach() > 0
        window = (pre.detach() - given).abs() < self.config.bandwidth / 2
        # Zero, but its gradient by the threshold is -1 / bandwidth within the window.
        step = window * ((given - self.threshold) / self.config.bandwidth)
        error = squared_error(x, self.decode(code + given * step))
        l0 = (fired.sum() + step.sum()) / len(x)
        return error + self.config.l0_coefficient * l0, fired.any(dim=0)

    @torch.no_grad()
    def constrain(self):
        super().constrain()
        self.threshold.clamp_(min=0.0)


class Gated(SAE):
    """One encoder decides what is active, a rescaled copy of it how strongly [1]_.

        gate = (x - b_dec) @ W_enc + b_enc
        f = [gate > 0] * relu((x - b_dec) @ W_enc * exp(r_mag) + b_mag)
        loss = |x - r|^2 + l1_coefficient * |relu(gate)|_1 + |x - r_gate|^2

    The penalty falls on the gate alone, so strengths do not shrink; r_gate reconstructs from
    relu(gate) with a frozen decoder, so that the gate learns too.

    .. [1] Rajamanoharan et al., Improving Dictionary Learning with Gated Sparse Autoencoders,
       arXiv 2404.16014, equations 6 to 8.
    """

    spread = 2.5
    starts = {"b_enc": 0.0, "r_mag": 0.0, "b_mag": 0.0}
    lengths = ("b_enc", "b_mag")

    def activate(self, pre: Tensor) -> Tensor:
        strength = (pre - self.b_enc) * self.r_mag.exp() + self.b_mag
        return torch.where(pre > 0, strength.relu(), 0.0)

    def loss(self, x, dead=None):
        pre = self.pre_activations(x)
        code, gate = self.activate(pre), pre.relu()
        by_gate = gate @ self.W_dec.detach() + self.b_dec.detach()
        error = squared_error(x, self.decode(code)) + squared_error(x, by_gate)
        penalty = self.config.l1_coefficient * gate.sum() / len(x)
        return error + penalty, code.detach().amax(dim=0) > 0


#: All variants, in the order in which they were published.
VARIANTS = {v.__name__.lower(): v for v in (ReLU, Gated, TopK, JumpReLU, BatchTopK, Matryoshka)}


def create(config: Config) -> SAE:
    """An SAE with random directions, of the variant that the config names."""
    return VARIANTS[config.variant](config)


def keep_top(values: Tensor, k: int) -> Tensor:
    """Keep the k largest values of each row [..., d_sae] where they are positive; the rest is zero.

    >>> keep_top(torch.tensor([[3.0, -1.0, 2.0, 1.0]]), k=2)
    tensor([[3., 0., 2., 0.]])
    """
    best = values.topk(k)
    return torch.zeros_like(values).scatter(-1, best.indices, best.values.relu())


def squared_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Squared error of states [n, d_in], summed over dimensions and averaged over positions."""
    return (x - reconstruction).square().sum() / len(x)
