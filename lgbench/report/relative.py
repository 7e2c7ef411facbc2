"""Set every method beside the baseline, length by length: paired differences of scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lgbench.stats.intervals import by_cluster, estimate
from lgbench.stats.panel import Panel, item_scores, panels
from lgbench.stats.ranking import ROLES, most_alike
from lgbench.stats.scores import Floats

COLUMNS = ["series", "baseline", "eval_length", "value", "low", "high", "p", "num_seeds"]


def relative(rows: pd.DataFrame, missing: pd.DataFrame) -> pd.DataFrame:
    """Unclipped score minus that of the baseline on the same seeds and items, at every length of both.

    The baseline of a series is the one most like it, with its L_train. Scores are 0 at chance and 1 at the
    best possible value, so that more is better whatever the metric is.

    Args:
        rows: measured rows of a board.
        missing: its rows without a value.

    Returns:
        one row a series and length with `COLUMNS`: the mean, its 95 % interval and `p` by Student's
        t, NaN with one seed; no rows of baselines, of series without one, and of those on other items.
    """
    found = [part for panel in panels(rows, missing) for part in _of_panel(panel)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)


def _of_panel(panel: Panel) -> list[pd.DataFrame]:
    tables, measured = _item_tables(panel)
    found = []
    for index, other in enumerate(most_alike(panel, ROLES["baseline"])):
        if other is None or other == index or not panel.paired[[index, other]].all():
            continue
        known = measured[index] & measured[other]
        seeds, lengths = known.any(axis=1), known[known.any(axis=1)].all(axis=0)
        if not lengths.any():
            continue
        where = np.ix_(seeds, lengths)
        differences = (tables[index][where] - tables[other][where]).transpose(1, 0, 2)
        paired = estimate(by_cluster(differences, panel.clusters))
        half = paired.half_width()
        found.append(
            pd.DataFrame(
                {
                    "series": panel.series[index],
                    "baseline": panel.series[other],
                    "eval_length": panel.lengths[lengths],
                    "value": paired.mean,
                    "low": paired.mean - half,
                    "high": paired.mean + half,
                    "p": paired.p_value() if seeds.sum() > 1 else np.nan,
                    "num_seeds": int(seeds.sum()),
                }
            )
        )
    return found


def _item_tables(panel: Panel) -> tuple[Floats, NDArray[np.bool_]]:
    """Unclipped scores `(series, seeds, lengths, items)`, and whether they were measured, without items."""
    num_items = 1 if panel.rows.empty else len(panel.rows["item_values"].iloc[0])
    tables, measured = np.zeros((*panel.state.shape, num_items)), np.zeros(panel.state.shape, bool)
    for at, rows in panel.rows.groupby("at_length"):
        where = rows["at_series"].to_numpy(), rows["at_seed"].to_numpy(), at
        tables[where], measured[where] = item_scores(rows), True
    return tables, measured
