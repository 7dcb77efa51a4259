"""How far judges can be trusted: their agreement, their errors against human labels, and corrected rates.

`judge_report` collects all figures as JSON. Verdicts map an id to True, False or None (undecided). Undecided verdicts
enter no coefficient and no rate; each result reports their number. An id (subject, prompt, sample) is one of several
texts of a prompt, and of prompts with one subject, which are correlated. `StructureAgreement` compares a judge of
structure with the parser.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from alttrain.english import sentences
from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.statistics import (
    CONFIDENCE,
    UNKNOWN,
    Deviations,
    Estimate,
    Verdicts,
    as_wide,
    by_cluster,
    cluster_of,
    half_width,
    item_of,
    mean_of_sets,
    rate_by_item,
)
from alttrain.records import Generation, Judgement, subject_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 9_999  # bootstrap samples of Krippendorff's alpha, and of kappa if prompts have several texts
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

    - `judges`  each judge's rate (`rate_by_item`) and number of undecided verdicts
    - `kappa`   Cohen's kappa of each pair of judges
    - `alpha`   Krippendorff's alpha of all judges; null for one judge
    - `human`   each judge compared with the labels, by category, and its corrected rate

    All judges have the same ids, of which some are labelled. Estimates are {value, low, high}, with null for unknown
    values. `seed` seeds alpha's bootstrap.
    """
    report: dict[str, Any] = {"judges": {}, "kappa": [], "alpha": None}
    for name, verdicts in judges.items():
        report["judges"][name] = {"rate": _rate(verdicts), "n": len(verdicts), "undecided": _undecided(verdicts)}
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


def _rate(verdicts: Verdicts) -> Estimate:
    decided = {name: verdict for name, verdict in verdicts.items() if verdict is not None}
    return rate_by_item(list(decided.values()), list(map(item_of, decided)))


def _undecided(verdicts: Verdicts) -> int:
    return list(verdicts.values()).count(None)


def same_meaning(verdict: bool | None, says: str, means: str) -> bool | None:
    """A verdict whose True means `says`, as one whose True means `means`. "unsafe" and "harmful" are not "refused"."""
    same = says == "correct" or (says == "refused") == (means == "refused")
    return verdict if verdict is None or same else not verdict


def cohen_kappa(first: Verdicts, second: Verdicts) -> dict[str, Any]:
    """Cohen's kappa of two judges, over the ids that both decided, as {coefficient, agreed, n, undecided}.

    The coefficient is nan if all verdicts are equal, since chance agreement is then 1. `agreed` is the share of ids
    with equal verdicts. `n` ids have at least two decided verdicts; `undecided` ids have fewer.
    """
    pairs = {name: pair for name in first if None not in (pair := (first[name], second[name]))}
    n, agreed = len(pairs), sum(one == other for one, other in pairs.values())
    return {
        "coefficient": kappa(list(pairs.values()), list(map(item_of, pairs))),
        "agreed": agreed / n if n else math.nan,
        "n": n,
        "undecided": len(first) - n,
    }


def kappa(pairs: Sequence[tuple[Any, Any]], prompts: Sequence[Hashable]) -> Estimate:
    """Cohen's kappa (1960) of two raters, given each text's pair of values and its prompt.

    With one text of each cluster of prompts, the interval is the large-sample one of Fleiss, Cohen and Everitt (1969),
    which takes texts as independent. With several, it is `bootstrap`'s, always with the same seed; of one cluster's
    texts it is -1 to 1. Returns `UNKNOWN` if both raters always gave the same single value.
    """
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa

    values = sorted({value for pair in pairs for value in pair})
    if len(values) < 2:
        return UNKNOWN
    count = len(values)
    cells = [values.index(row) * count + values.index(column) for row, column in pairs]
    table = np.bincount(cells, minlength=count**2)
    with np.errstate(invalid="ignore"):
        result = cohens_kappa(table.reshape(count, count))
    # statsmodels always returns the 95 % interval here; rounding may put a variance of 0 below it
    ends = (result.kappa_low, result.kappa_upp) if result.var_kappa > 0 else (result.kappa, result.kappa)
    low, high = map(float, ends)
    if len(set(map(cluster_of, prompts))) < len(pairs):
        low, high = bootstrap(cells, count**2, prompts, 0, lambda ns: _kappas(ns.reshape(-1, count, count)))
    return Estimate(float(result.kappa), max(-1.0, low), min(1.0, high))


def _kappas(tables: NDArray[np.int64]) -> NDArray[np.float64]:
    """Kappa of each table, shape (samples, values, values); nan where all texts are in one cell of the diagonal."""
    import numpy as np

    n, agreed = tables.sum((1, 2)), np.trace(tables, axis1=1, axis2=2)
    by_chance = (tables.sum(1) * tables.sum(2)).sum(1) / n
    with np.errstate(invalid="ignore"):
        return (agreed - by_chance) / (n - by_chance)  # type: ignore[no-any-return]


def bootstrap(
    texts: Sequence[int],
    kinds: int,
    prompts: Sequence[Hashable],
    seed: int,
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> tuple[float, float]:
    """The percentile interval of a statistic of texts, with clusters resampled whole (Field and Welsh, 2007).

    `texts` has the kind of each text, a number below `kinds`. `statistic` maps the numbers of texts of each kind, shape
    (samples, kinds), to its values, shape (samples,); values that are nan are left out. Both ends are nan if several
    texts are all of one cluster.
    """
    import numpy as np

    clusters = list(map(cluster_of, prompts))
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    if len(numbers) == 1 < len(texts):
        return math.nan, math.nan
    counts = np.zeros((len(numbers), kinds), dtype=np.int64)
    np.add.at(counts, ([numbers[cluster] for cluster in clusters], texts), 1)
    # clusters with equal counts are exchangeable, so resampling them is a multinomial draw over the few distinct counts
    distinct, sizes = (found[::-1] for found in np.unique(counts, axis=0, return_counts=True))
    draws = np.random.default_rng(seed).multinomial(len(numbers), sizes / len(numbers), size=RESAMPLES)
    ends = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
    low, high = map(float, np.nanpercentile(statistic(draws @ distinct), ends))
    return low, high


def krippendorff_alpha(judges: Mapping[str, Verdicts], seed: int) -> dict[str, Any]:
    """Krippendorff's nominal alpha of two or more judges, with the interval of `bootstrap`; as `cohen_kappa`.

    Undecided verdicts are missing values.
    """
    import numpy as np

    names = list(next(iter(judges.values())))
    rows = [[verdicts[name] for verdicts in judges.values()] for name in names]  # one for each text
    counts = np.array([[row.count(False), row.count(True)] for row in rows]).reshape(-1, 2)
    is_paired = counts.sum(1) > 1
    paired = counts[is_paired]
    n = len(paired)
    agreed = float((paired.min(1) == 0).mean()) if n else math.nan
    alpha = UNKNOWN
    if n and 0 not in paired.sum(0):
        kinds, kind_of, sizes = np.unique(paired, axis=0, return_inverse=True, return_counts=True)
        prompts = [item_of(name) for name, known in zip(names, is_paired, strict=True) if known]
        value = float(nominal_alpha(kinds, sizes[None])[0])
        interval = bootstrap(kind_of.reshape(-1).tolist(), len(kinds), prompts, seed, partial(nominal_alpha, kinds))
        alpha = Estimate(value, *interval)
    return {"coefficient": alpha, "agreed": agreed, "n": n, "undecided": len(rows) - n}


def nominal_alpha(kinds: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nominal alpha of each bootstrap sample, shape (samples,); nan if all verdicts of a sample are equal.

    A row of `kinds` has the counts of False and True of one kind of text. `numbers`, shape (samples, kinds), has how
    many texts of each kind a sample holds.
    """
    import numpy as np

    falses, trues = numbers @ kinds[:, 0], numbers @ kinds[:, 1]
    disagreement = numbers @ (kinds[:, 0] * kinds[:, 1] / (kinds.sum(1) - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (falses + trues - 1) * disagreement / (falses * trues)
    return np.where(falses * trues > 0, alpha, np.nan)


def weighted_rate(labels: Verdicts, weights: Mapping[Any, float] | None = None) -> tuple[Estimate, Deviations]:
    """The share of True among labels by id, with Wilson's interval for an effective number of labels.

    With one label of each cluster (`cluster_of`), that number is Kish's (1965). Labels of one cluster are correlated:
    with several, it is the number that gives the variance between clusters, as in `rate_by_item`, or Kish's of clusters
    if these do not differ. An id without a weight has 1. Also returned is how far each cluster moves the share.
    """
    if not labels:
        return UNKNOWN, {}
    weight_of = {name: (weights or {}).get(name, 1.0) for name in labels}
    total = sum(weight_of.values())
    share = sum(weight for name, weight in weight_of.items() if labels[name]) / total
    moves = by_cluster({name: weight * (bool(labels[name]) - share) / total for name, weight in weight_of.items()})
    half = half_width(moves) if len(moves) < len(labels) else 0.0
    kish = total**2 / sum(weight**2 for weight in by_cluster(weight_of).values())
    return as_wide(share, half, kish), moves


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
    groups = [("all", human)]
    if category:
        for group in sorted({category[name] for name in human}):
            groups.append((group, {name: label for name, label in human.items() if category[name] == group}))
    return [{"category": group, **_confusion(labels, judge, weights)} for group, labels in groups]


def _confusion(human: Verdicts, judge: Verdicts, weights: Mapping[Any, float] | None) -> dict[str, Any]:
    def share(labels: Verdicts) -> Estimate:
        return weighted_rate(labels, weights)[0]

    counts = Counter((label, judge[name]) for name, label in human.items())
    known = [(name, label, judge[name]) for name, label in human.items() if None not in (label, judge[name])]
    # F1 = 2 J / (1 + J), where J is the share of `both` among ids that either calls True; the bounds map the same way
    either = share({name: label and verdict for name, label, verdict in known if label or verdict})
    return {
        "both": counts[True, True],
        "judge_only": counts[False, True],
        "human_only": counts[True, False],
        "neither": counts[False, False],
        "undecided": counts[True, None] + counts[False, None],
        "unclear": list(human.values()).count(None),
        "precision": share({name: label for name, label, verdict in known if verdict}),
        "recall": share({name: verdict for name, label, verdict in known if label}),
        "specificity": share({name: not verdict for name, label, verdict in known if not label}),
        "f1": Estimate(*(2 * bound / (1 + bound) for bound in either)),
    }


def corrected_rate(judge: Verdicts, human: Verdicts, weights: Mapping[Any, float] | None = None) -> dict[str, Any]:
    """Estimate the rate of True among all texts that `judge` was given, from human labels of a sample of them.

    Double sampling (Tenenbein, 1970): the texts judged True, False and undecided are three strata. The estimate is the
    human share of True in each stratum, weighted by the stratum's size. It therefore includes undecided texts and
    corrects the judge's errors. The interval combines the strata's Wilson intervals and the sampling of texts as
    `mean_of_sets` does. The texts of a prompt or goal are a cluster, in each stratum and over all of them. The labels
    must be a random sample within each stratum, or have weights. A stratum without labels has the interval 0 to 1.

    Returns {apparent, corrected, n, undecided, strata, note}: `apparent` is the judged rate over the `n` decided rows,
    and `note` a warning if the interval is too wide to be informative. A stratum is {verdict, n, labelled, share}.
    """
    strata: dict[bool | None, dict[str, Any]] = {}
    parts, moves = list[Estimate](), list[Deviations]()  # of the rate: each stratum's labels, and the sampling of texts
    for verdict in (True, False, None):
        names = [name for name, judged in judge.items() if judged is verdict]
        labels = {name: label for name in names if (label := human.get(name)) is not None}
        if names:
            share, own = weighted_rate(labels, weights) if labels else (Estimate(0.5, 0.0, 1.0), {object(): 1.0})
            strata[verdict] = {"verdict": verdict, "n": len(names), "labelled": len(labels), "share": share}
            parts.append(Estimate(*(len(names) / len(judge) * end for end in share)))
            moves.append(own)
    expected = [strata[verdict]["share"].value for verdict in judge.values()]
    mean = rate_by_item(expected, list(map(item_of, judge)))
    if len(parts) > 1:
        parts.append(mean)
        moves.append({object(): 1.0})  # a cluster of its own, as it is correlated with no stratum
    joined = mean_of_sets(parts, moves)
    below, above = (abs(joined.value - end) * len(parts) for end in joined[1:])
    corrected = Estimate(mean.value, max(0.0, mean.value - below), min(1.0, mean.value + above))
    labelled, width = sum(stratum["labelled"] for stratum in strata.values()), corrected.high - corrected.low
    note = f"{labelled} labels leave {100 * width:.0f} points open, which says nothing of the rate"
    return {
        "apparent": _rate(judge),
        "corrected": corrected,
        "n": len(judge) - _undecided(judge),
        "undecided": _undecided(judge),
        "strata": list(strata.values()),
        "note": note if width > WIDE else "",
    }


class StructureAgreement:
    """Counts, by field, what a judge of structure and the offline parser say about the same thoughts."""

    def __init__(self) -> None:
        self._undecided = 0
        fields = ("understanding", "assessment", "sentence", "decision")
        # of each thought: what both say, and its prompt
        self._rows: dict[str, list[tuple[tuple[str, str], tuple[str, str]]]] = {name: [] for name in fields}

    def add(self, judgement: Judgement, adherence: Adherence, generation: Generation) -> None:
        if not generation.thought.strip():  # the judge was not asked
            return
        if judgement.error or not judgement.evidence.startswith("{"):
            self._undecided += 1
            return
        reply = json.loads(judgement.evidence)
        understood = "no" if reply["understanding"] is None else "yes"
        refuses = "refuse" if reply["decision"] == "refuse" else "other"
        assessment = {"benign": "harmless", None: "none"}.get(adherence.assessment, "harmful")
        pairs = {
            "understanding": (understood, "yes" if adherence.understanding else "no"),
            "assessment": (reply["verdict"], assessment),
            "decision": (refuses, "refuse" if adherence.refuses else "other"),
        }
        starts = [start for start, _ in sentences(generation.thought)]
        sentence = starts.index(adherence.position) if adherence.position in starts else None
        if reply["sentence"] is not None and sentence is not None:
            pairs["sentence"] = "named", "same" if reply["sentence"] == sentence else "other"
        for name, pair in pairs.items():
            self._rows[name].append((pair, (subject_of(generation), generation.id)))

    def report(self) -> dict[str, Any]:
        """{undecided, fields}; by field: the thoughts `n`, the share `agreed` on which both agree, kappa, and counts.

        Kappa is None for `sentence`, and if both always give the same single value. `sentence` covers the thoughts in
        which both find an assessment. Undecided replies enter no field.
        """
        fields = {}
        for name, rows in self._rows.items():
            pairs, prompts = [pair for pair, _ in rows], [prompt for _, prompt in rows]
            agreed = [judge == parser or parser == "same" for judge, parser in pairs]
            coefficient = UNKNOWN if name == "sentence" else kappa(pairs, prompts)
            fields[name] = {
                "n": len(pairs),
                "agreed": rate_by_item(agreed, prompts)._asdict() if pairs else None,
                "kappa": None if math.isnan(coefficient.value) else coefficient._asdict(),
                "counts": [{"judge": j, "parser": p, "n": n} for (j, p), n in sorted(Counter(pairs).items())],
            }
        return {"undecided": self._undecided, "fields": fields}
