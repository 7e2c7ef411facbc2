"""Multi-document QA: answers as tokens, their scores, and what training shows."""

import pytest
import torch
from lgbench.tasks import _documents
from lgbench.tasks.multidoc_qa import MultidocQA

from lgbench.data.squad import Question, Squad

NAMES = ("Arn", "Bel", "Cor", "Dun", "Elm", "Fen")
PARAGRAPHS = tuple(
    f"The lord of {name} lives in the castle of {name}stead, far from the sea." for name in NAMES
)
SQUAD = Squad(
    paragraphs=PARAGRAPHS,
    articles=tuple(range(6)),
    questions=tuple(
        Question(
            id=f"q{k}", text=f"Where is the lord of {name}?",
            answers=(f"the castle of {name}stead", f"{name}stead"), paragraph=k,
        )
        for k, name in enumerate(NAMES)
    ),
    train=(0, 1, 2, 3),
    eval=(4, 5),
    source="hand-made",
    fingerprint="0" * 16,
    notice="",
    broken=(),
)  # fmt: skip


def prepared(**params):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_documents, "load_squad", lambda name, data_dir: SQUAD)
        params = {"tokenizer": "bytes", "extra_text": False, "max_new_tokens": 32, **params}
        task = MultidocQA(MultidocQA.Params(**params))
        task.prepare(torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def task():
    return prepared()


def answer_tokens(task, *texts):
    """Generated tokens: each text, the end, and whatever a model says after it."""
    rows = [
        [*task.tokenizer.encode(text), task.tokenizer.end, *task.tokenizer.encode("!" * 32)] for text in texts
    ]
    return torch.tensor([row[:32] for row in rows])


def test_an_item_asks_and_answers_as_written_here(task):
    items = task.eval_set(2, 0)
    golden = int(items.gold[0])
    queries, targets = items.queries(slice(0, 1), 2, 1)
    answer = f" the castle of {NAMES[golden]}stead"
    there = targets[0][targets[0] >= 0]
    assert task.decode(there[:-1].tolist()) == answer and there[-1] == task.tokenizer.end
    assert targets.shape == (1, 32) and (targets[0, len(there) :] == -100).all()
    assert queries["tokens"].shape[1] == len(" <|Answer|>") + 31
    assert task.decode(queries["tokens"][0].tolist()) == " <|Answer|>" + answer
    start, stop = items.spans(2)[0]
    context = items.context(slice(0, 1), 0, 10_000, 2)
    assert task.decode(context["tokens"][0, start:stop].tolist()) == " " + PARAGRAPHS[golden]


def test_an_answer_that_is_too_long_is_cut_and_has_no_end():
    _, targets = prepared(max_new_tokens=8).eval_set(2, 0).queries(slice(0, 2), 2, 1)
    assert bytes(targets[0].tolist()).decode() == " the cas"


def test_what_is_said_before_the_end_is_scored_by_the_best_gold(task):
    items = task.eval_set(2, 0)
    name = NAMES[items.gold[0]]
    for said, f1, exact in [
        (f" The castle of {name}stead.", 1.0, 1.0),
        (f" {name}stead", 1.0, 1.0),
        (" a castle", 0.5, 0.0),
        ("", 0.0, 0.0),
        (" far", 0.0, 0.0),
    ]:
        scores = items.grade(slice(0, 1), 2, answer_tokens(task, said))
        assert scores["F1"].tolist() == pytest.approx([f1]), said
        assert scores["exact match"].tolist() == [exact], said


def test_tokens_that_never_end_are_scored_whole(task):
    items = task.eval_set(2, 0)
    scores = items.grade(slice(0, 1), 2, torch.full((1, 32), ord("x")))
    assert scores["F1"].tolist() == [0.0]


@pytest.mark.parametrize("stage", [(2, 12, 1), (4, 24, 1), (4, 300, 1)])
def test_the_answer_stands_in_the_context_of_every_training_item(task, stage):
    batch = task.sample_stage(48, stage[0], 1, torch.Generator().manual_seed(0), stage)
    for row in range(48):
        text = task.decode(batch.context["tokens"][row][batch.context["mask"][row]].tolist())
        answer = task.decode(batch.targets[row][batch.targets[row] >= 0].tolist())
        assert answer.startswith(" the castle of ") and answer in text
        name = answer.removeprefix(" the castle of ").removesuffix("stead")
        assert text.count(f" <|Query|> Where is the lord of {name}? <|Document ") == stage[0]
        assert text.startswith(" <|Query|>"), "nothing is cut off on the left"


def test_the_best_frequent_gold_scores_chance(task):
    items = task.eval_set(2, 0)
    chance = {metric.name: task.references(items, 1, metric)["chance"] for metric in task.metrics}
    assert chance["exact match"] == 0.5
    assert chance["F1"] == pytest.approx((1 + 2 / 3) / 2), "the castle of X against the castle of Y"
