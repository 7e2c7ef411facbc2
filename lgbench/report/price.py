"""Say what a method costs beside the baseline: speed in the same run, and what was fitted to which price."""

from __future__ import annotations

import pandas as pd

from lgbench.stats.ranking import ROLES

SAME_RUN = ["device", "environment", "commit", "num_items", "num_queries"]
"""Rows that agree in these were timed alike; the board sees to the same task and preset."""
SAME_SIZE = ["d_model", "num_layers"]


def relative_speed(final: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Tokens per second in evaluation, as a multiple of the baseline's on the same machine, code and items.

    Sizes are the same, too, and compilation does not count. The median over the context lengths that both
    were evaluated at. Where only one of the two answered all lengths from one pass, whose rate is that of
    long contexts, the longest of these lengths alone counts. The baseline is that on the same backbone if
    there is one, else on any.

    Args:
        final: measured context rows with `series`, one a series, seed and length.
        rows: such rows of all series of the board.

    Returns:
        series → the multiple; without those whose baseline was not measured in the same run.
    """
    baseline = rows[rows["method"] == ROLES["baseline"]]
    has_own = final["backbone"].isin(baseline["backbone"].unique())
    key = [*SAME_RUN, *SAME_SIZE, "eval_length"]
    own = _means(baseline, ["backbone", *key]).add_suffix("_baseline")
    any_ = _means(baseline, key).add_suffix("_baseline")
    mine = ["series", "backbone", *key]
    both = pd.concat(
        [
            _means(final[has_own], mine).join(own, how="inner"),
            _means(final[~has_own], mine).join(any_, how="inner"),
        ]
    ).dropna()
    ratios = both["warm_tokens_per_s"] / both["warm_tokens_per_s_baseline"]
    by_length = ratios.groupby(level=["series", "eval_length"]).mean()
    unlike = (both["shared_prefix"] != both["shared_prefix_baseline"]).groupby(level="series").any()
    found = by_length.groupby(level="series")
    return found.median().where(~unlike, found.last())


def calibration(final: pd.DataFrame) -> pd.DataFrame:
    """What was fitted for each series.

    Args:
        final: measured context rows with `series`, one a series, seed and length.

    Returns:
        one row a series that was fitted: `num_fitted`, the most scalars for one length, and
        `calibration_tokens` and `calibration_wall_s`, tokens and seconds of all fits of a seed, means over
        seeds; lengths that share a fit count once.
    """
    fits = final[final["num_fitted"] > 0]
    once = fits.drop_duplicates(["series", "seed", "assumed_length", "calibration_wall_s"])
    paid = once.groupby(["series", "seed"])[["calibration_tokens", "calibration_wall_s"]].sum()
    return paid.groupby(level="series").mean().join(fits.groupby("series")["num_fitted"].max())


def state(final: pd.DataFrame) -> pd.DataFrame:
    """Bytes that are carried from token to token for one item, of each series that said so.

    Args:
        final: measured context rows with `series`.

    Returns:
        `state_low` and `state_high`, at the shortest and at the longest context; equal of a recurrent state.
    """
    known = final.dropna(subset="state_bytes")
    sizes = known.astype({"state_bytes": float}).groupby("series")["state_bytes"]
    return pd.DataFrame({"state_low": sizes.min(), "state_high": sizes.max()})


def _means(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    timed = rows.astype({"shared_prefix": float})
    return timed.groupby(key)[["warm_tokens_per_s", "shared_prefix"]].mean()
