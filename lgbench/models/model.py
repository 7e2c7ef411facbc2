"""A task's input and output layers around a backbone, under one method: what is trained and evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.intervention import Mode, ScanIntervention, active_hooks, changing_hooks, on_generated
from lgbench.method import Method
from lgbench.models import own_weights, pretrained
from lgbench.models.language import losses_of_tokens, read_and_judge
from lgbench.plugins.registry import BACKBONES
from lgbench.task import IGNORE, Batch, Recipe, Task, Tensors


class TrainingAnswer(NamedTuple):
    """What a training step reads."""

    predictions: Tensor
    """In the shape of the targets (logits have one dimension more)."""
    token_loss: Tensor | None
    """Mean next-token loss of all tokens that are no targets, nats; None where it was not asked for."""
    loss: Tensor | None = None
    """What is minimised, where a method says so itself; otherwise the task's loss and `token_loss` decide."""


class Model(nn.Module):
    """Interface of a task, backbone of a method, and the method's change of the scan.

    Attributes:
        interface: see `Task.interface`.
        backbone: see `lgbench.backbone`.
        intervention: what the method changes; not a module, its trained parameters are `trained`.
        trained: the method's own trained parameters, or None.
    """

    def __init__(self, interface: nn.Module, backbone: nn.Module, intervention: ScanIntervention) -> None:
        super().__init__()
        self.interface, self.backbone = interface, backbone
        self.intervention, self.trained = intervention, intervention.trained
        self.sound: Tensor | None = None
        """bool `(batch, num_predictions)` of the latest answer; see `sound`."""
        self.acted = False
        """Whether the method acted on a sequence since somebody set this to False, training aside."""

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
                graphs.
            context_mask: bool `(length,)`, False for tokens that are not there; if None, the batch's own.
            query_mask: bool `(num_queries,)`, likewise.
        """
        context, queries = self.interface.context(batch.context), self.interface.queries(batch.queries)
        self._begin(mode, length, queries.shape[1], batch.targets.shape[1])
        hidden = self.backbone.answer(
            context,
            queries,
            mode=mode,
            context_mask=_mask(batch.context, context_mask),
            query_mask=query_mask,
            intervention=self.intervention,
        )
        return self._predictions(hidden[:, -batch.targets.shape[1] :], judge=mode != "train")

    def training_answer(
        self,
        batch: Batch,
        *,
        length: int | Tensor,
        context_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        read_tokens: bool = False,
    ) -> TrainingAnswer:
        """Predictions of a training batch, and, if `read_tokens`, the loss of its other tokens."""
        if not read_tokens:
            masks = {"context_mask": context_mask, "query_mask": query_mask}
            return TrainingAnswer(self.answer(batch, mode="train", length=length, **masks), None)
        context, queries = self.interface.context(batch.context), self.interface.queries(batch.queries)
        mask = _mask(batch.context, context_mask)
        whole = None if mask is None else F.pad(mask, (0, queries.shape[1]), value=True)
        self._begin("train", length, queries.shape[1], batch.targets.shape[1])
        advanced = self.backbone.advance(
            torch.cat([context, queries], dim=1), mode="train", mask=whole, intervention=self.intervention
        )
        num_targets = batch.targets.shape[1]
        tokens = torch.cat([batch.context["tokens"], batch.queries["tokens"]], dim=1)
        labels = next_tokens(tokens, whole, num_targets)
        # A method may have dropped tokens or put some in front; the last row is always the last token's.
        place = advanced.positions - advanced.positions[:, -1:] + tokens.shape[1] - 1
        labels = labels.gather(1, place.clamp(min=0)).masked_fill(place < 0, IGNORE)
        answers, summed = read_and_judge(self.interface, advanced.hidden, labels, num_targets)
        return TrainingAnswer(answers, summed / (labels != IGNORE).sum().clamp(min=1))

    def training_answer_in_halves(self, batch: Batch, *, read_tokens: bool, passing: bool) -> TrainingAnswer:
        """`training_answer` with the context cut in the middle; no gradient flows across the cut.

        If not `passing`, the second half starts in the zero state and the first one is not read. Methods that
        change the sequence in training are not for this.
        """
        length = next(iter(batch.context.values())).shape[1]
        middle = length // 2
        passing = passing and middle > 0
        halves = [
            {name: values[:, span] for name, values in batch.context.items()}
            for span in (slice(0, middle), slice(middle, length))
        ]
        if not read_tokens:
            state = None
            if passing:
                with torch.no_grad():
                    state = self.read_context(halves[0], None, length)
            state = self.read_context(halves[1], state, length)
            answer = self.answer_from(state, batch.queries, batch.targets.shape[1], length)
            return TrainingAnswer(answer, None)
        state, losses, answers = None, [], None
        tokens = torch.cat([batch.context["tokens"], batch.queries["tokens"]], dim=1)
        mask = batch.context.get("mask")
        whole = None if mask is None else F.pad(mask, (0, tokens.shape[1] - length), value=True)
        labels = next_tokens(tokens, whole, batch.targets.shape[1])
        for start, stop in ((0, middle), (middle, tokens.shape[1]))[0 if passing else 1 :]:
            self._begin("prefill", length, 0, 0)
            piece = {"tokens": tokens[:, start:stop]}
            advanced = self.backbone.advance(
                self.interface.context(piece), mode="prefill", state=state,
                mask=None if whole is None else whole[:, start:stop], intervention=self.intervention,
            )  # fmt: skip
            state = _detached(advanced.state)
            answers, summed = read_and_judge(
                self.interface, advanced.hidden, labels[:, start:stop], batch.targets.shape[1]
            )
            losses.append(summed)
        count = (labels[:, 0 if passing else middle :] != IGNORE).sum().clamp(min=1)
        return TrainingAnswer(answers, sum(losses) / count)

    def read_context(self, context: Tensors, state: list | None, length: int) -> list:
        """Stream a piece of the context into the state; `state` is None before the first piece."""
        return self._read(context, state, length, read=0).state

    def read_tokens(
        self, context: Tensors, labels: Tensor, state: list | None, length: int
    ) -> tuple[Tensor, list]:
        """`read_context`, and the loss `(batch, length)` in nats of the token after each of this piece."""
        advanced = self._read(context, state, length, read=labels.shape[1])
        return losses_of_tokens(self.interface, advanced.hidden, labels), advanced.state

    def answer_from(self, state: list, queries: Tensors, num_queries: int, length: int) -> Tensor:
        """Predictions after a streamed context of `length` tokens. The state is left as it is."""
        tokens = self.interface.queries(queries)
        self._begin("decode", length, tokens.shape[1], num_queries)
        hidden = self.backbone.advance(
            tokens, mode="decode", state=state, intervention=self.intervention
        ).hidden
        return self._predictions(hidden[:, -num_queries:])

    def generate_from(self, state: list, prompt: Tensors, num_tokens: int, length: int) -> Tensor:
        """Greedy answers int64 `(batch, num_tokens)` after a streamed context and the prompt's end."""
        self._begin("prefill", length, 0, 1)
        tokens = self.interface.queries(prompt)
        advanced = self.backbone.advance(
            tokens, mode="prefill", state=state, read=1, intervention=self.intervention
        )
        return self._decode(advanced, num_tokens, length)

    def generate(self, context: Tensors, prompt: Tensors, num_tokens: int, length: int) -> Tensor:
        """`generate_from` for methods that must see context and prompt in one piece."""
        end = self.interface.queries(prompt)
        self._begin("prefill", length, end.shape[1], 1)
        mask = context.get("mask")
        advanced = self.backbone.advance(
            torch.cat([self.interface.context(context), end], dim=1),
            mode="prefill",
            mask=None if mask is None else F.pad(mask, (0, end.shape[1]), value=True),
            read=1,
            intervention=self.intervention,
        )
        return self._decode(advanced, num_tokens, length)

    def backend_name(self, device: torch.device, d_model: int) -> str:
        """What computes scan or attention on this device, for the sequence that was announced last."""
        probe = torch.empty(1, 1, d_model, device=device)
        return self.backbone.backend_name(probe, active_hooks(self.intervention, "prefill"))

    def _begin(self, mode: Mode, length: int | Tensor, num_protected: int, num_read: int) -> None:
        self.intervention.num_read = num_read
        self.intervention.begin(mode, length, num_protected)
        if mode != "train":
            hooks = active_hooks(self.intervention, mode) & changing_hooks(self.intervention)
            self.acted = self.acted or bool(hooks)

    def _predictions(self, hidden: Tensor, judge: bool = True) -> Tensor:
        """Read hidden states out, and, if `judge`, note which predictions are sound."""
        predictions = self.interface.read(hidden)
        if judge:
            self.sound = sound(hidden.detach(), predictions.detach())
        return predictions

    def _read(self, context: Tensors, state: list | None, length: int, read: int):
        self._begin("prefill", length, 0, 0)
        return self.backbone.advance(
            self.interface.context(context),
            mode="prefill",
            state=state,
            mask=context.get("mask"),
            read=read,
            intervention=self.intervention,
        )

    def _decode(self, advanced, num_tokens: int, length: int) -> Tensor:
        """Greedy tokens after what was read; `processed` then counts the prompt and what was generated."""
        read = self.backbone.processed
        self._begin("decode", length, 1, 1)
        intervention = on_generated(self.intervention)
        found = [self._predictions(advanced.hidden[:, -1:]).argmax(dim=-1)]
        sound = [self.sound]
        while len(found) < num_tokens:
            tokens = self.interface.queries({"tokens": found[-1]})
            advanced = self.backbone.advance(
                tokens, mode="decode", state=advanced.state, intervention=intervention
            )
            found.append(self._predictions(advanced.hidden).argmax(dim=-1))
            sound.append(self.sound)
        self.sound = torch.cat(sound, dim=1)
        self.backbone.processed = tuple(n + num_tokens - 1 for n in read)
        return torch.cat(found, dim=1)


def sound(hidden: Tensor, predictions: Tensor) -> Tensor:
    """Return whether each prediction is one: bool `(batch, num_predictions)`.

    It is none where its hidden state has an entry that is not finite, or where it has NaN or +∞, or −∞ alone.
    A task may mask some answers with −∞. Judged here, since an argmax makes an answer of anything.

    Args:
        hidden: `(batch, num_predictions, d_model)`.
        predictions: `(batch, num_predictions, …)`.
    """
    values = predictions.flatten(2) if predictions.dim() > 2 else predictions.unsqueeze(-1)
    possible = (values < math.inf).all(dim=-1) & (values > -math.inf).any(dim=-1)
    return torch.isfinite(hidden).all(dim=-1) & possible


def _detached(state: list) -> list:
    """The same state without its history."""
    return [type(layer)(*(None if v is None else v.detach() for v in layer)) for layer in state]


def next_tokens(tokens: Tensor, mask: Tensor | None, num_targets: int) -> Tensor:
    """The token after each of `tokens` `(batch, length)`; IGNORE after masked ones and before targets."""
    labels = F.pad(tokens[:, 1:], (0, 1), value=IGNORE)
    if mask is not None:
        labels = labels.masked_fill(~mask, IGNORE)
    labels[:, -num_targets:] = IGNORE
    return labels


def build_model(
    task: Task,
    method: Method,
    recipe: Recipe,
    *,
    seed: int,
    scan_backend: str = "auto",
    backbone: str = "",
    params: Mapping[str, Any] | None = None,
) -> Model:
    """An untrained model on the task's device, or a published one where the recipe names its checkpoint.

    The same weights for a seed on every device.

    Args:
        task: prepared.
        method: decides what happens in the scan.
        recipe: numbers of the training.
        seed: of the initial weights.
        scan_backend: see `lgbench.backbone.Backbone`.
        backbone: its name; the method's own if empty.
        params: parameters of the backbone that differ from its defaults; None takes what recipe and method
            suggest.
    """
    kind = BACKBONES.load(backbone or method.backbone)
    if params is None:
        known = kind.Params.model_fields
        params = {name: value for name, value in recipe.sizes if name in known} | method.backbone_options()
    with _seeded(seed):
        model = Model(
            task.interface(recipe.d_model, kind.layout),
            kind(d_model=recipe.d_model, num_layers=recipe.num_layers, scan_backend=scan_backend, **params),
            method.intervention(task.context_tokens(recipe.train_length), recipe.d_model),
        )
    if recipe.pretrained:
        pretrained.kept(recipe.pretrained).install(model)
    if recipe.untied:
        model.interface.untie()
    if recipe.weights:
        own_weights.kept(recipe.weights).install(model)
    return model.to(task.device)


def _mask(context: Tensors, given: Tensor | None) -> Tensor | None:
    return context.get("mask") if given is None else given


@contextmanager
def _seeded(seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
