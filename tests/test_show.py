"""`lgbench show` prints an evaluation item as it is, with what the answer is found in highlighted."""

import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.errors import UserError
from lgbench.show import show

ON, OFF = "\x1b[1;30;43m", "\x1b[0m"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("The old man went home. He slept well. Nobody woke. " * 40)
    return str(path)


def shown(*args, **kwargs):
    """What a terminal gets."""
    console = Console(force_terminal=True, color_system="standard", width=100, record=True, quiet=False)
    with console.capture() as captured:
        show(*args, console=console, **kwargs)
    return captured.get()


def test_a_passkey_item_is_shown_with_its_needle_highlighted_its_prompt_answer_and_facts(book):
    text = shown("passkey", 300, 1, data=book)
    _, found, rest = text.partition(f"{ON}The pass key is ")
    assert found and text.startswith("context: 300 tokens ")
    code = rest[:5]
    assert rest.startswith(f"{code}. Remember it. {code} is the pass key. {OFF}") and code.isdigit()
    assert "There is an important pass key hidden inside a lot of irrelevant text." in text
    assert "\n\nAnswer: \n" in text and f"\n{ON}{code}{OFF}\n" in text
    assert "depth 0.25, needle " in text


def test_a_perplexity_item_is_shown_with_the_tokens_to_be_predicted(book):
    text = shown("perplexity", 60, data=book)
    assert "context: 60 tokens" in text and "next tokens, to be predicted" in text
    assert "book 0, offset " in text and ON not in text


def test_document_tasks_are_shown_too():
    result = CliRunner().invoke(
        app, ["show", "--task", "document_retrieval", "--length", "3", "--data", "procedural"]
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("<|Document ") == 3 and "|>" in result.output and "place " in result.output


def test_the_length_is_one_that_the_task_has_where_none_is_given():
    for task in ("document_retrieval", "multidoc_qa"):
        result = CliRunner().invoke(app, ["show", "--task", task, "--data", "procedural"])
        assert result.exit_code == 0 and "<|Document " in result.output, result.output


def test_an_image_is_drawn_in_the_terminal_and_saved_as_a_picture(tmp_path):
    call = ["show", "--task", "omniglot", "--data", "procedural", "--out", str(tmp_path / "item.png")]
    result = CliRunner().invoke(app, call, env={"COLUMNS": "60"})
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "█" in line]
    assert 5 < len(lines) < 40 and max(map(len, lines)) <= 60
    ink = 1 - np.asarray(Image.open(tmp_path / "item.png"), dtype=float) / 255
    assert ink.shape[0] == ink.shape[1] and 0.01 < ink.mean() < 0.5
    refused = CliRunner().invoke(app, ["show", "--task", "marked_recall", "--out", "x.png"])
    assert refused.exit_code == 2 and "--out saves a picture" in str(refused.output)


def test_symbols_are_shown_by_their_numbers():
    result = CliRunner().invoke(app, ["show", "--task", "marked_recall", "--length", "16"])
    context = re.search(r"context, tokens: 16 tokens.*\n([\d ]+)\n", result.output)[1].split()
    target = re.search(r"targets, .*\n([-\d ]+)\n", result.output)[1].split()[-1]
    assert len(context) == 16 and context[context.index("8") + 1] == target  # what follows the mark


def test_parameters_of_the_task_are_given_as_in_a_run():
    assert shown("passkey", 300, param=["passkey.variant=repeated"]).count("The grass is green.") > 1
    call = ["show", "--task", "passkey", "--length", "300", "-p", "passkey.variant=repeated"]
    assert "The grass is green." in CliRunner().invoke(app, call).stdout


def test_what_cannot_be_shown_is_refused_in_a_line(book):
    with pytest.raises(UserError, match="--item 100: there are items 0 to 99"):
        shown("passkey", 300, 100, data=book)
    with pytest.raises(UserError, match="20 tokens is too short for passkey"):
        shown("passkey", 20, data=book)
    with pytest.raises(UserError, match="longer than every document"):
        shown("perplexity", 5000, data=book)
    with pytest.raises(UserError, match="one task at a time, got 2"):
        shown("passkey[variant=[natural,repeated]]", 300, data=book)
