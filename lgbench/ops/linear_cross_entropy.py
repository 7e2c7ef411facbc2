"""Cross-entropy of a linear head over a large vocabulary, whose logits are never in memory all at once.

    logits = W h        loss = log Σ_v exp(logits_v) - logits_label

Sizes: n tokens, V words, d width. Tokens go in chunks of `CHUNK`. The gradient of a chunk's logits takes
their place as soon as its losses are known, and its parts of the gradients of h and W follow, which the
backward only scales: nothing is computed twice. Parts of W's gradient are added up in float32, in the order
of chunks, so the same input gives the same bits.

Source: the order of computation is that of Hsu et al., Liger Kernel, arXiv:2410.10989, §3.2; the code is our
own.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgbench.task import IGNORE

CHUNK = 4096
"""Tokens whose logits are in memory at a time."""

LARGE = 8192
"""Words from which a head is worth it; smaller ones keep all logits, and the numbers that they always had."""


def summed_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The sum of all losses, in nats, float32, without dimensions; with gradients.

    Args:
        hidden: `(…, d)`.
        weight: of the head, `(V, d)`.
        labels: int64 `(…)`; where one is IGNORE the loss is 0.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        return _Summed.apply(hidden, weight, labels, dtype)


@torch.no_grad()
def cross_entropies(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Each loss, in nats, float32, in the shape of `labels`; arguments as above, without gradients."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        rows, head, words = hidden.flatten(0, -2).to(dtype), weight.to(dtype), labels.flatten()
        losses = torch.empty(words.shape, dtype=torch.float32, device=hidden.device)
        for start in range(0, len(rows), CHUNK):
            here = slice(start, start + CHUNK)
            losses[here] = _losses(rows[here] @ head.t(), words[here], gradient=False)
    return losses.view(labels.shape)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        rows, head, words = hidden.flatten(0, -2).to(dtype), weight.to(dtype), labels.flatten()
        needed = any(ctx.needs_input_grad[:2])
        losses = torch.empty(words.shape, dtype=torch.float32, device=hidden.device)
        dhidden = torch.empty_like(rows) if needed else None
        wide = torch.promote_types(dtype, torch.float32)
        dweight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needed else None
        for start in range(0, len(rows), CHUNK):
            here = slice(start, start + CHUNK)
            logits = rows[here] @ head.t()
            losses[here] = _losses(logits, words[here], gradient=needed)
            if needed:
                torch.mm(logits, head, out=dhidden[here])
                dweight += logits.t() @ rows[here]
        ctx.save_for_backward(dhidden, dweight)
        ctx.shape, ctx.types = hidden.shape, (hidden.dtype, weight.dtype)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, dweight = ctx.saved_tensors
        of_hidden, of_weight = ctx.types
        return (dhidden * scale).to(of_hidden).view(ctx.shape), (dweight * scale).to(of_weight), None, None


def _losses(logits: Tensor, labels: Tensor, gradient: bool) -> Tensor:
    """Loss of each row of logits `(n, V)`, which become its gradient if asked for."""
    ignored = labels == IGNORE
    place = labels.clamp(min=0).unsqueeze(1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = wide.logsumexp(dim=1)
    found = (total - wide.gather(1, place).squeeze(1)).masked_fill(ignored, 0)
    if gradient:
        shares = (wide - total.unsqueeze(1)).exp()
        shares.scatter_add_(1, place, shares.new_full((1, 1), -1.0).expand_as(place))
        logits.copy_(shares.masked_fill_(ignored.unsqueeze(1), 0))
    return found.float()
