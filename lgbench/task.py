"""The contract of a task: what a plugin author writes, and the few words it is written in.

A sequence has two parts. The *context* is what grows: image tokens, a haystack, documents. The *queries*
follow it and are what the metric reads. Every remedy is judged by how the answers to fixed queries change
with the length of the context (and, where a task allows it, with the number of queries).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lgbench.errors import UserError
from lgbench.text.tokenizer import Tokenizer

Tensors = dict[str, Tensor]
"""Named tensors that share their first two dimensions `(batch, length)`."""

IGNORE = -100
"""Target token that no loss and no metric reads."""

Layout = Literal["causal", "encoder_decoder"]
"""How a backbone takes its input: one sequence `[context, queries]`, or the two apart."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one length: context and queries `(batch, length, …)`, targets `(batch, num_queries, …)`.

    A context with "mask", bool `(batch, length)`, holds items of several lengths: where it is False, on the
    left, there is no token.
    """

    context: Tensors
    queries: Tensors
    targets: Tensor

    def num_tokens(self) -> int | Tensor:
        """Of contexts and queries, padding not counted; where there is padding a tensor on its device."""
        first, queries = next(iter(self.context.values())), next(iter(self.queries.values()))
        context = self.context["mask"].sum() if "mask" in self.context else first.shape[0] * first.shape[1]
        return context + queries.shape[0] * queries.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One definition of a score: its name, its best value and its direction."""

    name: str
    best: float
    higher_is_better: bool
    unit: str = ""
    combine: Literal["mean", "exp_mean"] = "mean"
    """How the values of items become one: their mean, or the exponential of it (perplexity)."""
    interval: Literal["bootstrap", "wilson"] = "bootstrap"
    """How its 95 % interval is made; Wilson's is for values that are 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A preset, resolved: everything about size, training and evaluation that is a number."""

    backbone: str = ""
    """Name of the backbone, of `lgbench.models.BACKBONES`; filled in by the plan."""
    pretrained: str = ""
    """Fingerprint of the checkpoint that training starts from; empty for a fresh model."""
    d_model: int
    num_layers: int
    d_state: int
    conv_width: int = 0
    """Taps of Mamba's causal convolution; 0 leaves it out."""
    init_std: float = 0.1
    """Standard deviation of Mamba's in- and x-projections at initialisation."""
    train_length: int
    """Largest context in training, in the task's unit of length (tokens, unless it says otherwise); a method
    may narrow or widen the range (truncated, expanded)."""
    train_queries: tuple[int, int]
    """Smallest and largest number of queries in a training batch, both inclusive."""
    train_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 0
    decay_from: float = 1.0
    """Fraction of the training from which the learning rate falls linearly to zero; 1 keeps it constant."""
    grad_clip: float = 1.0
    """Largest global gradient norm."""
    weight_decay: float = 0.0
    """Of matrices, decoupled (AdamW)."""
    lm_weight: float = 0.0
    """Weight of the mean next-token loss of all other tokens beside that of the answer; the sum is divided by
    1 + lm_weight. For tasks of tokens."""
    stages: tuple[tuple[int, ...], ...] = ()
    """Curriculum: (largest context, whatever else the task reads), the last for the whole training range."""
    stage_accuracy: float = 0.9
    """Share of right training answers above which the next stage comes."""
    stage_batches: tuple[int, ...] = ()
    """Sequences of a step in each stage, as a multiple of `batch_size`; 1 if empty. Short contexts leave room
    for more of them, without which the first stages take long to be learnt."""
    revisit: float = 0.0
    """Share of steps that are drawn from earlier stages."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products in training; weights, norms, time steps and states stay in float32."""
    eval_precision: Literal["float32", "bfloat16"] = "float32"
    """Likewise in calibration and evaluation."""
    eval_lengths: tuple[int, ...]
    """Context lengths of the evaluation, increasing."""
    eval_queries: int
    """Queries after each context."""
    query_grid: tuple[int, ...] = ()
    """Numbers of queries for the second axis, at a context of `train_length`; empty leaves the axis out."""
    eval_items: int
    eval_batch: int

    def batch_at(self, stage: int) -> int:
        """Sequences of a training step in a stage."""
        return self.batch_size * (self.stage_batches[stage] if self.stage_batches else 1)

    def training_part(self) -> Recipe:
        """The same recipe without what only evaluation reads, so that it can key a trained checkpoint."""
        return replace(
            self, eval_lengths=(), eval_queries=0, query_grid=(), eval_items=0, eval_batch=0,
            eval_precision="float32",
        )  # fmt: skip


class EvalSet(Protocol):
    """Fixed, seeded items: the same for every method, so that comparisons are paired."""

    num_items: int
    fingerprint: str
    """Hash of everything that determines the items, equal on every device."""

    def context(self, items: slice, start: int, stop: int, length: int) -> Tensors:
        """Context tokens `start` to `stop` (exclusive) of these items at this total length."""

    def queries(self, items: slice, length: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """Queries `(batch, num_queries, …)` and their targets. Fewer queries are a prefix of more.

        Of a task that `generates`: the prompt's end and the answer without its last token, and the answer.
        """

    # An evaluation set may also have:
    #   num_tokens(length) -> int                   tokens of a context, where length counts something else
    #   grade(items, length, answers) -> {metric: (batch,)}     scores of generated tokens
    #                                               `(batch, num_targets)`; NaN where a metric does not apply
    #   reach(longest)                              called before anything is read, with the longest length
    #   num_items_at(length) -> int                 where there are not always num_items
    #   facts(length) -> {name: list}               what to keep of each item, e.g. its needle's depth
    #   clusters(length) -> list                    what each item belongs to (character, book, article);
    #                                               none where items are independent


class Task:
    """Base of every task. A subclass sets the class attributes and writes the methods without a body."""

    class Params(BaseModel):
        """Parameters of the task; each field has a default, a range and a description."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    metric: ClassVar[Metric]
    more_metrics: ClassVar[tuple[Metric, ...]] = ()
    """Metrics beside the headline; an evaluation set's `grade` gives them, or the core (see `lm_metric`)."""
    lm_metric: ClassVar[Metric | None] = None
    """Next-token metric of all context tokens, up to each length and by position; one of `more_metrics`."""
    generates: ClassVar[bool] = False
    """Answers are tokens, generated greedily in evaluation; queries are causal."""
    length_unit: ClassVar[str] = "tokens"
    """What lengths count."""
    eval_only: ClassVar[frozenset[str]] = frozenset()
    """Names of parameters that do not influence training."""
    data_params: ClassVar[frozenset[str]] = frozenset()
    """Names of parameters that only choose the data; in a cell `data_fingerprint` stands for them."""
    nested: ClassVar[bool] = False
    """Shorter contexts of an item are prefixes of longer ones, so one pass serves a grid of lengths."""
    min_length: ClassVar[int] = 1
    """Shortest context that makes sense, tokens."""
    exchangeable: ClassVar[bool] = False
    """Context tokens are independent draws, so masking the first k of n leaves an exact sample of n - k."""

    def __init__(self, params: Params | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The headline first."""
        return (self.metric, *self.more_metrics)

    def context_tokens(self, length: int) -> int:
        """Tokens that a context of this length has, nominally; differs where length counts something else."""
        return length

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """The numbers of a preset ("smoke", "small", "paper") for one kind of backbone.

        Raises:
            LookupError: the task has no such preset; the message lists the ones it has.
        """
        raise NotImplementedError

    def check(self, recipe: Recipe) -> None:
        """Refuse numbers that do not fit the task, before anything is trained; before and after `prepare`.

        Raises:
            UserError: what does not fit, and what would.
        """

    def longest_training(self, num_queries: int) -> int | None:
        """Longest context that `sample` can draw with so many queries; None without a limit, or data yet."""
        return None

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Load the data once and keep it on the device. Sets `data_source` and `data_fingerprint`."""
        self.device = device

    tokenizer: Tokenizer | None = None
    """Of a task of tokens, set by `prepare`."""
    vocabulary: int = 0
    """Size of the embedding, if larger than the tokenizer's: that of a published model."""

    data_source: str = "procedural"
    """Where the items come from; stored in every row."""
    data_fingerprint: str = ""
    notice: str = ""
    """A sentence for the screen and every figure where the data are not the real ones."""

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """Input and output layers: a module with three methods.

        - `context(Tensors) -> (batch, length, d_model)` embeds context tokens;
        - `queries(Tensors) -> (batch, extra + num_queries, d_model)` embeds the queries, after a separator if
          any;
        - `read(hidden) -> predictions` from hidden `(batch, num_queries, d_model)`.
        """
        raise NotImplementedError

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Draw a training batch on the generator's device, the generator is the only randomness."""
        raise NotImplementedError

    def sample_stage(
        self,
        num_items: int,
        length: int,
        num_queries: int,
        generator: torch.Generator,
        stage: tuple[int, ...],
    ) -> Batch:
        """`sample` within a stage of the recipe's curriculum."""
        return self.sample(num_items, length, num_queries, generator)

    def eval_set(self, num_items: int, seed: int) -> EvalSet:
        """The evaluation items: by default fixed draws of `sample`, for tasks that generate all of theirs."""
        return SampledItems(self, num_items, seed)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Training loss of each query, `(batch, num_queries)`; the core takes the mean."""
        raise NotImplementedError

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The metric of each query, `(batch, num_queries)`; an item's score is the mean of its queries."""
        raise NotImplementedError

    def references(self, eval_set: EvalSet, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """Scores of answers that ignore the context, on these items' first queries; one is named "chance"."""
        raise NotImplementedError


class SampledItems:
    """Evaluation items of a generated task: one fixed draw of `Task.sample` for each length.

    Args:
        task: its `sample` makes the items.
        num_items: how many.
        seed: of the draws; training seeds never make the same ones.
        num_queries: queries drawn with each item; no more can be asked for.
    """

    def __init__(self, task: Task, num_items: int, seed: int, num_queries: int = 1) -> None:
        self.task, self.num_items, self.seed, self.num_queries = task, num_items, seed, num_queries
        settings = (
            f"{type(task).__name__} {task.params!r} {task.data_fingerprint} {num_items} {seed} {num_queries}"
        )
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]
        self._latest: tuple[int, Batch] | None = None

    def context(self, items: slice, start: int, stop: int, length: int) -> Tensors:
        """Context tokens `start` to `stop` of the items of this length."""
        whole = self._draw(length).context
        return {name: values[items, start:stop].to(self.task.device) for name, values in whole.items()}

    def queries(self, items: slice, length: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """The first queries and targets of the items of this length.

        Raises:
            UserError: more queries are asked for than an item has.
        """
        if num_queries > self.num_queries:
            raise UserError(f"--eval-queries {num_queries}: an item of this task has {self.num_queries}")
        batch = self._draw(length)
        queries = {name: values[items].to(self.task.device) for name, values in batch.queries.items()}
        return queries, batch.targets[items, :num_queries].to(self.task.device)

    def _draw(self, length: int) -> Batch:
        """The draw of a length, made on the CPU so that all devices see the same; the latest one is kept."""
        if self._latest is None or self._latest[0] != length:
            name = f"evaluation {self.seed} {length}".encode()
            seed = int.from_bytes(hashlib.sha256(name).digest()[:7], "little")
            generator = torch.Generator().manual_seed(seed)
            self._latest = (length, self.task.sample(self.num_items, length, self.num_queries, generator))
        return self._latest[1]
