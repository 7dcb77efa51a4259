"""A variant and a column -> the number in the cell, over all seeds, with its contrast."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alttrain.evaluation.statistics import UNKNOWN, Estimate
from alttrain.report import items
from alttrain.report.columns import ASSESSING, CAUSES, Column
from alttrain.report.comparisons import Contrasts
from alttrain.report.estimates import Contrast, mean, mean_of_sets, share
from alttrain.report.runs import Evaluation
from alttrain.report.variants import Made, Variant

NAN, NONE = math.nan, Contrast()


@dataclass(frozen=True)
class Measured:
    """One number. `n` counts the texts it is over, those of all seeds; `undecided` ones are not among them."""

    estimate: Estimate
    n: int = 0
    seeds: int = 1
    undecided: int = 0
    truncated: int = 0
    from_baseline: Contrast = NONE


@dataclass
class Measuring:
    """Measures variants one after another. What is read of one is let go when the next one's turn comes."""

    variants: Sequence[Variant]
    contrasts: Contrasts
    _known: dict[tuple[Variant, Column], Measured | None] = field(default_factory=dict)
    _read: dict[tuple[Variant, Made, str], Any] = field(default_factory=dict)

    def all(self, columns: Sequence[Column]) -> None:
        """Measure all columns of each variant while its files are at hand."""
        for variant in self.variants:
            for column in columns:
                self.one(variant, column)
            self._read.clear()

    def one(self, variant: Variant, column: Column) -> Measured | None:
        """The number, or None where the variant has not been judged so."""
        if (variant, column) not in self._known:
            self._known[variant, column] = self._measured(variant, column)
        return self._known[variant, column]

    def _measured(self, variant: Variant, column: Column) -> Measured | None:
        if column.kind == "training":
            return _training(variant, column.measure)
        if not all(made in variant.judged and self._has(variant, made, column) for made in column.made):
            return None
        if column.kind == "pool":
            return self._pooled(variant, column)
        return self._rate(variant, column) if column.kind == "rate" else self._mean(variant, column)

    @staticmethod
    def _has(variant: Variant, made: Made, column: Column) -> bool:
        return column.kind == "pool" or all(_metric(one, column.measure) for one in variant.judged[made].values())

    def _rate(self, variant: Variant, column: Column) -> Measured:
        (made,) = column.made
        seeds = variant.judged[made]
        found = [metric for one in seeds.values() if (metric := _metric(one, column.measure))]
        estimate = Estimate(*(NAN if found[0][key] is None else found[0][key] for key in ("value", "low", "high")))
        if len(seeds) > 1:
            estimate = self._over_seeds(variant, column, found)
        undecided, truncated = (sum(metric[key] for metric in found) for key in ("undecided", "truncated"))
        differs = self.contrasts.get((variant, column), NONE)
        n = sum(metric["n"] for metric in found) - undecided
        return Measured(estimate, n, len(seeds), undecided, truncated, differs)

    def _over_seeds(self, variant: Variant, column: Column, found: Sequence[Mapping[str, Any]]) -> Estimate:
        """Where the verdicts on each prompt are not known, the mean of the seeds' estimates, and of their bounds."""
        (made,) = column.made
        seeds = variant.judged[made]
        if column.measure == "score" and all("decides" in one.analysis for one in seeds.values()):
            return share({seed: items.scores(one) for seed, one in seeds.items()})
        if self._decided(variant, column):
            return share(self._at_hand(variant, made, "verdicts", items.verdicts))
        known = [metric for metric in found if metric["value"] is not None]
        if not known:
            return UNKNOWN
        return Estimate(*(sum(metric[key] for metric in known) / len(known) for key in ("value", "low", "high")))

    def _mean(self, variant: Variant, column: Column) -> Measured | None:
        singles = [Column(column.measure, column.protocol, (made,)) for made in column.made]
        sets = [one for single in singles if (one := self.one(variant, single))]
        estimate = mean_of_sets([one.estimate for one in sets])
        if max(one.seeds for one in sets) > 1 and self._decided(variant, column):
            estimate = share(*(self._at_hand(variant, made, "verdicts", items.verdicts) for made in column.made))
        return Measured(
            estimate,
            sum(one.n for one in sets),
            min(one.seeds for one in sets),
            sum(one.undecided for one in sets),
            sum(one.truncated for one in sets),
            self.contrasts.get((variant, column), NONE),
        )

    @staticmethod
    def _decided(variant: Variant, column: Column) -> bool:
        """Whether the column's measure is the benchmarks' own, of which the verdict on each text is known."""
        judged = [one for made in column.made for one in variant.judged[made].values()]
        return all("decides" in one.analysis and one.judged["metrics"][0]["metric"] == column.measure for one in judged)

    def _at_hand(self, variant: Variant, made: Made, what: str, read: Any) -> dict[int, Any]:
        key = (variant, made, what)
        if key not in self._read:
            self._read[key] = {seed: read(one) for seed, one in variant.judged[made].items()}
        found: dict[int, Any] = self._read[key]
        return found

    def _pooled(self, variant: Variant, column: Column) -> Measured | None:
        """A number over the prompts of several benchmarks together, with the same seeds of each."""
        seeds = sorted(set.intersection(*(set(variant.judged[made]) for made in column.made)))
        values: dict[int, dict[Any, float | None]] = {seed: {} for seed in seeds}
        read = _assessed if column.measure in ASSESSING else _tokens
        for made in column.made:
            found = self._at_hand(variant, made, read.__name__, read)
            for seed, own in values.items():
                own |= found[seed][column.measure]
        n = sum(value is not None for own in values.values() for value in own.values())
        if not n:
            return None
        estimate = share(values) if column.measure in ASSESSING else mean(values)
        return Measured(estimate, n, len(values))


def _metric(one: Evaluation, name: str) -> dict[str, Any] | None:
    return next((metric for metric in one.judged["metrics"] if metric["metric"] == name), None)


Values = dict[str, dict[tuple[str, str, int], Any]]
"""Measure -> text (benchmark, prompt, sample) -> value; a text that is not one of those that count is absent."""


def _tokens(one: Evaluation) -> Values:
    rows = {(one.benchmark, row.id, row.sample): row for row in items.tokens(one)}
    return {
        "thought_tokens": {text: row.thought_tokens for text, row in rows.items()},
        "answer_tokens": {text: row.answer_tokens for text, row in rows.items()},
        "query_tokens": {text: row.thought_tokens + row.answer_tokens for text, row in rows.items()},
    }


def _assessed(one: Evaluation) -> Values:
    """What each thought adds to each measure of the structure."""
    rows = items.thoughts(one)
    found: Values = {measure: {} for measure in ASSESSING}
    refused = items.refusals(one, rows, items.verdicts(one)) if one.analysis else [None] * len(rows)
    for row, refuses in zip(rows, refused, strict=True):
        text = (one.benchmark, row.id, row.sample)
        harmful, alarmed = row.label == "harmful", row.assessment == "harmful"
        found["adherence_rate"][text] = row.adheres
        found["recall" if harmful else "false_alarms"][text] = alarmed
        if alarmed:
            found["precision"][text] = harmful
        failed = row.failed_by(refuses)
        if failed is not None:
            for cause in CAUSES:
                found[f"{'answered' if harmful else 'refused'}_{cause}"][text] = failed == cause
    return found


def _training(variant: Variant, measure: str) -> Measured | None:
    """A number of the training: the mean over the seeds. GPU-hours are known where a GPU trained."""
    values = []
    for record in variant.trained:
        on_gpu = str(record.get("device", "")).startswith("cuda")
        values.append(
            {
                "examples": record.get("examples"),
                "training_tokens": record.get("tokens"),
                "training_seconds": record.get("seconds"),
                "training_hours": record["seconds"] * record.get("devices", 1) / 3600 if on_gpu else None,
            }[measure]
        )
    known = [float(value) for value in values if value is not None]
    return Measured(Estimate(sum(known) / len(known), NAN, NAN), seeds=len(known)) if known else None
