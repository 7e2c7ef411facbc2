"""The sentence of a board says what breaks, what repairs it, and how sure that is."""

import pytest

from lgbench.report.answer import answers
from lgbench.report.curves import load

CURVES = {
    "vanilla": lambda length: 0.9 if length <= 1024 else 0.3,
    "good": lambda length: 0.9 if length <= 1024 else 0.8,
    "bad": lambda length: 0.9 if length <= 1024 else 0.05,
    "same": lambda length: 0.9 if length <= 1024 else 0.3,
}


@pytest.fixture
def told(root, store):
    """The sentence of a task on which `num_seeds` seeds of each curve were measured."""

    def make(num_seeds: int, higher_is_better: bool = True) -> str:
        for seed in range(num_seeds):
            for label, curve in CURVES.items():
                store(
                    root,
                    lambda n, curve=curve, seed=seed: (
                        curve(n) + 0.01 * seed if higher_is_better else 1 - curve(n)
                    ),
                    lengths=[256, 1024, 4096],
                    seed=seed,
                    label=label,
                    method=label,
                    higher_is_better=higher_is_better,
                    best=1.0 if higher_is_better else 0.0,
                    chance=0.1 if higher_is_better else 0.9,
                )
        (sentence,) = answers(load([root]).boards)
        return sentence

    return make


def test_it_names_what_the_baseline_loses_and_what_is_better_and_worse_there(told):
    sentence = told(3)
    assert (
        "trained at 1K, vanilla has" in sentence and "at 4K" in sentence and sentence.endswith("(3 seeds).")
    )
    better, worse = sentence.split("; better there: ")[1].split("; worse there: ")
    assert "good 0.8" in better and "bad 0.0" in worse and "same" not in sentence


def test_where_lower_is_better_the_sides_are_exchanged(told):
    better, worse = told(3, higher_is_better=False).split("; better there: ")[1].split("; worse there: ")
    assert better.startswith("good") and worse.startswith("bad")


def test_one_seed_is_said_to_be_unranked(told):
    sentence = told(1)
    assert sentence.endswith("(1 seed, unranked).") and "good" in sentence


def test_a_task_without_the_baseline_beyond_its_training_length_has_no_sentence(root, store):
    store(root, lambda n: 0.5, lengths=[256, 1024])
    assert answers(load([root]).boards) == []
