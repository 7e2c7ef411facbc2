"""How the two sides of a comparison are written."""

import subprocess

import pandas as pd
import pytest

from lgbench.answers.selection import read_selection
from lgbench.errors import UserError


def test_a_folder_a_commit_and_a_part_are_read():
    assert read_selection("results").folder.name == "results"
    found = read_selection("main~3:a/results@method=vanilla,seed=0|1")
    assert (found.commit, str(found.folder)) == ("main~3", "a/results")
    assert found.where == {"method": ("vanilla",), "seed": ("0", "1")}


def test_commas_within_brackets_belong_to_a_label():
    found = read_selection("results@label=clock_law[write=all,decay=all],seed=0")
    assert found.where == {"label": ("clock_law[write=all,decay=all]",), "seed": ("0",)}


def test_a_folder_whose_name_looks_like_a_selection_is_that_folder(tmp_path):
    odd = tmp_path / "v1:runs@seed=0"
    odd.mkdir()
    assert read_selection(str(odd)).folder == odd
    inside = read_selection(f"{tmp_path}@seed=1")
    assert inside.folder == tmp_path and inside.where == {"seed": ("1",)}


def test_rows_are_selected_by_numbers_as_by_words():
    rows = pd.DataFrame({"seed": [0, 1, 2], "learning_rate": [1e-3, 1e-3, 0.5], "method": ["a", "b", "a"]})
    assert list(read_selection("r@seed=0|2").of(rows)["seed"]) == [0, 2]
    assert list(read_selection("r@learning_rate=0.001,method=a").of(rows)["seed"]) == [0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("results@colour=red", "not selected by 'colour'"),
        ("results@seed=", "expected COLUMN=VALUE"),
        ("main:", "expected a results folder"),
        ("--output=x:results", "expected a results folder"),
        ("", "expected a results folder"),
    ],
)
def test_what_cannot_be_read_is_said_with_an_example(text, words):
    with pytest.raises(UserError, match=words):
        read_selection(text)


@pytest.fixture
def repository(tmp_path, store, monkeypatch):
    """A git repository with a results folder that was committed once and changed since."""

    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "-q")
    git("config", "user.email", "someone@example.org")
    git("config", "user.name", "someone")
    store(tmp_path / "sub" / "results", lambda length, seed: 0.5)
    git("add", "-A")
    git("commit", "-qm", "first")
    for path in (tmp_path / "sub" / "results").rglob("*.parquet"):
        path.unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_of_a_commit_are_read_without_touching_the_folder(repository):
    with read_selection("HEAD:sub/results").checked_out() as folder:
        assert len(list(folder.rglob("*.parquet"))) == 3
    assert not list((repository / "sub").rglob("*.parquet")) and not folder.exists()


@pytest.mark.parametrize("text", ["nonsense:sub/results", "HEAD:elsewhere/results"])
def test_an_unknown_commit_or_folder_is_one_line(repository, text):
    with pytest.raises(UserError, match="cannot read") as caught, read_selection(text).checked_out():
        pass
    assert "\n" not in str(caught.value)
