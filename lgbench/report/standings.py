"""Put a ranking into words: one line a series, with its scores, differences and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pandas as pd

from lgbench.durations import format_duration
from lgbench.report import price
from lgbench.report.curves import Board
from lgbench.report.wording import (
    NOTHING,
    format_bytes,
    format_count,
    format_length,
    format_multiple,
    format_value,
)
from lgbench.stats import ceiling, ranking
from lgbench.stats.pairs import ALPHA, detectable
from lgbench.stats.panel import Panel, panels

MULTIPLES = (1, 4, 16)
"""The value of the metric is shown at these multiples of the training length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The ranking of the series of a board that have one L_train.

    Attributes:
        train_length: L_train, and title: "L_train 1K tokens".
        table: what `lgbench.stats.ranking.rank` gave.
        ranked: lines of the ranked series, heading → text.
        unranked: lines of the others, with the reason.
        beside: lines with the unclipped numbers.
        notes: what a reader must know, a sentence each.
    """

    train_length: int
    title: str
    table: pd.DataFrame
    ranked: list[dict[str, str]]
    unranked: list[dict[str, str]]
    beside: list[dict[str, str]]
    notes: list[str]


def standings(board: Board) -> list[Standing]:
    """One standing for each L_train of a board, from short to long."""
    found = list(panels(board.rows, board.missing))
    recovered = ceiling.recovered(found)
    return [_standing(board, panel, recovered) for panel in found]


def drawn(board: Board, ranked: Sequence[Standing], most: int) -> tuple[Board, str]:
    """The part of a board that figures show, where it has more series than could be told apart.

    The best of each L_train in turn, after the series for baseline and control.

    Returns:
        the board with `most` series, and words for a caption about the others; the same board and "" if it
        has no more.
    """
    if len(board.series) <= most:
        return board, ""
    tables = [standing.table for standing in ranked]
    roles = dict.fromkeys(name for table in tables for role in ranking.ROLES for name in table[role] if name)
    in_turn = [
        name for names in zip_longest(*(table["series"] for table in tables)) for name in names if name
    ]
    chosen = set(list(dict.fromkeys([*list(roles)[: most // 2], *in_turn, *board.series]))[:most])
    return board.only(chosen), f"; {len(board.series) - most} more are in the tables"


def _standing(board: Board, panel: Panel, recovered: pd.DataFrame) -> Standing:
    table = ranking.rank(panel, board.length)
    context = board.rows[board.rows["axis"] == "context"]
    facts, order = _facts(panel.rows, context), {name: at for at, name in enumerate(panel.series)}
    lines = [
        _line(board, panel, order[entry["series"]], entry) | _cost(facts.get(entry["series"]))
        for entry in _entries(table)
    ]
    split = int(table["rank"].notna().sum())
    reasons = [{"not ranked, since": entry["reason"]} for entry in _entries(table)]
    return Standing(
        train_length=panel.train_length,
        title=f"L_train {format_length(panel.train_length, board.length_unit)} {board.length_unit}",
        table=table,
        ranked=lines[:split],
        unranked=[
            {heading: text for heading, text in line.items() if heading not in ("rank", "letters")} | reason
            for line, reason in zip(lines[split:], reasons[split:], strict=True)
        ],
        beside=_beside(board, table, recovered[recovered["train_length"] == panel.train_length]),
        notes=[*_notes(board, panel, table)],
    )


def _entries(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")


def _line(board: Board, panel: Panel, at: int, entry: dict) -> dict[str, str]:
    """Scores of the series that is number `at` of the panel."""
    lost = entry["num_seeds"] != entry["num_seeds_run"]
    line = {
        "rank": f"{entry['rank']:.0f}" if np.isfinite(entry["rank"]) else NOTHING,
        "letters": entry["letters"],
        "method": entry["series"],
        "backbone": panel.backbones[at],
        "long score": _with_half(entry["long"], entry["long_half"]),
    }
    for role, method in ranking.ROLES.items():
        star = " *" if entry[f"{role}_p"] < ALPHA else ""
        text = _with_half(entry[f"{role}_delta"], entry[f"{role}_half"], "+.3f") + star
        line[f"Δ to {method}"] = role if entry[role] == entry["series"] else text
    line["in-range score"] = f"{entry['in_range']:.3f}" if np.isfinite(entry["in_range"]) else NOTHING
    line["effective length"] = _effective(entry)
    for multiple in MULTIPLES:
        heading = "at L_train" if multiple == 1 else f"at {multiple}×"
        line[heading] = _value_at(board, panel, at, multiple * panel.train_length)
    seeds = f"{entry['num_seeds']} of {entry['num_seeds_run']}" if lost else f"{entry['num_seeds']}"
    seeds += f", {entry['num_diverged']} diverged" * (entry["num_diverged"] > 0)
    return line | {"seeds": seeds}


def _facts(final: pd.DataFrame, context: pd.DataFrame) -> dict[str, dict]:
    """Series → what it cost, see `lgbench.report.price`; NaN where nothing is known."""
    walls = final.groupby(["series", "seed"])["train_wall_s"].mean().groupby(level="series").mean()
    walls = walls.where(final.groupby("series")["device"].nunique() == 1)
    facts = pd.DataFrame({"train_wall_s": walls})
    facts["needs_length"] = final.groupby("series")["needs_length"].any()
    facts["speed"] = price.relative_speed(final, context)
    return facts.join(price.calibration(final)).join(price.state(final)).to_dict("index")


def _cost(facts: dict | None) -> dict[str, str]:
    """What a method costs, in words; None where nothing of it can be compared."""
    speed = f"speed vs {ranking.ROLES['baseline']}"
    if facts is None:
        return dict.fromkeys(("fitted", "knows length", "state", "training", speed), NOTHING)
    fitted = NOTHING
    if np.isfinite(facts["num_fitted"]):
        fitted = f"{format_count(facts['num_fitted'])} on {format_count(facts['calibration_tokens'])} tokens"
        fitted += f" in {format_duration(facts['calibration_wall_s'])}"
    return {
        "fitted": fitted,
        "knows length": "yes" if facts["needs_length"] else "no",
        "state": _state(facts["state_low"], facts["state_high"]),
        "training": format_duration(facts["train_wall_s"]),
        speed: format_multiple(facts["speed"]) if np.isfinite(facts["speed"]) else NOTHING,
    }


def _state(low: float, high: float) -> str:
    """Bytes of a state: 4 KiB, or 4 KiB to 1 MiB where it grows with the context."""
    if not np.isfinite(high):
        return NOTHING
    return " to ".join(dict.fromkeys(map(format_bytes, (low, high))))


def _with_half(value: float, half: float, form: str = ".3f") -> str:
    """A number and half of its interval: 0.512 ± 0.034."""
    if not np.isfinite(value):
        return NOTHING
    text = f"{value:{form}}".replace("-", "−")
    return f"{text} ± {half:.3f}" if np.isfinite(half) else text


def _effective(entry: dict) -> str:
    """Median and range over seeds: ≥ 8× (4× to 8×), < 1×."""
    if not np.isfinite(entry["effective"]):
        return NOTHING
    if entry["effective"] < 1:
        return f"< 1× ({format_multiple(entry['effective'])})"
    low, high = format_multiple(entry["effective_low"]), format_multiple(entry["effective_high"])
    text = "≥ " * entry["effective_open"] + format_multiple(entry["effective"])
    return text if low == high else f"{text} ({low} to {high})"


def _value_at(board: Board, panel: Panel, at: int, length: float) -> str:
    """The metric, mean over seeds, at the largest evaluated length up to `length`, less than 2× below it."""
    values = panel.values[at]
    known = np.isfinite(values).any(axis=0) & (panel.lengths <= length) & (panel.lengths > length / 2)
    if not known.any():
        return NOTHING
    last = int(np.flatnonzero(known)[-1])
    text = format_value(float(np.nanmean(values[:, last])))
    return text if panel.lengths[last] == length else f"{text} (at {board.length(panel.lengths[last])})"


def _beside(board: Board, table: pd.DataFrame, recovered: pd.DataFrame) -> list[dict[str, str]]:
    lines = []
    for entry in _entries(table):
        harm = NOTHING
        if np.isfinite(entry["harm"]) and entry["baseline"] != entry["series"]:
            harm = f"{entry['harm']:.3f}" + f" at {board.length(entry['harm_at'])}" * (
                entry["harm"] >= 0.0005
            )
        line = {"method": entry["series"]}
        line |= {name: format_value(entry[name]).replace("-", "−") for name in ("retention", "gain")}
        line["harm"] = harm
        for row in recovered[recovered["series"] == entry["series"]].itertuples():
            line[f"recovered at {board.length(row.length)}"] = _fraction(row.fraction)
        lines.append(line)
    headings = list(dict.fromkeys(heading for line in lines for heading in line))
    return [{heading: line.get(heading, NOTHING) for heading in headings} for line in lines]


def _fraction(fraction: float) -> str:
    return f"{fraction:.2f}".replace("-", "−") if np.isfinite(fraction) else "undefined"


def _notes(board: Board, panel: Panel, table: pd.DataFrame) -> Iterable[str]:
    ranked = table[table["rank"].notna()]
    if (num := ranking.fixed_clusters(panel)) is not None:
        items = "items" if panel.clusters is None else "clusters of items (books, articles, characters)"
        yield f"These {num} {items} only: with so few, intervals are over seeds and say nothing about others."
    if not ranked.empty and ranked["num_seeds"].min() < ranking.MIN_SEEDS_LETTERS:
        yield (
            f"Fewer than {ranking.MIN_SEEDS_LETTERS} seeds: no letters, and an interval is only as good as "
            "its assumption that seeds vary normally. Where 30 % of the trainings fail, 95 % intervals cover "
            "the truth 63 % of the time with 3 seeds, 83 % with 5, 93 % with 8."
        )
    halves = ranked.loc[ranked["baseline"] != ranked["series"], "baseline_half"]
    if np.isfinite(smallest := detectable(halves)):
        yield (
            f"Half of the 95 % interval of a difference to {ranking.ROLES['baseline']} is {smallest:.3f} in "
            "the median: a true difference of that size is found about every second time, a smaller one "
            "seldom."
        )
    for role in ranking.ROLES:
        others = {name for name in table[role] if name}
        if len(others) > 1:
            pairs = [f"{entry['series']} with {entry[role]}" for entry in _entries(table)
                     if entry[role] and entry[role] != entry["series"]]  # fmt: skip
            compared = f" Compared are {'; '.join(pairs)}." if pairs else ""
            yield f"There are {len(others)} series for the {role}.{compared}"
