"""What each prompt got in a judged benchmark: verdicts, tokens, and what the thought holds.

Reads judgements.jsonl, generations.jsonl and adherence.jsonl, and of them only the fields that are needed: of a
generation not the text. A prompt's several texts are told apart by `sample`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from alttrain.report.runs import Evaluation

Item = tuple[str, int]
"""A text: the prompt's id, and which of its samples it is."""
Verdicts = dict[Item, bool | None]
Row = TypeVar("Row")
"""What a line of a file is read as."""


class Judged(msgspec.Struct, gc=False):
    """A row of judgements.jsonl."""

    id: str
    judge: str
    verdict: bool | None
    value: float | None = None
    part: str = "answer"
    sample: int = 0


class Tokens(msgspec.Struct, gc=False):
    """A row of generations.jsonl, without its texts."""

    id: str
    label: str
    thought_tokens: int
    answer_tokens: int
    sample: int = 0
    finish: str = "stop"


class Thought(msgspec.Struct, gc=False):
    """A row of adherence.jsonl."""

    id: str
    label: str
    understanding: bool
    assessment: str | None
    continuation: str | None
    ordered: bool
    answer_refuses: bool | None = None
    sample: int = 0

    @property
    def adheres(self) -> bool:
        """Understanding, assessment and conditional reasoning, in this order."""
        return self.understanding and self.assessment is not None and self.continuation is not None and self.ordered

    def failed_by(self, refused: bool | None) -> str | None:
        """Why the outcome is wrong: misjudged, disobeyed or unassessed; "" where it is right, None where undecided."""
        if refused is None:
            return None
        if refused is (self.label == "harmful"):
            return ""
        if self.assessment is None:
            return "unassessed"
        return "disobeyed" if self.assessment == self.label else "misjudged"


def judged(one: Evaluation) -> list[Judged]:
    """Every verdict of every judge."""
    return _rows(one.folder / "judgements.jsonl", Judged)


def verdicts(one: Evaluation) -> Verdicts:
    """Whether each text counts towards the benchmark's measure; None where undecided."""
    decides = one.analysis["decides"]
    rows = judged(one)
    return {
        (row.id, row.sample): None if row.verdict is None else row.verdict is decides["counted"]
        for row in rows
        if (row.judge, row.part) == (decides["judge"], decides["part"])
    }


def scores(one: Evaluation) -> dict[Item, float | None]:
    """The deciding judge's graded score of each text."""
    decides = one.analysis["decides"]
    rows = judged(one)
    deciding = (decides["judge"], decides["part"])
    return {(row.id, row.sample): row.value for row in rows if (row.judge, row.part) == deciding}


def tokens(one: Evaluation) -> list[Tokens]:
    """What each text cost."""
    return _rows(one.folder / "generations.jsonl", Tokens)


def thoughts(one: Evaluation) -> list[Thought]:
    """What each thought holds; none where an older version judged."""
    path = one.folder / "adherence.jsonl"
    return _rows(path, Thought) if path.exists() else []


def refusals(one: Evaluation, rows: Sequence[Thought], counts: Verdicts) -> list[bool | None]:
    """Whether each answer refused: by the judge where it tells, else by the record of the thought."""
    measure = one.judged["metrics"][0]["metric"]
    if measure == "accuracy":
        return [row.answer_refuses for row in rows]
    found = (counts.get((row.id, row.sample)) for row in rows)
    return [verdict if verdict is None or measure == "over_refusal_rate" else not verdict for verdict in found]


def whole(path: Path, row_type: type[Row], wanted: Sequence[bool]) -> list[Row]:
    """The rows of a file that are wanted, with all their fields; `wanted` has a word on each row."""
    if not any(wanted):
        return []
    lines = filter(None, path.read_bytes().split(b"\n"))
    return _each((line for line, one in zip(lines, wanted, strict=True) if one), path, row_type)


def _rows(path: Path, row_type: type[Row]) -> list[Row]:
    content = path.read_bytes()
    try:
        return msgspec.json.Decoder(row_type).decode_lines(content)
    except msgspec.DecodeError:
        return _each(content.splitlines(), path, row_type)


def _each(lines: Iterable[bytes], path: Path, row_type: type[Row]) -> list[Row]:
    """Rows one by one. Half a surrogate pair, which msgspec refuses, is read; a fault is a ValueError that names the
    file."""
    decoder, found = msgspec.json.Decoder(row_type), []
    try:
        for line in lines:
            try:
                found.append(decoder.decode(line))
            except msgspec.DecodeError:
                found.append(msgspec.convert(json.loads(line), row_type))
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{path}: {error}; run the judge stage again, or delete {path.parent}") from error
    return found
