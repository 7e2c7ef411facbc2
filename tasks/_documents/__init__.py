"""What document retrieval and multi-document QA share: data, prompts, curriculum and fixed items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from lgbench.tasks._documents.corpus import (
    CLOSE,
    DOCUMENT,
    NUM_IDS,
    QUERY,
    Corpus,
    build_corpus,
    cut_paragraphs,
    id_names,
    join_pieces,
)
from lgbench.tasks._documents.draws import (
    Queries,
    Shelf,
    ask,
    choose,
    context_pieces,
    draw_gold,
    draw_released_shelf,
    draw_shelf,
    draw_windows,
)
from lgbench.tasks._documents.squad import Squad, load_squad
from pydantic import Field
from torch import Tensor, nn

from lgbench.data.fingerprint import digest
from lgbench.errors import UserError
from lgbench.models.language import PAPER_MODEL, TokenInterface, all_right, answer_losses
from lgbench.task import Batch, Recipe, Task
from lgbench.text.corpus import load_texts
from lgbench.text.spelling import check_distinct, check_numbers, describe_losses
from lgbench.text.tokenizer import is_bpe_available, make_tokenizer

ANSWER = " <|Answer|>"

TEXT_TOKENS = 300
"""Of a document in training at most, after the curriculum."""
QUERY_TOKENS = 24
"""Of a query in training at most; the few longer questions are only evaluated."""
EVIDENCE_TOKENS = 24
"""Of an answer's words, which a document that is cut keeps; the few longer ones are not trained on."""
SPREAD = 2.0
"""Padded width of training contexts, in standard deviations above the mean; what is longer is cut to fit."""


class DocumentTask(Task):
    """Prompts ` <|Query|> {query} <|Document {id}|> {text}` for each document; length counts documents.

    A subclass says which items ask questions, and how a prompt ends.
    """

    class Params(Task.Params):
        data: str = Field(
            "auto",
            description="squad (SQuAD 2.0), procedural (invented facts), auto (whichever is there), or the "
            "path of a file in the format of SQuAD 2.0, .json or .json.gz, which is split by article",
        )
        tokenizer: str = Field("auto", description="auto, bytes, bpe, or a tokenizers file or folder")
        protocol: Literal["clean", "as_released"] = Field(
            "clean", description="distinct documents with ids of three digits, or as in the published code"
        )
        extra_text: bool = Field(
            True,
            description="train on paragraphs of books, too, where there are books and real SQuAD; "
            "as_released never",
        )

    generates = True
    horizon = 160 / 11
    context_means = "more candidates"
    length_unit = "documents"
    min_length = 2
    fine_tunes = PAPER_MODEL
    released_version = 2
    data_params = frozenset({"data", "tokenizer", "extra_text"})
    training_params = frozenset({"question_share"})
    """Names of parameters, of any subclass, that evaluation items do not depend on."""
    host: Corpus | None = None
    """On the CPU, whatever the device, for the draws of the evaluation; None before `prepare`."""

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Tokenize everything once and put it on the device.

        Raises:
            UserError: the tokenizer cannot write ids or tell markers apart.
        """
        super().prepare(device, data_dir)
        squad, released = load_squad(self.params.data, data_dir), self.params.protocol == "as_released"
        extra, extra_fingerprint = self._books(squad, data_dir)
        texts, markers = _training_texts(squad), (QUERY, DOCUMENT, CLOSE, ANSWER)
        self.tokenizer = make_tokenizer(self.params.tokenizer, texts)
        check_numbers(self.tokenizer, id_names(pad=not released), "the ids of documents")
        check_distinct(self.tokenizer, {text: self.tokenizer.encode(text) for text in markers}, "its markers")
        self.host = build_corpus(squad, extra, self.tokenizer, pad_ids=not released)
        self.corpus, self.squad = self.host.to(device), squad
        books = f", {len(extra):,} paragraphs of books" if extra else ""
        self.data_source = f"{squad.source}{books}, {self.tokenizer.name}"
        self.data_fingerprint = digest(squad.fingerprint, extra_fingerprint, self.tokenizer.fingerprint)
        notices = [squad.notice, describe_losses(self.tokenizer, [*texts, *extra], markers)]
        if self.params.tokenizer == "auto" and not is_bpe_available():
            notices.append("Text is read as bytes, as the package tokenizers is not installed.")
        self.notice = " ".join(filter(None, notices))
        self.scale = self._scale()
        self.max_query = QUERY_TOKENS * self.scale
        self.max_id = int((self.host.ids[:, 1] - self.host.ids[:, 0]).max())
        self.marked = int((self.host.markers[:, 1] - self.host.markers[:, 0]).sum()) + self.max_id
        self.askable = self._askable().to(device)
        self._sizes: dict[int, tuple[float, float]] = {}

    def context_tokens(self, length: int) -> int:
        """Tokens of so many documents of the mean training length, markers and queries included.

        Before `prepare` nobody knows, and the number of documents stands for it.
        """
        if self.host is None:
            return length
        return round(length * (self.marked + self._mean_question + self._size(TEXT_TOKENS * self.scale)[0]))

    def interface(self, d_model: int, layout: str) -> nn.Module:
        """One embedding, tied with the head."""
        return TokenInterface(self.vocabulary or self.tokenizer.size, d_model)

    def check(self, recipe: Recipe) -> None:
        """Refuse more documents than there are.

        Raises:
            UserError: says how many there are.
        """
        if self.host is None:
            return
        self.check_documents(recipe.train_length, "train")
        for length in recipe.eval_lengths:
            self.check_documents(length, "eval")

    def check_documents(self, length: int, side: Literal["train", "eval"]) -> None:
        """Refuse a number of documents that a side of the split cannot fill, or that cannot all be named.

        Raises:
            UserError: says how many it can be.
        """
        documents, most = len(getattr(self.host, side).documents), self._most_documents(side)
        if not 1 <= length <= most:
            purpose = {"train": "to train on", "eval": "to evaluate on"}[side]
            raise UserError(
                f"{length} documents were asked for; the maximum is {most}: {self.squad.source} has "
                f"{documents:,} distinct ones {purpose}, and there are {NUM_IDS:,} ids"
            )

    def longest_training(self, num_queries: int) -> int | None:
        """As many documents as can be named and, but for `as_released`, as there are to train on."""
        return None if self.host is None else self._most_documents("train")

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Training items of `length` documents, cut to `TEXT_TOKENS`, as in the last stage."""
        return self.sample_stage(num_items, length, num_queries, generator, (length, TEXT_TOKENS, 1))

    def sample_stage(
        self,
        num_items: int,
        length: int,
        num_queries: int,
        generator: torch.Generator,
        stage: tuple[int, ...],
    ) -> Batch:
        """Training items within a stage (most documents, tokens of each, which items ask questions).

        The last is what `share_of_questions` reads: 0 none, 1 some, 2 all. Tokens of a stage are those of a
        BPE; with bytes they are as many times more as bytes make a token. The shape depends on `num_items`,
        `length` and the stage alone.
        """
        self.check_documents(length, "train")
        corpus = self.host if generator.device.type == "cpu" else self.corpus
        side, device = corpus.train, corpus.pool.device
        tokens = stage[1] * self.scale
        mean, deviation = self._size(tokens)
        budget = min(length * tokens, math.ceil(length * mean + SPREAD * deviation * math.sqrt(length)))
        width = length * (self.marked + self.max_query) + budget + EVIDENCE_TOKENS * self.scale

        share = self.share_of_questions(stage[2])
        asks = torch.rand(num_items, generator=generator, device=device) < share
        gold, question = draw_gold(side, corpus, self.askable.to(device), asks, generator)
        gold_id = torch.randint(NUM_IDS, (num_items,), generator=generator, device=device)
        shelf = self.draw_shelf(corpus, "train", gold, gold_id, asks, length, generator)
        golden = torch.arange(length, device=device) == shelf.place[:, None]
        evidence = corpus.evidence[question].masked_fill(~asks[:, None], 0)
        starts, lengths = draw_windows(corpus, shelf.documents, golden, evidence, tokens, budget, generator)
        part = (t.gather(1, shelf.place[:, None]).squeeze(1) for t in (starts, lengths))
        others, spans = self.draw_queries(corpus, *part, self.max_query, 1, generator)
        queries = choose(asks, ask(corpus, question), others)
        pieces = context_pieces(corpus, queries, shelf.ids, starts, lengths)
        context, mask = join_pieces(corpus.pool, *pieces, width)
        answer = torch.where(asks[:, None], corpus.answers[question], spans)
        tokens_after, targets = self.finish(corpus, gold_id, answer)
        return Batch({"tokens": context, "mask": mask}, {"tokens": tokens_after}, targets)

    def share_of_questions(self, which: int) -> float:
        """Share of training items that ask a real question, where a stage says 0 none, 1 some or 2 all."""
        raise NotImplementedError

    def draw_queries(
        self, corpus: Corpus, starts: Tensor, lengths: Tensor, max_tokens: int, fewest: int,
        generator: torch.Generator,
    ) -> tuple[Queries, Tensor]:  # fmt: skip
        """Queries of items that ask no question, and spans `(batch, 2)` of the pool that answer them.

        Args:
            corpus: on the generator's device.
            starts: `(batch,)`, where the shown parts of the golden documents start, at a word.
            lengths: their tokens.
            max_tokens: of a query at most.
            fewest: words of a query at least, where the part has as many.
            generator: the only randomness.
        """
        raise NotImplementedError

    def finish(self, corpus: Corpus, gold_id: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt's end with the answer without its last token, and the answer, padded with IGNORE.

        Args:
            corpus: holds the pool, on the device of the rest.
            gold_id: names of the golden documents `(batch,)`.
            answer: spans of the pool `(batch, 2)`.
        """
        raise NotImplementedError

    def draw_shelf(
        self, corpus: Corpus, side: Literal["train", "eval"], gold: Tensor, gold_id: Tensor,
        asks: Tensor,
        length: int,
        generator: torch.Generator,
    ) -> Shelf:  # fmt: skip
        """Which documents, in which order, under which names; see `lgbench.tasks._documents.draws`."""
        draw = draw_shelf if self.params.protocol == "clean" else draw_released_shelf
        return draw(getattr(corpus, side), gold, gold_id, asks, length, generator)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each token of the answer `(batch, num_targets)`, nats."""
        return answer_losses(predictions, targets)

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest tokens are the whole answer, `(batch, 1)`."""
        return all_right(predictions, targets)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(tokens)

    def _books(self, squad: Squad, data_dir: Path | None) -> tuple[list[str], str]:
        """Paragraphs of books and their fingerprint; none beside invented facts. Nothing is downloaded."""
        released = self.params.protocol == "as_released"
        if released or not self.params.extra_text or squad.source == "procedural":
            return [], ""
        try:
            texts = load_texts("gutenberg", data_dir)
        except UserError:
            return [], ""
        return cut_paragraphs(texts.train), texts.fingerprint

    def _scale(self) -> int:
        """Tokens of this tokenizer for one of a BPE, which has about 1.5 a word."""
        return max(1, round(len(self.host.pool[: self.host.words[-1]]) / (len(self.host.words) - 1) / 1.5))

    def _askable(self) -> Tensor:
        """Training questions that fit the width of training prompts. Sets their mean length, too."""
        side, spans = self.host.train, self.host.questions
        sizes = spans[side.questions].diff(dim=1).squeeze(1)
        held = self.host.evidence[side.questions].diff(dim=1).squeeze(1)
        fits = (sizes <= QUERY_TOKENS * self.scale) & (held <= EVIDENCE_TOKENS * self.scale)
        if not fits.any():
            raise UserError(f"{self.squad.source} has no training question of {QUERY_TOKENS} tokens or fewer")
        self._mean_question = sizes[fits].double().mean().item()
        return side.questions[fits]

    def _most_documents(self, side: Literal["train", "eval"]) -> int:
        documents = len(getattr(self.host, side).documents)
        return min(NUM_IDS, documents) if self.params.protocol == "clean" else NUM_IDS

    def _size(self, tokens: int) -> tuple[float, float]:
        """Mean and deviation of the tokens of training documents, cut to so many, as they are drawn."""
        if tokens not in self._sizes:
            side = self.host.train
            sizes = self.host.documents[side.documents].diff(dim=1).squeeze(1).clamp(max=tokens).double()
            weights = side.weights.double() / side.weights.sum()
            mean = (weights * sizes).sum()
            self._sizes[tokens] = mean.item(), (weights * (sizes - mean) ** 2).sum().sqrt().item()
        return self._sizes[tokens]


def _training_texts(squad: Squad) -> list[str]:
    """What a BPE is trained on: paragraphs and questions of the training side, and the markers among them."""
    paragraphs = [squad.paragraphs[at] for at in squad.train]
    train = set(squad.train)
    questions = [question.text for question in squad.questions if question.paragraph in train]
    return [*paragraphs, *questions, *[f"{QUERY}{DOCUMENT} 0{CLOSE}{ANSWER}"] * len(paragraphs)]
