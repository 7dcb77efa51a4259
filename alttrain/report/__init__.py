"""Run folders -> tables, figures, model cards and tidy data in outputs/report/. No torch.

Reads run.json, fingerprint.json, rewrite.json, train.json, logs/metrics.csv and evaluation/* of every run folder.

- `runs`, `comparisons`, `structure`, `table`  run by run: tidy cells, each run against No-train, the table of all runs
- `variants`, `estimates`, `measuring`         runs over their seeds, and what is measured of them
- `published`                                  the figures the paper reports, with their sources
- `columns`, `rows`, `tables`, `entries`       which tables there are, and their cells, tidy
- `forms`, `latex`, `legend`, `commands`       how a table is written, and what would fill its gaps
- `aside`                                      files that hold still while a report is made, and how it is put in place
- `figures`                                    what is drawn; it alone imports matplotlib
- `card`, `push`                               the model card, and the upload that only a person starts
"""

from alttrain.report.card import card, rewrite_card
from alttrain.report.comparisons import Compared, comparisons
from alttrain.report.entries import Entry
from alttrain.report.forms import console, markdown
from alttrain.report.latex import latex
from alttrain.report.runs import Cell, Evaluation, cells_of, collect, evaluations, read_csv, write_csv
from alttrain.report.structure import Structure, structures
from alttrain.report.table import markdown_table
from alttrain.report.tables import TITLES, tables
from alttrain.report.variants import Variant, variants

__all__ = [
    "TITLES",
    "Cell",
    "Compared",
    "Entry",
    "Evaluation",
    "Structure",
    "Variant",
    "card",
    "cells_of",
    "collect",
    "comparisons",
    "console",
    "evaluations",
    "latex",
    "markdown",
    "markdown_table",
    "read_csv",
    "rewrite_card",
    "structures",
    "tables",
    "variants",
    "write_csv",
]
