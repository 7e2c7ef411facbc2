"""Backbones: sequence models that map `(batch, length, d_model)` to the same shape.

Each has a `layout`, a constructor from keyword sizes, `layers_multiple_of` (its depth is a multiple of it),
and

    answer(context, queries, *, mode, context_mask, query_mask, intervention) -> hidden states of the queries

A causal one also has `advance(tokens, *, mode, state, mask, intervention) -> Advance` for streaming.
"""

import importlib
import inspect
from typing import Any

BACKBONES = {
    "mamba": "lgbench.models.mamba:Mamba",
    "mamba2": "lgbench.models.mamba2:Mamba2",
    "decoder": "lgbench.models.decoder:Decoder",
    "encoder_decoder": "lgbench.models.transformer:EncoderDecoder",
}


def backbone_class(name: str) -> Any:
    """The class of a backbone.

    Raises:
        ValueError: there is no such backbone.
    """
    if name not in BACKBONES:
        raise ValueError(f"no backbone '{name}'. Known: {', '.join(sorted(BACKBONES))}")
    module, attribute = BACKBONES[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def sizes_of(name: str) -> frozenset[str]:
    """Keywords that the constructor of a backbone takes, such as "d_state"."""
    return frozenset(inspect.signature(backbone_class(name)).parameters)
