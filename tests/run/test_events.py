"""What happens in a run is written for other programs, at once and in full."""

import json
import sys
import time

import pytest
from rich.console import Console

from lgbench.errors import UserError
from lgbench.launchers.local import run_plan, task_key
from lgbench.plan.config import RunConfig
from lgbench.run.events import events_of
from lgbench.run.progress import Progress
from lgbench.store import Store


@pytest.mark.parametrize("suffix", ["", "é"])
def test_every_event_is_a_line_of_json(toy_cells, toy_task, tmp_path, suffix):
    log, began = tmp_path / f"log{suffix}.jsonl", time.time()
    cells = toy_cells("vanilla,toy_trouble", train_steps=[6], eval_lengths=(1, 16), query_grid=())
    with events_of(RunConfig(log_json=log)) as sinks:
        progress = Progress(Console(quiet=True), sinks)
        run_plan(cells, {task_key(c): toy_task for c in cells}, Store(tmp_path / "runs"), progress)
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [e["event"] for e in events if e["event"] != "training"] == ["plan", "evaluation", "cell", "cell"]
    losses = [e for e in events if e["event"] == "training" and "loss" in e]
    assert losses and losses[-1]["step"] == losses[-1]["steps"] == 6
    assert [e["status"] for e in events if e["event"] == "cell"] == ["ok", "failed"]
    assert all(e["at"][:4] >= time.strftime("%Y", time.gmtime(began)) for e in events)


def test_losses_go_to_tensorboard(toy_cells, toy_task, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cells = toy_cells("vanilla", train_steps=[6], eval_lengths=(1, 16), query_grid=())
    with events_of(RunConfig(track=tmp_path / "board")) as sinks:
        progress = Progress(Console(quiet=True), sinks)
        run_plan(cells, {task_key(c): toy_task for c in cells}, Store(tmp_path / "runs"), progress)
    found = EventAccumulator(str(tmp_path / "board")).Reload()
    losses = found.Scalars("loss/toy_average vanilla L_train=16 seed=0")
    assert [scalar.step for scalar in losses] == [6] and losses[0].value > 0


def test_without_tensorboard_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(UserError, match=r'pip install "lgbench\[track\]"'),
        events_of(RunConfig(track=tmp_path)),
    ):
        pass


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write --log-json"),
        events_of(RunConfig(log_json=tmp_path / "file" / "log")),
    ):
        pass
