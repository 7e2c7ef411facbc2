"""`lgbench show` prints an evaluation item as it is, with what the answer is found in highlighted."""

import pytest
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


def test_parameters_of_the_task_are_given_as_in_a_run():
    assert shown("passkey", 300, param=["passkey.variant=repeated"]).count("The grass is green.") > 1
    call = ["show", "--task", "passkey", "--length", "300", "-p", "passkey.variant=repeated"]
    assert "The grass is green." in CliRunner().invoke(app, call).stdout


def test_what_cannot_be_shown_is_refused_in_a_line(book):
    with pytest.raises(UserError, match="omniglot is not made of text, so there is none to show"):
        shown("omniglot", 64)
    with pytest.raises(UserError, match="--item 100: there are items 0 to 99"):
        shown("passkey", 300, 100, data=book)
    with pytest.raises(UserError, match="20 tokens is too short for passkey"):
        shown("passkey", 20, data=book)
    with pytest.raises(UserError, match="longer than every document"):
        shown("perplexity", 5000, data=book)
    with pytest.raises(UserError, match="one task at a time, got 2"):
        shown("passkey[variant=[natural,repeated]]", 300, data=book)
