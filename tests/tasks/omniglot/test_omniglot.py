"""Image reconstruction as specified: recipes, sizes, splits, and a chance level that is computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lgbench.tasks.omniglot.items import MIDDLE
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.errors import UserError
from lgbench.models.model import build_model
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest, params_json
from lgbench.plugins.registry import BACKBONES, METHODS
from lgbench.run.gallery import gallery
from lgbench.store import read


def load(**params):
    task = load_task(PluginRequest("omniglot", {"data": "procedural", **params}))
    task.prepare(torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def task():
    return load()


@pytest.fixture(scope="module")
def plain():
    return load(augment=False)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("method", "count"), [("vanilla", 20_412), ("prepended", 20_444), ("transformer", 31_600)]
)
@pytest.mark.parametrize("preset", ["small", "paper"])
def test_models_have_the_published_sizes(task, method, count, preset):
    plugin = METHODS.load(method)()
    recipe = task.recipe(preset, BACKBONES.load(plugin.backbone).layout)
    assert build_model(task, plugin, recipe, seed=0).num_parameters == count


def test_with_an_added_sinusoid_mamba_has_20448_parameters():
    task = load_task(PluginRequest("omniglot", {"position": "sinusoid"}))
    task.device = torch.device("cpu")
    recipe = task.recipe("paper", "causal")
    assert build_model(task, METHODS.load("vanilla")(), recipe, seed=0).num_parameters == 20_448


def test_the_paper_preset_is_the_published_recipe(task):
    mamba, transformer = task.recipe("paper", "causal"), task.recipe("paper", "encoder_decoder")
    for recipe in (mamba, transformer):
        assert (recipe.d_model, recipe.num_layers, recipe.sizes) == (16, 8, ())
        assert (recipe.learning_rate, recipe.warmup_steps, recipe.decay_from) == (3e-4, 0, 1.0)
        assert (recipe.batch_size, recipe.grad_clip, recipe.train_steps) == (64, 1.0, 4_816_000)
        assert recipe.eval_items >= 5_000
    assert (mamba.train_length, mamba.train_queries, mamba.eval_queries) == (1024, (1024, 1024), 1024)
    assert (transformer.train_length, transformer.train_queries) == (128, (1, 100))
    assert {2**k for k in range(16)} <= set(mamba.eval_lengths) and 768 in mamba.eval_lengths


@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
@pytest.mark.parametrize("layout", ["causal", "encoder_decoder"])
def test_every_preset_has_increasing_grids_that_reach_far_beyond_training(task, preset, layout):
    recipe = task.recipe(preset, layout)
    assert list(recipe.eval_lengths) == sorted(set(recipe.eval_lengths)) and recipe.eval_lengths[0] == 1
    assert list(recipe.query_grid) == sorted(set(recipe.query_grid))
    assert recipe.eval_lengths[-1] >= 16 * recipe.train_length


def test_an_unknown_preset_lists_those_that_exist(task):
    with pytest.raises(
        LookupError, match="no preset 'huge'. It has: smoke, small, paper".replace(".", r"\.")
    ):
        task.recipe("huge", "causal")


def test_a_batch_has_the_documented_shapes_and_ranges(task):
    batch = task.sample(3, 7, 5, rng())
    assert batch.context["patches"].shape == (3, 7, 16) and batch.context["places"].shape == (3, 7, 2)
    assert batch.queries["places"].shape == (3, 5, 2) and batch.targets.shape == (3, 5, 16)
    for places in (batch.context["places"], batch.queries["places"]):
        assert places.min() >= -62 and places.max() <= 61
    for patches in (batch.context["patches"], batch.targets):
        assert patches.min() >= -1 and patches.max() <= 1


def test_context_and_queries_are_of_the_same_image(plain):
    batch = plain.sample(1, 3000, 3000, rng())
    canvas = torch.full((128, 128), float("nan"))
    for place, patch in zip(batch.context["places"][0], batch.context["patches"][0], strict=True):
        x, y = (place + MIDDLE).long().tolist()
        canvas[y - 2 : y + 2, x - 2 : x + 2] = patch.view(4, 4)
    assert canvas.isnan().float().mean() < 0.1
    for place, patch in zip(batch.queries["places"][0], batch.targets[0], strict=True):
        x, y = (place + MIDDLE).long().tolist()
        seen = canvas[y - 2 : y + 2, x - 2 : x + 2]
        known = ~seen.isnan()
        assert torch.equal(seen[known], patch.view(4, 4)[known])


def test_training_and_evaluation_images_are_disjoint_sets_of_characters(task, monkeypatch):
    taken, views = [], task._views

    def watched(indices, affine):
        taken.append(set(indices.tolist()))
        return views(indices, affine)

    monkeypatch.setattr(task, "_views", watched)
    task.sample(2000, 1, 1, rng())
    task.eval_set(500, 0)
    trained, evaluated = taken
    assert trained <= set(task.train.tolist()) and evaluated <= set(task.eval.tolist())
    assert not set(task.train.tolist()) & set(task.eval.tolist())
    assert len(trained) > 1000 and len(evaluated) > 200


def test_drawings_of_one_character_are_a_cluster(plain):
    items = plain.eval_set(100, seed=0)
    characters = items.facts(1)["cluster"]
    chosen = torch.randint(len(plain.eval), (100,), generator=torch.Generator().manual_seed(0))
    assert characters == [plain.characters[at] for at in chosen.tolist()]
    assert 1 < len(set(characters)) < 100


def test_evaluation_images_are_augmented_unless_told_otherwise(task, plain):
    augmented, still = task.eval_set(20, 0), plain.eval_set(20, 0)
    assert not torch.equal(augmented.images, still.images)
    assert augmented.fingerprint != still.fingerprint
    assert augmented.images.shape == (20, 128, 128)
    assert (augmented.images == 1).float().mean() > 0.5, "most of an image is white"


def test_chance_is_the_mean_image_of_the_evaluation_items_and_the_best_of_the_references(task):
    items = task.eval_set(64, 0)
    references = task.references(items, 64, task.metric)
    assert references["chance"] < references["best constant"] < references["all white"] < 0.4
    queries, targets = items.queries(slice(None), 1, 64)
    mean_image, total = items.images.mean(0), 0.0
    for n in range(64):
        for place, patch in zip(queries["places"][n], targets[n], strict=True):
            x, y = (place + MIDDLE).long().tolist()
            total += (mean_image[y - 2 : y + 2, x - 2 : x + 2] - patch.view(4, 4)).square().mean().item()
    assert total / 64 / 64 == pytest.approx(references["chance"], rel=1e-4)
    constant = targets.mean()
    assert task.score(constant.expand_as(targets), targets).mean().item() == pytest.approx(
        references["best constant"], rel=1e-4
    )
    assert task.score(torch.ones_like(targets), targets).mean().item() == pytest.approx(
        references["all white"], rel=1e-4
    )


def test_an_untrained_model_answers_grey_with_the_published_error(task):
    model = build_model(task, METHODS.load("vanilla")(), task.recipe("paper", "causal"), seed=0)
    batch = task.sample(32, 20, 64, rng())
    with torch.no_grad():
        error = task.loss(model.answer(batch, mode="score", length=20), batch.targets).mean().item()
    assert error == pytest.approx(0.98, abs=0.12)


def test_a_few_steps_learn_that_most_is_white(task):
    model = build_model(task, METHODS.load("vanilla")(), task.recipe("smoke", "causal"), seed=0)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    draws = rng()
    losses = []
    for _ in range(40):
        batch = task.sample(8, 8, 16, draws)
        loss = task.loss(model.answer(batch, mode="train", length=8), batch.targets).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert sum(losses[:3]) / 3 > 0.6 and sum(losses[-5:]) / 5 < 0.4


@pytest.mark.parametrize("method", ["vanilla", "transformer"])
def test_the_gallery_has_a_picture_for_every_image_and_length(task, method):
    plugin = METHODS.load(method)()
    layout = BACKBONES.load(plugin.backbone).layout
    recipe = replace(task.recipe("smoke", layout), eval_lengths=(1, 8), eval_items=3)
    model = build_model(task, plugin, recipe, seed=0)
    found = gallery(model, task, plugin, recipe, task.eval_set(3, 0))
    assert found["truth"].shape == (3, 127, 127)
    assert found["reconstructions"].shape == (3, 2, 127, 127)
    assert found["lengths"].tolist() == [1, 8]
    assert abs(found["reconstructions"]).max() <= 1


def test_a_run_without_data_and_network_says_so_on_screen_and_in_every_row(tmp_path):
    sizes = ["--train-steps", "2", "--batch-size", "2", "--eval-lengths", "1,9", "--query-grid", "2"]
    words = ["run", "--task", "omniglot", "--method", "vanilla,prepended,transformer", "--preset", "smoke"]
    more = ["--eval-items", "4", "--device", "cpu", "--results", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, *sizes, *more])
    assert result.exit_code == 0, result.stdout + result.stderr
    assert "Procedural glyphs are used instead" in " ".join(result.stdout.split())
    rows = read([tmp_path]).table.to_pylist()
    assert len(rows) == 3 * (2 + 1) and {row["status"] for row in rows} == {"ok"}
    assert {row["data_source"] for row in rows} == {"procedural"}
    assert all("Procedural glyphs" in row["notice"] for row in rows)
    assert len({row["items_hash"] for row in rows}) == 1
    assert len({(row["num_queries"], row["chance"]) for row in rows}) == 2, "chance is that of the queries"
    strips = sorted((tmp_path / "strips" / "omniglot").glob("*.npz"))
    assert {path.stem for path in strips} == {row["cell"] for row in rows}
    with np.load(strips[0]) as strip:
        assert strip["truth"].shape == (4, 127, 127) and strip["reconstructions"].shape == (4, 2, 127, 127)


def test_glyphs_that_stand_in_for_the_real_images_are_told_in_words():
    task = load_task(PluginRequest("omniglot", {}))
    task.prepare(torch.device("cpu"))
    assert task.data_source == "procedural"
    assert "Procedural glyphs" in task.notice and "not comparable" in task.notice


FILLER = {"filler": 0.75}


def test_without_filler_items_weights_and_names_are_those_of_before(task):
    explicit = load(filler=0)
    assert params_json(explicit.params) == (
        '{"augment":true,"data":"procedural","held_out":null,"position":"concat"}'
    )
    assert explicit.eval_set(4, 0).fingerprint == task.eval_set(4, 0).fingerprint == "b556a3c7d4c8b59f"
    assert {*task.sample(2, 3, 1, rng()).context} == {*task.eval_set(2, 0).context(slice(2), 0, 3, 3)}
    vanilla, recipe = METHODS.load("vanilla")(), task.recipe("smoke", "causal")
    plain, filled = (build_model(t, vanilla, recipe, seed=0).state_dict() for t in (task, load(**FILLER)))
    assert filled.keys() - plain.keys() == {"interface.filler"}
    interface = [name for name in plain if name.startswith("interface.")]
    assert all(torch.equal(plain[name], filled[name]) for name in interface)


def test_filler_has_its_share_in_training_and_evaluation_and_leaves_the_patches_as_they_are(task):
    filled = load(**FILLER)
    batch, plain = (t.sample(20, 400, 3, rng(1)) for t in (filled, task))
    assert all(torch.equal(batch.context[name], plain.context[name]) for name in plain.context)
    assert batch.context["filler"].float().mean().item() == pytest.approx(0.75, abs=0.03)
    for params, share in (
        (FILLER, 0.75),
        (FILLER | {"eval_filler": 0.5}, 0.5),
        (FILLER | {"eval_filler": 0}, 0),
    ):
        items = load(**params).eval_set(20, 0)
        context = items.context(slice(0, 20), 0, 1400, 1400)
        assert context["filler"].float().mean().item() == pytest.approx(share, abs=0.03)
        later = items.context(slice(5, 20), 1000, 1100, 4096)["filler"]
        assert torch.equal(later, context["filler"][5:, 1000:1100]), "shorter contexts are prefixes"


def test_filler_shows_a_model_neither_patch_nor_place(task):
    filled = load(**FILLER)
    for layout in ("causal", "encoder_decoder"):
        interface = filled.interface(16, layout)
        context = filled.sample(3, 40, 1, rng()).context
        hidden, blind = interface.context(context), context["filler"]
        assert torch.equal(hidden[blind], interface.filler.expand(int(blind.sum()), -1))
        plain = task.interface(16, layout)
        plain.load_state_dict({k: v for k, v in interface.state_dict().items() if k != "filler"})
        assert torch.equal(hidden[~blind], plain.context(context)[~blind])


def test_the_share_of_filler_in_evaluation_needs_a_model_that_was_trained_with_filler():
    assert (
        load(**FILLER).eval_set(4, 0).fingerprint
        != load(**FILLER, eval_filler=0.5).eval_set(4, 0).fingerprint
    )
    with pytest.raises(UserError, match="eval_filler needs a model that has seen filler"):
        load(eval_filler=0.5)


def test_a_drawn_token_is_rendered_from_its_own_numbers_alone(task):
    drawn = task.draw(3, 5, 2, rng())
    padding = torch.full((3, 4, 2), 9)
    more = drawn._replace(tokens={"centres": torch.cat([padding, drawn.tokens["centres"]], dim=1)})
    batch, padded = task.render(drawn, 5), task.render(more, 9)
    assert torch.equal(padded.context["patches"][:, 4:], batch.context["patches"])
    assert torch.equal(padded.context["places"][:, 4:], batch.context["places"])
    assert torch.equal(padded.targets, batch.targets)
    assert torch.equal(task.sample(3, 5, 2, rng()).targets, batch.targets)
