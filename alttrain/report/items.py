"""What each prompt got in a judged benchmark: verdicts, tokens, and what the thought holds.

Reads judgements.jsonl, generations.jsonl and adherence.jsonl, and of them only the fields that are needed: of a
generation not the text. A prompt's several texts are told apart by `sample`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from alttrain.records import DamagedError, parse_rows, read_bytes
from alttrain.report.runs import Evaluation

Item = tuple[str, int]
"""A text: the prompt's id, and which of its samples it is."""
Verdicts = dict[Item, bool | None]
REMEDY = "run the judge stage again"
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
    return _rows(one, "judgements.jsonl", Judged)


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
    return _rows(one, "generations.jsonl", Tokens)


def thoughts(one: Evaluation) -> list[Thought]:
    """What each thought holds; none where an older version judged."""
    return _rows(one, "adherence.jsonl", Thought) if (one.folder / "adherence.jsonl").exists() else []


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
    lines = filter(bytes.strip, read_bytes(path).split(b"\n"))
    return parse_rows(b"\n".join(line for line, one in zip(lines, wanted, strict=True) if one), row_type, path)


def _rows(one: Evaluation, name: str, row_type: type[Row]) -> list[Row]:
    """All rows of a file. Raises DamagedError where it is not the one that metrics.json was made from."""
    path, made_from = one.folder / name, one.judged.get("made_from", {})
    try:
        content = read_bytes(path)
    except FileNotFoundError as error:
        raise DamagedError(path, "is not there", remedy=REMEDY) from error
    if name in made_from and name not in one.checked:
        if hashlib.sha256(content).hexdigest() != made_from[name]:
            raise DamagedError(path, "is not what metrics.json was made from", remedy=REMEDY)
        one.checked.add(name)
    return parse_rows(content, row_type, path)
