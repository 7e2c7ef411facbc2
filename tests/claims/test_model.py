"""A model says which run makes its rows, and that run is a plan."""

import yaml

from lgbench.claims.model import plan_of
from lgbench.plan.config import load_plan


def test_a_plan_is_one_that_the_runner_reads(model, tmp_path):
    asked = model.change(task="marked_recall", task_params=(("num_symbols", 8),), eval_lengths=(64, 256))
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan_of([(asked, 1), (asked, 2)])))
    [config] = load_plan(path, {})
    assert (config.first_seed, config.seeds, config.eval_lengths) == (1, 2, (64, 256))
    assert config.task == ("marked_recall[num_symbols=8]",) and config.train_length == (64,)


def test_methods_on_one_setting_are_one_run(model):
    other = model.change(method="slow_clock")
    [run] = plan_of([(one, seed) for one in (model, other) for seed in (0, 1)])
    assert run["method"] == ["vanilla", "slow_clock"] and run["seeds"] == 2


def test_models_that_lack_other_seeds_are_other_runs(model):
    other = model.change(method="slow_clock")
    assert [run["first_seed"] for run in plan_of([(model, 0), (other, 2)])] == [0, 2]


def test_words_are_for_people_alone(model):
    assert plan_of([(model, 0)]) == plan_of([(model.change(words="2 layers"), 0)])
    assert str(model.change(words="2 layers")) == "vanilla, L_train 64, 2 layers"


def test_methods_that_train_alike_share_weights(model):
    remedy = model.change(method="slow_clock")
    assert remedy.training() == model.training()
    assert remedy.change(own_training=True).training() != model.training()
