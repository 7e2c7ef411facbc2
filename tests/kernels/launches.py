"""Record which kernels our launchers start and with what, on CPU tensors, and compile those for GPUs.

Nothing is run: `JITFunction.run` is replaced while the launchers are called, so what is compiled is what they
ask for, argument types and constants included.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

ROOT = Path(__file__).parents[2]


class Launch(NamedTuple):
    """A kernel with the arguments of one launch."""

    kernel: JITFunction
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Module and function, as `declared_kernels` has them."""
        return f"{self.kernel.fn.__module__.removeprefix('lgbench.')}.{self.kernel.fn.__name__}"


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Launches in here are kept and not carried out."""
    found: list[Launch] = []

    def keep(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append(Launch(self, arguments, options))

    original, JITFunction.run = JITFunction.run, keep
    try:
        yield found
    finally:
        JITFunction.run = original


def compile_for(launch: Launch, capability: int) -> triton.compiler.CompiledKernel:
    """Compile a kernel down to machine code, by Triton's own way from arguments to a signature.

    Args:
        launch: what `recording` kept.
        capability: of the GPU, such as 90 for sm_90.
    """
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    options = {"debug": False, **launch.options}
    bound, specialization, parsed = bind(*launch.arguments, **options)
    parsed, signature, constants, attributes = launch.kernel._pack_args(
        backend, options, bound, specialization, parsed
    )
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=parsed.__dict__)


def declared_kernels() -> set[str]:
    """All functions under `triton.jit` that no other one calls: module and name."""
    found: set[str] = set()
    called: set[str] = set()
    for path in [*(ROOT / "lgbench").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                "jit" in ast.unparse(d) for d in node.decorator_list
            ):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("lgbench.")
                found.add(f"{module}.{node.name}")
                calls = (call.func for call in ast.walk(node) if isinstance(call, ast.Call))
                called |= {ast.unparse(function).rpartition(".")[2] for function in calls}
                called |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return {name for name in found if name.rpartition(".")[2] not in called}


def _leaf(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, requires_grad=True)


def _scan(length: int, channels: int, states: int, dtype: torch.dtype, gate: bool) -> None:
    from lgbench.ops.scan import triton_scan

    x, delta = _leaf(2, length, channels, dtype=dtype), _leaf(2, length, channels, dtype=dtype)
    A, B, C = _leaf(channels, states), *(_leaf(2, length, states, dtype=dtype) for _ in range(2))
    more = {}
    if gate:
        more = {"z": _leaf(2, length, channels, dtype=dtype), "D": _leaf(channels)}
        more |= {"delta_bias": _leaf(channels), "softplus": True, "h0": _leaf(2, channels, states)}
        more |= {"mask": torch.ones(length, dtype=torch.bool)}
    y, state = triton_scan.scan(x, delta, A, B, C, **more)
    torch.autograd.backward([y, state], [torch.ones_like(y), torch.ones_like(state)])


def _scan_float64() -> None:
    from lgbench.ops.scan.float64 import scan_float64

    x, delta = (torch.ones(2, 40, 8, dtype=torch.float64) for _ in range(2))
    A, B, C = (torch.ones(*shape, dtype=torch.float64) for shape in ((8, 4), (2, 40, 4), (2, 40, 4)))
    scan_float64(x, delta, A, B, C, torch.ones(8, dtype=torch.float64))


def _block(length: int, d_model: int, d_inner: int, states: int, mask: bool) -> None:
    from lgbench.ops.block.mamba_block import _FusedBlock

    tokens, h0 = _leaf(4, length, d_model), _leaf(4, d_inner, states)
    weights = (
        _leaf(d_model), _leaf(2 * d_inner, d_model), _leaf(1 + 2 * states, d_inner), _leaf(d_inner, 1),
        _leaf(d_inner), _leaf(d_inner, states), _leaf(d_inner), _leaf(d_model, d_inner),
    )  # fmt: skip
    real = torch.ones(length, dtype=torch.bool) if mask else None
    out, state = _FusedBlock.apply(tokens, h0 if mask else None, real, 1e-5, *weights)
    torch.autograd.backward([out, state], [torch.ones_like(out), torch.ones_like(state)])


def _conv(dtype: torch.dtype) -> None:
    from lgbench.ops.causal_conv_triton import CausalConv

    a, weight, bias = _leaf(2, 64, 32, dtype=dtype), _leaf(32, 4), _leaf(32)
    out = CausalConv.apply(a, weight, bias, torch.zeros(2, 3, 32, dtype=dtype), None, None)
    out.backward(torch.ones_like(out))


def _norm(dtype: torch.dtype) -> None:
    from lgbench.ops.rms_norm_triton import RmsNorm

    x, weight = _leaf(2, 64, 48, dtype=dtype), _leaf(48)
    out = RmsNorm.apply(x, weight, 1e-5, dtype)
    out.backward(torch.ones_like(out))


def _images() -> None:
    from lgbench.tasks.omniglot.images import draw_affine
    from lgbench.tasks.omniglot.images_triton import mapped_patches

    generator = torch.Generator().manual_seed(0)
    images, indices = torch.zeros(5, 105, 105, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)
    mapped_patches(images, indices, draw_affine(3, 105, generator), torch.full((3, 40, 2), 9), 128, 4)


def _stacked() -> None:
    from lgbench.ops import stacked_triton as ops

    x, weight, bias = _leaf(6, 40, 16), _leaf(3, 24, 16), _leaf(3, 24)
    starts = torch.zeros(2, 3, dtype=torch.int32)
    rows = ops.Linear.apply(x, weight, bias, starts)
    rows = ops.RmsNorm.apply(rows, _leaf(3, 24), 1e-5) + ops.Repeat.apply(_leaf(3, 24), 6, 40)
    ops.Total.apply(rows.reshape(3, -1)).sum().backward()


FAMILIES: dict[str, list[Callable[[], None]]] = {
    "scan": [
        lambda: _scan(600, 8, 8, torch.float32, gate=True),
        lambda: _scan(600, 8, 8, torch.float32, gate=False),
        lambda: _scan(600, 64, 16, torch.bfloat16, gate=True),
        lambda: _scan(64, 2**15, 16, torch.bfloat16, gate=False),
    ],
    "scan in float64": [_scan_float64],
    "block": [lambda: _block(600, 16, 32, 8, mask=False), lambda: _block(40, 16, 32, 8, mask=True)],
    "stacked layers": [_stacked],
    "convolution": [lambda: _conv(torch.float32), lambda: _conv(torch.bfloat16)],
    "norm": [lambda: _norm(torch.float32), lambda: _norm(torch.bfloat16)],
    "images": [_images],
}


def recorded(family: str) -> list[Launch]:
    """The different kernels of a family: one launch for each choice of types and constants."""
    with recording() as launches:
        for call in FAMILIES[family]:
            call()
    different: dict[Any, Launch] = {}
    for launch in launches:
        shapes = tuple((a.dtype,) if isinstance(a, torch.Tensor) else repr(a) for a in launch.arguments)
        different.setdefault((launch.name, shapes, repr(launch.options)), launch)
    return list(different.values())
