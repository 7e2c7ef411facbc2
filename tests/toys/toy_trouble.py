"""Fail on purpose: give NaN, raise, run out of memory, refuse the task or a sequence."""

from typing import Literal

import torch
from pydantic import Field

from lgbench.errors import UserError
from lgbench.method import Method, ScanIntervention


class ToyTrouble(Method):
    """What the runner must survive."""

    class Params(Method.Params):
        kind: Literal["nan", "crash", "memory", "unsupported", "refusal"] = Field(
            "crash", description="what happens"
        )
        when: Literal["train", "evaluation"] = Field("train", description="where it happens")
        after: int = Field(0, ge=0, description="sequences that are spared")

    def unsupported(self, task):
        """Only if asked to."""
        return "it was asked to refuse" if self.params.kind == "unsupported" else None

    def intervention(self, train_length, d_model):
        """Trouble from the sequence after `after` on."""
        return _Trouble(self.params)


class _Trouble(ScanIntervention):
    def __init__(self, params):
        self.params, self.seen = params, 0

    def sequence(self, tokens):
        here = "train" if torch.is_grad_enabled() else "evaluation"
        if here != self.params.when:
            return tokens
        self.seen += 1
        if self.seen <= self.params.after:
            return tokens
        if self.params.kind == "crash":
            raise RuntimeError("boom [/red]")
        if self.params.kind == "refusal":
            raise UserError("no such length")
        if self.params.kind == "memory":
            raise torch.OutOfMemoryError("tried to allocate too much")
        return tokens * float("nan")
