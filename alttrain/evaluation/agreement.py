"""How far judges can be trusted: their agreement, their errors against human labels, and corrected rates.

`judge_report` collects all figures as JSON. Verdicts map an id to True, False or None (undecided). Undecided verdicts
enter no coefficient and no rate; each result reports their number. `StructureAgreement` compares a judge of structure
with the parser.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alttrain.english import sentences
from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.statistics import CONFIDENCE, UNKNOWN, Estimate, Verdicts, rate, rate_by_item, wilson
from alttrain.records import Judgement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 9_999  # bootstrap samples of Krippendorff's alpha
WIDE = 0.5  # an interval wider than this (as a share of 1) is reported as uninformative
CORRECTED = "corrected"  # begins what follows the point in the name of a corrected measure


def judge_report(
    judges: Mapping[str, Verdicts],
    seed: int,
    human: Verdicts | None = None,
    category: Mapping[Any, str] | None = None,
    weights: Mapping[Any, float] | None = None,
) -> dict[str, Any]:
    """All figures of this module as JSON values. True must mean the same for all judges and the human labels.

    - `judges`  each judge's rate and number of undecided verdicts
    - `kappa`   Cohen's kappa of each pair of judges
    - `alpha`   Krippendorff's alpha of all judges; null for one judge
    - `human`   each judge compared with the labels, by category, and its corrected rate

    All judges have the same ids, of which some are labelled. Estimates are {value, low, high}, with null for unknown
    values. `seed` seeds the bootstrap.
    """
    report: dict[str, Any] = {"judges": {}, "kappa": [], "alpha": None}
    for name, verdicts in judges.items():
        decided = [verdict for verdict in verdicts.values() if verdict is not None]
        undecided = len(verdicts) - len(decided)
        report["judges"][name] = {"rate": rate(sum(decided), len(decided)), "n": len(verdicts), "undecided": undecided}
    for first, second in itertools.combinations(judges, 2):
        report["kappa"].append({"first": first, "second": second, **cohen_kappa(judges[first], judges[second])})
    if len(judges) > 1:
        report["alpha"] = krippendorff_alpha(judges, seed)
    if human is not None:
        report["human"] = {
            name: {
                "by_category": confusions(human, verdicts, category, weights),
                "corrected": corrected_rate(verdicts, human, weights),
            }
            for name, verdicts in judges.items()
        }
    return plain_json(report)  # type: ignore[no-any-return]


def plain_json(value: Any) -> Any:
    """JSON values: an estimate as an object, nan as null."""
    if isinstance(value, Estimate):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def same_meaning(verdict: bool | None, says: str, means: str) -> bool | None:
    """A verdict whose True means `says`, as one whose True means `means`. "unsafe" and "harmful" are not "refused"."""
    same = says == "correct" or (says == "refused") == (means == "refused")
    return verdict if verdict is None or same else not verdict


def cohen_kappa(first: Verdicts, second: Verdicts) -> dict[str, Any]:
    """Cohen's kappa of two judges, over the ids that both decided, as {coefficient, agreed, n, undecided}.

    The coefficient is nan if all verdicts are equal, since chance agreement is then 1. `agreed` is the share of ids
    with equal verdicts. `n` ids have at least two decided verdicts; `undecided` ids have fewer.
    """
    pairs = Counter(pair for name in first if None not in (pair := (first[name], second[name])))
    n, agreed = pairs.total(), pairs[True, True] + pairs[False, False]
    return {"coefficient": kappa(pairs), "agreed": agreed / n if n else math.nan, "n": n, "undecided": len(first) - n}


def kappa(pairs: Mapping[tuple[Any, Any], int]) -> Estimate:
    """Cohen's kappa (1960) of two raters, with the large-sample interval of Fleiss, Cohen and Everitt (1969).

    `pairs` counts each pair of values. Returns `UNKNOWN` if both raters always gave the same single value.
    """
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa

    values = sorted({value for pair in pairs for value in pair})
    if len(values) < 2:
        return UNKNOWN
    with np.errstate(invalid="ignore"):  # a variance rounded below 0 gives a nan interval
        result = cohens_kappa(np.array([[pairs.get((row, column), 0) for column in values] for row in values]))
    # statsmodels always returns the 95 % interval here
    return Estimate(float(result.kappa), max(-1.0, float(result.kappa_low)), min(1.0, float(result.kappa_upp)))


def krippendorff_alpha(judges: Mapping[str, Verdicts], seed: int) -> dict[str, Any]:
    """Krippendorff's nominal alpha of two or more judges, with a percentile bootstrap over ids; as `cohen_kappa`.

    Undecided verdicts are missing values.
    """
    import numpy as np

    rows = [[verdicts[name] for verdicts in judges.values()] for name in next(iter(judges.values()))]  # one for each id
    counts = np.array([[row.count(False), row.count(True)] for row in rows]).reshape(-1, 2)
    paired = counts[counts.sum(1) > 1]
    n = len(paired)
    agreed = float((paired.min(1) == 0).mean()) if n else math.nan
    alpha = UNKNOWN
    if n and 0 not in paired.sum(0):
        # ids with equal counts are exchangeable, so resampling ids is a multinomial draw over the few distinct counts
        kinds, sizes = np.unique(paired, axis=0, return_counts=True)
        draws = np.random.default_rng(seed).multinomial(n, sizes / n, size=RESAMPLES)
        ends = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
        low, high = map(float, np.nanpercentile(nominal_alpha(kinds, draws), ends))
        alpha = Estimate(float(nominal_alpha(kinds, sizes[None])[0]), low, high)
    return {"coefficient": alpha, "agreed": agreed, "n": n, "undecided": len(rows) - n}


def nominal_alpha(kinds: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nominal alpha of each bootstrap sample, shape (samples,); nan if all verdicts of a sample are equal.

    A row of `kinds` has the counts of False and True of one kind of id. `numbers`, shape (samples, kinds), has how many
    ids of each kind a sample holds.
    """
    import numpy as np

    falses, trues = numbers @ kinds[:, 0], numbers @ kinds[:, 1]
    disagreement = numbers @ (kinds[:, 0] * kinds[:, 1] / (kinds.sum(1) - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (falses + trues - 1) * disagreement / (falses * trues)
    return np.where(falses * trues > 0, alpha, np.nan)


def weighted_rate(labels: Iterable[tuple[bool, float]]) -> Estimate:
    """The share of True among (label, weight), with Wilson's interval for the effective number (Kish, 1965)."""
    rows = list(labels)
    if not rows:
        return UNKNOWN
    total, squares = (sum(weight**power for _, weight in rows) for power in (1, 2))
    share, effective = sum(weight for hit, weight in rows if hit) / total, total**2 / squares
    return Estimate(share, *wilson(share * effective, effective))


def confusions(
    human: Verdicts,
    judge: Verdicts,
    category: Mapping[Any, str] | None = None,
    weights: Mapping[Any, float] | None = None,
) -> list[dict[str, Any]]:
    """Compare a judge with human labels: first over all labelled ids, then by category in alphabetical order.

    `both`, `judge_only`, `human_only` and `neither` count ids by who says True. The judge did not decide `undecided`
    ids, and the human did not decide `unclear` ids; these enter no other count. `precision`, `recall`, `specificity`
    and `f1` take the human labels as the truth and weight each id by its label's weight.
    """
    rows = {name: (label, judge[name], (weights or {}).get(name, 1.0)) for name, label in human.items()}
    comparisons = [_confusion("all", list(rows.values()))]
    if category:
        for group in sorted({category[name] for name in rows}):
            comparisons.append(_confusion(group, [row for name, row in rows.items() if category[name] == group]))
    return comparisons


def _confusion(category: str, rows: Sequence[tuple[bool | None, bool | None, float]]) -> dict[str, Any]:
    """Compare (human's verdict, judge's verdict, weight) rows."""
    pairs = Counter((human, judge) for human, judge, _ in rows)
    known = [(human, judge, weight) for human, judge, weight in rows if human is not None and judge is not None]
    # F1 = 2 J / (1 + J), where J is the share of `both` among ids that either calls True; the bounds map the same way
    either = weighted_rate((human and judge, weight) for human, judge, weight in known if human or judge)
    return {
        "category": category,
        "both": pairs[True, True],
        "judge_only": pairs[False, True],
        "human_only": pairs[True, False],
        "neither": pairs[False, False],
        "undecided": pairs[True, None] + pairs[False, None],
        "unclear": sum(human is None for human, *_ in rows),
        "precision": weighted_rate((human, weight) for human, judge, weight in known if judge),
        "recall": weighted_rate((judge, weight) for human, judge, weight in known if human),
        "specificity": weighted_rate((not judge, weight) for human, judge, weight in known if not human),
        "f1": Estimate(*(2 * bound / (1 + bound) for bound in either)),
    }


def corrected_rate(judge: Verdicts, human: Verdicts, weights: Mapping[Any, float] | None = None) -> dict[str, Any]:
    """Estimate the rate of True among all texts that `judge` was given, from human labels of a sample of them.

    Double sampling (Tenenbein, 1970): the texts judged True, False and undecided are three strata. The estimate is the
    human share of True in each stratum, weighted by the stratum's size. It therefore includes undecided texts and
    corrects the judge's errors. The interval combines the strata's Wilson intervals and the sampling of texts by adding
    squares (Zou and Donner, 2008). Texts with keys (id, sample) are clustered by id. The labels must be a random sample
    within each stratum, or have weights. A stratum without labels has the interval 0 to 1.

    Returns {apparent, corrected, n, undecided, strata, note}: `apparent` is the judged rate over the `n` decided rows,
    and `note` a warning if the interval is too wide to be informative. A stratum is {verdict, n, labelled, share}.
    """
    strata: dict[bool | None, dict[str, Any]] = {}
    for verdict in (True, False, None):
        names = [name for name, judged in judge.items() if judged is verdict]
        labels = [(label, (weights or {}).get(name, 1.0)) for name in names if (label := human.get(name)) is not None]
        if names:
            share = weighted_rate(labels) if labels else Estimate(0.5, 0.0, 1.0)
            strata[verdict] = {"verdict": verdict, "n": len(names), "labelled": len(labels), "share": share}
    expected = [strata[verdict]["share"].value for verdict in judge.values()]
    mean = rate_by_item(expected, [name[0] if isinstance(name, tuple) else name for name in judge])
    parts = [(stratum["n"] / len(judge), stratum["share"]) for stratum in strata.values()]
    if len(parts) > 1:
        parts.append((1.0, mean))
    below, above = (
        math.sqrt(sum((weight * (share.value - share[end])) ** 2 for weight, share in parts)) for end in (1, 2)
    )
    corrected = Estimate(mean.value, max(0.0, mean.value - below), min(1.0, mean.value + above))
    decided = [verdict for verdict in judge.values() if verdict is not None]
    labelled, width = sum(stratum["labelled"] for stratum in strata.values()), corrected.high - corrected.low
    note = f"{labelled} labels leave {100 * width:.0f} points open, which says nothing of the rate"
    return {
        "apparent": rate(sum(decided), len(decided)),
        "corrected": corrected,
        "n": len(decided),
        "undecided": len(judge) - len(decided),
        "strata": list(strata.values()),
        "note": note if width > WIDE else "",
    }


class StructureAgreement:
    """Counts, by field, what a judge of structure and the offline parser say about the same thoughts."""

    def __init__(self) -> None:
        self._undecided = 0
        fields = ("understanding", "assessment", "sentence", "decision")
        self._tables = {name: Counter[tuple[str, str]]() for name in fields}

    def add(self, judgement: Judgement, adherence: Adherence, thought: str) -> None:
        """Add one thought, with the judge's reply and the parser's record."""
        if judgement.error or not judgement.evidence.startswith("{"):
            self._undecided += 1
            return
        reply = json.loads(judgement.evidence)
        understood = "no" if reply["understanding"] is None else "yes"
        refuses = "refuse" if reply["decision"] == "refuse" else "other"
        assessment = {"benign": "harmless", None: "none"}.get(adherence.assessment, "harmful")
        self._tables["understanding"][understood, "yes" if adherence.understanding else "no"] += 1
        self._tables["assessment"][reply["verdict"], assessment] += 1
        self._tables["decision"][refuses, "refuse" if adherence.refuses else "other"] += 1
        sentence = next((n for n, (start, _) in enumerate(sentences(thought)) if start == adherence.position), None)
        if reply["sentence"] is not None and sentence is not None:
            self._tables["sentence"]["named", "same" if reply["sentence"] == sentence else "other"] += 1

    def report(self) -> dict[str, Any]:
        """{undecided, fields}; by field: the thoughts `n`, the share `agreed` on which both agree, kappa, and counts.

        Kappa is None for `sentence`, and if both always give the same single value. `sentence` covers the thoughts in
        which both find an assessment. Undecided replies enter no field.
        """
        fields = {}
        for name, table in self._tables.items():
            agreed = sum(count for (judge, parser), count in table.items() if judge == parser or parser == "same")
            coefficient = UNKNOWN if name == "sentence" else kappa(table)
            fields[name] = {
                "n": table.total(),
                "agreed": rate(agreed, table.total())._asdict() if table else None,
                "kappa": None if math.isnan(coefficient.value) else coefficient._asdict(),
                "counts": [{"judge": judge, "parser": parser, "n": n} for (judge, parser), n in sorted(table.items())],
            }
        return {"undecided": self._undecided, "fields": fields}
