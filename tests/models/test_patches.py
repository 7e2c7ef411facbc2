"""Patches and places become tokens, and hidden states become pixels, as the paper's code has it."""

import pytest
import torch
from torch.nn import functional as F

from lgbench.models.patches import PatchInterface


def patches(length=6):
    rng = torch.Generator().manual_seed(0)
    places = torch.randint(-62, 62, (2, length, 2), generator=rng).float()
    return {"patches": torch.rand(2, length, 16, generator=rng) * 2 - 1, "places": places}


def test_a_token_is_the_joined_convolution_of_its_patch_and_its_place_by_a_hundred():
    layers, context = PatchInterface(16, 4, "causal", "concat"), patches()
    images = context["patches"].unflatten(-1, (1, 4, 4)).flatten(0, 1)
    joined = layers.joiner(layers.conv(images).flatten(1)).unflatten(0, (2, 6))
    got = layers.context(context)
    assert got.shape == (2, 6, 16)
    torch.testing.assert_close(got[..., :14], joined)
    torch.testing.assert_close(got[..., 14:], context["places"] / 100)


def test_queries_follow_a_separator_and_differ_by_place_only():
    layers, places = PatchInterface(16, 4, "causal", "concat"), patches()["places"]
    got = layers.queries({"places": places})
    assert got.shape == (2, 1 + 6, 16)
    assert torch.equal(got[:, 0], layers.separator.expand(2, -1))
    assert torch.equal(got[:, 1:, :14], layers.query.expand(2, 6, -1))
    torch.testing.assert_close(got[:, 1:, 14:], places / 100)


def test_an_encoder_decoder_has_neither_joiner_nor_separator():
    layers, context = PatchInterface(16, 4, "encoder_decoder", "sinusoid"), patches()
    assert layers.queries(context).shape == (2, 6, 16)
    names = {name for name, _ in layers.named_parameters()}
    assert names == {"query", "conv.weight", "conv.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("layout", ["causal", "encoder_decoder"])
def test_a_sinusoid_is_four_frequencies_of_x_then_of_y_in_pixels(layout):
    layers, context = PatchInterface(16, 4, layout, "sinusoid"), patches()
    here = {"places": context["places"]}
    added = layers.queries(here)[:, -6:] - layers.query
    x, y = context["places"].unsqueeze(-1).unbind(-2)
    omega = torch.tensor([1.0, 0.1, 0.01, 0.001])
    wanted = torch.cat([(omega * x).sin(), (omega * x).cos(), (omega * y).sin(), (omega * y).cos()], dim=-1)
    torch.testing.assert_close(added, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        layers.context(context)
        - layers.joiner(F.linear(context["patches"], layers.conv.weight.flatten(1), layers.conv.bias)),
        wanted,
        atol=1e-5,
        rtol=1e-5,
    )


def test_pixels_lie_between_black_and_white():
    layers = PatchInterface(16, 4, "causal", "concat")
    pixels = layers.read(10 * torch.randn(2, 6, 16))
    assert pixels.shape == (2, 6, 16)
    assert pixels.min() > -1.0000001 and pixels.max() < 1.0000001
    assert pixels.min() < 0 < pixels.max()
    torch.testing.assert_close(
        layers.read(torch.zeros(1, 1, 16)), (2 * layers.head.bias.sigmoid() - 1)[None, None]
    )


def test_separator_and_query_start_small_and_normal():
    torch.manual_seed(0)
    drawn = [PatchInterface(16, 4, "causal", "concat") for _ in range(100)]
    for name in ("separator", "query"):
        values = torch.cat([getattr(layers, name).detach() for layers in drawn])
        assert values.std().item() == pytest.approx(0.02, rel=0.1)
