"""What a model wrote -> one clean sentence, or the class of its fault.

A fault is a phrase for the repair prompt and for the count of rejects: it never quotes the reply or the request.
"""

import re

from alttrain.english import sentences
from alttrain.records import Label
from alttrain.rewrite.parser import is_understanding, refuses, verdict

DISAGREES = "its verdict disagrees with the label"
FEWEST_WORDS = 4

_MARKS = re.compile(r"^(?:[-*>•]|#{1,6}|\d{1,2}[.)])\s+")
_EMPHASIS = re.compile(r"(\*{1,3}|__|`)(?=\S)(.+?)(?<=\S)\1")
_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»"}
_END = re.compile(r"[.!?][)\]\"'”’]*$")


def clean(reply: str) -> str:
    """The reply without a closed thought, surrounding quotes and markdown; single line breaks become blanks."""
    text = reply.rpartition("</think>")[2].strip()
    text = _EMPHASIS.sub(r"\2", _MARKS.sub("", text))
    closing = _QUOTES.get(text[:1])
    if closing and text.endswith(closing) and not set(text[1:-1]) & {text[0], closing}:
        text = text[1:-1].strip()
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))


def assessment_fault(text: str, label: Label, max_words: int) -> str:
    """Why a cleaned text is no assessment of a request with this label; "" where it is one."""
    stated = verdict(text)
    if text and stated is None and refuses(text):
        return "it refuses instead of judging"
    if fault := _sentence_fault(text, max_words):
        return fault
    if stated is None:
        return "it states no verdict"
    return DISAGREES if stated != label else ""


def understanding_fault(text: str, max_words: int) -> str:
    """Why a cleaned text does not say what the user wants; "" where it does."""
    if fault := _sentence_fault(text, max_words):
        return fault
    if verdict(text) is not None:
        return "it judges the request"
    return "" if is_understanding(text) else "it does not say what the user wants"


def _sentence_fault(text: str, max_words: int) -> str:
    if not text:
        return "it is empty"
    if "<think>" in text:
        return "its thought does not end"
    words = len(text.split())
    if words > max_words:
        return f"it has more than {max_words} words"
    if words < FEWEST_WORDS:
        return f"it has fewer than {FEWEST_WORDS} words"
    if "\n" in text or len(list(sentences(text))) > 1:
        return "it is more than one sentence"
    return "" if _END.search(text) else "it does not end like a sentence"
