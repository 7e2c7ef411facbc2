"""The file that a gate compares with: a named plan, and what it gave last time on each kind of device.

It is YAML that people read in reviews. Whoever makes a new one writes `name` and `plan`, and `golden` if
first losses shall be compared; `lgbench regress --update` fills in `devices`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from lgbench.errors import UserError
from lgbench.store import atomic_file

FORMAT = 1
_EXAMPLE = "name: tiny\nplan:\n- {task: marked_recall, preset: smoke}"
_HEAD = """\
# What `lgbench regress --baseline THIS_FILE` compares with. `name`, `plan` and `golden` are written by hand,
# `devices` by --update. Scores are normalised: 0 is chance, 1 the best possible value.
"""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(_Part):
    """A mean score of one series."""

    seeds: tuple[FiniteFloat, ...] = Field(min_length=1, description="of seeds 0, 1, 2, …")
    tolerance: FiniteFloat = Field(ge=0, description="loss of the mean over seeds that is no regression")


class Speed(_Part):
    """The time of one piece of work as a multiple of that of the reference, timed in turns with it."""

    ratio: FiniteFloat = Field(gt=0, description="time ÷ time of the reference; lower is faster")
    allowed: FiniteFloat = Field(gt=1, description="factor on the ratio from which on it is a regression")


class Device(_Part):
    """What the plan gave on one kind of device."""

    made: dict[str, str] = Field(default_factory=dict, description="processor, versions and date")
    quality: dict[str, Quality] = Field(default_factory=dict)
    losses: dict[str, tuple[FiniteFloat, ...]] = Field(
        default_factory=dict, description="training loss of the first steps"
    )
    speed: dict[str, Speed] = Field(default_factory=dict)


class Golden(_Part):
    """Trainings whose first losses are compared: a change of data, weights or optimiser shows there."""

    plan: list[dict[str, Any]] = Field(
        min_length=1, description="runs, as in a file for lgbench run --config"
    )
    steps: int = Field(10, ge=1, le=100, description="first optimiser steps whose losses are compared")
    tolerance: FiniteFloat = Field(0.002, gt=0, description="relative difference that is no regression")


class Baseline(_Part):
    """A plan and what it gave."""

    format: Literal[1] = FORMAT
    name: str = Field(min_length=1, description="of the plan, for tables and reports")
    plan: list[dict[str, Any]] = Field(
        min_length=1, description="runs, as in a file for lgbench run --config"
    )
    golden: Golden | None = None
    devices: dict[Literal["cpu", "cuda"], Device] = Field(default_factory=dict)


def read_baseline(path: Path) -> Baseline:
    """The baseline of a file.

    Raises:
        UserError: there is none, it is no YAML, or something in it is missing or wrong.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --baseline {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--baseline {path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise UserError(f"--baseline {path} must be a mapping with name and plan, e.g. {_EXAMPLE!r}")
    if not found.get("plan"):
        raise UserError(f"--baseline {path} has no plan to run; write one into it, e.g. {_EXAMPLE!r}")
    try:
        return Baseline.model_validate(found)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"--baseline {path}, {where}: {problem['msg']}, got {problem['input']!r:.60}"
        ) from None


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline atomically, in the order of its fields.

    Raises:
        UserError: the file cannot be written.
    """
    content = baseline.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    with atomic_file(path) as temporary:
        temporary.write_text(_HEAD + text, encoding="utf-8")
