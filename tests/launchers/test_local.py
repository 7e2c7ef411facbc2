"""A plan is carried out cell by cell: nothing twice, trainings shared, every failure a row, Ctrl-C polite."""

import io
import os
import re
import signal
import threading

import pytest
from rich.console import Console

from lgbench.errors import UserError
from lgbench.launchers import local
from lgbench.launchers.local import run_plan, task_key
from lgbench.plan.cells import checkpoint_folder
from lgbench.run import checkpoint, train
from lgbench.run.measure import failure_path
from lgbench.run.progress import Progress
from lgbench.run.train import Trainer
from lgbench.store import Store, read

QUICK = dict(train_steps=[6], eval_lengths=(1, 16), query_grid=())


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(train, "LOG_EVERY", 2)


@pytest.fixture
def trained(monkeypatch):
    """Names and steps of the trainings that were begun, in order."""
    begun, start = [], local.train_all

    def watched(trainers, **options):
        begun.append([(t.training.method, t.step) for t in trainers])
        return start(trainers, **options)

    monkeypatch.setattr(local, "train_all", watched)
    return begun


def statuses(store):
    """Status of every cell by label and step."""
    rows = read([store.root]).table.to_pylist()
    return {(row["label"], row["step"]): row["status"] for row in rows}


def test_finished_cells_are_not_run_again(toy_cells, run_toy, trained):
    cells = toy_cells("vanilla,prepended", **QUICK)
    first, store = run_toy(cells)
    assert (first.finished, first.skipped_as_done, first.failed) == (2, 0, [])
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("*.parquet")}
    again, _ = run_toy(toy_cells("vanilla,prepended,truncated", **QUICK))
    assert (again.finished, again.skipped_as_done) == (1, 2)
    assert [name for batch in trained for name, _ in batch] == ["vanilla", "prepended", "truncated"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_force_trains_and_evaluates_again_with_the_same_numbers(toy_cells, run_toy, trained):
    cells = toy_cells("vanilla", **QUICK)
    _, store = run_toy(cells)
    values = read([store.root]).table["value"].to_pylist()
    again, _ = run_toy(cells, force=True)
    assert (again.finished, again.skipped_as_done) == (1, 0)
    assert trained == [[("vanilla", 0)], [("vanilla", 0)]]
    assert read([store.root]).table["value"].to_pylist() == values


def test_methods_that_train_alike_train_once(toy_cells, run_toy, trained):
    cells = toy_cells("toy_shrink[factor=[0.5,0.25]],vanilla,prepended[tell=[1,2]]", **QUICK)
    outcome, store = run_toy(cells)
    assert outcome.finished == 5
    assert trained == [[("vanilla", 0)], [("prepended", 0)]]
    assert len(list((store.root / "checkpoints").iterdir())) == 2


def test_weights_that_are_there_already_are_not_trained_again(toy_cells, run_toy, trained):
    run_toy(toy_cells("vanilla", **QUICK))
    outcome, _ = run_toy(toy_cells("toy_shrink", **QUICK))
    assert outcome.finished == 1 and trained == [[("vanilla", 0)]]


def test_torn_weights_are_trained_again(toy_cells, run_toy, trained):
    cells = toy_cells("vanilla", **QUICK)
    _, store = run_toy(cells)
    values = read([store.root]).table["value"].to_pylist()
    path = checkpoint.weights_path(checkpoint_folder(store.root, cells[0].training), 6)
    path.write_bytes(path.read_bytes()[:100])
    store.path(cells[0].task, cells[0].key).unlink()
    run_toy(cells)
    assert len(trained) == 2
    assert read([store.root]).table["value"].to_pylist() == values


def test_steps_along_a_training_are_evaluated_from_one_training(toy_cells, run_toy, trained):
    outcome, store = run_toy(toy_cells("vanilla", **QUICK, eval_at_steps=[1, 3]))
    assert outcome.finished == 3 and trained == [[("vanilla", 0)]]
    assert statuses(store) == {("vanilla", step): "ok" for step in (1, 3, 6)}


def test_side_by_side_gives_the_rows_of_one_after_another(toy_cells, run_toy, trained):
    cells = toy_cells("vanilla,prepended,transformer", **QUICK)
    _, one = run_toy(cells, root="one", side_by_side=1)
    _, many = run_toy(cells, root="many", side_by_side=2)
    assert [len(batch) for batch in trained] == [1, 1, 1, 2, 1]
    columns = ["cell", "eval_length", "value", "item_values", "train_loss"]
    tables = [
        read([store.root]).table.select(columns).sort_by([("cell", "ascending")]) for store in (one, many)
    ]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_a_nan_loss_is_a_diverged_row_and_the_others_go_on(toy_cells, run_toy, side_by_side):
    cells = toy_cells("vanilla,toy_trouble[kind=nan],prepended", **QUICK)
    outcome, store = run_toy(cells, side_by_side=side_by_side)
    assert outcome.finished == 2
    ((cell, status, reason),) = outcome.failed
    assert (cell.method, status) == ("toy_trouble", "diverged") and reason.startswith("loss became nan")
    assert sorted(statuses(store).values()) == ["diverged", "ok", "ok"]
    again, _ = run_toy(cells)
    assert again.skipped_as_done == 3, "a divergence would only repeat itself"


def test_what_was_reached_before_a_divergence_is_measured(toy_cells, run_toy):
    cells = toy_cells("toy_trouble[kind=nan,after=4]", **QUICK, eval_at_steps=[1, 3, 5])
    outcome, store = run_toy(cells)
    label = cells[0].label
    assert statuses(store) == {
        (label, 1): "ok",
        (label, 3): "ok",
        (label, 5): "diverged",
        (label, 6): "diverged",
    }
    assert outcome.finished == 2 and len(outcome.failed) == 2


@pytest.mark.parametrize("when", ["train", "evaluation"])
@pytest.mark.parametrize("side_by_side", [1, 3])
def test_an_exception_is_a_failed_row_with_its_traceback_and_the_others_go_on(
    toy_cells, run_toy, when, side_by_side
):
    cells = toy_cells(f"vanilla,toy_trouble[when={when}],prepended", **QUICK)
    outcome, store = run_toy(cells, side_by_side=side_by_side)
    assert outcome.finished == 2
    ((cell, status, reason),) = outcome.failed
    assert (status, reason) == ("failed", "RuntimeError: boom [/red]")
    text = failure_path(store.root, cell).read_text()
    assert text.startswith("Traceback") and "toy_trouble.py" in text and text.endswith("boom [/red]\n")
    (row,) = [r for r in read([store.root]).table.to_pylist() if r["cell"] == cell.key]
    assert row["status"] == "failed" and row["reason"] == reason and row["value"] is None


def test_a_failed_cell_is_tried_again_by_the_next_run(toy_cells, run_toy, trained):
    cells = toy_cells("toy_trouble,vanilla", **QUICK)
    run_toy(cells)
    again, _ = run_toy(cells)
    assert again.skipped_as_done == 1 and len(again.failed) == 1
    assert [batch[0][0] for batch in trained] == ["toy_trouble", "vanilla", "toy_trouble"]


@pytest.mark.parametrize("when", ["train", "evaluation"])
def test_too_little_memory_is_a_row_that_says_so(toy_cells, run_toy, when):
    outcome, store = run_toy(toy_cells(f"toy_trouble[kind=memory,when={when}],vanilla", **QUICK))
    assert [(status, reason.rsplit(": ", 1)[1]) for _, status, reason in outcome.failed] == [
        ("out_of_memory", "tried to allocate too much")
    ]
    assert sorted(statuses(store).values()) == ["ok", "out_of_memory"]


def test_a_model_that_cannot_be_built_is_a_failed_row(toy_cells, run_toy, monkeypatch):
    start = Trainer.__init__

    def broken(self, training, *rest):
        if training.method == "prepended":
            raise ValueError("no such width")
        start(self, training, *rest)

    monkeypatch.setattr(Trainer, "__init__", broken)
    outcome, store = run_toy(toy_cells("prepended,vanilla", **QUICK), side_by_side=2)
    assert [reason for *_, reason in outcome.failed] == ["ValueError: no such width"]
    assert sorted(statuses(store).values()) == ["failed", "ok"]


def test_items_that_cannot_be_made_are_failed_rows(toy_cells, toy_task, run_toy, monkeypatch):
    monkeypatch.setattr(toy_task, "references", lambda items, num_queries, metric: 1 / 0)
    outcome, _ = run_toy(toy_cells("vanilla,prepended", **QUICK))
    assert [reason for *_, reason in outcome.failed] == ["ZeroDivisionError: division by zero"] * 2


def test_a_method_that_does_not_apply_is_a_skipped_row_and_not_a_failure(toy_cells, run_toy, trained):
    outcome, store = run_toy(toy_cells("toy_trouble[kind=unsupported],vanilla", **QUICK))
    assert outcome.finished == 1 and outcome.failed == []
    rows = {row["method"]: row for row in read([store.root]).table.to_pylist()}
    assert rows["toy_trouble"]["status"] == "skipped"
    assert rows["toy_trouble"]["reason"] == "it was asked to refuse"
    assert trained == [[("vanilla", 0)]]


@pytest.mark.parametrize("side_by_side", [1, 3])
@pytest.mark.parametrize("when", ["train", "evaluation"])
def test_what_one_cell_cannot_do_is_its_failed_row_and_the_others_go_on(
    toy_cells, run_toy, when, side_by_side
):
    cells = toy_cells(f"toy_trouble[kind=refusal,when={when}],vanilla,prepended", **QUICK)
    outcome, store = run_toy(cells, side_by_side=side_by_side)
    assert outcome.finished == 2
    assert [(c.method, *why) for c, *why in outcome.failed] == [("toy_trouble", "failed", "no such length")]
    assert sorted(statuses(store).values()) == ["failed", "ok", "ok"]
    assert not (store.root / "failures").exists(), "the reason says it all"


def test_a_disk_that_is_full_ends_the_run_with_one_line(toy_cells, run_toy, monkeypatch, tmp_path):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    cells = toy_cells("vanilla", **QUICK)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device"):
        patch.setattr(checkpoint, "save_file", no_space)
        run_toy(cells)
    left = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert left == []
    outcome, _ = run_toy(cells)
    assert outcome.finished == 1


class PressingCtrlC(Progress):
    """Presses Ctrl-C at the given looks at a loss."""

    def __init__(self, at):
        super().__init__(Console(file=io.StringIO()))
        self.at = at

    def training(self, trainer):
        super().training(trainer)
        if trainer.step in self.at:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_leaves_a_resumable_state_from_which_the_same_numbers_come(
    toy_cells, toy_task, run_toy, trained, tmp_path
):
    cells = toy_cells("vanilla,transformer", **QUICK)
    _, whole = run_toy(cells, root="whole")
    store, tasks = Store(tmp_path / "cut"), {task_key(c): toy_task for c in cells}
    trained.clear()
    previous = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_plan(cells, tasks, store, PressingCtrlC(at=[4]))
    assert signal.getsignal(signal.SIGINT) is previous
    assert checkpoint.resume_path(checkpoint_folder(store.root, cells[0].training)).exists()
    assert not list(store.root.rglob("*.parquet"))
    outcome, _ = run_toy(cells, root="cut")
    assert outcome.finished == 2
    assert trained == [[("vanilla", 0)], [("vanilla", 4)], [("transformer", 0)]]
    columns = ["cell", "eval_length", "item_values", "train_loss"]
    tables = [read([s.root]).table.select(columns).sort_by([("cell", "ascending")]) for s in (whole, store)]
    assert tables[0].equals(tables[1])


def test_ctrl_c_with_the_last_step_of_a_training_keeps_its_weights_and_begins_nothing_else(
    toy_cells, toy_task, run_toy, trained, tmp_path
):
    cells = toy_cells("vanilla,prepended", **QUICK)
    store, tasks = Store(tmp_path / "cut"), {task_key(c): toy_task for c in cells}
    with pytest.raises(KeyboardInterrupt):
        run_plan(cells, tasks, store, PressingCtrlC(at=[6]))
    assert not list(store.root.rglob("*.parquet"))
    trained.clear()
    outcome, _ = run_toy(cells, root="cut")
    assert outcome.finished == 2 and trained == [[("prepended", 0)]]


def test_outside_the_main_thread_a_plan_runs_without_a_signal_handler(toy_cells, run_toy):
    cells, outcomes = toy_cells("vanilla", **QUICK), []
    thread = threading.Thread(target=lambda: outcomes.append(run_toy(cells)[0]))
    thread.start()
    thread.join()
    assert outcomes[0].finished == 1


def test_plain_output_is_a_few_readable_lines(toy_cells, toy_task, tmp_path):
    cells = toy_cells("vanilla,truncated[low=3],toy_trouble", **QUICK)
    screen = io.StringIO()
    progress = Progress(Console(file=screen, width=200))
    run_plan(cells, {task_key(c): toy_task for c in cells}, Store(tmp_path), progress)
    lines = screen.getvalue().splitlines()
    assert "[1/3] toy_average vanilla L_train=16 seed=0 step=6: done" in lines
    assert "[2/3] toy_average truncated[low=3] L_train=16 seed=0 step=6: done" in lines
    assert (
        "[3/3] toy_average toy_trouble L_train=16 seed=0 step=6: failed: RuntimeError: boom [/red]" in lines
    )
    assert any(line.startswith("training toy_average vanilla L_train=16 seed=0: 6 steps") for line in lines)
    assert len(lines) < 12


def test_a_terminal_gets_a_bar_with_step_loss_and_speed(toy_cells, toy_task, tmp_path):
    cells = toy_cells("vanilla", **QUICK)
    screen = io.StringIO()
    progress = Progress(Console(file=screen, width=200, force_terminal=True))
    run_plan(cells, {task_key(c): toy_task for c in cells}, Store(tmp_path), progress)
    text = screen.getvalue()
    assert "6/6 loss" in text and "tokens/s" in text
    assert re.search(r"loss \d\.\d{4}", text)


@pytest.mark.parametrize(
    ("size", "batches"),
    [(1, [1] * 9), (2, [2, 1, 2, 1, 2, 1]), (4, [3, 3, 3]), (8, [6, 3])],
)
def test_trainings_that_differ_in_their_seed_alone_stay_together(toy_cells, size, batches):
    cells = toy_cells("vanilla,prepended,transformer", seeds=[0, 1, 2])
    groups = {cell.training: [cell] for cell in cells}
    found = list(local._in_batches(groups, {}, size))
    assert [training for batch in found for training in batch] == list(groups)
    assert [len(batch) for batch in found] == batches
