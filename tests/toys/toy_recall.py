"""Recall: name the two tokens that followed the only marker. A toy of tokens for tests of the core.

context   3 1 # 5 2 0 …      queries   ? 5      targets   5 2      the marker # is 8, the query ? is 9
"""

import hashlib

import torch
from pydantic import Field

from lgbench.models.language import TokenInterface, all_right, answer_losses
from lgbench.recipe import suggest
from lgbench.task import Batch, EvalSet, Metric, Recipe, Task

SYMBOLS, MARKER, ASK = 8, 8, 9

RECIPE = Recipe(
    d_model=16, num_layers=2, sizes=suggest(d_state=4, conv_width=3),
    train_length=24, train_queries=(2, 2), train_steps=12,
    batch_size=4, learning_rate=1e-2, eval_lengths=(4, 9, 24), eval_queries=2, eval_items=6, eval_batch=4,
    lm_weight=0.1,
)  # fmt: skip


class ToyRecall(Task):
    """Generated answers, and items of several lengths in a batch if asked for."""

    class Params(Task.Params):
        ragged: bool = Field(False, description="items of a batch have up to a third of their tokens masked")

    metric = Metric(name="accuracy", best=1.0, higher_is_better=True, interval="wilson")
    more_metrics = (Metric(name="first token", best=1.0, higher_is_better=True, interval="wilson"),)
    generates = True
    min_length = 4
    data_fingerprint = "toy"

    def recipe(self, preset, layout):
        """One preset."""
        if preset != "smoke":
            raise LookupError(f"toy_recall has no preset '{preset}'. It has: smoke")
        return RECIPE

    def interface(self, d_model, layout):
        """Ten tokens."""
        return TokenInterface(SYMBOLS + 2, d_model)

    def sample(self, num_items, length, num_queries, generator):
        """Fresh items."""
        device, rows = generator.device, torch.arange(num_items, device=generator.device)
        tokens = torch.randint(SYMBOLS, (num_items, length), generator=generator, device=device)
        absent = torch.zeros(num_items, dtype=torch.long, device=device)
        if self.params.ragged:
            absent = torch.randint(length // 3 + 1, (num_items,), generator=generator, device=device)
        place = (
            absent
            + (torch.rand(num_items, generator=generator, device=device) * (length - 2 - absent)).long()
        )
        tokens[rows, place] = MARKER
        answer = torch.stack([tokens[rows, place + 1], tokens[rows, place + 2]], dim=1)
        queries = torch.cat([torch.full_like(answer[:, :1], ASK), answer[:, :1]], dim=1)
        context = {"tokens": tokens}
        if self.params.ragged:
            context["mask"] = torch.arange(length, device=device) >= absent[:, None]
            context["tokens"] = tokens * context["mask"]
        return Batch(context, {"tokens": queries}, answer)

    def eval_set(self, num_items, seed):
        """Fixed items of each length."""
        return _Items(self, num_items, seed)

    def loss(self, predictions, targets):
        """Cross-entropy."""
        return answer_losses(predictions, targets)

    def score(self, predictions, targets):
        """Both tokens right."""
        return all_right(predictions, targets)

    def references(self, eval_set, num_queries, metric):
        """Guessing."""
        return {"chance": 1 / SYMBOLS ** (2 if metric.name == "accuracy" else 1)}


class _Items(EvalSet):
    def __init__(self, task, num_items, seed):
        self.task, self.num_items, self.seed = task, num_items, seed
        self.fingerprint = hashlib.sha256(f"{task.params} {num_items} {seed}".encode()).hexdigest()[:16]

    def _draw(self, length):
        return self.task.sample(
            self.num_items, length, 2, torch.Generator().manual_seed(1000 * self.seed + length)
        )

    def context(self, items, start, stop, length):
        return {name: v[items, start:stop] for name, v in self._draw(length).context.items()}

    def queries(self, items, length, num_queries):
        batch = self._draw(length)
        return {"tokens": batch.queries["tokens"][items]}, batch.targets[items]

    def grade(self, items, length, answers):
        """The second metric applies to every other item only."""
        right = answers == self._draw(length).targets[items]
        first = right[:, 0].float()
        first[torch.arange(self.num_items)[items] % 2 == 1] = float("nan")
        return {"accuracy": right.all(dim=1).float(), "first token": first}

    def facts(self, length):
        return {"marker": (self._draw(length).context["tokens"] == MARKER).int().argmax(dim=1).tolist()}
