"""Rows that nothing can be concluded from are named and skipped, in every command alike."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.report import build_report, write_leaderboard
from lgbench.report.curves import load
from lgbench.store import Store
from lgbench.store.pack import WORTH

GRID = [256 << k for k in range(6)]
BAD = {
    "no seed": ({"seed": None}, "it has no seed"),
    "nothing trained on": ({"train_length": 0}, "its train_length is not above 0"),
    "above the best": ({"value": -0.1}, "its value is above the best"),
    "chance is best": ({"chance": 0.0}, "chance equals the best value"),
    "chance beyond best": ({"best": 0.5}, "chance is better than the best value"),
    "best is infinite": ({"best": float("-inf")}, "its best value is not a number"),
    "no chance": ({"chance": None}, "its chance is not a number"),
    "no direction": ({"higher_is_better": None}, "it has no higher_is_better"),
    "no step": ({"step": None}, "it has no step"),
    "no rate": ({"learning_rate": None}, "it has no learning_rate"),
    "unknown axis": ({"axis": "depth"}, "its axis is none of context, queries, position"),
    "no horizon": ({"horizon": 0.0}, "its horizon is not a number from 1 on"),
    "an item is no number": ({"item_values": [float("nan")]}, "an item has no finite value"),
    "no JSON": ({"method_params": {"low": "{"}}, "a value of its method_params is no JSON"),
}


@pytest.fixture
def good(root, store):
    """A folder with three seeds of two methods."""
    for seed in range(3):
        for label in ("vanilla", "far"):
            store(root, lengths=GRID, seed=seed, label=label, method=label)
    return root


def sections(text):
    """The leaderboard without what it says that it left out."""
    before, _, after = text.partition("## How to read")[0].partition("## Left out")
    return before, after


@pytest.mark.parametrize(("changes", "reason"), BAD.values(), ids=BAD)
def test_a_faulty_row_is_named_and_changes_nothing_else(good, make_row, changes, reason):
    before, said = sections(write_leaderboard([good], good / "before.md").read_text())
    assert said == ""
    faulty = make_row(cell="faulty", label="odd", method="odd", **changes)
    Store(good).write("omniglot", "faulty", [faulty])
    after, said = sections(write_leaderboard([good], good / "after.md").read_text())
    assert after == before
    assert f"cell faulty: 1 row left out, since {reason}".replace("_", "\\_") in said
    assert any("cell faulty" in sentence and reason in sentence for sentence in load([good]).left_out)


def test_a_report_of_faulty_rows_names_all(good, make_row):
    for at, (changes, _) in enumerate(BAD.values()):
        Store(good).write("omniglot", f"faulty{at}", [make_row(cell=f"faulty{at}", **changes)])
    made = build_report([good], good / "report")
    page = made.html.read_text()
    for at, (_, reason) in enumerate(BAD.values()):
        assert any(f"faulty{at}:" in warning and reason in warning for warning in made.warnings)
        assert f"cell faulty{at}: 1 row left out" in page


def test_the_command_of_the_leaderboard_says_what_was_left_out(good):
    (good / "rows" / "omniglot" / "torn.parquet").write_bytes(b"PAR1 and then the power went")
    done = CliRunner().invoke(app, ["leaderboard", "--results", str(good), "--out", str(good / "l.md")])
    assert done.exit_code == 0
    (line,) = [line for line in done.stdout.splitlines() if "torn.parquet" in line]
    assert line.startswith("Left out: Could not read")


def test_references_that_are_no_json_in_an_old_file_are_named(good):
    path = next((good / "rows" / "omniglot").glob("*.parquet"))
    table = pq.read_table(path)
    column = pa.array(["{no json"] * len(table))
    at = table.schema.get_field_index("references")
    old = table.set_column(at, "references", column).replace_schema_metadata({"lgbench_schema_version": "2"})
    pq.write_table(old, path.with_name("old.parquet"))
    (sentence,) = load([good]).left_out
    assert "old.parquet" in sentence


def test_of_many_cells_one_torn_file_is_left_out_and_the_others_are_read_from_the_cache(root, store):
    for seed in range(WORTH + 6):
        store(root, lengths=GRID[:2], seed=seed)
    torn = sorted((root / "rows" / "omniglot").glob("*.parquet"))[10]
    torn.write_bytes(torn.read_bytes()[:-20])
    for _ in range(2):
        found = load([root])
        assert [Path(s.split()[3].rstrip(":")).name for s in found.left_out] == [torn.name]
        assert found.rows["cell"].nunique() == WORTH + 5
