"""Rows of a probe may be published without the arrays beside them; arrays that are there must be those."""

import numpy as np
import pytest

from lgbench.store.readings import (
    Reading,
    Readings,
    all_readings,
    read_readings,
    readings_path,
    write_readings,
)
from lgbench.store.verify import verify


@pytest.fixture
def path(tmp_path):
    path = readings_path(tmp_path, "task", "cell", "probe", "key")
    path.parent.mkdir(parents=True)
    write_readings(path, Readings([Reading("mean norm", 1.5, 64)], {"map": np.ones((2, 3))}))
    return path


def problems(root):
    return [one.problem for one in verify(root) if one.kind == "readings"]


def test_rows_without_arrays_are_read_and_are_no_damage(path, tmp_path):
    path.with_suffix(".safetensors").unlink()
    (found,) = all_readings([tmp_path]).values()
    assert found.rows == [Reading("mean norm", 1.5, 64)] and found.arrays == {}
    assert problems(tmp_path) == [""]
    with pytest.raises(OSError):
        read_readings(path)


def test_other_arrays_than_were_written_are_damage(path, tmp_path):
    arrays = path.with_suffix(".safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\x01")
    assert len(problems(tmp_path)) == 1 and "arrays beside it" in problems(tmp_path)[0]


def test_damaged_rows_are_left_out(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    assert all_readings([tmp_path]) == {} and problems(tmp_path) != [""]
