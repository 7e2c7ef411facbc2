"""How numbers read in tables, figures and sentences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

NOTHING = "–"
"""Stands where there is no number."""


def format_length(length: float, unit: str = "tokens") -> str:
    """Lengths as on an axis: 512, 1K, 1.5K, 1M, with K = 1,024 and M = K². Anything else in full: 1,000.

    Whole thousands are in full even where they are a round number of K: 64,000 beside 32,000.

    Args:
        length: the number.
        unit: what it counts; anything but tokens is shown in full.
    """
    for letter, size in (("M", 1 << 20), ("K", 1 << 10)):
        if unit == "tokens" and length >= size and length * 2 % size == 0 and length % 1000:
            return f"{length / size:g}{letter}"
    return f"{int(length):,}"


def unit_in_words(unit: str) -> str:
    """What lengths count, for an axis: "tokens, K = 1,024", "documents"."""
    return "tokens, K = 1,024" if unit == "tokens" else unit


def format_value(value: float, like: float | None = None) -> str:
    """A number with three significant digits or more: 0.131, 0.00205, 42.000, 250.0.

    Args:
        value: the number.
        like: another number whose decimals to use: intervals read like the value that they belong to.
    """
    if not np.isfinite(value):
        return NOTHING
    size = abs(value if like is None or not np.isfinite(like) else like)
    if size != 0 and not 1e-7 <= size < 1e5:
        return f"{value:.2e}"
    decimals = 3 if size == 0 else max(2 - int(np.floor(np.log10(size))), 3 if size < 100 else 1)
    return f"{value:.{decimals}f}"


def format_power(value: float) -> str:
    """A power of ten as on a logarithmic axis: 10⁻³, 10², 1 as 10⁰."""
    digits = str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def count_of(numbers: Iterable[float], one: str, many: str = "") -> str:
    """Counts, from smallest to largest, and their noun: 1 seed, 3 seeds, 2–3 seeds."""
    low, high = min(numbers := list(numbers)), max(numbers)
    count = f"{low:,.0f}" if low == high else f"{low:,.0f}–{high:,.0f}"
    return f"{count} {one if high == 1 else many or f'{one}s'}"


def format_multiple(multiple: float) -> str:
    """A length as a multiple of the training length: 0.5×, 4×."""
    return f"{multiple:.3g}×" if multiple < 1000 else f"{multiple:,.0f}×"


def format_rate(a_second: float) -> str:
    """Counts per second with three digits: 950, 42.1 k, 2.4 M; here k is a thousand."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if a_second >= size:
            return f"{a_second / size:.3g} {unit}"
    return f"{a_second:.0f}" if np.isfinite(a_second) else NOTHING


def format_bytes(size: float) -> str:
    """Bytes with at most three digits: 512 B, 4 KiB, 1.5 MiB, 2 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def format_count(count: float) -> str:
    """A count in full: 20,412."""
    return f"{count:,.0f}" if np.isfinite(count) else NOTHING
