"""A text with a needle in it, any part of it made by index arithmetic on the device that holds the corpus.

    corpus     … a b c d e f g h …        documents end to end, wrapped around
    haystack   c d e | N N | f g          tokens of the corpus from `text_at`, the needle in at `needle_at`

Nothing loops over items and nothing waits for the device, so a training step may draw from it; and a part of
a context of a million tokens costs no more than any other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lgbench.errors import UserError
from lgbench.text.corpus import sentences
from lgbench.text.tokenizer import Tokenizer

MAX_CHARS = 1 << 25
"""Characters of a corpus that are read, to within a document."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pieces (sentences, documents) end to end, on a device."""

    tokens: Tensor
    """`(num_tokens,)`, uint8 or int32."""
    starts: Tensor
    """Token that each piece begins with, int64 `(num_pieces,)`."""
    sizes: Tensor
    """Tokens of each piece, int64 `(num_pieces,)`."""
    longest: int
    """The largest of the sizes."""


@dataclass(frozen=True, slots=True)
class Needles:
    """Tokens, int64 `(num_needles, longest)`, padded on the right; and how many each needle has."""

    tokens: Tensor
    sizes: Tensor


def read_corpus(
    documents: Sequence[str], tokenizer: Tokenizer, device: torch.device, shortest: int = 1
) -> Corpus:
    """Documents end to end, tokenized sentence by sentence, so that no token lies across two sentences.

    Args:
        documents: read up to `MAX_CHARS`.
        tokenizer: of the task.
        device: where the corpus lives.
        shortest: sentences of fewer tokens are left out.

    Raises:
        UserError: no sentence is long enough.
    """
    chars = itertools.accumulate(map(len, documents), initial=0)
    chosen = [text for text, before in zip(documents, chars) if before < MAX_CHARS]  # noqa: B905
    pieces = (tokenizer.encode_array(text[a:b]) for text in chosen for a, b in sentences(text))
    kept = [piece for piece in pieces if len(piece) >= shortest]
    if not kept:
        raise UserError(f"the text has no sentence of at least {shortest} tokens. Take another text")
    return join(kept, tokenizer, device)


def join(pieces: Sequence[np.ndarray], tokenizer: Tokenizer, device: torch.device) -> Corpus:
    """Tokens of pieces of text as a corpus on the device."""
    dtype = torch.uint8 if tokenizer.size <= 257 else torch.int32  # the end of text, 256, is in no text
    tokens = torch.from_numpy(np.concatenate(pieces)).to(dtype)
    sizes = torch.tensor([len(piece) for piece in pieces])
    starts = sizes.cumsum(0) - sizes
    return Corpus(tokens.to(device), starts.to(device), sizes.to(device), int(sizes.max()))


def pad(rows: Sequence[Sequence[int]], value: int, width: int = 0) -> Tensor:
    """int64 `(num_rows, widest)`, at least `width` wide, the rest of each row filled with `value`."""
    sizes = np.array([len(row) for row in rows])
    table = np.full((len(rows), max(width, sizes.max())), value)
    table[np.arange(table.shape[1]) < sizes[:, None]] = np.fromiter(itertools.chain(*rows), np.int64)
    return torch.from_numpy(table)


def hide(
    corpus: Corpus, needles: Needles, text_at: Tensor, needle_at: Tensor, start: int, stop: int
) -> Tensor:
    """Tokens `start` to `stop` (exclusive) of haystacks, int64 `(batch, stop - start)`.

    Args:
        corpus: what the haystacks are made of.
        needles: one an item.
        text_at: int64 `(batch,)`, token of the corpus that each haystack starts with.
        needle_at: int64 `(batch,)`, place of the needle in each haystack.
        start: place in the haystack.
        stop: likewise.
    """
    place = torch.arange(start, stop, device=corpus.tokens.device)
    within = place - needle_at[:, None]
    sizes = needles.sizes[:, None]
    there = (within >= 0) & (within < sizes)
    skipped = torch.where(within < 0, 0, sizes)
    text = corpus.tokens[(text_at[:, None] + place - skipped) % len(corpus.tokens)]
    needle = needles.tokens.gather(1, within.clamp(0, needles.tokens.shape[1] - 1))
    return torch.where(there, needle, text.long())
