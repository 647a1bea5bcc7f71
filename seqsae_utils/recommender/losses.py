"""Cross-entropy over the catalogue: exact in blocks, or from a sample of it."""

import torch
import torch.nn.functional as F
from torch import Tensor


class _BlockwiseSoftmax(torch.autograd.Function):
    """The mean cross-entropy of ``hidden @ head.T``, and its gradients, in one pass over blocks.

    All logits would take 650 MB for 8,192 positions and 20,000 items, and the plain way holds them
    three times. The gradient of a block (softmax minus one-hot) needs only that block.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        values = 2**18 if hidden.device.type == "cpu" else 2**26
        rows = max(64, values // len(head))
        loss = hidden.new_zeros(())
        hidden_gradient, head_gradient = torch.empty_like(hidden), torch.zeros_like(head)
        for start in range(0, len(hidden), rows):
            block = slice(start, start + rows)
            logits = hidden[block] @ head.T
            logits[:, 0] = -torch.inf  # padding is never the next item
            log_p = F.log_softmax(logits, dim=1)
            target = targets[block, None]
            loss -= log_p.gather(1, target).sum()
            gradient = log_p.exp_()
            gradient.scatter_add_(1, target, gradient.new_full(target.shape, -1.0))
            torch.mm(gradient, head, out=hidden_gradient[block])
            head_gradient.addmm_(gradient.T, hidden[block])
        ctx.save_for_backward(hidden_gradient / len(hidden), head_gradient / len(hidden))
        return loss / len(hidden)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        hidden_gradient, head_gradient = ctx.saved_tensors
        return gradient * hidden_gradient, gradient * head_gradient, None


def softmax_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of targets [n] under ``softmax(hidden @ head.T)``.

    hidden is [n, d_model], head [n_items + 1, d_model]; row 0, padding, has no probability.
    """
    return _BlockwiseSoftmax.apply(hidden, head, targets)


def sampled_softmax_loss(hidden: Tensor, head: Tensor, targets: Tensor, n_negatives: int) -> Tensor:
    """`softmax_loss` [] from the target and `n_negatives` other items, drawn for each batch.

    All positions share the sample; a target that was drawn too is left out. With all items drawn
    this is `softmax_loss` (importance sampling, uniform proposal; Jean et al., arXiv 1412.2007).
    """
    n_items = len(head) - 1
    drawn = 1 + torch.randperm(n_items, device=head.device)[:n_negatives]
    collides = drawn == targets[:, None]
    scale = torch.log((n_items - 1) / (len(drawn) - collides.sum(dim=1, keepdim=True)))
    negative = (hidden @ head[drawn].T + scale).masked_fill(collides, -torch.inf)
    positive = (hidden * head[targets]).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, negative], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets))
