"""Where one plugin comes from: what its source says without running it, and how it is imported in the end."""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import linecache
import re
import sys
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from lgbench.errors import UserError
from lgbench.plugins.identity import Home, source_identity, tree_identity

KINDS = ("task", "method", "backbone", "probe", "launcher")
"""Of plugins that a file may define."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSource:
    """The module of a plugin. `place` is how errors name it."""

    place: str
    module: str
    attribute: str = ""
    """The class, where an entry point names it."""
    file: Path | None = None
    """Set where no import path leads to the module: a file given with `--plugin`."""
    given: type[Any] | None = None
    """The class itself, where it was given to the Python API."""
    built_in: bool = False
    """Whether it is lgbench's own; its `version` then stands for its code."""

    def summary(self) -> str:
        """First line of the module's docstring, from the syntax tree, else of its first public class's.

        Empty if there is none to read.
        """
        try:
            tree = self._tree()
        except (OSError, SyntaxError, ValueError):
            return ""
        classes = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name[0] != "_"]
        texts = (ast.get_docstring(place) for place in (tree, *classes))
        return next((text for text in texts if text), "").partition("\n")[0]

    def problem(self) -> str | None:
        """Why the plugin cannot be used, as far as its source shows: what follows its name, or None."""
        try:
            required = _requires(self._tree())
        except (OSError, SyntaxError, ValueError) as error:
            return f"cannot be read: {_one_line(error)} ({self.place})"
        parts = [entry.partition("=") for entry in required]
        missing = {module: dist or module for module, _, dist in parts if not _installed(module)}
        return _lacks(missing) if missing else None

    def is_family(self) -> bool:
        """Whether its class has members, `family:name`: whether a class in the source defines `member`."""
        path = self._path()
        try:
            if path is None or b"def member(" not in path.read_bytes():
                return False
            classes = [node for node in self._tree().body if isinstance(node, ast.ClassDef)]
        except (OSError, SyntaxError, ValueError):
            return False
        functions = [line for node in classes for line in node.body if isinstance(line, ast.FunctionDef)]
        return any(function.name == "member" for function in functions)

    def load(self) -> ModuleType:
        """Import the module. Whatever its code raises passes through."""
        if self.file is None:
            return importlib.import_module(self.module)
        if self.module not in sys.modules:
            spec = importlib.util.spec_from_file_location(self.module, self.file)
            assert spec is not None and spec.loader is not None, "add_file admits only .py files"
            sys.modules[self.module] = importlib.util.module_from_spec(spec)
            if str(self.file.parent) not in sys.path:  # it may import its neighbours
                sys.path.append(str(self.file.parent))  # last, so that they hide nothing
            try:
                spec.loader.exec_module(sys.modules[self.module])
            except BaseException:
                del sys.modules[self.module]
                raise
        return sys.modules[self.module]

    def identity(self, declared: int | None) -> str:
        """Return what stands for the plugin's code in keys: its version if built in, else its source's hash.

        Args:
            declared: the `version` that its class declares itself, if any.

        Raises:
            UserError: it has no source and declares no version, or the source cannot be read.
        """
        if self.built_in:
            return f"v{declared or 1}"
        if self.given is not None:
            return _identity_of_class(self.given, declared)
        path = self._path()
        if path is None:
            if declared is None:
                raise UserError(
                    f"{self.place} has no Python source, so nothing says when it changes. "
                    "Give its class a number: version = 1, and raise it with every change of what it computes"
                )
            return f"v{declared}"
        try:
            return source_identity(path, self._home(path))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"cannot read {self.place}: {_one_line(error)}") from error

    def _home(self, path: Path) -> Home:
        """Its own folder; of an installed plugin, the modules of its distribution."""
        if self.file is not None:
            return Home(root=self.file.parent)
        top = self.module.partition(".")[0]
        spec = _find(top)
        origin = Path(spec.origin) if spec is not None and spec.origin else path
        root = origin.parent.parent if origin.stem == "__init__" else origin.parent
        distributions = importlib.metadata.packages_distributions()
        mine = set(distributions.get(top, ()))
        kin = {name for name, found in distributions.items() if mine & set(found)}
        return Home(root=root, packages=frozenset({top, *kin}))

    def why_not(self, error: BaseException) -> str:
        """What an exception out of `load` means for the user; what follows the plugin's name."""
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            if _find(package) is None and package != self.module.partition(".")[0]:
                return _lacks({package: package})
        return f"cannot be imported: {type(error).__name__}: {_one_line(error)} ({self.place})"

    def _tree(self) -> ast.Module:
        """The syntax tree; an empty one where the source cannot be found without running code."""
        path = self._path()
        if path is None:
            return ast.Module(body=[], type_ignores=[])
        state = path.stat()
        return _parsed(path, (state.st_mtime_ns, state.st_size, state.st_ino))

    def _path(self) -> Path | None:
        """The file with the source; None where it cannot be found without running code."""
        if self.file is not None:
            return self.file
        spec = _find(self.module)
        return Path(spec.origin) if spec is not None and (spec.origin or "").endswith(".py") else None


@lru_cache(maxsize=256)
def _parsed(path: Path, state: tuple[int, int, int]) -> ast.Module:
    """The syntax tree of a file in this state; every cell asks for those of its plugins."""
    return ast.parse(path.read_bytes(), str(path))


def _identity_of_class(given: type[Any], declared: int | None) -> str:
    """The hash of a class's file with what it imports; of a class in a notebook that of its own source."""
    file = getattr(sys.modules.get(given.__module__), "__file__", None)
    try:
        if file is not None and Path(file).is_file():
            return source_identity(Path(file), Home(root=Path(file).resolve().parent))
        return tree_identity(_text_with_what_it_names(given))
    except (OSError, TypeError, SyntaxError):
        if declared is None:
            raise UserError(
                f"{given.__name__} has no source that can be read, so nothing says when it changes. "
                "Give the class a number: version = 1, and raise it with every change of what it computes"
            ) from None
        return f"v{declared}"


def _text_with_what_it_names(given: type[Any]) -> str:
    """The source of a class of a notebook, and of what it names there, and they name: classes, functions and
    plain values.

    Raises:
        OSError: nothing keeps the source of one of them.
    """
    members = [member for member in vars(given).values() if inspect.isfunction(member)]
    space = members[0].__globals__ if members else vars(sys.modules.get(given.__module__, object))
    texts: dict[str, str] = {}
    pending: list[Any] = [given]
    while pending:
        one = pending.pop()
        if one.__name__ in texts:
            continue
        texts[one.__name__] = text = _text_of(one)
        for name in sorted({node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}):
            value = space.get(name)
            if inspect.isclass(value) or inspect.isfunction(value):
                if value.__module__ == given.__module__:
                    pending.append(value)
            elif isinstance(value, bool | int | float | str):
                texts[name] = f"{name} = {value!r}"
    return "\n".join(texts[name] for name in sorted(texts))


def _text_of(given: Any) -> str:
    """The source of a class or function without a file: a notebook keeps the text of its cells by the names
    of the code.

    Raises:
        OSError: nothing keeps it.
    """
    members = [given] if inspect.isfunction(given) else vars(given).values()
    for code in [member.__code__ for member in members if inspect.isfunction(member)]:
        text = "".join(linecache.getlines(code.co_filename))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == given.__name__:
                return textwrap.dedent(ast.get_source_segment(text, node, padded=True) or "")
    return textwrap.dedent(inspect.getsource(given))


def kinds_defined(path: Path) -> set[str]:
    """Which of `KINDS` a plugin file defines, by the base classes in its syntax tree.

    A base counts if it is called `Task`, `Method`, `Backbone`, `Probe` or `Launcher`, comes from
    `lgbench.tasks` and so on, or is a class of the same file that counts.

    Raises:
        UserError: the file cannot be read as Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read the plugin file {path}: {_one_line(error)}") from error
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origins |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
        elif isinstance(node, ast.Import):
            origins |= {item.asname: item.name for item in node.names if item.asname}
    local: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            kinds = [local.get(base) or _kinds_of(base, origins) for base in bases]
            local[node.name] = set().union(*kinds)
    return set().union(*(kinds for name, kinds in local.items() if not name.startswith("_")))


def _kinds_of(base: str, origins: dict[str, str]) -> set[str]:
    head, dot, rest = base.partition(".")
    full = origins.get(head, head) + dot + rest
    return {
        kind
        for kind in KINDS
        if full.rpartition(".")[2] == kind.title() or full.startswith(f"lgbench.{kind}s.")
    }


def _requires(tree: ast.Module) -> tuple[str, ...]:
    """The module-level literal `REQUIRES`: names of modules that the plugin needs beyond lgbench's own.

    `module=distribution` where pip knows it by another name.
    """
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "REQUIRES" for target in targets):
            value = ast.literal_eval(node.value)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise ValueError('REQUIRES must be a literal tuple of module names, such as ("numpy",)')
            return value
    return ()


def _find(module: str) -> ModuleSpec | None:
    """The spec of a module without running the packages above it, as `importlib.util.find_spec` would."""
    name, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # put into sys.modules by hand, without a spec
        return ModuleSpec(name, None)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def _installed(module: str) -> bool:
    return module in sys.modules or _find(module.partition(".")[0]) is not None


def _lacks(modules: dict[str, str]) -> str:
    """What is missing and how to get it: modules, and the distributions that bring them."""
    commands = dict.fromkeys(map(_how_to_install, modules.values()))
    verb = "is" if len(modules) == 1 else "are"
    return f"needs {', '.join(modules)}, which {verb} not installed. {' && '.join(commands)}"


def _how_to_install(name: str) -> str:
    """The pip command for a distribution: the extra of lgbench that brings it, if there is one."""
    try:
        requirements = importlib.metadata.requires("lgbench") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        requirements = []
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*\bextra == ['\"]([\w-]+)['\"]", requirement)
        if match and _plain(match[1]) == _plain(name):
            return f'pip install "lgbench[{match[2]}]"'
    return f"pip install {name}"


def _plain(name: str) -> str:
    return re.sub(r"[-.]+", "_", name).lower()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
