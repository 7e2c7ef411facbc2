"""The commands end to end: runs, dry runs, plans from YAML, bad input in one line, Ctrl-C without loss."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.run import estimate
from lgbench.run.train import Trainer
from lgbench.store import read

CHECKOUT = Path(__file__).parent.parent
QUICK = ["--train-steps", "6", "--eval-lengths", "1,16", "--query-grid", "1,4"]


@pytest.fixture
def lgbench(monkeypatch, tmp_path):
    """`lgbench("run", ...)` in an empty folder; returns exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def toy(lgbench, toy_options):
    """`toy("--method", "vanilla")` is a quick run of the toy task."""
    return lambda *arguments: lgbench(*toy_options, *QUICK, *arguments)


def rows(results="runs"):
    return read([Path(results)]).table.to_pylist()


def written(folder="."):
    return sorted(p.as_posix() for p in Path(folder).rglob("*") if p.is_file())


def test_a_run_trains_evaluates_stores_and_says_what_comes_next(toy):
    result = toy("--method", "vanilla,transformer", "--seeds", 2)
    assert result.exit_code == 0 and result.stderr == ""
    assert "[4/4] toy_average transformer L_train=16 seed=1 step=6: done" in result.stdout
    assert "Rows are in runs. Next: lgbench report --results runs" in result.stdout
    assert {(r["method"], r["seed"]) for r in rows()} == {
        (m, s) for m in ("vanilla", "transformer") for s in (0, 1)
    }
    assert {r["status"] for r in rows()} == {"ok"}


def test_a_task_alone_runs_the_baseline(toy):
    assert toy().exit_code == 0
    assert {(r["method"], r["status"]) for r in rows()} == {("vanilla", "ok")}


def test_finished_cells_are_skipped_unless_forced(toy):
    toy("--method", "vanilla")
    before = {path: Path(path).stat().st_mtime_ns for path in written("runs/rows")}
    again = toy("--method", "vanilla", "--resume")
    assert again.exit_code == 0 and "Finished already" in again.stdout
    assert {path: Path(path).stat().st_mtime_ns for path in written("runs/rows")} == before
    forced = toy("--method", "vanilla", "--force")
    assert "training toy_average vanilla" in forced.stdout and "Finished already" not in forced.stdout


def test_a_run_prints_the_tables_of_its_own_boards_alone(toy, lgbench):
    def tables(result):
        return sum(line.split()[:1] == ["chance"] for line in result.stdout.splitlines())

    toy("--method", "vanilla")
    other = toy("--method", "prepended", "-p", "toy_average.noise=0.25")
    assert tables(other) == 1 and "vanilla" not in other.stdout
    again = toy("--method", "vanilla")
    assert tables(again) == 1 and "prepended" not in again.stdout
    assert tables(lgbench("report", "--tables")) == 2


def test_hyphens_in_names_count_as_underscores(toy):
    assert toy("--method", "toy-shrink").exit_code == 0
    assert {r["method"] for r in rows()} == {"toy_shrink"}


def test_parameters_in_brackets_and_apart_span_grids(toy):
    assert toy("--method", "truncated[low=2],prepended", "-p", "prepended.tell=1,2").exit_code == 0
    assert {r["label"] for r in rows()} == {"truncated[low=2]", "prepended", "prepended[tell=2.0]"}
    assert len(list(Path("runs/checkpoints").iterdir())) == 2


def test_sizes_lengths_and_steps_are_grid_axes(toy):
    result = toy(
        "--method", "vanilla", "--train-length", "8,16", "--num-layers", "1,2", "--eval-at-steps", "3"
    )
    assert result.exit_code == 0
    found = {(r["train_length"], r["num_layers"], r["step"]) for r in rows()}
    assert found == {(n, k, s) for n in (8, 16) for k in (1, 2) for s in (3, 6)}
    assert len(list(Path("runs/checkpoints").iterdir())) == 4


def test_a_dry_run_shows_cells_shared_trainings_what_is_finished_and_the_time_left_and_runs_nothing(toy):
    toy("--method", "vanilla")
    before = written()
    result = toy("--method", "vanilla,toy_shrink,prepended", "--dry-run")
    assert result.exit_code == 0 and written() == before
    table = [line for line in result.stdout.splitlines() if re.match(r" \w{8}  ", line)]
    shown = [re.search(r"(vanilla|toy_shrink|prepended) .*(#\d)  (finished|to do)", line) for line in table]
    assert [found.groups() for found in shown] == [
        ("vanilla", "#1", "finished"),
        ("toy_shrink", "#1", "to do"),
        ("prepended", "#2", "to do"),
    ]
    assert "3 cells, 1 finished; 2 trainings." in result.stdout
    assert re.search(r"About \d+ s of training and \d+ s of evaluation left on cpu", result.stdout)


def test_a_dry_run_on_a_cpu_times_few_items_of_a_large_batch(toy, monkeypatch):
    sizes = []
    monkeypatch.setattr(estimate, "TRIAL_TOKENS", 40)
    monkeypatch.setattr(
        estimate, "Trainer", lambda training, *rest: sizes.append(training.recipe.batch_size) or
        Trainer(training, *rest)
    )  # fmt: skip
    result = toy("--method", "vanilla", "--dry-run")
    assert result.exit_code == 0 and sizes == [2]  # of 16 tokens each
    assert "1 cell, 0 finished; 1 training." in result.stdout


def test_a_dry_run_shows_parameters_in_brackets(toy):
    result = toy("--method", "truncated[low=[3,4]]", "--dry-run")
    assert "truncated[low=3]" in result.stdout and "truncated[low=4]" in result.stdout


def test_a_plan_from_yaml_is_the_plan_of_the_options(lgbench, toy, toys):
    plugins = "".join(f"\n  - {path}" for path in toys)
    Path("plan.yaml").write_text(
        f"""
task: toy_average
method: {{vanilla: null, truncated: {{low: [3, 4]}}}}
preset: smoke
device: cpu
seeds: 2
train-steps: 6
eval_lengths: [1, 16]
query_grid: [1, 4]
plugin:{plugins}
"""
    )
    cells = [
        re.findall(r"^ ([0-9a-f]{8})  ", result.stdout, re.M)
        for result in (
            lgbench("run", "--config", "plan.yaml", "--dry-run"),
            toy("--method", "vanilla,truncated[low=[3,4]]", "--seeds", 2, "--dry-run"),
        )
    ]
    assert len(cells[0]) == 6 and cells[0] == cells[1]
    assert lgbench("run", "--config", "plan.yaml", "--seeds", 1).exit_code == 0
    assert {r["seed"] for r in rows()} == {0}


def test_a_cell_that_fails_is_told_and_the_exit_status_says_so(toy):
    result = toy("--method", "toy_trouble,vanilla,toy_trouble[kind=nan]")
    assert result.exit_code == 1
    assert "toy_trouble L_train=16 seed=0 step=6: failed: RuntimeError: boom [/red]" in result.stdout
    assert "toy_trouble[kind=nan] L_train=16 seed=0 step=6: diverged: loss became nan" in result.stdout
    assert "Cells without numbers: 2" in result.stdout
    assert "vanilla L_train=16 seed=0 step=6: done" in result.stdout
    assert sorted(r["status"] for r in rows() if r["axis"] == "context") == ["diverged", "failed", "ok", "ok"]


def test_a_method_that_does_not_apply_is_no_failure(toy):
    result = toy("--method", "vanilla,toy_trouble[kind=unsupported]")
    assert result.exit_code == 0 and "Left out: it was asked to refuse (1 cell)\n" in result.stdout
    assert result.stdout.count("it was asked to refuse") == 1


BAD = {
    "unknown method": (["--method", "vanila"], "no method 'vanila'. Did you mean 'vanilla'?"),
    "the same method twice in a combination": (
        ["--method", "decimamba+decimamba"],
        "method 'decimamba+decimamba' has the same part twice",
    ),
    "unknown method in a combination": (["--method", "decimamba+vanila"], "no method 'vanila'. Did you mean"),
    "unknown task": (
        ["--method", "vanilla", "--task", "omnigl"],
        "no task 'omnigl'. Did you mean 'omniglot'?",
    ),
    "unknown parameter": (
        ["--method", "prepended[tel=2]"],
        "method 'prepended' has no parameter 'tel'. It has: tell (float, above 0, at most 1024, ",
    ),
    "parameter of a task": (["--method", "vanilla", "-p", "toy_average.nose=1"], "has no parameter 'nose'"),
    "parameter of another plugin": (
        ["--method", "vanilla", "-p", "prepended.tell=2"],
        "'prepended' is not in this run",
    ),
    "parameter out of range": (["--method", "prepended[tell=0]"], "tell=0"),
    "parameter of a wrong type": (["--method", "truncated[low=few]"], "low=few"),
    "low above the training length": (
        ["--method", "truncated[low=99]"],
        "low=99 is above the training length",
    ),
    "brackets that do not close": (["--method", "prepended[tell=2"], "cannot read 'prepended[tell=2'"),
    "zero in a grid": (["--method", "vanilla", "--eval-lengths", "0,4"], "--eval-lengths must be positive"),
    "negative in a grid": (["--method", "vanilla", "--eval-lengths=-4,4"], "--eval-lengths must be positive"),
    "unsorted grid": (["--method", "vanilla", "--eval-lengths", "8,4"], "increasing, got 8,4"),
    "empty grid": (["--method", "vanilla", "--eval-lengths", ""], "--eval-lengths: "),
    "words in a grid": (["--method", "vanilla", "--eval-lengths", "4,many"], "--eval-lengths: "),
    "unsorted training lengths": (
        ["--method", "vanilla", "--train-length", "32,16"],
        "--train-length must be increasing, got 32,16",
    ),
    "fused block on the CPU": (["--method", "vanilla", "--scan-backend", "block"], "needs CUDA"),
    "queries out of order": (["--method", "vanilla", "--train-queries", "5,2"], "--train-queries must be"),
    "zero training length": (
        ["--method", "vanilla", "--train-length", "0,16"],
        "--train-length must be at least 1",
    ),
    "odd depth": (["--method", "transformer", "--num-layers", "3"], "--num-layers must be a multiple of 2"),
    "step after the end": (["--method", "vanilla", "--eval-at-steps", "7"], "--eval-at-steps 7 is outside"),
    "unknown preset": (["--method", "vanilla", "--preset", "huge"], "no preset 'huge'. It has: smoke"),
    "no seeds": (["--method", "vanilla", "--seeds", "0"], "--seeds: "),
    "unknown device": (["--method", "vanilla", "--device", "tpu"], "--device: "),
    "unknown scan": (["--method", "vanilla", "--scan-backend", "fast"], "known are auto, block, reference"),
    "scan that cannot run here": (
        ["--method", "vanilla", "--scan-backend", "mamba_ssm"],
        "cannot run on cpu",
    ),
    "no plugin file": (["--method", "vanilla", "--plugin", "absent.py"], "no plugin file 'absent.py'"),
    "no config file": (
        ["--method", "vanilla", "--config", "absent.yaml"],
        "cannot read --config absent.yaml",
    ),
    "results under a file": (
        ["--method", "vanilla", "--results", "occupied/runs"],
        "cannot write occupied/runs",
    ),
}


@pytest.mark.parametrize(("arguments", "complaint"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(toy, arguments, complaint):
    Path("occupied").write_text("a file")
    result = toy(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stderr.startswith("lgbench: ") and result.stderr.count("\n") == 1
    assert written() == ["occupied"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_one_line(toy):
    result = toy("--method", "vanilla", "--device", "cuda")
    assert result.exit_code == 2
    assert result.stderr.startswith("lgbench: --device cuda: ") and result.stderr.count("\n") == 1


def test_real_omniglot_without_data_and_network_is_one_line_that_says_what_to_do(
    lgbench, tmp_path, monkeypatch
):
    monkeypatch.setenv("LGBENCH_CACHE", str(tmp_path / "cache"))
    result = lgbench(
        "run", "--task", "omniglot", "--method", "vanilla", "--data", "omniglot", "--device", "cpu"
    )
    assert result.exit_code == 2
    assert "images_background.zip" in result.stderr and "--data-dir" in result.stderr
    assert result.stderr.startswith("lgbench: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut off", b"<html>404</html>"], ids=["empty", "cut", "html"]
)
def test_a_zip_that_is_not_the_published_one_is_named(lgbench, tmp_path, content):
    for name in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / name).write_bytes(content)
    options = ["run", "--task", "omniglot", "--method", "vanilla", "--device", "cpu", "--data-dir", tmp_path]
    result = lgbench(*options)
    assert result.exit_code == 2
    assert str(tmp_path / "images_background.zip") in result.stderr
    assert result.stderr.startswith("lgbench: ") and result.stderr.count("\n") == 1


def test_a_data_folder_that_does_not_exist_is_one_line(lgbench):
    result = lgbench(
        "run", "--task", "omniglot", "--method", "vanilla", "--device", "cpu", "--data-dir", "absent"
    )
    assert result.exit_code == 2 and "absent" in result.stderr and result.stderr.count("\n") == 1


def test_a_fit_that_needs_longer_books_than_there_are_is_refused_before_any_training(lgbench, tmp_path):
    for side, size in (("train", 400), ("test", 2000)):
        (tmp_path / "books" / side).mkdir(parents=True)
        for k in range(2):
            text = f"{side} {k} " + "words of a book " * 200
            (tmp_path / "books" / side / f"{k}.txt").write_text(text[:size])
    method = "mambaextend[items=2,steps=1]"
    asked = ["run", "--task", "perplexity", "--data", "books", "--preset", "smoke", "--device", "cpu",
             "--train-length", 64, "--eval-lengths", "64,1024", "--train-steps", 1, "--method"]  # fmt: skip
    result = lgbench(*asked, method)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "training" not in result.stdout
    assert result.stderr.startswith(
        "lgbench: method 'mambaextend' would be fitted on training contexts of 1,024 tokens for its "
        "evaluation at 1,024; the longest that can be drawn has 299 ("
    )
    assert written("runs") == []
    result = lgbench(*asked, f"{method},vanilla", "--dry-run")
    assert result.exit_code == 0 and "Left out: method 'mambaextend' would be fitted" in result.stdout


def test_two_plugins_of_one_name_are_an_error_that_names_both(toy, tmp_path):
    mine = tmp_path / "vanilla.py"
    mine.write_text("from lgbench.method import Method\n\nclass Mine(Method):\n    pass\n")
    result = toy("--method", "prepended", "--plugin", mine)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert str(mine) in result.stderr and str(CHECKOUT / "methods" / "vanilla.py") in result.stderr


def test_a_broken_plugin_is_reported_once_when_asked_for_and_does_not_stop_the_others(toy, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("from lgbench.method import Method\nprint(1 / 0)\n\nclass Broken(Method):\n    pass\n")
    asked = toy("--method", "vanilla,broken", "--plugin", broken)
    assert asked.exit_code == 1, "something that was asked for has no numbers"
    assert (asked.stdout + asked.stderr).count("ZeroDivisionError") == 1
    assert len(written("runs/rows")) == 1, "the other method was run"
    others = toy("--method", "vanilla", "--plugin", broken)
    assert others.exit_code == 0 and "ZeroDivisionError" not in others.stderr


def test_a_combination_with_a_broken_part_is_reported_and_does_not_stop_the_others(toy, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("from lgbench.method import Method\nprint(1 / 0)\n\nclass Broken(Method):\n    pass\n")
    asked = toy("--method", "vanilla,vanilla+broken", "--plugin", broken)
    assert asked.exit_code == 1 and {r["method"] for r in rows()} == {"vanilla"}
    left_out = [line for line in asked.stdout.splitlines() if line.startswith("Left out:")]
    assert len(left_out) == 1 and "method 'broken' cannot be imported: ZeroDivisionError" in left_out[0]
    alone = toy("--method", "vanilla+broken", "--plugin", broken)
    assert alone.exit_code == 2
    assert alone.stderr == "lgbench: nothing to run: none of the methods can be used\n"


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(toy, monkeypatch):
    import pyarrow.parquet as pq

    def full(writer, table):
        Path(writer.where).write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        result = toy("--method", "vanilla")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "No space left on device" in result.stderr
    assert written("runs/rows") == []
    again = toy("--method", "vanilla")
    assert again.exit_code == 0 and "training" not in again.stdout, "the training is not lost"


def test_ctrl_c_says_how_to_go_on_leaves_a_state_and_the_same_command_finishes(
    lgbench, toy_options, tmp_path
):
    command = [*toy_options, "--method", "vanilla", "--train-steps", "600", "--save-every", "0.2"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    options = dict(cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-m", "lgbench.cli", *command], **options) as process:
        assert process.stdout.readline().startswith("training toy_average vanilla")
        while not list((tmp_path / "runs").rglob("resume.safetensors")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    first = "lgbench: interrupted; trainings are saved first. Ctrl-C again ends at once."
    last = "lgbench: interrupted. Trainings are saved; the same command, without --force, goes on from there."
    said = [line for line in complaint.splitlines() if line]
    assert said in ([first, last], [last]), "the first only where a training is under way"
    assert len(list((tmp_path / "runs").rglob("resume.safetensors"))) == 1
    assert not list((tmp_path / "runs").rglob("*.parquet"))
    again = lgbench(*command)
    assert again.exit_code == 0 and re.search(r"600 steps from step \d+", again.stdout)
    assert {r["status"] for r in rows(tmp_path / "runs")} == {"ok"}


def test_a_third_partys_method_is_used_like_a_built_in_one(toy_options, tmp_path):
    package, info = tmp_path / "site" / "thirdparty", tmp_path / "site" / "thirdparty-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "calm.py").write_text(
        '''"""Be calm: halve every time step."""

from pydantic import Field

from lgbench.method import Method, ScanIntervention


class Calm(Method):
    """Of a third party."""

    class Params(Method.Params):
        factor: float = Field(0.5, gt=0, le=1, description="on every time step")

    def intervention(self, train_length, d_model):
        return _Slow(self.params.factor)


class _Slow(ScanIntervention):
    def __init__(self, factor):
        self.factor = factor

    def timestep(self, layer, delta):
        return self.factor * delta
'''
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lgbench.methods]\ncalm = thirdparty.calm:Calm\n")
    paths = f"{tmp_path / 'site'}{os.pathsep}{CHECKOUT}"
    command = [sys.executable, "-m", "lgbench.cli", *toy_options, *QUICK, "--method", "calm[factor=0.25]"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert {r["label"] for r in rows(tmp_path / "runs")} == {"calm[factor=0.25]"}


def test_list_shows_names_summaries_and_what_cannot_run(lgbench, toys, tmp_path):
    lacking = tmp_path / "lacking.py"
    lacking.write_text(
        '"""Needs something."""\nREQUIRES = ("absent_module",)\n'
        "from lgbench.task import Task\n\nclass T(Task):\n    pass\n"
    )
    result = lgbench("list", "--plugin", lacking)
    assert result.exit_code == 0
    assert re.search(r"^  vanilla +Use the model as it is", result.stdout, re.M)
    assert re.search(r"^  toy_average +Averaging: see noisy copies", result.stdout, re.M)
    assert re.search(r"^  lacking +Needs something\. +\[cannot run: needs absent_module", result.stdout, re.M)
    only = lgbench("list", "tasks")
    assert "omniglot" in only.stdout and "vanilla" not in only.stdout
    wrong = lgbench("list", "models")
    assert (
        wrong.exit_code == 2
        and wrong.stderr
        == "lgbench: lgbench list knows tasks, methods, backbones, probes, launchers, not 'models'\n"
    )


def test_list_methods_shows_on_which_tasks_each_runs(lgbench):
    lines = lgbench("list", "methods").stdout.splitlines()
    head = next(line for line in lines if line.startswith("method "))
    assert "omniglot" in head.split() and head.split()[-1] == "backbones"
    vanilla = next(line for line in lines if line.startswith("vanilla "))
    assert vanilla.split()[head.split().index("omniglot")] == "yes"
    assert "yes" not in lgbench("list").stdout


def test_data_list_shows_every_file_and_whether_it_is_here(lgbench):
    result = lgbench("data", "list")
    assert result.exit_code == 0
    assert result.stdout.count("images_background") == 3 and "not here" in result.stdout


def test_data_verify_fails_on_a_file_that_is_not_the_published_one(lgbench, tmp_path):
    (tmp_path / "images_background.zip").write_bytes(b"something else")
    result = lgbench("data", "verify", "--data-dir", tmp_path)
    assert result.exit_code == 1 and "images_background.zip" in result.stdout


def test_data_fetch_of_an_unknown_set_lists_the_known_ones(lgbench):
    result = lgbench("data", "fetch", "omniglt")
    assert result.exit_code == 2 and "omniglot-small" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "leaderboard"])
def test_readers_without_results_say_how_to_get_some(lgbench, command):
    result = lgbench(command, "--results", "absent")
    assert result.exit_code == 2
    assert (
        result.stderr == "lgbench: no results folder 'absent'. Make one with: lgbench run --results absent\n"
    )


def test_a_report_is_made_from_a_run(lgbench, toy):
    assert toy("--method", "vanilla,transformer", "--seeds", 2).exit_code == 0
    result = lgbench("report", "--results", "runs")
    assert result.exit_code == 0
    page = Path(re.search(r"^Report: (.*)$", result.stdout, re.M)[1])
    assert "toy_average" in page.read_text()
    assert lgbench("leaderboard").exit_code == 0  # of the folder that run and report take, and into it
    assert "transformer" in Path("runs", "leaderboard.md").read_text() and not Path("leaderboard.md").exists()
