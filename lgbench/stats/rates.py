"""Of several learning rates of one series, keep the one that is best at the training length.

Every method then has a rate that suits it, and none is chosen by the long contexts that it is judged by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lgbench.stats.scores import normalise


def best_rates(
    rows: pd.DataFrame, missing: pd.DataFrame, alike: Sequence[str]
) -> tuple[pd.Series, list[str]]:
    """Which rows stay, and a sentence for each series of which several rates were measured.

    A rate's score is the mean over seeds of the normalised headline metric at the largest evaluated length
    up to L_train, at the end of training, on the first draw of evaluation items; a seed that diverged counts
    0. Equal scores: the lower training loss decides, then the smaller rate.

    Args:
        rows: measured rows, checked; those of the headline metric of a task have `is_headline`.
        missing: rows without a value.
        alike: columns in which rows of one series agree, `learning_rate` not among them.
    """
    stays, sentences = pd.Series(True, index=rows.index), []
    num_rates = rows.groupby(list(alike), sort=False)["learning_rate"].transform("nunique")
    for _, series in rows[num_rates > 1].groupby(list(alike), sort=False):
        first = series.iloc[0]
        lost = missing[(missing[list(alike)] == first[list(alike)]).all(axis=1)]
        scores = sorted(_scores(series, lost), key=lambda one: (-one[1], one[2], one[0]))
        if not scores:
            continue
        chosen = scores[0][0]
        stays[series.index] = series["learning_rate"] == chosen
        listed = ", ".join(f"{rate:g} ({score:.3f})" for rate, score, _ in scores)
        unscored = sorted(set(series["learning_rate"]) - {rate for rate, _, _ in scores})
        without = f"; {', '.join(f'{rate:g}' for rate in unscored)} not measured there" * bool(unscored)
        sentences.append(
            f"{first['task']}, {first['label']}, L_train {first['train_length']:,}, "
            f"{first['train_steps']:,} steps: of several learning rates {chosen:g} is shown, the best at the "
            f"training length; scores there: {listed}{without}"
        )
    return stays, sentences


def _scores(series: pd.DataFrame, lost: pd.DataFrame) -> Iterator[tuple[float, float, float]]:
    """Learning rate, score at the training length and training loss, of each rate that has a score."""
    asked = series[series["is_headline"] & (series["axis"] == "context")]
    asked = asked[asked["eval_length"] <= asked["train_length"]]
    for rate, mine in asked.groupby("learning_rate"):
        final = mine[(mine["step"] == mine["step"].max()) & (mine["eval_draw"] == mine["eval_draw"].min())]
        there = final[final["eval_length"] == final["eval_length"].max()]
        values = (there[name].to_numpy(float) for name in ("value", "chance", "best"))
        scores = normalise(*values, there["combine"].iloc[0])
        gone = lost[(lost["learning_rate"] == rate) & (lost["status"] == "diverged")]
        num_seeds = len(set(there["seed"]) | set(gone["seed"].dropna()))
        loss = there["train_loss"].astype(float).mean()
        yield float(rate), float(scores.sum()) / num_seeds, float(loss) if np.isfinite(loss) else np.inf
