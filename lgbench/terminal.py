"""Tables for a terminal of any width: no number, heading or name is ever cut off.

What does not fit is changed in this order, until it fits:

    1. a column with one value in all rows becomes a line above the table
    2. words wrap, numbers do not
    3. each row becomes a heading and a paragraph of `column value` pairs
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lgbench.safe_text import for_rich

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_SHORTEST_WORDS = 12
"""Characters of a line to which words are wrapped at least."""
_GAP = "   "
_INDENT = 2


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table that `rich` prints in the widest form that fits.

    Attributes:
        headings: of the columns; the first names a row.
        rows: a text for every column; a line break in it is a blank where rows are stacked.
        words: headings of the columns that hold words, which may wrap; the others hold numbers.
        title: above the table, "" for none.
        caption: below it.
        styles: of the rows, where they have one.
        sections: rows below which a line is drawn.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    words: Collection[str]
    title: str = ""
    caption: str = ""
    title_style: str = "bold"
    styles: Sequence[str] = ()
    sections: Collection[int] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self._fits(options.max_width, wrap=False):
            yield from self._heading([], options.max_width)
            yield self._table(wrap=False)
            yield from self._below()
            return
        shared, rest = self._shared()
        if rest.headings and rest._fits(options.max_width, wrap=True):
            yield from self._heading(shared, options.max_width)
            yield rest._table(wrap=True)
            yield from self._below()
            return
        yield from self._heading(shared, options.max_width)
        yield from rest._stacked(options.max_width)
        yield from self._below()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def _fits(self, width: int, *, wrap: bool) -> bool:
        """Whether the table has at most `width` characters: two beside each column, and one at its start."""
        widths = [self._width(index, wrap) + 2 for index in range(len(self.headings))]
        return sum(widths) + 1 <= width

    def _width(self, index: int, wrap: bool) -> int:
        """Characters that a column needs."""
        texts = [self.headings[index], *(row[index] for row in self.rows)]
        longest = max(cell_len(line) for text in texts for line in _cell(text).plain.split("\n"))
        return min(longest, _SHORTEST_WORDS) if wrap and self.headings[index] in self.words else longest

    def _table(self, wrap: bool) -> Table:
        made = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for index, heading in enumerate(self.headings):
            longest = self._width(index, wrap=False)
            folds = wrap and heading in self.words and longest > _SHORTEST_WORDS
            made.add_column(
                for_rich(heading),
                justify="left" if heading in self.words else "right",
                no_wrap=not folds,
                overflow="fold",
                width=None if folds else longest,
                min_width=_SHORTEST_WORDS if folds else None,
            )
        for index, row in enumerate(self.rows):
            style = self.styles[index] if self.styles else None
            made.add_row(*map(_cell, row), style=style, end_section=index in self.sections)
        return made

    def _shared(self) -> tuple[list[tuple[str, str]], Listing]:
        """Columns with one value in all rows, and the table without them."""
        if len(self.rows) < 2:
            return [], self
        columns = list(zip(*self.rows, strict=True))
        equal = {i for i, column in enumerate(columns) if i and len(set(map(str, column))) == 1}
        kept = [i for i in range(len(columns)) if i not in equal]
        shared = [(self.headings[i], str(columns[i][0])) for i in sorted(equal)]
        headings, rows = [self.headings[i] for i in kept], [[row[i] for i in kept] for row in self.rows]
        return shared, replace(self, headings=headings, rows=rows)

    def _heading(self, shared: Iterable[tuple[str, str]], width: int) -> Iterator[RenderableType]:
        if self.title:
            yield for_rich(self.title, self.title_style)
        if pairs := [f"{name} {_flat(value)}" for name, value in shared if _flat(value)]:
            yield from map(for_rich, _packed(["In all rows:", *pairs], width))

    def _below(self) -> Iterator[RenderableType]:
        if self.caption:
            yield for_rich(self.caption, "italic dim", lines=True)

    def _stacked(self, width: int) -> Iterator[RenderableType]:
        for index, row in enumerate(self.rows):
            style = self.styles[index] if self.styles else ""
            yield for_rich(_flat(row[0]), f"bold {style}".strip())
            pairs = (
                f"{name} {_flat(value)}"
                for name, value in zip(self.headings[1:], row[1:], strict=True)
                if _flat(value)
            )
            for line in _packed(pairs, width - _INDENT):
                yield Padding(for_rich(line, style), (0, 0, 0, _INDENT))


def _cell(value: str | Text) -> Text:
    return value if isinstance(value, Text) else for_rich(value, lines=True)


def _flat(value: str | Text) -> str:
    return " ".join(str(value).split())


def _packed(pairs: Iterable[str], width: int) -> Iterator[str]:
    """Pairs beside each other, as many in a line as fit."""
    line = ""
    for pair in pairs:
        if line and len(line) + len(_GAP) + len(pair) > width:
            yield line
            line = ""
        line += (_GAP if line else "") + pair
    if line:
        yield line
