"""How inputs are damaged, and the bounds that reading them must keep."""

import resource
import time
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

LONG = 12
"""The long run has as many times the examples of the short one, and draws others each time."""
SECONDS = 5.0
"""Of processor time that one input may take."""
BYTES = 1 << 30
"""That the memory of the process may grow by, over all inputs of a test."""


@st.composite
def _damaged(draw, whole):
    """The bytes with some flipped, cut, doubled, inserted or replaced; sometimes others altogether."""
    content = bytearray(whole)
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=400))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        size = draw(st.one_of(st.integers(1, 8), st.integers(1, max(1, len(content)))))
        how = draw(st.sampled_from(["flip", "cut", "drop", "double", "insert", "zero"]))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del content[at:]
        elif how == "drop":
            del content[at : at + size]
        elif how == "double":
            content[at:at] = content[at : at + size]
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            content[at : at + size] = bytes(min(size, len(content) - at))
    return bytes(content)


@contextmanager
def _bounded():
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


@pytest.fixture(params=[1, pytest.param(LONG, marks=pytest.mark.fuzz)], ids=["short", "long"])
def fuzz(request):
    """`fuzz(num, check, *strategies)` calls `check` with so many inputs, in the long run `LONG` times."""

    def run(num, check, *strategies):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seen = 0

        @settings(
            max_examples=num * request.param,
            derandomize=request.param == 1,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(st.tuples(*strategies))
        def each(values):
            nonlocal seen
            seen += 1
            with _bounded():
                check(*values)

        each()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < BYTES
        print(f"{request.node.name}: {seen:,} inputs, memory grew by {grown >> 20} MiB")

    return run


@pytest.fixture(scope="session")
def damaged():
    """`damaged(content)` is a strategy: the content with damage."""
    return _damaged
