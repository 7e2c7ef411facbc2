"""What document retrieval and multi-document QA share: data, prompts, curriculum and fixed items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lgbench.data.document_draws import (
    Queries,
    Shelf,
    ask,
    choose,
    context_pieces,
    draw_gold,
    draw_keywords,
    draw_released_shelf,
    draw_shelf,
    draw_windows,
)
from lgbench.data.documents import (
    CLOSE,
    DOCUMENT,
    NUM_IDS,
    QUERY,
    Corpus,
    build_corpus,
    cut_paragraphs,
    join_pieces,
)
from lgbench.data.squad import Squad, load_squad
from lgbench.data.text import load_texts
from lgbench.data.tokenizer import is_bpe_available, make_tokenizer
from lgbench.errors import UserError
from lgbench.models.language import TokenInterface, all_right, answer_losses
from lgbench.task import IGNORE, Batch, Recipe, Task, Tensors

ANSWER = " <|Answer|>"

TEXT_TOKENS = 300
"""Of a document in training at most, after the curriculum."""
QUERY_TOKENS = 24
"""Of a query in training at most; the few longer questions are only evaluated."""
EVIDENCE_TOKENS = 24
"""Of an answer's words, which a document that is cut keeps; the few longer ones are not trained on."""
SPREAD = 2.0
"""Padded width of training contexts, in standard deviations above the mean; what is longer is cut to fit."""
EVAL_FEWEST = 6
"""Words of a keyword query in evaluation at least, so that no other document has them all."""


class DocumentTask(Task):
    """Prompts ` <|Query|> {query} <|Document {id}|> {text}` for each document; length counts documents.

    A subclass says which items ask questions, and how a prompt ends.
    """

    class Params(Task.Params):
        data: Literal["auto", "squad", "procedural"] = Field(
            "auto", description="SQuAD 2.0, invented facts, or whichever is there"
        )
        tokenizer: str = Field("auto", description="auto, bytes, bpe, or a tokenizers file or folder")
        protocol: Literal["clean", "as_released"] = Field(
            "clean", description="distinct documents with ids of three digits, or as in the published code"
        )
        extra_text: bool = Field(
            True, description="train on paragraphs of books, too, where there are books and real SQuAD"
        )

    generates = True
    length_unit = "documents"
    min_length = 2
    data_params = frozenset({"data", "tokenizer", "extra_text"})
    host: Corpus | None = None
    """On the CPU, whatever the device, for the draws of the evaluation; None before `prepare`."""

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Tokenize everything once and put it on the device."""
        super().prepare(device, data_dir)
        squad, released = load_squad(self.params.data, data_dir), self.params.protocol == "as_released"
        extra, extra_fingerprint = self._books(squad, data_dir)
        self.tokenizer = make_tokenizer(self.params.tokenizer, _training_texts(squad))
        self.host = build_corpus(squad, extra, self.tokenizer, pad_ids=not released)
        self.corpus, self.squad = self.host.to(device), squad
        books = f", {len(extra):,} paragraphs of books" if extra else ""
        self.data_source = f"{squad.source}{books}, {self.tokenizer.name}"
        self.data_fingerprint = _digest(squad.fingerprint, extra_fingerprint, self.tokenizer.fingerprint)
        self.notice = squad.notice
        if self.params.tokenizer == "auto" and not is_bpe_available():
            bytes_notice = "Text is read as bytes, as the package tokenizers is not installed."
            self.notice = " ".join(filter(None, [squad.notice, bytes_notice]))
        self.scale = self._scale()
        self.max_id = int((self.host.ids[:, 1] - self.host.ids[:, 0]).max())
        markers = int((self.host.markers[:, 1] - self.host.markers[:, 0]).sum())
        self.marked = markers + self.max_id
        self.askable = self._askable().to(device)
        self._sizes: dict[int, tuple[float, float]] = {}

    def context_tokens(self, length: int) -> int:
        """Tokens of so many documents of the mean training length, markers and queries included."""
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
        documents = len(getattr(self.host, side).documents)
        most = min(NUM_IDS, documents) if self.params.protocol == "clean" else NUM_IDS
        if not 1 <= length <= most:
            purpose = {"train": "to train on", "eval": "to evaluate on"}[side]
            raise UserError(
                f"{length} documents were asked for; the maximum is {most}: {self.squad.source} has "
                f"{documents:,} distinct ones {purpose}, and there are {NUM_IDS:,} ids"
            )

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
        """Training items within a stage (most documents, tokens of each, 1 where questions are asked).

        Tokens of a stage are those of a BPE; with bytes they are as many times more as bytes make a token.
        The shape depends on `num_items`, `length` and the stage alone.
        """
        self.check_documents(length, "train")
        corpus, side, device = self.corpus, self.corpus.train, self.device
        tokens, max_query = stage[1] * self.scale, QUERY_TOKENS * self.scale
        mean, deviation = self._size(tokens)
        budget = min(length * tokens, math.ceil(length * mean + SPREAD * deviation * math.sqrt(length)))
        width = length * (self.marked + max_query) + budget + EVIDENCE_TOKENS * self.scale

        share = self.share_of_questions(stage[2] > 0)
        asks = torch.rand(num_items, generator=generator, device=device) < share
        gold, question = draw_gold(side, corpus, self.askable, asks, generator)
        gold_id = torch.randint(NUM_IDS, (num_items,), generator=generator, device=device)
        shelf = self.draw_shelf(corpus, "train", gold, gold_id, asks, length, generator)
        golden = torch.arange(length, device=device) == shelf.place[:, None]
        evidence = corpus.evidence[question].masked_fill(~asks[:, None], 0)
        starts, lengths = draw_windows(corpus, shelf.documents, golden, evidence, tokens, budget, generator)
        part = (t.gather(1, shelf.place[:, None]).squeeze(1) for t in (starts, lengths))
        queries = choose(asks, ask(corpus, question), draw_keywords(corpus, *part, max_query, 1, generator))
        pieces = context_pieces(corpus, queries, shelf.ids, starts, lengths)
        context, mask = join_pieces(corpus.pool, *pieces, width)
        tokens_after, targets = self.finish(corpus, gold_id, question)
        return Batch({"tokens": context, "mask": mask}, {"tokens": tokens_after}, targets)

    def share_of_questions(self, stage_has_questions: bool) -> float:
        """Share of training items that ask a real question, the others having keywords."""
        raise NotImplementedError

    def finish(self, corpus: Corpus, gold_id: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt's end with the answer without its last token, and the answer, padded with IGNORE."""
        raise NotImplementedError

    def draw_shelf(
        self, corpus: Corpus, side: Literal["train", "eval"], gold: Tensor, gold_id: Tensor,
        asks: Tensor,
        length: int,
        generator: torch.Generator,
    ) -> Shelf:  # fmt: skip
        """Which documents, in which order, under which names; see `lgbench.data.document_draws`."""
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
        if not self.params.extra_text or squad.source == "procedural":
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

    def _size(self, tokens: int) -> tuple[float, float]:
        """Mean and deviation of the tokens of training documents, cut to so many, as they are drawn."""
        if tokens not in self._sizes:
            side = self.host.train
            sizes = self.host.documents[side.documents].diff(dim=1).squeeze(1).clamp(max=tokens).double()
            weights = side.weights.double() / side.weights.sum()
            mean = (weights * sizes).sum()
            self._sizes[tokens] = mean.item(), (weights * (sizes - mean) ** 2).sum().sqrt().item()
        return self._sizes[tokens]


class DocumentItems:
    """Fixed queries and golden documents with their ids; noise and order are drawn anew for every length.

    All of it is drawn on the CPU, so that every device sees the same.

    Args:
        task: prepared.
        num_items: how many; questions and documents repeat only when all had their turn.
        seed: of everything.
        asks: bool `(num_items,)`, whether an item asks a real question; the others have keywords.
    """

    def __init__(self, task: DocumentTask, num_items: int, seed: int, asks: Tensor) -> None:
        self.task, self.num_items, self.seed, self.asks = task, num_items, seed, asks
        corpus, side, generator = task.host, task.host.eval, self._generator("items")
        if not len(side.questions):
            raise UserError(f"{task.squad.source} has no question about a paragraph that is held out")
        self.question = _in_turn(side.questions, num_items, generator)
        documents = _in_turn(side.documents, num_items, generator)
        self.gold = torch.where(asks, corpus.asked[self.question], documents)
        self.gold_id = torch.randint(NUM_IDS, (num_items,), generator=generator)
        start, stop = corpus.documents[self.gold].unbind(-1)
        most = QUERY_TOKENS * task.scale
        keywords = draw_keywords(corpus, start, stop - start, most, EVAL_FEWEST, generator)
        self.asked = choose(asks, ask(corpus, self.question), keywords)
        self.after, self.targets = (
            t.to(task.device) for t in task.finish(corpus, self.gold_id, self.question)
        )
        settings = type(task).__name__, task.params, task.data_fingerprint, num_items, seed
        self.fingerprint = _digest(*settings)
        self._latest: tuple[int, _Layout] | None = None

    def num_tokens(self, length: int) -> int:
        """Tokens of the longest item; the others are padded on the left."""
        return self.layout(length).width

    def context(self, items: slice, start: int, stop: int, length: int) -> Tensors:
        """Tokens `start` to `stop` of these items with `length` documents; nothing else is made."""
        layout = self.layout(length)
        tokens, mask = join_pieces(
            self.task.corpus.pool, layout.starts[items], layout.lengths[items], layout.width, start, stop
        )
        return {"tokens": tokens, "mask": mask}

    def queries(self, items: slice, length: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """The prompt's end with the answer without its last token, and the answer."""
        return {"tokens": self.after[items]}, self.targets[items]

    def facts(self, length: int) -> dict[str, list]:
        """Slot of the golden document, from 0, and the question's id in SQuAD, empty for keywords."""
        pairs = zip(self.question.tolist(), self.asks.tolist(), strict=True)
        names = [self.task.squad.questions[k].id if asks else "" for k, asks in pairs]
        return {"place": self.layout(length).shelf.place.tolist(), "question": names}

    def spans(self, length: int) -> list[tuple[int, int]]:
        """First and last token (exclusive) of each item's golden text in its context."""
        layout = self.layout(length)
        lengths = layout.lengths.cpu()
        stops = lengths.cumsum(dim=1) + layout.width - lengths.sum(dim=1, keepdim=True)
        text = (layout.shelf.place[:, None] + 1) * (lengths.shape[1] // length) - 1
        begins = (stops - lengths).gather(1, text).flatten()
        return list(zip(begins.tolist(), stops.gather(1, text).flatten().tolist(), strict=True))

    def layout(self, length: int) -> _Layout:
        """What stands where with so many documents; the latest is kept.

        Raises:
            UserError: there are not so many documents.
        """
        if self._latest is None or self._latest[0] != length:
            task, corpus = self.task, self.task.host
            task.check_documents(length, "eval")
            golden = self.gold, self.gold_id, self.asks
            shelf = task.draw_shelf(corpus, "eval", *golden, length, self._generator(length))
            start, stop = corpus.documents[shelf.documents].unbind(-1)
            self._latest = (length, _Layout(shelf, self.asked, corpus, start, stop - start, task.device))
        return self._latest[1]

    def _generator(self, part: str | int) -> torch.Generator:
        seed = int(_digest("documents", self.seed, part)[:14], 16)
        return torch.Generator().manual_seed(seed)


class _Layout:
    """Pieces of the contexts of all items with a number of documents."""

    def __init__(
        self, shelf: Shelf, asked: Queries, corpus: Corpus, start: Tensor, size: Tensor, device: torch.device
    ) -> None:
        starts, lengths = context_pieces(corpus, asked, shelf.ids, start, size)
        self.shelf, self.width = shelf, int(lengths.sum(dim=1).max())
        self.starts, self.lengths = starts.to(device), lengths.to(device)


def pad_answer(prompt: Tensor, answer: Tensor, there: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Queries and targets from a prompt's end and answers `(batch, num_targets)`, of which `there` exist.

    Args:
        prompt: int64 `(num_tokens,)`.
        answer: int64, anything where there is nothing.
        there: bool `(batch, num_targets)`.
        end: id that stands for what is not there in the queries.
    """
    given = answer[:, :-1].masked_fill(~there[:, :-1], end)
    return torch.cat([prompt.expand(len(answer), -1), given], dim=1), answer.masked_fill(~there, IGNORE)


def _training_texts(squad: Squad) -> list[str]:
    """What a BPE is trained on: paragraphs and questions of the training side, and the markers among them."""
    paragraphs = [squad.paragraphs[at] for at in squad.train]
    train = set(squad.train)
    questions = [question.text for question in squad.questions if question.paragraph in train]
    return [*paragraphs, *questions, *[f"{QUERY}{DOCUMENT} 0{CLOSE}{ANSWER}"] * len(paragraphs)]


def _in_turn(choices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Some of the choices in random order, each once before any comes again."""
    return choices[torch.randperm(len(choices), generator=generator)][torch.arange(count) % len(choices)]


def _digest(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]
