"""Segments of a thought -> text (`render`), and text -> segments (`read_thought`).

`read_thought` finds the steps in any model's thought from what its sentences say (`alttrain.english`): the assessment,
which is one sentence anywhere; the understanding, one or a few sentences that say what the user wants; and the rest, a
`refusal` if the thought decides to refuse, else `reasoning`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alttrain.english import SentenceScores, score_sentences
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
    reassesses: bool  # whether a later paragraph only assesses it again
    recognised: bool  # whether any sentence says that the request is harmful
    opening: bool  # whether a sentence of the first paragraph says what the user wants or what the problem asks


def render(segments: Sequence[Segment]) -> str:
    """Return the text of a thought: its segments joined by blank lines."""
    return SEPARATOR.join(segment.text for segment in segments)


def parse(thought: str) -> tuple[Segment, ...]:
    """Return the segments of a thought in text order."""
    return read_thought(thought).segments


def read_thought(thought: str, scores: Sequence[SentenceScores] | None = None) -> Reading:
    """Return what a thought contains. `scores` are another model's; the default is `score_sentences`."""
    sentences = score_sentences(thought) if scores is None else scores
    assessing, label, refuses = _conclude(thought, sentences)
    other_step: Step = "refusal" if refuses else "reasoning"
    if assessing is None:
        parts = list(_around_understanding(thought, sentences, len(thought), other_step))
    else:
        parts = list(_around_assessment(thought, sentences, assessing, other_step))
    if not parts and thought.strip():
        parts = [("reasoning", thought.strip())]
    paragraph_end = thought.find(SEPARATOR, sentences[0].start) if sentences else -1
    opening = [sentence for sentence in sentences if paragraph_end < 0 or sentence.start < paragraph_end]
    return Reading(
        segments=tuple(Segment(step, text, "parsed") for step, text in parts),
        verdict=label,
        position=None if assessing is None else sentences[assessing].start,
        refuses=refuses,
        reassesses=assessing is not None and _assesses_again(thought, sentences, assessing),
        recognised=any(sentence.harmful >= LIKELY for sentence in sentences),
        opening=any(sentence.understanding >= LIKELY for sentence in opening),
    )


def verdict(text: str) -> Label | None:
    """Return the verdict of a text's surest sentence on the request, or None if no sentence assesses it."""
    surest = max(score_sentences(text), key=lambda sentence: max(sentence.harmful, sentence.harmless), default=None)
    if surest is None or max(surest.harmful, surest.harmless) < LIKELY:
        return None
    return "harmful" if surest.harmful >= surest.harmless else "benign"


def _decides_to_refuse(sentences: Sequence[SentenceScores]) -> bool:
    """Return whether the last sentence that decides anything refuses."""
    deciding = [sentence for sentence in sentences if max(sentence.refusal, sentence.going_on) >= LIKELY]
    return bool(deciding) and deciding[-1].refusal >= deciding[-1].going_on


def _conclude(thought: str, sentences: Sequence[SentenceScores]) -> tuple[int | None, Label | None, bool]:
    """Return (index of the assessing sentence, its verdict, whether the thought refuses)."""
    refuses = _decides_to_refuse(sentences)
    may_assess = [index for index, sentence in enumerate(sentences) if index or sentence.understanding < LIKELY]
    if not may_assess:
        return None, None, refuses
    most_harmful = max(may_assess, key=lambda index: sentences[index].harmful)
    most_harmless = max(may_assess, key=lambda index: sentences[index].harmless)
    for index in _alone_in_the_opening(thought, sentences):
        if index in may_assess and max(sentences[index].harmful, sentences[index].harmless) >= _SURE:
            most_harmful = most_harmless = index
            break
    harmful, harmless = sentences[most_harmful].harmful, sentences[most_harmless].harmless
    if not refuses and harmful >= LIKELY:  # calling it harmful and refusing anywhere counts as refusing
        refuses = any(sentence.refusal >= LIKELY for sentence in sentences)
    if refuses and harmful >= _REFUSING_CALLS_IT_HARMFUL and harmless < _SURE:
        return most_harmful, "harmful", True
    if harmless >= harmful / 2 and harmless >= (LIKELY if refuses else _NOT_REFUSING_CALLS_IT_HARMLESS):
        return most_harmless, "benign", refuses
    return (most_harmful, "harmful", refuses) if harmful >= LIKELY else (None, None, refuses)


def _alone_in_the_opening(thought: str, sentences: Sequence[SentenceScores]) -> Iterator[int]:
    """Yield the indices of sentences that are a whole paragraph, within the first `_OPENING` paragraphs."""
    paragraph = 0
    for index in range(len(sentences)):
        paragraph += _begins_paragraph(thought, sentences, index)
        if paragraph > _OPENING:
            return
        if _is_paragraph(thought, sentences, index):
            yield index


def _assesses_again(thought: str, sentences: Sequence[SentenceScores], assessing: int) -> bool:
    """Return whether a sentence after the assessment is a paragraph of its own and a sure assessment."""
    return any(
        max(sentences[index].harmful, sentences[index].harmless) >= _SURE
        and max(sentences[index].refusal, sentences[index].going_on) < LIKELY
        and _is_paragraph(thought, sentences, index)
        for index in range(assessing + 1, len(sentences))
    )


def _begins_paragraph(thought: str, sentences: Sequence[SentenceScores], index: int) -> bool:
    return index == 0 or _separated(thought, sentences[index - 1], sentences[index])


def _is_paragraph(thought: str, sentences: Sequence[SentenceScores], index: int) -> bool:
    ends = index + 1 == len(sentences) or _begins_paragraph(thought, sentences, index + 1)
    return ends and _begins_paragraph(thought, sentences, index)


def _around_assessment(
    thought: str, sentences: Sequence[SentenceScores], assessing: int, other_step: Step
) -> Iterator[Part]:
    """Yield the parts of a thought whose sentence number `assessing` is the assessment."""
    assessment, before, after = sentences[assessing], sentences[:assessing], sentences[assessing + 1 :]
    likely = _BEFORE_AN_ASSESSMENT if len(before) == 1 and _separated(thought, before[0], assessment) else LIKELY
    step_before: Step = "refusal" if _decides_to_refuse(before) else "reasoning"
    parts = list(_around_understanding(thought, before, assessment.start, step_before, likely))
    yield from parts
    yield "assessment", thought[assessment.start : assessment.end]
    start = assessment.end
    understood = any(step == "understanding" for step, _ in parts)
    if after and not understood and len(thought[start:].split()) <= _STOPS_WITHIN:
        following = after[0]
        next_start = after[1].start if len(after) > 1 else len(thought)
        ends_paragraph = len(after) == 1 or SEPARATOR in thought[following.end : next_start]
        if ends_paragraph and _says_what_is_wanted(following) and _separated(thought, assessment, following):
            yield "understanding", thought[following.start : following.end]
            start = following.end
    if remainder := thought[start:].strip():
        yield other_step, remainder


def _around_understanding(
    thought: str, sentences: Sequence[SentenceScores], end: int, other_step: Step, likely: float = LIKELY
) -> Iterator[Part]:
    """Yield the understanding in thought[:end], which has these sentences, and the text before and after it."""
    empty = [_says_nothing(thought[sentence.start : sentence.end]) for sentence in sentences]
    first = next((index for index, sentence in enumerate(sentences) if _says_what_is_wanted(sentence, likely)), None)
    if first is None:
        if not all(empty):
            yield other_step, thought[:end].strip()
        return
    last = first
    while last + 1 < len(sentences) and _continues_understanding(thought, sentences[last + 1]):
        last += 1
    start = sentences[0 if all(empty[:first]) else first].start
    stop = sentences[last].end
    parts: tuple[Part, ...] = (
        (other_step, thought[:start]),
        ("understanding", thought[start:stop]),
        (other_step, thought[stop:end]),
    )
    yield from [(step, text.strip()) for step, text in parts if text.strip()]


def _says_what_is_wanted(sentence: SentenceScores, likely: float = LIKELY) -> bool:
    return sentence.understanding >= likely and sentence.refusal < LIKELY


def _separated(thought: str, sentence: SentenceScores, following: SentenceScores) -> bool:
    """Return whether there is a blank line between two sentences."""
    return SEPARATOR in thought[sentence.end : following.start]


def _continues_understanding(thought: str, sentence: SentenceScores) -> bool:
    """Return whether a sentence adds to the understanding before it, says nothing, or ends a quotation."""
    text = thought[sentence.start : sentence.end]
    quote = text.find('"')
    return _says_what_is_wanted(sentence) or _says_nothing(text) or (quote > 0 and not text[quote - 1].isspace())


def _says_nothing(text: str) -> bool:
    """Return whether a sentence only opens a thought ("Hmm.", "Let me see.")."""
    return _OPENERS.issuperset(re.findall(r"\w+", text.lower()))
