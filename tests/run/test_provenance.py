"""Every number can be traced to versions, hardware and commit."""

import json
import platform
import re

import torch

import lgbench
from lgbench.run import provenance


def test_an_environment_names_versions_and_hardware_and_is_json():
    facts = provenance.environment(torch.device("cpu"))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["lgbench"] == lgbench.__version__ and facts["python"] == platform.python_version()
    assert set(facts["packages"]) == set(provenance.PACKAGES)
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["device"] == "cpu" and facts["num_threads"] == torch.get_num_threads()


def test_a_package_that_is_not_installed_has_no_version():
    assert provenance.version("no-such-distribution") is None
    assert provenance.version("pytest")


def test_a_device_has_a_name():
    assert provenance.device_name(torch.device("cpu")) == "cpu"


def test_the_commit_is_short_and_marks_a_modified_checkout():
    assert re.fullmatch(r"(?:[0-9a-f]{12}\+?)?", provenance.commit())


def test_outside_of_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(lgbench, "__file__", str(tmp_path / "site-packages" / "lgbench" / "__init__.py"))
    provenance.commit.cache_clear()
    assert provenance.commit() == ""
    monkeypatch.undo()
    provenance.commit.cache_clear()


def test_an_exported_archive_knows_its_commit(tmp_path, monkeypatch):
    (tmp_path / "lgbench").mkdir()
    (tmp_path / "lgbench" / "COMMIT").write_text("0123456789abcdef0123456789abcdef01234567\n")
    monkeypatch.setattr(provenance.lgbench, "__file__", str(tmp_path / "lgbench" / "__init__.py"))
    provenance.commit.cache_clear()
    assert provenance.commit() == "0123456789ab"
    provenance.commit.cache_clear()
