"""A lease has one holder at a time, whatever clocks say; the work of those that are gone is taken over."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from lgbench.store.leases import Leases, held_by, holder_of, workers


class Clock:
    """A monotonic clock that goes on by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def other(root, owner, **options):
    """Leases of a process of another machine: nothing here says whether it lives."""
    leases = Leases(root, owner, beat_s=3600, **options)
    leases._beat()
    path = leases.folder / "workers" / f"{owner}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "another"}))
    return leases


def beat(leases):
    """The next heartbeat of a process of another machine."""
    path = leases.folder / "workers" / f"{leases.owner}.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"beat": facts["beat"] + 1}))


def test_a_lease_has_one_holder_and_can_be_taken_once_it_is_given_back(tmp_path):
    with Leases(tmp_path) as one, Leases(tmp_path) as two:
        assert one.take("training-a") and not two.take("training-a")
        assert one.take("training-a"), "it is held already"
        assert two.take("training-b")
        assert held_by(tmp_path, one.owner) == ["training-a"]
        one.release("training-a")
        assert two.take("training-a") and not one.take("training-a")


def test_nothing_is_left_when_all_are_gone(tmp_path):
    with Leases(tmp_path) as one, Leases(tmp_path) as two:
        one.take("a"), two.take("a"), two.take("b")
        assert set(workers(tmp_path)) == {one.owner, two.owner}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_time", [0, 4e9], ids=["times-in-1970", "times-in-2096"])
def test_staleness_is_no_change_of_the_heartbeat_on_my_own_clock_and_no_time_of_a_file(tmp_path, file_time):
    clock = Clock()
    slow, mine = other(tmp_path, "slow"), Leases(tmp_path, clock=clock, stale_s=120)
    assert slow.take("a")
    for file in (tmp_path / "leases").rglob("*"):
        os.utime(file, (file_time, file_time))
    assert not mine.take("a"), "seen for the first time"
    clock.now = 119
    assert not mine.take("a")
    beat(slow)
    os.utime(tmp_path / "leases" / "workers" / "slow.json", (file_time, file_time))
    clock.now = 238
    assert not mine.take("a"), "it has changed since"
    clock.now = 357.9
    assert not mine.take("a")
    clock.now = 358
    assert mine.take("a")
    assert holder_of(tmp_path / "leases" / "a") == mine.owner


def test_an_owner_without_a_heartbeat_file_is_stale_in_the_end(tmp_path):
    clock = Clock()
    lost, mine = other(tmp_path, "lost"), Leases(tmp_path, clock=clock, stale_s=120)
    lost.take("a")
    (tmp_path / "leases" / "workers" / "lost.json").unlink()
    assert not mine.take("a")
    clock.now = 120
    assert mine.take("a")


def test_who_judged_late_cannot_take_what_has_changed_hands_meanwhile(tmp_path, monkeypatch):
    """Two see the same stale owner; the first takes over, is done, and a third begins: the second fails."""
    clock = Clock()
    stale = other(tmp_path, "stale")
    first, second, third = (Leases(tmp_path, clock=clock, stale_s=1) for _ in range(3))
    stale.take("a")
    assert not first.take("a") and not second.take("a")
    clock.now = 2

    judge = second._stale

    def judge_slowly(owner):
        found = judge(owner)
        assert first.take("a")
        first.release("a")
        assert third.take("a")
        return found

    monkeypatch.setattr(second, "_stale", judge_slowly)
    assert not second.take("a")
    assert holder_of(tmp_path / "leases" / "a") == third.owner


def test_a_slow_owner_learns_that_its_work_was_taken_over(tmp_path):
    clock = Clock()
    with Leases(tmp_path, beat_s=0.01) as slow:
        assert slow.take("a") and slow.take("b") and not slow.lost
        os.rename(tmp_path / "leases" / "a" / slow.owner, tmp_path / "leases" / "a" / "quick")
        deadline = time.monotonic() + 10
        while not slow.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert slow.lost
        slow.release("a")
        assert holder_of(tmp_path / "leases" / "a") == "quick", "what is not mine is not given back"
        assert clock.now == 0


HOLDER = """
import sys, time
from pathlib import Path
from lgbench.store.leases import Leases
with Leases(Path(sys.argv[1]), "killed") as leases:
    leases.take("a")
    print("holds", flush=True)
    time.sleep(60)
"""


def killed_holder(root):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_the_work_of_a_killed_process_of_this_machine_is_taken_over_at_once(tmp_path):
    with Leases(tmp_path) as mine:
        killed_holder(tmp_path)
        assert mine.take("a")


def test_what_a_killed_process_left_is_collected_at_the_next_start(tmp_path):
    killed_holder(tmp_path)
    with Leases(tmp_path) as mine:
        assert list(workers(tmp_path)) == [mine.owner]
        assert [p.name for p in mine.folder.iterdir()] == ["workers"]
    assert list(tmp_path.iterdir()) == []


def _grab(root, names, start, taken):
    leases = Leases(root)
    start.wait()
    taken.put([name for name in names if leases.take(name)])


@pytest.mark.parametrize("num_processes", [2, 4, 8])
def test_of_many_processes_that_ask_at_once_one_gets_each_lease(tmp_path, num_processes):
    names = [f"training-{k}" for k in range(60)]
    context = multiprocessing.get_context("fork")
    start, taken = context.Barrier(num_processes), context.Queue()
    others = [
        context.Process(target=_grab, args=(tmp_path, names, start, taken)) for _ in range(num_processes)
    ]
    for process in others:
        process.start()
    got = [taken.get(timeout=60) for _ in others]
    for process in others:
        process.join()
    assert sorted(name for part in got for name in part) == sorted(names)


def _take_over(root, names, start, taken):
    clock = Clock()
    leases = Leases(root, clock=clock, stale_s=1)
    for name in names:
        leases.take(name)
    clock.now = 2
    start.wait()
    taken.put([name for name in names if leases.take(name)])


@pytest.mark.parametrize("num_processes", [2, 8])
def test_of_many_processes_that_take_over_at_once_one_gets_each_lease(tmp_path, num_processes):
    names = [f"training-{k}" for k in range(60)]
    stale = other(tmp_path, "stale")
    assert all([stale.take(name) for name in names])
    context = multiprocessing.get_context("fork")
    start, taken = context.Barrier(num_processes), context.Queue()
    processes = [
        context.Process(target=_take_over, args=(tmp_path, names, start, taken)) for _ in range(num_processes)
    ]
    for process in processes:
        process.start()
    got = [taken.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(name for part in got for name in part) == sorted(names)
