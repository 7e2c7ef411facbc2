"""Turn the rows of a store into a page, figures, tables and a leaderboard; reads nothing but the store."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgbench.report.leaderboard import write_leaderboard
    from lgbench.report.page import ReportResult, build_report
    from lgbench.report.tables import summary_table

__all__ = ["ReportResult", "build_report", "summary_table", "write_leaderboard"]

_PUBLIC = {
    "ReportResult": "page",
    "build_report": "page",
    "summary_table": "tables",
    "write_leaderboard": "leaderboard",
}


def __getattr__(name: str) -> Any:
    """What this package gives, imported when it is first used: a leaderboard draws no figures."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
