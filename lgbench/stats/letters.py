"""Compact letter display: series that share a letter do not differ significantly.

Insert and absorb, after Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons",
Journal of Computational and Graphical Statistics 13, 2004.
"""

from __future__ import annotations

import string

import numpy as np
from numpy.typing import NDArray


def letters(differ: NDArray[np.bool_]) -> list[str]:
    """Letters of each series, "a" for the group of the first.

    Args:
        differ: whether two series differ significantly, symmetric `(num_series, num_series)`, series in the
            order in which letters shall begin.
    """
    groups = [frozenset(range(len(differ)))]
    for one, other in zip(*np.nonzero(np.triu(differ, 1)), strict=True):
        split = [group for group in groups if one in group and other in group]
        groups = [group for group in groups if group not in split]
        for group in split:
            groups += [group - {int(one)}, group - {int(other)}]
        groups = [g for g in dict.fromkeys(groups) if not any(g < h for h in groups)]
    ordered = sorted(sorted(group) for group in groups if group)
    return ["".join(_name(k) for k, group in enumerate(ordered) if at in group) for at in range(len(differ))]


def _name(index: int) -> str:
    """a, b, … z, then a2, b2, …"""
    turn, at = divmod(index, 26)
    return string.ascii_lowercase[at] + (str(turn + 1) if turn else "")
