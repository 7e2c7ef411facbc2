"""On a real device the float64 recurrence of long checks is the definition, too."""

import pytest
import torch

from lgbench.ops.scan import chunked as scan_torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.mark.parametrize(
    ("batch", "length", "channels"), [(2, 777, 33), (1, 20_000, 64)], ids=["B2-L777-E33", "B1-L20000-E64"]
)
def test_it_agrees_with_the_torch_scan_in_float64(batch, length, channels):
    from lgbench.ops.scan.float64 import scan_float64

    torch.manual_seed(length)
    like = dict(device="cuda", dtype=torch.float64)
    values = (
        torch.randn(batch, length, channels, **like),
        0.001 * 100 ** torch.rand(batch, length, channels, **like),
        -torch.arange(1.0, 17, **like).repeat(channels, 1),
        torch.randn(batch, length, 16, **like),
        torch.randn(batch, length, 16, **like),
        torch.randn(channels, **like),
    )
    h0 = torch.randn(batch, channels, 16, **like)
    for a, b in zip(scan_float64(*values, h0), scan_torch.scan(*values, h0=h0), strict=True):
        assert (a - b).norm() / b.norm() < 1e-12
