"""Captured training steps on a real GPU: exact in padding, alone or beside others, interrupted or not."""

import gc
from dataclasses import replace

import pytest
import torch
from lgbench.methods.prepended import Prepended
from lgbench.methods.transformer import Transformer
from lgbench.methods.vanilla import Vanilla
from lgbench.tasks.omniglot import Omniglot

from lgbench.plan.cells import Training
from lgbench.run import checkpoint
from lgbench.run.train import Trainer, train_all

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.fixture(scope="module")
def task():
    task = Omniglot(Omniglot.Params(data="procedural"))
    task.prepare(torch.device("cuda"))
    return task


@pytest.fixture
def make(task, tmp_path):
    """`make(seed, folder)` → a trainer of 120 steps with contexts of 1 to 64 tokens."""

    def build(seed=0, folder="a", method=None):
        method = method or Vanilla()
        layout = "encoder_decoder" if method.backbone == "encoder_decoder" else "causal"
        recipe = replace(task.recipe("smoke", layout), train_steps=120, train_queries=(8, 16))
        training = Training(
            task="omniglot", task_params="{}", task_identity="", data_fingerprint=task.data_fingerprint,
            method="test", method_params="{}", method_identity="",
            backbone=method.backbone, backbone_params="{}", backbone_identity="",
            low=1, high=64, recipe=recipe, seed=seed,
        )  # fmt: skip
        return Trainer(training, task, method, tmp_path / folder / str(seed))

    return build


def weights(trainer):
    return checkpoint.load(checkpoint.weights_path(trainer.folder, trainer.recipe.train_steps))[0]


def assert_same(one, other):
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


@pytest.mark.parametrize("method", [Vanilla(), Prepended(), Transformer()], ids=lambda m: type(m).__name__)
def test_masked_padding_changes_neither_loss_nor_gradients(make, task, method):
    model = make(method=method).model.eval()
    length, num_queries, drawn = 37, 11, 64
    batch = task.sample(4, drawn, 16, torch.Generator("cuda").manual_seed(1))
    exact = type(batch)(
        {name: t[:, drawn - length :] for name, t in batch.context.items()},
        {name: t[:, :num_queries] for name, t in batch.queries.items()},
        batch.targets[:, :num_queries],
    )
    context_mask = torch.arange(drawn, device="cuda") >= drawn - length
    query_mask = torch.arange(16, device="cuda") < num_queries
    found = []
    for b, masks in ((exact, (None, None)), (batch, (context_mask, query_mask))):
        model.zero_grad(set_to_none=True)
        answer = model.answer(b, mode="train", length=length, context_mask=masks[0], query_mask=masks[1])
        loss = task.loss(answer, b.targets)[:, :num_queries].mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_side_by_side_equals_alone_bit_for_bit(make):
    together = [make(seed, "together") for seed in range(3)]
    train_all(together)
    alone = make(1, "alone")
    train_all([alone])
    assert_same(alone, together[1])


def test_an_interrupted_training_ends_with_the_same_weights(make):
    whole = make(folder="whole")
    train_all([whole])
    part = make(folder="part")
    with pytest.raises(KeyboardInterrupt):
        train_all([part], should_stop=lambda: part.step >= 100)
    again = make(folder="part")
    assert again.resume() and again.step == 100
    train_all([again])
    assert_same(whole, again)


def test_training_learns(make):
    trainer = make(folder="learns")
    train_all([trainer])
    assert trainer.history[-1][1] < 0.8 * trainer.history[0][1]


def test_garbage_of_an_earlier_training_does_not_spoil_a_capture(make):
    earlier = make(seed=5)
    train_all([earlier])
    earlier.itself = earlier
    del earlier
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        assert train_all([make(seed=6)]) == {}
    finally:
        gc.set_threshold(*before)
