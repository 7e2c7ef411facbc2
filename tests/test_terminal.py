"""Tables keep every number, heading and name at every width."""

import io

import pytest

from lgbench.safe_text import plain_console
from lgbench.terminal import Listing

ROWS = [
    ("clock_law[decay=[0,1,2,3]]", "passkey", "0.000159", "1,048,576", "0.123\n±0.004"),
    ("vanilla", "passkey", "12,345.678", "131,072", "–"),
]
TABLE = Listing(
    headings=("method", "task", "loss", "tokens", "1M"),
    rows=ROWS,
    words=("method", "task"),
    title="passkey: accuracy",
    caption="2 seeds",
)


def printed(table: Listing, width: int) -> str:
    file = io.StringIO()
    plain_console(file=file, width=width).print(table)
    return file.getvalue()


def folded(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("width", [20, 32, 40, 60, 80, 200])
def test_no_number_heading_or_name_is_cut_at_any_width(width):
    text = printed(TABLE, width)
    assert max(map(len, text.splitlines())) <= width
    for row in ROWS:
        for number in (part for value in row[2:] for part in value.split()):
            assert number in text
        assert row[0] in text or folded(row[0]) in folded(text)
    for heading in ("task", "loss", "tokens", "1M", "passkey", "passkey: accuracy", "2 seeds"):
        assert heading in text


def test_a_wide_terminal_shows_one_line_a_row_and_every_column():
    lines = [line.split() for line in printed(TABLE, 200).splitlines()]
    assert ["method", "task", "loss", "tokens", "1M"] in lines
    assert ["vanilla", "passkey", "12,345.678", "131,072", "–"] in lines


def test_what_is_equal_in_all_rows_is_said_once_where_the_width_asks_for_it():
    text = printed(TABLE, 60)
    assert "In all rows:   task passkey" in text and text.count("passkey") == 2  # the title, and this line


def test_words_wrap_before_rows_are_stacked():
    table = Listing(headings=("what", "n"), rows=[("word " * 12, "123,456")] * 2, words=("what",))
    text = printed(table, 40)
    assert text.count("123,456") == 1 and text.count("word") == 24  # n stands above, equal in both rows
    table = Listing(headings=("what", "n"), rows=[("word " * 12, "1"), ("word " * 12, "2")], words=("what",))
    assert "─" in printed(table, 40)


def test_stacked_rows_name_each_value_by_its_column():
    text = printed(TABLE, 32)
    lines = [line.rstrip() for line in text.splitlines()]
    start = lines.index("vanilla")
    assert lines[start + 1 : start + 3] == ["  loss 12,345.678", "  tokens 131,072   1M –"]
    assert "1M 0.123 ±0.004" in text


def test_text_of_others_stays_text():
    table = Listing(headings=("[b]", "n"), rows=[("[/red]\x1b[2J", "1")], words=("[b]",), title="[/]")
    for width in (12, 80):
        text = printed(table, width)
        assert "[/red]" in text and "\x1b" not in text


def test_a_table_without_rows_is_its_headings():
    assert "method" in printed(Listing(headings=("method", "n"), rows=[], words=("method",)), 80)
