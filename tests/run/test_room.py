"""Memory that runs out costs the lengths that do not fit, and nothing else."""

import numpy as np
import pytest
import torch

from lgbench.run import evaluate as evaluation
from lgbench.run.failures import is_out_of_memory
from lgbench.run.room import LEAST_PIECE, NoRoom, Room
from lgbench.store import read


def allocate_too_much():
    """What a CPU really says when there is no room."""
    torch.empty(2**60, dtype=torch.uint8)


@pytest.fixture
def cramped(toy_task, monkeypatch):
    """`cramped(n, k)` has room for `n` context tokens of all items together and for `k` queries of each."""
    make = toy_task.eval_set

    def limit(tokens, num_queries=100):
        def eval_set(num_items, seed):
            items = make(num_items, seed)
            context, queries = items.context, items.queries

            def checked(chosen, start, stop, length):
                if (chosen.stop - chosen.start) * (stop - start) > tokens:
                    allocate_too_much()
                return context(chosen, start, stop, length)

            def checked_queries(chosen, length, asked):
                if chosen.stop is not None and asked > num_queries:
                    allocate_too_much()
                return queries(chosen, length, asked)

            items.context, items.queries = checked, checked_queries
            return items

        monkeypatch.setattr(toy_task, "eval_set", eval_set)

    return limit


def points(store):
    """(axis, length, queries) → status and value of every row."""
    table = read([store.root]).table.select(["axis", "eval_length", "num_queries", "status", "value"])
    return {
        (r["axis"], r["eval_length"], r["num_queries"]): (r["status"], r["value"]) for r in table.to_pylist()
    }


GRID = dict(train_steps=[2], eval_lengths=(1, 16, 32, 96, 128), query_grid=(1, 4))


@pytest.mark.parametrize("method", ["vanilla", "toy_shrink", "transformer"])
def test_a_length_without_room_costs_itself_and_longer_ones_only(method, toy_cells, run_toy, cramped):
    cells = toy_cells(method, **GRID)
    _, whole = run_toy(cells, root="whole")
    cramped(40)
    _, store = run_toy(cells)
    found, all_of_them = points(store), points(whole)
    fits = {point for point in found if point[1] <= 32}
    assert {p: found[p][0] for p in found} == {p: "ok" if p in fits else "out_of_memory" for p in found}
    assert found.keys() == all_of_them.keys()
    for point in fits:
        assert found[point][1] == pytest.approx(all_of_them[point][1], rel=1e-5)


def test_rows_of_a_lost_length_say_where_they_are_and_why(toy_cells, run_toy, cramped):
    cramped(40)
    (cell,) = toy_cells("vanilla", **GRID)
    outcome, store = run_toy([cell])
    lost = [r for r in read([store.root]).table.to_pylist() if r["status"] == "out_of_memory"]
    assert [r["eval_length"] for r in lost] == [96, 128]
    for row in lost:
        assert row["value"] is None and row["num_queries"] == 8 and row["metric"] == "squared error"
        assert "can't allocate memory" in row["reason"]
    assert [(c.key, status) for c, status, _ in outcome.failed] == [(cell.key, "out_of_memory")]


def measured(store):
    """(axis, length, queries) → all columns of every row that has numbers."""
    rows = read([store.root]).table.to_pylist()
    return {(r["axis"], r["eval_length"], r["num_queries"]): r for r in rows if r["status"] == "ok"}


@pytest.mark.parametrize("method", ["vanilla", "toy_shrink", "transformer"])
def test_a_later_run_with_more_room_measures_the_lost_lengths_alone(method, toy_cells, run_toy, cramped):
    cells = toy_cells(method, **GRID)
    _, whole = run_toy(cells, root="whole")
    cramped(40)
    _, store = run_toy(cells)
    before = measured(store)
    cramped(10**6)
    outcome, store = run_toy(cells)
    assert outcome.finished == 1 and {status for status, _ in points(store).values()} == {"ok"}
    after = measured(store)
    assert len(before) == 5 and {point: after[point] for point in before} == before, "times included"
    assert points(store).keys() == points(whole).keys()
    for point, (_, value) in points(whole).items():
        assert after[point]["value"] == pytest.approx(value, rel=1e-5)


def test_a_later_run_with_less_room_or_a_failure_keeps_what_was_measured(toy_cells, run_toy, cramped):
    cells = toy_cells("vanilla", **GRID)
    cramped(40)
    _, store = run_toy(cells)
    before = measured(store)
    cramped(0)
    outcome, store = run_toy(cells)
    assert [status for _, status, _ in outcome.failed] == ["out_of_memory"]
    assert measured(store) == before and len(points(store)) == 7


def test_a_later_run_that_fails_keeps_what_was_measured(toy_cells, run_toy, cramped, monkeypatch):
    cells = toy_cells("vanilla", **GRID)
    cramped(40)
    _, store = run_toy(cells)
    before = measured(store)

    def fail(*_):
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr("lgbench.run.measure.evaluate", fail)
        run_toy(cells)
    assert measured(store) == before
    lost = {at: status for at, (status, _) in points(store).items() if at not in before}
    assert lost == {("context", 96, 8): "failed", ("context", 128, 8): "failed"}
    cramped(10**6)
    outcome, _ = run_toy(cells)
    assert outcome.finished == 1


def test_measuring_again_by_force_or_with_other_weights_keeps_nothing(
    toy_cells, run_toy, cramped, monkeypatch
):
    cells = toy_cells("vanilla", **GRID)
    cramped(40)
    _, store = run_toy(cells)
    before = measured(store)
    run_toy(cells, force=True)
    assert all(measured(store)[at]["eval_wall_s"] != row["eval_wall_s"] for at, row in before.items())
    before = measured(store)
    monkeypatch.setattr("lgbench.run.checkpoint.tensors_digest", lambda tensors: "others")
    run_toy(cells)
    assert all(measured(store)[at]["eval_wall_s"] != row["eval_wall_s"] for at, row in before.items())


def test_less_is_read_at_a_time_before_a_length_is_given_up(toy_cells, run_toy, cramped):
    cramped(128)  # of four items together, 32 tokens each
    outcome, store = run_toy(toy_cells("vanilla", **GRID))
    assert not outcome.failed and {status for status, _ in points(store).values()} == {"ok"}


def test_queries_without_room_cost_none_of_the_fewer_ones(toy_cells, run_toy, cramped):
    cramped(1000, num_queries=10)
    cells = toy_cells("vanilla", train_steps=[2], eval_lengths=(4, 8), query_grid=(1, 4, 12))
    _, store = run_toy(cells)
    found = {point[2]: status for point, (status, _) in points(store).items() if point[0] == "queries"}
    assert found == {1: "ok", 4: "ok", 12: "out_of_memory"}


def test_no_room_at_any_length_is_one_row(toy_cells, run_toy, cramped):
    cramped(0)
    outcome, store = run_toy(toy_cells("vanilla", **GRID))
    assert [status for _, status, _ in outcome.failed] == ["out_of_memory"]
    assert read([store.root]).table.num_rows == 1


def test_batches_are_halved_then_pieces():
    room = Room(4)
    batches, pieces = [], []

    def work():
        batches.append(next(room.batches(9)).stop)
        pieces.append(room.piece_of(1))
        allocate_too_much()

    with pytest.raises(NoRoom, match="no room for one item and 256 tokens"):
        room.fit(work, in_pieces=True)
    assert batches[:3] == [4, 2, 1] and set(batches[3:]) == {1}
    assert pieces[2:] == sorted(set(pieces), reverse=True) and pieces[-1] == LEAST_PIECE


def test_other_errors_are_not_tried_again():
    calls = []

    def work():
        calls.append(1)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Room(8).fit(work, in_pieces=True)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_failed_allocations_are_known_from_other_errors(error, memory):
    assert is_out_of_memory(error) is memory


def test_allocations_that_fail_on_a_cpu_are_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        allocate_too_much()
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as numpy_caught:
        np.empty(2**60, dtype=np.uint8)
    assert is_out_of_memory(numpy_caught.value)


def test_pieces_are_as_exact_as_the_whole(toy_cells, run_toy, monkeypatch):
    cells = toy_cells("vanilla", **GRID)
    _, whole = run_toy(cells, root="whole")
    monkeypatch.setattr(evaluation, "Room", lambda batch: Room(1, piece=16))
    _, store = run_toy(cells)
    for point, (status, value) in points(store).items():
        assert status == "ok" and value == pytest.approx(points(whole)[point][1], rel=1e-5)
