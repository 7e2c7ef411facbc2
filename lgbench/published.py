"""What a plugin says of the papers it follows: figures, how to make them here, and what stays different."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure or table of a paper.

    Attributes:
        paper: first author or name, and number of the preprint.
        shows: which figure or table, in words.
        command: what makes its numbers here, as typed.
        deviations: what differs from what was published and is not a matter of hardware, a sentence each.
    """

    paper: str
    shows: str
    command: str
    deviations: tuple[str, ...] = ()
