"""`lgbench fill`: numbers of a text are those of the rows, and what is not one measurement is refused."""

import numpy as np
import pytest
from typer.testing import CliRunner

import lgbench
from lgbench.cli import app
from lgbench.errors import UserError
from lgbench.report.fill import fill
from lgbench.stats.intervals import estimate

RNG = np.random.default_rng(0)
ERRORS = {(method, seed): RNG.normal(0.3 - 0.1 * (method == "b") + 0.01 * seed, 0.05, 40)
          for method in ("a", "b") for seed in range(3)}  # fmt: skip


@pytest.fixture
def rows(root, items):
    for (method, seed), values in ERRORS.items():
        items(root, {1024: values, 4096: values + 0.2}, method=method, label=method, seed=seed)
    return lgbench.rows(root)


def test_a_score_is_the_mean_over_seeds_with_the_interval_of_seeds_and_items(rows):
    values = np.stack([ERRORS["a", seed] for seed in range(3)])
    half = estimate(values).half_width()
    text = fill('{{ score(task="omniglot", method="a", length=1024) }}', rows)
    assert text == f"{values.mean():.3f} ± {half:.3f} (3 seeds)"


def test_a_difference_is_paired_by_seed_and_item(rows):
    values = np.stack([ERRORS["a", seed] - ERRORS["b", seed] for seed in range(3)])
    text = fill(
        '{% set d = difference(task="omniglot", method=["a", "b"], length=1024, digits=4) %}'
        "{{ d }} {{ d.decided }} {{ d.above(0) }} of {{ d.num_seeds }}",
        rows,
    )
    half = estimate(values).half_width()
    assert text == f"{values.mean():.4f} ± {half:.4f} (3 seeds) True 3 of 3"


def test_a_difference_of_lengths_is_paired_by_seed(rows):
    assert fill(
        '{{ difference(task="omniglot", method="a", length=[4096, 1024]) }}', rows
    ) == "0.200 ± 0.000 (3 seeds)"  # fmt: skip


def test_chance_is_subtracted(rows):
    mean = np.mean([ERRORS["a", seed].mean() for seed in range(3)])
    text = fill('{{ over_chance(task="omniglot", method="a", length=1024).short }}', rows)
    assert text == f"{mean - 0.241:.3f}"


def test_a_table_has_a_line_a_value_and_its_seeds(rows):
    lines = fill('{{ table(task="omniglot", method=["a", "b"], length=[1024, 4096]) }}', rows).splitlines()
    mean = np.mean([ERRORS["b", seed].mean() for seed in range(3)])
    assert lines[0] == "|  | seeds | 1K | 4K |"
    assert lines[3] == f"| `b` | 3 | {mean:.3f} | {mean + 0.2:.3f} |"


def test_a_table_says_what_is_missing_only_if_asked(rows):
    call = '{{ table(task="omniglot", method=["a", "c"], length=[1024, 4096]MISSING) }}'
    assert "| `c` | 0 | – | – |" in fill(call.replace("MISSING", ', missing="–"'), rows)
    with pytest.raises(UserError, match="no rows with label='c'; there are a, b"):
        fill(call.replace("MISSING", ""), rows)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ('score(task="omniglot", method="a")', "eval_length is 1024 or 4096. Say which one"),
        ('score(task="omniglot", length=1024)', "label is a or b"),
        ('score(task="omniglot", method="a", length=7)', "no rows with eval_length=7; there are 1024, 4096"),
        ('score(task="omniglot", methd="a")', "no column 'methd'; did you mean 'method'"),
        ('score(task="omniglot[size=2]", method="a", length=1024)', "no rows with task="),
        ('difference(task="omniglot", method="a", length=1024)', "exactly one keyword with two values"),
        ('require(1 > 2, "one is more than two")', "no longer true of these rows: one is more than two"),
        ("scor()", "'scor' is undefined"),
        ("score(", "line 3"),
    ],
)
def test_what_is_not_one_measurement_is_an_error_with_its_line(rows, call, says):
    with pytest.raises(UserError) as error:
        fill("one\ntwo\n{{ " + call + " }}\n", rows)
    assert says in str(error.value) and "line 3" in str(error.value) and "\n" not in str(error.value)


def test_a_single_seed_on_other_items_has_no_difference(root, items):
    for method in "ab":
        items(root, {1024: [0.1, 0.2]}, method=method, label=method, items_hash=method)
    with pytest.raises(UserError, match="a single common seed"):
        fill('{{ difference(task="omniglot", method=["a", "b"], length=1024) }}', lgbench.rows(root))


def test_a_seed_measured_twice_is_an_error(root, items):
    for cell in range(2):
        items(root, {1024: [0.1, 0.2]}, commit=str(cell))
    with pytest.raises(UserError, match="seed 0 was measured twice"):
        fill('{{ score(task="omniglot", method="vanilla", length=1024) }}', lgbench.rows(root))


def test_shares_have_an_interval_within_0_and_1(root, items):
    for seed in range(3):
        items(root, {1024: [1.0] * 20}, seed=seed, best=1.0, chance=0.0, higher_is_better=True)
    text = fill('{{ score(task="omniglot", method="vanilla", length=1024) }}', lgbench.rows(root))
    assert text == "1.00 [0.84, 1.00] (3 seeds)"


def test_perplexities_are_subtracted_as_logarithms(root, items):
    for method, level in (("a", 1.0), ("b", 0.5)):
        for seed in range(2):
            kept = dict(combine="exp_mean", best=1.0, chance=9.0, method=method, label=method, seed=seed)
            items(root, {1024: [level, level + 0.2]}, **kept)
    rows = lgbench.rows(root)
    assert fill('{{ score(task="omniglot", method="a", length=1024).short }}', rows) == "3.004"
    assert fill('{{ difference(task="omniglot", method=["a", "b"], length=1024).short }}', rows) == "0.500"


def test_the_command_writes_a_file_or_the_screen_and_leaves_nothing_after_an_error(rows, root, tmp_path):
    template, out = tmp_path / "text.jinja", tmp_path / "text"
    template.write_text('{{ score(task="omniglot", method="a", length=1024).short }}\n')
    words = ["fill", str(template), "--results", str(root)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0 and CliRunner().invoke(app, [*words, "--out", str(out)]).exit_code == 0
    assert out.read_text() == shown.output
    template.write_text("{{ score() }}")
    out.unlink()
    failed = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert failed.exit_code == 2 and not out.exists() and "several measurements fit" in failed.output
