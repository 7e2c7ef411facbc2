"""The embedded prose and facts are the same for everyone, and what is evaluated on was not trained on."""

import re
import zlib

import pytest
from lgbench.tasks._documents import facts

from lgbench.text import invent, prose
from lgbench.text.corpus import sentences

pytestmark = pytest.mark.usefixtures("no_outside")

NAME = re.compile(r"(?<=\w[ ,])[A-Z][a-z]{3,}")


def spoken(books: tuple[str, ...]) -> set[str]:
    return {book[start:stop].strip() for book in books for start, stop in sentences(book)}


def test_books_are_long_enough_for_long_contexts_and_whole():
    train, evaluation = prose.books()
    assert (len(train), len(evaluation)) == (prose.NUM_TRAIN, prose.NUM_EVAL)
    for book in train + evaluation:
        assert prose.BOOK_CHARS <= len(book) < prose.BOOK_CHARS + 1_000
        assert book.isascii() and book.endswith("\n") and "<" not in book
        assert not re.search(r"\ba [aeiou]", book)


def test_books_of_the_two_sides_share_no_name_and_hardly_a_sentence():
    train, evaluation = prose.books()
    ours, theirs = ({name for book in side for name in NAME.findall(book)} for side in (train, evaluation))
    days = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
    assert ours & theirs == days
    shared = spoken(train) & spoken(evaluation)
    assert len(shared) < 0.02 * len(spoken(evaluation))
    assert all(text.startswith(('"', "CHAPTER")) for text in shared), "short answers within quotations alone"


def test_prose_is_neither_repetition_nor_noise():
    (book, *_), _ = prose.books()
    packed = len(zlib.compress(book.encode(), 9)) / len(book)
    assert 0.15 < packed < 0.35, "novels are near 0.4, one repeated sentence near 0"


def test_a_paragraph_reads_like_this():
    (book, *_), _ = prose.books()
    assert book.split("\n\n")[:3] == [
        "THE BREWER OF THIESAN",
        "CHAPTER 1",
        "Krarel, who was a baker, built the grey kettle for Fliran. Krarel showed Fliran the red "
        "spoon in summer. There stood the grey rope beside the inn, and nobody knew why. She "
        "weighed the red bottle, and she discovered some onions opposite the quarry.",
    ]


def test_facts_are_distinct_paragraphs_of_readable_length():
    texts = [text for article in facts.articles() for text, _ in article]
    assert len(texts) == len(set(texts)) == (facts.NUM_TRAIN + facts.NUM_EVAL) * facts.NUM_PARAGRAPHS
    assert all(40 <= len(text.split()) <= 120 for text in texts)


def test_every_fact_is_in_its_paragraph_and_asked_for_by_name():
    for article in facts.articles():
        for text, asked in article:
            name = text.split()[0]
            assert 6 <= len(asked) <= 8
            for question, answer in asked:
                assert name in question and question.endswith("?") and question[0].isupper()
                assert re.search(rf"\b{answer}\b", text)
    questions = [question for article in facts.articles() for _, asked in article for question, _ in asked]
    assert len(questions) == len(set(questions))


def test_facts_of_the_two_sides_share_no_name():
    articles = facts.articles()
    sides = articles[: facts.NUM_TRAIN], articles[facts.NUM_TRAIN :]
    ours, theirs = ({text.split()[0] for article in side for text, _ in article} for side in sides)
    assert len(ours) == 3_200 and len(theirs) == 800 and not ours & theirs
    people = [
        {answer for article in side for _, asked in article for question, answer in asked if "Who" in question
         and " " in answer} for side in sides
    ]  # fmt: skip
    assert all(people) and not people[0] & people[1]


def test_a_fact_reads_like_this():
    text, asked = facts.articles()[0][0]
    assert text == (
        "Prainudost is a ship of Wamoalvik. There were 876 bunks below deck. It sank within sight "
        "of the island of Pilonoe. Its first captain was Rembielvow Stokeinost, a quiet and careful "
        "man. It was launched in 1765 in front of a large crowd. On its last voyage it carried "
        "cheese and nothing else. The hull of the ship was made of cedar. Its sails were white, so "
        "that it was seen from afar. A carved beetle decorated its bow."
    )
    assert asked[0] == ("How many bunks did Prainudost have?", "876")


def test_names_are_never_repeated_and_chance_keeps_its_limits():
    stream = invent.names(invent.Chance(3))
    drawn = [next(stream) for _ in range(40_000)]
    assert len(set(drawn)) == 40_000 and all(name.isalpha() and name.istitle() for name in drawn)
    chance = invent.Chance(4)
    assert {chance.between(2, 4) for _ in range(200)} == {2, 3, 4}
    assert sorted(chance.sample(range(5), 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("she had a owl and a dog.", "She had an owl and a dog."),
        ('"a old man," he said. "come in."', '"An old man," he said. "Come in."'),
        ("a umbrella", "An umbrella"),
    ],
)
def test_spelling_of_articles_and_beginnings(text, expected):
    assert invent.spelled(text) == expected
