"""Which tables there are, and their rows and columns.

| table             | rows                                         | columns                                           |
|-------------------|----------------------------------------------|---------------------------------------------------|
| overview          | every variant                                | each benchmark's measure, adherence, tokens       |
| main              | each backbone's methods                      | safety sets, their mean, over-refusal, reasoning  |
| reasoning         | as main                                      | each reasoning set                                |
| ablation_structure| the structure without each step              | harmful and reasoning means, over-refusal         |
| teacher_swap      | the structure by each teacher                | as ablation_structure                             |
| data_size         | a recipe with more and fewer examples        | as ablation_structure                             |
| benign_amount     | a recipe with more and fewer harmless ones   | as ablation_structure                             |
| general           | as main                                      | short answers, Chinese knowledge, summaries       |
| multi_turn        | as main                                      | multi-turn attacks                                |
| multilingual      | as main                                      | each language                                     |
| adherence         | every variant                                | the assessment as a classifier, failures by cause |
| efficiency        | every variant                                | training, and tokens a query                      |

A table for which there is no data is not made. Rows that another backbone has and this one lacks say what to run.
"""

from collections.abc import Sequence

from alttrain.report import columns as of
from alttrain.report.columns import Column
from alttrain.report.commands import command
from alttrain.report.entries import Entry, entry, finished
from alttrain.report.measuring import Measuring
from alttrain.report.published import MEAN, Figure, reported
from alttrain.report.rows import OFFLINE, Row, having, methods, row_of, sweeps
from alttrain.report.runs import Evaluation
from alttrain.report.variants import Variant, is_main, label, variants

TITLES = {
    "overview": "All runs",
    "main": "Backbones and methods",
    "reasoning": "Reasoning",
    "ablation_structure": "The structure without each of its steps",
    "teacher_swap": "Assessments by another teacher",
    "data_size": "Amount of training data",
    "benign_amount": "Amount of harmless training data",
    "general": "General ability",
    "multi_turn": "Multi-turn attacks",
    "multilingual": "Harmful requests by language",
    "adherence": "Adherence to the structure, and failures by what the assessment said",
    "efficiency": "What training and a query cost",
}


def tables(judged: Sequence[Evaluation]) -> dict[str, list[Entry]]:
    """Every table there is data for, by name."""
    found = variants(judged)
    protocols = sorted({protocol for variant in found for protocol in variant.protocols()})
    measuring = Measuring(found)
    wanted = [
        (name, protocol, rows, columns)
        for protocol in protocols
        for name, rows, columns in _specified([v for v in found if protocol in v.protocols()], protocol)
        if columns and any(row.variant for row in rows)
    ]
    measuring.all(list(dict.fromkeys(column for _, _, _, columns in wanted for column in columns)))
    entries: dict[str, list[Entry]] = {name: [] for name in TITLES}
    for name, protocol, rows, columns in wanted:
        entries[name] += _table(name, protocol, rows, columns, measuring)
    return {name: finished(own) for name, own in entries.items() if any(one.known or one.n for one in own)}


Specified = tuple[str, list[Row], list[Column]]


def _specified(found: list[Variant], protocol: str) -> list[Specified]:
    """(table, rows, columns) of one protocol; `found` are the variants it judged."""
    rates = of.rate_columns(found, protocol)
    main = [variant for variant in found if is_main(variant, found)]
    pooled = of.pool(found, protocol)
    pools = {name: Column(name, protocol, pooled, "pool") for name in (*of.ASSESSING, *of.TOKENS)}
    training = [Column(name, protocol, (), "training") for name in of.TRAINING]
    own = [column for column in rates if not of.apart(column.benchmark)]
    means = {measure: of.mean_column(main or found, protocol, measure) for measure in of.RATES}
    short = [*_either(own, means, "harmful_rate"), *(c for c in own if c.measure == "over_refusal_rate")]
    short += _either(own, means, "accuracy")
    every = [row_of(label(variant, found), variant) for variant in found]
    rows = methods(main, protocol)
    overview = [*of.rate_columns(found, protocol, others=True), *(pools[name] for name in _OVERVIEW)]
    harmful = [column for column in own if column.measure == "harmful_rate"]
    general = [c for c in rates if c.benchmark in of.GENERAL and (c.measure == "score") == (c.benchmark == _ROUGE)]
    apart = {
        "general": general,
        "multi_turn": [c for c in rates if c.benchmark in of.MULTI_TURN],
        "multilingual": [c for c in rates if c.benchmark.startswith(of.MULTILINGUAL)],
        "reasoning": [c for c in own if c.measure == "accuracy"] if means["accuracy"] else [],
    }
    return [
        ("overview", every, overview),
        ("main", rows, [*(harmful if means["harmful_rate"] else []), *short]),
        *((name, having(rows, columns, name), columns) for name, columns in apart.items()),
        *((name, swept, short) for name, swept in sweeps(found)),
        ("adherence", every, [pools[name] for name in of.ASSESSING]),
        ("efficiency", every, [*training, *(pools[name] for name in of.TOKENS)]),
    ]


_OVERVIEW = ("adherence_rate", "thought_tokens", "answer_tokens")
_ROUGE = "cnn_dailymail"
"""The benchmark without right and wrong: its score is what counts."""


def _either(own: Sequence[Column], means: dict[str, Column | None], measure: str) -> list[Column]:
    """The mean over a measure's sets, or where there is none each set."""
    mean = means[measure]
    return [mean] if mean else [column for column in own if column.measure == measure]


def _table(
    name: str, protocol: str, rows: Sequence[Row], columns: Sequence[Column], measuring: Measuring
) -> list[Entry]:
    """The entries of a table: missing cells with the command that would fill them."""
    entries = []
    for row in rows:
        own = {column: measuring.one(row.variant, column) if row.variant else None for column in columns}
        fill = _filling(row, protocol, [column for column, found in own.items() if found is None])
        for column, found in own.items():
            figure = None if protocol == OFFLINE else _figure(row, column)
            told = fill if set(column.made) - (row.variant.judged.keys() if row.variant else set()) else ""
            entries.append(entry(name, row.names["backbone"], row.label, column, found, figure, told))
    return entries


def _filling(row: Row, protocol: str, empty: Sequence[Column]) -> str:
    """The command for a row's empty columns; "" where no run would fill them."""
    taken = row.variant or row.like
    judged = row.variant.judged.keys() if row.variant else set()
    benchmarks = {made[1] for column in empty for made in column.made if made not in judged}
    if taken is None or not benchmarks:
        return ""
    source = str(row.variant.settings.get("backbone.source", "")) if row.variant else ""
    names = {**row.names, "training": taken.training, "tag": taken.tag, "source": source}
    return command(names, taken.folders, protocol, benchmarks)


def _figure(row: Row, column: Column) -> Figure | None:
    benchmark = MEAN if column.kind == "mean" else column.benchmark
    return reported(row.names, column.measure, benchmark)
