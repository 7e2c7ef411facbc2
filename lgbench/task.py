"""The contract of a task: what a plugin author writes, and the few words it is written in.

A sequence has two parts. The *context* is what grows: image tokens, a haystack, documents. The *queries*
follow it and are what the metric reads. Every remedy is judged by how the answers to fixed queries change
with the length of the context (and, where a task allows it, with the number of queries).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lgbench.errors import UserError
from lgbench.published import Figure
from lgbench.recipe import Recipe as Recipe

if TYPE_CHECKING:
    import numpy as np
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

    def parts(self, size: int) -> Iterator[Batch]:
        """The same items, at most `size` at a time."""
        for start in range(0, len(self.targets), size):
            some = slice(start, start + size)
            context, queries = (
                {n: v[some] for n, v in part.items()} for part in (self.context, self.queries)
            )
            yield Batch(context, queries, self.targets[some])


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


class Draw(NamedTuple):
    """The random numbers of a training batch, from which `Task.render` makes it without any more."""

    items: Tensors
    """Of each item, `(num_items, …)`."""
    tokens: Tensors
    """Of each context token, then each query, `(num_items, length + num_queries, …)`."""


class EvalSet:
    """Fixed, seeded items: the same for every method, so that comparisons are paired.

    An `extent` is a length in the task's own unit (`Task.length_unit`); `start` and `stop` count tokens.

    Attributes:
        num_items: items there are at most.
        fingerprint: hash of everything that determines the items, equal on every device.
        padded: items of one extent differ in tokens; shorter ones are padded on the left.
        gallery_items: items whose predictions can be shown as pictures; 0 where there is nothing to show.
    """

    num_items: int
    fingerprint: str
    padded: bool = False
    gallery_items: int = 0

    def context(self, items: slice, start: int, stop: int, extent: int) -> Tensors:
        """Return context tokens `start` to `stop` (exclusive) of these items at this extent."""
        raise NotImplementedError

    def queries(self, items: slice, extent: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """Return queries `(batch, num_queries, …)` and their targets. Fewer queries are a prefix of more.

        Of a task that `generates`: the prompt's end and the answer without its last token, and the answer.
        """
        raise NotImplementedError

    def num_tokens(self, extent: int) -> int:
        """Return the context tokens of the items at this extent, padding included."""
        return extent

    def num_items_at(self, extent: int) -> int:
        """Return how many items there are at this extent."""
        return self.num_items

    def reach(self, longest: int) -> None:
        """Prepare for extents up to `longest`; called once, before anything is read."""

    def grade(self, items: slice, extent: int, answers: Tensor) -> dict[str, Tensor]:
        """Return scores `(batch,)` by metric of generated tokens int64 `(batch, num_targets)`.

        NaN where a metric does not apply to an item. Asked of tasks that `generate` alone.
        """
        raise NotImplementedError

    def facts(self, extent: int) -> Mapping[str, list[Any]]:
        """Return lists of what to keep of each item, by name, such as the depths of needles.

        "cluster" names what an item belongs to: a character, a book, an article. Items of one cluster are not
        independent; items of a set without this fact are.
        """
        return {}

    def spans(self, extent: int) -> list[tuple[int, int]] | None:
        """Return where the answer stands in each context, tokens from and to; None if it has no place."""
        return None

    def gallery_queries(self, items: slice) -> Tensors:
        """Return queries that cover the whole picture of each item."""
        raise NotImplementedError

    def gallery_images(self, predictions: Tensor) -> np.ndarray:
        """Return pictures `(images, height, width)` from predictions of `gallery_queries`."""
        raise NotImplementedError

    def gallery_truth(self, items: slice) -> np.ndarray:
        """Return the true pictures `(images, height, width)`."""
        raise NotImplementedError


class Task:
    """Base of every task. A subclass sets the class attributes and writes the methods without a body."""

    class Params(BaseModel):
        """Parameters of the task; each field has a default, a range and a description."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int] = 1
    """Raised when a change of the code gives other items, weights or scores. Of built-in tasks and of those
    without source; for others the source's hash stands."""
    released_version: ClassVar[int] = 1
    """Likewise, where only the numbers with `protocol=as_released` change."""
    identity: str = ""
    """What stands for its code in keys, see `Registry.identity_of`; set where a plan makes the task."""
    metric: ClassVar[Metric]
    more_metrics: ClassVar[tuple[Metric, ...]] = ()
    """Metrics beside the headline, never ranked by; an evaluation set's `grade` gives them, or the core (see
    `lm_metric` and `log_metric`)."""
    lm_metric: ClassVar[Metric | None] = None
    """Next-token metric of all context tokens, up to each length and by position; one of `more_metrics`."""
    log_metric: ClassVar[Metric | None] = None
    """Log-probability of the right answers, bits: minus the `loss` of the queries; one of `more_metrics`."""
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
    horizon: ClassVar[float] = 32.0
    """Last length that methods are judged by, as a multiple of L_train."""
    learned: ClassVar[float] = 0.25
    """Score at L_train, 0 at chance and 1 at the best value, from which on something counts as learned."""
    fine_tunes: ClassVar[str] = ""
    """Published model that the recipe of the paper starts from; empty if it trains from scratch."""
    published: ClassVar[tuple[Figure, ...]] = ()
    """Figures and tables of papers that it makes, for `docs/fidelity.md`."""
    context_means: ClassVar[Literal["denser", "longer", "more candidates"]] = "longer"
    """What more context means: more views of the same thing, a longer text, more that the answer may be in.
    Tasks that differ in it are not compared."""

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

    def at_train_length(self, recipe: Recipe, train_length: int) -> Recipe:
        """The recipe for another training length: what else follows from it, unless it is asked for."""
        return replace(recipe, train_length=train_length)

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

        If it has `separators`, the number of tokens before the queries, its weights may have a leading axis
        of models (see `lgbench.ops.stacked`), and `context` takes their `starts` as a second argument.
        """
        raise NotImplementedError

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Draw a training batch on the task's or the generator's device, the only source of randomness.

        The generator may be on the CPU whatever the device: equal draws give equal items everywhere.
        """
        raise NotImplementedError

    def draw(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Draw:
        """The random part of `sample`; optional, with `render`, and only where `exchangeable`.

        Trainings of such a task run in one set of launches: each draws alone, and all are rendered together.
        """
        raise NotImplementedError

    def render(self, drawn: Draw, length: int) -> Batch:
        """The batch that was drawn with `length` context tokens; each token depends on its own numbers
        alone.
        """
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


class SampledItems(EvalSet):
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

    def context(self, items: slice, start: int, stop: int, extent: int) -> Tensors:
        """Return context tokens `start` to `stop` of the items of this extent."""
        whole = self._draw(extent).context
        return {name: values[items, start:stop].to(self.task.device) for name, values in whole.items()}

    def queries(self, items: slice, extent: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """Return the first queries and targets of the items of this extent.

        Raises:
            UserError: more queries are asked for than an item has.
        """
        if num_queries > self.num_queries:
            raise UserError(f"--eval-queries {num_queries}: an item of this task has {self.num_queries}")
        batch = self._draw(extent)
        asked = slice(None if self.task.generates else num_queries)  # what generates is asked by its prompt
        queries = {name: values[items, asked].to(self.task.device) for name, values in batch.queries.items()}
        return queries, batch.targets[items, :num_queries].to(self.task.device)

    def _draw(self, extent: int) -> Batch:
        """The draw of an extent, made on the CPU so that all devices see the same; the latest one is kept."""
        if self._latest is None or self._latest[0] != extent:
            name = f"evaluation {self.seed} {extent}".encode()
            seed = int.from_bytes(hashlib.sha256(name).digest()[:7], "little")
            generator = torch.Generator().manual_seed(seed)
            self._latest = (extent, self.task.sample(self.num_items, extent, self.num_queries, generator))
        return self._latest[1]
