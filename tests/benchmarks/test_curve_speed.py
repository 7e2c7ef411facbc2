"""The evaluation of a whole grid of lengths in one pass against a pass a length: a ratio within one run.

Both ways take turns, so that a busy machine slows them alike, and medians are compared. The ratio is printed:
run this file with `-m benchmark -s`.
"""

import pytest
import torch

from lgbench.bench import curve
from lgbench.bench.setting import Setting

pytestmark = pytest.mark.benchmark


def test_a_shared_prefix_is_1_6_times_faster_than_separate_passes():
    setting = Setting(torch.device("cpu"), ("torch",), repeats=9, budget_s=60.0, copy_rate=1.0)
    ways = curve.compare(curve.CASES["cpu"], "torch", setting)
    assert all(row["status"] == "ok" and row["repeats"] == 9 for row in ways.values())
    ratio = ways["separate"]["median_ms"] / ways["shared"]["median_ms"]
    print(f"\n{ways['shared']['case']}: {ratio:.2f} times faster; {ways['shared']['note']}")
    assert ratio >= 1.6
