"""A machine whose locale knows ASCII alone runs, stores, reports and ranks text of any script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lgbench.store import read

ROOT = Path(__file__).parent.parent
METHOD = '''
"""Fails: Δ is too small."""
from lgbench.method import Method, ScanIntervention


class Delta(Method):
    def intervention(self, train_length, d_model):
        return _Delta()


class _Delta(ScanIntervention):
    def sequence(self, tokens):
        raise RuntimeError("boom [/red] Δ \\x1b[2J \\u202e снег")
'''


@pytest.fixture
def lgbench(tmp_path):
    """`lgbench(*arguments)` → exit status and what it said; locale C, no UTF-8 mode, begun in a notebook."""
    ascii_only = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ascii_only |= {"MPLBACKEND": "of a notebook"}
    environment = {**os.environ, **ascii_only, "PYTHONPATH": str(ROOT)}

    def run(*arguments):
        command = [sys.executable, "-m", "lgbench", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    return run


def test_any_text_is_kept_where_the_locale_knows_ascii_alone(tmp_path, lgbench):
    (tmp_path / "delta.py").write_text(METHOD, encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(
        "# снег\ntask: marked_recall\nmethod: vanilla,delta\nplugin: delta.py\ntrain_steps: 1\n"
        "batch_size: 1\ntrain_length: 8\neval_lengths: 8\neval_items: 2\n"
        "preset: smoke\ndevice: cpu\nresults: '[b]old'\n",
        encoding="utf-8",
    )
    status, said = lgbench("run", "--config", "plan.yaml")
    assert status == 1 and "Traceback" not in said and "boom [/red]" in said, said
    assert "\x1b" not in said and "\u202e" not in said
    rows = read([tmp_path / "[b]old"]).table.to_pylist()
    assert {row["status"] for row in rows} == {"ok", "failed"}
    assert any("Δ" in row["reason"] and "снег" in row["reason"] for row in rows if row["reason"])
    [trace] = (tmp_path / "[b]old" / "failures").iterdir()
    assert "снег" in trace.read_text(encoding="utf-8")
    for command in (["report"], ["leaderboard", "--out", "board.md"]):
        status, said = lgbench(*command, "--results", "[b]old")
        assert status == 0 and "Traceback" not in said, said
    assert "Δ" in (tmp_path / "board.md").read_text(encoding="utf-8")
    page = (tmp_path / "[b]old" / "report" / "index.html").read_text(encoding="utf-8")
    assert "boom [/red] Δ \\x1b[2J \\u202e снег" in page
