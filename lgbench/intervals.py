"""Say how sure a share is: Wilson's interval, which has a width even where all or none were right."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def wilson_interval(values: ArrayLike) -> tuple[float, float]:
    """95 % score interval of a proportion, from values that are 0 or 1 (Wilson, JASA 22, 1927)."""
    n, share, z = len(np.asarray(values)), float(np.mean(values)), 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - reach)), min(1.0, float(centre + reach))
