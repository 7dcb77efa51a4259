"""Example -> Example: the reasoning structures, the teachers that write an assessment, and the parser, their inverse.

- `AltTrain`        problem understanding -> harmfulness assessment -> conditional reasoning
- `DirectRefusal`   a fixed thought and a refusal, harmful prompts only
- `Untouched`       examples as the dataset has them
- `Restatement`     an understanding for prompts whose backbone wrote no trace
- `TemplateTeacher` an assessment from the prompt's label and category
- `SelfTrace`       how the backbone itself is asked for the original trace and answer of a benign prompt
- `parse`           a thought's text -> its segments

Pure and deterministic: a wording is chosen by hashing the example's id with the seed. No torch.
"""

from alttrain.rewrite.original import ANSWER_CUT, Original, SelfTrace, with_original
from alttrain.rewrite.parser import is_understanding, parse, render, verdict
from alttrain.rewrite.restatement import Restatement
from alttrain.rewrite.structures import AltTrain, DirectRefusal, Structure, Untouched
from alttrain.rewrite.teachers import TemplateTeacher

__all__ = [
    "ANSWER_CUT",
    "AltTrain",
    "DirectRefusal",
    "Original",
    "Restatement",
    "SelfTrace",
    "Structure",
    "TemplateTeacher",
    "Untouched",
    "is_understanding",
    "parse",
    "render",
    "verdict",
    "with_original",
]
