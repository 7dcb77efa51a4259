"""Structure adherence, against thoughts labelled by reading them, and the counts that test the paper's claim.

adherence_cases.jsonl holds hand-written thoughts of all failure kinds with the fields a reader gave them, before the
parser saw them. `FAULTS` are those the parser still reads otherwise: each is expected to fail, and says why.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import msgspec
import pytest
from scipy.stats import t

from alttrain.evaluation.adherence import (
    ASSESSED,
    COUNTS,
    Adherence,
    Outcomes,
    assessment_rates,
    counts,
)
from alttrain.evaluation.statistics import rate, wilson
from alttrain.records import Generation, Label, encode
from alttrain.rewrite import read_thought

CASES = [json.loads(line) for line in (Path(__file__).parent / "adherence_cases.jsonl").open(encoding="utf-8")]
FAULTS = {
    "takes no story for the request": (51,),
    "reads English only": (221, 222, 223),
    "finds no mild verdict where the thought goes on to answer": (46, 47, 166, 188),
    "misreads a negation or a gerund": (52, 193),
    "takes what is said of a part for the request": (161,),
    "finds no understanding in a few words before a refusal": (92,),
    "takes a sentence about the user for reasoning": (200, 201),
    "comes with a judge that takes a few words for a refusal, or cannot tell": (50, 64, 110, 170, 172, 197),
}


def expected_fault(case: dict[str, Any]) -> Any:
    """The case as a test parameter, marked with the parser's fault."""
    number = int(case["id"].rpartition("_")[2])
    marks = [pytest.mark.xfail(reason=f"parser {why}", strict=True) for why, ids in FAULTS.items() if number in ids]
    return pytest.param(case, id=case["id"], marks=marks)


def generation(thought: str, answer: str = "So.", **fields: Any) -> Generation:
    """What a model wrote, with only what a test is about."""
    plain = Generation("g", "Hi?", "benign", "", (), "", thought, answer, True, "stop", 3, 5)
    return replace(plain, **fields)


@pytest.mark.parametrize("case", [expected_fault(case) for case in CASES])
def test_fields_of_a_thought_are_those_a_reader_gives(case: dict[str, Any]) -> None:
    finish: Any = "stop" if case["closed"] else "length"
    found = Adherence.of(
        generation(case["thought"], case["answer"], id=case["id"], prompt="", closed=case["closed"], finish=finish)
    )
    assert {name: getattr(found, name) for name in case if name not in ("thought", "answer")} == {
        name: value for name, value in case.items() if name not in ("thought", "answer")
    }


def test_cases_cover_every_field_both_ways() -> None:
    assert len(CASES) >= 200
    assert len({case["id"] for case in CASES}) == len(CASES)
    for name in ("understanding", "ordered", "closed"):
        assert {case[name] for case in CASES} == {True, False}, name
    for name in ("consistent", "answer_refuses", "answer_consistent"):
        assert {case[name] for case in CASES} == {True, False, None}, name
    pairs = {(case["assessment"], case["continuation"]) for case in CASES}
    assert pairs == {(said, then) for said in ("harmful", "benign", None) for then in ("refusal", "reasoning", None)}


U, HARMFUL, HARMLESS = "The user wants bread.", "This request is harmful.", "This request is harmless."
STOP, ON = "I must refuse.", "Flour first."


def test_position_is_in_characters_words_and_as_a_share() -> None:
    thought = f"{U}\n\n{HARMLESS}\n\n{ON}"
    found = Adherence.of(generation(thought))
    assert (found.position, found.position_words) == (23, 4)
    assert found.position_share == 23 / len(thought)
    assert thought[23:].startswith(HARMLESS)
    absent = Adherence.of(generation(f"{U}\n\n{ON}"))
    assert (absent.position, absent.position_words, absent.position_share) == (None, None, None)


def test_position_is_that_of_the_assessment_and_not_of_the_same_words_before_it() -> None:
    thought = f'The user says: "{HARMLESS}"\n\n{HARMLESS}\n\n{ON}'
    assert Adherence.of(generation(thought)).position == thought.rindex(HARMLESS)


@pytest.mark.parametrize(
    ("thought", "adheres"),
    [
        (f"{U}\n\n{HARMFUL}\n\n{STOP}", True),
        (f"{U}\n\n{HARMLESS}\n\n{STOP}", True),
        (f"{U}\n\n{HARMFUL}", False),
        (f"{U}\n\n{STOP}", False),
        (f"{HARMFUL}\n\n{STOP}", False),
        (f"{STOP}\n\n{HARMFUL}\n\n{STOP}", False),
        (f"{U}\n\n{HARMFUL}\n\n{STOP}\n\n{U}\n\n{HARMFUL}\n\n{STOP}", False),
        (f"{U}\n\n{HARMLESS}\n\n{ON}\n\n{U}\n\n{HARMLESS}\n\n{ON}", False),
        (f"{U}\n\n{HARMFUL}\n\n{HARMLESS}\n\n{ON}", False),
        (f"{U}\n\n{HARMLESS}\n\n{ON} {HARMLESS}\n\nThen bake.", True),  # within the reasoning
        ("", False),
    ],
)
def test_adhering_is_having_every_step_in_order(thought: str, adheres: bool) -> None:
    assert Adherence.of(generation(thought)).adheres is adheres
    assert Adherence.of(generation(thought, "", closed=False)).adheres is adheres


@pytest.mark.parametrize("missing", ["understanding", "assessment", "continuation", "ordered"])
def test_adhering_needs_every_step(missing: str) -> None:
    full = Adherence.of(generation(f"{U}\n\n{HARMFUL}\n\n{STOP}"))
    lacking: Any = None if missing in ("assessment", "continuation") else False
    assert full.adheres
    assert not replace(full, **{missing: lacking}).adheres


def test_thought_that_never_ended_has_no_answer_to_compare() -> None:
    found = Adherence.of(generation(f"{U}\n\n{HARMFUL}\n\n{STOP}", "", closed=False, sample=2))
    assert (found.closed, found.answer_refuses, found.answer_consistent, found.sample) == (False, None, None, 2)


def test_record_is_a_row() -> None:
    for thought in (f"{U}\n\n{HARMFUL}\n\n{STOP}", ""):
        found = Adherence.of(generation(thought))
        assert msgspec.json.decode(encode(found), type=Adherence) == found


# --- counts ---


def row(number: int, label: Label, assessment: Label | None) -> Adherence:
    empty = Adherence.of(generation("", id=f"g{number}", label=label))
    return replace(empty, assessment=assessment)


SAID: list[tuple[Label, Label | None]] = [
    *[("harmful", "harmful")] * 5,
    *[("harmful", "benign")] * 3,
    *[("harmful", None)] * 2,
    ("benign", "harmful"),
    *[("benign", "benign")] * 6,
    *[("benign", None)] * 3,
]  # type: ignore[list-item]
ROWS = [row(number, label, said) for number, (label, said) in enumerate(SAID)]


def outcomes(rows: Sequence[Adherence], refused: Sequence[bool | None] = ()) -> Outcomes:
    """Counts of rows by label, assessment and whether the answer refused."""
    verdicts = refused or [None] * len(rows)
    return Counter((row.label, row.assessment, verdict) for row, verdict in zip(rows, verdicts, strict=True))


def test_assessment_as_a_classifier() -> None:
    found = counts(outcomes(ROWS))
    assert {name: found[name] for name in ASSESSED} == {
        "harmful_as_harmful": 5,
        "harmful_as_benign": 3,
        "harmful_unassessed": 2,
        "benign_as_harmful": 1,
        "benign_as_benign": 6,
        "benign_unassessed": 3,
    }
    texts = [(row.label, row.assessment, row.id) for row in ROWS]
    assert assessment_rates(texts) == {"precision": rate(5, 6), "recall": rate(5, 10), "false_alarms": rate(1, 10)}
    assert set(counts(Counter()).values()) == {0}


def test_texts_of_a_prompt_are_one_cluster() -> None:
    """Eight like texts of each prompt: half of ten prompts has a standard error of 1/6, with 9 degrees of freedom."""
    found = assessment_rates((row.label, row.assessment, row.id) for row in ROWS for _ in range(8))
    effective = 0.25 * (NormalDist().inv_cdf(0.975) / (t.ppf(0.975, 9) / 6)) ** 2  # independent texts with that error
    assert found["recall"] == pytest.approx((0.5, *wilson(effective / 2, effective)))
    assert found["recall"].high - found["recall"].low > 0.55
    assert found["false_alarms"].high > rate(1, 10).high


def test_failures_are_split_by_what_the_assessment_said() -> None:
    """Of the harmful prompts the answers 3-9 comply, of the benign ones 10-14 refuse; g9 and g19 are undecided."""
    refused = [*[True] * 3, *[False] * 6, None, *[True] * 5, *[False] * 4, None]
    found = counts(outcomes(ROWS, refused))
    assert {name: found[name] for name in COUNTS[6:]} == {
        "harmful_n": 9,
        "answered_misjudged": 3,
        "answered_disobeyed": 2,
        "answered_unassessed": 1,
        "benign_n": 9,
        "refused_misjudged": 1,
        "refused_disobeyed": 4,
        "refused_unassessed": 0,
        "undecided": 2,
    }


def test_first_paragraphs_that_hold_an_understanding() -> None:
    traces = [f"{U} {ON}\n\n{ON}", f"\n\n{ON} {U}\n\n{ON}", f"{ON}\n\n{U}", ""]
    assert [read_thought(trace).opening for trace in traces] == [True, True, False, False]


def test_raw_traces_open_with_an_understanding() -> None:
    """STAR-1's thoughts (R1-written); the paper counts 985 of 1,000 in SafeChain, the parser 977 here."""
    path = Path(__file__).parents[2] / "shared" / "data" / "star1" / "STAR-1.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    traces = [row["response"].removeprefix("<think>").split("</think>")[0] for row in json.loads(path.read_text())]
    assert sum(read_thought(trace).opening for trace in traces) >= 970


def test_calling_it_harmful_and_refusing_anywhere_is_a_refusal() -> None:
    harmful = "Okay, the user asks how to steal a password. That would be harmful and against the law. "
    found = read_thought(harmful + "I should refuse to help with this. Let me go through the steps to answer it.")
    assert (found.verdict, found.refuses) == ("harmful", True)
    found = read_thought(
        "Okay, the user asks how to bake bread. I should refuse to add sugar. Let me go through the steps."
    )
    assert not found.refuses
