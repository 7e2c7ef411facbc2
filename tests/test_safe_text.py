"""Text of others does nothing but show itself: no markup, no directions, no way out of a folder."""

import ast
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgbench.safe_text import (
    excerpt,
    for_file_name,
    for_markdown,
    for_plot,
    for_rich,
    is_file_name,
    plain,
    plain_console,
)

ROOT = Path(__file__).parent.parent
SOURCES = [path for top in ("lgbench", "tasks", "methods") for path in sorted((ROOT / top).rglob("*.py"))]
ANYTHING = st.text(st.characters(codec=None), max_size=40)
FAST = settings(max_examples=200, database=None, derandomize=True, deadline=None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("exe.\u202egpj", "exe.\\u202egpj"),
        ("\u2066a\u2069", "\\u2066a\\u2069"),
        ("a\x9bb\x7f", "a\\x9bb\\x7f"),
        ("caf\udce9", "caf\\udce9"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("two\nlines\tand\r\na tab", "two lines and a tab"),
        ("снег 雪 שלג می\u200cخواهم Δ", "снег 雪 שלג می\u200cخواهم Δ"),
    ],
)
def test_hidden_characters_are_shown_by_their_number_and_letters_stay(text, shown):
    assert plain(text) == shown


def test_ends_of_lines_stay_where_lines_are_wanted():
    assert plain("a\tb\r\nc\x1b\n", lines=True) == "a\tb\nc\\x1b\n"


@FAST
@given(ANYTHING)
def test_plain_text_is_one_line_that_utf8_can_write_and_stays_as_it_is(text):
    shown = plain(text)
    assert shown.encode() and len(shown.splitlines()) == 1 if shown else not text
    assert plain(shown) == shown


@pytest.mark.parametrize("text", ["boom [/red]", "[b]old", "[kind=memory]", ":smile:", "[link=file:///x]y"])
def test_a_console_prints_brackets_and_names_between_colons(text):
    for shown in (text, for_rich(text)):
        out = io.StringIO()
        plain_console(file=out, width=200).print(shown)
        assert out.getvalue().strip() == text


def test_markdown_shows_signs_and_is_one_line():
    assert for_markdown("a_b*c|`d`[e](f)\n<g> & $h$ #1") == (
        "a\\_b\\*c\\|\\`d\\`\\[e\\](f) &lt;g> &amp; \\$h\\$ \\#1"
    )


@pytest.mark.parametrize("text", ["a$b_$c", "$\\frac{$", "100 %"])
def test_a_dollar_in_a_figure_is_a_dollar(text):
    from lgbench.report.style import compose, looks, new_figure

    with looks():
        figure, axes = new_figure()
        axes[0].set_title(text + "\x1b")
        compose(figure, axes, height_in=1, footer=[text])
        figure.savefig(io.BytesIO())
    shown = axes[0].title
    assert shown.get_text() == for_plot(text + "\x1b") == text + "\\x1b"
    assert not shown.get_parse_math()


@FAST
@given(ANYTHING, st.sets(st.sampled_from(["", "a", "b", "x"])))
def test_names_of_files_stay_in_their_folder_and_are_new(text, taken):
    name = for_file_name(text, {for_file_name(other) for other in taken})
    assert name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(name) < 140
    assert name not in {for_file_name(other) for other in taken}
    assert (Path("folder") / name).parent == Path("folder")


def test_texts_of_other_scripts_have_names_of_their_own():
    assert len({for_file_name(text) for text in ("данные", "данных", "雪", "", "a" * 300, "a" * 301)}) == 6
    assert for_file_name("Omniglot, small") == "omniglot-small"


@pytest.mark.parametrize(
    ("text", "right"),
    [("abc_1.json", True), ("../x", False), ("a/b", False), ("", False), ("..", False), ("a\n", False)],
)
def test_a_name_of_a_file_leads_nowhere_else(text, right):
    assert is_file_name(text) is right


def test_an_excerpt_shows_what_is_around_a_place():
    text = "a" * 50 + "X" + "b" * 50
    assert excerpt(text, 50, 11) == "…aaaaaXbbbbb…" and excerpt("short", 3) == "short"


def _calls():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def test_files_are_opened_as_utf8_or_as_bytes():
    """The encoding of the locale, which open() takes by itself, is ASCII on many machines."""
    wrong = []
    for path, node, name in _calls():
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        last = name.rpartition(".")[2]
        mode = named.get("mode") or next((a for a in node.args[:2] if _is_mode(a)), None)
        binary = mode is not None and "b" in ast.unparse(mode)
        opens = name in ("open", "io.open", "os.fdopen", "gzip.open") or (last == "open" and mode is not None)
        if name == "gzip.open":
            binary = mode is None or "t" not in ast.unparse(mode)
        temporary = last in ("NamedTemporaryFile", "TemporaryFile") and mode is not None
        texts = last in ("read_text", "write_text") or (
            last in ("run", "Popen", "check_output") and "text" in named
        )
        if "encoding" not in named and (texts or ((opens or temporary) and not binary)):
            wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert wrong == []


def _is_mode(node):
    return (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and set(node.value) <= set("rwaxbt+")
    )


def test_commands_print_in_one_place():
    """`say` and `plain_console` are the only ways to a terminal: nobody can forget to make text harmless."""
    wrong = []
    for path, node, name in _calls():
        home = path.name in ("cli_style.py", "safe_text.py")
        if (name.endswith("Console") or name == "typer.echo") and not home:
            wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
        if any(keyword.arg == "markup" and ast.unparse(keyword.value) == "True" for keyword in node.keywords):
            wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: markup")
    assert wrong == []
