"""Triton kernel of the cross-entropy of rows of logits: a program walks along one row, twice with gradients.

    loss = log Σ_v exp(x_v) - x_label        dx_v = exp(x_v - log Σ_u exp(x_u)) - [v = label]

The gradient takes the place of the logits. Sums are float32; offsets are 64 bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lgbench.ops.launch import launch
from lgbench.task import IGNORE

BLOCK = 4096
"""Words at a time."""
IGNORED = tl.constexpr(IGNORE)
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


def losses(logits: Tensor, labels: Tensor, gradient: bool) -> Tensor:
    """Loss of each row of contiguous logits `(n, V)`, which become its gradient if asked for."""
    found = torch.empty(labels.shape, dtype=torch.float32, device=logits.device)
    words = logits.shape[1]
    block = min(BLOCK, triton.next_power_of_2(words))
    tensors = (logits, labels.contiguous(), found)
    launch(_row_kernel, len(logits), tensors, (), (words, block, gradient), num_warps=8)
    return found


@triton.jit
def _row_kernel(logits, labels, losses, V: tl.constexpr, BLOCK: tl.constexpr, GRADIENT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    at = logits + row * V
    column = tl.arange(0, BLOCK)
    most = -float("inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        inside = start + column < V
        x = tl.load(at + start + column, mask=inside, other=-float("inf")).to(tl.float32) * LOG2E
        higher = tl.maximum(most, tl.max(x, 0))
        total = total * tl.exp2(most - higher) + tl.sum(tl.exp2(x - higher), 0)
        most = higher
    whole = most + tl.log2(total)
    there = label != IGNORED
    own = tl.load(at + tl.where(there, label, 0)).to(tl.float32) * LOG2E
    tl.store(losses + row, tl.where(there, (whole - own) * LN2, 0.0))
    if GRADIENT:
        tl.debug_barrier()  # the label's logit is read before it is written over
        for start in range(0, V, BLOCK):
            inside = start + column < V
            x = tl.load(at + start + column, mask=inside, other=-float("inf")).to(tl.float32) * LOG2E
            share = tl.exp2(x - whole) - tl.where(start + column == label, 1.0, 0.0)
            out = tl.where(there, share, 0.0).to(logits.dtype.element_ty)
            tl.store(at + start + column, out, mask=inside)
