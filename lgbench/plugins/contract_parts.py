"""What a task and a method must keep, asked before anything is trained; see `lgbench.plugins.contract`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from lgbench.intervention import HOOKS, ScanIntervention
from lgbench.method import Method
from lgbench.models.model import build_model
from lgbench.plan.options import BASELINE
from lgbench.plan.params import describe_params
from lgbench.plugins.contract import Broken, Verdict, explain
from lgbench.plugins.registry import BACKBONES, METHODS
from lgbench.run.failures import ANY
from lgbench.task import Recipe, Task

PRESETS = ("smoke", "small", "paper")
NUM_ITEMS = 5


def check_task(kind: type[Task], device: torch.device | None = None) -> list[Verdict]:
    """Ask a task with its default parameters what its contract says; loads its data."""
    try:
        task = kind()
        task.prepare(device or torch.device("cpu"))
    except ANY as error:  # the code of a plugin may fail in any way
        return [Verdict("it prepares its data", False, explain(error))]
    checks: dict[str, Callable[[Any], str]] = {
        "parameters described": _described,
        "items stable": _items,
        "sample repeatable": _sample,
        "queries as the recipe asks": _queries,
        "loss and gradients": _loss,
        "best score": _best,
        "chance right": _chance,
    }
    return [_verdict(name, check, task) for name, check in checks.items()]


def check_method(kind: type[Method]) -> list[Verdict]:
    """Ask a method with its default parameters what its contract says."""
    try:
        method = kind()
    except ANY as error:
        return [Verdict("it can be made", False, explain(error))]
    checks: dict[str, Callable[[Any], str]] = {
        "parameters described": _described,
        "hooks exist": _hooks,
        "training known": _training,
        "runs on its backbone": _runs,
    }
    return [_verdict(name, check, method) for name, check in checks.items()]


def _verdict(name: str, check: Callable[[Any], str], plugin: Any) -> Verdict:
    try:
        return Verdict(name, True, check(plugin))
    except ANY as error:
        return Verdict(name, False, explain(error))


def _described(plugin: Any) -> str:
    found = describe_params(type(plugin))
    bare = [info.name for info in found if not info.default or len(info.description) <= 10]
    if bare:
        raise Broken(f"{bare[0]} lacks a default or a description: Field(default, description='…')")
    return f"{len(found)} parameters"


def _recipe(task: Task) -> Recipe:
    for preset in PRESETS:
        try:
            return task.recipe(preset, "causal")
        except LookupError:
            continue
    raise Broken(f"it has none of the presets {', '.join(PRESETS)}")


def _items(task: Task) -> str:
    one, two, other = (task.eval_set(NUM_ITEMS, seed) for seed in (0, 0, 1))
    if one.fingerprint != two.fingerprint or one.fingerprint == other.fingerprint:
        raise Broken("the fingerprint of evaluation items must depend on their seed, and on it alone")
    length, everyone = _recipe(task).eval_lengths[0], slice(0, NUM_ITEMS)
    for items in (one, two, other):
        items.reach(length)

    def drawn(items: Any) -> list[torch.Tensor]:
        queries, targets = items.queries(everyone, length, 1)
        context = items.context(everyone, 0, items.num_tokens(length), length)
        return [*context.values(), *queries.values(), targets]

    if not _equal(drawn(one), drawn(two)):
        raise Broken("two evaluation sets of one seed differ; draw from a generator with that seed alone")
    if _equal(drawn(one), drawn(other)):
        raise Broken("evaluation sets of two seeds have equal items; --eval-draw asks for others")
    return f"{NUM_ITEMS} items of {length} {task.length_unit}"


def _equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _sample(task: Task) -> str:
    recipe, drawn = _recipe(task), []
    for seed in (5, 5, 6):
        torch.manual_seed(len(drawn))
        generator = torch.Generator(task.device).manual_seed(seed)
        drawn.append(task.sample(3, recipe.train_length, recipe.train_queries[0], generator))
    one, two, other = ([*b.context.values(), *b.queries.values(), b.targets] for b in drawn)
    if not _equal(one, two):
        raise Broken("two samples of one generator differ; it must be the only randomness")
    if _equal(one, other):
        raise Broken("two seeds gave the same sample")
    return "the generator decides"


def _queries(task: Task) -> str:
    recipe = _recipe(task)
    items, length = task.eval_set(NUM_ITEMS, 0), recipe.eval_lengths[0]
    items.reach(length)
    queries, targets = items.queries(slice(0, 2), length, recipe.eval_queries)
    asked = next(iter(queries.values())).shape[1]
    if not task.generates and not asked == targets.shape[1] == recipe.eval_queries:
        raise Broken(
            f"eval_queries is {recipe.eval_queries}; eval_set gave {asked} queries and "
            f"{targets.shape[1]} targets"
        )
    return f"{targets.shape[1]} targets an item"


def _loss(task: Task) -> str:
    recipe = replace(_recipe(task), num_layers=2)
    model = build_model(task, METHODS.load(BASELINE)(), recipe, seed=0)
    generator = torch.Generator(task.device).manual_seed(0)
    batch = task.sample(2, recipe.train_length, recipe.train_queries[0], generator)
    length = next(iter(batch.context.values())).shape[1]
    losses = task.loss(model.answer(batch, mode="train", length=length), batch.targets)
    if losses.shape != batch.targets.shape[:2] or not losses.isfinite().all():
        raise Broken(
            f"loss gave {list(losses.shape)} for targets {list(batch.targets.shape)}; expected a finite "
            "number for each query"
        )
    losses.mean().backward()
    idle = [name for name, p in model.interface.named_parameters() if p.grad is None]
    if idle:
        raise Broken(f"{idle[0]} of its interface has no gradient: nothing of it is used")
    return "finite"


def _targets(task: Task, num_queries: int) -> torch.Tensor:
    items, length = task.eval_set(256, 0), _recipe(task).eval_lengths[0]
    items.reach(length)
    return items.queries(slice(0, 256), length, num_queries)[1]


def _best(task: Task) -> str:
    targets = _targets(task, min(6, _recipe(task).eval_queries))
    perfect = targets
    if not targets.is_floating_point():
        width = int(targets.max()) + 1
        perfect = 1e4 * F.one_hot(targets.clamp(min=0), max(width, 2)).float()
    best = math.log(task.metric.best) if task.metric.combine == "exp_mean" else task.metric.best
    found = task.score(perfect, targets)
    if not torch.all(found == best):
        raise Broken(f"a perfect answer scores {found.mean().item():g}, its metric says {best:g} is best")
    return f"a perfect answer scores {best:g}"


def _chance(task: Task) -> str:
    """The best constant answer, found by gradient descent on the items themselves."""
    if task.generates or task.lm_metric is not None:
        return "answers are tokens; not asked"
    num_queries = _recipe(task).eval_queries
    targets = _targets(task, num_queries)
    items = task.eval_set(256, 0)
    items.reach(_recipe(task).eval_lengths[0])
    chance = dict(task.references(items, num_queries, task.metric))["chance"]
    width = task.interface(16, "causal").to(task.device).read(torch.zeros(1, 1, 16, device=task.device))
    shape = targets.shape[2:] if targets.is_floating_point() else width.shape[-1:]
    constant = torch.zeros(shape, requires_grad=True, device=task.device)
    adam = torch.optim.Adam([constant], lr=0.05)
    for _ in range(150):
        adam.zero_grad()
        task.loss(constant.expand(*targets.shape[:2], *shape), targets).mean().backward()
        adam.step()
    scores = task.score(constant.detach().expand(*targets.shape[:2], *shape), targets)
    found, noise = scores.mean().item(), scores.std().item() / len(targets) ** 0.5
    if abs(found - chance) > 0.05 * abs(chance - task.metric.best) + 4 * noise:
        raise Broken(f"references say chance is {chance:g}; the best constant answer scores {found:g}")
    return f"{chance:g}; the best constant answer scores {found:g}"


def _hooks(method: Method) -> str:
    made = method.intervention(64, 16)
    if made is method.intervention(64, 16):
        raise Broken("intervention gave one object twice; make a fresh one each time")
    own = {n for n in vars(type(made)) if not n.startswith("_") and callable(getattr(made, n))}
    unknown = own - {*HOOKS} - {*dir(ScanIntervention)}
    if unknown:
        raise Broken(f"nobody calls {', '.join(sorted(unknown))}; hooks are {', '.join(HOOKS)}")
    return ", ".join(sorted(own & {*HOOKS})) or "none"


def _training(method: Method) -> str:
    low, high = method.train_lengths(1024)
    if not 1 <= low <= high:
        raise Broken(f"train_lengths(1024) gave {low}, {high}; expected 1 ≤ low ≤ high")
    if method.trains_like is not None:
        METHODS.canonical(method.trains_like)
        return f"like {method.trains_like}"
    return f"from {low} to {high} tokens where L_train is 1024"


def _runs(method: Method) -> str:
    kind = BACKBONES.load(method.backbone)
    model = kind(d_model=16, num_layers=2 * kind.layers_multiple_of, **method.backbone_options())
    intervention = method.intervention(16, 16)
    tokens = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        intervention.begin("score", 36, 4)
        hidden = model.eval().answer(tokens[:, :36], tokens[:, 36:], mode="score", intervention=intervention)
    if hidden.shape != (2, 4, 16) or not hidden.isfinite().all():
        raise Broken(f"4 queries gave {list(hidden.shape)}, expected [2, 4, 16] finite numbers")
    return f"on {method.backbone}"
