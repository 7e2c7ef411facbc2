"""`docs/fidelity.md` is what the plugins say today, and its commands can be typed."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from lgbench.cli import app
from lgbench.cli_probe import named_probe
from lgbench.models import pretrained
from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.config import load_plan
from lgbench.plan.fidelity import published, render
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
FIGURES = published()


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == render(FIGURES), "lgbench fidelity --out docs/fidelity.md"


LOOKS = [figure for figure in FIGURES if figure.command.startswith("lgbench probe ")]
RUNS = [figure for figure in FIGURES if figure not in LOOKS]


def options_of(figure, name):
    program, command, *words = shlex.split(figure.command)
    assert (program, command) == ("lgbench", name)
    return typer.main.get_command(app).commands[name].make_context(name, words).params


@pytest.mark.parametrize("figure", LOOKS, ids=lambda figure: f"{figure.paper}: {figure.shows}")
def test_a_probes_command_names_a_probe_a_task_methods_and_increasing_numbers(figure):
    options = options_of(figure, "probe")
    probe, _ = named_probe(options["name"])
    assert options["task"] in TASKS.names() and set(options["method"] or ()) <= set(METHODS.names())
    lengths = [int(word) for word in (options["length"] or "").split(",") if word]
    assert lengths == sorted(set(lengths)) and probe.statistics
    assert options["backbone"] is None or options["backbone"] in BACKBONES.names()
    assert any("lgbench run" in text or "table above" in text for text in figure.deviations)


@pytest.mark.parametrize("figure", RUNS, ids=lambda figure: f"{figure.paper}: {figure.shows}")
def test_a_command_resolves_to_cells_that_can_all_be_run(figure, monkeypatch):
    held = SimpleNamespace(sizes=SimpleNamespace(backbone="mamba"))
    monkeypatch.setattr(pretrained, "kept", lambda fingerprint: held)
    options = options_of(figure, "run")
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
