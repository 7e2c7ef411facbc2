"""Where the tokens of a needle stand among all tokens, ranked by a score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def needle_ranks(
    scores: np.ndarray, spans: Sequence[tuple[int, int]], keep: int
) -> tuple[float, float, float]:
    """Means over items: rank (0 is best), recall at `keep` tokens, recall at as many as the needle has.

    Args:
        scores: q, `(items, length)`.
        spans: of the needle of each item, last token exclusive.
        keep: tokens that are kept.
    """
    found = []
    for values, (first, stop) in zip(scores, spans, strict=True):
        place = np.empty(len(values), dtype=int)
        place[np.argsort(-values, kind="stable")] = np.arange(len(values))
        mine = place[max(0, first) : max(0, stop)]
        if len(mine):
            found.append((mine.mean() / len(values), (mine < keep).mean(), (mine < len(mine)).mean()))
        else:  # a window left the needle out
            found.append((1.0, 0.0, 0.0))
    rank, kept, few = np.mean(found, axis=0)
    return float(rank), float(kept), float(few)
