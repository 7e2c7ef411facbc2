"""From what was typed about plugins to validated parameters, and back to a label.

The steps are `parse_plugins`, `merge` (with `-p`), `expand` (grids) and `resolve` (validation). A list is a
grid: `prepended[tell=[0.5,2]]` asks for two runs. A parameter that is itself a list goes into a grid of one,
such as `widths=[[16,32]]`.
"""

import itertools
import json
import math
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lgbench.errors import UserError
from lgbench.plan.text import read_assignment, read_plugins, write_value

MOST_POINTS = 100_000
"""Of the grid of one plugin."""

_LIMITS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "multiple_of": "a multiple of {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "pattern": "of the form {}",
}
_OUT_OF_RANGE = ("greater_than", "less_than", "multiple_of", "too_", "string_too_", "string_pattern_mismatch")
_WRONG_TYPE = ("_type", "_parsing", "_from_float", "_size", "literal_error", "enum")


@dataclass(frozen=True, slots=True)
class PluginRequest:
    """A plugin and the parameters asked for, not yet validated; a value that is a list stands for a grid."""

    name: str
    params: Mapping[str, Any]


class ParamInfo(NamedTuple):
    """One parameter of a plugin in words, for help texts; `range` is empty if there is none."""

    name: str
    type: str
    range: str
    default: str
    description: str


def parse_plugins(text: str) -> list[PluginRequest]:
    """Read `NAME[PARAMETER=VALUE,...],NAME,...`; hyphens in names count as underscores.

    Raises:
        UserError: the text does not have that form; the message gives the position, counted from 1.
    """
    return [PluginRequest(name, params) for name, params in read_plugins(text)]


def merge(
    assignments: Sequence[str], tasks: Sequence[PluginRequest], methods: Sequence[PluginRequest]
) -> tuple[list[PluginRequest], list[PluginRequest]]:
    """Apply the `-p` options to the tasks and methods of a run; they win over what the requests say.

    An option for a method reaches it wherever it is: alone, and as a part of combinations.

    Raises:
        UserError: an option is malformed, given twice, or for a plugin that is not in the run or is both a
            task and a method.
    """
    of_tasks, of_methods = (
        {part for request in group for part in request.name.split("+")} for group in (tasks, methods)
    )
    extra: dict[str, dict[str, Any]] = {}
    for text in assignments:
        plugin, key, value = read_assignment(text)
        if plugin not in of_tasks | of_methods:
            running = ", ".join(sorted(of_tasks | of_methods)) or "no plugin"
            raise UserError(
                f"-p {text}: '{plugin}' is not in this run. It has: {running}. "
                'A backbone takes its parameters in brackets: --backbone "NAME[KEY=VALUE]"'
            )
        if plugin in of_tasks & of_methods:
            raise UserError(
                f"-p {text}: '{plugin}' is both a task and a method here; write {plugin}[{key}=...]"
            )
        if key in extra.setdefault(plugin, {}):
            raise UserError(f"-p {text}: {key} is given twice; a grid is written {plugin}.{key}=VALUE,VALUE")
        extra[plugin][key] = value
    merged = [
        [PluginRequest(request.name, {**request.params, **_own(request.name, extra)}) for request in group]
        for group in (tasks, methods)
    ]
    return merged[0], merged[1]


def _own(name: str, extra: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Those of the parameters by plugin that are for this one; of a combination, `part.key`."""
    if "+" not in name:
        return dict(extra.get(name, {}))
    return {f"{part}.{key}": v for part in name.split("+") for key, v in extra.get(part, {}).items()}


def expand(request: PluginRequest) -> list[PluginRequest]:
    """One request for each point of the grid that the lists of `request` span; the last list varies fastest.

    Raises:
        UserError: a list is empty, or the grid has more than `MOST_POINTS`.
    """
    for key, value in request.params.items():
        if value == []:
            raise UserError(f"{request.name}: {key}=[] is an empty grid, it needs at least one value")
    axes = [value if isinstance(value, list) else [value] for value in request.params.values()]
    if (size := math.prod(map(len, axes))) > MOST_POINTS:
        raise UserError(f"{request.name}: its lists span a grid of {size:,} runs, at most {MOST_POINTS:,}")
    return [
        PluginRequest(request.name, dict(zip(request.params, point, strict=True)))
        for point in itertools.product(*axes)
    ]


def resolve(plugin: type[Any], params: Mapping[str, Any], kind: str, name: str) -> BaseModel:
    """Validate parameters against `plugin.Params`, defaults filled in.

    Args:
        plugin: the class of the plugin.
        params: what was asked for, without grids.
        kind: "task" or "method", for the message.
        name: of the plugin, for the message.

    Raises:
        UserError: a parameter is unknown, missing or has a value that it may not have.
    """
    fields = plugin.Params.model_fields
    for key, value in params.items():  # or true would count as 1
        if isinstance(value, bool) and key in fields and not _takes_bool(fields[key].annotation):
            wanted = _type_words(fields[key].annotation)
            raise UserError(f"{kind} '{name}' got {key}={write_value(value)}; {key} must be {wanted}")
    try:
        validated: BaseModel = plugin.Params.model_validate(dict(params))
        return validated
    except ValidationError as error:
        known = {info.name: info for info in describe_params(plugin)}
        problems = dict.fromkeys(_explain(problem, params, known) for problem in error.errors())
        raise UserError(f"{kind} '{name}' {'; it '.join(problems)}") from error


def describe_params(plugin: type[Any]) -> list[ParamInfo]:
    """The parameters of a plugin class in words, in the order of their declaration."""
    fields: dict[str, FieldInfo] = plugin.Params.model_fields
    return [
        ParamInfo(
            name,
            _type_words(field.annotation),
            _range_words(field),
            "" if field.is_required() else write_value(field.get_default(call_default_factory=True)),
            field.description or "",
        )
        for name, field in fields.items()
    ]


def describe_plugin(plugins: Any, name: str) -> list[str]:
    """A plugin and its parameters as lines of a terminal: name, type, range and default, then the meaning.

    Args:
        plugins: the registry that it is in.
        name: of the plugin.

    Raises:
        UserError: there is no such plugin, or it cannot be loaded.
    """
    kind, name = plugins.load(name), plugins.canonical(name)
    lines = [f"{name}: {plugins.summary(name)}"]
    for info in describe_params(kind):
        facts = _details(info.type, info.range, default=info.default)
        lines += [f"  {info.name} ({facts})", *textwrap.wrap(info.description, 96, initial_indent="      ",
                                                             subsequent_indent="      ")]  # fmt: skip
    return lines if len(lines) > 1 else [*lines, "  It has no parameters."]


def label(name: str, params: BaseModel) -> str:
    """Shortest text that `parse_plugins` and `expand` turn into these parameters, `truncated[low=512]`."""
    changed = {
        key
        for key, field in type(params).model_fields.items()
        if getattr(params, key) != field.get_default(call_default_factory=True)
    }
    changed = _shortest(params, changed)
    dumped = params.model_dump(mode="json", include=changed)
    texts = {
        key: f"={write_value([value] if isinstance(value, list) else value)}" for key, value in dumped.items()
    }
    if "+" not in name:
        return _with_params(name, [key + text for key, text in texts.items()])
    return "+".join(
        _with_params(
            part, [key.partition(".")[2] + t for key, t in texts.items() if key.startswith(f"{part}.")]
        )
        for part in name.split("+")
    )


def _shortest(params: BaseModel, changed: set[str]) -> set[str]:
    """Names of parameters that must be typed, where values that are not typed may depend on others."""

    fields = type(params).model_fields

    def lost(names: set[str]) -> set[str]:
        """What is another value where these alone are typed; everything where that is refused."""
        try:
            again = type(params).model_validate(params.model_dump(include=names))
        except (ValidationError, UserError):
            return {*fields}
        return {key for key in fields if getattr(again, key) != getattr(params, key)}

    while missing := lost(changed) - changed:
        changed = changed | missing
    for key in fields:
        if key in changed and not lost(changed - {key}):
            changed = changed - {key}
    return changed


def params_json(params: BaseModel, without: frozenset[str] = frozenset()) -> str:
    """All parameters but those `without`, as canonical JSON: equal parameters give equal text."""
    typed = type(params).model_validate(
        params.model_dump()
    )  # a default of 1 for a float becomes 1.0, as if typed
    return json.dumps(
        typed.model_dump(mode="json", exclude=set(without)), sort_keys=True, separators=(",", ":")
    )


def _with_params(name: str, params: Sequence[str]) -> str:
    return f"{name}[{','.join(params)}]" if params else name


def _explain(problem: Mapping[str, Any], params: Mapping[str, Any], known: Mapping[str, ParamInfo]) -> str:
    """One error of pydantic as what follows the name of the plugin."""
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        listed = ", ".join(
            f"{info.name} ({_details(info.type, info.range, default=info.default)})"
            for info in known.values()
        )
        return f"has no parameter '{key}'. It has: {listed or 'none'}."
    if key not in known:  # a validator of the whole
        return f"refuses these parameters: {_own_words(problem['msg'])}"
    info = known[key]
    if problem["type"] == "missing":
        return f"needs the parameter {key} ({_details(info.type, info.range)})"
    got = f"got {key}={write_value(params[key])}"
    if info.range and problem["type"].startswith(_OUT_OF_RANGE):
        return f"{got}; {key} must be {info.range} ({_details(info.type, default=info.default)})"
    if problem["type"].endswith(_WRONG_TYPE):
        brackets = ", written [[...]] since [...] is a grid" if "list of" in info.type else ""
        return f"{got}; {key} must be {info.type}{brackets} ({_details(info.range, default=info.default)})"
    return f"{got}; {_own_words(problem['msg'])} ({_details(info.type, info.range, default=info.default)})"


def _own_words(message: str) -> str:
    """The message of a validator without the label that pydantic puts before it."""
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _details(*words: str, default: str = "") -> str:
    return ", ".join([word for word in words if word] + ([f"default {default}"] if default else []))


def _type_words(annotation: Any) -> str:
    """A type as people would say it: "int or null", "l2 or mean", "list of float"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return _type_words(arguments[0])
    if origin is Literal:
        return " or ".join(write_value(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_words(argument) for argument in arguments)
    if origin in (list, tuple, set, frozenset):
        return "list of " + ", ".join(_type_words(item) for item in arguments if item is not Ellipsis)
    return getattr(annotation, "__name__", str(annotation))


def _takes_bool(annotation: Any) -> bool:
    """Whether true and false are values of this type."""
    if annotation in (Any, bool, object):
        return True
    if get_origin(annotation) is Literal:
        return any(isinstance(choice, bool) for choice in get_args(annotation))
    return get_origin(annotation) in (Annotated, Union, types.UnionType) and any(
        map(_takes_bool, get_args(annotation))
    )


def _range_words(field: FieldInfo) -> str:
    """The limits of a field: "0 to 1", "above 0", "at least 1, a multiple of 4"; empty if there are none."""
    limits = {
        name: limit
        for item in field.metadata
        for name in _LIMITS
        if (limit := getattr(item, name, None)) is not None
    }
    words = []
    if {"ge", "le"} <= limits.keys():
        words = [f"{limits.pop('ge')} to {limits.pop('le')}"]
    return ", ".join(words + [text.format(limits[name]) for name, text in _LIMITS.items() if name in limits])
