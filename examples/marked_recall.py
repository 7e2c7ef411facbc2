"""Marked recall: name the token that followed the only marker, however long ago that was.

    context   7 3 # 5 1 4 2        the marker # is token 8
    query     ?                    token 9; the answer here is 5

Source: our own; the nearest published task is selective copying (Gu and Dao, arXiv:2312.00752).
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.task import Batch, Metric, Recipe, Task, Tensors


class MarkedRecall(Task):
    """One bit of routing and one token of memory: isolates forgetting from everything else."""

    class Params(Task.Params):
        num_symbols: int = Field(
            8, ge=2, le=1000, description="size of the alphabet; chance is 1 / num_symbols"
        )

    metric = Metric(name="accuracy", best=1.0, higher_is_better=True)
    min_length = 2

    def recipe(self, preset: str, layout: str) -> Recipe:
        """One size for every preset: the task is learned in seconds."""
        return Recipe(
            d_model=32, num_layers=2, d_state=8, train_length=32, train_queries=(1, 1), train_steps=600,
            batch_size=64, learning_rate=5e-3, warmup_steps=50, decay_from=0.5, eval_queries=1,
            eval_items=256, eval_batch=256, eval_lengths=(4, 8, 16, 32, 64, 128, 256, 512, 1024),
        )  # fmt: skip

    def interface(self, d_model: int, layout: str) -> nn.Module:
        """An embedding in front, logits at the end."""
        return Symbols(self.params.num_symbols, d_model)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Contexts `(num_items, length)`, one query each, and the symbol after the marker as its target."""
        symbols, device = self.params.num_symbols, generator.device
        rows = torch.arange(num_items, device=device)
        context = torch.randint(symbols, (num_items, length), generator=generator, device=device)
        marker_at = torch.randint(length - 1, (num_items,), generator=generator, device=device)
        targets = context[rows, marker_at + 1].unsqueeze(1)
        context[rows, marker_at] = symbols
        return Batch({"tokens": context}, {"tokens": torch.full_like(targets, symbols + 1)}, targets)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each query, nats."""
        return F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none")

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest symbol is right, else 0."""
        return (predictions.argmax(dim=-1) == targets).float()

    def references(self, eval_set: object, num_queries: int, metric: Metric) -> dict[str, float]:
        """Accuracy of a constant answer."""
        return {"chance": 1 / self.params.num_symbols}


class Symbols(nn.Module):
    """Input and output layers."""

    def __init__(self, num_symbols: int, d_model: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(num_symbols + 2, d_model), nn.Linear(d_model, num_symbols)

    def context(self, context: Tensors) -> Tensor:
        """Embed tokens `(batch, length)`."""
        return self.embedding(context["tokens"])

    queries = context

    def read(self, hidden: Tensor) -> Tensor:
        """Logits `(batch, num_queries, num_symbols)`."""
        return self.head(hidden)
