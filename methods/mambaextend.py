"""Scale the time steps of each layer by a factor fitted to the length: longer sequences in smaller steps.

    Δ' = s Δ        s > 0, one a layer (default), one a channel, or one in all; fitted, weights frozen

Source: Azizi et al., "MambaExtend" (ICLR 2025). Deviations of `protocol=clean`: log s is searched in float32
from s = 1 and from s = L_train / L without a floor, validation items choose, nothing changes up to L_train,
scales also act on queries that follow a kept state, and all items come from the training split (released:
test items, and test scores inside the search). What `protocol=as_released` takes over, and what it does not,
is said in `_scaling`; the released programs for PG-19's last hundred tokens and for LongBench are not
followed.
"""

from lgbench.methods._scaling import ScaleIntervention, Scaling
from torch import Tensor


class MambaExtend(Scaling):
    """Trains like vanilla; a calibration for each length beyond that of training."""

    version = 2
    key = "timestep_scale"

    def intervention(self, train_length: int, d_model: int) -> ScaleIntervention:
        """Scales on Δ."""
        return self.prepared(_Extended())


class _Extended(ScaleIntervention):
    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """Δ `(batch, length, d_inner)` times its scale."""
        return (delta * self.scale_of(layer, delta)).to(delta.dtype)
