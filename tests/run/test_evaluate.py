"""A shared pass, streamed pieces and separate passes measure the same; methods get what they declare."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from lgbench.intervention import ScanIntervention
from lgbench.method import Method
from lgbench.models.model import build_model
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest
from lgbench.plugins.registry import BACKBONES, METHODS
from lgbench.recipe import suggest
from lgbench.run import evaluate as evaluation
from lgbench.run import reading
from lgbench.run.evaluate import evaluate
from lgbench.run.gallery import gallery
from lgbench.task import Batch


class Separate(Method):
    """Vanilla that does not promise that prefixes are exact."""

    prefix_exact = False


class Last(Method):
    """Lets only the last tokens through the second layer, so that it must see the whole prompt."""

    prefix_exact = False

    def intervention(self, train_length, d_model):
        return _LastTokens()


class _LastTokens(ScanIntervention):
    def begin(self, mode, length, num_protected):
        self.kept = max(length // 2, 1) + num_protected

    def keep(self, layer, delta, x):
        chosen = torch.arange(x.shape[1] - self.kept, x.shape[1]) if layer == 1 else torch.arange(x.shape[1])
        return chosen.expand(x.shape[0], -1)


@pytest.fixture
def lively(toy_task):
    """`lively(method, **recipe)` → model with weights that make states matter, method, recipe and items."""
    return lambda method, task=toy_task, **changes: _lively(task, method, **changes)


def _lively(task, method, **changes):
    method = METHODS.load(method)() if isinstance(method, str) else method
    layout = BACKBONES.load(method.backbone).layout
    recipe = replace(task.recipe("smoke", layout), **changes)
    model = build_model(task, method, recipe, seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "scale" in name:
                parameter.fill_(0.3)
            elif layout == "causal" and "A_log" not in name and "dt_proj" not in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return model, task, method, recipe, task.eval_set(recipe.eval_items, 0)


def in_one_piece(model, task, items, length, num_queries):
    """The score of every query `(num_items, num_queries)`, without streaming, batching or sharing."""
    everyone = slice(0, items.num_items)
    queries, targets = items.queries(everyone, length, num_queries)
    batch = Batch(items.context(everyone, 0, length, length), queries, targets)
    with torch.no_grad():
        return task.score(model.eval().answer(batch, mode="score", length=length), targets).numpy()


def on(axis, measurements):
    return [m for m in measurements if m.axis == axis]


@pytest.mark.parametrize("conv_width", [0, 4], ids=["no-conv", "conv4"])
def test_a_shared_pass_equals_separate_passes(lively, conv_width):
    model, task, _, recipe, items = lively("vanilla", sizes=suggest(d_state=4, conv_width=conv_width))
    shared = on("context", evaluate(model, task, METHODS.load("vanilla")(), recipe, items))
    separate = on("context", evaluate(model, task, Separate(), recipe, items))
    assert [m.eval_length for m in shared] == [m.eval_length for m in separate] == [1, 5, 16, 48]
    assert all(m.shared_prefix for m in shared) and not any(m.shared_prefix for m in separate)
    for one, other in zip(shared, separate, strict=True):
        alone = in_one_piece(model, task, items, one.eval_length, 8).mean(axis=1)
        np.testing.assert_allclose(one.values, other.values, atol=1e-5)
        np.testing.assert_allclose(one.values, alone, atol=1e-5)
    assert np.ptp([m.values.mean() for m in shared]) > 1e-3, "length must matter for this to be a test"


def test_a_shared_pass_over_4096_image_tokens_equals_separate_passes_within_a_ten_thousandth():
    task = load_task(PluginRequest("omniglot", {"data": "procedural"}))
    task.prepare(torch.device("cpu"))
    changes = dict(eval_lengths=(64, 1000, 4096), eval_queries=64, query_grid=(), eval_items=3, eval_batch=3)
    model, _, vanilla, recipe, items = _lively(task, "vanilla", **changes)
    shared = evaluate(model, task, vanilla, recipe, items)
    state = None
    for length, measured in zip(recipe.eval_lengths, shared, strict=True):
        scores = in_one_piece(model, task, items, length, 64)
        np.testing.assert_allclose(measured.values, scores.mean(axis=1), atol=1e-4)
    with torch.no_grad():  # and so do the single answers, not only their means
        for start, stop in ((0, 1000), (1000, 4096)):
            state = model.read_context(items.context(slice(0, 3), start, stop, 4096), state, 4096)
        queries, targets = items.queries(slice(0, 3), 4096, 64)
        streamed = model.answer_from(state, queries, 64, 4096)
        batch = Batch(items.context(slice(0, 3), 0, 4096, 4096), queries, targets)
        whole = model.answer(batch, mode="score", length=4096)
    torch.testing.assert_close(streamed, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["vanilla", "prepended"])
def test_streaming_in_pieces_equals_one_piece_and_never_asks_for_more_than_a_piece(
    lively, method, monkeypatch
):
    model, task, plugin, recipe, items = lively(method)
    whole = evaluate(model, task, plugin, recipe, items)
    asked, context = [], items.context

    def watched(chosen, start, stop, length):
        asked.append(stop - start)
        return context(chosen, start, stop, length)

    monkeypatch.setattr(items, "context", watched)
    monkeypatch.setattr(reading, "PIECE", 7)
    monkeypatch.setattr(reading, "TOGETHER", 14)
    pieces = evaluate(model, task, plugin, recipe, items)
    assert max(asked) == 7
    for one, other in zip(whole, pieces, strict=True):
        assert (one.axis, one.eval_length, one.num_queries) == (
            other.axis,
            other.eval_length,
            other.num_queries,
        )
        np.testing.assert_allclose(one.values, other.values, atol=1e-5)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 32_768), (4, 8192), (8, 4096), (256, 4096)])
def test_few_sequences_are_read_in_longer_pieces(batch, tokens):
    assert reading.piece_of(batch) == tokens


def test_the_last_items_of_a_set_are_read_in_pieces_of_their_own_number(lively, monkeypatch):
    model, task, plugin, recipe, items = lively("vanilla", query_grid=(), eval_batch=5)
    asked, context = set(), items.context

    def watched(chosen, start, stop, length):
        asked.add((chosen.stop - chosen.start, stop - start))
        return context(chosen, start, stop, length)

    monkeypatch.setattr(items, "context", watched)
    monkeypatch.setattr(reading, "PIECE", 2)
    monkeypatch.setattr(reading, "TOGETHER", 10)
    evaluate(model, task, plugin, recipe, items)
    assert {count for count, _ in asked} == {5, 1}
    assert max(size for count, size in asked if count == 5) == 2
    assert max(size for count, size in asked if count == 1) == 10


def test_a_shared_pass_reads_every_token_once(lively, monkeypatch):
    model, task, plugin, recipe, items = lively("vanilla", query_grid=(), eval_batch=6)
    asked, context = [], items.context

    def watched(chosen, start, stop, length):
        asked.append((start, stop))
        return context(chosen, start, stop, length)

    monkeypatch.setattr(items, "context", watched)
    evaluate(model, task, plugin, recipe, items)
    assert asked == [(0, 1), (1, 5), (5, 16), (16, 48)]


@pytest.mark.parametrize("method", ["vanilla", "prepended", "transformer"])
def test_the_mean_over_the_first_k_queries_equals_a_run_with_k_queries(lively, method):
    model, task, plugin, recipe, items = lively(method)
    measured = on("queries", evaluate(model, task, plugin, recipe, items))
    assert [m.num_queries for m in measured] == [1, 4, 12]
    for m in measured:
        assert m.eval_length == recipe.train_length
        alone = replace(
            recipe, eval_lengths=(recipe.train_length,), eval_queries=m.num_queries, query_grid=()
        )
        (run,) = evaluate(model, task, plugin, alone, items)
        np.testing.assert_allclose(m.values, run.values, atol=1e-5)
        np.testing.assert_allclose(
            m.values, in_one_piece(model, task, items, 16, m.num_queries).mean(axis=1), atol=1e-5
        )
    assert {m.shared_prefix for m in measured} == {method != "transformer"}


def test_an_empty_query_grid_leaves_the_axis_out(lively):
    model, task, plugin, recipe, items = lively("vanilla", query_grid=())
    assert on("queries", evaluate(model, task, plugin, recipe, items)) == []


@pytest.mark.parametrize("method", ["vanilla", "prepended", "transformer"])
def test_the_batch_size_changes_neither_values_nor_their_order(lively, method):
    model, task, plugin, recipe, items = lively(method)
    by_size = [
        evaluate(model, task, plugin, replace(recipe, eval_batch=size), items) for size in (1, 4, 6, 100)
    ]
    for other in by_size[1:]:
        for one, two in zip(by_size[0], other, strict=True):
            assert one.values.shape == (6,) and one.values.dtype == np.float32
            np.testing.assert_allclose(one.values, two.values, atol=1e-5)


@pytest.mark.parametrize("tell", [1.0, 2.0])
def test_prepended_gets_separate_passes_and_is_told_the_length_times_tell(lively, tell, monkeypatch):
    plugin = METHODS.load("prepended")
    model, task, plugin, recipe, items = lively(plugin(plugin.Params(tell=tell)), query_grid=(), eval_batch=6)
    heard, begin = [], model.intervention.begin

    def listen(mode, length, num_protected):
        begin(mode, length, num_protected)
        heard.append((mode, length, model.intervention.told))

    monkeypatch.setattr(model.intervention, "begin", listen)
    measured = evaluate(model, task, plugin, recipe, items)
    told = [(length, pytest.approx(length * tell / 100)) for length in recipe.eval_lengths]
    assert [h[1:] for h in heard if h[0] == "prefill"] == told
    assert not any(m.shared_prefix for m in measured)


def test_what_prepended_is_told_matters(lively):
    plugin = METHODS.load("prepended")
    values = []
    for tell in (1.0, 50.0):
        method = plugin(plugin.Params(tell=tell))
        model, task, _, recipe, items = lively(method)
        values.append(evaluate(model, task, method, recipe, items)[0].values)
    assert np.abs(values[0] - values[1]).max() > 1e-3


def test_a_method_that_depends_on_the_length_is_measured_at_each_length_alone(lively, toys):
    model, task, plugin, recipe, items = lively("toy_shrink")
    for m in on("context", evaluate(model, task, plugin, recipe, items)):
        alone = in_one_piece(model, task, items, m.eval_length, 8).mean(axis=1)
        np.testing.assert_allclose(m.values, alone, atol=1e-5)
        assert not m.shared_prefix


@pytest.mark.parametrize("method", [Last(), "transformer"], ids=["keep", "transformer"])
def test_a_method_that_must_see_the_whole_prompt_gets_it_in_one_piece(lively, method, monkeypatch):
    model, task, plugin, recipe, items = lively(method)
    asked, context = set(), items.context

    def watched(chosen, start, stop, length):
        asked.add((start, stop, length))
        return context(chosen, start, stop, length)

    monkeypatch.setattr(items, "context", watched)
    measured = evaluate(model, task, plugin, recipe, items)
    assert asked == {(0, n, n) for n in recipe.eval_lengths}
    for m in measured:
        alone = in_one_piece(model, task, items, m.eval_length, m.num_queries).mean(axis=1)
        np.testing.assert_allclose(m.values, alone, atol=1e-5)
        assert not m.shared_prefix


def test_longer_sequences_that_must_be_whole_go_in_smaller_batches(lively, monkeypatch):
    model, task, plugin, recipe, items = lively("transformer", query_grid=())
    monkeypatch.setattr(evaluation, "PIECE", 14)  # 4 x 14 tokens at a time
    sizes, answer = [], model.answer

    def watched(batch, **options):
        sizes.append((batch.targets.shape[0], options["length"] + 8))
        return answer(batch, **options)

    monkeypatch.setattr(model, "answer", watched)
    small = evaluate(model, task, plugin, recipe, items)
    assert sizes == [(4, 9), (2, 9), (4, 13), (2, 13), (2, 24), (2, 24), (2, 24), *[(1, 56)] * 6]
    monkeypatch.undo()
    for one, other in zip(small, evaluate(model, task, plugin, recipe, items), strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-5)


def test_measurements_say_what_they_cost(lively):
    model, task, plugin, recipe, items = lively("vanilla")
    for m in evaluate(model, task, plugin, recipe, items):
        assert m.wall_s > 0 and m.peak_bytes > 2**20
    assert on("context", evaluate(model, task, plugin, recipe, items))[0].tokens == 6 * (48 + 4 * 8)
    assert not model.training


@pytest.mark.parametrize("method", ["vanilla", "prepended"])
def test_a_warm_rate_leaves_the_first_batch_out_and_needs_a_second_one(lively, method, monkeypatch):
    model, task, plugin, recipe, items = lively(method)
    looks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(looks)))  # a second between any two
    for m in on("context", evaluate(model, task, plugin, replace(recipe, eval_batch=6), items)):
        assert m.wall_s == 2 and m.warm_tokens_per_s is None
    for m in on("context", evaluate(model, task, plugin, replace(recipe, eval_batch=4), items)):
        assert m.wall_s == 2 and m.warm_tokens_per_s == pytest.approx(m.tokens / 3)  # 2 of 6 items in 1 s


def test_a_task_without_pictures_has_no_gallery(lively):
    model, task, plugin, recipe, items = lively("vanilla")
    assert gallery(model, task, plugin, recipe, items) is None
