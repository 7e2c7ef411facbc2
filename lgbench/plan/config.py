"""What a run was asked for: command-line options and a YAML file as one validated record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lgbench.errors import UserError
from lgbench.plan.params import PluginRequest, expand, merge, parse_plugins
from lgbench.plugins.registry import BASELINE, TASKS

RECIPE_FIELDS = ("eval_lengths", "eval_queries", "query_grid", "eval_items", "batch_size", "learning_rate")
RECIPE_FIELDS += ("d_model", "precision", "eval_precision")
AXES_FIELDS = ("train_length", "train_steps", "num_layers", "d_state", "backbone", "lm_weight")
AXES_FIELDS += ("eval_at_steps",)


class RunConfig(BaseModel):
    """A run. In YAML the same names; `task` and `method` may also be mappings from name to parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: tuple[str, ...] = Field((), description='tasks, e.g. omniglot or "omniglot[augment=false]"')
    method: tuple[str, ...] = Field(
        (BASELINE,), description='methods, e.g. vanilla (if left out) or "truncated[low=512]"'
    )
    param: tuple[str, ...] = Field((), description="PLUGIN.PARAMETER=VALUE; several values are a grid")
    preset: str = Field("small", description="smoke (CPU, a minute a cell), small (a GPU, minutes) or paper")
    seeds: int = Field(1, ge=1, le=1000, description="number of seeds, counted from `first_seed`")
    first_seed: int = Field(0, ge=0, description="first seed")
    train_length: tuple[int, ...] | None = Field(None, description="training lengths, a grid axis")
    train_steps: tuple[int, ...] | None = Field(None, description="training steps, a grid axis")
    num_layers: tuple[int, ...] | None = Field(None, description="depths, a grid axis")
    d_state: tuple[int, ...] | None = Field(None, description="state sizes, a grid axis")
    backbone: tuple[str, ...] | None = Field(
        None, description='mamba, mamba2 or "decoder[position=alibi]", a grid axis'
    )
    lm_weight: tuple[float, ...] | None = Field(
        None, description="weight of the language-model loss beside the answer's, a grid axis"
    )
    d_model: int | None = Field(None, ge=1, description="width of the backbone")
    precision: Literal["float32", "bfloat16"] | None = Field(
        None, description="of matrix products in training"
    )
    eval_precision: Literal["float32", "bfloat16"] | None = Field(
        None, description="of matrix products in calibration and evaluation"
    )
    tokenizer: str | None = Field(
        None, description="of the language tasks: bytes, bpe, or a tokenizers file or folder"
    )
    pretrained: str | None = Field(
        None, description="Mamba checkpoint in the Hugging Face format, folder or hub name, to start from"
    )
    weights: Path | None = Field(
        None,
        description="safetensors file with weights of your own to start from; 0 training steps are allowed",
    )
    eval_at_steps: tuple[int, ...] | None = Field(
        None, description="also evaluate after these training steps"
    )
    train_queries: tuple[int, ...] | None = Field(
        None, min_length=1, max_length=2, description="queries in training: one number, or lowest and highest"
    )
    eval_lengths: tuple[int, ...] | None = Field(None, description="context lengths of the evaluation")
    eval_queries: int | None = Field(None, description="queries after each context")
    query_grid: tuple[int, ...] | None = Field(None, description="numbers of queries of the second axis")
    eval_items: int | None = Field(None, description="evaluation items")
    batch_size: int | None = Field(None, description="sequences a training step")
    learning_rate: float | None = Field(None, description="peak learning rate")
    data: str | None = Field(None, description="where items come from: auto, the real set's name, procedural")
    data_dir: Path | None = Field(None, description="folder with data files, looked into first")
    results: Path = Field(Path("runs"), description="results folder")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU if there is one")
    scan_backend: str = Field("auto", description="auto, block, triton, mamba_ssm, torch or reference")
    save_every: float = Field(60.0, gt=0, description="seconds between two resumable training states")
    side_by_side: int = Field(4, ge=1, le=64, description="trainings that share a GPU at a time")
    launcher: str | None = Field(
        None, description='where: local, processes, shard (with shard) or "ray[num_gpus=0.25]"'
    )
    jobs: int | None = Field(None, ge=1, le=1024, description="processes; one a GPU if left out")
    emit: Literal["slurm"] | None = Field(None, description="print the script of an array of jobs instead")
    shard: str | None = Field(
        None, pattern=r"^[1-9]\d*/[1-9]\d*$", description="which part of the plan, e.g. 2/8"
    )
    cell_timeout: float | None = Field(
        None, gt=0, description="seconds after which a training or an evaluation that hangs is ended"
    )
    log_json: Path | None = Field(None, description="file that gets a line of JSON for every event")
    track: Path | None = Field(None, description="folder for TensorBoard: losses and scores")
    plugin: tuple[Path, ...] = Field((), description="Python files that define tasks or methods")
    force: bool = Field(False, description="run finished cells again")

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: Any, info: Any) -> Any:
        """A single value where a list is expected, and text such as 256,1024 where numbers are."""
        kind = str(cls.model_fields[info.field_name].annotation)
        if not kind.startswith("tuple") or value is None:
            return value
        if info.field_name in ("task", "method", "backbone"):
            return _plugin_texts(value)
        if isinstance(value, str) and info.field_name not in ("param", "plugin"):
            return [part.strip() for part in value.split(",")]
        return value if isinstance(value, (list, tuple)) else [value]

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

    def recipe_overrides(self) -> dict[str, Any]:
        """Fields of `Recipe` that replace the preset's numbers."""
        found = {name: value for name in RECIPE_FIELDS if (value := getattr(self, name)) is not None}
        if self.train_queries is not None:
            found["train_queries"] = (self.train_queries[0], self.train_queries[-1])
        return found

    def axes(self) -> dict[str, Any]:
        """Fields of `plan.Axes`."""
        found = {name: getattr(self, name) for name in AXES_FIELDS}
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
    loaded = {} if path is None else _read_yaml(path)
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
    loaded = None if path is None else _read_yaml(path)
    if not isinstance(loaded, list):
        return [load_config(path, options)]
    if not loaded or not all(isinstance(run, dict) for run in loaded):
        raise UserError(f"--config {path}: a list of runs needs at least one, each a mapping with a task")
    return [_validated(run, options) for run in loaded]


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {str(error).splitlines()[0]}") from None


def _validated(given: Mapping[Any, Any], options: Mapping[str, Any]) -> RunConfig:
    values = {str(name).replace("-", "_"): value for name, value in given.items()}
    values |= {name: value for name, value in options.items() if value is not None and value != []}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = {
            problem["loc"][0]: problem for problem in reversed(error.errors())
        }  # one a field says enough
        raise UserError("; ".join(_explain(problem) for problem in reversed(first.values()))) from None


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
    option = "--" + field.replace("_", "-")
    if problem["type"] == "extra_forbidden":
        return f"no option '{field}'. There are: {', '.join(RunConfig.model_fields)}"
    if problem["type"] in ("too_long", "too_short") and problem["ctx"].get("actual_length"):
        return f"{option}: at most {problem['ctx'].get('max_length')} numbers, got {len(problem['input'])}"
    if problem["type"] == "int_parsing":
        return f"{option}: takes whole numbers, got {problem['input']!r}"
    return f"{option}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}"
