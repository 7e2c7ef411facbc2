"""Faults are injected into whole plans: nothing is lost, doubled, left behind or wrong. `make test-faults`.

`LGBENCH_FAULTS` says how many of each kind: 100 are the numbers of docs/faults.md, 10 the default.
"""

import contextlib
import os
import random
import signal
import time

import pytest

from lgbench.run import checkpoint
from lgbench.store import read
from lgbench.store.leases import held_by, workers
from lgbench.store.process import gone
from lgbench.store.rows_file import read_rows

pytestmark = pytest.mark.faults
FAULTS = int(os.environ.get("LGBENCH_FAULTS", "10"))
LONG = ("--method", "noted[variant=[0,1,2,3,4,5],pause_s=0.2],vanilla,toy_shrink", "--train-steps", "12")
SMALL = ("--eval-lengths", "1,16", "--query-grid", "1", "--save-every", "0.2", "--seeds", "4")


@pytest.fixture
def say(capsys):
    """Print a line of figures, whatever pytest captures."""

    def out(line):
        with capsys.disabled():
            print(f"\n    {line}", flush=True)

    return out


def at_work(root):
    """Process numbers of those that hold a lease."""
    found = workers(root).items()
    return [facts["pid"] for owner, facts in found if held_by(root, owner) and not gone(facts)]


def wait_for_steps(shared, driver, number):
    """Let the plan make some training steps: what never comes further at all is given up, by design."""
    before = sum(shared.noted().values())
    while driver.poll() is None and sum(shared.noted().values()) < before + number:
        time.sleep(0.05)


def cells_of(root):
    """Cells with rows, and the number of files of rows."""
    return len(set(read([root]).table["cell"].to_pylist())), len(list(root.rglob("*.parquet")))


def test_plans_end_equal_under_sigkill_of_workers_at_random(plan, say):
    shared, draw = plan(*LONG, *SMALL), random.Random(0)
    root, kills, runs = shared.folder / "killed", 0, 0
    while kills < FAULTS:
        driver, runs = shared.start(f"killed{runs}", "--launcher", "processes", "--jobs", "4"), runs + 1
        root = shared.folder / f"killed{runs - 1}"
        while driver.poll() is None:
            wait_for_steps(shared, driver, draw.randint(1, 12))
            time.sleep(draw.uniform(0, 0.5))
            if kills < FAULTS and (found := at_work(root)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(found), signal.SIGKILL)
                    kills += 1
        said, _ = driver.communicate()
        assert driver.returncode == 0, said
    shared.run("whole")
    for k in range(runs):
        assert shared.same_rows("whole", f"killed{k}")
        assert shared.leftovers(f"killed{k}") == []
        assert cells_of(shared.folder / f"killed{k}") == (32, 32)
    say(f"SIGKILL of workers: {kills} in {runs} plans of 32 cells; lost 0, doubled 0, left behind 0")


def test_plans_end_equal_under_sigkill_of_the_driver_at_random(plan, say):
    shared, draw, kills = plan(*LONG, *SMALL), random.Random(1), 0
    root = shared.folder / "killed"
    while kills < max(1, FAULTS // 10):
        driver = shared.start("killed", "--launcher", "processes", "--jobs", "2")
        while driver.poll() is None and not at_work(root):
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 4))
        if driver.poll() is not None:
            break
        driver.kill()
        driver.communicate()
        kills += 1
    shared.run("killed", "--launcher", "processes", "--jobs", "2")
    shared.run("whole")
    assert shared.same_rows("whole", "killed")
    assert shared.leftovers("killed") == []
    assert cells_of(root) == (32, 32)
    say(f"SIGKILL of the driver: {kills} in a plan of 32 cells; lost 0, doubled 0, left behind 0")


@pytest.mark.parametrize("num_workers", [2, 8])
def test_64_small_cells_are_trained_once_each_by_several_workers(plan, say, num_workers):
    methods = "noted[variant=[0,1,2,3,4,5,6,7]]"
    shared = plan("--method", methods, "--seeds", "8", "--train-steps", "4", *SMALL[:4])
    began = time.perf_counter()
    shared.run("many", "--launcher", "processes", "--jobs", str(num_workers))
    took = time.perf_counter() - began
    assert shared.noted() == {(v, s, k): 1 for v in range(8) for s in range(8) for k in range(4)}
    assert shared.leftovers("many") == [] and cells_of(shared.folder / "many") == (64, 64)
    say(f"64 cells, {num_workers} workers: trained twice 0, lost 0, left behind 0; {took:.0f} s")


def flip(path, draw):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    content[at] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def is_noticed(path):
    """Whether reading a damaged file says so."""
    if path.suffix == ".parquet":
        try:
            read_rows(path)
        except Exception:
            return True
        return False
    return checkpoint.load(path) is None


def test_no_flipped_bit_is_silent(plan, say):
    shared, draw = plan("--method", "vanilla,clock_law", *SMALL[:4], "--train-steps", "12"), random.Random(2)
    shared.run("whole")
    cut = shared.start("whole", "--method", "noted[pause_s=0.3]", "--save-every", "0.1")
    states = shared.folder / "whole"
    while not list(states.rglob("resume.safetensors")):
        assert cut.poll() is None
        time.sleep(0.05)
    cut.send_signal(signal.SIGTERM)
    cut.communicate()
    kinds = {
        "rows": "rows/**/*.parquet",
        "weights": "**/step-*.safetensors",
        "states": "**/resume.safetensors",
        "fits": "**/fit-*.safetensors",
    }
    for kind, pattern in kinds.items():
        files = sorted(states.glob(pattern))
        assert files, f"the plan left no {kind}"
        for _ in range(5 * FAULTS):
            path = draw.choice(files)
            whole = path.read_bytes()
            flip(path, draw)
            assert is_noticed(path), f"a flipped bit of {kind} was not noticed"
            path.write_bytes(whole)
            path.with_name(f"{path.name}.damaged").unlink(missing_ok=True)
    say(f"single flipped bits: {5 * FAULTS} in each of {', '.join(kinds)}; silent 0")
