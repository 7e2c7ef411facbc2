"""The file of a baseline: what is refused, and that writing loses nothing."""

import pytest
import yaml

from lgbench.answers.baseline import Baseline, Device, Quality, Speed, read_baseline, write_baseline
from lgbench.errors import UserError

PLAN = [{"task": "marked_recall", "preset": "smoke"}]


def test_what_is_written_is_read_again(tmp_path):
    device = Device(
        made={"processor": "x"},
        quality={"a: b, score": Quality(seeds=(0.5, 0.25), tolerance=0.01)},
        losses={"t": (2.5, 1.0)},
        speed={"step": Speed(ratio=2.0, allowed=1.15)},
    )
    made = Baseline(name="tiny", plan=PLAN, devices={"cpu": device})
    write_baseline(tmp_path / "b.yaml", made)
    assert read_baseline(tmp_path / "b.yaml") == made


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: tiny", "has no plan to run"),
        ("name: tiny\nplan: []", "has no plan to run"),
        ("plan: [{task: x}]", "name: Field required"),
        ("- a list", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("name: t\nplan: [{task: x}]\nplans: 1", "plans: Extra inputs"),
        ("name: t\nplan: [{task: x}]\nformat: 2", "format"),
        ("name: t\nplan: [{task: x}]\ndevices: {tpu: {}}", "devices.tpu"),
        (
            "name: t\nplan: [{task: x}]\ndevices: {cpu: {quality: {a: {seeds: [.nan], tolerance: 0}}}}",
            "devices.cpu.quality.a.seeds.0",
        ),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(tmp_path, content, words):
    (tmp_path / "b.yaml").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read_baseline(tmp_path / "b.yaml")
    assert "\n" not in str(caught.value) and "b.yaml" in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_baseline(tmp_path / "none.yaml")


def test_the_file_is_text_that_a_review_can_read(tmp_path):
    write_baseline(tmp_path / "b.yaml", Baseline(name="tiny", plan=PLAN))
    text = (tmp_path / "b.yaml").read_text()
    assert text.startswith("# ") and yaml.safe_load(text)["plan"] == PLAN
