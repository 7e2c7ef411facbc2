"""Multi-document QA: many paragraphs, one of them answers the question; say the answer in its words.

    context    <|Query|> {query} <|Document 417|> {text} <|Query|> {query} <|Document 032|> {text} …
    question       When did the Normans come?   continuation   Rollo agreed to swear fealty
    queries    <|Answer|> in the 10th           queries    <|Answer|> to King Charles
    targets   in the 10th century <end>         targets   to King Charles <end>

Contexts are those of document_retrieval; ids are there, and asked for by nobody. Text is generated up to the
end of text. Answers to real questions are scored as SQuAD's official script does: `F1` of words, and
`exact match`, the best of all golds. Training asks for the first gold.

There are so few real questions that a model learns their answers by heart before it learns to read. So most
training items, and all before the last stage, are *continuations*: the query is 3 to 8 words of the golden
document as they stand there, the answer the 3 words that follow, both in the part that is shown. They are
drawn anew from all paragraphs, those of books too, so only reading helps. Their number is fixed, as nothing
in the text would tell where an answer of another length ends. Half of the evaluation items are continuations
of held-out paragraphs (metric `continuation`, the share right): they tell a model that cannot read from one
that reads and copies, and does not understand the question. The curriculum begins with a single document, in
which there is nothing to find, only to copy; a decoder begun with two stayed there.

Source: the multi-document QA of DeciMamba (Ben-Kish et al., arXiv:2406.14528), whose prompt's end, number of
generated tokens and code are not published; these are our own, as are continuations and the curriculum. So
there is no `protocol=as_released`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from lgbench.tasks._documents import ANSWER, TEXT_TOKENS, DocumentTask
from lgbench.tasks._documents.corpus import Corpus
from lgbench.tasks._documents.draws import Queries, draw_continuations, join_span
from lgbench.tasks._documents.items import EVAL_FEWEST, DocumentItems, pad_answer
from lgbench.tasks._documents.published import ANSWERS
from lgbench.tasks._documents.squad_score import describe_language, exact_match, f1, normalise
from pydantic import Field, field_validator
from torch import Tensor

from lgbench.models.language import FINE_TUNED
from lgbench.recipe import suggest
from lgbench.task import Batch, Layout, Metric, Recipe

NUM_CONSTANTS = 20
"""Most frequent answers of the training side that are tried as constant ones."""
NUM_TRIED = 1000
"""Questions, and continuations, of the training side that the best of these is chosen by."""

_STAGES = (
    (1, 12, 0), (2, 12, 0), (4, 12, 0), (4, 24, 0), (8, 24, 0), (8, 48, 0), (8, 100, 0), (11, 100, 0),
    (11, 200, 0), (11, 300, 0), (11, 300, 1),
)  # fmt: skip
_BATCHES = (4, 4, 4, 4, 4, 4, 2, 2, 1, 1, 1)
_ONE = dict(train_queries=(1, 1), eval_queries=1,
            stage_accuracy=0.6, revisit=0.2)  # fmt: skip
RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        **_ONE, d_model=64, num_layers=2, sizes=suggest(d_state=8, conv_width=4, init_std=0.03),
        train_length=4, train_steps=150, batch_size=8,
        learning_rate=4e-3, warmup_steps=30, decay_from=0.7, stages=((2, 12, 0), (4, 24, 0), (4, 24, 1)),
        eval_lengths=(2, 4, 8), eval_items=40, eval_batch=20,
    ),
    "small": Recipe(
        **_ONE, d_model=384, num_layers=6, sizes=suggest(d_state=16, conv_width=4, init_std=0.03),
        train_length=11, train_steps=6000,
        batch_size=32, learning_rate=8e-4, warmup_steps=200, decay_from=0.7, lm_weight=0.1, stages=_STAGES,
        stage_batches=_BATCHES, precision="bfloat16",
        eval_lengths=(2, 5, 11, 20, 40, 80, 160), eval_items=400, eval_batch=16,
    ),
    "paper": Recipe(
        **_ONE, d_model=768, num_layers=24, sizes=suggest(d_state=16, conv_width=4, init_std=0.03),
        train_length=11, train_steps=1400, batch_size=64,
        learning_rate=1e-4, **FINE_TUNED, precision="bfloat16",
        eval_lengths=(5, 10, 20, 40, 60, 80, 100, 120, 140, 160), eval_items=400, eval_batch=8,
    ),
}  # fmt: skip


class MultidocQA(DocumentTask):
    """Find the paragraph that answers a question, and copy the answer: retrieval without a number to name."""

    class Params(DocumentTask.Params):
        max_new_tokens: int = Field(
            24,
            ge=2,
            description="tokens of an answer, its end included; longer ones are trained on cut short. "
            "They are those of a BPE; with bytes there are as many times more as bytes make a token",
        )
        question_share: float = Field(
            0.3, ge=0, le=1, description="training items with a real question, in the last stage"
        )

        @field_validator("protocol")
        @classmethod
        def _nothing_was_released(cls, protocol: str) -> str:
            if protocol == "as_released":
                raise ValueError(
                    "the code of the published multi-document QA was never released, so there are no choices "
                    "to follow. Use protocol=clean, or the task document_retrieval, whose code was"
                )
            return protocol

    published = ANSWERS
    metric = Metric(name="F1", best=1.0, higher_is_better=True)
    more_metrics = tuple(
        Metric(name=name, best=1.0, higher_is_better=True, interval="wilson")
        for name in ("exact match", "continuation")
    )

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset; `paper` sees each of 90,000 questions once, `small` takes minutes on a GPU."""
        if preset not in RECIPES:
            raise LookupError(f"multidoc_qa has no preset '{preset}'. It has: smoke, small, paper")
        return RECIPES[preset]

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Data as in the base, and the prompt's end."""
        super().prepare(device, data_dir)
        language = describe_language(self.squad.paragraphs)
        self.notice = " ".join(filter(None, (self.notice, language)))
        self.max_answer = self.params.max_new_tokens * self.scale
        prompt = torch.tensor(self.tokenizer.encode(ANSWER))
        self._prompt = {place: prompt.to(place) for place in (torch.device("cpu"), self.corpus.pool.device)}

    def share_of_questions(self, which: int) -> float:
        """None before the last stage."""
        return (0.0, self.params.question_share, 1.0)[which]

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Training items without a curriculum, which all ask questions, as published."""
        return self.sample_stage(num_items, length, num_queries, generator, (length, TEXT_TOKENS, 2))

    def draw_queries(
        self, corpus: Corpus, starts: Tensor, lengths: Tensor, max_tokens: int, fewest: int,
        generator: torch.Generator,
    ) -> tuple[Queries, Tensor]:  # fmt: skip
        """Some words and those that follow them."""
        most = self.max_answer - 1  # the end of text is one, too
        return draw_continuations(corpus, starts, lengths, max_tokens, most, fewest, generator)

    def finish(self, corpus: Corpus, gold_id: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """` <|Answer|>`, and the answer with the end of text if there is room for it."""
        tokens, there = join_span(corpus, answer, self.max_answer)
        end = there.logical_not().cumsum(dim=1) == 1
        tokens = tokens.masked_fill(end, self.tokenizer.end)
        return pad_answer(self._prompt[corpus.pool.device], tokens, there | end, self.tokenizer.end)

    def eval_set(self, num_items: int, seed: int) -> QAItems:
        """Held-out paragraphs; questions and continuations in turn."""
        return QAItems(self, num_items, seed, asks=torch.arange(num_items) % 2 == 0)

    def references(self, eval_set: QAItems, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """Score of the constant answer that is best on the training side; all lengths have the same items."""
        asks = metric.name != "continuation"
        golds = [gold for gold, on in zip(eval_set.golds, eval_set.asks.tolist(), strict=True) if on == asks]
        score = f1 if metric.name == "F1" else exact_match
        trained = self._trained_questions() if asks else self._trained_continuations()
        said = self._best_constant(trained, score)
        return {"chance": sum(score(said, gold) for gold in golds) / len(golds) if golds else 0.0}

    def _best_constant(self, golds: Sequence[Sequence[str]], score: Callable) -> str:
        """The frequent answer that these golds of the training side give the largest sum of scores."""
        counts = Counter(normalise(gold) for answers in golds for gold in set(answers))
        constants = [answer for answer, _ in counts.most_common(NUM_CONSTANTS)]
        return max(constants, key=lambda said: sum(score(said, answers) for answers in golds))

    def _trained_questions(self) -> list[tuple[str, ...]]:
        """Golds of training questions that lie evenly among all."""
        questions = self.host.train.questions.tolist()
        chosen = questions[:: max(1, len(questions) // NUM_TRIED)][:NUM_TRIED]
        return [self.squad.questions[at].answers for at in chosen]

    def _trained_continuations(self) -> list[tuple[str, ...]]:
        """Answers of continuations, drawn as those of the evaluation are, of training documents."""
        side, generator = self.host.train, torch.Generator().manual_seed(0)
        drawn = torch.randint(len(side.documents), (NUM_TRIED,), generator=generator)
        start, stop = self.host.documents[side.documents[drawn]].unbind(-1)
        parts = start, stop - start, self.max_query, EVAL_FEWEST
        _, spans = self.draw_queries(self.host, *parts, generator)
        return [(self.decode(self.host.pool[a:b].tolist()),) for a, b in spans.tolist()]


class QAItems(DocumentItems):
    """Questions with all their golds, and continuations, in turn."""

    other_kind = "continuation"

    @cached_property
    def golds(self) -> list[tuple[str, ...]]:
        """Right answers of each item; a continuation has one."""
        pool, questions = self.task.host.pool, self.task.squad.questions
        drawn = zip(self.asks.tolist(), self.question.tolist(), self.answer.tolist(), strict=True)
        return [
            questions[k].answers if asks else (self.task.decode(pool[start:stop].tolist()),)
            for asks, k, (start, stop) in drawn
        ]

    def grade(self, items: slice, length: int, answers: Tensor) -> dict[str, Tensor]:
        """Scores of the text before the first end of text in generated tokens `(batch, num_targets)`."""
        end, pairs = self.task.tokenizer.end, []
        for tokens, golds in zip(answers.tolist(), self.golds[items], strict=True):
            said = self.task.decode(tokens[: tokens.index(end)] if end in tokens else tokens)
            pairs.append((f1(said, golds), exact_match(said, golds)))
        overlap, exact = torch.tensor(pairs, device=answers.device).unbind(-1)
        asks = self.asks[items].to(answers.device)
        return {
            "F1": overlap.masked_fill(~asks, torch.nan),
            "exact match": exact.masked_fill(~asks, torch.nan),
            "continuation": exact.masked_fill(asks, torch.nan),
        }
