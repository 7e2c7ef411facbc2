"""The scan of Mamba-2: one decay a head, so that most of it is matrix products; three back ends.

    h_t = exp(Δ_t A) h_{t-1} + (Δ_t x_t) ⊗ B_t          h in R^{P×N} for each head, A and Δ_t a number a head
    y_t = h_t C_t + D x_t

In chunks of T steps, with S_t the sum of Δ A within a chunk (the dual form; every exponent is at most 0):

    within    y_t = Σ_{s≤t} exp(S_t − S_s) (C_t·B_s) Δ_s x_s           T×T products
    between   h' = exp(S_T) h + Σ_s exp(S_T − S_s) (Δ_s x_s) ⊗ B_s      one state a chunk
    across    y_t += exp(S_t) h C_t

Sizes: B batch, L length, H heads, P head_dim, N d_state; B and C are shared by all heads.
Source: Dao and Gu, arXiv:2405.21060, §6; the arrangement in blocks of chunks is our own.
"""

import functools
import importlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lgbench.ops.limits import SSD
from lgbench.ops.scan.selective_scan import ScanOutput

BACKENDS = tuple(SSD)
CHUNK = 64  # steps of a chunk; T×T products for each head and chunk are what costs memory
SMALL_CHUNK = 32  # where a state has so few numbers (SMALL_STATE) that more states cost less than products
SMALL_STATE = 1024
MOST_CHUNKS = 128  # in a block, since states go from each to each
KERNEL_CHUNK = 256
LEAST_EXPONENT = -80.0  # e^-80 is nothing, and larger steps would blur the differences of sums after them


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    h0: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> ScanOutput:
    """Run the recurrence over a whole sequence in float32 (float64 if `x` is); differentiable.

    An empty batch and length 0 are legal: the state is then `h0`, or zero.

    Args:
        x: input `(B, L, H, P)`, any floating type.
        delta: time step `(B, L, H)`, after softplus.
        A: decay rates `(H,)`, negative.
        B: input projection `(B, L, N)`.
        C: output projection `(B, L, N)`.
        D: skip weight `(H,)`.
        h0: state before the first position `(B, H, P, N)`; None means zero.
        mask: bool `(L,)` or `(B, L)`. Where it is False, Δ is exactly 0: the state passes unchanged, and the
            output is still read from it.
        backend: one of `BACKENDS`; "auto" is torch, since mamba-ssm's kernels multiply in TF32.

    Returns:
        y `(B, L, H, P)` in the type of `x`, and the last state `(B, H, P, N)`.

    Raises:
        ValueError: a shape does not fit, or the back end is unknown or not usable here.
    """
    _check(x, delta, A, B, C, D, h0, mask)
    name = resolve_ssd_backend(backend, x.device, B.shape[-1], x.dtype)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    scan = {"reference": ssd_reference, "torch": _blocks, "mamba_ssm": _mamba_ssm}[name]
    with torch.autocast(x.device.type, enabled=False):
        step, A = delta.to(dtype), A.to(dtype)
        if mask is not None:
            step = step.masked_fill(~mask.expand(step.shape[:2]).unsqueeze(-1), 0.0)
        (batch, _, heads, head_dim), d_state = x.shape, B.shape[-1]
        h0 = A.new_zeros(batch, heads, head_dim, d_state) if h0 is None else h0.to(dtype)
        u = x.to(dtype)
        y, state = scan(u, step, A, B.to(dtype), C.to(dtype), h0) if x.numel() else (torch.zeros_like(u), h0)
        if D is not None:
            y = y + D.to(dtype).unsqueeze(-1) * u
    return ScanOutput(y.to(x.dtype), state)


def resolve_ssd_backend(
    backend: str,
    device: torch.device | str,
    d_state: int | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """The back end that serves a request on a device; arguments as of `resolve_backend` of the other scan.

    Raises:
        ValueError: the name is unknown, or that back end cannot run on this device or with this size or type;
            says why.
    """
    if backend == "auto":
        return "torch"
    if backend not in BACKENDS:
        raise ValueError(f"Mamba-2 has no scan back end '{backend}'. Known: auto, {', '.join(BACKENDS)}")
    if backend == "mamba_ssm":
        reason = "it needs a CUDA device" if torch.device(device).type != "cuda" else _import_error()
        if reason:
            raise ValueError(
                f"Mamba-2's scan back end '{backend}' cannot run on {device}: {reason}; try 'auto'"
            )
    if reason := SSD[backend].why_not(d_state, dtype):
        others = ", ".join(name for name in BACKENDS if SSD[name].why_not(d_state, dtype) is None)
        raise ValueError(f"ssd: back end '{backend}' cannot do this: {reason}; use one of {others}")
    return backend


def ssd_reference(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, one time step after another in float64; shapes as in `ssd`, `h` is the first state.

    Returns:
        y without the skip and the last state, in the type of `x`.
    """
    u, step, A, B, C, h = (v.double() for v in (x, delta, A, B, C, h))
    outputs = []
    for x_t, step_t, B_t, C_t in zip(u.unbind(1), step.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        decay, weight = torch.exp(step_t * A), step_t.unsqueeze(-1) * x_t
        h = decay[:, :, None, None] * h + weight.unsqueeze(-1) * B_t[:, None, None, :]
        outputs.append((h * C_t[:, None, None, :]).sum(-1))
    return torch.stack(outputs, 1).to(x.dtype), h.to(x.dtype)


def _blocks(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Block after block of chunks; where a gradient is wanted through several, each is computed again in the
    backward pass, so that T×T products exist for one block at a time."""
    batch, length, heads, head_dim = x.shape
    steps = SMALL_CHUNK if head_dim * B.shape[-1] <= SMALL_STATE else CHUNK
    budget = 2**26 if x.device.type == "cuda" else 2**22
    size = steps * min(MOST_CHUNKS, max(1, budget // (batch * heads * steps * steps)))
    recompute = torch.is_grad_enabled() and size < length
    outputs = []
    for start in range(0, length, size):
        now = slice(start, start + size)
        inputs = (x[:, now], delta[:, now], A, B[:, now], C[:, now], h, steps)
        if recompute:
            y, h = checkpoint(_block, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            y, h = _block(*inputs)
        outputs.append(y)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), h


def _block(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """All chunks of a block side by side; indices b batch, k chunk, h head, t step."""
    length = x.shape[1]
    steps = min(steps, length)
    surplus = -length % steps  # filled up with Δ = 0, which leaves the state alone
    x, B, C = (F.pad(v, (0,) * (2 * v.ndim - 3) + (surplus,)) if surplus else v for v in (x, B, C))
    delta = F.pad(delta, (0, 0, 0, surplus))
    x, delta, B, C = (v.unflatten(1, (-1, steps)) for v in (x, delta, B, C))
    u = (delta.unsqueeze(-1) * x).transpose(2, 3)  # (b, k, h, t, P)
    total = (delta * A).clamp(min=LEAST_EXPONENT).cumsum(2).transpose(2, 3)  # (b, k, h, t)

    lower = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~lower, -math.inf).exp()
    y = (decay * (C @ B.mT).unsqueeze(2)) @ u

    whole = total[..., -1]
    added = (u * torch.exp(whole.unsqueeze(-1) - total).unsqueeze(-1)).mT @ B.unsqueeze(2)  # (b, k, h, P, N)
    sources = torch.cat([h.unsqueeze(1), added], 1)
    states = torch.einsum("bhkj,bjhpn->bkhpn", _between(whole.transpose(1, 2)), sources)
    y = y + (C.unsqueeze(2) @ states[:, :-1].mT) * total.exp().unsqueeze(-1)
    return y.transpose(2, 3).flatten(1, 2)[:, :length], states[:, -1].clone()


def _between(whole: Tensor) -> Tensor:
    """What is left before chunk k of a state from before chunk j ≤ k, `(b, h, K + 1, K + 1)`.

    Args:
        whole: exponents of the chunks, `(b, h, K)`. They are summed segment by segment, since differences of
            sums over a whole block would lose digits.
    """
    count = whole.shape[-1]
    steps = F.pad(whole, (1, 0)).unsqueeze(-1)
    steps = steps.expand(*whole.shape[:-1], count + 1, count + 1)
    ones = torch.ones(count + 1, count + 1, dtype=torch.bool, device=whole.device)
    segments = steps.masked_fill(~ones.tril(-1), 0.0).cumsum(-2)
    return segments.masked_fill(~ones.tril(), -math.inf).exp()


def _mamba_ssm(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """mamba-ssm's Triton kernels (github.com/state-spaces/mamba), with one group of B and C."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        x.contiguous(), delta.contiguous(), A, B.unsqueeze(2).contiguous(), C.unsqueeze(2).contiguous(),
        KERNEL_CHUNK, initial_states=h.contiguous(), return_final_states=True,
    )  # fmt: skip


@functools.cache
def _import_error() -> str | None:
    try:
        importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except Exception as error:  # compiled packages fail in many ways; the reason is what the user needs
        return f"cannot import mamba_ssm.ops.triton.ssd_combined ({type(error).__name__}: {error})"
    return None


def _check(x, delta, A, B, C, D, h0, mask) -> None:
    """Refuse what does not fit, naming the argument, what was given and what is expected."""
    if x.ndim != 4:
        raise ValueError(f"ssd: x has shape {tuple(x.shape)}, expected (batch, length, heads, head_dim)")
    if B.ndim != 3:
        raise ValueError(f"ssd: B has shape {tuple(B.shape)}, expected (batch, length, d_state)")
    (batch, length, heads, head_dim), d_state = x.shape, B.shape[-1]
    expected = {
        "delta": (delta, (batch, length, heads)),
        "A": (A, (heads,)),
        "B": (B, (batch, length, d_state)),
        "C": (C, (batch, length, d_state)),
        "D": (D, (heads,)),
        "h0": (h0, (batch, heads, head_dim, d_state)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(
                f"ssd: {name} has shape {tuple(value.shape)}, expected {shape}, since x is {tuple(x.shape)} "
                f"(batch, length, heads, head_dim) and d_state is {d_state}"
            )
    if mask is not None and (
        mask.dtype != torch.bool or tuple(mask.shape) not in ((length,), (batch, length))
    ):
        raise ValueError(
            f"ssd: mask is {mask.dtype} {tuple(mask.shape)}, expected torch.bool of shape ({length},) or "
            f"({batch}, {length})"
        )
