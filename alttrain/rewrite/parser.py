"""Segments of a thought -> text (`render`), and text -> segments (`read`).

`read` finds the steps in any model's thought from what its sentences say (`alttrain.english`): the assessment, which is
one sentence anywhere; the understanding, one or a few sentences that say what the user wants; and the rest, a `refusal`
if the thought decides to refuse, else `reasoning`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alttrain.english import Said, says
from alttrain.records import Label, Segment, Step

SEPARATOR = "\n\n"

LIKELY = 0.5  # probability from which a sentence counts as saying something
_SURE = 0.6
_BEFORE_AN_ASSESSMENT = 0.1
"""Threshold for an understanding that is the only sentence before the assessment and a paragraph of its own."""
_REFUSING_CALLS_IT_HARMFUL = 0.06
_NOT_REFUSING_CALLS_IT_HARMLESS = 0.12
"""Thresholds for the most likely assessment in a thought whose decision agrees with it."""
_OPENING = 2
"""An assessment that is a paragraph of its own within this many first paragraphs is the thought's, whatever follows."""
_OPENING_WORDS = (
    "okay ok alright all right hmm hm so well now first wait let me i see think start look at why have got need to "
    "about this the problem request here"
)
_OPENERS = frozenset(_OPENING_WORDS.split())  # a sentence with only these words is not a step
_STOPS_WITHIN = 50
"""An understanding may follow an assessment if at most this many words follow it; a longer rest is a trace."""

Part = tuple[Step, str]


@dataclass(frozen=True)
class Reading:
    """What a thought contains."""

    segments: tuple[Segment, ...]  # in text order, without empty openings such as "Hmm."
    verdict: Label | None  # the assessment's verdict on the request; None without an assessment
    position: int | None  # number of characters before the assessment
    refuses: bool  # whether the thought decides to refuse
    recognised: bool  # whether any sentence says that the request is harmful
    opening: bool  # whether a sentence of the first paragraph says what the user wants or what the problem asks


def render(segments: Sequence[Segment]) -> str:
    """Return the text of a thought: its segments joined by blank lines."""
    return SEPARATOR.join(segment.text for segment in segments)


def parse(thought: str) -> tuple[Segment, ...]:
    """Return the segments of a thought in text order."""
    return read(thought).segments


def read(thought: str, said: Sequence[Said] | None = None) -> Reading:
    """Return what a thought contains. `said` are its sentences as read by another model; the default is `says`."""
    said = says(thought) if said is None else said
    at, label, refused = _conclude(thought, said)
    rest: Step = "refusal" if refused else "reasoning"
    if at is None:
        parts = list(_around_understanding(thought, said, len(thought), rest))
    else:
        parts = list(_around_assessment(thought, said, at, rest))
    if not parts and thought.strip():
        parts = [("reasoning", thought.strip())]
    first = thought.find(SEPARATOR, said[0].start) if said else -1
    return Reading(
        segments=tuple(Segment(step, text, "parsed") for step, text in parts),
        verdict=label,
        position=None if at is None else said[at].start,
        refuses=refused,
        recognised=any(one.harmful >= LIKELY for one in said),
        opening=any(one.understanding >= LIKELY for one in said if first < 0 or one.start < first),
    )


def verdict(text: str) -> Label | None:
    """Return the verdict of a text's surest sentence on the request, or None if no sentence assesses it."""
    best = max(says(text), key=lambda one: max(one.harmful, one.harmless), default=None)
    if best is None or max(best.harmful, best.harmless) < LIKELY:
        return None
    return "harmful" if best.harmful >= best.harmless else "benign"


def _decides_to_refuse(said: Sequence[Said]) -> bool:
    """Return whether the last sentence that decides anything refuses."""
    deciding = [one for one in said if max(one.refusal, one.going_on) >= LIKELY]
    return bool(deciding) and deciding[-1].refusal >= deciding[-1].going_on


def _conclude(thought: str, said: Sequence[Said]) -> tuple[int | None, Label | None, bool]:
    """Return (index of the assessing sentence, its verdict, whether the thought refuses)."""
    refused = _decides_to_refuse(said)
    may_assess = [n for n, one in enumerate(said) if n or one.understanding < LIKELY]
    if not may_assess:
        return None, None, refused
    harmful = max(may_assess, key=lambda n: said[n].harmful)
    harmless = max(may_assess, key=lambda n: said[n].harmless)
    for number in _alone_in_the_opening(thought, said):
        if number in may_assess and max(said[number].harmful, said[number].harmless) >= _SURE:
            harmful = harmless = number
            break
    bad, good = said[harmful].harmful, said[harmless].harmless
    if not refused and bad >= LIKELY:  # calling it harmful and refusing anywhere counts as refusing
        refused = any(one.refusal >= LIKELY for one in said)
    if refused and bad >= _REFUSING_CALLS_IT_HARMFUL and good < _SURE:
        return harmful, "harmful", True
    if good >= bad / 2 and good >= (LIKELY if refused else _NOT_REFUSING_CALLS_IT_HARMLESS):
        return harmless, "benign", refused
    return (harmful, "harmful", refused) if bad >= LIKELY else (None, None, refused)


def _alone_in_the_opening(thought: str, said: Sequence[Said]) -> Iterator[int]:
    """Yield the indices of sentences that are a whole paragraph, within the first `_OPENING` paragraphs."""
    paragraph = 0
    for number, one in enumerate(said):
        begins = number == 0 or _parted(thought, said[number - 1], one)
        paragraph += begins
        if paragraph > _OPENING:
            return
        if begins and (number + 1 == len(said) or _parted(thought, one, said[number + 1])):
            yield number


def _around_assessment(thought: str, said: Sequence[Said], at: int, rest: Step) -> Iterator[Part]:
    """Yield the parts of a thought whose sentence `at` is the assessment."""
    own, before, after = said[at], said[:at], said[at + 1 :]
    likely = _BEFORE_AN_ASSESSMENT if len(before) == 1 and _parted(thought, before[0], own) else LIKELY
    refused_before: Step = "refusal" if _decides_to_refuse(before) else "reasoning"
    parts = list(_around_understanding(thought, before, own.start, refused_before, likely))
    yield from parts
    yield "assessment", thought[own.start : own.end]
    start = own.end
    understood = any(step == "understanding" for step, _ in parts)
    if after and not understood and len(thought[start:].split()) <= _STOPS_WITHIN:
        first = after[0]
        ends = after[1].start if len(after) > 1 else len(thought)
        alone = len(after) == 1 or SEPARATOR in thought[first.end : ends]
        if alone and _says_what_is_wanted(first) and _parted(thought, own, first):
            yield "understanding", thought[first.start : first.end]
            start = first.end
    if left := thought[start:].strip():
        yield rest, left


def _around_understanding(
    thought: str, said: Sequence[Said], end: int, rest: Step, likely: float = LIKELY
) -> Iterator[Part]:
    """Yield the understanding in thought[:end], whose sentences are `said`, and the text before and after it."""
    empty = [_says_nothing(thought[one.start : one.end]) for one in said]
    first = next((n for n, one in enumerate(said) if _says_what_is_wanted(one, likely)), None)
    if first is None:
        if not all(empty):
            yield rest, thought[:end].strip()
        return
    last = first
    while last + 1 < len(said) and _belongs(thought, said[last + 1]):
        last += 1
    start = said[0 if all(empty[:first]) else first].start
    stop = said[last].end
    parts: tuple[Part, ...] = (
        (rest, thought[:start]),
        ("understanding", thought[start:stop]),
        (rest, thought[stop:end]),
    )
    yield from [(step, text.strip()) for step, text in parts if text.strip()]


def _says_what_is_wanted(one: Said, likely: float = LIKELY) -> bool:
    return one.understanding >= likely and one.refusal < LIKELY


def _parted(thought: str, one: Said, following: Said) -> bool:
    """Return whether there is a blank line between two sentences."""
    return SEPARATOR in thought[one.end : following.start]


def _belongs(thought: str, one: Said) -> bool:
    """Return whether a sentence continues the understanding: it adds to it, says nothing, or ends a quotation."""
    sentence = thought[one.start : one.end]
    mark = sentence.find('"')
    return _says_what_is_wanted(one) or _says_nothing(sentence) or (mark > 0 and not sentence[mark - 1].isspace())


def _says_nothing(sentence: str) -> bool:
    """Return whether a sentence only opens a thought ("Hmm.", "Let me see.")."""
    return _OPENERS.issuperset(re.findall(r"\w+", sentence.lower()))
