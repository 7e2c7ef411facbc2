"""Read a plan file: YAML of plain values, bounded in size and depth, in which nothing is said twice.

Anchors and aliases are fine. What grows without bound by them, contains itself, or has a tag that asks for
more than text, numbers, true, false, null, dates, lists and mappings is refused before anything is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lgbench.errors import UserError

MOST_BYTES = 1 << 20
"""Of a plan file."""
MOST_NODES = 100_000
"""Values and keys, those of aliases counted wherever they are used."""
MOST_LEVELS = 20
"""Lists and mappings within one another."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge")}


def read_yaml(path: Path, what: str) -> Any:
    """Return what a YAML file says.

    Args:
        path: the file.
        what: how errors call it, "--config plan.yaml".

    Raises:
        UserError: it cannot be read, is too large, is not UTF-8 or not YAML, repeats a key, has a key that is
            no text, contains itself, or has values of other types.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {what}: {reason}") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{what} has more than {MOST_BYTES:,} bytes; a plan is a page or two")
    try:
        return _parse(content.decode("utf-8-sig"))
    except _Refused as error:
        raise UserError(f"{what}: {error}") from None
    except RecursionError:
        raise UserError(f"{what}: more than {MOST_LEVELS} lists and mappings within one another") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:  # the last two: a year 0, `!!bool x`
        raise UserError(f"{what} is not YAML: {_one_line(error)}") from None


class _Refused(Exception):
    """YAML that is not taken, with the place."""

    def __init__(self, node: yaml.Node, problem: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {problem}")


def _parse(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(root: yaml.Node) -> None:
    """Walk over all values as they will be built; a bomb ends the walk at `MOST_NODES`."""
    seen, pending = 0, [(root, frozenset[int]())]
    while pending:
        node, within = pending.pop()
        seen += 1
        if seen > MOST_NODES:
            raise _Refused(node, f"more than {MOST_NODES:,} values, with those of its aliases")
        if id(node) in within:
            raise _Refused(node, "a value that contains itself")
        if len(within) >= MOST_LEVELS:
            raise _Refused(node, f"more than {MOST_LEVELS} lists and mappings within one another")
        inner = within | {id(node)}
        if isinstance(node, yaml.ScalarNode):
            if node.tag not in _SCALARS:
                kind = node.tag.removeprefix(_TAG)
                raise _Refused(node, f"a value of the type {kind}, which no option has")
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)
            pending += [(value, inner) for _, value in node.value]
        elif node.tag != _TAG + "seq":
            raise _Refused(node, f"a list of the type {node.tag.removeprefix(_TAG)}, which no option has")
        else:
            pending += [(item, inner) for item in node.value]


def _check_keys(node: yaml.MappingNode) -> None:
    """Keys are texts, each once; `<<` may bring others in."""
    if node.tag != _TAG + "map":
        raise _Refused(node, f"a mapping of the type {node.tag.removeprefix(_TAG)}, which no option has")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TAG + "str", _TAG + "merge"):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise _Refused(key, f"the key {shown} is no text; put it in quotes if it is a name")
        line = key.start_mark.line + 1
        if key.value in lines:
            raise _Refused(key, f"'{key.value}' is given twice, first in line {lines[key.value]}")
        lines[key.value] = line


def _one_line(error: Exception) -> str:
    """What is wrong and where, from an error of the YAML package or of a value in the file."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return f"{problem}{where}"
