"""Perplexity of books as specified: which windows, which labels, at which lengths, and what is refused."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lgbench.errors import UserError
from lgbench.models.model import build_model
from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.params import PluginRequest
from lgbench.plugins.registry import METHODS
from lgbench.run.evaluate import evaluate

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def load(**params):
    task = load_task(PluginRequest("perplexity", {"data": "procedural", **params}))
    task.prepare(torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def prose():
    return load()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Held-out books of 150, 1,101 and 2,000 characters, and three to train on."""
    folder = tmp_path_factory.mktemp("books")
    for side in ("train", "test"):
        (folder / side).mkdir()
        for k, size in enumerate((150, 1101, 2000)):
            first = {"train": "T", "test": "E"}[side] + str(k)
            (folder / side / f"{k}.txt").write_text((first + ALPHABET * 80)[:size])
    return str(folder)


def begins(items, length):
    """(book, offset) of every window at this length."""
    facts = items.facts(length)
    return list(zip(facts["book"], facts["offset"], strict=True))


def test_a_window_is_a_context_then_a_hundred_labels_each_of_the_token_before(shelf):
    task = load(data=shelf, protocol="as_released")
    items = task.eval_set(1, 0)
    items.reach(30)
    context = items.context(slice(0, 1), 0, 30, 30)["tokens"][0]
    queries, targets = items.queries(slice(0, 1), 30, 100)
    assert task.decode(context) == "E0abcdefghijklmnopqrstuvwxyzab"
    assert task.decode(queries["tokens"][0]) == ("cdefghijklmnopqrstuvwxyzab" * 4)[:100]
    assert task.decode(targets[0]) == ("defghijklmnopqrstuvwxyzabc" * 4)[:100]


def test_a_training_sample_is_a_stretch_of_one_training_book(shelf):
    task = load(data=shelf)
    batch = task.sample(300, 40, 100, torch.Generator().manual_seed(0))
    books = [(f"T{k}" + ALPHABET * 80)[:size] for k, size in enumerate((150, 1101, 2000))]
    counts = [0, 0, 0]
    for context, asked, labels in zip(
        batch.context["tokens"], batch.queries["tokens"], batch.targets, strict=True
    ):
        stretch = task.decode([*context, *asked, labels[-1]])
        assert len(stretch) == 141 and any(stretch in book for book in books)
        assert torch.equal(asked[1:], labels[:-1])
        counts[0] += "T0" in stretch
    longer = task.sample(50, 1500, 100, torch.Generator().manual_seed(0)).context["tokens"]
    assert all(task.decode(row) in books[2] for row in longer), "only one book has 1,601 characters"


def test_every_window_of_a_long_book_is_equally_likely(shelf):
    task = load(data=shelf)
    batch = task.sample(6000, 1898, 100, torch.Generator().manual_seed(0))
    starts = torch.unique(batch.context["tokens"][:, 0], return_counts=True)
    assert starts[0].tolist() == [ord("2"), ord("T")], "the book has two windows of 1,999 tokens"
    assert (starts[1] / 6000 - 0.5).abs().max() < 0.05


def test_the_same_windows_serve_all_lengths_and_are_of_books_that_are_long_enough_for_the_longest(shelf):
    task = load(data=shelf)
    items = task.eval_set(100, 0)
    items.reach(1000)
    assert items.num_items == 10, "one window fits into 1,101 characters, nine into 2,000 a hundred apart"
    assert {book for book, _ in begins(items, 1000)} == {1, 2}
    assert begins(items, 10) == begins(items, 1000)
    offsets = sorted(offset for book, offset in begins(items, 10) if book == 2)
    assert len(set(offsets)) == 9 and offsets[0] >= 0 and offsets[-1] <= 2000 - 1101
    assert {b - a for a, b in pairwise(offsets)} == {100}
    whole = items.context(slice(0, 10), 0, 1001, 1000)["tokens"]
    assert torch.equal(items.context(slice(0, 10), 0, 10, 10)["tokens"], whole[:, :10])
    queries, targets = items.queries(slice(0, 10), 10, 100)
    assert torch.equal(queries["tokens"], whole[:, 10:110]) and torch.equal(targets, whole[:, 11:111])


def test_windows_of_a_book_are_a_cluster(prose):
    facts = prose.eval_set(8, seed=0).facts(64)
    assert facts["cluster"] == facts["book"] and len(set(facts["book"])) > 1


def test_fewer_windows_are_asked_of_all_books_alike(prose):
    items = prose.eval_set(6, 0)
    assert [book for book, _ in begins(items, 100)] == [0, 1, 2, 0, 1, 2]


def test_as_released_each_length_has_ten_or_eleven_windows_of_every_book_that_is_longer(shelf):
    task = load(data=shelf, protocol="as_released")
    assert not task.nested
    items = task.eval_set(100, 0)
    items.reach(1000)
    # a window of 40 + 101: 150 - 141 = 9 places, 10 apart; (1101 - 141) / 10 = 96; (2000 - 141) // 10 = 185
    wanted = [(0, 0)] + [(1, 96 * k) for k in range(10)] + [(2, 185 * k) for k in range(11)]
    assert sorted(begins(items, 40)) == wanted and items.num_items_at(40) == 22
    # of 1,000 + 101: the second book is no longer than it
    assert begins(items, 1000) == [(2, 89 * k) for k in range(11)] and items.num_items_at(1000) == 11
    assert items.context(slice(0, 100), 0, 1000, 1000)["tokens"].shape == (11, 1000)


def test_as_released_the_lengths_of_the_paper_are_the_published_windows_without_their_labels(shelf):
    task = load(data=shelf, protocol="as_released")
    released, clean = task.recipe("paper", "causal"), load(data=shelf).recipe("paper", "causal")
    assert [length + 101 for length in released.eval_lengths] == list(clean.eval_lengths)
    assert (released.train_length, released.lm_weight) == (1899, 18.99)
    same = dict(eval_lengths=clean.eval_lengths, train_length=2000, lm_weight=20.0)
    assert replace(released, **same) == clean
    items, window = task.eval_set(1, 0), 1000
    items.reach(released.eval_lengths[0])
    assert begins(items, 899)[0] == (1, 0), "the first book of more than 1,000 tokens"
    book = ("E1" + ALPHABET * 80)[:window]
    queries, targets = items.queries(slice(0, 1), 899, 100)
    assert task.decode(targets[0]) == book[-100:], "the last 100 tokens of the window"
    assert task.decode(queries["tokens"][0]) == book[-101:-1]
    assert task.decode(items.context(slice(0, 1), 0, 899, 899)["tokens"][0]) == book[:-101]


def test_text_that_a_tokenizer_loses_is_named_beside_the_results(shelf, letters_and_digits):
    assert load(data=shelf).notice == "" == load(data=shelf, tokenizer=letters_and_digits()).notice
    lossy = load(tokenizer=letters_and_digits("\n"))
    assert "Tokenizer letters does not give back " in lossy.notice


def test_windows_of_a_book_share_no_label_and_a_book_that_is_barely_long_enough_has_one(shelf):
    task = load(data=shelf)
    for longest, windows in ((1899, 1), (1750, 1), (1700, 2), (1000, 9), (100, 10)):
        items = task.eval_set(100, 3)
        items.reach(longest)
        offsets = sorted(offset for book, offset in begins(items, longest) if book == 2)
        assert len(offsets) == windows and all(b - a >= 100 for a, b in pairwise(offsets)), longest
        assert offsets[-1] + longest + 101 <= 2000


def test_as_released_fewer_windows_are_asked_of_all_books_alike(shelf):
    items = load(data=shelf, protocol="as_released").eval_set(5, 0)
    assert begins(items, 40) == [(0, 0), (1, 0), (2, 0), (1, 96), (2, 185)]


def test_as_released_evaluation_has_as_many_values_as_windows(shelf):
    task = load(data=shelf, protocol="as_released")
    recipe = replace(task.recipe("smoke", "causal"), eval_lengths=(40, 1000), eval_items=100, d_model=16)
    items, method = task.eval_set(100, 0), METHODS.load("vanilla")()
    items.reach(1000)
    model = build_model(task, method, recipe, seed=0)
    found = evaluate(model, task, method, recipe, items)
    counts = {(m.metric.name, m.eval_length): (len(m.values), len(m.facts.get("book", []))) for m in found}
    assert counts["perplexity", 40] == (22, 22) and counts["perplexity", 1000] == (11, 11)
    assert counts["perplexity of all tokens", 1000][0] == 11


def test_the_perplexity_of_all_tokens_is_that_of_one_pass(prose):
    recipe = replace(prose.recipe("smoke", "causal"), eval_lengths=(8, 32), eval_items=3, eval_batch=2)
    items, method = prose.eval_set(3, 0), METHODS.load("vanilla")()
    model = build_model(prose, method, recipe, seed=0)
    found = {
        (m.metric.name, m.axis, m.eval_length): m.values
        for m in evaluate(model, prose, method, recipe, items)
    }
    tokens = items.context(slice(0, 3), 0, 33, 32)["tokens"]
    with torch.no_grad():
        losses, _ = model.read_tokens({"tokens": tokens[:, :-1]}, tokens[:, 1:], None, 32)
    name = "perplexity of all tokens"
    assert found[name, "context", 32] == pytest.approx(losses.mean(dim=1).numpy(), rel=1e-5)
    assert found[name, "context", 8] == pytest.approx(losses[:, :8].mean(dim=1).numpy(), rel=1e-5)
    assert found[name, "position", 32] == pytest.approx(losses[:, 8:].mean(dim=1).numpy(), rel=1e-5)


def test_chance_is_the_perplexity_of_the_frequencies_of_training_tokens(shelf):
    task = load(data=shelf)
    items = task.eval_set(100, 0)
    items.reach(1000)
    labels = items.queries(slice(0, 10), 1000, 100)[1]
    text = "".join((f"T{k}" + ALPHABET * 80)[:size] for k, size in enumerate((150, 1101, 2000)))
    nats = [-torch.log(torch.tensor((text.count(chr(t)) + 1) / (len(text) + 257))) for t in labels.flatten()]
    chance = torch.stack(nats).mean().exp().item()
    assert task.references(items, 100, task.metric)["chance"] == pytest.approx(chance, rel=1e-5)
    assert 26 < chance < 30
    assert task.references(items, 100, task.lm_metric)["chance"] == pytest.approx(chance, rel=0.05)


def test_the_training_loss_weighs_all_tokens_alike_at_the_largest_context(prose):
    for preset in ("smoke", "small", "paper"):
        recipe = prose.recipe(preset, "causal")
        assert recipe.lm_weight == recipe.train_length / recipe.train_queries[1]


@pytest.mark.parametrize(("protocol", "extra"), [("clean", 0), ("as_released", 101)])
def test_each_length_of_the_lower_bound_is_trained_on_100m_tokens_of_equal_weight(protocol, extra):
    task = load_task(PluginRequest("perplexity", {"protocol": protocol}))
    windows = (2000, 4000, 10_000, 30_000)
    cells = resolve_cells(
        [("perplexity", task)], [PluginRequest("vanilla", {})], seeds=[0], preset="paper",
        axes=Axes(train_length=[window - extra for window in windows]),
        overrides={"eval_lengths": (100,)},
    )  # fmt: skip
    assert [cell.recipe.train_steps for cell in cells] == [200, 100, 40, 13]
    for cell, window in zip(cells, windows, strict=True):
        assert cell.recipe.lm_weight == (window - extra) / 100
        assert (cell.training.low, cell.training.high) == (window - extra, window - extra)


def test_steps_and_weights_that_are_asked_for_stay_at_every_length():
    task = load_task(PluginRequest("perplexity", {}))
    cells = resolve_cells(
        [("perplexity", task)], [PluginRequest("vanilla", {})], seeds=[0], preset="smoke",
        axes=Axes(train_length=[128, 512], train_steps=[7], lm_weight=[0.5]), overrides={},
    )  # fmt: skip
    assert {(c.recipe.train_steps, c.recipe.lm_weight) for c in cells} == {(7, 0.5)}


def test_lengths_that_no_book_has_are_refused_with_the_largest_there_is(shelf):
    task = load(data=shelf)
    recipe = replace(task.recipe("smoke", "causal"), eval_lengths=(100, 1899))
    task.check(recipe)
    with pytest.raises(UserError) as error:
        task.check(replace(recipe, eval_lengths=(100, 1900)))
    assert str(error.value) == (
        "--eval-lengths: a window of 2,001 tokens is longer than every document to evaluate on (text "
        f"{shelf.rpartition('/')[2]}, bytes). The longest has 2,000, which leaves 1,899 for the context"
    )
    with pytest.raises(
        UserError, match="--train-length: a window of 5,101 tokens is longer than every document"
    ):
        task.check(replace(recipe, train_length=5000))
    with pytest.raises(UserError, match="chosen for contexts of up to 500 tokens, not 600"):
        items = task.eval_set(5, 0)
        items.reach(500)
        items.context(slice(0, 5), 0, 600, 600)


def test_the_longest_training_context_is_one_that_can_be_drawn(shelf):
    task = load(data=shelf)
    assert load_task(PluginRequest("perplexity", {})).longest_training(100) is None, "no data yet"
    longest, generator = task.longest_training(100), torch.Generator().manual_seed(0)
    assert task.sample(2, longest, 100, generator).context["tokens"].shape == (2, longest)
    with pytest.raises(UserError, match="is longer than every document to train on"):
        task.sample(2, longest + 1, 100, generator)
