"""Calibration descends, repeats, sees training items only, and is paid once a checkpoint."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from lgbench.method import Method, ScanIntervention
from lgbench.models.model import build_model
from lgbench.plugins.registry import TASKS
from lgbench.run.calibrate import CalibrationData, Fit, check_disjoint, fit_lengths
from lgbench.run.measure import Items, run_cell
from lgbench.store import read


class _Fitted(Method):
    """Fits one number by looking at the loss once; notes what it was given."""

    prefix_exact = False
    calls: ClassVar[list] = []

    def calibration_length(self, length, train_length):
        return max(length, train_length)

    def calibrate(self, model, data, length):
        batch = data.draw("calibration", 3, length)
        self.calls.append((length, data.loss(model, batch, {"timestep_scale": torch.tensor(0.5)})))
        return {"timestep_scale": torch.tensor(0.5)}

    def intervention(self, train_length, d_model):
        return _Half()


class _Half(ScanIntervention):
    scale = torch.tensor(1.0)

    def use(self, fitted):
        self.scale = fitted.get("timestep_scale", torch.tensor(1.0))

    def timestep(self, layer, delta):
        return delta * self.scale


@pytest.fixture
def fitted_model(toy_task, monkeypatch):
    monkeypatch.setattr(_Fitted, "calls", [])
    recipe = replace(toy_task.recipe("smoke", "causal"), query_grid=())
    return build_model(toy_task, _Fitted(), recipe, seed=0), recipe


def fit_toy(model, recipe, task, folder, method=None, seed=3):
    return fit_lengths(model, task, method or _Fitted(), recipe, name="fitted", seed=seed, folder=folder)


def test_a_calibrator_cannot_reach_the_evaluation_items(toy_cells, run_toy, toy_task, monkeypatch):
    """With evaluation items that cannot be made or read, all calibrations run to their end."""
    methods = ["mambaextend[steps=1]", "mambamodulation[steps=1,calibrator=spsa]", "longmamba", "decimamba"]
    cells = toy_cells(*methods, train_steps=[2], eval_lengths=(8, 32), query_grid=())
    _, store = run_toy(toy_cells("vanilla", train_steps=[2], eval_lengths=(8, 32), query_grid=()))
    items = Items(toy_task, 6)

    def unreachable(*args, **kwargs):
        raise AssertionError("a calibrator asked for evaluation items")

    for task_class in type(toy_task).__mro__[:-1]:
        if "eval_set" in vars(task_class):
            monkeypatch.setattr(task_class, "eval_set", unreachable)
    monkeypatch.setattr(type(items.items), "context", unreachable)
    monkeypatch.setattr(type(items.items), "queries", unreachable)
    from lgbench.run import measure as cells_module

    reached = []
    monkeypatch.setattr(
        cells_module, "check_disjoint", lambda fits, items, lengths: reached.append(fits) or 1 / 0
    )
    for cell in cells:
        with pytest.raises(ZeroDivisionError):
            run_cell(cell, toy_task, items, store)
    assert len(reached) == 4 and all(fits[32].num_fitted > 0 for fits in reached)


def test_calibration_validation_and_training_draw_different_items(toy_task):
    recipe = toy_task.recipe("smoke", "causal")
    data = CalibrationData(toy_task, Method(), recipe, 0, {})
    draws = [data.draw(part, 4, 8).context["copies"] for part in ("calibration", "validation")]
    draws.append(toy_task.sample(4, 8, 4, torch.Generator().manual_seed(0)).context["copies"])
    draws.append(
        CalibrationData(toy_task, Method(), recipe, 1, {}).draw("calibration", 4, 8).context["copies"]
    )
    for k, one in enumerate(draws):
        assert not any(torch.equal(one, other) for other in draws[k + 1 :])
    again = CalibrationData(toy_task, Method(), recipe, 0, {}).draw("calibration", 4, 8).context["copies"]
    assert torch.equal(again, draws[0])
    assert data.tokens == 2 * 4 * (8 + recipe.train_queries[1])


def test_an_overlap_with_the_evaluation_items_is_refused(toy_task):
    items = toy_task.eval_set(6, 0)
    recipe = toy_task.recipe("smoke", "causal")
    data = CalibrationData(toy_task, Method(), recipe, 0, {})
    data.draw("calibration", 4, 32)
    check_disjoint({32: Fit(digests=data.digests)}, items, {32})
    stolen = CalibrationData(toy_task, Method(), recipe, 0, {})
    stolen._sample = lambda n, length, q, g: (
        toy_task.sample(n, length, q, g) if length != 32 else _steal(items)
    )
    stolen.draw("calibration", 4, 32)
    with pytest.raises(ValueError, match="share 6 items of 32 context tokens"):
        check_disjoint({32: Fit(digests=stolen.digests)}, items, {32})


def _steal(items):
    from lgbench.task import Batch

    queries, targets = items.queries(slice(None), 32, 4)
    return Batch(items.context(slice(None), 0, 32, 32), queries, targets)


def test_the_objective_is_the_loss_of_the_task_streamed_or_whole_in_any_batches(
    toy_task, fitted_model, monkeypatch
):
    model, recipe = fitted_model
    data = CalibrationData(toy_task, _Fitted(), recipe, 0, {})
    batch = data.draw("calibration", 5, 40)
    trial = {"timestep_scale": torch.tensor(0.5)}
    got = data.loss(model, batch, trial)
    with torch.no_grad():
        wanted = toy_task.loss(model.answer(batch, mode="score", length=40), batch.targets).mean().item()
    assert got == pytest.approx(wanted, rel=1e-5)
    monkeypatch.setattr("lgbench.run.calibrate.PIECE", 7)
    assert data.loss(model, batch, trial) == pytest.approx(wanted, rel=1e-5)
    learnt = {"timestep_scale": torch.tensor(0.5, requires_grad=True)}
    assert data.loss(model, batch, learnt) == pytest.approx(wanted, rel=1e-5)
    gradient = learnt["timestep_scale"].grad
    model.intervention.use(
        plain := {"timestep_scale": torch.tensor(0.5, dtype=torch.float32, requires_grad=True)}
    )
    toy_task.loss(model.answer(batch, mode="score", length=40), batch.targets).mean().backward()
    torch.testing.assert_close(gradient, plain["timestep_scale"].grad, rtol=1e-4, atol=1e-7)


def test_half_as_many_items_are_read_in_pieces_of_twice_the_length(toy_task, fitted_model, monkeypatch):
    model, recipe = fitted_model
    monkeypatch.setattr("lgbench.run.calibrate.PIECE", 8)
    data = CalibrationData(toy_task, _Fitted(), replace(recipe, eval_batch=4), 0, {})
    seen, read = [], model.read_context
    monkeypatch.setattr(
        model,
        "read_context",
        lambda c, *rest: (seen.append(next(iter(c.values())).shape[1]), read(c, *rest))[1],
    )
    for num_items in (4, 2):
        data.loss(model, data.draw("calibration", num_items, 40), {})
    assert seen == [8] * 5 + [16, 16, 8]


def test_lengths_that_ask_for_the_same_fit_share_it_and_files_save_the_work(toy_task, fitted_model, tmp_path):
    model, recipe = fitted_model
    first = fit_toy(model, recipe, toy_task, tmp_path)
    assert [length for length, _ in _Fitted.calls] == [16, 48]
    assert first[1] is first[5] is first[16] and set(first) == {1, 5, 16, 48}
    again = fit_toy(model, recipe, toy_task, tmp_path)
    assert len(_Fitted.calls) == 2 and again[48].tokens == first[48].tokens == 3 * (48 + 4)
    assert torch.equal(again[48].values["timestep_scale"], first[48].values["timestep_scale"])
    assert again[48].wall_s == first[48].wall_s and again[48].digests == first[48].digests


def test_other_weights_or_another_seed_are_calibrated_anew(toy_task, fitted_model, tmp_path):
    model, recipe = fitted_model
    fit_toy(model, recipe, toy_task, tmp_path)
    fit_toy(model, recipe, toy_task, tmp_path, seed=4)
    assert len(_Fitted.calls) == 4
    with torch.no_grad():
        model.backbone.blocks[0].D.add_(1)
    fit_toy(model, recipe, toy_task, tmp_path)
    assert len(_Fitted.calls) == 6


def test_calibration_leaves_the_weights_bit_for_bit(toy_task, fitted_model, tmp_path):
    model, recipe = fitted_model
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fit_toy(model, recipe, toy_task, tmp_path)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_rows_say_what_a_calibration_cost_and_assumed(toy_cells, run_toy):
    cells = toy_cells("vanilla", "mambaextend[steps=2,items=3]", train_steps=[2])
    outcome, store = run_toy(cells)
    assert not outcome.failed and cells[0].training == cells[1].training
    rows = [r for r in read([store.root]).table.to_pylist() if r["method"] == "mambaextend"]
    facts = {(r["axis"], r["eval_length"]): r for r in rows}
    for (axis, length), row in facts.items():
        assert row["assumed_length"] == max(length, 16)
        if length > 16:
            assert row["num_fitted"] == 2 and row["calibration_wall_s"] > 0
            assert row["calibration_tokens"] == 2 * 3 * (length + 4)
        else:
            assert row["num_fitted"] == row["calibration_tokens"] == 0
        assert row["needs_length"] and row["apply_in_decode"] and row["protocol"] == "clean"
        assert axis == "context" or length == 16
    assert facts["context", 48]["calibration_wall_s"] != facts["context", 16]["calibration_wall_s"]


@pytest.mark.parametrize(
    "name, params", [("marked_recall", {}), ("omniglot", {"filler": 0.2, "data": "procedural"}),
                     ("perplexity", {"data": "procedural"}), ("passkey", {"data": "procedural"})],
)  # fmt: skip
def test_items_are_drawn_on_the_cpu_wherever_the_data_of_a_task_live(name, params):
    """Data on the device "meta", which has shapes alone and draws nothing: what is drawn is the CPU's."""
    task_class = TASKS.load(name)
    task = task_class(task_class.Params(**params))
    task.prepare(torch.device("meta"))
    recipe = task.recipe("smoke", "causal")
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    batch = task.sample(2, recipe.train_length, 1, generator)
    assert not torch.equal(generator.get_state(), before)
    assert next(iter(batch.context.values())).shape[:2] == (2, recipe.train_length)


def test_fits_keep_their_names_when_a_parameter_is_given_at_its_default(toy_task, fitted_model, tmp_path):
    """And a new parameter, which no kept fit knows, changes none of their names."""
    model, recipe = fitted_model

    class Grown(_Fitted):
        class Params(Method.Params):
            added: int = 1

    fit_toy(model, recipe, toy_task, tmp_path)
    fit_toy(model, recipe, toy_task, tmp_path, method=Grown())
    assert len(_Fitted.calls) == 2
    fit_toy(model, recipe, toy_task, tmp_path, method=Grown(Grown.Params(added=2)))
    assert len(_Fitted.calls) == 4
