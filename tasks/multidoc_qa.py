"""Multi-document QA: many paragraphs, one of them answers the question; say the answer in its words.

    context    <|Query|> {question} <|Document 417|> {text} <|Query|> {question} <|Document 032|> {text} …
    queries    <|Answer|> in the 10th
    targets   in the 10th century <end>

Contexts are those of document_retrieval with real questions only; ids are there, and asked for by nobody.
Text is generated up to the end of text and scored as SQuAD's official script does: `F1` of words, and
`exact match`, the best of all golds. Training asks for the first gold; a short part of the golden paragraph
holds it at first.

Source: the multi-document QA of DeciMamba (Ben-Kish et al., arXiv:2406.14528), whose prompt's end, number of
generated tokens and code are not published; these are our own, as is the curriculum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from lgbench.tasks._documents import ANSWER, DocumentItems, DocumentTask, pad_answer
from pydantic import Field
from torch import Tensor

from lgbench.data.document_draws import join_span
from lgbench.data.documents import Corpus
from lgbench.data.squad_score import exact_match, f1, normalise
from lgbench.task import Layout, Metric, Recipe

NUM_CONSTANTS = 20
"""Most frequent gold answers that are tried as constant ones."""

_STAGES = (
    (2, 12, 1), (2, 24, 1), (4, 24, 1), (4, 48, 1), (8, 48, 1), (8, 100, 1), (11, 100, 1), (11, 200, 1),
    (11, 300, 1),
)  # fmt: skip
_ONE = dict(train_queries=(1, 1), eval_queries=1, conv_width=4, init_std=0.03,
            stage_accuracy=0.25, revisit=0.2)  # fmt: skip
RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        **_ONE, d_model=64, num_layers=2, d_state=8, train_length=4, train_steps=150, batch_size=8,
        learning_rate=4e-3, warmup_steps=30, decay_from=0.7, stages=((2, 12, 1), (4, 24, 1)),
        eval_lengths=(2, 4, 8), eval_items=20, eval_batch=20,
    ),
    "small": Recipe(
        **_ONE, d_model=384, num_layers=6, d_state=16, train_length=11, train_steps=6000,
        batch_size=32, learning_rate=8e-4, warmup_steps=200, decay_from=0.7, lm_weight=0.1, stages=_STAGES,
        precision="bfloat16", eval_lengths=(2, 5, 11, 20, 40, 80, 160), eval_items=200, eval_batch=16,
    ),
    "paper": Recipe(
        **_ONE, d_model=768, num_layers=24, d_state=16, train_length=11, train_steps=1400, batch_size=64,
        learning_rate=1e-4, weight_decay=0.1, precision="bfloat16",
        eval_lengths=(11, *range(20, 301, 20)), eval_items=200, eval_batch=8,
    ),
}  # fmt: skip


class MultidocQA(DocumentTask):
    """Find the paragraph that answers a question, and copy the answer: retrieval without a number to name."""

    class Params(DocumentTask.Params):
        max_new_tokens: int = Field(
            24,
            ge=2,
            description="tokens of an answer, its end included; longer ones are trained on cut short",
        )

    metric = Metric(name="F1", best=1.0, higher_is_better=True)
    more_metrics = (Metric(name="exact match", best=1.0, higher_is_better=True, interval="wilson"),)

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset; `paper` sees each of 90,000 questions once, `small` takes minutes on a GPU."""
        if preset not in RECIPES:
            raise LookupError(f"multidoc_qa has no preset '{preset}'. It has: smoke, small, paper")
        return RECIPES[preset]

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Data as in the base, and the prompt's end."""
        super().prepare(device, data_dir)
        prompt = torch.tensor(self.tokenizer.encode(ANSWER))
        self._prompt = {place: prompt.to(place) for place in (torch.device("cpu"), self.corpus.pool.device)}

    def share_of_questions(self, stage_has_questions: bool) -> float:
        """All items ask one."""
        return 1.0

    def finish(self, corpus: Corpus, gold_id: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        """` <|Answer|>`, and the first gold with the end of text if there is room for it."""
        tokens, there = join_span(corpus, corpus.answers[question], self.params.max_new_tokens)
        end = there.logical_not().cumsum(dim=1) == 1
        tokens = tokens.masked_fill(end, self.tokenizer.end)
        return pad_answer(self._prompt[corpus.pool.device], tokens, there | end, self.tokenizer.end)

    def eval_set(self, num_items: int, seed: int) -> QAItems:
        """Questions about held-out paragraphs."""
        return QAItems(self, num_items, seed, asks=torch.ones(num_items, dtype=torch.bool))

    def references(self, eval_set: QAItems, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """Score of the best constant answer among frequent golds; all lengths have the same items."""
        golds = eval_set.golds
        counts = Counter(normalise(gold) for answers in golds for gold in set(answers))
        constants = [answer for answer, _ in counts.most_common(NUM_CONSTANTS)]
        score = {"F1": f1, "exact match": exact_match}[metric.name]
        return {"chance": max(sum(score(said, g) for g in golds) for said in constants) / len(golds)}


class QAItems(DocumentItems):
    """Questions with all their golds."""

    @property
    def golds(self) -> list[tuple[str, ...]]:
        """Gold answers of each item."""
        return [self.task.squad.questions[k].answers for k in self.question.tolist()]

    def grade(self, items: slice, length: int, answers: Tensor) -> dict[str, Tensor]:
        """Scores of the text before the first end of text in generated tokens `(batch, num_targets)`."""
        end, pairs = self.task.tokenizer.end, []
        for tokens, golds in zip(answers.tolist(), self.golds[items], strict=True):
            said = self.task.decode(tokens[: tokens.index(end)] if end in tokens else tokens)
            pairs.append((f1(said, golds), exact_match(said, golds)))
        scores = torch.tensor(pairs, device=answers.device)
        return {"F1": scores[:, 0], "exact match": scores[:, 1]}
