"""A signal ends a run within two seconds in every phase, says so, and what was trained is saved first."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lgbench import interrupt
from lgbench.run.backlog import Backlog

pytestmark = pytest.mark.faults


HERE = Path(__file__).parent
SOON_S = 2.0 + 1.0
"""Two seconds, and one for a machine that does other things too."""


@pytest.fixture
def begun(tmp_path):
    """`begun(phase, *options)` → a run of the toy task that has reached the phase."""
    running = []

    def start(phase, *options):
        mark = tmp_path / "here"
        environment = {
            **os.environ, "PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1",
            "LGBENCH_TEST_STUCK": phase, "LGBENCH_TEST_HERE": str(mark),
        }  # fmt: skip
        plugins = [*sorted((HERE.parent / "toys").glob("toy_*.py")), HERE / "stuck.py"]
        task = "stuck" if phase.startswith("preparation") else "toy_average"
        command = [
            sys.executable, "-m", "lgbench", "run", "--task", task, "--preset", "smoke", "--device", "cpu",
            *(word for path in plugins for word in ("--plugin", str(path))),
            "--results", str(tmp_path / "runs"), "--eval-lengths", "4,16", "--query-grid", "4", *options,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        running.append(process)
        while not (mark.exists() or list(tmp_path.rglob("resume.safetensors"))):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        time.sleep(0.1)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ended(process, signum):
    """What a process said after a signal, and the seconds that it took to end."""
    began = time.monotonic()
    process.send_signal(signum)
    said, _ = process.communicate(timeout=60)
    return said, time.monotonic() - began


@pytest.mark.parametrize(
    "phase",
    [
        "preparation", "preparation deaf", "training", "training deaf", "evaluation", "evaluation deaf",
        "evaluation computing", "calibration", "calibration computing",
    ],
)  # fmt: skip
def test_ctrl_c_ends_every_phase_within_two_seconds_and_says_so(begun, phase):
    process = begun(phase, "--method", "stuck", "--train-steps", "3")
    said, took_s = ended(process, signal.SIGINT)
    assert process.returncode == 130
    assert "lgbench: interrupted" in said and "goes on from there" in said and "Traceback" not in said
    assert took_s < SOON_S


LONG = ("--method", "vanilla", "--train-steps", "100000", "--save-every", "0.2")


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_every_signal_saves_what_is_trained_first(begun, tmp_path, signum, status):
    process = begun("nowhere", *LONG)
    (state,) = tmp_path.rglob("resume.safetensors")
    before = state.stat().st_mtime_ns
    said, took_s = ended(process, signum)
    assert process.returncode == status and took_s < SOON_S
    assert "trainings are saved first" in said and "lgbench: interrupted. Trainings are saved" in said
    assert state.stat().st_mtime_ns > before
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "nothing half-written is left"


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            interrupt.check()
            assert not interrupt.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_stops_what_saves_first():
    with interrupt.listening(), interrupt.saves_first():
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked()
        time.sleep(interrupt.ONCE_S)
        with pytest.raises(interrupt.Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_a_ctrl_c_that_comes_twice_at_a_time_is_one():
    with interrupt.listening(), interrupt.saves_first():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interrupt.asked()


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs the command timeout")
def test_timeout_which_signals_a_process_and_its_group_leaves_time_to_save(tmp_path):
    command = ["timeout", "-s", "INT", "20", sys.executable, "-m", "lgbench", "run", "--task", "toy_average"]
    command += ["--preset", "smoke", "--device", "cpu", "--results", str(tmp_path / "runs"), *LONG]
    plugins = [word for path in (HERE.parent / "toys").glob("toy_*.py") for word in ("--plugin", str(path))]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *plugins], env=environment, capture_output=True, text=True)
    assert done.returncode == 124 and "interrupted. Trainings are saved" in done.stderr + done.stdout
    assert "ended at once" not in done.stderr


def test_a_second_sigterm_leaves_the_saving_alone():
    with interrupt.listening(), interrupt.saves_first():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(interrupt.Interrupted) as caught:
            interrupt.check()
    assert caught.value.status == 143


def test_handlers_are_put_back():
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with interrupt.listening(), interrupt.listening():
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    assert {one: signal.getsignal(one) for one in before} == before
    assert not interrupt.asked()


def test_other_threads_listen_to_nothing():
    found = []

    def look():
        with interrupt.listening():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


class Device:
    """Executes a round of steps in `round_s` seconds, one after another."""

    def __init__(self, round_s):
        self.round_s, self.now, self.free_at, self.longest_s = round_s, 0.0, 0.0, 0.0

    def event(self):
        device = self

        class Event:
            def record(self, stream):
                device.free_at = max(device.free_at, device.now) + device.round_s
                self.over_at = device.free_at
                device.longest_s = max(device.longest_s, device.free_at - device.now)

            def synchronize(self):
                device.now = max(device.now, self.over_at)

        return Event()


@pytest.mark.parametrize("round_s", [1e-4, 0.003, 0.05, 0.4])
def test_what_waits_on_a_gpu_stays_short_and_is_never_empty(round_s):
    device = Device(round_s)
    backlog = Backlog(device.event, lambda: device.now)
    for _ in range(3000):
        device.now += round_s / 100  # Python is faster than the device
        idle = device.now > device.free_at > 0
        backlog.keep_short([None])
        assert not idle
    assert device.longest_s <= max(0.5, 2 * round_s) + 2 * round_s
