"""A task's input and output layers around a backbone, under one method: what is trained and evaluated."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lgbench.method import Method
from lgbench.models import backbone_class
from lgbench.models.intervention import Mode, ScanIntervention, active_hooks
from lgbench.task import Batch, Recipe, Task, Tensors


class Model(nn.Module):
    """Interface of a task, backbone of a method, and the method's change of the scan.

    Attributes:
        interface: see `Task.interface`.
        backbone: see `lgbench.models`.
        intervention: what the method changes; not a module, its trained parameters are `trained`.
        trained: the method's own trained parameters, or None.
    """

    def __init__(self, interface: nn.Module, backbone: nn.Module, intervention: ScanIntervention) -> None:
        super().__init__()
        self.interface, self.backbone = interface, backbone
        self.intervention, self.trained = intervention, intervention.trained

    @property
    def causal(self) -> bool:
        """Whether answers can be read from a state kept along the context."""
        return self.backbone.layout == "causal"

    @property
    def num_parameters(self) -> int:
        """Number of trained scalars."""
        return sum(p.numel() for p in self.parameters())

    def answer(
        self,
        batch: Batch,
        *,
        mode: Mode,
        length: int | Tensor,
        context_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Predictions of a batch in one piece, in the shape of its targets.

        Args:
            batch: context and queries.
            mode: "train" or "score".
            length: true number of context tokens, without masked ones; a 0-dimensional tensor in captured
            graphs. context_mask: bool `(length,)`, False for tokens that are not there.
            query_mask: bool `(num_queries,)`, likewise.
        """
        context, queries = self.interface.context(batch.context), self.interface.queries(batch.queries)
        self.intervention.begin(mode, length, queries.shape[1])
        hidden = self.backbone.answer(
            context,
            queries,
            mode=mode,
            context_mask=context_mask,
            query_mask=query_mask,
            intervention=self.intervention,
        )
        return self.interface.read(hidden[:, -batch.targets.shape[1] :])

    def read_context(self, context: Tensors, state: list | None, length: int) -> list:
        """Stream a piece of the context into the state; `state` is None before the first piece."""
        self.intervention.begin("prefill", length, 0)
        tokens = self.interface.context(context)
        return self.backbone.advance(
            tokens, mode="prefill", state=state, read=0, intervention=self.intervention
        ).state

    def answer_from(self, state: list, queries: Tensors, num_queries: int, length: int) -> Tensor:
        """Predictions after a streamed context of `length` tokens. The state is left as it is."""
        tokens = self.interface.queries(queries)
        self.intervention.begin("decode", length, tokens.shape[1])
        hidden = self.backbone.advance(
            tokens, mode="decode", state=state, intervention=self.intervention
        ).hidden
        return self.interface.read(hidden[:, -num_queries:])

    def backend_name(self, device: torch.device, d_model: int) -> str:
        """What computes scan or attention on this device, for the sequence that was announced last."""
        probe = torch.empty(1, 1, d_model, device=device)
        return self.backbone.backend_name(probe, active_hooks(self.intervention, "prefill"))


def build_model(
    task: Task, method: Method, recipe: Recipe, *, seed: int, scan_backend: str = "auto"
) -> Model:
    """A freshly initialised model on the task's device; the same weights for a seed on every device."""
    backbone = backbone_class(method.backbone)
    sizes = {"d_model": recipe.d_model, "num_layers": recipe.num_layers}
    if backbone.layout == "causal":
        sizes |= {"d_state": recipe.d_state, "conv_width": recipe.conv_width, "scan_backend": scan_backend}
    with _seeded(seed):
        model = Model(
            task.interface(recipe.d_model, backbone.layout),
            backbone(**sizes),
            method.intervention(recipe.train_length, recipe.d_model),
        )
    return model.to(task.device)


@contextmanager
def _seeded(seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
