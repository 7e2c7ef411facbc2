"""Weights, resumable states and fits: what is damaged is named, put aside and made again."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lgbench.errors import UserError
from lgbench.run import checkpoint
from lgbench.store import Store, read

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([True, False])}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_tensors_and_facts_come_back(tmp_path):
    checkpoint.save(tmp_path / "x", TENSORS, {"step": 3, "name": "Δ"})
    tensors, facts = checkpoint.load(tmp_path / "x")
    assert same(tensors, TENSORS) and facts == {"step": 3, "name": "Δ"}
    assert checkpoint.load(tmp_path / "missing") is None


def test_files_without_a_checksum_are_accepted(tmp_path):
    save_file(TENSORS, tmp_path / "old", metadata={"facts": json.dumps({"step": 3})})
    tensors, facts = checkpoint.load(tmp_path / "old")
    assert same(tensors, TENSORS) and facts == {"step": 3}


def test_a_damaged_file_is_named_and_put_aside(tmp_path, capsys):
    path = tmp_path / "step-000000003.safetensors"
    checkpoint.save(path, TENSORS, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert checkpoint.load(path) is None
    assert not path.exists() and (tmp_path / f"{path.name}.damaged").read_bytes() == content
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("metadata", [{}, {"facts": "{}", "more": ""}, {"facts": "no JSON"}], ids=str)
def test_a_file_with_other_metadata_is_damaged(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "x", metadata=metadata or None)
    assert checkpoint.load(tmp_path / "x") is None
    assert (tmp_path / "x.damaged").exists()


def test_a_damaged_file_that_cannot_be_renamed_is_an_error_in_words(tmp_path):
    (tmp_path / "x").write_bytes(b"torn")
    (tmp_path / "x.damaged").mkdir()
    with pytest.raises(UserError, match=r"cannot put the damaged file .*x aside"):
        checkpoint.load(tmp_path / "x")


def test_the_digest_of_tensors_depends_on_names_and_values_alone():
    digest = checkpoint.tensors_digest(TENSORS)
    assert digest == checkpoint.tensors_digest(dict(reversed(TENSORS.items())))
    changed = [
        {**TENSORS, "b": TENSORS["b"] + 1},
        {"b": TENSORS["b"]},
        {"c": TENSORS["b"], "a": TENSORS["a"]},
    ]
    assert len({digest, *map(checkpoint.tensors_digest, changed)}) == 4


def numbers(store):
    return [(row["value"], row["weights_digest"]) for row in read([store.root]).table.to_pylist()]


def test_damaged_weights_are_trained_again_to_the_same_numbers(run_toy, toy_cells, capsys):
    cells = toy_cells("vanilla", train_steps=[4])
    _, store = run_toy(cells)
    before = numbers(store)
    (path,) = (store.root / "checkpoints").rglob("*.safetensors")
    assert before[0][1] == checkpoint.tensors_digest(checkpoint.load(path)[0])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    store.path(cells[0].task, cells[0].key).unlink()
    outcome, store = run_toy(cells)
    assert outcome.finished == 1 and numbers(store) == before
    assert f"{path} is damaged" in capsys.readouterr().err


def test_run_says_why_it_measures_a_file_again(run_toy, toy_cells, monkeypatch):
    cells = toy_cells("vanilla,toy_shrink", train_steps=[4])
    _, store = run_toy(cells)
    path = store.path(cells[1].task, cells[1].key)
    path.write_bytes(path.read_bytes()[:-9])
    said = []
    monkeypatch.setattr("lgbench.run.progress.Progress._say", lambda self, line, *_: said.append(line))
    outcome, _ = run_toy(cells)
    assert (outcome.finished, outcome.skipped_as_done) == (1, 1)
    assert [line for line in said if line.startswith(f"Measured again: {path}: damaged")]
    assert Store(store.root).finished(cells[1].task, cells[1].key)
