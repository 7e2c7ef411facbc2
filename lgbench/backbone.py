"""The contract of a backbone: a sequence model `(batch, length, d_model)` → the same, ours or anybody's.

    class Gla(Backbone):
        class Params(Backbone.Params):
            num_heads: int = Field(4, ge=1, description="heads a layer")
        def mixer(self, d_model, layer):
            return GatedLinearAttention(d_model, self.params.num_heads)

Three levels; each one is optional and adds to the one before.

1. `mixer`, or `stack`: any causal module. Its state is the prefix so far, read again: exact and slow.
2. `step(mixer, x, state) -> (y, state)`, pure: a context is streamed, and the state is what is carried.
3. `hooks`: which hooks of the intervention it honours. `step` then has a fourth argument, a `Seam`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.intervention import Mode, ScanIntervention, active_hooks, parts_of

Layout = Literal["causal", "encoder_decoder"]

BASIC_HOOKS = frozenset({"sequence", "state"})
"""Hooks that the base class itself serves; a `step` without a seam can have no others."""


class Advance(NamedTuple):
    """What a causal backbone returns for a piece of a sequence."""

    hidden: Tensor
    """`(batch, kept, d_model)`; kept = length unless a method drops tokens or fewer are read."""
    positions: Tensor
    """`(batch, kept)` int64, where the rows of `hidden` stood in this piece (after `sequence`)."""
    state: list[Any]


class Group(NamedTuple):
    """Sequences of a batch that have had equally many real tokens, and what is carried for them."""

    rows: Tensor | None
    """Their places in the batch, int64; None is the whole batch."""
    carried: Any
    """None before the first token; at level 1 the tokens so far, at level 2 the states of the layers."""


class Seam:
    """What `step` calls where a method may change something; without a method that does, nothing happens."""

    def __init__(self, intervention: ScanIntervention, mode: Mode, layer: int) -> None:
        parts = [(part, active_hooks(part, mode, layer)) for part in parts_of(intervention)]
        self._writing = [part for part, hooks in parts if hooks & {"write", "timestep"}]
        self._decaying = [part for part, hooks in parts if hooks & {"decay", "timestep", "transition"}]
        self._layer = layer

    def write(self, strength: Tensor) -> Tensor:
        """Change how strongly each token is written, `(batch, length, channels)`, ≥ 0."""
        for part in self._writing:
            strength = part.write(self._layer, strength)
        return strength

    def decay(self, log_gate: Tensor) -> Tensor:
        """Change the logarithm of what is kept of the state, `(batch, length, channels)`, ≤ 0."""
        for part in self._decaying:
            log_gate = part.decay(self._layer, log_gate)
        return log_gate


class Backbone(nn.Module):
    """Base of every backbone: norm, residual, final norm, masks, streaming and reporting around a mixer.

    Args:
        d_model: width of the residual stream.
        num_layers: number of layers.
        scan_backend: what computes a scan, for those that have several implementations.
        sizes: fields of `Params`.

    Raises:
        ValueError: a size that `Params` does not have, or that it refuses.

    Attributes:
        layout: "causal" may be streamed; an "encoder_decoder" answers all queries in one piece.
        layers_multiple_of: its depth is a multiple of this.
        version: raised when a change of the code gives other weights or scores. Of built-in backbones and of
            those without source; for others the source's hash stands.
        hooks: hooks of the intervention that it honours, names of `lgbench.intervention.HOOKS`.
        capturable: whether a training step can be captured in a CUDA graph.
        widest: the widest type that it computes in; contracts are checked in it.
        processed: tokens that each layer processed in the last piece.
        notice: what a user should know of how it is read; found with its first piece, empty if nothing.
        content: what stands in keys for a member of a family: its name there, a version or a digest of files.
    """

    class Params(BaseModel):
        """Sizes of this backbone alone; each field has a default, a range and a description."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    layout: ClassVar[Layout] = "causal"
    layers_multiple_of: ClassVar[int] = 1
    version: ClassVar[int] = 1
    hooks: ClassVar[frozenset[str]] = frozenset({"sequence"})
    capturable: ClassVar[bool] = False
    widest: ClassVar[torch.dtype] = torch.float64
    notice: str = ""
    content: ClassVar[str] = ""

    step: Callable[..., tuple[Tensor, Any]] | None = None
    """Level 2: `step(mixer, x, state) -> (y, state)`. x is `(batch, length, d_model)`, `state` what the call
    before returned, None at the start, never changed in place. Its tensors have the batch first; they may be
    in tuples, lists and dicts."""

    def __init__(self, *, d_model: int, num_layers: int, scan_backend: str = "auto", **sizes: Any) -> None:
        super().__init__()
        self.params: Any = self.Params(**sizes)
        self.scan_backend = scan_backend
        self.processed: tuple[int, ...] = ()
        self.build(d_model, num_layers)

    def build(self, d_model: int, num_layers: int) -> None:
        """Make the layers. A backbone that is its own whole model overrides this, `advance` and `answer`."""
        self.num_layers = num_layers
        if type(self).stack is not Backbone.stack:
            self.trunk = self.stack(d_model, num_layers)
            self.blocks = nn.ModuleList()
            return
        self.trunk = None
        self.blocks = nn.ModuleList(_Block(d_model, self.mixer(d_model, k)) for k in range(num_layers))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)

    def mixer(self, d_model: int, layer: int) -> nn.Module:
        """One layer's causal module, `(batch, length, d_model)` to the same; of a tuple the first counts."""
        raise NotImplementedError(f"{type(self).__name__} defines neither mixer nor stack")

    def stack(self, d_model: int, num_layers: int) -> nn.Module:
        """A whole trunk in place of mixers: its own norms and residuals, `(batch, length, d_model)` to the
        same. At level 2, `step` takes it as its mixer."""
        raise NotImplementedError

    @classmethod
    def check_backend(cls, params: Any, scan_backend: str, device: torch.device) -> None:
        """Refuse a scan back end that cannot do sizes like these, before anything is trained.

        Raises:
            ValueError: why, and which can.
        """

    def backend_name(self, tokens: Tensor, hooks: frozenset[str]) -> str:
        """What computes the mixing of tokens like these; stored in rows."""
        return "torch"

    def answer(
        self,
        context: Tensor,
        queries: Tensor,
        *,
        mode: Mode,
        context_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        intervention: ScanIntervention,
    ) -> Tensor:
        """Hidden states of the queries `(batch, num_queries, d_model)` after the context, in one piece.

        Queries are causal, so masked ones (at the end) need no care.
        """
        tokens = torch.cat([context, queries], dim=1)
        mask = None if context_mask is None else F.pad(context_mask, (0, queries.shape[1]), value=True)
        tokens, mask = begin_sequence(tokens, mask, intervention, mode)
        if mask is None:
            hidden, _ = self._pass(tokens, None, mode, intervention)
        else:  # real tokens first: none of them sees a masked one
            place = real_first(mask.expand(tokens.shape[0], -1))[..., None].expand_as(tokens)
            hidden, _ = self._pass(
                torch.empty_like(tokens).scatter(1, place, tokens), None, mode, intervention
            )
            hidden = hidden.gather(1, place)
        return hidden[:, -queries.shape[1] :]

    def advance(
        self,
        tokens: Tensor,
        *,
        mode: Mode,
        state: list[Group] | None = None,
        mask: Tensor | None = None,
        read: int | None = None,
        intervention: ScanIntervention,
    ) -> Advance:
        """Process a piece of a sequence; `state` stays valid and may be continued again.

        Args:
            tokens: `(batch, length, d_model)`.
            mode: see `ScanIntervention.begin`, which the caller has called.
            state: what the previous piece returned; None at the start of a sequence.
            mask: bool `(length,)` or `(batch, length)`; False tokens leave every state untouched, exactly.
                Their own rows of `hidden` are zeros.
            read: trailing rows of `hidden` that somebody reads; None is all.
            intervention: what the method changes.
        """
        if state is None:
            tokens, mask = begin_sequence(tokens, mask, intervention, mode)
        batch, length, _ = tokens.shape
        groups = _split(state or [Group(None, None)], mask, batch)
        if mask is None and len(groups) == 1 and groups[0].rows is None:
            hidden, carried = self._pass(tokens, groups[0].carried, mode, intervention, keep=True)
            after = [Group(None, carried)]
        else:
            hidden, after = torch.zeros_like(tokens), []
            for group in groups:
                rows = torch.arange(batch, device=tokens.device) if group.rows is None else group.rows
                real = None if mask is None else mask.expand(batch, -1)[rows]
                if real is not None and not real[0].any():
                    after.append(group)
                    continue
                place = _places(real, len(rows), length, tokens.device)
                mine = tokens[rows[:, None], place]
                given, carried = self._pass(mine, group.carried, mode, intervention, keep=True)
                hidden = hidden.index_put((rows[:, None], place), given.to(hidden.dtype))
                after.append(Group(group.rows, carried))
        self.processed = (length,) * self.num_layers
        first = 0 if read is None else length - read
        positions = torch.arange(length, device=tokens.device).expand(batch, -1)
        return Advance(hidden[:, first:], positions[:, first:], after)

    def _pass(
        self, x: Tensor, carried: Any, mode: Mode, intervention: ScanIntervention, keep: bool = False
    ) -> tuple[Tensor, Any]:
        """Real tokens `(batch, length, d_model)` through all layers; what is carried after them if `keep`."""
        self.processed = (x.shape[1],) * self.num_layers
        if self.step is None:
            past = 0 if carried is None else carried.shape[1]
            whole = x if carried is None else torch.cat([carried, x], dim=1)
            hidden = whole
            for mixer in self._mixers():
                hidden = first(mixer(hidden))
            return self._finish(hidden[:, past:]), whole if keep else None
        states = []
        for layer, mixer in enumerate(self._mixers()):
            hooks = active_hooks(intervention, mode, layer)
            before = None if carried is None else carried[layer]
            if before is not None and "state" in hooks:
                before = intervention.state(layer, before)
            seam = Seam(intervention, mode, layer)
            x, after = self._step(mixer, x, before, seam, whole=before is None and not keep)
            states.append(after)
        return self._finish(x), states if keep else None

    def _mixers(self) -> list[nn.Module]:
        return [*self.blocks] if self.trunk is None else [self.trunk]

    def _step(self, block: nn.Module, x: Tensor, state: Any, seam: Seam, whole: bool) -> tuple[Tensor, Any]:
        hooked = bool(self.hooks - BASIC_HOOKS)
        if whole and not hooked:  # nobody continues: the module's own pass over it all
            return block(x) if isinstance(block, _Block) else first(block(x)), None
        more = (seam,) if hooked else ()
        if not isinstance(block, _Block):
            return self.step(block, x, state, *more)
        y, state = self.step(block.mixer, block.norm(x), state, *more)
        return x + y, state

    def _finish(self, hidden: Tensor) -> Tensor:
        return hidden if self.trunk is not None else self.norm(hidden)


class _Block(nn.Module):
    """Pre-norm and residual around a mixer."""

    def __init__(self, d_model: int, mixer: nn.Module) -> None:
        super().__init__()
        self.norm, self.mixer = nn.RMSNorm(d_model, eps=1e-5), mixer

    @property
    def num_channels(self) -> int:
        """Of what `write` and `decay` change."""
        return self.mixer.num_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, length, d_model)` to the same."""
        y = first(self.mixer(self.norm(x)))
        if y.shape != x.shape:
            raise ValueError(
                f"the mixer {type(self.mixer).__name__} gave {list(y.shape)} for {list(x.shape)}, "
                "(batch, length, d_model); it must give as many tokens, of the same width, as it takes"
            )
        return x + y


def first(given: Any) -> Tensor:
    """What a module returns, or the first of the things that it returns.

    Raises:
        TypeError: that is no tensor.
    """
    found = given[0] if isinstance(given, tuple) and given else given
    if not isinstance(found, Tensor):
        raise TypeError(f"the model gave {type(found).__name__}, expected a tensor (batch, length, d_model)")
    return found


def begin_sequence(
    tokens: Tensor, mask: Tensor | None, intervention: ScanIntervention, mode: Mode
) -> tuple[Tensor, Tensor | None]:
    """The embedded tokens as the method has them before the first layer, and their mask."""
    if "sequence" not in active_hooks(intervention, mode):
        return tokens, mask
    changed = intervention.sequence(tokens)
    added = changed.shape[1] - tokens.shape[1]
    return changed, None if mask is None else F.pad(mask, (added, 0), value=True)


def real_first(mask: Tensor) -> Tensor:
    """Places int64 `(batch, length)` that put real tokens first, in their order, and masked ones last.

    Then no real token sees a masked one of its piece, and plain causal computation is exact.
    """
    rank = mask.cumsum(dim=1)
    return torch.where(mask, rank - 1, rank[:, -1:] + (~mask).cumsum(dim=1) - 1)


def _split(groups: list[Group], mask: Tensor | None, batch: int) -> list[Group]:
    """The groups such that all sequences of one have equally many real tokens in this piece."""
    if mask is None or mask.dim() == 1 or batch == 1:
        return groups
    counts = mask.expand(batch, -1).sum(dim=1)
    if bool((counts == counts[0]).all()):
        return groups
    parts = []
    for group in groups:
        rows = torch.arange(batch, device=mask.device) if group.rows is None else group.rows
        for count in counts[rows].unique():
            chosen = (counts[rows] == count).nonzero().squeeze(1)
            parts.append(Group(rows[chosen], chosen_rows(group.carried, chosen)))
    return parts


def chosen_rows(state: Any, rows: Tensor) -> Any:
    """The same state with some sequences of the batch alone."""
    if isinstance(state, Tensor):
        return state[rows]
    if isinstance(state, dict):
        return {name: chosen_rows(value, rows) for name, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(chosen_rows(value, rows) for value in state))
    if isinstance(state, list | tuple):
        return type(state)(chosen_rows(value, rows) for value in state)
    return state


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in what a backbone carries along a batch of sequences."""
    if isinstance(state, dict):
        return sum(map(state_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(state_bytes, state))
    return int(getattr(state, "nbytes", 0))


def _places(real: Tensor | None, rows: int, length: int, device: torch.device) -> Tensor:
    """Where the real tokens of a group's sequences stand, int64 `(rows, number of them)`."""
    if real is None:
        return torch.arange(length, device=device).expand(rows, -1)
    return real.nonzero()[:, 1].unflatten(0, (rows, -1))
