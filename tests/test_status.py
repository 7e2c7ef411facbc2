"""`lgbench status` says from another terminal what runs where, since when and how long yet."""

import json
import os

from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.store.leases import Leases


def status(root):
    result = CliRunner().invoke(app, ["status", "--results", str(root)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_training_is_shown_with_its_place_step_and_time(tmp_path):
    now = [0.0]
    with Leases(tmp_path, beat_s=3600, clock=lambda: now[0]) as leases:
        training = {"event": "training", "name": "toy vanilla seed=0", "training": "ab", "steps": 2000}
        leases.tell({**training, "name": "toy vanilla seed=1", "step": 0})
        now[0] = 90.0
        leases.tell({"event": "cell", "name": "x", "cell": "c", "status": "ok", "done": 1, "total": 4})
        leases.tell({**training, "step": 500})
        now[0] = 100.0
        leases.tell({**training, "step": 1000, "loss": 1.5, "left_s": 75.0})
        leases._beat()
        said = status(tmp_path)
    assert "training toy vanilla seed=0, for 10 s, step 1,000 of 2,000, about 1 min 15 s left" in said
    assert f"process {os.getpid()}: since 20" in said
    assert "cells: 1 of 4 since 1 min 40 s, about 5 min 00 s left" in said


def test_cells_are_counted_by_the_process_that_knows_the_plan(tmp_path):
    ended = {"event": "cell", "name": "x", "cell": "c", "status": "ok"}
    with Leases(tmp_path) as worker, Leases(tmp_path) as first:
        first.tell({"event": "watching"})
        first.tell({"event": "plan", "total": 4, "finished_before": 0})
        worker.tell({**ended, "done": 2, "total": 0})
        first._beat(), worker._beat()
        assert "watches its workers, for 0 s" in status(tmp_path)
        assert "cells: 0 of 4 since" in status(tmp_path)
        first.tell({**ended, "done": 1, "total": 4})
        first._beat()
        assert "cells: 1 of 4 since" in status(tmp_path)


def test_a_killed_process_is_named_as_one(tmp_path):
    with Leases(tmp_path, "alive"):
        path = tmp_path / "leases" / "workers" / "alive.json"
        facts = json.loads(path.read_text()) | {"pid": 2**22 + 1}
        (path.parent / "dead.json").write_text(json.dumps(facts))
        said = status(tmp_path)
    assert "was killed; whoever works here next goes on with what it did" in said
    assert "looks for work" in said


def test_a_folder_without_processes_says_so_and_no_folder_is_an_error(tmp_path):
    assert "no process is at work on" in status(tmp_path)
    result = CliRunner().invoke(app, ["status", "--results", str(tmp_path / "none")])
    assert result.exit_code == 2 and "no results folder" in result.output


def test_a_torn_heartbeat_is_left_out(tmp_path):
    folder = tmp_path / "leases" / "workers"
    folder.mkdir(parents=True)
    (folder / "torn.json").write_text('{"host": "a')
    assert "no process is at work on" in status(tmp_path)
