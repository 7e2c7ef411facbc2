"""Mamba has the published size and start, streams exactly, ignores masked tokens, and calls its hooks."""

import math

import pytest
import torch
from torch.nn import functional as F

from lgbench.backbones.mamba import Mamba
from lgbench.intervention import ScanIntervention, active_hooks
from lgbench.models.mamba import MambaBlock
from lgbench.models.model import Model
from lgbench.models.patches import PatchInterface
from lgbench.plugins.registry import METHODS

VANILLA = ScanIntervention()
CONV = pytest.mark.parametrize("conv_width", [0, 4], ids=["no-conv", "conv4"])


def lively(d_model=16, num_layers=3, d_state=4, conv_width=0, seed=0, **sizes):
    """A model whose states matter: weights larger than at the start, no two alike."""
    torch.manual_seed(seed)
    model = Mamba(d_model=d_model, num_layers=num_layers, d_state=d_state, conv_width=conv_width, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch=2, length=40, d_model=16, seed=1):
    return torch.randn(batch, length, d_model, generator=torch.Generator().manual_seed(seed))


def advance(model, inputs, intervention=VANILLA, mode="score", **options):
    with torch.no_grad():
        return model.advance(inputs, mode=mode, intervention=intervention, **options)


def published(method="vanilla", position="concat", num_layers=8, d_state=8):
    intervention = METHODS.load(method)().intervention(1024, 16)
    backbone = Mamba(d_model=16, num_layers=num_layers, d_state=d_state)
    return Model(PatchInterface(16, 4, "causal", position), backbone, intervention)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 20_412),
        ({"method": "prepended"}, 20_444),
        ({"position": "sinusoid"}, 20_448),
        ({"num_layers": 2}, 5_724),
        ({"num_layers": 4}, 10_620),
        ({"num_layers": 16}, 39_996),
        ({"d_state": 2}, 15_804),
        ({"d_state": 4}, 17_340),
        ({"d_state": 16}, 26_556),
        ({"d_state": 32}, 38_844),
        ({"d_state": 64}, 63_420),
    ],
    ids=str,
)
def test_parameter_counts_are_the_published_ones(options, count):
    assert published(**options).num_parameters == count


def test_a_block_has_2448_parameters_and_the_whole_backbone_one_more_norm():
    backbone = Mamba(d_model=16, num_layers=8, d_state=8)
    assert sum(p.numel() for p in backbone.blocks[0].parameters()) == 2_448
    assert sum(p.numel() for p in backbone.parameters()) == 8 * 2_448 + 16


def test_weights_start_as_published():
    torch.manual_seed(0)
    blocks = Mamba(d_model=16, num_layers=64, d_state=8).blocks
    for name in ("in_proj", "x_proj"):
        weights = torch.cat([getattr(b, name).weight.flatten() for b in blocks])
        assert weights.mean().abs() < 0.002
        assert weights.std().item() == pytest.approx(0.1, rel=0.02)
        assert weights.abs().max() > 0.35, "a normal distribution has tails, a uniform one has not"
    w_dt = torch.cat([b.dt_proj.weight.flatten() for b in blocks])
    assert w_dt.abs().max() <= 1
    assert w_dt.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.05)
    w_out = torch.cat([b.out_proj.weight.flatten() for b in blocks])
    assert w_out.abs().max() <= 1 / math.sqrt(32)
    assert w_out.std().item() == pytest.approx(1 / math.sqrt(32 * 3), rel=0.02)


def test_time_steps_start_log_uniform_between_a_thousandth_and_a_tenth():
    torch.manual_seed(0)
    blocks = Mamba(d_model=16, num_layers=64, d_state=8).blocks
    b_dt = torch.cat([b.dt_proj.bias for b in blocks])
    assert b_dt.min() >= -6.91 and b_dt.max() <= -2.25
    log_dt = F.softplus(b_dt).log10()
    assert log_dt.min() >= -3.001 and log_dt.max() <= -0.999
    assert log_dt.mean().item() == pytest.approx(-2, abs=0.05)
    assert log_dt.std().item() == pytest.approx(2 / math.sqrt(12), rel=0.05)


def test_decay_rates_skip_and_norms_start_the_same_in_every_channel():
    model = Mamba(d_model=16, num_layers=2, d_state=8)
    for block in model.blocks:
        torch.testing.assert_close(block.A_log, torch.arange(1.0, 9).log().expand(32, 8))
        assert (block.D == 1).all() and (block.norm.weight == 1).all()
        assert block.norm.eps == model.norm.eps == 1e-5
    assert (model.norm.weight == 1).all()


@CONV
@pytest.mark.parametrize("cuts", [(20,), (1, 2, 3), (7, 8, 31, 39), tuple(range(1, 40))], ids=str)
def test_pieces_with_carried_state_give_the_same_as_the_whole(conv_width, cuts):
    model, inputs = lively(conv_width=conv_width), tokens(length=40)
    whole = advance(model, inputs)
    state, hidden = None, []
    for piece in inputs.tensor_split(cuts, dim=1):
        part = advance(model, piece, state=state, mode="prefill")
        hidden.append(part.hidden)
        state = part.state
    torch.testing.assert_close(torch.cat(hidden, dim=1), whole.hidden, atol=1e-5, rtol=1e-5)
    for carried, final in zip(state, whole.state, strict=True):
        torch.testing.assert_close(carried.scan, final.scan, atol=1e-5, rtol=1e-5)
        if conv_width:
            torch.testing.assert_close(carried.conv, final.conv, atol=1e-5, rtol=1e-5)


@CONV
def test_the_future_does_not_change_the_past(conv_width):
    model, inputs = lively(conv_width=conv_width), tokens(length=40)
    changed = inputs.clone()
    changed[:, 25:] = 5.0
    before, after = advance(model, inputs).hidden, advance(model, changed).hidden
    torch.testing.assert_close(before[:, :25], after[:, :25], atol=1e-5, rtol=1e-5)
    assert (before[:, 25:] - after[:, 25:]).abs().max() > 0.1


def test_the_past_is_not_forgotten_by_the_test_model():
    """The guard of this file: if states did not matter, streaming and masks would be tested on nothing."""
    model, inputs = lively(), tokens(length=40)
    cut = advance(model, inputs[:, 20:]).hidden
    assert (advance(model, inputs).hidden[:, 20:] - cut).abs().max() > 0.05


@CONV
@pytest.mark.parametrize("method", ["vanilla", "prepended"])
@pytest.mark.parametrize("pad", [1, 3, 24])
def test_masked_padding_on_the_left_gives_the_same_answers_as_none(conv_width, method, pad):
    model = lively(conv_width=conv_width)
    intervention = METHODS.load(method)().intervention(64, 16)
    intervention.begin("train", 30, 5)
    context, queries = tokens(length=30), tokens(length=5, seed=2)
    garbage = 100 * tokens(length=pad, seed=3)
    mask = torch.arange(pad + 30) >= pad
    with torch.no_grad():
        plain = model.answer(context, queries, mode="train", intervention=intervention)
        padded = model.answer(
            torch.cat([garbage, context], dim=1),
            queries,
            mode="train",
            context_mask=mask,
            intervention=intervention,
        )
    assert plain.shape == (2, 5, 16)
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=1e-5)


@CONV
def test_masked_tokens_anywhere_leave_every_state_untouched(conv_width):
    model, inputs = lively(conv_width=conv_width), tokens(length=30)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, [0, 5, 6, 28, 29]] = False
    mask[1, [3, 10, 11, 12, 20]] = False
    before = advance(model, tokens(length=9, seed=4)).state
    masked = advance(model, inputs, mask=mask, state=before)
    for row in range(2):
        only = [[t if t is None else t[row : row + 1] for t in layer] for layer in before]
        real = advance(
            model, inputs[row : row + 1, mask[row]], state=[type(before[0])(*layer) for layer in only]
        )
        torch.testing.assert_close(masked.hidden[row, mask[row]], real.hidden[0], atol=1e-5, rtol=1e-5)
        for kept, wanted in zip(masked.state, real.state, strict=True):
            torch.testing.assert_close(kept.scan[row], wanted.scan[0], atol=1e-5, rtol=1e-5)
            if conv_width:
                torch.testing.assert_close(kept.conv[row], wanted.conv[0], atol=1e-5, rtol=1e-5)


class Everything(ScanIntervention):
    """Overrides every hook without a change, and notes what it was given."""

    def __init__(self):
        self.calls = []

    def sequence(self, tokens):
        self.calls.append(("sequence", None, tokens.shape))
        return tokens

    def timestep(self, layer, delta):
        assert (delta >= 0).all()
        self.calls.append(("timestep", layer, delta.shape))
        return delta

    def transition(self, layer, A):
        assert A.dtype == torch.float32 and (A < 0).all()
        self.calls.append(("transition", layer, A.shape))
        return A

    def keep(self, layer, delta, x):
        self.calls.append(("keep", layer, delta.shape, x.shape))
        return None

    def initial_state(self, layer):
        self.calls.append(("initial_state", layer))
        return None

    def final_state(self, layer, state):
        self.calls.append(("final_state", layer, state.shape))

    def record(self, layer, **tensors):
        self.calls.append(("record", layer, {name: tuple(t.shape) for name, t in tensors.items()}))


def test_every_hook_is_called_once_a_layer_with_the_documented_shapes():
    model, seen = lively(num_layers=2), Everything()
    assert active_hooks(seen, "score") == Mamba.hooks - {"state"}
    advance(model, tokens(batch=3, length=10), seen)
    recorded = {name: (3, 10, 32) for name in ("delta", "x")} | {
        "A": (32, 4),
        "B": (3, 10, 4),
        "C": (3, 10, 4),
        "state": (3, 32, 4),
    }
    expected = [("sequence", None, (3, 10, 16))]
    for layer in range(2):
        expected += [
            ("initial_state", layer),
            ("timestep", layer, (3, 10, 32)),
            ("transition", layer, (32, 4)),
            ("keep", layer, (3, 10, 32), (3, 10, 32)),
            ("record", layer, recorded),
            ("final_state", layer, (3, 32, 4)),
        ]
    assert seen.calls == expected


@CONV
def test_hooks_that_change_nothing_equal_vanilla_bit_for_bit(conv_width):
    model, inputs = lively(conv_width=conv_width), tokens()
    plain, hooked = advance(model, inputs), advance(model, inputs, Everything())
    assert torch.equal(plain.hidden, hooked.hidden)
    assert torch.equal(plain.positions, hooked.positions)
    assert all(torch.equal(a.scan, b.scan) for a, b in zip(plain.state, hooked.state, strict=True))


def test_hooks_that_open_a_sequence_act_on_its_first_piece_only():
    model, inputs, seen = lively(num_layers=2), tokens(length=20), Everything()
    state = advance(model, inputs[:, :10], seen, mode="prefill").state
    seen.calls.clear()
    advance(model, inputs[:, 10:], seen, mode="prefill", state=state)
    names = {call[0] for call in seen.calls}
    assert names == {"timestep", "transition", "keep", "final_state", "record"}


def test_hooks_that_are_not_for_decoding_leave_it_as_in_vanilla():
    model, inputs = lively(num_layers=2), tokens()
    state = advance(model, inputs).state

    class Halved(ScanIntervention):
        def timestep(self, layer, delta):
            return delta / 2

    active, passive = Halved(), Halved()
    passive.apply_in_decode = False
    queries = tokens(length=5, seed=2)
    plain = advance(model, queries, state=state, mode="decode").hidden
    assert torch.equal(advance(model, queries, passive, state=state, mode="decode").hidden, plain)
    assert not torch.allclose(advance(model, queries, active, state=state, mode="decode").hidden, plain)
    read, vanilla = advance(model, inputs, passive, mode="prefill"), advance(model, inputs)
    assert not torch.allclose(read.hidden, vanilla.hidden)
    assert active_hooks(passive, "decode") == frozenset()
    assert active_hooks(passive, "prefill") == {"timestep"}


def test_half_the_time_step_equals_half_of_w_dt_behind_the_softplus():
    """Against the formula: Δ enters through exp(ΔA) and ΔB only, so halving Δ is halving A and B's factor."""
    model, inputs = lively(num_layers=1), tokens()

    class Halved(ScanIntervention):
        def timestep(self, layer, delta):
            return delta / 2

    got = advance(model, inputs, Halved()).hidden
    block = model.blocks[0]
    with torch.no_grad():
        a, z = block.in_proj(block.norm(inputs)).chunk(2, dim=-1)
        x = F.silu(a)
        tau, B, C = block.x_proj(x).split([1, 4, 4], dim=-1)
        delta, A = F.softplus(block.dt_proj(tau)) / 2, -block.A_log.exp()
        h, y = torch.zeros(2, 32, 4), []
        for t in range(40):
            h = (delta[:, t, :, None] * A).exp() * h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
            y.append((h * C[:, t, None]).sum(-1) + block.D * x[:, t])
        wanted = model.norm(inputs + block.out_proj(torch.stack(y, dim=1) * F.silu(z)))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_a_scaled_transition_equals_scaled_weights():
    model, inputs = lively(), tokens()

    class Slower(ScanIntervention):
        def transition(self, layer, A):
            return 0.25 * A

    got = advance(model, inputs, Slower()).hidden
    with torch.no_grad():
        for block in model.blocks:
            block.A_log.add_(math.log(0.25))
    torch.testing.assert_close(got, advance(model, inputs).hidden, atol=1e-5, rtol=1e-5)


def test_a_changed_transition_is_served_by_the_fused_block_too(monkeypatch):
    model, inputs = lively(), tokens()

    class Slower(ScanIntervention):
        layers = (1,)

        def transition(self, layer, A):
            assert layer == 1
            return 0.25 * A

    wanted = advance(model, inputs, Slower()).hidden
    calls = []
    plain = MambaBlock.fused
    monkeypatch.setattr(Mamba, "fused", lambda self, tokens: True)
    monkeypatch.setattr(MambaBlock, "fused", lambda self, *asked: calls.append(self) or plain(self, *asked))
    got = advance(model, inputs, Slower()).hidden
    assert calls == list(model.blocks)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_an_initial_state_is_where_the_sequence_starts():
    model, inputs = lively(), tokens(length=30)
    halfway = advance(model, inputs[:, :10]).state

    class Passed(ScanIntervention):
        def initial_state(self, layer):
            return halfway[layer].scan

    got = advance(model, inputs[:, 10:], Passed()).hidden
    torch.testing.assert_close(got, advance(model, inputs).hidden[:, 10:], atol=1e-5, rtol=1e-5)


class Kept(ScanIntervention):
    """Keeps given indices `(batch, kept)` at given layers."""

    def __init__(self, indices):
        self.indices, self.lengths = indices, []

    def keep(self, layer, delta, x):
        self.lengths.append(x.shape[1])
        return self.indices.get(layer)


@CONV
def test_keeping_everything_equals_vanilla(conv_width):
    model, inputs = lively(conv_width=conv_width), tokens()
    everything = torch.arange(40).expand(2, -1)
    kept, plain = advance(model, inputs, Kept(dict.fromkeys(range(3), everything))), advance(model, inputs)
    assert torch.equal(kept.hidden, plain.hidden)
    assert torch.equal(kept.positions, everything)


def test_tokens_dropped_by_the_first_layer_might_as_well_not_have_been_there():
    model, inputs = lively(), tokens(length=12)
    chosen = torch.tensor([[0, 3, 4, 11], [1, 2, 9, 10]])
    dropped = advance(model, inputs, Kept({0: chosen}))
    assert torch.equal(dropped.positions, chosen)
    for row in range(2):
        alone = advance(model, inputs[row : row + 1, chosen[row]])
        torch.testing.assert_close(dropped.hidden[row], alone.hidden[0], atol=1e-5, rtol=1e-5)


def test_positions_are_composed_over_layers_for_each_sample():
    model, inputs = lively(num_layers=4), tokens(length=12)
    first = torch.tensor([[0, 2, 3, 5, 8, 11], [1, 4, 6, 7, 9, 10]])
    second = torch.tensor([[0, 3, 5], [1, 2, 4]])
    hook = Kept({1: first, 3: second})
    got = advance(model, inputs, hook)
    assert hook.lengths == [12, 12, 6, 6]
    assert got.positions.tolist() == [[0, 5, 11], [4, 6, 9]]
    assert got.hidden.shape == (2, 3, 16)
    with torch.no_grad():  # by hand: whole, then on the first selection, then on the second
        stream = run_blocks(model, inputs, [0])
        stream = run_blocks(model, pick(stream, first), [1, 2])
        stream = run_blocks(model, pick(stream, second), [3])
        torch.testing.assert_close(got.hidden, model.norm(stream), atol=1e-5, rtol=1e-5)


def test_a_mask_follows_the_tokens_that_are_kept():
    model, inputs = lively(), tokens(length=12)
    mask = torch.arange(12) >= 4
    chosen = torch.tensor([[0, 3, 4, 5, 8, 11], [2, 4, 6, 7, 9, 10]])
    got = advance(model, inputs, Kept({1: chosen}), mask=mask)
    with torch.no_grad():
        stream = advance_block(model, 0, inputs, mask)
        for row in range(2):
            real = chosen[row][chosen[row] >= 4]
            alone = run_blocks(model, stream[row : row + 1, real], [1, 2])
            torch.testing.assert_close(
                got.hidden[row, -len(real) :], model.norm(alone)[0], atol=1e-5, rtol=1e-5
            )


def pick(stream, chosen):
    return stream.gather(1, chosen.unsqueeze(-1).expand(-1, -1, stream.shape[-1]))


def advance_block(model, layer, stream, mask=None):
    """One block alone, as a model of its own without the last norm."""
    start = type(advance(model, stream[:, :1]).state[0])(None, None)
    block = model.blocks[layer]
    return block(stream, start, mask, layer, frozenset(), VANILLA, model.scan_backend)[0]


def run_blocks(model, stream, layers):
    for layer in layers:
        stream = advance_block(model, layer, stream)
    return stream


def test_dt_rank_grows_with_the_width_unless_it_is_given():
    assert Mamba(d_model=16, num_layers=1, d_state=2).blocks[0].dt_rank == 1
    assert Mamba(d_model=40, num_layers=1, d_state=2).blocks[0].dt_rank == 3
    assert Mamba(d_model=16, num_layers=1, d_state=2, dt_rank=5).blocks[0].dt_rank == 5


def test_gradients_reach_every_parameter():
    model = lively(conv_width=4).train()
    model.advance(tokens(), mode="train", intervention=VANILLA).hidden.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_rows_name_the_scan_that_computes():
    model, probe = lively(), tokens(length=1)
    assert model.backend_name(probe, frozenset()) == "torch"
    assert lively(scan_backend="reference").backend_name(probe, frozenset()) == "reference"


def test_back_ends_agree():
    inputs = tokens()
    plain, reference = (advance(lively(scan_backend=name), inputs).hidden for name in ("torch", "reference"))
    torch.testing.assert_close(plain, reference, atol=1e-5, rtol=1e-5)
