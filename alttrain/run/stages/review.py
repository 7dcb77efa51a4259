"""The review sheet: twenty rewritten rows, old thought against new, for a person to read and tick. Markdown."""

import random
from collections.abc import Mapping, Sequence

from alttrain.dataset.selection import stratified
from alttrain.records import Example
from alttrain.rewrite import render

ROWS = 20
SHOWN = 1500
"""Characters of an old thought or of one segment that are shown; the whole stands in originals.jsonl, train.jsonl."""
QUESTIONS = (
    "the understanding says what the user wants",
    "the assessment is right, and about the request",
    "what follows does as the assessment says",
    "the answer fits the thought",
)


def review_sheet(rewritten: Sequence[Example], originals: Mapping[str, Example], seed: int) -> str:
    """The sheet of up to twenty rows, drawn by `seed` in the proportions of their categories, in random order."""
    chosen = stratified(rewritten, min(ROWS, len(rewritten)), seed)
    random.Random(f"review-{seed}").shuffle(chosen)
    head = f"# {len(chosen)} of {len(rewritten)} rewritten rows, to be read\n\nTick what holds.\n"
    return "\n".join([head, *(_row(number, row, originals[row.id]) for number, row in enumerate(chosen, 1))])


def _row(number: int, new: Example, old: Example) -> str:
    lines = [f"## {number}. {new.id} ({new.label}, {new.category or 'no category'})", "", *_quoted(new.prompt), ""]
    if old.thought:
        lines += ["**Thought before**", "", *_quoted(render(old.thought)), ""]
    lines += ["**Thought after**", ""]
    for segment in new.thought:
        lines += [f"- {segment.step} ({segment.origin})", "", *_quoted(segment.text), ""]
    if new.answer:
        lines += ["**Answer**", "", *_quoted(new.answer), ""]
    return "\n".join([*lines, *(f"- [ ] {question}" for question in QUESTIONS), ""])


def _quoted(text: str) -> list[str]:
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text)} characters)"
    return [f"> {line}" for line in shown.split("\n")]
