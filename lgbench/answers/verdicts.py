"""Show what a regression gate found: a terminal table, a Markdown summary, a JUnit file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from lgbench.answers.regress import FAILED, FINE, IMPROVED, MISSING, NEW, REGRESSION, UNJUDGED, Check
from lgbench.errors import CannotWrite
from lgbench.report.wording import NOTHING
from lgbench.safe_text import for_markdown
from lgbench.store import atomic_file
from lgbench.terminal import Listing

_COLUMNS = ("kind", "what", "baseline", "now", "limit", "verdict")
_STYLES = {REGRESSION: "bold red", FAILED: "bold red", MISSING: "bold red", IMPROVED: "green"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may have."""


def table(title: str, checks: Sequence[Check]) -> Listing:
    """Every check as a line of a terminal table."""
    return Listing(
        headings=_COLUMNS,
        rows=[_words(check) for check in checks],
        words=("kind", "what", "verdict"),
        title=title,
        styles=[_STYLES.get(check.verdict, "") for check in checks],
    )


def sentence(checks: Sequence[Check]) -> str:
    """How it came out: 12 checks: 10 ok, 1 regression, 1 new."""
    order = (REGRESSION, FAILED, MISSING, IMPROVED, NEW, UNJUDGED, FINE)
    counts = [(verdict, sum(check.verdict == verdict for check in checks)) for verdict in order]
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    return f"{len(checks)} check{'s' * (len(checks) != 1)}: {listed or 'nothing to compare'}"


def moved(checks: Sequence[Check]) -> list[str]:
    """What a renewed baseline changes, a line for each number that is another one."""
    lines = []
    for check in checks:
        if check.verdict == NEW:
            lines.append(f"new: {check.kind}, {check.what}: {_number(check.now)}")
        elif check.verdict == MISSING:
            lines.append(f"gone: {check.kind}, {check.what}: was {_number(check.before)}")
        elif check.verdict not in (UNJUDGED, FAILED) and check.before != check.now:
            step = f" ({check.note})" if check.kind == "loss" else ""
            was, now = _number(check.before), _number(check.now)
            lines.append(f"moved: {check.kind}, {check.what}: {was} → {now}{step}, {check.verdict}")
    return lines


def append_summary(path: Path, title: str, checks: Sequence[Check]) -> None:
    """Append a Markdown section, as the step summary of a workflow wants it.

    Raises:
        CannotWrite: the file cannot be written.
    """
    lines = [f"## {for_markdown(title)}", "", sentence(checks), ""]
    for words in (_COLUMNS, ["---"] * len(_COLUMNS), *(_words(check) for check in checks)):
        lines.append(f"| {' | '.join(for_markdown(word) if word != '---' else word for word in words)} |")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        raise CannotWrite(f"cannot write --summary {path}: {error.strerror}") from error


def write_junit(path: Path, name: str, checks: Sequence[Check]) -> None:
    """Write a JUnit file atomically: a test case a check; a regression fails, a missing number is an error.

    Raises:
        CannotWrite: the file cannot be written.
    """
    kinds = {REGRESSION: "failure", FAILED: "error", MISSING: "error", UNJUDGED: "skipped", NEW: "skipped"}
    ends = [kinds.get(check.verdict, "") for check in checks]
    counts = {f"{end}s": str(ends.count(end)) for end in ("failure", "error")}
    counts |= {"tests": str(len(checks)), "skipped": str(ends.count("skipped"))}
    suites = ElementTree.Element("testsuites", {"name": "lgbench regress", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _clean(name), **counts})
    for check, end in zip(checks, ends, strict=True):
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"lgbench.{check.kind}", "name": _clean(check.what)}
        )
        if end:
            _, _, before, now, limit, verdict = map(_clean, _words(check))
            message = f"{verdict}; baseline {before}, now {now}, limit {limit}"
            ElementTree.SubElement(case, end, {"message": message})
    ElementTree.indent(suites)
    with atomic_file(path) as temporary:
        ElementTree.ElementTree(suites).write(temporary, encoding="utf-8", xml_declaration=True)


def _words(check: Check) -> tuple[str, ...]:
    verdict = f"{check.verdict}: {check.note}" if check.note else check.verdict
    numbers = map(_number, (check.before, check.now, check.limit))
    return (check.kind, check.what, *numbers, verdict)


def _number(value: float) -> str:
    return f"{value:.4f}".replace("-", "−") if np.isfinite(value) else NOTHING


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
