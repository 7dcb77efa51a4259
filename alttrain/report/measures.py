"""The measures of a report: their names, which direction is better, and their units."""

from typing import Literal, NamedTuple

from alttrain.evaluation.adherence import CAUSES
from alttrain.evaluation.agreement import CORRECTED

WORTH_SAYING = 0.05
"""A number shows its share of undecided texts, or of texts cut by the token cap, if it is above this threshold."""
OFFLINE = "offline"  # the default protocol, which headings do not name


class Measure(NamedTuple):
    """How a measure is written: its name, which direction is better (-1 lower, 1 higher, 0 neither), and its unit."""

    label: str
    better: int
    unit: Literal["share", "coefficient", "tokens", "examples", "seconds", "hours"]

    def heading(self, called: str = "") -> str:
        """The name, or what a benchmark calls the measure, with an arrow in the better direction."""
        return (called or self.label) + {-1: " ↓", 0: "", 1: " ↑"}[self.better]


MEASURES = {
    "harmful_rate": Measure("harmful", -1, "share"),
    "over_refusal_rate": Measure("over-refusal", -1, "share"),
    "accuracy": Measure("accuracy", 1, "share"),
    "score": Measure("score", 1, "share"),
    "kappa": Measure("agreement (kappa)", 0, "coefficient"),
    "adherence_rate": Measure("adherence", 1, "share"),
    "opening_pu_rate": Measure("opening holds a PU", 0, "share"),
    "recognised_rate": Measure("harm recognised", 0, "share"),
    "recognised_answered_rate": Measure("recognised, yet answered", 0, "share"),
    "precision": Measure("assessment precision", 1, "share"),
    "recall": Measure("assessment recall", 1, "share"),
    "false_alarms": Measure("false alarms", -1, "share"),
    **{f"answered_{cause}": Measure(f"answered: {cause}", 0, "share") for cause in CAUSES},
    **{f"refused_{cause}": Measure(f"refused: {cause}", 0, "share") for cause in CAUSES},
    "thought_tokens": Measure("thought tokens", 0, "tokens"),
    "answer_tokens": Measure("answer tokens", 0, "tokens"),
    "query_tokens": Measure("tokens a query", 0, "tokens"),
    "example_tokens": Measure("tokens an example", 0, "tokens"),
    "examples": Measure("training examples", 0, "examples"),
    "training_tokens": Measure("training tokens", 0, "tokens"),
    "training_seconds": Measure("training seconds", 0, "seconds"),
    "training_hours": Measure("GPU-hours", 0, "hours"),
}
RATES = ("harmful_rate", "over_refusal_rate", "accuracy")
RECOGNISING = ("opening_pu_rate", "recognised_rate", "recognised_answered_rate")
FAILURES = tuple(f"{outcome}_{cause}" for outcome in ("answered", "refused") for cause in CAUSES)
ASSESSING = ("adherence_rate", "precision", "recall", "false_alarms", *FAILURES)
TOKENS = ("thought_tokens", "answer_tokens", "query_tokens")
TRAINING = ("examples", "training_tokens", "training_seconds", "training_hours")
OVERVIEW = ("adherence_rate", "thought_tokens", "answer_tokens")
"""Measures over all benchmarks together, in tables of all rates."""


def base_measure(measure: str) -> str:
    """The measure's name without the part or judge that decides it: `harmful_rate` of `harmful_rate.thought`."""
    return measure.partition(".")[0]


def corrected(measure: str) -> bool:
    """Whether a rate is corrected for the judge's errors by human labels."""
    return measure.partition(".")[2].startswith(CORRECTED)


def by_judge(measure: str) -> bool:
    """Whether a number depends on a judge; others are counted, or read in the thought."""
    name = base_measure(measure)
    return name in (*RATES, *FAILURES, "score", "kappa", "recognised_answered_rate") or name.startswith("pass_at_")


def format_value(value: float, unit: str) -> str:
    """A number in its unit; shares are written in percent."""
    if unit == "share":
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if unit in ("hours", "coefficient") else f"{value:.1f}" if value < 10 else f"{value:,.0f}"
