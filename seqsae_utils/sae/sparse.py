"""Codes with a few active features out of many, at the price of the few.

A dense product computes d_sae columns of which all but k are zero. Here a batch of codes is a
list of its active entries, row by row, and each product and each gradient costs what they cost.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True)
class SparseCode:
    """The active entries of a batch of codes [batch, d_sae], ordered by row.

    values [n], columns [n] (which feature), rows [n] (which position), and first [batch]: where
    each row begins.
    """

    values: Tensor
    columns: Tensor
    rows: Tensor
    first: Tensor

    @classmethod
    def at(cls, where: Tensor, x: Tensor, pre: Tensor, weight: Tensor, bias: Tensor):
        """The entries of relu(x @ weight + bias) at `where`.

        `pre` is that product, computed beforehand to choose them; `where` [n] are ascending
        positions in it, as if it were flat.
        """
        batch, d_sae = pre.shape
        rows = torch.div(where, d_sae, rounding_mode="floor")
        columns = where - rows * d_sae
        first = torch.searchsorted(rows, torch.arange(batch, device=rows.device))
        values = _Encode.apply(x, weight, bias, pre.flatten()[where], columns, rows, first)
        return cls(values.relu(), columns, rows, first)

    def split(self, sizes: Tensor) -> "SparseCode":
        """Each row as several, a row for each group of features, whose ends `sizes` names."""
        group = torch.bucketize(self.columns, sizes, right=True)
        rows = self.rows * len(sizes) + group
        every = torch.arange(len(self.first) * len(sizes), device=rows.device)
        return SparseCode(self.values, self.columns, rows, torch.searchsorted(rows, every))

    def decode(self, directions: Tensor) -> Tensor:
        """The code times the dictionary: [batch, d_sae] @ [d_sae, d_in] -> [batch, d_in]."""
        return _Decode.apply(self.values, directions, self.columns, self.rows, self.first)


class _Encode(torch.autograd.Function):
    """Entries of x @ weight + bias that are known already, with the gradients of those alone."""

    @staticmethod
    def forward(ctx, x, weight, bias, values, columns, rows, first):
        ctx.save_for_backward(x, weight, columns, rows, first)
        return values

    @staticmethod
    def backward(ctx, gradient):
        x, weight, columns, rows, first = ctx.saved_tensors
        d_sae = weight.shape[1]
        of_weight = transposed_product(gradient, columns, rows, first, x, d_sae).T
        of_bias = gradient.new_zeros(d_sae).index_add_(0, columns, gradient)
        return None, of_weight, of_bias, None, None, None, None


class _Decode(torch.autograd.Function):
    """A sparse code times dense directions."""

    @staticmethod
    def forward(ctx, values, directions, columns, rows, first):
        ctx.save_for_backward(values, directions, columns, rows, first)
        return F.embedding_bag(columns, directions, first, per_sample_weights=values, mode="sum")

    @staticmethod
    def backward(ctx, gradient):
        values, directions, columns, rows, first = ctx.saved_tensors
        of_values = (gradient @ directions.T).flatten()[rows * len(directions) + columns]
        of_directions = transposed_product(values, columns, rows, first, gradient, len(directions))
        return of_values, of_directions, None, None, None


def transposed_product(values, columns, rows, first, dense: Tensor, d_sae: int) -> Tensor:
    """The transpose of a sparse code times dense [batch, d_in]: [d_sae, d_in].

    On a processor SciPy does it in a sixth of the time of torch's own sparse products.
    """
    if dense.device.type != "cpu":
        return scattered_product(values, columns, rows, dense, d_sae)
    ends = torch.cat([first, first.new_tensor([len(values)])])
    entries = (values.numpy(), columns.numpy(), ends.numpy())
    code = sparse.csr_array(entries, shape=(len(dense), d_sae))
    return torch.from_numpy(code.T @ dense.numpy())


def scattered_product(values, columns, rows, dense: Tensor, d_sae: int) -> Tensor:
    """The same by adding up one row an entry, on any device."""
    product = dense.new_zeros(d_sae, dense.shape[1])
    return product.index_add_(0, columns, values[:, None] * dense[rows])
