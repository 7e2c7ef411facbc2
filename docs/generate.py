"""Write the pages of docs/ that follow from the code and from the rows: `make docs` calls it.

    docs/reference/*.md         from docstrings, parameters, options and the schema
    docs/findings.md            from docs/templates/findings.md.jinja and results/
    README.md, between marks    from docs/templates/found.md.jinja and results/

A test compares what is committed with what this would write.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lgbench import store
from lgbench.errors import UserError
from lgbench.plan.options import options
from lgbench.plan.params import describe_params
from lgbench.plugins import registry
from lgbench.report.fill import fill_file

ROOT = Path(__file__).parent.parent
TEMPLATES = ROOT / "docs" / "templates"
BEGIN, END = "<!-- from results: begin -->", "<!-- from results: end -->"
GENERATED = "<!-- Written by docs/generate.py. Change its source, then: make docs -->\n\n"


def reference() -> dict[Path, str]:
    """Return the pages that follow from the code, path → text; takes seconds."""
    pages = {
        "options": _options(),
        "schema": _schema(),
        "tasks": _cards("Tasks", registry.TASKS, _task_facts),
        "methods": _cards("Methods", registry.METHODS, _method_facts),
        "backbones": _cards("Backbones", registry.BACKBONES, _backbone_facts),
    }
    folder = ROOT / "docs" / "reference"
    return {folder / f"{name}.md": GENERATED + text.rstrip() + "\n" for name, text in pages.items()}


def from_results() -> dict[Path, str]:
    """Return the texts with numbers from results/, path → text."""
    results = [ROOT / "results"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise UserError(f"README.md has no '{BEGIN}' … '{END}'")
    numbers = fill_file(TEMPLATES / "found.md.jinja", results).strip()
    return {
        ROOT / "docs" / "findings.md": GENERATED + fill_file(TEMPLATES / "findings.md.jinja", results),
        ROOT / "README.md": f"{before}{BEGIN}\n{numbers}\n{END}{after}",
    }


def _options() -> str:
    lines = ["# Options of a run", ""]
    lines += [
        "Every option is a flag of `lgbench run` and a key of a plan file. *Grid*: several values, such as",
        "`256,1024`, are all run. Without a default, the preset of the task decides.",
    ]
    groups: dict[str, list[str]] = {}
    for option in options().values():
        said = option.about
        meaning = _cell(", ".join([said.says, *said.range]))
        default = "" if option.default in (None, ()) else f"`{_plain(option.default)}`"
        grid = "grid" if option.axis else ""
        groups.setdefault(said.group, []).append(f"| `{option.flag}` | {meaning} | {default} | {grid} |")
    for group, rows in groups.items():
        head = ["", f"## {group.capitalize()}", "", "| option | meaning | default | |", "|---|---|---|---|"]
        lines += head + rows
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _schema() -> str:
    lines = [
        "# Columns of a row",
        "",
        f"Schema version {store.SCHEMA_VERSION}. Older files are read as rows of today's schema.",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{one.name}` | {one.type} | {one.metadata[b'doc'].decode()} |" for one in store.SCHEMA]
    return "\n".join(lines)


def _cards(title: str, plugins: registry.Registry, facts: Any) -> str:
    """One card a plugin: its docstring, facts, and parameters; first a table of all."""
    lines = [f"# {title}", "", "| name | |", "|---|---|"]
    lines += [f"| [`{name}`](#{name}) | {_cell(plugins.summary(name))} |" for name in plugins.names()]
    for name in plugins.names():
        plugin = plugins.load(name)
        lines += ["", f"## {name}", "", _docstring(plugin), "", *facts(plugin)]
        parameters = describe_params(plugin)
        if parameters:
            lines += ["", "| parameter | meaning | type | default |", "|---|---|---|---|"]
        for one in parameters:
            kind = _cell(", ".join(filter(None, [one.type, one.range])))
            lines.append(f"| `{one.name}` | {_cell(one.description)} | {kind} | `{one.default}` |")
    return "\n".join(lines)


def _docstring(plugin: type[Any]) -> str:
    """The docstring of the module of a plugin as Markdown: what is indented is a block of its own."""
    text = inspect.cleandoc(importlib.import_module(plugin.__module__).__doc__ or "")
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        indented = line.startswith("    ")
        if indented != inside and (line.strip() or not inside):
            if inside and lines[-1] == "":
                lines.pop()
            lines += ["```text"] if indented else ["```", ""] if inside else []
            inside = indented
        lines.append(line.removeprefix("    ") if inside else line)
    return "\n".join(lines + ["```"] * inside)


def _cell(text: str) -> str:
    """Text that stands in a table."""
    return text.replace("|", "\\|")


def _task_facts(task: type[Any]) -> Iterator[str]:
    recipe = task().recipe("small", "causal")
    lengths = recipe.eval_lengths
    yield f"- metric: {task.metric.name}, {'higher' if task.metric.higher_is_better else 'lower'} is better"
    yield f"- more context means: {task.context_means}"
    yield (
        f"- preset `small`: trained on up to {recipe.train_length:,} {task.length_unit}, "
        f"evaluated at {lengths[0]:,} to {lengths[-1]:,}"
    )


def _method_facts(method: type[Any]) -> Iterator[str]:
    like = method().trains_like
    yield f"- weights: {'from its own training' if like is None else f'those of `{like}`'}"
    yield f"- the length must be known before the first token: {'yes' if method().needs_length else 'no'}"


def _backbone_facts(backbone: type[Any]) -> Iterator[str]:
    yield f"- hooks for methods: {', '.join(f'`{hook}`' for hook in sorted(backbone.hooks)) or 'none'}"


def main() -> None:
    """Write every page whose text has changed, and say which."""
    for path, text in (reference() | from_results()).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
