"""Published rows find their keys again when what makes a key has changed."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lgbench.errors import UserError
from lgbench.plan.keys import new_keys

PUBLISHED = Path(__file__).parents[2] / "results" / "rows"


def first_row(path):
    return pq.read_table(path).slice(0, 1).to_pylist(maps_as_pydicts="strict")[0]


def test_every_published_file_has_keys_of_its_own_today():
    rows = [first_row(path) for path in sorted(PUBLISHED.rglob("*.parquet"))]
    keys = [new_keys(row) for row in rows]
    assert len(rows) >= 67 and len({cell for cell, _ in keys}) == len(rows)
    pairs = {(row["training"], training) for row, (_, training) in zip(rows, keys, strict=True)}
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})


def test_every_published_file_is_named_by_its_key_and_knows_its_training():
    for path in sorted(PUBLISHED.rglob("*.parquet")):
        row = first_row(path)
        assert new_keys(row) == (path.stem, row["training"]), path.name


def test_the_shortest_context_that_a_task_learnt_from_its_data_is_part_of_the_key(
    toy_cells, toy_task, tmp_path
):
    from lgbench.run.measure import unmeasured_row
    from lgbench.store import Store

    cell = toy_cells("vanilla")[0]
    cell = replace(cell, training=replace(cell.training, low=cell.training.low + 2))
    row = unmeasured_row(cell, toy_task, Store(tmp_path), "failed", "")
    assert row["train_low"] == cell.training.low
    assert new_keys(row) == (cell.key, cell.training.key)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("vanilla", {}),
        ("vanilla", {"backbone": ["mamba2[head_dim=8]"], "d_state": [6], "eval_at_steps": [4]}),
        ("decoder_transformer[position=alibi]", {}),
        ("transformer", {}),
        ("prepended[tell=2]", {"seeds": [3]}),
        ("mambaextend[steps=2]", {"eval_lengths": (4, 40)}),
    ],
)
def test_a_row_written_today_gives_the_keys_of_its_cell(toy_cells, toy_task, tmp_path, method, more):
    from lgbench.run.measure import unmeasured_row
    from lgbench.store import Store

    cell = toy_cells(method, **more)[0]
    row = unmeasured_row(cell, toy_task, Store(tmp_path), "failed", "")
    assert new_keys(row) == (cell.key, cell.training.key)


def test_a_row_that_started_from_a_checkpoint_is_not_guessed(toy_cells, toy_task, tmp_path):
    row = first_row(next(PUBLISHED.rglob("*.parquet")))
    row["recipe"]["pretrained"] = '"abc"'
    row["backbone_params"] = None
    with pytest.raises(UserError, match="started from a checkpoint"):
        new_keys(row)
