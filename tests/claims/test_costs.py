"""What is missing is priced by what is alike, and without anything alike it has no price."""

import pytest

from lgbench.claims.costs import Prices


def test_a_training_is_priced_by_its_nearest_neighbour(model, rows, cells):
    prices = Prices(cells(rows(model, 0.5, train_wall_s=60.0)))
    assert prices.training(model) == pytest.approx(60)
    assert prices.training(model.change(train_steps=200, num_layers=4)) == pytest.approx(240)
    assert prices.training(model.change(train_length=128)) == pytest.approx(120)


def test_a_training_that_is_there_costs_nothing(model, rows, cells):
    prices = Prices(cells(rows(model, 0.5, train_wall_s=600.0, eval_wall_s=60.0)))
    remedy = model.change(method="slow_clock")
    assert prices.cost([(remedy, 0), (remedy, 9)]).minutes == pytest.approx(1 + 11)
    assert prices.cost([(remedy.change(own_training=True), 0)]).minutes == pytest.approx(11)


def test_trainings_are_shared_by_the_methods_that_use_them(model, rows, cells):
    prices = Prices(cells(rows(model, 0.5, train_wall_s=600.0, eval_wall_s=60.0)))
    both = [(model.change(method=name), 9) for name in ("slow_clock", "last_window")]
    assert prices.cost(both).minutes == pytest.approx(10 + 2)


def test_calibration_is_part_of_the_price(model, rows, cells):
    fitted = model.change(method="mambaextend")
    store = cells(rows(model, 0.5), rows(fitted, 0.5, eval_wall_s=10.0, calibration_wall_s=30.0))
    assert Prices(store).evaluation(fitted) == pytest.approx(10 + 2 * 30)


def test_a_cpu_says_nothing_about_gpu_minutes(model, rows, cells):
    cost = Prices(cells(rows(model, 0.5, device="cpu"))).cost([(model, 9)])
    assert cost.minutes == 0 and cost.unknown == ("toy, vanilla, L_train 64",)
