"""Fill a text, such as a paper, with numbers from rows, so that none is copied by hand.

    vanilla scores {{ score(task="passkey", method="vanilla", length=32768) }}
    vanilla scores 0.69 [0.41, 0.90] (3 seeds)

A selection that fits no rows, or several series, is an error and never an average. `require` ends the run if
a sentence is no longer true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lgbench.errors import UserError
from lgbench.report.quantity import Quantity, measured, subtract
from lgbench.report.selection import select
from lgbench.report.wording import format_length
from lgbench.stats.rows import fill_task_facts


def fill(template: str, rows: pd.DataFrame, name: str = "the template") -> str:
    """Return the text of a jinja2 template with its numbers.

    Args:
        template: may call `score`, `difference`, `over_chance`, `table`, `require` and `length`.
        rows: as `lgbench.rows` gives them.
        name: of the template, for errors.

    Raises:
        UserError: the template is wrong, a selection is, or a `require` does not hold; with the line.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.globals.update(Functions(rows).by_name())
    try:
        return environment.from_string(template).render()
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None) or _line_of(error)
        raise UserError(f"{name}, line {line}: {error}") from None
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{name}, line {_line_of(error)}: {error}") from None


class Functions:
    """What a template may call. Keywords choose rows, see `lgbench.report.selection.select`."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = fill_task_facts(rows[rows["status"] == "ok"])

    def by_name(self) -> dict[str, Any]:
        """Functions of a template by name."""
        own = (self.score, self.difference, self.over_chance, self.table)
        return {function.__name__: function for function in own} | {
            "require": require,
            "length": format_length,
        }

    def score(self, *, digits: int | None = None, **chosen: Any) -> Quantity:
        """Return the metric at one length: mean over seeds, and its 95 % interval over seeds and items."""
        return measured(select(self.rows, chosen), digits)

    def over_chance(self, *, digits: int | None = None, **chosen: Any) -> Quantity:
        """Return the metric minus chance, the value of the best answer that ignores the context."""
        rows = select(self.rows, chosen)
        return measured(rows, digits).shifted(-float(rows["chance"].mean()))

    def difference(self, *, digits: int | None = None, **chosen: Any) -> Quantity:
        """Return the paired difference of two selections: exactly one keyword has a list of two values.

        The first minus the second, on the seeds that both have, and item by item where both were evaluated
        on the same items.
        """
        two = _lists(chosen)
        if len(two) != 1 or len(chosen[two[0]]) != 2:
            raise UserError("difference needs exactly one keyword with two values: method=['a', 'b']")
        first, second = (select(self.rows, chosen | {two[0]: value}) for value in chosen[two[0]])
        return subtract(first, second, digits)

    def table(self, *, digits: int | None = None, missing: str | None = None, **chosen: Any) -> str:
        """Return a Markdown table of means: one keyword has a list for the lines, another for the columns.

        Args:
            digits: after the point.
            missing: what stands where nothing was measured; an error if left out.
            **chosen: two lists, in the order lines, columns; `length` is written as 2K, 4K, …. A tuple is
                "any of these": `backbone=("mamba", "decoder")` where the method decides which.
        """
        lists = _lists(chosen)
        if len(lists) != 2:
            raise UserError(f"table needs two keywords with lists, for lines and columns; got {len(lists)}")
        lines, columns = lists
        heads = [_shown(columns, value) for value in chosen[columns]]
        text = [f"| {' | '.join(['', 'seeds', *heads])} |", "|---" * (len(heads) + 2) + "|"]
        for value in chosen[lines]:
            cells = [self._cell(chosen | {lines: value, columns: head}, digits, missing)
                     for head in chosen[columns]]  # fmt: skip
            seeds = sorted({cell.num_seeds for cell in cells if isinstance(cell, Quantity)})
            words = [cell.short if isinstance(cell, Quantity) else cell for cell in cells]
            shown = " to ".join(dict.fromkeys(map(str, (seeds[0], seeds[-1])))) if seeds else "0"
            text.append(f"| {' | '.join([_shown(lines, value), shown, *words])} |")
        return "\n".join(text)

    def _cell(self, chosen: dict[str, Any], digits: int | None, missing: str | None) -> Quantity | str:
        rows = select(self.rows, chosen, may_be_empty=missing is not None)
        return str(missing) if rows.empty else measured(rows, digits)


def _lists(chosen: Mapping[str, Any]) -> list[str]:
    """Keywords with a list, of which each value is a selection of its own. A tuple is "any of these"."""
    return [key for key, value in chosen.items() if isinstance(value, list) and key != "seed"]


def require(holds: bool, sentence: str) -> str:
    """Return "" if a sentence of the text is still true of the rows.

    Raises:
        UserError: it is not.
    """
    if not holds:
        raise UserError(f"no longer true of these rows: {sentence}")
    return ""


def fill_file(template: Path, results: Iterable[Path]) -> str:
    """Return the filled text of a file, from the rows of results folders.

    Raises:
        UserError: as `fill`; there is no such file; a file of rows cannot be read.
    """
    from lgbench.store import frame, read

    if not template.is_file():
        raise UserError(f"no template '{template}'")
    reading = read(list(results))
    for path, reason in reading.unreadable.items():
        raise UserError(f"{path} cannot be read: {reason}")
    return fill(template.read_text(encoding="utf-8"), frame(reading), str(template))


def _shown(key: str, value: Any) -> str:
    if key == "length":
        return str(format_length(value))
    return f"`{value}`" if isinstance(value, str) else f"{value:,}"


def _line_of(error: BaseException) -> int:
    """Line of the template in which an error arose: the last frame that is the template's."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
