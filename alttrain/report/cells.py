"""The number in a table's cell: a variant's measure in a column, over all its seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

from alttrain.evaluation.adherence import cause_of
from alttrain.evaluation.statistics import Estimate
from alttrain.report.estimates import NAN, mean, mean_of_sets, share
from alttrain.report.measures import ASSESSING, CAUSES, TRAINING
from alttrain.report.results import Evaluation, Made
from alttrain.report.variants import Column, Variant


class Number(NamedTuple):
    """One number. `n` counts the texts behind it, over all seeds, without `undecided` and with `truncated` ones."""

    value: float = NAN
    low: float = NAN
    high: float = NAN
    n: int = 0
    seeds: int = 1
    undecided: int = 0
    truncated: int = 0


class Measuring:
    """Measures one variant. Rows that were read are kept until all its numbers are made."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self._read: dict[tuple[Made, str], Any] = {}

    def measure(self, column: Column) -> Number | None:
        """The number of a column; None if the variant was not judged that way."""
        if column.kind == "training":
            return self._training(column.measure)
        judged = self.variant.judged
        if not all(made in judged for made in column.made):
            return None
        if column.kind == "pool":
            return self._pooled(column)
        if not all(one.metric(column.measure) for made in column.made for one in judged[made].values()):
            return None
        sets = [self._rate(column.measure, made) for made in column.made]
        if column.kind == "rate":
            return sets[0]
        estimate, seeds = mean_of_sets([Estimate(*one[:3]) for one in sets]), [one.seeds for one in sets]
        if max(seeds) > 1 and all(self._decided(column.measure, made) for made in column.made):
            estimate = share(*(self._each_seed(made, Evaluation.verdicts) for made in column.made))
        n, undecided, truncated = (
            sum(counts) for counts in zip(*((s.n, s.undecided, s.truncated) for s in sets), strict=True)
        )
        return Number(*estimate, n, min(seeds), undecided, truncated)

    def _rate(self, measure: str, made: Made) -> Number:
        """A measure of one benchmark."""
        evaluations = self.variant.judged[made].values()
        found = [one.metric(measure) or {} for one in evaluations]
        known = [metric for metric in found if metric["value"] is not None]
        if len(found) > 1 and measure == "score" and all(one.decides for one in evaluations):
            estimate = share(self._each_seed(made, Evaluation.scores))
        elif len(found) > 1 and self._decided(measure, made):
            estimate = share(self._each_seed(made, Evaluation.verdicts))
        else:  # the verdict on each text is not known: the mean of the seeds' estimates and of their bounds
            bounds = ([NAN if one[key] is None else one[key] for one in known] for key in ("value", "low", "high"))
            estimate = Estimate(*(sum(own) / len(own) if own else NAN for own in bounds))
        undecided, truncated = (sum(metric[key] for metric in found) for key in ("undecided", "truncated"))
        n = sum(metric["n"] for metric in found) - undecided
        return Number(*estimate, n, len(found), undecided, truncated)

    def _decided(self, measure: str, made: Made) -> bool:
        """Whether a measure is the benchmark's own, so that the verdict on each text is known."""
        return all(one.decides and one.measure == measure for one in self.variant.judged[made].values())

    def _each_seed(self, made: Made, read: Callable[[Evaluation], Any]) -> dict[int, Any]:
        """The result of `read` for each seed's evaluation, cached."""
        key = (made, read.__name__)
        if key not in self._read:
            self._read[key] = {seed: read(one) for seed, one in self.variant.judged[made].items()}
        found: dict[int, Any] = self._read[key]
        return found

    def _pooled(self, column: Column) -> Number | None:
        """A number over the pooled prompts of several benchmarks, with the same seeds for each."""
        read, estimate = (assessed, share) if column.measure in ASSESSING else (spent, mean)
        seeds = sorted(set.intersection(*(set(self.variant.judged[made]) for made in column.made)))
        values: dict[int, dict[Any, float | None]] = {seed: {} for seed in seeds}
        for made in column.made:
            found = self._each_seed(made, read)
            for seed, own in values.items():
                own |= found[seed][column.measure]
        n = sum(value is not None for own in values.values() for value in own.values())
        return Number(*estimate(values), n, len(values)) if n else None

    def _training(self, measure: str) -> Number | None:
        """A number of the training, as the mean over the seeds. GPU-hours are known only if a GPU trained."""
        values = []
        for record in self.variant.trained:
            on_gpu = str(record.get("device", "")).startswith("cuda")
            hours = record["seconds"] * record.get("devices", 1) / 3600 if on_gpu else None
            counts = record.get("examples"), record.get("tokens"), record.get("seconds"), hours
            values.append(dict(zip(TRAINING, counts, strict=True))[measure])
        known = [float(value) for value in values if value is not None]
        return Number(sum(known) / len(known), seeds=len(known)) if known else None


Values = dict[str, dict[tuple[str, str, int], Any]]
"""Measure -> text (benchmark, prompt, sample) -> value; texts that do not count are absent."""


def spent(one: Evaluation) -> Values:
    """Token counts by text, of the texts that were generated."""
    made = [row for row in one.tokens() if row.finish != "error"]
    counts = {(one.benchmark, row.id, row.sample): (row.thought_tokens, row.answer_tokens) for row in made}
    return {
        "thought_tokens": {text: thought for text, (thought, _) in counts.items()},
        "answer_tokens": {text: answer for text, (_, answer) in counts.items()},
        "query_tokens": {text: sum(both) for text, both in counts.items()},
    }


def assessed(one: Evaluation) -> Values:
    """The contribution of each generated thought to each measure of structure."""
    rows = one.thoughts()
    found: Values = {measure: {} for measure in ASSESSING}
    absent = {(row.id, row.sample) for row in one.tokens() if row.finish == "error"}
    for row, refuses in zip(rows, one.refusals(rows), strict=True):
        if (row.id, row.sample) in absent:
            continue
        text = (one.benchmark, row.id, row.sample)
        harmful, alarmed = row.label == "harmful", row.assessment == "harmful"
        found["adherence_rate"][text] = row.adheres
        found["recall" if harmful else "false_alarms"][text] = alarmed
        if alarmed:
            found["precision"][text] = harmful
        failed = cause_of(row.label, row.assessment, refuses)
        if failed is not None:
            for cause in CAUSES:
                found[f"{'answered' if harmful else 'refused'}_{cause}"][text] = failed == cause
    return found
