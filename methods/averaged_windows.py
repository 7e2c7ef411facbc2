"""Read several parts of the context, each as long as training, and average the answers.

The control beside `last_window`: it uses more of the context and still never reads more than L_train tokens
at a time. What a remedy gains over it comes from reading the context as a whole. Source: our own.

    chunks    parts that lie side by side, evenly spread from the first token to the last
    subsets   tokens drawn at random from the whole context, in their order
"""

from typing import Literal

import torch
from pydantic import Field

from lgbench.method import Method
from lgbench.task import Task


class AveragedWindows(Method):
    """Vanilla on parts of the context, its answers averaged; trains like vanilla."""

    class Params(Method.Params):
        draw: Literal["chunks", "subsets"] = Field("chunks", description="runs of tokens, or random ones")
        count: int = Field(8, ge=1, le=4096, description="parts that are read, at most")

    trains_like = "vanilla"
    prefix_exact = False
    needs_length = True

    def unsupported(self, task: Task) -> str | None:
        """Only answers that are numbers or logits, of one query each, have a mean."""
        if not task.generates and task.lm_metric is None:
            return None
        return "answers that are generated token by token have no mean; take a task with one answer a query"

    def views(self, num_tokens: int, train_tokens: int) -> tuple[torch.Tensor, ...]:
        """Parts of `train_tokens` tokens; none where the whole context is not longer.

        Logits are averaged as they are, which is the geometric mean of the probabilities.
        """
        if num_tokens <= train_tokens:
            return ()
        if self.params.draw == "subsets":
            generator = torch.Generator().manual_seed(num_tokens)
            drawn = (torch.randperm(num_tokens, generator=generator) for _ in range(self.params.count))
            return tuple(order[:train_tokens].sort().values for order in drawn)
        count = min(self.params.count, -(-num_tokens // train_tokens))
        starts = torch.linspace(0, num_tokens - train_tokens, count).round().long()
        return tuple(torch.arange(start, start + train_tokens) for start in starts.tolist())
