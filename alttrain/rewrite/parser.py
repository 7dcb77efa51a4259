"""A thought's text <-> its segments.

`render` joins segments by a blank line. `parse` reads text that any model wrote, by rules for English: it finds the
assessment, a sentence that states whether the request is harmful; what stands before it is the understanding, one or a
few sentences that say what the user wants, and any reasoning between the two; what follows is the conditional
reasoning: a `refusal` where it stops and refuses, else `reasoning`. Where an assessment precedes the reasoning it is
the inverse of `render`; a structure's own `parse` is so for its own thoughts, all of them.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

from alttrain.records import Label, Segment, Step
from alttrain.rewrite.assessment import INTERJECTIONS, assessing_words, plain, verdict
from alttrain.rewrite.sentences import sentences

SEPARATOR = "\n\n"

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*(?:\s+|$)")
# --- the words of an understanding ---

_PERSON = r"(?:(?:the|this|that|a|another)\s+(?:\w+\s+)?(?:user|person|asker|student)|user|someone|somebody)"
_ASKED = r"(?:request|question|query|prompt|problem|message|task|exercise|puzzle|scenario|situation|instruction)"
_WANTS = (
    r"(?:ask(?:s|ed|ing)?|want(?:s|ed|ing)?|wonder(?:s|ed|ing)?|request(?:s|ed|ing)?|look(?:s|ing) (?:for|to|into)|"
    r"seek(?:s|ing)?|inquir(?:es|ed|ing)|would like|'d like|needs?|tr(?:ies|ying) to|hop(?:es|ing) to|"
    r"plan(?:s|ning) to|intend(?:s|ing)? to|interested in|curious (?:about|how|what|why)|says|said|"
    r"wrote|writes|sent|means)"
)
_NO_MODAL = r"(?!\s+(?:if|to|or|not|never|might|may|could|should|can|will|must|gets?|understands?|\w+n't)\b)"
_META = r"(?:(?:the best way|how)(?: best)? )?(?:to )?(?:respond|answer|approach|handle|address|reply|proceed)"
_UNDERSTANDING = re.compile(
    # the user is asking for bread; they're new to this and want help
    rf"(?:^|[.!?:\n]\s){INTERJECTIONS}{_PERSON}{_NO_MODAL}(?!')\b\s+\w|"
    rf"(?<!if )(?<!what )\b(?:{_PERSON}|they|he|she)(?:'s(?=\s+(?:\w+ly\s+|just\s+)?\w+ing\b)|'re|'d)?(?!')\b"
    rf"{_NO_MODAL}(?:\s+(?!not\b)[^\s.!?;]+){{0,12}}?\s+{_WANTS}\b|"
    r"\bit(?:'s asking| asks| says)\b|\buser who\b|"
    r"\buser's\s+(?:\w+\s+)?(?:(?:statement|claim|concern|comment|remark|view)\s*(?:about|that|:)|"
    r"(?:wish|goal|aim|purpose|desire|hope)\s+(?:is|was|seems)\b)|"
    # the question is how to bake; a request about bread; a problem here: "..."
    rf"\b{_ASKED}(?:\s+(?:here|at hand|is|was|seems to be))*,?\s+(?:that\s+|which\s+|just\s+)?"
    r"(?:about|how|what|why|which|where|who|whether|asks?|asking|asked|wants?|says|gives|mentions|involves|involving|"
    r"concerns|regarding|related to|requires|requesting)\b|"
    rf"\b(?:this|the|a|user's|their)\s+(?:\w+\s+)?{_ASKED}(?:\s+(?:is|was|here))?\s+(?:to|for|from|on)\b|"
    rf"\b{_ASKED}(?:\s+(?:is|was|says|reads))?\s*[:,]?\s*[\"“']|"
    # I need to find the sum; I'm given two sides
    r"\b(?:i|we)(?:'m| am| was|'ve been|'re| are) (?:given|told)\b|"
    rf"(?:^|[.!?:,\n]\s){INTERJECTIONS}(?:i|we)(?:'m|'ve| am|'re| are)?\s+(?:just\s+)?"
    r"(?:need|have|got|want|trying|supposed|asked|going)\s+to\s+(?:find|calculate|compute|solve|prove|show|determine|"
    r"evaluate|estimate|express|write|translate|summari[sz]e|add|count|simplify|derive|convert|create|"
    rf"(?:figure|work) out(?! {_META}))\b|"
    rf"^\W*(?:okay|ok|alright|all right)\W+(?:so\W+)?(?:i|we) (?:need|have) to (?!{_META}|be |make sure|check|consider|"
    r"remember|think|figure)\w+(?! that\b)",
)
_OPENS = re.compile(
    r"^\W*(?:(?:okay|ok|alright|all right|hmm|so|well|first|now|let me see)\W+)*"
    r"(?:(?:the|this|a) (?:user|person)\s+\w+|i(?:'m| am)?\s+(?:need|have|trying|supposed|given)\b)",
)
_FILLER = re.compile(
    rf"{INTERJECTIONS}(?:(?:let me|let's|i need to|i have to|i should)\s+(?:\w+\s+)?"
    rf"(?:see|think|start|understand|look at|tackle|work through|{_META}|figure out {_META})\b[^.!?]{{0,60}}|"
    r"(?:i|we)(?:'ve got| have| got)\s+(?:this|these|an?|the|two|three|some)\b.{0,200})?\W*",
    re.S,
)
_FIRST_PERSON = re.compile(r"\b(?:i|i'\w+|my|we|let's)\b")
_SUBJECT_IS_USER = re.compile(rf"{INTERJECTIONS}{_PERSON}\b{_NO_MODAL}")
_OF_THE_USER = re.compile(rf"\b(?:{_PERSON}(?:'s)?|they|them|their|themselves)\b|^\W*(?:it|this|that|he|she)\b")
_CLOSES = re.compile(r"""^[^"“]*[^\s"“]["”]""")
"""A sentence that closes a quotation which another opened."""
_FEW = 4
"""Sentences an understanding has at most; as many of a thought's first are read for one by `TraceUnderstanding`."""

# --- the words of a refusal ---

_STOPS_WITHIN = 50
"""Words within which a refusal ends after a request was called harmless; what is longer has gone on reasoning."""
_REFUSES = re.compile(
    r"\b(?:refuse|refusing|decline|declining|turn (?:this|it) down)\b|"
    r"\b(?:can(?:not|'t)|must not|should(?: not|n't)|will not|won't|not able to|unable to)"
    r"(?:\W*$|\s+(?:\w+\s+){0,2}"
    r"(?:help|assist|answer|provide|give|comply|support|continue|go on|do (?:this|that|it)|fulfil))",
)


def render(segments: Sequence[Segment]) -> str:
    """The thought as the model sees it."""
    return SEPARATOR.join(segment.text for segment in segments)


@lru_cache(maxsize=256)  # a sentence is asked about alone, and again with those beside it
def is_understanding(text: str) -> bool:
    """Whether a text says what the user wants or what the problem asks, more than that there is a user or a request."""
    return _UNDERSTANDING.search(plain(text)) is not None


def refuses(text: str) -> bool:
    """Whether conditional reasoning stops and refuses; only its first two sentences decide."""
    opening = " ".join(_SENTENCE_END.split(text.strip(), 2)[:2])
    return _REFUSES.search(plain(opening)) is not None


def parse(thought: str) -> tuple[Segment, ...]:
    """The segments of a thought in the order they stand in. An empty thought has none.

    A mere "Hmm." before an assessment is no step, and left out.
    """
    text = thought.strip("\n")
    paragraphs = text.split(SEPARATOR) if text.strip() else []
    found = _find_assessment(paragraphs)
    if found is None:
        return tuple(_unassessed(paragraphs))
    before, assessment, after = found
    segments = list(_before(before))
    understood = any(segment.step == "understanding" for segment in segments)
    segments.append(_segment("assessment", assessment))
    if not understood and 0 < len(after.split()) <= _STOPS_WITHIN:  # what is longer is a trace from its first word
        opening, _, rest = after.partition(SEPARATOR)
        if _is_own_understanding(opening):
            segments.append(_segment("understanding", opening))
            after = rest.strip("\n")
    if after:
        goes_on = verdict(assessment) == "benign" and len(after.split()) > _STOPS_WITHIN
        segments.append(_segment("reasoning" if goes_on else _continuation(after), after))
    return tuple(segments)


def recognises_harm(thought: str) -> bool:
    """Whether any sentence of a thought says that the request is harmful, whatever is said before or after it."""
    return any(label == "harmful" for *_, label in _assessing(thought.split(SEPARATOR)))


def _find_assessment(paragraphs: list[str]) -> tuple[str, str, str] | None:
    """(text before, assessing sentence, text after)."""
    for index, start, end, _ in _assessing(paragraphs):
        paragraph = paragraphs[index]
        before = SEPARATOR.join([*paragraphs[:index], paragraph[:start].rstrip()]).strip("\n")
        after = SEPARATOR.join([paragraph[end:].lstrip(), *paragraphs[index + 1 :]]).strip("\n")
        return before, paragraph[start:end], after
    return None


def _assessing(paragraphs: list[str]) -> Iterator[tuple[int, int, int, Label]]:
    """Each assessing sentence: its paragraph, start, end, verdict. An opening that says what the user wants is none."""
    for index, paragraph in enumerate(paragraphs):
        keys = assessing_words(paragraph)
        for position, (start, end) in enumerate(sentences(paragraph) if keys else ()):
            sentence = paragraph[start:end]
            lower = sentence.lower()
            for key in keys:
                if key in lower:
                    break
            else:
                continue
            opens = index == 0 and position == 0 and _OPENS.match(plain(sentence))
            if not opens and (label := verdict(sentence)) is not None:
                yield index, start, end, label


def _before(text: str) -> Iterator[Segment]:
    """What precedes an assessment: an understanding, and the reasoning on either side of it."""
    span = _find_understanding(text)
    if span is None and _FILLER.fullmatch(plain(text)):
        return
    if span is None:
        yield _segment(_continuation(text), text)
        return
    for step, part in zip(
        ("", "understanding", ""), (text[: span[0]], text[slice(*span)], text[span[1] :]), strict=True
    ):
        if part := part.strip():
            yield _segment("understanding" if step else _continuation(part), part)


def _find_understanding(text: str) -> tuple[int, int] | None:
    """(start, end) of the sentence that says what is wanted, with those beside it that are about the user, too.

    So is what stands between two that say what is wanted.
    """
    found: tuple[int, int] | None = None
    count, goes_on = 0, True
    for start, end in sentences(text):
        sentence = text[start:end]
        count += 1
        if is_understanding(sentence):
            if found is None:
                found = 0 if goes_on and count <= _FEW else start, end
                count, goes_on = 1, True
            elif not refuses(sentence):
                found = found[0], end
        else:
            goes_on = goes_on and _goes_with(sentence)
            if found and goes_on:
                found = found[0], end
        if found and count == _FEW:
            break
    return found


def _goes_with(sentence: str) -> bool:
    """Whether a sentence beside an understanding belongs to it: it is about the user, or says nothing."""
    text = plain(sentence)
    if _CLOSES.match(text) or _FILLER.fullmatch(text):
        return True
    about = _OF_THE_USER.search(text) is not None and not _FIRST_PERSON.search(text)
    return (about or is_understanding(text)) and not refuses(text)


def _unassessed(paragraphs: list[str]) -> list[Segment]:
    """Segments of a thought without an assessment: an understanding, if it opens with one, then the reasoning."""
    if not paragraphs:
        return []
    whole = SEPARATOR.join(paragraphs)
    end = 0
    for start, stop in sentences(paragraphs[0]):
        sentence = paragraphs[0][start:stop]
        if _says_alone(sentence):
            end = stop
        elif end or not _goes_with(sentence):
            break
    if not end:
        return [_segment(_continuation(whole), whole)]
    rest = whole[end:].strip()
    if _FILLER.fullmatch(plain(rest)):
        return [_segment("understanding", whole)]
    return [_segment("understanding", whole[:end].strip()), _segment(_continuation(rest), rest)]


def _says_alone(sentence: str) -> bool:
    return is_understanding(sentence) and not refuses(sentence) and verdict(sentence) is None


def _is_own_understanding(paragraph: str) -> bool:
    """Whether a paragraph after the assessment is one sentence, and that says what the user wants."""
    said = [paragraph[start:end] for start, end in sentences(paragraph)]
    return len(said) == 1 and _SUBJECT_IS_USER.match(plain(said[0])) is not None and _says_alone(said[0])


def _continuation(text: str) -> Literal["refusal", "reasoning"]:
    return "refusal" if refuses(text) else "reasoning"


def _segment(step: Step, text: str) -> Segment:
    return Segment(step, text, "parsed")
