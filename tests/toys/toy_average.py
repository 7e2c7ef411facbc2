"""Averaging: see noisy copies of two numbers, then say either of them.

    context   (v0 + noise, v1 + noise) × L        queries   0 1 1 0 …        targets   v0 v1 v1 v0 …

More context helps, and a shorter context is a prefix of a longer one. A toy for tests of the core.
"""

import hashlib

import torch
from pydantic import Field
from torch import nn

from lgbench.recipe import suggest
from lgbench.task import Batch, EvalSet, Metric, Recipe, Task

LONGEST = 512

RECIPE = Recipe(
    d_model=16, num_layers=2, sizes=suggest(d_state=4),
    train_length=16, train_queries=(2, 4), train_steps=12, batch_size=4,
    learning_rate=1e-2, eval_lengths=(1, 5, 16, 48), eval_queries=8, query_grid=(1, 4, 12), eval_items=6,
    eval_batch=4,
)  # fmt: skip


class ToyAverage(Task):
    """Small enough that a cell takes a tenth of a second."""

    class Params(Task.Params):
        noise: float = Field(0.5, ge=0, le=10, description="standard deviation of the noise")
        worth: float = Field(1.0, gt=0, le=10, description="factor on the score; no part of training")

    metric = Metric(name="squared error", best=0.0, higher_is_better=False)
    eval_only = frozenset({"worth"})
    nested = True
    exchangeable = True
    data_fingerprint = "toy"

    def recipe(self, preset, layout):
        """One preset for both layouts."""
        if preset != "smoke":
            raise LookupError(f"toy_average has no preset '{preset}'. It has: smoke")
        return RECIPE

    def interface(self, d_model, layout):
        """Two linear maps and an embedding; a separator where the layout is causal."""
        return _Layers(d_model, layout)

    def sample(self, num_items, length, num_queries, generator):
        """Fresh numbers every time."""
        return _draw(num_items, length, num_queries, self.params.noise, generator)

    def eval_set(self, num_items, seed):
        """Fixed numbers, with up to `LONGEST` noisy copies."""
        return _Items(num_items, seed, self.params.noise)

    def loss(self, predictions, targets):
        """Squared error."""
        return (predictions - targets).square().squeeze(-1)

    def score(self, predictions, targets):
        """Squared error times its worth."""
        return self.params.worth * self.loss(predictions, targets)

    def references(self, eval_set, num_queries, metric):
        """Always answering the mean of all numbers."""
        _, targets = eval_set.queries(slice(None), 1, num_queries)
        return {"chance": self.score(targets.mean().expand_as(targets), targets).mean().item()}


class _Layers(nn.Module):
    def __init__(self, d_model, layout):
        super().__init__()
        self.embed, self.ask, self.head = (
            nn.Linear(2, d_model),
            nn.Embedding(2, d_model),
            nn.Linear(d_model, 1),
        )
        self.separator = nn.Parameter(torch.randn(d_model)) if layout == "causal" else None

    def context(self, context):
        return self.embed(context["copies"])

    def queries(self, queries):
        asked = self.ask(queries["which"])
        if self.separator is None:
            return asked
        return torch.cat([self.separator.expand(len(asked), 1, -1), asked], dim=1)

    def read(self, hidden):
        return self.head(hidden)


class _Items(EvalSet):
    def __init__(self, num_items, seed, noise):
        self.num_items = num_items
        self.batch = _draw(num_items, LONGEST, LONGEST, noise, torch.Generator().manual_seed(seed))
        self.fingerprint = hashlib.sha256(self.batch.context["copies"].numpy().tobytes()).hexdigest()[:16]

    def context(self, items, start, stop, length):
        return {"copies": self.batch.context["copies"][items, start:stop]}

    def queries(self, items, length, num_queries):
        which, targets = self.batch.queries["which"], self.batch.targets
        return {"which": which[items, :num_queries]}, targets[items, :num_queries]


def _draw(num_items, length, num_queries, noise, generator):
    numbers = torch.randn(num_items, 1, 2, generator=generator)
    copies = numbers + noise * torch.randn(num_items, length, 2, generator=generator)
    which = torch.randint(2, (num_items, num_queries), generator=generator)
    targets = numbers.expand(-1, num_queries, -1).gather(2, which.unsqueeze(-1))
    return Batch({"copies": copies}, {"which": which}, targets)
