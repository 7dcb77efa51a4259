"""Example -> Example: reasoning structures, the sources of their steps, and the parsers that invert them.

- `AltTrain`, `Plain`, `SafePath`, `ThinkSafe`, `PromptSide`, `Untouched`: the structures (see `structures`)
- `TraceUnderstanding`  an understanding from the row's own trace; `Restatement`, one for prompts without a trace
- `TemplateTeacher`     an assessment from the prompt's label and category (see `teachers` for the others)
- `SelfTrace`           how the backbone is asked for the original trace and answer of a prompt
- `read`, `parse`       any model's thought -> what it holds, and its segments

Structures are pure and deterministic: a wording is chosen by hashing the example's id with the seed. No torch.
"""

from alttrain.rewrite.original import (
    ANSWER_CUT,
    CUT,
    THOUGHT_CUT,
    Original,
    SelfTrace,
    original_for,
    trace_hash,
    with_original,
)
from alttrain.rewrite.parser import is_understanding, parse, read, render, verdict
from alttrain.rewrite.structures import (
    AltTrain,
    Plain,
    PromptSide,
    SafePath,
    Structure,
    ThinkSafe,
    Untouched,
    lacks_original,
)
from alttrain.rewrite.teachers import (
    AskedTeacher,
    BackboneWriter,
    ServerWriter,
    Teacher,
    TeacherContext,
    TemplateTeacher,
)
from alttrain.rewrite.understanding import Restatement, TraceUnderstanding, Understanding, has_trace, outcome

__all__ = [
    "ANSWER_CUT",
    "CUT",
    "THOUGHT_CUT",
    "AltTrain",
    "AskedTeacher",
    "BackboneWriter",
    "Original",
    "Plain",
    "PromptSide",
    "Restatement",
    "SafePath",
    "SelfTrace",
    "ServerWriter",
    "Structure",
    "Teacher",
    "TeacherContext",
    "TemplateTeacher",
    "ThinkSafe",
    "TraceUnderstanding",
    "Understanding",
    "Untouched",
    "has_trace",
    "is_understanding",
    "lacks_original",
    "original_for",
    "outcome",
    "parse",
    "read",
    "render",
    "trace_hash",
    "verdict",
    "with_original",
]
