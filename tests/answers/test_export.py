"""Rows as CSV, LaTeX and one parquet file."""

import csv
import re

import pytest

from lgbench.answers.export import ENVIRONMENTS, escape_latex, export
from lgbench.errors import UserError
from lgbench.store import SCHEMA, read
from lgbench.store.rows_file import read_table


def test_csv_has_a_line_a_row_and_every_column_but_lists(tmp_path, store):
    root = store(tmp_path / "r", lambda length, seed: 0.5, label='a, "b"', method_params={"low": "512"})
    assert export([root], "csv", tmp_path / "all.csv") == []
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and rows[0]["label"] == 'a, "b"' and rows[0]["method_params"] == '{"low": "512"}'
    assert float(rows[0]["value"]) == read([root]).table["value"][0].as_py()
    assert set(SCHEMA.names) - set(rows[0]) == {
        "item_values", "item_facts", "item_texts", "item_clusters", "kept_tokens",
    }  # fmt: skip


def test_parquet_holds_all_rows_and_the_environments_that_they_name(tmp_path, toy_store):
    import pyarrow.parquet as pq

    export([toy_store], "parquet", tmp_path / "all.parquet")
    assert read_table(tmp_path / "all.parquet").equals(read([toy_store]).table.combine_chunks())
    texts = pq.read_metadata(tmp_path / "all.parquet").metadata[ENVIRONMENTS.encode()].decode()
    (name,) = [path.stem for path in (toy_store / "environments").glob("*.json")]
    assert name in texts


def test_latex_has_a_booktabs_table_a_board_with_escaped_text(tmp_path, store):
    root = store(tmp_path / "r", lambda length, seed: 0.5, label="a_b[x=50%]")
    store(root, lambda length, seed: 0.6, method="better & more")
    export([root], "latex", tmp_path / "all.tex")
    text = (tmp_path / "all.tex").read_text()
    assert r"a\_b{[}x=50\%{]} &" in text and r"better \& more & \textbf{" in text
    for word in ("toprule", "midrule", "bottomrule"):
        assert rf"\{word}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 4 and {len(re.findall(r"(?<!\\)&", line)) for line in body} == {4}


def test_what_latex_would_read_as_commands_is_escaped():
    assert escape_latex("50% of $x_1 & #2 {~^\\}\nnext") == (
        r"50\% of \$x\_1 \& \#2 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\} next"
    )
    assert escape_latex("≥ 4× ± 0.1") == r"$\geq$ 4$\times$ $\pm$ 0.1"


def test_a_torn_file_is_named_and_the_rest_is_exported(tmp_path, store):
    root = store(tmp_path / "r", lambda length, seed: 0.5)
    path = next(root.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:300])
    for kind in ("csv", "latex", "parquet"):
        (sentence,) = export([root], kind, tmp_path / "out")
        assert str(path) in sentence
    assert read_table(tmp_path / "out").num_rows == 8


def test_wrong_requests_are_one_line(tmp_path, store):
    with pytest.raises(UserError, match="known are csv, latex, parquet"):
        export([tmp_path], "excel", tmp_path / "out")
    with pytest.raises(UserError, match="no results in"):
        export([tmp_path], "csv", tmp_path / "out")
    root = store(tmp_path / "r", lambda length, seed: 0.5)
    with pytest.raises(UserError, match="cannot write"):
        export([root], "csv", tmp_path)
