"""The leaderboard as a reader sees it; what is concluded is tested in tests/stats."""

import pyarrow.parquet as pq
import pytest

from lgbench.errors import UserError
from lgbench.report import write_leaderboard
from lgbench.report.curves import load
from lgbench.report.standings import standings
from lgbench.store import Store

GRID = [256 << k for k in range(8)]
NOTICE = "The images are procedural glyphs, not Omniglot."


def holds_until(limit):
    """Close to perfect up to `limit` tokens, chance beyond."""
    return lambda length: 0.05 if length <= limit else 0.241


@pytest.fixture
def ranked(root, store):
    for seed in range(3):
        for label, limit in (("far", 8192), ("vanilla", 4096), ("last_window", 1024)):
            store(root, holds_until(limit), lengths=GRID, seed=seed, label=label, method=label)
    return root


def read_board(root):
    return write_leaderboard([root], root / "leaderboard.md").read_text()


def test_lines_are_in_the_order_of_rank_with_differences_to_baseline_and_control(ranked):
    (standing,) = standings(load([ranked]).boards[0])
    assert [(line["rank"], line["method"]) for line in standing.ranked] == [
        ("1", "far"), ("2", "vanilla"), ("3", "last_window")
    ]  # fmt: skip
    far, vanilla, window = standing.ranked
    assert far["Δ to vanilla"].startswith("+0.1") and far["Δ to vanilla"].endswith(" *")
    assert (vanilla["Δ to vanilla"], window["Δ to last_window"]) == ("baseline", "control")
    assert far["effective length"].startswith("8.")
    assert far["at 4×"] == "0.0509" and far["seeds"] == "3"
    assert standing.unranked == []


def test_unranked_ones_are_listed_below_with_the_reason(ranked, store):
    store(ranked, holds_until(8192), lengths=GRID, label="one", method="one")
    text = read_board(ranked)
    below = text[text.index("Not ranked:") :]
    assert "| one |" in below and "| 1 seed, at least 3 are needed |" in below
    assert "| one |" not in text[: text.index("Not ranked:")]


def test_each_training_length_has_its_own_ranking(ranked, store):
    for seed in range(3):
        store(ranked, holds_until(8192), lengths=GRID, seed=seed, label="short", method="short",
              train_length=512, train_high=512)  # fmt: skip
    short, long = standings(load([ranked]).boards[0])
    assert (short.title, long.title) == ("L_train 512 tokens", "L_train 1K tokens")
    assert [line["method"] for line in short.ranked] == ["short"]
    assert len(long.ranked) == 3


def test_overview_has_a_line_a_method_and_no_number_over_tasks(ranked, store):
    for seed in range(3):
        for label, limit in (("far", 2048), ("vanilla", 4096)):
            store(
                ranked, holds_until(limit), lengths=GRID, seed=seed, label=label, method=label, task="other"
            )
    text = read_board(ranked)
    overview = text[: text.index("## omniglot")]
    (line,) = [line for line in overview.splitlines() if line.startswith("| far |")]
    assert line.count("±") == 2 and "| +0.1" in line and "| −0.1" in line


def test_what_was_left_out_is_said_with_the_reason(ranked, store, make_row):
    folder = ranked / "rows" / "omniglot"
    (folder / "torn.parquet").write_bytes(b"PAR1 and then the power went")
    table = pq.read_table(next(folder.glob("[0-9a-f]*.parquet")))
    pq.write_table(table.replace_schema_metadata({"lgbench_schema_version": "1"}), folder / "old.parquet")
    Store(ranked).write("omniglot", "bad", [make_row(cell="bad", seed=None)])
    store(ranked, holds_until(9999), lengths=GRID, label="far", method="far", created_at="2027")
    store(ranked, lengths=GRID, label="easy", method="easy", items_hash="others")
    text = read_board(ranked)
    left = text[text.index("## Left out") : text.index("## How to read")]
    for part in ("torn.parquet", "old.parquet", "cell bad: 1 row left out, since it has no seed"):
        assert part in left
    assert "not all runs were evaluated on the same items" in left
    assert "far, seed 0" in left and "these cells differ in nothing shown here" in left
    assert "two cells claim the same measurement: seed 0" in text, "a second cell is no way to the top"


def test_bad_rows_alone_are_no_crash(root, make_row):
    rows = [make_row(cell="a", train_length=0), make_row(cell="b", best=float("nan")),
            make_row(cell="c", chance=0.0), make_row(cell="d", value=-1.0)]  # fmt: skip
    for row in rows:
        Store(root).write("omniglot", row["cell"], [row])
    assert read_board(root).count("left out, since") == 4


def test_a_board_without_a_baseline_is_ranked_all_the_same(root, store):
    for seed in range(3):
        store(root, holds_until(8192), lengths=GRID, seed=seed, label="alone", method="alone")
    (line,) = lines_of(root)
    assert (line["rank"], line["Δ to vanilla"], line["Δ to last_window"]) == ("1", "–", "–")


def test_diverged_seeds_are_counted_as_zero_and_said(ranked, store):
    for seed in range(3):
        reached = GRID if seed == 0 else GRID[:4]
        like = {"label": "falls", "method": "falls", "seed": seed}
        store(ranked, holds_until(9999), lengths=reached, **like)
        if seed:
            store(ranked, lengths=GRID[4:], status="diverged", reason="not finite", **like)
    (line,) = [line for line in lines_of(ranked) if line["method"] == "falls"]
    assert line["seeds"] == "3, 2 diverged"


def test_markdown_says_how_to_read_it_how_it_was_made_and_that_data_are_procedural(root, store):
    store(root, data_source="procedural", notice=NOTICE)
    text = read_board(root)
    assert "## omniglot, data: procedural, preset small" in text
    assert f"> **Note:** {NOTICE}" in text
    assert f"`lgbench leaderboard --results {root}`" in text
    assert "## How to read this" in text and "85 %" in text


def test_markdown_is_the_same_every_time_and_escapes_what_it_quotes(root, store):
    store(root, label="odd|label<script>")
    first = write_leaderboard([root], root / "leaderboard.md").read_bytes()
    assert write_leaderboard([root], root / "leaderboard.md").read_bytes() == first
    assert b"odd\\|label&lt;script>" in first
    assert b"<script" not in first


def test_few_seeds_are_said_to_be_few(ranked):
    assert "cover the truth 63 % of the time with 3 seeds" in read_board(ranked)


def test_folder_that_cannot_be_written_is_one_clear_error(root, store):
    store(root)
    (root / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_leaderboard([root], root / "file" / "leaderboard.md")


def measured(root, store, rates, **columns):
    """Store what a method reached at each length, with these tokens per second."""
    for length, rate in rates.items():
        store(root, lengths=[length], warm_tokens_per_s=rate, items_hash=str(length), **columns)


def lines_of(root):
    """All lines of the only standing."""
    (standing,) = standings(load([root]).boards[0])
    return [*standing.ranked, *standing.unranked]


def speeds(root):
    return {line["method"]: line["speed vs vanilla"] for line in lines_of(root)}


def test_speed_is_the_median_ratio_to_vanilla_of_the_same_run(root, store):
    plain = {"shared_prefix": False, "num_queries": 8}
    measured(root, store, {1024: 100.0, 2048: 100.0, 4096: 100.0}, **plain)
    measured(root, store, {1024: 50.0, 2048: 80.0, 4096: 200.0, 8192: 1.0}, label="a", method="a", **plain)
    for name, other in (("b", {"commit": "another"}), ("c", {"device": "another"})):
        measured(root, store, {1024: 50.0}, label=name, method=name, **other, **plain)
    assert speeds(root) == {"a": "0.8×", "vanilla": "1×", "b": "–", "c": "–"}


def test_speed_beside_a_pass_that_served_all_lengths_counts_at_the_longest_alone(root, store):
    measured(root, store, {1024: 100.0, 2048: 100.0, 4096: 100.0}, shared_prefix=True)
    measured(root, store, {1024: 1.0, 2048: 2.0, 4096: 90.0}, label="a", method="a", shared_prefix=False)
    assert speeds(root)["a"] == "0.9×"


def test_speed_is_compared_on_the_same_backbone_where_vanilla_ran_on_it(root, store):
    measured(root, store, {1024: 100.0}, backbone="mamba")
    measured(root, store, {1024: 400.0}, backbone="mamba2")
    measured(root, store, {1024: 200.0}, backbone="mamba2", label="a", method="a")
    measured(root, store, {1024: 200.0}, backbone="decoder", label="b", method="b", num_layers=4)
    shown = speeds(root)
    assert shown["a"] == "0.5×" and shown["b"] == "–"


def test_fits_of_all_lengths_are_summed_and_shared_ones_counted_once(root, store):
    fitted = {"label": "fitted", "method": "fitted", "num_fitted": 24, "calibration_wall_s": 30.0,
              "calibration_tokens": 4000}  # fmt: skip
    store(root, lengths=[256, 512], assumed_length=512, **fitted)
    store(root, lengths=[1024], assumed_length=1024, **fitted)
    store(root, lengths=GRID)
    shown = {line["method"]: line["fitted"] for line in lines_of(root)}
    assert shown == {"fitted": "24 on 8,000 tokens in 60 s", "vanilla": "–"}


def test_the_state_is_shown_in_bytes_and_as_a_range_where_it_grows(root, store):
    store(root, lengths=[512, 1024], state_bytes=4096)
    store(root, lengths=[512], label="grows", method="grows", state_bytes=2**20)
    store(root, lengths=[1024], label="grows", method="grows", state_bytes=2**21)
    store(root, lengths=[512, 1024], label="old", method="old")
    shown = {line["method"]: line["state"] for line in lines_of(root)}
    assert shown == {"vanilla": "4 KiB", "grows": "1 MiB to 2 MiB", "old": "–"}


def test_lengths_in_documents_are_in_full(root, store):
    store(root, holds_until(4096), lengths=GRID, length_unit="documents")
    text = read_board(root)
    assert "Lengths in documents" in text and "### L\\_train 1,024 documents" in text


def test_an_edited_plugin_takes_the_place_of_its_old_cells_and_is_ranked(ranked, store):
    for seed in range(3):
        for code, created in (("before", "2026-01-01"), ("after", "2026-01-02")):
            store(ranked, holds_until(4096), lengths=GRID, seed=seed, label="mine", method="mine",
                  backbone_identity=code, created_at=created)  # fmt: skip
    text = read_board(ranked)
    assert "a plugin was edited since" in text and "two cells claim the same measurement" not in text
    assert "mine" in {line["method"] for line in lines_of(ranked)}
