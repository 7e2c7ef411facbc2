"""The shown backbones: pieces are the whole, masked tokens are not there, and remedies for gates run."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lgbench.backbone import Backbone
from lgbench.intervention import ScanIntervention
from lgbench.models.model import build_model
from lgbench.plugins import registry
from lgbench.plugins.registry import BACKBONES, METHODS

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTHING = ScanIntervention()


class Average(Backbone):
    """Level 1: a running mean, whose state is the tokens themselves."""

    def mixer(self, d_model, layer):
        return _Mean(d_model)


class _Mean(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x):
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.out(x.cumsum(dim=1) / count)


class Trunk(Backbone):
    """Level 1 as a whole trunk."""

    def stack(self, d_model, num_layers):
        return nn.GRU(d_model, d_model, num_layers, batch_first=True)


@pytest.fixture
def examples():
    for name in ("gru", "gla"):
        registry.add_file(EXAMPLES / f"{name}.py")


@pytest.fixture(params=["gru", "gla", "average", "trunk"])
def model(request, examples):
    kinds = {"average": Average, "trunk": Trunk}
    kind = kinds[request.param] if request.param in kinds else BACKBONES.load(request.param)
    torch.manual_seed(0)
    made = kind(d_model=8, num_layers=3).double().eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def tokens(batch=3, length=40):
    return torch.randn(batch, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def advance(model, piece, state=None, mask=None, read=None):
    return model.advance(piece, mode="prefill", state=state, mask=mask, read=read, intervention=NOTHING)


def assert_close(one, other):
    torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("cuts", [(1,), (17, 18), (3, 16, 33)])
def test_pieces_with_a_carried_state_give_the_same_as_the_whole(model, cuts):
    given, state, rows = tokens(), None, []
    whole = model.answer(given[:, :0], given, mode="score", intervention=NOTHING)
    for start, stop in zip((0, *cuts), (*cuts, 40), strict=True):
        out = advance(model, given[:, start:stop], state)
        rows, state = [*rows, out.hidden], out.state
    assert_close(torch.cat(rows, dim=1), whole)


def test_a_state_may_be_continued_again(model):
    given = tokens()
    state = advance(model, given[:, :20]).state
    first = advance(model, given[:, 20:], state).hidden
    advance(model, 2 * given[:, :20], state)
    assert torch.equal(advance(model, given[:, 20:], state).hidden, first)


def test_masked_tokens_anywhere_are_as_if_they_were_not_there(model):
    given = tokens()
    mask = torch.rand(3, 40, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[0, :25] = False  # a sequence that begins in the second piece
    state, found = None, []
    for start, stop in ((0, 15), (15, 30), (30, 40)):
        out = advance(model, given[:, start:stop], state, mask[:, start:stop])
        found, state = [*found, out.hidden], out.state
    found = torch.cat(found, dim=1)
    asked = model.answer(
        given[:, :40], tokens(length=5), mode="score", context_mask=mask, intervention=NOTHING
    )
    for row in range(3):
        alone = given[row : row + 1, mask[row]]
        assert_close(found[row, mask[row]], advance(model, alone).hidden[0])
        last = model.answer(alone, tokens(length=5)[row : row + 1], mode="score", intervention=NOTHING)
        assert_close(asked[row], last[0])
        assert_close(advance(model, tokens(length=5), state).hidden[row], last[0])


def test_a_mask_for_all_sequences_alike_is_no_different(model):
    given, mask = tokens(length=12), torch.arange(12) % 3 > 0
    out = advance(model, given, None, mask)
    assert_close(out.hidden[:, mask], advance(model, given[:, mask]).hidden)
    assert_close(
        advance(model, given, out.state).hidden,
        advance(model, given, advance(model, given[:, mask]).state).hidden,
    )


def test_the_future_does_not_change_the_past(model):
    given = tokens()
    other = given.clone()
    other[:, 25:] += 1
    assert_close(advance(model, given).hidden[:, :25], advance(model, other).hidden[:, :25])


class Slower(ScanIntervention):
    def timestep(self, layer, delta):
        return delta / 4


class Longer(ScanIntervention):
    def transition(self, layer, A):
        return A / 4


def test_a_change_of_time_steps_is_one_of_strength_and_gate(examples):
    torch.manual_seed(0)
    model = BACKBONES.load("gla")(d_model=8, num_layers=1).double().requires_grad_(False)
    block, given, state = model.blocks[0], tokens(), torch.zeros(3, 2, 4, 4, dtype=torch.float64)

    def by_hand(strength, rate):
        x, mixer, h, rows = block.norm(given), block.mixer, state, []
        g = torch.nn.functional.logsigmoid(mixer.gate(x)) / 16 * rate
        q, k, v, g = (t.unflatten(-1, (2, 4)) for t in (*mixer.qkv(x).chunk(3, dim=-1), g))
        for t in range(40):
            h = g[:, t].exp()[..., None] * h + strength * k[:, t][..., None] * v[:, t][..., None, :]
            rows.append((q[:, t][..., None, :] @ h).squeeze(-2))
        y = mixer.norm(torch.stack(rows, dim=1)).flatten(2) * torch.nn.functional.silu(mixer.out_gate(x))
        return model.norm(given + mixer.out(y))

    def under(intervention):
        return model.advance(given, mode="prefill", intervention=intervention).hidden

    assert_close(under(NOTHING), by_hand(1, 1))
    assert_close(under(Slower()), by_hand(0.25, 0.25))
    assert_close(under(Longer()), by_hand(1, 0.25))


@pytest.mark.parametrize(
    "method", ["mambaextend[steps=2]", "mambamodulation[steps=2]", "slow_clock", "last_window"]
)
def test_remedies_for_gates_run_on_gated_linear_attention(examples, toy_cells, run_toy, method):
    cells = toy_cells("vanilla", method, backbone=["gla[num_heads=4]"], train_steps=[3], eval_items=4)
    outcome, _ = run_toy(cells)
    assert outcome.finished == 2 and not outcome.failed
    assert {cell.training.backbone_params for cell in cells} == {'{"num_heads":4}'}


def test_what_a_method_needs_and_a_backbone_lacks_leaves_that_pair_out(examples, toy_cells):
    cells = toy_cells("vanilla", "mambaextend", "decimamba", backbone=["gru", "gla", "mamba"])
    out = {(c.method, c.training.backbone): c.left_out for c in cells}
    assert [pair for pair, why in out.items() if why] == [
        ("mambaextend", "gru"), ("decimamba", "gru"), ("decimamba", "gla")
    ]  # fmt: skip
    assert "no hook timestep" in out["mambaextend", "gru"] and "no hook keep" in out["decimamba", "gla"]


def test_a_seed_gives_the_same_weights(examples, toy_task):
    made = [
        build_model(
            toy_task, METHODS.load("vanilla")(), toy_task.recipe("smoke", "causal"), seed=s, backbone="gla"
        )
        for s in (1, 1, 2)
    ]
    first, again, other = (m.state_dict() for m in made)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
