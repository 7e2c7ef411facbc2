"""Time one training step of Mamba language models on a GPU: forward and backward under bfloat16 autocast.

    python benchmarks/language_step_gpu.py [--cases bytes,words] [--profile] [--stream] [--curve]

Cross-entropy on every token, tied embedding, random tokens, no optimiser. Prints median milliseconds a step,
eagerly and replayed from a captured graph, and the peak of memory; `--profile` adds the longest kernels.
`--stream` and `--curve` profile a part of those two measures of `lgbench bench` likewise.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from lgbench.backbones.mamba import Mamba
from lgbench.bench import curve, stream
from lgbench.bench.timing import captured, wall_clock
from lgbench.intervention import ScanIntervention
from lgbench.plugins.registry import METHODS
from lgbench.run.evaluate import evaluate

DEVICE = torch.device("cuda")


@dataclass(frozen=True, slots=True)
class Case:
    """A model and its batch."""

    num_layers: int
    d_model: int
    vocabulary: int
    batch: int
    length: int


CASES = {"bytes": Case(4, 256, 257, 32, 2048), "words": Case(6, 384, 4096, 32, 3400)}


class Language(nn.Module):
    """Embedding, backbone, tied head, loss."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.embedding = nn.Embedding(case.vocabulary, case.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.backbone = Mamba(
            d_model=case.d_model, num_layers=case.num_layers, d_state=16, conv_width=4, init_std=0.02
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy in nats of tokens `(batch, length + 1)`."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            advanced = self.backbone.advance(
                self.embedding(inputs), mode="train", intervention=ScanIntervention()
            )
            logits = F.linear(advanced.hidden, self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def median_ms(call: Callable[[], object], warm: int = 3, repeats: int = 9) -> float:
    """By the clock on the wall, the device waited for before and after each call."""
    for _ in range(warm):
        call()
    clock = wall_clock(DEVICE)
    return statistics.median(clock(call) for _ in range(repeats))


def print_kernels(call: Callable[[], object], top: int = 15) -> None:
    """Where the device's time goes in one call."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        call()
        torch.cuda.synchronize()
    kernels = sorted(recorded.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in kernels)
    launches = sum(event.count for event in kernels if event.self_device_time_total)
    print(f"  device time {total / 1e3:.3f} ms in {launches} launches")
    for event in kernels[:top]:
        print(
            f"  {event.self_device_time_total / 1e3:9.3f} ms {event.count:6d} x  {event.key[:100]}",
            flush=True,
        )


def time_case(name: str, with_profile: bool) -> None:
    """One model: eager, captured, memory."""
    case = CASES[name]
    torch.manual_seed(0)
    model = Language(case).to(DEVICE)
    tokens = torch.randint(case.vocabulary, (case.batch, case.length + 1), device=DEVICE)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(tokens).backward()

    eager = median_ms(step)
    torch.cuda.reset_peak_memory_stats()
    step()
    peak = torch.cuda.max_memory_allocated()
    with torch.no_grad():
        forward = median_ms(lambda: model(tokens))
    replay = captured(step, DEVICE)
    replayed = median_ms(replay)
    rate = case.batch * case.length / replayed * 1e3
    print(f"{name}: {case}")
    print(
        f"  forward {forward:.2f} ms, step eager {eager:.2f} ms, replayed {replayed:.2f} ms, "
        f"{rate:,.0f} tokens/s, peak {peak / 2**30:.2f} GiB",
        flush=True,
    )
    if with_profile:
        print_kernels(step, top=22)


def profile_stream(num_pieces: int = 4) -> None:
    """Time the first pieces of the stream for several sizes of pieces, and profile the middle one."""
    whole = stream.CASES["cuda"]
    model = stream.make_model(whole, DEVICE)
    for piece in (8192, 16384, 32768, 65536):
        case = dataclasses.replace(whole, piece=piece)
        length = num_pieces * 32768

        def read(case: stream.Case = case, length: int = length) -> None:
            torch.cuda.reset_peak_memory_stats()
            stream.stream(model, case, DEVICE, "triton", length)

        ms = median_ms(read, warm=1, repeats=3) * whole.length / length
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"stream in pieces of {piece:,}: {ms:,.0f} ms for {whole.length:,} tokens, peak {peak:.2f} GiB")
        if piece == whole.piece:
            print_kernels(read, top=18)


def profile_curve() -> None:
    """Both ways of evaluating a grid of lengths: wall time against device time."""
    case = curve.CASES["cuda"]
    for batch in (case.batch, case.num_items):
        task, model, recipe, items = curve._workload(dataclasses.replace(case, batch=batch), "block", DEVICE)
        for name, plugin in (("shared", METHODS.load("vanilla")()), ("separate", curve._separate())):

            def run(plugin=plugin, model=model, task=task, recipe=recipe, items=items) -> None:
                evaluate(model, task, plugin, recipe, items)

            ms = median_ms(run, warm=1, repeats=2)
            print(f"curve, {name}, {batch} items at once: {ms:,.0f} ms")
            print_kernels(run, top=12)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", default="bytes,words")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--curve", action="store_true")
    options = parser.parse_args()
    for name in filter(None, options.cases.split(",")):
        time_case(name, options.profile)
    if options.stream:
        profile_stream()
    if options.curve:
        profile_curve()


if __name__ == "__main__":
    main()
