"""The window reads the end of a context, exactly, and nothing else."""

import numpy as np
import pytest
import torch

from lgbench.run.calibrate import fit_lengths
from lgbench.store import read


def test_contexts_that_fit_into_the_window_are_read_as_by_vanilla(bench):
    vanilla, window = bench("vanilla"), bench("last_window")
    for length in (1, 5, 16):
        assert torch.equal(vanilla.answer(length), window.answer(length))


def test_what_came_before_the_window_does_not_matter(bench):
    window, rng = bench("last_window"), torch.Generator().manual_seed(0)
    before = window.values()[48]
    copies = window.items.batch.context["copies"]
    copies[:, :32] = torch.randn(copies[:, :32].shape, generator=rng)
    np.testing.assert_array_equal(window.values()[48], before)
    copies[:, 32:33] += 1
    assert not np.array_equal(window.values()[48], before)


def test_the_window_equals_vanilla_on_the_end_of_the_context(bench):
    vanilla, window = bench("vanilla"), bench("last_window[factor=0.5]")
    queries, _ = window.items.queries(slice(None), 48, 8)
    with torch.no_grad():
        state = vanilla.model.read_context(window.items.context(slice(None), 40, 48, 48), None, 8)
        wanted = vanilla.model.answer_from(state, queries, 8, 8)
    assert torch.equal(window.answer(48), wanted)


def test_the_sequence_is_announced_with_the_length_of_the_window(bench, monkeypatch):
    window, seen = bench("last_window"), []
    monkeypatch.setattr(window.model.intervention, "begin", lambda mode, length, n: seen.append(length))
    window.values()
    assert set(seen) == {1, 5, 16}


def test_rows_say_what_was_kept_and_training_is_that_of_vanilla(toy_cells, run_toy):
    cells = toy_cells("vanilla", "last_window", train_steps=[2], query_grid=())
    outcome, store = run_toy(cells)
    assert not outcome.failed and cells[0].training == cells[1].training
    rows = {(r["method"], r["eval_length"]): r for r in read([store.root]).table.to_pylist()}
    assert rows["last_window", 16]["value"] == rows["vanilla", 16]["value"]
    assert rows["last_window", 48]["value"] != rows["vanilla", 48]["value"]
    assert rows["last_window", 48]["kept_tokens"] == [16 + 9] * 2
    assert rows["last_window", 16]["kept_tokens"] == rows["vanilla", 48]["kept_tokens"] is None
    assert rows["last_window", 48]["needs_length"] and rows["last_window", 48]["assumed_length"] == 48
    assert not rows["vanilla", 48]["needs_length"] and rows["vanilla", 48]["assumed_length"] is None


@pytest.mark.parametrize("text", ["slow_clock+last_window", "last_window+decimamba[layers=1,l_base=8]"])
@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_a_part_behind_the_window_is_told_the_length_that_the_row_says(bench, monkeypatch, text, factor):
    made, seen = bench(text.replace("last_window", f"last_window[factor={factor}]")), []
    begin = made.model.intervention.begin

    def watched(mode, length, num_protected):
        seen.append(length)
        begin(mode, length, num_protected)

    monkeypatch.setattr(made.model.intervention, "begin", watched)
    made.values()
    assert set(seen) == {made.method.assumed_length(n, 16) for n in (1, 5, 16, 48)}
    assert made.method.assumed_length(48, 16) == 16 * factor


def test_the_window_assumes_a_length_where_no_other_part_does(bench):
    for text in ("last_window", "last_window+vanilla", "vanilla+last_window", "longmamba+last_window"):
        assert bench(text).method.assumed_length(48, 16) == 48, text
    assert bench("last_window[factor=2.5]+longmamba").method.assumed_length(48, 16) == 40


@pytest.mark.parametrize(
    ("text", "fitted_at"),
    [
        ("last_window+mambaextend[steps=1,items=2]", None),
        ("last_window[factor=2]+mambaextend[steps=1,items=2]", 32),
        ("longmamba[items=2]+last_window", None),
        ("longmamba[items=2]+last_window[factor=2]", 32),
    ],
)
def test_a_part_behind_the_window_is_fitted_for_the_length_that_it_is_told(
    bench, toy_task, tmp_path, monkeypatch, text, fitted_at
):
    made, asked = bench(text, num_layers=2, eval_lengths=(48,)), []
    for _, part in made.method.parts(text):
        calibrate = part.calibrate
        monkeypatch.setattr(
            part, "calibrate", lambda m, d, at, run=calibrate: (asked.append(at), run(m, d, at))[1]
        )
    fits = fit_lengths(made.model, toy_task, made.method, made.recipe, name=text, seed=0, folder=tmp_path)
    if fitted_at is None:
        assert fits == {} and asked == []
    else:
        assert set(fits) == {48} and asked == [fitted_at]
        assert made.method.assumed_length(48, 16) == fitted_at
