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
_STATES = re.compile(
    r"\b(?:this|that|it|they|there|(?:the|such(?: a)?)(?: user's| person's)?(?: whole)? "
    r"(?:request|question|prompt|query|topic|task|ask|content|intent|wording|information|problem))\b"
    r"(?P<between>[^.!?;:\n]{0,70}?(?:\b(?:is|are|be|was|has|have|seems?|appears?|sounds?|looks?|poses?|carr(?:y|ies)|involves?|"
    r"contains?|could|can|may|might|would)\b|'s\b|n't\b)[^.!?;:\n]{0,40}?)"
    r"\b(?:(?P<harmless>harmless|benign|safe|innocent|legitimate|innocuous)|"
    r"(?P<harmful>harmful|unsafe|dangerous|illegal|unlawful|unethical|malicious|abusive|hateful|inappropriate|harm))\b",
    re.I,
)
_NEGATES = re.compile(r"n't\b|\b(?:not(?! only)|no|nothing|neither|never|far from|hardly)\b", re.I)
_HYPOTHETICAL = re.compile(r"(?:\b(?:if|whether|unless)|^\W*(?:is|are))\s+(?:\w+\s+){0,2}$", re.I)
_QUOTED = re.compile('["“][^"”]*["”]')
_OPENS = re.compile(
    r"^\W*(?:(?:okay|ok|alright|all right|hmm|so|well|first|now|let me see)\W+)*(?:the|this|a) (?:user|person)\s+\w+",
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
    """What an assessment says of the request, or None where the sentence assesses nothing.

    Quoted words are the user's; "whether this is harmful" and "if it is harmful" are no verdicts; a negation turns one.
    """
    text = _QUOTED.sub("", sentence.replace("’", "'"))
    found = _STATES.search(text)
    while found and _HYPOTHETICAL.search(text[: found.start()]):
        found = _STATES.search(text, found.start() + 1)
    if found is None:
        return None
    negated = _NEGATES.search(found["between"]) is not None
    return "benign" if (found["harmless"] is not None) != negated else "harmful"


def is_understanding(text: str) -> bool:
    """Whether a sentence says what the user wants or what the problem is."""
    return _UNDERSTANDING.search(text.replace("’", "'")) is not None


def refuses(text: str) -> bool:
    """Whether conditional reasoning stops and refuses; only its first two sentences decide."""
    opening = " ".join(_SENTENCE_END.split(text.strip())[:2])
    return _REFUSES.search(opening.replace("’", "'")) is not None


def parse(thought: str) -> tuple[Segment, ...]:
    """The segments of a thought in the order they stand in. An empty thought has none."""
    text = thought.strip("\n")
    paragraphs = text.split(SEPARATOR) if text.strip() else []
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
            sentence = paragraph[start:end]
            opens = index == 0 and position == 0 and _OPENS.match(sentence)
            if opens or verdict(sentence) is None:
                continue
            before = SEPARATOR.join([*paragraphs[:index], paragraph[:start].rstrip()]).strip("\n")
            after = SEPARATOR.join([paragraph[end:].lstrip(), *paragraphs[index + 1 :]]).strip("\n")
            return before, sentence.strip(), after
    return None


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
