"""A plan knows before any training which training contexts a calibration will draw."""

import pytest

from lgbench.plugins.registry import METHODS
from lgbench.run.calibrate import CalibrationData

FITTED = {
    "decimamba": {16, 32, 64},
    "longmamba": {16},
    "clock_law[items=2]": {32, 128},
    "mambaextend[steps=1]": {48},
    "mambaextend[steps=1,fit_length=9]": {9},
    "mambamodulation[steps=1,fit_at=0.5]": {24},
}


@pytest.mark.parametrize(("text", "lengths"), FITTED.items(), ids=FITTED.keys())
def test_a_calibration_draws_contexts_of_the_lengths_that_it_announced(bench, text, lengths):
    made = bench(text, num_layers=2)
    data = CalibrationData(made.task, made.method, made.recipe, seed=0, earlier={})
    at = made.method.calibration_length(48, 16)
    made.method.calibrate(made.model.requires_grad_(False), data, at)
    assert set(data.digests) == set(made.method.drawn_lengths(at, 16)) == lengths


@pytest.mark.parametrize("protocol", ["clean", "as_released"])
@pytest.mark.parametrize("text", [text for text in FITTED if "fit_length" not in text])
def test_nothing_is_fitted_at_a_length_below_that_of_training(bench, text, protocol):
    """Shorter contexts share the fit of the training length; what is asked for by number is taken."""
    kind = type(bench(text, num_layers=2).method)
    options = [{}, {"fit_at": 0.25}] if "fit_at" in kind.Params.model_fields else [{}]
    if protocol != "clean" and "protocol" not in kind.Params.model_fields:
        return
    for given in options:
        if protocol != "clean":
            given = given | {"protocol": protocol}
        method = kind(kind.Params(**given))
        for length in (1, 8, 15, 16, 17, 30, 64):
            found = method.calibration_length(length, 16)
            assert found is None or found >= 16, (given, length)


def test_every_method_that_is_fitted_is_tested_here():
    fitted = {
        name
        for name in METHODS.names()
        if METHODS.load(name)().calibration_length(10_000, 16) is not None and not name.startswith("toy_")
    }
    assert fitted == {text.split("[")[0] for text in FITTED}
