"""Speed beside the baseline of the same run, and calibrations that are paid once."""

import pandas as pd
import pytest

from lgbench.report.price import calibration, relative_speed


@pytest.fixture
def timed(make_row):
    """`timed(("x", {...}), …)` → rows of these series."""

    def make(*rows):
        return pd.DataFrame([make_row(**columns) | {"series": name} for name, columns in rows])

    return make


def test_speed_is_a_multiple_of_the_baselines_in_the_same_run(timed):
    fast = {"method": "x", "warm_tokens_per_s": 3e6}
    rows = timed(("vanilla", {"warm_tokens_per_s": 2e6}), ("x", fast), ("elsewhere", fast | {"device": "B"}))
    assert relative_speed(rows, rows).to_dict() == {"vanilla": 1.0, "x": 1.5}


def test_the_baseline_is_that_of_the_same_backbone_where_there_is_one(timed):
    rows = timed(
        ("vanilla", {"warm_tokens_per_s": 2e6}),
        ("vanilla 2", {"backbone": "mamba2", "warm_tokens_per_s": 4e6}),
        ("x", {"method": "x", "backbone": "mamba2", "warm_tokens_per_s": 2e6}),
        ("y", {"method": "y", "backbone": "decoder", "warm_tokens_per_s": 6e6}),
    )
    assert relative_speed(rows, rows).drop(["vanilla", "vanilla 2"]).to_dict() == {"x": 0.5, "y": 2.0}


def test_the_longest_length_counts_where_only_one_answers_all_lengths_from_one_pass(timed):
    rows = timed(
        *(("vanilla", {"eval_length": n, "warm_tokens_per_s": 1e6}) for n in (64, 1024)),
        *(
            ("x", {"method": "x", "eval_length": n, "warm_tokens_per_s": rate, "shared_prefix": False})
            for n, rate in ((64, 9e6), (1024, 2e6))
        ),
    )
    assert relative_speed(rows, rows)["x"] == 2.0


def test_lengths_that_share_a_fit_pay_for_it_once(timed):
    fit = {"num_fitted": 8, "assumed_length": 2048, "calibration_tokens": 100, "calibration_wall_s": 3.0}
    other = fit | {"assumed_length": 4096, "calibration_tokens": 200, "calibration_wall_s": 5.0}
    rows = timed(
        ("x", fit | {"eval_length": 1024}), ("x", fit | {"eval_length": 2048}),
        ("x", other | {"eval_length": 4096, "num_fitted": 9}), ("vanilla", {}),
    )  # fmt: skip
    (found,) = calibration(rows).reset_index().to_dict("records")
    assert found == {
        "series": "x", "calibration_tokens": 300, "calibration_wall_s": 8.0, "num_fitted": 9
    }  # fmt: skip
