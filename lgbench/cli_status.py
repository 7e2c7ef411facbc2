"""`lgbench status`: what runs where, since when, and how long yet, from the results folder alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lgbench.cli_style import say
from lgbench.errors import UserError


def status(
    results: Annotated[Path, typer.Option("--results", help="Results folder.")] = Path("runs"),
    watch: Annotated[float | None, typer.Option(min=0.1, help="Look again after so many seconds.")] = None,
) -> None:
    """What the processes at work on a results folder do, since when, and how long yet."""
    if not results.is_dir():
        raise UserError(f"no results folder '{results}'. Give the one of the run with --results FOLDER")
    while True:
        for line in describe(results):
            say(line)
        if watch is None:
            return
        say("")
        time.sleep(watch)


def describe(root: Path) -> Iterator[str]:
    """Two lines a process, and one for the plan."""
    from lgbench.store.leases import workers
    from lgbench.store.process import gone

    found = workers(root)
    if not found:
        yield f"no process is at work on {root}"
    alive = {owner: facts for owner, facts in found.items() if not gone(facts)}
    for facts in found.values():
        where = f"{facts.get('host', '?')}, process {facts.get('pid', '?')}"
        if gone(facts):
            yield f"{where}: was killed; whoever works here next goes on with what it did"
            continue
        yield f"{where}: since {facts.get('started_at', '?')}, heartbeat {facts.get('beat', '?')}"
        yield f"  {_doing(facts.get('now') or {}, facts.get('for_s') or 0.0)}"
    counts = [facts["cells"] for facts in alive.values() if "done" in facts.get("cells", ())]
    if counts:
        done, total, for_s = max((c["done"], c["total"], c["for_s"]) for c in counts)
        left = f", about {_time(for_s * (total - done) / done)} left" if 0 < done < total else ""
        yield f"cells: {done} of {total} since {_time(for_s)}{left}"


def _doing(event: Mapping[str, Any], for_s: float) -> str:
    kind = event.get("event")
    if kind in ("watching", "worker_died"):
        return f"watches its workers, for {_time(for_s)}"
    if kind not in ("training", "evaluation"):
        return "looks for work"
    words = f"{kind} {event['name']}, for {_time(for_s)}"
    if kind == "training":
        words += f", step {event['step']:,} of {event['steps']:,}"
        if "left_s" in event:
            words += f", about {_time(event['left_s'])} left"
    return words


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )
