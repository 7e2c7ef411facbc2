"""Plugins are found without being imported, and a bad one fails alone, in one line, when it is asked for."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lgbench.errors import UserError
from lgbench.method import Method
from lgbench.plan.params import label, resolve
from lgbench.plugins.registry import METHODS, TASKS, Registry, add_file
from lgbench.task import Task

GENTLE = '''"""Be gentle: change nothing.

Second paragraph.
"""

from pydantic import Field

from lgbench.method import Method


class Gentle(Method):
    class Params(Method.Params):
        power: float = Field(1.0, ge=0, le=1, description="how gentle")


class _Helper(Method):
    pass
'''
LACKING = '"""Needs more."""\nREQUIRES = ("toy_absent_module",)\nimport toy_absent_module\n'

Zoo = Callable[..., Registry]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zoo]:
    """Build a registry of methods whose built-in folder holds these files, given as `name="source"`."""
    before = set(sys.modules)

    def build(**files: str) -> Registry:
        folder = tmp_path / "toyzoo" / "methods"
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").touch()
        for name, source in files.items():
            (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        return Registry("method", "toyzoo.methods")

    yield build
    for name in set(sys.modules) - before:
        if name.startswith(("toy", "lgbench_plugin_")):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lay out a third-party distribution as pip would: a package and a dist-info with its entry points."""

    def build(distribution: str, entry_points: str, **files: str) -> Path:
        site = tmp_path / f"site_{distribution}"
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        package = site / distribution
        package.mkdir()
        for name, source in {"__init__": "", **files}.items():
            (package / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(site)
        return site

    return build


def test_built_in_files_are_named_by_their_files(zoo: Zoo) -> None:
    methods = zoo(gentle=GENTLE, another_one=GENTLE, _private=GENTLE)
    assert {"another_one", "gentle"} <= set(methods.names())
    assert "_private" not in methods.names()
    assert methods.summary("gentle") == "Be gentle: change nothing."
    assert methods.place("gentle").endswith("toyzoo/methods/gentle.py")
    assert methods.problem("gentle") is None
    plugin = methods.load("gentle")
    assert issubclass(plugin, Method)
    assert plugin.__name__ == "Gentle"
    assert methods.load("gentle") is plugin


def test_hyphens_count_as_underscores(zoo: Zoo) -> None:
    methods = zoo(doc_retrieval=GENTLE)
    assert methods.canonical("doc-retrieval") == "doc_retrieval"
    assert methods.load("doc-retrieval") is methods.load("doc_retrieval")


def test_a_plugin_without_a_docstring_of_its_module_is_described_by_its_class(zoo: Zoo) -> None:
    by_class = 'from lgbench.method import Method\n\nclass Bare(Method):\n    """Do nothing."""\n'
    methods = zoo(bare=by_class, silent=by_class.replace('"""Do nothing."""', "pass"))
    assert (methods.summary("bare"), methods.summary("silent")) == ("Do nothing.", "")


def test_an_unknown_name_lists_the_near_and_the_known_ones(zoo: Zoo) -> None:
    methods = zoo(decimamba=GENTLE, vanilla=GENTLE)
    with pytest.raises(UserError) as caught:
        methods.load("decimmba")
    assert str(caught.value) == (
        "no method 'decimmba'. Did you mean 'decimamba'?  Known: decimamba, vanilla. "
        "One of your own: --plugin FILE.py"
    )
    with pytest.raises(UserError) as caught:
        methods.summary("zzz")
    assert str(caught.value) == (
        "no method 'zzz'. Known: decimamba, vanilla. One of your own: --plugin FILE.py"
    )


def test_listing_runs_no_plugin_and_imports_no_torch(zoo: Zoo, install: Callable[..., Path]) -> None:
    loud = '"""Loud."""\nimport torch\nraise SystemExit("a plugin was run")\n'
    zoo(loud=loud)
    install("toythird", "[lgbench.methods]\nthird = toythird.loud:Loud\n", __init__=loud, loud=loud)
    code = (
        "import sys\n"
        "from lgbench.plugins.registry import METHODS, TASKS, Registry\n"
        "toys = Registry('method', 'toyzoo.methods')\n"
        "assert {'loud', 'third'} <= set(toys.names()), toys.names()\n"
        "assert toys.summary('loud') == toys.summary('third') == 'Loud.'\n"
        "for registry in (toys, TASKS, METHODS):\n"
        "    for name in registry.names():\n"
        "        registry.canonical(name), registry.summary(name)\n"
        "        registry.problem(name), registry.place(name)\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'toythird', 'toyzoo.methods'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_third_party_method_is_found_and_loaded_through_its_entry_point(
    zoo: Zoo, install: Callable[..., Path]
) -> None:
    source = GENTLE + "\n\nclass Sibling(Gentle):\n    trains_like = 'vanilla'\n"
    install("toyremedy", "[lgbench.methods]\nmy-remedy = toyremedy.inner:Sibling\n", inner=source)
    methods = zoo(gentle=GENTLE)
    assert {"gentle", "my_remedy"} <= set(methods.names())
    assert methods.place("my_remedy") == "entry point toyremedy.inner:Sibling of toyremedy"
    assert methods.summary("my-remedy") == "Be gentle: change nothing."
    assert "toyremedy" not in sys.modules

    plugin = methods.load("my-remedy")
    assert plugin.__module__ == "toyremedy.inner"
    assert plugin.trains_like == "vanilla"
    params = resolve(plugin, {"power": 0.5}, "method", "my_remedy")
    assert label("my_remedy", params) == "my_remedy[power=0.5]"
    assert plugin(params).params.power == 0.5
    assert plugin(params).train_lengths(64) == (1, 64)


def test_an_entry_point_may_name_a_module_alone(zoo: Zoo, install: Callable[..., Path]) -> None:
    install("toyalone", "[lgbench.methods]\nalone = toyalone.inner\n", inner=GENTLE)
    assert zoo().load("alone").__name__ == "Gentle"


def test_an_entry_point_to_nothing_fails_only_when_asked_for(zoo: Zoo, install: Callable[..., Path]) -> None:
    points = (
        "[lgbench.methods]\nnowhere = toyempty.inner:Gentle\nclassless = toyempty:Gentle\n"
        "wrong = toyempty:Number\ngone = toy_not_there.inner:Gentle\n"
    )
    install("toyempty", points, __init__="Number = int\n")
    methods = zoo(gentle=GENTLE)
    assert methods.load("gentle").__name__ == "Gentle"
    with pytest.raises(UserError, match="method 'nowhere' cannot be imported: ModuleNotFoundError"):
        methods.load("nowhere")
    with pytest.raises(UserError, match="method 'gone' cannot be imported: ModuleNotFoundError"):
        methods.load("gone")
    for name in ("classless", "wrong"):
        with pytest.raises(
            UserError, match=f"method '{name}' must define one public method class, found none"
        ):
            methods.load(name)


def test_two_plugins_of_one_name_are_an_error_that_names_both(
    zoo: Zoo, install: Callable[..., Path], tmp_path: Path
) -> None:
    methods = zoo(gentle=GENTLE)
    (tmp_path / "gentle.py").write_text(GENTLE)
    with pytest.raises(UserError) as caught:
        add_file(tmp_path / "gentle.py", [methods])
    built_in = tmp_path.resolve() / "toyzoo" / "methods" / "gentle.py"
    assert (
        str(caught.value) == f"two methods are named 'gentle': {built_in} and {tmp_path.resolve()}/gentle.py"
        ". Rename one: a plugin has the name of its file"
    )

    install("toytwin", "[lgbench.methods]\ngentle = toytwin:Gentle\n", __init__=GENTLE)
    twins = Registry("method", "toyzoo.methods")
    for _ in range(2):  # every look-up says so, not only the first
        with pytest.raises(UserError) as caught:
            twins.names()
        assert str(built_in) in str(caught.value)
        assert "entry point toytwin:Gentle of toytwin" in str(caught.value)


def test_the_same_file_twice_is_one_plugin(zoo: Zoo, tmp_path: Path) -> None:
    methods = zoo(gentle=GENTLE)
    (tmp_path / "other.py").write_text(GENTLE)
    for path in (tmp_path / "other.py", tmp_path / "toyzoo" / ".." / "other.py"):
        add_file(path, [methods])
    add_file(tmp_path / "toyzoo" / "methods" / "gentle.py", [methods])
    assert {"gentle", "other"} <= set(methods.names())


def test_a_plugin_file_goes_to_the_registries_of_what_it_defines(zoo: Zoo, tmp_path: Path) -> None:
    zoo()
    sources = {
        "only_method": GENTLE,
        "only_task": "from lgbench import task as t\nclass Mine(t.Task):\n    pass\n",
        "both": "from lgbench.task import Task as T\nfrom lgbench.method import Method\n"
        "class Mine(T):\n    pass\nclass Remedy(Method):\n    pass\n",
        "indirect": "from lgbench.method import Method\n"
        "class _Base(Method):\n    pass\nclass Mine(_Base):\n    pass\n",
    }
    tasks, methods = Registry("task", "toyzoo.methods"), Registry("method", "toyzoo.methods")
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
        add_file(tmp_path / f"{name}.py", [tasks, methods])
    assert {"only_task", "both"} <= set(tasks.names())
    assert {"only_method", "both", "indirect"} <= set(methods.names())
    assert not {"only_method", "indirect"} & set(tasks.names())
    assert "only_task" not in methods.names()
    assert issubclass(tasks.load("both"), Task)
    assert issubclass(methods.load("both"), Method)
    assert sys.modules[tasks.load("both").__module__] is sys.modules[methods.load("both").__module__]
    assert methods.load("indirect").__name__ == "Mine"


def test_a_plugin_file_may_extend_a_built_in_plugin(tmp_path: Path, zoo: Zoo) -> None:
    methods = zoo()
    (tmp_path / "finer.py").write_text(
        "from lgbench.methods.anything import Anything\nclass Finer(Anything):\n    pass\n"
    )
    add_file(tmp_path / "finer.py", [methods])
    assert "finer" in methods.names()


def test_a_file_that_is_no_plugin_is_refused_at_once(zoo: Zoo, tmp_path: Path) -> None:
    methods = zoo()
    cases = {
        "nothing.py": (
            "x = 1\nclass Task:\n    pass\n",
            "defines no public subclass of lgbench's Task, Method, Backbone, Probe or Launcher",
        ),
        "torn.py": ("class Broken(Method\n", "cannot read the plugin file .*torn.py, line 1"),
        "binary.py": ("\0", "cannot read the plugin file"),
        "notes.txt": (GENTLE, "expected the path of a Python file"),
        "2fast.py": (GENTLE, "must be letters a to z, digits and _"),
    }
    for name, (source, message) in cases.items():
        (tmp_path / name).write_text(source)
        with pytest.raises(UserError, match=message):
            add_file(tmp_path / name, [methods])
    with pytest.raises(UserError, match=r"no plugin file '.*absent\.py'"):
        add_file(tmp_path / "absent.py", [methods])
    assert not {"nothing", "torn", "binary", "notes", "2fast", "absent"} & set(methods.names())


def test_broken_plugins_stay_listed_and_do_not_stop_the_others(zoo: Zoo) -> None:
    methods = zoo(
        gentle=GENTLE,
        lacking=LACKING,
        torn='"""Torn."""\nclass Broken(\n',
        raising='"""Raising."""\nraise RuntimeError("boom\\nand more")\n',
        leaving='"""Leaving."""\nraise SystemExit(3)\n',
        careless='"""Careless."""\nimport toy_absent_too\n',
        literal='"""Literal."""\nREQUIRES = "numpy"\n',
    )
    broken = {"lacking", "torn", "raising", "leaving", "careless", "literal"}
    assert broken | {"gentle"} <= set(methods.names())
    assert methods.summary("torn") == ""
    assert methods.summary("raising") == "Raising."
    expected = {
        "lacking": "needs toy_absent_module, which is not installed. pip install toy_absent_module",
        "torn": "cannot be read: '(' was never closed",
        "raising": "cannot be imported: RuntimeError: boom and more (",
        "leaving": "cannot be imported: SystemExit: 3 (",
        "careless": "needs toy_absent_too, which is not installed. pip install toy_absent_too",
        "literal": "cannot be read: REQUIRES must be a literal tuple of module names",
    }
    assert {name for name in broken if methods.problem(name)} == {"lacking", "torn", "literal"}
    for name, message in expected.items():
        with pytest.raises(UserError) as caught:
            methods.load(name)
        assert str(caught.value).startswith(f"method '{name}' {message}")
        assert "\n" not in str(caught.value)
        assert methods.problem(name).startswith(message)
    assert methods.load("gentle").__name__ == "Gentle"


def test_the_problem_of_a_combination_is_that_of_its_first_broken_part(zoo: Zoo) -> None:
    methods = zoo(gentle=GENTLE, lacking=LACKING)
    needs = "has the part 'lacking', which needs toy_absent_module, which is not installed. "
    assert methods.problem("gentle+lacking") == f"{needs}pip install toy_absent_module"
    assert methods.problem("gentle+gentle") is None


def test_a_plugin_that_failed_is_not_run_again(zoo: Zoo, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    methods = zoo(
        raising=f"with open({str(trace)!r}, 'a') as file:\n    file.write('x')\nraise RuntimeError\n"
    )
    for _ in range(2):
        with pytest.raises(UserError, match="RuntimeError"):
            methods.load("raising")
    assert trace.read_text() == "x"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from lgbench.method import Method\nclass _Hidden(Method):\n    pass\n", "none"),
        (
            "from lgbench.method import Method\nclass A(Method):\n    pass\nclass B(Method):\n    pass\n",
            "A, B",
        ),
        ("import lgbench.task as t\nclass Mine(t.Task):\n    pass\n", "none"),
    ],
    ids=["none", "several", "other_contract"],
)
def test_a_module_must_define_exactly_one_public_class(zoo: Zoo, source: str, found: str) -> None:
    with pytest.raises(UserError, match=f"method 'odd' must define one public method class, found {found} "):
        zoo(odd=source).load("odd")


def test_an_imported_class_does_not_count_as_defined_here(zoo: Zoo) -> None:
    extending = (
        "from toyzoo.methods.gentle import Gentle\nclass Gentler(Gentle):\n    pass\nAlias = Gentler\n"
    )
    assert zoo(gentle=GENTLE, gentler=extending).load("gentler").__name__ == "Gentler"


def test_a_missing_module_points_to_the_extra_that_brings_it(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = ["torch>=2.7", 'toy-absent.module>=1; extra == "hub"', 'other; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    methods = zoo(lacking=LACKING, both='"""Two."""\nREQUIRES = ("toy_absent_module", "toy_b", "json")\n')
    with pytest.raises(UserError) as caught:
        methods.load("lacking")
    assert str(caught.value) == (
        "method 'lacking' needs toy_absent_module, which is not installed. pip install \"lgbench[hub]\""
    )
    assert methods.problem("both") == (
        "needs toy_absent_module, toy_b, which are not installed. "
        'pip install "lgbench[hub]" && pip install toy_b'
    )


def test_the_shipped_registries_list_every_file_of_their_folders() -> None:
    for registry, package in ((TASKS, "lgbench.tasks"), (METHODS, "lgbench.methods")):
        [folder] = importlib.import_module(package).__path__
        files = {path.stem: str(path.resolve()) for path in Path(folder).glob("[!_]*.py")}
        files |= {p.parent.name: str(p.resolve()) for p in Path(folder).glob("[!_]*/__init__.py")}
        built_in = [name for name in registry.names() if not registry.place(name).startswith("entry point ")]
        assert {name: registry.place(name) for name in built_in} == files


def test_a_name_that_looks_like_another_one_is_refused(tmp_path):
    path = tmp_path / "v\u0430nilla.py"
    path.write_text(GENTLE, encoding="utf-8")
    with pytest.raises(UserError, match=r"this one has а \(CYRILLIC SMALL LETTER A\)"):
        add_file(path)
    with pytest.raises(UserError, match="CYRILLIC SMALL LETTER A"):
        METHODS.add_class(type("V\u0430nilla", (), {}))


def test_who_types_a_letter_of_another_script_learns_which_it_is():
    with pytest.raises(UserError, match=r"It has а \(CYRILLIC SMALL LETTER A\)\. Did you mean 'vanilla'"):
        METHODS.canonical("v\u0430nilla")
