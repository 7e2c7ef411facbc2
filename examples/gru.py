"""GRU: a recurrence of 2014 as a backbone, with the residual stream and the norms of the others.

Source: Cho et al., arXiv:1406.1078; torch's `nn.GRU`.
"""

from torch import Tensor, nn

from lgbench.backbone import Backbone


class Gru(Backbone):
    """One `nn.GRU` a layer; its hidden state is all that is carried."""

    def mixer(self, d_model: int, layer: int) -> nn.Module:
        """`(batch, length, d_model)` to the same."""
        return nn.GRU(d_model, d_model, batch_first=True)

    def step(self, mixer: nn.Module, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Continue from a state `(batch, 1, d_model)`; torch wants the batch second."""
        y, hidden = mixer(x, None if state is None else state.transpose(0, 1).contiguous())
        return y, hidden.transpose(0, 1)
