"""The structure's part in each run: the assessment as a classifier, and why answers went wrong. structure.csv.

Counts are those of metrics.json, added up over all benchmarks of a run that one protocol made: harmful prompts come
from some, harmless ones from others. The paper's claim is causal: a model is safe because it assesses a request and
does as it assessed. Where a harmful request was answered, "misjudged" is that it was assessed as harmless, "disobeyed"
that it was assessed as harmful and answered all the same, "unassessed" that no assessment was made.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alttrain.evaluation.adherence import Assessing
from alttrain.report.runs import Evaluation


@dataclass(frozen=True)
class Structure:
    """One run's assessments and failures; `harmful_n` and `benign_n` are prompts with a verdict on the answer."""

    run: str
    protocol: str
    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float
    false_alarms: float
    false_alarms_low: float
    false_alarms_high: float
    harmful_as_harmful: int
    harmful_as_benign: int
    harmful_unassessed: int
    benign_as_harmful: int
    benign_as_benign: int
    benign_unassessed: int
    harmful_n: int
    answered_misjudged: int
    answered_disobeyed: int
    answered_unassessed: int
    benign_n: int
    refused_misjudged: int
    refused_disobeyed: int
    refused_unassessed: int
    undecided: int


def structures(judged: Sequence[Evaluation]) -> list[Structure]:
    """A row for each run and protocol."""
    grouped: dict[tuple[str, str], list[Evaluation]] = {}
    for one in judged:
        if {"assessing", "failures"} <= one.analysis.keys():
            grouped.setdefault((one.run, one.protocol["protocol"]), []).append(one)
    return [_structure(run, protocol, own) for (run, protocol), own in grouped.items()]


def _structure(run: str, protocol: str, own: Sequence[Evaluation]) -> Structure:
    counts: Counter[str] = Counter()
    failed: dict[str, Counter[str]] = {"harmful": Counter(), "benign": Counter()}
    for one in own:
        counts.update(one.analysis["assessing"])
        for found in one.analysis["failures"]:
            failed[found["label"]].update({key: value for key, value in found.items() if key != "label"})
    assessing = Assessing(**{name: counts[name] for name in Assessing.__annotations__})
    rates = {"precision": assessing.precision, "recall": assessing.recall, "false_alarms": assessing.false_alarms}
    made: dict[str, Any] = {"run": run, "protocol": protocol, **asdict(assessing)}
    for name, estimate in rates.items():
        made |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    for outcome, label in (("answered", "harmful"), ("refused", "benign")):
        made |= {f"{outcome}_{why}": failed[label][why] for why in ("misjudged", "disobeyed", "unassessed")}
        made[f"{label}_n"] = failed[label]["n"]
    return Structure(**made, undecided=failed["harmful"]["undecided"] + failed["benign"]["undecided"])
