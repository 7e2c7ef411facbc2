"""What built-in plugins are now: version, hash of their syntax trees, defaults of their parameters.

`python tests/built_in/record.py` writes `recorded.json` anew. Before that ask: does the change give other
numbers? Then raise the `version` of the plugin's class first.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from lgbench.plugins.identity import canonical, declared_version
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS, Registry
from lgbench.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parent / "recorded.json"
REGISTRIES = {"tasks": TASKS, "methods": METHODS, "backbones": BACKBONES}


def own_files(registry: Registry, name: str) -> list[Path]:
    """The plugin's file, or all of its package, and what it shares with others of its folder (`_name`)."""
    path = Path(registry.place(name))
    pending = sorted(path.parent.rglob("*.py")) if path.stem == "__init__" else [path]
    found: dict[Path, None] = {}
    home = path.parent.parent if path.stem == "__init__" else path.parent
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found[file] = None
        prefix = f"{registry.package}._"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(prefix):
                shared = home / node.module.removeprefix(f"{registry.package}.").partition(".")[0]
                pending += sorted(shared.rglob("*.py")) if shared.is_dir() else [shared.with_suffix(".py")]
    return sorted(found)


def source_hash(registry: Registry, name: str) -> str:
    """16 hex digits that change with the code of a plugin, not with its comments."""
    files = own_files(registry, name)
    texts = [f"{file.name} {canonical(ast.parse(file.read_bytes()))}" for file in files]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def describe() -> dict[str, Any]:
    """What `recorded.json` holds."""
    plugins = {
        f"{kind}/{name}": {
            "version": int(vars(registry.load(name)).get("version", 1)),
            "source": source_hash(registry, name),
            "defaults": json.loads(registry.load(name).Params().model_dump_json()),
        }
        for kind, registry in REGISTRIES.items()
        for name in registry.names()
        if Path(registry.place(name)).is_file() and ROOT in Path(registry.place(name)).parents
    }
    for name in BACKBONES.families():  # what they need may not be installed
        tree = ast.parse(Path(BACKBONES.place(name)).read_bytes())
        plugins[f"backbones/{name}"] = {
            "version": declared_version(tree),
            "source": source_hash(BACKBONES, name),
            "defaults": {},
        }
    recipe = {
        field.name: field.default if field.default is not MISSING else None
        for field in fields(Recipe)
        if field.default is not MISSING
    }
    return {"plugins": plugins, "recipe": json.loads(json.dumps(recipe))}


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(describe(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
