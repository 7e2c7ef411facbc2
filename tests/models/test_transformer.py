"""The encoder-decoder has the published size and blocks, and nobody sees a masked token."""

import pytest
import torch
from torch import nn

from lgbench.backbones.encoder_decoder import EncoderDecoder
from lgbench.intervention import ScanIntervention
from lgbench.models.model import Model
from lgbench.models.patches import PatchInterface
from lgbench.models.transformer import Attention, DropPath


def build(num_layers=4, seed=0, scale=1.0):
    """A model whose branches matter: layer scales of `scale` instead of 1e-4."""
    torch.manual_seed(seed)
    model = EncoderDecoder(d_model=16, num_layers=num_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "scale" in name:
                parameter.fill_(scale)
    return model.eval()


def tokens(batch=2, length=12, seed=1):
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(seed))


def answer(model, context, queries, **masks):
    with torch.no_grad():
        return model.answer(context, queries, mode="score", intervention=ScanIntervention(), **masks)


@pytest.mark.parametrize(("depth", "count"), [(2, 8_320), (4, 16_080), (8, 31_600), (16, 62_640)])
def test_parameter_counts_are_the_published_ones(depth, count):
    interface = PatchInterface(16, 4, "encoder_decoder", "sinusoid")
    backbone = EncoderDecoder(d_model=16, num_layers=depth)
    assert Model(interface, backbone, ScanIntervention()).num_parameters == count
    assert sum(p.numel() for p in backbone.encoder[0].parameters()) == 3_312
    assert sum(p.numel() for p in backbone.decoder[0].parameters()) == 4_448


def test_weights_start_as_published():
    torch.manual_seed(0)
    model = EncoderDecoder(d_model=16, num_layers=32)
    blocks = [*model.encoder, *model.decoder]
    assert all((b.scale1 == 1e-4).all() and (b.scale2 == 1e-4).all() for b in blocks)
    weights = torch.cat([b.attention.in_proj.weight.flatten() for b in blocks])
    limit = (6 / (16 + 48)) ** 0.5
    assert weights.abs().max() <= limit
    assert weights.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
    for block in blocks:
        assert not block.attention.in_proj.bias.any() and not block.attention.out_proj.bias.any()
        assert block.norm1.eps == 1e-6
    assert all(b.norm2.eps == 1e-5 and b.norm3.eps == 1e-6 for b in model.decoder)


def test_an_odd_depth_is_refused():
    with pytest.raises(ValueError, match=r"num_layers must be even .* got 3"):
        EncoderDecoder(d_model=16, num_layers=3)


def test_attention_equals_that_of_pytorch():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 8), nn.MultiheadAttention(16, 8, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.in_proj.weight,
            "in_proj_bias": ours.in_proj.bias,
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
    )
    queries, keys = tokens(length=7), tokens(length=12, seed=2)
    seen = torch.tensor([True, False, True] * 4)
    for mask in (None, seen):
        hidden = None if mask is None else ~mask.expand(2, -1)
        wanted, _ = theirs(queries, keys, keys, key_padding_mask=hidden)
        torch.testing.assert_close(ours(queries, keys, mask), wanted, atol=1e-6, rtol=1e-5)


def test_blocks_follow_the_published_formulas():
    model = build(num_layers=2, scale=0.5)
    context, queries = tokens(), tokens(length=5, seed=2)
    (encoder,), (decoder,) = model.encoder, model.decoder
    with torch.no_grad():
        u = encoder.norm1(context)
        memory = context + 0.5 * encoder.attention(u, u, None)
        memory = memory + 0.5 * encoder.mlp(encoder.norm2(memory))
        u = decoder.norm1(queries)
        wanted = queries + 0.5 * decoder.attention(u, u, None)
        wanted = wanted + 0.5 * decoder.cross(decoder.norm2(wanted), memory, None)
        wanted = wanted + 0.5 * decoder.mlp(decoder.norm3(wanted))
    torch.testing.assert_close(answer(model, context, queries), wanted, atol=1e-6, rtol=1e-5)


def test_masked_context_is_seen_by_nobody():
    model, context, queries = build(), tokens(), tokens(length=5, seed=2)
    mask = torch.tensor([False] * 4 + [True] * 8)
    garbage = context.clone()
    garbage[:, :4] = 100.0
    wanted = answer(model, context[:, 4:], queries)
    torch.testing.assert_close(
        answer(model, garbage, queries, context_mask=mask), wanted, atol=1e-5, rtol=1e-5
    )
    assert (answer(model, context, queries) - wanted).abs().max() > 1e-3


def test_masked_queries_are_seen_by_nobody():
    model, context, queries = build(), tokens(), tokens(length=5, seed=2)
    mask = torch.tensor([True, True, True, False, False])
    garbage = queries.clone()
    garbage[:, 3:] = 100.0
    wanted = answer(model, context, queries[:, :3])
    got = answer(model, context, garbage, query_mask=mask)[:, :3]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_queries_see_one_another_in_both_directions():
    model, context, queries = build(), tokens(), tokens(length=5, seed=2)
    changed = queries.clone()
    changed[:, 2] += torch.arange(16.0)
    moved = (answer(model, context, queries) - answer(model, context, changed)).abs().amax(dim=(0, 2))
    assert (moved > 1e-4).all()


def test_the_order_of_the_context_does_not_matter():
    model, context, queries = build(), tokens(), tokens(length=5, seed=2)
    turned = answer(model, context.flip(1), queries)
    torch.testing.assert_close(turned, answer(model, context, queries), atol=1e-5, rtol=1e-5)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    drop.generator = torch.Generator().manual_seed(0)
    branch = torch.ones(4000, 2, 3)
    out = drop.train()(branch)
    values = out[:, 0, 0]
    assert torch.equal(out, values[:, None, None].expand_as(out))
    assert values.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert values.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(branch), branch)


def test_stochastic_depth_draws_from_its_generator_alone():
    drop = DropPath(0.5).train()
    draws = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        drop.generator = torch.Generator().manual_seed(7)
        draws.append(drop(torch.ones(50, 1, 1)))
    assert torch.equal(*draws)


def test_gradients_reach_every_parameter():
    model = build().train()
    out = model.answer(tokens(), tokens(length=5, seed=2), mode="train", intervention=ScanIntervention())
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
