"""The HTML page and what belongs to it."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from lgbench.errors import UserError
from lgbench.report import build_report
from lgbench.report.curves import load
from lgbench.report.trace import trace_cells
from lgbench.store import Store

NOTICE = "The images are procedural glyphs, not Omniglot: do not compare with published numbers."
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Tags that are open at the end, and every address that the page refers to."""

    def __init__(self, page):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def built(tmp_path_factory, store, store_missing):
    """A report on two methods of two seeds, a diverged one and a torn file."""
    folder = tmp_path_factory.mktemp("report")
    root = folder / "results"
    for seed in range(2):
        store(root, seed=seed, lengths=[256, 1024, 4096], data_source="procedural", notice=NOTICE)
        store(root, seed=seed, lengths=[256, 1024], label="truncated[low=512]", method="truncated",
              data_source="procedural", notice=NOTICE)  # fmt: skip
    cell = next((root / "rows" / "omniglot").glob("*.parquet")).stem
    (root / "strips" / "omniglot").mkdir(parents=True)
    truth = np.zeros((1, 127, 127))
    np.savez(
        root / "strips" / "omniglot" / f"{cell}.npz", truth=truth, reconstructions=truth[None], lengths=[256]
    )
    store_missing(root, label="expanded", seed=3, status="diverged", reason="loss is <NaN> & gone")
    (root / "rows" / "omniglot" / "torn.parquet").write_bytes(b"PAR1")
    (root / "environments").mkdir()
    (root / "environments" / "env.json").write_text(json.dumps({"python": "3.11.7", "host": "<b>"}))
    return root, build_report([root], folder / "out", figures=True)


def page_of(built):
    return built[1].html.read_text(encoding="utf-8")


def test_page_is_well_formed_and_refers_to_nothing_outside_itself(built):
    outline = Outline(page_of(built))
    assert outline.open == []
    assert outline.addresses
    assert all(re.match(r"#|data:image/svg\+xml;base64,", address) for address in outline.addresses)
    assert "@import" not in page_of(built) and "url(" not in page_of(built)


def test_page_has_every_method_its_values_and_the_ranking(built):
    text = " ".join(Outline(page_of(built)).text)
    for part in (
        "vanilla",
        "truncated[low=512]",
        "expanded",
        "Leaderboard",
        "effective length",
        "Chance",
        "chance",
    ):
        assert part in text
    assert re.search(r"0\.1\d\d\s+\[0\.1\d\d, 0\.1\d\d\]", text)


def test_page_warns_of_procedural_data_failures_and_unreadable_files(built):
    root, report = built
    text = " ".join(Outline(page_of(built)).text)
    assert NOTICE in text
    assert str(root / "rows" / "omniglot" / "torn.parquet") in text
    assert "omniglot, expanded, seed 3: diverged: loss is <NaN> & gone" in text
    assert any("torn.parquet" in warning for warning in report.warnings)
    assert NOTICE in report.warnings


def test_page_escapes_what_it_quotes(built):
    page = page_of(built)
    assert "loss is &lt;NaN&gt; &amp; gone" in page
    assert "<NaN>" not in page and "<b>" not in page


def test_page_tells_where_every_number_comes_from(built):
    text = " ".join(Outline(page_of(built)).text)
    for part in (
        "abc1234",
        "0.1.0",
        "torch",
        "CPU",
        "2.0 min",
        "1.00 GiB",
        "Environment env",
        '"python": "3.11.7"',
    ):
        assert part in text


def test_figures_come_as_png_pdf_and_svg_beside_the_page(built):
    _, report = built
    names = {path.name for path in report.figures}
    stem = "omniglot-procedural-small-mse"
    for figure in ("context", "cost", "strip-1"):
        assert {f"{stem}-{figure}.{kind}" for kind in ("png", "pdf", "svg")} <= names
    assert all(path.is_file() and path.parent == report.html.parent / "figures" for path in report.figures)


def test_building_again_changes_no_byte_and_leaves_no_temporary_file(built):
    root, report = built
    before = {path: path.read_bytes() for path in report.html.parent.rglob("*") if path.is_file()}
    again = build_report([root], report.html.parent, figures=True)
    assert again == report
    assert {path: path.read_bytes() for path in report.html.parent.rglob("*") if path.is_file()} == before


def test_only_failures_still_make_a_page(root, store_missing):
    store_missing(root, reason="no such kernel")
    report = build_report([root], root / "report")
    assert report.figures == []
    assert "no such kernel" in report.html.read_text()


def test_empty_store_says_what_to_run_and_writes_nothing(root):
    root.mkdir()
    with pytest.raises(UserError, match="Make some with: lgbench run"):
        build_report([root], root / "report")
    assert not (root / "report").exists()


def test_report_never_imports_torch(built):
    root, _ = built
    code = (
        "import sys; from pathlib import Path\n"
        "from lgbench.report import build_report, summary_table, write_leaderboard\n"
        f"root = Path({str(root)!r})\n"
        "summary_table([root])\n"
        "write_leaderboard([root], root / 'leaderboard.md')\n"
        "build_report([root], root / 'report')\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_page_has_a_table_by_position_and_costs_once_a_task(root, store):
    for metric in ("perplexity", "perplexity of all tokens"):
        store(root, lengths=[256, 1024], metric=metric)
    store(root, lengths=[256, 1024], metric="perplexity of all tokens", axis="position")
    report = build_report([root], root / "report")
    text = " ".join(Outline(report.html.read_text()).text)
    assert "perplexity of all tokens by position in the context" in text
    assert "0–256" in text and "256–1K" in text
    assert [path.name for path in report.figures if path.name.endswith("cost.svg")] == [
        "omniglot-omniglot-small-small-perplexity-cost.svg"
    ]


def test_time_of_a_pass_that_gave_several_metrics_counts_once(root, make_row):
    rows = [
        make_row(
            cell="c", metric=metric, axis=axis, eval_length=length, eval_wall_s=60.0, shared_prefix=shared
        )
        for shared, length in ((False, 256), (False, 1024), (True, 2048), (True, 4096))
        for metric, axis in (("perplexity", "context"), ("all", "context"), ("all", "position"))
    ]
    Store(root).write("omniglot", "c", rows)
    (line,) = trace_cells(load([root]).rows)
    assert line["evaluation"] == "3.0 min"


def test_many_lines_of_several_training_lengths_are_one_figure_a_length(tmp_path, store):
    for length in (256, 1024):
        for method in map(str, range(6)):
            store(tmp_path, lengths=[64, 256, 1024], train_length=length, label=method, method=method)
    made = build_report([tmp_path], tmp_path / "report")
    names = {path.stem.partition("-mse-")[2] for path in made.figures}
    assert {"context-256", "context-1024"} <= names and "context" not in names
