"""Intervals and tests: equal to scipy and statsmodels on known inputs, right as often as they say in simulations."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from alttrain.evaluation.statistics import (
    Estimate,
    compare,
    detectable_difference,
    holm,
    mean_by_item,
    mean_of_rates,
    mean_of_sets,
    mean_over_seeds,
    rate,
    rate_by_item,
    rate_over_seeds,
    variation,
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


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean of a value an item."""
    return mean_by_item(values, range(len(values)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 4, 5], (3.0, 1.0367568385, 4.9632431615)),
        ([-10.0, 20.0], (5.0, -185.5930710437, 195.5930710437)),
        ([10.0, 20.0], (15.0, 0.0, 78.5310236809)),  # what is never negative has no negative bound
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


def test_the_mean_of_shares_stays_within_0_and_1() -> None:
    low = rate_by_item([0.0] * 8 + [0.3], range(9))
    assert 0 < low.low < low.value == pytest.approx(0.3 / 9)
    assert rate_by_item([1.0] * 8 + [0.7], range(9)).high < 1


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


def test_an_item_counts_once_however_many_of_its_values_are_known() -> None:
    values, items = [True, True, True, True, False], list("aaaab")
    assert rate_by_item(values, items) == rate_by_item([True, True, False, False], list("aabb"))
    assert rate_by_item(values, items).value == 0.5
    assert mean_by_item([1.0, 3.0, 5.0, 14.0], list("aaab")) == mean_by_item([3.0, 14.0], list("ab"))


def test_the_mean_of_nine_sets_of_ones_is_one() -> None:
    """Nine ninths are more than 1 in floating point."""
    seeds = {seed: verdicts(x="++") for seed in (1, 2)}
    assert rate_over_seeds(*[seeds] * 9).value == 1.0


def test_clustered_intervals_cover() -> None:
    """400 simulated benchmarks of 100 prompts with 5 texts each; Wilson over the 500 texts holds it in 72 % of them."""
    rng, held = np.random.default_rng(6), 0
    items = [str(index) for index in range(100) for _ in range(5)]
    for _ in range(400):
        drawn = rng.beta(0.3, 0.7, 100)  # mean 0.3
        low, high = rate_by_item([bool(v) for v in rng.random(500) < np.repeat(drawn, 5)], items)[1:]
        held += low <= 0.3 <= high
    assert 0.925 <= held / 400 <= 0.975


def goals_and_prompts(goals: int, each: int) -> list[tuple[str, str]]:
    return [(f"g{goal}", f"p{part}") for goal in range(goals) for part in range(each)]


def test_prompts_that_repeat_a_goal_add_nothing() -> None:
    """Four prompts of each of 50 goals that fare alike are as good as one, up to t and the clusters' n - 1."""
    hits = [goal < 15 for goal in range(50) for _ in range(4)]
    once, found = rate(15, 50), rate_by_item(hits, goals_and_prompts(50, 4))
    assert found.value == once.value
    assert list(found[1:]) == pytest.approx(once[1:], abs=0.006)
    assert rate_by_item([False] * 8, goals_and_prompts(2, 4)) == Estimate(0.0, *wilson(0, 2))
    assert mean_by_item([5.0, 5.0, 9.0, 9.0], goals_and_prompts(2, 2)) == pytest.approx(mean_interval([5.0, 9.0]))
    seeds = {seed: dict(zip(goals_and_prompts(50, 4), hits, strict=True)) for seed in (0, 1)}
    several = {seed: {f"g{goal}": goal < 15 for goal in range(50)} for seed in (0, 1)}
    assert rate_over_seeds(seeds) == pytest.approx(rate_over_seeds(several))


@pytest.mark.parametrize("effect", [0.0, 2.5])
def test_intervals_cover_where_prompts_share_a_goal(effect: float) -> None:
    """50 goals of four prompts: a rate, a difference, and a mean of four sets that have each goal once.

    As if prompts were independent, 76 % of the rates' and 82 % of the differences' would hold it with such goals.
    """
    rng, items, held = np.random.default_rng(5), goals_and_prompts(50, 4), np.zeros(3)
    for _ in range(400):
        shared = rng.normal(0, effect / 2**0.5, 50)
        skills = [np.repeat(shared + rng.normal(0, effect / 2**0.5, 50), 4) for _ in range(2)]
        first, second = ([bool(v) for v in rng.random(200) < 1 / (1 + np.exp(-skill))] for skill in skills)
        _, low, high = rate_by_item(first, items)
        held[0] += low <= 0.5 <= high
        runs = ({(*item, 0): v for item, v in zip(items, own, strict=True)} for own in (first, second))
        _, low, high = compare(*runs)[0]
        held[1] += low <= 0 <= high
        _, low, high = mean_of_rates([(first[part::4], items[part::4]) for part in range(4)])
        held[2] += low <= 0.5 <= high
    assert all(held / 400 >= 0.925)
    assert all(held / 400 <= 0.985)


def test_sets_of_the_same_goals_are_as_correlated_as_these() -> None:
    """The mean of three equal sets is one of them; sets that are unlike on their goals count as independent."""
    hits = [goal < 15 for goal in range(50)]
    items = [[(f"g{goal}", name) for goal in range(50)] for name in "abc"]
    alone = rate(15, 50)
    assert mean_of_rates([(hits, own) for own in items]) == pytest.approx(alone)
    apart = [[(f"{name}{goal}", name) for goal in range(50)] for name in "abc"]
    assert mean_of_rates([(hits, own) for own in apart]) == pytest.approx(mean_of_sets([alone] * 3))
    unlike = [(hits, items[0]), ([not hit for hit in hits], items[1])]
    assert mean_of_rates(unlike) == pytest.approx(mean_of_sets([alone, rate(35, 50)]))
    never = [False] * 50
    assert mean_of_rates([(never, items[0]), (never, items[1])]) == pytest.approx(rate(0, 50))
    assert mean_of_rates([(never, items[0]), (never, apart[1])]) == pytest.approx(mean_of_sets([rate(0, 50)] * 2))


def test_sets_of_the_same_goals_are_as_correlated_over_seeds() -> None:
    rng = np.random.default_rng(3)
    tables = [[bool(v) for v in rng.random(50) < 0.3] for _ in range(3)]
    one, other, apart = (
        {seed: {(f"{name}{n}", part): v for n, v in enumerate(row)} for seed, row in enumerate(tables)}
        for name, part in (("g", "a"), ("g", "b"), ("h", "c"))
    )
    alone = rate_over_seeds(one)
    assert list(rate_over_seeds(one, other)) == pytest.approx(list(alone), abs=0.02)
    assert rate_over_seeds(one, apart).high < alone.high < rate_over_seeds(one, other).high
    both = variation([(one, {0: one[1]}), (other, {0: other[1]})])
    assert both.half() == pytest.approx(variation([(one, {0: one[1]})]).half(), rel=0.1)


# --- two runs ---


def verdicts(**runs: str) -> dict[str, bool | None]:
    """Verdicts by id from a string: + True, - False, ? undecided."""
    ((prefix, marks),) = runs.items()
    return {f"{prefix}{index}": {"+": True, "-": False, "?": None}[mark] for index, mark in enumerate(marks)}


def test_comparison_counts_pairs_by_id() -> None:
    first, second = verdicts(x="++--+-?+"), verdicts(x="+---++-?")
    second = dict(reversed(second.items())) | {"y": True}
    difference, counts = compare(first, second)
    assert counts == {"n": 6, "gained": 1, "lost": 1, "undecided": 2}
    assert difference.value == 0.0
    assert difference.low == -difference.high


@pytest.mark.parametrize(("gained", "lost", "same"), [(0, 0, 5), (1, 0, 0), (9, 2, 40), (3, 17, 5), (30, 80, 203)])
def test_paired_difference_is_within_its_interval(gained: int, lost: int, same: int) -> None:
    runs = verdicts(x="-" * gained + "+" * (lost + same)), verdicts(x="+" * gained + "-" * lost + "+" * same)
    found, counts = compare(*runs)
    assert (counts["gained"], counts["lost"]) == (gained, lost)
    assert found.value == pytest.approx((gained - lost) / (gained + lost + same))
    assert -1 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("gained", [0, 1, 7])
def test_texts_that_repeat_a_prompt_or_a_goal_leave_a_difference_as_it_is(gained: int) -> None:
    """Where nothing differs the interval has a width, too."""
    first, second = verdicts(x="-" * 60), verdicts(x="+" * gained + "-" * (60 - gained))
    expected, _ = compare(first, second)
    assert expected.high > expected.value
    for texts in ([("p", 0), ("p", 1)], [("p", 0), ("q", 0), ("r", 0)]):
        arms = ({(name, *text): v for name, v in own.items() for text in texts} for own in (first, second))
        assert compare(*arms)[0] == pytest.approx(expected)


def test_a_difference_between_large_goals_and_small_ones_is_as_uncertain_as_they_are_unlike() -> None:
    """A goal of 100 prompts counts as much as 100 goals of one, but its prompts move together."""
    items = [*((("large", f"p{part}", 0)) for part in range(100)), *((f"g{goal}", "p", 0) for goal in range(100))]
    before = dict.fromkeys(items, False)
    unlike, _ = compare(before, {item: item[0] != "large" for item in items})
    assert (unlike.value, unlike.low, unlike.high) == pytest.approx((0.5, 0.006, 0.974), abs=1e-3)
    alike, _ = compare(before, dict.fromkeys(items, True))
    assert (alike.value, alike.low, alike.high) == pytest.approx((1.0, 0.943, 1.0), abs=1e-3)


def test_comparison_without_decided_pairs_is_nan() -> None:
    found, counts = compare(verdicts(x="?+"), verdicts(x="+?"))
    assert counts == {"n": 0, "gained": 0, "lost": 0, "undecided": 2}
    assert all(map(math.isnan, found))


@pytest.mark.slow
@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.0), (0.01, 0.01), (0.016, 0.004), (0.05, 0.25)])
@pytest.mark.parametrize("n", [100, 200, 500])
def test_paired_intervals_cover(gained: float, lost: float, n: int) -> None:
    """1,000 simulated comparisons; the bootstrap's hold it in 80 to 93 % where 2 % of the pairs differ."""
    held = 0
    for up, down, _ in np.random.default_rng(7).multinomial(n, [gained, lost, 1 - gained - lost], 1000):
        same = "+" * (n - up - down)
        found, _ = compare(verdicts(x="-" * up + "+" * down + same), verdicts(x="+" * up + "-" * down + same))
        held += found.low <= gained - lost <= found.high
    assert held / 1000 >= 0.935


def test_holm_equals_statsmodels_under_the_same_keys() -> None:
    p = {("a", "harmful"): 0.01, ("a", "over"): 0.04, ("b", "harmful"): 0.03, ("b", "over"): 0.005}
    assert holm(p) == pytest.approx(dict(zip(p, multipletests(list(p.values()), method="holm")[1], strict=True)))
    assert holm(p) == pytest.approx(
        {("a", "harmful"): 0.03, ("a", "over"): 0.06, ("b", "harmful"): 0.06, ("b", "over"): 0.02}
    )
    assert holm({}) == {}


# --- what a benchmark can show ---


@pytest.mark.slow
@pytest.mark.parametrize(("n", "differing"), [(100, 0.04), (100, 0.3), (313, 0.1), (500, 0.5)])
def test_a_detectable_difference_is_seen_four_times_in_five(n: int, differing: float) -> None:
    """By the very test of the report: McNemar's exact one, which is somewhat conservative."""
    difference = detectable_difference(n, differing)
    differing = max(differing, difference)
    shares = [(differing + difference) / 2, (differing - difference) / 2, 1 - differing]
    draws = np.random.default_rng(2).multinomial(n, shares, 2000)
    seen = sum(up + down > 0 and stats.binomtest(int(up), int(up + down)).pvalue < 0.05 for up, down, _ in draws)
    assert 0.73 <= seen / 2000 <= 0.83


def test_four_prompts_can_show_nothing() -> None:
    assert detectable_difference(3, 0.5) == math.inf
    assert detectable_difference(400, 0.1) < detectable_difference(200, 0.1) < detectable_difference(200, 0.2)


# --- several seeds ---


def test_mean_over_seeds_has_the_components_of_the_analysis_of_variance() -> None:
    table = np.random.default_rng(4).normal(10, 3, (3, 20)) + np.arange(20) + np.array([[0], [9], [-5]])
    found = mean_over_seeds({seed: {str(i): float(v) for i, v in enumerate(row)} for seed, row in enumerate(table)})
    mean, by_seed, by_item = table.mean(), table.mean(1), table.mean(0)
    rest = table - by_seed[:, None] - by_item + mean
    seeds, items = by_seed.var(ddof=1) / 3, (by_item.var(ddof=1) - (rest**2).sum() / 38 / 3) / 20
    half = math.sqrt(stats.t.ppf(0.975, 2) ** 2 * seeds + stats.t.ppf(0.975, 19) ** 2 * items)
    assert found == pytest.approx((mean, mean - half, mean + half))


def test_p_is_the_level_at_which_the_interval_reaches_0() -> None:
    own = {seed: verdicts(x="+" * (14 + seed) + "-" * (16 - seed)) for seed in (0, 1, 2)}
    found = variation([(own, {0: verdicts(x="+" * 5 + "-" * 25)})])
    assert found.value == pytest.approx((14 + 15 + 16) / 90 - 5 / 30)
    assert 0 < found.p() < 0.05
    assert found.half(found.p()) == pytest.approx(found.value)
    assert variation([(own, own)]).p() == 1.0


def test_rate_over_seeds_leaves_undecided_cells_out() -> None:
    found = rate_over_seeds({1: verdicts(x="++-?"), 2: verdicts(x="+--+"), 3: verdicts(x="++-+")})
    assert found.value == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)  # the mean over items, of which the last has two
    assert 0 < found.low < found.value < found.high < 1


def test_seeds_that_all_agree_are_one_sample_of_items() -> None:
    found = rate_over_seeds({1: verdicts(x="-" * 50), 2: verdicts(x="-" * 50)})
    assert found == Estimate(0.0, *wilson(0, 50))
    means = {seed: {"a": 2.0, "b": 2.0} for seed in (1, 2)}
    assert mean_over_seeds(means) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("letter", "-+")
def test_a_mean_of_sets_that_never_vary_is_as_wide_with_more_seeds(letter: str) -> None:
    """The set of 10 counts as much as that of 100, and its prompts are no more with a second seed."""
    sets = [{seed: verdicts(**{name: letter * size}) for seed in (0, 1)} for name, size in (("x", 10), ("y", 100))]
    alone = [rate(size * (letter == "+"), size) for size in (10, 100)]
    assert rate_over_seeds(*sets) == pytest.approx(mean_of_sets(alone))


def test_a_mean_with_a_set_that_never_varies_is_at_least_as_wide_with_more_seeds() -> None:
    sets = [
        {seed: verdicts(**{name: "+" * count + "-" * (size - count)}) for seed in (0, 1)}
        for name, count, size in (("x", 0, 10), ("y", 1, 100))
    ]
    alone, found = mean_of_sets([rate(0, 10), rate(1, 100)]), rate_over_seeds(*sets)
    assert found.value == pytest.approx(alone.value)
    assert found.low <= alone.low < alone.high <= found.high


def test_the_mean_of_sets_covers_where_seeds_agree() -> None:
    """Two seeds with the same verdicts on 20 and on 200 prompts; the variance over both sets alone holds it in 75 %."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(300):
        drawn = [rng.random(size) < 0.05 for size in (20, 200)]
        sets = [{seed: {f"{len(row)}-{i}": bool(v) for i, v in enumerate(row)} for seed in (0, 1)} for row in drawn]
        low, high = rate_over_seeds(*sets)[1:]
        held += low <= 0.05 <= high
    assert held / 300 >= 0.95


def test_seeds_that_vary_no_more_than_chance_widen_nothing() -> None:
    found = rate_over_seeds({1: verdicts(x="-" * 100), 2: verdicts(x="+" + "-" * 99)})
    assert found.value == 0.005
    assert found.low < 0.005 < found.high < wilson(2, 100)[1]


def test_a_mean_of_what_is_never_negative_has_no_negative_bound() -> None:
    tokens = {1: {"a": 10.0, "b": 11.0, "c": 10.0}, 2: {"a": 14.0, "b": 15.0, "c": 13.0}}
    assert mean_over_seeds(tokens).low == 0
    shifted = {seed: {name: value - 20 for name, value in own.items()} for seed, own in tokens.items()}
    assert mean_over_seeds(shifted).low < -20


def simulated(
    rng: np.random.Generator, seeds: int, skill: np.ndarray, spread: float
) -> dict[int, dict[str, bool | None]]:
    """Verdicts of a procedure whose runs differ by `spread` logits on prompts of this difficulty."""
    chance = 1 / (1 + np.exp(-(skill + rng.normal(0, spread, (seeds, 1)))))
    rows = rng.random(chance.shape) < chance
    return {seed: {str(i): bool(v) for i, v in enumerate(row)} for seed, row in enumerate(rows)}


def truth(centre: float, spread: float) -> float:
    drawn = np.random.default_rng(99).normal(centre, math.hypot(1.5, spread), 1_000_000)
    return float((1 / (1 + np.exp(-drawn))).mean())


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 0.0), (0.0, 0.6), (-3.0, 0.3)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds_cover(centre: float, spread: float, seeds: int) -> None:
    """400 simulated experiments of 100 prompts; Satterthwaite's interval holds it in 87 % with two seeds that vary."""
    rng, share, held = np.random.default_rng(0), truth(centre, spread), 0
    for _ in range(400):
        low, high = rate_over_seeds(simulated(rng, seeds, rng.normal(centre, 1.5, 100), spread))[1:]
        held += low <= share <= high
    assert 0.93 <= held / 400 <= 0.995


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.3), (5, 0.3), (5, 0.6)])
def test_the_mean_of_sets_over_seeds_covers_and_is_no_wider_than_it_must_be(seeds: int, spread: float) -> None:
    """Six sets on the same trainings; bounds that are averaged hold it in over 99 % of experiments."""
    rng, held, shares = np.random.default_rng(1), 0, [truth(centre, spread) for centre in (-3, -2, -1, 0, 1, 2)]
    for _ in range(300):
        runs = rng.normal(0, spread, seeds)
        sets = []
        for centre in (-3, -2, -1, 0, 1, 2):
            skill = rng.normal(centre, 1.5, 100)
            parts = (simulated(rng, 1, skill + run, 0.0)[0] for run in runs)
            sets.append({seed: {f"{centre} {name}": v for name, v in part.items()} for seed, part in enumerate(parts)})
        low, high = rate_over_seeds(*sets)[1:]
        held += low <= sum(shares) / 6 <= high
    assert 0.93 <= held / 300 <= 0.975


def test_equal_values_are_as_many_as_their_prompts_however_their_mean_is_rounded() -> None:
    """Wilson's interval of 3 of 3, of seeds of which one is undecided on a prompt; and of ten equal scores."""
    low, high = wilson(3, 3)
    crossed = {0: {"a": 1.0, "b": 1.0, "c": 1.0}, 1: {"a": 1.0, "b": 1.0, "c": None}}
    assert rate_over_seeds(crossed) == (pytest.approx(1), pytest.approx(low), pytest.approx(high))
    score = rate_by_item([0.1] * 10, range(10))
    assert score == pytest.approx((0.1, *wilson(1, 10)))
