"""Time whole Omniglot training steps on a GPU: data, forward, backward, clip and update, through the real
trainer.

    python benchmarks/train_step_gpu.py [--out OUT.json] [--seeds 1,4,8] [--backends auto,triton]
        [--plain-images]
    python benchmarks/train_step_gpu.py --stack 1,3,8 [--out OUT.json]

Prints milliseconds a step (median of blocks of 50 steps, device waited for after each block) at batch 64 with
512 + 1,024 tokens, then for the length-drawing recipes; `seeds` trainings run side by side. `--plain-images`
times the former also with images augmented and cut in plain PyTorch. Checks that a captured, left-padded step
gives the loss and gradients of an eager, unpadded one on the same items.

With `--stack` only small trainings are timed, at batch 64 with 64 queries and contexts of 1 to 128, 256 and
512 tokens: real tokens a second (median of blocks of 50 steps) of 1, 3 and 8 seeds in one stack, and side by
side. Each seed's weights after 200 steps in the stack are compared with those of the seed alone, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from lgbench.methods.prepended import Prepended
from lgbench.methods.transformer import Transformer
from lgbench.methods.vanilla import Vanilla
from lgbench.tasks.omniglot import Omniglot
from lgbench.tasks.omniglot.images import cut_patches
from lgbench.tasks.omniglot.items import PATCH

from lgbench.plan.cells import Training
from lgbench.run.stack import Stack, in_stacks, teams
from lgbench.run.train import Trainer
from lgbench.task import Recipe


def make_trainer(
    task, method, recipe: Recipe, low: int, high: int, seed: int, backend: str = "auto"
) -> Trainer:
    """A trainer outside of any plan; it saves nothing."""
    training = Training(
        task_identity="v1", method_identity="v1",
            backbone="mamba", backbone_params="{}", backbone_identity="v1",
        task="omniglot", task_params="{}", data_fingerprint=task.data_fingerprint,
        method=type(method).__name__, method_params="{}",
        low=low, high=high, recipe=recipe, seed=seed,
    )  # fmt: skip
    return Trainer(training, task, method, Path("/nonexistent"), (), backend)


def step_ms(trainers: list[Trainer], warm: int = 40, blocks: int = 7, steps: int = 50) -> float:
    """Median milliseconds of one step of all trainers together, stacked where they fit."""
    in_stacks(trainers)
    trainers = list(teams(trainers))
    for _ in range(warm):
        for trainer in trainers:
            trainer.one_step()
    times = []
    for _ in range(blocks):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            for trainer in trainers:
                trainer.one_step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / steps * 1e3)
    return statistics.median(times)


def tokens_per_s(trainers: list[Trainer], warm: int = 150, blocks: int = 5, steps: int = 50) -> float:
    """Median of tokens a second of all trainers together, contexts and queries, padding not counted."""
    together, rates = list(teams(trainers)), []
    for block in range(-1, blocks):
        torch.cuda.synchronize()
        before, began = sum(t.counted for t in trainers), time.perf_counter()
        for _ in range(warm if block < 0 else steps):
            for trainer in together:
                trainer.one_step()
        torch.cuda.synchronize()
        rates.append((sum(t.counted for t in trainers) - before) / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def stacked_rates(task, counts: list[int]) -> dict[str, float | bool]:
    """Tokens a second stacked and side by side, and whether each seed has the weights of the seed alone."""
    found: dict[str, float | bool] = {}
    for high in (128, 256, 512):
        recipe = replace(
            task.recipe("small", "causal"), train_length=high, train_queries=(64, 64), train_steps=10**6
        )
        for count in counts:
            trainers = {}
            for name in ("stacked", "side by side"):
                trainers[name] = [make_trainer(task, Vanilla(), recipe, 1, high, s) for s in range(count)]
                for team in [trainers[name]] if name == "stacked" else [[t] for t in trainers[name]]:
                    Stack(team)
                for _ in range(200):
                    for trainer in teams(trainers[name]):
                        trainer.one_step()
            torch.cuda.synchronize()
            pairs = zip(trainers["stacked"], trainers["side by side"], strict=True)
            equal = all(
                torch.equal(p, q) for a, b in pairs for p, q in zip(a.parameters, b.parameters, strict=True)
            )
            case = f"L_train {high}, {count} seeds"
            found[f"{case}, equal bits"] = equal
            for name, some in trainers.items():
                found[f"{case}, {name}, tokens/s"] = tokens_per_s(some)
            speeds = ", ".join(f"{n} {found[f'{case}, {n}, tokens/s'] / 1e6:.1f} M/s" for n in trainers)
            print(f"{case}: {speeds}; equal bits after 200 steps: {equal}", flush=True)
    return found


def plain_patches(task, indices, affine, centres) -> torch.Tensor:
    """In place of `Omniglot._patches`: what it does on a CPU."""
    return cut_patches(task._views(indices, affine), centres, PATCH)


def padded_equals_unpadded(task, method, recipe: Recipe) -> float:
    """Largest relative difference of loss and gradients between left-padded and exact, same tokens."""
    trainer = make_trainer(task, method, recipe, 1, recipe.train_length, 0)
    model, device = trainer.model, task.device
    length, padded = 300, 512
    batch = task.sample(8, padded, 256, trainer.generator)
    short = type(batch)(
        {k: v[:, padded - length :] for k, v in batch.context.items()}, batch.queries, batch.targets
    )
    mask = torch.arange(padded, device=device) >= padded - length
    found = []
    for b, m, n in ((batch, mask, torch.tensor(length, device=device)), (short, None, length)):
        model.zero_grad(set_to_none=True)
        loss = task.loss(model.answer(b, mode="train", length=n, context_mask=m), b.targets).mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    return max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in zip(*found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="write every number as JSON; default: only print")
    parser.add_argument("--seeds", default="1,4,8")
    parser.add_argument("--backends", default="auto,triton")
    parser.add_argument("--plain-images", action="store_true")
    parser.add_argument("--stack", help="numbers of seeds; time small trainings, stacked and side by side")
    options = parser.parse_args()
    task = Omniglot()
    task.prepare(torch.device("cuda"))
    found: dict[str, float | str | bool] = {"device": torch.cuda.get_device_name(), "data": task.data_source}
    if options.stack:
        found |= stacked_rates(task, [int(count) for count in options.stack.split(",")])
        if options.out:
            options.out.write_text(json.dumps(found, indent=1))
        return
    paper = replace(task.recipe("paper", "causal"), train_steps=10**6)
    small = replace(task.recipe("small", "causal"), train_steps=10**6)
    for method in (Vanilla(), Prepended()):
        name = type(method).__name__
        found[f"padded vs unpadded, {name}"] = padded_equals_unpadded(task, method, small)
        print(name, "padded vs unpadded", found[f"padded vs unpadded, {name}"], flush=True)
    for backend in options.backends.split(","):
        for count in map(int, options.seeds.split(",")):
            if backend != "auto" and count > 1:
                continue
            for images, patches in (("", Omniglot._patches), (", plain images", plain_patches)):
                if images and not options.plain_images:
                    continue
                with mock.patch.object(Omniglot, "_patches", patches):
                    ms = step_ms(
                        [make_trainer(task, Vanilla(), paper, 512, 512, s, backend) for s in range(count)]
                    )
                name = f"{backend}, 512 + 1024, {count} seeds{images}"
                found[f"{name}, ms a step and seed"] = ms / count
                print(f"{name}: {ms:.3f} ms, {ms / count:.3f} a seed", flush=True)
    for name, method, recipe in (
        ("small vanilla", Vanilla(), small),
        ("small prepended", Prepended(), small),
        (
            "small transformer",
            Transformer(),
            replace(task.recipe("small", "encoder_decoder"), train_steps=10**6),
        ),
    ):
        ms = step_ms([make_trainer(task, method, recipe, 1, recipe.train_length, 0)], warm=300)
        found[f"{name}, ms a step"] = ms
        print(f"{name}: {ms:.3f} ms", flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
