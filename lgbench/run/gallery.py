"""What a model paints of some evaluation items after every grid length, for the report's strips."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from lgbench.method import Method
from lgbench.models.model import Model
from lgbench.run.evaluate import autocast
from lgbench.run.reading import ContextReader
from lgbench.task import EvalSet, Recipe, Task, Tensors


def gallery(
    model: Model,
    task: Task,
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
    if not items.gallery_items:
        return None
    model.eval()
    chosen = slice(0, items.gallery_items)
    queries = items.gallery_queries(chosen)
    num_queries = next(iter(queries.values())).shape[1]
    reader, pictures = ContextReader(model, method, task.context_tokens, recipe.train_length), []
    with torch.no_grad(), autocast(next(model.parameters()).device, recipe):
        for length in recipe.eval_lengths:
            model.intervention.use(fitted.get(length, {}))
            num_tokens = items.num_tokens(length)
            tokens = partial(_tokens, items, chosen, length)
            _, targets = items.queries(chosen, length, num_queries)
            if views := reader.views(num_tokens):
                answer = reader.averaged(tokens, queries, targets, views)
            else:
                window = reader.window(length, num_tokens)
                answer = reader.answer(tokens, queries, targets, window, num_tokens)
            pictures.append(items.gallery_images(answer.float()))
    return {
        "truth": items.gallery_truth(chosen),
        "reconstructions": np.stack(pictures, axis=1),
        "lengths": np.array(recipe.eval_lengths),
    }


def _tokens(items: EvalSet, chosen: slice, extent: int, start: int, stop: int) -> Tensors:
    return items.context(chosen, start, stop, extent)
