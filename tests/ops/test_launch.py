"""Kernels are launched without Triton's look-up where its version allows it, and say so where it does not."""

import pytest

pytest.importorskip("triton")

from lgbench import doctor
from lgbench.ops import launch as launching


@pytest.mark.parametrize(
    ("version", "direct"), [("3.6.0", True), ("3.7.1", True), ("3.5.1", False), ("3.70.0", False)]
)
def test_direct_launches_are_for_known_versions_of_triton(monkeypatch, version, direct):
    monkeypatch.setattr(launching.triton, "__version__", version)
    assert launching.launches_directly() is direct


def test_doctor_says_when_launches_are_looked_up(monkeypatch):
    monkeypatch.setattr(launching.triton, "__version__", "9.0.0")
    finding = doctor._launches()
    assert finding.ok is None and "half the speed" in finding.found and "3.6 and 3.7" in finding.found
    monkeypatch.setattr(launching.triton, "__version__", "3.7.1")
    assert doctor._launches().ok is True
