"""Coverage of the report's intervals and false-positive rate of its stars, in seeded simulations.

    python scripts/simulate_statistics.py [--repeats 400] [--seed 0] [--only stars]

Prompts differ in difficulty (1.5 logits), and the runs of one procedure by `runs` logits. Each line has a setting and
the results of `--repeats` experiments. A share of 400 has a standard error of about 1 point.

- stars       two procedures: how many get a star at 5 %, if they are equal (wanted: at most 6 %) and if they are 1
              logit apart; by the test over prompts only, and by the report's test
- means       the 95 % interval of a rate over seeds and of the mean of six sets: how many contain the truth, how wide
- pairs       the interval of a paired difference where few prompts differ: how many contain the truth
- detectable  how often McNemar's test sees a difference of the size that the dagger calls detectable (wanted: 80 %)
- goals       200 prompts, four of each goal, in one set or in a mean of four: how many 95 % intervals of a rate, of a
              mean and of a difference contain the truth, and how many stars equal procedures get; with goals that have
              no effect, and that say nearly all (2.5 logits, of which half differs between procedures). In brackets,
              as if prompts were independent
- corrected   rates corrected by 100 labels of 313 texts whose undecided ones depend on the truth: the bias, and how
              many intervals contain the truth
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from alttrain.evaluation.agreement import corrected_rate
from alttrain.evaluation.statistics import compare, detectable_difference, sign_flip, variation
from alttrain.report.contrasts import balanced_differences, contrast, paired_differences
from alttrain.report.estimates import cross, share

DIFFICULTY = 1.5
SETS = (-3, -2, -1, 0, 1, 2)
"""Centres of the sets of a mean, in logits."""
Verdicts = dict[int, dict[Any, bool | None]]


def runs_of(rng: np.random.Generator, skill: np.ndarray, offsets: np.ndarray, name: object = "") -> Verdicts:
    """Verdicts by seed and text; each offset gives one run. `name` begins the names of a set's prompts."""
    rows = rng.random((len(offsets), len(skill))) < 1 / (1 + np.exp(-(skill + offsets[:, None])))
    return {seed: {(f"{name}p{n}", 0): bool(verdict) for n, verdict in enumerate(row)} for seed, row in enumerate(rows)}


def stars(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    for runs in (0.0, 0.3, 0.6):
        for seeds in (1, 2, 3, 5):
            for prompts in (100, 300, 500):
                told = []
                for apart in (0.0, 1.0):
                    alone = whole = 0
                    for _ in range(repeats):
                        skill = rng.normal(0, DIFFICULTY, prompts)
                        before = runs_of(rng, skill, rng.normal(0, runs, seeds))
                        after = runs_of(rng, skill, rng.normal(apart, runs, seeds))
                        alone += sign_flip(balanced_differences([paired_differences(before, after)])) < 0.05
                        whole += contrast([(after, before)]).p < 0.05
                    told.append(f"prompts alone {alone / repeats:5.1%}, report {whole / repeats:5.1%}")
                yield f"runs {runs:.1f}, {seeds} seeds, {prompts} prompts: equal: {told[0]}; 1 logit apart: {told[1]}"


def means(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    for runs in (0.0, 0.3, 0.6):
        drawn = rng.normal(0, math.hypot(DIFFICULTY, runs), 500_000)
        truth = {centre: float((1 / (1 + np.exp(-centre - drawn))).mean()) for centre in SETS}
        for seeds in (2, 3, 5):
            one, six, averaged = np.zeros(2), np.zeros(2), np.zeros(2)
            for _ in range(repeats):
                offsets = rng.normal(0, runs, seeds)
                sets = [runs_of(rng, rng.normal(centre, DIFFICULTY, 100), offsets, centre) for centre in SETS]
                mean = sum(truth.values()) / len(SETS)
                singles = [share(own) for own in sets]
                one += _held(singles[0].low, singles[0].high, truth[SETS[0]])
                found = share(*sets)
                six += _held(found.low, found.high, mean)
                bounds = [sum(getattr(single, end) for single in singles) / len(SETS) for end in ("low", "high")]
                averaged += _held(bounds[0], bounds[1], mean)
            parts = [("one set", one), ("mean of six", six), ("its bounds averaged", averaged)]
            told = [
                f"{name} {held / repeats:5.1%} at {100 * width / repeats:4.1f} points" for name, (held, width) in parts
            ]
            yield f"runs {runs:.1f}, {seeds} seeds, 100 prompts: {', '.join(told)}"


def _held(low: float, high: float, truth: float) -> tuple[bool, float]:
    return low <= truth <= high, high - low


def pairs(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    for prompts in (100, 200, 500):
        for gained, lost in ((0.02, 0.0), (0.015, 0.005), (0.05, 0.0), (0.2, 0.05)):
            held, resampled = 0, 0
            for up, down, same in rng.multinomial(prompts, [gained, lost, 1 - gained - lost], repeats):
                verdicts = [(False, True)] * up + [(True, False)] * down + [(True, True)] * same
                found = compare(*({n: pair[side] for n, pair in enumerate(verdicts)} for side in (0, 1)))[0]
                held += found.low <= gained - lost <= found.high
                drawn = rng.multinomial(prompts, np.array([up, down, same]) / prompts, 999)
                low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / prompts, (2.5, 97.5))
                resampled += low <= gained - lost <= high
            share_ = f"{gained:.1%} gained, {lost:.1%} lost"
            yield f"{prompts} prompts, {share_}: report {held / repeats:5.1%}, bootstrap {resampled / repeats:5.1%}"


def detectable(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    for prompts in (100, 313, 500):
        for differing in (0.04, 0.1, 0.3):
            size = detectable_difference(prompts, differing)
            either = max(differing, size)
            seen = 0
            for up, down, _ in rng.multinomial(
                prompts, [(either + size) / 2, (either - size) / 2, 1 - either], repeats
            ):
                seen += sign_flip([1] * up + [-1] * down) < 0.05
            yield f"{prompts} prompts, {differing:.0%} differ: {size:.1%} is seen in {seen / repeats:5.1%}"


def goals(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    names = [(f"g{n}", part) for n in range(50) for part in range(4)]
    sets = [range(200)], [range(part, 200, 4) for part in range(4)]
    for effect in (0.0, 2.5):
        for seeds in (1, 3):
            held, stars_ = np.zeros((2, 3)), np.zeros((2, 2))
            for _ in range(repeats):
                shared = rng.normal(0, effect / 2**0.5, 50)
                arms = []
                for _ in range(2):
                    skill = np.repeat(shared + rng.normal(0, effect / 2**0.5, 50), 4)
                    rows = rng.random((seeds, 200)) < 1 / (1 + np.exp(-skill))
                    arms.append({seed: list(map(bool, row)) for seed, row in enumerate(rows)})
                for alone in (0, 1):
                    keys = [(f"{goal}-{part}", "s", 0) if alone else (goal, f"s{part}", 0) for goal, part in names]
                    texts = [
                        [{seed: {keys[n]: row[n] for n in own} for seed, row in arm.items()} for own in split]
                        for split in sets
                        for arm in arms
                    ]
                    one, mean = share(*texts[0]), share(*texts[2])
                    if seeds == 1:
                        _, low, high = compare(texts[1][0][0], texts[0][0][0])[0]
                    else:
                        varied = variation([(cross(texts[0][0]), cross(texts[1][0]))])
                        low, high = varied.value - varied.half(), varied.value + varied.half()
                    held[alone] += one.low <= 0.5 <= one.high, mean.low <= 0.5 <= mean.high, low <= 0 <= high
                    pairs_ = [list(zip(*texts[at : at + 2], strict=True)) for at in (0, 2)]
                    stars_[alone] += [contrast(pair).p < 0.05 for pair in pairs_]
            told = [
                f"{name} {held[0][at] / repeats:5.1%} ({held[1][at] / repeats:5.1%})"
                for at, name in enumerate(("rate", "mean", "difference"))
            ]
            told += [
                f"{name} {stars_[0][at] / repeats:5.1%} ({stars_[1][at] / repeats:5.1%})"
                for at, name in enumerate(("stars", "of a mean"))
            ]
            yield f"goals {effect:.1f}, {seeds} seeds: {', '.join(told)}"


def corrected(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    texts, labels = 313, 100
    for rate in (0.05, 0.2, 0.5):
        for opened in ((0.0, 0.0), (0.4, 0.05)):
            held, off, apparent = 0, 0.0, 0.0
            for _ in range(repeats):
                truth = rng.random(texts) < rate
                said = np.where(truth, rng.random(texts) < 0.8, rng.random(texts) < 0.03)
                left = rng.random(texts) < np.where(truth, *opened)
                judge = {n: None if left[n] else bool(said[n]) for n in range(texts)}
                human: Mapping[int, bool] = {int(n): bool(truth[n]) for n in rng.permutation(texts)[:labels]}
                found = corrected_rate(judge, human)
                held += found["corrected"].low <= rate <= found["corrected"].high
                off += found["corrected"].value - rate
                apparent += found["apparent"].value - rate
            told = (
                f"bias {off / repeats:+5.1%}, holds {held / repeats:5.1%}; as judged, bias {apparent / repeats:+5.1%}"
            )
            yield f"rate {rate:.0%}, undecided {opened[0]:.0%} of the true and {opened[1]:.0%} of the others: {told}"


SIMULATIONS = {one.__name__: one for one in (stars, means, pairs, detectable, goals, corrected)}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SIMULATIONS, nargs="+", default=list(SIMULATIONS))
    asked = parser.parse_args()
    for name in asked.only:
        print(f"\n{name}, {asked.repeats} repeats")
        for line in SIMULATIONS[name](np.random.default_rng(asked.seed), asked.repeats):
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
