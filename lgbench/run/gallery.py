"""What a model paints of some evaluation items after every grid length, for the report's strips."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from lgbench.method import Method
from lgbench.models.model import Model
from lgbench.run.evaluate import PIECE, autocast, can_stream
from lgbench.task import Batch, EvalSet, Recipe


def gallery(
    model: Model,
    method: Method,
    recipe: Recipe,
    items: EvalSet,
    fitted: Mapping[int, Mapping[str, Tensor]] = MappingProxyType({}),
) -> dict[str, np.ndarray] | None:
    """What the model paints after every grid length, for the report; None if the task has nothing to show.

    Arguments as in `evaluate`.

    Returns:
        `truth` `(images, height, width)`, `reconstructions` `(images, lengths, height, width)`, `lengths`.
    """
    if not hasattr(items, "gallery_items"):
        return None
    model.eval()
    chosen = slice(0, items.gallery_items)
    queries = items.gallery_queries(chosen)
    num_queries = next(iter(queries.values())).shape[1]
    pictures = []
    with torch.no_grad(), autocast(next(model.parameters()).device, recipe):
        for length in recipe.eval_lengths:
            model.intervention.use(fitted.get(length, {}))
            first = method.first_token(length, recipe.train_length)
            if can_stream(model):
                state = None
                for start in range(first, length, PIECE):
                    context = items.context(chosen, start, min(length, start + PIECE), length)
                    state = model.read_context(context, state, length - first)
                answer = model.answer_from(state, queries, num_queries, length - first)
            else:
                context = items.context(chosen, first, length, length)
                _, targets = items.queries(chosen, length, num_queries)
                answer = model.answer(Batch(context, queries, targets), mode="score", length=length - first)
            pictures.append(items.gallery_images(answer.float()))
    return {
        "truth": items.gallery_truth(chosen),
        "reconstructions": np.stack(pictures, axis=1),
        "lengths": np.array(recipe.eval_lengths),
    }
