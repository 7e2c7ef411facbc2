"""Ids stand for the text that was given, and what is no tokenizer is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgbench.errors import UserError
from lgbench.text import tokenizer as module
from lgbench.text.prose import books
from lgbench.text.tokenizer import END_OF_TEXT, ByteTokenizer, make_tokenizer

pytestmark = pytest.mark.usefixtures("no_outside")

TEXTS = ("The baker sold 17 loaves.\n" * 20 + books()[0][0][:30_000], "El río mide 42 km. " * 50)


@pytest.fixture(scope="module")
def bpe():
    pytest.importorskip("tokenizers")
    return make_tokenizer("bpe", TEXTS)


def test_bytes_are_the_ids_of_utf_8():
    tokenizer = make_tokenizer("bytes", [])
    assert tokenizer.encode("A é\n") == [65, 32, 195, 169, 10]
    assert (tokenizer.name, tokenizer.size, tokenizer.end) == ("bytes", 257, 256)


def test_bytes_that_are_no_text_are_decoded_all_the_same():
    assert ByteTokenizer().decode([72, 105, 256, 195, -1, 9999]) == "Hi\ufffd"


@given(st.text())
def test_bytes_decode_to_the_text_that_was_encoded(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.end not in ids
    assert tokenizer.encode_array(text).tolist() == ids


def test_bpe_has_all_its_entries_and_splits_digits(bpe):
    assert bpe.size <= module.BPE_SIZE and bpe.decode([bpe.end]) == ""
    pieces = [bpe.decode([at]) for at in bpe.encode("The baker sold 1907 loaves.")]
    assert pieces == ["The", " baker", " sold", " ", "1", "9", "0", "7", " loaves", "."]


def test_bpe_of_enough_text_has_4096_entries():
    pytest.importorskip("tokenizers")
    words = " ".join(f"{first}{second}{third}" for first in "abcdefghijklmnopqrst" for second in "aeiouxyz"
                     for third in "bcdfghjklmnpqrstvwxyz")  # fmt: skip
    assert make_tokenizer("bpe", [words * 2, *books()[0][:2]]).size == 4096


@given(st.text(max_size=60))
@settings(deadline=None)
def test_bpe_decodes_to_any_text_that_was_encoded(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text and bpe.end not in ids
    array = bpe.encode_array(text)
    assert array.tolist() == ids and array.dtype == np.int32


def test_a_text_that_spells_the_end_does_not_end(bpe):
    ids = bpe.encode(f"a{END_OF_TEXT}b")
    assert bpe.end not in ids and bpe.decode(ids) == f"a{END_OF_TEXT}b"


def test_bpe_decodes_ids_that_it_does_not_have(bpe):
    assert bpe.decode([-5, 10**9, bpe.end, *bpe.encode("ok")]) == "ok"


def test_bpe_is_the_same_in_another_process_and_for_other_texts_another(bpe):
    code = (
        "from lgbench.text.tokenizer import make_tokenizer; from lgbench.text.prose import books\n"
        f"texts = ('The baker sold 17 loaves.\\n' * 20 + books()[0][0][:30_000], {TEXTS[1]!r})\n"
        "print(make_tokenizer('bpe', texts).fingerprint)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == bpe.fingerprint != make_tokenizer("bpe", ["other text"]).fingerprint


def test_auto_is_bpe_where_it_can_be_trained_and_bytes_elsewhere(monkeypatch):
    pytest.importorskip("tokenizers")
    assert make_tokenizer("auto", ["a text"]).name == "bpe"
    monkeypatch.setattr(module, "is_bpe_available", lambda: False)
    assert make_tokenizer("auto", ["a text"]).name == "bytes"


def test_without_the_package_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "is_bpe_available", lambda: False)
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("bpe", str(tmp_path)):
        with pytest.raises(UserError, match=r'pip install "lgbench\[hub\]", or take --tokenizer bytes'):
            make_tokenizer(name, [])


def save(folder: Path, special: str, config: object = None) -> Path:
    """A word-level tokenizer that prefixes its text, saved as the package saves."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[UNK]": 0, special: 1, "red": 2, "house": 5}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{special} $A", special_tokens=[(special, 1)]
    )
    backend.add_special_tokens([special])
    backend.enable_truncation(2)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_file_or_its_folder_is_read_without_prefix_and_truncation(tmp_path):
    folder = save(tmp_path / "mine", END_OF_TEXT)
    for path in (folder, folder / "tokenizer.json"):
        tokenizer = make_tokenizer(str(path), [])
        assert tokenizer.encode("red house red blue") == [2, 5, 2, 0]
        assert (tokenizer.size, tokenizer.end) == (6, 1)
    assert make_tokenizer(str(folder), []).name == "mine"
    assert len(tokenizer.fingerprint) == 16


@pytest.mark.parametrize(
    ("special", "config"),
    [
        ("</s>", None),
        ("<fin>", {"eos_token": "<fin>"}),
        ("<fin>", {"eos_token": {"content": "<fin>"}}),
        (END_OF_TEXT, {"eos_token": None}),
        (END_OF_TEXT, ["no such key"]),
    ],
)
def test_the_end_is_the_one_that_the_folder_names_or_a_usual_one(tmp_path, special, config):
    assert make_tokenizer(str(save(tmp_path / "mine", special, config)), []).end == 1


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    folder = save(tmp_path / "mine", "<fin>")
    with pytest.raises(UserError, match=r"has no token that ends a text; looked for <\|endoftext\|>, </s>"):
        make_tokenizer(str(folder), [])


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": 3}', b"\xff\xfe", b"no json"])
def test_a_file_that_is_no_tokenizer_is_refused_in_one_line(tmp_path, content):
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"tokenizer\.json is not a file of the tokenizers package: "
    ) as caught:
        make_tokenizer(str(tmp_path), [])
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_and_a_name_of_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer\.json\. .* give --tokenizer bytes, bpe, or"):
        make_tokenizer(str(tmp_path), [])
    with pytest.raises(UserError, match=r"tokenizer must be auto, bytes, bpe, or the path .* 'gpt9' is none"):
        make_tokenizer("gpt9", [])
    with pytest.raises(UserError, match=r"tokenizer must be auto, bytes, bpe, or the path .* '' is none"):
        make_tokenizer("", [])
