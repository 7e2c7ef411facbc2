"""Tell the model how long the sequence is: the first token encodes the number of context tokens.

    [LEN, I_1 … I_L, SEP, Q …]        LEN = W (L / 100) + b, trained with the model

Changes the state from the first token on, so each length needs its own pass.
Source: Rathjens et al., the length-prepended variant; initialisation as in their code (weight and bias U(-1,
    1)).
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from lgbench.method import Method, Mode, ScanIntervention


class Prepended(Method):
    """Improves inside the trained range and hurts beyond it, as published."""

    class Params(Method.Params):
        tell: float = Field(
            1.0, gt=0, le=1024, description="told length / true length in evaluation; 1 tells the truth"
        )

    prefix_exact = False
    needs_length = True
    eval_only = frozenset({"tell"})

    def assumed_length(self, length: int, train_length: int) -> int:
        """What the model is told."""
        return round(self.params.tell * length)

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """A length token in front of every sequence."""
        return _LengthToken(d_model, self.params.tell)


class _LengthToken(ScanIntervention):
    def __init__(self, d_model: int, tell: float) -> None:
        self.trained = nn.Linear(1, d_model)
        self.tell, self.told = tell, 0.0

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Keep what the model is told; in training always the truth."""
        self.told = length / 100 if mode == "train" else length * self.tell / 100

    def sequence(self, tokens: Tensor) -> Tensor:
        """Put the length token in front: `(batch, 1 + length, d_model)`."""
        told = torch.as_tensor(self.told, dtype=tokens.dtype, device=tokens.device).reshape(1)
        return torch.cat([self.trained(told).expand(tokens.shape[0], 1, -1), tokens], dim=1)
