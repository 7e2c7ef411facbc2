"""The numbers of one training and its evaluation: a preset of a task, resolved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal


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
    d_model: int
    num_layers: int
    sizes: tuple[tuple[str, Any], ...] = ()
    """Parameters that the task suggests to every backbone that has them, see `suggest`. A plan turns them
    into parameters of the backbone, which are then what counts, and leaves this empty."""
    train_length: int
    """Largest context in training, in the task's unit of length (tokens, unless it says otherwise); a method
    may narrow or widen the range (truncated, expanded)."""
    fixed_length: bool = False
    """Whether every training context has the largest length, as published for text. A method that narrows the
    range from below, truncated for instance, keeps its range."""
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
    decay_all: bool = False
    """Whether vectors, norms and the logarithms of A decay too, as where PyTorch's defaults are taken."""
    adam_epsilon: float = 1e-6
    """What Adam adds to the root of the second moment."""
    untied: bool = False
    """Whether embedding and head of a task of tokens are trained apart, from one and the same start."""
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

    def without_sizes(self) -> Recipe:
        """The same recipe once its suggestions have become parameters of a backbone."""
        return replace(self, sizes=())

    def training_part(self) -> Recipe:
        """The same recipe without what only evaluation reads, so that it can key a trained checkpoint."""
        return replace(
            self, eval_lengths=(), eval_queries=0, query_grid=(), eval_items=0, eval_batch=0,
            eval_precision="float32",
        )  # fmt: skip
