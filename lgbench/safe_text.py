"""Show text that others wrote (names, titles, paths, messages) as it is, wherever text is shown.

    plain           one line of a terminal or a log; also the first step of every other form
    for_rich        a `rich` console
    for_markdown    a table or a paragraph of Markdown
    for_plot        a figure
    for_file_name   a part of a file's name

A terminal obeys escape characters, and characters of direction make `gpj.exe` of `exe.jpg`. Such characters
are shown by their number: `\\x1b`, `\\u202e`. Letters of any script stay as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # blanks, directions
    "\ud800-\udfff"  # halves of pairs, which UTF-8 cannot write: bytes of a path, say
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f"  # marks and tags that nobody sees
    "]"
)
"""Characters without a shape of their own. Joiners (U+200C, U+200D) stay: they shape letters of Persian and
of Indian scripts."""
_LAYOUT = re.compile(r"\r\n|[\n\r\t]")
_MARKDOWN = re.compile(r"[\\|*_`\[\]$~#]")
_LONGEST_NAME = 120


def plain(text: object, *, lines: bool = False) -> str:
    """Return text in which every hidden character is shown by its number.

    Args:
        text: anything that has a text.
        lines: keep ends of lines and tabs; else each becomes a blank, so that the text is one line.
    """
    shown = str(text)
    if shown.isascii() and shown.isprintable():  # nearly all of it: nothing to show
        return shown
    if not lines:
        return _HIDDEN.sub(_number, _LAYOUT.sub(" ", shown))
    return "\n".join(
        "\t".join(_HIDDEN.sub(_number, part) for part in line.split("\t"))
        for line in shown.replace("\r\n", "\n").split("\n")
    )


def for_rich(text: object, style: str = "", *, lines: bool = False) -> Text:
    """Return text in which brackets are no markup and `:name:` is no picture."""
    from rich.text import Text

    return Text(plain(text, lines=lines), style)


def plain_console(**options: Any) -> Console:
    """Return a `rich` console to which a string is what it says: no markup, no pictures, no colours by guess.

    Args:
        **options: those of `rich.console.Console`.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def for_markdown(text: object) -> str:
    """Return text on one line that Markdown and HTML show as it is."""
    shown = " ".join(plain(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKDOWN.sub(r"\\\g<0>", shown)


def for_plot(text: object) -> str:
    """Return text for a figure made in `lgbench.report.style.looks`, where `$` is a dollar sign."""
    return plain(text, lines=True)


def for_file_name(text: object, taken: Collection[str] = ()) -> str:
    """Return small Latin letters, digits and hyphens that stand for a text in a file's name, never empty.

    Where letters of other scripts are lost, the text is too long, or the name is taken, a hash of the text is
    its end. The same text and the same `taken` give the same name.
    """
    shown = str(text)
    name = re.sub(r"[^a-z0-9]+", "-", shown.lower()).strip("-")
    lossy = not shown.isascii() or len(name) > _LONGEST_NAME or not name
    digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()
    unique = f"{name[:_LONGEST_NAME]}-{digest[:8]}".strip("-") if lossy or name in taken else name
    number = 2
    while unique in taken:
        unique = f"{name[:_LONGEST_NAME]}-{digest[:8]}-{number}".strip("-")
        number += 1
    return unique


def is_file_name(text: str) -> bool:
    """Whether this is one plain name: joined to a folder, it stays in the folder."""
    return re.fullmatch(r"\w[\w.+-]*", text) is not None


def excerpt(text: str, at: int = 0, longest: int = 80) -> str:
    """Return the part of a long text around a position, with … where something was left out."""
    if len(text) <= longest:
        return text
    start = max(0, min(at - longest // 2, len(text) - longest))
    stop = start + longest
    return "…" * (start > 0) + text[start:stop] + "…" * (stop < len(text))


def _number(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
