"""How far judges can be trusted: their agreement, their errors against human labels, and corrected rates.

`judge_report` collects all figures as JSON. Verdicts map an id to True, False or None (undecided). Undecided verdicts
enter no coefficient and no rate; each result reports their number. `StructureAgreement` compares the `Structure` judge
with the offline parser.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from alttrain.english import sentences
from alttrain.evaluation.statistics import CONFIDENCE, UNKNOWN, Estimate, Verdicts, rate, rate_by_item, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alttrain.evaluation.adherence import Adherence
    from alttrain.records import Judgement

RESAMPLES = 9_999
"""Bootstrap samples of Krippendorff's alpha."""
WIDE = 0.5
"""An interval wider than this (as a share of 1) is reported as uninformative."""
STRUCTURE = ("understanding", "assessment", "sentence", "decision")
"""The fields of a thought's structure that are compared."""


@dataclass(frozen=True)
class Agreement:
    """A coefficient of agreement: 1 is perfect, 0 is chance.

    The coefficient is nan if all verdicts are equal, since chance agreement is then 1. `agreed` is the share of ids
    with equal verdicts. `n` ids have at least two decided verdicts; `undecided` ids have fewer.
    """

    coefficient: Estimate
    agreed: float
    n: int
    undecided: int


def cohen_kappa(first: Verdicts, second: Verdicts) -> Agreement:
    """Cohen's kappa of two judges over the ids that both decided. Raises ValueError if their ids differ."""
    _same_ids({"first": first, "second": second})
    pairs = Counter(pair for name in first if None not in (pair := (first[name], second[name])))
    n, agreed = pairs.total(), sum(count for (one, other), count in pairs.items() if one == other)
    return Agreement(kappa(pairs), agreed / n if n else math.nan, n, len(first) - n)


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
        found = cohens_kappa(np.array([[pairs.get((one, other), 0) for other in values] for one in values]))
    # statsmodels always returns the 95 % interval here
    return Estimate(float(found.kappa), max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp)))


def krippendorff_alpha(judges: Mapping[str, Verdicts], seed: int) -> Agreement:
    """Krippendorff's nominal alpha of two or more judges, with a percentile bootstrap over ids.

    Undecided verdicts are missing values. Raises ValueError if the judges' ids differ.
    """
    _same_ids(judges)
    import krippendorff
    import numpy as np

    ids = next(iter(judges.values()))
    columns = [[own[name] for own in judges.values()] for name in ids]
    counts = np.array([[column.count(False), column.count(True)] for column in columns]).reshape(-1, 2)
    paired = counts[counts.sum(1) > 1]
    n = len(paired)
    agreed = float((paired.min(1) == 0).mean()) if n else math.nan
    if n == 0 or 0 in paired.sum(0):
        return Agreement(UNKNOWN, agreed, n, len(columns) - n)
    alpha = float(krippendorff.alpha(value_counts=paired, level_of_measurement="nominal"))
    # ids with equal counts are exchangeable, so resampling ids is a multinomial draw over the few distinct counts
    kinds, sizes = np.unique(paired, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, sizes / n, size=RESAMPLES)
    low, high = np.nanpercentile(nominal_alpha(kinds, draws), (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2))
    return Agreement(Estimate(alpha, float(low), float(high)), agreed, n, len(columns) - n)


def nominal_alpha(kinds: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nominal alpha of each bootstrap sample, shape (samples,); nan if all verdicts of a sample are equal.

    `kinds`, shape (kinds, 2), holds the counts of False and True of an id. `numbers`, shape (samples, kinds), holds how
    many ids of each kind a sample has.
    """
    import numpy as np

    falses, trues = numbers @ kinds[:, 0], numbers @ kinds[:, 1]
    disagreement = numbers @ (kinds[:, 0] * kinds[:, 1] / (kinds.sum(1) - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (falses + trues - 1) * disagreement / (falses * trues)
    return np.where(falses * trues > 0, alpha, np.nan)


def _same_ids(judges: Mapping[str, Verdicts]) -> None:
    """Raise ValueError unless two or more judges judged the same ids."""
    if len(judges) < 2:
        raise ValueError(f"agreement of {len(judges)} judges: expected at least two")
    every = set().union(*judges.values())
    for name, own in judges.items():
        if absent := sorted(every - own.keys()):
            raise ValueError(
                f"judge {name} has no verdict entry for {len(absent)} ids, such as {absent[0]!r}: "
                "judges must judge the same generations, with None where undecided"
            )


@dataclass(frozen=True)
class Confusion:
    """A judge compared with human labels, in one category or in "all".

    `both`, `judge_only`, `human_only` and `neither` count ids by who says True. The judge did not decide `undecided`
    ids, and the human did not decide `unclear` ids; these enter no other count. `precision`, `recall`, `specificity`
    and `f1` take the human labels as the truth and weight each id by its label's weight.
    """

    category: str
    both: int
    judge_only: int
    human_only: int
    neither: int
    undecided: int
    unclear: int
    precision: Estimate
    recall: Estimate
    specificity: Estimate
    f1: Estimate


def weighted_rate(labels: Iterable[tuple[bool, float]]) -> Estimate:
    """The share of True among (label, weight), with Wilson's interval for the effective number (Kish, 1965)."""
    rows = list(labels)
    total, squares = (sum(weight**power for _, weight in rows) for power in (1, 2))
    if not rows:
        return UNKNOWN
    share, effective = sum(weight for hit, weight in rows if hit) / total, total**2 / squares
    return Estimate(share, *wilson(share * effective, effective))


def confusions(
    human: Verdicts,
    judge: Verdicts,
    category: Mapping[Any, str] | None = None,
    weights: Mapping[Any, float] | None = None,
) -> list[Confusion]:
    """Compare a judge with human labels on their common ids: first over all ids, then by category in alphabetical
    order.

    True must mean the same in both. Raises ValueError if they share no id.
    """
    shared = {name: (human[name], judge[name], (weights or {}).get(name, 1.0)) for name in human if name in judge}
    if not shared:
        raise ValueError(f"none of {len(human)} labelled ids was judged: are the labels of another benchmark or run?")
    groups = defaultdict[str, list[tuple[bool | None, bool | None, float]]](list)
    for name, row in shared.items() if category else ():
        groups[(category or {}).get(name, "")].append(row)
    return [_confusion("all", list(shared.values())), *(_confusion(group, groups[group]) for group in sorted(groups))]


def _confusion(category: str, rows: Sequence[tuple[bool | None, bool | None, float]]) -> Confusion:
    """Compare (human's verdict, judge's verdict, weight) rows."""
    pairs = [(said, judged) for said, judged, _ in rows]
    known = [(said, judged, weight) for said, judged, weight in rows if said is not None and judged is not None]
    # F1 = 2 J / (1 + J), where J is the share of `both` among ids that either calls True; the bounds map the same way
    either = weighted_rate((said and judged, weight) for said, judged, weight in known if said or judged)
    return Confusion(
        category,
        both=pairs.count((True, True)),
        judge_only=pairs.count((False, True)),
        human_only=pairs.count((True, False)),
        neither=pairs.count((False, False)),
        undecided=sum(judged is None and said is not None for said, judged in pairs),
        unclear=sum(said is None for said, _ in pairs),
        precision=weighted_rate((said, weight) for said, judged, weight in known if judged),
        recall=weighted_rate((judged, weight) for said, judged, weight in known if said),
        specificity=weighted_rate((not judged, weight) for said, judged, weight in known if not said),
        f1=Estimate(*(2 * bound / (1 + bound) for bound in either)),
    )


@dataclass(frozen=True)
class Stratum:
    """The `n` texts with one verdict of a judge: how many have a clear human label, and the share labelled True."""

    verdict: bool | None
    n: int
    labelled: int
    share: Estimate


@dataclass(frozen=True)
class Corrected:
    """A judged rate, and the rate corrected by human labels.

    `apparent` is over the `n` decided rows; `corrected` also covers the `undecided` rows. `note` is a warning if the
    interval is too wide to be informative, else "".
    """

    apparent: Estimate
    corrected: Estimate
    n: int
    undecided: int
    strata: tuple[Stratum, ...]
    note: str


def corrected_rate(judge: Verdicts, human: Verdicts, weights: Mapping[Any, float] | None = None) -> Corrected:
    """Estimate the rate of True among all texts that `judge` was given, from human labels of a sample of them.

    Double sampling (Tenenbein, 1970): the texts judged True, False and undecided are three strata. The estimate is the
    human share of True in each stratum, weighted by the stratum's size. It therefore includes undecided texts and
    corrects the judge's errors. The interval combines the strata's Wilson intervals and the sampling of texts by adding
    squares (Zou and Donner, 2008). Texts with keys (id, sample) are clustered by id. The labels must be a random sample
    within each stratum, or have weights. A stratum without labels has the interval 0 to 1.
    """
    strata: dict[bool | None, Stratum] = {}
    for verdict in (True, False, None):
        names = [name for name, own in judge.items() if own is verdict]
        labels = [(said, (weights or {}).get(name, 1.0)) for name in names if (said := human.get(name)) is not None]
        if names:
            share = weighted_rate(labels) if labels else Estimate(0.5, 0.0, 1.0)
            strata[verdict] = Stratum(verdict, len(names), len(labels), share)
    expected = [strata[verdict].share.value for verdict in judge.values()]
    found = rate_by_item(expected, [name[0] if isinstance(name, tuple) else name for name in judge])
    parts = [(one.n / len(judge), one.share) for one in strata.values()]
    if len(parts) > 1:
        parts.append((1.0, found))
    below, above = (
        math.sqrt(sum((weight * (share.value - share[end])) ** 2 for weight, share in parts)) for end in (1, 2)
    )
    value = found.value
    corrected = Estimate(value, max(0.0, value - below), min(1.0, value + above))
    decided = [verdict for verdict in judge.values() if verdict is not None]
    labelled, width = sum(one.labelled for one in strata.values()), corrected.high - corrected.low
    note = f"{labelled} labels leave {100 * width:.0f} points open, which says nothing of the rate"
    return Corrected(
        apparent=rate(sum(decided), len(decided)),
        corrected=corrected,
        n=len(decided),
        undecided=len(judge) - len(decided),
        strata=tuple(strata.values()),
        note=note if width > WIDE else "",
    )


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

    Estimates are {value, low, high}, with null for unknown values. `seed` seeds the bootstrap.
    """
    report: dict[str, Any] = {"judges": {}, "kappa": [], "alpha": None}
    for name, verdicts in judges.items():
        decided = [verdict for verdict in verdicts.values() if verdict is not None]
        undecided = len(verdicts) - len(decided)
        report["judges"][name] = {"rate": rate(sum(decided), len(decided)), "n": len(verdicts), "undecided": undecided}
    if len(judges) > 1:
        for first, second in itertools.combinations(judges, 2):
            found = cohen_kappa(judges[first], judges[second])
            report["kappa"].append({"first": first, "second": second, **vars(found)})
        report["alpha"] = krippendorff_alpha(judges, seed)
    if human is not None:
        report["human"] = {
            name: {
                "by_category": confusions(human, verdicts, category, weights),
                "corrected": corrected_rate(verdicts, human, weights),
            }
            for name, verdicts in judges.items()
        }
    return {key: _plain(value) for key, value in report.items()}


def _plain(value: Any) -> Any:
    """JSON values: an estimate or a dataclass as an object, nan as null."""
    if isinstance(value, Estimate):
        value = value._asdict()
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class StructureAgreement:
    """Counts, by field of `STRUCTURE`, what the `Structure` judge and the parser say about the same thoughts."""

    def __init__(self) -> None:
        self._tables: dict[str, Counter[tuple[str, str]]] = {field: Counter() for field in STRUCTURE}
        self._undecided = 0

    def add(self, judged: Judgement, found: Adherence, thought: str) -> None:
        """Add one thought, with the judge's reply and the parser's record."""
        if judged.error or not judged.evidence.startswith("{"):
            self._undecided += 1
            return
        said = json.loads(judged.evidence)
        at = next((n for n, (start, _) in enumerate(sentences(thought)) if start == found.position), None)
        told = {
            "understanding": ("no" if said["understanding"] is None else "yes", "yes" if found.understanding else "no"),
            "assessment": (said["verdict"], {"benign": "harmless", None: "none"}.get(found.assessment, "harmful")),
            "decision": ("refuse" if said["decision"] == "refuse" else "other", "refuse" if found.refuses else "other"),
        }
        if said["sentence"] is not None and at is not None:
            told["sentence"] = ("named", "same" if said["sentence"] == at else "other")
        for field, pair in told.items():
            self._tables[field][pair] += 1

    def report(self) -> dict[str, Any]:
        """By field: the number of thoughts, the share on which both agree, Cohen's kappa, and the counts.

        Kappa is None for `sentence`, and if both always give the same single value. `sentence` covers the thoughts in
        which both find an assessment. Undecided replies enter no field.
        """
        fields: dict[str, Any] = {}
        for field, table in self._tables.items():
            agreed = sum(count for (judge, parser), count in table.items() if judge == parser or parser == "same")
            fields[field] = {
                "n": table.total(),
                "agreed": rate(agreed, table.total())._asdict() if table else None,
                "kappa": None if field == "sentence" or math.isnan((found := kappa(table)).value) else found._asdict(),
                "counts": [{"judge": judge, "parser": parser, "n": n} for (judge, parser), n in sorted(table.items())],
            }
        return {"undecided": self._undecided, "fields": fields}
