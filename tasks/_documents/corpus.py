"""Paragraphs, questions and markers as tokens on the device, and prompts put together by index arithmetic.

Every text that a prompt can hold lies once in one long row of tokens, the *pool*. A prompt is a list of
pieces, (start, length) in the pool; `join_pieces` copies the pieces of many prompts side by side without a
loop, so that a training step on a GPU never waits for Python. Each piece is tokenized apart from its
neighbours, words with the blank before them, so a paragraph has the same tokens wherever it stands.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from lgbench.tasks._documents.squad import Question, Squad
from torch import Tensor

from lgbench.text.tokenizer import Tokenizer

QUERY, DOCUMENT, CLOSE = " <|Query|>", " <|Document", "|>"
"""Markers of the published prompt. They are plain text, no special tokens."""

NUM_IDS = 1000
"""Documents are named by numbers below it."""

COMMON_WORDS = 200
"""The most frequent words of the corpus tell nothing about a document and are no keywords."""

COMMON_SHARE = 0.02
"""Nor do words that stand in a larger share of the documents, as those of a template do."""

EXTRA_WORDS = 120
"""Words of a paragraph that is cut from a book, about as many as those of SQuAD have."""

MAX_EXTRA = 20_000
"""Paragraphs that are cut from books at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the split: indices of documents and of questions about them."""

    documents: Tensor
    """int64 `(num_documents,)`, those of SQuAD first."""

    weights: Tensor
    """float32 `(num_documents,)`, how often each is drawn."""

    extra: Tensor
    """bool `(num_documents,)`, those that are not from SQuAD."""

    questions: Tensor
    """int64 `(num_questions,)`."""

    def to(self, device: torch.device) -> Side:
        return Side(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The pool, and where everything lies in it. All int64; spans are `(…, 2)`, start and stop."""

    pool: Tensor
    """`(num_tokens,)` token ids; documents first, one after the other."""

    words: Tensor
    """`(num_words + 1,)` where each word of the documents starts; the last is where they all end."""

    telling: Tensor
    """Ascending indices of words that are not common ones."""

    documents: Tensor
    """`(num_documents, 2)` spans."""

    questions: Tensor
    """`(num_questions, 2)` spans of their texts."""

    asked: Tensor
    """`(num_questions,)` the document that each question is about."""

    evidence: Tensor
    """`(num_questions, 2)` spans of the words in its document around the first place of the first answer."""

    answers: Tensor
    """`(num_questions, 2)` spans of the first answers' texts, tokenized by themselves."""

    ids: Tensor
    """`(NUM_IDS, 2)` spans of the documents' names, the blank in front included."""

    markers: Tensor
    """`(3, 2)` spans of `QUERY`, `DOCUMENT` and `CLOSE`."""

    train: Side
    eval: Side

    def to(self, device: torch.device) -> Corpus:
        """The same on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class _Pool:
    """Texts one after the other; every word is encoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.tokens = tokenizer, []
        self._known: dict[str, list[int]] = {}

    def add(self, piece: str) -> tuple[int, int]:
        """Append a piece as it is; its span."""
        if piece not in self._known:
            self._known[piece] = self.tokenizer.encode(piece)
        start = len(self.tokens)
        self.tokens += self._known[piece]
        return start, len(self.tokens)

    def add_words(self, text: str) -> list[tuple[int, int]]:
        """Append the words of a text, each with one blank before it; their spans."""
        return [self.add(" " + word) for word in text.split()]

    def add_text(self, text: str) -> tuple[int, int]:
        """Append a text, its white space as single blanks; its span."""
        spans = self.add_words(text)
        return spans[0][0], spans[-1][1]


def build_corpus(squad: Squad, extra: Sequence[str], tokenizer: Tokenizer, pad_ids: bool = True) -> Corpus:
    """Tokenize everything once, on the CPU.

    Args:
        squad: paragraphs, questions and their split.
        extra: more paragraphs to train on. All of them together are drawn as often as those of SQuAD.
        tokenizer: of the task.
        pad_ids: names of documents have three digits (`007`), not as many as they need (`7`).
    """
    pool, texts = _Pool(tokenizer), [*squad.paragraphs, *extra]
    places = [pool.add_words(text) for text in texts]
    words = [start for spans in places for start, _ in spans] + [len(pool.tokens)]
    train = [*squad.train, *range(len(squad.paragraphs), len(texts))]
    weights = [1.0] * len(squad.train) + [len(squad.train) / max(1, len(extra))] * len(extra)
    held_out = set(squad.eval)
    sides = [
        [k for k, q in enumerate(squad.questions) if (q.paragraph in held_out) == is_eval]
        for is_eval in (False, True)
    ]
    spans = {
        "documents": [(spans[0][0], spans[-1][1]) for spans in places],
        "questions": [pool.add_text(question.text) for question in squad.questions],
        "evidence": [
            _evidence(question, squad.paragraphs[question.paragraph], places[question.paragraph])
            for question in squad.questions
        ],
        "answers": [pool.add_text(question.answers[0]) for question in squad.questions],
        "ids": [pool.add(name) for name in id_names(pad_ids)],
        "markers": [pool.add(marker) for marker in (QUERY, DOCUMENT, CLOSE)],
    }
    return Corpus(
        pool=torch.tensor(pool.tokens),
        words=torch.tensor(words),
        telling=torch.tensor(_telling(texts, train)),
        asked=torch.tensor([question.paragraph for question in squad.questions]),
        train=Side(
            documents=torch.tensor(train),
            weights=torch.tensor(weights),
            extra=torch.tensor(train) >= len(squad.paragraphs),
            questions=torch.tensor(sides[0], dtype=torch.long),
        ),
        eval=Side(
            documents=torch.tensor(squad.eval),
            weights=torch.ones(len(squad.eval)),
            extra=torch.zeros(len(squad.eval), dtype=torch.bool),
            questions=torch.tensor(sides[1], dtype=torch.long),
        ),
        **{name: torch.tensor(value) for name, value in spans.items()},
    )


def id_names(pad: bool) -> list[str]:
    """Names of documents with the blank in front, of three digits (` 007`) or as many as they need (` 7`)."""
    return [f" {number:03d}" if pad else f" {number}" for number in range(NUM_IDS)]


def cut_paragraphs(texts: Iterable[str]) -> list[str]:
    """The first `MAX_EXTRA` paragraphs of `EXTRA_WORDS` words; what is left of a text is dropped."""
    paragraphs = (
        " ".join(words[start : start + EXTRA_WORDS])
        for words in map(str.split, texts)
        for start in range(0, len(words) - EXTRA_WORDS + 1, EXTRA_WORDS)
    )
    return list(itertools.islice(dict.fromkeys(paragraphs), MAX_EXTRA))


def join_pieces(
    pool: Tensor, starts: Tensor, lengths: Tensor, width: int, first: int = 0, last: int | None = None
) -> tuple[Tensor, Tensor]:
    """Copy the pieces of each row side by side, flush right.

    Args:
        pool: int64 `(num_tokens,)`.
        starts: int64 `(batch, num_pieces)`, where each piece starts in the pool.
        lengths: likewise, tokens of each; 0 leaves a piece out. A row has `width` of them at most.
        width: tokens of a row, padding included.
        first: give columns from this one on.
        last: up to this one, exclusive; None is all.

    Returns:
        Tokens int64 `(batch, last - first)`, and a mask that is False, on the left, where there is none.
    """
    stops = lengths.cumsum(dim=1)
    last = width if last is None else min(last, width)
    columns = torch.arange(min(first, last), last, device=pool.device)
    place = columns - (width - stops[:, -1:])
    piece = torch.searchsorted(stops, place, right=True).clamp(max=lengths.shape[1] - 1)
    inside = place - (stops - lengths).gather(1, piece)
    there = place >= 0
    tokens = pool[torch.where(there, starts.gather(1, piece) + inside, 0)]
    return tokens.masked_fill(~there, 0), there


def _evidence(question: Question, paragraph: str, words: list[tuple[int, int]]) -> tuple[int, int]:
    """Span of the words that hold the first answer, where it occurs first."""
    start = paragraph.index(question.answers[0])
    stop = start + len(question.answers[0])
    inside = [k for k, m in enumerate(re.finditer(r"\S+", paragraph)) if m.end() > start and m.start() < stop]
    return words[inside[0]][0], words[inside[-1]][1]


def _telling(texts: Sequence[str], train: Sequence[int]) -> list[int]:
    """Indices, counted through all texts, of words that are neither frequent nor widespread in `train`."""
    plain = [[re.sub(r"\W", "", word).lower() for word in text.split()] for text in texts]
    counts = Counter(word for at in train for word in plain[at])
    spread = Counter(word for at in train for word in set(plain[at]))
    widespread = {word for word, count in spread.items() if count > max(1, COMMON_SHARE * len(train))}
    common = {word for word, _ in counts.most_common(COMMON_WORDS)} | widespread | {""}
    return [k for k, word in enumerate(itertools.chain.from_iterable(plain)) if word not in common]
