"""How far judges can be trusted: their agreement, their errors against human labels, and rates corrected for these.

`judge_report` puts all of it into one JSON document. Verdicts are by id and None where a judge was undecided. An
undecided verdict is in no coefficient and no rate; each result says how many there were.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alttrain.evaluation.statistics import CONFIDENCE, NORMAL, RESAMPLES, UNKNOWN, Estimate, Verdicts, rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """A coefficient of agreement: 1 is perfect, 0 what chance gives.

    `n` ids went into it; `undecided` ids did not, for lack of a second decided verdict. nan where all verdicts are
    alike: then chance agreement is perfect as well.
    """

    coefficient: Estimate
    agreed: float
    n: int
    undecided: int


def cohen_kappa(first: Verdicts, second: Verdicts) -> Agreement:
    """Cohen's kappa (1960) of two judges, with the large-sample interval of Fleiss, Cohen and Everitt (1969)."""
    _same_ids({"first": first, "second": second})
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa

    pairs = [pair for name in first if None not in (pair := (first[name], second[name]))]
    table = np.array([[pairs.count((row, column)) for column in (False, True)] for row in (False, True)])
    n, agreed = len(pairs), int(table.trace())
    # without two kinds of verdict between them chance agreement is 1 and kappa 0 / 0
    if n == 0 or n in (table[0, 0], table[1, 1]):
        return Agreement(UNKNOWN, agreed / n if n else math.nan, n, len(first) - n)
    found = cohens_kappa(table)  # its interval is always the 95 % one
    coefficient = Estimate(float(found.kappa), max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp)))
    return Agreement(coefficient, agreed / n, n, len(first) - n)


def krippendorff_alpha(judges: Mapping[str, Verdicts], seed: int, resamples: int = RESAMPLES) -> Agreement:
    """Krippendorff's nominal alpha of two or more judges; undecided verdicts are missing values.

    The interval is the percentile bootstrap over ids. `agreed` is the share of ids whose verdicts are all alike.
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
    # few judges give few kinds of id: a resample of ids is a multinomial draw of kinds
    kinds, sizes = np.unique(paired, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, sizes / n, size=resamples)
    low, high = np.nanpercentile(nominal_alpha(kinds, draws), (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2))
    return Agreement(Estimate(alpha, float(low), float(high)), agreed, n, len(columns) - n)


def nominal_alpha(kinds: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Alpha of many samples at once; nan where a sample's verdicts are all alike.

    `kinds` are pairs of counts (False, True), `numbers` how many ids each sample has of each kind.
    """
    import numpy as np

    falses, trues = numbers @ kinds[:, 0], numbers @ kinds[:, 1]
    disagreement = numbers @ (kinds[:, 0] * kinds[:, 1] / (kinds.sum(1) - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (falses + trues - 1) * disagreement / (falses * trues)
    return np.where(falses * trues > 0, alpha, np.nan)


def _same_ids(judges: Mapping[str, Verdicts]) -> None:
    """Raise ValueError where judges did not judge the same ids."""
    if len(judges) < 2:
        raise ValueError(f"agreement of {len(judges)} judges: expected at least two")
    every = set().union(*(own.keys() for own in judges.values()))
    for name, own in judges.items():
        if absent := sorted(every - own.keys()):
            raise ValueError(
                f"judge {name} has no verdict entry for {len(absent)} ids, such as {absent[0]!r}: "
                "judges must judge the same generations, with None where undecided"
            )


@dataclass(frozen=True)
class Confusion:
    """A judge against human labels, in one category or in "all".

    `both` ids are True to both, `judge_only` and `human_only` to one, `neither` to none. `undecided` ids the judge left
    open, `unclear` ones the human did (these count there alone).
    """

    category: str
    both: int
    judge_only: int
    human_only: int
    neither: int
    undecided: int
    unclear: int

    @property
    def precision(self) -> Estimate:
        """Share of the human's True among the judge's."""
        return rate(self.both, self.both + self.judge_only)

    @property
    def recall(self) -> Estimate:
        """Share of the judge's True among the human's: the judge's sensitivity."""
        return rate(self.both, self.both + self.human_only)

    @property
    def specificity(self) -> Estimate:
        """Share of the judge's False among the human's."""
        return rate(self.neither, self.neither + self.judge_only)

    @property
    def f1(self) -> Estimate:
        """Harmonic mean of precision and recall. It is 2 J / (1 + J) of the share J of `both` among what either calls
        True, so J's Wilson interval gives its own."""
        either = self.both + self.judge_only + self.human_only
        share = rate(self.both, either)
        return Estimate(*(2 * bound / (1 + bound) for bound in share))


def confusions(human: Verdicts, judge: Verdicts, category: Mapping[str, str] | None = None) -> list[Confusion]:
    """The judge against the human on the ids both have, over all and then by category in alphabetical order.

    Both must mean the same by True. Raises ValueError where they share no id.
    """
    shared = [name for name in human if name in judge]
    if not shared:
        raise ValueError(f"none of {len(human)} labelled ids was judged: are the labels of another benchmark or run?")
    groups: dict[str, list[str]] = {}
    for name in shared if category else ():
        groups.setdefault((category or {}).get(name, ""), []).append(name)
    return [_confusion("all", shared, human, judge), *(_confusion(c, groups[c], human, judge) for c in sorted(groups))]


def _confusion(category: str, ids: Sequence[str], human: Verdicts, judge: Verdicts) -> Confusion:
    pairs = [(human[name], judge[name]) for name in ids]
    return Confusion(
        category,
        both=pairs.count((True, True)),
        judge_only=pairs.count((False, True)),
        human_only=pairs.count((True, False)),
        neither=pairs.count((False, False)),
        undecided=sum(judged is None and said is not None for said, judged in pairs),
        unclear=sum(said is None for said, _ in pairs),
    )


@dataclass(frozen=True)
class Corrected:
    """A rate as judged, and what it would be with the judge's errors taken out. `n` decided rows, `undecided` not."""

    apparent: Estimate
    corrected: Estimate
    n: int
    undecided: int


def corrected_rate(judge: Verdicts, measured: Confusion) -> Corrected:
    """The rate of True among `judge`'s verdicts, corrected for its measured sensitivity and specificity.

    The value is Rogan and Gladen's (1978), cut to 0 and 1; the interval is the delta method on shrunken counts of Lang
    and Reiczigel (2014), which takes in that the errors were measured on few labels. It assumes that the judge errs on
    all rows as it did on the labelled ones. Raises ValueError where the labels do not show a judge better than chance.
    """
    decided = [verdict for verdict in judge.values() if verdict is not None]
    n, positive = len(decided), sum(decided)
    found, missed = measured.both, measured.human_only
    cleared, alarmed = measured.neither, measured.judge_only
    if 0 in (found + missed, cleared + alarmed, n):
        raise ValueError(
            f"cannot correct a rate of {n} decided rows: {found + missed} labels are true and {cleared + alarmed} "
            "false where the judge decided; both kinds are needed to measure its errors"
        )
    sensitivity, specificity = found / (found + missed), cleared / (cleared + alarmed)
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"sensitivity {sensitivity:.3f} and specificity {specificity:.3f} add up to no more than 1: against these "
            "labels the judge is no better than chance, and no rate of its can be corrected"
        )
    value = min(1.0, max(0.0, (positive / n + specificity - 1) / (sensitivity + specificity - 1)))
    low, high = _lang_reiczigel(positive, n, found, missed, cleared, alarmed)
    # shrinking can carry the interval past a value at 0 or 1
    return Corrected(
        apparent=rate(positive, n),
        corrected=Estimate(value, min(low, value), max(high, value)),
        n=n,
        undecided=len(judge) - n,
    )


def _lang_reiczigel(positive: int, n: int, found: int, missed: int, cleared: int, alarmed: int) -> tuple[float, float]:
    """The interval of a corrected rate; (0, 1) where the shrunken errors leave nothing to tell."""
    z = NORMAL.inv_cdf((1 + CONFIDENCE) / 2)
    rows = n + z * z
    apparent = (positive + z * z / 2) / rows
    sick, well = found + missed + 2, cleared + alarmed + 2
    sensitivity, specificity = (found + 1) / sick, (cleared + 1) / well
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return 0.0, 1.0
    value = (apparent + specificity - 1) / youden
    by_sick = sensitivity * (1 - sensitivity) / sick
    by_well = specificity * (1 - specificity) / well
    shift = 2 * z * z * (value * by_sick - (1 - value) * by_well)
    error = math.sqrt(apparent * (1 - apparent) / rows + value**2 * by_sick + (1 - value) ** 2 * by_well) / youden
    low, high = value + shift - z * error, value + shift + z * error
    return min(1.0, max(0.0, low)), min(1.0, max(0.0, high))


def judge_report(
    judges: Mapping[str, Verdicts],
    seed: int,
    human: Verdicts | None = None,
    category: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All of this module's figures as one JSON document; judges and human must mean the same by True.

    `judges`: each judge's rate and undecided verdicts; `kappa`: of each pair; `alpha`: of all, from two judges on;
    `human`: each judge against the labels, by category, and its corrected rate or why there is none. Estimates are
    {value, low, high}, null where unknown.
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
        report["alpha"] = vars(krippendorff_alpha(judges, seed))
    if human is not None:
        report["human"] = {name: _against(human, verdicts, category) for name, verdicts in judges.items()}
    plain: dict[str, Any] = _plain(report)
    return plain


def _against(human: Verdicts, judge: Verdicts, category: Mapping[str, str] | None) -> dict[str, Any]:
    measured = confusions(human, judge, category)
    rows = [
        {**vars(row), "precision": row.precision, "recall": row.recall, "specificity": row.specificity, "f1": row.f1}
        for row in measured
    ]
    try:
        return {"by_category": rows, "corrected": vars(corrected_rate(judge, measured[0]))}
    except ValueError as error:
        return {"by_category": rows, "corrected": None, "not_corrected": str(error)}


def _plain(value: Any) -> Any:
    """JSON values: an estimate as an object, nan as null."""
    if isinstance(value, Estimate):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
