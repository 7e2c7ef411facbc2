"""Fixed evaluation items of the document tasks, and answers as queries and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from lgbench.tasks._documents.corpus import NUM_IDS, Corpus, join_pieces
from lgbench.tasks._documents.draws import Queries, Shelf, ask, choose, context_pieces
from torch import Tensor

from lgbench.data.fingerprint import digest
from lgbench.errors import UserError
from lgbench.task import IGNORE, EvalSet, Tensors

if TYPE_CHECKING:
    from lgbench.tasks._documents import DocumentTask

EVAL_FEWEST = 6
"""Words of a query that is no question in evaluation at least, so that hardly another document has them all.

Of the verbatim spans of invented facts one in ten stands in several: template words and a common value."""


class DocumentItems(EvalSet):
    """Fixed queries and golden documents with their ids; noise and order are drawn anew for every length.

    All of it is drawn on the CPU, so that every device sees the same.

    Args:
        task: prepared.
        num_items: how many; questions and documents repeat only when all had their turn.
        seed: of everything.
        asks: bool `(num_items,)`, whether an item asks a real question.
    """

    padded = True
    other_kind: ClassVar[str]
    """What items are called that ask no question."""

    def __init__(self, task: DocumentTask, num_items: int, seed: int, asks: Tensor) -> None:
        self.task, self.num_items, self.seed, self.asks = task, num_items, seed, asks
        corpus, side, generator = task.host, task.host.eval, self._generator("items")
        if not len(side.questions):
            raise UserError(f"{task.squad.source} has no question about a paragraph that is held out")
        self.question = _in_turn(side.questions, num_items, generator)
        documents = _in_turn(side.documents, num_items, generator)
        self.gold = torch.where(asks, corpus.asked[self.question], documents)
        self.gold_id = torch.randint(NUM_IDS, (num_items,), generator=generator)
        start, stop = corpus.documents[self.gold].unbind(-1)
        others, spans = task.draw_queries(corpus, start, stop - start, task.max_query, EVAL_FEWEST, generator)
        self.asked = choose(asks, ask(corpus, self.question), others)
        self.answer = torch.where(asks[:, None], corpus.answers[self.question], spans)
        self.after, self.targets = (t.to(task.device) for t in task.finish(corpus, self.gold_id, self.answer))
        chosen_by = task.params.model_dump(exclude={*task.data_params, *task.training_params})
        settings = type(task).__name__, chosen_by, task.data_fingerprint, num_items, seed
        self.fingerprint = digest(*settings)
        self._latest: tuple[int, _Layout] | None = None

    def num_tokens(self, length: int) -> int:
        """Tokens of the longest item; the others are padded on the left."""
        return self.layout(length).width

    def context(self, items: slice, start: int, stop: int, length: int) -> Tensors:
        """Tokens `start` to `stop` of these items with `length` documents; nothing else is made."""
        layout = self.layout(length)
        tokens, mask = join_pieces(
            self.task.corpus.pool, layout.starts[items], layout.lengths[items], layout.width, start, stop
        )
        return {"tokens": tokens, "mask": mask}

    def queries(self, items: slice, length: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """The prompt's end with the answer without its last token, and the answer."""
        return {"tokens": self.after[items]}, self.targets[items]

    def facts(self, length: int) -> dict[str, list]:
        """Slot of the golden document, from 0; the question's id in SQuAD, empty for others; the kind."""
        pairs = zip(self.question.tolist(), self.asks.tolist(), strict=True)
        names = [self.task.squad.questions[k].id if asks else "" for k, asks in pairs]
        kinds = ["question" if asks else self.other_kind for asks in self.asks.tolist()]
        return {"place": self.layout(length).shelf.place.tolist(), "question": names, "kind": kinds}

    def spans(self, length: int) -> list[tuple[int, int]]:
        """First and last token (exclusive) of each item's golden text in its context."""
        layout = self.layout(length)
        lengths = layout.lengths.cpu()
        stops = lengths.cumsum(dim=1) + layout.width - lengths.sum(dim=1, keepdim=True)
        text = (layout.shelf.place[:, None] + 1) * (lengths.shape[1] // length) - 1
        begins = (stops - lengths).gather(1, text).flatten()
        return list(zip(begins.tolist(), stops.gather(1, text).flatten().tolist(), strict=True))

    def layout(self, length: int) -> _Layout:
        """What stands where with so many documents; the latest is kept.

        Raises:
            UserError: there are not so many documents.
        """
        if self._latest is None or self._latest[0] != length:
            task, corpus = self.task, self.task.host
            task.check_documents(length, "eval")
            golden = self.gold, self.gold_id, self.asks
            shelf = task.draw_shelf(corpus, "eval", *golden, length, self._generator(length))
            start, stop = corpus.documents[shelf.documents].unbind(-1)
            self._latest = (length, _Layout(shelf, self.asked, corpus, start, stop - start, task.device))
        return self._latest[1]

    def _generator(self, part: str | int) -> torch.Generator:
        seed = int(digest("documents", self.seed, part)[:14], 16)
        return torch.Generator().manual_seed(seed)


class _Layout:
    """Pieces of the contexts of all items with a number of documents."""

    def __init__(
        self, shelf: Shelf, asked: Queries, corpus: Corpus, start: Tensor, size: Tensor, device: torch.device
    ) -> None:
        starts, lengths = context_pieces(corpus, asked, shelf.ids, start, size)
        self.shelf, self.width = shelf, int(lengths.sum(dim=1).max())
        self.starts, self.lengths = starts.to(device), lengths.to(device)


def pad_answer(prompt: Tensor, answer: Tensor, there: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Queries and targets from a prompt's end and answers `(batch, num_targets)`, of which `there` exist.

    Args:
        prompt: int64 `(num_tokens,)`.
        answer: int64, anything where there is nothing.
        there: bool `(batch, num_targets)`.
        end: id that stands for what is not there in the queries.
    """
    given = answer[:, :-1].masked_fill(~there[:, :-1], end)
    return torch.cat([prompt.expand(len(answer), -1), given], dim=1), answer.masked_fill(~there, IGNORE)


def _in_turn(choices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Some of the choices in random order, each once before any comes again."""
    return choices[torch.randperm(len(choices), generator=generator)][torch.arange(count) % len(choices)]
