"""A plan file is bounded, says nothing twice, and whatever is wrong with it is one line."""

import itertools
import time

import pytest

from lgbench.errors import UserError
from lgbench.plan.config import load_config
from lgbench.plan.text import MOST_CHARACTERS, MOST_LEVELS, read_plugins
from lgbench.plan.yaml_file import MOST_BYTES, read_yaml

PAIRS = list(itertools.pairwise("abcdefghi"))
BOMB = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in PAIRS)
MERGED_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}\n" for a, b in PAIRS
)
WRONG = {
    "a bomb of aliases": (BOMB, "more than 100,000 values, with those of its aliases"),
    "a bomb of merges": (MERGED_BOMB, "more than 100,000 values"),
    "a list in itself": ("task: &a [*a]", "line 1: a value that contains itself"),
    "a mapping in itself": ("a: &a\n  b: *a", "a value that contains itself"),
    "deep lists": ("task: " + "[" * 1000 + "]" * 1000, "more than 20 lists and mappings within one another"),
    "lists that do not end": ("[" * 100_000, "more than 20 lists and mappings within one another"),
    "deep mappings": ("\n".join(" " * k + "a:" for k in range(500)), "more than 20 lists and mappings"),
    "a key twice": ("task: a\nseeds: 1\ntask: b", "line 3: 'task' is given twice, first in line 1"),
    "a nested key twice": ("task: {a: {x: 1, x: 2}}", "'x' is given twice"),
    "a number as key": ("task: {7: {a: 1}}", "the key 7 is no text"),
    "true as key": ("yes: 1", "the key yes is no text"),
    "a list as key": ("? [a, b]\n: 1", "the key a list or mapping is no text"),
    "a Python object": ("task: !!python/object/apply:os.system [ls]", "which no option has"),
    "bytes": ("task: !!binary aGk=", "a value of the type binary, which no option has"),
    "a set": ("task: !!set {a}", "a mapping of the type set, which no option has"),
    "a date that is none": ("seeds: 2026-13-45", "is not YAML"),
    "no truth": ("seeds: !!bool maybe", "is not YAML"),
    "an empty number": ("seeds: !!int ''", "is not YAML"),
    "a number without end": ("seeds: " + "9" * 5000, "is not YAML"),
    "two documents": ("task: a\n---\ntask: b", "is not YAML"),
    "an alias of nothing": ("task: *nothing", "is not YAML"),
    "too many bytes": ("#" * (MOST_BYTES + 1), "a plan is a page or two"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_yaml_that_cannot_be_a_plan_is_refused_in_one_line_at_once(kind, tmp_path):
    text, complaint = WRONG[kind]
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        read_yaml(path, "--config plan.yaml")
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert time.process_time() - began < 2


def test_anchors_and_merges_of_an_honest_plan_are_read(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("- &one {task: a, seeds: 3}\n- {<<: *one, task: b}\n", encoding="utf-8")
    assert read_yaml(path, "plan") == [{"task": "a", "seeds": 3}, {"task": "b", "seeds": 3}]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seeds": True}, "--seeds: takes numbers, not true or false, got True"),
        ({"train_length": [64, False]}, "--train-length: takes numbers, not true or false"),
        ({"learning_rate": True}, "--learning-rate: takes numbers, not true or false"),
        ({"task": {"a": {"low": [[1]] * 200}}, "seeds": "x"}, "--seeds: takes whole numbers"),
        ({"force": "maybe"}, "--force: Input should be a valid boolean"),
    ],
    ids=str,
)
def test_true_and_false_are_no_numbers(options, complaint):
    with pytest.raises(UserError) as caught:
        load_config(None, options)
    assert complaint in str(caught.value) and len(str(caught.value)) < 500


def test_an_option_that_is_spelled_in_two_ways_is_given_twice(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("task: a\ntrain-length: 64\ntrain_length: 128\n", encoding="utf-8")
    with pytest.raises(UserError, match="'train_length' is given twice, with hyphens and with underscores"):
        load_config(path, {})


@pytest.mark.parametrize("depth", [MOST_LEVELS + 1, 1000, 9000])
def test_brackets_within_brackets_have_an_end(depth):
    with pytest.raises(UserError, match=f"more than {MOST_LEVELS} lists within one another") as caught:
        read_plugins(f"a[x={'[' * depth}1{']' * depth}]")
    assert len(str(caught.value)) < 500


def test_lists_as_deep_as_allowed_are_read():
    text = f"a[x={'[' * MOST_LEVELS}1{']' * MOST_LEVELS},y={'[' * MOST_LEVELS}{']' * MOST_LEVELS}]"
    [(_, params)] = read_plugins(text)
    for _ in range(MOST_LEVELS - 1):
        params = {"x": params["x"][0]}
    assert params["x"] == [1]


def test_a_text_without_end_is_refused_with_an_excerpt():
    with pytest.raises(UserError, match=r"more than 20,000 characters") as caught:
        read_plugins("a," * MOST_CHARACTERS)
    assert len(str(caught.value)) < 500
