"""Codes, answers and fixed evaluation items of passkey retrieval; see the task."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lgbench.data.fingerprint import digest
from lgbench.errors import UserError
from lgbench.task import IGNORE, EvalSet, Tensors
from lgbench.text.haystack import Needles, pad
from lgbench.text.spelling import check_distinct
from lgbench.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lgbench.tasks.passkey import Passkey

NUM_CODES = 10_000
"""Codes of each side as released; drawn from 0 to 99,999 with replacement."""
MAX_ANSWER = 10
"""Tokens generated as released."""
ROUND, LONGEST_TRIED = 1_000, 64_000
"""Lengths that are tried where one has no sentence near a depth: multiples of the first."""


class Answers:
    """How a code continues the prompt, in tokens.

    In the clean protocol prompt and code are tokenized together; what all codes share is the prompt. As
    released they are tokenized apart, an end of text closes the answer, and ten tokens are generated.

    Args:
        tokenizer: of the task.
        prompt: text after the context.
        codes: of both sides, "train" and "eval".
        protocol: "clean" or "as_released".

    Raises:
        UserError: the tokenizer writes two codes alike.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: str, codes: Mapping[str, Sequence[str]], protocol: str
    ) -> None:
        self._end = tokenizer.end
        every = {code for side in codes.values() for code in side}
        if protocol == "as_released":
            self.prompt = tokenizer.encode(prompt)
            self._tokens = {code: tokenizer.encode(code) for code in every}
            self.closed, self.num_tokens = True, MAX_ANSWER
            return
        whole = {code: tokenizer.encode(prompt + code) for code in every}
        check_distinct(tokenizer, whole, "codes after the prompt")
        least, greatest = min(whole.values()), max(whole.values())  # whatever these two share, all do
        differ = (k for k, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b)
        shared = next(differ, len(least))  # where one is the beginning of the other
        self.prompt = least[:shared]
        self._tokens = {code: tokens[shared:] for code, tokens in whole.items()}
        lengths = set(map(len, self._tokens.values()))
        self.closed = len(lengths) > 1
        self.num_tokens = max(lengths) + self.closed

    def encode(self, codes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Queries `(num_codes, num_query_tokens)` and targets `(num_codes, num_targets)`."""
        end = [self._end] if self.closed else []
        answers = [self._tokens[code] + end for code in codes]
        targets = pad(answers, IGNORE, self.num_tokens)
        given = pad(answers, self._end, self.num_tokens)
        prompts = torch.tensor(self.prompt).expand(len(codes), -1)
        return torch.cat([prompts, given[:, :-1]], dim=1), targets


class PasskeyItems(EvalSet):
    """Fixed codes at fixed depths, hidden in a text that is laid out anew for every length.

    Args:
        task: prepared.
        num_items: a multiple of the number of depths.
        seed: of codes, texts and places.
    """

    def __init__(self, task: Passkey, num_items: int, seed: int) -> None:
        task.check_items(num_items)
        self.task, self.num_items, self.seed = task, num_items, seed
        self.depths = np.tile(task.params.depths, num_items // len(task.params.depths))
        choices = task.codes["eval"]
        chosen = np.random.default_rng((seed, 1)).integers(len(choices), size=num_items)
        self.codes = [choices[k] for k in chosen]
        self.needles, self.answers = task.tables(self.codes)
        chosen_by = task.params.model_dump(exclude=set(task.data_params))
        self.fingerprint = digest(f"{chosen_by} {task.data_fingerprint} {num_items} {seed}")
        self._starts = task.eval_corpus.starts.cpu().numpy()
        self._latest: tuple[int, Tensor, Tensor] | None = None

    def num_tokens(self, length: int) -> int:
        """Tokens of these contexts."""
        return self.task.context_tokens(length)

    def context(self, items: slice, start: int, stop: int, length: int) -> Tensors:
        """Tokens `start` to `stop` of these items at this length; nothing else is made."""
        text_at, needle_at = (places[items] for places in self._places(length))
        needles = Needles(self.needles.tokens[items], self.needles.sizes[items])
        corpus = self.task.eval_corpus
        return {"tokens": self.task.context(corpus, needles, text_at, needle_at, start, stop)}

    def queries(self, items: slice, length: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """The prompt's end with the answer but its last token, and the answer."""
        queries, targets = self.answers
        return {"tokens": queries[items]}, targets[items]

    def grade(self, items: slice, length: int, answers: Tensor) -> dict[str, Tensor]:
        """1 where the generated tokens `(batch, num_targets)` spell the code, `(batch,)`.

        They may be other tokens than those of training, and go on after the digits. As released: where the
        code is a word of the text before the first end of text.
        """
        if self.task.params.protocol == "clean":
            targets = self.answers[1][items]
            right = ((answers == targets) | (targets < 0)).all(dim=1)
            spelled = [_first_number(self._before_end(tokens)) for tokens in answers.tolist()]
            same = [code == said for code, said in zip(self.codes[items], spelled, strict=True)]
            return {"accuracy": (right | torch.tensor(same, device=answers.device)).float()}
        words = [self._before_end(tokens).split() for tokens in answers.tolist()]
        right = [code in said for code, said in zip(self.codes[items], words, strict=True)]
        return {"accuracy": torch.tensor(right, dtype=torch.float32, device=answers.device)}

    def facts(self, length: int) -> dict[str, list]:
        """Depth asked for, and token of the context that the needle starts with."""
        at = self._places(length)[1] + len(self.task.question)
        return {"depth": self.depths.tolist(), "needle": at.tolist()}

    def spans(self, length: int) -> list[tuple[int, int]]:
        """First and last token (exclusive) of each item's needle in its context."""
        sizes = self.needles.sizes.tolist()
        return [(a, a + n) for a, n in zip(self.facts(length)["needle"], sizes, strict=True)]

    def _places(self, length: int) -> tuple[Tensor, Tensor]:
        """Where in the corpus each text begins and where its needle goes; the latest length's are kept."""
        if self._latest is None or self._latest[0] != length:
            released = self.task.params.protocol == "as_released" and self.task.params.variant == "natural"
            self._latest = (length, *(self._released(length) if released else self._clean(length)))
        return self._latest[1:]

    def _clean(self, length: int) -> tuple[Tensor, Tensor]:
        """Needles uniformly within a tenth of their depths, before any sentence of the corpus."""
        task, corpus, draws = self.task, self.task.eval_corpus, self._draws(length)
        task.check_length(length)
        room = length - len(task.question) - self.needles.sizes.cpu().numpy()
        low, high = np.maximum(0, self.depths - 0.1), np.minimum(1, self.depths + 0.1)
        low, high = np.ceil(low * room), np.floor(high * room)
        wanted = (low + draws[:, 0] * np.maximum(1, high - low + 1)).astype(np.int64).clip(0, room)
        sentence = torch.from_numpy((draws[:, 1] * len(corpus.starts)).astype(np.int64)).to(task.device)
        return task.place(corpus, corpus.starts[sentence], torch.from_numpy(wanted).to(task.device))

    def _released(self, length: int) -> tuple[Tensor, Tensor]:
        """The text of each item goes on at the sentence where that of the item before ended.

        The needle goes to any boundary of sentences in [max(0, depth - 0.1) n, min(1, depth + 0.1) n - m]
        of a haystack of n tokens, m of which are its own.

        Raises:
            UserError: there is no boundary for an item; names a length at which all have one.
        """
        starts, size = self._starts, len(self.task.eval_corpus.tokens)
        text_at, needle_at, draws = [], [], self._draws(length)[:, 0]
        for (begin, first, last), depth, draw in zip(self._choices(length), self.depths, draws, strict=True):
            if first >= last:
                raise UserError(
                    f"no sentence starts near depth {depth:g} of a context of {length} tokens "
                    f"({self.task.data_source}); for protocol=as_released {self._remedy(length)}. "
                    "The published grid, from 1,000 tokens on, runs with data=wikitext,tokenizer=bpe"
                )
            chosen = first + int(draw * (last - first))
            text_at.append(begin)
            needle_at.append(int(starts[chosen % len(starts)] + chosen // len(starts) * size - begin))
        return tuple(torch.tensor(np.array(a), device=self.task.device) for a in (text_at, needle_at))

    def _choices(self, length: int) -> Iterator[tuple[int, int, int]]:
        """Where the text of each item begins, and the sentences that its needle may precede, as a range."""
        starts, size = self._starts, len(self.task.eval_corpus.tokens)
        hay, sentence = self.num_tokens(length) - len(self.task.question), 0
        for depth, needle in zip(self.depths, self.needles.sizes.tolist(), strict=True):
            begin = starts[sentence % len(starts)]
            low, high = max(0.0, depth - 0.1) * hay, min(1.0, depth + 0.1) * hay - needle
            yield begin, *(_count_before(starts, size, begin + edge) for edge in (low, high + 1e-6))
            sentence = _count_before(starts, size, begin + hay - needle) % len(starts)

    def _remedy(self, length: int) -> str:
        """The smallest round length beyond this one that has a sentence near all depths."""
        for longer in range(length - length % ROUND + ROUND, LONGEST_TRIED + 1, ROUND):
            if all(first < last for _, first, last in self._choices(longer)):
                return f"the next multiple of {ROUND:,} tokens that works is --eval-lengths {longer}"
        return f"no multiple of {ROUND:,} tokens up to {LONGEST_TRIED:,} works; take another text"

    def _draws(self, length: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 2, length)).random((self.num_items, 2))

    def _before_end(self, tokens: list[int]) -> str:
        end = self.task.tokenizer.end
        return self.task.decode(tokens[: tokens.index(end)] if end in tokens else tokens)


def _first_number(text: str) -> str:
    """The digits that a text begins with, white space aside."""
    found = re.match(r"\s*(\d+)", text)
    return found[1] if found else ""


def make_codes(protocol: str) -> dict[str, list[str]]:
    """Codes to train on and to evaluate on, "train" and "eval".

    Clean: all numbers of five digits; those whose SHA-256 starts with the hexadecimal digit 0 are held out.
    As released: `NUM_CODES` numbers below 100,000 on each side, drawn apart, not padded.
    """
    if protocol == "clean":
        codes = [f"{number:05d}" for number in range(100_000)]
        held_out = [hashlib.sha256(code.encode()).digest()[0] < 16 for code in codes]
        return {
            "train": [code for code, out in zip(codes, held_out, strict=True) if not out],
            "eval": [code for code, out in zip(codes, held_out, strict=True) if out],
        }
    return {side: [str(_number(side, k)) for k in range(NUM_CODES)] for side in ("train", "eval")}


def _number(side: str, k: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{side} {k}".encode()).digest()[:8], "little") % 100_000


def _count_before(starts: np.ndarray, size: int, place: float) -> int:
    """Number of sentences that start before this place of the corpus, which goes round and round."""
    rounds = int(place // size)
    return rounds * len(starts) + int(np.searchsorted(starts, place - rounds * size))
