"""The head's cross-entropy in chunks is that of all logits."""

import pytest
import torch
from torch.nn import functional as F

from lgbench.ops import linear_cross_entropy as heads
from lgbench.task import IGNORE


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(heads, "CHUNK", 8)


def case(dtype=torch.float64, words=37):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 5, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(words, 5, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(words, (3, 7), generator=generator)
    labels[0, 2] = labels[2, 6] = IGNORE
    return hidden, weight, labels


def whole(hidden, weight, labels):
    return F.cross_entropy(F.linear(hidden, weight).flatten(0, 1), labels.flatten(), reduction="none")


def test_loss_and_gradients_are_those_of_all_logits():
    hidden, weight, labels = case()
    wanted = torch.autograd.grad(whole(hidden, weight, labels).sum() / 3, (hidden, weight))
    loss = heads.summed_cross_entropy(hidden, weight, labels)
    got = torch.autograd.grad(loss / 3, (hidden, weight))
    torch.testing.assert_close(loss, whole(hidden, weight, labels).sum().float())
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_each_loss_is_that_of_its_token():
    hidden, weight, labels = case()
    got = heads.cross_entropies(hidden, weight, labels)
    torch.testing.assert_close(got, whole(hidden, weight, labels).view(3, 7).detach().float())


def test_autocast_rounds_the_product_alone_and_gradients_keep_the_type_of_the_weights():
    hidden, weight, labels = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = heads.summed_cross_entropy(hidden, weight, labels)
    narrow = F.linear(hidden.bfloat16(), weight.bfloat16()).float().flatten(0, 1)
    torch.testing.assert_close(loss, F.cross_entropy(narrow, labels.flatten(), reduction="sum"))
    gradients = torch.autograd.grad(loss, (hidden, weight))
    exact = torch.autograd.grad(whole(hidden, weight, labels).sum(), (hidden, weight))
    for a, b in zip(gradients, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


def test_the_same_input_gives_the_same_bits():
    found = []
    for _ in range(2):
        hidden, weight, labels = case(torch.float32)
        loss = heads.summed_cross_entropy(hidden, weight, labels)
        found.append([loss, *torch.autograd.grad(loss, (hidden, weight))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
