"""Find plugins by name: built-in files, entry points of installed packages, and files given with `--plugin`.

Listing reads syntax trees; nothing of a plugin runs before it is loaded. One that cannot run stays listed
with its problem, such as "needs transformers, which is not installed. …", and fails only when asked for.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
import re
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lgbench.errors import UserError
from lgbench.plugins.source import PluginSource, kinds_defined


class Registry:
    """The plugins of one kind. Whatever takes a name accepts hyphens for underscores.

    A class may be a family: it has a classmethod `member(name)`, which gives the class that `family:name`
    asks for. The names of its members are its own affair, and are not listed.

    Args:
        kind: "task", "method", "backbone", "probe" or "launcher"; decides the contract and the entry points,
            `lgbench.{kind}s`.
        package: its files and small packages are the built-in plugins; names that begin with "_" are not.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._found: dict[str, PluginSource] = {}
        self._scanned = False
        self._failed: dict[str, str] = {}
        self._identities: dict[str, str] = {}
        self._members: dict[str, type[Any]] = {}
        self._families: dict[PluginSource, bool] = {}

    def names(self) -> list[str]:
        """All names that can be used alone, sorted; imports nothing.

        Raises:
            UserError: two plugins have the same name; the message says where both are.
        """
        return sorted(name for name in self._sources() if not self._is_family(name))

    def families(self) -> list[str]:
        """Names that a colon and a member's name must follow, sorted; imports nothing."""
        return sorted(filter(self._is_family, self._sources()))

    def _is_family(self, name: str) -> bool:
        source = self._sources()[name]
        if source not in self._families:
            self._families[source] = source.is_family()
        return self._families[source]

    def canonical(self, name: str) -> str:
        """The registered spelling of a name, of each part if it is a combination such as `a+b`.

        Raises:
            UserError: nothing has that name; the message has the near ones.
        """
        family, colon, member = name.partition(":")
        if colon:
            return f"{self.canonical(family)}:{member.strip()}"
        if "+" in name:
            return "+".join(map(self.canonical, name.split("+")))
        known, wanted = sorted(self._sources()), _spell(name)
        if wanted in known:
            return wanted
        near = " or ".join(f"'{other}'" for other in difflib.get_close_matches(wanted, known))
        hint = f"It has {_foreign_letters(wanted)}. " if not wanted.isascii() else ""
        hint += f"Did you mean {near}?  " if near else ""
        raise UserError(
            f"no {self.kind} '{name}'. {hint}Known: {', '.join(known) or 'none'}. "
            "One of your own: --plugin FILE.py"
        )

    def place(self, name: str) -> str:
        """Where a plugin comes from: a file, or an entry point and its package."""
        return self._source(name).place

    def summary(self, name: str) -> str:
        """What a plugin is for: the first line of its module's docstring, empty if that cannot be read."""
        return self._source(name).summary()

    def problem(self, name: str) -> str | None:
        """Why a plugin cannot be used, from its source or an earlier `load`; None if nothing is known."""
        name = self.canonical(name).partition(":")[0]
        if "+" not in name:
            return self._failed.get(name) or self._sources()[name].problem()
        problems = ((part, self.problem(part)) for part in name.split("+"))
        return next(
            (f"has the part '{part}', which {problem}" for part, problem in problems if problem), None
        )

    def load(self, name: str) -> type[Any]:
        """Import a plugin and return its class: the one public subclass of the contract in its module.

        Raises:
            UserError: no such plugin, something it requires is missing, its import fails, or there is no such
                class or several; or this is a combination of plugins that cannot be combined, or a family
                without such a member.
        """
        name = self.canonical(name)
        family, _, member = name.partition(":")
        if not member and "+" in name:
            return self._combination(name.split("+"))
        if not member:
            return _member(self.kind, self._class(name), name, "")
        if name not in self._members:
            self._members[name] = _member(self.kind, self._class(family), family, member)
        return self._members[name]

    def _class(self, name: str) -> type[Any]:
        problem, cause = self.problem(name), None
        if problem is None:
            source = self._sources()[name]
            if source.given is not None:
                return source.given
            try:
                found = self._classes_in(source.load(), source.attribute)
                if len(found) == 1:
                    return found[0]
                got = ", ".join(value.__name__ for value in found) or "none"
                hide = "; begin the names of the others with _" if found else ""
                problem = f"must define one public {self.kind} class, found {got} ({source.place}){hide}"
            except (Exception, SystemExit) as error:  # the code of a plugin may fail in any way
                problem, cause = source.why_not(error), error
            self._failed[name] = problem
        raise UserError(f"{self.kind} '{name}' {problem}") from cause

    def identity(self, name: str) -> str:
        """Return what stands for a plugin's code in keys; equal names with other code have another one.

        A built-in plugin has its `version`, "v1"; another one a hash of its source and of what it imports,
        see `lgbench.plugins.identity`. A combination has those of its parts.

        Raises:
            UserError: as `load`; or the plugin has neither source nor version.
        """
        family, _, member = self.canonical(name).partition(":")
        if member:
            return f"{self.identity(family)} {self.load(name).content}"
        parts = family.split("+")
        if len(parts) > 1:
            return "+".join(map(self.identity, parts))
        [name] = parts
        if name not in self._identities:
            declared = vars(self._class(name)).get("version")
            self._identities[name] = self._sources()[name].identity(declared)
        return self._identities[name]

    def identity_of(self, name: str, plugin: Any) -> str:
        """Return `identity`, and where a plugin follows a released protocol the version of that, "v2r3".

        Args:
            name: of the plugin, a combination for instance.
            plugin: made of its class with the parameters that decide.
        """
        parts = plugin.parts(name) if hasattr(plugin, "parts") else [(name, plugin)]
        return "+".join(self.identity(part_name) + _released(part) for part_name, part in parts)

    def built_in(self, name: str) -> bool:
        """Whether a plugin is lgbench's own; no member of a family is."""
        return ":" not in name and self._source(name).built_in

    def add_file(self, path: Path) -> None:
        """Register a file under its own name without a look at what is in it (`add_file` below has one)."""
        path = path.resolve()
        unique = f"lgbench_plugin_{_spell(path.stem)}_{zlib.crc32(bytes(path)):08x}"
        self._sources()
        self._add(path.stem, PluginSource(place=str(path), module=unique, file=path))

    def add_class(self, given: type[Any]) -> str:
        """Register a class of the Python API under its name in snake_case, which is returned.

        Given again, perhaps edited in a notebook, the latest one counts.

        Raises:
            UserError: a built-in plugin, or one of another place, has that name.
        """
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", given.__name__).lower()
        place = f"class {given.__qualname__} of {given.__module__}"
        _check_name(name, place)
        known = self._sources().get(name)
        if known is None or known.place == place:
            self._found[name] = PluginSource(place=place, module=given.__module__, given=given)
            self._identities.pop(name, None)
            self._failed.pop(name, None)
        elif known.given is not given:
            raise UserError(f"two {self.kind}s are named '{name}': {known.place} and {place}")
        return name

    def _source(self, name: str) -> PluginSource:
        return self._sources()[self.canonical(name).partition(":")[0]]

    def _sources(self) -> dict[str, PluginSource]:
        if not self._scanned:
            self._found.clear()  # what a scan left that ended in an error
            package = importlib.util.find_spec(self.package)
            for folder in (package and package.submodule_search_locations) or ():
                for path in _modules(Path(folder).resolve()):
                    name = path.parent.name if path.stem == "__init__" else path.stem
                    self._add(
                        name,
                        PluginSource(place=str(path), module=f"{self.package}.{name}", built_in=True),
                    )
            for point in importlib.metadata.entry_points(group=f"lgbench.{self.kind}s"):
                place = f"entry point {point.value}" + (f" of {point.dist.name}" if point.dist else "")
                self._add(point.name, PluginSource(place=place, module=point.module, attribute=point.attr))
            self._scanned = True
        return self._found

    def _add(self, name: str, source: PluginSource) -> None:
        _check_name(name, source.place)
        first = self._found.setdefault(_spell(name), source)
        if first.place != source.place:
            raise UserError(
                f"two {self.kind}s are named '{_spell(name)}': {first.place} and {source.place}. "
                "Rename one: a plugin has the name of its file"
            )

    def _combination(self, names: Sequence[str]) -> type[Any]:
        if self.kind != "method":
            raise UserError(f"{self.kind}s cannot be combined, got '{'+'.join(names)}'")
        return importlib.import_module("lgbench.plugins.compose").compose([(n, self.load(n)) for n in names])

    def _classes_in(self, module: ModuleType, attribute: str) -> list[type[Any]]:
        contract = getattr(importlib.import_module(f"lgbench.{self.kind}"), self.kind.title())
        if attribute:
            values = [getattr(module, attribute, None)]
        else:
            values = [value for name, value in vars(module).items() if not name.startswith("_")]
        kin = [value for value in values if isinstance(value, type) and issubclass(value, contract)]
        return [value for value in dict.fromkeys(kin) if attribute or value.__module__ == module.__name__]


def _released(plugin: Any) -> str:
    follows = getattr(plugin.params, "protocol", "clean") == "as_released"
    return f"r{plugin.released_version}" if follows and plugin.released_version > 1 else ""


TASKS = Registry("task", "lgbench.tasks")
METHODS = Registry("method", "lgbench.methods")
BACKBONES = Registry("backbone", "lgbench.backbones")
PROBES = Registry("probe", "lgbench.probes")
LAUNCHERS = Registry("launcher", "lgbench.launchers")
ALL = (TASKS, METHODS, BACKBONES, PROBES, LAUNCHERS)


def add_file(path: Path, registries: Sequence[Registry] = ALL) -> None:
    """Register a file given with `--plugin` where it belongs; it may define plugins of several kinds.

    Raises:
        UserError: it is not a readable Python file, defines no plugin, or its name is taken.
    """
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"no plugin file '{path}': expected the path of a Python file, NAME.py")
    _check_name(path.stem, str(path))
    kinds = kinds_defined(path)
    homes = [registry for registry in registries if registry.kind in kinds]
    if not homes:
        raise UserError(
            f"plugin file '{path}' defines no public subclass of lgbench's Task, Method, Backbone, Probe or "
            "Launcher; it needs one, such as: class Mine(Backbone)"
        )
    for registry in homes:
        registry.add_file(path)


def _member(kind: str, family: type[Any], name: str, member: str) -> type[Any]:
    """The class that `name:member` asks for, the class itself if it is no family and none is asked for."""
    find = getattr(family, "member", None)
    if find is None:
        if member:
            raise UserError(f"{kind} '{name}' is no family, so nothing can follow '{name}:'")
        return family
    try:
        found: type[Any] = find(member)
    except ValueError as error:
        raise UserError(f"{kind} '{name}' {error}") from None
    return found


def _modules(folder: Path) -> list[Path]:
    """Files of a folder, and `__init__.py` of its packages, whose names do not begin with "_"."""
    return sorted([*folder.glob("[!_]*.py"), *folder.glob("[!_]*/__init__.py")])


def _foreign_letters(name: str) -> str:
    """The letters of a name that are not those of a plugin, by their names: а (CYRILLIC SMALL LETTER A)."""
    odd = dict.fromkeys(letter for letter in name if not letter.isascii())
    return ", ".join(f"{letter} ({unicodedata.name(letter, 'without a name')})" for letter in odd)


def _check_name(name: str, place: str) -> None:
    """Refuse a name that could be taken for another one, or that cannot be typed where plugins are named."""
    if re.fullmatch(r"[A-Za-z]\w*", _spell(name), re.ASCII):
        return
    foreign = f"; this one has {_foreign_letters(name)}" if not name.isascii() else ""
    raise UserError(
        f"plugin '{name}' ({place}): its name must be letters a to z, digits and _, and begin with a letter"
        f"{foreign}"
    )


def _spell(name: str) -> str:
    return name.strip().replace("-", "_")
