"""What plugins, data and other people's rows say is shown as it is, and reads no file of this machine."""

import json

import pytest
from typer.testing import CliRunner

from lgbench.cli import app

TITLE, DATA, UNIT = "squad [/b] :smile:", "a$b_$c \x1b]0;owned\x07\u202e", "tok|ens <i>\x1b[31m"
REASON = "boom [/red] [kind=memory] \x1b[2J \u202egpj.exe"
SECRET = "SECRET-OF-THIS-MACHINE"
HIDDEN = ("\x1b]0", "\x1b[31m", "\x1b[2J", "\x07", "\u202e")


@pytest.fixture
def made(tmp_path, store, store_missing, monkeypatch):
    """Page, board and what two commands print, from rows full of signs, in a folder with brackets."""
    root = tmp_path / "[b]old"
    (tmp_path / "secret.json").write_text(json.dumps({"password": SECRET}), encoding="utf-8")
    (root / "environments").mkdir(parents=True)
    hostile = {"data_source": DATA, "length_unit": UNIT, "notice": TITLE, "horizon": 4.0, "learned": 0.1,
               "context_means": "longer `x`"}  # fmt: skip
    for seed in range(2):
        for method in ("vanilla", "other"):
            store(root, lengths=[256, 1024, 4096], seed=seed, method=method, label=f"{method}[kind=$m_e$]",
                  environment="../../secret", **hostile)  # fmt: skip
    store_missing(root, label="broken[kind=memory]", status="failed", reason=REASON, **hostile)
    monkeypatch.chdir(tmp_path)
    report = CliRunner().invoke(app, ["report", "--results", "[b]old"])
    board = CliRunner().invoke(app, ["leaderboard", "--results", "[b]old", "--out", "board.md"])
    assert (report.exit_code, board.exit_code) == (0, 0), report.output + board.output
    page = (root / "report" / "index.html").read_text(encoding="utf-8")
    return {
        "page": page, "board": (tmp_path / "board.md").read_text(encoding="utf-8"),
        "report": report.output, "leaderboard": board.output, "root": root,
    }  # fmt: skip


def test_rows_full_of_signs_are_shown_as_they_are(made):
    for name in ("page", "board", "report", "leaderboard"):
        assert [sign for sign in HIDDEN if sign in made[name]] == [], name
        assert SECRET not in made[name], name
    words = " ".join(made["report"].split())
    assert "boom [/red] [kind=memory] \\x1b[2J \\u202egpj.exe" in words and TITLE in words
    assert "[b]old/report/index.html" in words
    assert "boom [/red] [kind=memory]" in made["page"] and "tok|ens &lt;i&gt;\\x1b[31m" in made["page"]
    assert "no name of an environment" in made["page"]
    assert "tok\\|ens &lt;i>\\\\x1b\\[31m" in made["board"] and "longer \\`x\\`" in made["board"]
    assert "`lgbench leaderboard --results '[b]old'`" in made["board"]


def test_tables_of_the_board_have_as_many_cells_as_headings(made):
    tables = [line for line in made["board"].splitlines() if line.startswith("|")]
    heading = None
    for line, below in zip(tables, [*tables[1:], ""], strict=True):
        cells = line.replace("\\|", "").count("|")
        if below.startswith("| ---"):
            heading = cells
        assert cells == heading, line


def test_figures_of_such_rows_are_drawn_under_plain_names(made):
    names = {path.name for path in (made["root"] / "report" / "figures").iterdir()}
    assert names and all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") for name in names)
