"""Say what a method costs beside vanilla: speed in the same run, and what was fitted to which price."""

from __future__ import annotations

import pandas as pd

from lgbench.stats.ranking import ROLES

SAME_RUN = ["device", "environment", "commit", "num_items", "num_queries"]
"""Rows that agree in these were timed alike; the board sees to the same task and preset."""
SAME_SIZE = ["d_model", "num_layers"]


def relative_speed(final: pd.DataFrame, rows: pd.DataFrame) -> float:
    """Tokens per second in evaluation, as a multiple of vanilla's on the same machine, code, items and sizes.

    Compilation does not count. The median over the context lengths that both were evaluated at. Where only
    one of the two answered all lengths from one pass, whose rate is that of long contexts, the longest of
    these lengths alone counts. Vanilla on the same backbone if there is one, else on any.

    Args:
        final: measured context rows of one series, one a seed and length.
        rows: such rows of all series of the board.

    Returns:
        the multiple; NaN if vanilla was not measured in the same run.
    """
    vanilla = rows[rows["method"] == ROLES["baseline"]]
    same = vanilla[vanilla["backbone"].isin(final["backbone"].unique())]
    if not same.empty:
        vanilla = same
    key = [*SAME_RUN, *SAME_SIZE, "eval_length"]
    mine, theirs = (
        part.astype({"shared_prefix": float}).groupby(key)[["warm_tokens_per_s", "shared_prefix"]].mean()
        for part in (final, vanilla)
    )
    both = mine.join(theirs.add_suffix("_vanilla"), how="inner").dropna()
    if both.empty:
        return float("nan")
    ratios = (
        (both["warm_tokens_per_s"] / both["warm_tokens_per_s_vanilla"]).groupby(level="eval_length").mean()
    )
    if (both["shared_prefix"] != both["shared_prefix_vanilla"]).any():
        return float(ratios.iloc[-1])
    return float(ratios.median())


def calibration(final: pd.DataFrame) -> dict[str, float]:
    """What was fitted for one series.

    Args:
        final: its measured context rows, one a seed and length.

    Returns:
        `num_fitted`, the most scalars fitted for one length, and `calibration_tokens` and
        `calibration_wall_s`, the tokens and seconds of all fits of a seed, means over seeds; lengths that
        share a fit count once.
    """
    fits = final[final["num_fitted"] > 0].drop_duplicates(["seed", "assumed_length", "calibration_wall_s"])
    paid = fits.groupby("seed")[["calibration_tokens", "calibration_wall_s"]].sum()
    means = paid.mean() if len(paid) else {"calibration_tokens": 0.0, "calibration_wall_s": 0.0}
    return {"num_fitted": float(final["num_fitted"].max()), **means}
