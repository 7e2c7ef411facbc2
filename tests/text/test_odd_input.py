"""Texts and tokenizers unlike English and GPT: each gives right items, or one line that says why not."""

import random

import pytest

from lgbench.errors import UserError
from lgbench.text.corpus import LONGEST_PIECE, load_texts, sentences
from lgbench.text.tokenizer import make_tokenizer

WORDS = ["снег", "дом", "река", "шёл", "потом", "старый", "вечер", "огонь", "долго", "молча"]


def pieces(text):
    found = sentences(text)
    assert "".join(text[a:b] for a, b in found) == text
    return [text[a:b] for a, b in found]


def running(mark, num=400):
    """Sentences of small letters: no capital ever follows a mark."""
    rng = random.Random(0)
    return "".join(" ".join(rng.choices(WORDS, k=8)) + mark for _ in range(num))


@pytest.mark.parametrize("mark", [". ", "! ", "… ", "؟ ", "। "])
def test_sentences_of_any_script_end_at_their_marks(mark):
    assert len(pieces(running(mark))) == 400


@pytest.mark.parametrize("mark", ["。", "！", "？"])
def test_marks_that_no_white_space_follows_end_sentences(mark):
    assert len(pieces(("雪" * 12 + mark) * 300)) == 300


def test_lines_end_sentences_where_nothing_else_does():
    assert len(pieces(("слово " * 12 + "\n") * 200)) == 200


def test_words_are_pieces_where_there_are_neither_marks_nor_lines():
    assert len(pieces("слово " * 500)) == 500


def test_a_text_without_white_space_is_cut_into_equal_pieces():
    found = pieces("ACGT" * 2500)
    assert len(found) == 10_000 // LONGEST_PIECE and {len(piece) for piece in found} == {LONGEST_PIECE}


def test_english_prose_keeps_its_sentences():
    text = "Mr. Hale slept. He dreamt of 3.5 miles, and of e.g. rain. Then it rained!\n\nMorning came." * 40
    assert pieces(text)[:2] == ["Mr. Hale slept. ", "He dreamt of 3.5 miles, and of e.g. rain. "]


def test_one_line_without_white_space_is_split_anyway(tmp_path):
    path = tmp_path / "dna.txt"
    path.write_text("ACGTTGCA" * 1000)
    texts = load_texts(str(path))
    assert len(texts.eval[0]) == pytest.approx(8000 / 5, abs=1)


def test_a_pointer_of_git_lfs_is_called_one(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345678\n"
    )
    with pytest.raises(UserError, match=r"pointer of Git LFS.*git lfs pull"):
        load_texts(str(path))


def test_files_that_a_system_keeps_beside_others_are_skipped(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"The story of {name}. It is short. " * 5)
    (tmp_path / "._a.txt").write_bytes(b"\x00\x05\x16\x07\xff\xfe")
    assert len(load_texts(str(tmp_path)).train) == 1


def test_a_name_that_is_no_utf8_can_be_stored(tmp_path):
    path = tmp_path / "caf\udce9.txt"
    try:
        path.write_text("Un soir. Une tasse. " * 50)
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    assert load_texts(str(path)).source.encode() == "text caf\ufffd.txt (split by position)".encode()


def test_a_tilde_that_names_no_user_is_part_of_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~book.txt").write_text("A night. A day. " * 50)
    assert "~book.txt" in load_texts("~book.txt").source


@pytest.fixture
def tokenizer_file(tmp_path):
    """`tokenizer_file(model, **parts)` → path of a saved tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")

    def save(model, **parts):
        backend = tokenizers.Tokenizer(model(tokenizers))
        for name, part in parts.items():
            setattr(backend, name, part(tokenizers))
        backend.add_special_tokens(["</s>"])
        backend.save(str(tmp_path / "tokenizer.json"))
        return str(tmp_path / "tokenizer.json")

    return save


def test_a_tokenizer_without_unknown_token_names_the_piece_that_it_cannot_encode(tokenizer_file):
    path = tokenizer_file(
        lambda t: t.models.WordLevel({"a": 0, "dog": 1}, unk_token="[UNK]"),
        pre_tokenizer=lambda t: t.pre_tokenizers.Whitespace(),
    )
    tokenizer = make_tokenizer(path, [])
    assert tokenizer.encode("a dog") == [0, 1]
    with pytest.raises(UserError, match=r"cannot encode 'a zebra'.*--tokenizer bytes or bpe"):
        tokenizer.encode("a zebra")


def test_pieces_of_a_tokenizer_that_prepends_blanks_join_as_in_one_text(tokenizer_file):
    letters = {piece: at for at, piece in enumerate(["▁", "a", "b", "c", "▁a", "▁b", "▁c"])}
    path = tokenizer_file(
        lambda t: t.models.BPE(letters, [("▁", "a"), ("▁", "b"), ("▁", "c")]),
        normalizer=lambda t: t.normalizers.Sequence(
            [t.normalizers.Prepend("▁"), t.normalizers.Replace(" ", "▁")]
        ),
    )
    tokenizer = make_tokenizer(path, [])
    assert tokenizer.encode("a b c") == tokenizer.encode("a") + tokenizer.encode(" b") + tokenizer.encode(
        " c"
    )
