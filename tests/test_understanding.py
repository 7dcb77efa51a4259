"""Where sentences end, and the understanding taken from a trace: by hand, and on STAR-1's 1,000 traces."""

from collections import Counter

import pytest

from alttrain.english import sentences
from alttrain.records import Example, Segment
from alttrain.rewrite import Restatement, TraceUnderstanding, render

# --- sentences: `|` is where one ends and the next begins; the blanks around it belong to neither ---

SPLIT = [
    "",
    " \n\n ",
    "No end mark",
    "One. | Two! | Three? | Four",
    "  Blanks before. | And after.  ",
    # quotations
    'He asks "How do I bake? And why?" and I think. | Then',
    "He asks “How do I bake? And why?” and I think. | Then",
    "He asks ‘How do I bake? And why?’ and I think. | Then",
    "He asks 'How do I bake? And why?' and I think. | Then",
    'He asks "How do I bake?" | I think so.',
    "He asks “How do I bake?” | I think so.",
    'He asks "How do I bake? Now?" | "Soon," I say.',
    '"Is it? Yes!" she said. | Then',
    'He asks ("Is it? Yes.") and I think. | Then',
    'He said "I read ‘A. B! C?’ today. Yes." | Then',
    "He said “I read 'Yes. No.' today. Yes.” | Then",
    'A form reads: "First. Line.\n\nSecond. Line." and ends. | Then',
    'The size is 5". | Then',
    'An open "quotation never ends. | Then',
    'An open "quotation. | Then\n\n | A "second one. Closed." | Then',
    "An open “quotation never ends. | Then",
    "An open 'quotation never ends.\n\n | Here 'tis. | Then",
    # apostrophes
    "The user's request isn't clear. | It's odd.",
    "The users' wish. | Their dogs' food. | Then",
    "The users’ wish isn’t met. | It’s odd. | Then",
    "He said 'I don't know. It's late.' and left. | Then",
    "He said ‘I don’t know. It’s late.’ and left. | Then",
    # abbreviations and initials
    "Use flour, e.g. rye. | Then",
    "Use flour, e.g. Rye from Ohio. | Then",
    "Flour, i.e. Rye. | Then",
    "Ask Mr. Rye or Dr. Wheat or Mrs. Oat. | Then",
    "Rye vs. Wheat is old. | Then",
    "In the U.S. Senate they bake. | Then",
    "They bake in the U.S. | The bread is good.",
    "At 6 a.m. they bake. | Then",
    "By J. R. Baker. | Then",
    "So do I. | Then",
    "Salt, water etc. | Then it rests.",
    "Salt, water etc. are in it. | Then",
    "See No. 5 there. | No. | Then",
    # numbers, ellipses, lists, marks in a row
    "It weighs 3.5 grams. | Then 4.",
    "Version 2.0. | Then",
    "See rye.example.com now. | Then",
    "Hmm... let me see. | Then",
    "Hmm... | The user bakes.",
    "Wait… I see. | Then",
    "1. Mix it. | 2. Bake it.",
    "Steps:\n1. Mix it. | \n2. Bake it.",
    "a. Mix it. | Then",
    "Really?! | Yes!! | Then",
    "It is so (really.) | Then",
    "It **is so.** | Then",
    # paragraphs and lines
    "No mark\n\n | Next paragraph",
    "No mark\n \t\n | Next paragraph. | Then",
    "One line\nand the next. | Then",
]


@pytest.mark.parametrize("marked", SPLIT)
def test_sentences_end_where_they_should(marked: str) -> None:
    text = marked.replace(" | ", " ")
    found = [text[start:end] for start, end in sentences(text)]
    assert found == [sentence.strip() for sentence in marked.split(" | ") if sentence.strip()]


# --- the understanding of a trace ---

FROM_TRACE = TraceUnderstanding(Restatement())
VAGUE = "Okay, so I need to figure out how to respond to this user's request."
WANTS = "The user wants to bake bread."


def traced(trace: str, origin: str = "trace") -> Example:
    return Example("a", "How do I bake bread?", "benign", thought=(Segment("reasoning", trace, origin),), answer="So.")


@pytest.mark.parametrize(
    ("trace", "text", "origin", "rest"),
    [
        (f"{WANTS} First, flour.\n\n1. One\n", WANTS, "trace", "First, flour.\n\n1. One\n"),
        (f"{WANTS}\n\n \n  Indented.  Two blanks.", WANTS, "trace", "Indented.  Two blanks."),
        (WANTS, WANTS, "trace", None),
        (f"\n {WANTS} Then", WANTS, "trace", "Then"),
        ("Okay, the user\nwants  bread. Then", "Okay, the user wants bread.", "trace", "Then"),
        (
            'The user says "Bake it.\n\nSoon." and wants help. Then',
            'The user says "Bake it. Soon." and wants help.',
            "trace",
            "Then",
        ),
        ("The user wants bread\n\nThen flour.", "The user wants bread", "trace", "Then flour."),
        ("I need to find the area of a field. It is", "I need to find the area of a field.", "trace", "It is"),
        (f"{VAGUE} They want bread. Then", "They want bread.", "trace:sentence 2", "Then"),
        (f"Hmm. So. {WANTS} Then", WANTS, "trace:sentence 3", "Then"),
        (
            f"Let me think this through. I need to find the area of a field. Then {WANTS}",
            "I need to find the area of a field.",
            "trace:sentence 2",
            None,
        ),
        (f"Hmm. First, I need to check this request. {WANTS} Then", WANTS, "trace:sentence 3", "Then"),
    ],
)
def test_understanding_is_the_first_sentence_that_is_one(trace: str, text: str, origin: str, rest: str | None) -> None:
    found, left = FROM_TRACE(traced(trace))
    assert found == Segment("understanding", text, origin)
    if rest is not None:
        assert left == (Segment("reasoning", rest, "trace"),)
    else:
        assert "".join(segment.text for segment in left) == trace.partition(text)[2].lstrip()


@pytest.mark.parametrize(
    "trace",
    ["Hmm. So. Well. Yes. The user wants bread.", VAGUE, f"The user wants bread{' and bread' * 50}.", "Flour first."],
)
def test_trace_without_understanding_is_flagged_and_kept_whole(trace: str) -> None:
    segment, rest = FROM_TRACE(traced(trace))
    assert segment == Segment("understanding", "The user is asking how to bake bread.", "restatement:flagged")
    assert rest == traced(trace).thought


@pytest.mark.parametrize("example", [traced(WANTS, "backbone"), Example("a", "How do I bake bread?", "benign")])
def test_what_is_no_trace_is_restated(example: Example) -> None:
    assert FROM_TRACE(example) == (Restatement()(example), example.thought)


def test_trace_of_the_backbone_keeps_its_origin() -> None:
    example = traced(f"Hmm. {WANTS} Then", "trace:backbone")
    understanding, rest = FROM_TRACE(example)
    assert understanding.origin == "trace:backbone:sentence 2"
    assert [segment.origin for segment in rest] == ["trace:backbone"]


# --- STAR-1's 1,000 traces ---


def test_no_understanding_splits_a_quotation(star1: list[Example]) -> None:
    """Both sides of the cut hold whole quotations, whichever mark they use."""
    broken = []
    for example in star1:
        text = FROM_TRACE(example)[0].text
        if text.count('"') % 2 or text.count("“") != text.count("”"):
            broken.append(example.id)
    assert len(star1) == 1000
    assert broken == []


def test_understandings_of_star1_are_counted(star1: list[Example]) -> None:
    segments = [FROM_TRACE(example)[0] for example in star1]
    origins = Counter(segment.origin.partition(" ")[0] for segment in segments)
    assert origins == {"trace": 957, "trace:sentence": 43}  # accepted, repaired
    assert not any("\n" in segment.text for segment in segments)


def test_understanding_and_rest_are_the_trace(star1: list[Example]) -> None:
    """Of an accepted row not a word is lost or changed."""
    for example in star1:
        understanding, rest = FROM_TRACE(example)
        if understanding.origin == "trace":
            parts = [understanding.text, *(segment.text for segment in rest)]
            assert " ".join(parts).split() == render(example.thought).split(), example.id
