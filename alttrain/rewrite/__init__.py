"""Rewrites training examples into reasoning structures, and parses thoughts back into steps. No torch.

- `structures`     `AltTrain` and the other structures: from an example to the example to train on
- `teachers`       `Teacher`, which writes assessments: a template, the backbone itself, or a model on a server
- `understanding`  the problem understanding, taken from a trace or restated from the prompt
- `original`       the thought and answer that a rewrite starts from, which the backbone writes where a row has none
- `parser`         `render` joins the steps of a thought to text, `parse` and `read_thought` find them in text
"""

from alttrain.rewrite.original import Original, SelfTrace, original_for
from alttrain.rewrite.parser import parse, read_thought, render
from alttrain.rewrite.structures import (
    AltTrain,
    Plain,
    PromptSide,
    SafePath,
    Structure,
    ThinkSafe,
    Untouched,
    lacks_original,
    lacks_understanding,
)
from alttrain.rewrite.teachers import Teacher, TeacherContext, TemplateTeacher
from alttrain.rewrite.understanding import Restatement, TraceUnderstanding
