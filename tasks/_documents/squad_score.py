"""How SQuAD's official script scores an answer: F1 of words and exact match, the best of several golds.

    said  "The Norman dynasty."   gold  "a Norman dynasty"     exact match 1, F1 1
    said  "Norman kings"          gold  "the Norman dynasty"   exact match 0, F1 0.5

Before either, text is in lower case and without punctuation, articles (a, an, the) and surplus blanks. Golds
that have nothing left then are dropped; if none has anything, the right answer is to say nothing.
Source: the evaluation script of SQuAD 2.0 (Rajpurkar et al., arXiv:1806.03822); own code.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

_COMMON = frozenset(("the", "of", "and", "in", "to", "a", "is", "was"))
"""English words that make up a fifth and more of English prose."""
_LOOKED_AT = 20_000
"""Characters of the texts that `describe_language` reads."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as it is compared: punctuation goes first, then articles that stand as words."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(said: str, golds: Sequence[str]) -> float:
    """1 if what was said is one of the golds, else 0."""
    return float(normalise(said) in _normalised(golds))


def f1(said: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as it occurs; the best gold's.

    Where one of the two texts has no words left, 1 if the other has none either, else 0.
    """
    return max(_f1(normalise(said).split(), gold.split()) for gold in _normalised(golds))


def describe_language(texts: Iterable[str]) -> str:
    """A sentence where texts do not read as English, whose rules answers are compared by; else empty."""
    words: list[str] = []
    size = 0
    for text in texts:
        words += text.lower().split()
        size += len(text)
        if size > _LOOKED_AT:
            break
    if not words or sum(word in _COMMON for word in words) >= 0.05 * len(words):
        return ""
    return (
        "These texts do not read as English, and answers are compared by English rules: a, an and the do not "
        "count, and words end at blanks."
    )


def _normalised(golds: Sequence[str]) -> list[str]:
    """Those that have a word, as `get_raw_scores` of the official script keeps them; else the empty one."""
    return [plain for gold in golds if (plain := normalise(gold))] or [""]


def _f1(said: list[str], gold: list[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    common = (Counter(said) & Counter(gold)).total()
    return 2 * common / (len(said) + len(gold))
