"""Rewrites training examples into reasoning structures, and parses thoughts back into steps.

- `AltTrain`, `Plain`, `SafePath`, `ThinkSafe`, `PromptSide`, `Untouched`: the structures (see `structures`)
- `TraceUnderstanding`  takes an understanding from the row's trace; `Restatement` restates prompts without a trace
- `TemplateTeacher`     writes assessments from the prompt's label and category (see `teachers` for the others)
- `SelfTrace`           how the backbone is asked for the original trace and answer of a prompt
- `read`, `parse`       split any model's thought into steps

Structures are pure and deterministic: wordings are chosen by hashing the example's id with the seed. No torch.
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
