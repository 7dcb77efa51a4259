"""The rows and columns of tables: runs that differ only in their seed, and numbers made in the same way.

A `Variant` is a row. Its method, order and tables come from run.json. A `Column` is a measure by one protocol, on the
same benchmarks, with the same hash for each. A mean is over the sets that its protocol names (metrics.json, provenance,
means). If the protocol names none, and for pools, the sets are those of main that most rows have. A row that lacks one
of them has no such cell.
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from alttrain.report.evaluation import BenchmarkKey, Evaluation
from alttrain.report.measures import MEASURES, RATES, RECOGNISING, base_measure
from alttrain.report.results import LAST, NAMING, NO_TRAIN

Rank = tuple[int, str, int]  # of a way, the first is taken (`_ranks`)
Rows = Sequence[Mapping[BenchmarkKey, Evaluation]]  # the evaluations of each variant by one protocol

SEVERAL = ", of several versions"  # follows the name of a judge for which several models answered


@dataclass(frozen=True, eq=False)
class Variant:
    """A backbone with a method, or with a dataset, a rewrite and a training, over all its seeds.

    `name` is what tables, figures, the page and CSV files call it. `changed` is what differs from the published method:
    key -> (published value, this variant's value). `digest` is its hash in the runs' names, `folders` has the run of
    each seed, and `evaluations` each seed's evaluation. `all_evaluations` has also the numbers by judges that do not
    decide (`Evaluation.views`).
    """

    backbone: str
    dataset: str
    rewrite: str
    training: str
    method: str
    tag: str
    digest: str
    name: str
    order: int
    tables: Sequence[str]
    changed: Mapping[str, Sequence[Any]]
    folders: Mapping[int, Path]
    evaluations: Mapping[BenchmarkKey, Mapping[int, Evaluation]]
    all_evaluations: Mapping[BenchmarkKey, Mapping[int, Evaluation]]

    @property
    def untrained(self) -> bool:
        """Whether this is the unmodified backbone. Published weights, which were trained elsewhere, are not."""
        return (self.rewrite, self.training) == ("none", "none") and self.method in ("", NO_TRAIN)

    @property
    def known_as(self) -> str:
        """The method, or for a run without one `NO_TRAIN` or its rewrite."""
        return self.method or (NO_TRAIN if self.untrained else self.rewrite)

    def has(self, column: "Column") -> bool:
        """Whether a seed of this variant has the number of a benchmark's column."""
        return any(
            evaluation.metric(column.measure) for evaluation in self.all_evaluations.get(column.sets[0], {}).values()
        )

    def first_seeds(self, protocol: str) -> dict[BenchmarkKey, Evaluation]:
        return {key: next(iter(seeds.values())) for key, seeds in self.evaluations.items() if key[0] == protocol}


def variants(judged: Iterable[Evaluation]) -> list[Variant]:
    """All variants, ordered by backbone, then the method's order, then the rest of their names."""
    grouped: defaultdict[tuple[str, ...], list[Evaluation]] = defaultdict(list)
    for evaluation in sorted(judged, key=lambda evaluation: evaluation.seed):
        changed = json.dumps(evaluation.names["changed"], sort_keys=True)
        names_key = *(str(evaluation.names[part]) for part in NAMING), changed
        grouped[names_key].append(evaluation)
    rows = []
    for names_key, evaluations in grouped.items():
        names, by_key = evaluations[0].names, defaultdict[BenchmarkKey, dict[int, Evaluation]](dict)
        every = defaultdict[BenchmarkKey, dict[int, Evaluation]](dict)
        for evaluation in evaluations:
            by_key[evaluation.key][evaluation.seed] = every[evaluation.key][evaluation.seed] = evaluation
        for view in (view for evaluation in evaluations for view in evaluation.views().values()):
            every[view.key].setdefault(view.seed, view)
        row = Variant(
            **dict(zip(NAMING, names_key, strict=False)),
            name=evaluations[0].method,
            order=names["order"] if names["method"] else LAST,
            tables=names["tables"],
            changed=names["changed"],
            folders={evaluation.seed: evaluation.folder.parent.parent for evaluation in evaluations},
            evaluations=dict(by_key),
            all_evaluations=dict(every),
        )
        rows.append(row)
    return sorted(rows, key=_sort_key)


def _sort_key(variant: Variant) -> tuple[Any, ...]:
    """The order of variants, in which 50 comes before 100."""
    names = [re.findall(r"(\D*)(\d*)", name) for name in (variant.name, variant.dataset)]
    natural = [[(letters, int(digits or 0)) for letters, digits in parts] for parts in names]
    ends = variant.training, variant.tag, variant.digest
    return variant.backbone, not variant.untrained, variant.order, *natural, *ends


def by_backbone(variants: Iterable[Variant]) -> list[tuple[str, list[Variant]]]:
    """(backbone, its variants) of variants in their order."""
    return [(name, list(group)) for name, group in itertools.groupby(variants, key=lambda variant: variant.backbone)]


def protocols_of(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Protocol name -> the variants that it judged."""
    names = sorted({key[0] for variant in variants for key in variant.evaluations})
    return {name: [variant for variant in variants if variant.first_seeds(name)] for name in names}


@dataclass(frozen=True)
class Column:
    """A measure of one protocol.

    `kind` is "rate" (one benchmark), "mean" (the mean over several), "pool" (the pooled prompts of several) or
    "training" (without `sets`). `defined` is whether a mean is over the sets that its protocol names; a set that no
    row contains has an empty hash. `tables` show the column of a benchmark under the name `called`. `judges` has each
    set's judge, if the measure depends on one. `setting` is that of a rate's evaluations.
    """

    measure: str
    protocol: str
    sets: tuple[BenchmarkKey, ...]
    kind: Literal["rate", "mean", "pool", "training"] = "rate"
    defined: bool = False
    tables: Sequence[str] = field(default=("main",), compare=False)
    called: str = field(default="", compare=False)
    judges: tuple[str, ...] = field(default=(), compare=False)
    setting: str = field(default="", compare=False)

    @property
    def benchmark(self) -> str:
        return " + ".join(benchmark for _, benchmark, _ in self.sets)

    @property
    def protocol_hash(self) -> str:
        return " + ".join(digest for _, _, digest in self.sets)


def rate_columns(variants: Iterable[Variant], protocol: str) -> list[Column]:
    """A column for each benchmark's measures; those by other parts and judges are in overview and judges only."""
    columns: dict[Column, Column] = {}  # a column's tables, name and setting are those of the first evaluation
    served: defaultdict[tuple[Column, str], set[str]] = defaultdict(set)  # by column and judge
    deciding = [evaluation for variant in variants for evaluation in variant.first_seeds(protocol).values()]
    every = [evaluation for v in variants for seeds in v.all_evaluations.values() for evaluation in seeds.values()]
    for evaluation in [*deciding, *(evaluation for evaluation in every if evaluation.protocol == protocol)]:
        key, setting, others = evaluation.key, evaluation.setting, evaluation.views()
        for name in (metric["metric"] for metric in evaluation.metrics_json["metrics"]):
            if name not in others and (base_measure(name) in RATES or name in ("score", "kappa", *RECOGNISING)):
                tables = evaluation.tables if name in (evaluation.labels or (evaluation.measure, "score")) else ()
                judges, called = tuple(filter(None, [evaluation.judge_of(name)])), evaluation.label_of(name)
                column = Column(name, protocol, (key,), tables=tables, called=called, judges=judges, setting=setting)
                columns.setdefault(column, column)
                for judge in judges:
                    served[column, judge].update(evaluation.served.get(judge, ()))
    for column in columns:
        judges = tuple(judge + SEVERAL * (len(served[column, judge]) > 1) for judge in column.judges)
        columns[column] = replace(column, judges=judges)
    order = list(MEASURES)
    return sorted(
        columns.values(), key=lambda c: (order.index(base_measure(c.measure)), c.sets[0][1], c.measure, c.sets)
    )


def mean_columns(variants: Sequence[Variant], protocol: str) -> dict[str, Column]:
    """The mean column of each measure that has one.

    A mean is over the sets that the protocol names, if these are at least two and one of them was judged. If it names
    none, the sets are those that most rows of main share, at least two.
    """
    main = [variant for variant in variants if "main" in variant.tables and not variant.changed] or variants
    judged = [variant.first_seeds(protocol) for variant in main]
    columns = {}
    for measure in RATES:
        named = Counter(tuple(sorted(e.provenance["means"].get(measure, ()))) for row in judged for e in row.values())
        benchmarks = max(filter(None, named), key=named.__getitem__, default=())
        rows = [{key: e for key, e in row.items() if e.measure == measure} for row in judged]
        if not benchmarks and (shared := _shared(_one_way(rows), least=2)):
            columns[measure] = Column(measure, protocol, shared, "mean")
        if len(benchmarks) > 1 and any(key[1] in benchmarks for row in rows for key in row):
            columns[measure] = Column(measure, protocol, _named(rows, benchmarks, protocol), "mean", defined=True)
    return columns


def _named(rows: Rows, benchmarks: Sequence[str], protocol: str) -> tuple[BenchmarkKey, ...]:
    """The key of each benchmark: that of the row with the most of them, else, or if it has two, the first by rank.

    A key that no row has lacks a hash.
    """
    counts, ranks = Counter(frozenset(key for key in row if key[1] in benchmarks) for row in rows), _ranks(rows)
    fullest = min(counts, key=lambda keys: (-len({key[1] for key in keys}), -counts[keys], sorted(keys)))
    keys = {key for keys in counts for key in keys}
    last_first = sorted(keys, key=lambda key: (key not in fullest, ranks[key], key), reverse=True)
    return tuple(({name: (protocol, name, "") for name in benchmarks} | {key[1]: key for key in last_first}).values())


def pool(variants: Sequence[Variant], protocol: str) -> tuple[BenchmarkKey, ...]:
    """The benchmarks over which adherence and tokens are pooled: those of main that most variants have."""
    return _shared(_one_way([variant.first_seeds(protocol) for variant in variants]), least=1)


def _one_way(rows: Rows) -> list[frozenset[BenchmarkKey]]:
    """The benchmarks of main in each row, with one key of each, the first by rank: a benchmark counts once."""
    rows = [{key: evaluation for key, evaluation in row.items() if "main" in evaluation.tables} for row in rows]
    ranks = _ranks(rows)
    first_last = sorted(sorted(ranks), key=ranks.__getitem__, reverse=True)
    return [frozenset({key[1]: key for key in first_last if key in row}.values()) for row in rows]


def _ranks(rows: Rows) -> dict[BenchmarkKey, Rank]:
    """The rank of each key: a judge that decides more cells of its measure first, then the key of more rows.

    The judge comes first so that a row which two judges decided is taken by one of them on all benchmarks.
    """
    cells = Counter((evaluation.measure, evaluation.judge) for row in rows for evaluation in row.values())
    counts = Counter(key for row in rows for key in row)
    evaluations = {key: evaluation for row in rows for key, evaluation in row.items()}
    return {key: (-cells[e.measure, e.judge], e.judge, -counts[key]) for key, e in evaluations.items()}


def _shared(sets: Sequence[frozenset[BenchmarkKey]], least: int) -> tuple[BenchmarkKey, ...]:
    """The set that is contained in most sets; of several, the largest, then the first by name."""
    different = set(sets)
    candidates = different | {first & second for first, second in itertools.combinations(different, 2)}
    fitting = [tuple(sorted(candidate)) for candidate in candidates if len(candidate) >= least]
    return min(fitting, key=lambda key: (-sum(row.issuperset(key) for row in sets), -len(key), key), default=())
