"""Say whether a plan gives worse numbers, other losses or slower programs than its baseline.

Quality may lose what another draw of seeds could: t(0.99, S − 1) · s · √(2/S) for S seeds with standard
deviation s, the one-sided prediction limit for the mean of S new seeds, and never less than `FLOOR`. With the
same seeds on the same machine the numbers are the same; the tolerance is for other machines and versions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lgbench.answers.baseline import Device, Golden, Quality, Speed
from lgbench.report.curves import Board, load
from lgbench.report.series import SERIES, name_series
from lgbench.stats.panel import Panel, panels
from lgbench.stats.scores import octave_weights
from lgbench.store import Reading, read

FLOOR = 0.01
"""Loss of normalised score that is no regression however well seeds agree."""
CONFIDENCE = 0.99
NOTICED = 0.05
"""Share of a score whose loss a gate should notice; what has a larger tolerance is named by --update."""
ALLOWED = 1.15
"""Factor on a ratio of times from which on it is a regression."""
OTHER_PROCESSOR = 1.1
"""Further factor where the baseline was made on another processor: ratios of times differ a little there."""
BUSY = 1.05
"""Further factor on a busy machine: work suffers a little more from a shared cache than the reference."""
DIGITS = 6

REGRESSION, IMPROVED, NEW, MISSING, UNJUDGED, FAILED, FINE = (
    "regression", "improved", "new", "not measured", "not judged", "failed", "ok",
)  # fmt: skip
WITHOUT_NUMBERS = (MISSING, FAILED)
"""A run with one of these is no answer: it exits 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison with the baseline.

    Attributes:
        kind: quality, loss, speed or cell.
        what: the thing that is compared.
        before: its number in the baseline; NaN if it has none.
        now: the number of this run; NaN if it has none.
        limit: the number from which on it is a regression; NaN if nothing is judged.
        verdict: see the constants of this module.
        note: more in words; may be empty.
    """

    kind: str
    what: str
    before: float = float("nan")
    now: float = float("nan")
    limit: float = float("nan")
    verdict: str = FINE
    note: str = ""


@dataclass(slots=True, kw_only=True)
class Measured:
    """What a run of the plan gave.

    Attributes:
        quality: series and score → the score of each seed, by seed.
        losses: training → losses of its first steps; None if they were not computed.
        speed: work → its time as a multiple of the reference; None if nothing was timed.
        failed: cells without numbers, and why.
        device: its type, cpu or cuda; empty if no cell has rows.
        processor: name of the processor or GPU.
        is_busy: whether others wanted the processor while work was timed.
    """

    quality: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] | None = None
    speed: dict[str, float] | None = None
    failed: dict[str, str] = field(default_factory=dict)
    device: str = ""
    processor: str = ""
    is_busy: bool = False


def read_quality(folder: Path, cells: Mapping[str, str]) -> Measured:
    """Scores of the cells of a plan from a results folder.

    Args:
        folder: of the results.
        cells: key of each cell of the plan → how it reads.

    Raises:
        UserError: there is no such folder.
    """
    reading = read([folder])
    measured = Measured(failed=_without_numbers(reading, cells))
    kept = set(reading.table["cell"].to_pylist()) & cells.keys()
    if not kept:
        return measured
    devices = {row["device"] for row in reading.table.select(["cell", "device"]).to_pylist()
               if row["cell"] in kept and row["device"]}  # fmt: skip
    measured.device = "cpu" if devices <= {"cpu"} else "cuda"
    for board in load([folder], kept).boards:
        if board.rank == 0:
            measured.quality |= _scores(board, kept)
    return measured


def _without_numbers(reading: Reading, cells: Mapping[str, str]) -> dict[str, str]:
    """Cells of which a row ended badly, or that have no rows."""
    failed = {cells[path.stem]: why for path, why in reading.unreadable.items() if path.stem in cells}
    columns = reading.table.select(["cell", "status", "reason"]).to_pylist()
    for row in columns:
        if row["cell"] in cells and row["status"] not in ("ok", "skipped"):
            failed.setdefault(cells[row["cell"]], f"{row['status'].replace('_', ' ')}: {row['reason']}")
    present = {row["cell"] for row in columns} | {path.stem for path in reading.unreadable}
    return failed | {name: "it has no rows" for key, name in cells.items() if key not in present}


def _scores(board: Board, cells: Collection[str]) -> dict[str, list[float]]:
    """Mean scores of each series of a board over the octaves from L_train on, and up to it."""
    mine = board.rows[board.rows["cell"].isin(cells)]
    names = name_series(mine)
    mine = mine.assign(series=[names[key] for key in mine[SERIES].itertuples(index=False, name=None)])
    missing = board.missing[board.missing["cell"].isin(cells)]
    missing = missing.assign(series=[names.get(key) for key in missing[SERIES].itertuples(index=False)])
    found = {}
    for panel in panels(mine, missing.dropna(subset="series")):
        for at, name in enumerate(panel.series):
            for score, values in _means(panel, at).items():
                found[f"{board.title}: {name}, {score}"] = values
    return found


def _means(panel: Panel, at: int) -> dict[str, list[float]]:
    grid, seeds = panel.grids[at], panel.scored(at)
    lengths = panel.lengths[grid]
    found = {}
    if not lengths.size:
        return found
    ranges = {
        "score beyond L_train": (panel.train_length, lengths[-1]),
        "score up to L_train": (lengths[0], panel.train_length),
    }
    for name, (low, high) in ranges.items():
        weights = octave_weights(lengths, low, high) if low <= high else None
        if weights is not None:
            found[name] = (panel.clipped[at][seeds][:, grid] @ weights).round(DIGITS).tolist()
    return found


def tolerance(seeds: Sequence[float]) -> float:
    """Loss of the mean that another draw of equally many seeds would explain; see the module."""
    if len(seeds) < 2:
        return FLOOR
    limit = stats.t.ppf(CONFIDENCE, len(seeds) - 1) * np.std(seeds, ddof=1) * np.sqrt(2 / len(seeds))
    return round(max(FLOOR, float(limit)), DIGITS)


def speed_limit(speed: Speed, is_same_processor: bool, is_busy: bool = False) -> float:
    """The ratio from which on a piece of work counts as slower."""
    further = OTHER_PROCESSOR if not is_same_processor else BUSY if is_busy else 1.0
    return speed.ratio * speed.allowed * further


def judge(before: Device, now: Measured, golden: Golden | None) -> list[Check]:
    """Compare a run with its baseline: cells without numbers first, then quality, losses and speed."""
    checks = [Check(kind="cell", what=name, verdict=FAILED, note=why) for name, why in now.failed.items()]
    checks += [_quality(what, before.quality.get(what), now.quality.get(what)) for what in
               dict.fromkeys([*before.quality, *now.quality])]  # fmt: skip
    rtol = golden.tolerance if golden else 0.0
    checks += [_loss(what, before.losses.get(what), now.losses, rtol) for what in
               dict.fromkeys([*before.losses, *(now.losses or {})])]  # fmt: skip
    is_same = before.made.get("processor") == now.processor
    checks += [_speed(what, before.speed.get(what), now, is_same) for what in
               dict.fromkeys([*before.speed, *(now.speed or {})])]  # fmt: skip
    return checks


def _quality(what: str, before: Quality | None, now: Sequence[float] | None) -> Check:
    known: dict[str, Any] = {"kind": "quality", "what": what}
    if before is None or now is None:
        return _one_sided(known, None if before is None else float(np.mean(before.seeds)),
                          None if now is None else float(np.mean(now)))  # fmt: skip
    mean, limit = float(np.mean(now)), float(np.mean(before.seeds)) - before.tolerance
    if len(now) != len(before.seeds):
        note = f"{len(now)} seeds, the baseline has {len(before.seeds)}"
        return Check(**known, before=float(np.mean(before.seeds)), now=mean, verdict=MISSING, note=note)
    better = mean > float(np.mean(before.seeds)) + before.tolerance
    verdict = REGRESSION if not mean >= limit else IMPROVED if better else FINE
    return Check(**known, before=float(np.mean(before.seeds)), now=mean, limit=limit, verdict=verdict)


def _loss(
    what: str, before: Sequence[float] | None, losses: Mapping[str, Sequence[float]] | None, rtol: float
) -> Check:
    known: dict[str, Any] = {"kind": "loss", "what": what}
    if losses is None:
        return Check(
            **known, before=(before or [np.nan])[-1], verdict=UNJUDGED, note="rows are read, not made"
        )
    now = losses.get(what)
    if before is None or now is None:
        return _one_sided(known, before and before[-1], now and now[-1])
    if len(before) != len(now):
        note = f"{len(now)} steps, the baseline has {len(before)}; renew it with --update"
        return Check(**known, before=before[-1], now=now[-1], verdict=MISSING, note=note)
    apart = np.abs(np.subtract(now, before)) / np.maximum(np.abs(before), 1e-12)
    step = int(np.argmax(~(apart <= rtol))) if not (apart <= rtol).all() else len(now) - 1
    known |= {"before": before[step], "now": now[step], "limit": before[step] * (1 + rtol)}
    if (apart <= rtol).all():
        return Check(**known, note=f"at step {step + 1}")
    return Check(**known, verdict=REGRESSION, note=f"at step {step + 1}, {apart[step]:.2%} from the baseline")


def _speed(what: str, before: Speed | None, measured: Measured, is_same: bool) -> Check:
    known: dict[str, Any] = {"kind": "speed", "what": what}
    if measured.speed is None:
        ratio = before.ratio if before else np.nan
        return Check(**known, before=ratio, verdict=UNJUDGED, note="rows are read, nothing is timed")
    now = measured.speed.get(what)
    if before is None or now is None:
        return _one_sided(known, before and before.ratio, now)
    limit = speed_limit(before, is_same, measured.is_busy)
    verdict = REGRESSION if not now <= limit else IMPROVED if now < before.ratio**2 / limit else FINE
    slower = [f"{now / before.ratio:.2f} times as long"] if verdict == REGRESSION else []
    unlike = ["baseline of another processor"] * (not is_same) + ["the machine is busy"] * measured.is_busy
    note = "; ".join([*slower, *unlike])
    return Check(**known, before=before.ratio, now=now, limit=limit, verdict=verdict, note=note)


def _one_sided(known: Mapping[str, Any], before: float | None, now: float | None) -> Check:
    if now is None:
        note = "in the baseline, not in this run; renew the baseline with --update"
        return Check(**known, before=before, verdict=MISSING, note=note)
    return Check(**known, now=now, verdict=NEW, note="not in the baseline; --update adds it")


def exit_status(checks: Sequence[Check]) -> int:
    """3 where numbers are missing, else 1 where something got worse, else 0."""
    verdicts = {check.verdict for check in checks}
    if verdicts.intersection(WITHOUT_NUMBERS):
        return 3
    return 1 if REGRESSION in verdicts else 0


def renewed(before: Device, now: Measured, made: Mapping[str, str]) -> Device:
    """The baseline that a run makes; allowed slow-downs stay, and what was not computed is kept."""
    allowed = {what: speed.allowed for what, speed in before.speed.items()}
    speed = before.speed if now.speed is None else {
        what: Speed(ratio=round(ratio, 4), allowed=allowed.get(what, ALLOWED))
        for what, ratio in now.speed.items()
    }  # fmt: skip
    return Device(
        made=dict(made),
        quality={
            what: Quality(seeds=tuple(seeds), tolerance=tolerance(seeds))
            for what, seeds in now.quality.items()
        },
        losses=before.losses if now.losses is None else now.losses,
        speed=speed,
    )


def blunt(device: Device) -> list[str]:
    """Scores whose tolerance hides a loss of `NOTICED`, a sentence each."""
    return [
        f"{what}: tolerance {one.tolerance:.3f} hides a loss of {NOTICED:.0%}; more seeds make it smaller"
        for what, one in device.quality.items()
        if one.tolerance > NOTICED * float(np.mean(one.seeds))
    ]
