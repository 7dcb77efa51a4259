"""The rows and columns of tables: runs that differ only in their seed, and numbers made in the same way.

A `Variant` is a row. Its method, label, order and tables come from run.json; without a method it is named after its
rewrite. Reads rewrite.json (examples) and train.json of each run.

A `Column` is a measure by one protocol, on the same benchmarks, with the same hash for each. A mean is over the sets
that its protocol names (metrics.json, provenance, means). If the protocol names none, and for pools, the sets are those
that most rows have. A row that lacks one of them has no such cell.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from alttrain.records import Rewritten, Trained, read_sealed
from alttrain.report.measures import GENERAL, MEASURES, RATES, RECOGNISING, Measure, base, called
from alttrain.report.results import LAST, Evaluation, changes, label_of

Made = tuple[str, str, str]
"""How a number was made: (protocol, benchmark, protocol hash)."""
NO_TRAIN = "no_train"
"""The method that is the unmodified backbone."""
MULTI_TURN, MULTILINGUAL = ("safemt_attack_600",), "multijail"
"""Benchmarks with a separate table; they enter no mean. The last is the prefix of one benchmark per language."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A backbone with a method, or with a dataset, a rewrite and a training, over all its seeds.

    `changed` is what differs from the published method: key -> (published value, this variant's value). `digest` is its
    hash in the runs' names.
    """

    backbone: str
    dataset: str
    rewrite: str
    training: str
    tag: str
    method: str
    named: str
    order: int
    tables: tuple[str, ...]
    changed: Mapping[str, Sequence[Any]]
    digest: str
    folders: Mapping[int, Path]
    judged: Mapping[Made, Mapping[int, Evaluation]]

    @property
    def untrained(self) -> bool:
        """Whether this is the unmodified backbone. Published weights, which were trained elsewhere, are not."""
        return (self.rewrite, self.training) == ("none", "none") and self.method in ("", NO_TRAIN)

    @property
    def known_as(self) -> str:
        """The method, or for a run without one `NO_TRAIN` or its rewrite."""
        return self.method or (NO_TRAIN if self.untrained else self.rewrite)

    @property
    def trains(self) -> bool:
        """Whether weights were trained; a defence in the prompt trains none."""
        return self.training != "none"

    @property
    def title(self) -> str:
        """The method's label and its changes."""
        name = "No-train" if self.untrained and not self.method else self.named
        return f"{name}, changed: {changes(self.changed)}" if self.changed else name

    @cached_property
    def trained(self) -> list[dict[str, Any]]:
        """train.json of each seed that has one."""
        return [found for folder in self.folders.values() if (found := _read(folder / "train.json", Trained))]

    @cached_property
    def labels(self) -> dict[str, int]:
        """Number of training examples by label, from the first seed's rewrite.json."""
        found: dict[str, int] = _read(next(iter(self.folders.values())) / "rewrite.json", Rewritten).get("labels", {})
        return found

    def evaluated(self, column_made: Iterable[Made]) -> dict[str, Sequence[Any]]:
        """What the evaluations on these benchmarks changed in protocol and benchmark."""
        judged = (one for made in column_made for one in self.judged.get(made, {}).values())
        return {key: values for one in judged for key, values in one.provenance.get("changed", {}).items()}

    def protocols(self) -> set[str]:
        """The protocols of its numbers."""
        return {protocol for protocol, _, _ in self.judged}


def _read(path: Path, schema: Any = dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = read_sealed(path, schema) if path.exists() else {}
    return found


def variants(judged: Iterable[Evaluation]) -> list[Variant]:
    """All variants, ordered by backbone, then the method's order, then the rest of their names."""
    grouped: dict[tuple[str, ...], list[Evaluation]] = {}
    for one in judged:
        grouped.setdefault(_key(one), []).append(one)
    made = [_variant(key, own) for key, own in grouped.items()]
    return sorted(made, key=_place)


def _place(one: Variant) -> tuple[Any, ...]:
    names = _natural(one.title), _natural(one.dataset), one.training, one.tag, one.digest
    return one.backbone, not one.untrained, one.order, *names


def _natural(name: str) -> list[tuple[str, int]]:
    """Sort key by which 50 comes before 100."""
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", name)]


def _key(one: Evaluation) -> tuple[str, ...]:
    """Backbone, dataset, rewrite, training, method, changes, digest and tag: everything except the seed."""
    names = one.names
    method = names.get("method", "")
    parts = ("backbone", "method") if method else ("backbone", "dataset", "rewrite", "training")
    start = "-".join(str(names[part]) for part in parts)
    found = re.fullmatch(rf"{re.escape(start)}(?:-(changed_[0-9a-f]+))?-s{names['seed']}(?:-(.*))?", one.run)
    digest, tag = (found[1] or "", found[2] or "") if found else ("", one.run.replace(f"-s{names['seed']}", ""))
    own = (str(names[part]) for part in ("backbone", "dataset", "rewrite", "training"))
    return (*own, method, json.dumps(names.get("changed", {}), sort_keys=True), digest, tag)


def _variant(key: tuple[str, ...], own: Sequence[Evaluation]) -> Variant:
    by_seed = sorted(own, key=lambda one: int(one.names["seed"]))
    judged: dict[Made, dict[int, Evaluation]] = {}
    for one in by_seed:
        made = (one.protocol["protocol"], one.benchmark, one.protocol["protocol_hash"])
        judged.setdefault(made, {})[int(one.names["seed"])] = one
    backbone, dataset, rewrite, training, method, changed, digest, tag = key
    names = by_seed[0].names
    return Variant(
        backbone=backbone,
        dataset=dataset,
        rewrite=rewrite,
        training=training,
        tag=tag,
        method=method,
        named=label_of(names),
        order=int(names.get("order", LAST)) if method else LAST,
        tables=tuple(names.get("tables", ("main",))),
        changed=json.loads(changed),
        digest=digest,
        folders={int(one.names["seed"]): one.folder.parent.parent for one in by_seed},
        judged=judged,
    )


def baseline_of(one: Variant, among: Iterable[Variant], made: Made) -> Variant | None:
    """The untrained backbone judged in the same way; an unmodified one first, then one with the same dataset."""
    found = [v for v in among if v.untrained and v.backbone == one.backbone and made in v.judged]
    return min(found, key=lambda v: (bool(v.changed), v.dataset != one.dataset), default=None)


def label(one: Variant, among: Sequence[Variant]) -> str:
    """The row's label: its title, with what distinguishes it from rows of this backbone with the same title."""
    name = one.title
    alike = [v for v in among if (v.backbone, v.title) == (one.backbone, one.title)]
    for part in ("dataset", "training", "tag", "digest", "method"):
        if len({getattr(v, part) for v in alike}) > 1 and getattr(one, part):
            name += f" {getattr(one, part)}"
    return name


@dataclass(frozen=True)
class Column:
    """A measure of one protocol.

    `kind` is "rate" (one benchmark), "mean" (the mean over several), "pool" (the pooled prompts of several) or
    "training" (with `made` empty). `defined` is whether a mean is over the sets that its protocol names; a set that no
    row has has an empty hash.
    """

    measure: str
    protocol: str
    made: tuple[Made, ...]
    kind: Literal["rate", "mean", "pool", "training"] = "rate"
    defined: bool = False

    @property
    def of(self) -> Measure:
        """How the measure is written."""
        return called(self.measure, self.benchmark)

    @property
    def benchmark(self) -> str:
        """The benchmarks' names."""
        return " + ".join(benchmark for _, benchmark, _ in self.made)

    @property
    def protocol_hash(self) -> str:
        """The benchmarks' hashes."""
        return " + ".join(digest for _, _, digest in self.made)


def rate_columns(variants: Iterable[Variant], protocol: str, others: bool = False) -> list[Column]:
    """A column for each benchmark's measures; with `others`, also for those by other parts and judges."""
    found = set()
    for variant in variants:
        for made, seeds in variant.judged.items():
            if made[0] != protocol:
                continue
            for metric in next(iter(seeds.values())).judged["metrics"]:
                name = metric["metric"]
                if name in (*RATES, "score", *RECOGNISING) or (others and base(name) in RATES):
                    found.add(Column(name, protocol, (made,)))
    order = list(MEASURES)
    return sorted(found, key=lambda c: (order.index(base(c.measure)), c.made[0][1], c.measure, c.made))


def apart(benchmark: str) -> bool:
    """Whether a benchmark has a separate table."""
    general = {name for name, _ in GENERAL}
    return benchmark in (*general, *MULTI_TURN) or benchmark.startswith(MULTILINGUAL)


def mean_columns(variants: Sequence[Variant], protocol: str) -> dict[str, Column]:
    """The mean column of each measure that has one: over the protocol's sets, or those that most rows of main have."""
    main = [variant for variant in variants if "main" in variant.tables and not variant.changed] or variants
    found = {measure: _mean(main, protocol, measure) for measure in RATES}
    return {measure: column for measure, column in found.items() if column}


def _mean(variants: Sequence[Variant], protocol: str, measure: str) -> Column | None:
    """The mean column of a measure.

    None if the protocol names fewer than two sets or none was judged; without named sets, if rows share fewer than two.
    """
    judged = [
        {made: next(iter(seeds.values())) for made, seeds in variant.judged.items() if made[0] == protocol}
        for variant in variants
    ]
    told = Counter(
        tuple(sorted(one.provenance.get("means", {}).get(measure, ()))) for own in judged for one in own.values()
    )
    wanted = max(filter(None, told), key=lambda names: told[names], default=())
    sets = [
        frozenset(
            made
            for made, one in own.items()
            if one.measure == measure and (made[1] in wanted if wanted else not apart(made[1]))
        )
        for own in judged
    ]
    if not wanted:
        shared = _shared([own for own in sets if len(own) > 1], least=2)
        return Column(measure, protocol, shared, "mean") if shared else None
    if len(wanted) < 2 or not any(sets):
        return None
    counts = Counter(sets)
    most = min(counts, key=lambda one: (-len(one), -counts[one], sorted(one)))
    known = {made[1]: made for own in (*counts, most) for made in own}
    return Column(
        measure, protocol, tuple(known.get(name, (protocol, name, "")) for name in wanted), "mean", defined=True
    )


def pool(variants: Sequence[Variant], protocol: str) -> tuple[Made, ...]:
    """The benchmarks over which adherence and tokens are pooled: those that most variants have."""
    sets = [frozenset(m for m in variant.judged if m[0] == protocol and not apart(m[1])) for variant in variants]
    return _shared([own for own in sets if own], least=1)


def _shared(sets: Sequence[frozenset[Made]], least: int) -> tuple[Made, ...]:
    """The set that is contained in most sets; of several, the largest, then the first by name."""
    different = set(sets)
    candidates = different | {one & other for one, other in itertools.combinations(different, 2)}
    fitting = [tuple(sorted(one)) for one in candidates if len(one) >= least]
    return min(fitting, key=lambda one: (-sum(own.issuperset(one) for own in sets), -len(one), one), default=())


def protocols_of(found: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Protocol name -> the variants that it judged."""
    names = sorted({protocol for variant in found for protocol in variant.protocols()})
    return {name: [variant for variant in found if name in variant.protocols()] for name in names}
