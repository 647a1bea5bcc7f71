"""The loss of a sparse code: by hand with its gradients, and by dense products.

By hand, codes are sparse matrices, and one dense product is left: the one that tells which entries
are active. On a CPU a training takes about half the time of one by autograd on dense codes.
"""

import warnings
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

with warnings.catch_warnings():  # torch says once that its tensors in CSR form are in beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


class Autoencode(torch.autograd.Function):
    """Loss of a batch whose code is `pre` where it is `active`, and zero elsewhere.

    All gradients are known once the residual is, so forward computes them, too. With f the code, G
    nested groups of features and e_m the residual of group m, the loss is |e_m|^2 / (batch G),
    summed over m. A feature acts on its own group and all larger ones. With g_q the gradient with
    respect to what group q adds,

        d f = g W_dec',    d W_dec = f' g,    d W_enc = (x - b_dec)' d f,    d b_enc = sum of d f,

    the last two through z = (x - b_dec) W_enc + b_enc.

    It takes states x [batch, d_in], their pre-activations and which are active [batch, d_sae], and
    the ends of the groups, ascending. It returns the loss, averaged over positions and groups; the
    residual of all features [batch, d_in], without a gradient; which features are active [d_sae].
    """

    @staticmethod
    def forward(ctx, x, pre, active, sizes, W_enc, b_enc, W_dec, b_dec):
        (batch, d_sae), n_groups, centered = pre.shape, len(sizes), x - b_dec
        rows, columns = active.nonzero(as_tuple=True)
        ends = torch.tensor(sizes, device=x.device)
        bags = rows * n_groups + torch.searchsorted(ends, columns, right=True)
        order = columns.argsort(stable=True)
        values = pre[rows, columns]
        f = _csr(bags, columns, values, (batch * n_groups, d_sae))  # each group has its own rows
        parts = (f @ W_dec).view(batch, n_groups, -1)
        residual = centered[:, None] - parts.cumsum(dim=1)
        scale = 1 / (batch * n_groups)
        g = (-2 * scale * residual).flip(1).cumsum(dim=1).flip(1).flatten(0, 1)

        columns, rows = columns[order], rows[order]
        f = _csr(columns, bags[order], values[order], (d_sae, batch * n_groups))  # transposed
        of_f = torch.sparse.sampled_addmm(f, W_dec, g.T, beta=0.0)
        of_f = _csr(columns, rows, of_f.values(), (d_sae, batch))
        of_b_enc = of_f @ x.new_ones(batch)
        of_b_dec = g[::n_groups].sum(dim=0) - W_enc @ of_b_enc
        ctx.save_for_backward((of_f @ centered).T, of_b_enc, f @ g, of_b_dec)
        last, fired = residual[:, -1], f.crow_indices().diff() > 0
        ctx.mark_non_differentiable(last, fired)
        return residual.square().sum() * scale, last, fired

    @staticmethod
    def backward(ctx, of_loss, *_):
        return None, None, None, None, *(of_loss * gradient for gradient in ctx.saved_tensors)


def dense_loss(x, pre, active, sizes, W_dec, b_dec):
    """As `Autoencode`, for autograd through `pre`: a GPU has arithmetic in plenty."""
    widths = [end - start for start, end in pairwise([0, *sizes])]
    codes = torch.where(active, pre, 0.0).split(widths, dim=1)
    parts = [f @ directions for f, directions in zip(codes, W_dec.split(widths), strict=True)]
    residual = (x - b_dec)[:, None] - torch.stack(parts, dim=1).cumsum(dim=1)
    loss = residual.square().sum() / residual[..., 0].numel()
    return loss, residual[:, -1].detach(), active.any(dim=0)


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix of entries whose rows ascend."""
    ends = torch.searchsorted(rows, torch.arange(shape[0] + 1, device=rows.device))
    return torch.sparse_csr_tensor(ends, columns, values, shape, check_invariants=False)


def nth_largest(values: Tensor, n: int) -> Tensor:
    """The n-th largest of each row, [..., d] -> [..., 1].

    NumPy takes a tenth to a half of torch's time, but for wide rows on AMD's Zen 4, 1.5 to 3 times.
    """
    if values.device.type != "cpu":  # there the way to NumPy and back would take longer
        return values.topk(n).values[..., -1:]
    return torch.from_numpy(np.partition(values.numpy(), -n)[..., -n, None])
