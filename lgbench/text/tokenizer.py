"""Text to token ids and back: plain bytes, a small BPE trained on the spot, or any `tokenizers` file.

    bytes   "I am 42"  ->  73 32 97 109 32 52 50          one id a byte of UTF-8, 256 ends a text
    bpe     "I am 42"  ->  I | Ġam | Ġ | 4 | 2            byte-level, so that no text is out of vocabulary;
                                                         digits stand alone, so that a number is spelled out

The vocabulary of `bpe` is the same for the same texts on every machine; its fingerprint says which it is.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lgbench.data.paths import user_path
from lgbench.errors import UserError

if TYPE_CHECKING:
    import tokenizers

BPE_SIZE = 4096
"""Entries of the trained vocabulary, the 256 bytes and the end of text included."""

END_OF_TEXT = "<|endoftext|>"

_FILE_NAME = "tokenizer.json"
_END_NAMES = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[EOS]")
"""What tokenizer files call their end of text, if no `tokenizer_config.json` beside them says so."""


class Tokenizer(Protocol):
    """What tasks may rely on."""

    name: str

    fingerprint: str
    """16 hex digits that change with the vocabulary; equal ones give equal ids."""

    size: int
    """Ids are below it, that of the end of text included."""

    end: int
    """Id that ends a text. `decode` drops it, and no text is encoded to it."""

    def encode(self, text: str) -> list[int]: ...

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as int32 `(num_tokens,)`, for whole books."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids. Never raises: what is no UTF-8 becomes U+FFFD, unknown ids vanish."""
        ...

    def file(self) -> tuple[str, str]:
        """The text of a `tokenizer.json` that gives the same ids, and what its end of text is called."""
        ...


class ByteTokenizer:
    """One id a byte of UTF-8."""

    name = "bytes"
    fingerprint = "bytes"
    size = 257
    end = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_array(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(at) for at in ids if 0 <= at < 256).decode(errors="replace")

    def file(self) -> tuple[str, str]:
        """A BPE without merges: one id for each of the 256 characters that stand for bytes."""
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        end = {"id": self.end, "content": END_OF_TEXT, "special": True} | dict.fromkeys(
            ("single_word", "lstrip", "rstrip", "normalized"), False
        )
        model = {"type": "BPE", "vocab": {char: byte for byte, char in _letters().items()}, "merges": []}
        whole = {
            "version": "1.0", "added_tokens": [end], "model": model, "pre_tokenizer": level, "decoder": level,
        }  # fmt: skip
        return json.dumps(whole, ensure_ascii=False), END_OF_TEXT


class LibraryTokenizer:
    """A tokenizer of the `tokenizers` package, without any prefix or suffix of its own.

    Args:
        name: for the screen and the rows.
        backend: what encodes and decodes.
        end: id of the end of text.
    """

    def __init__(self, name: str, backend: "tokenizers.Tokenizer", end: int) -> None:
        backend.encode_special_tokens = True  # a text that spells "<|endoftext|>" does not end there
        backend.no_truncation()
        backend.no_padding()
        self.name = name
        self.fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()[:16]
        self.size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.end = end
        self._backend = backend
        self._prepends = self._adds_a_blank()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, as they stand in the middle of a longer one.

        Raises:
            UserError: the tokenizer has no id for a piece of the text, nor one for unknown pieces.
        """
        return self._ids(text[1:] if self._prepends and text[:1] == " " else text)

    def _ids(self, text: str) -> list[int]:
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the package raises nothing more specific
            raise UserError(
                f"tokenizer {self.name} cannot encode {_excerpt(text)!r}: {' '.join(str(error).split())}. It "
                "has no token for unknown pieces; give --tokenizer bytes or bpe, or a file that has one"
            ) from error

    def _adds_a_blank(self) -> bool:
        """Whether it puts a blank of its own before a text: " b" would then begin with two."""
        try:
            whole, first = self._ids("a b"), self._ids("a")
            return whole[: len(first)] == first and whole[len(first) :] == self._ids("b") != self._ids(" b")
        except UserError:
            return False

    def encode_array(self, text: str) -> np.ndarray:
        return np.array(self.encode(text), dtype=np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(at) for at in ids if 0 <= at < self.size and at != self.end]
        return self._backend.decode(known, skip_special_tokens=True)

    def file(self) -> tuple[str, str]:
        return self._backend.to_str(), self._backend.id_to_token(self.end)


def _letters() -> dict[int, str]:
    """The character of each byte in byte-level vocabularies: itself if visible, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _excerpt(text: str, longest: int = 40) -> str:
    return text if len(text) <= longest else text[:longest] + "…"


def make_tokenizer(name: str, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of this name.

    Args:
        name: `bytes`; `bpe`, trained on `texts`; `auto`, which is `bpe` where the package `tokenizers` is
            installed and `bytes` elsewhere; else the path of a `tokenizers` JSON file or of a folder that
            holds `tokenizer.json`.
        texts: read for `bpe` only; give it nothing that models are evaluated on.

    Raises:
        UserError: `tokenizers` is needed and not installed; the file is no tokenizer or has no end of text.
    """
    if name == "bytes" or (name == "auto" and not is_bpe_available()):
        return ByteTokenizer()
    if name in ("bpe", "auto"):
        return _train_bpe(texts)
    return _read(name)


def is_bpe_available() -> bool:
    """Whether the package `tokenizers` is installed."""
    return importlib.util.find_spec("tokenizers") is not None


def _train_bpe(texts: Iterable[str]) -> LibraryTokenizer:
    """Byte-level BPE of `BPE_SIZE` entries; fewer where the texts have too few repeated pieces."""
    _require("tokenizer 'bpe'")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return LibraryTokenizer("bpe", backend, backend.token_to_id(END_OF_TEXT))


def _read(name: str) -> LibraryTokenizer:
    """The tokenizer in a JSON file, or in the `tokenizer.json` of a folder."""
    path = user_path(name)
    file = path / _FILE_NAME if path.is_dir() else path
    if not name or not path.exists():
        raise UserError(
            f"tokenizer must be auto, bytes, bpe, or the path of a tokenizers JSON file or of a folder with "
            f"{_FILE_NAME}; {name!r} is none of them"
        )
    if not file.is_file():
        raise UserError(
            f"the folder {path} has no {_FILE_NAME}. A checkpoint's own is taken unless another is named: "
            "give --tokenizer bytes, bpe, or the path of a tokenizers JSON file or of a folder that has one"
        )
    _require(f"tokenizer {path}")
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing more specific
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is not a file of the tokenizers package: {reason}") from error
    names = _configured_end(file) or _END_NAMES
    ends = [at for at in map(backend.token_to_id, names) if at is not None]
    if not ends:
        raise UserError(f"{file} has no token that ends a text; looked for {', '.join(names)}")
    return LibraryTokenizer(path.stem if path == file else path.name, backend, ends[0])


def _configured_end(file: Path) -> tuple[str, ...]:
    """The end of text that `tokenizer_config.json` beside the file names; empty where it names none."""
    config = file.with_name("tokenizer_config.json")
    if file.name != _FILE_NAME or not config.is_file():
        return ()
    try:
        end = json.loads(config.read_bytes())["eos_token"]
        return (end if isinstance(end, str) else end["content"],)
    except (ValueError, LookupError, TypeError):  # no JSON, or one that names no end
        return ()


def _require(what: str) -> None:
    if not is_bpe_available():
        raise UserError(
            f"{what} needs the package tokenizers, which is not installed. "
            'pip install "lgbench[hub]", or take --tokenizer bytes'
        )
