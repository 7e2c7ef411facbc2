"""A plan of many cells costs little: what seeds share is resolved once."""

from lgbench.plan import cells
from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.params import PluginRequest


def resolved(seeds, monkeypatch):
    counted, real = [], cells.choose
    monkeypatch.setattr(cells, "choose", lambda *given: counted.append(given[0]) or real(*given))
    task = load_task(PluginRequest("marked_recall", {}))
    found = resolve_cells(
        [("marked_recall", task)], [PluginRequest("vanilla", {}), PluginRequest("last_window", {})],
        seeds=range(seeds), preset="smoke", axes=Axes(num_layers=[1, 2]), overrides={},
    )  # fmt: skip
    return found, len(counted)


def test_thousand_seeds_are_resolved_as_often_as_one(monkeypatch):
    few, once = resolved(1, monkeypatch)
    many, again = resolved(1000, monkeypatch)
    assert (len(few), len(many)) == (4, 4000)
    assert once == again == 4
    assert len({cell.key for cell in many}) == 4000
    assert [cell.seed for cell in many[:3]] == [0, 1, 2]
    assert {cell.key for cell in few} < {cell.key for cell in many}
