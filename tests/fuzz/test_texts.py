"""Whatever is typed or stands in a plan file is read, or refused in one line."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from lgbench.errors import UserError
from lgbench.plan.config import load_plan
from lgbench.plan.params import expand, parse_plugins
from lgbench.plan.text import read_assignment, read_ranges, write_value

ANYTHING = st.text(st.characters(codec=None), max_size=60)
SIGNS = st.text(st.sampled_from(list("ab1.-e[]=,+'\"\\ \n:*&!{}<?|>#%@`~Δ٣²")), max_size=60)
DEEP = st.builds(lambda n, text: f"a[x={'[' * n}{text}{']' * n}]", st.integers(0, 3000), SIGNS)
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), ANYTHING, SIGNS)
VALUES = st.recursive(NUMBERS, lambda v: st.lists(v, max_size=4) | st.dictionaries(SIGNS, v, max_size=4))
FIELDS = (
    "task",
    "method",
    "seeds",
    "train-length",
    "train_length",
    "learning_rate",
    "plugin",
    "results",
    "a",
)
PLAN = (
    "- &one {task: [omniglot, {passkey: {variant: [a, b]}}], method: 'a,b[low=512]', seeds: 3}\n"
    "- {<<: *one, train-length: [64, 128], learning_rate: 1e-3, force: true, results: x}\n"
)


def one_line(error):
    assert 0 < len(str(error)) < 3000


def check_brackets(text):
    try:
        for request in parse_plugins(text):
            assert len(expand(request)) >= 1
            for value in request.params.values():
                again = parse_plugins(f"a[x={write_value(value)}]")[0].params["x"]
                assert again == value or value != value or "nan" in repr(value)
    except UserError as error:
        one_line(error)
    try:
        read_assignment(text)
    except UserError as error:
        one_line(error)
    with contextlib.suppress(ValueError):
        read_ranges(text)


def test_brackets_are_read_or_refused_in_one_line(fuzz):
    fuzz(1200, check_brackets, st.one_of(ANYTHING, SIGNS, DEEP))


@pytest.fixture
def check_plan(tmp_path: Path):
    path = tmp_path / "plan.yaml"

    def check(content):
        path.write_bytes(content)
        try:
            load_plan(path, {})
        except UserError as error:
            one_line(error)

    return check


def test_plan_files_are_read_or_refused_in_one_line(fuzz, check_plan, damaged):
    fuzz(400, check_plan, st.one_of(damaged(PLAN.encode()), SIGNS.map(str.encode), st.binary(max_size=60)))


def test_plans_of_any_values_are_read_or_refused_in_one_line(fuzz, check_plan):
    plans = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)
    written = st.one_of(
        plans.map(lambda plan: yaml.safe_dump(plan, allow_unicode=True).encode(errors="surrogatepass")),
        plans.map(lambda plan: json.dumps(plan).encode()),
    )
    fuzz(300, check_plan, written)
