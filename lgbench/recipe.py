"""The numbers of one training and its evaluation: a preset of a task, resolved.

A field says of itself what it is, what it may be and where it shows, see `About`. Command line, YAML keys,
axes, columns and legends follow from that: a new field is written here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal

MOST_TOKENS = 100_000_000
"""Longest context that may be asked for: reading it once takes hours, and no data set has it."""

MOST_STEPS = 1_000_000_000
MOST_ITEMS = 1_000_000
"""Of a batch, of an evaluation, or of queries after one context."""

Group = Literal["what", "sizes", "training", "evaluation", "data", "machine"]
"""Where an option stands in the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a field of `Recipe` or of `RunOptions` says of itself."""

    says: str
    """What it is, without a capital and a full stop; also the meaning of its column."""
    group: Group = "training"
    option: Literal["", "value", "axis"] = ""
    """Whether the command line and YAML take it, and whether several values are a grid."""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    column: Literal["", "int32", "int64", "double", "string"] = ""
    """Type of its column in every row; empty where the column `recipe` is enough."""
    words: str = ""
    """How a value reads in a legend, e.g. "{:,} steps"; what has words tells series apart."""
    quiet: bool = False
    """Named in a legend only where nothing else tells two series apart."""

    @property
    def range(self) -> list[str]:
        """The limits in words, each one: "at least 1"."""
        named = {"at least": self.least, "above": self.above, "at most": self.most}
        return [f"{words} {_number(limit)}" for words, limit in named.items() if limit is not None]

    def refuses(self, value: float) -> str:
        """What a number should be that is out of range, "at least 1"; empty if it is not."""
        if self.least is not None and not value >= self.least:
            return f"at least {_number(self.least)}"
        if self.above is not None and not value > self.above:
            return f"above {_number(self.above)}"
        return f"at most {_number(self.most)}" if self.most is not None and not value <= self.most else ""


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def about(says: str, **more: Any) -> Mapping[str, About]:
    """Metadata of a field; see `About` for the names."""
    return {"about": About(says=says, **more)}


def described(kind: type[Any]) -> Iterator[tuple[Field[Any], About]]:
    """The fields of a dataclass that say something of themselves, in their order."""
    for one in fields(kind):
        if "about" in one.metadata:
            yield one, one.metadata["about"]


def suggest(**sizes: Any) -> tuple[tuple[str, Any], ...]:
    """The `sizes` of a recipe: `suggest(d_state=16, conv_width=4)`."""
    return tuple(sorted(sizes.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A preset, resolved: everything about size, training and evaluation that is a number."""

    pretrained: str = ""
    """Fingerprint of the checkpoint that training starts from; empty for a fresh model."""
    weights: str = ""
    """Fingerprint of the user's own weights that training starts from; empty for fresh ones."""
    sizes: tuple[tuple[str, Any], ...] = ()
    """Parameters that the task suggests to every backbone that has them, see `suggest`. A plan turns them
    into parameters of the backbone, which are then what counts, and leaves this empty."""
    train_length: int = field(
        metadata=about(
            "nominal training length of the recipe, in length_unit; lengths are compared to it",
            option="axis", least=1, most=MOST_TOKENS, column="int64", words="trained on {}",
        )
    )  # fmt: skip
    """A method may narrow or widen the range of lengths (truncated, expanded)."""
    fixed_length: bool = field(
        default=False, metadata=about("whether every training context has the largest length")
    )
    """As published for text. A method that narrows the range from below, truncated for instance, keeps it."""
    train_steps: int = field(
        metadata=about(
            "optimiser steps of the whole training",
            option="axis", least=1, most=MOST_STEPS, column="int64", words="{:,} steps",
        )
    )  # fmt: skip
    """0 is right where training starts from weights: they are measured as they are."""
    d_model: int = field(
        metadata=about(
            "width of the backbone",
            group="sizes", option="value", least=1, most=65536, column="int32", words="width {}",
        )
    )  # fmt: skip
    num_layers: int = field(
        metadata=about(
            "number of blocks",
            group="sizes", option="axis", least=1, most=1024, column="int32", words="{} layers",
        )
    )  # fmt: skip
    batch_size: int = field(
        metadata=about(
            "sequences a training step",
            option="value", least=1, most=MOST_ITEMS, column="int32", words="batch {}",
        )
    )  # fmt: skip
    lm_weight: float = field(
        default=0.0,
        metadata=about(
            "weight of the next-token loss of all other tokens beside the answer's",
            option="axis", least=0, most=1_000_000, column="double", words="LM weight {:g}",
        ),
    )  # fmt: skip
    """The sum of both losses is divided by 1 + lm_weight. For tasks of tokens."""
    learning_rate: float = field(
        metadata=about(
            "peak learning rate", option="axis", above=0, most=1000, column="double", words="lr {:g}"
        )
    )  # fmt: skip
    warmup_steps: int = field(
        default=0,
        metadata=about(
            "steps over which the learning rate rises linearly to its peak",
            option="axis", least=0, most=MOST_STEPS, column="int64", words="warm-up of {:,} steps",
            quiet=True,
        ),
    )  # fmt: skip
    decay_from: float = field(
        default=1.0,
        metadata=about(
            "fraction of the training from which the learning rate falls linearly to zero; 1 keeps it",
            option="axis", least=0, most=1, column="double", words="decay from {:g}", quiet=True,
        ),
    )  # fmt: skip
    train_queries: tuple[int, int] = field(
        metadata=about(
            "queries in training: N, or LOW-HIGH where their number is drawn",
            option="axis", least=1, most=MOST_ITEMS, column="string", words="{} training queries", quiet=True,
        )
    )  # fmt: skip
    """Smallest and largest number of queries in a training batch, both inclusive."""
    grad_clip: float = field(default=1.0, metadata=about("largest global gradient norm", above=0))
    weight_decay: float = field(
        default=0.0, metadata=about("weight decay of matrices, decoupled (AdamW)", least=0)
    )
    decay_all: bool = field(
        default=False, metadata=about("whether vectors, norms and the logarithms of A decay too")
    )
    """As where PyTorch's defaults are taken."""
    adam_epsilon: float = field(
        default=1e-6, metadata=about("what Adam adds to the root of the second moment", above=0)
    )
    untied: bool = field(
        default=False, metadata=about("whether embedding and head of a task of tokens are trained apart")
    )
    """From one and the same start."""
    stages: tuple[tuple[int, ...], ...] = ()
    """Curriculum: (largest context, whatever else the task reads), the last for the whole training range."""
    stage_accuracy: float = 0.9
    """Share of right training answers above which the next stage comes."""
    stage_batches: tuple[int, ...] = ()
    """Sequences of a step in each stage, as a multiple of `batch_size`; 1 if empty. Short contexts leave room
    for more of them, without which the first stages take long to be learnt."""
    revisit: float = 0.0
    """Share of steps that are drawn from earlier stages."""
    precision: Literal["float32", "bfloat16"] = field(
        default="float32", metadata=about("precision of matrix products in training", option="value")
    )
    """Weights, norms, time steps and states stay in float32."""
    eval_lengths: tuple[int, ...] = field(
        metadata=about(
            "context lengths of the evaluation, increasing",
            group="evaluation", option="value", least=1, most=MOST_TOKENS,
        )
    )  # fmt: skip
    eval_queries: int = field(
        metadata=about(
            "queries after each context", group="evaluation", option="value", least=1, most=MOST_ITEMS
        )
    )
    query_grid: tuple[int, ...] = field(
        default=(),
        metadata=about(
            "numbers of queries of the second axis, at a context of the training length",
            group="evaluation", option="value", least=1, most=MOST_ITEMS,
        ),
    )  # fmt: skip
    """Empty leaves the axis out."""
    eval_items: int = field(
        metadata=about("evaluation items", group="evaluation", option="value", least=1, most=MOST_ITEMS)
    )
    eval_batch: int = field(
        metadata=about("items that are evaluated together", group="evaluation", least=1, most=MOST_ITEMS)
    )
    eval_draw: int = field(
        default=0,
        metadata=about(
            "which draw of evaluation items; 0 the first",
            group="evaluation", option="value", least=0, most=MOST_ITEMS, column="int32",
        ),
    )  # fmt: skip
    """What was chosen by looking at one draw is confirmed on another, of the same held-out data."""
    eval_precision: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata=about(
            "precision of matrix products in calibration and evaluation", group="evaluation", option="value"
        ),
    )

    def batch_at(self, stage: int) -> int:
        """Sequences of a training step in a stage."""
        return self.batch_size * (self.stage_batches[stage] if self.stage_batches else 1)

    def without_sizes(self) -> Recipe:
        """The same recipe once its suggestions have become parameters of a backbone."""
        return replace(self, sizes=())

    def training_part(self) -> Recipe:
        """The same recipe without what only evaluation reads, so that it can key a trained checkpoint."""
        return replace(
            self, eval_lengths=(), eval_queries=0, query_grid=(), eval_items=0, eval_batch=0,
            eval_draw=0, eval_precision="float32",
        )  # fmt: skip


def columns(kind: type[Any] = Recipe, group: Group | None = None) -> dict[str, About]:
    """Fields with a column of their own, of one group or of all."""
    return {one.name: said for one, said in described(kind) if said.column and group in (None, said.group)}


def column_value(value: Any) -> Any:
    """A value of a field as its column has it: a range is text, "64" or "16-64"."""
    if not isinstance(value, (tuple, list)):
        return value
    return "-".join(map(str, dict.fromkeys(value)))
