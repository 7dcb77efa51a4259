"""One judged benchmark of one run -> a block of the page: its samples as columns, packed.

Reads generations.jsonl, judgements.jsonl and adherence.jsonl beside a metrics.json. A prompt that several runs were
given is embedded once for all of them (`Prompts`). What a block holds is decoded by page.js when it is first looked at.
"""

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from alttrain.evaluation.adherence import Adherence
from alttrain.records import Generation, Judgement, Texts, withholds
from alttrain.report import items
from alttrain.report.items import Item, Row
from alttrain.report.page.outcomes import BITS, Decides, found
from alttrain.report.runs import Evaluation
from alttrain.rewrite import parse

LONGEST = 20_000
"""Characters of a field that are embedded."""
CUT = "\0"
"""Stands between a field that was cut and its full length."""
STEPS = {"understanding": "u", "assessment": "a", "reasoning": "r", "refusal": "x"}


@dataclass(frozen=True)
class Block:
    """What the page holds of one run and benchmark: `shown` of `total` samples, outcomes counted over all of them."""

    evaluation: Evaluation
    decides: Decides | None
    shown: int
    total: int
    outcomes: Counter[str]
    packed: str


@dataclass
class Prompts:
    """A benchmark's prompts, each kept once for all runs."""

    texts: Texts
    rows: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def index(self, generation: Generation, harmful: bool) -> int:
        """Where the sample's prompt is kept."""
        withheld = withholds(self.texts, harmful)
        prompt, gold = (None, ()) if withheld else (cut(generation.prompt), tuple(map(cut, generation.gold)))
        row = (generation.id, prompt, generation.label, generation.category, gold, int(harmful))
        return self.rows.setdefault(row, len(self.rows))

    @property
    def packed(self) -> str:
        """The prompts as columns."""
        names = ("id", "prompt", "label", "category", "gold", "harmful")
        return pack({name: [row[number] for row in self.rows] for number, name in enumerate(names)})


def pack(value: Any) -> str:
    """JSON, deflated, in letters that mean nothing in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode("ascii")


def cut(text: str) -> str:
    """A field as it is embedded; one that is too long ends in `CUT` and its full length."""
    text = text.replace(CUT, "␀")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}{CUT}{len(text)}"


def pieces(thought: str) -> list[list[str]]:
    """A thought as [step, text] pieces: its segments, and what stands between them under no step.

    Joined they are the thought, as far as it is embedded.
    """
    made, end = [], 0
    for segment in parse(thought):
        start = thought.find(segment.text, end)
        if start < 0:
            return [["", cut(thought)]]
        if start > end:
            made.append(["", thought[end:start]])
        end = start + len(segment.text)
        made.append([STEPS[segment.step], thought[start:end]])
    if end < len(thought):
        made.append(["", thought[end:]])
    return list(_cut_pieces(made, len(thought)))


def _cut_pieces(made: list[list[str]], length: int) -> Iterable[list[str]]:
    left = LONGEST
    for step, text in made:
        text = text.replace(CUT, "␀")
        if len(text) > left:
            yield [step, f"{text[:left]}{CUT}{length}"]
            return
        left -= len(text)
        yield [step, text]


def block(evaluation: Evaluation, prompts: Prompts, quota: int, seed: int) -> Block:
    """Read an evaluation's rows; at most `quota` of them are embedded, the same prompts for every run.

    Outcomes are counted over all rows, without their texts; those that are embedded are read whole.
    """
    every, judged, thoughts = items.tokens(evaluation), items.judged(evaluation), items.thoughts(evaluation)
    decides = Decides.of(evaluation.judged)
    verdicts, assessed = _by_item(judged), {(one.id, one.sample): one for one in thoughts}
    outcomes = {
        key: found(one, verdicts.get(key, ()), assessed.get(key), decides)
        for one in every
        for key in [(one.id, one.sample)]
    }
    counts: Counter[str] = Counter()
    for bits, count in Counter(outcomes.values()).items():
        counts.update({name: count for name, bit in BITS.items() if bits & bit})
    chosen = _chosen(list(outcomes), evaluation.benchmark, quota, seed)

    def read(name: str, row_type: type[Row], rows: Sequence[Any]) -> list[Row]:
        return items.whole(evaluation.folder / name, row_type, [(row.id, row.sample) in chosen for row in rows])

    judgements = _by_item(read("judgements.jsonl", Judgement, judged))
    adherence = {(one.id, one.sample): one for one in read("adherence.jsonl", Adherence, thoughts)}
    columns = _Columns(prompts.texts)
    for generation in read("generations.jsonl", Generation, every):
        key = (generation.id, generation.sample)
        harmful = generation.label == "harmful" or evaluation.judged["metrics"][0]["metric"] == "harmful_rate"
        place, own = prompts.index(generation, harmful), judgements.get(key, [])
        columns.add(place, generation, own, adherence.get(key), outcomes[key], harmful)
    return Block(evaluation, decides, len(chosen), len(every), counts, columns.packed)


def _by_item(rows: Iterable[Row]) -> dict[Item, list[Row]]:
    found: dict[Item, list[Any]] = {}
    for row in rows:
        one: Any = row
        found.setdefault((one.id, one.sample), []).append(row)
    return found


def _chosen(keys: list[Item], benchmark: str, quota: int, seed: int) -> set[Item]:
    """The samples to embed. A prompt's rank is the same in every run, so that runs can be read side by side."""
    if len(keys) > quota:
        keys = sorted(keys, key=lambda key: _rank(seed, benchmark, *key))[:quota]
    return set(keys)


@lru_cache(maxsize=1 << 16)  # runs are given the same prompts
def _rank(seed: int, benchmark: str, name: str, sample: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{benchmark}\n{name}\n{sample}".encode()).digest()


class _Columns:
    """A block's samples, a list a field: what repeats from row to row packs well."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.judges: dict[tuple[str, str], int] = {}
        names = ("prompt", "sample", "outcomes", "finish", "error", "closed", "tokens", "structure", "verdicts")
        self.columns: dict[str, list[Any]] = {name: [] for name in (*names, "thought", "answer", "earlier")}

    def add(
        self,
        prompt: int,
        generation: Generation,
        judgements: list[Judgement],
        adherence: Adherence | None,
        bits: int,
        harmful: bool,
    ) -> None:
        withheld = withholds(self.texts, harmful)
        text: Callable[[str], str] = (lambda _: "") if withheld else cut
        row = {
            "prompt": prompt,
            "sample": generation.sample,
            "outcomes": bits,
            "finish": generation.finish,
            "error": _quoting(generation.error, text),
            "closed": int(generation.closed),
            "tokens": [generation.thought_tokens, generation.answer_tokens],
            "structure": _structure(adherence),
            "verdicts": [self._verdict(judgement, text) for judgement in judgements],
            "thought": None if withheld else pieces(generation.thought),
            "answer": None if withheld else cut(generation.answer),
            "earlier": None if withheld else [cut(answer) for answer in generation.earlier],
        }
        for name, value in row.items():
            self.columns[name].append(value)

    def _verdict(self, judgement: Judgement, text: Callable[[str], str]) -> list[Any]:
        judge = self.judges.setdefault((judgement.judge, judgement.part), len(self.judges))
        error = _quoting(judgement.error, text)
        numbers = (judgement.probability, judgement.value)
        return [judge, judgement.verdict, text(judgement.evidence), error, *numbers, text(judgement.raw)]

    @property
    def packed(self) -> str:
        return pack({"judges": list(self.judges), **self.columns})


def _quoting(error: str, text: Callable[[str], str]) -> str:
    """An error can quote a text that is withheld: that there was one is said all the same."""
    return error and (text(error) or "left out")


def _structure(adherence: Adherence | None) -> list[Any] | None:
    if adherence is None:
        return None
    return [
        adherence.understanding,
        adherence.assessment,
        adherence.continuation,
        adherence.ordered,
        adherence.consistent,
        adherence.answer_consistent,
        adherence.position_words,
        adherence.position_share,
    ]
