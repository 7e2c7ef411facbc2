"""What stands for the code of a plugin that is not built in: a hash that changes when its source does.

The hash covers the syntax trees of the plugin's module and of every module that it imports from its own
folder or its own distribution, and the versions of the other distributions that it imports. Docstrings,
comments and layout do not count. The trees are written down by rules of our own, since `ast.dump` differs
between versions of Python. Packages that lgbench itself requires do not count: their versions are in a row's
environment.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OWN_REQUIREMENTS = frozenset(
    {"PIL", "fsspec", "jinja2", "lgbench", "matplotlib", "numpy", "pandas", "pooch", "pyarrow", "pydantic"}
    | {"requests", "rich", "safetensors", "scipy", "seaborn", "torch", "triton", "typer", "yaml"}
)
"""Top-level modules that every installation of lgbench has, or that its kernels bring."""

BUILT_IN = ("lgbench.tasks", "lgbench.methods", "lgbench.backbones", "lgbench.probes", "lgbench.launchers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the modules of one plugin lie.

    Attributes:
        root: the folder from which its absolute imports lead to its own modules.
        packages: the top-level names that are its own; None for all that `root` holds.
    """

    root: Path
    packages: frozenset[str] | None = None


def source_identity(file: Path, home: Home) -> str:
    """Return the hash, 16 hex digits, of a plugin and of what it imports.

    Args:
        file: the plugin's module.
        home: where its own modules lie.

    Raises:
        OSError: a file cannot be read.
        SyntaxError: a file is not Python.
    """
    texts: dict[str, str] = {}
    outside: set[str] = set()
    pending = [file.resolve()]
    while pending:
        path = pending.pop()
        name = _relative(path, home.root)
        if name in texts:
            continue
        tree = ast.parse(path.read_bytes(), str(path))
        texts[name] = canonical(tree)
        for module in _imports(tree, path, home.root):
            own = _own_files(module, home)
            pending.extend(own)
            if not own:
                outside.add(module)
    lines = [f"{name} {text}" for name, text in sorted(texts.items())]
    lines += sorted({line for module in outside if (line := _version_of(module))})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def tree_identity(source: str) -> str:
    """Return the hash of one piece of source, such as a class that was typed in a notebook."""
    return hashlib.sha256(canonical(ast.parse(source)).encode()).hexdigest()[:16]


def canonical(node: ast.AST) -> str:
    """Write a syntax tree so that equal code gives equal text: no empty fields, docstrings or positions."""
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__}({node.value!r})"
    parts = []
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        if name == "body" and isinstance(value, list):
            value = _without_docstring(node, value)
        if value is None or value == []:
            continue
        parts.append(f"{name}={_written(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _written(value: object) -> str:
    if isinstance(value, ast.AST):
        return canonical(value)
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return repr(value)


def _without_docstring(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    has_one = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if has_one and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return body[1:] if isinstance(body[0].value.value, str) else body
    return body


def _relative(path: Path, root: Path) -> str:
    """The name of a file in the hash; the same wherever the folder lies."""
    try:
        return path.relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.name


def _imports(tree: ast.Module, path: Path, root: Path) -> Iterator[str]:
    """Absolute names of what may be imported, also inside functions; of `from a import b` both."""
    try:
        parents = path.parent.relative_to(root.resolve()).parts
    except ValueError:
        parents = ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(parents[: len(parents) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module:
                yield module
            yield from (f"{module}.{item.name}".lstrip(".") for item in node.names)


def _own_files(module: str, home: Home) -> list[Path]:
    """The plugin's own files that importing a module runs: packages on the way, and the module."""
    parts = module.split(".")
    if home.packages is not None and parts[0] not in home.packages:
        return []
    found, place = [], home.root.resolve()
    for part in parts:
        place = place / part
        if (place / "__init__.py").is_file():
            found.append(place / "__init__.py")
        elif place.with_suffix(".py").is_file():
            found.append(place.with_suffix(".py"))
            break
        elif not place.is_dir():
            break
    return found


def _version_of(module: str) -> str:
    """A line for a module of somebody else's: its distribution's version, or that of a built-in plugin."""
    top = module.partition(".")[0]
    if module.startswith(BUILT_IN):
        return _built_in_version(module)
    if top in OWN_REQUIREMENTS or top in sys.stdlib_module_names:
        return ""
    names = _distributions().get(top, [])
    return f"{top} {' '.join(f'{name} {importlib.metadata.version(name)}' for name in sorted(set(names)))}"


def _built_in_version(module: str) -> str:
    """The version that a built-in plugin, from which another one is derived, has in its source."""
    package, _, rest = module.removeprefix("lgbench.").partition(".")
    name = rest.partition(".")[0]
    if not name:
        return ""
    import lgbench

    for folder in map(Path, lgbench.__path__):
        for path in (folder / package / f"{name}.py", folder / package / name / "__init__.py"):
            if path.is_file():
                return f"lgbench.{package}.{name} {declared_version(ast.parse(path.read_bytes()))}"
    return ""


def declared_version(tree: ast.Module) -> int:
    """Return the `version` that a class of a module declares; 1 without one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                named = any(isinstance(t, ast.Name) and t.id == "version" for t in targets)
                value = getattr(line, "value", None)
                if named and isinstance(value, ast.Constant) and isinstance(value.value, int):
                    return value.value
    return 1


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
