"""Layers of several models at once against PyTorch's, in float64; the kernels in Triton's interpreter."""

import os

import pytest
import torch
from torch.nn import functional as F

from lgbench.ops import stacked

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MODELS, BATCH, LENGTH, INPUTS, OUTPUTS = 3, 2, 45, 16, 14


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_claims_hold_for_the_kernels_in_the_interpreter(interpret):
    result = interpret(__file__)
    assert result.returncode == 0, result.stdout + result.stderr


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs():
    return [
        normal(MODELS * BATCH, LENGTH, INPUTS),
        normal(MODELS, OUTPUTS, INPUTS, seed=1),
        normal(MODELS, OUTPUTS, seed=2),
    ]


def results_and_gradients(run, leaves, seed=9):
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    out = run(*leaves)
    pull = normal(*out.shape, seed=seed).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull)]


def assert_close(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def doubled(leaves):
    return [leaf.double() for leaf in leaves]


def test_a_linear_layer_is_that_of_each_model():
    def plain(x, weight, bias):
        x = x.unflatten(0, (MODELS, BATCH))
        return (torch.einsum("kbli,koi->kblo", x, weight) + bias[:, None, None]).flatten(0, 1)

    assert_close(
        results_and_gradients(stacked.linear, inputs()), results_and_gradients(plain, doubled(inputs()))
    )


@pytest.mark.skipif(not INTERPRETED, reason="a plain sum depends on the length")
def test_gradients_before_the_start_of_a_model_do_not_count_and_padding_changes_no_bit():
    x, weight, bias = inputs()
    floors = torch.tensor([13, 0, 40])
    starts = torch.stack([floors, floors]).int()
    padded = torch.cat([normal(MODELS * BATCH, 48, INPUTS, seed=5), x], dim=1)
    found = []
    for rows, first in ((x, starts), (padded, starts + 48)):
        leaves = [leaf.clone().requires_grad_() for leaf in (weight, bias)]
        out = stacked.linear(rows, *leaves, first.int())
        pull = torch.full_like(out, float("nan"))
        pull[:, -LENGTH:] = normal(*x.shape[:2], OUTPUTS, seed=6)
        found.append(torch.autograd.grad(out, leaves, pull))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    real = torch.arange(LENGTH) >= floors[:, None]
    pull = (
        normal(*x.shape[:2], OUTPUTS, seed=6).unflatten(0, (MODELS, BATCH)) * real[:, None, :, None]
    ).double()
    expected = torch.einsum("kblo,kbli->koi", pull, x.unflatten(0, (MODELS, BATCH)).double())
    assert_close(found[0], [expected, pull.sum(dim=(1, 2))])


def test_a_norm_is_that_of_each_model():
    leaves = [inputs()[0], 1 + 0.2 * normal(MODELS, INPUTS, seed=3)]

    def plain(x, weight):
        rows = F.rms_norm(x, (INPUTS,), None, 1e-5).unflatten(0, (MODELS, BATCH))
        return (rows * weight[:, None, None]).flatten(0, 1)

    def ours(x, weight):
        return stacked.rms_norm(x, weight, 1e-5)

    assert_close(results_and_gradients(ours, leaves), results_and_gradients(plain, doubled(leaves)))


def test_a_vector_stands_in_all_rows_of_its_model():
    vectors = [normal(MODELS, OUTPUTS)]

    def plain(vector):
        return vector.repeat_interleave(BATCH, 0)[:, None].expand(-1, 5, -1)

    def ours(vector):
        return stacked.repeat(vector, MODELS * BATCH, 5)

    assert_close(results_and_gradients(ours, vectors), results_and_gradients(plain, doubled(vectors)))


def test_a_total_is_that_of_each_model():
    rows = [normal(MODELS, 2100)]
    expected = results_and_gradients(lambda x: x.sum(1), doubled(rows))
    found = results_and_gradients(stacked.total, rows)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(found[1].double(), expected[1])


def test_a_model_has_the_same_bits_whatever_is_beside_it():
    x, weight, bias = inputs()
    together = results_and_gradients(stacked.linear, [x, weight, bias])
    rows = [x[2:4], weight[1:2], bias[1:2]]
    leaves = [leaf.detach().requires_grad_() for leaf in rows]
    out = stacked.linear(*leaves)
    pull = normal(MODELS * BATCH, LENGTH, OUTPUTS, seed=9)[2:4]
    alone = [out.detach(), *torch.autograd.grad(out, leaves, pull)]
    for one, all_of in zip(alone, together, strict=True):
        share = len(all_of) // MODELS
        assert torch.equal(one, all_of[share : 2 * share])


def test_weights_of_one_model_take_the_plain_way():
    x, weight, bias = (leaf[:1] for leaf in inputs())
    assert torch.equal(stacked.linear(x, weight[0], bias[0]), F.linear(x, weight[0], bias[0]))
    assert torch.equal(stacked.repeat(bias[0], 4, 3), bias[0].expand(4, 3, -1))
