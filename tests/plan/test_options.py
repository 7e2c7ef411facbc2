"""An option, a YAML key, an axis, a column and the words of a legend come from one declaration."""

from dataclasses import dataclass, field, fields, replace

import pyarrow as pa
import pytest

from lgbench.cli_run import PANELS, parameters
from lgbench.errors import UserError
from lgbench.plan.axes import Axes
from lgbench.plan.checks import check_numbers
from lgbench.plan.config import RunConfig, validated
from lgbench.plan.options import RunOptions, axes, options, overrides
from lgbench.plan.text import read_ranges
from lgbench.recipe import Recipe, about, columns, described
from lgbench.store.migrate import recipe_columns
from lgbench.store.schema import recipe_columns as row_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Wider(Recipe):
    """A recipe with a number more."""

    dropout: float = field(
        default=0.0,
        metadata=about("share of activations that are dropped", option="axis", least=0, most=1,
                       column="double", words="dropout {:g}"),
    )  # fmt: skip
    tag: int = field(
        default=3, metadata=about("a number of the evaluation", group="evaluation", option="value")
    )


@pytest.fixture
def wider(toy_task):
    recipe = toy_task.recipe("smoke", "causal")
    return Wider(**{one.name: getattr(recipe, one.name) for one in fields(Recipe)})


def test_a_new_field_is_an_option_of_the_command_line_in_the_panel_of_its_group():
    made = {one.name: one for one in parameters(options(Wider).values())}
    [info] = made["dropout"].annotation.__metadata__
    assert info.default == "--dropout" and info.rich_help_panel == "Training" and info.metavar == "FLOAT,..."
    assert info.help == "Share of activations that are dropped (at least 0, at most 1)."
    [info] = made["tag"].annotation.__metadata__
    assert info.rich_help_panel == "Evaluation" and info.metavar == "INT"


def test_a_new_field_is_a_yaml_key_and_replaces_the_number_of_the_preset():
    read = validated(Wider).model_validate({"dropout": "0.1,0.5", "tag": 4})
    assert read.dropout == (0.1, 0.5) and read.tag == 4
    assert "dropout" in axes(Wider) and "tag" in overrides(Wider)
    with pytest.raises(ValueError, match="dropout"):
        RunConfig.model_validate({"dropout": 0.1})


def test_a_new_field_is_an_axis_within_its_range(wider):
    def at_length(recipe, length):
        return replace(recipe, train_length=length)

    recipes = [recipe for recipe, _ in Axes(dropout=[0.1, 0.5]).recipes(wider, at_length)]
    assert [recipe.dropout for recipe in recipes] == [0.1, 0.5]
    check_numbers(recipes[0])
    [(outside, _)] = Axes(dropout=[1.5]).recipes(wider, at_length)
    with pytest.raises(UserError, match=r"^--dropout must be at most 1, got 1.5$"):
        check_numbers(outside)


def test_a_new_field_is_a_column_of_new_rows_and_of_old_files(wider):
    assert columns(Wider)["dropout"].words == "dropout {:g}"
    assert row_columns(wider)["dropout"] == 0.0
    recipes = pa.array([{"dropout": "0.25"}], pa.map_(pa.string(), pa.string()))
    assert recipe_columns(recipes, set(columns()), Wider)["dropout"].to_pylist() == [0.25]
    before = pa.array([{"d_model": "8"}], pa.map_(pa.string(), pa.string()))
    assert recipe_columns(before, set(columns()), Wider)["dropout"].to_pylist() == [0.0]


def test_every_field_with_words_tells_series_apart_and_is_compared_by_a_ranking():
    from lgbench.report.series import SERIES
    from lgbench.stats.ranking import _LIKENESS
    from lgbench.store import SCHEMA

    with_words = {name for name, said in columns().items() if said.words}
    assert with_words <= set(SERIES) <= set(SCHEMA.names)
    assert with_words - {"train_length"} <= set(_LIKENESS)
    assert len(with_words) >= 10


def test_every_option_of_a_run_is_one_of_the_command_line_in_a_known_panel():
    made = [one.name for one in parameters(options().values())]
    assert set(RunConfig.model_fields) | {"config", "dry_run"} == set(made) and len(set(made)) == len(made)
    assert {option.about.group for option in options().values()} == set(PANELS)
    assert all(option.about.says for option in options().values())


def test_every_number_of_a_recipe_that_people_choose_says_what_it_is():
    said = {one.name for one, _ in described(Recipe)}
    silent = {"pretrained", "weights", "sizes", "stages", "stage_accuracy", "stage_batches", "revisit"}
    assert said == {one.name for one in fields(Recipe)} - silent
    assert {one.name for one, _ in described(RunOptions)} == {one.name for one in fields(RunOptions)}


@pytest.mark.parametrize(
    ("given", "ranges"),
    [
        (64, [(64, 64)]),
        ("64", [(64, 64)]),
        ("1,100", [(1, 100)]),
        ([1, 100], [(1, 100)]),
        ("16-64,64", [(16, 64), (64, 64)]),
        (["16-64", 64], [(16, 64), (64, 64)]),
        ("16-16,64-64,100-100", [(16, 16), (64, 64), (100, 100)]),
        ([(2, 3)], [(2, 3)]),
    ],
)
def test_ranges_are_one_number_two_numbers_or_a_list_with_hyphens(given, ranges):
    assert read_ranges(given) == ranges


@pytest.mark.parametrize(
    ("given", "complaint"),
    [("1,2,3", "LOW-HIGH"), ("a", "takes whole numbers"), ("1-2-3", "takes whole numbers")],
)
def test_what_is_no_range_is_refused_with_how_to_write_one(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_ranges(given)


def test_queries_learning_rates_warm_up_and_decay_are_axes(toy_cells):
    cells = toy_cells("vanilla", learning_rate=[1e-3, 2e-3], warmup_steps=[0, 2], decay_from=[0.5, 1.0],
                      train_queries=[(2, 2), (1, 3)])  # fmt: skip
    assert len({cell.key for cell in cells}) == len({cell.training.key for cell in cells}) == 16
    points = {
        (
            cell.recipe.learning_rate,
            cell.recipe.warmup_steps,
            cell.recipe.decay_from,
            cell.recipe.train_queries,
        )
        for cell in cells
    }
    assert len(points) == 16
