"""Plans on Ray end with the rows of a plan here, whatever node or driver is killed. `make test-faults`."""

import contextlib
import os
import random
import signal
import time

import pytest

from lgbench.store.leases import held_by, workers
from lgbench.store.process import gone

pytestmark = pytest.mark.faults
FAULTS = int(os.environ.get("LGBENCH_FAULTS", "10"))
LONG = ("--method", "noted[variant=[0,1,2,3],pause_s=0.2],vanilla,toy_shrink", "--train-steps", "12")
SMALL = ("--eval-lengths", "1,16", "--query-grid", "1", "--save-every", "0.2", "--seeds", "2")


@pytest.fixture(scope="module")
def cluster():
    """A head without work, and two nodes that have room for one task each; processes of this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    made.workers = [add_node(made) for _ in range(2)]
    yield made
    made.shutdown()


def add_node(cluster):
    return patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))


def patiently(start, tries=8):
    """Ray gives the agent of a node 15 seconds to start, which a busy machine may not keep."""
    for left in reversed(range(tries)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out" not in str(error):
                raise


def on_ray(cluster):
    return ("--launcher", f"ray[address={cluster.address}]")


def at_work(root):
    """Process numbers of those that hold a lease."""
    found = workers(root).items()
    return [facts["pid"] for owner, facts in found if held_by(root, owner) and not gone(facts)]


def wait_for_files(root, number, driver=None, seconds=400):
    """Let a plan write a number of files, states of trainings among them, or end."""
    before, seen, deadline = files(root), set(), time.monotonic() + seconds
    while len(seen) < number and (driver is None or driver.poll() is None):
        assert time.monotonic() < deadline, "nothing happened"
        seen |= files(root) - before
        time.sleep(0.05)


def files(root):
    return {state for path in root.rglob("*.*") if (state := state_of(path))}


def state_of(path):
    """A file and when it was written; None for heartbeats and what is gone already."""
    if "leases" in path.parts or path.name.startswith("."):
        return None
    with contextlib.suppress(OSError):
        return path, path.stat().st_mtime_ns
    return None


@pytest.fixture
def shared(plan):
    """A plan of 12 cells in 10 trainings."""
    made = plan(*LONG, *SMALL)
    made.environment.pop("OMP_NUM_THREADS")  # Ray gives every task of one CPU one thread
    made.run("whole")
    return made


def is_whole(shared, root):
    return shared.same_rows("whole", root) and shared.leftovers(root) == []


def test_a_node_that_is_killed_in_the_middle_loses_nothing(cluster, shared, capsys):
    driver = shared.start("node", *on_ray(cluster))
    wait_for_files(shared.folder / "node", 8)
    cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
    wait_for_files(shared.folder / "node", 4)
    cluster.workers.append(add_node(cluster))
    said, _ = driver.communicate(timeout=600)
    assert driver.returncode == 0, said
    assert is_whole(shared, "node")
    with capsys.disabled():
        print("\n    Ray, node killed: 1 in a plan of 12 cells on 2 nodes; lost 0, doubled 0, left behind 0")


def test_workers_of_ray_that_are_killed_at_random_lose_nothing(cluster, shared, capsys):
    draw, kills, wanted, runs = random.Random(3), 0, max(1, FAULTS // 5), 0
    while kills < wanted:
        driver, runs = shared.start(f"kills{runs}", *on_ray(cluster)), runs + 1
        root = shared.folder / f"kills{runs - 1}"
        while driver.poll() is None:
            wait_for_files(root, draw.randint(1, 8), driver)
            if kills < wanted and (found := at_work(root)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(found), signal.SIGKILL)
                    kills += 1
        said, _ = driver.communicate()
        assert driver.returncode == 0, said
    assert all(is_whole(shared, f"kills{k}") for k in range(runs))
    with capsys.disabled():
        print(
            f"\n    Ray, SIGKILL of workers: {kills} in {runs} plans of 12 cells; lost 0, doubled 0, left 0"
        )


def test_a_driver_that_is_killed_and_started_again_goes_on(cluster, shared, capsys):
    driver = shared.start("driver", *on_ray(cluster))
    wait_for_files(shared.folder / "driver", 8)
    driver.kill()
    driver.communicate()
    shared.run("driver", *on_ray(cluster))
    assert is_whole(shared, "driver")
    with capsys.disabled():
        print("\n    Ray, SIGKILL of the driver: 1 in a plan of 12 cells; lost 0, doubled 0, left behind 0")
