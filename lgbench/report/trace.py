"""Say where every number comes from: what each cell ran on, with which code, for how long."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lgbench.durations import format_duration
from lgbench.report.curves import Board
from lgbench.report.wording import NOTHING, format_count, format_rate
from lgbench.safe_text import is_file_name


def command(board: Board) -> str:
    """A command that makes rows like those of a board; what differs from defaults otherwise is not in it."""
    rows = board.rows
    params = json.loads(rows["task_params"].iloc[0] or "{}")
    task = board.task + ("[" + ",".join(f"{n}={_plain(v)}" for n, v in sorted(params.items())) + "]") * bool(
        params
    )
    labels = ",".join(dict.fromkeys(rows["label"].sort_values()))
    trained = ",".join(str(length) for length in sorted(rows["train_length"].unique()))
    return (
        f"lgbench run --task {shlex.quote(task)} --method {shlex.quote(labels)} --preset {board.preset} "
        f"--seeds {int(rows['seed'].max()) + 1} --train-length {trained}"
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def trace_cells(rows: pd.DataFrame) -> list[dict[str, str]]:
    """One line a cell: what it ran on, with which code, for how long."""
    order = rows.sort_values(["task", "preset", "label", "seed", "cell"], kind="stable")
    by_cell = order.groupby("cell", sort=False)
    facts = order.drop_duplicates("cell").set_index("cell")
    outcomes = order[["cell", "outcome"]].drop_duplicates().sort_values("outcome", kind="stable")
    facts["outcome"] = outcomes.groupby("cell")["outcome"].agg(", ".join)
    facts["peak_gib"] = by_cell["peak_bytes"].max().astype(float) / 2**30
    facts["train_wall_s"] = by_cell["train_wall_s"].max()
    facts["rate"] = by_cell["train_tokens_per_s"].mean()
    facts["eval_wall_s"] = _evaluation_wall_s(order).reindex(facts.index, fill_value=0.0)
    return [
        {
            "task": cell["task"],
            "method": cell["label"],
            "seed": f"{cell['seed']:.0f}",
            "preset": cell["preset"],
            "outcome": cell["outcome"],
            "parameters": format_count(cell["num_parameters"]),
            "device": cell["device"],
            "scan": cell["scan_backend"],
            "training": format_duration(cell["train_wall_s"]),
            "tokens/s": format_rate(cell["rate"]),
            "evaluation": format_duration(cell["eval_wall_s"]),
            "peak memory": f"{cell['peak_gib']:.2f} GiB" if np.isfinite(cell["peak_gib"]) else NOTHING,
            "lgbench": cell["package_version"],
            "commit": cell["commit"],
            "environment": cell["environment"],
            "finished": cell["created_at"],
            "cell": str(name),
        }
        for name, cell in zip(facts.index, facts.to_dict("records"), strict=True)
    ]


def _evaluation_wall_s(rows: pd.DataFrame) -> pd.Series:
    """Cell → seconds of all evaluations; a pass that gave several lengths or metrics counts once."""
    shared, rows = rows["shared_prefix"].isin([True]), rows.assign(queries=rows["axis"] == "queries")
    once = ["cell", "queries", "step"]
    passes = rows[shared].drop_duplicates(once)
    single = rows[~shared].drop_duplicates([*once, "eval_length", "num_queries"])
    return pd.concat([passes, single]).groupby("cell")["eval_wall_s"].sum()


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
