"""Time how evaluation reads a long context: a language model of 24 layers, d_model 768, bfloat16, in pieces.

    python benchmarks/reading_gpu.py [--layers 24] [--width 768] [--device cuda]

Prints, for each batch × length, median milliseconds from the first token to the state after the last one, and
the peak of memory, with pieces of a fixed length and with those of `lgbench.run.reading.piece_of`, in turns.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from functools import partial

import torch

from lgbench.bench.stream import peak_bytes, reset_peak
from lgbench.bench.timing import interleave, wall_clock
from lgbench.models.model import build_model
from lgbench.plan.cells import load_method, load_task
from lgbench.plan.params import PluginRequest
from lgbench.run.evaluate import autocast
from lgbench.run.reading import PIECE, ContextReader, Window, piece_of

CASES = ((1, 131_072), (1, 16_384), (8, 16_384), (32, 2048))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    device = torch.device(given.device)
    task = load_task(PluginRequest("passkey", {"variant": "repeated"}))
    task.prepare(device)
    method = load_method("vanilla", "{}")
    recipe = replace(
        task.recipe("paper", "causal"), d_model=given.width, num_layers=given.layers,
        eval_precision="bfloat16",
    )  # fmt: skip
    model = build_model(task, method, recipe, seed=0).eval()
    reader = ContextReader(model, method, task.context_tokens, recipe.train_length)
    for batch, length in CASES:
        tokens = torch.randint(0, 250, (batch, length), device=device)
        peaks: dict[int, int] = {}

        def read(step: int, tokens: torch.Tensor = tokens, peaks: dict[int, int] = peaks) -> None:
            reset_peak(device)
            with torch.no_grad(), autocast(device, recipe):
                whole = Window(0, tokens.shape[1])
                reader.stream(
                    lambda start, stop: {"tokens": tokens[:, start:stop]},
                    whole,
                    whole.announced,
                    step=step,
                )
            peaks[step] = peak_bytes(device)

        steps = sorted({PIECE, piece_of(batch)})
        calls = {step: partial(read, step) for step in steps}
        for call in calls.values():
            call()
        for step, samples in interleave(calls, wall_clock(device), 10, 3.0).items():
            if isinstance(samples, Exception):
                raise samples
            took, peak = statistics.median(samples), peaks[step] / 2**30
            print(f"{batch} × {length:,}, pieces of {step:,}: {took:.1f} ms, {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
