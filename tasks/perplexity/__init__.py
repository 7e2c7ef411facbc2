"""Perplexity of books: how well are the next hundred tokens predicted after a context of any length?

    book      … x x x [ context: `length` tokens ][ 100 tokens ] t …
    queries                                        q q q … q          the hundred tokens after the context
    targets                                          q q … q t        the token after each of them

So these are the last 100 labels of a window of `length` + 101 tokens, the last of which is a label only. The
same windows serve all lengths: they start at the same tokens of the same books, which are longer than the
longest context. The task also has the perplexity of all tokens of the context, up to each length and between
neighbours of the grid of lengths.

The training loss is the mean over the hundred labels; `lm_weight` = training length / 100 gives all tokens of
a window the same weight. The lower bound of a length is a model that was trained at it, on as many tokens and
with that weight: `--train-length 1024,2048,4096` changes steps and weight with the length.

Source: DeciMamba (Ben-Kish et al., arXiv:2406.14528) on books as in PG-19 (Rae et al., arXiv:1911.05507).
With `protocol=as_released` each length has the windows of all books that are long enough for it, 10 or 11 a
book. What is published as a window of W tokens, labels included, is a length of W - 101 here; so the preset
`paper` has the lengths 899, 1,899, … for 1,000, 2,000, … of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from lgbench.tasks.perplexity.published import PUBLISHED
from lgbench.tasks.perplexity.windows import NUM_LABELS, Windows
from pydantic import Field
from torch import Tensor, nn

from lgbench.data.fingerprint import digest
from lgbench.errors import UserError
from lgbench.models.language import FINE_TUNED, PAPER_MODEL, TokenInterface, token_losses
from lgbench.recipe import suggest
from lgbench.task import Batch, Layout, Metric, Recipe, Task
from lgbench.text.corpus import load_texts
from lgbench.text.haystack import join
from lgbench.text.spelling import describe_losses
from lgbench.text.tokenizer import make_tokenizer

_ALIKE = dict(sizes=suggest(d_state=16, conv_width=4, init_std=0.036), train_queries=(NUM_LABELS, NUM_LABELS),
              eval_queries=NUM_LABELS)  # fmt: skip
RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        **_ALIKE, d_model=64, num_layers=2, train_length=256, lm_weight=2.56, train_steps=300, batch_size=8,
        learning_rate=4e-3, warmup_steps=30, decay_from=0.7, eval_lengths=(64, 128, 256, 512, 1024, 2048),
        eval_items=12, eval_batch=12,
    ),
    "small": Recipe(
        **_ALIKE, d_model=256, num_layers=6, train_length=2048, lm_weight=20.48, train_steps=2000,
        batch_size=32, learning_rate=1e-3, warmup_steps=200, decay_from=0.7, weight_decay=0.1,
        precision="bfloat16", eval_lengths=tuple(256 << k for k in range(10)), eval_items=40, eval_batch=20,
    ),
    "paper": Recipe(
        **_ALIKE, d_model=768, num_layers=24, train_length=2000, lm_weight=20.0, train_steps=200,
        batch_size=250, learning_rate=1e-4, **FINE_TUNED, precision="bfloat16",
        eval_lengths=tuple(1000 * n for n in (1, 2, 4, 10, 20, 30, 40, 50, 60)), eval_items=1000,
        eval_batch=20,
    ),
}  # fmt: skip


class Perplexity(Task):
    """Foretelling the next tokens of a book; more context should never make it harder."""

    class Params(Task.Params):
        protocol: Literal["clean", "as_released"] = Field(
            "clean",
            description="the same windows at every length, or those of all books that are long enough",
        )
        data: str = Field("auto", description="auto, gutenberg, wikitext, procedural, or a path of text")
        tokenizer: str = Field("bytes", description="bytes, bpe, or a tokenizers file or folder")

    metric = Metric(name="perplexity", best=1.0, higher_is_better=False, combine="exp_mean")
    lm_metric = Metric(name="perplexity of all tokens", best=1.0, higher_is_better=False, combine="exp_mean")
    more_metrics = (lm_metric,)
    nested = True
    eval_only = frozenset({"protocol"})
    data_params = frozenset({"data", "tokenizer"})
    horizon = 64.0
    fine_tunes = PAPER_MODEL
    published = PUBLISHED

    def __init__(self, params: Params | None = None) -> None:
        super().__init__(params)
        self.nested = self.params.protocol == "clean"

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset; `paper` is DeciMamba's recipe, `small` takes minutes on a GPU.

        As released, lengths of `paper` are those that leave room for the labels in the published windows.
        """
        if preset not in RECIPES:
            raise LookupError(f"perplexity has no preset '{preset}'. It has: smoke, small, paper")
        recipe = RECIPES[preset]
        if preset == "paper" and self.params.protocol == "as_released":
            contexts = tuple(window - NUM_LABELS - 1 for window in recipe.eval_lengths)
            length = recipe.train_length - NUM_LABELS - 1
            return replace(recipe, eval_lengths=contexts, train_length=length, lm_weight=length / NUM_LABELS)
        return recipe

    def at_train_length(self, recipe: Recipe, train_length: int) -> Recipe:
        """As many tokens of training at every length, and the same weight for each of them."""
        extra = NUM_LABELS + 1 if self.params.protocol == "as_released" else 0
        steps = recipe.train_steps * (recipe.train_length + extra) / (train_length + extra)
        weight = train_length / NUM_LABELS
        return replace(recipe, train_length=train_length, train_steps=max(1, round(steps)), lm_weight=weight)

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Put all books on the device."""
        super().prepare(device, data_dir)
        texts = load_texts(self.params.data, data_dir)
        self.tokenizer = make_tokenizer(self.params.tokenizer, texts.train)
        self.notice = " ".join(filter(None, [texts.notice, describe_losses(self.tokenizer, texts.train)]))
        self.data_source = f"{texts.source}, {self.tokenizer.name}"
        self.data_fingerprint = digest(f"{texts.fingerprint} {self.tokenizer.fingerprint}")
        self.train_books, self.eval_books = (
            join([self.tokenizer.encode_array(text) for text in side], self.tokenizer, device)
            for side in (texts.train, texts.eval)
        )

    def check(self, recipe: Recipe) -> None:
        """Refuse lengths that no book has, and another draw of windows that are fixed.

        Raises:
            UserError: names the largest length there can be.
        """
        if recipe.eval_draw and not self.nested:
            raise UserError(
                f"--eval-draw {recipe.eval_draw}: protocol {self.params.protocol} has the published windows, "
                "and there are no others"
            )
        if self.data_fingerprint:
            self.check_length("--train-length", recipe.train_length + recipe.train_queries[1], train=True)
            self.check_length("--eval-lengths", recipe.eval_lengths[-1] + recipe.eval_queries, train=False)

    def longest_training(self, num_queries: int) -> int | None:
        """What the longest training book has room for."""
        return self.train_books.longest - num_queries - 1 if self.data_fingerprint else None

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """One embedding, tied with the head."""
        return TokenInterface(self.vocabulary or self.tokenizer.size, d_model)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Windows of training books; each window of any book is equally likely."""
        self.check_length("a training context", length + num_queries, train=True)
        books, size = self.train_books, length + num_queries + 1
        counts = (books.sizes - size + 1).clamp(min=0)
        ends = counts.cumsum(0)
        draw = torch.rand(num_items, dtype=torch.float64, generator=generator, device=generator.device)
        window = (draw.to(self.device) * ends[-1]).long()
        book = torch.searchsorted(ends, window, right=True)
        at = books.starts[book] + window - (ends - counts)[book]
        tokens = books.tokens[at[:, None] + torch.arange(size, device=self.device)].long()
        return Batch(
            {"tokens": tokens[:, :length]}, {"tokens": tokens[:, length:-1]}, tokens[:, length + 1 :]
        )

    def eval_set(self, num_items: int, seed: int) -> Windows:
        """At most so many windows of held-out books; see `Windows.reach`."""
        return Windows(self, num_items, seed)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each label `(batch, num_queries)`, nats."""
        return token_losses(predictions, targets)

    score = loss

    def references(self, eval_set: Windows, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """Perplexity of the frequencies of tokens in the training books.

        Of the labels after the longest context, or of all tokens of it; each token is counted once more than
        it occurs.
        """
        counts = torch.bincount(self.train_books.tokens.long(), minlength=self.tokenizer.size) + 1
        nats = -(counts / counts.sum()).log()
        everyone, length = slice(0, eval_set.num_items), eval_set.longest
        if metric == self.metric:
            labels = eval_set.queries(everyone, length, num_queries)[1]
        else:
            labels = eval_set.context(everyone, 1, length + 1, length)["tokens"]
        return {"chance": nats[labels].mean().exp().item()}

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(tokens)

    def check_length(self, what: str, num_tokens: int, train: bool) -> None:
        """Refuse windows longer than all books; `num_tokens` is that of context and queries."""
        books = self.train_books if train else self.eval_books
        if num_tokens + 1 > books.longest:
            side = "train on" if train else "evaluate on"
            raise UserError(
                f"{what}: a window of {num_tokens + 1:,} tokens is longer than every document to {side} "
                f"({self.data_source}). The longest has {books.longest:,}, which leaves "
                f"{max(0, books.longest - NUM_LABELS - 1):,} for the context"
            )
