"""What a run was asked for: command-line options and a YAML file as one validated record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from lgbench.errors import UserError
from lgbench.plan.options import BASELINE, OWN_AXES, RunOptions, axes, options, overrides
from lgbench.plan.params import PluginRequest, expand, merge, parse_plugins
from lgbench.plan.text import read_ranges, split_files
from lgbench.plan.yaml_file import read_yaml
from lgbench.plugins.registry import TASKS
from lgbench.recipe import About, Recipe
from lgbench.safe_text import excerpt

_PLUGINS = ("task", "method", "backbone")
_TEXTS = ("param", "plugin")
"""Lists whose texts may hold commas."""


class _Validated(BaseModel):
    """How values are read: a single one where a list is expected, and text such as 256,1024."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe_class: ClassVar[type[Recipe]] = Recipe

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: Any, info: Any) -> Any:
        option = options(cls.recipe_class)[info.field_name]
        one = value if isinstance(value, (list, tuple)) else [value]
        if option.kind in (int, float, tuple[int, int]) and any(isinstance(part, bool) for part in one):
            raise ValueError("takes numbers, not true or false")
        if not option.many or value is None:
            return value
        if option.name in _PLUGINS:
            return _plugin_texts(value)
        if option.kind == tuple[int, int]:
            return read_ranges(value)
        if isinstance(value, str) and option.name not in _TEXTS:
            return [part.strip() for part in value.split(",")]
        return value if isinstance(value, (list, tuple)) else [value]


def validated(recipe: type[Recipe]) -> type[_Validated]:
    """A record with a field for every option of a run whose numbers are those of this kind of recipe."""
    declared: dict[str, Any] = {}
    for option in options(recipe).values():
        limits = Field(**({} if option.of_recipe else _limits(option.about)))
        one = Annotated[option.kind, limits]
        kind = tuple[one, ...] if option.many else one
        default = Field(option.default, description=option.about.says)
        declared[option.name] = (kind if option.default is not None else kind | None, default)
    base = type("_OfRecipe", (_Validated,), {"recipe_class": recipe, "__module__": __name__})
    return create_model("Options", __base__=base, **declared)


def _limits(about: About) -> dict[str, float]:
    named = {"ge": about.least, "gt": about.above, "le": about.most}
    return {name: limit for name, limit in named.items() if limit is not None}


if TYPE_CHECKING:

    class _Options(RunOptions, _Validated):
        def __getattr__(self, name: str) -> Any: ...
else:
    _Options = validated(Recipe)


class RunConfig(_Options):
    """A run. In YAML the same names; `task` and `method` may also be mappings from name to parameters.

    Its fields are the options, see `lgbench.plan.options`.
    """

    def requests(self) -> tuple[list[PluginRequest], list[PluginRequest]]:
        """Tasks and methods with their parameters, grids expanded.

        Raises:
            UserError: text that cannot be read, or nothing to run.
        """
        tasks, methods = (
            [r for text in group for r in parse_plugins(text)] for group in (self.task, self.method)
        )
        for group, option, example in (
            (tasks, "--task", "omniglot"),
            (methods, "--method", f"{BASELINE},prepended"),
        ):
            if not group:
                raise UserError(f"nothing to run: give {option}, e.g. {option} {example}")
        tasks = self._with(tasks, "data", self.data)
        tasks = self._with(tasks, "tokenizer", self.tokenizer)
        tasks, methods = merge(self.param, tasks, methods)
        return [p for t in tasks for p in expand(t)], [p for m in methods for p in expand(m)]

    def _with(self, tasks: list[PluginRequest], parameter: str, value: str | None) -> list[PluginRequest]:
        """The tasks that have this parameter get the value; it is an error if none has it."""
        if value is None:
            return tasks
        takers = {t.name for t in tasks if parameter in TASKS.load(t.name).Params.model_fields}
        if not takers:
            names = ", ".join(t.name for t in tasks)
            raise UserError(f"--{parameter} {value}: has no effect on {names}")
        return [
            PluginRequest(t.name, {parameter: value, **t.params} if t.name in takers else t.params)
            for t in tasks
        ]

    @property
    def forced(self) -> bool | tuple[str, ...]:
        """What is run again though it is finished: everything, or cells by the beginnings of their keys."""
        return True if self.force else self.force_cells

    def recipe_overrides(self) -> dict[str, Any]:
        """Fields of `Recipe` that replace the preset's numbers."""
        names = overrides(self.recipe_class)
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def axes(self) -> dict[str, Any]:
        """Fields of `plan.Axes`."""
        found = {name: getattr(self, name) for name in axes(self.recipe_class)}
        found |= {name: getattr(self, name) for name in OWN_AXES}
        if self.backbone is not None:
            asked = [request for text in self.backbone for request in parse_plugins(text)]
            found["backbone"] = [one for request in asked for one in expand(request)]
        return found


def load_config(path: Path | None, options: Mapping[str, Any]) -> RunConfig:
    """A YAML file, if any, with the given options on top.

    Args:
        path: of the file.
        options: values by field; None and empty lists mean: not given.

    Raises:
        UserError: no such file, not a YAML mapping, an unknown field or a value out of range.
    """
    loaded = {} if path is None else read_yaml(path, f"--config {path}")
    if not isinstance(loaded, dict):
        raise UserError(
            f"--config {path} must be a mapping such as 'task: omniglot', got {type(loaded).__name__}"
        )
    return _validated(loaded, options)


def load_plan(path: Path | None, options: Mapping[str, Any]) -> list[RunConfig]:
    """Read a YAML file with one run, or a list of runs that are made one after another in one results folder.

    Arguments as of `load_config`; options win over every run of the list.

    Raises:
        UserError: as `load_config`; or the list is empty or has something else than mappings.
    """
    loaded = None if path is None else read_yaml(path, f"--config {path}")
    if not isinstance(loaded, list):
        return [load_config(path, options)]
    if not loaded or not all(isinstance(run, dict) for run in loaded):
        raise UserError(f"--config {path}: a list of runs needs at least one, each a mapping with a task")
    return plan_of(loaded, options)


def plan_of(runs: Sequence[Mapping[Any, Any]], options: Mapping[str, Any]) -> list[RunConfig]:
    """Validated runs from mappings with the fields of `RunConfig`; options win over each.

    Raises:
        UserError: an unknown field or a value out of range.
    """
    return [_validated(run, options) for run in runs]


def _validated(given: Mapping[Any, Any], options: Mapping[str, Any]) -> RunConfig:
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = str(name).replace("-", "_")
        if field in values:
            raise UserError(f"'{field}' is given twice, with hyphens and with underscores")
        values[field] = value
    values |= {name: value for name, value in options.items() if value is not None and value != []}
    try:
        return _named(RunConfig.model_validate(values))
    except ValidationError as error:
        first = {
            problem["loc"][0]: problem for problem in reversed(error.errors())
        }  # one a field says enough
        raise UserError("; ".join(_explain(problem) for problem in reversed(first.values()))) from None


def _named(config: RunConfig) -> RunConfig:
    """The same with names in place of files among tasks, methods and backbones; the files are plugins."""
    changed, files = {}, list(config.plugin)
    for option in _PLUGINS:
        split = [split_files(text) for text in getattr(config, option) or ()]
        found = [path for _, paths in split for path in paths]
        if found:
            changed[option], files = tuple(text for text, _ in split), files + found
    return config.model_copy(update={**changed, "plugin": tuple(dict.fromkeys(files))}) if changed else config


def _plugin_texts(value: Any) -> list[str]:
    """`omniglot`, `[a, b]` or `{omniglot: {augment: false}, other: null}` as texts for the parser."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [_plugin_text(name, params or {}) for name, params in value.items()]
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in _plugin_texts(one)]
    raise ValueError(f"expected a name, a list of names or a mapping from names to parameters, got {value!r}")


def _plugin_text(name: str, params: Mapping[str, Any]) -> str:
    from lgbench.plan.text import write_value

    if not isinstance(params, dict):
        raise ValueError(f"parameters of {name} must be a mapping, got {params!r}")
    parts = name.split("+")
    if len(parts) > 1:
        own: dict[str, dict[str, Any]] = {part: {} for part in parts}
        for key, value in params.items():
            part, _, parameter = str(key).partition(".")
            if part not in own or not parameter:
                raise ValueError(f"parameters of {name} are called {parts[0]}.PARAMETER and so on, not {key}")
            own[part][parameter] = value
        return "+".join(_plugin_text(part, own[part]) for part in parts)
    inner = ",".join(f"{key}={write_value(value)}" for key, value in params.items())
    return f"{name}[{inner}]" if inner else name


def _explain(problem: Mapping[str, Any]) -> str:
    field = str(problem["loc"][0])
    option, got = "--" + field.replace("_", "-"), excerpt(repr(problem["input"]), longest=200)
    if problem["type"] == "extra_forbidden":
        return f"no option '{field}'. There are: {', '.join(RunConfig.model_fields)}"
    if problem["type"] == "int_parsing":
        return f"{option}: takes whole numbers, got {got}"
    return f"{option}: {problem['msg'].removeprefix('Value error, ')}, got {got}"
