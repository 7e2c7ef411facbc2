"""Next-token losses, padding and greedy answers of models of tokens, against plain computations."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lgbench.models.language import all_right, answer_losses
from lgbench.models.model import build_model, next_tokens
from lgbench.plan.params import expand, parse_plugins, resolve
from lgbench.plugins.registry import METHODS, TASKS
from lgbench.run.graphs import pad_left
from lgbench.task import IGNORE, Batch


@pytest.fixture
def build(toys):
    def make(method="vanilla", ragged=False, **sizes):
        task = TASKS.load("toy_recall")(TASKS.load("toy_recall").Params(ragged=ragged))
        task.prepare(torch.device("cpu"))
        ((request,),) = [expand(one) for one in parse_plugins(method)]
        kind = METHODS.load(request.name)
        plugin = kind(resolve(kind, request.params, "method", request.name))
        return (
            task,
            plugin,
            build_model(task, plugin, replace(task.recipe("smoke", "causal"), **sizes), seed=0),
        )

    return make


def draw(task, items=3, length=13):
    return task.sample(items, length, 2, torch.Generator().manual_seed(1))


def test_labels_are_the_next_tokens_without_those_of_the_answer_and_of_padding():
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    mask = torch.tensor([[False, True, True, True, True]])
    assert next_tokens(tokens, None, 2).tolist() == [[6, 7, 8, IGNORE, IGNORE]]
    assert next_tokens(tokens, mask, 1).tolist() == [[IGNORE, 7, 8, 9, IGNORE]]


@pytest.mark.parametrize("method", ["vanilla", "prepended", "decoder_transformer"])
def test_the_token_loss_is_the_mean_cross_entropy_of_all_other_tokens(build, method):
    task, plugin, model = build(method)
    batch = draw(task)
    found = plugin.training_answer(
        model, batch, length=13, context_mask=None, query_mask=None, read_tokens=True
    )
    tokens = torch.cat([batch.context["tokens"], batch.queries["tokens"]], dim=1)
    model.intervention.begin("train", 13, 2)
    advanced = model.backbone.advance(
        model.interface.context({"tokens": tokens}), mode="train", intervention=model.intervention
    )
    logits = model.interface.read(advanced.hidden[:, -15:])
    wanted = F.cross_entropy(logits[:, :13].flatten(0, 1), tokens[:, 1:14].flatten())
    torch.testing.assert_close(found.token_loss, wanted)
    torch.testing.assert_close(found.predictions, logits[:, -2:])
    alone = plugin.training_answer(
        model, batch, length=13, context_mask=None, query_mask=None, read_tokens=False
    )
    assert alone.token_loss is None
    torch.testing.assert_close(alone.predictions, found.predictions)


@pytest.mark.parametrize("halves", [False, True])
def test_a_large_vocabulary_trains_with_the_numbers_of_a_small_one(build, halves, monkeypatch):
    task, plugin, model = build()
    batch, found = draw(task), []
    for large in (10**6, 1):
        monkeypatch.setattr("lgbench.models.language.LARGE", large)
        model.zero_grad()
        if not halves:
            answer = plugin.training_answer(
                model, batch, length=13, context_mask=None, query_mask=None, read_tokens=True
            )
        else:
            answer = model.training_answer_in_halves(batch, read_tokens=True, passing=True)
        (answer.token_loss + task.loss(answer.predictions, batch.targets).mean()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((answer.token_loss, answer.predictions, gradients))
    assert type(model.interface).__name__ == "TokenInterface"
    torch.testing.assert_close(*found)


def test_a_large_vocabulary_is_judged_with_the_numbers_of_a_small_one(build, monkeypatch):
    task, _, model = build()
    tokens = draw(task).context["tokens"]
    found = []
    for large in (10**6, 1):
        monkeypatch.setattr("lgbench.models.language.LARGE", large)
        with torch.no_grad():
            found.append(model.read_tokens({"tokens": tokens[:, :-1]}, tokens[:, 1:], None, 13)[0])
    torch.testing.assert_close(*found)


def test_tokens_that_a_method_drops_have_no_loss_and_the_others_keep_their_labels(build):
    task, plugin, model = build("decimamba[layers=[[0]],l_base=5,min_seq_len=1,train_with=true]")
    batch = draw(task)
    found = plugin.training_answer(
        model, batch, length=13, context_mask=None, query_mask=None, read_tokens=True
    )
    tokens = torch.cat([batch.context["tokens"], batch.queries["tokens"]], dim=1)
    model.intervention.begin("train", 13, 2)
    advanced = model.backbone.advance(
        model.interface.context({"tokens": tokens}), mode="train", intervention=model.intervention
    )
    assert advanced.hidden.shape[1] == 5 + 2
    losses = []
    for item in range(3):
        for row, place in enumerate(advanced.positions[item].tolist()):
            if place < 13:
                logits = model.interface.read(advanced.hidden[item, row])
                losses.append(F.cross_entropy(logits, tokens[item, place + 1]))
    torch.testing.assert_close(found.token_loss, torch.stack(losses).mean())


@pytest.mark.parametrize(
    "method", ["vanilla", "decoder_transformer[position=rope]", "decoder_transformer[position=alibi]"]
)
@pytest.mark.parametrize("ragged", [False, True])
def test_padding_on_the_left_changes_neither_losses_nor_gradients(build, method, ragged):
    task, plugin, model = build(method, ragged)
    batch = draw(task)

    def run(some):
        model.zero_grad()
        found = plugin.training_answer(
            model, some, length=13, context_mask=None, query_mask=None, read_tokens=True
        )
        loss = answer_losses(found.predictions, some.targets).mean() + found.token_loss
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters()]

    plain, gradients = run(batch)
    padded, same = run(pad_left(batch, 20))
    assert padded == pytest.approx(plain, rel=1e-5)
    for a, b in zip(gradients, same, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_answers_in_halves_have_the_losses_of_the_whole_where_the_state_is_passed(build):
    task, _, model = build()
    batch = draw(task)
    whole = model.training_answer(batch, length=13, read_tokens=True)
    halves = model.training_answer_in_halves(batch, read_tokens=True, passing=True)
    torch.testing.assert_close(whole.predictions, halves.predictions)
    torch.testing.assert_close(whole.token_loss, halves.token_loss)


@pytest.mark.parametrize("method", ["vanilla", "decoder_transformer"])
def test_a_generated_answer_is_the_likeliest_token_after_the_likeliest_token(build, method):
    task, _, model = build(method)
    batch = draw(task, items=5)
    context, asked = batch.context["tokens"], batch.queries["tokens"][:, :1]
    with torch.no_grad():
        model.eval()
        state = model.read_context({"tokens": context[:, :7]}, None, 13)
        state = model.read_context({"tokens": context[:, 7:]}, state, 13)
        answers = model.generate_from(state, {"tokens": asked}, 3, 13)
        whole = model.generate({"tokens": context}, {"tokens": asked}, 3, 13)
        tokens = torch.cat([context, asked], dim=1)
        for _ in range(3):
            queries = {"tokens": tokens[:, 13:]}
            logits = model.answer(
                Batch({"tokens": context}, queries, tokens[:, -1:]), mode="score", length=13
            )
            tokens = torch.cat([tokens, logits[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(answers, tokens[:, 14:]) and torch.equal(whole, answers)


def test_losses_of_an_answer_ignore_what_is_not_there_and_keep_the_mean():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, IGNORE], [4, IGNORE, IGNORE]])
    wanted = F.cross_entropy(logits[[0, 0, 1], [0, 1, 0]], torch.tensor([1, 2, 4]))
    torch.testing.assert_close(answer_losses(logits, targets).mean(), wanted)


def test_an_answer_is_right_only_as_a_whole():
    logits = torch.eye(4)[torch.tensor([[1, 2], [1, 3], [0, 3]])]
    targets = torch.tensor([[1, 2], [1, 2], [0, IGNORE]])
    assert all_right(logits, targets).tolist() == [[1.0], [0.0], [1.0]]
