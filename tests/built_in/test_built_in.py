"""A built-in plugin does not change without a word: its numbers would keep their old keys."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("built_in_record", Path(__file__).parent / "record.py")
record = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record)

RECORDED = json.loads(record.RECORDED.read_text(encoding="utf-8"))
ASK = (
    "Does this change give other weights, items, fits or scores? Then raise `version` in the plugin's class. "
    "In any case write the record anew: python tests/built_in/record.py"
)


@pytest.fixture(scope="module")
def today():
    return record.describe()


def test_every_built_in_plugin_is_recorded(today):
    assert today["plugins"].keys() == RECORDED["plugins"].keys(), ASK


@pytest.mark.parametrize("name", RECORDED["plugins"])
def test_the_code_of_a_built_in_plugin_is_as_recorded(today, name):
    assert today["plugins"][name]["source"] == RECORDED["plugins"][name]["source"], ASK


@pytest.mark.parametrize("name", RECORDED["plugins"])
def test_a_default_of_a_parameter_changes_only_with_the_version(today, name):
    before, now = RECORDED["plugins"][name], today["plugins"][name]
    if now["version"] == before["version"]:
        same = {key: now["defaults"].get(key) for key in before["defaults"]}
        assert same == before["defaults"], f"a changed default needs a new version: {name}. {ASK}"


def test_a_default_of_the_recipe_changes_only_with_the_training_format(today):
    same = {key: today["recipe"].get(key) for key in RECORDED["recipe"]}
    assert same == RECORDED["recipe"], "a changed default needs a new TRAINING_FORMAT in lgbench/plan/keys.py"


def test_a_changed_line_changes_the_hash_and_a_comment_does_not(monkeypatch, tmp_path):
    [*_, path] = record.own_files(record.METHODS, "slow_clock")
    copy = tmp_path / path.name
    monkeypatch.setattr(record, "own_files", lambda registry, name: [copy])
    copy.write_text(path.read_text())
    before = record.source_hash(record.METHODS, "slow_clock")
    copy.write_text(path.read_text() + "# a comment\n")
    assert record.source_hash(record.METHODS, "slow_clock") == before
    copy.write_text(path.read_text() + "CHANGED = 1\n")
    assert record.source_hash(record.METHODS, "slow_clock") != before


def test_shared_files_belong_to_the_plugins_that_use_them():
    names = {path.name for path in record.own_files(record.METHODS, "mambaextend")}
    assert names == {"mambaextend.py", "__init__.py", "intervention.py", "params.py", "released.py"}
    assert "draws.py" in {path.name for path in record.own_files(record.TASKS, "document_retrieval")}
