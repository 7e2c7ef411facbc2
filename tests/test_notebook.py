"""The notebook of `examples/` runs from its first cell to its last, in an empty folder."""

import json
import linecache
from pathlib import Path

from lgbench.plugins.registry import BACKBONES

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def test_the_notebook_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names, known = {"__name__": "notebook"}, BACKBONES.names()
    try:
        for number, text in enumerate(code):
            name = f"cell {number} of {NOTEBOOK.name}"
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # as IPython
            exec(compile(text, name, "exec"), names)
    finally:
        BACKBONES._found = {name: BACKBONES._found[name] for name in known}
    assert set(names["found"]["status"]) == {"ok"} and set(names["found"]["eval_length"]) == {32, 64, 256}
    assert set(names["table"].index) == {
        (backbone, method) for backbone in ("small_gru", "mamba") for method in ("vanilla", "last_window")
    }
    assert "accuracy" in set(names["found"]["metric"]) and names["table"].notna().all(axis=None)
    assert f"{names['found']['num_parameters'].iloc[0]:,} parameters" in capsys.readouterr().out
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
