"""What tests of several tasks need."""

from contextlib import contextmanager

import pytest
import torch

WAITING = ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy")
"""Methods of a tensor that wait for its device."""


@pytest.fixture
def no_reading_back(monkeypatch):
    """`with no_reading_back():` refuses whatever reads a value back from a device."""

    def refused(name):
        def refuse(*args, **kwargs):
            raise AssertionError(f"Tensor.{name} waits for the device")

        return refuse

    @contextmanager
    def guard():
        with monkeypatch.context() as patch:
            for name in WAITING:
                patch.setattr(torch.Tensor, name, refused(name))
            yield

    return guard


@pytest.fixture
def drawn_without_reading_back(no_reading_back):
    """`of(task)`: a batch of a document task drawn under the guard, and one drawn without it."""

    def of(task):
        asked = 2, 4, 1, torch.Generator().manual_seed(0), (4, 24, 1)
        free = task.sample_stage(*asked)
        with no_reading_back():
            guarded = task.sample_stage(*asked)
        return guarded, free

    return of
