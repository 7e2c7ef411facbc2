"""The selective scan in plain PyTorch: parallel over time, on any device, differentiable, in bounded memory.

The sequence is cut into blocks, a block into G chunks of T steps, and the chunks of all sequences are worked
on side by side as W = B G lanes. So a block takes three short loops of large operations:

    1. every chunk from a zero state, T steps           → what it adds to the state
    2. from chunk to chunk, G steps                     → the true state before each
    3. every chunk again, from that state, T steps      → all states h, and y from them at once

Nothing is divided by a decay, and every exponent is a sum of Δ A ≤ 0: the result is as exact as that of the
plain loop. Backward keeps the state before each chunk, recomputes the states of a block from it, and runs the
same three loops in reverse on their adjoint, g_t = C_t ȳ_t + exp(Δ_{t+1} A) g_{t+1}. Only the block at hand
ever has an N.

Sizes: B batch, L length, E d_inner, N d_state, S positions of a block. Inside a block, tensors are
`(T, W, E)`, `(T, W, N)` or `(T, W, N, E)`: channels innermost, as they are in the input.
Source: our own arrangement of a scan with carried chunks (Blelloch, CMU-CS-90-190).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = math.log2(math.e)  # exp(Δ A) is computed as exp2(Δ (A log2 e)): on a CPU several times faster


def scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    h0: Tensor | None = None,
    mask: Tensor | None = None,
    delta_bias: Tensor | None = None,
    softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """The scan in float32 (float64 if `x` is); arguments and meaning as in `selective_scan`.

    Returns:
        y `(B, L, E)` in the type of `x`, and the last state `(B, E, N)`; differentiable once.
    """
    batch, length, channels = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    step = delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if softplus:
        step = F.softplus(step)
    if mask is not None:
        step = step.masked_fill(~mask.expand(batch, length)[..., None], 0.0)
    A = A.to(dtype)
    D = A.new_zeros(channels) if D is None else D.to(dtype)
    h0 = A.new_zeros(batch, channels, A.shape[1]) if h0 is None else h0.to(dtype)
    tensors = (x, step, A, B, C, D, h0)
    for_backward = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
    y, state = _Scan.apply(*tensors, for_backward)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), state


class _Scan(torch.autograd.Function):
    """y and the last state from x, Δ, A, B, C, D and h0; all arithmetic in the type of A."""

    @staticmethod
    def forward(ctx, x, delta, A, B, C, D, h0, for_backward):
        (batch, length, channels), d_state = x.shape, A.shape[1]
        plan = _plan(batch, length, channels, d_state, x.device)
        decay, states = (A.new_empty(plan.steps, plan.chunks * batch, d_state, channels) for _ in range(2))
        rates = A.t().contiguous() * LOG2_E
        y = torch.empty_like(x, dtype=A.dtype)
        h, saved = h0.mT, []
        for now in plan.blocks(length):
            step, u, b, c = (_to_lanes(v[:, now], plan, A.dtype) for v in (delta, x, B, C))
            _fill(decay, states, step, step * u, b, rates)
            starts = _starts(decay, states, step, rates, h, plan.chunks)
            _recur(decay.unbind(0), states.unbind(0), starts)
            h = states[-1, -batch:].clone()
            out = torch.mul(states, c[..., None], out=decay).sum(2)
            _from_lanes(out.addcmul_(u, D), plan, y[:, now])
            if for_backward:
                saved.append(starts)
        ctx.save_for_backward(x, delta, A, B, C, D, *saved)
        ctx.plan = plan
        return y, h.mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dstate):
        x, delta, A, B, C, D, *saved = ctx.saved_tensors
        (batch, length, channels), d_state, plan = x.shape, A.shape[1], ctx.plan
        decay, states, adjoint = (
            A.new_empty(plan.steps, plan.chunks * batch, d_state, channels) for _ in range(3)
        )
        At = A.t().contiguous()
        rates = At * LOG2_E
        dx, ddelta, dB, dC = (torch.empty_like(v) for v in (x, delta, B, C))
        dA, dD = A.new_zeros(plan.chunks * batch, d_state, channels), torch.zeros_like(D)
        g = dstate.mT
        for now, starts in zip(reversed(plan.blocks(length)), reversed(saved), strict=True):
            step, u, b, c, dout = (_to_lanes(v[:, now], plan, A.dtype) for v in (delta, x, B, C, dy))
            su = step * u
            _fill(decay, states, step, su, b, rates)
            _recur(decay.unbind(0), states.unbind(0), starts)
            _from_lanes(torch.mul(states, dout[:, :, None], out=adjoint).sum(3), plan, dC[:, now])

            torch.mul(dout[:, :, None], c[..., None], out=adjoint)
            ends = _ends(decay, adjoint, step, rates, g, plan.chunks)
            adjoint[-1].add_(ends)
            _recur(decay.unbind(0)[:0:-1], adjoint.unbind(0)[-2::-1], adjoint[-1])
            g = decay[0, :batch] * adjoint[0, :batch]

            dexponent = decay.mul_(adjoint)  # g_t exp(Δ_t A) h_{t-1}, the gradient with respect to Δ_t A
            dexponent[1:].mul_(states[:-1])
            dexponent[0].mul_(starts)
            product = states
            dA += torch.mul(dexponent, step[:, :, None], out=product).sum(0)
            dstep = torch.mul(dexponent, At, out=product).sum(2)
            _from_lanes(torch.mul(adjoint, su[:, :, None], out=product).sum(3), plan, dB[:, now])
            dsu = torch.mul(adjoint, b[..., None], out=product).sum(2)
            _from_lanes(dstep.addcmul_(dsu, u), plan, ddelta[:, now])
            _from_lanes(dsu.mul_(step).addcmul_(dout, D), plan, dx[:, now])
            dD += (dout * u).sum((0, 1))
        return dx, ddelta, dA.sum(0).t(), dB, dC, dD, g.mT, None


class _Plan(NamedTuple):
    """How a sequence is cut: into blocks of `chunks * steps` positions."""

    chunks: int
    steps: int

    def blocks(self, length: int) -> list[slice]:
        """The positions of each block; the last may be short."""
        size = self.chunks * self.steps
        return [slice(at, min(at + size, length)) for at in range(0, length, size)]


def _plan(batch: int, length: int, channels: int, d_state: int, device: torch.device) -> _Plan:
    """Few and large operations in little memory: a CPU's cache should hold the values of three blocks."""
    block, step = (2**20, 2**16) if device.type == "cpu" else (2**24, 2**20)
    width = max(1, batch * channels * d_state)
    num_blocks = max(1, math.ceil(length * width / block))
    positions = max(1, math.ceil(length / num_blocks))
    chunks = max(1, min(step // width, math.isqrt(2 * positions)))
    return _Plan(chunks, math.ceil(positions / chunks))


def _to_lanes(v: Tensor, plan: _Plan, dtype: torch.dtype) -> Tensor:
    """`(B, S, K)` → `(T, W, K)`; a short block is filled up with zeros: Δ = 0 leaves the state alone."""
    batch, length, width = v.shape
    v = v.to(dtype)
    if length < plan.chunks * plan.steps:
        v = F.pad(v, (0, 0, 0, plan.chunks * plan.steps - length))
    v = v.unflatten(1, (plan.chunks, plan.steps)).permute(2, 1, 0, 3)
    return v.reshape(plan.steps, plan.chunks * batch, width)


def _from_lanes(v: Tensor, plan: _Plan, out: Tensor) -> None:
    """`(T, W, K)` → `out` `(B, S, K)`, without what was filled up."""
    batch, length, _ = out.shape
    v = v.unflatten(1, (plan.chunks, batch)).permute(2, 1, 0, 3)
    if length < plan.chunks * plan.steps:
        out.copy_(v.flatten(1, 2)[:, :length])
    else:
        out.unflatten(1, (plan.chunks, plan.steps)).copy_(v)


def _fill(decay: Tensor, inputs: Tensor, step: Tensor, su: Tensor, b: Tensor, rates: Tensor) -> None:
    """Write exp(Δ_t A) and (Δ_t x_t) ⊗ B_t of a block."""
    torch.mul(step[:, :, None], rates, out=decay).exp2_()
    torch.mul(su[:, :, None], b[..., None], out=inputs)


def _recur(decays: Sequence[Tensor], values: Sequence[Tensor], first: Tensor) -> None:
    """Turn values v_1, v_2, ... in place into v_t + a_t v_{t-1}, with `first` before v_1."""
    for a, v in zip(decays, values, strict=True):
        first = v.addcmul_(a, first)


def _sum_up(decays: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The last value of the same recurrence from zero, leaving the values alone; `decays` begins with a_2."""
    total = values[0].clone()
    for a, v in zip(decays, values[1:], strict=True):
        torch.addcmul(v, a, total, out=total)
    return total


def _starts(decay: Tensor, inputs: Tensor, step: Tensor, rates: Tensor, h: Tensor, chunks: int) -> Tensor:
    """The state before each chunk, `(W, N, E)`, from `h` `(B, N, E)` before the first."""
    if chunks == 1:
        return h
    totals = _sum_up(decay.unbind(0)[1:], inputs.unbind(0))
    return _carry(totals, step, rates, h, range(chunks))


def _ends(decay: Tensor, values: Tensor, step: Tensor, rates: Tensor, g: Tensor, chunks: int) -> Tensor:
    """The adjoint of the state after each chunk, `(W, N, E)`, from `g` `(B, N, E)` after the last."""
    if chunks == 1:
        return g
    totals = _sum_up(decay.unbind(0)[:0:-1], values.unbind(0)[::-1]).mul_(decay[0])
    return _carry(totals, step, rates, g, range(chunks)[::-1])


def _carry(totals: Tensor, step: Tensor, rates: Tensor, first: Tensor, order: range) -> Tensor:
    """What enters each chunk, `(W, N, E)`, when they are passed in an order and `first` enters the first."""
    through = torch.mul(step.sum(0)[:, None], rates).exp2_()
    entering = torch.empty_like(totals)
    shape = (len(order), first.shape[0])
    totals, through, into = (v.unflatten(0, shape).unbind(0) for v in (totals, through, entering))
    for chunk in order:
        into[chunk].copy_(first)
        first = torch.addcmul(totals[chunk], through[chunk], first)
    return entering
