"""Sizes and rates beyond reason are refused in one line, before anything is trained."""

import pytest

from lgbench.errors import UserError
from lgbench.plan.config import load_config
from lgbench.recipe import Recipe, described

BASE = {"task": "marked_recall"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first_seed", 2**31), ("seeds", 10**6), ("d_state", "100000000"), ("d_state", "16,100000000"),
        ("d_state", "0"), ("save_every", float("inf")), ("cell_timeout", float("inf")),
        ("side_by_side", 10**6),
    ],
)  # fmt: skip
def test_options_of_a_run_beyond_reason_are_refused(name, value):
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: "):
        load_config(None, {**BASE, name: value})


def test_a_size_in_scientific_notation_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^--batch-size: takes whole numbers, got '1e12'"):
        load_config(None, {**BASE, "batch_size": "1e12"})


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        (dict(eval_lengths=(1, 10**12)), "--eval-lengths must be at most 100,000,000, got 1000000000000"),
        (dict(batch_size=10**12), "--batch-size must be at most 1,000,000"),
        (dict(d_model=10**9), "--d-model must be at most 65,536"),
        (dict(num_layers=[10**5]), "--num-layers must be at most 1,024"),
        (dict(train_steps=[10**15]), "--train-steps must be at most 1,000,000,000"),
        (dict(train_length=[10**12]), "--train-length must be at most 100,000,000"),
        (dict(train_queries=[(1, 10**9)]), "--train-queries must be at most 1,000,000"),
        (dict(query_grid=(1, 10**9)), "--query-grid must be at most 1,000,000"),
        (dict(eval_items=10**10), "--eval-items must be at most 1,000,000"),
        (dict(eval_draw=2**31), "--eval-draw must be at most 1,000,000"),
        (dict(learning_rate=[float("inf")]), "--learning-rate must be at most 1,000, got inf"),
        (dict(learning_rate=[float("nan")]), "--learning-rate must be above 0, got nan"),
        (dict(lm_weight=[float("inf")]), "--lm-weight must be at most 1,000,000, got inf"),
    ],
)
def test_numbers_of_a_recipe_beyond_reason_are_refused(numbers, wanted, toy_cells):
    with pytest.raises(UserError, match=f"^{wanted}"):
        toy_cells("vanilla", **numbers)


def test_every_number_that_an_option_sets_has_a_largest_value():
    unlimited = [
        field.name
        for field, said in described(Recipe)
        if said.option and said.least is not None and said.most is None
    ]
    assert unlimited == []


def test_the_last_seed_of_the_largest_first_one_fits_its_column():
    config = load_config(None, {**BASE, "first_seed": 2_000_000_000, "seeds": 1000})
    assert config.first_seed + config.seeds < 2**31
