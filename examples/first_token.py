"""First token: say which token the context began with, whatever came after it.

    context   5 2 0 7 …        query   8, which asks; the answer here is 5

Source: our own; the smallest task that shows the whole contract.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.recipe import suggest
from lgbench.task import Batch, Metric, Recipe, Task, Tensors


class FirstToken(Task):
    """Hold on to one token: nothing to find, everything to keep."""

    class Params(Task.Params):
        num_symbols: int = Field(8, ge=2, le=1000, description="different tokens; chance is 1 / num_symbols")

    metric = Metric(name="accuracy", best=1.0, higher_is_better=True, interval="wilson")

    def recipe(self, preset: str, layout: str) -> Recipe:
        """One size for every preset: the task is learned in seconds."""
        return Recipe(
            d_model=32, num_layers=2, sizes=suggest(d_state=8),
            train_length=32, train_queries=(1, 1), train_steps=400,
            batch_size=64, learning_rate=5e-3, warmup_steps=50, decay_from=0.5, eval_queries=1,
            eval_items=256, eval_batch=256, eval_lengths=(8, 16, 32, 64, 128, 256, 512, 1024),
        )  # fmt: skip

    def interface(self, d_model: int, layout: str) -> nn.Module:
        """An embedding in front, logits at the end."""
        return Symbols(self.params.num_symbols, d_model)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Random contexts `(num_items, length)`, one query each, and the first token as its target."""
        symbols, device = self.params.num_symbols, generator.device
        context = torch.randint(symbols, (num_items, length), generator=generator, device=device)
        targets = context[:, :1]
        return Batch({"tokens": context}, {"tokens": torch.full_like(targets, symbols)}, targets)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each query, nats."""
        return F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none")

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest token is right, else 0."""
        return (predictions.argmax(dim=-1) == targets).float()

    def references(self, eval_set: object, num_queries: int, metric: Metric) -> dict[str, float]:
        """Expected accuracy of a constant answer."""
        return {"chance": 1 / self.params.num_symbols}


class Symbols(nn.Module):
    """Input and output layers."""

    def __init__(self, num_symbols: int, d_model: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(num_symbols + 1, d_model), nn.Linear(d_model, num_symbols)

    def context(self, context: Tensors) -> Tensor:
        """Embed tokens `(batch, length)`."""
        return self.embedding(context["tokens"])

    queries = context

    def read(self, hidden: Tensor) -> Tensor:
        """Logits `(batch, num_queries, num_symbols)`."""
        return self.head(hidden)
