"""The blocks of several models in one set of launches are those of each model, bit for bit.

To run the kernels' tests directly:

    TRITON_INTERPRET=1 python -m pytest tests/ops/block/test_stacked.py
"""

import os

import pytest
import torch

from lgbench.ops.block.mamba_block import plain_block
from lgbench.ops.block.stacked import ORDER, Sizes, _named, chunk_of, stacked_blocks

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SIZES = Sizes(num_layers=1, d_model=16, d_inner=32, d_state=8, dt_rank=1)
LENGTHS, LONGEST, READ = (9, 37, 22), 40, 3


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_claims_about_the_kernels_hold_in_the_interpreter(interpret):
    result = interpret(__file__)
    assert result.returncode == 0, result.stdout + result.stderr


def real(model):
    """Tokens of a model, one sequence, and the pull on its last ones."""
    generator = torch.Generator().manual_seed(model)
    return torch.randn(1, LENGTHS[model], 16, generator=generator), torch.randn(
        1, READ, 16, generator=generator
    )


def weights(models):
    rows = [torch.randn(SIZES.numbers() + 16, generator=torch.Generator().manual_seed(7 + m)) for m in models]
    return 0.3 * torch.stack(rows)


def run(models, length):
    """Of each model: what its real tokens become, and the gradients of these tokens and of its weights."""
    tokens = torch.full((len(models), length, 16), 3.0)
    for place, model in enumerate(models):
        tokens[place, length - LENGTHS[model] :] = real(model)[0]
    row = weights(models)[:, : SIZES.numbers()].requires_grad_()
    tokens.requires_grad_()
    first = torch.tensor([length - LENGTHS[m] for m in models])
    chunk = chunk_of(1, LONGEST, SIZES)
    starts = torch.stack([first, first // chunk * chunk]).int()
    out = stacked_blocks(tokens, row, starts, SIZES, 1e-5, LONGEST)
    pull = torch.zeros_like(out)
    pull[:, length - READ :] = torch.cat([real(m)[1] for m in models])
    by_tokens, by_weights = torch.autograd.grad(out, [tokens, row], pull)
    return {
        m: (out[k, length - LENGTHS[m] :].detach(), by_tokens[k, length - LENGTHS[m] :], by_weights[k])
        for k, m in enumerate(models)
    }


def by_definition(model):
    tokens, pull = (t.double() for t in real(model))
    tokens.requires_grad_()
    row = weights([model])[0, : SIZES.numbers()].double().requires_grad_()
    out, _ = plain_block(tokens, tuple(_named(row, SIZES).values()), 1e-5, None, None)
    by_tokens, by_weights = torch.autograd.grad(out[:, -READ:], [tokens, row], pull)
    return out[0].detach(), by_tokens[0], by_weights


def test_each_model_of_a_stack_is_the_plain_block():
    for model, found in run((0, 1, 2), 48).items():
        for got, expected in zip(found, by_definition(model), strict=True):
            assert torch.isfinite(got).all()
            assert (got.double() - expected).norm() <= 5e-6 * expected.norm()


@pytest.mark.skipif(not INTERPRETED, reason="a plain sum depends on the length")
def test_a_model_has_the_same_bits_beside_others_and_padded_as_alone():
    beside = run((2, 1), 48)
    for model, alone in (run((1,), 48) | run((2,), 32)).items():
        for got, expected in zip(beside[model], alone, strict=True):
            assert torch.equal(got, expected)


@pytest.mark.skipif(not INTERPRETED, reason="the plain path takes any length")
def test_a_length_that_is_no_whole_number_of_chunks_is_refused():
    with pytest.raises(ValueError, match="whole chunks of 16"):
        run((1,), 40)


def test_names_of_weights_are_those_of_the_block():
    assert tuple(_named(torch.zeros(2, SIZES.numbers()), SIZES)) == ORDER
