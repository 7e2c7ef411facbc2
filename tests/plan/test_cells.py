"""A plan is pure data: the same request gives the same hashes; only what decides a result changes them."""

import pytest
import torch

from lgbench.errors import UserError
from lgbench.plan.cells import Axes, checkpoint_folder, load_method, load_task, resolve_cells
from lgbench.plan.params import PluginRequest
from lgbench.plugins import registry


def test_the_cross_product_is_complete_and_in_the_order_of_the_request(toy_cells):
    cells = toy_cells("vanilla", "transformer", seeds=[0, 1], train_length=[8, 16], num_layers=[2, 4])
    points = [(c.method, c.recipe.train_length, c.recipe.num_layers, c.seed) for c in cells]
    assert points == [
        (method, length, layers, seed)
        for method in ("vanilla", "transformer")
        for length in (8, 16)
        for layers in (2, 4)
        for seed in (0, 1)
    ]
    assert len({c.key for c in cells}) == 16


def test_the_same_request_gives_the_same_keys(toy_cells):
    first, again = toy_cells("vanilla,prepended"), toy_cells("vanilla,prepended")
    assert [c.key for c in first] == [c.key for c in again]
    assert first == again


def test_a_request_that_is_made_twice_gives_one_cell(toy_cells):
    assert len(toy_cells("vanilla", "vanilla", "truncated[low=8]", "truncated")) == 3


@pytest.mark.parametrize(
    "numbers",
    [
        {"train_length": [8]},
        {"train_steps": [13]},
        {"num_layers": [4]},
        {"d_state": [8]},
        {"batch_size": 5},
        {"learning_rate": 2e-2},
        {"seeds": [1]},
        {"train_queries": (2, 5)},
        {"warmup_steps": 3},
        {"decay_from": 0.5},
        {"grad_clip": 2.0},
    ],
    ids=lambda numbers: next(iter(numbers)),
)
def test_what_influences_training_changes_both_keys(toy_cells, numbers):
    (plain,), (changed,) = toy_cells("vanilla"), toy_cells("vanilla", **numbers)
    assert plain.training.key != changed.training.key
    assert plain.key != changed.key


@pytest.mark.parametrize(
    "numbers",
    [{"eval_lengths": (1, 2)}, {"eval_queries": 3}, {"query_grid": (2,)}, {"eval_items": 5}],
    ids=lambda numbers: next(iter(numbers)),
)
def test_what_only_evaluation_reads_changes_the_cell_and_not_the_training(toy_cells, numbers):
    (plain,), (changed,) = toy_cells("vanilla"), toy_cells("vanilla", **numbers)
    assert plain.training.key == changed.training.key
    assert plain.key != changed.key


def test_other_data_are_another_training(toy_cells, toy_task):
    (before,) = toy_cells("vanilla")
    toy_task.data_fingerprint = "other"
    (after,) = toy_cells("vanilla")
    assert before.training.key != after.training.key
    assert before.key != after.key


def test_methods_that_train_alike_share_a_training(toy_cells):
    vanilla, *shrinks = toy_cells("vanilla", "toy_shrink[factor=[0.5,0.25]]")
    assert {c.training for c in shrinks} == {vanilla.training}
    assert len({c.key for c in (vanilla, *shrinks)}) == 3
    assert vanilla.training.method == "vanilla"


def test_what_a_method_is_told_in_evaluation_does_not_change_its_training(toy_cells):
    honest, lied = toy_cells("prepended", "prepended[tell=2]")
    assert honest.training.key == lied.training.key
    assert honest.key != lied.key


def test_an_evaluation_parameter_of_a_task_does_not_change_the_training(toys):
    cells = []
    for params in ({}, {"worth": 2}, {"noise": 1}):
        task = load_task(PluginRequest("toy_average", params))
        task.prepare(torch.device("cpu"))
        cells += resolve_cells(
            [("toy_average", task)],
            [PluginRequest("vanilla", {})],
            seeds=[0],
            preset="smoke",
            axes=Axes(),
            overrides={},
        )
    plain, worth, noise = cells
    assert plain.training == worth.training and plain.key != worth.key
    assert plain.training != noise.training


def test_the_training_range_is_the_methods(toy_cells):
    cells = toy_cells("vanilla,truncated,truncated[low=3],expanded,expanded[factor=1.5]", train_length=[16])
    assert [(c.training.low, c.training.high) for c in cells] == [(1, 16), (8, 16), (3, 16), (1, 64), (1, 24)]
    assert {c.recipe.train_length for c in cells} == {16}


def test_evaluating_along_a_training_gives_a_cell_for_every_step_and_one_training(toy_cells):
    cells = toy_cells("vanilla", train_steps=[12], eval_at_steps=[6, 3])
    assert [c.step for c in cells] == [3, 6, 12]
    assert len({c.training for c in cells}) == 1
    assert len({c.key for c in cells}) == 3


@pytest.mark.parametrize("step", [0, -1, 13])
def test_a_step_outside_the_training_cannot_be_evaluated(toy_cells, step):
    with pytest.raises(UserError, match=f"--eval-at-steps {step} is outside the training of 12 steps"):
        toy_cells("vanilla", train_steps=[12], eval_at_steps=[step])


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"eval_lengths": (0, 4)}, "--eval-lengths must be positive and increasing, got 0,4"),
        ({"eval_lengths": (-4, 4)}, "--eval-lengths must be positive and increasing, got -4,4"),
        ({"eval_lengths": (8, 4)}, "--eval-lengths must be positive and increasing, got 8,4"),
        ({"eval_lengths": (4, 4)}, "--eval-lengths must be positive and increasing, got 4,4"),
        ({"eval_lengths": ()}, "--eval-lengths is empty"),
        ({"query_grid": (0, 1)}, "--query-grid must be positive and increasing, got 0,1"),
        ({"train_length": [0]}, "--train-length must be at least 1, got 0"),
        ({"train_steps": [-5]}, "--train-steps must be at least 1, got -5"),
        ({"num_layers": [0]}, "--num-layers must be at least 1, got 0"),
        ({"d_state": [0]}, "backbone 'mamba' got d_state=0; d_state must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"eval_items": 0}, "--eval-items must be at least 1, got 0"),
        ({"eval_queries": 0}, "--eval-queries must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be above 0, got nan"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_option(toy_cells, numbers, complaint):
    with pytest.raises(UserError) as caught:
        toy_cells("vanilla", **numbers)
    assert complaint in str(caught.value)


def test_a_depth_that_a_backbone_cannot_have_is_refused_before_anything_runs(toy_cells):
    assert len(toy_cells("vanilla", num_layers=[3])) == 1
    with pytest.raises(UserError, match=r"'transformer': --num-layers must be a multiple of 2 .*, got 3"):
        toy_cells("transformer", num_layers=[3])


def test_an_unknown_preset_lists_those_of_the_task(toy_cells, toy_task):
    with pytest.raises(UserError, match=r"no preset 'huge'\. It has: smoke"):
        resolve_cells(
            [("toy_average", toy_task)],
            [PluginRequest("vanilla", {})],
            seeds=[0],
            preset="huge",
            axes=Axes(),
            overrides={},
        )


def test_a_lower_limit_above_the_training_length_is_refused(toy_cells):
    with pytest.raises(UserError, match="low=17 is above the training length 16"):
        toy_cells("truncated[low=17]", train_length=[16])


def test_a_cell_holds_resolved_parameters_from_which_its_method_is_made_again(toy_cells):
    (cell,) = toy_cells("prepended[tell=2]")
    assert cell.method_params == '{"tell":2.0}'
    assert cell.label == "prepended[tell=2.0]"
    assert load_method(cell.method, cell.method_params).params.tell == 2.0


def test_checkpoints_lie_under_the_key_of_their_training(toy_cells, tmp_path):
    (cell,) = toy_cells("vanilla")
    assert checkpoint_folder(tmp_path, cell.training) == tmp_path / "checkpoints" / cell.training.key


def test_a_task_is_made_with_its_validated_parameters(toys):
    assert load_task(PluginRequest("toy_average", {"noise": 2})).params.noise == 2.0
    with pytest.raises(UserError, match="has no parameter 'nose'"):
        load_task(PluginRequest("toy_average", {"nose": 2}))
    assert "toy_average" in registry.TASKS.names()


@pytest.mark.parametrize(
    ("method", "numbers", "drawn", "length"),
    [
        ("mambaextend", {}, 48, 48),
        ("vanilla+mambamodulation[fit_at=2]", {"eval_lengths": (1, 17)}, 34, 17),
        ("mambaextend[fit_length=31]", {}, 31, 48),
        ("clock_law[select_at=[[1,2]]]", {}, 32, 1),
        ("decimamba", {"train_length": [8]}, 32, 1),
        ("longmamba[protocol=as_released]", {"eval_lengths": (16, 3000)}, 2000, 3000),
        (
            "mambaextend[protocol=as_released]",
            {"train_length": [31], "eval_lengths": (4,), "query_grid": (1,)},
            31,
            4,
        ),
    ],
)
def test_training_contexts_that_a_fit_needs_and_cannot_have_are_refused_by_name_and_length(
    toy_cells, toy_task, monkeypatch, method, numbers, drawn, length
):
    assert toy_cells(method, **numbers), "there is no limit before the data are known"
    monkeypatch.setattr(toy_task, "longest_training", lambda num_queries: 34 - num_queries)
    part = method.split("+")[-1].split("[")[0]
    message = (
        f"method '{part}' would be fitted on training contexts of {drawn:,} tokens for its evaluation at "
        f"{length:,}; the longest that can be drawn has 30 (procedural)"
    )
    with pytest.raises(UserError) as error:
        toy_cells(method, **numbers)
    assert str(error.value) == message
    monkeypatch.setattr(toy_task, "longest_training", lambda num_queries: drawn)
    assert toy_cells(method, **numbers), "just long enough"


@pytest.mark.parametrize("method", ["longmamba", "vanilla", "mambaextend[scale=0.5]"])
def test_a_method_that_draws_no_long_training_context_is_not_refused(
    toy_cells, toy_task, monkeypatch, method
):
    monkeypatch.setattr(toy_task, "longest_training", lambda num_queries: 16)
    assert toy_cells(method)


def test_a_training_range_that_the_data_cannot_fill_is_refused_by_name_and_length(
    toy_cells, toy_task, monkeypatch
):
    monkeypatch.setattr(toy_task, "longest_training", lambda num_queries: 34 - num_queries)
    assert toy_cells("vanilla") and toy_cells("expanded[factor=1.875]")
    with pytest.raises(UserError) as error:
        toy_cells("expanded[factor=2]")
    assert str(error.value) == (
        "method 'expanded' would be trained on contexts of up to 32 tokens; the longest that can be drawn "
        "has 30 (procedural)"
    )


def test_a_method_that_does_not_apply_keeps_its_skipped_cell_whatever_it_would_be_fitted_on(
    toy_cells, toy_task, monkeypatch
):
    monkeypatch.setattr(toy_task, "longest_training", lambda num_queries: 30)
    monkeypatch.setattr(registry.METHODS.load("mambaextend"), "unsupported", lambda self, task: "not here")
    assert len(toy_cells("mambaextend")) == len(toy_cells("vanilla+mambaextend")) == 1


def test_a_fixed_length_is_the_upper_end_of_the_range_unless_a_method_cuts_the_lower_one(toy_cells):
    methods = ("vanilla", "expanded", "truncated[low=9]")
    cells = toy_cells(*methods, fixed_length=True)
    assert [(c.training.low, c.training.high) for c in cells] == [(16, 16), (64, 64), (9, 16)]
