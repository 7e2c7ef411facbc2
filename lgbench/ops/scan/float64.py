"""The recurrence itself in float64 on CUDA, step after step: what million-token results are held to.

    h_t = exp(Δ_t A) ∘ h_{t-1} + (Δ_t x_t) ⊗ B_t,    y_t = h_t C_t + D ∘ x_t

Sizes: B batch, L length, E d_inner, N d_state. No chunks, no summaries, no gradients: a lane is one state of
one channel, and a program walks through time with a few channels. The loads of GROUP steps do not wait for
each other.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 8
LANES = 32


@torch.no_grad()
def scan_float64(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y `(B, L, E)` and the last state `(B, E, N)`, both float64.

    Args:
        x: `(B, L, E)`, float64 as all others, on one CUDA device.
        delta: the time step after softplus, `(B, L, E)`.
        A: `(E, N)`. B, C: `(B, L, N)`. D: `(E,)`.
        h0: the state before the first step, `(B, E, N)`; None is zero.

    Raises:
        ValueError: something is not float64, or there are more than 32 states a channel.
    """
    given = (x, delta, A, B, C, D) if h0 is None else (x, delta, A, B, C, D, h0)
    if any(t.dtype != torch.float64 for t in given) or A.shape[1] > LANES:
        raise ValueError(
            f"scan_float64 takes float64 and at most {LANES} states, got {[t.dtype for t in given]} "
            f"and {A.shape[1]} states"
        )
    x, delta, A, B, C, D = (t.contiguous() for t in given[:6])
    batch, length, channels = x.shape
    states = A.shape[1]
    state = (
        x.new_zeros(batch, channels, states)
        if h0 is None
        else h0.clone(memory_format=torch.contiguous_format)
    )
    y = torch.empty_like(x)
    padded = triton.next_power_of_2(states)
    block = LANES // padded
    with torch.cuda.device_of(x):
        _kernel[(batch * triton.cdiv(channels, block),)](
            x, delta, A, B, C, D, y, state, length, channels, states, padded, block, GROUP, num_warps=1
        )
    return y, state


@triton.jit(do_not_specialize=["length"])
def _kernel(
    x, delta, A, B, C, D, y, state, length, E, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(E, BLOCK)
    first = (tl.program_id(0) // blocks).to(tl.int64) * length
    e = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    ok = e < E
    here = ok[:, None] & (n < N)[None, :]
    rate = tl.load(A + e[:, None] * N + n[None, :], mask=here, other=0.0)
    skip = tl.load(D + e, mask=ok, other=0.0)
    at = state + ((tl.program_id(0) // blocks).to(tl.int64) * E + e[:, None]) * N + n[None, :]
    h = tl.load(at, mask=here, other=0.0)
    t = 0
    while t < length:
        steps, inputs, Bs, Cs = (), (), (), ()
        for j in tl.static_range(GROUP):
            row, inside = first + t + j, t + j < length
            steps = steps + (tl.load(delta + row * E + e, mask=ok & inside, other=0.0),)  # noqa: RUF005
            inputs = inputs + (tl.load(x + row * E + e, mask=ok & inside, other=0.0),)  # noqa: RUF005
            Bs = Bs + (tl.load(B + row * N + n, mask=(n < N) & inside, other=0.0),)  # noqa: RUF005
            Cs = Cs + (tl.load(C + row * N + n, mask=(n < N) & inside, other=0.0),)  # noqa: RUF005
        for j in tl.static_range(GROUP):
            h = tl.exp(steps[j][:, None] * rate) * h + (steps[j] * inputs[j])[:, None] * Bs[j][None, :]
            out = tl.sum(h * Cs[j][None, :], 1) + skip * inputs[j]
            tl.store(y + (first + t + j) * E + e, out, mask=ok & (t + j < length))
        t += GROUP
    tl.store(at, h, mask=here)
