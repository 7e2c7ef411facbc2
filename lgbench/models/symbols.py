"""Input and output layers, loss and score of tasks of symbols: answers are classes, one for each query.

    token → row of E          logits = W h + b
    encoder_decoder           + a sinusoid of the place counted from the context's end, which padding in front
                              leaves as it is; queries are a set and have no place

Source: embedding and head as in the synthetic tasks of Gu and Dao, arXiv:2312.00752, whose weights are not
tied here; sinusoid: Vaswani et al., arXiv:1706.03762, §3.5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.errors import UserError
from lgbench.models.positions import sinusoid
from lgbench.task import Layout, Metric, Recipe, Tensors


class SymbolInterface(nn.Module):
    """Tokens in, one class for each query out.

    Args:
        num_tokens: number of different tokens.
        num_answers: number of classes.
        d_model: width of the backbone, even for an encoder-decoder.
        layout: an encoder-decoder is given the places of context tokens.
    """

    def __init__(self, num_tokens: int, num_answers: int, d_model: int, layout: Layout) -> None:
        super().__init__()
        self.placed = layout == "encoder_decoder"
        self.embedding, self.head = nn.Embedding(num_tokens, d_model), nn.Linear(d_model, num_answers)

    def context(self, context: Tensors) -> Tensor:
        """Embed `tokens` `(batch, length)`, of any type of integers: uint8 keeps a million tokens small."""
        hidden = self.embedding(context["tokens"].int())
        if not self.placed:
            return hidden
        length = hidden.shape[1]
        return hidden + sinusoid(torch.arange(length, device=hidden.device).flip(0), hidden.shape[2])

    def queries(self, queries: Tensors) -> Tensor:
        """Embed `tokens` `(batch, num_queries)`."""
        return self.embedding(queries["tokens"].int())

    def read(self, hidden: Tensor) -> Tensor:
        """Logits `(batch, num_queries, num_answers)`."""
        return self.head(hidden)


LOG_PROBABILITY = Metric(name="log2-probability", best=0.0, higher_is_better=True, unit="bits")
"""Of the right answer. Its normalised score is the share of the answer's bits that were kept."""


def chance_of(metric: Metric, num_classes: int) -> float:
    """What equal odds for all classes score: in accuracy, or in bits."""
    return -math.log2(num_classes) if metric == LOG_PROBABILITY else 1 / num_classes


def class_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats `(batch, num_queries)`, float32."""
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")


def is_right(logits: Tensor, targets: Tensor) -> Tensor:
    """1 where the likeliest class is the target, else 0, `(batch, num_queries)`."""
    return (logits.argmax(dim=-1) == targets).float()


def check_lengths(task: str, shortest: int, recipe: Recipe) -> None:
    """Refuse a recipe with contexts that are too short for the task of this name.

    Raises:
        UserError: names the option and the shortest context.
    """
    for option, length in (
        ("--train-length", recipe.train_length), ("--eval-lengths", recipe.eval_lengths[0]),
    ):  # fmt: skip
        if length < shortest:
            raise UserError(f"{option} {length}: a context of {task} has at least {shortest} tokens")
