"""The doctor reports what is here and marks a scan that computes wrong numbers, whatever else happens."""

import pytest
import torch
from typer.testing import CliRunner

from lgbench import doctor
from lgbench.cli import app
from lgbench.doctor import examine
from lgbench.ops.block import mamba_block
from lgbench.ops.block.mamba_block import check_block
from lgbench.ops.scan.selective_scan import BACKENDS, available_backends
from lgbench.plugins import registry


@pytest.fixture(autouse=True)
def _short_checks(monkeypatch):
    monkeypatch.setattr(doctor, "LENGTHS", {"cpu": (1, 50), "cuda": (1, 50)})


def found(thorough=False):
    return {finding.what: finding for finding in examine(thorough=thorough)}


def test_it_names_python_packages_device_data_and_every_scan():
    findings = found()
    assert {"Python", "torch", "triton", "mamba-ssm", "CUDA", "scan back end that auto picks"} <= set(
        findings
    )
    assert findings["data images_background.zip"].found.startswith("not here")
    for name, reason in available_backends().items():
        if reason is None:
            assert findings[f"scan {name} at 50"].ok is True
            assert "against float64" in findings[f"scan {name} at 1"].found
        else:
            assert findings[f"scan {name}"].found == reason and findings[f"scan {name}"].ok is None
    assert set(available_backends()) == set(BACKENDS)


def test_every_check_passes_on_this_machine():
    assert [f for f in examine() if f.ok is False] == []


def test_the_scan_of_language_models_is_checked_with_its_own_tolerance(monkeypatch):
    line = "scan torch at 1,537, bf16, 16 × 16"
    monkeypatch.setattr(doctor, "LONG", {"cpu": (60,), "cuda": (60,)})
    assert found(thorough=True)[line].ok is True and line not in found()
    assert "scan torch at 60" in found(thorough=True) and "scan torch at 60" not in found()
    for error, ok in ((0.005, True), (0.02, False)):
        monkeypatch.setattr(doctor, "check_backend", lambda *where, error=error, **shape: error)
        assert found(thorough=True)[line].ok is ok
        assert found()["scan torch at 50"].ok is False


def test_the_fused_block_is_checked_where_it_runs(monkeypatch):
    assert check_block("cpu", 300) < 1e-5
    plain = mamba_block.plain_block

    def off(tokens, *rest):
        out, state = plain(tokens, *rest)
        return out + 1e-3 * (tokens.dtype == torch.float32), state

    monkeypatch.setattr(mamba_block, "plain_block", off)
    assert check_block("cpu", 300) > 1e-4


def test_a_data_file_that_is_here_is_shown_with_its_place(tmp_path):
    (tmp_path / "images_background.zip").write_bytes(b"x")
    here = {f.what: f.found for f in examine(tmp_path)}
    assert here["data images_background.zip"] == str(tmp_path / "images_background.zip")


@pytest.mark.parametrize("error", [0.3, float("nan")])
def test_a_scan_that_computes_wrong_numbers_is_marked(monkeypatch, error):
    monkeypatch.setattr(
        doctor, "check_backend", lambda name, device, length, **shape: error if length == 50 else 0.0
    )
    findings = found()
    assert findings["scan torch at 1"].ok is True
    assert findings["scan torch at 50"].ok is False


def test_a_scan_that_crashes_is_marked_and_the_rest_goes_on(monkeypatch):
    def crash(name, device, length, **shape):
        if name == "reference":
            raise RuntimeError("illegal instruction\nand more")
        return 0.0

    monkeypatch.setattr(doctor, "check_backend", crash)
    findings = found()
    assert findings["scan reference at 1"].found == "RuntimeError: illegal instruction"
    assert findings["scan reference at 1"].ok is False and findings["scan torch at 50"].ok is True


def test_a_plugin_that_cannot_run_is_marked(tmp_path):
    lacking = tmp_path / "lacking.py"
    lacking.write_text(
        'from lgbench.method import Method\nREQUIRES = ("absent_module",)\n\nclass L(Method):\n    pass\n'
    )
    registry.add_file(lacking)
    assert "absent_module" in found()["method lacking"].found
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "BAD method lacking" in result.stdout and "marked BAD above" in result.stdout


def test_the_command_succeeds_where_nothing_is_bad():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.stdout
    assert "ok  scan torch at 50" in result.stdout and "BAD" not in result.stdout
