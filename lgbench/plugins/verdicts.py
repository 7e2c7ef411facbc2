"""Find what `lgbench check` is asked about, and ask it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lgbench.errors import UserError
from lgbench.plan.params import expand, parse_plugins, resolve
from lgbench.plan.text import split_files
from lgbench.plugins import registry
from lgbench.plugins.contract import Verdict, check_backbone
from lgbench.plugins.contract_parts import check_method, check_task
from lgbench.run.device import choose_device


def check_plugins(
    files: Sequence[Path], backbones: Sequence[str], device: str
) -> Iterator[tuple[str, list[Verdict]]]:
    """Verdicts of every plugin of these files, and of these backbones, each under its title.

    Args:
        files: as given with `--plugin`.
        backbones: names or files, with parameters; where there are some, those of `files` are not asked for.
        device: auto, cpu or cuda.

    Raises:
        UserError: nothing is asked about, a file is no plugin, or a name or a parameter does not exist.
    """
    if not files and not backbones:
        raise UserError("nothing to check: give --plugin FILE, or --backbone NAME")
    where = choose_device(device)
    split = [split_files(text) for text in backbones]
    for path in [*files, *(path for _, paths in split for path in paths)]:
        registry.add_file(path)
    asked = [one for text, _ in split for request in parse_plugins(text) for one in expand(request)]
    if not asked:
        asked = [one for name in _in_files(registry.BACKBONES, files) for one in parse_plugins(name)]
    for request in asked:
        kind = registry.BACKBONES.load(request.name)
        params = resolve(kind, request.params, "backbone", request.name)
        yield f"backbone {request.name}", check_backbone(kind, params.model_dump(), where)
    for name in _in_files(registry.TASKS, files):
        yield f"task {name}", check_task(registry.TASKS.load(name), where)
    for name in _in_files(registry.METHODS, files):
        yield f"method {name}", check_method(registry.METHODS.load(name))


def _in_files(plugins: registry.Registry, files: Sequence[Path]) -> list[str]:
    """Names of the plugins of one kind that these files define."""
    places = {str(path.resolve()) for path in files}
    return [name for name in plugins.names() if plugins.place(name) in places]
