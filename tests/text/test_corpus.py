"""Documents come from the best source at hand, split without overlap, and bad text is named."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgbench.errors import UserError
from lgbench.text import corpus as module
from lgbench.text.corpus import load_texts, sentences

pytestmark = pytest.mark.usefixtures("no_outside")

REAL_DATA = os.environ.get("LGBENCH_DATA")


def write(folder: Path, **texts: str | bytes) -> Path:
    """Files in a folder; `train__a` is `train/a.txt`, `wiki_test_raw` is `wiki.test.raw`."""
    for name, content in texts.items():
        file = name.replace("_", ".") if name.startswith("wiki") else name.replace("__", "/") + ".txt"
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def article(title: str, body: str = "Text .") -> str:
    return f" = {title} = \n \n {body} \n = = Part = = \n More of {title} . \n"


def wikitext_zip(path: Path, leave_out: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "valid", "test"):
            if split != leave_out:
                content = " \n" + "".join(article(f"{split} {number}") for number in range(3))
                archive.writestr(f"wikitext-2-raw/wiki.{split}.raw", content)
    return path


def test_books_are_read_in_the_layout_of_pg19(tmp_path):
    write(tmp_path / "gutenberg", train__b="Second.", train__a="\ufeffFirst.\r\nLine.", test__c="Third.")
    for name in ("auto", "gutenberg"):
        texts = load_texts(name, tmp_path)
        assert texts.train == ("First.\nLine.", "Second.") and texts.eval == ("Third.",)
        assert (texts.source, texts.notice) == ("gutenberg", "")


def test_books_that_are_not_there_are_asked_for(tmp_path):
    write(tmp_path / "gutenberg", train__a="Only to train on.")
    with pytest.raises(
        UserError, match=r"no gutenberg/train and gutenberg/test .* --data-dir or LGBENCH_DATA"
    ):
        load_texts("gutenberg", tmp_path)


def test_books_are_preferred_to_wikitext_by_auto_alone(tmp_path):
    write(tmp_path / "gutenberg", train__a="A.", test__b="B.")
    write(tmp_path / "wikitext-2-raw", train=article("T"), test=article("E"))
    assert load_texts("auto", tmp_path).source == "gutenberg"
    assert load_texts("wikitext", tmp_path).source == "wikitext-2-raw (train to train, test to evaluate)"


@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("wiki_train_raw", "wiki_valid_raw", "wiki_test_raw")]
)
def test_wikitext_trains_on_train_and_evaluates_on_test_by_article(tmp_path, names):
    contents = (" \n" + article("A") + article("B ( b )"), article("V"), article("E"))
    write(tmp_path / "wikitext-2-raw", **dict(zip(names, contents, strict=True)))
    texts = load_texts("wikitext", tmp_path)
    assert texts.train == (" \n" + article("A"), article("B ( b )")) and texts.eval == (article("E"),)
    assert texts.source == "wikitext-2-raw"


def test_one_split_of_wikitext_is_split_by_article_and_says_so(tmp_path):
    write(tmp_path / "wikitext-2-raw", validation="".join(article(f"Title {n}") for n in range(10)))
    texts = load_texts("wikitext", tmp_path)
    assert texts.source == "wikitext-2-raw (validation, split by article)"
    assert len(texts.train) == 8 and texts.eval == (article("Title 8"), article("Title 9"))


def test_a_single_article_cannot_be_split(tmp_path):
    write(tmp_path / "wikitext-2-raw", test=article("Alone"))
    with pytest.raises(UserError, match="wikitext-2-raw cannot be split: it has 1 articles"):
        load_texts("wikitext", tmp_path)


@pytest.mark.parametrize("name", ["auto", "wikitext"])
def test_wikitext_is_downloaded_when_nothing_is_here(name, server, monkeypatch, publish: Callable[..., None]):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    publish(wikitext_zip(server.folder / "wikitext-2-raw" / "wikitext-2-raw-v1.zip"))
    texts = load_texts(name)
    assert texts.source == "wikitext-2-raw" and texts.notice == ""
    assert texts.train[1:] == (article("train 1"), article("train 2")) and len(texts.eval) == 3
    load_texts(name)
    assert server.asked == ["/wikitext-2-raw/wikitext-2-raw-v1.zip"], "the second time it is in the cache"


def test_an_archive_without_a_split_is_refused(tmp_path, publish: Callable[..., None]):
    publish(wikitext_zip(tmp_path / "wikitext-2-raw-v1.zip", leave_out="test"))
    with pytest.raises(UserError, match=r"is not a whole archive of WikiText-2 \(.*wiki\.test\.raw"):
        load_texts("wikitext", tmp_path)


def test_auto_without_data_and_network_invents_prose_and_says_so():
    texts = load_texts("auto")
    assert texts.source == "procedural"
    assert texts.notice.startswith(
        "No books and no WikiText on this machine (no connection). Procedural prose"
    )
    with pytest.raises(UserError, match=r"Put wikitext-2-raw-v1\.zip into FOLDER/wikitext-2-raw/"):
        load_texts("wikitext")


def test_prose_asked_for_says_so_and_is_always_the_same():
    texts = load_texts("procedural")
    assert texts.notice.startswith("Procedural prose as asked for")
    assert (
        texts.fingerprint == "2491ad4f70098b5e"
    )  # a change changes the results of everyone who runs on prose


def test_a_folder_with_train_and_test_is_split_by_them(tmp_path):
    write(tmp_path / "mine", train__a="A.", train__b=" \n", test__a="B.")
    texts = load_texts(str(tmp_path / "mine"))
    assert (texts.train, texts.eval, texts.source) == (("A.",), ("B.",), "text mine")


def test_a_folder_with_named_splits_is_split_by_them(tmp_path):
    write(tmp_path / "mine", train="A.", test="B.", validation="C.")
    assert load_texts(str(tmp_path / "mine")).train == ("A.",)
    assert load_texts(str(tmp_path / "mine")).eval == ("B.",)


def test_a_folder_of_files_holds_out_the_last_fifth(tmp_path):
    write(tmp_path / "mine", **{f"t{number:02}": f"Text {number}." for number in range(11)})
    texts = load_texts(str(tmp_path / "mine"))
    assert len(texts.train) == 9 and texts.eval == ("Text 9.", "Text 10.")
    assert texts.source == "text mine (split by file)"


def test_one_file_is_split_by_position_between_two_words(tmp_path):
    folder = write(tmp_path / "mine", alone="one two three four five six seven eight nine ten")
    for path in (folder, folder / "alone.txt"):
        texts = load_texts(str(path))
        assert texts.train == ("one two three four five six seven eight ",) and texts.eval == ("nine ten",)
        assert texts.source == "text alone.txt (split by position)"


def test_the_fingerprint_follows_every_character_and_the_split(tmp_path):
    prints = set()
    for number, (train, evaluation) in enumerate([("ab", "c"), ("a", "bc"), ("ab", "d"), ("ab", "c ")]):
        folder = write(tmp_path / f"{number}", train__a=train, test__a=evaluation)
        prints.add(load_texts(str(folder)).fingerprint)
    assert len(prints) == 4 and all(len(each) == 16 for each in prints)


def test_more_than_fits_is_cut_by_file_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TRAIN_BYTES", 10)
    write(tmp_path / "gutenberg", train__a="A" * 6, train__b="B" * 4, train__c="C", test__d="D" * 20)
    texts = load_texts("gutenberg", tmp_path)
    assert texts.train == ("AAAAAA", "BBBB") and texts.eval == ("D" * 20,)
    assert texts.source == "gutenberg (first 2 of 3)"
    assert texts.notice.startswith("Training reads the first 2 of 3 texts")


@pytest.mark.parametrize(
    ("content", "offset"),
    [(b"caf\xe9 noir", "0xe9 at offset 3"), (b"\xef\xbb\xbfab\xff", "0xff at offset 5")],
)
def test_text_that_is_not_utf_8_is_named_with_its_offset(tmp_path, content, offset):
    write(tmp_path / "mine", train__bad=content, test__good="Good.")
    with pytest.raises(UserError, match=rf"train/bad\.txt is not UTF-8: byte {offset}\. Convert it"):
        load_texts(str(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"mine has no \*\.txt files, and no train/ and test/ with some"),
        ({"train__a": "A."}, r"mine has no \*\.txt files in test/"),
        ({"test__a": "A."}, r"mine has no \*\.txt files in train/"),
        ({"train__a": " \n", "test__a": "B."}, "train has no text to train on"),
        ({"train__a": "A.", "test__a": ""}, "train has no text to evaluate on"),
        ({"a": "A.", "b": "A."}, r"has the same text on both sides of the split: 'A\.'"),
        ({"a": "word"}, r"a\.txt has too little text to hold out a part of it: 4 characters"),
        ({"a": ""}, r"a\.txt has too little text"),
    ],
    ids=["empty", "no-test", "no-train", "blank-train", "blank-test", "shared", "short", "nothing"],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, files, message):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=message):
        load_texts(str(write(tmp_path / "mine", **files)))


def test_a_path_of_nothing_lists_the_names():
    with pytest.raises(UserError, match=r"text must be auto, gutenberg, .* there is no '/no/such/place'"):
        load_texts("/no/such/place")


@pytest.mark.parametrize(
    "pieces",
    [
        [
            "He left. ",
            '"Come!" she cried. ',
            "Mr. Smith and J. C. Beckham came. ",
            "No? ",
            '"Yes." ',
            "(It was.)",
        ],
        ["She spoke . \n", "It cost 3.5 pounds , e.g. in May . ", "And so on"],
        [" = Title = \n ", "First sentence . \n ", "= = Part = = \n ", "Second ."],
        ["A poem\nwithout a stop\n\n", "and another line"],
        ["``Where?'' ", "He went... ", "Then he slept.\n"],
        ["no capital. after the stop"],
        [],
    ],
    ids=["prose", "spaced", "wikitext", "verse", "quotes", "one", "empty"],
)
def test_sentences_end_where_a_reader_would_say(pieces):
    text = "".join(pieces)
    assert [text[start:stop] for start, stop in sentences(text)] == pieces


@given(st.text(alphabet="aB .!?\n\"'=M r", max_size=80))
def test_sentences_join_to_the_text_and_none_is_empty(text):
    spans = sentences(text)
    assert "".join(text[start:stop] for start, stop in spans) == text
    assert all(start < stop for start, stop in spans)
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]


@pytest.mark.skipif(not REAL_DATA, reason="real text: set LGBENCH_DATA to a folder that has it")
def test_real_wikitext_has_whole_articles():
    folder = Path(REAL_DATA) / "wikitext-2-raw"
    if not any((folder / name).is_file() for name in ("validation.txt", "wiki.valid.raw")):
        pytest.skip(f"no validation split of WikiText-2 in {folder}")
    path = module._split_files(folder)["validation"]
    assert len(module._articles(path.read_text(encoding="utf-8"))) == 60
