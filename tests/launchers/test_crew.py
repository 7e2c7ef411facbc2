"""Which death of a worker is held against which piece of work."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from lgbench.errors import UserError
from lgbench.launchers import _crew
from lgbench.launchers._crew import DEATHS, Crew
from lgbench.run.watch import Watch
from lgbench.store import Store


@pytest.fixture
def watch(toy_cells, tmp_path):
    cells = toy_cells("vanilla", seeds=[0, 1])
    start = SimpleNamespace(cells=dict.fromkeys([cell.key for cell in cells]), weights={})
    return Watch(SimpleNamespace(cells=cells, store=Store(tmp_path), tasks={}), start, None)


def save(watch, cell, text):
    """Let a training come further."""
    path = watch._store.root / "checkpoints" / cell.training.key / "resume.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_training_that_came_further_begins_to_count_anew(watch):
    first, second = watch.left.values()
    lease = f"training-{first.training.key}"
    assert [watch.deaths(lease) for _ in range(2)] == [1, 2]
    save(watch, second, "one")
    assert watch.deaths(lease) == 3
    save(watch, first, "one")
    assert [watch.deaths(lease) for _ in range(2)] == [1, 2]


def test_deaths_of_those_that_held_nothing_count_only_while_nothing_comes_further(watch):
    first, second = watch.left.values()
    assert [watch.deaths(_crew.BEGINNING) for _ in range(2)] == [1, 2]
    save(watch, second, "one")
    assert [watch.deaths(_crew.BEGINNING) for _ in range(2)] == [1, 2]
    del watch.left[first.key]
    assert watch.deaths(_crew.BEGINNING) == 1


def test_a_look_opens_only_files_that_are_there(watch, monkeypatch):
    first, _ = watch.left.values()
    path = watch._store.path(first.task, first.key)
    path.parent.mkdir(parents=True)
    path.touch()
    seen = []
    monkeypatch.setattr("lgbench.run.watch.ended_since", lambda start, store, cell: seen.append(cell))
    watch.look()
    assert seen == [first] and len(watch.left) == 2, "it is no file of rows yet"


def crew_of(watch, monkeypatch, holds):
    """A crew of one whose every worker is seen once at work, with what it holds, and then is dead."""
    died, given_up = [], []
    config = SimpleNamespace(cell_timeout=None, forced=False)
    progress = SimpleNamespace(
        worker_died=lambda how, held: died.append((how, held)), also=lambda sink: nullcontext()
    )
    crew = Crew(config, SimpleNamespace(cells=list(watch.left.values()), store=watch._store), progress, 1)
    monkeypatch.setattr(_crew, "begin", lambda *_: watch.start)
    monkeypatch.setattr(_crew, "Watch", lambda *_: watch)
    monkeypatch.setattr(_crew.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(watch, "look", lambda: None)
    monkeypatch.setattr(watch, "give_up", lambda name, why: given_up.append(name))

    class Process:
        returncode, looks = -9, 0

        def poll(self):
            self.looks += 1
            if given_up:
                self.returncode = 0
            return None if self.looks == 1 else self.returncode

        def send_signal(self, signum): ...
        def wait(self, timeout=None): ...
        def kill(self): ...

    def start(slot):
        crew.members.append(_crew._Member(Process(), f"owner{len(died)}", None, slot))

    def held(owner):  # another one takes it over before the next look
        return holds if crew.members and not crew.members[0].process.looks else []

    monkeypatch.setattr(watch, "held", held)
    monkeypatch.setattr(crew, "_start", start)
    monkeypatch.setattr(crew, "_last_words", lambda member: "")
    return crew, died, given_up


def test_what_another_worker_took_over_at_once_is_held_against_the_work(watch, monkeypatch):
    lease = f"training-{next(iter(watch.left.values())).training.key}"
    crew, died, given_up = crew_of(watch, monkeypatch, [lease])
    crew.run()
    assert died == [("SIGKILL", [lease])] * DEATHS
    assert given_up == [lease]


def test_workers_that_die_before_they_hold_anything_end_the_run(watch, monkeypatch):
    crew, died, _ = crew_of(watch, monkeypatch, [])
    with pytest.raises(UserError, match="worker processes end before they begin"):
        crew.run()
    assert died == [("SIGKILL", [])] * (DEATHS - 1)
