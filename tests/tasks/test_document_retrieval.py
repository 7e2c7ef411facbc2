"""Document retrieval: items as a reader sees them, fixed evaluation items, and what is refused."""

import re
from dataclasses import replace

import pytest
import torch
from lgbench.tasks import _documents
from lgbench.tasks._documents.squad import Question, Squad
from lgbench.tasks.document_retrieval import RECIPES, DocumentRetrieval

from lgbench.errors import UserError
from lgbench.plan.cells import Axes, load_task, resolve_cells
from lgbench.plan.params import PluginRequest

PARAGRAPHS = tuple(
    f"Town {name} lies on the river {name}a and was founded in the year {1100 + k} by Lord {name}son."
    for k, name in enumerate(("Arn", "Bel", "Cor", "Dun", "Elm", "Fen", "Gil", "Hol", "Ing", "Jar"))
)
SQUAD = Squad(
    paragraphs=PARAGRAPHS,
    articles=tuple(range(10)),
    questions=tuple(
        Question(
            id=f"q{k}",
            text=f"When was Town {text.split()[1]} founded?",
            answers=(str(1100 + k),),
            paragraph=k,
        )
        for k, text in enumerate(PARAGRAPHS)
    ),
    train=tuple(range(6)),
    eval=tuple(range(6, 10)),
    source="hand-made",
    fingerprint="0" * 16,
    notice="",
    broken=(),
)
SLOT = re.compile(r" <\|Query\|>(.*?) <\|Document (\d+)\|>(.*?)(?= <\|Query\|>|$)")


@pytest.fixture(scope="module")
def make():
    """A task over the hand-made data, bytes for tokens."""

    def prepare(kind=DocumentRetrieval, data=SQUAD, **params):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_documents, "load_squad", lambda name, data_dir: data)
            patch.setattr(_documents, "load_texts", _no_books)
            task = kind(kind.Params(**{"tokenizer": "bytes", **params}))
            task.prepare(torch.device("cpu"))
        return task

    return prepare


def _no_books(name, data_dir):
    raise UserError("no books")


@pytest.fixture(scope="module")
def task(make):
    return make()


def read(task, context, row):
    """The text of a row, and its slots: query, id, document."""
    text = task.decode(context["tokens"][row][context["mask"][row]].tolist())
    return text, SLOT.findall(text)


def spoken(task, queries, targets, row):
    answer = targets[row][targets[row] >= 0]
    return task.decode(queries["tokens"][row].tolist()), task.decode(answer.tolist())


def test_an_evaluation_item_reads_as_written_here(task):
    items = task.eval_set(4, 0)
    one = slice(1, 2)
    context = items.context(one, 0, 10_000, 2)
    golden, name = int(items.gold[1]), int(items.gold_id[1])
    (place, noise), layout = (items.facts(2)["place"][1], None), items.layout(2).shelf
    noise, noise_id = int(layout.documents[1, 1 - place]), int(layout.ids[1, 1 - place])
    question = f" <|Query|> When was Town {PARAGRAPHS[golden].split()[1]} founded?"
    slots = [f"{question} <|Document {noise_id:03d}|> {PARAGRAPHS[noise]}"]
    slots.insert(place, f"{question} <|Document {name:03d}|> {PARAGRAPHS[golden]}")
    assert read(task, context, 0)[0] == "".join(slots)
    queries, targets = items.queries(one, 2, 1)
    assert spoken(task, queries, targets, 0) == (f" <|Answer|> <|Document {name:03d}|", f" {name:03d}|>")
    assert queries["tokens"].shape[1] == len(" <|Answer|> <|Document") + targets.shape[1] - 1


@pytest.mark.parametrize("stage", [(2, 12, 0), (4, 24, 0), (6, 48, 0), (6, 300, 1)])
def test_training_items_name_the_document_that_the_query_is_about(task, stage):
    batch = task.sample_stage(64, stage[0], 1, torch.Generator().manual_seed(0), stage)
    asked_by_question = 0
    for row in range(64):
        text, slots = read(task, batch.context, row)
        assert text.startswith(" <|Query|>") and len(slots) == stage[0], "nothing is cut off on the left"
        queries, names, documents = (list(column) for column in zip(*slots, strict=True))
        answer = spoken(task, batch.queries, batch.targets, row)[1]
        assert len(set(queries)) == 1 and len(set(names)) == stage[0]
        assert all(any(part in f" {text}" for text in PARAGRAPHS[:6]) for part in documents), "training ones"
        assert stage[1] < 300 or len(set(documents)) == stage[0], "whole ones are distinct"
        golden = documents[names.index(answer.strip(" |>"))]
        if queries[0].endswith("founded?"):
            asked_by_question += 1
            assert queries[0].split()[3] in " ".join(PARAGRAPHS) and any(
                str(1100 + k) in golden for k in range(6) if f"Town {queries[0].split()[3]} " in PARAGRAPHS[k]
            )
        else:
            assert all(word in golden for word in queries[0].split())
    assert (16 < asked_by_question < 48) if stage[2] else asked_by_question == 0


def test_the_shape_of_a_training_batch_depends_on_length_and_stage_alone(task):
    for stage in RECIPES["small"].stages:
        for length in {2, min(stage[0], 6)}:
            shapes = {
                tuple(
                    task.sample_stage(3, length, 1, torch.Generator().manual_seed(seed), stage)
                    .context["tokens"]
                    .shape
                )
                for seed in range(4)
            }
            assert len(shapes) == 1, (stage, length)


def test_sampling_reads_nothing_back_from_the_device(task, drawn_without_reading_back):
    batch, wanted = drawn_without_reading_back(task)
    assert batch.targets.shape == wanted.targets.shape


def test_keywords_and_questions_come_in_turn_and_each_has_its_metric(task):
    items = task.eval_set(6, 0)
    assert items.facts(3)["kind"] == ["keyword", "question"] * 3
    assert [bool(name) for name in items.facts(3)["question"]] == [False, True] * 3
    grades = items.grade(slice(0, 4), 3, items.targets[:4])
    assert torch.equal(grades["keyword"].isnan(), torch.tensor([False, True, False, True]))
    assert torch.equal(grades["question"].isnan(), torch.tensor([True, False, True, False]))
    assert grades["keyword"][0] == grades["question"][1] == 1
    wrong = items.targets[:4].clone()
    wrong[:, 2] += 1
    assert items.grade(slice(0, 4), 3, wrong)["keyword"][0] == 0


def test_items_about_one_article_are_a_cluster(task):
    items = task.eval_set(6, seed=0)
    articles = [task.squad.articles[at] for at in items.gold.tolist()]
    assert items.facts(2)["cluster"] == items.facts(4)["cluster"] == articles
    assert set(articles) <= {task.squad.articles[at] for at in task.squad.eval}


def test_items_ask_the_same_at_every_length_and_say_where_the_answer_is(task):
    items, asked = task.eval_set(8, 0), {}
    for length in (1, 2, 4):
        context = items.context(slice(0, 8), 0, 10_000, length)
        assert context["tokens"].shape[1] == items.num_tokens(length) == context["mask"].sum(dim=1).max()
        for row, (start, stop) in enumerate(items.spans(length)):
            _, slots = read(task, context, row)
            _, name, document = slots[items.facts(length)["place"][row]]
            assert len(slots) == length and name == f"{int(items.gold_id[row]):03d}"
            asked.setdefault(row, set()).update(query for query, _, _ in slots)
            assert document == " " + PARAGRAPHS[items.gold[row]]
            assert task.decode(context["tokens"][row, start:stop].tolist()) == document
    assert all(len(queries) == 1 for queries in asked.values()), "in all slots, at all lengths"
    assert len(set.union(*asked.values())) > 4, "items ask for different things"


def test_pieces_of_a_context_join_to_the_whole(task):
    items, every = task.eval_set(5, 0), slice(0, 5)
    whole = items.context(every, 0, items.num_tokens(4), 4)
    pieces = [items.context(every, a, b, 4) for a, b in ((0, 7), (7, 200), (200, items.num_tokens(4)))]
    for name, values in whole.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces], dim=1), values)


def test_more_documents_than_there_are_is_refused_with_the_maximum(task):
    with pytest.raises(
        UserError, match="5 documents were asked for; the maximum is 4: hand-made has 4 distinct"
    ):
        task.eval_set(4, 0).num_tokens(5)
    with pytest.raises(UserError, match="7 documents were asked for; the maximum is 6"):
        task.sample(2, 7, 1, torch.Generator().manual_seed(0))
    assert task.longest_training(1) == 6 and DocumentRetrieval().longest_training(1) is None
    recipe = replace(RECIPES["smoke"], train_length=4, eval_lengths=(2, 4))
    task.check(recipe)
    with pytest.raises(UserError, match="maximum is 4"):
        task.check(replace(recipe, eval_lengths=(2, 40)))
    DocumentRetrieval().check(replace(recipe, eval_lengths=(2, 40)))


def test_as_released_ids_are_not_padded_and_the_prompt_ends_with_a_blank(make):
    task = make(protocol="as_released")
    items = task.eval_set(40, 0)
    context = items.context(slice(0, 40), 0, 10_000, 9)
    assert context["mask"].any(dim=1).all(), "noise repeats, so nine documents can be had from four"
    short = 0
    for row in range(40):
        _, slots = read(task, context, row)
        assert {name for _, name, _ in slots} == {str(k) for k in items.layout(9).shelf.ids[row].tolist()}
        said, answer = spoken(task, *items.queries(slice(row, row + 1), 9, 1), 0)
        assert answer == f"{items.gold_id[row]}|>" and said.startswith(
            f" <|Answer|> <|Document {answer[:-2]}"
        )
        short += len(answer) < 5
    assert short, "some golden id has fewer than three digits"


def test_as_released_both_kinds_of_query_have_their_golden_document_at_even_and_odd_places(make):
    facts = make(protocol="as_released").eval_set(40, 0).facts(12)
    seen = {(kind, place % 2) for kind, place in zip(facts["kind"], facts["place"], strict=True)}
    assert seen == {("keyword", 0), ("keyword", 1), ("question", 0), ("question", 1)}


def test_the_fingerprint_of_items_changes_with_what_they_are_and_not_with_what_is_trained_on(make, task):
    items = task.eval_set(6, 0)
    assert make(question_share=0.1).eval_set(6, 0).fingerprint == items.fingerprint
    assert make(extra_text=False).eval_set(6, 0).fingerprint == items.fingerprint, "the data were the same"
    others = make(protocol="as_released").eval_set(6, 0), task.eval_set(8, 0), task.eval_set(6, 1)
    assert len({items.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize("protocol", ["clean", "as_released"])
def test_an_id_that_is_chosen_on_some_items_scores_chance_on_others(make, protocol):
    task, number = make(protocol=protocol), 20_000
    few, many = task.eval_set(200, 0), task.eval_set(number, 1)
    for metric, asks in zip(task.metrics, (False, True), strict=True):
        said = few.gold_id[few.asks == asks].mode().values
        right = (many.gold_id[many.asks == asks] == said).double().mean().item()
        chance = task.references(few, 1, metric)["chance"]
        assert abs(right - chance) < 4 * (chance / (number / 2)) ** 0.5
        assert chance == task.references(many, 1, metric)["chance"], "whatever items were drawn"


def test_a_tokenizer_that_cannot_write_ids_is_refused_with_what_can(make, no_digits):
    with pytest.raises(UserError) as refused:
        make(tokenizer=no_digits)
    assert str(refused.value) == (
        "tokenizer words cannot write the ids of documents: '000' comes back as '[UNK]'. Each must have "
        "tokens that decode to it; give --tokenizer bytes, --tokenizer bpe, or a tokenizers file that has "
        "tokens for digits"
    )


def test_a_tokenizer_that_takes_two_markers_for_one_is_refused(make, letters_and_digits, monkeypatch):
    monkeypatch.setattr(_documents, "ANSWER", " <|¿|>")
    monkeypatch.setattr(_documents, "QUERY", " <|¡|>")
    with pytest.raises(UserError, match=r"cannot tell its markers apart: .* are the same tokens\. Each must"):
        make(tokenizer=letters_and_digits())


def test_text_that_a_tokenizer_loses_is_named_beside_the_results(make, letters_and_digits):
    assert make().notice == "" == make(tokenizer=letters_and_digits("<|>.?")).notice
    lossy = make(tokenizer=letters_and_digits("<|>?"))
    assert re.fullmatch(
        r"Tokenizer letters does not give back \d+ of \d+ words that were tried, for instance 'Arnson\.', .*",
        lossy.notice,
    )
    both = make(data=replace(SQUAD, notice="Broken."), tokenizer=letters_and_digits())
    assert both.notice.startswith("Broken. Tokenizer letters ") and "'<|Query|>'" in both.notice


def test_books_join_the_training_documents_and_nothing_else(make, monkeypatch):
    words = " ".join(f"word{k}" for k in range(240))

    def books(name, data_dir):
        assert name == "gutenberg"
        return type("Texts", (), {"train": (words,), "fingerprint": "b" * 16})

    plain = make()
    monkeypatch.setitem(globals(), "_no_books", books)
    task = make()
    assert len(task.host.train.documents) == len(plain.host.train.documents) + 2
    assert torch.equal(task.host.eval.documents, plain.host.eval.documents)
    assert task.data_fingerprint != plain.data_fingerprint and "2 paragraphs of books" in task.data_source
    assert len(make(extra_text=False).host.train.documents) == 6


def test_a_plan_is_resolved_before_any_data_are_there():
    task = load_task(PluginRequest("document_retrieval", {}))
    options = dict(seeds=[0], preset="smoke", axes=Axes(), overrides={})
    methods = [PluginRequest("vanilla", {}), PluginRequest("slow_clock", {})]
    assert len(resolve_cells([("document_retrieval", task)], methods, **options)) == 2


@pytest.mark.parametrize(("protocol", "documents"), [("clean", 11), ("as_released", 12)])
def test_the_paper_preset_asks_questions_alone_among_as_many_documents(make, protocol, documents):
    task = make(protocol=protocol)
    recipe = task.recipe("paper", "causal")
    assert recipe.fixed_length and recipe.train_length == documents == recipe.stages[0][0]
    assert [task.share_of_questions(stage[2]) for stage in recipe.stages] == [1.0]
    assert (recipe.decay_all, recipe.untied, recipe.adam_epsilon) == (True, True, 1e-8)
    if protocol == "as_released":
        assert [n - 1 for n in recipe.eval_lengths][:3] == [10, 20, 30] and recipe.eval_lengths[-1] == 301
        assert task.share_of_questions(1) == 1.0, "what calibrates asks questions, too"
