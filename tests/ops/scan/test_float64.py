"""The float64 recurrence of long checks is the definition; tested in the interpreter, in its own process."""

import os

import pytest
import torch

from lgbench.ops.scan import reference as scan_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that the first test starts")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_claims_of_this_file_hold_in_the_interpreter(interpret):
    result = interpret(__file__)
    assert result.returncode == 0, result.stdout + result.stderr


def arguments(batch, length, channels, states):
    rng = torch.Generator().manual_seed(length)
    shapes = [(batch, length, channels)] * 2 + [(channels, states)]
    shapes += [(batch, length, states)] * 2 + [(channels,), (batch, channels, states)]
    x, delta, A, B, C, D, h0 = (torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes)
    return x, delta.abs(), -A.abs(), B, C, D, h0


@interpreted
@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [(2, 21, 5, 3), (1, 9, 3, 16), (1, 1, 2, 1), (1, 8, 1, 32)],
    ids=["B2-L21-E5-N3", "B1-L9-E3-N16", "B1-L1-E2-N1", "B1-L8-E1-N32"],
)
def test_it_is_the_definition(batch, length, channels, states):
    from lgbench.ops.scan.float64 import scan_float64

    *values, h0 = arguments(batch, length, channels, states)
    kept = h0.clone()
    for start in (h0, None):
        found = scan_float64(*values, start)
        wanted = scan_reference.scan(*values, h0=start)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert torch.equal(h0, kept), "what the caller carries is not changed"


@interpreted
def test_narrower_types_are_refused():
    from lgbench.ops.scan.float64 import scan_float64

    *values, _ = arguments(1, 4, 2, 3)
    with pytest.raises(ValueError, match="float64"):
        scan_float64(values[0].float(), *values[1:])
