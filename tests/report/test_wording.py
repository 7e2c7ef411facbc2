"""Numbers in tables, figures and sentences."""

import pytest

from lgbench.durations import format_duration
from lgbench.report.wording import (
    count_of,
    format_length,
    format_multiple,
    format_power,
    format_rate,
    format_value,
)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (format_length(512), "512"),
        (format_length(1536), "1.5K"),
        (format_length(1000), "1,000"),
        (format_length(2**20), "1M"),
        (format_value(0.13149), "0.131"),
        (format_value(0.0020512), "0.00205"),
        (format_value(0.0001, like=0.0020512), "0.00010"),
        (format_length(64_000), "64,000"),
        (format_length(11, "documents"), "11"),
        (format_length(2048, "documents"), "2,048"),
        (format_value(0.0), "0.000"),
        (format_value(float("nan")), "–"),
        (format_multiple(0.5), "0.5×"),
        (format_multiple(32), "32×"),
        (format_duration(42.4), "42 s"),
        (format_duration(450), "7.5 min"),
        (format_duration(11520), "3.2 h"),
        (format_rate(42_123), "42.1 k"),
        (format_power(0.001), "10⁻³"),
        (count_of([1], "seed"), "1 seed"),
        (count_of([3, 2, 3], "seed"), "2–3 seeds"),
        (count_of([256], "query", "queries"), "256 queries"),
    ],
)
def test_numbers_read_as_people_write_them(shown, expected):
    assert shown == expected
