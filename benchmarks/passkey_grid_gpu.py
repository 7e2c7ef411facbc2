"""The passkey grid of a 130M Mamba: 1K to 128K tokens, 5 depths, 20 samples: time and memory.

    PYTHONPATH=. python benchmarks/passkey_grid_gpu.py

Weights are random, which changes no time; text is procedural.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from lgbench.models.model import build_model
from lgbench.plan.cells import load_method, load_task
from lgbench.plan.params import PluginRequest
from lgbench.run.evaluate import evaluate


def main() -> None:
    """Print a line a length, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384,32768,65536,131072")
    parser.add_argument("--items", type=int, default=100, help="a multiple of 5 depths")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    task = load_task(PluginRequest("passkey", {"data": "procedural"}))
    task.prepare(torch.device(options.device))
    recipe = replace(
        task.recipe("paper", "causal"), num_layers=options.layers, d_model=options.d_model,
        eval_precision=options.precision, eval_items=options.items, eval_batch=options.batch,
        eval_lengths=tuple(map(int, options.lengths.split(","))),
    )  # fmt: skip
    method = load_method("vanilla", "{}")
    model = build_model(task, method, recipe, seed=0)
    items = task.eval_set(options.items, 0)
    evaluate(model, task, method, replace(recipe, eval_lengths=recipe.eval_lengths[:1]), items)  # compiles
    found = [
        {
            "length": m.eval_length,
            "s": m.wall_s,
            "tokens_per_s": m.tokens / m.wall_s,
            "gib": m.peak_bytes / 2**30,
        }
        for m in evaluate(model, task, method, recipe, items)
    ]
    for row in found:
        speed = f"{row['tokens_per_s']:12,.0f} tokens/s"
        print(f"{row['length']:>8} {row['s']:8.2f} s {speed} {row['gib']:6.2f} GiB")
    print(f"{model.num_parameters:,} parameters, {sum(row['s'] for row in found):.1f} s in all")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
