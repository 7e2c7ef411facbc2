"""Every remedy keeps its promises on both Mambas: scales, filters, dropped tokens and passed states."""

import math

import numpy as np
import pytest
import torch
from lgbench.methods.longmamba.statistics import log_survival

from lgbench.ops.ssd.ssd import ssd
from lgbench.plan.cells import load_method
from lgbench.plugins import registry
from lgbench.probes.mean_distance import mean_distance
from lgbench.recipe import suggest
from lgbench.run import checkpoint, train
from lgbench.run.calibrate import CalibrationData
from lgbench.run.train import Trainer, train_all
from lgbench.store import read
from lgbench.task import Batch

CHANNELS = {"mamba": 32, "mamba2": 4}
BOTH = pytest.mark.parametrize("backbone", list(CHANNELS))
FILTER = ("timestep_threshold", "timestep_log_survival")
REMEDIES = {
    "mambaextend": lambda n: {"timestep_scale": torch.full((6, 1), 0.5)},
    "mambaextend[granularity=channel]": lambda n: {
        "timestep_scale": torch.linspace(0.3, 2, 6 * n).view(6, n)
    },
    "mambamodulation": lambda n: {"transition_scale": torch.linspace(0.3, 2, 6 * n).view(6, n)},
    "mambamodulation[map=power]": lambda n: {"transition_scale": torch.full((6, 1), 0.5)},
    "longmamba": lambda n: dict(zip(FILTER, (torch.full((6, n), 0.05), torch.zeros(6, n)), strict=True)),
    "slow_clock": lambda n: {},
    "slow_clock[on=A]": lambda n: {},
    "prepended": lambda n: {},
    "last_window": lambda n: {},
    "decimamba[layers=[[1,3]],l_base=8,min_seq_len=2]": lambda n: {},
}
ACTING = pytest.mark.parametrize("text", list(REMEDIES))


def queries_of(bench, length):
    return bench.items.queries(slice(None), length, 8)


def acting(bench, text, backbone, **changes):
    """A model under a remedy whose fitted parameters are given, so that it changes answers at 48 tokens."""
    made = bench(text, backbone=backbone, **changes)
    made.model.intervention.use(REMEDIES[text](CHANNELS[backbone]))
    return made


@BOTH
@ACTING
def test_it_changes_long_answers_and_leaves_the_weights_bit_for_bit(bench, backbone, text):
    vanilla, made = bench("vanilla", backbone=backbone), acting(bench, text, backbone)
    assert made.model.backbone.blocks[0].num_channels == CHANNELS[backbone]
    assert not torch.equal(made.answer(48), vanilla.answer(48))
    made.model.intervention = registry.METHODS.load("vanilla")().intervention(16, 16)
    made.method = vanilla.method
    assert torch.equal(made.answer(48), vanilla.answer(48))


@BOTH
@pytest.mark.parametrize("text", ["mambaextend", "mambamodulation", "mambamodulation[map=power]"])
@pytest.mark.parametrize("shape", ["layer", "channel", "global"])
def test_scales_of_one_are_vanilla_bit_for_bit_even_while_they_act(bench, backbone, text, shape):
    size = {"layer": (6, 1), "channel": (6, CHANNELS[backbone]), "global": (1, 1)}[shape]
    vanilla, one = bench("vanilla", backbone=backbone), bench(text, backbone=backbone)
    one.model.intervention.use({one.method.key: torch.ones(size)})
    one.model.intervention.resting = False
    for length in (5, 48):
        assert torch.equal(one.answer(length), vanilla.answer(length))


@BOTH
@pytest.mark.parametrize(
    "text", ["decimamba[layers=[[1,3]],l_base=96]", "longmamba[strength=0]", "longmamba"]
)
def test_where_nothing_is_dropped_it_is_vanilla_bit_for_bit(bench, backbone, text):
    vanilla, made = bench("vanilla", backbone=backbone), bench(text, backbone=backbone)
    thresholds = torch.full((6, CHANNELS[backbone]), 9.0)
    made.model.intervention.use(dict(zip(FILTER, (thresholds, 0 * thresholds), strict=True)))
    lengths = (5, 16) if text == "longmamba" else (5, 48)
    for length in lengths:
        wanted = vanilla.answer(length)
        if "decimamba" in text:  # which reads context and queries in one piece
            batch = Batch(vanilla.items.context(slice(None), 0, length, length), *queries_of(vanilla, length))
            with torch.no_grad():
                wanted = vanilla.model.answer(batch, mode="score", length=length)
        assert torch.equal(made.answer(length), wanted)


@BOTH
@ACTING
def test_a_batch_equals_the_loop_over_its_samples(bench, backbone, text):
    made = acting(bench, text, backbone)
    together = made.answer(48)
    for k in range(6):
        torch.testing.assert_close(made.answer(48, slice(k, k + 1))[0], together[k], atol=1e-5, rtol=1e-5)


@BOTH
@ACTING
def test_pieces_equal_the_whole(bench, backbone, text, monkeypatch):
    made = acting(bench, text, backbone, eval_batch=3)
    fitted = {n: REMEDIES[text](CHANNELS[backbone]) for n in (1, 5, 16, 48)}
    whole = made.values(fitted)
    monkeypatch.setattr("lgbench.run.evaluate.PIECE", 7)
    pieces = made.values(fitted)
    assert set(whole) == {1, 5, 16, 48}
    for length, values in whole.items():
        np.testing.assert_allclose(pieces[length], values, rtol=1e-4, atol=1e-5)


def ssd_parts():
    """A random scan of Mamba-2 in float64, without the skip."""
    rng = torch.Generator().manual_seed(0)
    x, delta = (torch.rand(*shape, generator=rng).double() for shape in ((2, 9, 4, 8), (2, 9, 4)))
    B, C = (torch.randn(2, 9, 4, generator=rng).double() for _ in range(2))
    return {"x": x, "delta": delta, "A": -torch.exp(torch.randn(4, generator=rng).double()), "B": B, "C": C}


@pytest.mark.parametrize("shape", [(1, 1), (1, 4)], ids=["scalar", "a head"])
def test_extending_is_s_times_linear_modulation_on_a_scan_of_mamba2(bench, shape):
    parts, scales = ssd_parts(), torch.linspace(0.3, 1.5, math.prod(shape)).double().view(shape)
    extend, linear = (
        bench(t, backbone="mamba2").model.intervention for t in ("mambaextend", "mambamodulation")
    )
    extend.use({"timestep_scale": scales})
    linear.use({"transition_scale": scales})
    longer = ssd(**parts | {"delta": extend.timestep(0, parts["delta"])})
    slower = ssd(**parts | {"A": linear.transition(0, parts["A"])})
    torch.testing.assert_close(longer.y, scales[0][:, None] * slower.y)
    torch.testing.assert_close(longer.state, scales[0][:, None, None] * slower.state)


def test_power_modulation_of_mamba2_keeps_rates_of_one(bench):
    power = bench("mambamodulation[map=power]", backbone="mamba2").model.intervention
    power.use({"transition_scale": torch.full((1, 1), 0.5)})
    got = power.transition(0, torch.tensor([-0.01, -1.0, -4.0, -16.0]))
    torch.testing.assert_close(got, torch.tensor([-0.1, -1.0, -2.0, -4.0]))


def test_survival_of_a_head_is_the_decay_over_the_whole_sequence():
    delta, A = torch.rand(50, 4).double(), -torch.rand(4).double()
    wanted = torch.ones(4, dtype=torch.float64)
    for step in delta:
        wanted *= torch.exp(A * step)
    torch.testing.assert_close(log_survival(delta, A), wanted.log())
    torch.testing.assert_close(log_survival(delta, A[:, None]), log_survival(delta, A))


def test_mean_distance_of_a_head_is_that_of_its_channels():
    """Mamba-2 is Mamba with one A for all states of a channel."""
    parts = ssd_parts()
    delta, A, B, C = (parts[name] for name in ("delta", "A", "B", "C"))
    got = mean_distance(delta, A, B, C)
    torch.testing.assert_close(got, mean_distance(delta, A[:, None].expand(-1, 4), B, C))
    weights = torch.stack(
        [
            delta[:, j] * (C[:, -1] * B[:, j]).sum(-1, keepdim=True) * (A * delta[:, j + 1 :].sum(1)).exp()
            for j in range(9)
        ]
    ).abs()
    torch.testing.assert_close(
        got, (weights * torch.arange(8.0, -1, -1)[:, None, None]).sum(0) / weights.sum(0)
    )


@BOTH
@pytest.mark.parametrize(
    "text", ["mambaextend[granularity=channel,steps=3,items=3]", "mambamodulation[steps=3,items=3]"]
)
def test_calibration_lowers_its_loss(bench, toy_task, backbone, text):
    made = bench(text, backbone=backbone)
    made.model.eval().requires_grad_(False)
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    found = made.method.calibrate(made.model, data, 48)
    (scales,) = found.values()
    assert scales.shape == (6, CHANNELS[backbone] if "channel" in text else 1)
    batch = data.draw("calibration", 3, 48)
    assert data.loss(made.model, batch, found) < data.loss(made.model, batch, {})


@BOTH
def test_filters_and_layers_are_found_for_each_channel(bench, toy_task, backbone):
    long, deci = bench("longmamba[items=3]", backbone=backbone), bench("decimamba", backbone=backbone)
    found = long.method.calibrate(long.model, CalibrationData(toy_task, long.method, long.recipe, 0, {}), 48)
    assert all(found[name].shape == (6, CHANNELS[backbone]) for name in FILTER)
    assert (found[FILTER[0]] > 0).any() and (found[FILTER[1]] < 0).all()
    layers = deci.method.calibrate(deci.model, CalibrationData(toy_task, deci.method, deci.recipe, 0, {}), 16)
    assert layers["keep_layers"].shape == (1,) and 0 <= layers["keep_layers"].item() < 6


def padded(bench, lengths, num_queries=4):
    """Contexts of several lengths on the left of which garbage is masked, and each of them alone."""
    queries, targets = bench.items.queries(slice(0, len(lengths)), 48, num_queries)
    context = bench.items.context(slice(0, len(lengths)), 0, 48, 48)
    mask = torch.arange(48) >= 48 - torch.tensor(lengths)[:, None]
    noisy = {
        n: torch.where(mask.view(*mask.shape, *[1] * (v.ndim - 2)), v, 100 * torch.ones_like(v))
        for n, v in context.items()
    }
    alone = []
    for k, length in enumerate(lengths):
        one = slice(k, k + 1)
        own = {n: v[one, 48 - length :] for n, v in context.items()}
        alone.append((Batch(own, {n: v[one] for n, v in queries.items()}, targets[one]), length))
    return Batch(noisy, queries, targets), mask, alone


@BOTH
@pytest.mark.parametrize("conv_width", [0, 3], ids=["no-conv", "conv3"])
@pytest.mark.parametrize(
    "options",
    [
        "l_base=8,min_seq_len=2",
        "l_base=8,min_seq_len=10",
        "l_base=8,min_seq_len=2,score=mean",
        "l_base=8,min_seq_len=2,score=random",
        "l_base=8,min_seq_len=2,score=max_norm",
        "count=top_k_percent,percent=30,min_seq_len=2",
        "count=top_k_percent,percent=99,min_seq_len=1",
    ],
)
def test_padded_samples_keep_what_each_keeps_alone(bench, backbone, conv_width, options):
    made = bench(
        f"decimamba[layers=[[1,3]],{options}]",
        backbone=backbone,
        sizes=suggest(d_state=4, conv_width=conv_width),
    )
    batch, mask, alone = padded(made, [48, 5, 23, 1, 9, 47])
    with torch.no_grad():
        together = made.model.answer(batch, mode="score", length=48, context_mask=mask)
        for k, (one, length) in enumerate(alone):
            wanted = made.model.answer(one, mode="score", length=length)
            torch.testing.assert_close(together[k], wanted[0], rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("text", [t for t in REMEDIES if not t.startswith(("last_window", "slow", "prep"))])
def test_padding_changes_no_answer_under_any_other_remedy(bench, backbone, text):
    made = acting(bench, text, backbone)
    batch, mask, alone = padded(made, [48, 40, 33])
    with torch.no_grad():
        together = made.model.answer(batch, mode="score", length=48, context_mask=mask)
        for k, (one, _) in enumerate(alone):
            wanted = made.model.answer(one, mode="score", length=48)
            torch.testing.assert_close(together[k], wanted[0], rtol=1e-4, atol=1e-5)


@BOTH
def test_layers_are_chosen_as_if_masked_tokens_were_not_there(bench, backbone):
    """The mean distance of padded samples is that of the samples alone."""
    from lgbench.probes.mean_distance import MeanDistance

    made = bench("vanilla", backbone=backbone)
    batch, mask, alone = padded(made, [48, 7, 20])
    seen = []
    for some, length, where in [(batch, 48, mask), *((one, n, None) for one, n in alone)]:
        made.model.intervention = MeanDistance()
        with torch.no_grad():
            made.model.answer(some, mode="score", length=length, context_mask=where)
        seen.append(made.model.intervention.by_layer())
    for layer, distance in seen[0].items():
        assert distance == pytest.approx(np.mean([one[layer] for one in seen[1:]]), rel=1e-4)


@pytest.fixture
def make(toy_cells, toy_task, tmp_path, monkeypatch):
    """`make("state_passing", "folder")` → a trainer on Mamba-2."""
    monkeypatch.setattr(train, "LOG_EVERY", 4)

    def build(method, folder):
        (cell,) = toy_cells(method, backbone=["mamba2"])
        plugin = load_method(cell.training.method, cell.training.method_params)
        return Trainer(cell.training, toy_task, plugin, tmp_path / folder)

    return build


def trained(trainer):
    assert train_all([trainer]) == {}
    return checkpoint.load(checkpoint.weights_path(trainer.folder, trainer.recipe.train_steps))[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("source", ["state", "noise", "fitted_noise", "tbptt"])
def test_states_of_heads_are_passed_and_survive_an_interruption(make, source):
    text = f"state_passing[source={source},reset=0.3]"
    wanted = trained(make(text, "whole"))
    assert not same(wanted, trained(make("vanilla", "vanilla")))
    first = make(text, "parts")
    with pytest.raises(KeyboardInterrupt):
        train_all([first], should_stop=lambda: first.step >= 5)
    second = make(text, "parts")
    assert second.resume() and second.step == 5
    assert same(trained(second), wanted)


def test_always_reset_is_vanilla_on_mamba2_too(make):
    assert same(trained(make("state_passing[reset=1]", "a")), trained(make("vanilla", "b")))


def test_one_training_on_each_backbone_serves_all_remedies_that_need_none(toy_cells, run_toy):
    names = (
        "vanilla",
        "mambaextend[items=2,protocol=as_released]",
        "longmamba[items=2]",
        "decimamba[layers=1,l_base=8]",
    )
    cells = toy_cells(*names, backbone=["mamba", "mamba2"], train_steps=[2], query_grid=())
    assert len({cell.training.key for cell in cells}) == 2 and len(cells) == 8
    outcome, store = run_toy(cells)
    assert not outcome.failed
    rows = [r for r in read([store.root]).table.to_pylist() if r["eval_length"] == 48]
    values = {(r["method"], r["backbone"]): r["value"] for r in rows}
    assert len(values) == 8 and all(math.isfinite(v) for v in values.values())
    assert {r["scan_backend"] for r in rows} == {"torch"}
    assert len({round(v, 9) for v in values.values()}) == 8, "no two of them are the same"
