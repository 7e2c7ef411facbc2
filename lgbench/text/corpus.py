"""Whole documents to read: books, articles of Wikipedia, any text of the user's, or procedural prose.

Looked for in the folders of `fetch`, each document being plain text in UTF-8:

    gutenberg/train/*.txt  gutenberg/test/*.txt               books, one a file, laid out like PG-19
    wikitext-2-raw/{train,validation,test}.txt                or under their first names, wiki.*.raw
    wikitext-2-raw/wikitext-2-raw-v1.zip                      which is downloaded, if nothing else is there
"""

import hashlib
import itertools
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lgbench.data import fetch
from lgbench.data.paths import shown_name, user_path
from lgbench.errors import UserError
from lgbench.safe_text import excerpt
from lgbench.text import prose

EVAL_SHARE = 5
"""One part in this many is held out where nobody published a split."""

MAX_TRAIN_BYTES = 1 << 28
"""Of a folder with more to train on, the first files (by name) are read; PG-19 has 11 GB."""

NAMES = ("auto", "gutenberg", "wikitext", "procedural")

_WIKITEXT_FOLDER = "wikitext-2-raw"
_WIKITEXT_ZIP = "wikitext-2-raw-v1.zip"
_SPLITS = {
    "train": ("train.txt", "wiki.train.raw"),
    "validation": ("validation.txt", "valid.txt", "wiki.valid.raw"),
    "test": ("test.txt", "wiki.test.raw"),
}
_TITLE = re.compile(r"^ = (?![= ]).*(?<![= ]) = *$", re.MULTILINE)
"""First line of an article of WikiText; section titles have two equality signs or more."""

_BOUNDARY = re.compile(
    r"""
    [.!?]+ (?: [ ]? ["'”’)\]]+ (?!\w) )?    # the end of a sentence and, perhaps apart, of a quotation
    \s+ (?= ["'`“‘(\[_]* [ ]? [A-Z] | =[ ] ) # then a capital, perhaps in a new quotation, or a title
    | (?<= =[ ]) \n\s*                     # or the end of a title of WikiText
    | \n[ \t]* \n\s*                        # or an empty line
    """,
    re.VERBOSE,
)
_ANY_SCRIPT = re.compile(
    r"""
    [。！？｡]+ ["'”’」』)\]]*                 # marks that no white space follows
    | [.!?…؟۔।॥]+ ["'”’»)\]]* \s+             # any other mark, whatever the case of what follows
    | \s*\n\s*                               # or the end of a line
    """,
    re.VERBOSE,
)
_BLANK = re.compile(r"\s+")
SPARSE = 1_000
"""Characters without a boundary after which a rule is taken not to fit the language of a text."""
LONGEST_PIECE = 100
"""Characters of a piece where no rule fits, not even white space: sequences of letters, say."""
_LFS = "version https://git-lfs.github.com/spec/"
_TITLE_OF_PERSON = re.compile(
    r"(?:^|[\s(\"'“‘])(?:Mr|Mrs|Ms|Dr|St|Prof|Messrs|Capt|Col|Gen|Rev|[A-Z]) ?\.\s+$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Documents with their split. None is on both sides, none is empty."""

    train: tuple[str, ...]
    eval: tuple[str, ...]

    source: str
    """What was read, and how it was split where nobody published a split; names no folder of the machine."""

    fingerprint: str
    """16 hex digits that change with any character and with the split."""

    notice: str
    """A sentence for the screen when something else, or less, was read than one might think; else empty."""


def load_texts(name: str = "auto", data_dir: str | Path | None = None) -> Texts:
    """Documents and split, from the best source at hand.

    Args:
        name: `gutenberg`, `wikitext` (downloaded if it is not on this machine), `procedural`; `auto` is the
            first of these that can be had. Or a path: a folder with `train/` and `test/`, a folder of
            `*.txt` (the last fifth of the files, by name, is held out), or one file (its last fifth is).
        data_dir: folder to look into first, see `fetch`.

    Raises:
        UserError: what was asked for cannot be had, is empty, is not UTF-8, or cannot be split.
    """
    if name == "gutenberg":
        texts = _gutenberg(data_dir)
        if texts is None:
            raise UserError(
                "no gutenberg/train and gutenberg/test with *.txt files on this machine. Put books there, "
                "one a file (those of PG-19, say), and name the folder around gutenberg/ with --data-dir or "
                "LGBENCH_DATA"
            )
        return texts
    if name == "wikitext":
        return _wikitext(data_dir)
    if name == "procedural":
        return _procedural(
            "Procedural prose as asked for; its numbers are not comparable with those of real text."
        )
    if name == "auto":
        return _best(data_dir)
    return _path(user_path(name))


def sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences begin and end.

    A sentence ends at `.`, `!` or `?` (with closing quotes) that white space and a capital follow, but not
    after a title such as "Mr." or an initial; and at an empty line. Where that leaves fewer than one boundary
    in `SPARSE` characters, the text is no English prose: then it ends at a mark of any script and at the end
    of a line; where these are as rare, at white space; and without any, after `LONGEST_PIECE` characters.

    Returns:
        (start, stop) of each, in order, without gaps: the pieces join to the text. The white space between
        two sentences belongs to the first.
    """
    found = (match for match in _BOUNDARY.finditer(text) if not _is_title_of_person(text, match))
    stops = [match.end() for match in found if match.end() < len(text)]
    for rule in (_ANY_SCRIPT, _BLANK):
        if len(stops) >= len(text) // SPARSE:
            break
        stops = [match.end() for match in rule.finditer(text) if 0 < match.end() < len(text)]
    if len(stops) < len(text) // SPARSE:
        stops = list(range(LONGEST_PIECE, len(text), LONGEST_PIECE))
    edges = [0, *stops, len(text)] if text else []
    return list(itertools.pairwise(edges))


def _is_title_of_person(text: str, match: re.Match) -> bool:
    return _TITLE_OF_PERSON.search(text, max(0, match.start() - 10), match.end()) is not None


def _best(data_dir: str | Path | None) -> Texts:
    texts = _gutenberg(data_dir)
    if texts is not None:
        return texts
    try:
        return _wikitext(data_dir)
    except fetch.DownloadError as error:
        why = error.reason.partition(": ")[2].split(", ")[0]
        return _procedural(
            f"No books and no WikiText on this machine ({why}). Procedural prose is used instead; "
            "its numbers are not comparable with those of real text."
        )


def _gutenberg(data_dir: str | Path | None) -> Texts | None:
    """None where no folder has books on both sides."""
    for folder, _ in fetch.folders(data_dir):
        sides = [_text_files(folder / "gutenberg" / side) for side in ("train", "test")]
        if all(sides):
            return _from_files(*sides, source="gutenberg")
    return None


def _wikitext(data_dir: str | Path | None) -> Texts:
    for folder, _ in fetch.folders(data_dir):
        splits = _split_files(folder / _WIKITEXT_FOLDER)
        if splits:
            articles = {split: _articles(_read(path)) for split, path in splits.items()}
            return _from_splits(articles, _WIKITEXT_FOLDER, folder / _WIKITEXT_FOLDER)
    path = fetch.fetch(_WIKITEXT_ZIP, data_dir)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {split: f"{_WIKITEXT_FOLDER}/{names[-1]}" for split, names in _SPLITS.items()}
            articles = {
                split: _articles(_decode(archive.read(member), f"{path}: {member}"))
                for split, member in members.items()
            }
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        said = excerpt(str(error), longest=200)
        raise UserError(f"{path} is not a whole archive of WikiText-2 ({said}). Remove it") from error
    return _from_splits(articles, _WIKITEXT_FOLDER, path)


def _split_files(folder: Path) -> dict[str, Path]:
    """Path of each split that the folder has, in the order train, validation, test."""
    found = {}
    for split, names in _SPLITS.items():
        paths = [folder / name for name in names if (folder / name).is_file()]
        if paths:
            found[split] = paths[0]
    return found


def _from_splits(articles: dict[str, list[str]], source: str, where: Path) -> Texts:
    """The first split trains and the last evaluates; a single one is split by article."""
    names = list(articles)
    if len(names) > 1:
        if names != list(_SPLITS):
            source = f"{source} ({names[0]} to train, {names[-1]} to evaluate)"
        return _assemble(articles[names[0]], articles[names[-1]], source, where)
    only = articles[names[0]]
    train, evaluation = _hold_out(only, where, "articles")
    return _assemble(train, evaluation, f"{source} ({names[0]}, split by article)", where)


def _articles(text: str) -> list[str]:
    """Articles of a file of WikiText. What precedes the first title belongs to the first."""
    starts = [match.start() for match in _TITLE.finditer(text)]
    edges = [0, *starts[1:], len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(edges)]


def _path(path: Path) -> Texts:
    """Texts of the user's own, see `load_texts`."""
    source = f"text {shown_name(path)}"
    if path.is_file():
        text = _read(path)
        cut = len(text) - len(text) // EVAL_SHARE
        blank = next((at for at in range(cut, min(len(text), cut + SPARSE)) if text[at - 1].isspace()), cut)
        cut = blank  # a text without white space is cut anywhere
        if not text[:cut].strip() or not text[cut:].strip():
            raise UserError(f"{path} has too little text to hold out a part of it: {len(text)} characters")
        return _assemble([text[:cut]], [text[cut:]], f"{source} (split by position)", path)
    if not path.is_dir():
        raise UserError(
            f"text must be {', '.join(NAMES)}, or the path of a text file or of a folder; "
            f"there is no {str(path)!r}"
        )
    splits = _split_files(path)
    if len(splits) > 1:
        return _from_splits({split: [_read(file)] for split, file in splits.items()}, source, path)
    sides = [_text_files(path / side) for side in ("train", "test")]
    if any(sides):
        for side, files in zip(("train", "test"), sides, strict=True):
            if not files:
                raise UserError(f"{path} has no *.txt files in {side}/")
        return _from_files(*sides, source=source)
    files = _text_files(path)
    if not files:
        raise UserError(f"{path} has no *.txt files, and no train/ and test/ with some")
    if len(files) == 1:
        return _path(files[0])
    train, evaluation = _hold_out(files, path, "*.txt files")
    return _from_files(train, evaluation, source=f"{source} (split by file)")


def _text_files(folder: Path) -> list[Path]:
    """Files that a system keeps beside others, `._name.txt`, are none."""
    return sorted(folder.glob("[!.]*.txt")) if folder.is_dir() else []


def _hold_out(items: list, where: Path, what: str) -> tuple[list, list]:
    """All but the last fifth, and the last fifth, at least one."""
    if len(items) < 2:
        raise UserError(f"{where} cannot be split: it has {len(items)} {what}, and one must be held out")
    cut = len(items) - max(1, len(items) // EVAL_SHARE)
    return items[:cut], items[cut:]


def _from_files(train: list[Path], evaluation: list[Path], source: str) -> Texts:
    """One document a file. Reads no more to train on than `MAX_TRAIN_BYTES`, but one file at least."""
    chosen, num_bytes = [], 0
    for path in train:
        num_bytes += path.stat().st_size
        if chosen and num_bytes > MAX_TRAIN_BYTES:
            break
        chosen.append(path)
    notice = ""
    if len(chosen) < len(train):
        source = f"{source} (first {len(chosen)} of {len(train)})"
        notice = (
            f"Training reads the first {len(chosen):,} of {len(train):,} texts, {MAX_TRAIN_BYTES >> 20} MiB."
        )
    where = train[0].parent
    return _assemble(
        [_read(path) for path in chosen], [_read(path) for path in evaluation], source, where, notice
    )


def _procedural(notice: str) -> Texts:
    train, evaluation = prose.books()
    return _assemble(train, evaluation, "procedural", Path("prose"), notice)


def _read(path: Path) -> str:
    try:
        return _decode(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _decode(content: bytes, where: str) -> str:
    """Text without a byte order mark, lines ended by a line feed.

    Raises:
        UserError: names the place and the offset of the first byte that is not UTF-8.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start:,}. "
            "Convert it, for example with iconv"
        ) from error
    if text.startswith(_LFS):
        raise UserError(
            f"{where} is a pointer of Git LFS, not the data. Get them with: git lfs install && git lfs pull"
        )
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _assemble(
    train: Sequence[str], evaluation: Sequence[str], source: str, where: Path, notice: str = ""
) -> Texts:
    """Drop empty documents, see that both sides have some and share none, take the fingerprint.

    Args:
        where: file or folder for the messages.
    """
    sides = [tuple(text for text in side if text.strip()) for side in (train, evaluation)]
    if not all(sides):
        empty = "to train on" if not sides[0] else "to evaluate on"
        raise UserError(f"{where} has no text {empty}")
    shared = set(sides[0]) & set(sides[1])
    if shared:
        raise UserError(
            f"{where} has the same text on both sides of the split: {min(shared)[:60].strip()!r} ..."
        )
    digest = hashlib.sha256()
    for side in sides:
        digest.update(f"{len(side)} documents\n".encode())
        for text in side:
            content = text.encode()
            digest.update(f"{len(content)} bytes\n".encode())
            digest.update(content)
    return Texts(
        train=sides[0], eval=sides[1], source=source, fingerprint=digest.hexdigest()[:16], notice=notice
    )
