"""Commands to copy at the end of each help text."""

from __future__ import annotations

import typer

from lgbench.cli_style import examples

EXAMPLES: dict[str, tuple[str, ...]] = {
    "report": (
        "lgbench report",
        "lgbench report --results results --open",
        "lgbench report --tables --figures",
    ),
    "leaderboard": ("lgbench leaderboard", "lgbench leaderboard --results results --out leaderboard.md"),
    "check": ("lgbench check --plugin gla.py", 'lgbench check --backbone "mamba2[d_state=64]" --device cpu'),
    "show": ("lgbench show --task passkey --length 512", "lgbench show --task omniglot --out item.png"),
    "doctor": ("lgbench doctor", "lgbench doctor --thorough"),
    "bench": ("lgbench bench", "lgbench bench --what scan,step --repeats 50"),
    "claims": (
        "lgbench claims --results results",
        "lgbench claims M3 --results results",
        "lgbench claims --run M3 --dry-run",
    ),
    "fidelity": ("lgbench fidelity", "lgbench fidelity --out docs/fidelity.md"),
    "compare": (
        "lgbench compare runs@method=vanilla runs@method=slow_clock",
        "lgbench compare HEAD~1:results results",
    ),
    "regress": (
        "lgbench regress --baseline tests/regress/baseline.yaml --device cpu",
        "lgbench regress --baseline baseline.yaml --update",
    ),
    "export": ("lgbench export --format csv --out rows.csv", "lgbench export --format latex --out table.tex"),
    "submit": ("lgbench submit rows.parquet", "lgbench submit rows.parquet --into results"),
    "status": ("lgbench status", "lgbench status --results runs --watch 5"),
    "data list": ("lgbench data list", "lgbench data list --data-dir ~/data"),
    "data fetch": ("lgbench data fetch omniglot",),
    "data verify": ("lgbench data verify",),
    "results verify": ("lgbench results verify", "lgbench results verify --results results"),
    "results migrate": ("lgbench results migrate --results runs --dry-run",),
}
"""Command, or group and command → lines. Commands with many options have theirs beside these."""


def add_examples(app: typer.Typer) -> None:
    """Give each command of the app, and of its groups, the examples that it has here."""
    groups: dict[str, typer.Typer] = {"": app}
    for info in app.registered_groups:
        if info.typer_instance is not None:
            groups[f"{info.name} "] = info.typer_instance
    for prefix, group in groups.items():
        for command in group.registered_commands:
            name = f"{prefix}{command.name or getattr(command.callback, '__name__', '')}"
            if name in EXAMPLES:
                command.epilog = examples(*EXAMPLES[name])
