"""What a back end cannot do is known before it is called; `auto` picks the first that can."""

import pytest
import torch

from lgbench.ops.limits import SCAN, SSD
from lgbench.ops.scan import selective_scan as scan
from lgbench.ops.ssd.ssd import resolve_ssd_backend


@pytest.fixture
def everything_usable(monkeypatch):
    monkeypatch.setattr(scan, "_why_not", lambda name, device: None)


@pytest.mark.parametrize(
    ("d_state", "dtype", "picked"),
    [
        (None, None, "triton"),
        (32, torch.float32, "triton"),
        (33, torch.float32, "mamba_ssm"),
        (64, torch.bfloat16, "mamba_ssm"),
        (257, torch.float32, "torch"),
        (8, torch.float64, "torch"),
    ],
)
def test_auto_picks_the_first_back_end_that_can(everything_usable, d_state, dtype, picked):
    assert scan.resolve_backend("auto", "cuda", d_state, dtype) == picked


def test_a_back_end_that_cannot_is_refused_with_those_that_can(everything_usable):
    with pytest.raises(ValueError, match="at most 32 states, not 64; use one of reference, torch, mamba_ssm"):
        scan.resolve_backend("triton", "cuda", 64)
    with pytest.raises(ValueError, match="has no float64; use one of reference, torch"):
        scan.resolve_backend("triton", "cuda", 8, torch.float64)


def test_both_families_have_a_row_for_each_back_end():
    assert {*SCAN} == {*scan.BACKENDS} and {*SSD} <= {*SCAN}
    assert resolve_ssd_backend("torch", "cpu", 512, torch.float64) == "torch"


def test_the_plan_refuses_what_a_back_end_cannot_do(toy_options, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from lgbench.cli import app

    monkeypatch.setattr(scan, "_why_not", lambda name, device: None)
    asked = ["--scan-backend", "triton", "--d-state", "64", "--results", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, [*toy_options, *asked])
    assert done.exit_code == 2 and "at most 32 states, not 64" in done.output
    assert not list(tmp_path.rglob("*.parquet"))
