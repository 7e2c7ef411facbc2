"""Which tokens survive a decimating layer."""

from __future__ import annotations

import torch
from lgbench.methods.decimamba.params import RELEASED_L_BASE, DeciMambaParams
from torch import Tensor

from lgbench.method import Mode, ScanIntervention


class Decimated(ScanIntervention):
    """Keeps the tokens of largest score.

    Protected are queries and the prompt's end; `as_released` only the positions that answers are read from:
    the last token of a prompt, and the labels of a training sequence.

    Args:
        params: of the method.
        train_length: L_train, tokens; L_base where none is given.
    """

    def __init__(self, params: DeciMambaParams, train_length: int) -> None:
        self.released = params.protocol == "as_released"
        self.params, self.default_l_base = params, RELEASED_L_BASE if self.released else train_length
        self.apply_to_generated = not self.released  # no difference: a generated token is protected
        self.num_protected, self.l_base = 0, 0
        self.use({})

    def use(self, fitted: dict[str, Tensor]) -> None:
        """Take the layers that were chosen; without any, those asked for."""
        found = tuple(fitted["keep_layers"].tolist()) if "keep_layers" in fitted else ()
        given = self.params.given_layers
        self.layers = found if given is None else given

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Keep what is protected; rest where no layer would drop a token.

        As released it never rests: a prompt of documents may be longer than the nominal length.
        """
        params = self.params
        trained = params.train_l_base if mode == "train" and params.train_l_base else params.l_base
        self.l_base = trained or self.default_l_base
        self.num_protected = self.num_read if self.released else num_protected
        self.resting = not self.layers
        if not self.released:
            self.resting = all(self._num_kept(k, int(length)) >= length for k in range(len(self.layers)))

    def keep(self, layer: int, delta: Tensor, x: Tensor) -> Tensor | None:
        """Indices of the tokens of largest score and of the protected ones; None if that is all of them.

        A token whose Δ is 0 in all channels is not there (masked): a sample keeps what it would keep without
        such tokens, and they fill up what other samples of the batch keep more.
        """
        batch, length = delta.shape[:2]
        free = length - self.num_protected
        if layer not in self.layers or free <= 0:
            return None
        rank = self.layers.index(layer)
        kept = self._num_kept(rank, free)
        if kept >= free:
            return None
        delta, x = delta.detach()[:, :free], x.detach()[:, :free]
        there = delta.amax(dim=-1) > 0
        scores = self._scores(layer, delta, x).masked_fill(~there, -torch.inf)
        present = there.sum(dim=1, keepdim=True)
        own = torch.as_tensor(self._wanted(rank, present.double()), device=delta.device).long()
        own = torch.minimum(present, own.clamp(min=self.params.min_seq_len))
        place = torch.arange(kept, device=delta.device)
        place = place + (present - own) * (place >= own)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        chosen = order.gather(1, place).sort(dim=1).values
        protected = torch.arange(free, length, device=delta.device).expand(batch, -1)
        return torch.cat([chosen, protected], dim=1)

    def _num_kept(self, rank: int, free: int) -> int:
        return min(free, max(int(self._wanted(rank, free)), self.params.min_seq_len))

    def _wanted(self, rank: int, free: int | Tensor) -> float | Tensor:
        """Of `free` tokens, before rounding down and limits."""
        if self.params.count == "top_k_percent":
            return free * self.params.percent / 100
        return self.l_base * self.params.beta**rank

    def _scores(self, layer: int, delta: Tensor, x: Tensor) -> Tensor:
        """`(batch, free)`; ties go to the earlier token, since the sort is stable."""
        if self.params.score == "mean":
            return delta.mean(dim=-1)
        if self.params.score == "random":
            rng = torch.Generator().manual_seed(layer)
            backwards = torch.rand(delta.shape[1], generator=rng)  # padding on the left must not shift it
            return backwards.flip(0).to(delta.device).expand(len(delta), -1)
        return torch.linalg.vector_norm(delta if self.params.score == "l2" else x, dim=-1)
