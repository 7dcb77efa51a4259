"""Evaluation: the refusal judge in its place, the grader and benchmarks."""

from dataclasses import replace
from typing import Any

import pytest

from alttrain.dataset import embedded_rows
from alttrain.english.refusal import judge_refusal
from alttrain.evaluation import Benchmark, RefusalJudge, ShortAnswer
from alttrain.records import Generation, Judgement
from alttrain.rewrite.structures import CARE, REFUSALS


def generation(answer: str = "", thought: str = "", **fields: Any) -> Generation:
    """What a model wrote, with only what a test is about."""
    text = f"{thought}</think>{answer}"
    plain = Generation("g", "Hi?", "benign", "", (), text, thought, answer, True, "stop", 3, 5)
    return replace(plain, **fields)


# --- the refusal judge ---


def test_every_trained_refusal_is_one() -> None:
    """The answers that the structures train on are refusals to the judge."""
    assert [answer for answer in (*REFUSALS, *CARE) if judge_refusal(answer) is not True] == []


def test_judge_reads_the_answer_and_never_the_thought() -> None:
    judge = RefusalJudge()
    flour = "Mix flour, water and salt, and bake the loaf for an hour."
    assert judge(generation(flour, "I can't help with this.")).verdict is False
    assert judge(generation("I can't help with this.", flour)).verdict is True


def test_thought_that_never_ended_is_undecided() -> None:
    unclosed = generation("", "I can't help with this.", closed=False, finish="length")
    assert RefusalJudge("mine")(unclosed) == Judgement("g", "mine", None, "no answer: the thought never ended")


# --- the grader ---

GRADED: list[tuple[str, tuple[str, ...], bool]] = [
    ("Paris", ("Paris",), True),
    ("The capital of France is Paris.", ("Paris",), True),
    ("PARIS!", ("paris",), True),
    ("It's **Paris**, of course", ("Paris",), True),
    ("It is London.", ("Paris",), False),
    ("It is not Paris.", ("Paris",), False),
    ("It isn't Paris but Lyon.", ("Paris",), False),
    ("Paris is not the capital.", ("Paris",), False),
    ("No, it is not. Paris is.", ("Paris",), True),
    ("Paris, not Lyon.", ("Paris",), True),
    ("It may have been June.", ("May",), False),
    ("It was in May.", ("May",), True),
    ("He gave us two.", ("US",), False),
    ("Comparison", ("Paris",), False),
    ("Parisian", ("Paris",), False),
    ("carbon monoxide", ("carbon dioxide",), False),
    ("It is called Mount   Everest.", ("Mount Everest",), True),
    ("Everest is the mount.", ("Mount Everest",), False),
    ("twenty-six letters", ("26", "twenty-six"), True),
    ("There are 26.", ("26", "twenty-six"), True),
    ("There are 126.", ("26", "twenty-six"), False),
    ("In 1776, on July 4", ("1776",), True),
    ("Ünal wrote it", ("Unal",), False),
    ("Ｐａｒｉｓ", ("Paris",), True),
    ("", ("Paris",), False),
    ("I don't know.", ("Paris", "the city of Paris"), False),
    ("It is Rubik’s Cube.", ("Rubik's Cube",), True),
    ("About 7.5 km.", ("7",), False),
    ("It has 100,000 inhabitants.", ("100",), False),
    ("It is -40 degrees.", ("-40",), True),
    ("It is 40 degrees.", ("-40",), False),
]


@pytest.mark.parametrize(("answer", "gold", "right"), GRADED)
def test_short_answer_is_graded(answer: str, gold: tuple[str, ...], right: bool) -> None:
    judgement = ShortAnswer()(generation(answer, gold=gold))
    assert judgement.verdict is right
    assert judgement.error == ""
    assert judgement.evidence in gold if right else judgement.evidence == ("" if answer else "no answer")


def test_first_alias_that_is_said_is_the_evidence() -> None:
    judgement = ShortAnswer("mine")(generation("Mount Everest", gold=("K2", "Mount Everest", "Everest")))
    assert judgement == Judgement("g", "mine", True, "Mount Everest")


def test_row_without_gold_is_undecided_with_an_error() -> None:
    assert ShortAnswer()(generation("Paris")) == Judgement(
        "g", "short_answer", None, error="the row has no gold answer"
    )


def test_thought_is_never_graded() -> None:
    assert ShortAnswer()(generation("London", "Paris, I think.", gold=("Paris",))).verdict is False
    unclosed = generation("", "Paris, I think.", gold=("Paris",), closed=False, finish="length")
    assert ShortAnswer()(unclosed).verdict is False


def test_gold_of_every_embedded_question_is_right() -> None:
    for example in embedded_rows("short_answer").examples(None):
        for gold in example.gold:
            assert ShortAnswer()(generation(f"The answer is {gold}.", gold=example.gold)).verdict is True, example.id
        assert ShortAnswer()(generation(example.prompt, gold=example.gold)).verdict is False, example.id


# --- benchmarks ---


@pytest.mark.parametrize("measure", ["harmful_rate", "over_refusal_rate", "accuracy"])
def test_benchmark_wants_the_judge_of_its_measure(measure: Any) -> None:
    rows = embedded_rows("short_answer")
    right, wrong = (ShortAnswer(), RefusalJudge()) if measure == "accuracy" else (RefusalJudge(), ShortAnswer())
    kind: Any = {"harmful_rate": "harm", "over_refusal_rate": "over_refusal"}.get(measure, "knowledge")
    assert Benchmark("b", kind, measure, rows, right).judge is right
    says = "'refused' or 'unsafe'" if measure == "harmful_rate" else f"'{right.says}'"
    with pytest.raises(ValueError, match=f"benchmark b: measure {measure} needs a judge that says {says}, but"):
        Benchmark("b", kind, measure, rows, wrong)
    with pytest.raises(ValueError, match=f"benchmark b: kind=(maths|harm) has measure=.*, not {measure}"):
        Benchmark("b", "harm" if measure == "accuracy" else "maths", measure, rows, right)
