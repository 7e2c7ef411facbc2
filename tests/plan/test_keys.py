"""A key changes with everything that decides a number, and with nothing else."""

from dataclasses import dataclass, fields, replace

import pytest
from pydantic import BaseModel

from lgbench.plan import keys
from lgbench.plan.cells import Training
from lgbench.plan.keys import changed_params
from lgbench.recipe import Recipe
from lgbench.run.calibrate import CALIBRATION_FORMAT


def other_value(field, value):
    """A value of the same type that the field might have."""
    if isinstance(value, str):
        return {"float32": "bfloat16"}.get(value, value + "x")
    if isinstance(value, tuple):
        return (*value, (9,) if field.name == "stages" else 9)
    return value + 1


def test_a_new_training_format_is_another_training(toy_cells, monkeypatch):
    (cell,) = toy_cells("vanilla")
    before = cell.training.key, cell.key
    monkeypatch.setattr(keys, "TRAINING_FORMAT", keys.TRAINING_FORMAT + 1)
    after = replace(cell, training=replace(cell.training))  # a key is computed once
    assert after.training.key != before[0] and after.key != before[1]


def test_a_new_evaluation_format_keeps_the_training(toy_cells, monkeypatch):
    (cell,) = toy_cells("vanilla")
    before = cell.training.key, cell.key
    monkeypatch.setattr(keys, "EVALUATION_FORMAT", keys.EVALUATION_FORMAT + 1)
    after = replace(cell, training=replace(cell.training))
    assert after.training.key == before[0] and after.key != before[1]


def test_the_calibration_format_counts_only_where_something_is_fitted(toy_cells):
    plain, fitted = toy_cells("vanilla", "mambaextend")
    assert plain.calibration_format == 0
    assert fitted.calibration_format == CALIBRATION_FORMAT
    assert replace(fitted, calibration_format=CALIBRATION_FORMAT + 1).key != fitted.key


def test_label_and_preset_are_in_no_key(toy_cells):
    (cell,) = toy_cells("vanilla")
    assert replace(cell, label="another", preset="paper").key == cell.key


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_every_field_of_a_recipe_is_in_the_keys_that_it_decides(toy_cells, name):
    (cell,) = toy_cells("vanilla")
    [field] = [field for field in fields(Recipe) if field.name == name]
    value = other_value(field, getattr(cell.recipe, name))
    changed = replace(cell.recipe, **{name: value})
    assert replace(cell, recipe=changed).key != cell.key
    only_evaluated = changed.training_part() == cell.recipe.training_part()
    training = replace(cell.training, recipe=changed.training_part())
    assert (training.key == cell.training.key) is only_evaluated


@pytest.mark.parametrize("name", [field.name for field in fields(Training) if field.name != "recipe"])
def test_every_field_of_a_training_is_in_its_key_and_in_those_of_its_cells(toy_cells, name):
    (cell,) = toy_cells("vanilla")
    [field] = [field for field in fields(Training) if field.name == name]
    other = '{"x":1}' if name.endswith("_params") else other_value(field, getattr(cell.training, name))
    changed = replace(cell.training, **{name: other})
    assert changed.key != cell.training.key
    assert replace(cell, training=changed).key != cell.key


@pytest.mark.parametrize(("more", "equal"), [({}, True), ({"brand_new": 0.25}, False)])
def test_a_new_field_changes_keys_only_where_it_differs_from_its_default(toy_cells, more, equal):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Wider(Recipe):
        brand_new: float = 0.5

    def widened(recipe):
        return Wider(**{field.name: getattr(recipe, field.name) for field in fields(Recipe)}, **more)

    (cell,) = toy_cells("vanilla")
    training = replace(cell.training, recipe=widened(cell.training.recipe))
    assert (training.key == cell.training.key) is equal
    assert (replace(cell, training=training, recipe=widened(cell.recipe)).key == cell.key) is equal


def test_a_parameter_at_its_default_is_in_no_key():
    class Params(BaseModel):
        low: int = 1
        high: float = 2.0

    assert changed_params(Params()) == changed_params(Params(low=1, high=2)) == "{}"
    assert changed_params(Params(low=3)) == '{"low":3}'
    assert changed_params(Params(low=3), frozenset({"low"})) == "{}"


def test_a_required_parameter_is_in_every_key():
    class Params(BaseModel):
        low: int

    assert changed_params(Params(low=0)) == '{"low":0}'
