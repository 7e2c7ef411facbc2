"""Every claim has a source, and a plan that the runner can carry out with the plugins that there are."""

import json
import math
from pathlib import Path

import pytest
import yaml

from lgbench.claims import FOLDERS, all_claims, claims_of, find_claim
from lgbench.claims.model import plan_of
from lgbench.errors import UserError
from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.config import load_plan
from lgbench.plan.params import parse_plugins, resolve
from lgbench.plugins.registry import METHODS

CLAIMS = all_claims()
MODELS = list(dict.fromkeys(model for claim in CLAIMS for model in claim.models))
HOME = Path(__file__).parents[2] / "lgbench" / "claims"


def test_ids_are_unique_and_name_their_files():
    ids = [claim.id for claim in CLAIMS]
    assert len(ids) == len({name.lower() for name in ids})
    files = {path.stem for folder in FOLDERS for path in (HOME / folder).glob("[!_]*.py")}
    assert {name.lower() for name in ids} == files


def test_every_item_of_the_image_paper_is_a_claim():
    last = {"M": 9, "T": 5, "V": 2, "Q": 3, "S": 3, "R": 3, "X": 3, "N": 3}
    items = {f"{letter}{k}" for letter, count in last.items() for k in range(1, count + 1)}
    assert {claim.id for claim in claims_of("rathjens")} == items


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_says_where_it_is_from_and_what_would_decide_it(claim):
    assert claim.source and claim.statement.endswith(".") and claim.parts
    assert all(math.isfinite(part.low) or math.isfinite(part.high) for part in claim.parts)
    published = claim not in claims_of("ours")
    assert bool(claim.inferred and claim.conditions) == published
    assert claim.models, "a claim that no model decides is none"
    texts = [str(model) for model in claim.models if model.task == claim.models[0].task]
    assert len(texts) == len(set(texts)), "two models of a claim cannot be told apart"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.task}, {model}")
def test_the_plan_of_a_model_resolves_to_the_cell_that_it_reads(model, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan_of([(model, 0)])))
    [config] = load_plan(path, {})
    [task], methods = config.requests()
    [cell] = resolve_cells(
        [(task.name, load_task(task))],
        methods,
        seeds=[0],
        preset=config.preset,
        axes=Axes(**config.axes()),
        overrides=config.recipe_overrides(),
    )
    assert not cell.left_out
    assert (cell.label, cell.training.backbone) == (model.method, model.backbone)
    params = load_task(task).params.model_dump()
    assert all(params[name] == value for name, value in model.task_params)
    for name in ("train_length", "train_steps", "num_layers", "learning_rate", "lm_weight"):
        assert getattr(model, name) in (None, getattr(cell.recipe, name))
    assert model.d_state in (None, json.loads(cell.training.backbone_params).get("d_state", model.d_state))
    read = [
        point.at
        for claim in CLAIMS
        for point in claim.points
        if point.model == model and point.axis == "context"
    ]
    asked = [p.at for claim in CLAIMS for p in claim.points if p.model == model and p.axis == "queries"]
    assert set(read) <= set(cell.recipe.eval_lengths) and set(asked) <= set(cell.recipe.query_grid)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.task}, {model}")
def test_a_model_knows_whether_its_method_trains_by_itself(model):
    [request] = parse_plugins(model.method)
    kind = METHODS.load(request.name)
    params = {name: value[0] if name == "layers" else value for name, value in request.params.items()}
    trains_like = kind(resolve(kind, params, "method", request.name)).trains_like
    assert model.own_training == (trains_like is None and request.name != "vanilla")


def test_unknown_claims_are_named():
    assert find_claim("m3").id == "M3"
    with pytest.raises(UserError, match="no claim 'M99'"):
        find_claim("M99")
