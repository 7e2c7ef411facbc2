"""Take rows out of the store: a CSV file of numbers, LaTeX tables of curves, or one parquet with everything.

The parquet file holds rows of today's schema with all their items, and the environments that they refer to;
`lgbench submit` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lgbench.errors import UserError
from lgbench.report.curves import Board, load
from lgbench.report.tables import best_of, pivot
from lgbench.report.wording import format_value
from lgbench.store import Reading, atomic_file, read
from lgbench.store.rows_file import write_rows

ENVIRONMENTS = "lgbench_environments"
"""Name of the metadata of a parquet file that hold environments, name → text, as JSON."""
_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "×": r"$\times$",
    "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$", "Δ": r"$\Delta$", "–": "--", "…": r"\ldots{}", "<": "$<$",
    ">": "$>$", "[": "{[}", "]": "{]}",
} | {sign: "\\" + sign for sign in "&%$#_{}"}  # fmt: skip
"""Signs that mean something else in LaTeX; brackets would be options after a line break."""


def export(roots: Sequence[Path], kind: str, out: Path) -> list[str]:
    """Write the rows of results folders to one file, atomically.

    Args:
        roots: results folders.
        kind: a key of `FORMATS`.
        out: the file.

    Returns:
        what was left out, a sentence each.

    Raises:
        UserError: an unknown format, no such folder, no rows in it, or a file that cannot be written.
    """
    if kind not in FORMATS:
        raise UserError(f"--format {kind}: known are {', '.join(FORMATS)}")
    return FORMATS[kind](roots, out)


def _csv(roots: Sequence[Path], out: Path) -> list[str]:
    """Numbers and words of every row; parameters as JSON, lists of items left to the parquet file."""
    import pyarrow.csv

    reading = _read(roots)
    columns, names = [], []
    for field, column in zip(reading.table.schema, reading.table.columns, strict=True):
        if pa.types.is_map(field.type) and pa.types.is_list(field.type.item_type):
            continue
        if pa.types.is_list(field.type):
            continue
        if pa.types.is_map(field.type):
            maps = column.to_pylist(maps_as_pydicts="strict")
            column = pa.array([None if m is None else json.dumps(m, sort_keys=True) for m in maps])
        columns.append(column)
        names.append(field.name)
    with atomic_file(out) as temporary:
        pyarrow.csv.write_csv(pa.table(columns, names=names), temporary)
    return _unreadable(reading)


def _parquet(roots: Sequence[Path], out: Path) -> list[str]:
    """All rows, with the texts of their environments."""
    reading, texts = _read(roots), {}
    for root in roots:
        for path in sorted((Path(root) / "environments").glob("*.json")):
            texts[path.stem] = path.read_text(encoding="utf-8")
    used = set(reading.table["environment"].to_pylist())
    texts = {name: text for name, text in texts.items() if name in used}
    write_rows(out, reading.table.combine_chunks(), {ENVIRONMENTS: json.dumps(texts, sort_keys=True)})
    return _unreadable(reading)


def _latex(roots: Sequence[Path], out: Path) -> list[str]:
    """A table for every board: series × lengths, for `\\usepackage{booktabs}`."""
    results = load(roots)
    boards = [board for board in results.boards if not board.curve("context").empty]
    command = " ".join(f"--results {root}" for root in roots)
    head = (
        f"% Made by: lgbench export --format latex {_one_line(command)}\n% Needs \\usepackage{{booktabs}}.\n"
    )
    with atomic_file(out) as temporary:
        temporary.write_text("\n".join([head, *map(latex_table, boards)]), encoding="utf-8")
    return results.left_out


FORMATS: dict[str, Callable[[Sequence[Path], Path], list[str]]] = {
    "csv": _csv, "latex": _latex, "parquet": _parquet,
}  # fmt: skip


def latex_table(board: Board) -> str:
    """One board as a LaTeX table: means, half of their 95 % intervals, the best of a column in bold."""
    curve = board.curve("context")
    values, low, high = (pivot(curve, name) for name in ("value", "low", "high"))
    best = {length: best_of(values[length], board.higher_is_better) for length in values}
    lines = []
    for series in values.index:
        cells = [escape_latex(series)]
        for length in values.columns:
            value, half = values.at[series, length], (high.at[series, length] - low.at[series, length]) / 2
            text = format_value(value) if np.isfinite(value) else "--"
            text = rf"\textbf{{{text}}}" if best[length] == series else text
            spread = rf" {{\scriptsize$\pm${format_value(half, value)}}}" if np.isfinite(half) else ""
            cells.append(text + spread)
        lines.append(" & ".join(cells) + r" \\")
    chance = curve.groupby("eval_length")["chance"].mean()
    lines += [r"\midrule", " & ".join(["chance", *(format_value(chance[n]) for n in values)]) + r" \\"]
    lengths = " & ".join(["", *(escape_latex(board.length(length)) for length in values)])
    caption = f"{board.title}: {board.metric} ({board.direction}). Lengths in {board.length_unit}; mean over "
    caption += "seeds, ± half of the 95 % interval."
    return "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(caption)}}}",
            rf"\label{{tab:{board.slug}}}", rf"\begin{{tabular}}{{l{'r' * values.shape[1]}}}", r"\toprule",
            rf"{lengths} \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def escape_latex(text: str) -> str:
    """Text on one line that LaTeX prints as it is."""
    return "".join(_TEX.get(sign, sign) for sign in _one_line(text)).replace("±", r"$\pm$")


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _read(roots: Sequence[Path]) -> Reading:
    reading = read(roots)
    if reading.table.num_rows == 0:
        why = next(iter(_unreadable(reading)), "Make some with: lgbench run --task marked_recall")
        raise UserError(f"no results in {', '.join(map(str, roots))}. {why}")
    return reading


def _unreadable(reading: Reading) -> list[str]:
    return [f"Could not read {path}: {reason}" for path, reason in reading.unreadable.items()]
