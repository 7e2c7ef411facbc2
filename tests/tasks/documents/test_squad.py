"""Questions belong to their paragraphs, no article is on both sides, and broken records are named."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lgbench.tasks._documents import squad
from lgbench.tasks._documents.squad import DEV_FILE, TRAIN_FILE, Question, Squad, load_squad
from lgbench.tasks._documents.squad_score import describe_language

from lgbench.data import fetch
from lgbench.errors import UserError
from lgbench.plugins import registry

pytestmark = pytest.mark.usefixtures("no_outside")

REAL_DATA = os.environ.get("LGBENCH_DATA")


def question(name: str, *answers: str, **changed: object) -> dict:
    record = {"id": name, "question": f"What is {name}?", "answers": [{"text": text} for text in answers]}
    return record | {"is_impossible": not answers} | changed


def paragraph(context: str, *questions: dict) -> dict:
    return {"context": context, "qas": list(questions)}


def article(title: str, *paragraphs: dict) -> dict:
    return {"title": title, "paragraphs": list(paragraphs)}


def plain(title: str, num_paragraphs: int = 1) -> dict:
    """An article whose paragraphs answer a question each."""
    paragraphs = [
        paragraph(f"{title} {number} is a number.", question(f"{title}-{number}", f"{number}"))
        for number in range(num_paragraphs)
    ]
    return article(title, *paragraphs)


def write(path: Path, *articles: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"version": "v2.0", "data": articles}).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def check_consistent(data: Squad) -> None:
    """What holds for every source."""
    assert sorted(data.train + data.eval) == list(range(len(data.paragraphs)))
    assert len(set(data.paragraphs)) == len(data.paragraphs) == len(data.articles)
    assert not {data.articles[at] for at in data.train} & {data.articles[at] for at in data.eval}
    assert len({each.id for each in data.questions}) == len(data.questions)
    for each in data.questions:
        assert each.answers and len(set(each.answers)) == len(each.answers)
        assert all(answer in data.paragraphs[each.paragraph] for answer in each.answers)
    asked = {each.paragraph for each in data.questions}
    assert asked & set(data.train) and asked & set(data.eval)
    assert data.num_broken == len(data.broken) and len(data.fingerprint) == 16


def test_records_are_read_as_published(tmp_path):
    first = paragraph(
        "Oil rose to nearly $12 in 1974.",
        question("a", "nearly $12", "$12", "$12", question=" How much was oil? "),
        question("b", is_impossible=True, plausible_answers=[{"text": "1974"}]),
    )
    write(tmp_path / "squad" / TRAIN_FILE, article("Oil", first, paragraph("No question here.")))
    write(tmp_path / "squad" / DEV_FILE, article("Rain", paragraph("It fell in May.", question("c", "May"))))
    data = load_squad("squad", tmp_path)
    check_consistent(data)
    assert data.paragraphs == ("It fell in May.", "Oil rose to nearly $12 in 1974.", "No question here.")
    assert (data.train, data.eval, data.articles) == ((1, 2), (0,), (0, 1, 1))
    assert data.questions == (
        Question(id="c", text="What is c?", answers=("May",), paragraph=0),
        Question(id="a", text="How much was oil?", answers=("nearly $12", "$12"), paragraph=1),
    )
    assert (data.source, data.notice, data.num_broken) == ("squad", "", 0)


@pytest.mark.parametrize("place", [DEV_FILE, f"squad/{DEV_FILE}.gz", f"{TRAIN_FILE}.gz"])
def test_one_file_is_split_by_article(tmp_path, place):
    path = write(tmp_path / place, *(plain(f"T{number}", 100) for number in range(15)))
    data = load_squad("auto", tmp_path)
    check_consistent(data)
    assert {data.articles[at] for at in data.eval} == {12, 13, 14}
    assert data.source == f"squad {path.name.partition('.json')[0]} (split by article)"


@pytest.mark.parametrize(
    ("num_articles", "num_paragraphs", "held_out"),
    [(10, 100, 2), (10, 60, 4), (10, 10, 5), (10, 200, 2), (2, 1, 1), (3, 300, 1)],
)
def test_enough_paragraphs_are_held_out_but_never_more_than_half_of_the_articles(
    tmp_path, num_articles, num_paragraphs, held_out
):
    write(tmp_path / DEV_FILE, *(plain(f"T{number}", num_paragraphs) for number in range(num_articles)))
    data = load_squad("squad", tmp_path)
    assert len(data.eval) == held_out * num_paragraphs


def test_a_paragraph_that_is_met_twice_is_one_and_is_held_out_if_either_is(tmp_path):
    shared = "Rome is old."
    write(
        tmp_path / TRAIN_FILE,
        article("A", paragraph(shared, question("a", "Rome")), paragraph("B is B.", question("b", "B"))),
    )
    write(
        tmp_path / DEV_FILE,
        article("C", paragraph(shared, question("c", "old")), paragraph(shared, question("d", "is"))),
    )
    data = load_squad("squad", tmp_path)
    check_consistent(data)
    assert data.paragraphs == (shared, "B is B.") and data.eval == (0,)
    assert [each.paragraph for each in data.questions] == [0, 0, 0, 1]


def test_broken_records_are_skipped_counted_and_named(tmp_path):
    context = "The lake is deep."
    write(
        tmp_path / DEV_FILE,
        article(
            "Lakes",
            paragraph(
                context,
                question("good", "deep"),
                question("absent", "shallow"),
                question("half", "deep", "shallow"),
                question("empty", is_impossible=False),
                question("blank", " "),
                question("unasked", "deep", question=None),
                {"question": "Who?", "answers": [{"text": "lake"}]},
                question("odd", "deep", answers=["deep"]),
                "no record",
            ),
            {"qas": []},
            {"context": "No list."},
            7,
        ),
        "no article",
        {"title": "No paragraphs"},
        plain("Seas"),
    )
    data = load_squad("squad", tmp_path)
    check_consistent(data)
    unnamed = f"{DEV_FILE}: article Lakes, paragraph 0, question 6"
    assert [each.id for each in data.questions] == ["good", unnamed, "Seas-0"]
    lakes = f"{DEV_FILE}: article Lakes, paragraph"
    assert data.broken == (
        f"{lakes} 0, question absent: answer 'shallow' is not in its paragraph",
        f"{lakes} 0, question half: answer 'shallow' is not in its paragraph",
        f"{lakes} 0, question empty: no answers",
        f"{lakes} 0, question blank: an answer without text",
        f"{lakes} 0, question unasked: no question",
        f"{lakes} 0, question odd: an answer without text",
        f"{lakes} 0, question 8: no record",
        f"{lakes} 1: no context",
        f"{lakes} 2: no list of questions",
        f"{lakes} 3: no context",
        f"{DEV_FILE}: article 1: no list of paragraphs",
        f"{DEV_FILE}: article No paragraphs: no list of paragraphs",
    )
    assert data.notice.startswith(f"12 broken records are skipped: {data.broken[0]}; ")
    assert data.notice.endswith("; and 9 more.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "is not a JSON file: "),
        (b'{"data": "\xff"}', "is not a JSON file: .*utf-8"),
        (b"[]", "is not a file of SQuAD 2.0: it has no list of articles"),
        (b'{"data": 3}', "is not a file of SQuAD 2.0"),
        (b'{"data": []}', "has no answerable question; 0 records are broken"),
        (b'{"data": [1, 2]}', "has no answerable question; 2 records are broken"),
    ],
)
def test_a_file_that_is_not_squad_is_refused(tmp_path, content, message):
    (tmp_path / DEV_FILE).write_bytes(content)
    with pytest.raises(UserError, match=f"{DEV_FILE} {message}"):
        load_squad("auto", tmp_path)


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / f"{DEV_FILE}.gz", plain("A"), plain("B"))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match=r"dev-v2\.0\.json\.gz cannot be read: "):
        load_squad("auto", tmp_path)


def test_a_file_that_leaves_nothing_to_train_on_is_refused(tmp_path):
    write(tmp_path / DEV_FILE, plain("A"))
    with pytest.raises(UserError, match=r"cannot be split by article: it has 1"):
        load_squad("squad", tmp_path)
    write(tmp_path / TRAIN_FILE, plain("A"))
    with pytest.raises(UserError, match=r"has no paragraph that is not in .*, too"):
        load_squad("squad", tmp_path)


@pytest.mark.parametrize("name", ["auto", "squad"])
def test_both_files_are_downloaded_when_nothing_is_here(
    name, server, monkeypatch, publish: Callable[..., None]
):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    publish(
        write(server.folder / "squad" / TRAIN_FILE, plain("A", 3)),
        write(server.folder / "squad" / DEV_FILE, plain("B", 2)),
    )
    for _ in range(2):
        data = load_squad(name)
        check_consistent(data)
        assert (data.source, len(data.train), len(data.eval)) == ("squad", 3, 2)
    assert server.asked == [f"/squad/{TRAIN_FILE}", f"/squad/{DEV_FILE}"], (
        "the second time they are in the cache"
    )


def test_a_damaged_download_is_replaced(server, monkeypatch, publish: Callable[..., None]):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    publish(
        write(server.folder / "squad" / TRAIN_FILE, plain("A", 3)),
        write(server.folder / "squad" / DEV_FILE, plain("B", 2)),
    )
    write(fetch.cache_dir() / "squad" / DEV_FILE, plain("C", 2))
    assert load_squad("squad").paragraphs[0] == "B 0 is a number."


def test_auto_without_data_and_network_invents_facts_and_says_so():
    data = load_squad("auto")
    check_consistent(data)
    assert data.source == "procedural" and (len(data.train), len(data.eval)) == (3_200, 800)
    assert data.notice.startswith("No SQuAD on this machine (no connection). Invented facts are used instead")
    with pytest.raises(UserError, match=r"cannot download .*Put train-v2\.0\.json into FOLDER/squad/"):
        load_squad("squad")


def test_facts_asked_for_say_so_and_are_always_the_same():
    data = load_squad("procedural")
    check_consistent(data)
    assert data.notice.startswith("Invented facts as asked for") and data.num_broken == 0
    assert (
        data.fingerprint == "b633e306ee1d1919"
    )  # a change changes the results of everyone who runs on facts


def test_another_source_is_refused():
    with pytest.raises(
        UserError, match=r"must be auto, squad, procedural, or the path .* 'triviaqa' does not"
    ):
        load_squad("triviaqa")


@pytest.mark.parametrize("name", ["mine.json", "mine.json.gz", "mine", "folder/data.v2.json"])
def test_a_file_may_be_named_by_its_path_and_is_split_by_article(tmp_path, name, monkeypatch):
    monkeypatch.setenv("LGBENCH_DATA", str(tmp_path / "official"))
    write(tmp_path / "official" / DEV_FILE, plain("Elsewhere", 4), plain("There", 4))
    lakes = paragraph("A lake is deep.", question("good", "deep"), question("absent", "shallow"))
    path = write(tmp_path / name, article("Lakes", lakes), *(plain(f"T{number}") for number in range(4)))
    data = load_squad(str(path))
    check_consistent(data)
    assert data.source == f"squad {path.name.partition('.json')[0]} (split by article)"
    assert data.paragraphs[0] == "A lake is deep." and "Elsewhere 0 is a number." not in data.paragraphs
    assert data.num_broken == 1 and data.notice == (
        f"1 broken records are skipped: {path.name}: article Lakes, paragraph 0, question absent: answer "
        "'shallow' is not in its paragraph."
    )
    monkeypatch.chdir(path.parent)
    assert load_squad(path.name) == data


@pytest.mark.parametrize("name", ["document_retrieval", "multidoc_qa"])
def test_tasks_take_the_path_of_a_file_and_their_rows_name_it(tmp_path, name):
    path = write(tmp_path / "mine.json.gz", *(plain(f"T{number}", 5) for number in range(4)))
    task = registry.TASKS.load(name)
    made = task(task.Params(data=str(path), tokenizer="bytes"))
    made.prepare(torch.device("cpu"))
    assert made.data_source == "squad mine (split by article), bytes"
    assert str(tmp_path) not in made.data_source + made.notice and len(made.squad.paragraphs) == 20


def test_a_path_that_cannot_be_read_says_what_can(tmp_path):
    (tmp_path / "mine.txt").write_text("no json")
    with pytest.raises(UserError, match=r"mine\.txt is not a JSON file: "):
        load_squad(str(tmp_path / "mine.txt"))
    with pytest.raises(
        UserError, match=r"the path of a SQuAD 2\.0 file, \.json or \.json\.gz; '.*' is a folder"
    ):
        load_squad(str(tmp_path))


@pytest.mark.skipif(not REAL_DATA, reason="real SQuAD: set LGBENCH_DATA to a folder that has it")
def test_real_squad_is_whole():
    if squad._find(DEV_FILE, REAL_DATA) is None:
        pytest.skip(f"no SQuAD in {REAL_DATA}")
    data = load_squad("squad", REAL_DATA)
    check_consistent(data)
    assert data.num_broken == 0 and len(data.eval) >= squad.MIN_EVAL_PARAGRAPHS
    if data.source.startswith("squad dev"):
        assert (len(data.paragraphs), len(data.questions), len(set(data.articles))) == (1_204, 5_928, 35)


def test_an_id_of_a_question_is_a_label_of_any_kind(tmp_path):
    path = tmp_path / "ids.json"
    asked = {
        "question": "What stands near the mill?",
        "answers": [{"text": "The red barn", "answer_start": "0"}],
    }
    articles = [
        {
            "title": name,
            "paragraphs": [{"context": f"The red barn stands near mill {name}.", "qas": [record]}],
        }
        for name, record in (("A", {"id": 959, **asked}), ("B", asked))
    ]
    path.write_text(json.dumps({"data": articles}))
    data = load_squad(str(path))
    assert data.questions[0].id == "959" and len(data.questions) == 2


def test_a_file_without_a_usable_question_is_refused_with_its_first_reasons(tmp_path):
    path = tmp_path / "none.json"
    record = {"id": 1, "question": "Who?", "answers": [{"text": "nobody here"}]}
    article = {"title": "A", "paragraphs": [{"context": "The red barn.", "qas": [record]}]}
    path.write_text(json.dumps({"data": [article]}))
    with pytest.raises(UserError, match="question 1: answer 'nobody here' is not in its"):
        load_squad(str(path))


def test_texts_that_are_not_english_are_scored_with_a_notice():
    russian = ["Старый дом стоял у реки. Вечером в нём горел огонь."] * 50
    assert "do not read as English" in describe_language(russian)
    assert describe_language(load_squad("procedural").paragraphs) == ""
    assert describe_language([]) == ""


@pytest.mark.parametrize("place", ["context", "question", "text"])
def test_text_that_utf8_cannot_write_is_a_broken_record(tmp_path, place):
    half = json.loads('"\\ud800"')
    answer = {"text": "the cat" + half * (place == "text")}
    question = {"id": 1, "question": "Who?" + half * (place == "question"), "answers": [answer]}
    odd = {"context": f"the cat{half if place != 'question' else ''} sat", "qas": [question]}
    fine = {"context": "a dog ran", "qas": [{"id": 2, "question": "Who?", "answers": [{"text": "a dog"}]}]}
    articles = [
        {"title": f"{half}[/b]", "paragraphs": [fine | {"context": f"a dog ran {k}"}]} for k in (1, 2)
    ]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"data": [*articles, {"title": half, "paragraphs": [odd]}]}), encoding="utf-8")
    squad = load_squad(str(path))
    assert squad.num_broken == 1 and len(squad.questions) == 2
    assert squad.notice.encode() and "\\ud800" in squad.notice


def test_a_packed_file_that_grows_without_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lgbench.tasks._documents.squad.MOST_BYTES", 10_000)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(UserError, match="has more than 10,000 bytes"):
        load_squad(str(path))
