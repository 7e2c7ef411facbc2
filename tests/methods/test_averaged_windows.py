"""Parts of a context are read alone, and their answers averaged."""

import numpy as np
import pytest
import torch

from lgbench.errors import UserError
from lgbench.store import read
from methods.averaged_windows import AveragedWindows


def views_of(num_tokens: int, **params) -> tuple[torch.Tensor, ...]:
    return AveragedWindows(AveragedWindows.Params(**params)).views(num_tokens, 16)


def test_contexts_that_fit_into_training_are_read_as_by_vanilla(bench):
    vanilla, averaged = bench("vanilla").values(), bench("averaged_windows").values()
    for length in (1, 5, 16):
        np.testing.assert_allclose(averaged[length], vanilla[length], rtol=1e-5)
    assert not np.array_equal(averaged[48], vanilla[48])


@pytest.mark.parametrize("draw", ["chunks", "subsets"])
def test_the_score_is_that_of_the_mean_of_the_answers_after_each_part(bench, draw):
    made = bench(f"averaged_windows[draw={draw},count=3]")
    queries, targets = made.items.queries(slice(None), 48, 8)
    context = made.items.context(slice(None), 0, 48, 48)
    answers = []
    with torch.no_grad():
        for view in made.method.views(48, 16):
            part = {name: values[:, view] for name, values in context.items()}
            state = made.model.read_context(part, None, 16)
            answers.append(made.model.answer_from(state, queries, 8, 16))
        wanted = made.task.score(torch.stack(answers).mean(dim=0), targets).mean(dim=1)
    np.testing.assert_allclose(made.values()[48], wanted.numpy(), rtol=1e-6)


def test_chunks_lie_side_by_side_from_the_first_token_to_the_last():
    assert [view.tolist() for view in views_of(48)] == [[*range(k, k + 16)] for k in (0, 16, 32)]
    spread = views_of(1000, count=4)
    assert len(spread) == 4 and spread[0][0] == 0 and spread[-1][-1] == 999


def test_subsets_are_ascending_tokens_of_the_whole_context_and_always_the_same():
    views, again = views_of(1000, draw="subsets"), views_of(1000, draw="subsets")
    assert len(views) == 8 and all(torch.equal(one, other) for one, other in zip(views, again, strict=True))
    for view in views:
        assert len(view) == 16 and (view.diff() > 0).all() and view[0] >= 0 and view[-1] < 1000
    assert len({tuple(view.tolist()) for view in views}) == 8


def test_one_part_without_a_finite_answer_makes_the_item_infinite(bench, monkeypatch):
    made, calls = bench("averaged_windows", eval_lengths=(48,)), []
    answer = type(made.model).answer_from

    def second_is_broken(self, *given):
        found = answer(self, *given)
        calls.append(given)
        if len(calls) == 2:
            self.sound = torch.zeros_like(self.sound)
        return found

    monkeypatch.setattr(type(made.model), "answer_from", second_is_broken)
    assert np.isinf(made.values()[48]).tolist() == [True] * 4 + [False] * 2  # of batches of 4, the first


def test_tasks_that_generate_and_combinations_are_refused(bench, toy_task):
    class Generates(type(toy_task)):
        generates = True

    method = AveragedWindows()
    assert method.unsupported(toy_task) is None
    assert "generated token by token" in method.unsupported(Generates())
    with pytest.raises(UserError, match="averaged_windows reads a context several times"):
        bench("averaged_windows+slow_clock")


def test_it_runs_on_the_training_of_vanilla(toy_cells, run_toy):
    cells = toy_cells("vanilla", "averaged_windows", train_steps=[2], query_grid=())
    outcome, store = run_toy(cells)
    assert not outcome.failed and cells[0].training == cells[1].training
    rows = {(r["method"], r["eval_length"]): r for r in read([store.root]).table.to_pylist()}
    assert rows["averaged_windows", 16]["value"] == rows["vanilla", 16]["value"]
    assert rows["averaged_windows", 48]["value"] != rows["vanilla", 48]["value"]
    assert rows["averaged_windows", 48]["assumed_length"] == 48
