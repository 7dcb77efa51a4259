"""Linear probes (Alain & Bengio, 2016): how well a linear model predicts a yes or no from hidden states.

`probe` standardises the states, keeps their first principal components, and fits a logistic regression. The number of
components and the penalty are chosen by cross-validation inside each training fold (nested cross-validation), and the
folds are made of whole prompts: texts of one prompt are never on both sides. Scores are out-of-fold.

The AUROC is over pairs of texts of the same fold, since scores of different fits have no common scale. Its interval is
Newcombe's (2006, method 5), which inverts Hanley and McNeil's variance as Wilson's interval inverts the binomial's.
DeLong's interval and the bootstrap have no width at an AUROC of 1, which small sets of states often reach. The interval
is for other prompts, given the fits; the permuted labels show what the whole procedure finds where there is nothing.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alttrain.evaluation.statistics import UNKNOWN, Estimate, Z

COMPONENTS = (4, 16, 64)  # numbers of principal components to choose from
PENALTIES = (1e-3, 1e-1)  # inverse strengths of the logistic regression's L2 penalty (scikit-learn's C) to choose from
FOLDS, INNER = 5, 3
FEWEST = 10  # the fewest prompts of either class with which a probe is fitted


class ProbeResult(NamedTuple):
    """What a probe found. All are nan if a class has fewer than `FEWEST` prompts.

    - `auroc`     the out-of-fold AUROC with its 95 % interval
    - `mean`      the mean AUROC of the same procedure on permuted labels
    - `high`      their 95th percentile
    - `p`         one-sided p: (1 + permutations with an AUROC at least as high) / (1 + permutations)
    """

    auroc: Estimate = UNKNOWN
    mean: float = math.nan
    high: float = math.nan
    p: float = math.nan


def probe(
    states: NDArray[np.float32], labels: Sequence[bool], prompts: Sequence[Hashable], permutations: int, seed: int = 0
) -> ProbeResult:
    """Predict `labels` from `states` (texts, size). `prompts` names the prompt of each text.

    Labels are permuted between prompts with equally many texts, so that texts of one prompt stay together.
    """
    from threadpoolctl import threadpool_limits  # scikit-learn requires it

    if (grouped := _grouped(prompts, labels)) is None:
        return ProbeResult()
    groups, truth = grouped
    generator = np.random.default_rng(seed)
    with threadpool_limits(1):  # the matrices are small: threads only wait for each other
        auroc = _auroc(states, truth, groups, seed)
        permuted = [_auroc(states, _permuted(truth, groups, generator), groups, seed) for _ in range(permutations)]
    weights = 1 / np.bincount(groups)[groups]  # each prompt counts once
    estimate = interval(auroc, weights[truth].sum(), weights[~truth].sum())
    if not permuted:
        return ProbeResult(estimate)
    p = (1 + sum(value >= auroc for value in permuted)) / (1 + permutations)
    return ProbeResult(estimate, float(np.mean(permuted)), float(np.quantile(permuted, 0.95)), p)


def auroc_by(scores: Sequence[float], labels: Sequence[bool], prompts: Sequence[Hashable], seed: int = 0) -> float:
    """The AUROC of scores that need no fit, over the same pairs of texts as that of `probe`; nan where that is nan."""
    grouped, known = _grouped(prompts, labels), np.asarray(scores)
    return math.nan if grouped is None else _over_folds(lambda _, test: known[test], grouped[1], grouped[0], seed)


def _grouped(prompts: Sequence[Hashable], labels: Sequence[bool]) -> tuple[Any, Any] | None:
    """(the number of each text's prompt, the labels); None if a class has fewer than `FEWEST` prompts."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(prompts))}
    groups, truth = np.array([numbers[name] for name in prompts]), np.array(labels, dtype=bool)
    return None if min(len(set(groups[truth])), len(set(groups[~truth]))) < FEWEST else (groups, truth)


def interval(auroc: float, positives: float, negatives: float) -> Estimate:
    """An AUROC with its 95 % interval for these numbers of cases (Newcombe, 2006, method 5)."""
    from scipy.optimize import brentq

    cases = (positives + negatives) / 2 - 1

    def beyond(value: float) -> float:
        pairs = 1 + cases * (1 - value) / (2 - value) + cases * value / (1 + value)
        return abs(auroc - value) - Z * math.sqrt(value * (1 - value) * pairs / (positives * negatives))

    low = brentq(beyond, 0, min(auroc, 1 - 1e-9)) if auroc > 0 else 0.0  # at 0 and at 1 the variance is 0
    high = brentq(beyond, max(auroc, 1e-9), 1) if auroc < 1 else 1.0
    return Estimate(auroc, low, high)


def _auroc(states: Any, labels: Any, groups: Any, seed: int) -> float:
    """The AUROC of out-of-fold scores (`_over_folds`)."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def scores_of(train: Any, test: Any) -> Any:
        components = PCA(min(COMPONENTS[-1], train.sum(), states.shape[1]), random_state=seed)
        reduce = make_pipeline(StandardScaler(), components)
        known, unknown = reduce.fit_transform(states[train]), reduce.transform(states[test])
        return _scores(known, labels[train], unknown, *_choose(known, labels[train], groups[train], seed))

    return _over_folds(scores_of, labels, groups, seed)


def _over_folds(scores_of: Callable[[Any, Any], Any], labels: Any, groups: Any, seed: int) -> float:
    """The share of pairs of a positive and a negative text of one fold that scores order rightly.

    `scores_of` maps the masks of a fold's training and test texts to the scores of the latter.
    """
    ordered = pairs = 0.0
    for train, test in _folds(labels, groups, FOLDS, seed):
        if fold_pairs := int(labels[test].sum()) * int((~labels[test]).sum()):
            ordered += fold_pairs * auroc_of(scores_of(train, test), labels[test])
            pairs += fold_pairs
    return ordered / pairs if pairs else math.nan


def _choose(components: Any, labels: Any, groups: Any, seed: int) -> tuple[int, float]:
    """The number of components and C with the highest mean AUROC over the inner folds; the first of equals."""
    folds = [fold for fold in _folds(labels, groups, INNER, seed) if all(0 < labels[side].mean() < 1 for side in fold)]

    def summed_auroc(choice: tuple[int, float]) -> float:
        return sum(
            auroc_of(_scores(components[train], labels[train], components[test], *choice), labels[test])
            for train, test in folds
        )

    counts = sorted({min(count, components.shape[1]) for count in COMPONENTS})
    return max(product(counts, PENALTIES), key=summed_auroc)


def _scores(known: Any, labels: Any, unknown: Any, count: int, penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=penalty, max_iter=1000).fit(known[:, :count], labels)
    return fitted.decision_function(unknown[:, :count])


def _folds(labels: Any, groups: Any, count: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Masks of training and test texts. Prompts are split, stratified by the label of their first text."""
    from sklearn.model_selection import StratifiedKFold

    names, first = np.unique(groups, return_index=True)
    for _, test in StratifiedKFold(count, shuffle=True, random_state=seed).split(names, labels[first]):
        held_out = np.isin(groups, names[test])
        yield ~held_out, held_out


def auroc_of(scores: Any, labels: Any) -> float:
    """The AUROC of scores, given an array of bool; nan if all labels are equal. scikit-learn's is slower than a fit."""
    from scipy.stats import rankdata

    positives = int(labels.sum())
    if positives in (0, len(labels)):
        return math.nan
    above = rankdata(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(labels) - positives)))


def _permuted(labels: Any, groups: Any, generator: Any) -> Any:
    """The labels with those of each prompt given to another prompt with equally many texts."""
    texts = defaultdict[int, list[int]](list)
    for number, group in enumerate(groups.tolist()):
        texts[group].append(number)
    permuted = labels.copy()
    for size in Counter(map(len, texts.values())):
        same_size = np.array([numbers for numbers in texts.values() if len(numbers) == size])
        permuted[same_size] = labels[generator.permutation(same_size)]
    return permuted
