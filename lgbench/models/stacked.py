"""Several models of one shape as one: weights side by side, one set of launches for all.

Each model keeps its own parameters, which become views of the common ones: what trains the stack trains the
models.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.models.model import Model
from lgbench.ops import stacked
from lgbench.ops.block.stacked import ALIGNED, IN_A_ROW, Sizes, chunk_of, stacked_blocks
from lgbench.task import Batch

BLOCK_NAMES = {
    "dt_weight": "dt_proj.weight", "dt_bias": "dt_proj.bias", "A_log": "A_log", "D": "D",
    "x_proj": "x_proj.weight", "norm_weight": "norm.weight", "in_proj": "in_proj.weight", "out_proj":
    "out_proj.weight",
}  # fmt: skip


def stacks(model: Model) -> bool:
    """Whether models like this one can be stacked: the plain Mamba, and an interface that takes stacked
    weights, which it says by `stackable`.
    """
    backbone = model.backbone
    plain = getattr(backbone, "stackable", False) and backbone.blocks[0].conv is None
    plain = plain and backbone.blocks[0].mixer_norm_eps is None
    return (
        plain and backbone.scan_backend in ("auto", "block") and getattr(model.interface, "stackable", False)
    )


class StackedModel:
    """Models of one shape, of which `stacks` is true.

    Args:
        models: at least one; their parameters become views of `weights`.
        batch: sequences of each.
        longest: tokens of the longest sequence, context, separator and queries.

    Attributes:
        weights: `(models, numbers)`, all parameters of a model in a row, then zeros; an optimiser works here.
        chunk: sequences are a multiple of it long.
    """

    def __init__(self, models: Sequence[Model], batch: int, longest: int) -> None:
        first = models[0]
        backbone, block = first.backbone, first.backbone.blocks[0]
        self.longest, self.eps = longest, backbone.norm.eps
        self.sizes = Sizes(
            len(backbone.blocks), backbone.norm.weight.numel(), block.d_inner, block.d_state, block.dt_rank
        )
        self.chunk = chunk_of(batch, longest, self.sizes)
        orders = [_in_order(model) for model in models]
        self.names = list(orders[0])
        with torch.no_grad():
            rows = torch.stack([torch.cat([p.flatten() for p in order.values()]) for order in orders])
            self.weights = F.pad(rows, (0, -rows.shape[1] % ALIGNED))
        self._padding = self.weights[:, rows.shape[1] :]
        for row, order in zip(self.weights, orders, strict=True):
            for parameter, view in zip(order.values(), self.views(row, orders[0]), strict=True):
                parameter.data = view
        self._blocks = self.weights[:, : self.sizes.num_layers * self.sizes.numbers()].requires_grad_()
        self._others, self.interface = self._take_over(first)

    def views(self, row: Tensor, like: dict[str, Tensor]) -> list[Tensor]:
        """The numbers of a row in the shapes of a model's parameters, in the order of `names`."""
        sizes = [like[name].numel() for name in self.names]
        parts = row[: sum(sizes)].split(sizes)
        return [part.view(like[name].shape) for name, part in zip(self.names, parts, strict=True)]

    def answer(self, batch: Batch, starts: Tensor) -> Tensor:
        """Predictions `(models · batch, num_queries, …)`.

        Args:
            batch: of all models, one after the other.
            starts: see `stacked_blocks`, for context, separator and queries.
        """
        context, queries = (
            self.interface.context(batch.context, starts),
            self.interface.queries(batch.queries),
        )
        tokens = torch.cat([context, queries], dim=1)
        tokens = stacked_blocks(tokens, self._blocks, starts, self.sizes, self.eps, self.longest)
        read = tokens[:, -batch.targets.shape[1] :]
        return self.interface.read(stacked.rms_norm(read, self._others["backbone.norm.weight"], self.eps))

    def gradients(self) -> Tensor:
        """Of the last backward, `(models, numbers)` like the weights; they are handed over."""
        leaves = [self._blocks, *self._others.values()]
        found = torch.cat([*(leaf.grad.flatten(1) for leaf in leaves), self._padding], dim=1)
        for leaf in leaves:
            leaf.grad = None
        return found

    def _take_over(self, first: Model) -> tuple[dict[str, Tensor], nn.Module]:
        """What is outside of the blocks: its stacked parameters by name, and an interface that has them."""
        outside = {n: p for n, p in _in_order(first).items() if not n.startswith("backbone.blocks.")}
        sizes = [p.numel() for p in outside.values()]
        first_of = self._blocks.shape[1]
        parts = self.weights[:, first_of : first_of + sum(sizes)].split(sizes, dim=1)
        leaves = {
            name: part.unflatten(1, p.shape).requires_grad_()
            for (name, p), part in zip(outside.items(), parts, strict=True)
        }
        interface = copy.deepcopy(first.interface)
        for name in outside:
            owner, _, own = name.removeprefix("interface.").rpartition(".")
            if name.startswith("interface."):
                module = interface.get_submodule(owner)
                delattr(module, own)
                setattr(module, own, leaves[name])
        return leaves, interface


def _in_order(model: Model) -> dict[str, nn.Parameter]:
    """Parameters by name: blocks first, each as `stacked_blocks` has its numbers in a row."""
    named = dict(model.named_parameters())
    order = [
        f"backbone.blocks.{layer}.{BLOCK_NAMES[name]}"
        for layer in range(len(model.backbone.blocks))
        for name in IN_A_ROW
    ]
    return {name: named[name] for name in [*order, *(n for n in named if n not in set(order))]}
