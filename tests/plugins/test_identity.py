"""An edited plugin is another plugin; a comment, a docstring or another version of Python is not an edit."""

import ast
import importlib.metadata
import linecache
import sys
import textwrap

import pytest

from lgbench.backbone import Backbone
from lgbench.errors import UserError
from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.params import PluginRequest
from lgbench.plugins import identity
from lgbench.plugins.identity import Home, canonical, source_identity
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS, Registry
from lgbench.plugins.source import PluginSource

PLUGIN = """
    from lgbench.method import Method, ScanIntervention

    class Forgetful(Method):
        def intervention(self, train_length, d_model):
            return ScanIntervention()
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def identity_of(path):
    """By a registry of its own, as in a new process."""
    registry = Registry("method", "lgbench.methods")
    registry.add_file(path)
    sys.modules.pop(
        next(iter(m for m in sys.modules if m.startswith(f"lgbench_plugin_{path.stem}")), ""), None
    )
    return registry.identity(path.stem)


@pytest.mark.parametrize(
    "edit",
    [
        ("return ScanIntervention()", "return None or ScanIntervention()"),
        ("d_model):", "d_model=0):"),
        ("class Forgetful(Method):", "class Forgetful(Method):\n        prefix_exact = False"),
    ],
    ids=["body", "default", "attribute"],
)
def test_an_edit_is_another_identity(tmp_path, edit):
    path = write(tmp_path / "forgetful.py", PLUGIN)
    before = identity_of(path)
    write(path, PLUGIN.replace(*edit))
    assert identity_of(path) != before


def test_comments_docstrings_and_layout_do_not_count(tmp_path):
    path = write(tmp_path / "forgetful.py", PLUGIN)
    before = identity_of(path)
    text = (
        textwrap.dedent(PLUGIN)
        .replace("return Scan", "# why\n        return (  Scan")
        .replace("()\n", "())\n")
    )
    path.write_text(
        '"""A docstring."""\n' + text.replace("(Method):", '(Method):\n    """Of the class."""\n')
    )
    assert identity_of(path) == before


def test_the_folder_that_a_plugin_lies_in_does_not_count(tmp_path):
    here, there = (write(tmp_path / name / "forgetful.py", PLUGIN) for name in ("here", "there"))
    assert identity_of(here) == identity_of(there)


@pytest.mark.parametrize(
    ("statement", "file"),
    [
        ("from my_model import Net", "my_model.py"),
        ("import my_package.inner", "my_package/inner.py"),
        ("import my_package.inner", "my_package/__init__.py"),
        ("from my_package import inner", "my_package/inner.py"),
    ],
)
def test_an_edit_of_an_imported_neighbour_counts(tmp_path, statement, file):
    for name in ("my_model.py", "my_package/__init__.py", "my_package/inner.py"):
        write(tmp_path / name, "Net = 1\n")
    path = write(tmp_path / "forgetful.py", f"{statement}\n{textwrap.dedent(PLUGIN)}")
    before = identity_of(path)
    write(tmp_path / file, "Net = 2\n")
    assert identity_of(path) != before


def test_an_edit_two_imports_away_counts(tmp_path):
    write(tmp_path / "near.py", "def f():\n    import far\n")
    write(tmp_path / "far.py", "value = 1\n")
    path = write(tmp_path / "forgetful.py", f"import near\n{textwrap.dedent(PLUGIN)}")
    before = identity_of(path)
    write(tmp_path / "far.py", "value = 2\n")
    assert identity_of(path) != before


def test_a_neighbour_that_is_not_imported_does_not_count(tmp_path):
    path = write(tmp_path / "forgetful.py", PLUGIN)
    before = identity_of(path)
    write(tmp_path / "stranger.py", "value = 1\n")
    assert identity_of(path) == before


def test_a_plugin_file_may_import_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    write(tmp_path / "lgbench_test_neighbour.py", "VALUE = 7\n")
    path = write(
        tmp_path / "forgetful.py", f"from lgbench_test_neighbour import VALUE\n{textwrap.dedent(PLUGIN)}"
    )
    registry = Registry("method", "lgbench.methods")
    registry.add_file(path)
    assert registry.load("forgetful").__name__ == "Forgetful"


def test_the_version_of_another_distribution_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_distributions", lambda: {"strange": ["strange-dist"]})
    path = write(tmp_path / "forgetful.py", "import strange\n")
    found = []
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        found.append(source_identity(path, Home(root=tmp_path)))
    assert found[0] != found[1]


def test_the_version_of_a_built_in_parent_counts(tmp_path, monkeypatch):
    path = write(tmp_path / "forgetful.py", "from lgbench.methods.vanilla import Vanilla\n")
    before = source_identity(path, Home(root=tmp_path))
    monkeypatch.setattr(identity, "declared_version", lambda tree: 2)
    assert source_identity(path, Home(root=tmp_path)) != before


def test_relative_imports_of_an_installed_package_are_followed(tmp_path):
    write(tmp_path / "kit" / "__init__.py", "")
    write(tmp_path / "kit" / "net.py", "value = 1\n")
    path = write(tmp_path / "kit" / "plugin.py", "from .net import value\n")
    home = Home(root=tmp_path, packages=frozenset({"kit"}))
    before = source_identity(path, home)
    write(tmp_path / "kit" / "net.py", "value = 2\n")
    assert source_identity(path, home) != before


def test_a_tree_is_written_without_what_versions_of_python_add():
    tree = ast.parse("def f(a, *, b=None) -> int:\n    return [a, b, ...]\nclass C:\n    x: int = 1\n")
    text = canonical(tree)
    assert "type_params" not in text and "type_comment" not in text and "kind" not in text
    assert "Constant" not in text and "NoneType(None)" in text and "int(1)" in text
    for node in ast.walk(tree):  # as Python 3.13 leaves out what is empty
        for name in list(vars(node)):
            if getattr(node, name) in (None, []) and not isinstance(node, ast.Constant):
                delattr(node, name)
    assert canonical(tree) == text


def test_what_has_no_source_needs_a_version():
    compiled = PluginSource(place="entry point math:x of kit", module="math", attribute="x")
    with pytest.raises(UserError, match="version = 1"):
        compiled.identity(None)
    assert compiled.identity(3) == "v3"


def test_built_in_plugins_have_their_version():
    assert METHODS.identity("vanilla") == TASKS.identity("omniglot") == "v1"
    assert METHODS.identity("decimamba+mambaextend") == "v1+v2"


def test_numbers_of_a_released_protocol_have_a_version_that_clean_ones_do_not_share():
    kind = METHODS.load("decimamba")
    clean, released = kind(), kind(kind.Params(protocol="as_released"))
    assert METHODS.identity_of("decimamba", clean) == METHODS.identity("decimamba") == "v1"
    assert METHODS.identity_of("decimamba", released) == f"v1r{kind.released_version}" != "v1"
    both = METHODS.load("decimamba+vanilla")
    made = both(both.Params.model_validate({"decimamba.protocol": "as_released"}))
    assert METHODS.identity_of("decimamba+vanilla", made) == f"v1r{kind.released_version}+v1"


def test_an_edited_method_gives_other_cells(tmp_path, monkeypatch, toy_task):
    task = load_task(PluginRequest("toy_average", {}))
    path = write(tmp_path / "forgetful.py", PLUGIN)

    def cells():
        fresh = Registry("method", "lgbench.methods")
        fresh.add_file(path)
        for name in [name for name in sys.modules if name.startswith("lgbench_plugin_forgetful")]:
            del sys.modules[name]
        monkeypatch.setattr("lgbench.plan.cells.METHODS", fresh)
        return resolve_cells(
            [("toy_average", task)],
            [PluginRequest("forgetful", {})],
            seeds=[0],
            preset="smoke",
            axes=Axes(),
            overrides={},
        )

    (before,) = cells()
    write(path, PLUGIN.replace("return ScanIntervention()", "return None or ScanIntervention()"))
    (after,) = cells()
    assert before.key != after.key and before.training.key != after.training.key


def test_an_edited_class_of_a_notebook_is_another_plugin():
    """IPython keeps the text of its cells where tracebacks look for it, and `__main__` has no file."""

    def cell(number, body):
        text = f"x = 1\n\nclass Mine(Backbone):\n    def mixer(self, d_model, layer):\n        {body}\n"
        name = f"cell {number}"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        names = {"__name__": "no_such_module", "Backbone": Backbone}
        exec(compile(text, name, "exec"), names)
        BACKBONES.add_class(names["Mine"])
        return BACKBONES.identity("mine")

    known = BACKBONES.names()
    try:
        assert cell(1, "return 1") == cell(2, "return  1  # the same") != cell(3, "return 2")
    finally:
        BACKBONES._found = {name: BACKBONES._found[name] for name in known}


def test_what_a_class_of_a_notebook_names_is_part_of_it():
    """A helper class, a function that it calls and a plain value may be edited in their cells."""
    space = {"__name__": "no_such_module", "Backbone": Backbone}

    def cell(number, text):
        name = f"cell of names {number}"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), space)

    def identity():
        BACKBONES.add_class(space["Mine"])
        return BACKBONES.identity("mine")

    known = BACKBONES.names()
    try:
        cell(1, "RATE = 0.5\n")
        cell(2, "def scaled(x):\n    return RATE * x\n")
        cell(3, "class Layer:\n    def run(self, x):\n        return scaled(x)\n")
        cell(4, "class Mine(Backbone):\n    def mixer(self, d_model, layer):\n        return Layer()\n")
        found = [identity()]
        cell(5, "def unrelated(x):\n    return x\n")
        assert identity() == found[0]
        for number, text in enumerate(
            (
                "RATE = 0.25\n",
                "def scaled(x):\n    return RATE * x + 1\n",
                "class Layer:\n    def run(self, x):\n        return 2 * scaled(x)\n",
            )
        ):
            cell(6 + number, text)
            found.append(identity())
        assert len(set(found)) == 4
    finally:
        BACKBONES._found = {name: BACKBONES._found[name] for name in known}
