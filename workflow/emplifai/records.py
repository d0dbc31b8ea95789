"""The records that travel between stages, and how they are read and written.

JSON lines, UTF-8, one record a line, keys in the order of the fields below. A file is written under a
temporary name of this process and moved into place, so a reader never sees half of it.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from emplifai.errors import UserError

CRITERIA = ("fluency", "empathy", "emotion_empathy")

R = TypeVar("R")


@dataclass(slots=True)
class Turn:
    role: str  # patient | supporter
    text: str


@dataclass(slots=True)
class Dialogue:
    """A conversation of a patient and a supporter in one situation; patient first, supporter last."""

    dialogue_id: str
    situation_id: str
    emotion: str
    condition: str | None
    situation: str
    turns: list[Turn]
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.turns = [t if isinstance(t, Turn) else Turn(**t) for t in self.turns]

    @property
    def reference(self) -> str:
        """The supporter's last words: what a person answered."""
        return self.turns[-1].text

    @property
    def patient(self) -> str:
        """The patient's last words: what is to be answered."""
        return self.turns[-2].text


@dataclass(slots=True)
class Reply:
    """What a model wrote: a supporter's reply, or the name of an emotion."""

    dialogue_id: str
    model: str
    task: str  # reply | emotion
    sample: int
    text: str
    finish_reason: str  # stop | length | empty | error
    prompt_sha256: str
    settings_sha256: str
    text_sha256: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    label: str | None = None  # emotion task: the label that `text` was read as, "none" if it is no label
    ranking: list[str] | None = None  # emotion task: labels, most probable first, where the backend knows


@dataclass(slots=True)
class Score:
    """BERTScore of one text against its reference; null with a status where it is undefined."""

    dialogue_id: str
    model: str
    task: str
    sample: int
    precision: float | None
    recall: float | None
    f1: float | None
    status: str  # ok | empty
    text_sha256: str


class Question(NamedTuple):
    """A text that a judge is to rate, and the dialogue that it answers."""

    dialogue: Dialogue
    model: str  # the system that wrote it, or the kind of a contrast
    text: str


class Pair(NamedTuple):
    """Two replies to one dialogue, in the order in which a judge is to read them."""

    first: Question
    second: Question
    criterion: str


@dataclass(slots=True)
class Judgement:
    """One judge's score of one text on one criterion. A failed judgement has no number."""

    judge: str
    dialogue_id: str
    model: str
    criterion: str
    sample: int
    score: float | None
    status: str  # ok | unparsed | refused | error
    method: str  # stated | expected | proxy
    rationale: str
    raw: str
    prompt_sha256: str
    text_sha256: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(slots=True)
class Comparison:
    """One judge's choice between the replies of two systems to one dialogue, shown in one order. A failed one has no choice."""

    judge: str
    dialogue_id: str
    criterion: str
    first: str  # the system whose reply the judge reads first
    second: str
    choice: str | None  # first | second | tie
    status: str  # ok | unparsed | refused | error
    rationale: str
    raw: str
    prompt_sha256: str
    first_sha256: str  # of the replies' texts
    second_sha256: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(slots=True)
class Rating:
    """One person's score; a row of a CSV file in data/ratings/."""

    rater_id: str
    dialogue_id: str
    model: str
    criterion: str
    score: float
    text_sha256: str
    rated_at: str = ""
    simulated: bool = False


def sha256(data: str | bytes) -> str:
    """Hex digest of a text (as UTF-8) or of bytes."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def digest(value: Any) -> str:
    """Hex digest of any JSON value; the order of keys does not matter."""
    return sha256(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary file beside `path` that takes its place when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(partial, mode, encoding=encoding, newline=None if "b" in mode else "") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def dumps(record: Any) -> str:
    """JSON of a record or of any JSON value, dataclasses in it as objects."""
    return _ENCODER.encode(record)


def _fields(record: Any) -> dict[str, Any]:
    """One level of a dataclass: dataclasses.asdict would copy all that lies below."""
    try:
        names = record.__match_args__  # the fields' names; dataclasses.fields makes a list of objects anew each time
    except AttributeError:
        raise TypeError(f"{type(record).__name__} is no JSON value") from None
    return {name: getattr(record, name) for name in names}


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_fields)


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write records (dataclasses or dicts), one a line; return how many."""
    count = 0
    with atomic(path) as file:
        for count, record in enumerate(records, 1):  # noqa: B007
            file.write(dumps(record) + "\n")
    return count


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def write_csv(path: Path, rows: list[dict[str, Any]], columns: Iterable[str]) -> None:
    """Write rows as CSV; a missing or None cell is empty."""
    with atomic(path) as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="raise", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None


def read_jsonl(path: Path, record: type[R]) -> Iterator[R]:
    """Read records of a dataclass, one a line.

    Raises UserError with file and line when a line is no such record. A key that the record does not have is an
    error: files between stages are ours.
    """
    known = {f.name for f in fields(record)}
    needed = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}
    try:
        file = open(path, encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that writes it first") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                missing, strange = needed - row.keys(), row.keys() - known
            except (ValueError, AttributeError) as error:
                raise UserError(f"{path}:{number}: not a {record.__name__}: {error}") from None
            if missing or strange:
                faults = [f"no field {k!r}" for k in sorted(missing)] + [f"unknown field {k!r}" for k in sorted(strange)]
                raise UserError(f"{path}:{number}: not a {record.__name__}: {', '.join(faults)}")
            yield record(**row)


def read_csv(text: str) -> list[dict[str, str]]:
    """Rows of a CSV text whose first line names the columns."""
    return list(csv.DictReader(io.StringIO(text)))
