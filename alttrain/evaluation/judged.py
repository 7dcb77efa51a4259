"""A benchmark's judgements on disk: one row for each judge, judged part and generation.

judgements.jsonl has only judges that judged every generation, sorted, so that it can be read in step with the
generations. All files are made in the folder judging/ and replace the old ones when they are complete
(`put_in_place`): nothing that was judged before is touched until then. There a block, which is what one judge says of
one part, has a file of its own (PART-HASH.jsonl): the verdicts that are still valid, to which a judge at work appends.
The new judgements.jsonl is made of these files. The judges of a majority append to a file beside its block's
(PART-HASH.votes.jsonl). Verdicts of a judge that is not asked again are kept.
Memory holds the ids and hashes of the generations and one byte per judgement, but no texts. A judgement stores the hash
of its generation's line. If the line changes, the judgement is no longer valid.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, groupby, product
from operator import attrgetter
from pathlib import Path
from typing import Any, TypedDict

from alttrain import records
from alttrain.config import name_fault
from alttrain.evaluation.judges.judge import NO_REPLY, TOO_LONG, Judge, JudgeContext, Vote
from alttrain.evaluation.protocol import Part, protocol_hash, seen_by_judge
from alttrain.llm import GIVEN_UP
from alttrain.records import Generation, Judgement, Row

log = logging.getLogger(__name__)

JUDGING = "judging"  # the folder of what judges at work write
DOCUMENTS = ("judgements.jsonl", "adherence.jsonl", "judges.json", "agreement.json", "structure.json")
"""The files that are made in judging/, next to metrics.json, which has their hashes."""
JUDGE_BATCH = 4096  # generations passed to a judge at a time
APPEND_BATCH = 256  # judgements appended to the file at a time
NAME_DIGITS = 6
VOTES = ".votes.jsonl"  # in place of ".jsonl", in the name of a file of votes
TRUE_MEANS = "true means"  # the key of a judge's entry in judges.json that has its `says`
Entry = TypedDict("Entry", {"true means": str})  # a judge in judges.json: its config, and what its True means
NOT_GENERATED = "not generated: "  # prefix of a judgement's error if there was no text to judge


class Judgements:
    """The judgements of a folder's generations.jsonl. Warns of generations that their writer `by` did not append.

    - `judges`   the judges that are asked
    - `entries`  name in the new judgements.jsonl -> the judge's entry in judges.json, also of judges that are not asked
    - `names`    name in the present judgements.jsonl -> name in the new one; rows of other judges are not taken over
    - `path`     the new judgements.jsonl, in the folder judging/; `write` makes it
    - `blocks`   (judge, part) in the order of the new file: of the judges that are asked, then of others that judged
                 every generation; `write` finds these
    """

    def __init__(
        self,
        folder: Path,
        judges: Mapping[str, Judge],
        parts: Sequence[Part],
        entries: Mapping[str, Mapping[str, Any]],
        names: Mapping[str, str],
        by: str = "",
    ) -> None:
        self.folder, self.path = folder, folder / JUDGING / "judgements.jsonl"
        self.judges, self.entries = judges, entries
        self.requested_blocks: list[tuple[str, Part]] = list(product(judges, parts))
        self.generations, self._old_path, self._names = folder / "generations.jsonl", folder / "judgements.jsonl", names
        self._row_numbers: dict[tuple[str, int], int] = {}
        self._hashes: list[str] = []
        changed = []
        for name, line in records.named_lines(self.generations):
            if not records.is_unchanged(line, by):
                changed.append(name[0])
            self._row_numbers[name] = len(self._hashes)
            self._hashes.append(hashlib.sha256(line).hexdigest()[:16])
        if changed:
            first, count = changed[0], len(changed)
            warning = f"{count} rows, such as {first}, are not what this run generated, and judged as they are"
            log.warning("%s: %s; delete their lines to have them generated again", self.generations, warning)
        self.rows = len(self._hashes)
        self.blocks: list[tuple[str, str]] = list(self.requested_blocks)
        self._judged: dict[tuple[str, str], bytearray] = {}  # by block, 1 for each generation that is judged
        self._undecided: dict[tuple[str, str, int], Judgement] = {}

    def find(self) -> None:
        """Find the judgements that are still valid, and put them into their blocks' files.

        Unsettled ones are made again. If the server does not reply this time either, the old row is restored.
        """
        self.path.parent.mkdir(exist_ok=True)
        records.repair_rows(self._old_path)
        for block in self.requested_blocks:
            self._collect(block, ())
        old_rows = records.iterate_rows(self._old_path, Judgement) if self._old_path.exists() else ()
        for (judge, part), rows in groupby(old_rows, attrgetter("judge", "part")):
            if judge in self._names:
                self._collect((self._names[judge], part), rows)

    def _collect(self, block: tuple[str, str], rows: Iterable[Judgement]) -> None:
        """Make the block's file: these rows and those that it has already, as far as they are still valid."""
        path = self._block_path(*block)
        records.repair_rows(path)
        own_rows = records.iterate_rows(path, Judgement) if path.exists() else ()
        flags = self._judged[block] = bytearray(self.rows)
        named = (replace(row, judge=block[0]) for row in chain(rows, own_rows))  # the name that the judge has now
        records.write_rows(path, (row for row in named if row.part == block[1] and self._takes(row)))
        if not any(flags):
            path.unlink()

    def _takes(self, row: Judgement) -> bool:
        """Whether to keep a row: its text is unchanged, no earlier row is of the same text, and, if its judge is asked,
        it is settled.
        """
        number, block = self._row_numbers.get((row.id, row.sample)), (row.judge, row.part)
        if number is None or row.hash != self._hashes[number] or self._judged[block][number]:
            return False
        if block in self.requested_blocks and self.is_unsettled(row):
            self._undecided[row.judge, row.part, number] = row
            return False
        self._judged[block][number] = 1
        return True

    def is_unsettled(self, row: Judgement) -> bool:
        """Whether a row has no verdict because of a server, so that the text should be judged again."""
        lasting = row.error.startswith(NOT_GENERATED) or TOO_LONG in row.error  # or of one of several guards
        return row.error.startswith(NO_REPLY) or bool(row.error and self.judges[row.judge].servers and not lasting)

    def count_missing(self, judge: str, part: Part) -> int:
        return self.rows - sum(self._judged[judge, part])

    def judge_missing(self, judge: str, part: Part, context: JudgeContext) -> None:
        """Judge the missing generations in batches. Once a judge gives up on its server, it is not called again."""
        flags, unjudged, given_up = self._judged[judge, part], f"{NO_REPLY}{GIVEN_UP}", False
        context = replace(context, vote=votes_kept(self._block_path(judge, part).with_suffix(VOTES)))
        numbered = enumerate(records.iterate_rows(self.generations, Generation))
        for batch in _batched((row for number, row in numbered if not flags[number]), JUDGE_BATCH):
            texts = {f"{row.id}#{row.sample}": row for row in batch}  # by an id that differs for each sample
            failed = dict.fromkeys(texts, unjudged) if given_up else {}
            failed |= {item: f"{NOT_GENERATED}{row.error}" for item, row in texts.items() if row.finish == "error"}
            self._append(part, texts, [Judgement(item, judge, None, error=error) for item, error in failed.items()])
            queries = [replace(seen_by_judge(row, part), id=item) for item, row in texts.items() if item not in failed]
            judged = self.judges[judge].judge(queries, context) if queries else iter(())
            for judgements in _batched(judged, APPEND_BATCH):
                # a majority names the judge that gave up
                given_up |= any(judgement.error.endswith(GIVEN_UP) for judgement in judgements)
                self._append(part, texts, judgements)

    def _append(self, part: Part, texts: Mapping[str, Generation], judgements: Sequence[Judgement]) -> None:
        """Append judgements of one judge to its block's file. An id of theirs is a key of `texts`."""
        rows = []
        for judgement in judgements:
            text, block = texts[judgement.id], (judgement.judge, part)
            number = self._row_numbers[text.id, text.sample]
            self._judged[block][number] = 1
            if judgement.error.startswith(NO_REPLY):
                judgement = self._undecided.get((*block, number), judgement)
            rows.append(replace(judgement, id=text.id, sample=text.sample, part=part, hash=self._hashes[number]))
        if rows:
            records.append_rows(self._block_path(rows[0].judge, part), rows)

    def write(self) -> None:
        """Write the new judgements.jsonl, sorted by judge, part and generation, and judges.json.

        Call it when nothing is lacking. Verdicts of other judges that do not cover all generations, since texts
        changed, stay in their own files, until these judges are asked again.
        """
        for block in [block for block in self._judged if block not in self.requested_blocks]:
            if all(self._judged[block]):
                self.blocks.append(block)
            elif any(self._judged[block]):
                path = self._block_path(*block)
                log.warning("%s did not judge every text; its verdicts are kept in %s", block[0], path)
        with records.replacing(self.path) as file:
            for path in (self._block_path(*block) for block in self.blocks):
                records.sort_rows(path, self._row_numbers)
                with records.open_regular(path) as block_file:
                    shutil.copyfileobj(block_file, file)
        records.write_json(self.path.with_name("judges.json"), {name: self.entries[name] for name, _ in self.blocks})

    def _block_path(self, judge: str, part: str) -> Path:
        return self.path.with_name(working_file_name(part, self.entries[judge]))

    def rows_of(self, judge: str, part: str) -> Iterator[Judgement]:
        """One judge's judgements of one part, in the order of the generations. Call `write` first."""
        return records.iterate_rows(self._block_path(judge, part), Judgement)


def working_file_name(part: str, entry: Mapping[str, Any]) -> str:
    """The name of the file of a block, given its part and its judge's entry in judges.json.

    The judge's name is no part of it, since another judge of the same name may change it.
    """
    return f"{part}-{protocol_hash(entry)}.jsonl"


def shaping_verdicts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a judge's entry in judges.json that shapes its verdicts: without its server's address."""
    left_out = ("alttrain", TRUE_MEANS)
    return {key: value for key, value in entry.items() if key not in left_out and key.rpartition(".")[2] != "base_url"}


def merge_entries(
    configured: Mapping[str, Mapping[str, Any]], folder: Path
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """The `entries` and `names` of a folder's judgements, given the entries of the judges that are asked.

    A judge that is configured has the name of its config. Another one whose name is thereby taken gets the hash of its
    config after it. A judge that differs only in its server's address or alttrain's version is the same judge, and is
    left out, since it judges again.
    """
    entries, names = dict(configured), dict[str, str]()
    for name, entry in (records.json_or_none(folder / "judges.json", dict[str, Entry]) or {}).items():
        shaping = shaping_verdicts(entry)
        new_name = next((key for key, config in configured.items() if shaping_verdicts(config) == shaping), None)
        if new_name is not None:
            if entry.items() <= configured[new_name].items():
                names[name] = new_name
        elif fault := name_fault(name):
            log.warning("judge     left out the verdicts of %r: %s", name, fault)
        else:
            digest = protocol_hash(shaping)[:NAME_DIGITS]
            plain_name = name.removesuffix(f"-{digest}")
            names[name] = f"{plain_name}-{digest}" if plain_name in entries else plain_name
            entries[names[name]] = entry
    return entries, names


def put_in_place(folder: Path) -> bool:
    """Put the complete files of judging/ in place, metrics.json last. Returns False if there are none.

    Files that no longer apply are removed, and so are those of the blocks that are thereby in place.
    """
    judging = folder / JUDGING
    if not (judging / "metrics.json").exists():
        return False
    judged = records.read_metrics(judging / "metrics.json")
    for name in DOCUMENTS:
        if judged["made_from"][name] is None:
            (folder / name).unlink(missing_ok=True)
        elif (judging / name).exists():
            (judging / name).replace(folder / name)
    entries = records.read_json(folder / "judges.json")
    for judge in (judged["analysis"]["decides"], *judged["analysis"]["others"]):
        name = working_file_name(judge["part"], entries[judge["judge"]])
        for path in (judging / name, (judging / name).with_suffix(VOTES)):
            path.unlink(missing_ok=True)
    (judging / "metrics.json").replace(folder / "metrics.json")
    with suppress(OSError):  # not empty: verdicts that wait for their judge
        judging.rmdir()
    return True


def votes_kept(path: Path, majority: str = "") -> Vote:
    """Return what has a judge vote, and keeps its votes in a file: no text is judged twice by the same judge.

    Errors are not kept. The file is of one config, where names tell judges apart; `majority` has those of the
    majorities that the judge is in. Whoever makes the verdicts of a majority removes the file when it has them.
    """

    def vote(judge: Any, rows: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        records.repair_rows(path)
        voter = f"{majority}/{judge.name}"
        hashes = {row.id: hashlib.sha256(records.encode(row).encode()).hexdigest()[:16] for row in rows}
        found = records.iterate_rows(path, Judgement) if path.exists() else ()
        of_voter = (row for row in found if row.judge == voter and row.hash == hashes.get(row.id))
        kept = {row.id: replace(row, judge=judge.name) for row in of_voter}
        context.progress(len(kept))
        yield from kept.values()
        lacking = [row for row in rows if row.id not in kept]
        judged = judge.judge(lacking, replace(context, vote=votes_kept(path, voter))) if lacking else iter(())
        for batch in _batched(judged, APPEND_BATCH):
            votes = [replace(row, judge=voter, hash=hashes[row.id]) for row in batch if not row.error]
            records.append_rows(path, votes)
            yield from batch

    return vote


def _batched(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Lists of `size` rows. The last may be shorter, also if an error or Ctrl-C ends the rows: it comes before that."""
    batch: list[Row] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == size:
                whole, batch = batch, []
                yield whole
    finally:
        if batch:
            yield batch
