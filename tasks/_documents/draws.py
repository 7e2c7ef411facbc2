"""What is random in a prompt of documents: which ones, their order, their names, and what is asked.

    keywords       a verbatim span of words of the golden document, or some of its telling words in any order
    continuation   a verbatim span, whose answer is the words that follow it there
    question       a real question that the golden document answers

Nothing here loops over items or documents, reads a value back from the device or calls for another generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lgbench.tasks._documents.corpus import NUM_IDS, Corpus, Side
from torch import Tensor

SPAN_WORDS = (3, 8)
"""Words of a verbatim keyword query, both inclusive."""

SCATTERED_WORDS = (3, 6)
"""Words of a scattered one."""

CONTINUED_WORDS = 3
"""Words of a continuation. Always as many, since nothing could tell where one of another length ends."""

NEVER = -1e30
"""Rank of documents that are drawn only when there are no others."""

RELEASED_ORDER = 9_973
"""Golden places of the released code repeat after so many items. Prime: with an even number, items of odd
numbers, which are of one kind, would all have places of one parity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """What is asked of each item: pieces of the pool `(batch, SCATTERED_WORDS[1])`; most have 0 tokens."""

    starts: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The documents of each item, `(batch, num_documents)`, in the order of the prompt."""

    documents: Tensor
    """Their indices."""
    ids: Tensor
    """Their names, numbers below `NUM_IDS`; distinct."""
    place: Tensor
    """`(batch,)`, where the golden one stands."""


def draw_gold(
    side: Side, corpus: Corpus, questions: Tensor, asks: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Golden documents, and the questions about those that are asked for by one.

    Args:
        side: of the split.
        corpus: on the generator's device.
        questions: indices of those that may be asked.
        asks: bool `(batch,)`, whether an item asks a question.

    Returns:
        Document and question `(batch,)`; the question of an item that asks none means nothing.
    """
    edges = side.weights.cumsum(0)
    drawn = torch.searchsorted(edges, _uniform(asks, generator) * edges[-1]).clamp(max=len(edges) - 1)
    question = questions[_integer(_uniform(asks, generator), len(questions))]
    return torch.where(asks, corpus.asked[question], side.documents[drawn]), question


def draw_shelf(
    side: Side,
    gold: Tensor,
    gold_id: Tensor,
    asks: Tensor,
    num_documents: int,
    generator: torch.Generator,
) -> Shelf:
    """Distinct noise documents, none of them the golden one, which stands anywhere with equal probability.

    Args:
        side: of the split.
        gold: `(batch,)`.
        gold_id: name of each.
        asks: bool `(batch,)`, whether an item asks a question; its noise is from SQuAD while there is any.
        num_documents: golden one included.
        generator: the only randomness.
    """
    num_noise = num_documents - 1
    rate = torch.rand(len(gold), len(side.documents), generator=generator, device=gold.device)
    race = ((1 - rate).log() / side.weights).masked_fill(asks[:, None] & side.extra, NEVER)
    race = race.masked_fill(side.documents == gold[:, None], -torch.inf)
    noise = side.documents[race.topk(num_noise, dim=1).indices]
    place = _integer(_uniform(gold, generator), num_documents)
    return _shelve(gold, gold_id, noise, place, generator)


def draw_released_shelf(
    side: Side,
    gold: Tensor,
    gold_id: Tensor,
    asks: Tensor,
    num_documents: int,
    generator: torch.Generator,
) -> Shelf:
    """As in the released code: noise may be golden or twice the same, golden places are fixed."""
    shape = (len(gold), num_documents - 1)
    rate = torch.rand(shape, generator=generator, device=gold.device)
    noise = side.documents[_integer(rate, len(side.documents))]
    # A fixed permutation, as k → a k mod n for a coprime to n, needs no table on the device.
    place = (torch.arange(len(gold), device=gold.device) * 6_181 % RELEASED_ORDER) % num_documents
    return _shelve(gold, gold_id, noise, place, generator)


def draw_windows(
    corpus: Corpus,
    documents: Tensor,
    gold: Tensor,
    evidence: Tensor,
    tokens: int,
    budget: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """A part of each document, from a random word on.

    Args:
        corpus: on the generator's device.
        documents: `(batch, num_documents)`.
        gold: bool, likewise: the golden ones.
        evidence: span `(batch, 2)` that a golden document's part holds, even if it is longer than `tokens`;
            of no tokens where nothing must be held.
        tokens: of a part at most.
        budget: of all parts of an item together, the evidence aside; if they have more, all are shortened by
            the same factor.

    Returns:
        start and length of each, `(batch, num_documents)`.
    """
    begin, end = corpus.documents[documents].unbind(-1)
    lengths = (end - begin).clamp(max=tokens)
    share = (budget / lengths.sum(dim=1, keepdim=True)).clamp(max=1)
    lengths = (lengths * share).floor().long().clamp(min=1)
    held = gold & (evidence[:, 1:] > evidence[:, :1])
    lengths = torch.where(held, lengths.maximum(evidence[:, 1:] - evidence[:, :1]), lengths)
    low = torch.where(held, begin.maximum(evidence[:, 1:] - lengths), begin)
    high = torch.where(held, (end - lengths).minimum(evidence[:, :1]), end - lengths)
    wanted = low + _integer(_uniform(lengths, generator), high - low + 1)
    word = torch.searchsorted(corpus.words, wanted)
    starts = corpus.words[word]
    starts = torch.where(starts >= end, corpus.words[word - 1], starts)
    return starts, lengths.minimum(end - starts)


def draw_keywords(
    corpus: Corpus, starts: Tensor, lengths: Tensor, max_tokens: int, fewest: int, generator: torch.Generator
) -> Queries:
    """Words of parts of documents, `(batch,)` each: half of them verbatim spans, half scattered words.

    Args:
        corpus: on the generator's device.
        starts: where the parts start, at a word.
        lengths: their tokens.
        max_tokens: of a query at most. A span loses its last words; a scattered word has an equal share of
            it, and a longer one is cut there, inside the word.
        fewest: words of a query at least, where the part has as many.
        generator: the only randomness.

    Returns:
        Queries with a telling word at least, where the part has one and the limit leaves it.
    """
    most, stops = SCATTERED_WORDS[1], starts + lengths
    first, after = _whole_words(corpus, starts, stops)
    low = torch.searchsorted(corpus.telling, first)
    num_telling = torch.searchsorted(corpus.telling, after) - low

    count = _between(max(fewest, SPAN_WORDS[0]), SPAN_WORDS[1], starts, generator).minimum(after - first)
    anchor = low + _integer(_uniform(starts, generator), num_telling.clamp(min=1))
    anchor = corpus.telling[anchor.clamp(max=len(corpus.telling) - 1)]
    earliest = torch.where(num_telling > 0, first.maximum(anchor - count + 1), first)
    latest = torch.where(num_telling > 0, anchor.minimum(after - count), after - count)
    word = earliest + _integer(_uniform(starts, generator), latest - earliest + 1)
    border = torch.searchsorted(corpus.words, corpus.words[word] + max_tokens, right=True) - 1
    span = corpus.words[word], corpus.words[(word + count).minimum(border).maximum(word + 1)]

    slot = torch.arange(most, device=starts.device)
    count = _between(max(fewest, SCATTERED_WORDS[0]), most, starts, generator).minimum(num_telling)
    jitter = torch.rand(len(starts), most, generator=generator, device=starts.device)
    edges = torch.arange(most + 1, device=starts.device) * num_telling[:, None] // count.clamp(min=1)[:, None]
    within = edges[:, :-1] + _integer(jitter, edges.diff(dim=1))
    chosen = corpus.telling[(low[:, None] + within).clamp(max=len(corpus.telling) - 1)]
    scattered = corpus.words[chosen], corpus.words[chosen + 1].minimum(stops[:, None])
    sizes = (scattered[1] - scattered[0]).clamp(min=0, max=max_tokens // most)
    sizes = sizes.masked_fill(slot >= count[:, None], 0)
    order = torch.rand(sizes.shape, generator=generator, device=starts.device).argsort(dim=1)

    verbatim = (_uniform(starts, generator) < 0.5) | (num_telling < SCATTERED_WORDS[0])
    whole = one_piece(span[0], (span[1].minimum(stops) - span[0]).clamp(max=max_tokens))
    return choose(
        verbatim, whole, Queries(starts=scattered[0].gather(1, order), lengths=sizes.gather(1, order))
    )


def draw_continuations(
    corpus: Corpus,
    starts: Tensor,
    lengths: Tensor,
    max_tokens: int,
    max_answer: int,
    fewest: int,
    generator: torch.Generator,
) -> tuple[Queries, Tensor]:
    """Words of parts of documents, `(batch,)` each, and spans `(batch, 2)` of the words that follow them.

    Args:
        corpus: on the generator's device.
        starts: where the parts start, at a word.
        lengths: their tokens.
        max_tokens: of a query at most; it loses its first words.
        max_answer: of an answer at most; it loses its last words. A single longer word is left whole.
        fewest: words of a query at least, where the part has as many beside the answer.
        generator: the only randomness.

    Returns:
        Queries of `SPAN_WORDS` words, and answers of `CONTINUED_WORDS`. Parts of few words have shorter
        answers after a single word; what follows in a part of one word is nothing.
    """
    stops = starts + lengths
    first, after = _whole_words(corpus, starts, stops)
    count = _between(max(fewest, SPAN_WORDS[0]), SPAN_WORDS[1], starts, generator)
    count = count.minimum(after - first - CONTINUED_WORDS).clamp(min=1)
    more = (after - first - count).clamp(max=CONTINUED_WORDS)
    word = first + _integer(_uniform(starts, generator), after - first - count - more + 1)
    turn = word + count
    place = corpus.words[turn].minimum(stops)

    border = torch.searchsorted(corpus.words, place - max_tokens)
    begin = corpus.words[word.maximum(border).minimum(turn - 1)].maximum(place - max_tokens)
    border = torch.searchsorted(corpus.words, place + max_answer, right=True) - 1
    end = corpus.words[(turn + more).minimum(border.maximum(turn + 1))].minimum(stops)
    return one_piece(begin, place - begin), torch.stack([place, end], dim=1)


def ask(corpus: Corpus, question: Tensor) -> Queries:
    """The texts of questions `(batch,)`."""
    start, stop = corpus.questions[question].unbind(-1)
    return one_piece(start, stop - start)


def choose(first: Tensor, one: Queries, other: Queries) -> Queries:
    """The one where `first`, bool `(batch,)`, else the other."""
    return Queries(
        starts=torch.where(first[:, None], one.starts, other.starts),
        lengths=torch.where(first[:, None], one.lengths, other.lengths),
    )


def one_piece(start: Tensor, length: Tensor) -> Queries:
    """Queries `(batch,)` of a single piece."""
    lengths = length.new_zeros(len(length), SCATTERED_WORDS[1])
    lengths[:, 0] = length
    return Queries(starts=start[:, None].expand(lengths.shape), lengths=lengths)


def context_pieces(
    corpus: Corpus, queries: Queries, ids: Tensor, starts: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """` <|Query|> {query} <|Document {id}|> {text}` for every document, as pieces of the pool.

    Args:
        corpus: on the device of the rest.
        queries: of each item, repeated before each of its documents.
        ids: `(batch, num_documents)`.
        starts: of the texts, likewise.
        lengths: likewise.

    Returns:
        start and length `(batch, num_pieces)`.
    """
    query = torch.stack([queries.starts, queries.starts + queries.lengths], dim=-1)[:, None]
    text = torch.stack([starts, starts + lengths], dim=-1)[:, :, None]
    marks = corpus.markers[:, None, None, None].expand(3, *ids.shape, 1, 2)
    parts = [marks[0], query.expand(*ids.shape, -1, 2), marks[1], corpus.ids[ids][:, :, None], marks[2], text]
    begin, end = torch.cat(parts, dim=2).flatten(1, 2).unbind(-1)
    return begin, end - begin


def join_span(corpus: Corpus, spans: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Tokens of spans `(batch, 2)`, flush left in `width` columns, and where there are any."""
    place = spans[:, :1] + torch.arange(width, device=spans.device)
    there = place < spans[:, 1:]
    return corpus.pool[torch.where(there, place, 0)], there


def _shelve(gold: Tensor, gold_id: Tensor, noise: Tensor, place: Tensor, generator: torch.Generator) -> Shelf:
    """Put the golden document in its place, and name the others."""
    rate = torch.rand(len(gold), NUM_IDS, generator=generator, device=gold.device)
    others = rate.scatter_(1, gold_id[:, None], -1.0).topk(noise.shape[1], dim=1).indices
    slot = torch.arange(noise.shape[1] + 1, device=gold.device)
    source = torch.where(slot < place[:, None], slot, slot - 1)
    source = torch.where(slot == place[:, None], noise.shape[1], source)
    return Shelf(
        documents=torch.cat([noise, gold[:, None]], dim=1).gather(1, source),
        ids=torch.cat([others, gold_id[:, None]], dim=1).gather(1, source),
        place=place,
    )


def _whole_words(corpus: Corpus, starts: Tensor, stops: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the first word of parts, and of that after the last whole one; at least the next."""
    first = torch.searchsorted(corpus.words, starts.contiguous())
    return first, (torch.searchsorted(corpus.words, stops, right=True) - 1).maximum(first + 1)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device)


def _integer(uniform: Tensor, limit: int | Tensor) -> Tensor:
    """Integers below the limit from numbers in [0, 1)."""
    drawn = (uniform.double() * limit).long()
    return drawn.minimum(limit - 1) if isinstance(limit, Tensor) else drawn.clamp(max=limit - 1)


def _between(low: int, high: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return low + _integer(_uniform(like, generator), high - low + 1)
