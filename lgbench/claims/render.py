"""Write verdicts down: a line for each claim, everything about one, and the scorecard `claims.md`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgbench.claims import FOLDERS, claims_of
from lgbench.claims.cells import Cells
from lgbench.claims.claim import Claim
from lgbench.claims.costs import Cost, Prices
from lgbench.claims.verdicts import (
    CONTRADICTED,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    VERDICTS,
    Finding,
    Judged,
    judge,
    lost,
    missing_seeds,
)
from lgbench.safe_text import plain
from lgbench.store import atomic_file

TITLES = {
    "rathjens": "Image reconstruction (Rathjens et al.)",
    "remedies": "Methods of length extension",
    "ours": "Claims of our own",
}
HOW_TO_READ = (
    "**holds**: the 95 % interval of every part lies wholly on the claimed side of its threshold; for "
    "flatness, wholly between both limits.",
    "**contradicted**: the interval of one part lies wholly on the other side, at a level corrected for the "
    "number of parts (Bonferroni).",
    "**undecided**: neither; more seeds would narrow the intervals. One seed decides nothing, since it does "
    "not show how seeds vary.",
    "**not run**: a cell or a reading of a probe that the claim needs is not there.",
    "Intervals are Student's t over variance components of seeds and of clusters of items (characters, "
    "articles; items themselves where they have none), as on the leaderboard. One cluster means one number a "
    "seed.",
    "E is the error after so many tokens of context, ln PPL the logarithm of a perplexity; L_train is the "
    "largest context in training.",
    "What a probe reads is one number a seed, the mean over its items.",
    "A verdict is about the setting that was measured, which is stated; the paper's is another one.",
    "GPU minutes are estimates from the seconds in rows that are alike, of the GPUs that made them.",
)
OWN_RUNS = "runs"
"""A results folder to train in anew what is published without its weights."""
MORE_SEEDS = 2
"""Times the seeds of a claim, to suggest for one that they left undecided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A finding with what would decide it.

    Attributes:
        command: that runs what is missing, or more seeds.
        cost: of its trainings and evaluations.
    """

    finding: Finding
    command: str
    cost: Cost

    @property
    def claim(self) -> Claim:
        """What was judged."""
        return self.finding.claim

    @property
    def remedy(self) -> str:
        """What would decide it, in words; empty where it is decided."""
        if self.finding.verdict in (HOLDS, CONTRADICTED):
            return ""
        price = [f"probe {', '.join(self.finding.probes)}"] if self.finding.probes else []
        price += [f"about {_minutes(self.cost.minutes)}"] if self.cost.minutes else []
        if self.cost.unknown:
            price.append(
                f"no GPU has run anything like {'; '.join(self.cost.unknown)}, so no estimate for it"
            )
        return f"`{self.command}` ({', '.join(price)})"


def verdicts_of(claims: Iterable[Claim], cells: Cells) -> list[Verdict]:
    """Judge claims, and say of each what would decide it."""
    prices = Prices(cells)
    return [_verdict(claim, cells, prices) for claim in claims]


def _verdict(claim: Claim, cells: Cells, prices: Prices) -> Verdict:
    finding, command = judge(claim, cells), f"lgbench claims --run {claim.id}"
    missing = finding.missing
    if finding.verdict == UNDECIDED and not missing:
        seeds = MORE_SEEDS * max(model.seeds for model in claim.models)
        missing = missing_seeds(claim, cells, seeds)
        command += f" --seeds {seeds}"
    anew = bool(lost(claim, cells))
    if anew:
        command += f" --results {OWN_RUNS}"
        missing = tuple((model, seed) for model in claim.models for seed in range(model.seeds))
    return Verdict(finding=finding, command=command, cost=prices.cost(missing, anew=anew))


def numbers(verdict: Verdict) -> str:
    """The numbers that decide a claim: of the part that is nearest to its threshold, or was refuted."""
    part = _telling(verdict.finding)
    if part is None:
        return ""
    others = len(verdict.finding.parts) - 1
    more = f"; {others} more part{'s' * (others > 1)}" if others else ""
    return f"{part.part.quantity.text} = {measured(part)}, claimed {part.part.threshold()}{more}"


def decided_lines(claims: Iterable[Claim], cells: Cells) -> list[dict[str, str]]:
    """Lines of the claims that these rows say anything about, for a report: those not run are left out."""
    return [line(one) for one in verdicts_of(claims, cells) if one.finding.verdict != NOT_RUN]


def num_seeds(verdict: Verdict) -> str:
    """Seeds that went into the parts, "2 to 3" where they differ, "" without any."""
    counts = sorted({part.num_seeds for part in verdict.finding.parts if part.num_seeds})
    return " to ".join(dict.fromkeys(str(count) for count in (counts[:1] + counts[-1:])))


def measured(part: Judged) -> str:
    """Mean and 95 % interval."""
    if math.isnan(part.mean):
        return "–"
    if math.isnan(part.low):
        return f"{_number(part.mean)} [no interval]"
    return f"{_number(part.mean)} [{_number(part.low)}, {_number(part.high)}]"


def records(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Everything about claims as plain data, for programs."""
    return [
        {
            "id": one.claim.id,
            "verdict": one.finding.verdict,
            "statement": one.claim.statement,
            "source": one.claim.source,
            "inferred": one.claim.inferred,
            "conditions": one.claim.conditions,
            "parts": [_record(part) for part in one.finding.parts],
            "to_decide": one.remedy,
        }
        for one in verdicts
    ]


def write_claims(
    verdicts: Sequence[Verdict], roots: Sequence[Path], out: Path, left_out: Sequence[str] = ()
) -> Path:
    """Write the scorecard as Markdown, atomically; the same rows give the same bytes.

    Args:
        verdicts: of all claims.
        roots: the results folders that they were judged by, for the command on the page.
        out: the file to write.
        left_out: what could not be read, a sentence each.

    Raises:
        UserError: `out` cannot be written.
    """
    with atomic_file(Path(out)) as temporary:
        temporary.write_text(render(verdicts, roots, left_out), encoding="utf-8")
    return Path(out)


def render(verdicts: Sequence[Verdict], roots: Sequence[Path], left_out: Sequence[str] = ()) -> str:
    """The scorecard: counts, how to read it, a table a group, then every claim with all its numbers."""
    command = " ".join(["lgbench claims", *(f"--results {root}" for root in roots)])
    parts = ["# Claims", f"Made by `{command}` from the rows in the store. Do not edit: edits are lost."]
    counts = {verdict: sum(one.finding.verdict == verdict for one in verdicts) for verdict in VERDICTS}
    parts.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + ".")
    if left_out:
        parts += ["## Left out", "\n".join(f"- {_escape(sentence)}" for sentence in left_out)]
    parts += ["## How to read this", "\n".join(f"- {sentence}" for sentence in HOW_TO_READ)]
    groups = {folder: [one for one in verdicts if one.claim in claims_of(folder)] for folder in FOLDERS}
    for folder, mine in groups.items():
        parts += [f"## {TITLES[folder]}", _table(list(map(line, mine)))]
    for folder, mine in groups.items():
        parts += [f"## {TITLES[folder]}: the numbers", *(text for one in mine for text in details(one))]
    return "\n\n".join(parts) + "\n"


def details(verdict: Verdict) -> Iterator[str]:
    """One claim in Markdown: statement, source, what is inferred, every part, and what would decide it."""
    title, *lines = heading(verdict)
    yield f"### {_escape(title)}"
    yield "  \n".join(map(_escape, lines))
    yield _table(part_lines(verdict))


def heading(verdict: Verdict) -> list[str]:
    """Lines of text about one claim: its verdict, statement, source, and what would decide it."""
    claim = verdict.claim
    facts = {"Source": claim.source, "Inferred": claim.inferred, "Measured with": claim.conditions}
    facts |= {"To decide it": verdict.remedy}
    lines = [f"{name}: {text}." for name, text in facts.items() if text]
    return [f"{claim.id}: {verdict.finding.verdict}", claim.statement, *lines]


def line(verdict: Verdict) -> dict[str, str]:
    """A claim as a line of a table: column → text."""
    return {
        "claim": verdict.claim.id,
        "statement": verdict.claim.statement,
        "verdict": verdict.finding.verdict,
        "seeds": num_seeds(verdict),
        "numbers": numbers(verdict),
        "to decide it": verdict.remedy,
    }


def part_lines(verdict: Verdict) -> list[dict[str, str]]:
    """The parts of a claim as lines of a table."""
    return [
        {
            "quantity": part.part.quantity.text,
            "claimed": part.part.threshold(),
            "measured": measured(part),
            "seeds": str(part.num_seeds or ""),
            "clusters": str(part.num_clusters or ""),
            "verdict": part.verdict,
            "why": part.why,
        }
        for part in verdict.finding.parts
    ]


def _record(part: Judged) -> dict[str, Any]:
    numbers = {"mean": part.mean, "low": part.low, "high": part.high}
    return {
        "quantity": part.part.quantity.text,
        "claimed": part.part.threshold(),
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "seeds": part.num_seeds,
        "clusters": part.num_clusters,
        "verdict": part.verdict,
        "why": part.why,
    }


def _telling(finding: Finding) -> Judged | None:
    """The part to show where there is room for one."""
    refuted = [part for part in finding.parts if part.is_refuted]
    by_verdict = [[p for p in finding.parts if p.verdict == wanted] for wanted in (UNDECIDED, NOT_RUN)]
    for chosen in (refuted, *by_verdict):
        measured_ones = [part for part in chosen if part.num_seeds]
        if measured_ones:
            return measured_ones[0]
    known = [part for part in finding.parts if not math.isnan(part.low)]
    return min(known, key=_margin, default=None)


def _margin(part: Judged) -> float:
    """Distance of the interval to its nearest limit, in widths of the interval."""
    nearest = min(part.low - part.part.low, part.part.high - part.high)
    return nearest / (part.high - part.low) if part.high > part.low else math.inf


def _minutes(minutes: float) -> str:
    whole = math.ceil(minutes)
    return f"{whole:,} GPU minute{'s' * (whole > 1)}"


def _number(value: float) -> str:
    return f"{value + 0.0:.3g}".replace("-", "−")


def _table(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[_escape(text) for text in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Text on one line that Markdown and HTML show as it is; what is between backticks stays code."""
    pieces = " ".join(plain(text).split()).split("`")
    for index in range(0, len(pieces), 2):
        pieces[index] = pieces[index].replace("&", "&amp;").replace("<", "&lt;")
        for sign in "\\|*_[]":
            pieces[index] = pieces[index].replace(sign, f"\\{sign}")
    return "`".join(pieces)
