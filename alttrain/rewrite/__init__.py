"""Rewrites training examples into reasoning structures, and parses thoughts back into steps. No torch."""

from alttrain.rewrite.original import Original, SelfTrace, original_for
from alttrain.rewrite.parser import parse, read, render
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
from alttrain.rewrite.teachers import Teacher, TeacherContext, TemplateTeacher
from alttrain.rewrite.understanding import Restatement, TraceUnderstanding
