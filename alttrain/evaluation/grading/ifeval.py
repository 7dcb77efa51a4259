"""IFEval (Zhou et al., 2023): whether an answer follows instructions that a program can check.

Each of the 25 instructions is checked as in google-research's instruction_following_eval/instructions.py, with three
differences. Sentences are split by Punkt with `ABBREVIATIONS`, since its English model is a download. The detection of
languages has a fixed seed. A letter to count may be any character; there, one that is no letter is drawn at random.
"""

import functools
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alttrain.evaluation.grading.final_answer import Grader
from alttrain.evaluation.judges.judge import ModelFault
from alttrain.records import Generation, Judgement

ABBREVIATIONS = {"dr", "mr", "mrs", "ms", "prof", "st", "jr", "sr", "vs", "inc", "ltd", "fig"}
ABBREVIATIONS |= {"e.g", "i.e", "u.s", "u.k", "a.m", "p.m", "ph.d"}
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
_FENCES = ("```json", "```Json", "```JSON", "```")


@dataclass(frozen=True)
class IFEval(Grader):
    """Right if the answer follows all instructions of its row (strict accuracy of prompts).

    `value` is 1.0 if it follows all of them loosely, else 0.0: each in the answer as it is, or without its first line,
    its last line, its asterisks, or several of these. The gold texts of a row are the JSON lists of the instructions'
    names and of their arguments.
    """

    name: str = "ifeval"

    golds = ("the instructions", "their arguments")
    missing = (False, 0.0)

    def check(self, where: str, model_fault: ModelFault) -> None:
        """Raise ValueError if a library is missing."""
        for library in ("langdetect", "nltk"):
            if importlib.util.find_spec(library) is None:
                raise ValueError(f"{where}: judge {self.name} needs {library}: pip install 'alttrain[ifeval]'")

    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        """Undecided, with an error, also if an instruction or its arguments are not known."""
        names, arguments = map(json.loads, golds)
        answers = looser_forms(generation.answer)
        try:
            checks = [(name, _check(name, each)) for name, each in zip(names, arguments, strict=True)]
            missed = [name for name, follows in checks if not follows(generation.answer)]
            loose = all(any(map(follows, answers)) for _, follows in checks)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"an argument has the wrong type: {error}") from error
        evidence = f"not followed: {', '.join(missed)}" if missed else "followed"
        return Judgement(generation.id, self.name, not missed, evidence, value=float(loose))


def looser_forms(answer: str) -> list[str]:
    """The answer and its looser forms, without those that are empty."""
    lines = answer.split("\n")
    cuts = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [form for cut in cuts for form in (cut, cut.replace("*", "")) if form.strip()]


def _check(name: str, hub_arguments: Mapping[str, Any]) -> Callable[[str], bool]:
    """The check of an instruction with its arguments; the hub gives every argument, null where there is none."""
    if name not in CHECKS:
        raise ValueError(f"instruction {name!r} is not known; accepted: {', '.join(CHECKS)}")
    arguments = {key: value for key, value in hub_arguments.items() if value is not None}
    try:
        inspect.signature(CHECKS[name]).bind("", **arguments)
    except TypeError as error:
        raise ValueError(f"instruction {name!r} with {arguments}: {error}") from error
    return functools.partial(CHECKS[name], **arguments)


def _compared(count: int, relation: str, limit: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"relation {relation!r} is not known; accepted: less than, at least")
    return count < limit if relation == "less than" else count >= limit


def _listed(words: Any) -> list[str]:
    """Raises TypeError for a single text, whose letters would be taken for the words."""
    if not isinstance(words, list):
        raise TypeError(f"expected a list of words, got {words!r}")
    return words


def _occurrences(text: str, word: str) -> list[str]:
    return re.findall(re.escape(word), text, re.I)


def _language(text: str, language: str) -> bool:
    """A text without any feature of a language counts as followed, as there."""
    import langdetect

    langdetect.DetectorFactory.seed = 0
    try:
        return bool(langdetect.detect(text) == language)
    except langdetect.LangDetectException:
        return True


@functools.cache
def _punkt() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = ABBREVIATIONS
    return PunktSentenceTokenizer(parameters)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are divided by three asterisks; only the first and the last may be empty."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are divided by blank lines. Empty ones do not count, but shift the place of the nth."""
    parts = [part.strip() for part in text.split("\n\n")]
    count = sum(map(bool, parts))
    if nth_paragraph > count or not parts[nth_paragraph - 1]:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split("[.,?!'\"]", word)[0].lower() == first_word.lower()


def _number_placeholders(text: str, num_placeholders: int) -> bool:
    """Square brackets that close on their line; what follows the last of them is cut, for one search to be enough."""
    lines = (line[: line.rfind("]") + 1] for line in text.split("\n"))
    return sum(len(re.findall(r"\[[^\]]*\]", line)) for line in lines) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return bool(re.search(_POSTSCRIPTS.get(marker) or re.escape(marker.lower()), text.lower()))


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    stars, dashes = (re.findall(bullet, text, re.M) for bullet in (r"^[^\S\n]*\*[^\*].*$", r"^[^\S\n]*-.*$"))
    return len(stars) + len(dashes) == num_bullets


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """Text in single and in double asterisks; the latter may count in both forms, as there."""
    single, double = re.findall(r"\*([^\n\*]*)\*", text), re.findall(r"\*\*([^\n\*]*)\*\*", text)
    return sum(bool(part.strip()) for part in (*single, *double)) >= num_highlights


def _json_format(text: str) -> bool:
    text = functools.reduce(str.removeprefix, _FENCES, text.strip())
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    """A line with something from its first << to its last >>."""
    spans = ((line, line.find("<<"), line.rfind(">>")) for line in text.split("\n"))
    return any(
        line[start : end + 2].lstrip("<").rstrip(">").strip() for line, start, end in spans if 0 <= start < end - 2
    )


def _two_responses(text: str) -> bool:
    """Two different responses divided by six asterisks; only what is before the first and after the last is empty."""
    parts = [part.strip() for part in text.split("******")]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    from nltk.tokenize import NLTKWordTokenizer

    return _compared(sum(map(str.isupper, NLTKWordTokenizer().tokenize(text))), capital_relation, capital_frequency)


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": lambda text, keywords: all(_occurrences(text, word) for word in _listed(keywords)),
    "keywords:frequency": lambda text, keyword, frequency, relation: _compared(
        len(_occurrences(text, keyword.strip())), relation, frequency
    ),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(re.search(rf"\b{re.escape(word)}\b", text, re.I) for word in _listed(forbidden_words))
    ),
    "keywords:letter_frequency": lambda text, letter, let_frequency, let_relation: _compared(
        text.lower().count(letter.strip().lower()), let_relation, let_frequency
    ),
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda text, num_sentences, relation: _compared(
        len(_punkt().tokenize(text)), relation, num_sentences
    ),
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": lambda text, num_words, relation: _compared(
        len(re.findall(r"\w+", text)), relation, num_words
    ),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": lambda text: any(option in text for option in _OPTIONS),
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections: (
        len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections
    ),
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": lambda text: text.isupper() and _language(text, "en"),
    "change_case:english_lowercase": lambda text: text.islower() and _language(text, "en"),
    "punctuation:no_comma": lambda text: "," not in text,
}
"""Instruction -> its check of a text, with the instruction's arguments by name."""
