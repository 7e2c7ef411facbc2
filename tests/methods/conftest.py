"""Small lively models under any method, with the same weights, on the toy task."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from lgbench.method import Method
from lgbench.models.model import Model, build_model
from lgbench.plan.params import expand, parse_plugins, resolve
from lgbench.plugins.registry import METHODS
from lgbench.run.evaluate import evaluate
from lgbench.task import EvalSet, Recipe, Task


@dataclass
class Bench:
    """A task, a model under one method, and fixed items."""

    task: Task
    method: Method
    recipe: Recipe
    model: Model
    items: EvalSet

    def answer(self, length: int, chosen: slice = slice(None), num_queries: int = 8) -> torch.Tensor:
        """Predictions after a context, as an evaluation makes them."""
        first = self.method.first_token(length, self.recipe.train_length)
        queries, _ = self.items.queries(chosen, length, num_queries)
        context = self.items.context(chosen, first, length, length)
        with torch.no_grad():
            if "keep" in _overridden(self.model):
                from lgbench.task import Batch

                batch = Batch(context, queries, self.items.queries(chosen, length, num_queries)[1])
                return self.model.answer(batch, mode="score", length=length - first)
            state = self.model.read_context(context, None, length - first)
            return self.model.answer_from(state, queries, num_queries, length - first)

    def values(self, fitted: Any = None) -> dict[int, np.ndarray]:
        """Scores of the items by evaluation length."""
        found = evaluate(self.model, self.task, self.method, self.recipe, self.items, fitted=fitted or {})
        return {m.eval_length: m.values for m in found if m.axis == "context"}


def _overridden(model: Model) -> frozenset[str]:
    from lgbench.intervention import overridden_hooks

    return overridden_hooks(model.intervention)


def make_method(text: str) -> Method:
    """The method that `--method TEXT` asks for."""
    (request,) = [one for r in parse_plugins(text) for one in expand(r)]
    method = METHODS.load(request.name)
    return method(resolve(method, request.params, "method", request.name))


@pytest.fixture
def bench(toy_task):
    """`bench("decimamba[layers=2]", num_layers=6)` → a `Bench`; equal sizes give equal weights."""

    def make(text: str, *, dtype: torch.dtype = torch.float32, backbone: str = "", **changes: Any) -> Bench:
        method = make_method(text)
        changes = {"num_layers": 6, "query_grid": (), **changes}
        recipe = replace(toy_task.recipe("smoke", "causal"), **changes)
        model = build_model(toy_task, method, recipe, seed=0, backbone=backbone)
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                scale = 0.1 if "A_log" in name else 0.2
                parameter.add_(scale * torch.randn(parameter.shape, generator=rng))
        return Bench(toy_task, method, recipe, model.eval().to(dtype), toy_task.eval_set(6, 0))

    return make
