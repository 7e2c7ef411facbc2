"""Whatever the code of a plugin does, it is the row of its cell, and the plan goes on."""

import json

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.launchers import local
from lgbench.plan.cells import checkpoint_folder
from lgbench.run import checkpoint, saved
from lgbench.store import read

QUICK = dict(train_steps=[6], eval_lengths=(1, 16), query_grid=())
OPTIONS = ["--train-steps", "6", "--eval-lengths", "1,16", "--query-grid", "1"]

REASONS = {
    "exit": "SystemExit: 0",
    "silence": "AssertionError",
    "wordless": "refused without a word",
    "surrogate": "RuntimeError: a name that is no text: caf\\udce9",
    "crash": "RuntimeError: boom [/red]",
}


def rows(store):
    """(label, status, reason) of each cell."""
    found = read([store.root]).table.select(["label", "status", "reason"]).to_pylist()
    return {(row["label"], row["status"], row["reason"]) for row in found}


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        (kind, when)
        for kind in REASONS
        for when in ("train", "evaluation", "unsupported", "check", "intervention", "calibration_length")
        if (kind, when) != ("wordless", "check")  # a refusal of the recipe, which leaves the cell out
    ],
)
def test_what_a_plugin_ends_with_is_the_row_of_its_cell_and_the_others_go_on(toy_cells, run_toy, kind, when):
    trouble = f"toy_trouble[kind={kind},when={when}]" if when != "train" else f"toy_trouble[kind={kind}]"
    trouble = trouble.replace("[kind=crash]", "").replace("kind=crash,", "")
    outcome, store = run_toy(toy_cells(f"{trouble},vanilla", **QUICK))
    assert outcome.finished == 1
    assert [(status, reason) for _, status, reason in outcome.failed] == [("failed", REASONS[kind])]
    assert rows(store) == {("vanilla", "ok", ""), (trouble, "failed", REASONS[kind])}


def test_an_exit_of_a_plugin_is_no_success_of_the_command(toy_options, tmp_path):
    asked = [*toy_options, *OPTIONS, "--results", str(tmp_path), "--method", "toy_trouble[kind=exit],vanilla"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1 and "failed: SystemExit: 0" in result.output
    assert "Cells without numbers: 1" in result.output


BROKEN_TASK = '''"""A task whose data cannot be prepared."""

from lgbench.errors import UserError
from lgbench.plugins.registry import TASKS

Task = TASKS.load("toy_average")


class Broken(Task):
    """Fails."""

    def prepare(self, device, data_dir=None):
        """Fails."""
        raise {error}
'''


@pytest.mark.parametrize(
    ("error", "line", "alone"),
    [
        (
            "ZeroDivisionError('no [/data] here')",
            "task 'broken' fails while its data are prepared: ZeroDivisionError: no [/data] here",
            "nothing to run: task 'broken' fails while its data are prepared: ZeroDivisionError",
        ),
        ("UserError('no [/data] here')", "task 'broken': no [/data] here", "no [/data] here"),
        (
            "SystemExit(0)",
            "task 'broken' fails while its data are prepared: SystemExit: 0",
            "nothing to run: ",
        ),
    ],
    ids=["exception", "user-error", "exit"],
)
def test_a_task_that_fails_while_it_is_prepared_is_a_line_and_the_other_tasks_go_on(
    toy_options, tmp_path, error, line, alone
):
    path = tmp_path / "broken.py"
    path.write_text(BROKEN_TASK.replace("{error}", error))
    asked = [*toy_options, *OPTIONS, "--plugin", str(path), "--results", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*asked, "--task", "broken"])
    assert result.exit_code == 1 and f"Left out: {line}" in result.output
    assert set(read([tmp_path / "runs"]).table["status"].to_pylist()) == {"ok"}
    asked[asked.index("toy_average")] = "broken"
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2 and f"lgbench: {alone}" in result.output


MADE_BADLY = '''"""A plugin that fails when it is made."""

import sys

from lgbench.method import Method
from lgbench.plugins.registry import TASKS

Task = TASKS.load("toy_average")


class {name}({base}):
    """Fails."""

    def __init__(self, params=None):
        """Fails."""
        {how}
'''


@pytest.mark.parametrize("how", ["sys.exit(0)", "raise ValueError('no [/red]')"], ids=["exit", "exception"])
@pytest.mark.parametrize(("option", "base"), [("--task", "Task"), ("--method", "Method")])
def test_a_plugin_that_fails_when_it_is_made_leaves_the_others_going(
    toy_options, tmp_path, option, base, how
):
    path = tmp_path / "made_badly.py"
    path.write_text(MADE_BADLY.format(name="MadeBadly", base=base, how=how))
    asked = [*toy_options, *OPTIONS, "--plugin", str(path), "--results", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*asked, option, "made_badly", "--method", "vanilla"])
    said = "SystemExit: 0" if "exit" in how else "ValueError: no [/red]"
    line = f"Left out: {option[2:]} 'made_badly' fails when it is made: {said}"
    assert result.exit_code == 1 and line in result.output
    assert set(read([tmp_path / "runs"]).table["status"].to_pylist()) == {"ok"}


EXITS = '''"""A backbone that ends the process."""

import sys

from lgbench.backbone import Backbone


class Exits(Backbone):
    """Ends the process."""

    def {where}:
        """Ends the process."""
        sys.exit(0)
'''


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("mixer(self, d_model, layer)", "backbone 'exits' breaks its contract, it computes: SystemExit: 0"),
        ("check_backend(cls, *_)", "the code of a plugin ended the command by sys.exit(0)"),
    ],
    ids=["asked-for", "anywhere"],
)
def test_an_exit_of_a_backbone_before_anything_runs_is_no_success(toy_options, tmp_path, where, line):
    path = tmp_path / "exits.py"
    path.write_text(EXITS.format(where=where))
    asked = [*toy_options, "--plugin", str(path), "--results", str(tmp_path), "--backbone", "exits"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code in (1, 2) and f"lgbench: {line}" in result.output


def unsealed(path, facts):
    """Write a checkpoint as before seals, with these facts."""
    save_file(load_file(path), path, metadata={"facts": facts})


@pytest.mark.parametrize("facts", ["[]", "{}", "null", "[" * 100_000, '{"step": 6}', "x"])
def test_a_checkpoint_with_bad_metadata_is_made_again(toy_cells, run_toy, facts, capfd):
    cells = toy_cells("vanilla", **QUICK)
    _, store = run_toy(cells)
    before = read([store.root]).table["item_values"].to_pylist()
    path = checkpoint.weights_path(checkpoint_folder(store.root, cells[0].training), 6)
    unsealed(path, facts)
    store.path(cells[0].task, cells[0].key).unlink()
    outcome, _ = run_toy(cells)
    assert outcome.finished == 1 and "is damaged" in capfd.readouterr().err
    assert read([store.root]).table["item_values"].to_pylist() == before
    assert path.with_name(f"{path.name}.damaged").exists()


def test_a_checkpoint_of_an_older_version_with_its_metadata_counts(toy_cells, run_toy, monkeypatch):
    cells = toy_cells("vanilla", **QUICK)
    _, store = run_toy(cells)
    path = checkpoint.weights_path(checkpoint_folder(store.root, cells[0].training), 6)
    _, facts = checkpoint.load(path)
    unsealed(path, json.dumps(facts))
    store.path(cells[0].task, cells[0].key).unlink()
    monkeypatch.setattr(local, "train_all", lambda *_, **__: pytest.fail("trained again"))
    assert run_toy(cells)[0].finished == 1


def test_weights_that_cannot_be_saved_are_said_as_that_and_the_training_is_kept(
    toy_cells, run_toy, monkeypatch
):
    cells = toy_cells("vanilla,prepended", **QUICK)
    with monkeypatch.context() as patch:
        save = saved._save_weights

        def fail(trainer):
            if trainer.training.method == "vanilla":
                raise TypeError("no such kind of tensor")
            save(trainer)

        patch.setattr(saved, "_save_weights", fail)
        outcome, store = run_toy(cells)
    assert outcome.finished == 1
    ((cell, status, reason),) = outcome.failed
    assert (cell.method, status) == ("vanilla", "failed")
    assert "trained, but the weights after step 6 cannot be saved: TypeError: no such kind" in reason
    steps = []
    monkeypatch.setattr(local.Trainer, "one_step", lambda trainer: steps.append(trainer.step))
    again, _ = run_toy(cells)
    assert again.finished == 1 and steps == [], "its state was kept"
    assert {status for _, status, _ in rows(store)} == {"ok"}


def test_milestones_before_weights_that_cannot_be_saved_are_measured(toy_cells, run_toy, monkeypatch):
    save = saved._save_weights

    def fail_at_the_end(trainer):
        if trainer.finished:
            raise MemoryError("no room for a copy")
        save(trainer)

    monkeypatch.setattr(saved, "_save_weights", fail_at_the_end)
    outcome, _ = run_toy(toy_cells("vanilla", **QUICK, eval_at_steps=[2, 4]))
    assert outcome.finished == 2
    assert [(cell.step, status) for cell, status, _ in outcome.failed] == [(6, "out_of_memory")]


@pytest.mark.parametrize("when", ["train", "evaluation"])
def test_a_cell_that_diverged_has_one_exit_status_in_every_run(toy_options, tmp_path, when):
    trouble = f"toy_trouble[kind=nan,when={when}],vanilla"
    asked = [*toy_options, *OPTIONS, "--results", str(tmp_path), "--method", trouble]
    first, again = CliRunner().invoke(app, asked), CliRunner().invoke(app, asked)
    assert "diverged" in first.output and "Finished already" in again.output
    assert (first.exit_code, again.exit_code) == (1, 1)
    for run in (first, again):
        assert "Cells without numbers: 1" in run.output


def test_a_cell_that_diverged_counts_alike_whoever_ran_it(toy_cells, run_toy):
    cells = toy_cells("toy_trouble[kind=nan,when=evaluation],vanilla", **QUICK)
    first, _ = run_toy(cells)
    again, _ = run_toy(cells)
    assert first.failed == again.failed != []
    assert (first.finished, again.finished, again.skipped_as_done) == (1, 0, 2)


@pytest.fixture
def begun(monkeypatch):
    """Names of the trainings that were begun, and of the cells that were measured."""
    trained, measured = [], []
    train_all, run_cell = local.train_all, local.run_cell

    def watched_train(trainers, **options):
        trained.extend(t.training.method for t in trainers)
        return train_all(trainers, **options)

    def watched_cell(cell, *more):
        measured.append(cell.label)
        return run_cell(cell, *more)

    monkeypatch.setattr(local, "train_all", watched_train)
    monkeypatch.setattr(local, "run_cell", watched_cell)
    return trained, measured


def test_force_takes_single_cells(toy_cells, run_toy, begun):
    trained, measured = begun
    cells = toy_cells("vanilla,prepended,toy_shrink", **QUICK)
    _, store = run_toy(cells)
    trained.clear(), measured.clear()
    before = {cell.label: store.path(cell.task, cell.key).stat().st_mtime_ns for cell in cells}
    outcome, _ = run_toy(cells, force=(cells[1].key[:6],))
    assert (trained, measured) == (["prepended"], ["prepended"])
    assert (outcome.finished, outcome.skipped_as_done) == (1, 2)
    after = {cell.label: store.path(cell.task, cell.key).stat().st_mtime_ns for cell in cells}
    assert {label for label in before if before[label] != after[label]} == {"prepended"}


def test_the_command_takes_names_of_cells_and_refuses_what_is_none(toy_options, tmp_path, begun):
    _, measured = begun
    asked = [*toy_options, *OPTIONS, "--results", str(tmp_path), "--method", "vanilla,prepended"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    measured.clear()
    found = read([tmp_path]).table.select(["cell", "method"]).to_pylist()
    (key,) = {row["cell"] for row in found if row["method"] == "vanilla"}
    assert CliRunner().invoke(app, [*asked, "--force-cells", key]).exit_code == 0
    assert measured == ["vanilla"]
    for wrong in ("zzzz", key[:3]):
        result = CliRunner().invoke(app, [*asked, "--force-cells", wrong])
        assert result.exit_code == 2 and f"--force-cells {wrong}: no cell of this plan" in result.output


def test_a_plugin_that_keeps_an_interruption_to_itself_does_not_keep_the_plan_going(toy_cells, run_toy):
    from lgbench import interrupt

    cells = toy_cells("vanilla,prepended", **QUICK)
    with interrupt.listening():
        interrupt._state.first = 2  # as if Ctrl-C had come in a block that caught it
        with pytest.raises(KeyboardInterrupt):
            run_toy(cells)
