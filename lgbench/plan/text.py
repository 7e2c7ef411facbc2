"""The small language in which plugins and their parameters are typed, read and written.

    truncated[low=512],prepended[tell=[0.5,2]]     several plugins with parameters
    family:Name[size=512]                          a member of a family, by the name that it has there
    first[size=512]+second[rate=2]                 a combination of plugins; parameters become `first.size`, …
    my_folder/my_gru.py[size=512]                  the plugin of a file, by its path
    truncated.low=256,512                          one parameter, without brackets, for `-p`

A plugin may be a member of a family, `family:name`. What follows the colon is taken as it is, in quotes where
it has one of , [ ] = +.

A value is a number, `true`, `false`, `null`, a list in brackets, or text. Quotes make text of anything; in
them a backslash makes the next character ordinary. Hyphens in names count as underscores.
"""

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from lgbench.errors import UserError
from lgbench.safe_text import excerpt

_EXAMPLE = "first[size=512,flag=true],second[rate=[0.5,2]]"
_EXAMPLE_P = "plugin.parameter=512"
_FILE = re.compile(r"(?<![^,+\s])[^\s,+=:\[\]]+\.py(?=\s*(?:[\[,+]|$))")
_RESERVED = ",[]="
MOST_CHARACTERS = 20_000
"""Of one text."""
MOST_LEVELS = 10
"""Lists within one another."""


def read_plugins(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and parameters of `NAME[PARAMETER=VALUE,...],NAME,...`; of a combination `a+b`, `a.PARAMETER`.

    Raises:
        UserError: the text does not have that form; the message gives the position, counted from 1.
    """
    return _Reader(text, _EXAMPLE).plugins()


def split_files(text: str) -> tuple[str, list[Path]]:
    """Return the text with names in place of paths of Python files, and these paths.

    Paths within brackets are values of parameters and stay.
    """
    files: list[Path] = []

    def named(found: re.Match[str]) -> str:
        before = text[: found.start()]
        if before.count("[") > before.count("]"):
            return found.group()
        files.append(Path(found.group()).expanduser())
        return files[-1].stem

    return _FILE.sub(named, text), files


def read_assignment(text: str) -> tuple[str, str, Any]:
    """Plugin, parameter and value of `PLUGIN.PARAMETER=VALUE[,VALUE...]`; several values become a list.

    Raises:
        UserError: the text does not have that form; the message gives the position, counted from 1.
    """
    return _Reader(text, _EXAMPLE_P).assignment()


def read_ranges(value: Any) -> list[tuple[int, int]]:
    """Ranges of whole numbers, both ends inclusive, from what was typed or stands in YAML.

        64            64 to 64
        16,64         16 to 64
        16-64,64      two ranges: 16 to 64, and 64 to 64

    Raises:
        ValueError: something else, or more than two numbers without a hyphen, which could mean either.
    """
    parts = value.split(",") if isinstance(value, str) else value
    parts = list(parts) if isinstance(parts, list | tuple) else [parts]
    found = [_range(part) for part in parts]
    if len(found) > 1 and not any(isinstance(part, list | tuple) or "-" in str(part)[1:] for part in parts):
        if len(found) > 2:
            raise ValueError("several ranges are written LOW-HIGH, e.g. 16-64,64-64")
        return [(found[0][0], found[1][1])]
    return found


def _range(part: Any) -> tuple[int, int]:
    if isinstance(part, list | tuple) and len(part) == 2 and all(isinstance(end, int) for end in part):
        return part[0], part[1]
    matched = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", str(part))
    if matched is None:
        raise ValueError("takes whole numbers, or ranges of them as in 16-64")
    low, high = matched[1], matched[2] or matched[1]
    return int(low), int(high)


def write_value(value: Any) -> str:
    """Text that reads as this value: None, a bool, number or string, or a list or tuple of these."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(write_value(item) for item in value) + "]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    word = str(value)
    bare = word and word == word.strip() and word[0] not in "'\"" and not set(word) & set(_RESERVED)
    if bare and isinstance(_literal(word), str):
        return word
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


def _literal(word: str) -> Any:
    """A number, true, false or null as JSON has them; any other word is itself."""
    try:
        value = json.loads(word)
    except ValueError:
        return word
    return word if isinstance(value, dict | list | str) else value


class _Reader:
    """Recursive descent over one text."""

    def __init__(self, text: str, example: str) -> None:
        self.text, self.example, self.at, self.level = text, example, 0, 0
        if len(text) > MOST_CHARACTERS:
            self._fail(f"more than {MOST_CHARACTERS:,} characters", MOST_CHARACTERS)

    def plugins(self) -> list[tuple[str, dict[str, Any]]]:
        requests = [self._plugin()]
        while self._skip(","):
            requests.append(self._plugin())
        self._end("',' or '['")
        return requests

    def assignment(self) -> tuple[str, str, Any]:
        plugin = self._word("the name of a plugin")
        self._expect(".", f"'.' and a parameter after '{plugin}'")
        key = self._word("the name of a parameter")
        self._expect("=", f"'=' after '{key}'")
        values = [self._value(key)]
        while self._skip(","):
            values.append(self._value(key))
        self._end("','")
        return plugin, key, values[0] if len(values) == 1 else values

    def _plugin(self) -> tuple[str, dict[str, Any]]:
        parts = [self._part()]
        while self._skip("+"):
            parts.append(self._part())
        if len(parts) == 1:
            return parts[0]
        params = {f"{name}.{key}": value for name, own in parts for key, value in own.items()}
        return "+".join(name for name, _ in parts), params

    def _part(self) -> tuple[str, dict[str, Any]]:
        name: str = self._word("the name of a plugin")
        if self._skip(":"):
            name = f"{name}:{self._member(name)}"
        params: dict[str, Any] = {}
        if not self._skip("["):
            return name, params
        while not self._skip("]"):
            if params:
                self._expect(",", "',' or ']'")
            start, key = self.at, self._word("the name of a parameter and '='")
            self._expect("=", f"'=' after '{key}'")
            if key in params:
                self._fail(f"{key} is given twice; for a grid write {key}=[VALUE,VALUE]", start)
            params[key] = self._value(key)
        return name, params

    def _member(self, family: str) -> str:
        if self._peek() in ("'", '"'):
            return self._quoted()
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in _RESERVED + "+":
            self.at += 1
        name = self.text[start : self.at].strip()
        if not name:
            self._fail(f"expected a name after '{family}:'", start)
        return name

    def _value(self, key: str) -> Any:
        if self._skip("["):
            return self._list(key)
        if self._peek() in ("'", '"'):
            return self._quoted()
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in _RESERVED:
            self.at += 1
        word = self.text[start : self.at].strip()
        if self._peek() == "=":
            self._fail("expected ',' before the next parameter, or quotes around a value with '='")
        if not word:
            self._fail(f"expected a value for {key}")
        return _literal(word)

    def _list(self, key: str) -> list[Any]:
        values: list[Any] = []
        self.level += 1
        if self.level > MOST_LEVELS:
            self._fail(f"more than {MOST_LEVELS} lists within one another", self.at - 1)
        while not self._skip("]"):
            if values:
                self._expect(",", "',' or ']'")
            values.append(self._value(key))
        self.level -= 1
        return values

    def _quoted(self) -> str:
        start, quote = self.at, self.text[self.at]
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != quote:
            self.at += 2 if self.text[self.at] == "\\" else 1
        if self.at >= len(self.text):
            self._fail(f"this {quote} is never closed", start)
        self.at += 1
        return re.sub(r"\\(.)", r"\1", self.text[start + 1 : self.at - 1], flags=re.DOTALL)

    def _word(self, what: str) -> str:
        self._peek()
        start = self.at
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in "_-"):
            self.at += 1
        word = self.text[start : self.at].replace("-", "_")
        if not word.isidentifier():
            self._fail(f"expected {what}", start)
        return word

    def _peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _skip(self, character: str) -> bool:
        found = self._peek() == character
        self.at += found
        return found

    def _expect(self, character: str, what: str) -> None:
        if not self._skip(character):
            self._fail(f"expected {what}")

    def _end(self, what: str) -> None:
        if self._peek():
            self._fail(f"expected {what} or the end")

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        got = f"'{self.text[at]}'" if at < len(self.text) else "the end"
        where = f"at character {at + 1} ({got})"
        shown = excerpt(self.text, at, 200)
        raise UserError(f"cannot read '{shown}' {where}: {problem}. A correct example: {self.example}")
