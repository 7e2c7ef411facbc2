"""Every registered plugin keeps its contract, whoever wrote it."""

import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

from lgbench.backbone import Backbone
from lgbench.intervention import HOOKS
from lgbench.method import Method, ScanIntervention
from lgbench.models.model import build_model
from lgbench.plan.applicability import no_task_for
from lgbench.plan.params import describe_params, label, params_json, parse_plugins, resolve
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS
from lgbench.task import Batch, Recipe, Task

LAYOUTS = ("causal", "encoder_decoder")
PRESETS = {"smoke", "small"}
"""What every task has; `paper` only where there is one."""
OFFLINE = {"data": "procedural"}
NUM_ITEMS = 5
"""Of evaluation sets: a multiple of passkey's depths."""

every_task = pytest.mark.parametrize("name", TASKS.names())
every_method = pytest.mark.parametrize("name", METHODS.names())
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
_prepared: dict[str, Task] = {}


def prepared(name):
    """A task on the CPU, with data that need no download where it has a choice."""
    if name not in _prepared:
        plugin = TASKS.load(name)
        offline = {k: v for k, v in OFFLINE.items() if k in plugin.Params.model_fields}
        _prepared[name] = plugin(resolve(plugin, offline, "task", name))
        _prepared[name].prepare(torch.device("cpu"))
    return _prepared[name]


def tiny(task, layout):
    """The smallest preset, cut down until anything takes no time."""
    recipe = task.recipe("smoke", layout)
    return replace(recipe, num_layers=2, batch_size=2, eval_batch=2, eval_items=NUM_ITEMS)


def allowed(task, length):
    """A length that the task has, near this one if it counts tokens; few, if it counts something larger."""
    return task.min_length + (length - 1 if task.length_unit == "tokens" else length // 10)


def width(tensors):
    return next(iter(tensors.values())).shape[1]


def model_for(task, layout):
    plugin = {"causal": "vanilla", "encoder_decoder": "transformer"}[layout]
    return build_model(task, METHODS.load(plugin)(), tiny(task, layout), seed=0)


def same(one, other):
    """Whether two batches hold equal tensors."""
    named = [(b.context, b.queries, {"targets": b.targets}) for b in (one, other)]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(*named, strict=True)
    )


@pytest.mark.parametrize("plugins", [TASKS, METHODS, BACKBONES], ids=["tasks", "methods", "backbones"])
def test_each_plugin_loads_and_describes_itself_in_a_sentence(plugins):
    assert plugins.names()
    for name in plugins.names():
        assert plugins.problem(name) is None
        plugin = plugins.load(name)
        assert (
            issubclass(plugin, {"task": Task, "method": Method, "backbone": Backbone}[plugins.kind])
            and plugin.__doc__
        )
        assert re.fullmatch(r"[A-Z].{20,}[.?!]", plugins.summary(name)), plugins.summary(name)


@pytest.mark.parametrize("plugins", [TASKS, METHODS, BACKBONES], ids=["tasks", "methods", "backbones"])
def test_each_plugin_names_its_source(plugins):
    for name in plugins.names():
        assert "Source:" in Path(plugins.place(name)).read_text(), name


@pytest.mark.parametrize("plugins", [TASKS, METHODS, BACKBONES], ids=["tasks", "methods", "backbones"])
def test_each_parameter_has_a_default_and_a_description_and_survives_being_written_down(plugins):
    for name in plugins.names():
        plugin = plugins.load(name)
        assert issubclass(plugin.Params, BaseModel)
        assert plugin.Params.model_config["frozen"] and plugin.Params.model_config["extra"] == "forbid"
        assert plugins is BACKBONES or plugin.eval_only <= set(plugin.Params.model_fields)
        for info in describe_params(plugin):
            assert info.default and len(info.description) > 10, (name, info.name)
        params = plugin.Params()
        assert label(name, params) == name
        (request,) = parse_plugins(label(name, params))
        assert params_json(resolve(plugin, request.params, "plugin", name)) == params_json(params)


def presets(task, layout):
    """Those that the message about an unknown one lists."""
    with pytest.raises(LookupError, match=r"has no preset 'no such'\. It has: [a-z, ]+$") as caught:
        task.recipe("no such", layout)
    return str(caught.value).partition("It has: ")[2].split(", ")


@every_task
@every_layout
def test_every_task_has_the_presets_that_it_lists_for_every_layout(name, layout):
    listed = presets(prepared(name), layout)
    assert {*listed} >= PRESETS and len({*listed}) == len(listed)
    for preset in listed:
        check_recipe(prepared(name).recipe(preset, layout), layout)


def check_recipe(recipe, layout):
    """Numbers that make sense."""
    assert isinstance(recipe, Recipe)
    low, high = recipe.train_queries
    assert 1 <= low <= high and recipe.train_length in range(1, recipe.eval_lengths[-1])
    for grid in (recipe.eval_lengths, recipe.query_grid):
        assert list(grid) == sorted(set(grid)) and all(n >= 1 for n in grid)
    numbers = [
        getattr(recipe, f.name) for f in fields(recipe) if f.type == "int" and f.name != "warmup_steps"
    ]
    assert all(n >= 0 for n in numbers) and recipe.learning_rate > 0 and 0 <= recipe.decay_from <= 1
    assert recipe.num_layers % _layers_multiple(layout) == 0


def _layers_multiple(layout):
    return max(
        BACKBONES.load(n).layers_multiple_of for n in BACKBONES.names() if BACKBONES.load(n).layout == layout
    )


@every_task
def test_a_task_says_where_its_items_come_from(name):
    task = prepared(name)
    assert task.data_source and task.data_fingerprint and task.metric.name


@every_task
@every_layout
@pytest.mark.parametrize(("length", "num_queries"), [(5, 3), (17, 8)])
def test_samples_of_two_lengths_go_through_a_model_and_all_its_parameters_get_gradients(
    name, layout, length, num_queries
):
    task = prepared(name)
    if layout == "encoder_decoder" and no_task_for(METHODS.load("transformer")(), "encoder_decoder", task):
        pytest.skip("no method runs this task in two parts")
    length = allowed(task, length)
    batch = task.sample(2, length, num_queries, torch.Generator().manual_seed(0))
    num_context, num_asked = width(batch.context), width(batch.queries)
    assert num_context == length or task.length_unit != "tokens"
    assert all(t.shape[:2] == (2, num_context) for t in batch.context.values())
    assert all(t.shape[:2] == (2, num_asked) for t in batch.queries.values())
    if task.generates:
        assert 1 <= batch.targets.shape[1] <= num_asked, "the answer without its last token is asked with"
    else:
        assert batch.targets.shape[1] == num_asked == num_queries
    model = model_for(task, layout)
    predictions = model.train().answer(batch, mode="train", length=num_context)
    losses = task.loss(predictions, batch.targets)
    assert losses.shape == batch.targets.shape[:2] and losses.isfinite().all()
    losses.mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
    for parameter in model.interface.parameters():
        assert parameter.grad.abs().max() > 0


@every_task
def test_a_generator_decides_the_sample_alone(name):
    task = prepared(name)
    length = allowed(task, 9)
    torch.manual_seed(1)
    one = task.sample(3, length, 4, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    two = task.sample(3, length, 4, torch.Generator().manual_seed(5))
    other = task.sample(3, length, 4, torch.Generator().manual_seed(6))
    assert same(one, two) and not same(one, other)


@every_task
def test_evaluation_items_are_fixed_by_their_seed_and_nested_where_promised(name):
    task = prepared(name)
    one, two, other = (task.eval_set(NUM_ITEMS, seed) for seed in (0, 0, 1))
    assert one.fingerprint == two.fingerprint != other.fingerprint and one.num_items == NUM_ITEMS
    everyone, length = slice(0, NUM_ITEMS), allowed(task, 16)
    tokens = one.num_tokens(length)
    for key, tensor in one.context(everyone, 0, tokens, length).items():
        assert tensor.shape[:2] == (NUM_ITEMS, tokens)
        assert torch.equal(tensor, two.context(everyone, 0, tokens, length)[key])
        pieces = [one.context(everyone, a, b, length)[key] for a, b in ((0, 5), (5, tokens))]
        assert torch.equal(torch.cat(pieces, dim=1), tensor)
        if task.nested:
            assert torch.equal(one.context(everyone, 0, 7, 7)[key], tensor[:, :7])
    queries, targets = one.queries(everyone, length, 6)
    if task.generates:
        return
    fewer, fewer_targets = one.queries(everyone, length, 2)
    assert torch.equal(fewer_targets, targets[:, :2])
    assert all(torch.equal(fewer[key], queries[key][:, :2]) for key in queries)


@every_task
def test_another_draw_has_other_items_of_the_same_held_out_data(name):
    task = prepared(name)
    length, everyone = allowed(task, 16), slice(0, NUM_ITEMS)
    drawn = []
    for seed in (0, 1):
        items = task.eval_set(NUM_ITEMS, seed)
        items.reach(length)
        queries, targets = items.queries(everyone, length, 1)
        drawn.append(Batch(items.context(everyone, 0, items.num_tokens(length), length), queries, targets))
    one, other = drawn
    assert one.context.keys() == other.context.keys()
    shapes = [{n: t.shape for n, t in batch.context.items()} for batch in drawn]
    assert shapes[0] != shapes[1] or not same(one, other)


@every_task
def test_scores_are_one_finite_number_a_query_and_a_perfect_answer_is_best(name):
    task = prepared(name)
    items, everyone, length = task.eval_set(NUM_ITEMS, 0), slice(0, NUM_ITEMS), allowed(task, 8)
    _, targets = items.queries(everyone, length, 6)
    perfect = targets
    if not targets.is_floating_point():  # logits, not tokens
        perfect = 1e4 * torch.nn.functional.one_hot(targets.clamp(min=0)).float()
    scores = task.score(perfect, targets)
    assert scores.shape in ((NUM_ITEMS, targets.shape[1]), (NUM_ITEMS, 1))
    best = math.log(task.metric.best) if task.metric.combine == "exp_mean" else task.metric.best
    assert (scores == best).all()
    if task.generates:
        answers = targets.masked_fill(targets < 0, task.tokenizer.end)
        for metric in (one for one in task.metrics if one != task.log_metric):
            graded = items.grade(everyone, length, answers)[metric.name]
            assert graded.shape == (NUM_ITEMS,) and (graded[~graded.isnan()] == metric.best).all()


def num_classes(task):
    """Of a task whose targets are classes: width of the logits."""
    return task.interface(16, "causal").read(torch.zeros(1, 1, 16)).shape[-1]


@every_task
def test_the_best_constant_predictor_scores_chance(name):
    """The constant is found by gradient descent on the evaluation items themselves."""
    task = prepared(name)
    if task.generates or task.lm_metric is not None:
        pytest.skip("answers are tokens; tests/tasks compute what a constant answer scores")
    items = task.eval_set(256, 0)
    chance = dict(task.references(items, 128, task.metric))["chance"]
    _, targets = items.queries(slice(0, 256), allowed(task, 8), 128)
    shape = targets.shape[2:] if targets.is_floating_point() else (num_classes(task),)
    constant = torch.zeros(shape, requires_grad=True)
    everywhere = (*targets.shape[:2], *shape)
    adam = torch.optim.Adam([constant], lr=0.05)
    for _ in range(150):
        loss = task.loss(constant.expand(everywhere), targets).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    score = task.score(constant.detach().expand(everywhere), targets).mean().item()
    assert score == pytest.approx(chance, abs=0.05 * abs(chance - task.metric.best))


@every_method
def test_every_method_has_a_known_backbone_and_a_training_range_around_the_training_length(name):
    method = METHODS.load(name)()
    assert method.backbone in BACKBONES.names()
    for train_length in (1, 2, 1024):
        low, high = method.train_lengths(train_length)
        assert 1 <= low <= high and isinstance(low, int) and isinstance(high, int)
    if method.trains_like is not None:
        assert method.trains_like in METHODS.names()
        assert METHODS.load(method.trains_like)().backbone == method.backbone


@every_method
def test_every_method_gives_a_fresh_intervention_whose_hooks_exist(name):
    method = METHODS.load(name)()
    one, two = method.intervention(64, 16), method.intervention(64, 16)
    assert isinstance(one, ScanIntervention) and one is not two
    own = {n for n in vars(type(one)) if not n.startswith("_") and callable(getattr(one, n))}
    assert own <= {*HOOKS, "begin"} | {n for n in dir(ScanIntervention)}, (
        "a misspelt hook would never be called"
    )


@every_method
@pytest.mark.parametrize("task_name", TASKS.names())
def test_every_method_runs_on_every_task_or_says_why_not(name, task_name):
    task, method = prepared(task_name), METHODS.load(name)()
    reason = no_task_for(method, method.backbone, task)
    if reason is not None:
        assert isinstance(reason, str) and len(reason) > 10
        return
    layout = BACKBONES.load(method.backbone).layout
    model = build_model(task, method, tiny(task, layout), seed=0)
    batch = task.sample(2, allowed(task, 9), 4, torch.Generator().manual_seed(0))
    for mode in ("train", "score"):
        losses = task.loss(model.answer(batch, mode=mode, length=width(batch.context)), batch.targets)
        assert losses.shape == batch.targets.shape[:2] and losses.isfinite().all()
    losses.mean().backward()
    if model.trained is not None:
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.trained.parameters())


@every_method
@pytest.mark.parametrize("task_name", TASKS.names())
def test_what_a_method_promises_about_prefixes_holds(name, task_name):
    """One pass over the longest context must answer like separate passes where `prefix_exact` says so."""
    task, method = prepared(task_name), METHODS.load(name)()
    if no_task_for(method, method.backbone, task) or not method.prefix_exact or not task.nested:
        pytest.skip("this method or task does not promise that prefixes are exact")
    model = build_model(task, method, tiny(task, "causal"), seed=0).eval()
    items = task.eval_set(NUM_ITEMS, 0)
    both, state, start = slice(0, 2), None, 0
    with torch.no_grad():
        for length in (3, 8, 40):
            state = model.read_context(items.context(both, start, length, 40), state, 40)
            start = length
            queries, targets = items.queries(both, length, 5)
            shared = model.answer_from(state, queries, 5, length)
            alone = model.answer_from(
                model.read_context(items.context(both, 0, length, length), None, length), queries, 5, length
            )
            torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
            assert shared.shape[:2] == targets.shape[:2]
