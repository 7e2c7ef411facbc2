"""Fail on purpose: give NaN, raise, exit, run out of memory, refuse the task or a sequence."""

import sys
from typing import Literal

import torch
from pydantic import Field

from lgbench.errors import UserError
from lgbench.method import Method, ScanIntervention


class ToyTrouble(Method):
    """What the runner must survive."""

    class Params(Method.Params):
        kind: Literal[
            "nan", "crash", "exit", "silence", "wordless", "surrogate", "memory", "unsupported", "refusal"
        ] = Field("crash", description="what happens")
        when: Literal["train", "evaluation", "unsupported", "check", "intervention", "calibration_length"] = (
            Field("train", description="where it happens")
        )
        after: int = Field(0, ge=0, description="sequences that are spared")

    def unsupported(self, task):
        """Only if asked to."""
        if self.params.when == "unsupported":
            _go_wrong(self.params.kind)
        return "it was asked to refuse" if self.params.kind == "unsupported" else None

    def check(self, recipe, backbone):
        """Nothing is wrong with the recipe."""
        if self.params.when == "check":
            _go_wrong(self.params.kind)

    def calibration_length(self, length, train_length):
        """Fits nothing."""
        if self.params.when == "calibration_length":
            _go_wrong(self.params.kind)
        return None

    def intervention(self, train_length, d_model):
        """Trouble from the sequence after `after` on."""
        if self.params.when == "intervention":
            _go_wrong(self.params.kind)
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
        _go_wrong(self.params.kind)
        return tokens * float("nan")


def _go_wrong(kind):
    if kind == "crash":
        raise RuntimeError("boom [/red]")
    if kind == "exit":
        sys.exit(0)
    if kind == "silence":
        raise AssertionError
    if kind == "wordless":
        raise UserError("")
    if kind == "surrogate":
        raise RuntimeError("a name that is no text: caf\udce9")
    if kind == "refusal":
        raise UserError("no such length")
    if kind == "memory":
        raise torch.OutOfMemoryError("tried to allocate too much")
