"""Capturing a step, with a device that is made up."""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from lgbench.run.graphs import capture, no_garbage_collection


class Cyclic:
    """What only the garbage collector frees, as it does the graphs of an earlier training."""

    freed = 0

    def __init__(self):
        self.me = self

    def __del__(self):
        Cyclic.freed += 1


@pytest.fixture
def eager_collector():
    """The collector runs at nearly every allocation."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)


def test_nothing_of_an_earlier_training_is_freed_during_a_capture(monkeypatch, eager_collector):
    seen = []

    @contextmanager
    def recording(graph, **how):
        seen.append(("begin", how["capture_error_mode"]))
        yield
        seen.append("end")

    monkeypatch.setattr(
        torch.cuda, "CUDAGraph", lambda: SimpleNamespace(register_generator_state=seen.append)
    )
    monkeypatch.setattr(torch.cuda, "graph", recording)
    trainer = SimpleNamespace(
        optimizer=SimpleNamespace(state={}), parameters=[torch.zeros(2)], carried={}, stream=None,
        generator=torch.Generator(),
    )  # fmt: skip

    def step():
        trainer.parameters[0] += 1
        before = Cyclic.freed
        Cyclic()
        made = [[k] for k in range(1000)]
        freed.append(Cyclic.freed - before)
        return made

    freed = []
    capture(trainer, None, step)
    assert freed[1] == 0 and freed[0] == 1, "only the first step, which is not captured, may collect"
    assert seen == [trainer.generator, ("begin", "thread_local"), "end"]
    assert trainer.parameters[0].tolist() == [1, 1], "what the first step changed is undone"
    assert gc.isenabled()


def test_the_collector_is_as_before_when_a_capture_fails():
    with pytest.raises(ValueError, match="broken"), no_garbage_collection():
        raise ValueError("broken")
    assert gc.isenabled()
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
