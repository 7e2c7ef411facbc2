"""Weights trained elsewhere, from one safetensors file, to start from.

The file has either the names of a whole model (`interface.…`, `backbone.…`) or those of a backbone alone; the
layers of the task are then fresh, and need a training.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from lgbench.errors import UserError

PARTS = ("interface.", "backbone.", "trained.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWeights:
    """The tensors of a file."""

    source: str
    fingerprint: str
    """SHA-256 of the file, 16 hex digits."""
    tensors: dict[str, Tensor]

    def install(self, model: nn.Module) -> None:
        """Put the weights into a `Model`; a method's own trained parameters may be missing.

        Raises:
            UserError: names are missing or too many, or a tensor has another shape.
        """
        whole = any(name.startswith(PARTS) for name in self.tensors)
        place = model if whole else model.backbone
        own = place.state_dict()
        missing = [name for name in own if name not in self.tensors and not name.startswith("trained.")]
        extra = [name for name in self.tensors if name not in own]
        other = [
            f"{name} {list(t.shape)} instead of {list(own[name].shape)}"
            for name, t in self.tensors.items()
            if name in own and t.shape != own[name].shape
        ]
        problems = [
            f"{len(names)} {what}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
            for names, what in ((missing, "missing"), (extra, "too many"), (other, "of another shape"))
            if names
        ]
        if problems:
            raise UserError(f"--weights {self.source} does not fit this model: {'; '.join(problems)}")
        place.load_state_dict(self.tensors, strict=False)


_kept: dict[str, OwnWeights] = {}


def keep(path: Path) -> str:
    """Have a file at hand in this process; returns its fingerprint, by which plans name it.

    Raises:
        UserError: the file cannot be read, or is none of safetensors.
    """
    try:
        content = path.read_bytes()
        tensors = load(content)
    except OSError as error:
        raise UserError(f"cannot read --weights {path}: {error.strerror}") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"--weights {path} is no safetensors file: {error}") from None
    fingerprint = hashlib.sha256(content).hexdigest()[:16]
    _kept[fingerprint] = OwnWeights(source=str(path), fingerprint=fingerprint, tensors=tensors)
    return fingerprint


def kept(fingerprint: str) -> OwnWeights:
    """The weights that `keep` was given.

    Raises:
        LookupError: there are none of this fingerprint.
    """
    return _kept[fingerprint]
