"""Say how much of what length costs a remedy wins back: the recovered fraction towards a ceiling.

The ceiling at L is the baseline on the same backbone, trained at L on equally many tokens. Our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lgbench.stats.intervals import by_cluster, estimate
from lgbench.stats.panel import Panel
from lgbench.stats.ranking import ROLES
from lgbench.stats.scores import Floats

MIN_STANDARD_ERRORS = 2
"""The ceiling must be this far above the control, in standard errors of the paired difference."""
_SAME = ["backbone", "d_model", "num_layers", "d_state"]


def recovered(panels: Sequence[Panel]) -> pd.DataFrame:
    """(S_method − S_control) / (S_ceiling − S_control) at each length with a ceiling.

    Args:
        panels: all panels of one board.

    Returns:
        one row a series and length: `series`, `train_length`, `length`, `ceiling` (its series), `fraction`,
        NaN where the denominator is less than `MIN_STANDARD_ERRORS` of its standard errors, or unknown.
    """
    found = []
    for panel in panels:
        settings = _settings(panel)
        for at, length in enumerate(panel.lengths):
            for above in panels:
                if above.train_length == length > panel.train_length:
                    found += _at(panel, settings, at, above)
    return pd.DataFrame(found, columns=["series", "train_length", "length", "ceiling", "fraction"])


def _at(panel: Panel, settings: pd.DataFrame, at: int, above: Panel) -> list[dict[str, Any]]:
    """Fractions of all series of a panel at one of its lengths, from the ceilings in the panel above."""
    there, length, rows = _settings(above), panel.lengths[at], []
    control = settings.index[settings["method"] == ROLES["control"]]
    for k in settings.index.difference(control):
        same = (there[_SAME] == settings.loc[k, _SAME]).all(axis=1) & (there["method"] == ROLES["baseline"])
        same &= np.isclose(there["tokens"], settings.loc[k, "tokens"], rtol=0.05)
        mine = [c for c in control if (settings.loc[c, _SAME] == settings.loc[k, _SAME]).all()]
        if not same.any() or not mine or not panel.grids[k][at]:
            continue
        ceiling = int(there.index[same][0])
        fraction = _fraction(_items(panel, k, length), _items(panel, mine[0], length),
                             _items(above, ceiling, length), panel)  # fmt: skip
        rows.append({"series": panel.series[k], "train_length": panel.train_length, "length": length,
                     "ceiling": above.series[ceiling], "fraction": fraction})  # fmt: skip
    return rows


def _fraction(method: Floats, control: Floats, ceiling: Floats, panel: Panel) -> float:
    """From scores `(seeds, items)` of the three at one length; NaN where the gap is not there."""
    num = min(len(control), len(ceiling))
    if num < 2 or not len(method) or control.shape[1] != ceiling.shape[1]:
        return float("nan")
    gap = estimate(by_cluster(ceiling[:num] - control[:num], panel.clusters))
    if not gap.mean > MIN_STANDARD_ERRORS * np.sqrt(gap.variance):
        return float("nan")
    return float((method.mean() - control.mean()) / (ceiling.mean() - control.mean()))


def _items(panel: Panel, index: int, length: float) -> Floats:
    """z of every item at one length, `(scored seeds, items)`; no seeds where it was not evaluated."""
    at = np.flatnonzero(panel.lengths == length)
    weights = np.zeros((len(panel.series), len(panel.lengths)))
    if not at.size or not panel.grids[index][at[0]]:
        return np.zeros((0, 0))
    weights[index, at[0]] = 1
    items: Floats = panel.item_means(weights)[index][panel.scored(index)]
    return items


def _settings(panel: Panel) -> pd.DataFrame:
    """Method, sizes and training tokens of each series that has rows."""
    rows = panel.rows.drop_duplicates("at_series").set_index("at_series").sort_index()
    return rows.assign(tokens=rows["train_steps"] * rows["batch_size"] * rows["train_length"])
