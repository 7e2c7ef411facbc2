"""Tables for the terminal, as a reader sees them."""

import pytest
from rich.console import Console

from lgbench.report import summary_table
from lgbench.report.tables import readable_subset
from lgbench.store import read


def printed(tables, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables:
        console.print(table)
    return console.export_text(styles=True)


def test_table_has_a_row_a_method_half_intervals_and_chance(root, store):
    for seed in range(2):
        store(root, lambda length: 0.2, lengths=[1024, 2048], seed=seed)
        store(root, lambda length: 0.1, lengths=[1024], seed=seed, label="prepended")
    (table,) = summary_table([root])
    text = printed([table])
    for part in ("prepended", "vanilla", "chance", "0.241", "1K", "2K", "2 seeds", "±0."):
        assert part in text
    assert [*table.headings] == ["method", "1K", "2K"]
    assert str(table.rows[0][2]).startswith("0.2")
    assert str(table.rows[1][2]) == "–"


def test_best_of_a_column_is_bold_in_the_direction_of_the_metric(root, store):
    for label, level in (("low", 0.2), ("high", 0.8)):
        store(root, lambda length, level=level: level, lengths=[64], label=label)
        store(
            root,
            lambda length, level=level: level,
            lengths=[64],
            label=label,
            task="t",
            higher_is_better=True,
            best=1.0,
            chance=0.1,
        )
    tables = summary_table([root])
    styles = [[row[1].style for row in table.rows[:2]] for table in tables]
    assert styles == [["", "bold"], ["bold", ""]]


def test_each_task_data_set_and_preset_has_its_own_table(root, store):
    store(root)
    store(root, data_source="procedural", notice="The images are procedural glyphs.")
    titles = [str(table.title) for table in summary_table([root])]
    assert titles == [
        "omniglot, data: omniglot-small, preset small: mse (lower is better)",
        "omniglot, data: procedural, preset small: mse (lower is better)",
    ]
    assert "procedural glyphs" in printed(summary_table([root]))


def test_what_was_not_measured_is_the_last_table_and_markup_in_it_is_shown_as_it_is(
    root, store, store_missing
):
    store(root)
    store_missing(root, label="truncated[low=512]", reason="[red]boom[/red]")
    tables = summary_table([root])
    assert str(tables[-1].title) == "Not measured"
    text = printed(tables, width=160)
    assert "truncated[low=512]" in text
    assert "[red]boom[/red]" in text


def test_sixteen_lengths_fit_into_eighty_characters(root, store):
    store(root, label="a_method_with[a=1,rather_long=2,name=3]")
    for line in printed(summary_table([root])).splitlines():
        assert "…" not in line


@pytest.mark.parametrize("anchor", [1, 64, 1024, 32768, 100_000])
def test_subset_of_lengths_is_even_and_keeps_the_longest(anchor):
    lengths = [2**k for k in range(16)]
    chosen = readable_subset(lengths, anchor)
    assert len(chosen) <= 8
    assert chosen[-1] == 32768
    assert anchor not in lengths or anchor in chosen or anchor < chosen[0]
    assert readable_subset(lengths[:8], anchor) == lengths[:8]


def test_tables_of_some_cells_are_those_of_their_boards_with_all_that_they_are_compared_with(
    root, store, store_missing
):
    store(root, label="prepended")
    cells = {r["cell"] for r in read([root]).table.to_pylist()}
    store(root)
    store(root, task="passkey", metric="accuracy", higher_is_better=True, best=1.0, chance=0.1)
    store(root, preset="paper")
    store_missing(root, label="truncated[low=512]", reason="of the same board")
    store_missing(root, task="passkey", label="truncated", reason="of another board")
    assert len(summary_table([root])) == 4
    tables = summary_table([root], cells)
    assert [str(table.title).split(":")[0] for table in tables] == ["omniglot, data", "Not measured"]
    text = printed(tables, width=160)
    assert "vanilla" in text and "prepended" in text
    assert "of the same board" in text and "of another board" not in text


def test_a_metric_on_another_scale_than_the_headline_has_no_table(root, store):
    common = {"task": "recall", "higher_is_better": True, "chance": 0.1}
    store(root, lambda n: 0.5, metric="accuracy", best=1.0, **common)
    store(root, lambda n: -1.5, metric="log2-probability", best=0.0, **common | {"chance": -3.0})
    store(root, lambda n: 0.6, metric="keyword", best=1.0, **common)
    text = printed(summary_table([root]), 160)
    assert "accuracy" in text and "keyword" in text and "log2-probability" not in text
