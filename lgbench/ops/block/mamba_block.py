"""The Mamba block of small models as one operation: norm, projections, scan, gate and residual.

    u = RMSNorm(x);  [a ; z] = W_in u;  s = SiLU(a);  [τ ; B ; C] = W_x s;  Δ = softplus(W_dt τ + b_dt)
    h_t = exp(Δ A) ∘ h_{t-1} + (Δ s) ⊗ B;  x ← x + W_out ((h_t C + D ∘ s) ∘ SiLU(z))

Sizes: B batch, L length, d_model, E d_inner, N d_state, R dt_rank. There is no convolution.
Source: Gu and Dao, arXiv:2312.00752, without the convolution, as in the Omniglot reconstruction models.
"""

import importlib.util
import os

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lgbench.ops.scan.selective_scan import selective_scan


def mamba_block(
    tokens: Tensor,
    *,
    norm_weight: Tensor,
    in_proj: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_proj: Tensor,
    eps: float = 1e-5,
    h0: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add one Mamba block to a residual stream: fused where `supports` says so, plain PyTorch elsewhere.

    The fused path has the accuracy of float32 throughout (on tensor cores a factor is the sum of two TF32
    numbers), repeats bit for bit, can be captured in a CUDA graph, and shares nothing between calls. It has
    first derivatives only. For its backward it keeps, in bytes a token,
    4 (5 E + d_model + 2 N + 4 + E N / T), T being 4 up to E N = 256 and 2 beyond: 1,040 with d_model 16, E 32
    and N 8.

    Args:
        tokens: the residual stream `(B, L, d_model)`.
        norm_weight: gain of the RMS norm `(d_model,)`.
        in_proj: `(2E, d_model)`, rows of a, then of the gate z.
        x_proj: `(R + 2N, E)`, rows of τ, then B, then C.
        dt_weight: `(E, R)`.
        dt_bias: `(E,)`.
        A_log: `(E, N)`; A is -exp(A_log).
        D: skip weight `(E,)`.
        out_proj: `(d_model, E)`.
        eps: of the norm.
        h0: state before the first token `(B, E, N)`; None is zero.
        mask: bool `(L,)` or `(B, L)`, True for a real token. The others pass through unchanged and leave the
            state alone: their Δ is exactly 0.

    Returns:
        the new residual stream `(B, L, d_model)` and the state after the last token `(B, E, N)`, both with
        gradients.

    Raises:
        ValueError: shapes that do not fit together.
    """
    weights = (norm_weight, in_proj, x_proj, dt_weight, dt_bias, A_log, D, out_proj)
    _check(tokens, weights, h0, mask)
    d_inner, d_state = A_log.shape
    fits = supports(tokens.shape[-1], d_inner, d_state, dt_weight.shape[1], tokens.dtype, tokens.device)
    if fits and tokens.numel() > 0:
        return _FusedBlock.apply(tokens, h0, mask, eps, *weights)
    return plain_block(tokens, weights, eps, h0, mask)


def supports(
    d_model: int, d_inner: int, d_state: int, dt_rank: int, dtype: torch.dtype, device: torch.device | str
) -> bool:
    """Say whether the fused path serves this size: float32 on a GPU, few channels and states."""
    small = d_model in (16, 32) and d_inner in (32, 64) and d_state in (2, 4, 8, 16) and dt_rank in (1, 2)
    if not small or d_inner * d_state > 512 or dtype != torch.float32:
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.device(device).type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def plain_block(
    tokens: Tensor, weights: tuple[Tensor, ...], eps: float, h0: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The definition in PyTorch operations, for any size, type and device; arguments as in `mamba_block`."""
    norm_weight, in_proj, x_proj, dt_weight, dt_bias, A_log, D, out_proj = weights
    d_state, dt_rank = A_log.shape[1], dt_weight.shape[1]
    scale = torch.rsqrt(tokens.square().mean(-1, keepdim=True) + eps)
    a, z = functional.linear(tokens * scale * norm_weight, in_proj).chunk(2, dim=-1)
    s = functional.silu(a)
    tau, B, C = functional.linear(s, x_proj).split([dt_rank, d_state, d_state], dim=-1)
    y, state = selective_scan(
        s,
        functional.linear(tau, dt_weight),
        -torch.exp(A_log),
        B,
        C,
        D,
        z=z,
        delta_bias=dt_bias,
        softplus=True,
        h0=h0,
        mask=mask,
    )
    block = functional.linear(y, out_proj)
    if mask is not None:
        block = torch.where(mask[..., None], block, 0.0)
    return tokens + block, state


def check_block(device: torch.device | str, length: int) -> float:
    """The relative error of a block of the default Omniglot model against float64 on the CPU, as run here.

    Args:
        device: where it runs.
        length: tokens, at least 1.

    Returns:
        The larger of ‖y − ref‖ / ‖ref‖ over what the block adds and over the last state; NaN if there is one.
    """
    rng = torch.Generator().manual_seed(length)
    shapes = {"in_proj": (64, 16), "x_proj": (17, 32), "dt_weight": (32, 1), "out_proj": (16, 32)}
    weights = {name: torch.randn(shape, generator=rng) / shape[1] ** 0.5 for name, shape in shapes.items()}
    weights |= {"norm_weight": torch.ones(16), "D": torch.ones(32), "dt_bias": torch.full((32,), -4.0)}
    weights["A_log"] = torch.arange(1.0, 9).log().repeat(32, 1)
    tokens = torch.randn(1, length, 16, generator=rng)
    with torch.no_grad():
        got = mamba_block(tokens.to(device), **{name: w.to(device) for name, w in weights.items()})
        exact = mamba_block(tokens.double(), **{name: w.double() for name, w in weights.items()})
    pairs = ((got[0].cpu() - tokens, exact[0] - tokens), (got[1].cpu(), exact[1]))
    return torch.stack([(a.double() - b).norm() / b.norm() for a, b in pairs]).amax().item()


class _FusedBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, h0, mask, eps, *weights):
        from lgbench.ops.block import triton_block as kernels

        tokens = tokens.contiguous()
        weights = kernels.Weights(*(weight.contiguous() for weight in weights))
        h0 = None if h0 is None else h0.contiguous()
        mask = None if mask is None else mask.contiguous()
        keep = any(ctx.needs_input_grad)
        out, last, tape = kernels.forward(tokens, weights, eps, h0, mask, keep)
        if keep:
            ctx.save_for_backward(tokens, *weights, *tape)
            ctx.eps, ctx.has_h0 = eps, h0 is not None
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, grad_last):
        from lgbench.ops.block import triton_block as kernels

        tokens, *rest = ctx.saved_tensors
        weights, tape = kernels.Weights(*rest[:8]), kernels.Tape(*rest[8:])
        total = tokens.new_empty(1, sum(weight.numel() for weight in weights))
        grad_tokens, grad_h0 = kernels.backward(
            tokens, weights, ctx.eps, tape, grad_out.contiguous(), grad_last.contiguous(), total
        )
        grads = kernels.split_gradients(total[0], weights)
        return grad_tokens, grad_h0 if ctx.has_h0 else None, None, None, *grads


def _check(tokens: Tensor, weights: tuple[Tensor, ...], h0: Tensor | None, mask: Tensor | None) -> None:
    if tokens.dim() != 3 or weights[5].dim() != 2 or weights[3].dim() != 2:
        raise ValueError(
            "mamba_block: tokens must be (batch, length, d_model), A_log (d_inner, d_state), dt_weight "
            f"(d_inner, dt_rank), got {[tuple(t.shape) for t in (tokens, weights[5], weights[3])]}"
        )
    batch, length, d_model = tokens.shape
    (d_inner, d_state), dt_rank = weights[5].shape, weights[3].shape[1]
    expected = {
        "norm_weight": (d_model,),
        "in_proj": (2 * d_inner, d_model),
        "x_proj": (dt_rank + 2 * d_state, d_inner),
        "dt_weight": (d_inner, dt_rank),
        "dt_bias": (d_inner,),
        "A_log": (d_inner, d_state),
        "D": (d_inner,),
        "out_proj": (d_model, d_inner),
    }
    for (name, shape), weight in zip(expected.items(), weights, strict=True):
        if tuple(weight.shape) != shape:
            raise ValueError(
                f"mamba_block: {name} is {tuple(weight.shape)}, but tokens and A_log ask for {shape}"
            )
    given = {"h0": h0, "mask": mask, **dict(zip(expected, weights, strict=True))}
    for name, tensor in given.items():
        if tensor is not None and tensor.device != tokens.device:
            raise ValueError(f"mamba_block: {name} is on {tensor.device}, tokens are on {tokens.device}")
    if h0 is not None and tuple(h0.shape) != (batch, d_inner, d_state):
        raise ValueError(f"mamba_block: h0 is {tuple(h0.shape)}, must be {(batch, d_inner, d_state)}")
    if mask is not None and (
        mask.dtype != torch.bool or tuple(mask.shape) not in ((length,), (batch, length))
    ):
        raise ValueError(
            f"mamba_block: mask is {mask.dtype} {tuple(mask.shape)}, "
            f"must be bool {(length,)} or {(batch, length)}"
        )
