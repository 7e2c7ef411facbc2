"""Paragraphs with questions and short answers: SQuAD 2.0, or invented facts where it cannot be had.

Looked for in the folders of `fetch`: `squad/train-v2.0.json` and `squad/dev-v2.0.json`, each also with `.gz`
behind. Files that the user provides are read as they are, whatever their checksum, and the fingerprint tells
them apart; downloaded ones are the published ones. One file in that format may also be named by its path.
"""

import gzip
import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgbench.tasks._documents import facts

from lgbench.data import fetch
from lgbench.data.paths import shown_name, user_path
from lgbench.errors import UserError
from lgbench.safe_text import excerpt, plain

TRAIN_FILE, DEV_FILE = "train-v2.0.json", "dev-v2.0.json"

MIN_EVAL_PARAGRAPHS = 200
"""Held out at least, where one file is split by article and half of its articles have as many."""

MOST_BYTES = 1 << 29
"""Of a file, unpacked."""

EVAL_SHARE = 5
"""One article in this many is held out, where one file is split."""

NAMES = ("auto", "squad", "procedural")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that its paragraph answers."""

    id: str

    text: str

    answers: tuple[str, ...]
    """Distinct, each verbatim in the paragraph, in the order of the file; at least one."""

    paragraph: int
    """Index into the paragraphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Squad:
    """Paragraphs with their split. No article is on both sides of it."""

    paragraphs: tuple[str, ...]
    """Distinct."""

    articles: tuple[int, ...]
    """Article of each paragraph."""

    questions: tuple[Question, ...]
    """Answerable ones only; not every paragraph has one."""

    train: tuple[int, ...]
    eval: tuple[int, ...]
    """Indices of paragraphs, ascending; together all of them."""

    source: str
    """`squad`, `procedural`, or the one file that was split by article."""

    fingerprint: str
    """16 hex digits that change with any paragraph or question and with the split."""

    notice: str
    """A sentence for the screen when records are broken or the real data could not be had; else empty."""

    broken: tuple[str, ...]
    """Where each record is that was skipped, and why."""

    @property
    def num_broken(self) -> int:
        return len(self.broken)


def load_squad(name: str = "auto", data_dir: str | Path | None = None) -> Squad:
    """Paragraphs and questions, from the best source at hand.

    Args:
        name: `squad` trains on the one file and evaluates on the other; where the user provides only one, it
            is split by article. Where there is none, both are downloaded. `auto` does the same and falls
            back to invented facts where the download fails. `procedural` invents them. Anything else is the
            path of one file in the format of SQuAD 2.0, plain or `.gz`, which is split by article.
        data_dir: folder to look into first, see `fetch`.

    Raises:
        UserError: real data was insisted on and cannot be had; there is no such file, or it is not one of
            SQuAD 2.0, or too small to be split.
    """
    if name not in NAMES:
        return _named(user_path(name))
    if name == "procedural":
        return _procedural(
            "Invented facts as asked for; their numbers are not comparable with those of SQuAD."
        )
    train, dev = (_find(file, data_dir) for file in (TRAIN_FILE, DEV_FILE))
    if train is None and dev is None:
        try:
            train, dev = (fetch.fetch(file, data_dir) for file in (TRAIN_FILE, DEV_FILE))
        except fetch.DownloadError as error:
            if name == "squad":
                raise
            why = error.reason.partition(": ")[2].split(", ")[0]
            return _procedural(
                f"No SQuAD on this machine ({why}). Invented facts are used instead; "
                "their numbers are not comparable with those of real SQuAD."
            )
    if train is not None and dev is not None:
        return _both(train, dev)
    return _one(train or dev)


def _named(path: Path) -> Squad:
    """A file of the user's own, see `load_squad`."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"squad data must be {', '.join(NAMES)}, or the path of a SQuAD 2.0 file, .json or .json.gz; "
            f"{str(path)!r} {what}"
        )
    return _one(path)


def _find(file: str, data_dir: str | Path | None) -> Path | None:
    """A file in a folder of the user's; what the cache has is left to `fetch`, which checks it."""
    for folder, origin in fetch.folders(data_dir):
        for path in (folder / place / (file + end) for place in ("squad", "") for end in ("", ".gz")):
            if origin != "cache" and path.is_file():
                return path
    return None


class _Reader:
    """Gathers paragraphs and questions; a paragraph that is met again is the first one."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}
        self.articles: list[int] = []
        self.questions: list[Question] = []
        self.broken: list[str] = []
        self.num_articles = 0

    def add(self, path: Path) -> None:
        """Read a file of SQuAD 2.0.

        Raises:
            UserError: it is no such file, or none of its questions can be used.
        """
        before = len(self.questions)
        for number, article in enumerate(_data(path)):
            title = article.get("title") if isinstance(article, dict) else None
            where = f"{path.name}: article {title or number}"
            if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
                self.broken.append(f"{where}: no list of paragraphs")
                continue
            for at, paragraph in enumerate(article["paragraphs"]):
                self.add_paragraph(paragraph, f"{where}, paragraph {at}")
            self.num_articles += 1
        if len(self.questions) == before:
            first = "; ".join(excerpt(where, longest=200) for where in self.broken[:3])
            reasons = f": {first}" if self.broken else ""
            raise UserError(
                f"{path} has no answerable question; {len(self.broken)} records are broken{reasons}"
            )

    def add_paragraph(self, paragraph: Any, where: str) -> None:
        """Read a paragraph of the article that is numbered `num_articles`.

        Args:
            where: what to call it if something is wrong.
        """
        context = paragraph.get("context") if isinstance(paragraph, dict) else None
        if not _is_text(context):
            self.broken.append(f"{where}: no context")
            return
        if not isinstance(paragraph.get("qas"), list):
            self.broken.append(f"{where}: no list of questions")
            return
        index = self.place.setdefault(context, len(self.place))
        if index == len(self.articles):
            self.articles.append(self.num_articles)
        for number, record in enumerate(paragraph["qas"]):
            if isinstance(record, dict) and record.get("is_impossible") is True:
                continue
            reason = _reason(record, context)
            if reason:
                name = record.get("id") if isinstance(record, dict) else None
                self.broken.append(f"{where}, question {name or number}: {reason}")
                continue
            answers = tuple(dict.fromkeys(answer["text"] for answer in record["answers"]))
            self.questions.append(
                Question(
                    id=str(record.get("id", f"{where}, question {number}")),
                    text=record["question"].strip(),
                    answers=answers,
                    paragraph=index,
                )
            )


def _data(path: Path) -> list:
    """The articles of a file, unchecked."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES:,} bytes; SQuAD 2.0 has 42 million")
        data = json.loads(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise UserError(f"{path} is not a JSON file: {error}") from error
    articles = data.get("data") if isinstance(data, dict) else None
    if not isinstance(articles, list):
        raise UserError(f"{path} is not a file of SQuAD 2.0: it has no list of articles under 'data'")
    return articles


def _is_text(found: Any) -> bool:
    """Whether this is text that is not empty and that UTF-8 can write: no halves of pairs of characters."""
    return isinstance(found, str) and bool(found.strip()) and not re.search("[\ud800-\udfff]", found)


def _reason(record: Any, context: str) -> str:
    """Why a question is unusable; empty if it is not."""
    if not isinstance(record, dict):
        return "no record"
    question = record.get("question")
    if not _is_text(question):
        return "no question"
    answers = record.get("answers")
    if not isinstance(answers, list) or not answers:
        return "no answers"
    for answer in answers:
        text = answer.get("text") if isinstance(answer, dict) else None
        if not _is_text(text):
            return "an answer without text"
        if text not in context:
            return f"answer {text!r} is not in its paragraph"
    return ""


def _both(train: Path, dev: Path) -> Squad:
    """Train on the one and evaluate on the other; a paragraph of both is held out."""
    reader = _Reader()
    reader.add(dev)
    num_eval = len(reader.articles)
    reader.add(train)
    if num_eval == len(reader.articles):
        raise UserError(f"{train} has no paragraph that is not in {dev}, too")
    return _assemble(reader, set(reader.articles[:num_eval]), "squad")


def _one(path: Path) -> Squad:
    """Hold out the last fifth of the articles, or up to a half until they have `MIN_EVAL_PARAGRAPHS`."""
    reader = _Reader()
    reader.add(path)
    articles = sorted(set(reader.articles))
    if len(articles) < 2:
        raise UserError(f"{path} cannot be split by article: it has {len(articles)}")
    num_held_out = max(1, len(articles) // EVAL_SHARE)
    while (
        num_held_out < len(articles) // 2 and _count(reader, articles[-num_held_out:]) < MIN_EVAL_PARAGRAPHS
    ):
        num_held_out += 1
    source = f"{shown_name(path).removesuffix('.gz').removesuffix('.json')} (split by article)"
    return _assemble(reader, set(articles[-num_held_out:]), f"squad {source}")


def _count(reader: _Reader, articles: list[int]) -> int:
    return sum(article in articles for article in reader.articles)


def _procedural(notice: str) -> Squad:
    reader = _Reader()
    for number, article in enumerate(facts.articles()):
        for at, (context, asked) in enumerate(article):
            records = [
                {"id": f"invented-{number}-{at}-{place}", "question": question, "answers": [{"text": answer}]}
                for place, (question, answer) in enumerate(asked)
            ]
            reader.add_paragraph({"context": context, "qas": records}, f"invented {number}, paragraph {at}")
        reader.num_articles += 1
    return _assemble(reader, set(range(facts.NUM_TRAIN, reader.num_articles)), "procedural", notice)


def _assemble(reader: _Reader, held_out: set[int], source: str, notice: str = "") -> Squad:
    """The data with its split, its fingerprint, and a word on broken records."""
    paragraphs = tuple(reader.place)
    train = tuple(at for at, article in enumerate(reader.articles) if article not in held_out)
    evaluation = tuple(at for at, article in enumerate(reader.articles) if article in held_out)
    if reader.broken:
        more = f"; and {len(reader.broken) - 3} more" if len(reader.broken) > 3 else ""
        first = plain("; ".join(excerpt(where, longest=200) for where in reader.broken[:3]))
        notice = f"{len(reader.broken)} broken records are skipped: {first}{more}."
    asked = [(question.text, question.answers, question.paragraph) for question in reader.questions]
    digest = hashlib.sha256(json.dumps([paragraphs, reader.articles, asked, evaluation]).encode())
    return Squad(
        paragraphs=paragraphs,
        articles=tuple(reader.articles),
        questions=tuple(reader.questions),
        train=train,
        eval=evaluation,
        source=source,
        fingerprint=digest.hexdigest()[:16],
        notice=notice,
        broken=tuple(reader.broken),
    )
