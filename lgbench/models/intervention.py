"""The one seam between remedies and models: what a method may change inside the selective scan."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Mode = Literal["train", "score", "prefill", "decode"]
HOOKS = ("sequence", "timestep", "transition", "keep", "initial_state", "record")


class ScanIntervention:
    """What one method does inside a backbone; every hook is a no-op until a method overrides it.

    All methods run through the same model code with one of these, vanilla with this class itself, so that a
    difference between two methods is never a difference between two code paths. Layers are counted from 0.

    Attributes:
        trained: parameters of the method's own that are trained with the backbone (the length token of
            `prepended`, for instance); saved in its checkpoint.
        apply_in_decode: whether the hooks also act in mode "decode" (queries and generated tokens that follow
            a context whose state is kept). The released codes of most remedies forget it; here it is
            explicit.
    """

    trained: nn.Module | None = None
    apply_in_decode: bool = True

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
        """State `(batch, d_inner, d_state)` in which a sequence starts; None is the zero state."""
        return None

    def record(self, layer: int, **tensors: Tensor) -> None:
        """See what a block computes: delta, A, B, C, x, state. For diagnostics; must not change anything."""


def active_hooks(intervention: ScanIntervention, mode: Mode) -> frozenset[str]:
    """Names of the hooks that this intervention overrides and that act in this mode.

    A fused kernel may serve wherever none of them needs what it keeps on chip.
    """
    if mode == "decode" and not intervention.apply_in_decode:
        return frozenset()
    return frozenset(h for h in HOOKS if getattr(type(intervention), h) is not getattr(ScanIntervention, h))
