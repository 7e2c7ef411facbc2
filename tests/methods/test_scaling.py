"""MambaExtend, MambaModulation and the slow clock: identities between them, and what they are fitted for."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from lgbench.errors import UserError
from lgbench.intervention import active_hooks
from lgbench.models.language import TokenInterface
from lgbench.models.model import Model
from lgbench.ops.scan.selective_scan import selective_scan
from lgbench.plan.params import expand, label, params_json, parse_plugins, resolve
from lgbench.plugins import registry
from lgbench.run.calibrate import CalibrationData, fit_lengths
from lgbench.run.evaluate import evaluate
from lgbench.task import Batch

EXTEND, LINEAR, POWER = "mambaextend", "mambamodulation", "mambamodulation[map=power]"


def scaled(bench, text, scales, **changes):
    made = bench(text, **changes)
    made.model.intervention.use({made.method.key: scales})
    return made


def scan_parts(**changes):
    """A random scan in float64 as keyword arguments."""
    rng = torch.Generator().manual_seed(0)
    x, delta = (torch.rand(2, 9, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    B, C = (torch.randn(2, 9, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    A = -torch.exp(torch.randn(8, 4, generator=rng, dtype=torch.float64))
    return {"x": x, "delta": delta, "A": A, "B": B, "C": C} | changes


@pytest.mark.parametrize("text", [EXTEND, LINEAR, POWER])
@pytest.mark.parametrize("shape", [(6, 1), (6, 32), (1, 1)], ids=["layer", "channel", "global"])
def test_scales_of_one_are_vanilla_bit_for_bit_even_while_they_act(bench, text, shape):
    vanilla, one = bench("vanilla"), scaled(bench, text, torch.ones(shape))
    for length in (5, 48):
        assert torch.equal(one.answer(length), vanilla.answer(length))
    one.model.intervention.resting = False
    assert active_hooks(one.model.intervention, "prefill")
    for length in (5, 48):
        assert torch.equal(one.answer(length), vanilla.answer(length))


def test_without_scales_and_with_scales_of_one_they_rest(bench):
    for text in (EXTEND, LINEAR, "mambaextend[scale=1]"):
        assert active_hooks(bench(text).model.intervention, "prefill") == frozenset()
    assert active_hooks(bench("mambaextend[scale=0.5]").model.intervention, "prefill") == {"timestep"}


@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])
def test_extending_is_s_times_linear_modulation_on_a_scan(bench, per_channel):
    parts = scan_parts()
    scales = (
        torch.linspace(0.2, 1.5, 8).double().unsqueeze(0) if per_channel else torch.full((1, 1), 0.3).double()
    )
    extend, linear = (scaled(bench, text, scales).model.intervention for text in (EXTEND, LINEAR))
    longer = selective_scan(**parts | {"delta": extend.timestep(0, parts["delta"])}).y
    slower = selective_scan(**parts | {"A": linear.transition(0, parts["A"])}).y
    torch.testing.assert_close(longer, scales[0] * slower, rtol=1e-10, atol=1e-12)


def test_linear_modulation_is_a_shift_of_the_logarithm_and_power_keeps_one(bench):
    A = -torch.tensor([[0.01, 0.5, 1.0, 7.0]])
    scales = torch.full((1, 1), 0.5)
    linear, power = (
        scaled(bench, text, scales).model.intervention.transition(0, A) for text in (LINEAR, POWER)
    )
    torch.testing.assert_close(linear, -torch.exp(torch.log(-A) + math.log(0.5)))
    torch.testing.assert_close(power, -torch.tensor([[0.1, 0.5**0.5, 1.0, 7**0.5]]))
    assert power[0, 2] == A[0, 2] and not torch.equal(linear, power)


@pytest.mark.parametrize("text", [EXTEND, LINEAR, POWER])
def test_equal_scales_of_all_channels_are_a_scale_of_the_layer(bench, text):
    layers = torch.tensor([[0.5], [1.5], [0.9], [1.1], [0.7], [2.0]])
    one = scaled(bench, text, layers).answer(48)
    each = scaled(bench, text, layers.expand(6, 32).contiguous()).answer(48)
    torch.testing.assert_close(each, one, rtol=1e-6, atol=1e-6)
    assert not torch.equal(scaled(bench, text, layers.flip(0)).answer(48), one)


@pytest.mark.parametrize("text", [EXTEND, LINEAR, POWER, "slow_clock", "slow_clock[on=A]"])
def test_one_pass_streamed_pieces_and_single_samples_agree(bench, text, monkeypatch):
    made = bench(text, eval_batch=3)
    fitted = {n: {getattr(made.method, "key", "none"): torch.full((6, 1), 0.6)} for n in (1, 5, 16, 48)}
    whole = made.values(fitted)
    monkeypatch.setattr("lgbench.run.evaluate.PIECE", 7)
    pieces = made.values(fitted)
    for length, values in whole.items():
        np.testing.assert_allclose(pieces[length], values, rtol=1e-4, atol=1e-5)
    made.model.intervention.use(fitted[48])
    together = made.answer(48)
    for k in range(6):
        torch.testing.assert_close(made.answer(48, slice(k, k + 1))[0], together[k], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", [EXTEND, LINEAR])
def test_decoding_continues_the_prefill_exactly_only_if_scales_act_there_too(bench, text):
    options = {True: text, False: f"{text}[apply_in_decode=false]"}
    for acts, option in options.items():
        made = scaled(bench, option, torch.full((6, 1), 0.5))
        model, context = made.model, made.items.context(slice(None), 0, 48, 48)
        with torch.no_grad():
            tokens = model.interface.context(context)
            advance = partial(model.backbone.advance, intervention=model.intervention)
            whole = advance(tokens, mode="prefill").hidden[:, 40:]
            state = advance(tokens[:, :40], mode="prefill").state
            continued = advance(tokens[:, 40:], mode="decode", state=state).hidden
        assert torch.allclose(whole, continued, atol=1e-4) == acts


def test_the_slow_clock_is_vanilla_within_the_training_length_and_keeps_the_sum_of_steps_beyond(bench):
    vanilla, clock = bench("vanilla"), bench("slow_clock")
    for length in (1, 5, 16):
        assert torch.equal(clock.answer(length), vanilla.answer(length))
    clock.model.intervention.begin("prefill", 48, 0)
    assert torch.allclose(
        clock.model.intervention.timestep(0, torch.ones(1, 48, 1)).sum(), torch.tensor(16.0)
    )
    half = bench("slow_clock[on=A,power=0.5]").model.intervention
    half.begin("prefill", 64, 0)
    assert half.transition(0, torch.tensor([[-2.0]])).item() == pytest.approx(-1.0)
    assert torch.equal(bench("slow_clock[power=0]").answer(48), vanilla.answer(48))


@pytest.mark.parametrize("calibrator", ["backprop", "spsa"])
@pytest.mark.parametrize("granularity, size", [("layer", 6), ("channel", 192), ("global", 1)])
@pytest.mark.parametrize("method", ["mambaextend", "mambamodulation"])
def test_fitted_scales_lower_the_calibration_loss(bench, toy_task, method, granularity, size, calibrator):
    made = bench(f"{method}[granularity={granularity},calibrator={calibrator},steps=4,items=4]")
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    draw = data.draw
    data.draw = lambda part, *rest: draw("calibration", *rest)  # the items of the search choose, too
    made.model.eval().requires_grad_(False)
    found = made.method.calibrate(made.model, data, 48)
    (scales,) = found.values()
    assert scales.numel() == size and scales.dtype == torch.float32 and (scales > 0).all()
    batch = CalibrationData(toy_task, made.method, made.recipe, 0, {}).draw("calibration", 4, 48)
    assert data.loss(made.model, batch, found) < data.loss(made.model, batch, {})


def test_a_model_that_was_damaged_by_a_known_scale_is_healed_by_calibration(bench, toy_task):
    """Training data, a model whose Δ are all doubled, and the scale 1/2 that undoes it."""
    damaged = bench(
        "mambaextend[granularity=global,steps=60,learning_rate=0.03]", num_layers=2, eval_batch=20
    )
    recipe = damaged.recipe
    batch = CalibrationData(toy_task, damaged.method, recipe, 0, {}).draw("calibration", 20, 16)
    with torch.no_grad():
        healthy = damaged.model.answer(batch, mode="score", length=16)
    damaged.model.eval().requires_grad_(False)
    data = CalibrationData(toy_task, damaged.method, recipe, 0, {})
    data._loss = lambda predictions, targets: (predictions - healthy).square().squeeze(-1)
    intervention = damaged.model.intervention
    plain = intervention.timestep
    intervention.timestep = lambda layer, delta: plain(layer, 2 * delta)
    (scale,) = damaged.method.calibrate(damaged.model, data, 16).values()
    assert scale.item() == pytest.approx(0.5, abs=0.03)


def test_up_to_training_nothing_is_fitted_and_wrong_lengths_reuse_the_fits_of_others(
    bench, toy_task, tmp_path
):
    lengths = dict(eval_lengths=(1, 16, 32, 64), num_layers=2)

    def fits(text):
        made = bench(text, **lengths)
        return made, fit_lengths(
            made.model, toy_task, made.method, made.recipe, name="mambaextend", seed=0, folder=tmp_path
        )

    def scales(fit):
        return fit.values["timestep_scale"].flatten().tolist()

    _, right = fits("mambaextend[steps=2,items=3]")
    files = set(tmp_path.iterdir())
    assert len(files) == 2 and {*right} == {32, 64}
    made, half = fits("mambaextend[steps=2,items=3,fit_at=0.5]")
    assert set(tmp_path.iterdir()) == files, "nothing new to fit"
    assert {*half} == {64} and scales(half[64]) == scales(right[32])
    assert [made.method.assumed_length(n, 16) for n in (1, 16, 32, 64)] == [16, 16, 16, 32]
    made, once = fits("mambaextend[steps=2,items=3,fit_length=32]")
    assert {*once} == {32, 64} and scales(once[64]) == scales(once[32]) == scales(right[32])
    assert made.method.needs_length and not made.method.prefix_exact
    _, double = fits("mambaextend[steps=2,items=3,fit_at=2]")
    assert len(set(tmp_path.iterdir())) == 3 and scales(double[32]) == scales(right[64])


@pytest.mark.parametrize("method", ["mambaextend", "mambamodulation"])
@pytest.mark.parametrize("asked", ["", "fit_length=40", "fit_at=0.5", "calibrator=spsa"])
def test_a_clean_fit_is_vanilla_bit_for_bit_up_to_the_training_length(bench, tmp_path, method, asked):
    lengths = dict(eval_lengths=(5, 16, 48), num_layers=2)
    made, vanilla = (
        bench(f"{method}[steps=2,items=3,{asked}]".replace(",]", "]"), **lengths),
        bench("vanilla", **lengths),
    )
    fits = fit_lengths(made.model, made.task, made.method, made.recipe, name=method, seed=0, folder=tmp_path)
    assert {*fits} == {48} and fits[48].num_fitted == 2
    made.model.intervention.use(fits[48].values)
    vanilla.model.requires_grad_(False)  # as calibration leaves a model; products choose kernels by that
    for length in (5, 16):
        made.model.intervention.use({})
        assert torch.equal(made.answer(length), vanilla.answer(length))


def test_a_released_fit_of_one_length_serves_all_of_them_in_one_pass(bench, toy_task, tmp_path):
    made = bench(
        "mambaextend[steps=2,items=3,fit_length=32,protocol=as_released]",
        eval_lengths=(1, 16, 64),
        num_layers=2,
    )
    once = fit_lengths(made.model, toy_task, made.method, made.recipe, name="x", seed=0, folder=tmp_path)
    assert len({id(fit) for fit in once.values()}) == 1 and {*once} == {1, 16, 64}
    assert not made.method.needs_length and made.method.prefix_exact
    values = {n: fit.values for n, fit in once.items()}
    measured = evaluate(made.model, toy_task, made.method, made.recipe, made.items, fitted=values)
    assert all(m.shared_prefix for m in measured)


@pytest.mark.parametrize("method", ["mambaextend", "mambamodulation"])
def test_a_clean_fit_is_never_worse_than_no_change_on_validation_items(bench, toy_task, method):
    """Though it is far worse on them: calibration items are answered by others' targets."""
    made = bench(f"{method}[steps=5,items=4,learning_rate=1]", num_layers=2)
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    made.model.eval().requires_grad_(False)
    draw = data.draw
    data.draw = lambda part, *rest: (
        _answered_wrongly(draw(part, *rest)) if part == "calibration" else draw(part, *rest)
    )
    found = made.method.calibrate(made.model, data, 48)
    judge = draw("validation", 4, 48)
    assert data.loss(made.model, judge, found) <= data.loss(made.model, judge, {})


def _answered_wrongly(batch):
    return replace(batch, targets=5 - batch.targets)


def test_as_released_starts_at_random_keeps_the_last_iterate_and_spares_generated_tokens(bench, toy_task):
    made = bench("mambamodulation[protocol=as_released,map=power,steps=1,calibrator=spsa,learning_rate=1e-9]")
    assert made.model.intervention.apply_in_decode and not made.model.intervention.apply_to_generated
    assert made.method.protocol == "as_released"
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    (scales,) = made.method.calibrate(made.model, data, 16).values()
    assert scales.min() >= 0.01 and scales.max() <= 1.0 and not torch.equal(scales, torch.ones(6, 1))
    assert bench("mambaextend").model.intervention.apply_in_decode
    asked = bench("mambaextend[protocol=as_released,apply_in_decode=true]").model.intervention
    assert asked.apply_to_generated and bench("mambaextend").model.intervention.apply_to_generated


@pytest.mark.parametrize("text", [EXTEND, LINEAR])
def test_as_released_scales_every_given_token_labels_too(bench, text):
    """As in the released programs, which read context and labels in one pass."""
    released = bench(f"{text}[scale=0.5,protocol=as_released]")
    queries, targets = released.items.queries(slice(None), 48, 8)
    batch = Batch(released.items.context(slice(None), 0, 48, 48), queries, targets)
    with torch.no_grad():
        whole = released.model.answer(batch, mode="score", length=48)
    torch.testing.assert_close(released.answer(48), whole, rtol=1e-4, atol=1e-5)


def test_as_released_generates_with_unscaled_steps_alone():
    """The prompt is scaled to its end; what follows it is not."""
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    context, prompt = {"tokens": tokens[:, :6]}, {"tokens": tokens[:, 6:]}
    seen = []
    for protocol in ("clean", "as_released"):
        torch.manual_seed(0)
        kind = registry.METHODS.load("mambaextend")
        method = kind(kind.Params(scale=0.5, protocol=protocol))
        backbone = registry.BACKBONES.load("mamba")(d_model=16, num_layers=2)
        model = Model(TokenInterface(11, 16), backbone, method.intervention(16, 16)).eval()
        scaled = model.intervention.timestep
        lengths = []
        model.intervention.timestep = lambda layer, delta, scaled=scaled, lengths=lengths: (
            lengths.append(delta.shape[1]) or scaled(layer, delta)
        )
        with torch.no_grad():
            model.generate_from(model.read_context(context, None, 6), prompt, 3, 6)
        seen.append(lengths)
    assert seen == [[6, 6, 3, 3, 1, 1, 1, 1], [6, 6, 3, 3]]


@pytest.mark.parametrize(
    "given, backbone, wanted, lowest",
    [
        ("mambaextend[protocol=as_released]", "mamba", ("spsa", "layer", 50), 0.75),
        ("mambaextend[protocol=as_released]", "mamba2", ("spsa", "layer", 50), 0.75),
        ("mambaextend[protocol=as_released,calibrator=backprop]", "mamba",
         ("backprop", "channel", 1920), 0.0),
        ("mambaextend[protocol=as_released,calibrator=backprop,granularity=global,steps=2]", "mamba",
         ("backprop", "global", 2), 0.0),
        ("mambamodulation[protocol=as_released]", "mamba", ("spsa", "layer", 30), 0.75),
        ("mambamodulation[protocol=as_released,calibrator=backprop]", "mamba2",
         ("backprop", "state", 1920), 0.0),
        ("mambamodulation[protocol=as_released,map=power,calibrator=backprop]", "mamba",
         ("backprop", "state", 1920), 1.0),
        ("mambaextend", "mamba", ("backprop", "layer", 30), None),
    ],
)  # fmt: skip
def test_as_released_takes_the_released_program_of_its_calibrator(
    bench, given, backbone, wanted, lowest, monkeypatch, toy_task
):
    made, seen = bench(given, backbone=backbone), {}
    params = made.method.params
    assert (params.calibrator, params.granularity, params.steps) == wanted
    once = wanted[0] == "backprop" and lowest is not None
    assert (params.items, params.fit_length) == ((6144, 4096) if once else (20, None))
    made.method.params = params.model_copy(update={"items": 3})
    if lowest is None:
        return

    def fit(objective, start, **options):
        seen.update(options, start=start)
        return start

    monkeypatch.setattr("lgbench.methods._scaling.released.spsa", fit)
    monkeypatch.setattr("lgbench.methods._scaling.released.adamw", fit)
    made.method.calibrate(made.model, CalibrationData(toy_task, made.method, made.recipe, 0, {}), 16)
    assert (seen["steps"], seen["keep_best"]) == (wanted[2], False)
    assert seen["learning_rate"] == (0.001 if wanted[0] == "spsa" else 0.1)
    start, channels = seen["start"], made.model.backbone.blocks[0].num_channels
    each = (6, *made.model.backbone.blocks[0].A_log.shape)
    shapes = {"layer": (6, 1), "channel": (6, channels), "global": (1, 1), "state": each}
    assert start.shape == shapes[wanted[1]]
    assert max(lowest, 0.01) <= start.min() and start.max() <= 1
    if wanted[1] in ("channel", "state"):
        assert start.min() < lowest + 0.05


def test_as_released_backprop_goes_through_all_items_in_batches(bench, toy_task, monkeypatch):
    made = bench("mambaextend[protocol=as_released,calibrator=backprop,items=70,steps=4,fit_length=8]")
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    made.model.eval().requires_grad_(False)
    loss, sizes = data.loss, []
    data.loss = lambda model, batch, trial: sizes.append(len(batch.targets)) or loss(model, batch, trial)
    (scales,) = made.method.calibrate(made.model, data, 8).values()
    assert sizes == [32, 32, 6, 32, 32] and scales.shape == (6, 32) and (scales >= 0.01).all()


def test_a_scale_for_each_state_multiplies_its_own_entry_of_A(bench):
    made = bench("mambamodulation[protocol=as_released,calibrator=backprop]")
    A = -torch.tensor([[0.25, 4.0], [0.25, 4.0]])
    made.model.intervention.use({made.method.key: torch.tensor([[[1.0, 0.5], [2.0, 1.0]]])})
    wanted = -torch.tensor([[0.25, 2.0], [0.0625, 4.0]])
    torch.testing.assert_close(made.model.intervention.transition(0, A), wanted)


def test_released_perturbation_lowers_the_perplexity_not_the_loss(bench, toy_task, monkeypatch):
    made, found = bench("mambaextend[protocol=as_released,items=3]"), []
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    data.loss = lambda *given: 2.0
    monkeypatch.setattr(
        "lgbench.methods._scaling.released.spsa",
        lambda objective, start, **options: found.append(objective(start)) or start,
    )
    made.method.calibrate(made.model, data, 16)
    assert found == [math.exp(2.0)]


@pytest.mark.parametrize("backbone", ["mamba", "mamba2"])
@pytest.mark.parametrize("calibrator", ["spsa", "backprop"])
def test_released_modulation_has_the_map_and_the_cap_of_its_backbone_and_calibrator(
    bench, toy_cells, toy_task, backbone, calibrator, monkeypatch
):
    text = f"mambamodulation[protocol=as_released,calibrator={calibrator}]"
    made, seen = bench(text, backbone=backbone), {}
    for name in ("spsa", "adamw"):
        fit = lambda objective, start, **options: seen.update(options) or start  # noqa: E731
        monkeypatch.setattr(f"lgbench.methods._scaling.released.{name}", fit)
    made.method.params = made.method.params.model_copy(update={"items": 3})
    made.method.calibrate(made.model, CalibrationData(toy_task, made.method, made.recipe, 0, {}), 16)
    assert seen["low"] == 0.01
    assert seen["high"] == (1.0 if (backbone, calibrator) == ("mamba", "spsa") else math.inf)
    kind = "linear" if (backbone, calibrator) == ("mamba2", "backprop") else "power"
    A = -torch.tensor([0.01, 4.0]) if backbone == "mamba2" else -torch.tensor([[0.01, 4.0]])
    made.model.intervention.use({made.method.key: torch.full((1, 1), 0.5)})
    wanted = [0.005, 2.0] if kind == "linear" else [0.1, 2.0]
    torch.testing.assert_close(made.model.intervention.transition(0, A).flatten(), -torch.tensor(wanted))
    other = {"linear": "power", "power": "linear"}[kind]
    toy_cells(text.replace("]", f",map={kind}]"), backbone=[backbone])
    with pytest.raises(UserError, match=f"has map={kind} on {backbone} with calibrator={calibrator}, not"):
        toy_cells(text.replace("]", f",map={other}]"), backbone=[backbone])


@pytest.mark.parametrize(
    "typed, shortest",
    [
        ("mambaextend[protocol=as_released]", None),
        ("mambaextend[protocol=as_released,calibrator=spsa,steps=50]", "mambaextend[protocol=as_released]"),
        ("mambaextend[protocol=as_released,steps=30]", "mambaextend[steps=30,protocol=as_released]"),
        ("mambaextend[protocol=as_released,calibrator=backprop,fit_length=null]",
         "mambaextend[calibrator=backprop,fit_length=null,protocol=as_released]"),
        ("mambaextend[protocol=as_released,calibrator=backprop,granularity=layer]",
         "mambaextend[granularity=layer,calibrator=backprop,protocol=as_released]"),
        ("decimamba[layers=[[1]]]+mambaextend[protocol=as_released]", None),
        ("mambaextend[calibrator=spsa]", None),
        ("mambamodulation[protocol=as_released,map=linear]",
         "mambamodulation[protocol=as_released,map=linear]"),
        ("mambamodulation[protocol=as_released,calibrator=backprop]",
         "mambamodulation[calibrator=backprop,protocol=as_released]"),
    ],
)  # fmt: skip
def test_labels_of_released_settings_are_short_and_read_as_the_same_settings(typed, shortest):
    def read(text):
        (request,) = expand(parse_plugins(text)[0])
        return request.name, resolve(registry.METHODS.load(request.name), request.params, "method", text)

    name, params = read(typed)
    assert label(name, params) == (shortest or typed)
    assert read(label(name, params))[1].model_dump() == params.model_dump()
    assert params_json(type(params).model_validate_json(params_json(params))) == params_json(params)


@pytest.mark.parametrize(
    "text, message",
    [
        ("mambaextend[scale=0]", "scale must be above 0"),
        ("mambamodulation[scale=-1]", "scale must be above 0"),
        ("mambaextend[items=0]", "items must be at least 1"),
        ("mambaextend[fit_at=0]", "fit_at must be above 0"),
        ("mambamodulation[protocol=as_released,map=linear]", "has map=power on mamba with calibrator=spsa"),
        ("mambamodulation[map=cubic]", "map must be linear or power or released"),
        ("mambaextend[map=power]", "has no parameter 'map'"),
    ],
)
def test_bad_parameters_give_one_clear_line(toy_cells, text, message):
    with pytest.raises(UserError, match=message) as error:
        toy_cells(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [EXTEND, LINEAR, POWER])
def test_removing_the_scales_leaves_the_weights_bit_for_bit(bench, text):
    vanilla, made = bench("vanilla"), scaled(bench, text, torch.full((6, 1), 0.5))
    assert not torch.equal(made.answer(48), vanilla.answer(48))
    made.model.intervention = registry.METHODS.load("vanilla")().intervention(16, 16)
    assert torch.equal(made.answer(48), vanilla.answer(48))
    for (name, one), other in zip(
        made.model.state_dict().items(), vanilla.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
