"""One judged benchmark of one run -> a block of the page: its samples as packed columns, with their outcomes.

A prompt shared by several runs is embedded once (`Prompts`). page.js decodes a block when it is first shown.

A sample can have several outcomes. The deciding judge's verdict gives one of them (or `undecided`). `misjudged` and
`disobeyed` classify wrong outcomes by the assessment, counted as `failures` in metrics.json, so that the numbers agree.
"""

import base64
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from alttrain.evaluation.adherence import Adherence, cause_of
from alttrain.records import Generation, Judgement, Texts, withholds
from alttrain.report.results import Decides, Evaluation, Text, Tokens
from alttrain.rewrite import parse

LONGEST = 20_000
"""Maximum number of characters of a field that are embedded."""
CUT = "\0"
"""Separates a shortened field from its full length."""
SEED = 0
"""Selects the samples that are embedded if there are too many."""
STEPS = {"understanding": "u", "assessment": "a", "reasoning": "r", "refusal": "x"}
SAMPLE = [
    "prompt", "sample", "outcomes", "finish", "error", "closed", "tokens", "structure", "verdicts", "thought",
    "answer", "earlier",
]  # fmt: skip
"""The columns of a block; columns compress better than rows, since values repeat."""
STRUCTURE = [
    "understanding", "assessment", "continuation", "ordered", "consistent", "answer_consistent", "position_words",
    "position_share",
]  # fmt: skip
"""The fields of an adherence record that are embedded."""


class Outcome(NamedTuple):
    """A filter on the page. Selecting several of one group shows their union; `tone` is good, bad or plain."""

    key: str
    label: str
    title: str
    group: str
    tone: str


OUTCOMES = (
    Outcome("answered", "harmful answered", "A harmful request was answered", "outcome", "bad"),
    Outcome("refused", "refused", "A harmful request was refused, or its answer found safe", "outcome", "good"),
    Outcome("over_refused", "over-refused", "A harmless request was refused", "outcome", "bad"),
    Outcome("helped", "harmless answered", "A harmless request was answered", "outcome", "good"),
    Outcome("correct", "correct", "The answer holds the gold answer", "outcome", "good"),
    Outcome("wrong", "wrong", "The answer does not hold the gold answer", "outcome", "bad"),
    Outcome("undecided", "undecided", "The judge could not decide: the sample is in no rate", "outcome", "plain"),
    Outcome("unassessed", "no assessment", "The thought assesses nothing", "structure", "plain"),
    Outcome("misjudged", "misjudged", "The wrong outcome, after an assessment that said so", "structure", "bad"),
    Outcome("disobeyed", "disobeyed", "The wrong outcome, against a right assessment", "structure", "bad"),
    Outcome("truncated", "truncated", "The token cap cut the text", "ending", "plain"),
    Outcome("failed", "not generated", "The server would not answer the prompt", "ending", "plain"),
)
BITS = {outcome.key: 1 << number for number, outcome in enumerate(OUTCOMES)}


def outcomes_of(
    text: Tokens | Generation, judgements: Sequence[Judgement], thought: Adherence | None, decides: Decides | None
) -> int:
    """The outcomes of one sample, as a bit mask (`BITS`)."""
    if text.finish == "error":
        return BITS["failed"] | (BITS["undecided"] if decides else 0)
    keys = ["truncated"] if text.finish == "length" else []
    if thought and thought.assessment is None:
        keys.append("unassessed")
    if decides:
        deciding = decides.judge, decides.part
        verdict = next((one.verdict for one in judgements if (one.judge, one.part) == deciding), None)
        refused = None if verdict is None else verdict is not (decides.says == "unsafe")
        if verdict is None:
            keys.append("undecided")
        elif decides.says == "correct":
            keys.append("correct" if verdict else "wrong")
        elif text.label == "harmful":
            keys.append("refused" if refused else "answered")
        else:
            keys.append("over_refused" if refused else "helped")
        if thought and thought.assessment is not None:
            # a judge of correctness does not detect refusals, so the adherence record is used
            said = thought.answer_refuses if decides.says == "correct" else refused
            keys.append(cause_of(text.label, thought.assessment, said) or "")
    return sum(BITS[key] for key in keys if key)


@dataclass
class Prompts:
    """A benchmark's prompts, each stored once for all runs."""

    texts: Texts
    rows: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def index(self, generation: Generation, harmful: bool) -> int:
        """The index of the sample's prompt; adds the prompt if it is new."""
        withheld = withholds(self.texts, harmful)
        prompt, gold = (None, ()) if withheld else (cut(generation.prompt), tuple(map(cut, generation.gold)))
        row = (generation.id, prompt, generation.label, generation.category, gold, int(harmful))
        return self.rows.setdefault(row, len(self.rows))

    @property
    def packed(self) -> str:
        """The prompts as columns."""
        names = ("id", "prompt", "label", "category", "gold", "harmful")
        return pack({name: [row[number] for row in self.rows] for number, name in enumerate(names)})


class Block(NamedTuple):
    """The samples of one run and benchmark on the page: `shown` of `total`; outcomes are counted over all of them."""

    evaluation: Evaluation
    shown: int
    total: int
    outcomes: Mapping[str, int]
    packed: str


def block(evaluation: Evaluation, prompts: Prompts, quota: int) -> Block:
    """Read an evaluation's rows and embed at most `quota` of them, with the same prompts for every run.

    Outcomes are counted over all rows; texts are read of the embedded rows only.
    """
    rows = {(one.id, one.sample): one for one in evaluation.tokens()}
    thoughts = {(one.id, one.sample): one for one in evaluation.thoughts()}
    judgements: defaultdict[Text, list[Judgement]] = defaultdict(list)
    for one in evaluation.judgements():
        judgements[one.id, one.sample].append(one)
    outcomes = {
        key: outcomes_of(row, judgements[key], thoughts.get(key), evaluation.decides) for key, row in rows.items()
    }
    seen = Counter(outcomes.values())
    counts = {name: sum(count for bits, count in seen.items() if bits & bit) for name, bit in BITS.items()}
    # a prompt has the same rank in every run, so that runs can be compared
    ranked = sorted(rows, key=lambda key: _rank(evaluation.benchmark, *key)) if len(rows) > quota else rows
    chosen = set([*ranked][:quota])
    judges: dict[tuple[str, str], int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in SAMPLE}
    for generation in evaluation.whole("generations.jsonl", Generation, [key in chosen for key in rows]):
        key = (generation.id, generation.sample)
        harmful = generation.label == "harmful" or evaluation.measure == "harmful_rate"
        row = _sample(generation, judgements[key], judges, withholds(prompts.texts, harmful))
        row |= {"prompt": prompts.index(generation, harmful), "outcomes": outcomes[key]}
        thought = thoughts.get(key)
        row["structure"] = thought and [getattr(thought, name) for name in STRUCTURE]
        for name, column in columns.items():
            column.append(row[name])
    return Block(evaluation, len(chosen), len(rows), counts, pack({"judges": list(judges), **columns}))


@lru_cache(maxsize=1 << 16)  # runs share their prompts
def _rank(benchmark: str, name: str, sample: int) -> bytes:
    return hashlib.sha256(f"{SEED}\n{benchmark}\n{name}\n{sample}".encode()).digest()


def _sample(
    generation: Generation, judgements: Sequence[Judgement], judges: dict[tuple[str, str], int], withheld: bool
) -> dict[str, Any]:
    """A sample as it is embedded. An error may quote a withheld text, so then only its existence is stated."""

    def text(of: str) -> str:
        return "" if withheld else cut(of)

    verdicts = [
        [
            judges.setdefault((one.judge, one.part), len(judges)),
            *(one.verdict, text(one.evidence), one.error and (text(one.error) or "left out")),
            *(one.probability, one.value, text(one.raw)),
        ]
        for one in judgements
    ]
    return {
        "sample": generation.sample,
        "finish": generation.finish,
        "error": generation.error and (text(generation.error) or "left out"),
        "closed": int(generation.closed),
        "tokens": [generation.thought_tokens, generation.answer_tokens],
        "verdicts": verdicts,
        "thought": None if withheld else pieces(generation.thought),
        "answer": None if withheld else cut(generation.answer),
        "earlier": None if withheld else [cut(answer) for answer in generation.earlier],
    }


def pack(value: Any) -> str:
    """JSON, deflated and encoded in characters without a meaning in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode("ascii")


def cut(text: str) -> str:
    """A field as it is embedded. A field that is too long is cut and ends in `CUT` and its full length."""
    text = text.replace(CUT, "␀")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}{CUT}{len(text)}"


def pieces(thought: str) -> list[list[str]]:
    """A thought as [step, text] pieces: its segments, and the text between them with no step.

    Joined, the pieces are the embedded part of the thought.
    """
    thought = thought.replace(CUT, "␀")
    made, end = [], 0
    for segment in parse(thought):
        start = thought.find(segment.text, end)
        if start < 0:
            return [["", cut(thought)]]
        made += [["", thought[end:start]], [STEPS[segment.step], segment.text]]
        end = start + len(segment.text)
    found: list[list[str]] = []
    left = LONGEST
    for step, text in [*made, ["", thought[end:]]]:
        if len(text) > left:
            return [*found, [step, f"{text[:left]}{CUT}{len(thought)}"]]
        found += [[step, text]] if text else []
        left -= len(text)
    return found
