"""What each scan back end can do: one table for both families of scans, on which `auto` and the plan rely."""

from __future__ import annotations

from typing import NamedTuple

import torch

NARROW = frozenset({torch.float32, torch.bfloat16, torch.float16})
ALL = NARROW | {torch.float64}


class Limits(NamedTuple):
    """Sizes and types that a back end takes."""

    most_states: int | None
    """Largest d_state; None is any."""
    dtypes: frozenset[torch.dtype]

    def why_not(self, d_state: int | None, dtype: torch.dtype | None) -> str | None:
        """Why this size or type is not taken; None if it is, or was not asked for."""
        if d_state is not None and self.most_states is not None and d_state > self.most_states:
            return f"it takes at most {self.most_states} states, not {d_state}"
        if dtype is not None and dtype not in self.dtypes:
            return f"it has no {str(dtype).removeprefix('torch.')}"
        return None


SCAN = {
    "reference": Limits(None, ALL),
    "torch": Limits(None, ALL),
    "triton": Limits(32, NARROW),
    "mamba_ssm": Limits(256, NARROW),
}
"""Of the selective scan of Mamba, by back end."""

SSD = {
    "reference": Limits(None, ALL),
    "torch": Limits(None, ALL),
    "mamba_ssm": Limits(None, NARROW),
}
"""Of the scan of Mamba-2."""
