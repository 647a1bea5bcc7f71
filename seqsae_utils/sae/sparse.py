"""A sparse autoencoder at the price of the few features that are active.

Dense products compute d_sae columns of which all but k are zero. Here a batch of codes is a list
of its active entries, and the error and its gradients, by hand, cost what those cost. Only one
dense product is left: the one that tells which entries are active.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor


def autoencode(
    x: Tensor, pre: Tensor, where: Tensor, sae, price: float = 0.0, sizes: list[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of a batch whose code is relu(pre) at `where` and zero elsewhere.

    Parameters
    ----------
    x, pre
        States [batch, d_in], and their pre-activations [batch, d_sae] by the weights of `sae`.
    where
        Active entries of pre [n], ascending, as if it were flat.
    price
        Of each unit of the code, added to the error.
    sizes
        Ends of nested groups of features: the error is the mean over the groups of what the
        features up to its end reconstruct. By default all features are one group.

    Returns
    -------
    loss : the squared error, summed over dimensions and averaged over positions, plus the price
    residual : what all features leave [batch, d_in], without a gradient
    active : which features are above zero somewhere [d_sae]
    """
    sizes = sizes or [pre.shape[1]]
    return _Autoencode.apply(
        x, pre, where, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, price, sizes
    )


class _Autoencode(torch.autograd.Function):
    """All gradients are known once the residual is, so forward computes them, too.

    With f the code, G groups and e_m the residual of group m, the error is |e_m|^2 / (batch G),
    summed. A feature acts on its own group and all larger ones, so with g_q the gradient by what
    group q adds, summed over those:  d f = g W_dec',  d W_dec = f' g,  and through
    z = (x - b_dec) W_enc + b_enc where f > 0:  d W_enc = (x - b_dec)' d f,  d b_enc = sum d f.
    """

    @staticmethod
    def forward(ctx, x, pre, where, W_enc, b_enc, W_dec, b_dec, price, sizes):
        (batch, d_sae), n_groups = pre.shape, len(sizes)
        rows = where // d_sae
        columns = where - rows * d_sae
        values = pre.flatten()[where].relu()
        bags = rows
        if n_groups > 1:  # a row for each group of features, whose entries lie together
            ends = torch.tensor(sizes, device=x.device)
            bags = rows * n_groups + torch.bucketize(columns, ends, right=True)
        first = _first(bags, batch * n_groups)
        parts = F.embedding_bag(columns, W_dec, first, per_sample_weights=values, mode="sum")
        centered = x - b_dec
        if n_groups > 1:
            parts = parts.view(batch, n_groups, -1).cumsum(dim=1)
            residual = centered[:, None] - parts
            gradient = residual.flip(1).cumsum(dim=1).flip(1).flatten(0, 1)
            last, whole = residual[:, -1], gradient[::n_groups]
        else:
            last = residual = centered - parts
            whole = gradient = residual
        scale = -2 / (batch * n_groups)
        loss = residual.square().sum() / (batch * n_groups) + price * values.sum() / batch

        of_values = torch.einsum(
            "nd,nd->n", gradient.index_select(0, bags), W_dec.index_select(0, columns)
        )
        of_values = of_values.mul_(scale).add_(price / batch).mul_(values > 0)
        of_W_dec = transposed_product(values, columns, bags, gradient, d_sae).mul_(scale)
        of_W_enc = transposed_product(of_values, columns, rows, centered, d_sae).T
        of_b_enc = x.new_zeros(d_sae).index_add_(0, columns, of_values)
        of_b_dec = whole.sum(dim=0) * scale - W_enc @ of_b_enc
        ctx.save_for_backward(of_W_enc, of_b_enc, of_W_dec, of_b_dec)
        active = torch.zeros(d_sae, device=x.device).index_add_(0, columns, values) > 0
        ctx.mark_non_differentiable(last, active)
        return loss, last, active

    @staticmethod
    def backward(ctx, of_loss, *_):
        return None, None, None, *(of_loss * g for g in ctx.saved_tensors), None, None


def _first(rows: Tensor, n: int) -> Tensor:
    """Where each of n rows begins in an ascending list of rows."""
    return torch.searchsorted(rows, torch.arange(n, device=rows.device))


def transposed_product(values, columns, rows, dense: Tensor, d_sae: int) -> Tensor:
    """The transpose of a sparse code times dense [n_rows, d_in]: [d_sae, d_in].

    On a processor SciPy does it in a sixth of the time of torch's own sparse products.
    """
    if dense.device.type != "cpu":
        return scattered_product(values, columns, rows, dense, d_sae)
    ends = np.searchsorted(rows.numpy(), np.arange(len(dense) + 1))
    code = sparse.csr_array((values.numpy(), columns.numpy(), ends), shape=(len(dense), d_sae))
    return torch.from_numpy(code.T @ dense.numpy())


def scattered_product(values, columns, rows, dense: Tensor, d_sae: int) -> Tensor:
    """The same by adding up one row an entry, on any device."""
    product = dense.new_zeros(d_sae, dense.shape[1])
    return product.index_add_(0, columns, values[:, None] * dense[rows])


def largest_of_each_row(values: Tensor, k: int) -> Tensor:
    """Where the k largest of each row [batch, n] are, ascending, as if values were flat.

    Finding them is as dear as a dense product, so first a bound is found that is easy to see:
    at least k entries reach the k-th largest of the maxima of n / 8 groups. Few others do.
    """
    batch, n = values.shape
    if values.device.type != "cpu" or n % 8 or n // 8 < k:
        rows = torch.arange(batch, device=values.device)[:, None] * n
        return (rows + values.topk(k, sorted=False).indices).flatten().sort().values
    of_groups = values.view(batch, 8, n // 8).amax(dim=1)
    where = at_least(values, nth_largest(of_groups, k)[:, None])
    where = where.numpy()
    rows, found = where // n, values.numpy().ravel()[where]
    place = np.arange(len(where)) - np.searchsorted(rows, np.arange(batch))[rows]
    padded = np.full((batch, place.max() + 1), -np.inf, np.float32)
    padded[rows, place] = found
    least = nth_largest(torch.from_numpy(padded), k).numpy()
    return torch.from_numpy(where[found >= least[rows]])


def nth_largest(values: Tensor, n: int) -> Tensor:
    """The n-th largest along the last dimension. NumPy finds it in half the time of torch.

    >>> nth_largest(torch.tensor([[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]]), 2)
    tensor([2., 5.])
    """
    if values.device.type != "cpu":
        return values.topk(n, sorted=False).values.amin(dim=-1)
    at = values.shape[-1] - n
    return torch.from_numpy(np.partition(values.numpy(), at)[..., at, None])[..., 0]


def at_least(values: Tensor, bound: Tensor) -> Tensor:
    """Where values reach a bound, ascending, as if they were flat. NumPy is the faster here too."""
    if values.device.type != "cpu":
        return (values >= bound).flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(values.numpy() >= bound.numpy()))
