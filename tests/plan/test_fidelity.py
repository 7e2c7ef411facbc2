"""`docs/fidelity.md` is what the plugins say today, and its commands can be typed."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from lgbench.cli import app
from lgbench.models import pretrained
from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.config import load_plan
from lgbench.plan.fidelity import published, render

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
FIGURES = published()


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == render(FIGURES), "lgbench fidelity --out docs/fidelity.md"


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure.paper}: {figure.shows}")
def test_a_command_resolves_to_cells_that_can_all_be_run(figure, monkeypatch):
    held = SimpleNamespace(sizes=SimpleNamespace(backbone="mamba"))
    monkeypatch.setattr(pretrained, "kept", lambda fingerprint: held)
    program, name, *words = shlex.split(figure.command)
    assert (program, name) == ("lgbench", "run")
    command = typer.main.get_command(app).commands[name]
    options = command.make_context(name, words).params
    typed = {key: value for key, value in options.items() if value and key != "dry_run"}
    (config,) = load_plan(None, typed)
    tasks, methods = config.requests()
    cells = resolve_cells(
        [(request.name, load_task(request)) for request in tasks],
        methods,
        seeds=range(config.seeds),
        preset=config.preset,
        axes=Axes(**config.axes()),
        overrides=config.recipe_overrides() | {"pretrained": config.pretrained or ""},
    )
    assert cells and not [cell.left_out for cell in cells if cell.left_out]


def test_what_is_published_has_a_command_of_its_own():
    assert len({figure.command for figure in FIGURES}) == len(FIGURES) >= 20
