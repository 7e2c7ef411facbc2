"""The contract of a method: how a backbone is trained, and how it is used beyond its training length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from lgbench.intervention import Mode, ScanIntervention
from lgbench.published import Figure
from lgbench.task import Batch, Recipe, Task

if TYPE_CHECKING:
    from torch import Tensor

    from lgbench.models.model import Model, TrainingAnswer
    from lgbench.run.calibrate import CalibrationData

__all__ = ["Method", "Mode", "ScanIntervention"]


class Method:
    """Base of every method. Vanilla is this class; a remedy overrides what it changes.

    Attributes:
        backbone: name of the backbone that it runs on where none is asked for.
        bound: whether it is about that backbone and runs on no other.
        version: raised when a change of the code gives other weights, fits or scores. Of built-in methods and
            of those without source; for others the source's hash stands.
        released_version: likewise, where only the numbers with `protocol=as_released` change.
        identity: what stands for its code in keys, see `Registry.identity_of`; a plan sets it.
        eval_only: names of parameters that do not influence training.
        calibration_free: names of parameters that do not influence `calibrate`.
        trains_like: name of the method whose trained checkpoint it uses, if it needs no training of its own.
        prefix_exact: whether one pass over the longest context gives the exact answers at every shorter one.
            False where a position's computation depends on the total length; then each length gets its own
            pass.
        train_eagerly: whether its training steps cannot be captured in graphs that serve several lengths.
        needs_length: whether the length of the context must be known before its first token.
        published: figures and tables of papers that it makes where no task says so, for `docs/fidelity.md`.
        protocol: "clean", or "as_released" where it follows the choices of published code; stored in rows.
    """

    class Params(BaseModel):
        """Parameters of the method; each field has a default, a range and a description."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int] = 1
    released_version: ClassVar[int] = 1
    identity: str = ""
    backbone: str = "mamba"
    bound: bool = False
    eval_only: ClassVar[frozenset[str]] = frozenset()
    calibration_free: ClassVar[frozenset[str]] = frozenset()
    trains_like: ClassVar[str | None] = None
    prefix_exact: ClassVar[bool] = True
    train_eagerly: ClassVar[bool] = False
    needs_length: ClassVar[bool] = False
    protocol: ClassVar[str] = "clean"
    published: ClassVar[tuple[Figure, ...]] = ()

    def __init__(self, params: Params | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    def backbone_options(self) -> dict[str, Any]:
        """Parameters of the backbone that this method decides."""
        return {}

    def unsupported(self, task: Task) -> str | None:
        """Why this method cannot run on this task, or None. A reason becomes a `skipped` row."""
        return None

    def check(self, recipe: Recipe, backbone: str) -> None:
        """Refuse parameters that do not fit these sizes on this backbone, before anything is trained.

        Raises:
            UserError: what does not fit, and what would.
        """

    def parts(self, name: str) -> list[tuple[str, Method]]:
        """The methods that this one, called `name`, is made of, by name."""
        return [(name, self)]

    def train_lengths(self, train_length: int) -> tuple[int, int]:
        """Smallest and largest context in training, tokens, both inclusive."""
        return 1, train_length

    def assumed_length(self, length: int, train_length: int) -> int | None:
        """The context length that this method takes a context of `length` tokens to have; None if it does not
        care. What it is told, or what its parameters are fitted for."""
        return length if self.needs_length else None

    def training_answer(
        self,
        model: Model,
        batch: Batch,
        *,
        length: int | Tensor,
        context_mask: Tensor | None,
        query_mask: Tensor | None,
        read_tokens: bool,
    ) -> TrainingAnswer:
        """Predictions of a training batch; arguments as in `Model.training_answer`."""
        return model.training_answer(
            batch,
            length=length,
            context_mask=context_mask,
            query_mask=query_mask,
            read_tokens=read_tokens,
        )

    def calibration_length(self, length: int, train_length: int) -> int | None:
        """Context length for which the parameters used at `length` are fitted; None if nothing is fitted.

        Lengths that agree share one call of `calibrate`.
        """
        return None

    def drawn_lengths(self, fitted_at: int, train_length: int) -> tuple[int, ...]:
        """Lengths of the contexts that `calibrate` draws to fit for contexts of `fitted_at` tokens."""
        return (fitted_at,)

    def calibrate(self, model: Model, data: CalibrationData, length: int) -> dict[str, Tensor]:
        """Fit parameters for contexts of `length` tokens; stored beside the checkpoint and used again.

        Args:
            model: trained and frozen; `data.loss(model, batch, trial)` tries parameters out.
            data: items of the training split. Evaluation items are out of reach.
            length: what `calibration_length` gave.

        Returns:
            What the intervention's `use` takes, by name.
        """
        raise NotImplementedError

    def first_token(self, length: int, train_length: int) -> int:
        """First of `length` context tokens that the model reads in evaluation; it never sees earlier ones."""
        return 0

    def views(self, num_tokens: int, train_tokens: int) -> tuple[Tensor, ...]:
        """Parts of a context that are each read alone in evaluation; the answer is the mean over them.

        Args:
            num_tokens: of the context.
            train_tokens: of the longest training context.

        Returns:
            ascending token indices of each part, int64 `(part,)`; nothing where the context is read once.
        """
        return ()

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """The change of the scan for a backbone of width `d_model` trained up to `train_length` tokens."""
        return ScanIntervention()
