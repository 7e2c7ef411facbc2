"""The contract of a probe: look inside a trained model, change nothing, and give readings.

    class Loudness(Probe):
        statistics = ("loudness",)
        def recorder(self, layers):
            return _Loudness(layers)            # a ScanRecorder, with `see`
        def result(self, recorder):
            return Readings([Reading("loudness", recorder.mean())])

A probe measures, a claim judges: `statistics` names the readings that claims read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from lgbench.intervention import ScanIntervention, overridden_hooks
from lgbench.store.readings import Reading, Readings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lgbench.backbone import Backbone
    from lgbench.method import Method
    from lgbench.run.probing import Subject
    from lgbench.task import EvalSet, Task

__all__ = ["Probe", "Reading", "Readings", "Recorder", "ScanRecorder"]


class Recorder(ScanIntervention):
    """Collects what a probe needs. It goes with the method's own intervention through the model.

    Args:
        layers: the ones that are looked at, from 0.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.watched = tuple(layers)


class ScanRecorder(Recorder):
    """A recorder that sees what the scans of its layers compute, piece by piece, through `record`."""

    def start(self, length: int, chosen: slice, passage: int) -> None:
        """Begin a context of `length`, in the task's unit, of these items, read for the `passage`-th time."""
        self.length, self.chosen, self.passage = length, chosen, passage
        self._next = dict.fromkeys(self.watched, 0)

    def record(self, layer: int, **tensors: Tensor) -> None:
        """Hand a piece of a watched layer to `see`, with the place of its first token."""
        if layer in self.watched:
            first = self._next[layer]
            self._next[layer] += tensors["delta"].shape[1]
            self.see(layer, first, **tensors)

    def see(self, layer: int, first: int, **tensors: Tensor) -> None:
        """Take what is needed of a piece.

        Args:
            layer: from 0.
            first: place of the piece's first token, counted in the tokens that the scan saw.
            **tensors: `delta` `(batch, length, channels)`, `A` `(channels, d_state)`, `B` and `C` `(batch,
                length, d_state)`, `x` `(batch, length, channels)` and `state` `(batch, channels, d_state)`
                after the piece. Mamba-2 has heads in place of channels, and A `(heads,)`.
        """
        raise NotImplementedError


class Probe:
    """Base of every probe. A subclass writes `recorder`, `result` and `figure`, others also `read`.

    Attributes:
        version: raised when a change of the code gives other readings.
        identity: what stands for its code in keys; set where a plan makes the probe.
        statistics: names of the readings that its claim uses; `result` gives each, NaN where it
            does not apply.
        passes: how often each context is read; a second pass knows what the first found at its end.
        num_items: items that are read where the user does not say.
    """

    class Params(BaseModel):
        """Parameters of the probe; each field has a default, a range and a description."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int] = 1
    identity: str = ""
    statistics: ClassVar[tuple[str, ...]]
    passes: ClassVar[int] = 1
    num_items: ClassVar[int] = 8

    def __init__(self, params: Params | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """Context lengths that are read where the user gives none, in the task's unit."""
        return tuple(sorted({max(1, round(train_length * 2**k)) for k in range(-2, 5)}))

    def applies(self, task: Task, items: EvalSet, method: Method, backbone: type[Backbone]) -> str | None:
        """Why this probe cannot look at such a model, or None; asked before its weights are read."""
        if "record" in overridden_hooks(self.recorder(())) and "record" not in backbone.hooks:
            hooks = ", ".join(sorted(backbone.hooks)) or "no hook"
            return f"it reads what scans compute, by the hook `record`; {backbone.__name__} has {hooks}"
        return None

    def fitted_lengths(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths for which a calibrated method's parameters are needed."""
        return lengths

    def recorder(self, layers: Sequence[int]) -> Recorder:
        """What collects, empty. Methods that need the same statistics use it too."""
        raise NotImplementedError

    def read(self, subject: Subject, recorder: Any) -> None:
        """Show the model to the recorder: by default all contexts of each length, read as the method does."""
        for length in subject.lengths:
            for chosen in subject.batches(length):
                for passage in range(self.passes):
                    recorder.start(length, chosen, passage)
                    subject.read(length, chosen)

    def result(self, recorder: Any) -> Readings:
        """Readings from what was collected."""
        raise NotImplementedError

    def figure(self, several: Sequence[Readings]) -> Figure:
        """A figure that a paper could print, of the readings of one model or several."""
        raise NotImplementedError
