"""Several processes share one plan by the results folder alone: nothing twice, nothing lost, equal rows."""

import os
import signal
import time

import pytest

from lgbench.errors import UserError
from lgbench.launcher import choose_launcher
from lgbench.launchers.local import Local
from lgbench.launchers.processes import Processes
from lgbench.plan.config import RunConfig
from lgbench.store.leases import held_by, workers
from lgbench.store.process import gone

SMALL = ("--eval-lengths", "1,16", "--query-grid", "1", "--train-steps", "6")


def grid(variants, seeds):
    return (
        "--method",
        f"noted[variant=[{','.join(map(str, range(variants)))}]]",
        "--seeds",
        str(seeds),
        *SMALL,
    )


def each_step_once(plan, variants, seeds, steps=6):
    return plan.noted() == {(v, s, k): 1 for v in range(variants) for s in range(seeds) for k in range(steps)}


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
    return found


def test_two_workers_train_nothing_twice_and_make_the_rows_of_one_process(plan):
    shared = plan(*grid(4, 2))
    said = shared.run("two", "--launcher", "processes", "--jobs", "2")
    assert said.count(": done") == 8 and "[8/8]" in said
    assert each_step_once(shared, 4, 2)
    assert shared.leftovers("two") == []
    shared.notes.unlink()
    shared.run("one")
    assert each_step_once(shared, 4, 2)
    assert shared.same_rows("one", "two")


@pytest.mark.faults
def test_two_terminals_on_one_folder_share_the_work(plan):
    shared = plan("--method", "noted[variant=[0,1,2,3],pause_s=0.05]", "--seeds", "2", *SMALL)
    first, second = shared.start("both"), shared.start("both")
    for process in (first, second):
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert "[8/8]" in said or "Finished already" in said
    assert each_step_once(shared, 4, 2)
    assert shared.leftovers("both") == []


@pytest.mark.faults
def test_a_killed_worker_is_replaced_and_nothing_is_lost(plan):
    shared = plan("--method", "noted[variant=[0,1],pause_s=0.1]", "--save-every", "0.2", *SMALL)
    driver = shared.start("killed", "--launcher", "processes", "--jobs", "2")
    root = shared.folder / "killed"

    def at_work():
        return [facts["pid"] for owner, facts in workers(root).items() if held_by(root, owner)]

    os.kill(wait_for(at_work)[0], signal.SIGKILL)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    assert "ended by SIGKILL" in said
    shared.run("whole")
    assert shared.same_rows("whole", "killed")
    assert shared.leftovers("killed") == []


@pytest.mark.faults
def test_workers_of_a_killed_driver_save_and_end_and_the_next_run_goes_on(plan):
    """It began as shells begin what goes on in the background: Ctrl-C is ignored."""
    shared = plan("--method", "noted[variant=[0,1],pause_s=0.2]", *SMALL)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    driver = shared.start("killed", "--launcher", "processes", "--jobs", "2")
    signal.signal(signal.SIGINT, before)
    root = shared.folder / "killed"
    wait_for(lambda: len(shared.noted()) >= 3)
    driver.kill()
    driver.communicate()
    wait_for(lambda: all(map(gone, workers(root).values())))
    assert list(root.rglob("resume.safetensors")), "they saved"
    shared.run("killed", "--launcher", "processes", "--jobs", "2")
    assert sum(shared.noted().values()) == 12, "no step was made again"
    shared.run("whole")
    assert shared.same_rows("whole", "killed")
    assert shared.leftovers("killed") == []


@pytest.mark.faults
def test_ctrl_c_reaches_the_workers_and_what_they_trained_is_kept(plan):
    shared = plan("--method", "noted[variant=[0,1],pause_s=0.2]", *SMALL)
    driver = shared.start("cut", "--launcher", "processes", "--jobs", "2")
    wait_for(lambda: len(shared.noted()) >= 3)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "interrupted" in said
    shared.run("cut")
    assert sum(shared.noted().values()) == 12, "no step was made again"


@pytest.mark.faults
def test_workers_of_a_first_process_that_sigterm_ends_have_time_to_save(plan):
    """A step takes longer than what is left after Ctrl-C."""
    shared = plan("--method", "noted[variant=[0,1],pause_s=3]", *SMALL[:4], "--train-steps", "3")
    driver = shared.start("cut", "--launcher", "processes", "--jobs", "2")
    wait_for(lambda: len(shared.noted()) >= 2)
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 143 and "interrupted" in said
    shared.run("cut", "--launcher", "processes", "--jobs", "2")
    assert sum(shared.noted().values()) == 6, "no step was made again"


@pytest.mark.parametrize("where", ["train", pytest.param("evaluation", marks=pytest.mark.faults)])
def test_a_cell_that_hangs_is_ended_with_its_row_and_the_plan_goes_on(plan, where):
    shared = plan("--method", f"noted[hang={where}],noted[variant=1]", *SMALL, "--cell-timeout", "20")
    said = shared.run("hangs", code=1)
    what = "training" if where == "train" else "evaluation"
    assert f"failed: its {what} was ended after 20 s, the limit of --cell-timeout" in said
    assert said.count(": done") == 1
    assert shared.leftovers("hangs") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"launcher": "procesess"}, "no launcher 'procesess'. Did you mean 'processes'"),
        ({"jobs": 2}, "--jobs has no effect with --launcher local; it has with processes"),
        ({"launcher": "processes", "shard": "1/2"}, "--shard has no effect with --launcher processes"),
        ({"launcher": "local,processes"}, "--launcher takes one launcher"),
        ({"launcher": "local[jobs=2]"}, "launcher 'local' has no parameter 'jobs'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_launcher_that_cannot_be_had_is_an_error_that_says_what_can(options, message):
    with pytest.raises(UserError, match=message):
        choose_launcher(RunConfig(**options))


def test_launchers_are_plugins():
    assert type(choose_launcher(RunConfig())) is Local
    assert type(choose_launcher(RunConfig(launcher="processes", jobs=3))) is Processes
