"""Ratios of times on made-up machines: a clock of the test says how long everything takes."""

import numpy as np
import pytest
import torch

from lgbench.answers import regress
from lgbench.bench import pace

REFERENCE_MS = 10.0
WORK_MS = {"step": 13.0, "evaluation": 28.0}


class Machine:
    """A clock with others at work: speed drifts for all alike, single calls are disturbed, the CPU is shared.

    A ratio then varies by about 4 %, and on a busy machine the work takes 3 to 15 % longer than the reference
    would let expect, as it did on two processors that seven to ten processes wanted.

    Args:
        seed: of all that is random.
        slower: factor on the times of the works, not on the reference.
        busy: how many want each processor.
        sleeps: factor on the wall time of the works, which does not compute.
    """

    def __init__(self, seed, *, slower=1.0, busy=1.0, sleeps=1.0):
        self.rng, self.slower, self.busy, self.sleeps, self.drift = (
            np.random.default_rng(seed), slower, busy, sleeps, 0.0,
        )  # fmt: skip
        self.suffers = 1.0 if busy == 1 else self.rng.uniform(1.03, 1.15)

    def clock(self, call):
        name = call()
        self.drift = 0.98 * self.drift + self.rng.normal(0, 0.02)
        took = REFERENCE_MS if name is None else WORK_MS[name] * self.slower * self.suffers
        took *= np.exp(self.drift + self.rng.normal(0, 0.1)) * (1 + (self.rng.random() < 0.03))
        wall = took * (1 if self.busy == 1 else self.rng.uniform(1, 2 * self.busy))
        return wall * (1 if name is None else self.sleeps), took

    def ratios(self, limits):
        works = {name: lambda name=name: name for name in WORK_MS}

        def measure(names):
            return pace.ratios({name: works[name] for name in names}, lambda: None, self.clock)

        return pace.confirmed(measure, works, limits)


LIMITS = {name: 1.15 * took / REFERENCE_MS for name, took in WORK_MS.items()}


def alarms(count, **machine):
    found = 0
    for seed in range(count):
        now = Machine(seed, **machine).ratios(LIMITS)
        allowed = regress.BUSY if now.is_busy else 1.0
        found += any(now.ratios[name] > allowed * LIMITS[name] for name in WORK_MS)
    return found


@pytest.mark.parametrize("busy", [1, 5])
def test_a_hundred_undisturbed_runs_raise_no_alarm_on_an_idle_or_a_busy_machine(busy):
    assert alarms(100, busy=busy) == 0


@pytest.mark.parametrize("busy", [1, 5])
def test_a_slow_down_of_30_percent_is_caught_every_time(busy):
    assert alarms(100, busy=busy, slower=1.3) == 100


def test_work_that_sleeps_is_seen_where_the_machine_is_not_busy():
    assert alarms(20, sleeps=1.3) == 20
    assert alarms(20, sleeps=1.3, busy=5) == 0


def test_a_new_baseline_is_the_median_of_three_measurements():
    found = [pace.Pace({"a": ratio}, is_busy=ratio == 9) for ratio in (9.0, 2.0, 3.0)]
    assert pace.confirmed(lambda names: found.pop(), ["a"], {}) == ({"a": 3.0}, True)


def test_what_is_within_its_limit_is_measured_once():
    asked = []

    def measure(names):
        asked.append(list(names))
        return pace.Pace(dict.fromkeys(names, 2.0), is_busy=False)

    assert pace.confirmed(measure, ["a", "b"], {"a": 1.0, "b": 3.0}) == ({"a": 2.0, "b": 2.0}, False)
    assert asked == [["a", "b"], ["a"], ["a"]]


def test_the_reference_is_plain_torch_and_does_the_same_work_each_time(monkeypatch):
    monkeypatch.setattr(pace, "_STEPS", 1)
    step = pace.reference(torch.device("cpu"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as first:
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as second:
        step()
    names = [[event.name for event in profile.events()] for profile in (first, second)]
    assert sorted(names[0]) == sorted(names[1]) and len(names[0]) > 100


def test_timing_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    with pace.one_thread(torch.device("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
