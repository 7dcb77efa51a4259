"""Graders: right answers as models write them are accepted, wrong ones are rejected, on whole data sets where present.

The data sets stand in shared/data beside the repository; without them only the written cases run.
"""

import csv
import gc
import json
import math
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest

from alttrain.english import is_english
from alttrain.english.refusal import assess_refusal
from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.grading import Choice, ExactMatch, IFEval, Maths, Rouge, ShortAnswer, maths
from alttrain.evaluation.grading.final_answer import boxed_answer, stated_answers
from alttrain.evaluation.grading.humaneval import code_of, program
from alttrain.evaluation.grading.maths import equal, written_answer
from alttrain.evaluation.grading.multiple_choice import chosen_letters, options
from alttrain.evaluation.grading.short_answer import f1, normalise
from alttrain.evaluation.judges.rubrics import bare_reply
from alttrain.evaluation.protocol import Judge
from alttrain.evaluation.statistics import pass_at_k
from alttrain.records import Generation, Judgement
from alttrain.rewrite import read_thought

DATA = Path(__file__).parents[2] / "shared" / "data"
VARIANTS = Path(__file__).with_name("math_variants.jsonl")
Case = tuple[Sequence[str], str, bool]


def generation(answer: str, *gold: str, thought: str = "", prompt: str = "?", closed: bool = True) -> Generation:
    """What a model wrote, with only what a test is about."""
    text = f"{thought}</think>{answer}"
    return Generation("g", prompt, "benign", "", gold, text, thought, answer, closed, "stop", 1, 1)


def misjudged(judge: Judge, cases: Sequence[Case], prompt: str = "?") -> list[Any]:
    """The cases a judge gets wrong, with what its verdict rests on."""
    judged = [(case, judge(generation(case[1], *case[0], prompt=prompt))) for case in cases]
    return [(case, judgement) for case, judgement in judged if judgement.verdict is not case[2]]


def upstream(path: str) -> list[dict[str, Any]]:
    """The rows of a JSON lines file of the developer data; skips the test where it is absent."""
    if not (DATA / path).exists():
        pytest.skip(f"no developer data: {DATA / path}")
    return [json.loads(line) for line in (DATA / path).read_text(encoding="utf-8").splitlines()]


# --- what every grader does ---

GRADERS: list[Judge] = [Maths(), ExactMatch(), Choice(), ShortAnswer()]


@pytest.mark.parametrize("grader", GRADERS, ids=lambda grader: grader.name)
def test_answer_is_graded_and_never_the_thought(grader: Judge) -> None:
    assert grader.says == "correct"
    assert grader(generation("The answer is B.", "B", thought="So C.")).verdict is True
    assert grader(generation("The answer is C.", "B", thought="The answer is B.")).verdict is False


@pytest.mark.parametrize("grader", GRADERS, ids=lambda grader: grader.name)
def test_no_answer_is_wrong_and_no_gold_undecided(grader: Judge) -> None:
    missing = grader(generation(" \n", "B", thought="The answer is B.", closed=False))
    assert (missing.verdict, missing.evidence, missing.error) == (False, "no answer", "")
    assert grader(generation("B")) == Judgement("g", grader.name, None, error="the row has no gold answer")


# --- where the answer stands ---


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"$\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1}, \boxed{2} and $\boxed{3}$", "1, 2, 3"),
        (r"\boxed{1}$ or $\boxed{2}", "1, 2"),
        (r"$x=\boxed{1}$ and $x=\boxed{2}$", "1, 2"),
        (r"\boxed{1} \text{ and } \boxed{2}", "1, 2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{4}}", r"\boxed{4}"),
        (r"\boxed 7", "7"),
        (r"\fbox{x}", "x"),
        (r"\boxed{5} and \boxed{never", "5"),
        (r"\boxed{never", None),
        ("no box", None),
    ],
)
def test_last_box(text: str, held: str | None) -> None:
    assert boxed_answer(text) == held


def test_boxes_that_never_close_take_no_time() -> None:
    assert boxed_answer(r"\boxed{" * 20_000) is None


def test_many_boxes_in_a_list_take_no_time() -> None:
    began = time.process_time()
    numbers = list(map(str, range(30_000)))
    assert boxed_answer(", ".join(rf"\boxed{{{number}}}" for number in numbers)) == ", ".join(numbers)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("The answer is 5.", ["5."]),
        ("**Final Answer:** 5\nThanks", ["5"]),
        ("### Final answer\n\n5 apples", ["5 apples"]),
        ("The answer to the question is: 5", ["5"]),
        ("#### 5", ["5"]),
        ("Answer = 5. The answer is 6", ["5. The answer is 6", "6"]),
        ("The final answer is\n\\[\nx^2\n\\]\nDone", ["\\[\nx^2\n\\]"]),
        ("答案：五", ["五"]),
        ("He answered at once.", []),
    ],
)
def test_phrases_that_state_the_answer(text: str, phrases: list[str]) -> None:
    assert stated_answers(text) == phrases


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (r"x = 3, so $\boxed{x = 4}$. The answer is 5.", "x = 4"),
        ("The answer is 5. I hope this answer is helpful.", "5"),
        ("The answer is $x=1$ or $x=2$.", "x=1, x=2"),
        ("The answer is 18 dollars in 2 days.", "18"),
        ("Answer: 3 * 6 = 18", "18"),
        ("The answer is 0.333...", "0.333..."),
        ("Answer: 2x + y = 4", "2x + y = 4"),
        ("The answer is Evelyn.", "Evelyn"),
        ("She pays $5 and then $1,234.50 more.", "$1,234.50"),
        (r"We have 7 cases, so $p = \frac{1}{2}$ holds.", r"p = \frac{1}{2}"),
        (r"So $a = b = 3$", "3"),
        ("That is -12 degrees", "-12"),
        ("It is 3/4 of 12%.", "12%"),
        ("Nothing here.", ""),
        ("Final Answer: The largest $n$ is 34.", "34"),
        ("The maximum of $f(x)$ is 19", "19"),
        ("The answer is not 12 but 15.", "15"),
        ("It is 15, not 12.", "15"),
        ("It is not 4", ""),
        ("one of 1, 2, ... 9", "1, 2, 9"),
        ("The answer is one of 1, 2 or 3.", "1, 2, 3"),
        ("The answer is 2 and 3.", "2 and 3"),
        ("By day 3, 12 are left.", "12"),
        ("We need 1 000 of the 2 100 W lamps.", "100"),  # "2 100 W" may be two lamps of 100 W
        ("We need 1 000 lamps", "1 000"),
        ("It is 1.234.567 now", "1.234.567"),
        ("So it is 0.333... of it.", "0.333..."),
        ("one of 0.1, 0.2... 0.9", "0.1, 0.2, 0.9"),
    ],
)
def test_final_answer(answer: str, found: str) -> None:
    assert written_answer(answer) == found


# --- what equal means ---

EQUAL = [
    ("72", "72.0", "72.00", "+72", r"72\text{ clips}", "72 clips", r"\$72", "072", r"72^\circ", r"72\%"),
    ("84", r"\text{84 clips}", r"\textbf{\$84}"),
    ("1234567", "1,234,567", r"1,\!234,\!567", "$1,234,567.00"),
    (r"\frac{1}{2}", "1/2", "0.5", ".5", r"\dfrac12", r"\frac 12", "½", r"50\%"),
    (r"-\frac{3}{4}", "-3/4", "-0.75", r"\frac{-3}{4}", "−0.75"),
    (r"1\frac{4}{5}", "9/5", "1.8", r"\frac95"),
    (r"\frac{1}{3}", "1/3", "0.333333", "0.33333333", r"0.\overline{3}", "0.333...", r"0.\bar{3}", r"0.33333\ldots"),
    ("0.0000672", r"6.72\times 10^{-5}", ".0000672", r"6.72 \cdot 10^{-5}"),
    (r"90^\circ", "90", "90°", r"90^{\circ}", "90 degrees", r"90\text{ degrees}", r"90\degree"),
    (r"3\sqrt{13}", r"3 \sqrt{13}", r"\sqrt{117}", r"3\cdot\sqrt{13}", r"\sqrt{13}\times 3"),
    (r"11\sqrt2", r"11\sqrt{2}"),
    ("x=5", "5", "x = 5"),
    ("y = 2x + 3", "2x+3", "y=3+2x"),
    ("(3, 4]", r"\left(3,4\right]", "(3,4]", r"(3, \frac{8}{2}]"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", "(-∞,2)∪(3,∞)"),
    (r"x \in [-2,7]", "[-2,7]", r"-2 \le x \le 7", r"x\in[-2,7]"),
    ("[2,5)", r"x \in [2, 5)", r"f(x) \in \left[2,5\right)"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", r"(3,\frac\pi2)"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", r"1-\sqrt{19}\text{ and }1+\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt5, 1+\sqrt5\}"),
    ("1,-2", "-2, 1", "x=1, x=-2", r"1\text{ and }-2", r"x=-2\text{ or }x=1"),
    (r"\text{Evelyn}", "Evelyn", "evelyn", r"\textbf{Evelyn}"),
    (r"\text{(C)}", "C", "(C)", r"\textbf{(C)}"),
    ("2516_8", "2516_{8}"),
    (r"\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ 2 \end{bmatrix}"),
    ("x^3+3x-6", "3x + x^3 - 6", "-6+3x+x^3"),
    ("6 - 5i", "-5i+6"),
    (r"\frac{1}{3}E_{1}+e_{2}", r"\frac{1}{3} E_{1} + e_{2}"),
    ("pq", "qp", r"p \cdot q"),
    (r"\emptyset", r"\varnothing", "∅"),
    (r"\text{no}", "No", "NO"),
    (r"\frac{639}{40}", r"15\frac{39}{40}", r"15\frac{39}{40}, \frac{639}{40}"),
    (r"\frac{11}{30}", r"0.3\overline{6}", "0.3666…", r"\frac{33}{90}"),
    (r"-\frac{23}{11}", r"-2.\overline{09}", "-2.0909..."),
    (r"(-\infty, 2) \cup [3, 5)", r"x < 2 \text{ or } 3 \le x < 5", r"3 \le x < 5, x < 2"),
    (r"x < 2 \text{ or } x > 7", r"(-\infty,2)\cup(7,\infty)"),
    ("17", "= 17", r"=17\text{ cm}", "17\\"),  # a box with "17\ "
    ("34000", "34 000", "34\u00a0000", "34\u202f000", r"34\,000", "34,000"),
    ("5600000", "5.600.000", "5 600 000", "5,600,000"),
    ("6", "6.000", "6.00...", r"\approx 6", "≈ 6", "6th", r"6^\text{th}", r"6^{\text{th}}", "6^{th}"),
    (r"\frac{8}{11}", r"0.\overline{72}", r"0.\dot{7}\dot{2}", r"0.\dot7\dot2"),
    ("3.14", "3.14...", r"\approx 3.14"),  # the dots, which cut a longer decimal, count for nothing
    (r"15\mbox{ cm}^2", "15", r"15\text{ cm}^2", "15 cm^2"),
]


@pytest.mark.parametrize("written", EQUAL, ids=lambda written: written[0])
def test_one_answer_in_several_notations(written: tuple[str, ...]) -> None:
    assert [other for other in written if not equal(written[0], other)] == []


@pytest.mark.slow
def test_different_answers_are_different() -> None:
    """The rows of the table are answers apart."""
    pairs = [(a, b) for ours, others in combinations(EQUAL, 2) for a in ours[:1] for b in others[:1]]
    assert [pair for pair in pairs if equal(*pair) or equal(*reversed(pair))] == []


UNEQUAL = [
    ("72", "73"),
    ("72", "-72"),
    ("72", "7.2"),
    ("72", r"72\pi"),
    ("72", ""),
    ("72", "seventy"),
    ("72", "72, 73"),
    ("72", r"\text{72 or 73 clips}"),
    ("72", "9" * 5000),
    ("5", "5000"),
    ("e_1 2", "e_12"),
    (r"\frac{1}{3}", "0.33"),
    (r"\frac{1}{3}", "0.333334"),
    ("0.0000672", "0.0000673"),
    ("0.0000672", "0.000067"),
    (r"\sqrt{51}", "7.14"),
    (r"\frac{1}{3}", r"0.\overline{4}"),
    ("0.3", r"0.\overline{3}"),
    (r"\sqrt{3}", "1.732..."),
    (r"(-\infty, 2) \cup (3, \infty)", r"x < 2 \text{ or } x \ge 3"),
    (r"(-\infty, 2) \cup (3, \infty)", "x < 2, x < 2"),
    (r"(-\infty, 2) \cup (3, \infty)", "2 < x < 3"),
    ("(3,4]", "(3,4)"),
    ("(3,4)", "(4,3)"),
    ("(3,4)", "3, 4"),
    ("[2,5)", r"x \in (2,5)"),
    ("[2,5)", r"x \notin [2,5)"),
    ("1,-2", "1"),
    ("1,-2", "1,2"),
    ("1,-2", "1,-2,3"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"),
    ("2516_8", "2516_9"),
    ("2516_8", "2516"),
    ("x=5", "x=6"),
    ("y = -2x", "y = 2x"),
    (r"\text{east}", r"\text{west}"),
    (r"\text{even}", "2"),
    (r"\text{(C)}", r"\text{(D)}"),
    (r"(2,\infty)", r"[2,\infty)"),
    (r"(2,3) \cup (4,5)", "(2,3)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    ("2k", "3k"),
    ("p - q", "q - p"),
    ("6 ab", "6 xy"),
    ("2s", "2h"),
    ("6 - 5i", "6 + 5i"),
    (r"\cot x", r"\tan x"),
    ("34000", "34.000"),
    ("34", "34 000"),
    ("34000", "34 00"),
    ("34.5", "34.500.000"),
    ("34, 500", "34 500"),
    ("3.14159", "3.14..."),
    (r"\pi", r"\approx 3.14"),
    ("6", r"\approx 5.9"),
    ("6", r"5.9 \approx 6"),
    ("6", r"6^\text{2}"),
    ("6", "6th^2"),
    (r"\frac{8}{11}", r"0.\dot{2}\dot{7}"),
    ("10, 10, 20", "10, 20, 20"),
]


@pytest.mark.parametrize(("gold", "candidate"), UNEQUAL, ids=[f"{g}|{c[:20]}" for g, c in UNEQUAL])
def test_near_misses_are_not_equal(gold: str, candidate: str) -> None:
    assert equal(gold, candidate) is False


@pytest.mark.slow
@pytest.mark.parametrize("half", ["development", "held_back"])
def test_written_variants(half: str) -> None:
    """What `scripts/measure_graders.py` measures holds; a few written cases of each half are known to be misjudged."""
    rows = [json.loads(line) for line in VARIANTS.read_text(encoding="utf-8").splitlines()]
    cases = [((row["gold"],), row["answer"], row["right"]) for row in rows if row["half"] == half]
    assert len(cases) > 390
    assert len(misjudged(Maths(), cases)) <= 0.05 * len(cases)


@pytest.mark.parametrize(
    ("gold", "candidate", "right"),
    [
        ("125", r"125\textnormal{ miles}", True),
        (r"\frac{1}{4}", r"\int_0^1 x^3\,dx", False),
        (r"\frac{1}{4}", r"\int_0^1 x^3\,dx = \frac14", True),
        (r"75\%", "0.75", True),
        (r"75\%", "7500", False),
        ("0.0000672", r"6.73\times 10^{-5}", False),
        ("1", "1e999999999", False),
        ("1", "sNaN", False),
    ],
)
def test_what_math_verify_does_not_know(gold: str, candidate: str, right: bool) -> None:
    assert equal(gold, candidate) is right


def test_math_verify_answers_from_any_thread() -> None:
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda text=text: results.append(equal(r"\sqrt{8}", text)))  # type: ignore[misc]
        for text in (r"2\sqrt{2}", r"2\sqrt{3}")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True]


def test_only_our_limit_ends_a_comparison() -> None:
    """math-verify's own limits count a slow pair as unequal, so that a busy machine would change verdicts."""
    code = (
        "import runpy, signal\n"
        "def alarm(seconds):\n    raise SystemExit(f'an alarm of {seconds} s')\n"
        "signal.alarm = alarm\n"
        "runpy.run_module('alttrain.evaluation.grading.maths', run_name='__main__')"
    )
    pairs = '["\\\\frac{1}{2}", "0.5"]\n["(1,2]", "(1,3]"]\n'
    done = subprocess.run([sys.executable, "-c", code], input=pairs, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["true", "false"], done.stderr


def test_expression_that_never_finishes_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "SECONDS", 0.01)
    maths._process.cache_clear()  # a process cannot even start in that time
    judgement = Maths()(generation(r"\boxed{x+1}", "x+2"))
    assert (judgement.verdict, judgement.evidence) == (None, "x+1")
    assert judgement.error == "math-verify did not finish 'x+1' against 'x+2'"
    monkeypatch.setattr(maths, "SECONDS", 60)
    assert maths.verify_equal("x+1", "1+x") is True  # a new process took its place


# --- maths on whole data sets ---


def number_written(number: int) -> list[str]:
    """A number as models write final answers."""
    comma = f"{number:,}"
    return [
        f"So \\boxed{{{number}}}.",
        f"\\[\\boxed{{{comma}}}\\]",
        f"The final answer is $\\boxed{{\\${comma}}}$",
        f"3 + 4 = 7. Thus the answer is {comma}.",
        f"**Final answer:** {number} dollars",
        f"She needs 2 x 5 of them, so she makes ${comma} in total.",
        f"#### {comma}",
        f"The answer is **{comma}**.",
        f"We get $x = {number}$.",
        f"**Answer**\n\n{comma}",
        f"Answer: {comma} hours per week over 3 weeks",
        f"The answer is {number}.00.",
        f"In total, 5 * 4 = {number}",
    ]


@pytest.mark.slow
def test_gold_of_gsm8k() -> None:
    """The worked solution with its #### line is the gold; five wrong numbers a row are rejected."""
    cases: list[Case] = []
    for row in upstream("gsm8k/test.jsonl"):
        number = int(row["answer"].rpartition("####")[2].replace(",", ""))
        cases += [((row["answer"],), answer, True) for answer in number_written(number)]
        for place, wrong in enumerate((number + 1, number - 1, number * 10 or 5, -number or 5, number + 1000)):
            cases.append(((row["answer"],), number_written(wrong)[(number + place) % 13], False))
    assert len(cases) == 1319 * 18
    assert misjudged(Maths(), cases) == []


def test_gold_of_aime() -> None:
    """Zero padding on either side changes nothing."""
    cases: list[Case] = []
    for row in upstream("aime/test.jsonl"):
        number = int(row["answer"])
        for gold in (row["answer"], f"{number:03d}"):
            cases += [((gold,), answer, True) for answer in [*number_written(number), f"\\boxed{{{number:03d}}}"]]
            wrongs = (number + 1, number - 1, 999 - number)
            cases += [((gold,), answer, False) for wrong in wrongs for answer in number_written(wrong)]
    assert misjudged(Maths(), cases) == []


def formula_written(formula: str) -> list[str]:
    """A formula as models write final answers."""
    return [
        f"Thus \\boxed{{{formula}}}.",
        f"The answer is ${formula}$.",
        f"**Final Answer**\n\\[\n{formula}\n\\]",
        f"We find $y=3$. The final answer is: $\\boxed{{{formula}}}$. I hope it is correct.",
        f"**Answer:** \\({formula}\\)",
        f"Answer: {formula}",
        f"Hence the final answer is **{formula}**.",
        "The answer is $" + formula.replace("\\frac", "\\dfrac").replace("^\\circ", "^{\\circ}") + "$.",
    ]


def perturbed(gold: str) -> list[str]:
    """Wrong answers near a gold one: each of its numbers changed, a sign, a bracket, a word. Exponents of units, which
    count for nothing, stay.
    """
    wrong = [gold[: m.start()] + str(int(m[0]) + 1) + gold[m.end() :] for m in re.finditer(r"(?<!\}\^)\d+", gold)]
    if re.fullmatch(r"[1-9][\d.]*", gold):
        wrong += [f"-{gold}", f"{gold}\\pi"]
    if gold.startswith("\\text"):
        wrong += [r"\text{something else}", r"\text{(Z)}"]
    if gold.startswith("(") and gold[-1] in ")]":
        wrong += [] if gold.startswith(r"(-\infty") else [f"[{gold[1:]}"]  # infinity is in no interval
        wrong += [] if gold.endswith(r"\infty)") else [gold[:-1] + ("]" if gold[-1] == ")" else ")")]
    return [*wrong, gold.replace("pi", "phi"), f"{gold}, 99"] if "pi" in gold else [*wrong, f"{gold}, 99"]


@pytest.mark.slow
def test_gold_of_math500() -> None:
    """Gold answers in three of eight wordings each, the worked solutions, and wrong answers near the gold ones."""
    right: list[Case] = []
    wrong: list[Case] = []
    for number, row in enumerate(upstream("math500/test.jsonl")):
        gold, written = (row["answer"],), formula_written(row["answer"])
        some = [written[(3 * number + place) % 8] for place in range(3)]
        right += [(gold, answer, True) for answer in [*some, row["solution"]]]
        near = perturbed(row["answer"])
        wrong += [(gold, formula_written(answer)[place % 5], False) for place, answer in enumerate(near)]
    assert len(right) == 2000
    assert len(wrong) > 1000
    assert misjudged(Maths(), right) == []
    assert misjudged(Maths(), wrong) == []


# --- exact match and F1 ---


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("U.S.A.", "usa"),
        ("an apple, a day", "apple day"),
        ("Theatre", "theatre"),
        ("Ｐａｒｉｓ", "paris"),
        ("The", "the"),
        ("*", "*"),
    ],
)
def test_squad_normalisation(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("the Eiffel Tower", "Eiffel Tower", 1.0),
        ("tower", "Eiffel Tower", 2 / 3),
        ("in Paris, France", "Paris", 0.5),
        ("a b b", "b b c", 2 * 2 / 5),
        ("London", "Paris", 0.0),
    ],
)
def test_f1_of_words(answer: str, gold: str, value: float) -> None:
    assert f1(answer, gold) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "verdict", "value"),
    [
        ("14 December 1972", True, 1.0),
        ("The answer is **December 1972**.", True, 1.0),
        ("Answer: December 1972. It was the last one.", True, 1.0),
        ("It ended in **December 1972**, I think.", True, 1.0),
        ("It was December 1972.", False, 2 / 3),
        ("December 1973", False, 0.5),
    ],
)
def test_exact_match_takes_the_best_gold(answer: str, verdict: bool, value: float) -> None:
    judgement = ExactMatch()(generation(answer, "14 December 1972", "December 1972"))
    assert judgement.verdict is verdict
    assert judgement.value == pytest.approx(value)


@pytest.mark.slow
def test_gold_of_nq_open() -> None:
    """Every alias in five wordings; the question itself and another row's answer are rejected."""
    rows = upstream("nq_open/NQ-open.dev.jsonl")
    cases: list[Case] = []
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        golds = row["answer"]
        for gold in golds:
            wordings = (gold, gold.upper(), f"The answer is {gold}.", f"It was **{gold}**.", f"Answer: {gold}\n\nYes.")
            cases += [(golds, answer, True) for answer in wordings]
        wrong = {normalise(other["answer"][0]), normalise(row["question"])} - {normalise(gold) for gold in golds}
        cases += [(golds, answer, False) for text in wrong for answer in (text, f"The answer is {text}.")]
    assert misjudged(ExactMatch(), cases) == []


# --- choice letters ---

CITIES = "Which is the capital of France?\n\nA. London\nB. Paris\nC. New Paris\nD. A and C"
WORDINGS = [
    *("{}", "({})", "{}.", "{}. {text}", "{}) {text}", "**{}. {text}**", "**Answer: {}**", r"\boxed{{{}}}"),
    *("The answer is ({}).", "The correct answer is {}", "Final answer: {}: {text}", "I would choose option {}."),
    *("The best choice is **{}**, since the rest do not fit.", "Option {} is correct because it fits."),
    *("Therefore, {} is the correct answer.", r"The final answer is $\boxed{{\text{{({})}}}}$. I hope it is correct."),
    *(
        "选{}",
        "答案：{}",
        "答案是 {}。",
        "因此，正确答案为（{}）。",
        "根据题意，应选择{}。",
        "综上所述，故选{}",
        "{}选项正确。",
    ),
    *("答案选{}", "正确选项是：{}。", "本题选择 {} 项。", "答案：**{}. {text}**", "经分析，\n\n{}．{text}"),
]


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize(("letter", "text"), [("B", "Paris"), ("A", "London")])
def test_choice_in_many_wordings(wording: str, letter: str, text: str) -> None:
    answer = wording.format(letter, text=text)
    assert Choice()(generation(answer, "B", prompt=CITIES)).verdict is (letter == "B")


@pytest.mark.parametrize(
    ("answer", "verdict", "evidence"),
    [
        ("Paris", True, "option text: B"),
        ("It is Paris, of course.", True, "option text: B"),
        (r"\boxed{Paris}", True, "box: B"),
        ("It is New Paris.", False, "option text: C"),
        ("A or B", False, "ambiguous: line gives A, B"),
        ("The answer is A or B.", False, "ambiguous: statement gives A, B"),
        ("The answer is AB.", False, "ambiguous: statement gives A, B"),
        ("A. London\nB. Paris\nC. New Paris\nD. A and C", False, "ambiguous: line gives A, B, C, D"),
        ("The answer is A. No, the answer is B.", False, "ambiguous: statement gives A, B"),
        ("London, or Paris.", False, "ambiguous: option text gives A, B"),
        ("The answer is A. So \\boxed{B}.", True, "box: B"),
        ("A good question! The answer is B.", True, "statement: B"),
        ("Obviously, (C) is the best known. The answer is (B).", True, "statement: B"),
        ("(C) is the best of the lot ... The answer is (B)", True, "statement: B"),
        ("The answer is a matter of taste.", False, "no choice found"),
        ("I do not know.", False, "no choice found"),
        ("The answer is E.", False, "no choice found"),
        ("不选A，答案是B。", True, "statement: B"),
        ("Therefore: B", True, "line: B"),
        ("Hence, B.", True, "line: B"),
        ("### B", True, "line: B"),
        ("So a city it is.", False, "no choice found"),
        ("<answer>B</answer>", True, "statement: B"),
        ("<answer> (B) Paris </answer>", True, "statement: B"),
        ("<answer>A or B</answer>", False, "ambiguous: statement gives A, B"),
    ],
)
def test_choice_is_found_and_never_guessed(answer: str, verdict: bool, evidence: str) -> None:
    judgement = Choice()(generation(answer, "B", prompt=CITIES))
    assert (judgement.verdict, judgement.evidence) == (verdict, evidence)


def test_options_of_a_prompt() -> None:
    shots = "A. old\nB. older\nAnswer: A\n\nQ?\n(A) one\n(B) two\n(C) three\nAnswer:"
    assert options(shots) == {"A": "one", "B": "two", "C": "three"}
    assert options("A. lone line") == {}
    assert options("Q?\nA. 1\nB. \nC.\nD\n. 4\nD. 5") == {"A": "1", "B": "", "C": "", "D": "5"}
    assert options("题\nＡ．⼀\nＢ．二") == {"A": "一", "B": "二"}
    many = "".join(f"\n{letter}. {place}" for place, letter in enumerate(f"{ascii_uppercase}AZ"))
    assert len(options(many.removesuffix("\nA. 26\nZ. 27") + "\nZ. more")) == 26
    assert options(many) == {}


def test_an_empty_option_is_no_text_that_an_answer_repeats() -> None:
    assert chosen_letters("...", options("Q?\nA. 1\nB.\nC. 3")) == (set(), "")


def test_gold_letter_must_be_an_option() -> None:
    judgement = Choice()(generation("F", "F", prompt=CITIES))
    assert (judgement.verdict, judgement.error) == (None, "gold 'F' is no option; accepted: A, B, C, D")
    assert Choice(letters="ABCDEF")(generation("F", "F")).verdict is True


@pytest.mark.slow
def test_gold_of_cmmlu() -> None:
    """Eight subjects: every letter in rotating wordings, and the option's text where it tells the options apart.

    One question's options are letters in quotation marks: said by themselves, they are the letters.
    """
    folder = DATA / "cmmlu" / "test"
    if not folder.exists():
        pytest.skip(f"no developer data: {folder}")
    rows = [row for path in sorted(folder.glob("*.csv")) for row in csv.DictReader(path.open(newline=""))]
    assert len(rows) == 1372
    wrong: list[Any] = []
    for place, row in enumerate(rows):
        prompt = row["Question"] + "\n" + "\n".join(f"{letter}. {row[letter]}" for letter in "ABCD")
        cases: list[Case] = []
        for letter in "ABCD":
            right = letter == row["Answer"]
            some = [WORDINGS[(place + step) % len(WORDINGS)] for step in range(4)]
            cases += [(row["Answer"], wording.format(letter, text=row[letter]), right) for wording in some]
            texts = [row[other].strip() for other in "ABCD"]
            if texts.count(row[letter].strip()) == 1 and not re.fullmatch(r"\W*[A-D]\W*", row[letter]):
                cases += [(row["Answer"], answer, right) for answer in (row[letter], f"答案是{row[letter]}。")]
        wrong += misjudged(Choice(), cases, prompt)
    assert wrong == []


# --- cheats: what names the right answer without giving it ---

HEDGED_NUMBERS = [
    *("答案不是 4", "答案是 4 吗？", "4 是错的"),
    *("one of 1, 2, ... 9", "It is one of 1, 2, 3 or 4.", "1, 2, 3, 4", "1 2 3 4", "1;2;3;4", "1\n2\n3\n4", "3|4"),
    *(
        "{3, 4}",
        "It is not 4",
        "Not 4.",
        "It is anything but 4.",
        "It is neither 3 nor 4.",
        "The answer is far from 4.",
    ),
    *("3 or 4", "4 or 3", "either 3 or 4", "Maybe 3, maybe 4.", "It is 3, or it is 4.", "Either it is 3. Or it is 4."),
    *("The answer is 3 or 4.", "The answer is one of the following: 4, 5", "Answer: maybe 4, maybe 5", "#### 3 or 4"),
    *(r"\boxed{3}\boxed{4}", r"\boxed{3} \boxed{4}", r"\boxed{3} / \boxed{4}", r"\boxed{3} | \boxed{4}"),
    *(r"\boxed{3} \lor \boxed{4}", r"\boxed{4} or \boxed{5}", r"\boxed{3 or 4}", r"\boxed{\{1,2,3,4\}}"),
    *(r"\boxed{5=4}", r"\boxed{3 = 4}", r"\boxed{}", r"\boxed{?} 4", r"\boxed{x}", r"\boxed{\neq 4}", r"\boxed{\pm 4}"),
    *(
        "4 is wrong",
        "I doubt it is 4",
        "rather than 4",
        "4 is not the answer.",
        "4 is not it",
        "x \\neq 4",
        "The answer isn't 4.",
    ),
]
QUESTIONS = [
    (r"Compute $\int_0^1 x^3\,dx$.", r"\frac{1}{4}", r"\boxed{\int_0^1 x^3\,dx}"),
    (r"Compute $\int_0^1 x^3\,dx$.", r"\frac{1}{4}", r"\boxed{\int_{0}^{1} t^3 \, dt}"),
    (r"Compute $\int_0^1 x^3\,dx$.", r"\frac{1}{4}", r"\boxed{x = \int_0^1 x^3\,dx}"),
    (r"Find $\sum_{k=1}^{100} k$.", "5050", r"\boxed{\sum_{i=1}^{100} i}"),
    (r"Compute $\binom{10}{3}$.", "120", r"\boxed{\dbinom{10}{3}}"),
    (r"Compute $7!$", "5040", r"\boxed{7!}"),
    (r"Compute $17\cdot 23$.", "391", r"\boxed{17 \times 23}"),
    (r"Compute $2^{10}$.", "1024", r"The answer is $2^{10}$."),
    (r"Compute $\log_2 8$.", "3", r"\boxed{\log_2 8}"),
    (r"Simplify $\sqrt{8}$.", r"2\sqrt{2}", r"\boxed{\sqrt{8}}"),
    (r"Compute $|{-5}|$.", "5", r"\boxed{|-5|}"),
]
HEDGED_LETTERS = [
    *("A or B", "ABCD", "The answer is B (or C).", "The answer is B. Or maybe C.", "The answer: B or else C", "A\nB"),
    *("The answer is B; alternatively C.", r"\boxed{A}\boxed{B}", r"\boxed{A} \boxed{B}", r"\boxed{}", CITIES),
    *("I wouldn't choose B", "Don't choose B", "B or not B", "B. is out", "B, no.", "B) is wrong", "B: incorrect"),
    *("B. Paris is wrong", "B. Paris - incorrect.", "The answer is B? No, I don't know.", "The answer is not B."),
    *("Not Paris", "It is not Paris.", "Paris is wrong", "Paris? No.", "Is it Paris?", "London or Paris", "不选B"),
    *("Answer: A\nAnswer: B", "Answer: B\nOr maybe C", "Answer: B & C", "Answer: B | C", r"Paris is near: \boxed{17}"),
    *("Answer: B\n\nWait, I made a mistake. The correct answer is C.", "答案:B\n不对,答案:C", r"\boxed{B, C}"),
    *(r"\boxed{\text{Option B}} or \boxed{\text{Option C}}", r"\boxed{B},\boxed{C}", r"\boxed{B} or \boxed{C}"),
    *("The answer is B when it rains, but C when it does not.", "The answer is B but it could also be C."),
    r"\boxed{17}. I would choose B if I had to guess, but no option fits.",
]
HEDGED_LETTERS += [  # in Chinese, whose characters are no border to a letter for Python's \\b
    *(
        "答案是A或B都可以",
        "答案是B或C都行",
        "答案是B（或C）",
        "选A或选B",
        "答案：B、C都正确",
        "答案是B，C也对",
        "答案：B/D都可能",
    ),
    *(
        "选项B错误",
        "选项B是错误的",
        "选项B不正确",
        "答案是B不对",
        "答案是B的说法错误",
        "答案是B吗？不是",
        "选B就错了",
        "答案：B错",
    ),
    *("不应选B", "不能选B", "没有选B", "不要选择B", "排除选项B", "答案不能是B", "答案是BMW", "答案是B2", "答案是Bär"),
]
HEDGED_NAMES = [
    *("Paris or London", "London or Paris", "Paris; London; Rome", "Paris\nLondon\nRome", "Paris. London. Rome."),
    *("The answer is Paris. Or London.", "The answer is Paris? No.", "Paris. No, London.", "**Paris** is wrong."),
    *("It is not **Paris**.", "It's anything but **Paris**", "**Paris**\n**London**"),
    *("either Paris or London", "one of Paris, London, Rome", "Paris, London, Rome, Berlin", "1. Paris\n2. London"),
    *("Anything but Paris", "I doubt it is Paris.", "all except Paris", "Paris does not apply", "Is it Paris?"),
    *("Maybe Paris, maybe London.", "The wrong answer is Paris.", "Paris/London", "Paris? No."),
]
DOUBTED = [
    *("Paris? I doubt it.", "Paris?", "Paris?! Who knows.", "**Paris**? I doubt it.", "The answer is Paris? Hardly."),
    *("Paris. I don't think so.", "Paris. But I am not sure.", r"\boxed{Paris}? I doubt that.", "Paris. That's wrong."),
]
CHEATS = [
    *((Maths(), "4", answer, "What is 2 + 2?") for answer in HEDGED_NUMBERS),
    *((Maths(), gold, answer, question) for question, gold, answer in QUESTIONS),
    *((Choice(), "B", answer, CITIES) for answer in HEDGED_LETTERS),
    *((grader, "Paris", answer, "Which?") for grader in (ExactMatch(), ShortAnswer()) for answer in HEDGED_NAMES),
    *(
        (ShortAnswer(), "4", answer, "Which?")
        for answer in ("one of 1, 2, ... 9", "1 2 3 4 5", "3 or 4", "It is not 4")
    ),
    *(
        (Maths(), "4", rf"\boxed{{\text{{4 {scale}}}}}", "Which?")
        for scale in ("million", "hundred", "dozen", "squared")
    ),
    (ShortAnswer(), "12", r"12\,000", "Which?"),
    (ExactMatch(), "Paris", r"\boxed{Paris}, \boxed{London}", "Which?"),
    *((ExactMatch(), "Paris", answer, "Which?") for answer in DOUBTED),
]


@pytest.mark.parametrize(("grader", "gold", "answer", "question"), CHEATS)
def test_cheat_does_not_pass(grader: Judge, gold: str, answer: str, question: str) -> None:
    assert grader(generation(answer, gold, prompt=question)).verdict is not True


CHINESE = [
    *(
        "【答案】B",
        "【正确答案】：B",
        "B。",
        "最终answer：B",
        "B选项最符合题意",
        "符合题意的是B",
        "故选B因为A错误",
        "答案是B项x=1",
    ),
    *("答案是B而A不对", "选B而不是A", "答案是B，A和C都错误", "答案是B不是A", "不能选A，应选B"),
    *("选项A错误，选项C不正确。答案是B", "A不对，C不对，所以选B", "没有选A的理由，答案是B", "答案是B吗？是的，答案是B"),
    *("排除A、C、D，答案选B", "选项C是错误的，选项B是正确的", "特别是，答案是B", "分别分析可知选B"),
]
HONEST = [
    (Maths(), "4", "There is no doubt that it is 4."),
    (Maths(), "4", "It is not 3. It is 4."),
    (Maths(), "4", "答案是 4。"),
    (Maths(), "4", "答案不是 3，是 4。"),
    (Maths(), "4", "它的类别为 4"),
    (Maths(), "4", r"\[\boxed{4}\]" "\n\n" r"\[\boxed{4}\]"),
    (Maths(), "(3,4)", "(3, 4)"),
    (Maths(), "1,-2", "1, -2"),
    (Maths(), "1024", r"$2^{10} = 1024$"),
    (Maths(), "4", r"\boxed{2+2=4}"),
    (Maths(), "4", "You need at least 4"),
    (Maths(), r"\frac14", r"\boxed{\frac{1}{4}=0.25}"),
    (Choice(), "B", "A is wrong. C is wrong. The answer is B."),
    (Choice(), "B", "B. Paris, and A. London is wrong."),
    (Choice(), "B", "It is not London. It is Paris."),
    (Choice(), "B", "It is $\\boxed{10^{-4}}$ km away.\n\n**Answer:** B"),
    (Choice(), "B", "The city is $\\boxed{17}$. So the answer is (B)."),
    *((Choice(), "B", rf"\boxed{{\{font}{{(B)}}}}") for font in ("text", "textbf", "textit", "mathbf")),
    (Choice(), "B", r"\boxed{\text{Option B}}"),
    (Choice(), "B", "The answer is B rather than A."),
    (Choice(), "B", "The correct option is B by elimination."),
    (Choice(), "B", r"\boxed{\text{Answer: B}}"),
    (Choice(), "B", "If we choose A = 1, the answer is A or C. It is larger.\n\nAnswer: B"),
    (Choice(), "B", "如果 x=1，应选A，但是 x=2。\n\n答案：B"),
    *((Choice(), "B", answer) for answer in CHINESE),
    (ExactMatch(), "Paris", "Paris\nFrance is a country whose capital it has been for long."),
    (ExactMatch(), "Paris", "**Paris**, not London."),
    (ExactMatch(), "Paris", r"**Answer:** $\boxed{\text{Paris}}$"),
    (ExactMatch(), "Paris", r"Answer: $\textbf{Paris}$"),
    (ExactMatch(), "5 feet", r"\boxed{5\,\text{feet}}"),
    (ShortAnswer(), "14 December 1972", r"\boxed{14 \text{ December } 1972}"),
    (ExactMatch(), "Paris", r"The capital is \boxed{Paris}. Have you ever been to Paris?"),
    (ExactMatch(), "Paris", r"\boxed{Paris} is right. Who would doubt Paris?"),
    (ExactMatch(), "2, 3", r"Not sure. \boxed{2} and \boxed{3}"),
    (ExactMatch(), "Paris", "Paris. I doubt it is London."),
    (ExactMatch(), "Paris", "Paris? Yes, it has been the capital for long."),
    (ExactMatch(), "Paris", "Paris. I am not sure why you ask."),
    (ExactMatch(), "Paris", "Paris. Is there anything else?"),
    (ExactMatch(), "Paris", "The capital? **Paris**. Without a doubt."),
    (ExactMatch(), "Paris", "**Paris** is the answer. I don't think it was ever London."),
    *((ExactMatch(), gold, r"\boxed{5\,000}") for gold in ("5000", "5,000")),
    (ExactMatch(), "Where's Wally?", "Where's Wally?"),
    (ExactMatch(), "Who Framed Roger Rabbit", "Who Framed Roger Rabbit? It was made in 1988."),
    (ShortAnswer(), "Paris", "It is Paris, not London."),
    (ShortAnswer(), "Paris", "It is not London but Paris."),
    (ShortAnswer(), "Paris", "There is no doubt it is Paris, one of the oldest cities."),
    (ShortAnswer(), "Los Angeles", "Los Angeles, California, USA"),
    (ShortAnswer(), "red, yellow and blue", "red, yellow, and blue"),
]


@pytest.mark.parametrize(("grader", "gold", "answer"), HONEST)
def test_honest_answer_beside_a_cheat_passes(grader: Judge, gold: str, answer: str) -> None:
    assert grader(generation(answer, gold, prompt=CITIES)).verdict is True


# --- ROUGE ---


@pytest.mark.parametrize(
    ("kind", "value"), [("rouge1", 8 / 9), ("rouge2", 2 / 7), ("rougeL", 6 / 9), ("rougeLsum", 6 / 9)]
)
def test_rouge_by_hand(kind: Any, value: float) -> None:
    """Of 4 stems said and 5 wanted, 4 are shared; of 3 and 4 pairs, 1 ("the cat"); 3 stand in the same order."""
    judgement = Rouge(kind)(generation("the cats sat there", "the cat now there sat"))
    assert judgement.value == pytest.approx(value)
    assert (judgement.verdict, judgement.error) == (None, "")


def test_rouge_takes_the_best_gold_and_never_the_thought() -> None:
    row = generation("a b c", "x y", "a b c")
    assert Rouge()(row) == Judgement("g", "rouge", None, "rougeL 1.0000", value=1.0)
    missing = Rouge()(generation(" \n", "B", thought="The answer is B.", closed=False))
    assert missing == Judgement("g", "rouge", None, "no answer", value=0.0)
    assert Rouge()(generation("B")) == Judgement("g", "rouge", None, error="the row has no gold answer")


# --- code ---

PROMPT = 'import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef area(r):\n    """Of a circle."""\n'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\ndef area(r):\n    return 1\n```\nor\n```python\ndef area(r):\n    return 2\n```", "return 2"),
        ("```python\ndef area(r):\n    return 1\n```\nUse it:\n```python\nprint(area(3))\n```", "return 1"),
        ("```\nreturn 3\n```\n```\nreturn 4\n```", "return 3"),
        ("~~~python\ndef area(r):\n    return 10\n~~~\nDone.", "return 10"),
        ("```bash\npip install x\n```\n```python\nreturn 11\n```", "return 11"),
        ("Sure.\n\ndef area(r):\n    return 5", "return 5"),
        ("  ```py\n  def area(r):\n      return 6\n  ```", "return 6"),
        ("```python\ndef area(r):\n    return 7", "return 7"),
        ("```python\ndef area(r):\n    return 9``` \nDone.", "return 9"),
        ("return 8", "return 8"),
    ],
)
def test_code_of_an_answer(answer: str, code: str) -> None:
    found = code_of(answer, "area")
    assert code in found
    assert re.search("```|~~~|pip|Done", found) is None
    assert not found.startswith("Sure")


def test_helpers_in_blocks_of_their_own_are_part_of_the_program() -> None:
    blocks = [
        "import math",
        "area(1)",
        "def square(r):\n    # twice\n    return r * r",
        "def area(r):\n    return square(r) / side()\n\ndef unit():\n    return 1",
        "def unit():\n    return 'another'",
        "@staticmethod\ndef side():\n    return 2",
        "print(area(3))",
    ]
    answer = "\n\n".join(f"Then:\n```python\n{block}\n```" for block in blocks)
    namespace: dict[str, Any] = {}
    exec(program(answer, PROMPT, "area"), namespace)
    assert (namespace["area"](4), namespace["unit"]()) == (8.0, 1)
    assert "area(1)" not in code_of(answer, "area")


SOLUTION = "def area(r):\n    return square(r)"
SQUARE = "def square(r):\n    return r * r"
CHAIN = [
    "from math import *",
    "import math as m",
    "def unit():\n    return m.pi",
    "def square(r):\n    return unit() * r",
]


@pytest.mark.parametrize(
    ("blocks", "taken"),
    [
        ([SQUARE, SOLUTION, "def test_area():\n    assert area(1) == 3"], [SQUARE]),  # its test, which is not run
        ([SQUARE, SOLUTION, "import pytest\n\ndef test_area():\n    assert area(1) == 1"], [SQUARE]),
        ([SQUARE, SOLUTION, "from solution import area\n\nclass TestArea:\n    pass"], [SQUARE]),
        ([SQUARE, SOLUTION, "from solution import square\n\ndef test_square():\n    pass"], [SQUARE]),
        ([SQUARE, SOLUTION, "from solution import (\n    area,\n    square,\n)\n\ndef test():\n    pass"], [SQUARE]),
        ([SQUARE, SOLUTION, "assert area(1) == 1"], [SQUARE]),
        (["import scipy\n\ndef area(r):\n    return 0", SQUARE, SOLUTION], [SQUARE]),  # a version that was given up
        ([f"def area(r):\n    return 0\n\n{SQUARE}", SOLUTION], [f"def area(r):\n    return 0\n\n{SQUARE}"]),
        ([*CHAIN, SOLUTION], CHAIN),
    ],
)
def test_a_program_is_the_function_and_the_blocks_that_it_needs(blocks: list[str], taken: list[str]) -> None:
    answer = "\n\n".join(f"Then:\n```python\n{block}\n```" for block in blocks)
    assert code_of(answer, "area").strip() == "\n\n".join([*taken, SOLUTION])


BODIES = ["    x = half(r)\n    return x", "x = half(r)\n    return x", "x = half(r)\nreturn x"]
BODIES += ["for x in [half(r)]:\n        return x\n    return 0", "for x in [half(r)]:\n    return x\nreturn 0"]
BODIES += [
    "```python\nx = [\n    half(r),\n]\nreturn x[0]\n```",
    "```\n    x = [\n        half(r),\n    ]\n    return x[0]\n```",
]
BODIES += ["```\nif (r and\n        r > 0):\n    return half(r)\n```", "```\n  if r:\n    return half(r)\n```"]
BODIES += ["if r:\n      return half(r)\n    return 0", "    return half(r)"]


FUNCTION = "def area(r):\n    return half(r)\n"


@pytest.mark.parametrize(
    "body", [*BODIES, f"```python\n{FUNCTION}```", f"```python\nfrom __future__ import annotations\n{FUNCTION}```"]
)
def test_program_of_a_body_or_a_function(body: str) -> None:
    """Bodies that lost their first line's indentation, or all of it, still follow the prompt."""
    namespace: dict[str, Any] = {}
    exec(program(body, PROMPT, "area"), namespace)
    assert namespace["area"](4) == 2.0


@pytest.mark.parametrize(
    ("samples", "passed", "k"), [(10, 3, 1), (10, 3, 5), (10, 0, 4), (10, 10, 4), (10, 8, 3), (200, 17, 100), (1, 1, 1)]
)
def test_pass_at_k_is_its_formula(samples: int, passed: int, k: int) -> None:
    exact = 1 - math.comb(samples - passed, k) / math.comb(samples, k)
    assert pass_at_k(samples, passed, k) == pytest.approx(exact, abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    """Over all sets of k of n samples, the share that holds one which passes."""
    outcomes = [True, False, False, True, False, False]
    sets = list(combinations(outcomes, 3))
    assert pass_at_k(6, 2, 3) == pytest.approx(sum(map(any, sets)) / len(sets))


# --- time ---

LOOPS = [
    *"-=${}%()[]|^'\"\\’“…*_#@<\n \t\u00a0aé中🙂\0001选",  # each by itself
    *("**", "\r\n", " \n", "x\n", "    ", "ab ", "1 ", "1.", "1,", "1/", "1,000,", "1 or ", "1 and ", "-1", "- "),
    *(". ", "... ", "; ", "? ", "! ", ": ", ", ", "####", "#### ", "```", "```\n", "```python\n", "\\[", "\\]"),
    *("\\(", "$x", "$x$", "$$", "\\boxed{", "\\boxed ", "\\boxed{1} ", "\\frac{", "\\text{", "</think>", "A. "),
    *("A.\n", "\nA", "A or ", "A is ", "not ", "not 4 ", "is not ", "n't ", "it is ", "the ", "4 is wrong "),
    *("the answer is ", "answer is\n", "Answer: ", "final ", "答案", "答案是", "choose ", "option ", "Paris "),
    *("Paris or ", "Paris is ", "London, ", "**a", "def area(", "import x\n", "if x:\n", "I can't ", "Hmm. "),
    *("<|x|>", "[INST]", '{"a":', "one of ", "maybe ", "or ", "no. ", "U.S. ", "\n1. ", "\n- ", "(1, 2) ", "x = "),
    *("a=b=", "-> ", "<<", "<< >>", "[a", "* ", "\n\n* ", "P. ", "p.p.", "Day ", "SEA "),
]


INSTRUCTIONS: dict[str, dict[str, Any]] = {
    "keywords:frequency": {"keyword": "sea", "frequency": 2, "relation": "at least"},
    "keywords:forbidden_words": {"forbidden_words": ["sea"]},
    "length_constraints:number_sentences": {"num_sentences": 3, "relation": "at least"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"num_words": 3, "relation": "less than"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "so"},
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "detectable_content:postscript": {"postscript_marker": "P.P.S"},
    "detectable_format:number_bullet_lists": {"num_bullets": 3},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "detectable_format:multiple_sections": {"section_spliter": "Day", "num_sections": 2},
    **{f"detectable_format:{name}": {} for name in ("json_format", "title")},
    "combination:two_responses": {},
    "change_case:capital_word_frequency": {"capital_frequency": 2, "capital_relation": "less than"},
}


def offline(text: str) -> dict[str, Callable[[], object]]:
    """Whatever reads a model's text without a server."""
    row = generation(text, "4", "Paris", prompt=CITIES)
    instructions = (json.dumps([*INSTRUCTIONS]), json.dumps([*INSTRUCTIONS.values()]))
    readers: dict[str, Callable[[], object]] = {
        grader.name: (lambda grader=grader: grader(row)) for grader in (Maths(), ExactMatch(), Rouge(), ShortAnswer())
    }
    return readers | {
        "choice": lambda: Choice()(replace(row, gold=("B",))),
        "options": lambda: options(text),
        "program": lambda: program(text, PROMPT, "area"),
        "ifeval": lambda: IFEval()(replace(row, gold=instructions)),
        "refusal": lambda: assess_refusal(text, text),
        "english": lambda: is_english(text),
        "reply": lambda: bare_reply(text),
        "parser": lambda: read_thought(text),
        "adherence": lambda: Adherence.of(replace(row, thought=text, answer="")),
    }


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_of_impossible_counts(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {passed} passed in {samples}"):
        pass_at_k(samples, passed, k)


def test_a_verifier_that_was_killed_is_started_again() -> None:
    assert maths.verify_equal("x+1", "1+x")
    process = maths._process()
    process.kill()
    process.wait()
    assert maths.verify_equal("x+1", "1+x")


def test_answers_are_compared_however_many_files_are_open() -> None:
    """`select` takes no file of a number above 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f"only {hard} files can be open")
    maths._process().kill()
    maths._process().wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert maths.verify_equal("x+1", "1+x")
    finally:
        maths._process.cache_clear()
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def thread_seconds(work: Callable[[], Any]) -> float:
    """Seconds of this thread's own work, without collecting the garbage of all tests before it."""
    gc.disable()
    try:
        started = time.thread_time()
        work()
        return time.thread_time() - started
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_takes_no_quadratic_time(loop: str) -> None:
    """Eight times the text takes some 8 times as long (64, were it quadratic; 24 fail), or under half a second."""
    short, long = (offline(f"So {(loop * length)[:length]} x") for length in (4_000, 32_000))
    slow = {}
    for name, read_it in long.items():
        if thread_seconds(read_it) > 0.5:
            few, many = (min(thread_seconds(one) for _ in range(3)) for one in (short[name], read_it))
            if many > max(0.5, 24 * few):
                slow[name] = (few, many)
    assert slow == {}


@pytest.mark.slow
def test_a_looping_answer_is_read_in_no_time() -> None:
    looping = "3 answer" + ". answer... with. cannot/with" * 30
    code = f"from alttrain.evaluation.grading.maths import equal; print(equal('3', {looping!r} + '!'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("lead", ["The answer is A", "I see A", "答案", "The answer is option"])
def test_blanks_without_end_are_graded_in_time_that_grows_with_them(lead: str) -> None:
    row = generation(lead + " " * 20_000 + "x", "B", prompt="Which?\nA. red\nB. blue")
    assert thread_seconds(lambda: Choice()(row)) < 2  # the time grew with their cube: 17 s for 2,000
