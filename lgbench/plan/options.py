"""Every option of a run, declared once: those of the run itself here, those of its numbers in `Recipe`.

Command line (`lgbench.cli_run`), YAML (`lgbench.plan.config`) and grid axes (`lgbench.plan.axes`) are made
from them. Nothing heavy is imported, so that the help comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lgbench.recipe import About, Recipe, about, described

BASELINE = "vanilla"
"""Name of the method that others are compared with, and that runs where none is named."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is asked for besides the numbers of its recipe."""

    task: tuple[str, ...] = field(
        default=(), metadata=about('tasks, e.g. omniglot or "omniglot[augment=false]"', group="what")
    )
    method: tuple[str, ...] = field(
        default=(BASELINE,),
        metadata=about('methods, e.g. vanilla (if left out) or "truncated[low=512]"', group="what"),
    )
    param: tuple[str, ...] = field(
        default=(), metadata=about("PLUGIN.PARAMETER=VALUE; several values are a grid", group="what")
    )
    backbone: tuple[str, ...] | None = field(
        default=None,
        metadata=about(
            'backbones or their files, e.g. mamba,my_gru.py or "decoder[position=alibi]"; several are a grid',
            group="what",
        ),
    )
    preset: str = field(
        default="small",
        metadata=about(
            "sizes and lengths to start from: smoke (CPU, a minute a cell), small (a GPU, minutes) or paper",
            group="what",
        ),
    )
    seeds: int = field(
        default=1,
        metadata=about("number of seeds, counted from the first", group="what", least=1, most=1000),
    )
    first_seed: int = field(
        default=0, metadata=about("first seed", group="what", least=0, most=2_000_000_000)
    )
    plugin: tuple[Path, ...] = field(
        default=(), metadata=about("Python files that define tasks, methods or backbones", group="what")
    )
    d_state: tuple[int, ...] | None = field(
        default=None,
        metadata=about("state sizes of the backbone", group="sizes", option="axis", least=1, most=65536),
    )
    pretrained: str | None = field(
        default=None,
        metadata=about("Mamba checkpoint in the Hugging Face format, folder or hub name, to start from"),
    )
    weights: Path | None = field(
        default=None,
        metadata=about("safetensors file of your own weights to start from; 0 training steps are allowed"),
    )
    eval_at_steps: tuple[int, ...] | None = field(
        default=None,
        metadata=about("also evaluate after these training steps", group="evaluation", option="axis"),
    )
    branch_decay_at: tuple[int, ...] | None = field(
        default=None,
        metadata=about(
            "also trainings that branch off after these steps: there their learning rate begins to fall, in "
            "the same share of their steps",
            option="axis",
        ),
    )
    data: str | None = field(
        default=None,
        metadata=about(
            "where items come from: auto, the real set's name, procedural; of text, also a path",
            group="data",
        ),
    )
    data_dir: Path | None = field(
        default=None,
        metadata=about("folder with data files, before LGBENCH_DATA and the cache", group="data"),
    )
    tokenizer: str | None = field(
        default=None,
        metadata=about(
            "tokenizer of the language tasks: auto, bytes, bpe, or a tokenizers file or folder", group="data"
        ),
    )
    results: Path = field(default=Path("runs"), metadata=about("results folder", group="data"))
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata=about("where to run; auto takes a GPU if there is one", group="machine")
    )
    scan_backend: str = field(
        default="auto",
        metadata=about(
            "what computes scans: auto, block, triton, mamba_ssm, torch or reference", group="machine"
        ),
    )
    save_every: float = field(
        default=60.0,
        metadata=about(
            "seconds between two resumable training states", group="machine", above=0, most=1_000_000_000
        ),
    )
    side_by_side: int = field(
        default=4, metadata=about("trainings that share a GPU at a time", group="machine", least=1, most=64)
    )
    launcher: str | None = field(
        default=None,
        metadata=about(
            'where trainings run: local (if left out), processes, shard or "ray[num_gpus=0.25]"',
            group="machine",
        ),
    )
    jobs: int | None = field(
        default=None,
        metadata=about("processes; one a GPU or a core if left out", group="machine", least=1, most=1024),
    )
    shard: str | None = field(
        default=None, metadata=about("which part of the plan to run, e.g. 2/8", group="machine")
    )
    emit: Literal["slurm"] | None = field(
        default=None,
        metadata=about("print the script of an array of jobs instead, with --jobs N", group="machine"),
    )
    cell_timeout: float | None = field(
        default=None,
        metadata=about(
            "seconds after which a training or an evaluation is ended",
            group="machine",
            above=0,
            most=1_000_000_000,
        ),
    )
    log_json: Path | None = field(
        default=None, metadata=about("file that gets a line of JSON for every event", group="machine")
    )
    track: Path | None = field(
        default=None, metadata=about("folder for TensorBoard: losses and speeds", group="machine")
    )
    force: bool = field(default=False, metadata=about("run finished cells again", group="machine"))
    force_cells: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "run these finished cells again, and what they are trained from: their names, or the beginnings",
            group="machine",
        ),
    )


OWN_AXES = ("backbone", "d_state", "eval_at_steps", "branch_decay_at")
"""Grid axes that are no fields of the recipe, see `lgbench.plan.axes.Axes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: a flag of the command line and a key of YAML."""

    name: str
    kind: Any
    """Type of one value: `str`, `int`, `float`, `bool`, `Path`, a `Literal`; `tuple[int, int]` is a range."""
    many: bool
    """Whether it takes several values."""
    default: Any
    """None where a preset decides, or where it is left out."""
    of_recipe: bool
    about: About

    @property
    def flag(self) -> str:
        """As it is typed: `--train-length`."""
        return "--" + self.name.replace("_", "-")

    @property
    def axis(self) -> bool:
        """Whether several values are a grid."""
        return self.about.option == "axis"


@cache
def options(recipe: type[Recipe] = Recipe) -> Mapping[str, Option]:
    """All options of a run by name: first what is asked for, then the numbers of the recipe."""
    own = [_option(RunOptions, one.name, said) for one, said in described(RunOptions)]
    numbers = [_option(recipe, one.name, said) for one, said in described(recipe) if said.option]
    return {option.name: option for option in own + numbers}


def axes(recipe: type[Recipe] = Recipe) -> tuple[str, ...]:
    """Fields of the recipe that may be grid axes, in the order in which a grid is walked."""
    return tuple(option.name for option in options(recipe).values() if option.of_recipe and option.axis)


def overrides(recipe: type[Recipe] = Recipe) -> tuple[str, ...]:
    """Fields of the recipe that an option replaces by one value."""
    return tuple(option.name for option in options(recipe).values() if option.of_recipe and not option.axis)


def _option(owner: type[Any], name: str, said: About) -> Option:
    hint = _hints(owner)[name]
    hint = (
        next((part for part in get_args(hint) if part is not type(None)), hint) if _optional(hint) else hint
    )
    repeated = get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis
    of_recipe = owner is not RunOptions
    default = None if of_recipe else owner.__dataclass_fields__[name].default
    assert default is not MISSING
    return Option(
        name=name,
        kind=get_args(hint)[0] if repeated else hint,
        many=repeated or (of_recipe and said.option == "axis"),
        default=default,
        of_recipe=of_recipe,
        about=said,
    )


def _optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


@cache
def _hints(owner: type[Any]) -> dict[str, Any]:
    return get_type_hints(owner)
