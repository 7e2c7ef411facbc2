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
