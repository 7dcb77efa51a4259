"""IFEval: each instruction with texts that follow it and texts that do not, strictly and loosely."""

import importlib.util
import json
from typing import Any

import pytest

from alttrain.evaluation.grading import IFEval
from alttrain.evaluation.grading.ifeval import CHECKS, looser_forms
from alttrain.records import Generation, Judgement

needs_langdetect = pytest.mark.skipif(not importlib.util.find_spec("langdetect"), reason="langdetect is not installed")
LOUD, QUIET = "THE WEATHER IS GOOD TODAY AND THE GARDEN IS OPEN", "the weather is good today and the garden is open"
GERMAN = "Das Wetter ist heute schön, und der Garten ist bis zum Abend geöffnet."
SWAHILI = "Habari za asubuhi, ninapenda kusoma vitabu na kucheza mpira."
BULLETS = "Here:\n* one\n- two\n  * three"
LETTERS = {"letter": "E", "let_frequency": 3, "let_relation": "at least"}
CAPITALS = {"capital_frequency": 2, "capital_relation": "less than"}
FIRST = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "well"}
STATED = "Dr. Ito came, e.g. by train. She left! Did she?"

FOLLOWED: list[tuple[str, dict[str, Any], list[str], list[str]]] = [  # instruction, arguments, right and wrong texts
    ("keywords:existence", {"keywords": ["oak", "elm"]}, ["An OAK, an elm.", "soaked elms"], ["An oak.", "ash"]),
    (
        "keywords:frequency",
        {"keyword": " oak ", "frequency": 2, "relation": "at least"},
        ["oak Oak", "oakoak"],
        ["oak", ""],
    ),
    ("keywords:frequency", {"keyword": "a.", "frequency": 1, "relation": "less than"}, ["ab"], ["a. b"]),
    ("keywords:forbidden_words", {"forbidden_words": ["oak"]}, ["soaked", "oaks"], ["An OAK.", "oak-tree"]),
    ("keywords:letter_frequency", LETTERS, ["eEe", "the tree"], ["ee", "x"]),
    ("keywords:letter_frequency", LETTERS | {"letter": "#"}, ["# # #"], ["##"]),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}, [STATED], ["One. Two."]),
    ("length_constraints:number_sentences", {"num_sentences": 4, "relation": "less than"}, [STATED], ["A! B! C! D!"]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***a\n\n***b***"],
        ["a", "a***b***c", "a******b", "******"],
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["one two"], ["one-two three"]),
    (
        "length_constraints:nth_paragraph_first_word",
        FIRST,
        ["a\n\nWell, b", "a\n\n'Well' b"],
        ["a\n\nWells b", "Well\n\nb", "a\n\nwell\n\nc", "a", "a\n\n\n\nwell"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [place]", "[a][b][c]"],
        ["[a", "[a\nb] [c]", ""],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["a\nP.S. b", "p. s. b"], ["PS b", "P.P. b"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S b", "p. p. s"], ["P.S. b"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, [BULLETS], [f"{BULLETS}\n- four", "* one", "**a**"]),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "So: My answer is maybe. Why?"],
        ["My answer is yes", "yes"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** *b*"],
        ["*a*", "* * and *b*", "*a\nb* c*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1 a SECTION 2 b", "SECTION1\nSECTION2\nSECTION3"],
        ["SECTION 1 a", "Section 1 Section 2", "SECTION one SECTION two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```', "```\n1\n```"],
        ["a", "{'a': 1}", '{"a": 1} so', "[" * 99999],
    ),
    ("detectable_format:title", {}, ["<<a>>", "b <<c d>>\ne"], ["<a>", "<<\na>>", "<< >>"]),
    ("combination:two_responses", {}, ["a******b", "******a\n******\nb******"], ["a******a", "a", "a************b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "}, ["say it. Done", " Say it."], ["It. Say it."]),
    ("startend:end_checker", {"end_phrase": " The end. "}, ["a the END.", 'a "The end."'], ["The end. a", "The end"]),
    ("startend:quotation", {}, ['"a"', ' "a" b" '], ['"', '"a', "'a'", "“a”"]),
    ("change_case:capital_word_frequency", CAPITALS, ["AB cd", "ab Cd"], ["A BC d", "A-B C."]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


def row(answer: str, *instructions: tuple[str, dict[str, Any]]) -> Generation:
    """A generation whose gold is a row of the hub: instructions, and their arguments among others that are null."""
    names, arguments = zip(*((name, {**given, "other": None}) for name, given in instructions), strict=True)
    gold = (json.dumps(names), json.dumps(arguments))
    return Generation("7", "Q?", "benign", "", gold, answer, "", answer, True, "stop", 1, 1)


@pytest.mark.parametrize(("name", "given", "right", "wrong"), FOLLOWED)
def test_instruction(name: str, given: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    assert [(text, CHECKS[name](text, **given)) for text in right] == [(text, True) for text in right]
    assert [(text, CHECKS[name](text, **given)) for text in wrong] == [(text, False) for text in wrong]


@needs_langdetect
@pytest.mark.parametrize(
    ("name", "given", "right", "wrong"),
    [
        ("language:response_language", {"language": "de"}, [GERMAN, "1, 2"], [QUIET, SWAHILI]),  # numbers have none
        ("language:response_language", {"language": "sw"}, [SWAHILI], [GERMAN]),
        ("change_case:english_capital", {}, [LOUD], [QUIET, GERMAN.upper(), f"{LOUD} now"]),
        ("change_case:english_lowercase", {}, [QUIET], [LOUD, GERMAN.lower(), f"{QUIET} Now"]),
    ],
)
def test_instruction_about_a_language(name: str, given: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    test_instruction(name, given, right, wrong)


def test_every_instruction_is_tested() -> None:
    of_languages = {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}
    assert len(CHECKS) == 25
    assert {name for name, *_ in FOLLOWED} | of_languages == CHECKS.keys()


COMMA, QUOTED = ("punctuation:no_comma", {}), ("startend:quotation", {})


@pytest.mark.parametrize(
    ("answer", "strict", "loose", "evidence"),
    [
        ('"a"', True, 1.0, "followed"),
        ('Sure, here:\n"a"', False, 1.0, "not followed: punctuation:no_comma, startend:quotation"),
        ('*"a"*', False, 1.0, "not followed: startend:quotation"),
        ('"a"\nGood, is it?', False, 1.0, "not followed: punctuation:no_comma, startend:quotation"),
        ('"a, b"', False, 0.0, "not followed: punctuation:no_comma"),
        ('x\ny\n"a"', False, 0.0, "not followed: startend:quotation"),
        (" \n", False, 0.0, "no answer"),
    ],
)
def test_strict_is_the_verdict_and_loose_the_value(answer: str, strict: bool, loose: float, evidence: str) -> None:
    assert IFEval()(row(answer, COMMA, QUOTED)) == Judgement("7", "ifeval", strict, evidence, value=loose)


def test_loose_forms() -> None:
    forms = ["*a*\nb\nc", "a\nb\nc", "b\nc", "b\nc", "*a*\nb", "a\nb", "b", "b"]
    assert looser_forms("*a*\nb\nc") == forms
    assert looser_forms("a") == ["a", "a"]


@pytest.mark.parametrize(
    ("instruction", "error"),
    [
        (("keywords:rhyme", {}), "instruction 'keywords:rhyme' is not known; accepted: keywords:existence, "),
        (("punctuation:no_comma", {"limit": 2}), "instruction 'punctuation:no_comma' with {'limit': 2}: got "),
        (("keywords:existence", {}), "instruction 'keywords:existence' with {}: missing a required argument"),
        (
            ("length_constraints:number_words", {"num_words": 3, "relation": "around"}),
            "relation 'around' is not known; accepted: less than, at least",
        ),
        (
            ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}),
            "an argument has the wrong type: '>=' not supported ",
        ),
        (
            ("keywords:existence", {"keywords": "oak"}),  # read as a list, it is three letters
            "an argument has the wrong type: expected a list of words, got 'oak'",
        ),
        (
            ("keywords:forbidden_words", {"forbidden_words": "oak"}),
            "an argument has the wrong type: expected a list of words, got 'oak'",
        ),
        (
            ("keywords:frequency", {"keyword": 5, "frequency": 3, "relation": "at least"}),
            "an argument has the wrong type: 'int' object has no attribute 'strip'",
        ),
    ],
)
def test_what_cannot_be_checked_is_undecided(instruction: tuple[str, dict[str, Any]], error: str) -> None:
    judgement = IFEval()(row("a", COMMA, instruction))
    assert (judgement.verdict, judgement.value) == (None, None)
    assert judgement.error.startswith(error)


@pytest.mark.parametrize(
    ("gold", "error"),
    [
        ((), "the row has no gold answer"),
        (("[]",), "the row has 1 gold texts; expected the instructions and their arguments"),
        (('["punctuation:no_comma"]', "[]"), "zip() argument 2 is shorter than argument 1"),
    ],
)
def test_row_of_another_form_is_undecided(gold: tuple[str, ...], error: str) -> None:
    given = Generation("7", "Q?", "benign", "", gold, "a", "", "a", True, "stop", 1, 1)
    assert IFEval()(given) == Judgement("7", "ifeval", None, error=error)


def test_missing_library_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "langdetect" else object())
    with pytest.raises(ValueError, match=r"a\.judge: judge ifeval needs langdetect: pip install 'alttrain\[ifeval\]'"):
        IFEval().check("a.judge", lambda *_: "")
