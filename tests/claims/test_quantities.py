"""Quantities are sums, multiples and logarithms of errors, and the lengths where curves turn."""

import numpy as np
import pytest

from lgbench.claims.cells import Point, Unusable
from lgbench.claims.quantities import at_queries, chance, log2_best, log2_failure, reading, value

LENGTHS = (16, 32, 64, 128, 256, 512)


def measure(quantity, store, seeds=(0, 1, 2)):
    return quantity.compute(lambda point: store.sample(point, seeds))


def test_differences_and_multiples_are_those_of_items(model, rows, cells):
    store = cells(rows(model, lambda length: 1 / length, lengths=LENGTHS, spread=1e-4))
    one, other = (store.sample(Point(model=model, at=at), (0, 1, 2)).values for at in (64, 128))
    found = measure(value(model, 128) - 1.1 * value(model, 64), store)
    np.testing.assert_allclose(found, other - 1.1 * one)


def test_a_logarithm_is_that_of_the_mean_and_keeps_the_spread_of_items(model, rows, cells):
    store = cells(rows(model, 0.5, spread=0.01))
    items = store.sample(Point(model=model, at=64), (0, 1, 2)).values
    found = measure(value(model, 64).log(), store)
    np.testing.assert_allclose(found.mean(axis=1), np.log(items.mean(axis=1)))
    np.testing.assert_allclose(found.std(axis=1), items.std(axis=1) / items.mean(axis=1))


def test_a_mean_of_zero_has_no_logarithm(model, rows, cells):
    with pytest.raises(Unusable, match="logarithm"):
        measure(value(model, 64).log(), cells(rows(model, 0.0, spread=0.0)))


def test_the_best_length_is_the_vertex_of_the_curve(model, rows, cells):
    store = cells(rows(model, lambda n: 0.2 + 0.01 * (np.log2(n) - 6.3) ** 2, lengths=LENGTHS, spread=0.0))
    np.testing.assert_allclose(measure(log2_best(model, LENGTHS), store), 6.3)


def test_a_curve_that_never_turns_is_best_at_its_end(model, rows, cells):
    store = cells(rows(model, lambda n: 1 / n, lengths=LENGTHS, spread=0.0))
    np.testing.assert_allclose(measure(log2_best(model, LENGTHS), store), 9)


def test_failure_is_the_first_crossing_of_chance_beyond_the_best_length(model, rows, cells):
    store = cells(rows(model, lambda n: 0.5 + abs(np.log2(n) - 6) * 0.2, lengths=LENGTHS, spread=0.0))
    np.testing.assert_allclose(measure(log2_failure(model, LENGTHS), store), 8.5)


def test_a_model_that_never_fails_has_no_length_of_failure(model, rows, cells):
    store = cells(rows(model, 0.5, lengths=LENGTHS))
    with pytest.raises(Unusable, match="never worse than chance up to 512"):
        measure(log2_failure(model, LENGTHS), store)


def test_chance_is_on_the_scale_of_the_items(model, rows, cells):
    store = cells(rows(model, 2.0, combine="exp_mean", best=1.0, chance=np.e**3))
    np.testing.assert_allclose(measure(chance(model, 64), store), 3.0)


def test_texts_are_formulas(model):
    a, b = value(model, 64), at_queries(model, 1)
    assert (a - b).text == "E(vanilla, L_train 64; 64) − E(vanilla, L_train 64; 1 query)"
    assert (a - (a - b)).text.endswith(f"− ({(a - b).text})")
    assert (0.5 * a.log()).text == f"0.5 · ln {a.text}"


def test_readings_of_probes_are_known_before_they_exist(model, look):
    found = reading(look, "bones", 64) - value(model, 64)
    assert [one.name for one in found.readings] == ["bones"] and found.needs == (Point(model=model, at=64),)
    assert reading(look, "bones", 64, "left").text == "xray: bones (vanilla, L_train 64; 64; left)"
