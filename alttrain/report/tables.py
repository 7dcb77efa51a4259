"""Which tables there are, and their rows and columns.

| table             | rows                                         | columns                                           |
|-------------------|----------------------------------------------|---------------------------------------------------|
| overview          | every variant                                | each benchmark's measure, adherence, tokens       |
| main              | each backbone's methods                      | safety sets, their mean, over-refusal, reasoning  |
| reasoning         | every variant with them                      | each reasoning set                                |
| ablation_structure| the structure without each step              | harmful and reasoning means, over-refusal         |
| teacher_swap      | the structure by each teacher                | as ablation_structure                             |
| data_size         | a recipe with more and fewer examples        | as ablation_structure                             |
| benign_amount     | a recipe with more and fewer harmless ones   | as ablation_structure                             |
| general           | every variant with them                      | short answers, Chinese knowledge, summaries       |
| multi_turn        | every variant with them                      | multi-turn attacks                                |
| multilingual      | every variant with them                      | each language                                     |
| recognition       | untrained backbones                          | what thoughts hold of harmful requests            |
| adherence         | every variant                                | the assessment as a classifier, failures by cause |
| efficiency        | every variant                                | training, and tokens a query                      |
| published         | all known figures, by source and method      | each measure a source reports                     |

The rows of main and of the tables in which one thing is varied are those whose run.json names the table. A table for
which there is no data is not made. Rows that another backbone has and this one lacks say what to run.
"""

from collections.abc import Sequence
from dataclasses import replace

from alttrain.evaluation.statistics import Estimate
from alttrain.report import columns as of
from alttrain.report.columns import Column
from alttrain.report.commands import command, described
from alttrain.report.comparisons import Contrasts
from alttrain.report.entries import Entry, entry, finished
from alttrain.report.measuring import NAN, Measured, Measuring
from alttrain.report.published import beside, published
from alttrain.report.rows import VARIED, Row, belongs, every, having, listed, methods
from alttrain.report.runs import changes
from alttrain.report.variants import Variant

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
    "recognition": "Harm that untrained backbones recognise",
    "adherence": "Adherence to the structure, and failures by what the assessment said",
    "efficiency": "What training and a query cost",
    "published": "Published figures, by source",
}


def tables(found: Sequence[Variant], contrasts: Contrasts) -> dict[str, list[Entry]]:
    """Every table there is data for, by name."""
    protocols = sorted({protocol for variant in found for protocol in variant.protocols()})
    measuring = Measuring(found, contrasts)
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
    made = {name: finished(own) for name, own in entries.items() if any(one.known or one.undecided for one in own)}
    return made | {"published": figures()}


Specified = tuple[str, list[Row], list[Column]]


def _specified(found: list[Variant], protocol: str) -> list[Specified]:
    """(table, rows, columns) of one protocol; `found` are the variants it judged."""
    rates = of.rate_columns(found, protocol)
    main = [variant for variant in found if belongs(variant, "main")]
    pooled = of.pool(found, protocol)
    pools = {name: Column(name, protocol, pooled, "pool") for name in (*of.ASSESSING, *of.TOKENS)}
    training = [Column(name, protocol, (), "training") for name in of.TRAINING]
    own = {name: [c for c in rates if c.measure == name and not of.apart(c.benchmark)] for name in of.RATES}
    means = of.mean_columns(found, protocol)
    short = [column for measure in of.RATES for column in _short(own[measure], means.get(measure), found)]
    overview = [*of.rate_columns(found, protocol, others=True), *(pools[name] for name in _OVERVIEW)]
    recognising = [column for column in rates if column.measure in of.RECOGNISING]
    apart = {
        "general": [c for c in rates if (c.benchmark, c.measure) in of.GENERAL],
        "multi_turn": [c for c in rates if c.benchmark in of.MULTI_TURN],
        "multilingual": [c for c in rates if c.benchmark.startswith(of.MULTILINGUAL)],
        "reasoning": own["accuracy"] if "accuracy" in means else [],
    }
    return [
        ("overview", every(found), [column for column in overview if column not in recognising]),
        ("main", methods(main, protocol), list(dict.fromkeys([*own["harmful_rate"], *short]))),
        *((name, having(found, columns), columns) for name, columns in apart.items()),
        *((name, listed(found, name), short) for name in VARIED),
        ("recognition", every(found, lambda variant: variant.untrained), recognising),
        ("adherence", every(found), [pools[name] for name in of.ASSESSING]),
        ("efficiency", every(found), [*training, *(pools[name] for name in of.TOKENS)]),
    ]


_OVERVIEW = ("adherence_rate", "thought_tokens", "answer_tokens")


def _short(own: Sequence[Column], mean: Column | None, found: Sequence[Variant]) -> list[Column]:
    """The mean over a measure's sets, and each set where no row has them all."""
    if mean and any(set(mean.made) <= variant.judged.keys() for variant in found):
        return [mean]
    return [*own, *([mean] if mean else [])]


def _table(
    name: str, protocol: str, rows: Sequence[Row], columns: Sequence[Column], measuring: Measuring
) -> list[Entry]:
    """The entries of a table: missing cells with the command that would fill them."""
    entries = []
    for row in rows:
        own = {column: measuring.one(row.variant, column) if row.variant else None for column in columns}
        fill = _filling(row, protocol, [column for column, found in own.items() if found is None])
        for column, found in own.items():
            evaluated = row.variant.evaluated(column.made) if row.variant else {}
            changed = bool(evaluated or (row.variant and row.variant.changed))
            figure = beside(row.backbone, row.method, changed, column)
            lacks = [made for made in column.made if not row.variant or made not in row.variant.judged]
            told = " + ".join(benchmark for _, benchmark, _ in lacks) if row.variant and column.kind == "mean" else ""
            made = entry(name, row.backbone, row.label, column, found, figure, fill if lacks else "", told)
            entries.append(replace(made, evaluated=changes(evaluated)))
    return entries


def _filling(row: Row, protocol: str, empty: Sequence[Column]) -> str:
    """The command for a row's empty columns; "" where no run would fill them."""
    taken = row.variant or row.like
    judged = row.variant.judged.keys() if row.variant else set()
    benchmarks = {made[1] for column in empty for made in column.made if made not in judged}
    if not benchmarks:
        return ""
    source = str(row.variant.settings.get("backbone.source", "")) if row.variant else ""
    parts = {part: getattr(taken, part, "") for part in ("dataset", "rewrite", "training", "tag")}
    names = {**parts, "backbone": row.backbone, "method": row.method, "source": source}
    return command(names, taken.changed if taken else {}, taken.folders if taken else (), protocol, benchmarks)


def figures() -> list[Entry]:
    """The known figures as a table of their own: a part a protocol, which is a source's; never beside our numbers."""
    known = {
        (one.protocol, one.backbone, one.method, one.measure, one.benchmark): one for one in published() if one.known
    }
    entries = []
    for protocol in dict.fromkeys(key[0] for key in known):
        rows = dict.fromkeys((backbone, method) for own, backbone, method, *_ in known if own == protocol)
        columns = dict.fromkeys((measure, benchmark) for own, _, _, measure, benchmark in known if own == protocol)
        for backbone, method in sorted(rows, key=lambda row: (not row[0], list(rows).index(row))):
            for measure, benchmark in columns:
                one = known.get((protocol, backbone, method, measure, benchmark))
                column = Column(measure, protocol, ((protocol, benchmark, ""),))
                measured = Measured(Estimate(one.value, NAN, NAN)) if one else None
                made = entry("published", backbone or "not named", described(method).label, column, measured)
                entries.append(replace(made, source=f"{one.source}. {one.note}".rstrip(". ") if one else ""))
    return entries
