"""The released training on texts: a first half that is whole, and a second half after a decimated first one.

    chunk 1    first half, nothing may be dropped           labels: its own tokens
    chunk 2    the whole window, the first half may be       labels: tokens of the second half but the first

The loss is the mean of the two mean cross-entropies. Source: Ben-Kish et al., the released code for PG-19.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgbench.models.language import token_losses
from lgbench.models.model import Model, TrainingAnswer
from lgbench.task import Batch


def is_text(batch: Batch) -> bool:
    """Whether context and queries are one text, and each query has the token after it as its target."""
    (queries,) = batch.queries.values()
    return "mask" not in batch.context and queries.shape == batch.targets.shape


def answer_in_chunks(model: Model, batch: Batch, length: int | Tensor) -> TrainingAnswer:
    """Predictions of the targets from chunk 2, and the loss of both.

    Args:
        model: under a `Decimated` intervention.
        batch: `is_text`; with its last target it is a window of some tokens, which is cut in the middle.
        length: of the context, to announce.
    """
    tokens = torch.cat([batch.context["tokens"], batch.queries["tokens"]], dim=1)
    labels = torch.cat([tokens[:, 1:], batch.targets[:, -1:]], dim=1)
    middle = (tokens.shape[1] + 1) // 2
    first = _logits(model, tokens[:, :middle], length, num_read=middle)
    second = _logits(model, tokens, length, num_read=tokens.shape[1] - middle)
    losses = (
        token_losses(first[:, :-1], labels[:, : middle - 1]).mean(),
        token_losses(second, labels[:, middle:]).mean(),
    )
    return TrainingAnswer(second[:, -batch.targets.shape[1] :], None, sum(losses) / 2)


def _logits(model: Model, tokens: Tensor, length: int | Tensor, num_read: int) -> Tensor:
    """Of the last `num_read` tokens, which are protected, `(batch, num_read, vocabulary)`."""
    model.intervention.num_read = num_read
    model.intervention.begin("train", length, num_read)
    hidden = model.backbone.advance(
        model.interface.context({"tokens": tokens}),
        mode="train", read=num_read, intervention=model.intervention,
    ).hidden  # fmt: skip
    return model.interface.read(hidden)
