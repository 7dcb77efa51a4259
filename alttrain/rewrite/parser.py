"""A thought's text <-> its segments. `parse(render(segments))` gives the same steps and texts for every structure.

`render` joins segments by a blank line. `parse` finds the assessment, a sentence that states whether the request is
harmful; what stands before it is the understanding if it says what the user wants, what follows is the conditional
reasoning: a `refusal` where it stops and refuses, else `reasoning`. Works on text any model wrote, not only ours.
"""

import re
from collections.abc import Sequence
from typing import Literal

from alttrain.records import Label, Segment, Step

SEPARATOR = "\n\n"

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*(?:\s+|$)")
_UNDERSTANDING = re.compile(
    r"\b(?:the|this|a) (?:user|person|prompt|query|question|request|message|problem|task)\b|\buser'?s?\b|"
    r"\b(?:asks?|asked|asking|wants?|wanted|wanting|wondering|requests?|requested|requesting|looking for|"
    r"(?:need|have|trying|supposed|going) to|i'm given|figure out)\b",
    re.I,
)
_SUBJECT = r"(?:this|that|it|they|the|such(?: a)?)(?:\s+(?:user(?:'s)?|kind of|type of|sort of|whole))*" \
    r"(?:\s+(?:request|question|prompt|query|topic|task|ask|content|intent|wording|information|problem))?"  # fmt: skip
_HARMLESS = (
    r"(?:not|n't|isn't|no)\s+(?:\w+\s+){0,2}(?:harmful|unsafe|dangerous|illegal|unethical|malicious|harm)|"
    r"harmless|benign|\bsafe\b|innocent|legitimate|innocuous"
)
_HARMFUL = r"harmful|unsafe|dangerous|illegal|unlawful|unethical|malicious|abusive|hateful|inappropriate"
_STATES = re.compile(
    rf"\b{_SUBJECT}(?:,[^,.]{{0,60}},)?\s*(?:'s|is|are|isn't|seems?(?: to be)?|appears?(?: to be)?|sounds?|looks?|"
    rf"would be|could be|can be|has|poses|carries|involves|contains)\s+"
    rf"(?:\w+\s+){{0,4}}?(?:(?P<harmless>{_HARMLESS})|(?P<harmful>{_HARMFUL}))",
    re.I,
)
_REFUSES = re.compile(
    r"\b(?:refuse|refusing|decline|declining|turn (?:this|it) down)\b|"
    r"\b(?:can(?:not|'t)|must not|should(?: not|n't)|will not|won't|not able to|unable to)\s+"
    r"(?:\w+\s+){0,2}(?:help|assist|answer|provide|give|comply|support|continue|go on|do (?:this|that|it)|fulfil)",
    re.I,
)


def render(segments: Sequence[Segment]) -> str:
    """The thought as the model sees it."""
    return SEPARATOR.join(segment.text for segment in segments)


def verdict(sentence: str) -> Label | None:
    """What an assessment says of the request, or None where the sentence assesses nothing."""
    found = _STATES.search(sentence.replace("’", "'"))
    if found is None:
        return None
    return "benign" if found["harmless"] else "harmful"


def is_understanding(text: str) -> bool:
    """Whether a sentence says what the user wants or what the problem is."""
    return _UNDERSTANDING.search(text.replace("’", "'")) is not None


def refuses(text: str) -> bool:
    """Whether conditional reasoning stops and refuses; only its first two sentences decide."""
    opening = " ".join(_SENTENCE_END.split(text.strip())[:2])
    return _REFUSES.search(opening.replace("’", "'")) is not None


def parse(thought: str) -> tuple[Segment, ...]:
    """The segments of a thought in the order they stand in. An empty thought has none."""
    paragraphs = [paragraph for paragraph in re.split(r"\n[ \t]*\n", thought.strip("\n")) if paragraph.strip()]
    found = _find_assessment(paragraphs)
    if found is None:
        return tuple(_unassessed(paragraphs))
    before, assessment, after = found
    segments = []
    if before:
        segments.append(_segment("understanding" if is_understanding(before) else _continuation(before), before))
    segments.append(_segment("assessment", assessment))
    if after:
        segments.append(_segment(_continuation(after), after))
    return tuple(segments)


def _find_assessment(paragraphs: list[str]) -> tuple[str, str, str] | None:
    """(text before, assessing sentence, text after). An opening that says what the user wants is not the assessment."""
    for index, paragraph in enumerate(paragraphs):
        spans = _sentences(paragraph)
        for position, (start, end) in enumerate(spans):
            opens = index == 0 and position == 0
            sentence = paragraph[start:end]
            if verdict(sentence) is None or (opens and len(paragraphs) > 1 and _names_user(sentence)):
                continue
            before = SEPARATOR.join([*paragraphs[:index], paragraph[:start].rstrip()]).strip("\n")
            after = SEPARATOR.join([paragraph[end:].lstrip(), *paragraphs[index + 1 :]]).strip("\n")
            return before, sentence.strip(), after
    return None


def _names_user(sentence: str) -> bool:
    return re.search(r"\buser\b", sentence, re.I) is not None


def _sentences(paragraph: str) -> list[tuple[int, int]]:
    """Spans of a paragraph's sentences."""
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(paragraph):
        spans.append((start, match.end()))
        start = match.end()
    if start < len(paragraph):
        spans.append((start, len(paragraph)))
    return spans


def _unassessed(paragraphs: list[str]) -> list[Segment]:
    """Segments of a thought without an assessment: an understanding, if it opens with one, then the reasoning."""
    if not paragraphs:
        return []
    if len(paragraphs) > 1 and is_understanding(paragraphs[0]) and not refuses(paragraphs[0]):
        rest = SEPARATOR.join(paragraphs[1:])
        return [_segment("understanding", paragraphs[0]), _segment(_continuation(rest), rest)]
    whole = SEPARATOR.join(paragraphs)
    return [_segment(_continuation(whole), whole)]


def _continuation(text: str) -> Literal["refusal", "reasoning"]:
    return "refusal" if refuses(text) else "reasoning"


def _segment(step: Step, text: str) -> Segment:
    return Segment(step, text, "parsed")
