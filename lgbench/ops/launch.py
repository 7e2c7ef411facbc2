"""Launch Triton kernels without Triton's look-up of them, which takes longer than a short kernel runs."""

from collections.abc import Sequence

import torch
from torch import Tensor

_COMPILED = {}


def launch(
    kernel,
    programs: int,
    tensors: Sequence[Tensor | None],
    numbers: Sequence[int | float],
    constants: Sequence,
    num_warps: int = 1,
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
        registers: the most of a thread; None leaves it to the compiler.
    """
    arguments = (*tensors, *numbers, *constants)
    traits = tuple(None if t is None else (t.dtype, t.data_ptr() % 16 == 0) for t in tensors)
    key = (kernel, tensors[0].device, traits, constants, registers)
    compiled = _COMPILED.get(key)
    with torch.cuda.device_of(tensors[0]):
        if compiled is None:
            options = {"num_warps": num_warps} | ({} if registers is None else {"maxnreg": registers})
            _COMPILED[key] = kernel[(programs,)](*arguments, **options)
        else:
            compiled[(programs, 1, 1)](*arguments)
