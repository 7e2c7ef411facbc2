"""Every plan of the reference results resolves: its tasks, methods, parameters and lengths exist and fit."""

from pathlib import Path

import pytest

from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.config import load_plan

PLANS = sorted((Path(__file__).parents[2] / "results" / "plans").glob("*.yaml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_plan_resolves_to_different_cells(path):
    keys = []
    for config in load_plan(path, {}):
        tasks, methods = config.requests()
        cells = resolve_cells(
            [(request.name, load_task(request)) for request in tasks],
            methods,
            seeds=range(config.seeds),
            preset=config.preset,
            axes=Axes(**config.axes()),
            overrides=config.recipe_overrides(),
        )
        assert any(not cell.left_out for cell in cells)
        keys += [cell.key for cell in cells]
    assert PLANS and len(keys) == len(set(keys)) >= 12
