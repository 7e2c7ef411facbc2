"""The decoder streams exactly, never sees masked tokens or the future, and codes positions as published."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lgbench.backbones.decoder import Decoder
from lgbench.intervention import ScanIntervention
from lgbench.models import decoder
from lgbench.models.positions import alibi_slopes, rope_angles, rotate, sinusoid
from lgbench.plugins.registry import METHODS

VANILLA = ScanIntervention()
POSITIONS = ("rope", "alibi", "nope", "sinusoidal")
every_position = pytest.mark.parametrize("position", POSITIONS)


def lively(position="rope", d_model=16, num_layers=2, num_heads=2, seed=0):
    """A model whose attention matters: weights larger than at the start, no two alike."""
    torch.manual_seed(seed)
    model = Decoder(d_model=d_model, num_layers=num_layers, num_heads=num_heads, position=position)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch=2, length=40, d_model=16, seed=1):
    return torch.randn(batch, length, d_model, generator=torch.Generator().manual_seed(seed))


def advance(model, inputs, mode="score", intervention=VANILLA, **options):
    with torch.no_grad():
        return model.advance(inputs, mode=mode, intervention=intervention, **options)


def pieces(model, inputs, cuts, state=None, mask=None):
    """Hidden states and state after reading the pieces between the cuts."""
    hidden, start = [], 0
    for stop in (*cuts, inputs.shape[1]):
        part = advance(
            model,
            inputs[:, start:stop],
            mode="prefill",
            state=state,
            mask=None if mask is None else mask[:, start:stop],
        )
        hidden.append(part.hidden)
        state, start = part.state, stop
    return torch.cat(hidden, dim=1), state


def assert_close(got, wanted):
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@every_position
@pytest.mark.parametrize("cuts", [(20,), (1, 2, 3), (7, 8, 31, 39), tuple(range(1, 40))], ids=str)
def test_pieces_with_carried_state_give_the_same_as_the_whole(position, cuts):
    model, inputs = lively(position), tokens()
    assert_close(pieces(model, inputs, cuts)[0], advance(model, inputs).hidden)


@every_position
def test_thin_slices_of_the_bias_change_nothing(position, monkeypatch):
    model, inputs = lively(position), tokens()
    whole = advance(model, inputs).hidden
    monkeypatch.setattr(decoder, "QUERY_SLICE", 7)
    assert_close(pieces(model, inputs, (3, 30))[0], whole)
    monkeypatch.setattr(decoder, "BIAS_ELEMENTS", 1)
    assert_close(pieces(model, inputs, (3, 30))[0], whole)


@every_position
def test_the_future_does_not_change_the_past(position):
    model, inputs = lively(position), tokens()
    changed = inputs.clone()
    changed[:, 25:] = 5.0
    for cuts in ((), (10,)):
        before, after = (pieces(model, x, cuts)[0] for x in (inputs, changed))
        assert_close(after[:, :25], before[:, :25])
        assert (before[:, 25:] - after[:, 25:]).abs().max() > 0.1


@every_position
def test_the_past_matters_to_the_test_model(position):
    """The guard of this file: if keys did not matter, caches and masks would be tested on nothing."""
    model, inputs = lively(position), tokens()
    cut = advance(model, inputs[:, 20:]).hidden
    assert (advance(model, inputs).hidden[:, 20:] - cut).abs().max() > 0.05


@every_position
@pytest.mark.parametrize("method", ["vanilla", "prepended"])
@pytest.mark.parametrize("pad", [1, 3, 24])
def test_masked_padding_on_the_left_gives_the_same_answers_as_none(position, method, pad):
    model = lively(position)
    intervention = METHODS.load(method)().intervention(64, 16)
    intervention.begin("train", 30, 5)
    context, queries = tokens(length=30), tokens(length=5, seed=2)
    padded = torch.cat([100 * tokens(length=pad, seed=3), context], dim=1)
    mask = torch.arange(pad + 30) >= pad
    options = {"mode": "train", "intervention": intervention}
    with torch.no_grad():
        plain = model.answer(context, queries, **options)
        got = model.answer(padded, queries, context_mask=mask, **options)
    assert plain.shape == (2, 5, 16)
    assert_close(got, plain)


@every_position
@pytest.mark.parametrize("cuts", [(), (12,), (4, 5, 20)], ids=str)
def test_a_padded_batch_gives_what_each_sequence_gives_alone(position, cuts):
    """Rows of 30, 17 and 4 tokens, padded on the left with garbage; whole pieces of padding occur."""
    model, inputs = lively(position), tokens(batch=3, length=30)
    sizes = torch.tensor([30, 17, 4])
    mask = torch.arange(30) >= 30 - sizes[:, None]
    inputs[~mask] *= 100
    after = tokens(batch=3, length=6, seed=2)
    hidden, state = pieces(model, inputs, cuts, mask=mask)
    answers = pieces(model, after, (2,), state=state)[0]
    for row, size in enumerate(sizes.tolist()):
        real = torch.cat([inputs[row : row + 1, 30 - size :], after[row : row + 1]], dim=1)
        alone = advance(model, real).hidden[0]
        assert_close(hidden[row, 30 - size :], alone[:size])
        assert_close(answers[row], alone[size:])


@every_position
def test_masked_tokens_anywhere_might_as_well_not_have_been_there(position):
    model, inputs, before = lively(position), tokens(length=30), tokens(length=9, seed=4)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, [0, 5, 6, 28, 29]] = False
    mask[1, [3, 10, 11, 12, 20]] = False
    state = advance(model, before).state
    got = advance(model, inputs, mask=mask, state=state).hidden
    for row in range(2):
        real = torch.cat([before[row], inputs[row, mask[row]]])[None]
        assert_close(got[row, mask[row]], advance(model, real).hidden[0, 9:])


@every_position
def test_a_batch_gives_what_a_loop_over_its_sequences_gives(position):
    model, inputs = lively(position), tokens(batch=3)
    batch, state = pieces(model, inputs, (11,))
    answers = advance(model, tokens(batch=3, length=4, seed=2), state=state).hidden
    for row in range(3):
        one = slice(row, row + 1)
        hidden, state = pieces(model, inputs[one], (11,))
        assert_close(batch[one], hidden)
        assert_close(answers[one], advance(model, tokens(batch=3, length=4, seed=2)[one], state=state).hidden)


@every_position
@pytest.mark.parametrize("alive", [True, False], ids=["kept", "dropped"])
def test_a_kept_state_serves_several_continuations_and_reading_on(position, alive):
    model, inputs = lively(position), tokens(length=40)
    state = advance(model, inputs[:, :20], mode="prefill").state
    others = []
    for seed, length in ((5, 1), (6, 7), (7, 3)):
        queries = tokens(length=length, seed=seed)
        first, *_ = others = [*others, advance(model, queries, mode="decode", state=state)]
        wanted = advance(model, torch.cat([inputs[:, :20], queries], dim=1)).hidden[:, 20:]
        assert_close(others[-1].hidden, wanted)
        if not alive:
            others = []
    rest, state = pieces(model, inputs[:, 20:], (9,), state=state)
    assert_close(rest, advance(model, inputs).hidden[:, 20:])
    if alive:  # the first continuation goes on, too, from where it was
        further, began = tokens(length=4, seed=8), tokens(length=1, seed=5)
        whole = advance(model, torch.cat([inputs[:, :20], began, further], dim=1)).hidden
        assert_close(advance(model, further, state=first.state).hidden, whole[:, 21:])


def test_decoding_token_by_token_seldom_moves_the_cache():
    model, inputs = lively(), tokens(batch=1, length=600)
    state = advance(model, inputs[:, :200], mode="prefill").state
    buffers = []
    for t in range(200, 600):
        state = advance(model, inputs[:, t : t + 1], mode="decode", state=state).state
        buffers.append(state[0].past.keys.data_ptr())
    moves = sum(a != b for a, b in pairwise(buffers))
    assert 1 <= moves <= 6
    assert_close(state[1].past.keys, advance(model, inputs).state[1].past.keys)


def test_a_continuation_copies_the_cache_only_while_another_one_is_alive():
    model, inputs = lively(num_layers=1), tokens()
    state = advance(model, inputs[:, :20], mode="prefill").state
    place = state[0].past.keys.data_ptr()
    answer = advance(model, inputs[:, :3], mode="decode", state=state).state
    assert answer[0].past.keys.data_ptr() == place
    other = advance(model, inputs[:, :3], mode="decode", state=state).state
    assert other[0].past.keys.data_ptr() != place
    del answer, other
    assert advance(model, inputs[:, 20:], mode="prefill", state=state).state[0].past.keys.data_ptr() == place


def test_gradients_flow_through_pieces_and_reach_every_parameter():
    model, inputs = lively().train(), tokens()
    wanted = model.advance(inputs, mode="train", intervention=VANILLA).hidden.square().mean()
    grads = torch.autograd.grad(wanted, list(model.parameters()))
    first = model.advance(inputs[:, :15], mode="train", intervention=VANILLA)
    second = model.advance(inputs[:, 15:], mode="train", state=first.state, intervention=VANILLA)
    torch.cat([first.hidden, second.hidden], dim=1).square().mean().backward()
    for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
        assert grad.abs().max() > 0, name
        assert_close(parameter.grad, grad)


def test_a_state_read_without_gradients_can_be_continued_with_them():
    model, inputs = lively().train(), tokens()
    state = advance(model, inputs[:, :15], mode="prefill").state
    out = model.advance(inputs[:, 15:], mode="train", state=state, intervention=VANILLA)
    assert_close(out.hidden, advance(model, inputs).hidden[:, 15:])
    out.hidden.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@every_position
def test_the_model_follows_its_formulas(position):
    """Against attention written out with a softmax, one head at a time."""
    model, inputs = lively(position, num_layers=1), tokens(batch=1, length=9)
    block, place = model.blocks[0], torch.arange(9)
    with torch.no_grad():
        x = 4 * inputs + sinusoid(place, 16) if position == "sinusoidal" else inputs
        u = F.rms_norm(x, (16,), block.norm1.weight, 1e-5)
        mixed = []
        for q, k, v in zip(*(w.split(8) for w in block.qkv_proj.weight.split(16)), strict=True):
            q, k, v = (u[0] @ w.T for w in (q, k, v))
            if position == "rope":
                q, k = (turned(t) for t in (q, k))
            scores = q @ k.T / math.sqrt(8)
            if position == "alibi":
                slope = [2**-4, 2**-8][len(mixed)]
                scores -= slope * (place[:, None] - place)
            scores[place[:, None] < place] = -math.inf
            mixed.append(scores.softmax(dim=-1) @ v)
        x = x + torch.cat(mixed, dim=-1) @ block.out_proj.weight.T
        u = F.rms_norm(x, (16,), block.norm2.weight, 1e-5)
        gate, up = (u @ w.T for w in block.gate_up_proj.weight.chunk(2))
        x = x + (F.silu(gate) * up) @ block.down_proj.weight.T
        wanted = F.rms_norm(x, (16,), model.norm.weight, 1e-5)
    assert_close(advance(model, inputs).hidden, wanted)


def turned(x):
    """Rotary code as complex numbers: component i and i + 4 turn by t · 10000^(-i/4)."""
    z = torch.complex(x[:, :4], x[:, 4:])
    angle = torch.arange(len(x))[:, None] * 10_000 ** (-torch.arange(4) / 4)
    z = z * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=1)


def test_rotations_depend_on_the_distance_alone_also_a_million_tokens_in():
    q, k = tokens(batch=2, length=1, d_model=8)[:, None].unbind()
    products = [
        (
            rotate(q, rope_angles(torch.tensor([p]), 8)) * rotate(k, rope_angles(torch.tensor([p - 3]), 8))
        ).sum()
        for p in (3, 1_000, 1_048_576)
    ]
    assert products[0].item() == pytest.approx(products[1].item(), abs=1e-5)
    assert products[0].item() == pytest.approx(products[2].item(), abs=1e-5)


def test_rotation_of_two_components_is_by_the_position_in_radians():
    cos, sin = rope_angles(torch.tensor([0, 1, 2]), 4)
    assert cos[:, 0].tolist() == pytest.approx([1, math.cos(1), math.cos(2)])
    assert sin[:, 1].tolist() == pytest.approx([0, math.sin(0.01), math.sin(0.02)])


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (2, [2**-4, 2**-8]),
        (4, [2**-2, 2**-4, 2**-6, 2**-8]),
        (8, [2**-k for k in range(1, 9)]),
        (3, [2**-4, 2**-8, 2**-2]),
        (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
        (12, [*(2**-k for k in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_alibi_slopes_are_the_published_ones(heads, slopes):
    assert alibi_slopes(heads).tolist() == pytest.approx(slopes)


def test_sinusoids_are_the_published_ones():
    waves = sinusoid(torch.tensor([0, 3]), 4)
    assert waves[0].tolist() == [0, 0, 1, 1]
    assert waves[1].tolist() == pytest.approx([math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)])


def test_without_a_position_code_the_order_of_earlier_tokens_does_not_matter_in_one_layer():
    inputs = tokens(length=12)
    turned_round = torch.cat([inputs[:, :11].flip(1), inputs[:, 11:]], dim=1)
    for position in POSITIONS:
        model = lively(position, num_layers=1)
        moved = (advance(model, inputs).hidden - advance(model, turned_round).hidden)[:, -1].abs().max()
        assert (moved < 1e-5) == (position == "nope"), position


@pytest.mark.parametrize(
    ("d_model", "heads"), [(16, 1), (64, 1), (96, 1), (200, 2), (256, 4), (384, 6), (768, 12)]
)
def test_heads_are_about_64_wide_unless_given(d_model, heads):
    model = Decoder(d_model=d_model, num_layers=1)
    assert model.blocks[0].num_heads == heads and model.head == d_model // heads


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_model": 16, "num_heads": 3}, "3 heads do not split d_model 16"),
        ({"d_model": 9}, "1 heads do not split d_model 9"),
        ({"d_model": 16, "position": "learned"}, "'rope', 'alibi', 'nope' or 'sinusoidal'"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Decoder(num_layers=1, **options)


def test_only_the_rows_that_are_read_are_returned_with_their_positions():
    model, inputs = lively(), tokens()
    some = advance(model, inputs, read=3)
    assert torch.equal(some.hidden, advance(model, inputs).hidden[:, -3:])
    assert some.positions.tolist() == [[37, 38, 39]] * 2 and model.processed == (40, 40)
    assert advance(model, inputs, read=0).hidden.shape == (2, 0, 16)


def test_a_sequence_hook_acts_at_the_start_alone():
    class Front(ScanIntervention):
        def sequence(self, tokens):
            return torch.cat([nn.functional.one_hot(torch.tensor([[3]]), 16).repeat(2, 1, 1), tokens], dim=1)

    model, inputs, hook = lively(), tokens(), Front()
    state = advance(model, inputs[:, :10], intervention=hook).state
    got = advance(model, inputs[:, 10:], state=state, intervention=hook).hidden
    assert_close(got, advance(model, hook.sequence(inputs)).hidden[:, 11:])


def test_a_method_that_changes_the_scan_is_refused():
    class Slower(ScanIntervention):
        def timestep(self, layer, delta):
            return delta / 2

    with pytest.raises(ValueError, match="a decoder has no timestep to change"):
        advance(lively(), tokens(), intervention=Slower())


def test_rows_name_the_attention_that_computes():
    assert lively().backend_name(tokens(), frozenset()) == "sdpa"
