"""The original trace and answer an example starts from, and where the dataset has none, how the backbone is asked.

`SelfTrace` is the recipe (what the stage asks the backbone and how it reads the reply); the reply is kept as an
`Original` in traces.jsonl, cached by content, and never asked for twice.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

from annotated_types import Ge, Gt, Le

from alttrain.records import Example, Segment
from alttrain.rewrite.parser import render

SLOT = "{prompt}"
"""Where the user's message stands in a form."""
CUT = "the backbone's answer did not end within the cap"
THOUGHT_CUT = "the backbone's thought did not end within the cap"
ANSWER_CUT = "the backbone's answer was cut after its last whole sentence within the cap"

_SENTENCE_END = re.compile(r"(?<!\d)[.!?][\"'”’)]*(?=\s|$)")
_FIRST_SENTENCE = re.compile(r"^(?:\d+[.)]\s+)?.*?[.!?][\"'”’)]*(?=\s|$)", re.S)


@dataclass(frozen=True)
class Original:
    """What the backbone wrote for one prompt: its thought, its answer, and whether it ended by itself.

    Where the thought is not `closed` within the cap there is no answer. `checksum` is as a generation's.
    """

    id: str
    thought: str
    answer: str
    ended: bool
    closed: bool = True
    checksum: str = field(default="", compare=False)


@dataclass(frozen=True)
class SelfTrace:
    """Ask the untrained backbone for the trace and the answer of a prompt, within `tokens` new tokens.

    A backbone that reasons by itself writes both, and its thought is the trace. For one that does not, the answer is
    all it writes; its trace is `opening` followed by the draft of that answer: the first sentence, where it has at most
    `draft_words` words, so that thought and answer agree. An answer that does not end within the cap is left out, or
    with `keep_sentences` kept up to its last whole sentence; a benign prompt's refusal is left out but for
    `keep_refusals`. `temperature` 0 is greedy. `harmful_form` is what a harmful prompt is put into. `chunk` prompts are
    written and kept together, so that a kill loses one chunk at most; null: all of them.
    """

    tokens: Annotated[int, Gt(0)]
    opening: str = ""
    draft_words: Annotated[int, Ge(0)] = 0
    system_prompt: str | None = None
    keep_sentences: bool = False
    keep_refusals: bool = False
    temperature: Annotated[float, Ge(0)] = 0.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    top_k: Annotated[int, Gt(0)] | None = None
    harmful_form: str = SLOT
    chunk: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if self.harmful_form.count(SLOT) != 1:
            raise ValueError(
                f"rewrite.original.harmful_form must hold {SLOT} exactly once, found {self.harmful_form!r}"
            )

    def asked(self, example: Example) -> str:
        """The user's message as the backbone is asked it."""
        return self.harmful_form.replace(SLOT, example.prompt) if example.label == "harmful" else example.prompt

    def trace(self, answer: str) -> str:
        """The trace of a backbone that does not reason, from its answer."""
        sentence = _FIRST_SENTENCE.match(answer.strip().split("\n")[0])
        drafts = sentence is not None and len(sentence[0].split()) <= self.draft_words
        return f"{self.opening} {sentence[0].strip()}" if sentence and drafts else self.opening


def original_for(untrained_thought: str, reasoning: SelfTrace, short: SelfTrace) -> SelfTrace:
    """The recipe for a backbone that reasons by itself (its untrained thought is "open"), or for one that does not."""
    return reasoning if untrained_thought == "open" else short


def whole_sentences(answer: str) -> str:
    """An answer up to its last whole sentence; empty where there is none, or where a code block is left open."""
    ends = list(_SENTENCE_END.finditer(answer))
    cut = answer[: ends[-1].end()].strip() if ends else ""
    return "" if cut.count("```") % 2 else cut


def trace_hash(example: Example) -> str:
    """The hash that `Example.trace_hash` is: of the example's thought and answer; empty where it has neither."""
    if not example.thought and not example.answer:
        return ""
    original = json.dumps([render(example.thought), example.answer], ensure_ascii=False)
    return hashlib.sha256(original.encode()).hexdigest()[:16]


def with_original(
    example: Example,
    original: Original,
    is_refusal: Callable[[str, str], bool | None],
    keep_sentences: bool = False,
    origin: str = "backbone",
) -> tuple[Example | None, str]:
    """The example with the backbone's thought and answer, or None with the reason it cannot be used.

    `is_refusal` is asked of an answer and its prompt. With `keep_sentences` the reason is told for a used example too,
    where its answer was cut. `origin` is "trace:backbone" where the backbone reasoned by itself: its thought then opens
    with an understanding of its own.
    """
    answer, reason = original.answer.strip(), ""
    if not original.closed:
        return None, THOUGHT_CUT
    if not answer:
        return None, "the backbone's answer is empty"
    if not original.ended:
        answer = whole_sentences(answer) if keep_sentences else ""
        reason = ANSWER_CUT
        if not answer:
            return None, CUT
    if not original.thought.strip():
        return None, "the backbone wrote no thought"
    if is_refusal(answer, example.prompt):
        return None, "the backbone refused a benign prompt"
    thought = (Segment("reasoning", original.thought, origin),)
    return replace(example, thought=thought, answer=answer), reason
