"""Document retrieval: many paragraphs with numbers, one of them is asked for; name its number.

    context    <|Query|> {query} <|Document 417|> {text} <|Query|> {query} <|Document 032|> {text} …
    queries    <|Answer|> <|Document 03
    targets   032|>

The query is repeated before each document. It is either some words of the golden document (metric `keyword`)
or a real question that it answers (metric `question`); items have the one and the other in turn. Noise
documents are distinct paragraphs, some of them of the golden one's article. Every piece is tokenized by
itself, with the blank before it, and white space counts as single blanks.

Source: the SQuAD v2 retrieval of DeciMamba (Ben-Kish et al., arXiv:2406.14528). Its first release gave the
last document's id as the answer, which is offered nowhere here. `protocol=as_released` keeps what else it
did: ids are not padded with zeros, noise may be the golden paragraph again or the same twice, the golden
place of the k-th item of a batch is fixed, and the prompt ends with a blank. Keyword queries and the
curriculum are our own; it begins with a single document, whose number need only be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from lgbench.tasks._documents import ANSWER, DocumentTask
from lgbench.tasks._documents.corpus import CLOSE, DOCUMENT, NUM_IDS, Corpus, id_names
from lgbench.tasks._documents.draws import Queries, draw_keywords
from lgbench.tasks._documents.items import DocumentItems, pad_answer
from lgbench.tasks._documents.published import RETRIEVAL
from pydantic import Field
from torch import Tensor

from lgbench.models.language import FINE_TUNED
from lgbench.recipe import suggest
from lgbench.task import IGNORE, Layout, Metric, Recipe

_STAGES = (
    (1, 12, 0), (2, 12, 0), (4, 12, 0), (4, 24, 0), (8, 24, 0), (8, 48, 0), (8, 100, 0), (11, 100, 0),
    (11, 200, 0), (11, 300, 0), (11, 300, 1),
)  # fmt: skip
_BATCHES = (4, 4, 4, 4, 4, 4, 2, 2, 1, 1, 1)
_ONE = dict(train_queries=(1, 1), eval_queries=1,
            stage_accuracy=0.85, revisit=0.2)  # fmt: skip
RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        **_ONE, d_model=64, num_layers=2, sizes=suggest(d_state=8, conv_width=4, init_std=0.03),
        train_length=4, train_steps=200,
        batch_size=16, learning_rate=4e-3, warmup_steps=30, decay_from=0.7,
        stages=((2, 12, 0), (4, 12, 0), (4, 24, 1)), eval_lengths=(2, 4, 8, 16), eval_items=40, eval_batch=20,
    ),
    "small": Recipe(
        **_ONE, d_model=384, num_layers=6, sizes=suggest(d_state=16, conv_width=4, init_std=0.03),
        train_length=11, train_steps=5000,
        batch_size=32, learning_rate=8e-4, warmup_steps=200, decay_from=0.7, lm_weight=0.1, stages=_STAGES,
        stage_batches=_BATCHES, precision="bfloat16",
        eval_lengths=(2, 5, 11, 20, 40, 80, 160), eval_items=400, eval_batch=16,
    ),
    "paper": Recipe(
        **_ONE, d_model=768, num_layers=24, sizes=suggest(d_state=16, conv_width=4, init_std=0.03),
        train_length=11, train_steps=300, batch_size=64, stages=((11, 300, 2),),
        learning_rate=1e-4, **FINE_TUNED, precision="bfloat16",
        eval_lengths=(11, *range(20, 301, 20)), eval_items=200, eval_batch=8,
    ),
}  # fmt: skip


class DocumentRetrieval(DocumentTask):
    """Find one text among many by what it says: memory that must be addressed by content."""

    class Params(DocumentTask.Params):
        question_share: float = Field(
            0.3, ge=0, le=1, description="training items with a real question, in stages that have any"
        )

    metric = Metric(name="keyword", best=1.0, higher_is_better=True, interval="wilson")
    more_metrics = (Metric(name="question", best=1.0, higher_is_better=True, interval="wilson"),)
    learned = 0.5
    published = RETRIEVAL

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset; `paper` is DeciMamba's recipe, `small` takes minutes on a GPU."""
        if preset not in RECIPES:
            raise LookupError(f"document_retrieval has no preset '{preset}'. It has: smoke, small, paper")
        recipe = RECIPES[preset]
        if preset == "paper" and self.params.protocol == "as_released":  # there the golden one is not counted
            grid = (*range(10, 161, 10), *range(180, 301, 20))
            return replace(
                recipe, train_length=12, stages=((12, 300, 2),), eval_lengths=tuple(n + 1 for n in grid)
            )
        return recipe

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Data as in the base; the prompt's end and the answers for all ids."""
        super().prepare(device, data_dir)
        clean, encode = self.params.protocol == "clean", self.tokenizer.encode
        prompt = torch.tensor(encode(ANSWER) + encode(DOCUMENT) + ([] if clean else encode(" ")))
        names = id_names(pad=True) if clean else map(str.strip, id_names(pad=False))
        answers = [encode(name) + encode(CLOSE) for name in names]
        table = torch.full((NUM_IDS, max(map(len, answers))), IGNORE)
        for row, answer in zip(table, answers, strict=True):
            row[: len(answer)] = torch.tensor(answer)
        places = torch.device("cpu"), self.corpus.pool.device
        self._endings = {place: (prompt.to(place), table.to(place)) for place in places}

    def share_of_questions(self, which: int) -> float:
        """None before the stages that have any; as released, those ask nothing else."""
        share = 1.0 if self.params.protocol == "as_released" else self.params.question_share
        return (0.0, share, 1.0)[which]

    def draw_queries(
        self, corpus: Corpus, starts: Tensor, lengths: Tensor, max_tokens: int, fewest: int,
        generator: torch.Generator,
    ) -> tuple[Queries, Tensor]:  # fmt: skip
        """Keywords; their answer is an id, so the spans are empty."""
        queries = draw_keywords(corpus, starts, lengths, max_tokens, fewest, generator)
        return queries, torch.stack([starts, starts], dim=1)

    def finish(self, corpus: Corpus, gold_id: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """` <|Answer|> <|Document` and ` {id}|>`; as released the blank belongs to the prompt."""
        prompt, table = self._endings[corpus.pool.device]
        answers = table[gold_id]
        return pad_answer(prompt, answers, answers != IGNORE, self.tokenizer.end)

    def eval_set(self, num_items: int, seed: int) -> RetrievalItems:
        """Held-out paragraphs; keywords and questions in turn."""
        return RetrievalItems(self, num_items, seed, asks=torch.arange(num_items) % 2 == 1)

    def references(self, eval_set: RetrievalItems, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """Expected accuracy of any constant id, as golden ids are drawn uniformly, on both sides.

        Naming a random document of the context, which is no constant, is right once in `length` times.
        """
        return {"chance": 1 / NUM_IDS}


class RetrievalItems(DocumentItems):
    """Items that ask with keywords and with questions in turn; each has one of the two metrics."""

    other_kind = "keyword"

    def grade(self, items: slice, length: int, answers: Tensor) -> dict[str, Tensor]:
        """1 where the generated tokens `(batch, num_targets)` begin with the answer, `(batch,)`."""
        targets = self.targets[items]
        right = ((answers == targets) | (targets == IGNORE)).all(dim=1).float()
        asks = self.asks[items].to(right.device)
        return {
            "keyword": right.masked_fill(asks, torch.nan),
            "question": right.masked_fill(~asks, torch.nan),
        }
