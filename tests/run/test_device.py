"""Small models get one thread of the CPU, unless the user decided."""

import pytest
import torch

from lgbench.errors import UserError
from lgbench.run.device import choose_device, choose_threads


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that were chosen."""
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return chosen


def test_small_models_get_one_thread(threads):
    choose_threads([16, 256])
    assert threads == [1]


def test_one_large_model_keeps_all_threads(threads):
    choose_threads([16, 768])
    assert threads == []


def test_the_environment_has_the_last_word(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    choose_threads([16])
    assert threads == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_that_is_not_there_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="Use --device cpu, or see: lgbench doctor"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")
