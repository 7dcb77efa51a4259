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

from alttrain.report.evaluation import Evaluation, Made
from alttrain.report.measures import MEASURES, RATES, RECOGNISING, base
from alttrain.report.results import LAST, NAMING, NO_TRAIN


@dataclass(frozen=True, eq=False)
class Variant:
    """A backbone with a method, or with a dataset, a rewrite and a training, over all its seeds.

    `name` is what tables, figures, the page and CSV files call it. `changed` is what differs from the published method:
    key -> (published value, this variant's value). `digest` is its hash in the runs' names, `folders` has the run of
    each seed, and `judged` each seed's evaluation. `every` has also the numbers by judges that do not decide
    (`Evaluation.beside`).
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
    judged: Mapping[Made, Mapping[int, Evaluation]]
    every: Mapping[Made, Mapping[int, Evaluation]]

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
        return any(one.metric(column.measure) for one in self.every.get(column.made[0], {}).values())

    def firsts(self, protocol: str) -> dict[Made, Evaluation]:
        """The first seed's evaluations by a protocol."""
        return {made: next(iter(seeds.values())) for made, seeds in self.judged.items() if made[0] == protocol}


def variants(judged: Iterable[Evaluation]) -> list[Variant]:
    """All variants, ordered by backbone, then the method's order, then the rest of their names."""
    grouped: defaultdict[tuple[str, ...], list[Evaluation]] = defaultdict(list)
    for one in sorted(judged, key=lambda one: one.seed):
        changed = json.dumps(one.names["changed"], sort_keys=True)
        own = *(str(one.names[part]) for part in NAMING), changed
        grouped[own].append(one)
    made = []
    for key, evaluations in grouped.items():
        names, by_made = evaluations[0].names, defaultdict[Made, dict[int, Evaluation]](dict)
        every = defaultdict[Made, dict[int, Evaluation]](dict)
        for one in evaluations:
            by_made[one.made][one.seed] = every[one.made][one.seed] = one
        for one in (view for own in evaluations for view in own.beside().values()):
            every[one.made].setdefault(one.seed, one)
        variant = Variant(
            **dict(zip(NAMING, key, strict=False)),
            name=evaluations[0].method,
            order=names["order"] if names["method"] else LAST,
            tables=names["tables"],
            changed=names["changed"],
            folders={one.seed: one.folder.parent.parent for one in evaluations},
            judged=dict(by_made),
            every=dict(every),
        )
        made.append(variant)
    return sorted(made, key=_place)


def _place(one: Variant) -> tuple[Any, ...]:
    """The order of variants, in which 50 comes before 100."""
    names = [re.findall(r"(\D*)(\d*)", name) for name in (one.name, one.dataset)]
    natural = [[(letters, int(digits or 0)) for letters, digits in parts] for parts in names]
    return one.backbone, not one.untrained, one.order, *natural, one.training, one.tag, one.digest


def by_backbone(found: Iterable[Variant]) -> list[tuple[str, list[Variant]]]:
    """(backbone, its variants) of variants in their order."""
    return [(name, list(own)) for name, own in itertools.groupby(found, key=lambda variant: variant.backbone)]


def protocols_of(found: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Protocol name -> the variants that it judged."""
    names = sorted({made[0] for variant in found for made in variant.judged})
    return {name: [variant for variant in found if variant.firsts(name)] for name in names}


@dataclass(frozen=True)
class Column:
    """A measure of one protocol.

    `kind` is "rate" (one benchmark), "mean" (the mean over several), "pool" (the pooled prompts of several) or
    "training" (with `made` empty). `defined` is whether a mean is over the sets that its protocol names; a set that no
    row has has an empty hash. `tables` show the column of a benchmark under the name `called`. `judges` has each set's
    judge, if the measure depends on one. `setting` is that of a rate's evaluations.
    """

    measure: str
    protocol: str
    made: tuple[Made, ...]
    kind: Literal["rate", "mean", "pool", "training"] = "rate"
    defined: bool = False
    tables: Sequence[str] = field(default=("main",), compare=False)
    called: str = field(default="", compare=False)
    judges: tuple[str, ...] = field(default=(), compare=False)
    setting: str = field(default="", compare=False)

    @property
    def benchmark(self) -> str:
        """The benchmarks' names."""
        return " + ".join(benchmark for _, benchmark, _ in self.made)

    @property
    def protocol_hash(self) -> str:
        """The benchmarks' hashes."""
        return " + ".join(digest for _, _, digest in self.made)


def rate_columns(variants: Iterable[Variant], protocol: str) -> list[Column]:
    """A column for each benchmark's measures; those by other parts and judges are in overview and judges only."""
    found: dict[Column, None] = {}
    own = [pair for variant in variants for pair in variant.firsts(protocol).items()]
    beside = [(made, one) for v in variants for made, seeds in v.every.items() for one in seeds.values()]
    for made, one in [*own, *(pair for pair in beside if pair[0][0] == protocol)]:
        others = one.beside()
        for name in (metric["metric"] for metric in one.judged["metrics"]):
            if name not in others and (base(name) in RATES or name in ("score", "kappa", *RECOGNISING)):
                tables = one.tables if name in (one.labels or (one.measure, "score")) else ()
                judges = tuple(filter(None, [one.judge_of(name)]))
                column = Column(name, protocol, (made,), tables=tables, called=one.called(name), judges=judges)
                found.setdefault(replace(column, setting=one.setting))
    order = list(MEASURES)
    return sorted(found, key=lambda c: (order.index(base(c.measure)), c.made[0][1], c.measure, c.made))


def mean_columns(variants: Sequence[Variant], protocol: str) -> dict[str, Column]:
    """The mean column of each measure that has one.

    A mean is over the sets that the protocol names, if these are at least two and one of them was judged. If it names
    none, the sets are those that most rows of main share, at least two.
    """
    main = [variant for variant in variants if "main" in variant.tables and not variant.changed] or variants
    judged = [variant.firsts(protocol) for variant in main]
    found = {}
    for measure in RATES:
        every = (one for own in judged for one in own.values())
        told = Counter(tuple(sorted(one.provenance["means"].get(measure, ()))) for one in every)
        wanted = max(filter(None, told), key=told.__getitem__, default=())
        alike = [{made: one for made, one in own.items() if one.measure == measure} for own in judged]
        sets = [frozenset(made for made, one in own.items() if "main" in one.tables) for own in alike]
        counts = Counter(frozenset(made for made in own if made[1] in wanted) for own in alike)
        if not wanted and (shared := _shared([own for own in sets if len(own) > 1], least=2)):
            found[measure] = Column(measure, protocol, shared, "mean")
        if len(wanted) > 1 and any(counts):
            most = min(counts, key=lambda one: (-len(one), -counts[one], sorted(one)))
            known = {made[1]: made for own in (*counts, most) for made in own}
            made = tuple(known.get(name, (protocol, name, "")) for name in wanted)
            found[measure] = Column(measure, protocol, made, "mean", defined=True)
    return found


def pool(variants: Sequence[Variant], protocol: str) -> tuple[Made, ...]:
    """The benchmarks over which adherence and tokens are pooled: those of main that most variants have."""
    firsts = (variant.firsts(protocol).items() for variant in variants)
    sets = [frozenset(made for made, one in own if "main" in one.tables) for own in firsts]
    return _shared([own for own in sets if own], least=1)


def _shared(sets: Sequence[frozenset[Made]], least: int) -> tuple[Made, ...]:
    """The set that is contained in most sets; of several, the largest, then the first by name."""
    different = set(sets)
    candidates = different | {one & other for one, other in itertools.combinations(different, 2)}
    fitting = [tuple(sorted(one)) for one in candidates if len(one) >= least]
    return min(fitting, key=lambda one: (-sum(own.issuperset(one) for own in sets), -len(one), one), default=())
