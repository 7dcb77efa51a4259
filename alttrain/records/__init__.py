"""The rows and documents that stages exchange, and how they are stored.

Stages communicate through files of JSON lines in UTF-8, with one frozen dataclass per line:

- `Example`     train.jsonl: a prompt with its label, its thought as named segments, and its answer
- `Generation`  evaluation/<benchmark>/generations.jsonl: what a model wrote for one prompt
- `Judgement`   evaluation/<benchmark>/judgements.jsonl: one judge's verdict on one generation

`documents` has the schemas of a run's JSON documents (run.json, train.json, metrics.json). `files` writes atomically
and reads strictly: a file that does not have the expected content raises `DamagedError`. No torch is imported.
"""

import dataclasses
import hashlib
import json
import mmap
import os
import typing
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from alttrain.records.documents import (
    LOSS,
    Count,
    Label,
    RewriteDocument,
    RunDocument,
    TrainDocument,
    read_document,
    read_if_there,
    read_losses,
    read_metrics,
    write_sealed,
)
from alttrain.records.files import (
    NO_JSON,
    REMEDY,
    UNFINISHED,
    DamagedError,
    append,
    cache_folder,
    checksum,
    clear_unfinished,
    exclusive,
    file_lock,
    full_disk,
    json_or_none,
    known_checksum,
    open_regular,
    read_bytes,
    read_cached,
    read_json,
    read_utf8,
    replacing,
    seal,
    write_json,
    write_text,
)

Step = Literal["understanding", "assessment", "reasoning", "refusal", "primer"]
"""A step of a thought: problem understanding (PU), harmfulness assessment (HA), or conditional reasoning (CR), which is
either `reasoning` or a `refusal`. A `primer` is a fixed opening after which the model continues by itself."""
Shape = Literal["thought_and_answer", "thought_only", "answer_only", "opening", "prompt_only"]
"""Which parts of a response a row has. `thought_only`: the turn ends where the thought closes. `answer_only`: trained
after an empty thought. `opening`: the thought is not closed. `prompt_only`: nothing to train on."""
Texts = Literal["all", "benign", "none"]  # which samples' prompts and outputs a page or a logger shows
Row = TypeVar("Row")  # a frozen dataclass of JSON values, tuples and such dataclasses
_SEAL = b', "checksum": "'  # the bytes before a row's checksum; JSON strings cannot contain them


@dataclass(frozen=True)
class Segment:
    """One step of a thought.

    `origin` is the source of the text ("trace", "template", "teacher:NAME"). `prompt_hash` is the hash of the prompt
    sent to a teacher.
    """

    step: Step
    text: str
    origin: str = ""
    prompt_hash: str = ""


@dataclass(frozen=True)
class Example:
    """A prompt with its label and, if known, the thought and the answer to train on.

    - `turns`         earlier user messages of a dialogue, oldest first; `prompt` is the last message
    - `goal`          the goal of an attack in plain words, if the data set has it
    - `trace_hash`    hash of the original thought and answer that a rewrite started from
    - `partial`       the example trains only the opening of a thought, which is not closed; no answer follows
    - `key_sentence`  the sentence that says whether the request is harmful, if the data set marks one
    """

    id: str
    prompt: str
    label: Label
    category: str = ""
    phrasing: str = ""
    thought: tuple[Segment, ...] = ()
    answer: str = ""
    gold: tuple[str, ...] = ()
    source: str = ""
    trace_hash: str = ""
    partial: bool = False
    turns: tuple[str, ...] = ()
    goal: str = ""
    key_sentence: str = ""

    @property
    def shape(self) -> Shape:
        """The parts of a response that the example has."""
        thought = any(segment.text for segment in self.thought)
        return "opening" if self.partial and thought else shape_of(thought, bool(self.answer))


def shape_of(thought: bool, answer: bool) -> Shape:
    """Return the shape of a response with a thought, an answer, both or neither."""
    if thought:
        return "thought_and_answer" if answer else "thought_only"
    return "answer_only" if answer else "prompt_only"


@dataclass(frozen=True)
class Rejected:
    """An example that could not be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Generation:
    """What a model wrote for one prompt. A row is identified by (id, sample).

    - `closed`    whether the thought ended; if not, there is no answer
    - `finish`    "stop" if the model ended the turn, "length" if the token cap cut it, "error" if a server refused
                  the prompt, for the reason in `error`; such a row enters no rate and counts as undecided
    - `sample`    number of the text among those of one prompt
    - `turns`     the user's earlier messages
    - `earlier`   the model's answers to them, and to the turns that a defence puts before the prompt, with the white
                  space that the prompt keeps of each
    - `goal`      the goal of an attack
    - `given`     number of characters of `text` that an intervention wrote; the model wrote the rest
    - `checksum`  checksum of the row, added when it is appended to a file
    """

    id: str
    prompt: str
    label: Label
    category: str
    gold: tuple[str, ...]
    text: str
    thought: str
    answer: str
    closed: bool
    finish: Literal["stop", "length", "error"]
    thought_tokens: Count
    answer_tokens: Count
    sample: Count = 0
    earlier: tuple[str, ...] = ()
    error: str = ""
    turns: tuple[str, ...] = ()
    goal: str = ""
    given: Count = 0
    checksum: str = field(default="", compare=False)

    @property
    def truncated(self) -> bool:
        """Whether the token cap, or the end of the context, cut the text."""
        return self.finish == "length"


def subject_of(row: Any) -> str:
    """A hash of the goal of an attack, or else of the user's turns, whatever their case and white space.

    Rows with the same are not independent. `row` has the fields `goal`, `turns` and `prompt`.
    """
    text = row.goal or "\n".join([*row.turns, row.prompt])
    return hashlib.sha256(" ".join(text.lower().split()).encode(errors="replace")).hexdigest()[:16]


@dataclass(frozen=True)
class Judgement:
    """One judge's verdict on one generation: True, False, or None if undecided.

    The meaning of True is the judge's `says`: refused, correct or unsafe.

    - `evidence`     the phrase or value that the verdict is based on
    - `error`        why there is no verdict
    - `probability`  the judge's probability of True
    - `value`        a graded score from 0 to 1 (F1, ROUGE, a rubric)
    - `raw`          what a judge model wrote
    - `served`       the model name that its server reports, or which weights a guard in this process has
    - `part`         the judged text: answer, thought, or both
    - `hash`         hash of the judged generation; the verdict is valid only for it
    - `checksum`     checksum of the row, as in `Generation`
    """

    id: str
    judge: str
    verdict: bool | None
    evidence: str = ""
    error: str = ""
    probability: float | None = None
    value: float | None = None
    raw: str = ""
    part: str = "answer"
    sample: int = 0
    served: str = ""
    hash: str = ""
    checksum: str = field(default="", compare=False)


def withholds(texts: Texts, harmful: bool) -> bool:
    """Return whether the setting `texts` hides the texts of a harmful or a benign sample."""
    return texts == "none" or (texts == "benign" and harmful)


def encode(row: Any) -> str:
    """Return a row as one JSON line, without the newline."""
    return json.dumps(dataclasses.asdict(row), ensure_ascii=False)


def build(fields: dict[str, Any], row_type: type[Row], where: str) -> Row:
    """Return a row made of its fields. Raises ValueError, starting with `where`, on missing or mistyped fields.

    An unknown field of the row is refused too; an unknown field of a segment is ignored.
    """
    if unknown := _unknown(fields, row_type):
        raise ValueError(f"{where}: {unknown}")
    try:
        return msgspec.convert(fields, row_type)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {_fault(error, row_type)}") from error


def _unknown(fields: Iterable[str], row_type: Any) -> str:
    """Return what is wrong if the row has no such field, or ""; msgspec ignores such fields in a dataclass."""
    known = [field.name for field in dataclasses.fields(row_type)]
    unknown = sorted(set(fields) - set(known))
    return f"unknown field {unknown[0]!r}; accepted: {', '.join(known)}" if unknown else ""


def _fault(error: Exception, row_type: Any) -> str:
    """Return msgspec's message, with the field first, and with the accepted values if they are listed in its type."""
    fault, _, path = str(error).partition(" - at `$")
    field_path = path.strip(".`")
    hint = (typing.get_type_hints(Segment) | typing.get_type_hints(row_type)).get(field_path.rpartition(".")[2])
    accepted = f"; accepted: {', '.join(get_args(hint))}" if get_origin(hint) is Literal else ""
    return f"field {field_path!r}: {fault}{accepted}" if field_path else fault


def iterate_rows(path: Path, row_type: type[Row]) -> Iterator[Row]:
    """Yield the rows of a JSON lines file. Raises DamagedError with the line.

    Only the first row is checked for unknown fields, since one version writes a whole file. A person may edit
    generations; the judge stage warns about that.
    """
    decoder = msgspec.json.Decoder(row_type)
    sealed = hasattr(row_type, "checksum") and row_type is not Generation
    with open_regular(path) as lines:
        for position, (number, line) in enumerate(_numbered(lines)):
            row = _row(line, decoder, path, number)
            if position == 0 and (unknown := _unknown(msgspec.json.decode(line), row_type)):
                raise DamagedError(path, unknown, number)
            if sealed and not is_unchanged(line):
                raise DamagedError(path, "the row is not what was written", number)
            yield row


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of each line that is not blank."""
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _row(line: bytes, decoder: msgspec.json.Decoder[Row], path: Path, number: int) -> Row:
    """Return the row in a file's line. Raises DamagedError."""
    try:
        return decoder.decode(line)
    except NO_JSON as error:
        raise DamagedError(path, _fault(error, decoder.type), number) from error


def parse_rows(content: bytes, row_type: type[Row], path: Path) -> list[Row]:
    """Return all rows in a file's content, as a dataclass or as a msgspec.Struct of the needed fields only.

    Raises DamagedError on a bad row, and on a row that appears twice.
    """
    decoder = msgspec.json.Decoder(row_type)
    try:
        rows = decoder.decode_lines(content)
    except NO_JSON:
        rows = [_row(line, decoder, path, number) for number, line in _numbered(content.split(b"\n"))]
    return _unique(rows, path)


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Return all rows of a JSON lines file; none if it is absent. Raises DamagedError as `parse_rows` does."""
    return _unique(list(iterate_rows(path, row_type)), path) if path.exists() else []


def _unique(rows: list[Row], path: Path) -> list[Row]:
    """Return the rows. Raises DamagedError if two have the same id, sample, judge and part."""
    fields = [name for name in ("id", "sample", "judge", "part") if rows and hasattr(rows[0], name)]
    keys, lines = list(map(attrgetter(*fields), rows)) if fields else [], dict[Any, int]()
    if len(set(keys)) < len(keys):
        for number, key in enumerate(keys, 1):
            _refuse_second(lines, key, number, path)
    return rows


def _refuse_second(lines: dict[Any, int], key: Any, number: int, path: Path) -> None:
    """Raise DamagedError if a row of this key was on an earlier line. `lines` maps keys to line numbers."""
    first = lines.setdefault(key, number)
    if first != number:
        raise DamagedError(path, f"the row of line {first} again, {key!r}", number)


class GenerationKey(msgspec.Struct):
    """The fields that identify a generation."""

    id: str
    sample: int = 0


def named_lines(path: Path) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Yield ((id, sample), line) of each complete line of a generations file; nothing if it is absent.

    Another process may be writing the file, so reading stops before a line without a newline.
    """
    if not path.exists():
        return
    decoder, line_of = msgspec.json.Decoder(GenerationKey), dict[tuple[str, int], int]()
    with open_regular(path) as lines:
        for number, line in _numbered(lines):
            if not line.endswith(b"\n"):
                return
            row = _row(line, decoder, path, number)
            key = (row.id, row.sample)
            _refuse_second(line_of, key, number, path)
            yield key, line


def repair_rows(path: Path) -> int:
    """Remove a last line without a newline, as a kill leaves it. Returns the number of bytes removed."""
    if not path.exists():
        return 0
    if path.is_symlink():
        raise DamagedError(path, "is a link, which may lead outside of the run", remedy="put the file itself there")
    with open_regular(path) as file:
        size = complete = os.fstat(file.fileno()).st_size
        if size:
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
                complete = content.rfind(b"\n") + 1
    if complete < size:  # a complete file keeps its modification time
        os.truncate(path, complete)
    return size - complete


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSON lines file atomically, with checksums as in `append_rows`."""
    with replacing(path) as file:
        for row in rows:
            file.write(_sealed(encode(row).encode()) + b"\n")


def append_rows(path: Path, rows: Iterable[Any], by: str = "") -> None:
    """Append rows as whole lines and flush them to disk. On an error, such as a full disk, no row is added.

    A row whose last field is `checksum` gets one, computed over the row and `by`, which identifies the writer.
    """
    append(path, b"".join(_sealed(encode(row).encode(), by) + b"\n" for row in rows))


def _sealed(line: bytes, by: str = "") -> bytes:
    """Return a row's line with the checksum of what is before it, and of `by`; a row without the field as it is."""
    body, seal_start, _ = line.rpartition(_SEAL)
    digest = hashlib.sha256(by.encode() + body).hexdigest()[:16]
    return body + seal_start + digest.encode() + b'"}' if seal_start else line


def is_unchanged(line: bytes, by: str = "") -> bool:
    """Return whether a line is as `append_rows` wrote it, with its checksum."""
    return _SEAL in line and line.rstrip() == _sealed(line, by)


def sort_rows(path: Path, places: Mapping[tuple[str, int], int]) -> None:
    """Sort the lines of a file by the place of each row, given by id and sample. The lines stay as they are.

    Memory holds offsets but no lines. A sorted file is not rewritten.
    """
    if not path.exists():
        return
    decoder, found, starts = msgspec.json.Decoder(GenerationKey), array("q"), array("q", [0])
    with open_regular(path) as lines:
        for line in lines:
            row = decoder.decode(line) if line.strip() else None
            found.append(places[row.id, row.sample] if row else -1)
            starts.append(starts[-1] + len(line))
    if all(place <= following for place, following in pairwise(found)):
        return
    with open_regular(path) as source, replacing(path) as target:
        for number in sorted(range(len(found)), key=found.__getitem__):
            source.seek(starts[number])
            target.write(source.read(starts[number + 1] - starts[number]))
