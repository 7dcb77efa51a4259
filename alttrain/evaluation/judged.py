"""A benchmark's judgements on disk: one row for each judge, judged part and generation.

Rows are appended while a judge works and sorted at the end, so that they can be read in step with the generations.
Memory holds the ids and hashes of the generations and one byte per judgement, but no texts. A judgement stores the hash
of its generation's line. If the line changes, the judgement is no longer valid.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import msgspec

from alttrain.evaluation.judges.judge import GIVEN_UP, NO_REPLY, Judge, JudgeContext
from alttrain.evaluation.protocol import Part, seen_by_judge
from alttrain.records import (
    Generation,
    Judgement,
    Row,
    append_rows,
    iterate_rows,
    named_lines,
    repair_rows,
    sort_rows,
    unchanged,
    write_rows,
)

log = logging.getLogger(__name__)

JUDGED = 4096  # generations passed to a judge at a time
APPENDED = 256  # judgements appended to the file at a time
NOT_GENERATED = "not generated: "  # prefix of a judgement's error if there was no text to judge


class Judgements:
    """The judgements.jsonl next to a generations.jsonl. Warns of generations that their writer `by` did not append."""

    def __init__(self, folder: Path, judges: Mapping[str, Judge], parts: Sequence[Part], by: str = "") -> None:
        self.path = folder / "judgements.jsonl"
        self.judges = judges
        self._generations = folder / "generations.jsonl"
        self._places: dict[tuple[str, int], int] = {}
        self._hashes: list[str] = []
        changed = []
        for name, line in named_lines(self._generations):
            if not unchanged(line, by):
                changed.append(name[0])
            self._places[name] = len(self._hashes)
            self._hashes.append(hashlib.sha256(line).hexdigest()[:16])
        if changed:
            told = f"{len(changed)} rows, such as {changed[0]}, are not what this run generated, and judged as they are"
            log.warning("%s: %s; delete their lines to have them generated again", self._generations, told)
        self.rows = len(self._hashes)
        self._starts: dict[tuple[str, str], int] = {b: n * self.rows for n, b in enumerate(product(judges, parts))}
        self._there = {block: bytearray(self.rows) for block in self._starts}
        self._undecided: dict[tuple[str, str, int], Judgement] = {}

    def keep(self, holds: Callable[[Judgement], bool]) -> None:
        """Keep the judgements that are still valid and that `holds` accepts; drop the others and a torn last line.

        Unsettled ones are made again. If the server does not reply this time either, the old row is restored.
        """
        repair_rows(self.path)
        if self.path.exists() and all(self._takes(row, holds) for row in iterate_rows(self.path, Judgement)):
            return
        self._there = {block: bytearray(self.rows) for block in self._starts}
        before = iterate_rows(self.path, Judgement) if self.path.exists() else iter(())
        write_rows(self.path, (row for row in before if self._takes(row, holds)))

    def _takes(self, row: Judgement, holds: Callable[[Judgement], bool]) -> bool:
        there, place = self._there.get((row.judge, row.part)), self._places.get((row.id, row.sample))
        if there is None or place is None or there[place] or row.hash != self._hashes[place] or not holds(row):
            return False
        if self.unsettled(row):
            self._undecided[row.judge, row.part, place] = row
            return False
        there[place] = 1
        return True

    def unsettled(self, row: Judgement) -> bool:
        """Whether a row has no verdict because of a server, so that the text should be judged again."""
        refused = bool(row.error and self.judges[row.judge].servers) and not row.error.startswith(NOT_GENERATED)
        return refused or row.error.startswith(NO_REPLY)

    def lacking(self, judge: str, part: Part) -> int:
        """The number of generations that this judge has not judged yet, for one part."""
        return self.rows - sum(self._there[judge, part])

    def make(self, judge: str, part: Part, context: JudgeContext) -> None:
        """Judge the missing generations in batches. Once a judge gives up on its server, it is not called again."""
        there, unjudged, given_up = self._there[judge, part], f"{NO_REPLY}{GIVEN_UP}", False
        generations = enumerate(iterate_rows(self._generations, Generation))
        for batch in _batched((row for number, row in generations if not there[number]), JUDGED):
            shown: dict[str, Generation] = {}  # an id for each text
            failed = []
            for row in batch:
                if row.finish == "error" or given_up:
                    error = f"{NOT_GENERATED}{row.error}" if row.finish == "error" else unjudged
                    failed.append(Judgement(row.id, judge, None, error=error, part=part, sample=row.sample))
                else:
                    shown[f"{row.id}#{row.sample}"] = row
            self._append(failed)
            asked = [replace(seen_by_judge(row, part), id=item) for item, row in shown.items()]
            for made in _batched(self.judges[judge].judge(asked, context) if asked else iter(()), APPENDED):
                given_up |= any(row.error == unjudged for row in made)
                own = [(row, shown[row.id]) for row in made]
                self._append([replace(row, id=text.id, sample=text.sample, part=part) for row, text in own])

    def _append(self, rows: Sequence[Judgement]) -> None:
        made = []
        for row in rows:
            place = self._places[row.id, row.sample]
            self._there[row.judge, row.part][place] = 1
            if row.error.startswith(NO_REPLY):
                row = self._undecided.get((row.judge, row.part, place), row)
            made.append(replace(row, hash=self._hashes[place]))
        append_rows(self.path, made)

    def sort(self) -> None:
        """Sort the rows by judge, part and generation."""
        starts, places = self._starts, self._places
        sort_rows(self.path, _Placed, lambda row: starts[row.judge, row.part] + places[row.id, row.sample])

    def of(self, judge: str, part: Part) -> Iterator[Judgement]:
        """One judge's judgements of one part, in the order of the generations. Call `sort` first."""
        return islice(iterate_rows(self.path, Judgement, self._starts[judge, part]), self.rows)


def _batched(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Lists of `size` rows; the last may be shorter (`itertools.batched` in Python 3.12)."""
    while batch := list(islice(rows, size)):
        yield batch


class _Placed(msgspec.Struct):  # the fields that identify a judgement
    id: str
    judge: str
    part: str = "answer"
    sample: int = 0
