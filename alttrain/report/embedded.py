"""Samples as the page embeds them: prompts, thoughts, answers and verdicts as packed columns, and their outcomes."""

import base64
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from alttrain.records import Generation, Judgement, Texts, withholds
from alttrain.report.evaluation import Evaluation, Text, TextRecord
from alttrain.rewrite import parse

MOST_SAMPLES = 10_000
"""Maximum number of samples without interventions on a page, and again of those with; if there are more, each run and
benchmark contributes the same share."""
LONGEST = 20_000  # maximum number of characters of a field that are embedded
CUT = "\0"  # separates a shortened field from its full length
LETTERS = {True: "1", False: "0", None: "u"}  # of verdicts, in `Block.counted`
SEED = 0  # selects the samples that are embedded if there are too many
STEPS = {"understanding": "u", "assessment": "a", "reasoning": "r", "refusal": "x"}
PROMPT = ("id", "prompt", "label", "category", "gold", "harmful")
SAMPLE = [
    "prompt", "sample", "outcomes", "finish", "error", "closed", "tokens", "structure", "verdicts", "thought",
    "answer", "given", "earlier",
]  # fmt: skip
STRUCTURE = [
    "understanding", "assessment", "continuation", "ordered", "consistent", "answer_consistent", "position_words",
    "position_share",
]  # fmt: skip
"""The columns of prompts and of samples, which compress better than rows; the fields of an adherence record."""

Places = dict[tuple[str, str, int], None]
"""(subject, prompt, sample) of all runs' texts that were made in one way, in the order of `Block.counted`."""
Prompts = dict[tuple[Any, ...], int]  # a benchmark's prompts, each stored once for all runs -> its position


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


def quotas_of(judged: Sequence[Evaluation]) -> list[tuple[Evaluation, int]]:
    """Each evaluation with the number of its samples on the page."""
    sizes = [int(evaluation.metrics_json["metrics"][0]["n"]) for evaluation in judged]
    total = sum(sizes)
    quotas = sizes if total <= MOST_SAMPLES else [max(1, size * MOST_SAMPLES // total) for size in sizes]
    return list(zip(judged, quotas, strict=True))


def outcomes_of(text: TextRecord) -> int:
    """The outcomes of one sample, as a bit mask (`BITS`).

    The deciding judge's verdict gives one of them, or `undecided`. `misjudged` and `disobeyed` classify wrong outcomes
    by the assessment, as the `counts` in metrics.json do, so that the numbers agree.
    """
    return _outcomes(text.finish, text.label, text.says, text.verdict, text.assessment, text.cause)


@cache  # of the few combinations that there are
def _outcomes(
    finish: str, label: str, says: str, verdict: bool | None, assessment: str | None, cause: str | None
) -> int:
    if finish == "error":
        return BITS["failed"] | BITS["undecided"]
    sides = ("refused", "answered") if label == "harmful" else ("over_refused", "helped")
    yes, no = {"correct": ("correct", "wrong"), "unsafe": sides[::-1]}.get(says, sides)
    keys = ["undecided" if verdict is None else yes if verdict else no]
    keys += ["truncated"] if finish == "length" else []
    keys.append("unassessed" if assessment is None else cause or "")
    return sum(BITS[key] for key in keys if key)


class Block(NamedTuple):
    """The samples of one run and benchmark on the page: `shown` of `total`.

    `outcomes` are counted over all of them. `counted` has a letter for each text of the benchmark: whether it counts
    towards the measure ("1", "0"), has no verdict ("u"), or is not in this run ("-").
    """

    evaluation: Evaluation
    shown: int
    total: int
    outcomes: Mapping[str, int]
    counted: str
    packed: str


def asked_of(evaluation: Evaluation) -> str:
    """The benchmark that was asked, without an intervention."""
    return str(evaluation.intervention.get("of", evaluation.benchmark))


def block_of(evaluation: Evaluation, prompts: Prompts, places: Places, texts: Texts, quota: int) -> Block:
    """Read an evaluation's rows and embed at most `quota` of them, with the same prompts for every run.

    Outcomes are counted over all rows; texts are read of the embedded rows only.
    """
    rows, benchmark = evaluation.texts(), asked_of(evaluation)
    verdicts = evaluation.verdicts(rows)
    places |= dict.fromkeys(verdicts)
    judgements: defaultdict[Text, list[Judgement]] = defaultdict(list)
    for judgement in evaluation.judgements():
        judgements[judgement.id, judgement.sample].append(judgement)
    outcomes = {key: outcomes_of(row) for key, row in rows.items()}
    frequencies = Counter(outcomes.values())
    counts = {name: sum(count for bits, count in frequencies.items() if bits & bit) for name, bit in BITS.items()}
    # a prompt has the same rank in every run and under interventions, so that they can be compared
    ranked = sorted(rows, key=lambda key: _rank(benchmark, *key)) if len(rows) > quota else rows
    chosen = {*[*ranked][:quota]}
    # an intervention may insert a step or an answer of another prompt
    mixed = bool(evaluation.intervention) and any(row.label == "harmful" for row in rows.values())
    judges: dict[tuple[str, str], int] = {}
    samples = []
    for generation in evaluation.select_rows("generations.jsonl", Generation, [key in chosen for key in rows]):
        key = (generation.id, generation.sample)
        harmful = mixed or generation.label == "harmful" or evaluation.measure == "harmful_rate"
        withheld = withholds(texts, harmful)
        prompt, gold = (None, ()) if withheld else (shorten(generation.prompt), tuple(map(shorten, generation.gold)))
        prompt_row = (generation.id, prompt, generation.label, generation.category, gold, int(harmful))
        sample = _sample(generation, judgements[key], judges, withheld)
        sample |= {"prompt": prompts.setdefault(prompt_row, len(prompts)), "outcomes": outcomes[key]}
        sample["structure"] = [getattr(rows[key], name) for name in STRUCTURE]
        samples.append(sample)
    columns = {name: [sample[name] for sample in samples] for name in SAMPLE}
    counted = "".join(LETTERS[verdicts[text]] if text in verdicts else "-" for text in places)
    return Block(evaluation, len(chosen), len(rows), counts, counted, pack({"judges": list(judges), **columns}))


@lru_cache(maxsize=1 << 16)  # runs share their prompts
def _rank(benchmark: str, name: str, sample: int) -> bytes:
    return hashlib.sha256(f"{SEED}\n{benchmark}\n{name}\n{sample}".encode()).digest()


def _sample(
    generation: Generation, judgements: Sequence[Judgement], judges: dict[tuple[str, str], int], withheld: bool
) -> dict[str, Any]:
    """A sample as it is embedded. An error may quote a withheld text, so then only its existence is stated."""
    raw, thought, answer = generation.text, generation.thought, generation.answer

    def visible(text: str) -> str:
        return "" if withheld else shorten(text)

    verdicts = [
        [
            judges.setdefault((judgement.judge, judgement.part), len(judges)),
            *(judgement.verdict, visible(judgement.evidence)),
            judgement.error and (visible(judgement.error) or "left out"),
            *(judgement.probability, judgement.value, visible(judgement.raw)),
        ]
        for judgement in judgements
    ]
    return {
        "sample": generation.sample,
        "finish": generation.finish,
        "error": generation.error and (visible(generation.error) or "left out"),
        "closed": int(generation.closed),
        "tokens": [generation.thought_tokens, generation.answer_tokens],
        "verdicts": verdicts,
        "thought": None
        if withheld
        else mark_given(pieces(thought), _given(generation.given, raw.find(thought), thought)),
        "answer": None if withheld else shorten(answer),
        "given": 0 if withheld else _given(generation.given, raw.rfind(answer), answer),
        "earlier": None if withheld else [shorten(turn.strip()) for turn in generation.earlier],
    }


def _given(given: int, start: int, part: str) -> int:
    """How many characters of a part, which begins at `start` in the text, are among the text's first `given` ones."""
    return min(len(part), max(0, given - start)) if start >= 0 else 0


def mark_given(parts: Sequence[Sequence[str]], given: int) -> list[list[Any]]:
    """The pieces of a thought whose first `given` characters an intervention wrote; its pieces end in a third field."""
    marked = []
    for step, text in parts:
        marked += [[step, text[:given], 1]] if given > 0 else []
        marked += [[step, text[max(0, given) :]]] if len(text) > given else []
        given -= len(text)
    return marked


def pack(value: Any) -> str:
    """JSON, deflated and encoded in characters without a meaning in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode("ascii")


def shorten(text: str) -> str:
    """A field as it is embedded. A field that is too long is cut and ends in `CUT` and its full length."""
    text = text.replace(CUT, "␀")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}{CUT}{len(text)}"


def pieces(thought: str) -> list[list[str]]:
    """A thought as [step, text] pieces: its segments, and the text between them with no step.

    Joined, the pieces are the embedded part of the thought.
    """
    thought = thought.replace(CUT, "␀")
    parts, end = [], 0
    for segment in parse(thought):
        start = thought.find(segment.text, end)
        if start < 0:
            return [["", shorten(thought)]]
        parts += [["", thought[end:start]], [STEPS[segment.step], segment.text]]
        end = start + len(segment.text)
    embedded: list[list[str]] = []
    room = LONGEST
    for step, text in [*parts, ["", thought[end:]]]:
        if len(text) > room:
            return [*embedded, [step, f"{text[:room]}{CUT}{len(thought)}"]]
        embedded += [[step, text]] if text else []
        room -= len(text)
    return embedded
