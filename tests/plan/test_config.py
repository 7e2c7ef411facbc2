"""Command-line options and YAML mean the same, and every mistake in either is one line."""

from pathlib import Path

import pytest

from lgbench.errors import UserError
from lgbench.plan.config import RunConfig, load_config, load_plan


@pytest.fixture
def write(tmp_path):
    """`write("task: omniglot")` → the path of a YAML file."""

    def make(text):
        path = tmp_path / "plan.yaml"
        path.write_text(text)
        return path

    return make


def test_a_yaml_file_equals_the_options(write):
    path = write(
        """
        task: omniglot[augment=false]
        method: [vanilla, "truncated[low=512]"]
        param: prepended.tell=2
        seeds: 3
        train-length: [256, 1024]
        eval_lengths: 64
        learning_rate: 0.001
        results: somewhere
        force: true
        """
    )
    options = {
        "task": ["omniglot[augment=false]"],
        "method": ["vanilla", "truncated[low=512]"],
        "param": ["prepended.tell=2"],
        "seeds": 3,
        "train_length": "256,1024",
        "eval_lengths": "64",
        "learning_rate": 0.001,
        "results": Path("somewhere"),
        "force": True,
    }
    assert load_config(path, {}) == load_config(None, options)
    assert load_config(path, {}).train_length == (256, 1024)


def test_options_win_over_the_file_and_those_not_given_do_not(write):
    path = write("task: omniglot\nmethod: vanilla\nseeds: 3\n")
    config = load_config(path, {"seeds": 5, "method": [], "preset": None})
    assert (config.seeds, config.method, config.preset) == (5, ("vanilla",), "small")


def test_plugins_in_yaml_may_be_mappings_from_names_to_parameters(write):
    path = write(
        """
        task: {omniglot: {augment: false, held_out: null}}
        method:
          - vanilla
          - truncated: {low: [256, 512]}
          - prepended:
        """
    )
    tasks, methods = load_config(path, {}).requests()
    assert [(t.name, dict(t.params)) for t in tasks] == [("omniglot", {"augment": False, "held_out": None})]
    assert [(m.name, dict(m.params)) for m in methods] == [
        ("vanilla", {}),
        ("truncated", {"low": 256}),
        ("truncated", {"low": 512}),
        ("prepended", {}),
    ]


def test_parameters_of_a_combination_in_yaml_are_called_part_dot_parameter(write):
    path = write(
        "task: a\nmethod: {first+second: {first.low: [1, 2], second.rate: 0.5}, first+third: null}\n"
    )
    _, methods = load_config(path, {"param": ["third.size=3"]}).requests()
    assert [(m.name, dict(m.params)) for m in methods] == [
        ("first+second", {"first.low": 1, "second.rate": 0.5}),
        ("first+second", {"first.low": 2, "second.rate": 0.5}),
        ("first+third", {"third.size": 3}),
    ]


def test_parameters_given_apart_win_and_several_values_are_a_grid():
    options = {"task": ["a"], "method": ["m[low=1,high=9],n"], "param": ["m.low=2,3", "a.size=4"]}
    tasks, methods = load_config(None, options).requests()
    assert [dict(t.params) for t in tasks] == [{"size": 4}]
    assert [(m.name, dict(m.params)) for m in methods] == [
        ("m", {"low": 2, "high": 9}),
        ("m", {"low": 3, "high": 9}),
        ("n", {}),
    ]


def test_data_is_a_parameter_of_every_task_unless_the_task_says_otherwise():
    options = {"task": ["omniglot,omniglot[data=procedural]"], "method": ["m"], "data": "omniglot"}
    tasks, _ = load_config(None, options).requests()
    assert [t.params["data"] for t in tasks] == ["omniglot", "procedural"]


def test_only_what_was_given_replaces_numbers_of_the_preset():
    config = load_config(None, {"eval_items": 9, "eval_lengths": "1,2"})
    assert config.recipe_overrides() == {"eval_items": 9, "eval_lengths": (1, 2)}
    assert set(config.axes().values()) == {None}
    assert load_config(None, {"d_state": "2,4"}).axes()["d_state"] == (2, 4)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seeds": 0}, "--seeds: Input should be greater than or equal to 1, got 0"),
        ({"train_length": "256,abc"}, "--train-length: takes whole numbers"),
        ({"eval_lengths": ""}, "--eval-lengths: takes whole numbers"),
        ({"eval_lengths": "64.5"}, "--eval-lengths: takes whole numbers"),
        ({"device": "tpu"}, "--device: Input should be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"save_every": 0.0}, "--save-every: Input should be greater than 0, got 0.0"),
        ({"side_by_side": 0}, "--side-by-side: Input should be greater than or equal to 1, got 0"),
        ({"first_seed": -1}, "--first-seed: Input should be greater than or equal to 0, got -1"),
        ({"speed": "fast"}, "no option 'speed'. There are: task, method, param, "),
    ],
    ids=str,
)
def test_a_value_that_an_option_may_not_have_is_one_line_with_the_option_and_the_value(options, complaint):
    with pytest.raises(UserError) as caught:
        load_config(None, options)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("task: [unclosed", "is not YAML: "),
        ("- a\n- list", "must be a mapping such as 'task: omniglot', got list"),
        ("", "must be a mapping such as 'task: omniglot', got NoneType"),
        ("taks: omniglot", "no option 'taks'. There are: task, "),
        ("task: 7", "--task: expected a name, a list of names or a mapping"),
        ("method: {a+b: {low: 7}}", "parameters of a+b are called a.PARAMETER and so on, not low"),
        ("task: {omniglot: 7}", "--task: parameters of omniglot must be a mapping, got 7"),
        ("seeds: many", "--seeds: takes whole numbers"),
        ("\x00", "is not YAML: "),
    ],
)
def test_a_mistake_in_a_file_is_one_line(write, text, complaint):
    with pytest.raises(UserError) as caught:
        load_config(write(text), {})
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_text_or_not_there_are_one_line(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa\x00")
    for name, complaint in (
        ("binary.yaml", "is not YAML"),
        ("absent.yaml", "No such file"),
        (".", "Is a dir"),
    ):
        with pytest.raises(UserError, match=complaint) as caught:
            load_config(tmp_path / name, {})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["task", "method"])
def test_a_run_of_nothing_says_what_to_give(missing):
    options = {"task": ["a"], "method": ["m"]} | {missing: []}
    with pytest.raises(UserError, match=f"nothing to run: give --{missing}"):
        RunConfig(**options).requests()


def test_a_run_that_names_no_method_is_of_the_baseline():
    assert load_config(None, {"task": ["omniglot"]}).method == ("vanilla",)


def test_a_plan_is_one_run_or_a_list_and_options_win_over_all(write):
    one = write("task: omniglot")
    assert load_plan(one, {"seeds": 2}) == [load_config(one, {"seeds": 2})]
    several = write("- {task: omniglot, seeds: 3}\n- {task: passkey, train-length: [64, 128]}\n")
    first, second = load_plan(several, {"seeds": 2})
    assert (first.task, first.seeds) == (("omniglot",), 2)
    assert (second.task, second.train_length, second.seeds) == (("passkey",), (64, 128), 2)
    assert load_plan(None, {"task": ["omniglot"]}) == [load_config(None, {"task": ["omniglot"]})]


@pytest.mark.parametrize("text", ["[]", "- omniglot", "- {task: omniglot}\n- 3"])
def test_a_list_of_something_else_than_runs_is_refused(write, text):
    with pytest.raises(UserError, match="a list of runs"):
        load_plan(write(text), {})


def test_a_file_stands_for_its_plugin_wherever_plugins_are_named(tmp_path):
    options = {
        "task": ["passkey[data=my/text.py]"],
        "method": ["mine/half.py[rate=[1,2]]+vanilla"],
        "backbone": ["a/gru.py,mamba,./gla.py[num_heads=4]"],
    }
    config = load_config(None, options)
    assert config.task == ("passkey[data=my/text.py]",) and config.method == ("half[rate=[1,2]]+vanilla",)
    assert config.backbone == ("gru,mamba,gla[num_heads=4]",)
    assert config.plugin == (Path("mine/half.py"), Path("a/gru.py"), Path("gla.py"))
