"""The tested versions can be installed on strangers' machines: a resolver is asked as if it ran there."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REQUIRED_TRITON = {"2.11.0": "3.6.0", "2.13.0": "3.7.1"}
"""What the published Linux wheels of torch require (`Requires-Dist` of their metadata)."""

PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin")
VERSIONS = ("3.11", "3.12", "3.13")


def pinned():
    """Name → version of constraints.txt; lines with a marker count too."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = (re.match(r"([\w.-]+)==([\w.+-]+)", line) for line in lines)
    return {spelled(match[1]): match[2] for match in found if match}


def spelled(name):
    """A name as resolvers write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_pinned_torch_and_triton_belong_together():
    versions = pinned()
    assert REQUIRED_TRITON[versions["torch"]] == versions["triton"]


def test_the_supported_versions_of_python_are_those_that_are_resolved():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert listed == set(VERSIONS)
    assert project["requires-python"] == ">=3.11,<3.14"


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """(platform, version) → exit status and output of a resolution; all wait for answers at the same time."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if uv is None:
        pytest.skip("uv is not installed; it comes with the extra dev")
    strangers = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    strangers["MACOSX_DEPLOYMENT_TARGET"] = "14.0"
    common = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--no-config",
        "--no-header",
        "--no-annotate",
        "--extra",
        "dev",
    ]
    common += ["--constraint", str(ROOT / "constraints.txt"), str(ROOT / "pyproject.toml")]
    running = {
        (platform, version): subprocess.Popen(
            [*common, "--python-platform", platform, "--python-version", version],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=strangers, cwd=tmp_path_factory.mktemp("stranger"),
        )
        for platform in PLATFORMS
        for version in VERSIONS
    }  # fmt: skip
    found = {}
    for asked, process in running.items():
        output, _ = process.communicate(timeout=300)
        found[asked] = process.returncode, output
    no_registry = r"error sending request|dns error|Failed to fetch|Could not connect|network"
    if all(status and re.search(no_registry, output) for status, output in found.values()):
        pytest.skip("no package registry can be reached")
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_tested_versions_resolve(resolved, platform, version):
    status, output = resolved[platform, version]
    assert status == 0, output
    versions = dict(line.split("==") for line in output.split() if "==" in line)
    assert versions["torch"] == pinned()["torch"]
    if "linux" in platform:
        assert versions["triton"] == pinned()["triton"]


def test_every_resolved_package_is_pinned(resolved):
    loose = set()
    for _, output in resolved.values():
        names = {spelled(line.split("==")[0]) for line in output.split() if "==" in line}
        loose |= names - set(pinned())
    assert not loose
