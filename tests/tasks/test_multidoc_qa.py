"""Multi-document QA: answers as tokens, their scores, and what training shows."""

import re

import pytest
import torch
from lgbench.tasks import _documents
from lgbench.tasks._documents.squad import Question, Squad
from lgbench.tasks.multidoc_qa import RECIPES, MultidocQA

from lgbench.errors import UserError
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest

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
        params = {"tokenizer": "bytes", "extra_text": False, "max_new_tokens": 11, **params}
        task = MultidocQA(MultidocQA.Params(**params))
        task.prepare(torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def task():
    return prepared()


def answer_tokens(task, *texts):
    """Generated tokens: each text, the end, and whatever a model says after it."""
    rows = [
        [*task.tokenizer.encode(text), task.tokenizer.end, *task.tokenizer.encode("!" * 33)] for text in texts
    ]
    return torch.tensor([row[:33] for row in rows])


def read(task, batch, row):
    """Text of a context, and the answer."""
    text = task.decode(batch.context["tokens"][row][batch.context["mask"][row]].tolist())
    return text, task.decode(batch.targets[row][batch.targets[row] >= 0].tolist())


def test_a_question_asks_and_answers_as_written_here(task):
    items = task.eval_set(2, 0)
    golden = int(items.gold[0])
    queries, targets = items.queries(slice(0, 1), 2, 1)
    answer = f" the castle of {NAMES[golden]}stead"
    there = targets[0][targets[0] >= 0]
    assert task.decode(there[:-1].tolist()) == answer and there[-1] == task.tokenizer.end
    assert targets.shape == (1, 33) and (targets[0, len(there) :] == -100).all()
    assert queries["tokens"].shape[1] == len(" <|Answer|>") + 32
    assert task.decode(queries["tokens"][0].tolist()) == " <|Answer|>" + answer
    start, stop = items.spans(2)[0]
    context = items.context(slice(0, 1), 0, 10_000, 2)
    assert task.decode(context["tokens"][0, start:stop].tolist()) == " " + PARAGRAPHS[golden]


def test_a_continuation_asks_and_answers_as_written_here(task):
    """Second item of seed 0; other strings are another evaluation."""
    items, second = task.eval_set(4, 0), slice(1, 2)
    queries, targets = items.queries(second, 2, 1)
    context = items.context(second, 0, 10_000, 2)
    assert task.decode(context["tokens"][0][context["mask"][0]].tolist()) == (
        " <|Query|> of Elm lives in the castle"
        " <|Document 550|> The lord of Fen lives in the castle of Fenstead, far from the sea."
        " <|Query|> of Elm lives in the castle"
        " <|Document 062|> The lord of Elm lives in the castle of Elmstead, far from the sea."
    )
    answer = b" of Elmstead, far"
    assert targets[0].tolist() == [*answer, task.tokenizer.end] + [-100] * (32 - len(answer))
    assert task.decode(queries["tokens"][0].tolist()) == " <|Answer|>" + answer.decode()
    assert items.golds[1] == (answer.decode(),)
    facts = items.facts(2)
    assert (facts["kind"][1], facts["question"][1], facts["place"][1]) == ("continuation", "", 1)


def test_an_answer_that_is_too_long_is_cut_and_has_no_end():
    """Three tokens of a BPE are nine bytes, as these words have 4.8 bytes and 1.5 tokens."""
    _, targets = prepared(max_new_tokens=3).eval_set(2, 0).queries(slice(0, 2), 2, 1)
    assert bytes(targets[0].tolist()).decode() == " the cast"


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
    scores = items.grade(slice(0, 1), 2, torch.full((1, 33), ord("x")))
    assert scores["F1"].tolist() == [0.0]


def test_questions_and_continuations_come_in_turn_and_each_has_its_metrics(task):
    items = task.eval_set(4, 0)
    right = items.targets.masked_fill(items.targets < 0, task.tokenizer.end)
    wrong = torch.full_like(right, ord("x"))
    for answers, score in ((right, 1.0), (wrong, 0.0)):
        scores = items.grade(slice(0, 4), 2, answers)
        assert list(scores) == [metric.name for metric in task.metrics]
        assert scores["F1"][0::2].tolist() == scores["exact match"][0::2].tolist() == [score] * 2
        assert scores["continuation"][1::2].tolist() == [score] * 2
        assert scores["F1"][1::2].isnan().all() and scores["exact match"][1::2].isnan().all()
        assert scores["continuation"][0::2].isnan().all()


@pytest.mark.parametrize("stage", [(2, 12, 2), (4, 24, 2), (4, 300, 2)])
def test_the_answer_to_a_question_stands_in_the_context_of_its_training_item(task, stage):
    batch = task.sample_stage(48, stage[0], 1, torch.Generator().manual_seed(0), stage)
    for row in range(48):
        text, answer = read(task, batch, row)
        assert answer.startswith(" the castle of ") and answer in text
        name = answer.removeprefix(" the castle of ").removesuffix("stead")
        assert text.count(f" <|Query|> Where is the lord of {name}? <|Document ") == stage[0]
        assert text.startswith(" <|Query|>"), "nothing is cut off on the left"


@pytest.mark.parametrize("stage", [(2, 12, 0), (4, 24, 0), (4, 300, 0)])
def test_a_continuation_follows_its_query_in_one_of_the_documents_that_are_shown(task, stage):
    batch = task.sample_stage(48, stage[0], 1, torch.Generator().manual_seed(0), stage)
    for row in range(48):
        text, answer = read(task, batch, row)
        (query,) = set(re.findall(r" <\|Query\|>(.*?) <\|Document ", text))
        documents = re.split(r" <\|Query\|>.*? <\|Document \d+\|>", text)[1:]
        assert len(documents) == stage[0] and "?" not in query
        assert any(query + answer in document for document in documents), (query, answer)
        last = batch.targets[row][batch.targets[row] >= 0][-1]
        assert last == task.tokenizer.end and len(answer.split()) == 3
        assert 1 <= len(query.split()) <= 8


def test_questions_are_asked_in_the_last_stage_alone_and_without_a_curriculum_always(task):
    for preset in ("smoke", "small"):
        *others, last = (stage[2] for stage in RECIPES[preset].stages)
        assert set(others) == {0} and last == 1
    asked = {}
    for which in (0, 1, 2):
        batch = task.sample_stage(400, 2, 1, torch.Generator().manual_seed(0), (2, 24, which))
        asked[which] = sum("?" in read(task, batch, row)[0] for row in range(400)) / 400
    assert asked[0] == 0 and asked[2] == 1 and asked[1] == pytest.approx(0.3, abs=0.07)
    plain = task.sample(20, 2, 1, torch.Generator().manual_seed(0))
    assert all("?" in read(task, plain, row)[0] for row in range(20))


def test_the_shape_of_a_batch_depends_on_length_and_stage_alone(task):
    for stage in ((2, 12, 0), (4, 24, 0), (4, 300, 1)):
        batches = [task.sample_stage(3, 2, 1, torch.Generator().manual_seed(k), stage) for k in range(4)]
        assert len({(b.context["tokens"].shape, b.targets.shape) for b in batches}) == 1


def test_sampling_reads_nothing_back_from_the_device(task, drawn_without_reading_back):
    batch, wanted = drawn_without_reading_back(task)
    assert batch.targets.shape == wanted.targets.shape


def chance_of(task, golds):
    """Chance of each metric where evaluation items have these golds, questions and continuations in turn."""
    items = task.eval_set(len(golds), 0)
    items.golds = golds
    return {metric.name: task.references(items, 1, metric)["chance"] for metric in task.metrics}


def test_the_constant_answer_of_chance_is_chosen_by_the_golds_of_training(task):
    """Each training answer is as frequent as the others, and any castle shares 2 of 3 words with another."""
    unknown = (f"the castle of {NAMES[4]}stead", f"{NAMES[4]}stead")
    chance = chance_of(task, [unknown, (" in the Alps",)] * 2)
    assert chance == {"F1": pytest.approx(2 / 3), "exact match": 0, "continuation": 0}
    castles = [(f"the castle of {name}stead", f"{name}stead") for name in NAMES[:4]]
    said = [gold for castle in castles for gold in (castle, (" far from the",))]
    chance = chance_of(task, said)
    assert chance["exact match"] == 1 / 4 and chance["F1"] == pytest.approx((1 + 3 * 2 / 3) / 4)


def test_the_constant_continuation_of_chance_is_frequent_in_training_documents(task):
    endings = (" far from the", " from the sea.", " in the castle")
    shares = [chance_of(task, [("none",), (ending,)])["continuation"] for ending in endings]
    assert sorted(shares) == [0, 0, 1], "one of the three is said, whatever the items are"


def test_as_released_is_refused_since_nothing_was_released():
    with pytest.raises(
        UserError, match=r"never released.* Use protocol=clean, or the task document_retrieval"
    ):
        load_task(PluginRequest("multidoc_qa", {"protocol": "as_released"}))


def test_a_metric_without_items_has_chance_zero(task):
    assert task.references(task.eval_set(1, 0), 1, task.more_metrics[1]) == {"chance": 0.0}


def test_the_paper_preset_is_the_published_fine_tuning_on_11_documents_and_its_table():
    recipe = prepared().recipe("paper", "causal")
    assert recipe.eval_lengths == (5, 10, 20, 40, 60, 80, 100, 120, 140, 160)
    assert recipe.fixed_length and recipe.train_length == 11 and not recipe.stages
    assert recipe.decay_all and recipe.untied and recipe.adam_epsilon == 1e-8
