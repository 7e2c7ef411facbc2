"""Every kernel compiles for the GPUs of three generations with the pinned Triton; no GPU is needed."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

spec = importlib.util.spec_from_file_location("kernel_launches", Path(__file__).parent / "launches.py")
launches = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launches)

CAPABILITIES = (80, 90, 100)


@pytest.fixture(scope="module")
def recorded():
    """Family → launches, made once."""
    return {family: launches.recorded(family) for family in launches.FAMILIES}


def test_every_kernel_is_launched_by_one_of_the_calls(recorded):
    assert {launch.name for found in recorded.values() for launch in found} == launches.declared_kernels()


@pytest.mark.parametrize("family", launches.FAMILIES)
def test_a_kernel_of_each_family_compiles_without_a_gpu(recorded, family):
    compiled = launches.compile_for(recorded[family][0], 90)
    assert ".target sm_90" in compiled.asm["ptx"] and len(compiled.asm["cubin"]) > 1000


@pytest.mark.kernels
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("family", launches.FAMILIES)
def test_all_kernels_compile(recorded, family, capability):
    for launch in recorded[family]:
        compiled = launches.compile_for(launch, capability)
        assert f".target sm_{capability}" in compiled.asm["ptx"], launch.name
        assert len(compiled.asm["cubin"]) > 1000, launch.name
