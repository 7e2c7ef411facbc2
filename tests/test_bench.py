"""`lgbench bench` keeps a complete row for everything it measured, and a reason for everything it did not."""

import io
import json
import sys
from types import ModuleType

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from typer.testing import CliRunner

from lgbench import bench
from lgbench.bench import curve, peers, rows, scan, step, stream
from lgbench.bench.figure import share_figure
from lgbench.bench.setting import CONTENDERS, Setting, choose_contenders
from lgbench.bench.timing import interleave, wall_clock
from lgbench.cli import app
from lgbench.run.evaluate import evaluate

CPU = torch.device("cpu")
SCAN = scan.Case(2, 3, 40, 4)
STREAM = stream.Case(2, 16, 512, 64, torch.float32, d_state=4)
CURVE = curve.Case("smoke", (1, 4, 16), num_queries=4, num_items=2, batch=2)


@pytest.fixture
def tiny(monkeypatch):
    """All measures at sizes that take a moment."""
    monkeypatch.setitem(scan.CASES, "cpu", (SCAN, scan.Case(1, 2, 33, 2)))
    monkeypatch.setitem(stream.CASES, "cpu", STREAM)
    monkeypatch.setitem(curve.CASES, "cpu", CURVE)
    monkeypatch.setitem(step.STEPS, "cpu", 1)
    monkeypatch.setattr("lgbench.bench.timing.COPY_BYTES", {"cpu": 2**16})


@pytest.fixture
def run(tiny, tmp_path):
    """`run("scan", backends=["torch"])` → whether all was measured, rows of the file, what was printed."""

    def carry_out(*what, backends=("torch",), repeats=2):
        text = io.StringIO()
        console = Console(file=text, width=200)
        done = bench.run_bench(what, backends, device="cpu", repeats=repeats, out=tmp_path, console=console)
        (path,) = tmp_path.glob("*.parquet")
        return done, pq.read_table(path).to_pylist(), text.getvalue()

    return carry_out


def setting(*contenders, repeats=2):
    return Setting(CPU, contenders or ("torch",), repeats, 10.0, 1e10)


def ok_rows(found):
    return [row for row in found if row["status"] == "ok"]


def test_every_measure_leaves_complete_rows_a_table_and_a_figure(run, tmp_path):
    done, found, text = run()
    assert done
    assert {row["measure"] for row in found} == {"copy", *bench.MEASURES}
    assert {row["status"] for row in found} == {"ok"}
    for row in found:
        assert row["repeats"] == 2
        assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        assert row["copy_rate"] > 0 and row["device"] == "cpu" and row["created_at"]
        assert json.loads(row["versions"])["torch"] == torch.__version__
    for row in found[1:]:
        assert row["case"] and row["contender"] and row["tokens_per_s"] > 0 and row["times_fastest"] >= 1
    shares = [row for row in found if row["measure"] in ("scan", "step")]
    for row in shares:
        assert row["copy_share"] == pytest.approx(
            row["bytes_moved"] / row["copy_rate"] / row["median_ms"] * 1e3
        )
    assert {row["part"] for row in shares} == {"forward", "forward+backward", ""}
    assert all(measure in text for measure in bench.MEASURES)
    assert {path.suffix for path in tmp_path.glob("bench-*")} == {".parquet", ".png", ".pdf", ".svg"}


def test_the_file_documents_every_column(run, tmp_path):
    run("scan")
    (path,) = tmp_path.glob("*.parquet")
    schema = pq.read_schema(path)
    assert schema.metadata[b"lgbench_bench_schema_version"] == b"1"
    assert schema.names == rows.SCHEMA.names
    assert all(schema.field(name).metadata[b"doc"] for name in schema.names)


def test_a_failing_back_end_is_a_row_with_its_reason_and_the_others_are_measured(run, monkeypatch):
    def broken(name, inputs):
        if name == "mambapy":
            raise ImportError("libparallel.so: undefined symbol\nmore of it")
        return prepare(name, inputs)

    prepare = scan.prepare
    monkeypatch.setattr(scan, "prepare", broken)
    monkeypatch.setattr(scan, "_why_not", lambda name, device: None)
    done, found, text = run("scan", backends=["torch", "mambapy"])
    assert done
    (one, other) = [row for row in found if row["contender"] == "mambapy"]
    assert one["status"] == other["status"] == "failed" and one["median_ms"] is None
    assert one["reason"] == "ImportError: libparallel.so: undefined symbol"
    assert "failed: mambapy" in text and one["reason"] in text
    assert len([row for row in ok_rows(found) if row["contender"] == "torch"]) == 4


def test_a_back_end_that_fails_only_when_timed_is_a_row_with_its_reason(monkeypatch):
    def tiring(name, inputs):
        ready, calls = prepare(name, inputs), []

        def forward():
            calls.append(1)
            if len(calls) > 3:
                raise torch.OutOfMemoryError("no memory left")
            return ready.forward()

        return ready._replace(forward=forward)

    prepare = scan.prepare
    wanted = scan.float64_results(scan.draw(SCAN, CPU))
    monkeypatch.setattr(scan, "float64_results", lambda inputs: wanted)
    monkeypatch.setattr(scan, "prepare", tiring)
    forward, both = scan.measure_case(SCAN, ["torch"], setting(repeats=5))
    assert (forward["status"], forward["reason"]) == ("out_of_memory", "OutOfMemoryError: no memory left")
    assert forward["median_ms"] is None
    assert both["status"] == "ok" and both["median_ms"] > 0


def test_wrong_numbers_are_called_wrong_and_never_the_fastest(monkeypatch):
    def doubling(name, inputs):
        ready = prepare(name, inputs)
        return ready._replace(forward=lambda: 2 * ready.forward()) if name == "reference" else ready

    prepare = scan.prepare
    monkeypatch.setattr(scan, "prepare", doubling)
    found = rows.rank(scan.measure_case(SCAN, ["reference", "torch"], setting()))
    by_key = {(row["contender"], row["part"]): row for row in found}
    wrong = by_key["reference", "forward"]
    assert wrong["status"] == "wrong" and wrong["relative_error"] == pytest.approx(1, abs=1e-4)
    assert "against float64" in wrong["reason"] and wrong["times_fastest"] is None
    assert by_key["torch", "forward"]["times_fastest"] == 1
    assert by_key["reference", "forward+backward"]["status"] == "ok"


def test_nan_is_wrong():
    assert rows.checked(float("nan"), 1e-3, 10)["status"] == "wrong"
    assert "status" not in rows.checked(1e-4, 1e-3, 10)


def test_a_measure_that_raises_is_a_row_and_the_next_one_is_measured(run, monkeypatch):
    def broken(setting):
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr(scan, "measure", broken)
    done, found, _ = run("scan", "curve")
    assert not done
    assert [row["reason"] for row in found if row["measure"] == "scan"] == [
        "RuntimeError: no such kernel image"
    ]
    assert len([row for row in ok_rows(found) if row["measure"] == "curve"]) == 2


def test_a_measure_without_a_contender_is_a_failure(run):
    done, found, text = run("stream", backends=["mambapy"])
    assert not done
    (_, row) = found
    assert (row["measure"], row["status"]) == ("stream", "failed")
    assert "no back end asked for takes part" in row["reason"] and row["reason"] in text


def test_what_cannot_run_here_is_said_once_a_measure(run):
    _, found, text = run("scan", "stream", backends=["torch", "triton"])
    lacking = [row for row in found if row["status"] == "unavailable"]
    assert [(row["measure"], row["contender"]) for row in lacking] == [
        ("scan", "triton"),
        ("stream", "triton"),
    ]
    assert text.count("unavailable: triton: it needs a CUDA device") == 2


def test_contenders_take_turns_and_slow_ones_sit_out():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "AB"}
    cost = {"A": 100.0, "B": 3000.0}

    def clock(call):
        call()
        return cost[order[-1]]

    found = interleave(calls, clock, repeats=4, budget_s=5)
    assert "".join(order) == "ABABAA"
    assert found == {"A": [100.0] * 4, "B": [3000.0] * 2}


def test_a_call_that_raises_does_not_stop_the_others():
    def fail():
        raise ValueError("no")

    found = interleave({"bad": fail, "good": lambda: None}, wall_clock(CPU), 3, 1.0)
    assert isinstance(found["bad"], ValueError)
    assert len(found["good"]) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["torch", "reference", "mambapy", "transformers", "mamba_ssm", "fla"])
def test_contenders_compute_the_same_scan(name, dtype, monkeypatch):
    if name in ("mambapy", "transformers"):
        pytest.importorskip(name)
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", compiled_stand_in())
    monkeypatch.setitem(sys.modules, "fla.ops.gla", attention_stand_in())
    case = scan.Case(2, 3, 37, 4, dtype)
    inputs = scan.draw(case, CPU)
    ready = scan.prepare(name, inputs)
    for got, wanted in zip((ready.forward(), ready.both()), scan.float64_results(inputs), strict=True):
        assert got.shape == (2, 37, 3) and got.dtype == dtype
        assert scan.relative_error(got, wanted) < (1e-5 if dtype == torch.float32 else 2e-2)


def compiled_stand_in():
    """A module with the signatures of mamba-ssm's extension: time last, one group of B and C."""

    def scan_of(u, delta, A, B, C, D, z, bias):
        u, delta, B, C = (v.float() for v in (u, delta, B[:, 0], C[:, 0]))
        step = F.softplus(delta + bias[:, None])
        h, out = 0, []
        for t in range(u.shape[2]):
            h = torch.exp(step[..., t, None] * A) * h + (step * u)[..., t, None] * B[:, None, :, t]
            out.append((h * C[:, None, :, t]).sum(-1))
        y = torch.stack(out, -1) + D[:, None] * u
        return y, y * F.silu(z.float())

    def fwd(u, delta, A, B, C, D, z, bias, softplus):
        assert softplus and all(v.is_contiguous() for v in (u, delta, z, B, C))
        y, gated = scan_of(u, delta, A, B, C, D, z, bias)
        return [y.to(u.dtype), torch.zeros(1), gated.to(u.dtype)]

    def bwd(u, delta, A, B, C, D, z, bias, dout, states, out, dz, softplus, recompute):
        assert softplus and not recompute and dz is None and out.shape == dout.shape == u.shape
        leaf = u.detach().requires_grad_()
        _, gated = scan_of(leaf, delta, A, B, C, D, z, bias)
        return [torch.autograd.grad(gated, leaf, dout.float())[0], None, None, None, None, None, None, None]

    module = ModuleType("selective_scan_cuda")
    module.fwd, module.bwd = fwd, bwd
    return module


def attention_stand_in():
    """A module with the gated linear attention of flash-linear-attention: S = exp(g) S + k vᵀ, o = q S."""

    def fused_recurrent_gla(q, k, v, gk, scale):
        state, out = 0, []
        for t in range(q.shape[1]):
            state = torch.exp(gk[:, t])[..., None] * state + k[:, t, :, :, None] * v[:, t, :, None]
            out.append(scale * (q[:, t, :, :, None] * state).sum(2))
        return torch.stack(out, 1), None

    module = ModuleType("fla.ops.gla")
    module.fused_recurrent_gla = fused_recurrent_gla
    return module


def test_loops_are_not_timed_where_they_would_take_minutes():
    def reason(name, part, batch, d_inner, length, d_state):
        wide, narrow = torch.empty(1).expand(batch, length, d_inner), torch.empty(1, 1, 1)
        inputs = peers.ScanInputs(*[wide] * 2, torch.empty(d_inner, d_state), *[narrow] * 3, *[wide] * 3)
        return peers.not_timed(name, part, inputs)

    assert reason("transformers", "forward", 4, 128, 4096, 16) is None
    assert "for every position" in reason("transformers", "forward+backward", 4, 128, 4096, 16)
    assert "loop over positions" in reason("reference", "forward", 1, 32, 131_072, 8)
    assert "keeps the states" in reason("mambapy", "forward", 1, 1536, 131_072, 16)
    assert reason("triton", "forward+backward", 1, 1536, 131_072, 16) is None


def test_least_traffic_counts_every_tensor_once():
    case = scan.Case(1, 32, 100, 8, torch.bfloat16)
    wide, narrow = 100 * 32 * 2, 100 * 8 * 2
    assert case.bytes_moved("forward") == (3 * wide + 2 * narrow) + wide
    backward = (4 * wide + 2 * narrow) + (3 * wide + 2 * narrow)
    assert case.bytes_moved("forward+backward") == case.bytes_moved("forward") + backward


def test_the_end_of_a_stream_agrees_with_float64(tiny):
    (row,) = stream.measure(setting("torch"))
    assert row["status"] == "ok" and row["note"] == ""
    assert row["relative_error"] < 1e-5 and row["error_length"] == STREAM.length
    assert row["peak_bytes"] > 0 and row["floor_ms"] > 0


def test_a_stream_carries_its_state_from_piece_to_piece():
    model = stream.make_model(STREAM, CPU)
    end = stream.stream(model, STREAM, CPU, "torch", STREAM.length)
    pieces = [stream._tokens(STREAM, CPU, k) for k in range(STREAM.length // STREAM.piece)]
    with torch.no_grad():
        whole = model.advance(
            torch.cat(pieces, 1), mode="prefill", intervention=stream.ScanIntervention()
        ).hidden
        alone = model.advance(pieces[-1], mode="prefill", intervention=stream.ScanIntervention()).hidden
    torch.testing.assert_close(end, whole[:, -end.shape[1] :], atol=1e-5, rtol=1e-5)
    assert (end - alone[:, -end.shape[1] :]).abs().max() > 1e-3, (
        "what came before must matter for this to be a test"
    )


def test_where_float64_takes_too_long_the_row_says_how_far_it_went(tiny, monkeypatch):
    monkeypatch.setattr(stream, "REFERENCE_S", 0.0)
    (row,) = stream.measure(setting("torch"))
    assert row["status"] == "ok" and row["error_length"] == STREAM.piece
    assert row["note"].startswith("checked up to 64 tokens")


def test_a_bfloat16_stream_is_rounded_and_not_wrong():
    case = stream.Case(2, 32, 256, 64, torch.bfloat16, d_state=4)
    (row,) = stream.measure_case(case, ["torch"], setting())
    assert row["status"] == "ok" and row["dtype"] == "bfloat16"
    assert 1e-4 < row["relative_error"] < 2e-2


def test_a_step_is_counted_a_seed(tiny):
    one, two = step.measure(setting("torch"))
    assert (one["num_seeds"], two["num_seeds"]) == (1, 2)
    for row in (one, two):
        assert row["tokens_per_s"] == pytest.approx(16 * 128 / row["median_ms"] * 1e3)
        assert row["bytes_moved"] == 5 * 4 * 16 * 2 * 16 * 129


def test_a_back_end_that_would_silently_be_replaced_is_a_failure(tiny, monkeypatch):
    monkeypatch.setattr(step, "own_why_not", lambda name, device: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = step.measure(setting("block"))
    assert {row["status"] for row in found} == {"failed"}
    assert "back end 'block' does not serve this model, 'torch' would" in found[0]["reason"]


def test_the_two_ways_of_a_curve_are_what_they_are_called_and_agree():
    found = curve.compare(CURVE, "torch", setting())
    assert list(found) == ["shared", "separate"]
    for row in found.values():
        assert row["status"] == "ok" and row["median_ms"] > 0
        assert row["relative_error"] < 1e-5 and "1.16 times the tokens" in row["note"]


def test_a_curve_that_was_not_shared_is_refused(monkeypatch):
    monkeypatch.setattr(
        curve, "evaluate", lambda model, task, method, *rest: evaluate(model, task, curve._separate(), *rest)
    )
    with pytest.raises(RuntimeError, match="the evaluation called shared was not"):
        curve.compare(CURVE, "torch", setting())


def test_the_figure_shows_graphs_and_two_parts_on_one_scale():
    found = [
        rows.row(
            measure="scan", case=case, part=part, contender=name, mode=mode, copy_share=share, median_ms=1.0
        )
        for part in scan.PARTS
        for case in ("64 × 32 × 1,537 × 8, float32", "1 × 32 × 131,072 × 8, float32")
        for name, mode, share in [
            ("triton", "eager", 0.3),
            ("triton", "graph", 0.5),
            ("mamba_ssm", "eager", 0.03),
        ]
    ]
    figure = share_figure(found, {"device": "a card", "copy_rate": 3e12})
    forward, both = figure.axes
    assert forward.get_xlim() == both.get_xlim()
    assert [text.get_text() for text in forward.get_yticklabels()] == list(
        dict.fromkeys(r["case"] for r in found)
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["triton", "mamba_ssm", "hollow: replayed from a graph"]
    assert any("3,000.0 GB/s" in text.get_text() for text in figure.texts)


def test_there_is_no_figure_without_a_share():
    assert share_figure([rows.row(measure="curve", median_ms=1.0)], {}) is None


def test_a_row_refuses_columns_that_the_schema_lacks():
    with pytest.raises(ValueError, match="speed"):
        rows.row(measure="scan", speed=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--what", "scan,speed"], "measures scan, step, stream, curve, not 'speed'"),
        (["--backends", "torch,tritn"], "no back end 'tritn'. Known: block, "),
        (["--device", "gpu"], "--device is one of auto, cpu, cuda, not 'gpu'"),
        (["--out", __file__], "cannot write"),
    ],
    ids=["measure", "back end", "device", "folder"],
)
def test_what_is_asked_wrongly_is_one_line_and_status_2(options, words, tiny):
    result = CliRunner().invoke(app, ["bench", "--what", "scan", *options])
    assert result.exit_code == 2
    assert words in result.stderr and result.stderr.count("\n") == 1


def test_the_command_measures_what_is_asked_and_fails_if_it_could_not(tiny, tmp_path):
    good = CliRunner().invoke(
        app, ["bench", "--what", "scan", "--backends", "torch", "--repeats", "1", "--out", str(tmp_path)]
    )
    assert good.exit_code == 0, good.output
    assert "Rows: " in good.output and list(tmp_path.glob("bench-*.png"))
    bad = CliRunner().invoke(
        app, ["bench", "--what", "scan", "--backends", "triton", "--device", "cpu", "--out", str(tmp_path)]
    )
    assert bad.exit_code == 1
    assert "unavailable: triton" in bad.output


def test_all_back_ends_but_those_that_go_token_by_token_take_part_unless_some_are_named():
    assert set(choose_contenders([])) == set(CONTENDERS) - {"reference", "transformers"}
    assert choose_contenders(["reference"]) == ("reference",)
