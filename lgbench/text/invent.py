"""Chance and names for invented texts, the same in every version of Python."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_SYLLABLES = {
    "start": "B Br C Cr D Dr F Fl G Gl H J K Kr L M N P Pr Qu R S Sh Sk St T Th Tr V W Z",
    "middle": "a e i o u ai ea ie oa ei",
    "joint": "l m n r s v d th nd lm rr st lv rn nt mb k",
    "end": "a en is or eth um ia el an oe yn ur ik ost elle and ow it",
}
_PARTS = {part: choices.split() for part, choices in _SYLLABLES.items()}

_ARTICLE = re.compile(r"\b([Aa])(?= [aeiouAEIOU])")
_BEGINNING = re.compile(r'(?:^"?| ")[a-z]')


class Chance:
    """Draws that depend on the seed alone.

    Only `random.Random.random` is promised never to change; everything is made of it.
    """

    def __init__(self, seed: int) -> None:
        self.uniform = random.Random(seed).random
        """Float in [0, 1)."""

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self.uniform() * len(items))]

    def between(self, low: int, high: int) -> int:
        """An integer, both limits included."""
        return low + int(self.uniform() * (high - low + 1))

    def sample(self, items: Sequence[Item], num_items: int) -> list[Item]:
        """Distinct ones, in random order."""
        rest = list(items)
        return [rest.pop(int(self.uniform() * len(rest))) for _ in range(num_items)]


def names(chance: Chance) -> Iterator[str]:
    """Invented names such as Kraverrik, of two or three syllables, none of them twice; tens of thousands."""
    seen: set[str] = set()
    while True:
        parts = ["start", "middle", *("joint", "middle") * chance.between(0, 1), "joint", "end"]
        name = "".join(chance.pick(_PARTS[part]) for part in parts)
        if name not in seen:
            seen.add(name)
            yield name


def spelled(text: str) -> str:
    """Turn "a" into "an" where a vowel follows, and begin sentence and quotations with a capital."""
    text = _ARTICLE.sub(r"\1n", text)
    return _BEGINNING.sub(lambda letter: letter[0].upper(), text)
