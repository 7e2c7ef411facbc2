"""Launch Triton kernels without Triton's look-up of them, which takes longer than a short kernel runs."""

from collections.abc import Hashable, Sequence

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import driver

DIRECT = ("3.6.", "3.7.")
"""Versions of Triton whose compiled kernels are called directly; others look every launch up.

In both `CompiledKernel.run(x, y, z, stream, function, metadata, None, None, None, *arguments)` launches.
"""

_READY = {}


def launches_directly() -> bool:
    """Whether the installed Triton is one of `DIRECT`; otherwise a short call takes about twice as long."""
    return triton.__version__.startswith(DIRECT)


def launch(
    kernel,
    programs: int,
    tensors: Sequence[Tensor | None],
    numbers: Sequence[int | float],
    constants: tuple,
    num_warps: int = 1,
    traits: Hashable | None = None,
    registers: int | None = None,
) -> None:
    """Run a kernel on the device of the first tensor; looked up, and compiled, once for all calls alike.

    Args:
        kernel: its arguments are the tensors, the numbers and the constants, in this order.
        programs: of them, in one row.
        tensors: pointers; their types and whether they begin at 16 bytes select the compiled kernel.
        numbers: those that may change from call to call, `do_not_specialize` in the kernel; below 2^31.
        constants: `tl.constexpr` in the kernel.
        num_warps: of a program.
        traits: what stands for device, types and alignment of the tensors, where a caller knows it already.
        registers: the most of a thread; None leaves it to the compiler.
    """
    pointers = [None if t is None else t.data_ptr() for t in tensors]
    if traits is None:
        types = [None if t is None else t.dtype for t in tensors]
        traits = (tensors[0].device, *types, *[p is None or p % 16 == 0 for p in pointers])
    key = (id(kernel), num_warps, registers, constants, traits)
    ready = _READY.get(key)
    if ready is None:
        options = {"num_warps": num_warps} | ({} if registers is None else {"maxnreg": registers})
        with torch.cuda.device_of(tensors[0]):
            compiled = kernel[(programs,)](*tensors, *numbers, *constants, **options)
        if isinstance(compiled, CompiledKernel) and launches_directly():
            device = tensors[0].device
            # The kernel itself is kept because its id stands for it.
            _READY[key] = (device.index, compiled.run, compiled.function, compiled.packed_metadata, kernel)
        return
    index, run, function, metadata, _ = ready
    if index != driver.active.get_current_device():
        with torch.cuda.device(index):
            return launch(kernel, programs, tensors, numbers, constants, num_warps, traits, registers)
    stream = driver.active.get_current_stream(index)
    run(programs, 1, 1, stream, function, metadata, None, None, None, *pointers, *numbers, *constants)
