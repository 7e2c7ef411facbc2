"""What the gate calls a regression, and what it does not."""

import numpy as np
import pytest

from lgbench.answers import regress
from lgbench.answers.baseline import Device, Golden, Quality, Speed
from lgbench.answers.regress import Measured, exit_status, judge, read_quality, renewed, tolerance
from lgbench.store import read

GOLDEN = Golden(plan=[{"task": "x"}], steps=3, tolerance=0.002)
SEEDS = [0.80, 0.81, 0.79, 0.80, 0.80]


def measured(**changes):
    same = {"quality": {"a": SEEDS}, "losses": {"t": [2.0, 1.5, 1.0]}, "speed": {"step": 2.0}}
    return Measured(**(same | {"device": "cpu", "processor": "x"} | changes))


BEFORE = renewed(Device(), measured(), {"processor": "x"})


def verdict(**changes):
    checks = judge(BEFORE, measured(**changes), GOLDEN)
    return exit_status(checks), {check.what: check.verdict for check in checks}


def test_the_same_numbers_pass():
    assert verdict() == (0, {"a": "ok", "t": "ok", "step": "ok"})


def test_a_loss_of_5_percent_of_the_score_is_a_regression():
    status, found = verdict(quality={"a": [0.95 * score for score in SEEDS]})
    assert status == 1 and found["a"] == "regression" and found["step"] == "ok"


def test_a_slow_down_of_30_percent_is_a_regression_and_10_percent_is_none():
    assert verdict(speed={"step": 2.6})[0] == 1
    assert verdict(speed={"step": 2.2})[0] == 0
    assert verdict(speed={"step": 1.5})[1]["step"] == "improved"


def test_another_processor_is_given_a_tenth_more():
    assert verdict(speed={"step": 2.4})[0] == 1
    assert verdict(speed={"step": 2.4}, processor="y")[0] == 0
    assert verdict(speed={"step": 2.6}, processor="y")[0] == 1


def test_a_busy_machine_is_given_a_twentieth_more():
    assert verdict(speed={"step": 2.4})[0] == 1
    assert verdict(speed={"step": 2.4}, is_busy=True)[0] == 0
    assert verdict(speed={"step": 2.5}, is_busy=True)[0] == 1


def test_other_first_losses_are_a_regression_at_the_first_step_that_differs():
    checks = judge(BEFORE, measured(losses={"t": [2.0, 1.51, 1.2]}), GOLDEN)
    (loss,) = [check for check in checks if check.kind == "loss"]
    assert loss.verdict == "regression" and "step 2" in loss.note
    assert verdict(losses={"t": [2.002, 1.5, 1.0]})[0] == 0


@pytest.mark.parametrize(
    "changes", [{"quality": {"a": [float("nan")] * 5}}, {"losses": {"t": [float("nan")] * 3}},
                {"speed": {"step": float("nan")}}]
)  # fmt: skip
def test_no_number_is_never_fine(changes):
    assert verdict(**changes)[0] == 1


def test_cells_without_numbers_exit_3_even_beside_a_regression():
    status, found = verdict(failed={"cell": "diverged: loss became nan"}, speed={"step": 9.0})
    assert status == 3 and found["cell"] == "failed"


@pytest.mark.parametrize(
    "changes", [{"quality": {}}, {"losses": {}}, {"speed": {}}, {"quality": {"a": SEEDS[:3]}}]
)
def test_what_the_baseline_has_and_a_run_lacks_is_no_answer(changes):
    assert verdict(**changes)[0] == 3


def test_what_is_new_is_said_and_passes():
    assert verdict(speed={"step": 2.0, "other": 1.0}) == (
        0, {"a": "ok", "t": "ok", "step": "ok", "other": "new"},
    )  # fmt: skip


def test_rows_alone_are_judged_by_quality_alone():
    status, found = verdict(losses=None, speed=None)
    assert status == 0 and found == {"a": "ok", "t": "not judged", "step": "not judged"}


def test_the_tolerance_covers_another_draw_of_seeds_99_times_in_100():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.7, 0.05, (4000, 2, 5))
    alarms = [new.mean() < old.mean() - tolerance(old) for old, new in draws]
    assert 0.005 < np.mean(alarms) < 0.015
    assert tolerance([0.8] * 5) == regress.FLOOR == tolerance([0.8])


def test_a_renewed_baseline_keeps_allowed_slow_downs_and_what_was_not_computed():
    before = Device(speed={"step": Speed(ratio=2.0, allowed=1.5)}, losses={"t": (1.0,)})
    after = renewed(before, measured(losses=None), {})
    assert after.speed["step"].allowed == 1.5 and after.losses == {"t": (1.0,)}
    assert renewed(before, measured(speed=None), {}).speed == before.speed


def test_a_tolerance_that_hides_a_loss_of_5_percent_is_named():
    quality = {"sharp": Quality(seeds=(0.8,), tolerance=0.03), "dull": Quality(seeds=(0.8,), tolerance=0.05)}
    (sentence,) = regress.blunt(Device(quality=quality))
    assert sentence.startswith("dull: ")


def cells_of(root):
    return {
        row["cell"]: f"seed {row['seed']}" for row in read([root]).table.select(["cell", "seed"]).to_pylist()
    }


def test_scores_are_means_over_octaves_of_each_seed(tmp_path, store):
    root = store(tmp_path, lambda length, seed: 0.9 if length <= 64 else 0.3 + 0.1 * seed)
    found = read_quality(root, cells_of(root))
    (beyond,) = [scores for what, scores in found.quality.items() if what.endswith("beyond L_train")]
    assert (
        beyond == pytest.approx([0.45, 0.525, 0.6], abs=1e-5) and found.device == "cpu" and not found.failed
    )


def test_other_cells_of_the_folder_do_not_count(tmp_path, store):
    root = store(tmp_path, lambda length, seed: 0.9)
    mine = cells_of(root)
    alone = read_quality(root, mine).quality
    store(root, lambda length, seed: 0.1, train_steps=50, step=50)
    assert read_quality(root, mine).quality == alone


def test_missing_torn_and_failed_cells_are_named(tmp_path, store):
    root = store(tmp_path, lambda length, seed: 0.9)
    cells = cells_of(root) | {"0" * 16: "not run"}
    path = next(root.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:400])
    failed = read_quality(root, cells).failed
    assert failed["not run"] == "it has no rows" and cells[path.stem] in failed and len(failed) == 2
