"""States and logits that are not finite are no answers, even where an argmax makes one of them."""

import pytest
import torch

from lgbench.method import Method, ScanIntervention
from lgbench.models.model import build_model, sound
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest
from lgbench.plugins import registry
from lgbench.run.evaluate import evaluate

NAN, INF = float("nan"), float("inf")


class Poisoned(Method):
    """Time steps become NaN in sequences of more than nine tokens."""

    prefix_exact = False

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def intervention(self, train_length, d_model):
        return _WholePoison() if self.whole else _Poison()


class _Poison(ScanIntervention):
    length = 0

    def begin(self, mode, length, num_protected):
        self.length = int(length)

    def timestep(self, layer, delta):
        return delta * NAN if self.length > 9 else delta


class _WholePoison(_Poison):
    def keep(self, layer, delta, x):
        return torch.arange(delta.shape[1]).expand(delta.shape[0], -1)


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_generated_answers_of_a_poisoned_state_have_no_finite_score(toys, whole, ragged):
    registry.add_file(next(path for path in toys if path.stem == "toy_recall"))
    task = load_task(PluginRequest("toy_recall", {"ragged": ragged}))
    task.prepare(torch.device("cpu"))
    method, recipe = Poisoned(whole), task.recipe("smoke", "causal")
    model = build_model(task, method, recipe, seed=0)
    for m in evaluate(model, task, method, recipe, task.eval_set(6, 0)):
        finite = torch.isfinite(torch.tensor(m.values))
        assert finite.all() if m.eval_length <= 9 else not finite.any(), (m.metric.name, m.eval_length)


def test_predictions_of_a_poisoned_state_have_no_finite_score_at_any_number_of_queries(toy_task):
    method = Poisoned(whole=False)
    recipe = toy_task.recipe("smoke", "causal")
    model = build_model(toy_task, method, recipe, seed=0)
    with torch.no_grad():
        for parameter in model.interface.head.parameters():
            parameter.zero_()  # hides the poison from the predictions, 0 · NaN aside
    found = evaluate(model, toy_task, method, recipe, toy_task.eval_set(6, 0))
    assert {m.axis for m in found} == {"context", "queries"}
    for m in found:
        finite = torch.isfinite(torch.tensor(m.values))
        assert finite.all() if m.eval_length <= 9 else not finite.any(), (m.axis, m.eval_length)


@pytest.mark.parametrize(
    ("hidden", "logits", "expected"),
    [
        ([0.0, 1.0], [0.0, 1.0, 2.0], True),
        ([0.0, 1.0], [-INF, 1.0, -INF], True),
        ([0.0, 1.0], [-INF, -INF, -INF], False),
        ([0.0, 1.0], [0.0, INF, 2.0], False),
        ([0.0, 1.0], [0.0, NAN, 2.0], False),
        ([0.0, NAN], [0.0, 1.0, 2.0], False),
        ([-INF, 1.0], [0.0, 1.0, 2.0], False),
    ],
    ids=["finite", "masked", "all-masked", "plus-infinity", "nan", "nan-state", "infinite-state"],
)
def test_what_is_a_prediction(hidden, logits, expected):
    batch = torch.zeros(2, 3, 2), torch.zeros(2, 3, 3)
    batch[0][1, 2], batch[1][1, 2] = torch.tensor(hidden), torch.tensor(logits)
    found = sound(*batch)
    assert found[1, 2].item() is expected
    found[1, 2] = True
    assert found.all(), "only the one prediction is concerned"


def test_one_dimensional_and_picture_like_predictions_are_judged_too():
    hidden = torch.zeros(1, 2, 4)
    assert sound(hidden, torch.tensor([[0.0, NAN]])).tolist() == [[True, False]]
    pictures = torch.zeros(1, 2, 1, 4, 4)
    pictures[0, 0, 0, 3, 3] = INF
    assert sound(hidden, pictures).tolist() == [[False, True]]
