"""Turn the rows of a store into a page, figures, tables and a leaderboard; reads nothing but the store."""

from lgbench.report.leaderboard import write_leaderboard
from lgbench.report.page import ReportResult, build_report
from lgbench.report.tables import summary_table

__all__ = ["ReportResult", "build_report", "summary_table", "write_leaderboard"]
