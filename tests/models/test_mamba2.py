"""Mamba-2 has the released parts and start, and keeps every promise of the seam that Mamba keeps."""

import math

import pytest
import torch
from torch.nn import functional as F

from lgbench.backbones.mamba import Mamba
from lgbench.backbones.mamba2 import Mamba2
from lgbench.intervention import ScanIntervention, active_hooks

VANILLA = ScanIntervention()
CONV = pytest.mark.parametrize("conv_width", [0, 4], ids=["no-conv", "conv4"])


def lively(d_model=16, num_layers=3, d_state=4, conv_width=0, seed=0, **sizes):
    """A model whose states matter: weights larger than at the start, no two alike."""
    torch.manual_seed(seed)
    model = Mamba2(d_model=d_model, num_layers=num_layers, d_state=d_state, conv_width=conv_width, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch=2, length=40, d_model=16, seed=1):
    return torch.randn(batch, length, d_model, generator=torch.Generator().manual_seed(seed))


def advance(model, inputs, intervention=VANILLA, mode="score", **options):
    with torch.no_grad():
        return model.advance(inputs, mode=mode, intervention=intervention, **options)


def test_a_block_has_the_released_parts():
    """Sizes of mamba_ssm's Mamba2 with one group of B and C."""
    block = Mamba2(d_model=768, num_layers=1, d_state=128, conv_width=4).blocks[0]
    shapes = {name: tuple(p.shape) for name, p in block.named_parameters()}
    assert shapes == {
        "norm.weight": (768,),
        "in_proj.weight": (2 * 1536 + 2 * 128 + 24, 768),
        "conv.weight": (1536 + 2 * 128, 1, 4),
        "conv.bias": (1536 + 2 * 128,),
        "dt_bias": (24,),
        "A_log": (24,),
        "D": (24,),
        "gated_norm.weight": (1536,),
        "out_proj.weight": (768, 1536),
    }


def test_heads_are_as_wide_as_released_and_narrower_in_small_models():
    widths = {
        d_model: Mamba2(d_model=d_model, num_layers=1, d_state=4).blocks[0] for d_model in (16, 64, 256)
    }
    assert {d: (b.head_dim, b.num_channels) for d, b in widths.items()} == {
        16: (8, 4),
        64: (32, 4),
        256: (64, 8),
    }
    assert Mamba2(d_model=16, num_layers=1, d_state=4, head_dim=16).blocks[0].state_shape == (2, 16, 4)
    with pytest.raises(ValueError, match="head_dim must divide d_inner=32, got 5"):
        Mamba2(d_model=16, num_layers=1, d_state=4, head_dim=5)


def test_time_steps_and_decay_rates_start_as_released():
    torch.manual_seed(0)
    blocks = Mamba2(d_model=256, num_layers=40, d_state=4, head_dim=8).blocks
    log_dt = torch.cat([F.softplus(b.dt_bias) for b in blocks]).log10()
    assert log_dt.min() >= -3.001 and log_dt.max() <= -0.999
    assert log_dt.mean().item() == pytest.approx(-2, abs=0.05)
    rates = torch.cat([b.A_log.exp() for b in blocks])
    assert rates.min() >= 1 and rates.max() <= 16 and rates.mean().item() == pytest.approx(8.5, abs=0.3)
    assert all((b.D == 1).all() and (b.gated_norm.weight == 1).all() for b in blocks)


@CONV
def test_a_block_computes_what_its_formulas_say(conv_width):
    model, inputs = lively(num_layers=1, conv_width=conv_width), tokens()
    got, block = advance(model, inputs).hidden, model.blocks[0]
    with torch.no_grad():
        z, a, tau = block.in_proj(block.norm(inputs)).split([32, 40, 4], dim=-1)
        if conv_width:
            taps, padded = block.conv.weight[:, 0], F.pad(a, (0, 0, 3, 0))
            a = block.conv.bias + sum(padded[:, k : k + 40] * taps[:, k] for k in range(4))
        x, B, C = F.silu(a).split([32, 4, 4], dim=-1)
        x, delta, A = x.unflatten(-1, (4, 8)), F.softplus(tau + block.dt_bias), -block.A_log.exp()
        h, y = torch.zeros(2, 4, 8, 4), []
        for t in range(40):
            h = (delta[:, t] * A).exp()[..., None, None] * h
            h = h + (delta[:, t, :, None] * x[:, t])[..., None] * B[:, t, None, None]
            y.append((h * C[:, t, None, None]).sum(-1) + block.D[:, None] * x[:, t])
        gated = torch.stack(y, dim=1).flatten(2) * F.silu(z)
        normed = gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.gated_norm.weight
        wanted = model.norm(inputs + block.out_proj(normed))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@CONV
@pytest.mark.parametrize("cuts", [(20,), (1, 2, 3), (7, 8, 31, 39)], ids=str)
def test_pieces_with_carried_state_give_the_same_as_the_whole(conv_width, cuts):
    model, inputs = lively(conv_width=conv_width), tokens()
    whole, state, hidden = advance(model, inputs), None, []
    for piece in inputs.tensor_split(cuts, dim=1):
        part = advance(model, piece, state=state, mode="prefill")
        hidden.append(part.hidden)
        state = part.state
    torch.testing.assert_close(torch.cat(hidden, dim=1), whole.hidden, atol=1e-5, rtol=1e-5)
    for carried, final in zip(state, whole.state, strict=True):
        torch.testing.assert_close(carried.scan, final.scan, atol=1e-5, rtol=1e-5)
        if conv_width:
            assert carried.conv.shape == (2, 3, 40)
            torch.testing.assert_close(carried.conv, final.conv, atol=1e-5, rtol=1e-5)


def test_the_past_is_not_forgotten_by_the_test_model():
    model, inputs = lively(), tokens()
    cut = advance(model, inputs[:, 20:]).hidden
    assert (advance(model, inputs).hidden[:, 20:] - cut).abs().max() > 0.05


@CONV
def test_the_future_does_not_change_the_past(conv_width):
    model, inputs = lively(conv_width=conv_width), tokens()
    changed = inputs.clone()
    changed[:, 25:] = 5.0
    before, after = advance(model, inputs).hidden, advance(model, changed).hidden
    torch.testing.assert_close(before[:, :25], after[:, :25], atol=1e-5, rtol=1e-5)
    assert (before[:, 25:] - after[:, 25:]).abs().max() > 0.1


@CONV
def test_masked_tokens_anywhere_leave_every_state_untouched(conv_width):
    model, inputs = lively(conv_width=conv_width), tokens(length=30)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, [0, 5, 6, 28, 29]] = False
    mask[1, [3, 10, 11, 12, 20]] = False
    before = advance(model, tokens(length=9, seed=4)).state
    masked = advance(model, inputs, mask=mask, state=before)
    for row in range(2):
        only = [type(s)(*(t if t is None else t[row : row + 1] for t in s)) for s in before]
        real = advance(model, inputs[row : row + 1, mask[row]], state=only)
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
    state = (3, 4, 8, 4)
    recorded = {"delta": (3, 10, 4), "A": (4,), "x": (3, 10, 32), "state": state}
    expected = [("sequence", None, (3, 10, 16))]
    for layer in range(2):
        expected += [
            ("initial_state", layer),
            ("timestep", layer, (3, 10, 4)),
            ("transition", layer, (4,)),
            ("keep", layer, (3, 10, 4), (3, 10, 32)),
            ("record", layer, recorded | dict.fromkeys("BC", (3, 10, 4))),
            ("final_state", layer, state),
        ]
    assert seen.calls == expected


@CONV
def test_hooks_that_change_nothing_equal_vanilla_bit_for_bit(conv_width):
    model, inputs = lively(conv_width=conv_width), tokens()
    plain, hooked = advance(model, inputs), advance(model, inputs, Everything())
    assert torch.equal(plain.hidden, hooked.hidden) and torch.equal(plain.positions, hooked.positions)
    assert all(torch.equal(a.scan, b.scan) for a, b in zip(plain.state, hooked.state, strict=True))


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


def test_an_initial_state_is_where_the_sequence_starts_and_gets_a_gradient():
    model, inputs = lively(), tokens(length=30)
    halfway = [s.scan.requires_grad_() for s in advance(model, inputs[:, :10]).state]

    class Passed(ScanIntervention):
        def initial_state(self, layer):
            return halfway[layer]

    got = model.advance(inputs[:, 10:], mode="train", intervention=Passed())
    torch.testing.assert_close(got.hidden, advance(model, inputs).hidden[:, 10:], atol=1e-5, rtol=1e-5)
    got.hidden.square().sum().backward()
    assert all(h.grad.isfinite().all() and h.grad.any() for h in halfway)


@CONV
def test_tokens_dropped_by_the_first_layer_are_cut_from_everything_after_the_convolution(conv_width):
    model, inputs = lively(conv_width=conv_width, num_layers=2), tokens(length=12)
    chosen = torch.tensor([[0, 3, 4, 11], [1, 2, 9, 10]])

    class Kept(ScanIntervention):
        def keep(self, layer, delta, x):
            return chosen if layer == 0 else None

    dropped = advance(model, inputs, Kept())
    assert torch.equal(dropped.positions, chosen) and model.processed == (4, 4)
    if not conv_width:
        for row in range(2):
            alone = advance(model, inputs[row : row + 1, chosen[row]])
            torch.testing.assert_close(dropped.hidden[row], alone.hidden[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", [Mamba, Mamba2])
@pytest.mark.parametrize("hook", ["keep", "record"])
def test_hooks_that_look_at_tokens_see_a_time_step_of_zero_where_one_is_masked(backbone, hook):
    torch.manual_seed(0)
    model, seen = backbone(d_model=16, num_layers=2, d_state=4), []
    looking = type(
        "Looking",
        (ScanIntervention,),
        {hook: lambda self, layer, delta=None, x=None, **more: seen.append(delta)},
    )
    mask = torch.arange(10) >= torch.tensor([[0], [4]])
    advance(model, tokens(length=10), looking(), mask=mask)
    assert len(seen) == 2
    for delta in seen:
        assert torch.equal((delta > 0).all(dim=-1), mask) and not delta[~mask].any()


def test_states_and_sums_stay_float32_where_weights_are_multiplied_in_bfloat16():
    model, inputs = lively(conv_width=4), tokens()
    wanted = advance(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = advance(model, inputs)
    assert all(s.scan.dtype == torch.float32 for s in got.state)
    error = (got.hidden.float() - wanted.hidden).norm() / wanted.hidden.norm()
    assert 1e-4 < error < 0.03


def test_gradients_reach_every_parameter():
    model = lively(conv_width=4).train()
    model.advance(tokens(), mode="train", intervention=VANILLA).hidden.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_rows_name_the_scan_that_computes_and_back_ends_agree():
    inputs = tokens()
    assert lively().backend_name(inputs, frozenset()) == "torch"
    assert lively(scan_backend="reference").backend_name(inputs, frozenset()) == "reference"
    plain, reference = (advance(lively(scan_backend=name), inputs).hidden for name in ("torch", "reference"))
    torch.testing.assert_close(plain, reference, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="Mamba-2 has no scan back end 'triton'"):
        advance(lively(scan_backend="triton"), inputs)
