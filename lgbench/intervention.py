"""The one seam between remedies and models: what a method may change inside the selective scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Generator, Tensor, nn

Mode = Literal["train", "score", "prefill", "decode"]
IN_A_LAYER = frozenset({"timestep", "transition", "write", "decay", "keep"})
"""Hooks that an intervention may confine to some `layers`."""
HOOKS = (
    "sequence", "timestep", "transition", "write", "decay", "state", "keep", "initial_state", "final_state",
    "record",
)  # fmt: skip
WATCHING = frozenset({"record", "final_state"})
"""Hooks that change nothing."""
NEUTRAL = {"timestep": frozenset({"write", "decay"}), "transition": frozenset({"decay"})}
"""Hooks of Mamba, and those of any gated recurrence through which they act where there is no Δ and no A."""


class ScanIntervention:
    """What one method does inside a backbone; every hook is a no-op until a method overrides it.

    All methods run through the same model code with one of these, vanilla with this class itself, so that a
    difference between two methods is never a difference between two code paths. Layers are counted from 0.
    Shapes below are Mamba's; Mamba-2 has heads in place of channels, see `lgbench.models.mamba2`.

    Attributes:
        trained: parameters of the method's own that are trained with the backbone (the length token of
            `prepended`, for instance); saved in its checkpoint.
        apply_in_decode: whether the hooks also act in mode "decode" (queries and generated tokens that follow
            a context whose state is kept). The released codes of most remedies forget it; here it is
            explicit.
        apply_to_generated: whether they act on tokens that the model generates after a prompt. What is given,
            prompt, queries or labels, is not generated.
        num_read: trailing positions of the next sequence that answers are read from; set before `begin`.
        layers: the only layers in which `timestep`, `transition` and `keep` act; None is all. The others may
            leave them to a fused kernel.
        resting: whether `begin` found that nothing changes for this sequence (it is no longer than those of
            training, for instance). No hook is called then, and a fused kernel may serve.
    """

    trained: nn.Module | None = None
    layers: tuple[int, ...] | None = None
    apply_in_decode: bool = True
    apply_to_generated: bool = True
    num_read: int = 0
    resting: bool = False

    def use(self, fitted: Mapping[str, Tensor]) -> None:
        """Take parameters that `Method.calibrate` fitted, by name. Names of others are ignored, missing ones
        keep their values."""

    def begin_training(self, backbone: nn.Module, batch_size: int, generator: Generator) -> dict[str, Tensor]:
        """Prepare for a training; called once, with the model on its device.

        Args:
            backbone: what is trained.
            batch_size: sequences a step, at most.
            generator: the training's own, the only source of randomness inside a step.

        Returns:
            Tensors that this intervention changes in place from step to step: a resumed training restores
            them.
        """
        return {}

    def begin_step(self, seed: int, step: int, num_steps: int) -> None:
        """Prepare for a training step, outside of any captured graph; tensors may only be filled in place.

        Args:
            seed: of the training.
            step: steps done before this one.
            num_steps: steps of the whole training.
        """

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Announce a sequence, before its first token.

        Args:
            mode: "train" and "score" see context and queries in one piece; "prefill" reads (a piece of) the
                context and keeps the state; "decode" continues from that state.
            length: context tokens of the whole sequence, also when it is streamed in pieces. A 0-dimensional
                tensor where one captured graph serves several lengths.
            num_protected: trailing positions that no `keep` may drop (separator and queries, or the prompt's
                end).
        """

    def sequence(self, tokens: Tensor) -> Tensor:
        """Change the embedded sequence `(batch, length, d_model)` before the first block.

        Tokens may only be added in front. Called once a sequence, with its first piece where it is streamed.
        """
        return tokens

    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """Change Δ `(batch, length, d_inner)`, after softplus, ≥ 0."""
        return delta

    def transition(self, layer: int, A: Tensor) -> Tensor:
        """Change A `(d_inner, d_state)`, float32, < 0."""
        return A

    def write(self, layer: int, strength: Tensor) -> Tensor:
        """Change how strongly tokens are written into a recurrent state: `(batch, length, channels)`, ≥ 0.

        A change of Δ is one of it, since Mamba writes Δ B x.
        """
        return self.timestep(layer, strength)

    def decay(self, layer: int, log_gate: Tensor) -> Tensor:
        """Change the logarithm of the share of the state that is kept: `(batch, length, channels)`, ≤ 0.

        It is Δ·A in Mamba. What changes Δ acts on its size, what changes A on it as on an A with Δ = 1.
        """
        return self.transition(layer, -self.timestep(layer, -log_gate))

    def state(self, layer: int, state: Any) -> Any:
        """Change what a layer carries from one piece of a sequence to the next; not in place."""
        return state

    def keep(self, layer: int, delta: Tensor, x: Tensor) -> Tensor | None:
        """Choose the tokens that this layer and all later ones process.

        Args:
            layer: index of the block.
            delta: `(batch, length, d_inner)` after `timestep`.
            x: `(batch, length, d_inner)`, the input of the scan.

        Returns:
            Indices int64 `(batch, kept)`, strictly increasing in each row, or None for all tokens.
        """
        return None

    def initial_state(self, layer: int) -> Tensor | None:
        """State `(batch, d_inner, d_state)` in which a sequence starts; None is the zero state.

        There may be more states than sequences; the first are taken.
        """
        return None

    def final_state(self, layer: int, state: Tensor) -> None:
        """See the state `(batch, d_inner, d_state)` after a piece; may run in a captured graph."""

    def record(self, layer: int, **tensors: Tensor) -> None:
        """See what a block computes: delta, A, B, C, x, state. For diagnostics; must not change anything."""


class Composed(ScanIntervention):
    """Several interventions at once; no two of them may override the same hook, `record` excepted.

    Args:
        parts: in the order in which they are announced a sequence.
    """

    def __init__(self, parts: Sequence[ScanIntervention]) -> None:
        self.parts = tuple(parts)
        self.trained = next((p.trained for p in parts if p.trained is not None), None)
        self.apply_in_decode = all(p.apply_in_decode for p in parts)
        self.apply_to_generated = all(p.apply_to_generated for p in parts)

    def use(self, fitted: Mapping[str, Tensor]) -> None:
        """Let each part take what is its own."""
        for part in self.parts:
            part.use(fitted)

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Announce the sequence to all."""
        for part in self.parts:
            part.num_read = self.num_read
            part.begin(mode, length, num_protected)

    def sequence(self, tokens: Tensor) -> Tensor:
        """Of the part that overrides it; likewise below."""
        return self._owner("sequence").sequence(tokens)

    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """Δ."""
        return self._owner("timestep").timestep(layer, delta)

    def transition(self, layer: int, A: Tensor) -> Tensor:
        """A."""
        return self._owner("transition").transition(layer, A)

    def write(self, layer: int, strength: Tensor) -> Tensor:
        """Of all parts, one after another; so is `decay`."""
        for part in self.parts:
            strength = part.write(layer, strength)
        return strength

    def decay(self, layer: int, log_gate: Tensor) -> Tensor:
        """Log gate."""
        for part in self.parts:
            log_gate = part.decay(layer, log_gate)
        return log_gate

    def state(self, layer: int, state: Any) -> Any:
        """State between two pieces."""
        return self._owner("state").state(layer, state)

    def keep(self, layer: int, delta: Tensor, x: Tensor) -> Tensor | None:
        """Tokens."""
        return self._owner("keep").keep(layer, delta, x)

    def initial_state(self, layer: int) -> Tensor | None:
        """First state."""
        return self._owner("initial_state").initial_state(layer)

    def final_state(self, layer: int, state: Tensor) -> None:
        """Last state."""
        self._owner("final_state").final_state(layer, state)

    def record(self, layer: int, **tensors: Tensor) -> None:
        """Show it to all."""
        for part in self.parts:
            part.record(layer, **tensors)

    def _owner(self, hook: str) -> ScanIntervention:
        return next(p for p in self.parts if hook in overridden_hooks(p))


def overridden_hooks(intervention: ScanIntervention) -> frozenset[str]:
    """Names of the hooks that this intervention overrides, whether or not they act now."""
    if isinstance(intervention, Composed):
        return frozenset[str]().union(*map(overridden_hooks, intervention.parts))
    return frozenset(h for h in HOOKS if getattr(type(intervention), h) is not getattr(ScanIntervention, h))


def parts_of(intervention: ScanIntervention) -> tuple[ScanIntervention, ...]:
    """What an intervention is composed of, itself if it is not."""
    if not isinstance(intervention, Composed):
        return (intervention,)
    return tuple(one for part in intervention.parts for one in parts_of(part))


def on_generated(intervention: ScanIntervention) -> ScanIntervention:
    """The part of an intervention that acts on generated tokens."""
    acting = [part for part in parts_of(intervention) if part.apply_to_generated]
    return intervention if intervention.apply_to_generated else Composed(acting)


def changing_hooks(intervention: ScanIntervention) -> frozenset[str]:
    """Names of the hooks that this intervention overrides and that may change something."""
    return overridden_hooks(intervention) - WATCHING


def missing_hooks(needed: frozenset[str], honoured: frozenset[str]) -> frozenset[str]:
    """Those of the hooks that a method needs which a backbone does not honour, in no way.

    Mamba's `timestep` and `transition` act through `write` and `decay` where a backbone has these.
    `record` and `final_state` only watch; a method that needs them cannot do without.
    """
    return frozenset(
        hook for hook in needed - honoured if not (hook in NEUTRAL and NEUTRAL[hook] <= honoured)
    )


def active_hooks(intervention: ScanIntervention, mode: Mode, layer: int | None = None) -> frozenset[str]:
    """Names of the hooks that act in this mode, on the sequence that `begin` announced last.

    With `layer`, those that act there; without, those that act anywhere.

    A fused kernel may serve wherever none of them needs what it keeps on chip.
    """
    if isinstance(intervention, Composed):
        return frozenset[str]().union(*(active_hooks(part, mode, layer) for part in intervention.parts))
    if intervention.resting or (mode == "decode" and not intervention.apply_in_decode):
        return frozenset()
    elsewhere = layer is not None and intervention.layers is not None and layer not in intervention.layers
    return overridden_hooks(intervention) - (IN_A_LAYER if elsewhere else frozenset())
