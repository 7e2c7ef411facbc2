"""One evaluation item of a language task as text: `lgbench show --task passkey --length 512`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from lgbench.errors import UserError
from lgbench.plan.cells import load_task
from lgbench.plan.config import RunConfig
from lgbench.run.measure import EVAL_SEED
from lgbench.safe_text import for_rich
from lgbench.task import IGNORE, EvalSet, Task

NEEDLE = "bold black on yellow"
NUM_ITEMS = 100
MAX_QUERIES = 100
"""Queries shown of a task whose queries are no answer."""


def show(
    task: str,
    length: int,
    item: int = 0,
    *,
    param: Sequence[str] = (),
    data: str | None = None,
    tokenizer: str | None = None,
    data_dir: Path | None = None,
    console: Console,
) -> None:
    """Print context, prompt, answer and facts of an evaluation item; what the answer is found in stands out.

    Args:
        task: name, with parameters if any.
        length: of the context, in the task's unit.
        item: which one, counted from 0.
        param: `TASK.PARAMETER=VALUE`, as in `run`.
        data: as in `run`.
        tokenizer: likewise.
        data_dir: likewise.
        console: where it goes.

    Raises:
        UserError: a task that is not made of text, or several; no such item.
    """
    config = RunConfig(task=(task,), param=tuple(param), data=data, tokenizer=tokenizer)
    requests, _ = config.requests()
    if len(requests) != 1:
        raise UserError(f"lgbench show shows one task at a time, got {len(requests)}")
    loaded = load_task(requests[0])
    if not hasattr(loaded, "decode"):
        raise UserError(f"{requests[0].name} is not made of text, so there is none to show")
    loaded.prepare(torch.device("cpu"), data_dir)
    items = loaded.eval_set(NUM_ITEMS, EVAL_SEED)
    items.reach(length)
    if not 0 <= item < items.num_items:
        raise UserError(f"--item {item}: there are items 0 to {items.num_items - 1}")
    if loaded.notice:
        console.print(for_rich("Note:", "yellow"), for_rich(loaded.notice), soft_wrap=True)
    for title, body in _parts(loaded, items, item, length):
        console.rule(Text(title), align="left")
        console.print(body, soft_wrap=True)


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
