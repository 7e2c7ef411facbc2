"""The filter lets global channels see as much as in training; thresholds follow from sorted time steps."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from lgbench.methods.longmamba.statistics import Statistics, log_survival, threshold

from lgbench.errors import UserError
from lgbench.intervention import active_hooks
from lgbench.ops.scan.selective_scan import selective_scan
from lgbench.plugins import registry
from lgbench.run.calibrate import CalibrationData
from lgbench.run.measure import AT_REST
from lgbench.store import read

FITTED = ("timestep_threshold", "timestep_log_survival")


def use(bench, text, theta=0.05, survival=1.0):
    """A model with these thresholds and survivals in all channels, or tensors of them."""
    made = bench(text)
    values = [torch.as_tensor(v, dtype=torch.float32).expand(6, 32) for v in (theta, survival)]
    made.model.intervention.use(dict(zip(FITTED, (values[0], values[1].log()), strict=True)))
    return made


def test_within_the_training_length_it_is_vanilla(bench):
    vanilla, long = bench("vanilla"), use(bench, "longmamba", theta=9.0)
    for length in (1, 5, 16):
        assert torch.equal(long.answer(length), vanilla.answer(length))
    assert not torch.equal(long.answer(48), vanilla.answer(48))


@pytest.mark.parametrize(
    "text, theta, survival",
    [
        ("longmamba", 0.0, 1.0),
        ("longmamba[strength=0]", 9.0, 1.0),
        ("longmamba[c_thr=0.5]", 9.0, 0.4),
        ("longmamba[c_thr=1]", 9.0, 1.0),
    ],
    ids=["thresholds of 0", "strength of 0", "no global channel", "c_thr of 1"],
)
def test_where_nothing_is_filtered_it_is_vanilla(bench, text, theta, survival):
    assert torch.equal(use(bench, text, theta, survival).answer(48), bench("vanilla").answer(48))


def test_channels_that_are_not_global_keep_their_time_steps_bit_for_bit(bench):
    survival = torch.where(torch.arange(32) % 2 == 0, 1.0, 1e-9).expand(6, 32)
    filtered = use(bench, "longmamba[c_thr=0.001]", 0.05, survival).model.intervention
    delta = 0.1 * torch.rand(2, 48, 32, generator=torch.Generator().manual_seed(0))
    filtered.begin("prefill", 48, 0)
    got = filtered.timestep(3, delta)
    assert torch.equal(got[..., 1::2], delta[..., 1::2])
    assert torch.equal(got[..., ::2], torch.where(delta > 0.05, delta, 0)[..., ::2])
    assert (got[..., ::2] == 0).any() and (got[..., ::2] > 0).any()


def test_a_higher_threshold_only_removes_tokens(bench):
    delta = 0.1 * torch.rand(2, 48, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    for strength in (0.25, 0.5, 1.0, 1.5):
        filtered = use(bench, f"longmamba[strength={strength}]").model.intervention
        filtered.begin("prefill", 48, 0)
        seen.append(filtered.timestep(0, delta) > 0)
    for looser, stricter in pairwise(seen):
        assert (stricter <= looser).all() and stricter.sum() < looser.sum()


@pytest.mark.parametrize("setting", ["strength=0", "c_thr=1"])
def test_it_rests_where_it_would_filter_nothing(bench, setting):
    intervention = use(bench, f"longmamba[{setting}]").model.intervention
    intervention.begin("prefill", 48, 0)
    assert intervention.resting and active_hooks(intervention, "prefill") == set()


def test_a_zeroed_time_step_is_a_deleted_token_at_the_kept_positions():
    rng = torch.Generator().manual_seed(0)
    x, delta = (torch.rand(1, 20, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    B, C = (torch.randn(1, 20, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    A = -torch.exp(torch.randn(8, 4, generator=rng, dtype=torch.float64))
    kept = torch.rand(20, generator=rng) > 0.4
    zeroed = selective_scan(x, delta * kept[:, None], A, B, C)
    deleted = selective_scan(x[:, kept], delta[:, kept], A, B[:, kept], C[:, kept])
    torch.testing.assert_close(zeroed.y[:, kept], deleted.y)
    torch.testing.assert_close(zeroed.state, deleted.state)


def test_log_survival_is_the_product_over_tokens_of_the_mean_over_states():
    rng = torch.Generator().manual_seed(0)
    delta, A = torch.rand(5, 3, generator=rng).double(), -torch.rand(3, 4, generator=rng).double()
    wanted = torch.ones(3, dtype=torch.float64)
    for t in range(5):
        wanted *= torch.exp(delta[t][:, None] * A).mean(dim=1)
    torch.testing.assert_close(log_survival(delta, A), wanted.log())


def test_the_threshold_is_where_the_stretched_profile_has_spent_the_budget_of_training():
    profile = torch.tensor([4.0, 3, 2, 1])
    shuffled = profile[[2, 0, 3, 1]].unsqueeze(1)
    stretched = np.interp(np.linspace(0, 3, 7), np.arange(4), profile.numpy())  # 4, 3.5, 3, 2.5, 2, 1.5, 1
    first = int(np.argmax(np.cumsum(stretched) > 10))  # 4 + 3.5 + 3 > 10
    assert threshold(shuffled, 7).item() == pytest.approx(stretched[first + 1]) == 2.5


def test_the_kept_time_steps_of_a_long_sequence_add_up_to_about_those_of_training():
    def steps(n):  # the same law at both lengths, by its quantiles
        return (10 ** (-1 - 2 * torch.linspace(0, 1, n)[torch.randperm(n)])).unsqueeze(1)

    short, long = steps(2000), steps(16_000)
    theta = threshold(short, 16_000)
    kept = (long * (long > theta)).sum(dim=0) / short.sum(dim=0)
    assert (kept - 1).abs().max() < 0.01 and (long.sum(dim=0) / short.sum(dim=0)).min() > 7


def test_lengths_within_training_filter_nothing():
    assert (threshold(torch.rand(8, 3), 8) == 0).all() and (threshold(torch.rand(8, 3), 4) == 0).all()


def test_statistics_are_those_of_a_recorded_pass_in_pieces_or_not(bench, toy_task, monkeypatch):
    long = bench("longmamba[rho=0,items=5]", eval_batch=3)
    seen = {}
    record = lambda layer, *, delta, A, **others: seen.setdefault(layer, (delta, A))  # noqa: E731

    def fit():
        return long.method.calibrate(
            long.model, CalibrationData(toy_task, long.method, long.recipe, 0, {}), 48
        )

    found = fit()
    monkeypatch.setattr("lgbench.run.calibrate.PIECE", 5)
    for name, values in fit().items():
        torch.testing.assert_close(values, found[name], rtol=1e-4, atol=1e-6)
    batch = CalibrationData(toy_task, long.method, long.recipe, 0, {}).draw("calibration", 5, 16)
    vanilla = bench("vanilla").model
    vanilla.intervention = type(
        "Seen", (type(vanilla.intervention),), {"record": lambda self, layer, **t: record(layer, **t)}
    )()
    with torch.no_grad():
        vanilla.read_context(batch.context, None, 16)
    delta, A = seen[2]
    thresholds = torch.stack([threshold(item, 48) for item in delta]).mean(dim=0)
    survivals = torch.stack([log_survival(item, A).exp() for item in delta]).mean(dim=0).log()
    torch.testing.assert_close(found["timestep_threshold"][2], thresholds, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["timestep_log_survival"][2], survivals, rtol=1e-4, atol=1e-5)


def test_as_released_filters_from_3000_tokens_by_tables_made_of_2000_and_no_generated_token(bench, toy_task):
    long = bench("longmamba[protocol=as_released,items=2,c_thr=0]", num_layers=1)
    method, intervention = long.method, long.model.intervention
    asked = {n: method.calibration_length(n, 16) for n in (17, 2999, 3000, 3600, 11_200, 500_000)}
    assert asked == {17: None, 2999: None, 3000: 3000, 3600: 4000, 11_200: 12_000, 500_000: 192_000}
    data = CalibrationData(toy_task, method, long.recipe, 0, {})
    fitted = method.calibrate(long.model, data, 4000)
    assert set(data.digests) == {2000} and (fitted[FITTED[0]] > 0).any()
    intervention.use(fitted)
    for length, hooks in ((2999, set()), (3000, {"timestep"})):
        intervention.begin("prefill", length, 0)
        assert active_hooks(intervention, "prefill") == active_hooks(intervention, "decode") == hooks
    assert not intervention.apply_to_generated
    assert method.protocol == "as_released"
    clean = bench("longmamba", num_layers=1).model.intervention
    clean.use(fitted)
    clean.begin("decode", 2999, 0)
    assert active_hooks(clean, "decode") == {"timestep"}


def test_as_released_is_refused_where_lengths_are_no_tokens_and_says_why(
    bench, toy_cells, run_toy, toy_task, monkeypatch
):
    documents, text = (registry.TASKS.load(name)() for name in ("document_retrieval", "passkey"))
    clean, released = (bench(t).method for t in ("longmamba", "longmamba[protocol=as_released]"))
    assert clean.unsupported(documents) is clean.unsupported(text) is released.unsupported(text) is None
    reason = released.unsupported(documents)
    assert "are tokens, lengths of this task are documents; use protocol=clean" in reason
    assert (
        bench("longmamba[protocol=as_released]+mambamodulation[scale=2]").method.unsupported(documents)
        == reason
    )
    monkeypatch.setattr(type(toy_task), "length_unit", "documents")
    _, store = run_toy(toy_cells("longmamba[protocol=as_released]", train_steps=[2], query_grid=()))
    (row,) = read([store.root]).table.to_pylist()
    assert (row["status"], row["reason"], row["protocol"]) == ("skipped", reason, "as_released")


@pytest.mark.parametrize(
    ("text", "backbone", "filtered"),
    [
        ("longmamba", "mamba", [False, True, True, True]),
        ("longmamba[protocol=as_released,items=2]", "mamba", [False, True, True, True]),
        ("longmamba[protocol=as_released,items=2]", "mamba2", [False, False, False, True]),
        ("longmamba[protocol=as_released,items=2,c_thr=0]", "mamba", [True] * 4),
    ],
)
def test_the_least_survival_of_a_global_channel_is_that_of_the_release_with_its_formula(
    bench, toy_task, text, backbone, filtered
):
    made = bench(text, backbone=backbone, num_layers=1)
    data = CalibrationData(toy_task, made.method, made.recipe, 0, {})
    fitted = made.method.calibrate(made.model, data, 4000)
    survival = torch.tensor([1e-31, 1e-29, 0.04, 0.06]).log()
    made.model.intervention.use(
        fitted | {"timestep_threshold": torch.full((1, 4), 0.05), "timestep_log_survival": survival[None]}
    )
    delta = torch.full((1, 1, 4), 0.01)
    assert (made.model.intervention.timestep(0, delta) == 0)[0, 0].tolist() == filtered


def test_as_released_takes_100_segments_and_stretches_without_aligned_corners(bench, toy_task):
    """The profile of the release, (k + 1/2) n / L - 1/2 by NumPy."""
    assert bench("longmamba[protocol=as_released]").method.params.items == 100
    profile = torch.tensor([4.0, 3, 2, 1])
    place = np.clip((np.arange(9) + 0.5) * 4 / 9 - 0.5, 0, 3)
    stretched = np.interp(place, np.arange(4), profile.numpy())
    first = int(np.argmax(np.cumsum(stretched) > 10))
    found = threshold(profile.unsqueeze(1), 9, align_corners=False).item()
    assert found == pytest.approx(stretched[first + 1], rel=1e-6)
    assert found != threshold(profile.unsqueeze(1), 9).item()
    delta = torch.rand(1, 40, 3, generator=torch.Generator().manual_seed(0))
    for protocol in ("clean", "as_released"):
        params = registry.METHODS.load("longmamba").Params(protocol=protocol, rho=0, over="max")
        seen = Statistics(90, 40, params)
        seen.begin("prefill", 40, 0)
        seen.record(0, delta=delta, A=-torch.ones(3, 2))
        wanted = threshold(delta[0].clamp(max=delta[0].amax(dim=0)), 90, align_corners=protocol == "clean")
        assert torch.equal(seen.result()[0][0], wanted)


def test_a_batch_equals_the_loop_over_its_samples(bench):
    long = use(bench, "longmamba", theta=0.05)
    together = long.answer(48)
    for k in range(6):
        torch.testing.assert_close(long.answer(48, slice(k, k + 1))[0], together[k], atol=1e-5, rtol=1e-5)


def test_a_row_says_where_the_filter_rests(toy_cells, run_toy):
    """Within training, and beyond where no channel is global, however much was fitted."""
    cells = toy_cells(
        "vanilla", "longmamba[items=2,c_thr=1]", "longmamba[items=2,c_thr=0]", train_steps=[2],
        eval_lengths=(5, 48), query_grid=(),
    )  # fmt: skip
    _, store = run_toy(cells)
    rows = {(r["label"], r["eval_length"]): r for r in read([store.root]).table.to_pylist()}
    resting = [rows[cell.label, n]["reason"] for cell in cells for n in (5, 48)]
    assert resting == ["", "", AT_REST, AT_REST, AT_REST, ""]
    assert rows[cells[1].label, 48]["num_fitted"] > 0
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_rows_say_which_table_length_was_used(toy_cells, run_toy):
    cells = toy_cells(
        "vanilla", "longmamba[items=3]", train_steps=[2], eval_lengths=(5, 16, 44), query_grid=()
    )
    outcome, store = run_toy(cells)
    assert not outcome.failed and cells[0].training == cells[1].training
    rows = {(r["method"], r["eval_length"]): r for r in read([store.root]).table.to_pylist()}
    assert [rows["longmamba", n]["assumed_length"] for n in (5, 16, 44)] == [None, None, 40]
    assert [rows["longmamba", n]["num_fitted"] for n in (5, 16, 44)] == [0, 0, 2 * 2 * 32]
    assert rows["longmamba", 44]["calibration_tokens"] == 3 * (16 + 4)
    assert rows["longmamba", 44]["value"] != rows["vanilla", 44]["value"]
    assert math.isclose(rows["longmamba", 16]["value"], rows["vanilla", 16]["value"], rel_tol=1e-5)


@pytest.mark.parametrize(
    "text, message",
    [
        ("longmamba[table_up_to=2]", "the threshold table ends at 32 tokens .* but 48 are asked for"),
        ("longmamba[items=0]", "items must be at least 1"),
        ("longmamba[c_thr=2]", "c_thr must be 0 to 1"),
    ],
)
def test_bad_parameters_give_one_clear_line(toy_cells, text, message):
    with pytest.raises(UserError, match=message) as error:
        toy_cells(text)
    assert "\n" not in str(error.value)


def test_removing_it_leaves_the_weights_bit_for_bit(bench):
    vanilla, long = bench("vanilla"), use(bench, "longmamba", theta=0.05)
    long.answer(48)
    long.model.intervention = registry.METHODS.load("vanilla")().intervention(16, 16)
    assert torch.equal(long.answer(48), vanilla.answer(48))
