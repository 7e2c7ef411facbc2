"""Cost grows with the number of cells and no faster: work is counted, not seconds."""

import importlib.util
from pathlib import Path

import pytest

from lgbench.report import curves, write_leaderboard
from lgbench.report.page import MOST_DRAWN
from lgbench.report.standings import drawn, standings

BIG = Path(__file__).parents[2] / "benchmarks" / "big_store.py"
spec = importlib.util.spec_from_file_location("big_store", BIG)
big_store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(big_store)


@pytest.fixture
def make(tmp_path):
    """`make(tasks, methods, seeds)` writes a results folder of 12 lengths and 4 items."""

    def write(tasks, methods, seeds):
        root = tmp_path / f"{tasks}-{methods}-{seeds}"
        assert big_store.make_store(root, tasks, methods, seeds, 12, 4) == tasks * methods * seeds
        return root

    return write


def test_a_leaderboard_opens_none_of_many_files_and_reads_each_row_once(make, monkeypatch):
    root, read = make(4, 16, 3), []
    real = curves.find_faults
    monkeypatch.setattr(curves, "find_faults", lambda rows: read.append(len(rows)) or real(rows))
    monkeypatch.setattr("lgbench.store.store.read_rows", None)  # to open a file would be an error
    text = write_leaderboard([root], root / "leaderboard.md").read_text()
    assert read == [4 * 16 * 3 * len(big_store.lengths_of(12))]
    assert "Could not read" not in text and text.count("| vanilla |") >= 4


def test_a_leaderboard_is_the_same_with_and_without_the_cache(make):
    root = make(2, 11, 3)
    assert list((root / "cache").iterdir())
    with_cache = write_leaderboard([root], root / "leaderboard.md").read_bytes()
    for path in (root / "cache").iterdir():
        path.unlink()
    (root / "manifest.jsonl").unlink()
    assert write_leaderboard([root], root / "leaderboard.md").read_bytes() == with_cache


def test_figures_show_the_best_and_their_baselines_where_series_are_many(make):
    root = make(1, MOST_DRAWN + 8, 3)
    (board,) = curves.load([root]).boards
    ranked = standings(board)
    part, more = drawn(board, ranked, MOST_DRAWN)
    assert len(part.series) == MOST_DRAWN and more == "; 8 more are in the tables"
    assert {"vanilla", "last_window", *ranked[0].table["series"][:10]} <= set(part.series)
    assert drawn(part, ranked, MOST_DRAWN) == (part, "")
