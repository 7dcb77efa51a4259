"""Intervals and tests: equal to scipy and statsmodels on known inputs, right as often as they say in simulations."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint, proportion_effectsize, proportions_ztest

from alttrain.evaluation.statistics import (
    Comparison,
    Estimate,
    bootstrap,
    compare,
    holm,
    mean_by_item,
    mean_interval,
    mean_over_seeds,
    minimum_detectable_effect,
    rate,
    rate_by_item,
    rate_over_seeds,
    wilson,
)

# --- one rate or mean ---


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775327998628892),
        (1, 10, 0.0178762131, 0.4041500268),
        (5, 10, 0.2365930905, 0.7634069095),
        (10, 10, 0.7224672001371108, 1.0),
        (1, 1, 0.2065493144, 1.0),
        (50, 100, 0.4038315303, 0.5961684697),
    ],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (3, 7), (7, 7), (99, 313), (2.5, 9.75)])
def test_wilson_equals_statsmodels(successes: float, trials: float) -> None:
    expected = proportion_confint(successes, trials, method="wilson")
    assert wilson(successes, trials) == pytest.approx(expected, abs=1e-12)


def test_wilson_at_the_ends_is_exact() -> None:
    assert [wilson(0, trials)[0] for trials in range(1, 400)] == [0.0] * 399
    assert [wilson(trials, trials)[1] for trials in range(1, 400)] == [1.0] * 399


def test_wilson_without_trials_is_nan() -> None:
    assert all(map(math.isnan, wilson(0, 0)))
    assert all(map(math.isnan, rate(0, 0)))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (1, 0)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {trials} trials"):
        wilson(successes, trials)


def test_rate_is_the_share_with_wilson() -> None:
    assert rate(3, 12) == Estimate(0.25, *wilson(3, 12))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 4, 5], (3.0, 1.0367568385, 4.9632431615)),
        ([10.0, 20.0], (15.0, -48.5310236809, 78.5310236809)),
        ([2, 2, 2], (2.0, 2.0, 2.0)),
        ([7], (7.0, 7.0, 7.0)),
    ],
)
def test_mean_interval(values: Sequence[float], expected: tuple[float, float, float]) -> None:
    assert mean_interval(values) == pytest.approx(expected, abs=1e-8)


def test_mean_interval_equals_scipy() -> None:
    values = list(np.random.default_rng(3).lognormal(4, 1, 50))
    low, high = stats.t.interval(0.95, 49, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), low, high), rel=1e-12)


def test_mean_of_nothing_is_nan() -> None:
    assert all(map(math.isnan, mean_interval([])))


def test_rate_by_item_is_wilson_where_every_item_has_one_verdict() -> None:
    assert rate_by_item([True, False, False], ["a", "b", "c"]) == rate(1, 3)
    assert all(map(math.isnan, rate_by_item([], [])))


def test_texts_that_repeat_an_item_add_nothing() -> None:
    """Five copies of each verdict are as good as one, up to t and the clusters' n - 1."""
    verdicts = [index < 40 for index in range(100)]
    once, copied = rate(40, 100), rate_by_item(verdicts * 5, [str(index) for index in range(100)] * 5)
    assert copied.value == once.value
    assert copied == pytest.approx(once, abs=0.002)
    assert copied.high - copied.low > once.high - once.low
    assert rate_by_item([False] * 20, ["a", "b"] * 10) == Estimate(0.0, *wilson(0, 2))


def test_mean_by_item_is_the_interval_of_item_means() -> None:
    values, items = [1.0, 3.0, 10.0, 14.0, 5.0, 6.0], ["a", "a", "b", "b", "c", "c"]
    assert mean_by_item(values, items) == pytest.approx(mean_interval([2.0, 12.0, 5.5]))


def test_clustered_intervals_cover() -> None:
    """400 simulated benchmarks of 100 prompts with 5 texts each; Wilson over the 500 texts holds it in 72 % of them."""
    rng, held = np.random.default_rng(6), 0
    items = [str(index) for index in range(100) for _ in range(5)]
    for _ in range(400):
        drawn = rng.beta(0.3, 0.7, 100)  # mean 0.3
        low, high = rate_by_item([bool(v) for v in rng.random(500) < np.repeat(drawn, 5)], items)[1:]
        held += low <= 0.3 <= high
    assert 0.925 <= held / 400 <= 0.975


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_bootstrap_equals_scipy(statistic: str, method: str) -> None:
    values = list(np.random.default_rng(1).exponential(100, 40))
    function = {"mean": np.mean, "median": np.median}[statistic]
    expected = stats.bootstrap(
        (values,), function, n_resamples=500, method=method, rng=np.random.default_rng(9)
    ).confidence_interval
    found = bootstrap(values, 9, statistic, method, resamples=500)  # type: ignore[arg-type]
    assert found == pytest.approx((function(values), expected.low, expected.high), rel=1e-12)
    assert found == bootstrap(values, 9, statistic, method, resamples=500)  # type: ignore[arg-type]
    assert found != bootstrap(values, 8, statistic, method, resamples=500)  # type: ignore[arg-type]


def test_bootstrap_of_too_little() -> None:
    assert bootstrap([2.0, 2.0, 2.0], 0) == (2.0, 2.0, 2.0)
    assert bootstrap([5.0], 0) == pytest.approx((5.0, math.nan, math.nan), nan_ok=True)
    assert all(map(math.isnan, bootstrap([], 0)))


# --- two runs ---


def verdicts(**runs: str) -> dict[str, bool | None]:
    """Verdicts by id from a string: + True, - False, ? undecided."""
    ((prefix, marks),) = runs.items()
    return {f"{prefix}{index}": {"+": True, "-": False, "?": None}[mark] for index, mark in enumerate(marks)}


def test_comparison_counts_pairs_by_id() -> None:
    first, second = verdicts(x="++--+-?+"), verdicts(x="+---++-?")
    second = dict(reversed(second.items()))
    found = compare(first, second, 0)
    assert found == Comparison(found.difference, 1.0, n=6, gained=1, lost=1, undecided=2, only_first=0, only_second=0)
    assert found.difference.value == 0.0
    assert found.difference.low == -found.difference.high


@pytest.mark.parametrize(("gained", "lost", "same"), [(0, 0, 5), (1, 0, 0), (9, 2, 40), (3, 17, 5), (30, 80, 203)])
def test_mcnemar_equals_statsmodels(gained: int, lost: int, same: int) -> None:
    found = compare(
        verdicts(x="-" * gained + "+" * (lost + same)), verdicts(x="+" * gained + "-" * lost + "+" * same), 0
    )
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(mcnemar([[same, lost], [gained, 0]], exact=True).pvalue, rel=1e-9)
    assert found.difference.value == pytest.approx((gained - lost) / (gained + lost + same))


def test_paired_bootstrap_equals_resampling_the_pairs() -> None:
    """Against scipy's bootstrap of the differences themselves, up to the noise of resampling."""
    differences = [1.0] * 9 + [-1.0] * 22 + [0.0] * 69
    expected = bootstrap(differences, 5, method="percentile", resamples=20_000)
    found = compare(verdicts(x="-" * 9 + "+" * 91), verdicts(x="+" * 9 + "-" * 22 + "+" * 69), 5, resamples=20_000)
    assert found.difference == pytest.approx(expected, abs=0.0101)  # one pair
    assert found == compare(
        verdicts(x="-" * 9 + "+" * 91), verdicts(x="+" * 9 + "-" * 22 + "+" * 69), 5, resamples=20_000
    )


def test_ids_in_one_run_are_refused_or_counted() -> None:
    first, second = verdicts(x="++-"), verdicts(x="+-")
    with pytest.raises(ValueError, match=r"1 ids are in the first run only and 0 in the second only, such as 'x2'"):
        compare(first, second, 0)
    with pytest.raises(ValueError, match=r"'x2' \(second\)"):
        compare(second, first, 0)
    counted = compare(first, second, 0, unmatched="count")
    assert (counted.n, counted.lost, counted.only_first, counted.only_second) == (2, 1, 1, 0)
    assert compare(second, first, 0, unmatched="count").only_second == 1


def test_comparison_without_decided_pairs_is_nan() -> None:
    found = compare(verdicts(x="?+"), verdicts(x="+?"), 0)
    assert (found.n, found.undecided) == (0, 2)
    assert all(map(math.isnan, (*found.difference, found.p)))


def test_paired_intervals_cover() -> None:
    """True difference -0.2: of 400 simulated comparisons of 100 prompts, 95 % should hold it."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(400):
        before = rng.random(100) < 0.5
        after = np.where(rng.random(100) < 0.4, False, before)  # 0.5 -> 0.3
        pair = [{str(i): bool(v) for i, v in enumerate(run)} for run in (before, after)]
        difference = compare(*pair, seed=0, resamples=500).difference
        held += difference.low <= -0.2 <= difference.high
    assert 0.925 <= held / 400 <= 0.975


def test_holm_equals_statsmodels_under_the_same_keys() -> None:
    p = {("a", "harmful"): 0.01, ("a", "over"): 0.04, ("b", "harmful"): 0.03, ("b", "over"): 0.005}
    assert holm(p) == pytest.approx(dict(zip(p, multipletests(list(p.values()), method="holm")[1], strict=True)))
    assert holm(p) == pytest.approx(
        {("a", "harmful"): 0.03, ("a", "over"): 0.06, ("b", "harmful"): 0.06, ("b", "over"): 0.02}
    )
    assert holm({}) == {}


@pytest.mark.parametrize("p", [math.nan, -0.1, 1.5])
def test_holm_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match=f"p-value of 'x' is {p}"):
        holm({"x": p, "y": 0.5})


# --- what a benchmark can show ---


@pytest.mark.parametrize(("baseline", "n"), [(0.5, 100), (0.825, 313), (0.14, 250), (0.048, 313)])
def test_minimum_detectable_effect_equals_statsmodels(baseline: float, n: int) -> None:
    h = NormalIndPower().solve_power(None, n, 0.05, 0.8)
    effect = minimum_detectable_effect(baseline, n)
    assert proportion_effectsize(baseline + effect.increase, baseline) == pytest.approx(h, abs=1e-5)
    if not math.isnan(effect.decrease):
        assert proportion_effectsize(baseline, baseline - effect.decrease) == pytest.approx(h, abs=1e-5)


def test_effect_without_room_is_nan() -> None:
    assert math.isnan(minimum_detectable_effect(0.0, 50).decrease)
    assert math.isnan(minimum_detectable_effect(0.99, 50).increase)
    assert minimum_detectable_effect(0.0, 50).increase > 0.0


@pytest.mark.parametrize(("baseline", "n"), [(-0.1, 10), (1.1, 10), (0.5, 0)])
def test_effect_of_no_benchmark_is_refused(baseline: float, n: int) -> None:
    with pytest.raises(ValueError, match="expected a share of 0 to 1 and at least one prompt"):
        minimum_detectable_effect(baseline, n)


def test_minimum_effect_is_seen_four_times_in_five() -> None:
    rng, n = np.random.default_rng(2), 250
    other = 0.316 - minimum_detectable_effect(0.316, n).decrease
    pairs = zip(rng.binomial(n, 0.316, 1000), rng.binomial(n, other, 1000), strict=True)
    seen = sum(proportions_ztest([a, b], [n, n])[1] < 0.05 for a, b in pairs)
    assert 0.77 <= seen / 1000 <= 0.83


# --- several seeds ---


def test_mean_over_seeds_is_the_two_way_analysis_of_variance() -> None:
    table = np.random.default_rng(4).normal(10, 3, (3, 20)) + np.arange(20) + np.array([[0], [9], [-5]])
    found = mean_over_seeds({seed: {str(i): float(v) for i, v in enumerate(row)} for seed, row in enumerate(table)})
    mean, by_seed, by_item = table.mean(), table.mean(1), table.mean(0)
    rest = table - by_seed[:, None] - by_item + mean
    squares = (20 * by_seed.var(ddof=1), 3 * by_item.var(ddof=1), (rest**2).sum() / 38)
    total = squares[0] + squares[1] - squares[2]
    freedom = total**2 / sum(square**2 / degree for square, degree in zip(squares, (2, 19, 38), strict=True))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(total / 60)
    assert found.estimate == pytest.approx((mean, mean - half, mean + half))
    assert (found.seeds, found.items, found.missing) == (3, 20, 0)


def test_rate_over_seeds_counts_undecided_cells() -> None:
    found = rate_over_seeds({1: verdicts(x="++-?"), 2: verdicts(x="+--+"), 3: verdicts(x="++-+")})
    assert found.estimate.value == pytest.approx(7 / 11)
    assert 0 < found.estimate.low < 7 / 11 < found.estimate.high < 1
    assert (found.seeds, found.items, found.missing) == (3, 4, 1)


def test_seeds_that_all_agree_are_one_sample_of_items() -> None:
    found = rate_over_seeds({1: verdicts(x="-" * 50), 2: verdicts(x="-" * 50)})
    assert found.estimate == Estimate(0.0, *wilson(0, 50))
    means = {seed: {"a": 2.0, "b": 2.0} for seed in (1, 2)}
    assert mean_over_seeds(means).estimate == (2.0, 2.0, 2.0)


def test_seeds_that_vary_no_more_than_chance_widen_nothing() -> None:
    found = rate_over_seeds({1: verdicts(x="-" * 100), 2: verdicts(x="+" + "-" * 99)}).estimate
    assert found.value == 0.005
    assert found.low < 0.005 < found.high < wilson(2, 100)[1]


def test_a_mean_of_what_is_never_negative_has_no_negative_bound() -> None:
    tokens = {1: {"a": 10.0, "b": 11.0, "c": 10.0}, 2: {"a": 14.0, "b": 15.0, "c": 13.0}}
    assert mean_over_seeds(tokens).estimate.low == 0
    shifted = {seed: {name: value - 20 for name, value in own.items()} for seed, own in tokens.items()}
    assert mean_over_seeds(shifted).estimate.low < -20


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({1: "++"}, "1 seeds and 2 ids with a value: variation over both needs at least two of each"),
        ({1: "+", 2: "-"}, "2 seeds and 1 ids"),
        ({1: "++", 2: "??"}, "1 seeds and 2 ids"),
        ({1: "+++", 2: "++"}, "seed 2 lacks id 'x2'"),
        ({}, "0 seeds and 0 ids"),
    ],
)
def test_seeds_that_cannot_be_averaged_are_refused(runs: dict[int, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rate_over_seeds({seed: verdicts(x=marks) for seed, marks in runs.items()})


@pytest.mark.parametrize(("share", "items", "spread"), [(0.3, 1.0, 0.2), (0.05, 1.0, 0.2), (0.8, 3.0, 0.1)])
def test_intervals_over_seeds_cover(share: float, items: float, spread: float) -> None:
    """300 simulated experiments of 3 seeds and 100 items with random effects of both on the probit scale."""
    rng, held = np.random.default_rng(0), 0
    centre = stats.norm.ppf(share) * math.sqrt(1 + items**2 + spread**2)
    for _ in range(300):
        effects = rng.normal(0, items, 100) + rng.normal(0, spread, (3, 1)) + rng.normal(0, 1, (3, 100))
        outcomes = centre + effects > 0
        low, high = rate_over_seeds(
            {seed: {str(i): bool(v) for i, v in enumerate(row)} for seed, row in enumerate(outcomes)}
        ).estimate[1:]
        held += low <= share <= high
    assert 0.92 <= held / 300 <= 0.985
