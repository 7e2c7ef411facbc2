"""The figures of README.md and docs/ are those that the rows of results/ give."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("docs_figures", ROOT / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_figures_are_current(figures, tmp_path):
    drawn = figures.draw(tmp_path, ("svg",))
    assert len(drawn) == len(figures.SHOWN)
    stale = [path.name for path in drawn if path.read_bytes() != (figures.FIGURES / path.name).read_bytes()]
    assert not stale, f"draw them again with: python docs/figures.py ({', '.join(stale)})"
    assert all((figures.FIGURES / f"{name}.png").stat().st_size > 10_000 for name in figures.SHOWN)


def test_every_figure_of_a_text_is_drawn_or_said_to_come_from_a_run(figures):
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    used = {name for text in texts for name in re.findall(r"results/figures/([\w-]+)\.png", text.read_text())}
    assert used and used - {"omniglot-small-strip"} <= {*figures.SHOWN}
