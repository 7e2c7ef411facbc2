"""Passkey: five digits are hidden in a text that has nothing to do with them; name them at its end.

    context   There is an important pass key hidden inside a lot of irrelevant text. Find it and memorize it:
              … text … The pass key is 04217. Remember it. 04217 is the pass key. … text …
    queries   \\nAnswer: 0421
    targets   04217

The context has exactly `length` tokens; the needle stands where a sentence starts. `variant=repeated` hides
it between copies of one block of short sentences, which is another, easier regime:

    context   There is an important info hidden inside a lot of irrelevant text. Find it and memorize it.
              The grass is green. … There and back again. The passkey is 04217. … The grass is green. …
    queries   \\nWhat is the pass key? The passkey is 0421

Source: Mohtashami and Jaggi, arXiv:2305.16300; natural text as in DeciMamba (Ben-Kish et al.,
arXiv:2406.14528), repeated sentences as in Stuffed Mamba (Chen et al., arXiv:2410.07145). Of the code that
DeciMamba released, `protocol=as_released` has the codes and the grading: numbers that are not padded with
zeros, of which some are both trained on and evaluated on; evaluation reads its text in order; an answer is
right if the code is one of its words; the question comes on top of the `length` tokens. Its grid, from 1,000
tokens on, takes sentences as short as those of its text and a BPE, for near each depth a sentence must start:
`passkey[protocol=as_released,data=wikitext,tokenizer=bpe]`. That code has no `variant=repeated`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from lgbench.tasks.passkey.items import Answers, PasskeyItems, make_codes
from lgbench.tasks.passkey.published import PUBLISHED
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from lgbench.data.fingerprint import digest
from lgbench.errors import UserError
from lgbench.models.language import FINE_TUNED, PAPER_MODEL, TokenInterface, all_right, answer_losses
from lgbench.models.symbols import LOG_PROBABILITY
from lgbench.recipe import suggest
from lgbench.run.measure import EVAL_SEED
from lgbench.task import Batch, Layout, Metric, Recipe, Task
from lgbench.text.corpus import load_texts
from lgbench.text.haystack import Corpus, Needles, hide, join, pad, read_corpus
from lgbench.text.spelling import check_numbers, describe_losses
from lgbench.text.tokenizer import make_tokenizer

QUESTION = {
    "natural": "There is an important pass key hidden inside a lot of irrelevant text. "
    "Find it and memorize it:\n",
    "repeated": "There is an important info hidden inside a lot of irrelevant text. "
    "Find it and memorize it.\n\n",
}
NEEDLE = {
    "natural": "The pass key is {code}. Remember it. {code} is the pass key. ",
    "repeated": "The passkey is {code}. Remember it. {code} is the passkey.\n",
}
PROMPT = {"natural": "\nAnswer: ", "repeated": "\nWhat is the pass key? The passkey is "}
BLOCK = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"

CODES_TRIED = 1000
"""Of each side, to see whether the tokenizer can write them."""
SHORTEST_SENTENCE = 10
"""Tokens; shorter sentences are left out as released."""


def _doubling(low: int, high: int) -> tuple[int, ...]:
    return tuple(low << k for k in range((high // low).bit_length()))


_SIZES = dict(d_state=16, conv_width=4, init_std=0.036)
_DIGITS = dict(train_queries=(5, 5), eval_queries=5)
RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        **_DIGITS, d_model=64, num_layers=2, sizes=suggest(**_SIZES | {"d_state": 8}),
        train_length=256, train_steps=500,
        batch_size=8, learning_rate=4e-3, warmup_steps=50, decay_from=0.7, stages=((192,), (256,)),
        eval_lengths=_doubling(256, 4096), eval_items=25, eval_batch=25,
    ),
    "small": Recipe(
        **_DIGITS, d_model=256, num_layers=4, sizes=suggest(**_SIZES),
        train_length=2048, train_steps=2000, batch_size=32,
        learning_rate=1e-3, warmup_steps=200, decay_from=0.7, weight_decay=0.1, lm_weight=0.1,
        stages=((192,), (256,), (512,), (1024,), (2048,)), precision="bfloat16",
        eval_lengths=_doubling(256, 1 << 20), eval_items=100, eval_batch=20,
    ),
    "paper": Recipe(
        **_DIGITS, d_model=768, num_layers=24, sizes=suggest(**_SIZES),
        train_length=2000, train_steps=960, batch_size=32,
        learning_rate=1e-4, **FINE_TUNED, precision="bfloat16",
        eval_lengths=tuple(1000 * n for n in _doubling(1, 128)), eval_items=100, eval_batch=20,
    ),
}  # fmt: skip


class Passkey(Task):
    """One fact to keep through any amount of text, at five depths: where in the context does memory fail?"""

    class Params(Task.Params):
        variant: Literal["natural", "repeated"] = Field(
            "natural", description="what the needle is hidden in: real text, or one block again and again"
        )
        protocol: Literal["clean", "as_released"] = Field(
            "clean", description="codes of five digits with disjoint splits, or as in the published code"
        )
        depths: tuple[float, ...] = Field(
            (0.0, 0.25, 0.5, 0.75, 1.0),
            min_length=1,
            description="places of the needle in evaluation, 0 to 1",
        )
        data: str = Field("auto", description="auto, gutenberg, wikitext, procedural, or a path of text")
        tokenizer: str = Field("bytes", description="bytes, bpe, or a tokenizers file or folder")

        @field_validator("depths")
        @classmethod
        def _fractions(cls, depths: tuple[float, ...]) -> tuple[float, ...]:
            if not all(0 <= depth <= 1 for depth in depths):
                raise ValueError("depths are fractions of the context, from 0 to 1")
            return depths

        @model_validator(mode="after")
        def _released_together(self) -> Passkey.Params:
            if self.protocol == "as_released" and self.variant == "repeated":
                raise ValueError(
                    "protocol=as_released follows the code of DeciMamba, whose text is natural; "
                    "variant=repeated is from another paper, Stuffed Mamba. Use variant=natural with it, or "
                    "protocol=clean with variant=repeated"
                )
            return self

    metric = Metric(name="accuracy", best=1.0, higher_is_better=True, interval="wilson")
    log_metric = LOG_PROBABILITY
    more_metrics = (log_metric,)
    generates = True
    eval_only = frozenset({"depths"})
    data_params = frozenset({"data", "tokenizer"})
    horizon = 64.0
    learned = 0.5
    fine_tunes = PAPER_MODEL
    published = PUBLISHED
    released_version = 2
    question: Tensor = torch.zeros(0, dtype=torch.long)
    """Tokens before the haystack; none are known before `prepare`."""

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset; `paper` is DeciMamba's recipe, `small` takes minutes on a GPU.

        As released `paper` goes ten times through its sequences, where the paper says five times.
        """
        if preset not in RECIPES:
            raise LookupError(f"passkey has no preset '{preset}'. It has: smoke, small, paper")
        recipe = RECIPES[preset]
        if preset == "paper" and self.params.protocol == "as_released":
            return replace(recipe, train_steps=2 * recipe.train_steps)
        return recipe

    def context_tokens(self, length: int) -> int:
        """As released the question comes on top of the length."""
        return length + (len(self.question) if self.params.protocol == "as_released" else 0)

    def check(self, recipe: Recipe) -> None:
        """Refuse contexts without room for the needle, and items that do not share out among the depths.

        Raises:
            UserError: says what would fit.
        """
        self.check_items(recipe.eval_items)
        if self.data_fingerprint:
            shortest = min(stage[0] for stage in recipe.stages) if recipe.stages else recipe.train_length
            for length in (recipe.train_length, shortest):
                self.check_length(length)
            items = self.eval_set(recipe.eval_items, EVAL_SEED + recipe.eval_draw)
            for length in recipe.eval_lengths:
                items.facts(length)

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Put the text, all codes of the training and their needles on the device.

        Raises:
            UserError: the tokenizer cannot write codes, or the text says a needle of its own.
        """
        super().prepare(device, data_dir)
        variant, name = self.params.variant, self.params.tokenizer
        source, train, evaluation = "one block of sentences", (BLOCK,), (BLOCK,)
        fingerprint = notice = ""
        if variant == "natural" or name in ("auto", "bpe"):
            texts = load_texts(self.params.data, data_dir)
            fingerprint, notice = texts.fingerprint, texts.notice
            self.tokenizer = make_tokenizer(name, texts.train)
            if variant == "natural":
                source, train, evaluation = texts.source, texts.train, texts.eval
        else:
            self.tokenizer = make_tokenizer(name, ())
        self.codes = make_codes(self.params.protocol)
        self.notice = " ".join(filter(None, [notice, self._try_tokenizer(train)]))
        self.data_source = f"{source}, {self.tokenizer.name}"
        self.data_fingerprint = digest(f"{fingerprint} {self.tokenizer.fingerprint}")
        shortest = SHORTEST_SENTENCE if self.params.protocol == "as_released" else 1
        self.train_corpus, self.eval_corpus = (
            self._corpus(documents, shortest) for documents in (train, evaluation)
        )
        self.question = torch.tensor(self.tokenizer.encode(QUESTION[variant]), device=device)
        self.answers = Answers(self.tokenizer, PROMPT[variant], self.codes, self.params.protocol)
        self.needles, self.training = self.tables(self.codes["train"])
        self.min_length = len(self.question) + self.needles.tokens.shape[1]

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """One embedding, tied with the head."""
        return TokenInterface(self.vocabulary or self.tokenizer.size, d_model)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Training items: any code, at any sentence of the text, anywhere in a context of `length` tokens."""
        self.check_length(length)
        like = dict(generator=generator, device=generator.device)
        chosen = torch.randint(len(self.needles.sizes), (num_items,), **like).to(self.device)
        sentence = torch.randint(len(self.train_corpus.starts), (num_items,), **like).to(self.device)
        needles = Needles(self.needles.tokens[chosen], self.needles.sizes[chosen])
        num_tokens = self.context_tokens(length)
        room = num_tokens - len(self.question) - needles.sizes
        wanted = (torch.rand(num_items, **like).to(self.device) * (room + 1)).long()
        text_at, needle_at = self.place(self.train_corpus, self.train_corpus.starts[sentence], wanted)
        tokens = self.context(self.train_corpus, needles, text_at, needle_at, 0, num_tokens)
        queries, targets = (table[chosen] for table in self.training)
        return Batch({"tokens": tokens}, {"tokens": queries}, targets)

    def eval_set(self, num_items: int, seed: int) -> PasskeyItems:
        """Held-out codes in held-out text, each at one of the depths in turn.

        Raises:
            UserError: the number of items is no multiple of the number of depths.
        """
        return PasskeyItems(self, num_items, seed)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each token of the answer `(batch, num_targets)`, nats."""
        return answer_losses(predictions, targets)

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest tokens are the whole answer, `(batch, 1)`."""
        return all_right(predictions, targets)

    def references(self, eval_set: PasskeyItems, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """Expected score of the best code, or in bits of the best odds of codes, without the context."""
        codes = self.codes["eval"]
        shares = [count / len(codes) for count in Counter(codes).values()]
        if metric == self.log_metric:
            return {"chance": sum(share * math.log2(share) for share in shares)}
        return {"chance": max(shares)}

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(tokens)

    def tables(self, codes: Sequence[str]) -> tuple[Needles, tuple[Tensor, Tensor]]:
        """Needles, and queries with targets, of these codes on the device, a row each."""
        needle = NEEDLE[self.params.variant]
        encoded = [self.tokenizer.encode(needle.format(code=code)) for code in codes]
        sizes = torch.tensor([len(tokens) for tokens in encoded], device=self.device)
        pairs = self.answers.encode(codes)
        return Needles(pad(encoded, 0).to(self.device), sizes), tuple(t.to(self.device) for t in pairs)

    def place(self, corpus: Corpus, anchor: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Where in the corpus the text begins, and where the needle goes, so that it is before a sentence.

        In natural text it goes to the wanted place, and the text is laid so that the sentence at `anchor`
        follows it. Repeated text begins with a whole block, and the needle goes to the last start of a block
        at or before that place.
        """
        if self.params.variant == "natural":
            return (anchor - wanted) % len(corpus.tokens), wanted
        return torch.zeros_like(wanted), wanted - wanted % len(corpus.tokens)

    def context(
        self, corpus: Corpus, needles: Needles, text_at: Tensor, needle_at: Tensor, start: int, stop: int
    ) -> Tensor:
        """Tokens `start` to `stop` of the contexts: the question, then the haystack."""
        asked = self.question[start:stop].expand(len(text_at), -1)
        first = len(self.question)
        if stop <= first:
            return asked
        hay = hide(corpus, needles, text_at, needle_at, max(0, start - first), stop - first)
        return torch.cat([asked, hay], dim=1)

    def check_items(self, num_items: int) -> None:
        """Refuse a number of items that is no multiple of the number of depths."""
        depths = self.params.depths
        if num_items % len(depths):
            raise UserError(
                f"--eval-items {num_items}: passkey needs a multiple of its {len(depths)} depths, "
                f"{', '.join(f'{depth:g}' for depth in depths)}"
            )

    def check_length(self, length: int) -> None:
        """Refuse a context without room for question and needle.

        Raises:
            UserError: says how many tokens it takes.
        """
        if length < self.min_length:
            raise UserError(
                f"a context of {length} tokens is too short for passkey: question and needle alone take "
                f"{self.min_length} tokens ({self.tokenizer.name}), so give {self.min_length} or more"
            )

    def _try_tokenizer(self, texts: Sequence[str]) -> str:
        """Refuse a tokenizer that cannot write codes; returns a notice on other text that it cannot."""
        tried = [code for side in self.codes.values() for code in side[:: len(side) // CODES_TRIED]]
        check_numbers(self.tokenizer, tried, "codes", in_one=self.params.protocol == "as_released")
        variant = self.params.variant
        written = QUESTION[variant], NEEDLE[variant].format(code=tried[0]), PROMPT[variant]
        return describe_losses(self.tokenizer, texts, written)

    def _corpus(self, documents: Sequence[str], shortest: int) -> Corpus:
        needle = NEEDLE[self.params.variant].partition("{")[0]
        if any(needle in text for text in documents):
            raise UserError(
                f"the text itself says {needle!r} ({self.data_source}); passkey needs one without it"
            )
        if self.params.variant == "natural":
            return read_corpus(documents, self.tokenizer, self.device, shortest)
        return join([self.tokenizer.encode_array(BLOCK)], self.tokenizer, self.device)
