"""One judged benchmark of one run -> a block of the page: its samples as columns, packed.

Reads generations.jsonl, judgements.jsonl and adherence.jsonl beside a metrics.json. A prompt that several runs were
given is embedded once for all of them (`Prompts`). What a block holds is decoded by page.js when it is first looked at.
"""

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from alttrain.evaluation.adherence import Adherence
from alttrain.records import Generation, Judgement, read_rows
from alttrain.report.page.outcomes import BITS, Decides, found
from alttrain.report.runs import Evaluation
from alttrain.rewrite import parse

Texts = Literal["all", "benign", "none"]
"""Whose prompts and outputs the page holds: all samples', those of samples that are not harmful, or nobody's."""
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
    """JSON, deflated, in letters that mean nothing in HTML. Half a surrogate pair, which UTF-8 has not, becomes "?"."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 6)).decode("ascii")


def cut(text: str) -> str:
    """A field as it is embedded; one that is too long ends in `CUT` and its full length."""
    text = text.replace(CUT, "␀")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}{CUT}{len(text)}"


def withholds(texts: Texts, harmful: bool) -> bool:
    """Whether a sample's texts are left out of the page."""
    return texts == "none" or (texts == "benign" and harmful)


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
    """Read an evaluation's rows; at most `quota` of them are embedded, the same prompts for every run."""
    generations = read_rows(evaluation.folder / "generations.jsonl", Generation)
    judgements: dict[tuple[str, int], list[Judgement]] = {}
    for judgement in read_rows(evaluation.folder / "judgements.jsonl", Judgement):
        judgements.setdefault((judgement.id, judgement.sample), []).append(judgement)
    records = read_rows(evaluation.folder / "adherence.jsonl", Adherence)
    adherence = {(record.id, record.sample): record for record in records}
    decides = Decides.of(evaluation.judged)
    measure = evaluation.judged["metrics"][0]["metric"]
    chosen = _chosen(generations, evaluation.benchmark, quota, seed)
    counts: Counter[str] = Counter()
    columns = _Columns(prompts.texts)
    for generation in generations:
        key = (generation.id, generation.sample)
        own, record = judgements.get(key, []), adherence.get(key)
        bits = found(generation, own, record, decides)
        counts.update(name for name, bit in BITS.items() if bits & bit)
        if key in chosen:
            harmful = generation.label == "harmful" or measure == "harmful_rate"
            columns.add(prompts.index(generation, harmful), generation, own, record, bits, harmful)
    return Block(evaluation, decides, len(chosen), len(generations), counts, columns.packed)


def _chosen(generations: list[Generation], benchmark: str, quota: int, seed: int) -> set[tuple[str, int]]:
    """The samples to embed. A prompt's rank is the same in every run, so that runs can be read side by side."""
    keys = [(generation.id, generation.sample) for generation in generations]
    if len(keys) > quota:
        told = (f"{seed}\n{benchmark}\n{name}\n{sample}".encode() for name, sample in keys)
        ranked = sorted(zip((hashlib.sha256(text).digest() for text in told), keys, strict=True))
        keys = [key for _, key in ranked[:quota]]
    return set(keys)


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
