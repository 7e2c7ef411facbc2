"""`lgbench regress` end to end on a toy plan, with faults planted; times are those of a made-up clock."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from lgbench.answers.baseline import read_baseline
from lgbench.bench import gate, pace
from lgbench.cli import app
from lgbench.launchers import local
from lgbench.plugins import registry

PROJECT = Path(__file__).parent / "baseline.yaml"
TOYS = Path(__file__).parent.parent / "toys"


@pytest.fixture
def times(monkeypatch):
    """Milliseconds that the clock gives: of the reference 10, of everything else `times["work"]`."""
    given = {"work": 20.0}

    def clock(call):
        took = 10.0 if call.__qualname__.startswith("reference") else given["work"]
        return took, took

    monkeypatch.setattr(pace, "both_clocks", lambda device: clock)
    return given


@pytest.fixture
def lgbench(tmp_path, monkeypatch, times):
    """`lgbench("regress", ...)` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def call(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return call


RUN = {
    "task": "toy_average", "preset": "smoke", "seeds": 2, "train_steps": 6, "eval_lengths": [8, 16, 32],
    "query_grid": [1], "plugin": [str(path) for path in sorted(TOYS.glob("toy_*.py"))],
}  # fmt: skip


@pytest.fixture
def baseline(tmp_path, lgbench):
    """A baseline that was made here."""
    path = tmp_path / "baseline.yaml"
    golden = {"plan": [{**RUN, "seeds": 1}], "steps": 4}
    path.write_text(yaml.safe_dump({"name": "toy", "plan": [RUN], "golden": golden}))
    done = lgbench("regress", "--baseline", path, "--update", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "new: quality" in done.output and "new: loss" in done.output and "new: speed" in done.output
    return path


def regress(lgbench, baseline, *words):
    return lgbench("regress", "--baseline", baseline, "--device", "cpu", *words)


def test_the_same_code_passes_and_says_so(lgbench, baseline):
    done = regress(lgbench, baseline)
    assert done.exit_code == 0, done.output
    assert "5 checks: 5 ok" in done.output


def test_a_slow_down_of_30_percent_fails_and_stands_in_junit_and_summary(
    lgbench, baseline, times, monkeypatch
):
    times["work"] *= 1.3
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    done = regress(lgbench, baseline, "--junit", "out/j.xml")
    assert done.exit_code == 1 and "1.30 times as long" in done.output
    suite = ElementTree.parse("out/j.xml").getroot().find("testsuite")
    assert suite.get("failures") == "2" and suite.get("tests") == "5"
    assert "2 regression" in Path("summary.md").read_text()


def test_a_loss_of_5_percent_of_the_score_fails(lgbench, baseline, monkeypatch):
    """The toy is hardly learned in 6 steps, so scores are made: 0.8, and 0.76 with the fault."""
    level = {"now": 0.8}
    read = gate.read_quality

    def made(folder, cells):
        found = read(folder, cells)
        found.quality = {what: [level["now"]] * 2 for what in found.quality}
        return found

    monkeypatch.setattr(gate, "read_quality", made)
    assert regress(lgbench, baseline, "--update").exit_code == 0
    assert regress(lgbench, baseline).exit_code == 0
    level["now"] *= 0.95
    done = regress(lgbench, baseline)
    assert done.exit_code == 1 and "2 regression" in done.output


def test_another_optimiser_shows_in_the_first_losses(lgbench, baseline, monkeypatch):
    kind = registry.TASKS.load("toy_average")
    loss = kind.loss
    monkeypatch.setattr(kind, "loss", lambda self, *args: 1.01 * loss(self, *args))
    done = regress(lgbench, baseline)
    assert done.exit_code == 1 and "from the baseline" in done.output


def test_cells_that_fail_exit_3_each_time_and_the_baseline_stays(lgbench, baseline):
    content = yaml.safe_load(baseline.read_text())
    content["plan"][0]["method"] = "toy_trouble[kind=nan,when=train]"
    baseline.write_text(yaml.safe_dump(content))
    before = baseline.read_text()
    for words in ((), (), ("--update",)):
        done = regress(lgbench, baseline, *words)
        assert done.exit_code == 3 and "diverged" in done.output, done.output
    assert baseline.read_text() == before


def test_rows_are_read_where_there_are_some_and_nothing_is_run(lgbench, baseline, monkeypatch):
    config = Path("plan.yaml")
    config.write_text(yaml.safe_dump([RUN]))
    assert lgbench("run", "--config", config, "--device", "cpu", "--results", "kept").exit_code == 0
    monkeypatch.setattr(local.Local, "launch", None)
    done = lgbench("regress", "--baseline", baseline, "--results", "kept")
    assert done.exit_code == 0 and "not judged" in done.output and "2 ok" in done.output
    path = next(Path("kept").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    assert lgbench("regress", "--baseline", baseline, "--results", "kept").exit_code == 3


def test_update_says_what_moved(lgbench, baseline, times):
    times["work"] *= 1.3
    done = regress(lgbench, baseline, "--update")
    assert done.exit_code == 0 and "2.0000 → 2.6000" in done.output
    assert "moved: quality" not in done.output and regress(lgbench, baseline).exit_code == 0


def test_a_second_update_moves_nothing(lgbench, baseline):
    assert "nothing moved" in regress(lgbench, baseline, "--update").output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: x\n", "has no plan to run"),
        ("name: x\nplan: [{task: nosuch}]", "no task 'nosuch'"),
        ("name: x\nplan: [{tsk: marked_recall}]", "no option 'tsk'"),
        ("name: x\nplan: [{task: marked_recall, preset: smoke, eval_lengths: [0]}]", "--eval-lengths"),
    ],
)
def test_bad_input_is_one_line_and_exits_2(lgbench, tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    done = regress(lgbench, path)
    assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_device_without_numbers_and_rows_without_the_plan_exit_2(lgbench, baseline, tmp_path):
    (tmp_path / "empty" / "rows").mkdir(parents=True)
    done = lgbench("regress", "--baseline", baseline, "--results", "empty")
    assert done.exit_code == 2 and "has no rows of the plan 'toy'" in done.stderr
    content = yaml.safe_load(baseline.read_text())
    content["devices"] = {"cuda": content["devices"]["cpu"]}
    baseline.write_text(yaml.safe_dump(content))
    done = regress(lgbench, baseline)
    assert done.exit_code == 2 and "has no numbers for cpu; add them with: lgbench regress" in done.stderr


def test_the_projects_own_baseline_would_notice_5_percent_of_every_score():
    found = read_baseline(PROJECT).devices["cpu"]
    assert len(found.quality) == 4 and len(found.losses) == 2 and len(found.speed) == 3
    for what, one in found.quality.items():
        assert one.tolerance < 0.05 * sum(one.seeds) / len(one.seeds), what
    assert all(one.allowed <= 1.15 for one in found.speed.values())
