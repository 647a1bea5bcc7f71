"""A sparse autoencoder at the price of the few features that are active.

Dense products compute d_sae columns of which all but k are zero. Here a batch of codes is a list
of its active entries, and the error and its gradients, by hand, cost what those cost. Only one
dense product is left: the one that tells which entries are active.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

with warnings.catch_warnings():  # torch says once that its tensors in CSR form are in beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


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
        W_enc, W_dec = W_enc.detach(), W_dec.detach()  # embedding_bag need not prepare its own
        (batch, d_sae), n_groups = pre.shape, len(sizes)
        values = take(pre, where)
        if len(values) and values.min() <= 0:  # if any is NaN, all stay, and the loss shows it
            where, values = where[values > 0], values[values > 0]
        rows, columns = rows_and_columns(where, d_sae)
        bags = rows
        if n_groups > 1:  # a row for each group of features, whose entries lie together
            groups = torch.bucketize(columns, torch.tensor(sizes, device=x.device), right=True)
            bags = rows * n_groups + groups
        ends = _ends(torch.bincount(bags, minlength=batch * n_groups))
        parts = weighted_sums(W_dec, columns, values, ends)
        centered, scale = x - b_dec, -2 / (batch * n_groups)
        if n_groups > 1:
            parts = parts.view(batch, n_groups, -1).cumsum(dim=1)
            residual = centered[:, None] - parts
            gradient = (residual * scale).flip(1).cumsum(dim=1).flip(1).flatten(0, 1)
            last, whole = residual[:, -1], gradient[::n_groups]
        else:
            last = residual = centered - parts
            whole = gradient = residual * scale
        flat = residual.flatten()
        loss = flat.dot(flat) / (batch * n_groups)
        if price:
            loss += values.sum() * (price / batch)

        of_values = products_at(gradient, W_dec, bags, ends, columns, plus=price / batch)
        order, uses = by_column(columns, d_sae), torch.bincount(columns, minlength=d_sae)
        ends = _ends(uses)  # f' is f by columns
        rows = take(rows, order)
        bags = take(bags, order) if n_groups > 1 else rows
        of_W_dec = weighted_sums(gradient, bags, take(values, order), ends)
        of_W_enc = weighted_sums(centered, rows, take(of_values, order), ends).T
        of_b_enc = x.new_zeros(d_sae).index_add_(0, columns, of_values)
        of_b_dec = whole.sum(dim=0) - W_enc @ of_b_enc
        ctx.save_for_backward(of_W_enc, of_b_enc, of_W_dec, of_b_dec)
        active = uses > 0
        ctx.mark_non_differentiable(last, active)
        return loss, last, active

    @staticmethod
    def backward(ctx, of_loss, *_):
        gradients = ctx.saved_tensors
        if of_loss != 1:
            gradients = [of_loss * gradient for gradient in gradients]
        return None, None, None, *gradients, None, None


def weighted_sums(vectors: Tensor, which: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """For each run of entries, between two of `ends`, the sum of its vectors times weights."""
    return F.embedding_bag(
        which, vectors, ends, per_sample_weights=weights, mode="sum", include_last_offset=True
    )


def rows_and_columns(where: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Of positions in a table with n columns. NumPy divides in a quarter of the time of torch."""
    if where.device.type != "cpu":
        rows = where // n
        return rows, where - rows * n
    rows = where.numpy() // n
    return torch.from_numpy(rows), torch.from_numpy(where.numpy() - rows * n)


def _ends(counts: Tensor) -> Tensor:
    """Where runs of so many entries [n] begin and end, in order [n + 1]."""
    return F.pad(counts.cumsum(0), (1, 0))


def by_column(columns: Tensor, d_sae: int) -> Tensor:
    """The order that brings equal columns together, and keeps that of their rows.

    NumPy sorts numbers of two bytes by counting, in a tenth of the time of torch.
    """
    if columns.device.type != "cpu":
        return columns.argsort(stable=True)
    short = columns.numpy().astype(np.min_scalar_type(d_sae - 1))
    return torch.from_numpy(np.argsort(short, kind="stable"))


def products_at(
    a: Tensor, b: Tensor, rows: Tensor, ends: Tensor, columns: Tensor, plus: float = 0.0
) -> Tensor:
    """Entries (rows, columns) [n] of a @ b' + plus, of which no other is computed.

    `rows` ascend, and each of them lies between two of `ends` [len(a) + 1].
    """
    if a.device.type != "cpu":
        return (a[rows] * b[columns]).sum(dim=1) + plus
    added, shape = a.new_full((len(columns),), plus), (len(a), len(b))
    at = torch.sparse_csr_tensor(ends, columns, added, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(at, a, b.T).values()


def largest_of_each_row(values: Tensor, k: int) -> Tensor:
    """Where the k largest of each row [batch, n] are, ascending, as if values were flat.

    Sorting all would cost more than a dense product. But the k largest lie in the k groups of 8
    with the largest maxima, so all others are left out.
    """
    batch, n = values.shape
    groups = n // 8
    if values.device.type == "cpu" and n % 8 == 0 and 2 * k <= groups:
        pieces = values.view(batch, 8, groups)  # a group is a column of them
        maxima = pieces.amax(dim=1)
        chosen = at_least(maxima, nth_largest(maxima, k))
        if len(chosen) == batch * k:  # else some are equal
            columns = rows_and_columns(chosen, groups)[1]
            found = pieces.gather(2, columns.view(batch, 1, k).expand(batch, 8, k)).flatten(1)
            kept = at_least(found, nth_largest(found, k))
            if len(kept) == batch * k:
                piece, nth = rows_and_columns(kept, k)  # of a row's k groups
                row = torch.arange(batch).repeat_interleave(k)
                return piece * groups + take(columns, row * k + nth)
    rows = torch.arange(batch, device=values.device)[:, None] * n
    return (rows + values.topk(k, sorted=False).indices).flatten().sort().values


def largest_of_all(values: Tensor, n: int) -> Tensor:
    """Where the n largest of values [batch, d_sae] are, ascending, as if values were flat.

    A sixteenth of the rows tells a bound which half as many again will reach; only if fewer do,
    all are looked at. Of equal ones at the end of the n, all are taken.
    """
    sample = values[::16].flatten()
    expected = 1 + int(1.5 * n * len(sample) / values.numel())
    where = at_least(values, nth_largest(sample, min(expected, len(sample))))
    if len(where) < n:
        where = torch.arange(values.numel(), device=values.device)
    found = take(values, where)
    return take(where, at_least(found, nth_largest(found, n)))


def nth_largest(values: Tensor, n: int) -> Tensor:
    """The n-th largest of each row [..., 1]. NumPy finds it in a tenth of the time of torch.

    >>> nth_largest(torch.tensor([[6.0, 3.0, 1.0, 2.0], [4.0, 4.0, 5.0, 4.0]]), 2)
    tensor([[3.],
            [4.]])
    """
    if values.device.type != "cpu":
        return values.topk(n, sorted=False).values.amin(dim=-1, keepdim=True)
    if values.shape[-1] > 1_000:
        return torch.from_numpy(np.partition(values.numpy(), -n)[..., -n, None])
    return torch.from_numpy(np.sort(values.numpy())[..., -n, None])  # faster, if all is short


def at_least(values: Tensor, bound: Tensor) -> Tensor:
    """Where values reach a bound, ascending, as if they were flat. NumPy is the faster here too."""
    if values.device.type != "cpu":
        return (values >= bound).flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(values.numpy() >= bound.numpy()))


def take(values: Tensor, where: Tensor) -> Tensor:
    """Entries [n] of values as if they were flat, in a third of the time of values[where]."""
    return values.view(-1).index_select(0, where)
