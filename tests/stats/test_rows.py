"""Bad rows are named, left out, and never fatal."""

import numpy as np
import pandas as pd
import pytest

from lgbench.stats.rows import CONTEXT_MEANS, HORIZON, describe_faults, fill_task_facts, find_faults

PERPLEXITY = {"combine": "exp_mean", "best": 1.0, "chance": 20.0, "higher_is_better": False}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed": None}, "no seed"),
        ({"train_length": 0}, "train_length"),
        ({"eval_length": 0}, "length is not above 0"),
        ({"value": 1.2}, "above the best"),
        ({"chance": 1.0}, "chance equals"),
        ({"chance": 2.0}, "chance is better"),
        ({"chance": None}, "chance is not a number"),
        ({"best": np.inf}, "best value is not a number"),
        (PERPLEXITY | {"value": 0.5}, "above the best"),
        (PERPLEXITY | {"chance": -20.0, "higher_is_better": True}, "chance|above"),
        ({"item_values": [0.5, np.nan]}, "item"),
    ],
    ids=lambda part: "-".join(part) if isinstance(part, dict) else "",
)
def test_a_faulty_row_is_found_and_its_neighbours_are_not(rows, changes, why):
    frame = rows(lambda length, seed: 0.5, lengths=[512, 1024], seeds=(0,)).assign(task="t")
    bad = frame.iloc[:1].assign(cell="bad").astype(object)
    for name, value in changes.items():
        bad[name] = pd.Series([value], index=bad.index, dtype=object)
    faults = find_faults(pd.concat([frame.astype(object), bad], ignore_index=True))
    assert faults.iloc[:2].tolist() == ["", ""]
    assert pd.Series(faults.iloc[2]).str.contains(why).all()


def test_faults_are_told_by_cell(rows):
    frame = rows(lambda length, seed: 0.5, lengths=[512, 1024], seeds=(0,)).assign(task="t", chance=1.0)
    assert describe_faults(frame, find_faults(frame)) == [
        "t, vanilla, cell vanilla0: 2 rows left out, since chance equals the best value"
    ]


def test_rounding_above_the_best_is_no_fault(rows):
    frame = rows(lambda length, seed: 1 + 1e-8, lengths=[512], seeds=(0,))
    assert (find_faults(frame) == "").all()


def test_rows_that_keep_no_items_are_fine(rows):
    frame = rows(lambda length, seed: 0.5, lengths=[512, 1024], seeds=(0,))
    frame["item_values"] = [None, np.array([])]
    assert (find_faults(frame) == "").all()


def test_columns_that_old_rows_lack_get_the_defaults_and_null_means_the_same(rows):
    frame = rows(lambda length, seed: 0.5, lengths=[512, 1024], seeds=(0,))
    filled = fill_task_facts(frame)
    assert set(filled["horizon"]) == {HORIZON} and set(filled["context_means"]) == {CONTEXT_MEANS}
    assert filled["item_clusters"].isna().all()
    assert fill_task_facts(frame.assign(horizon=[64.0, np.nan]))["horizon"].tolist() == [64.0, HORIZON]
