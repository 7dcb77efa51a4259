"""Run folders -> tables, figures and tidy data in outputs/report/. No torch.

Reads run.json, evaluation/*/metrics.json and judgements.jsonl of every run folder.
"""

from alttrain.report.comparisons import Compared, comparisons
from alttrain.report.figure import draw
from alttrain.report.runs import Cell, Evaluation, cells_of, collect, evaluations, read_csv, write_csv
from alttrain.report.structure import Structure, structures
from alttrain.report.table import console_table, markdown_table

__all__ = [
    "Cell",
    "Compared",
    "Evaluation",
    "Structure",
    "cells_of",
    "collect",
    "comparisons",
    "console_table",
    "draw",
    "evaluations",
    "markdown_table",
    "read_csv",
    "structures",
    "write_csv",
]
