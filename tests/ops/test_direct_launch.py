"""The direct call of a compiled kernel is the call that the installed Triton makes; no GPU is needed."""

import os
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")


class FakeDriver:
    """Triton's driver without a GPU: kernels are compiled for sm_90, calls are written down."""

    def __init__(self):
        self.calls = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 2**18},
            load_binary=lambda *binary: ("module", 1234, 32, 0, 1024),
        )

    def launcher_cls(self, source, metadata):
        return lambda *arguments: self.calls.append(arguments)

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        """The index of the device of tensors on the CPU."""
        return None

    def get_current_stream(self, device):
        return 77


@pytest.fixture
def fake(monkeypatch, tmp_path):
    from lgbench.ops import launch
    from lgbench.ops.rms_norm_triton import _forward_kernel

    driver = FakeDriver()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setattr(launch, "_READY", {})
    yield driver
    _forward_kernel.device_caches.pop(None)


def norm(rows, dtype=torch.float32):
    """Launch the norm's forward; returns pointers and numbers of the call."""
    from lgbench.ops.launch import launch
    from lgbench.ops.rms_norm_triton import _forward_kernel

    x, weight, y = torch.zeros(rows, 8, dtype=dtype), torch.ones(8), torch.zeros(rows, 8)
    launch(_forward_kernel, rows, (x, weight, y), (rows, 1e-5), (8, 8, 1), num_warps=4)
    return [t.data_ptr() for t in (x, weight, y)] + [rows, 1e-5, 8, 8, 1]


def plain(arguments):
    """Pointers in place of tensors."""
    return [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]


def test_the_direct_call_is_triton_s_own_with_pointers_for_tensors(fake):
    from lgbench.ops.launch import _READY

    wanted = [norm(3), norm(5)]
    assert len(_READY) == 1, "this version of Triton is not called directly"
    looked_up, direct = fake.calls
    assert [plain(c)[9:] for c in fake.calls] == wanted
    assert [c[0] for c in fake.calls] == [3, 5]
    assert looked_up[1:6] == direct[1:6] and direct[1:5] == (1, 1, 77, 1234)
    assert direct[6:9] == (None, None, None), "what hooks are given, and the hooks: none is called"
    assert isinstance(looked_up[9], torch.Tensor) and isinstance(direct[9], int)


def test_other_types_are_looked_up_anew(fake):
    norm(3), norm(3, torch.bfloat16)
    assert [isinstance(c[9], torch.Tensor) for c in fake.calls] == [True, True]


def test_an_untried_version_is_never_launches_directly(fake, monkeypatch):
    from lgbench.ops import launch

    monkeypatch.setattr(launch, "launches_directly", lambda: False)
    norm(3), norm(5)
    assert [isinstance(c[9], torch.Tensor) for c in fake.calls] == [True, True]
    assert launch._READY == {}
