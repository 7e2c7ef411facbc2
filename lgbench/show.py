"""One evaluation item of a task: text as text, images as images, symbols by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.text import Text

from lgbench.errors import UserError
from lgbench.plan.cells import load_task
from lgbench.plan.config import RunConfig
from lgbench.run.measure import EVAL_SEED
from lgbench.safe_text import for_rich
from lgbench.store import atomic_file
from lgbench.task import IGNORE, EvalSet, Task

NEEDLE = "bold black on yellow"
NUM_ITEMS = 100
BLOCKS = " ░▒▓█"
PIXELS = 4
"""Of a saved picture, a side, for one of the image."""
SYMBOL_QUERIES = 4
MAX_QUERIES = 100
"""Queries shown of a task whose queries are no answer."""


def show(
    task: str,
    length: int | None = None,
    item: int = 0,
    *,
    param: Sequence[str] = (),
    data: str | None = None,
    tokenizer: str | None = None,
    data_dir: Path | None = None,
    out: Path | None = None,
    console: Console,
) -> None:
    """Print context, prompt, answer and facts of an evaluation item; what the answer is found in stands out.

    Args:
        task: name, with parameters if any.
        length: of the context, in the task's unit; None is the training length of the smoke preset.
        item: which one, counted from 0.
        param: `TASK.PARAMETER=VALUE`, as in `run`.
        data: as in `run`.
        tokenizer: as in `run`.
        data_dir: as in `run`.
        out: of a task of images: where the picture is saved as PNG.
        console: where it goes.

    Raises:
        UserError: several tasks; no such item; `out` for a task without images.
    """
    config = RunConfig(task=(task,), param=tuple(param), data=data, tokenizer=tokenizer)
    requests, _ = config.requests()
    if len(requests) != 1:
        raise UserError(f"lgbench show shows one task at a time, got {len(requests)}")
    loaded = load_task(requests[0])
    loaded.prepare(torch.device("cpu"), data_dir)
    items = loaded.eval_set(NUM_ITEMS, EVAL_SEED)
    length = length or loaded.recipe("smoke", "causal").train_length
    items.reach(length)
    if not 0 <= item < items.num_items:
        raise UserError(f"--item {item}: there are items 0 to {items.num_items - 1}")
    if out is not None and not items.gallery_items:
        raise UserError(f"--out saves a picture, and items of {requests[0].name} are not images")
    if loaded.notice:
        console.print(for_rich("Note:", "yellow"), for_rich(loaded.notice), soft_wrap=True)
    if items.gallery_items:
        _show_image(items, item, length, out, console)
        return
    parts = _parts if hasattr(loaded, "decode") else _symbols
    for title, body in parts(loaded, items, item, length):
        console.rule(Text(title), align="left")
        console.print(body, soft_wrap=True)


def _show_image(items: EvalSet, item: int, length: int, out: Path | None, console: Console) -> None:
    """The image that is to be reconstructed, its ink as blocks; a character is twice as high as wide."""
    if item >= items.gallery_items:
        raise UserError(f"--item {item}: images 0 to {items.gallery_items - 1} can be shown")
    (image,) = items.gallery_truth(slice(item, item + 1))
    grey = np.clip(np.asarray(image, dtype=float), 0, 1)
    facts = {name: values[item] for name, values in items.facts(length).items()}
    console.rule(Text(f"image {item}, of which {items.num_tokens(length):,} tokens are given"), align="left")
    picture = Image.fromarray((255 * grey).round().astype(np.uint8))
    width = min(picture.width, console.width)
    small = picture.resize(
        (width, max(1, width * picture.height // picture.width // 2)), Image.Resampling.BOX
    )
    for row in np.asarray(small):
        line = "".join(BLOCKS[round((1 - value / 255) * (len(BLOCKS) - 1))] for value in row)
        console.print(for_rich(line), soft_wrap=True)
    console.rule(Text("facts"), align="left")
    console.print(for_rich(", ".join(f"{name} {value}" for name, value in facts.items())), soft_wrap=True)
    if out is not None:
        with atomic_file(out) as temporary:
            picture.resize([PIXELS * size for size in picture.size], Image.Resampling.NEAREST).save(
                temporary, format="PNG"
            )
        console.print(for_rich(f"Picture: {out}"), soft_wrap=True)


def _symbols(task: Task, items: EvalSet, item: int, length: int) -> list[tuple[str, Text]]:
    """Context, queries and targets of a task whose tokens are no text, as numbers."""
    one, tokens = slice(item, item + 1), items.num_tokens(length)
    queries, targets = items.queries(one, length, SYMBOL_QUERIES)
    context = items.context(one, 0, tokens, length)
    parts = [(f"context, {name}: {tokens:,} tokens", values) for name, values in context.items()]
    parts += [(f"queries, {name}", values) for name, values in queries.items()]
    parts.append((f"targets, {IGNORE} where nothing is asked", targets))
    return [(title, for_rich(" ".join(map(str, values[0].tolist())))) for title, values in parts]


def _parts(task: Task, items: EvalSet, item: int, length: int) -> list[tuple[str, Text]]:
    """Titles and texts, in the order in which a model reads them; then what is known of the item."""
    one, tokens = slice(item, item + 1), items.num_tokens(length)
    context = {name: values[0] for name, values in items.context(one, 0, tokens, length).items()}
    there = context["mask"].tolist() if "mask" in context else [True] * tokens
    ids = context["tokens"].tolist()
    begin, end = (items.spans(length) or {item: (0, 0)})[item]
    spans = [(0, begin, ""), (begin, end, NEEDLE), (end, tokens, "")]
    text = Text()
    for start, stop, style in spans:
        part = task.decode([ids[k] for k in range(start, stop) if there[k]])
        text.append(for_rich(part, style, lines=True))
    queries, targets = items.queries(one, length, MAX_QUERIES)
    asked, gold = queries["tokens"][0].tolist(), _targets(targets[0].tolist())
    facts = {name: values[item] for name, values in items.facts(length).items()}
    known = ", ".join(f"{name} {value}" for name, value in facts.items())
    count = f"context: {sum(there):,} tokens"
    if not task.generates:
        return [
            (count, text),
            ("next tokens, to be predicted", for_rich(task.decode(gold), lines=True)),
            ("facts", for_rich(known)),
        ]
    prompt = asked[: len(asked) - targets.shape[1] + 1]
    return [
        (count, text),
        ("prompt", for_rich(task.decode(prompt), lines=True)),
        ("answer", for_rich(task.decode(gold), NEEDLE, lines=True)),
        ("facts", for_rich(known)),
    ]


def _targets(tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if token != IGNORE]
