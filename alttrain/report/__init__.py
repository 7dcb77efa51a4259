"""Run folders -> one table, one figure and tidy data in outputs/report/. No torch.

Reads run.json and evaluation/*/metrics.json of every run folder; writes metrics.csv, table.md and safety.png.
"""

from alttrain.report.figure import draw
from alttrain.report.runs import Cell, collect, write_csv
from alttrain.report.table import console_table, markdown_table

__all__ = ["Cell", "collect", "console_table", "draw", "markdown_table", "write_csv"]
