"""What tests of several tasks need."""

import string
from contextlib import contextmanager

import pytest
import torch

WAITING = ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy")
"""Methods of a tensor that wait for its device."""


@pytest.fixture
def no_reading_back(monkeypatch):
    """`with no_reading_back():` refuses whatever reads a value back from a device."""

    def refused(name):
        def refuse(*args, **kwargs):
            raise AssertionError(f"Tensor.{name} waits for the device")

        return refuse

    @contextmanager
    def guard():
        with monkeypatch.context() as patch:
            for name in WAITING:
                patch.setattr(torch.Tensor, name, refused(name))
            yield

    return guard


@pytest.fixture
def drawn_without_reading_back(no_reading_back):
    """`of(task)`: a batch of a document task drawn under the guard, and one drawn without it."""

    def of(task):
        asked = 2, 4, 1, torch.Generator().manual_seed(0), (4, 24, 1)
        free = task.sample_stage(*asked)
        with no_reading_back():
            guarded = task.sample_stage(*asked)
        return guarded, free

    return of


@pytest.fixture
def no_digits(tmp_path):
    """Path of a tokenizer of whole words that knows no number: each is as unknown as any other."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[UNK]": 0, "</s>": 1, "pass": 2, "key": 3, "Document": 4, "Query": 5, "Answer": 6, "|": 7}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "words.json"))
    return str(tmp_path / "words.json")


@pytest.fixture
def letters_and_digits(tmp_path):
    """`of(more)`: path of a tokenizer that knows letters, digits and these characters, and drops the rest."""
    tokenizers = pytest.importorskip("tokenizers")

    def of(more=""):
        known = ["<unk>", "</s>", "\u2581", *string.ascii_letters, *string.digits, *more]
        model = tokenizers.models.BPE({c: at for at, c in enumerate(known)}, [], unk_token="<unk>")
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        backend.decoder = tokenizers.decoders.Metaspace()
        backend.add_special_tokens(["<unk>", "</s>"])
        backend.save(str(tmp_path / "letters.json"))
        return str(tmp_path / "letters.json")

    return of
