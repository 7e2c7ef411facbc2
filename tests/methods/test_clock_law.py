"""The clock law: what it computes, where it rests, and that its selection finds a law that was planted."""

import pytest
import torch
from lgbench.methods.clock_law.intervention import Clocks
from lgbench.methods.clock_law.selection import Law, Space, select

from lgbench.errors import UserError
from lgbench.intervention import active_hooks
from lgbench.ops.scan.selective_scan import selective_scan
from lgbench.plan.params import label
from lgbench.plugins.registry import METHODS
from lgbench.run.calibrate import CalibrationData, fit_lengths
from lgbench.task import Batch

ANY = (False, True)


def random_scan(length=9):
    """A random scan in float64 as keyword arguments."""
    rng = torch.Generator().manual_seed(0)
    x, delta = (torch.rand(2, length, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    B, C = (torch.randn(2, length, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    A = -torch.exp(torch.randn(8, 4, generator=rng, dtype=torch.float64))
    return {"x": x, "delta": delta, "A": A, "B": B, "C": C}


def recurrence(x, delta, A, B, C, write, decay):
    """h ← exp(d Δ A) h + w Δ B x and y = C h, token by token; write and decay `(length,)`."""
    state, outputs = torch.zeros(2, 8, 4, dtype=torch.float64), []
    for t in range(x.shape[1]):
        step = delta[:, t, :, None]
        state = torch.exp(decay[t] * step * A) * state
        state = state + write[t] * step * B[:, t, None] * x[:, t, :, None]
        outputs.append((state * C[:, t, None]).sum(-1))
    return torch.stack(outputs, dim=1)


def changed(clocks, layer, parts):
    """The scan that a layer computes under these clocks."""
    delta, A = clocks.timestep(layer, parts["delta"]), clocks.transition(layer, parts["A"])
    return selective_scan(**parts | {"delta": delta, "A": A}).y


@pytest.mark.parametrize("write", ["none", "all", (1,)])
@pytest.mark.parametrize("decay", ["none", "all", (0,)])
def test_write_and_decay_are_scaled_apart_as_in_the_recurrence(write, decay):
    clocks, parts = Clocks(16, (write, decay, (True, True), 2.0)), random_scan()
    clocks.begin("prefill", 160, 0)
    for layer in (0, 1):
        factors = [0.2 if slow in ("all", (layer,)) else 1.0 for slow in (write, decay)]
        wanted = recurrence(**parts, write=[factors[0]] * 9, decay=[factors[1]] * 9)
        torch.testing.assert_close(changed(clocks, layer, parts), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("where", [(True, False), (False, True), (True, True)])
def test_in_one_piece_the_protected_positions_are_the_queries(where):
    clocks, parts = Clocks(16, ("all", "all", where, 1.0)), random_scan()
    clocks.begin("score", 64, 3)
    slow = [0.25 if where[t >= 6] else 1.0 for t in range(9)]
    wanted = recurrence(**parts, write=slow, decay=slow)
    torch.testing.assert_close(changed(clocks, 0, parts), wanted, rtol=1e-10, atol=1e-12)


def test_one_clock_alone_cannot_differ_between_context_and_queries_of_one_piece():
    clocks = Clocks(16, ("none", "all", (True, False), 1.0))
    clocks.begin("score", 16, 3)
    with pytest.raises(UserError, match="in one piece here"):
        clocks.begin("score", 64, 3)


@pytest.mark.parametrize("backbone", ["mamba", "mamba2"])
@pytest.mark.parametrize("c", [0.5, 1, 2])
def test_up_to_c_times_the_training_length_it_is_vanilla_bit_for_bit(bench, backbone, c):
    law, vanilla = (
        bench(f"clock_law[decay=[[5]],c={c}]", backbone=backbone),
        bench("vanilla", backbone=backbone),
    )
    for length in (1, int(16 * c)):
        assert torch.equal(law.answer(length), vanilla.answer(length))
        assert active_hooks(law.model.intervention, "prefill") == frozenset()
    assert not torch.equal(law.answer(int(16 * c) + 1), vanilla.answer(int(16 * c) + 1))


def test_both_clocks_everywhere_are_the_slow_clock_and_decay_alone_is_its_other_half(bench):
    for text, other in (("write=all,decay=all", "slow_clock"), ("decay=all", "slow_clock[on=A]")):
        law, clock = bench(f"clock_law[{text}]"), bench(other)
        torch.testing.assert_close(law.answer(48), clock.answer(48), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("where, in_context, in_queries", [("context", 1, 0), ("queries", 0, 1)])
def test_after_a_kept_state_context_and_queries_have_their_own_clocks(bench, where, in_context, in_queries):
    clocks = bench(f"clock_law[decay=all,where={where}]").model.intervention
    for mode, acts in (("prefill", in_context), ("decode", in_queries)):
        clocks.begin(mode, 64, 0)
        assert bool(active_hooks(clocks, mode)) == bool(acts)


def test_pieces_and_the_whole_agree(bench):
    made = bench("clock_law[write=all,decay=all,where=context]")
    queries, targets = made.items.queries(slice(None), 48, 8)
    whole = Batch(made.items.context(slice(None), 0, 48, 48), queries, targets)
    with torch.no_grad():
        found = made.model.answer(whole, mode="score", length=48)
    torch.testing.assert_close(found, made.answer(48), rtol=1e-4, atol=1e-5)


def planted(law, noise=0.0):
    """Losses of laws by how many clocks, parts and octaves of c they are away from the planted one."""
    rng = torch.Generator().manual_seed(0)
    items = torch.rand(2, 64, generator=rng) * 3

    def losses(one):
        clocks = zip(one.write + one.decay, law.write + law.decay, strict=True)
        away = sum(a != b for a, b in clocks) + (one.where != law.where)
        away += 0.3 * abs(torch.tensor(one.c / law.c).log2().item())
        return items + away + noise * torch.randn(2, 64, generator=rng)

    return losses


def space(num_layers):
    return Space(
        (ANY,) * num_layers, (ANY,) * num_layers, ("both", "context", "queries"), (1.0, 0.5, 2.0, 4.0)
    )


@pytest.mark.parametrize(
    "law",
    [
        Law((False, False, False), (False, False, False)),
        Law((False, False, False), (False, False, True)),
        Law((True, True, True), (True, True, True), "context", 0.5),
        Law((True, False, False), (False, True, True), "queries", 4.0),
    ],
    ids=["none", "decay of the last", "both", "mixed"],
)
def test_the_selection_recovers_a_planted_law(law):
    assert select(planted(law), space(3)) == law
    assert select(planted(law, noise=0.1), space(3)) == law


def test_the_simplest_law_within_a_standard_error_of_the_best_is_selected():
    """A law for one layer that is better by less than its error is not worth its words."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 64, generator=rng)
    noise -= noise.mean()
    one, clear = Law((False, False), (False, True)), 0.5

    def losses(gain):
        return lambda law: (
            torch.ones(2, 64) + (noise - gain if law == one else 0.1 * any(law.write + law.decay))
        )

    assert select(losses(0.01), space(2)).choices == 0
    assert select(losses(clear), space(2)) == one


def test_losses_that_are_not_finite_are_never_selected():
    law = select(
        lambda one: torch.full((2, 4), float("nan") if any(one.decay) else 1 - 0.1 * sum(one.write)), space(2)
    )
    assert law.write == (True, True) and not any(law.decay)


def test_a_law_is_selected_once_and_serves_every_length(bench, toy_task, tmp_path):
    made = bench("clock_law[items=4]", num_layers=2, eval_lengths=(1, 16, 32, 64, 128))
    fits = fit_lengths(
        made.model, toy_task, made.method, made.recipe, name="clock_law", seed=0, folder=tmp_path
    )
    assert len(list(tmp_path.iterdir())) == 1 and len({id(fit) for fit in fits.values()}) == 1
    assert {*fits[1].digests} == {32, 128} and fits[1].tokens == 4 * (32 + 128 + 2 * 4)
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    batches = [data.draw("validation", 4, n) for n in (32, 128)]
    selected, none = (
        sum(data.losses(made.model, batch, values).mean() for batch in batches)
        for values in (fits[1].values, {})
    )
    assert selected <= none + 1e-6


def test_what_is_given_by_hand_is_not_selected():
    method = METHODS.load("clock_law")

    def made(**params):
        return method(method.Params(**params))

    assert made().calibration_length(64, 16) == 128
    for params in ({"decay": (1,)}, {"write": "all", "decay": "all", "where": "context"}):
        assert made(**params).calibration_length(64, 16) is None
    assert made(decay=1).params == made(write="none", decay=(1,), where="both", c=1).params
    assert label("clock_law", made(decay=1).params) == "clock_law[decay=[[1]]]"
    fixed = made(decay=(1,), c="auto")._space(2, apart=True)
    assert fixed.decay == ((False,), (True,)) and fixed.write == ((False,), (False,)) and len(fixed.c) == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("clock_law[decay=[[7]]]", "decay=\\[7\\], but the model has layers 0 to"),
        ("clock_law[write=[[1,0]]]", "write must increase from layer 0 on"),
        ("clock_law[select_at=[[8,2]]]", "select_at must increase from 1 on"),
        ("clock_law[where=somewhere]", "where must be auto or context or queries or both"),
    ],
)
def test_bad_parameters_give_one_clear_line(toy_cells, text, message):
    with pytest.raises(UserError, match=message) as error:
        toy_cells(text)
    assert "\n" not in str(error.value)
