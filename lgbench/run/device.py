"""Which device a run takes."""

import torch

from lgbench.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU is visible"
        raise UserError(
            f"--device cuda: {built} (torch {torch.__version__}). Use --device cpu, or see: lgbench doctor"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
