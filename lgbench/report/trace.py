"""Say where every number comes from: what each cell ran on, with which code, for how long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lgbench.report.wording import NOTHING, format_count, format_duration, format_rate
from lgbench.safe_text import is_file_name


def trace_cells(rows: pd.DataFrame) -> list[dict[str, str]]:
    """One line a cell: what it ran on, with which code, for how long."""
    lines = []
    order = rows.sort_values(["task", "preset", "label", "seed", "cell"], kind="stable")
    for cell, group in order.groupby("cell", sort=False):
        first, peak_gib = group.iloc[0], float(group["peak_bytes"].max()) / 2**30
        lines.append(
            {
                "task": first["task"],
                "method": first["label"],
                "seed": f"{first['seed']:.0f}",
                "preset": first["preset"],
                "outcome": ", ".join(sorted(group["outcome"].unique())),
                "parameters": format_count(first["num_parameters"]),
                "device": first["device"],
                "scan": first["scan_backend"],
                "training": format_duration(group["train_wall_s"].max()),
                "tokens/s": format_rate(group["train_tokens_per_s"].mean()),
                "evaluation": format_duration(_evaluation_wall_s(group)),
                "peak memory": f"{peak_gib:.2f} GiB" if np.isfinite(peak_gib) else NOTHING,
                "lgbench": first["package_version"],
                "commit": first["commit"],
                "environment": first["environment"],
                "finished": first["created_at"],
                "cell": str(cell),
            }
        )
    return lines


def _evaluation_wall_s(rows: pd.DataFrame) -> float:
    """Seconds of all evaluations of a cell; a pass that gave several lengths or metrics counts once."""
    shared, rows = rows["shared_prefix"].isin([True]), rows.assign(queries=rows["axis"] == "queries")
    passes = rows[shared].drop_duplicates(["queries", "step"])["eval_wall_s"].sum()
    single = rows[~shared].drop_duplicates(["queries", "step", "eval_length", "num_queries"])
    return float(passes + single["eval_wall_s"].sum())


def read_environments(roots: Sequence[Path], rows: pd.DataFrame) -> dict[str, str]:
    """Hash → facts (JSON) of the environments that rows refer to, or that a file is missing or broken."""
    found = {}
    for name in sorted(set(rows["environment"]) - {""}):
        found[name] = "not found beside the results"
        if not is_file_name(name):  # a path would bring any file of this machine into the report
            found[name] = "no name of an environment"
            continue
        for root in roots:
            path = Path(root) / "environments" / f"{name}.json"
            if path.is_file():
                try:
                    facts = json.loads(path.read_text(encoding="utf-8"))
                    found[name] = json.dumps(facts, indent=1, sort_keys=True)
                except (OSError, ValueError, RecursionError) as error:
                    found[name] = f"could not be read: {error}"
    return found
