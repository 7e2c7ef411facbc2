"""What a tokenizer can write: numbers that are asked for must come back as they were, other text should.

    " 417"  ->  [UNK]     ->  "[UNK]"      all numbers are one, and any answer is right: refused
    "50 %"  ->  50 [UNK]  ->  "50"         some text is lost: said beside the results

White space is left aside: many tokenizers give back more or less of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from lgbench.errors import UserError
from lgbench.text.tokenizer import Tokenizer

NUM_TEXTS, NUM_CHARS, NUM_WORDS = 200, 2_000, 5_000
"""Texts that are tried, characters from the middle of each, and different words of all."""
NUM_EXAMPLES = 3
"""Lost pieces of text that are named."""

_REMEDY = "give --tokenizer bytes, --tokenizer bpe, or a tokenizers file that has tokens for"


def check_numbers(tokenizer: Tokenizer, numbers: Iterable[str], what: str, in_one: bool = False) -> None:
    """Refuse a tokenizer that does not give numbers back.

    Args:
        tokenizer: of the task.
        numbers: as the task writes them; they may begin with a blank.
        what: the task calls them.
        in_one: digits must not come back with blanks between them, since answers are compared as words.

    Raises:
        UserError: names the first number that comes back as something else, and what that is.
    """
    for number in numbers:
        back = tokenizer.decode(tokenizer.encode(number))
        if _squeezed(back) != _squeezed(number) or (in_one and back.split() != number.split()):
            raise UserError(
                f"tokenizer {tokenizer.name} cannot write {what}: {number.strip()!r} comes back as {back!r}. "
                f"Each must have tokens that decode to it; {_REMEDY} digits"
            )


def check_distinct(tokenizer: Tokenizer, encoded: Mapping[str, Sequence[int]], what: str) -> None:
    """Refuse a tokenizer that takes two texts for one, or one of them for nothing.

    Args:
        tokenizer: for its name.
        encoded: tokens of each text.
        what: the task calls these texts.

    Raises:
        UserError: names the texts.
    """
    seen: dict[tuple[int, ...], str] = {(): ""}
    for text, tokens in encoded.items():
        other = seen.setdefault(tuple(tokens), text)
        if other != text:
            same = f"{other!r} and {text!r} are the same tokens" if other else f"{text!r} has no tokens"
            raise UserError(
                f"tokenizer {tokenizer.name} cannot tell {what} apart: {same}. "
                f"Each must have tokens of its own; {_REMEDY} their characters"
            )


def describe_losses(tokenizer: Tokenizer, texts: Sequence[str], pieces: Sequence[str] = ()) -> str:
    """A sentence for `Task.notice` where text does not come back as it was; empty where it does.

    Args:
        tokenizer: of the task.
        texts: to train on; some of their words are tried.
        pieces: what the task itself writes, tried as they are.
    """
    tried = [*pieces, *_some_words(texts)]
    backs = [tokenizer.decode(tokenizer.encode(f" {text}")) for text in tried]
    lost = [text for text, back in zip(tried, backs, strict=True) if _squeezed(back) != _squeezed(text)]
    if not lost:
        return ""
    examples = ", ".join(repr(text.strip()) for text in lost[:NUM_EXAMPLES])
    return (
        f"Tokenizer {tokenizer.name} does not give back {len(lost):,} of {len(tried):,} words that were "
        f"tried, for instance {examples}: models read, and are scored on, what it leaves of the text."
    )


def _some_words(texts: Sequence[str]) -> list[str]:
    """Different words from the middle of texts that lie evenly among all."""
    chosen = texts[:: max(1, len(texts) // NUM_TEXTS)]
    words = itertools.chain.from_iterable(map(_middle, chosen))
    return list(itertools.islice(dict.fromkeys(words), NUM_WORDS))


def _middle(text: str) -> list[str]:
    if len(text) <= NUM_CHARS:
        return text.split()
    return text[(len(text) - NUM_CHARS) // 2 :][:NUM_CHARS].split()[1:-1]  # those at the ends are cut


def _squeezed(text: str) -> str:
    return "".join(text.split())
