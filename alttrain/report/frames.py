"""All frames of a report, each computed once: what its files, tables, figures and page are made from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from alttrain.report.comparisons import comparisons
from alttrain.report.results import Evaluation, structure, tidy
from alttrain.report.tables import runs_table, tables
from alttrain.report.variants import Variant, variants


class Report(NamedTuple):
    """The judged benchmarks of a report, their variants, and its frames."""

    judged: Sequence[Evaluation]
    variants: Sequence[Variant]
    results: pd.DataFrame
    compared: pd.DataFrame
    structure: pd.DataFrame
    runs: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]


def report_of(judged: Sequence[Evaluation]) -> Report:
    """The report over these benchmarks."""
    found, results = variants(judged), tidy(judged)
    compared, contrasts = comparisons(found)
    runs = runs_table(results, compared)
    return Report(judged, found, results, compared, structure(judged), runs, tables(found, contrasts))
