"""Which method runs on which task, and what a reader is told where it does not."""

from lgbench.plan.applicability import Applicability, applicability, render
from lgbench.plugins import registry

LACKING = (
    '"""Needs something."""\nREQUIRES = ("absent_module",)\nfrom lgbench.{kind} import {base}\n\n'
    "class X({base}):\n    pass\n"
)


def test_every_method_is_asked_about_every_task_and_a_refusal_is_its_reason(toys):
    found = applicability()
    assert set(found.reasons) == {(m, t) for m in registry.METHODS.names() for t in registry.TASKS.names()}
    assert found.reasons["vanilla", "toy_average"] is None
    assert found.backbones["vanilla"][0] == "mamba"
    assert found.reasons["transformer", "omniglot"] is None
    assert "decoder_transformer" in found.reasons["transformer", "toy_recall"]


def test_a_plugin_that_cannot_be_imported_is_shown_as_such(tmp_path):
    for name, kind, base in (("no_task", "task", "Task"), ("no_method", "method", "Method")):
        path = tmp_path / f"{name}.py"
        path.write_text(LACKING.format(kind=kind, base=base))
        registry.add_file(path)
    found = applicability()
    assert "absent_module" in found.reasons["vanilla", "no_task"]
    assert "absent_module" in found.reasons["no_method", "omniglot"]
    assert found.backbones["no_method"] == ()
    line = next(line for line in render(found) if line.startswith("no_method"))
    numbers = set(line.split()[1:-1])
    assert len(numbers) == 1 and numbers.pop().startswith("(") and line.endswith("?")


def test_a_task_without_a_recipe_for_a_layout_is_the_reason(tmp_path):
    path = tmp_path / "only_causal.py"
    path.write_text(
        "from lgbench.task import Task\n\nclass T(Task):\n    def recipe(self, preset, layout):\n"
        "        if layout != 'causal':\n            raise LookupError(preset)\n"
    )
    registry.add_file(path)
    found = applicability()
    assert found.reasons["vanilla", "only_causal"] is None
    assert "layout encoder_decoder" in found.reasons["transformer", "only_causal"]


def test_equal_reasons_share_a_note():
    found = Applicability(
        tasks=["images", "text"],
        methods=["a", "b_long"],
        backbones={"a": ("mamba", "mamba2"), "b_long": ("decoder",)},
        reasons={("a", "images"): None, ("a", "text"): "too long", ("b_long", "images"): "too short",
                 ("b_long", "text"): "too long"},
    )  # fmt: skip
    assert render(found) == [
        "method  images  text  backbones",
        "a       yes     (1)   mamba, mamba2",
        "b_long  (2)     (1)   decoder",
        "(1) too long",
        "(2) too short",
    ]
