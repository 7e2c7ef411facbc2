"""The fused Mamba block on a real GPU, against float64 by the definition."""

import pytest
import torch

from lgbench.ops.mamba_block import mamba_block, plain_block

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
