"""Tables over seeds: which numbers stand in them, what marks them, what would fill their gaps, how they are written."""

import itertools
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml
from made_runs import (
    beside,
    change_rows,
    compared,
    decided_by_another,
    intervene,
    make_run,
    mend,
    no_train,
    resample,
)
from made_runs import made_tables as made
from papers import compile_article, has_latex
from rich.console import Console
from scipy import stats

from alttrain.evaluation.statistics import (
    Estimate,
    compare,
    detectable_difference,
    holm,
    mean_of_sets,
    rate_over_seeds,
    sign_flip,
    wilson,
)
from alttrain.records import subject_of
from alttrain.report.contrasts import balanced_differences, contrast, paired_differences
from alttrain.report.escaping import latex_text
from alttrain.report.estimates import mean, share, values_of
from alttrain.report.formats import SEEDS_APART, console, latex, legend, markdown
from alttrain.report.measures import ASSESSING, RECOGNISING, TOKENS
from alttrain.report.published import label_and_order
from alttrain.report.results import changes, evaluations, read_csv, results, samples, write_csv
from alttrain.report.tables import CELLS, TABLES, VARIED, add_marks, pivot, report_of
from alttrain.report.variants import pool, variants

SAFETY = {"strongreject": "harmful_rate", "jailbreakbench_harmful": "harmful_rate"}
MEANS = {"harmful_rate": list(SAFETY), "accuracy": ["gsm8k", "math500"]}


def cell(table: pd.DataFrame, method: str, measure: str, kind: str = "rate", backbone: str = "r1_llama_8b") -> Any:
    """The one cell of a row and measure."""
    wanted = (backbone, method, measure, kind)
    (found,) = [one for one in table.itertuples() if (one.backbone, one.method, one.measure, one.kind) == wanted]
    return found


def rows(table: pd.DataFrame) -> dict[str, list[str]]:
    """Each backbone's rows, in their order."""
    assert table.protocol.nunique() == 1
    found: dict[str, list[str]] = {}
    for backbone, method in pivot(table).index:
        found.setdefault(backbone, []).append(method)
    return found


def heads(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The headings, line by line."""
    assert table.protocol.nunique() == 1
    return list(pivot(table).columns)


# --- variants ---


def test_runs_that_differ_in_their_seed_alone_are_one_variant(tmp_path: Path) -> None:
    for seed in (1, 0):
        make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, seed=seed)
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, tag="other")
    no_train(tmp_path, {"strongreject": ("harmful_rate", "yn")})
    found = variants(evaluations(tmp_path))
    assert [(one.method, one.tag, list(one.folders)) for one in found] == [
        ("no_train", "", [0]),
        ("alttrain", "", [0, 1]),
        ("alttrain", "other", [0]),
    ]
    assert [one.name for one in found] == ["No-train", "AltTrain", "AltTrain other"]


def test_a_method_has_one_name_everywhere(tmp_path: Path) -> None:
    """In numbers, texts and tables; also by a protocol that judged only one of two that would be called the same."""
    sets = {"strongreject": ("harmful_rate", "yn")}
    make_run(tmp_path / "runs", sets, tag="other", protocol="star1")
    for own in ({}, {"changed": {"training.epochs": [15, 20]}}, {"method": "", "rewrite": "mine"}):
        make_run(tmp_path / "runs", sets, **own)
    no_train(tmp_path / "runs", sets, method="")
    names = ["No-train", "AltTrain", "AltTrain other", "AltTrain, changed: training.epochs=20", "mine"]
    found = evaluations(tmp_path / "runs")
    assert [one.name for one in variants(found)] == names
    assert {*results(tmp_path).method} == {*samples(tmp_path).method} == {*names}
    shown = [table[table.known].method for name, table in made(tmp_path / "runs").items() if name != "published"]
    assert {*pd.concat(shown)} == {*names}
    assert rows(made(tmp_path / "runs")["overview"].query("protocol == 'star1'")) == {"r1_llama_8b": ["AltTrain other"]}


def test_what_was_changed_of_a_method_is_another_row_and_says_so(tmp_path: Path) -> None:
    sets = {"xstest_safe": ("over_refusal_rate", "yn")}
    make_run(tmp_path, sets)
    make_run(tmp_path, sets, changed={"training.epochs": [15, 300]})
    make_run(tmp_path, sets, changed={"training.epochs": [15, 20]}, seed=1)
    for length in (9, 10):
        long = {"adapter.rank": [16, 8], "method.system_prompt": [None, "You are asked to be safe, always."]}
        make_run(tmp_path, sets, changed=long | {"training.max_length": [8192, length]})
    found = rows(made(tmp_path)["main"])["r1_llama_8b"]
    several = "AltTrain, changed: adapter.rank=8, method.system_prompt=You are asked to be safe… and 1 more changed_"
    assert [row.startswith(several) for row in found[2:4]] == [True, True]
    assert found[2] != found[3]
    assert [*found[:2], *found[4:]] == [
        label_and_order("no_train")[0],
        "AltTrain",
        "AltTrain, changed: training.epochs=20",
        "AltTrain, changed: training.epochs=300",
    ]


def test_a_changed_run_stands_where_that_is_varied_which_was_changed(tmp_path: Path) -> None:
    sets = {"xstest_safe": ("over_refusal_rate", "yn")}
    no_train(tmp_path, sets)
    make_run(tmp_path, sets)
    for key, value in (("rewrite.teacher.name", "backbone"), ("dataset.amounts.benign", 50), ("training.epochs", 3)):
        make_run(tmp_path, sets, changed={key: ["published", value]})
    found = made(tmp_path)
    assert {name: rows(own)["r1_llama_8b"] for name, own in found.items() if name in VARIED} == {
        "teacher_swap": ["No-train", "AltTrain", "AltTrain, changed: rewrite.teacher.name=backbone"],
        "benign_amount": ["No-train", "AltTrain", "AltTrain, changed: dataset.amounts.benign=50"],
    }
    main = rows(found["main"])["r1_llama_8b"]
    assert main == ["No-train", "AltTrain", "AltTrain, changed: training.epochs=3"]


def test_a_number_of_a_changed_evaluation_has_no_figure_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"xstest_safe": ("over_refusal_rate", "yn")})
    assert cell(made(tmp_path)["main"], "AltTrain", "over_refusal_rate").published == 0.14
    changed = {"protocol.decoding.max_new_tokens": [1024, 96]}
    mend(run / "evaluation" / "xstest_safe.alttrain", lambda record: record["provenance"].update(changed=changed))
    main = made(tmp_path)["main"]
    found = cell(main, "AltTrain", "over_refusal_rate")
    assert (math.isnan(found.published), found.published_why) == (True, "changed")
    told = "Evaluated otherwise than protocol alttrain says: protocol.decoding.max_new_tokens=96."
    assert told in legend(main)
    # nor has a row that was not evaluated in this way
    assert {one.published_why for one in main.itertuples() if one.measure == "over_refusal_rate"} == {"changed"}
    make_run(tmp_path, {"xstest_safe": ("over_refusal_rate", "yn")}, method="star1")
    main = made(tmp_path)["main"]
    assert cell(main, "No-train", "over_refusal_rate").published > 0
    changed = {"backbone.source": ["hub", "/mine"]}
    mend(run / "evaluation" / "xstest_safe.alttrain", lambda record: record["provenance"].update(changed=changed))
    main = made(tmp_path)["main"]
    assert cell(main, "No-train", "over_refusal_rate").published > 0  # these weights are not those of the column


def test_a_folder_without_a_method_is_called_by_its_rewrite(tmp_path: Path) -> None:
    sets = {"strongreject": ("harmful_rate", "yn")}
    no_train(tmp_path, sets, method="", rewrite="none")
    make_run(tmp_path, sets, method="", rewrite="alttrain_without_pu")
    make_run(tmp_path, sets, method="", rewrite="none", dataset="other")
    found = made(tmp_path)
    own = rows(found["overview"])["r1_llama_8b"]
    assert own == ["No-train", "alttrain_without_pu", "none"]
    main = rows(found["main"])["r1_llama_8b"]
    assert sorted(main) == sorted([*own, label_and_order("alttrain")[0]])  # which the paper reports
    assert "ablation_structure" not in found
    assert set(found["overview"].query("kind == 'rate'").published_why) == {"no method"}


def test_published_weights_and_a_trained_run_without_a_rewrite_are_no_baseline(tmp_path: Path) -> None:
    sets = {"xstest_safe": ("over_refusal_rate", "yn")}
    make_run(tmp_path, sets, method="published", rewrite="none", training="none")
    make_run(tmp_path, sets, rewrite="none", method="no_train", changed={"training.name": ["none", "sft"]})
    make_run(tmp_path, sets, rewrite="none", method="")
    found = made(tmp_path)["overview"]
    assert found[["published", "p"]].isna().all(axis=None)
    assert {one.method: one.published_why for one in found.itertuples() if one.kind == "rate"} == {
        "No-train, changed: training.name=sft": "changed",
        "published": "not reported",
        "none": "no method",
    }


# --- estimates ---


def test_one_seed_has_wilsons_interval_and_several_vary_over_seeds_and_prompts() -> None:
    one = {("a", 0): True, ("b", 0): False, ("c", 0): None}
    assert share({0: one}) == Estimate(0.5, *wilson(1, 2))
    two = {0: {("a", 0): True, ("b", 0): False}, 1: {("a", 0): True, ("b", 0): True}}
    plain = {seed: {text[0]: verdict for text, verdict in own.items()} for seed, own in two.items()}
    assert share(two) == rate_over_seeds(plain)


def test_prompts_without_a_verdict_add_nothing_to_the_sample() -> None:
    """Where all verdicts are alike the prompts are the sample: those with a verdict."""
    own = {("a", 0): True, ("b", 0): True, ("c", 0): None}
    assert share({0: own, 1: own}) == Estimate(1.0, *wilson(2, 2))


def test_texts_of_a_prompt_are_averaged() -> None:
    own = {("a", 0): True, ("a", 1): False, ("b", 0): True, ("b", 1): True}
    assert share({0: own, 1: own}).value == 0.75


@pytest.mark.parametrize("verdict", [True, None])
def test_a_single_prompt_has_no_seeds_to_cross(verdict: bool | None) -> None:
    found = share({0: {("a", 0): verdict}, 1: {("a", 0): verdict}})
    assert (found == Estimate(1.0, *wilson(1, 1))) if verdict else math.isnan(found.value)


def test_sign_flipping_is_mcnemars_test_for_one_seed() -> None:
    for gained, lost in ((0, 1), (3, 9), (20, 4), (5, 5), (0, 12)):
        flips = [1] * gained + [-1] * lost + [0] * 7
        assert sign_flip(flips) == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert sign_flip([0, 0]) == 1.0
    assert sign_flip([]) == 1.0


def test_sign_flipping_counts_every_flip_of_larger_differences() -> None:
    found = [3, -1, 2, 2, 0, -1, 1]
    flipped = [sum(s * d for s, d in zip(signs, found, strict=True)) for signs in itertools.product((1, -1), repeat=7)]
    assert sign_flip(found) == pytest.approx(sum(abs(total) >= sum(found) for total in flipped) / len(flipped))


def test_differences_are_of_prompts_decided_in_both_summed_over_seeds() -> None:
    baseline = {0: {("a", 0): True, ("b", 0): True, ("c", 0): None}}
    own = {0: {("a", 0): False, ("b", 0): None, ("c", 0): False}, 1: {("a", 0): False, ("b", 0): True, ("d", 0): True}}
    found = paired_differences(baseline, own)
    assert found == {("a",): [-1, -1], ("b",): [0]}
    assert balanced_differences([found]) == [-2, 0]  # b has one text, and counts as two


def test_a_prompt_with_more_decided_texts_counts_as_often_in_p_as_in_the_difference() -> None:
    """Twenty prompts become true in four texts, and twenty false in the one that is decided."""
    before = {(n, sample): n >= 20 for n in range(40) for sample in range(4)}
    after = {(n, sample): n < 20 if n < 20 or not sample else None for n, sample in before}
    found = contrast([({0: after}, {0: before})])
    assert (found.difference, found.p) == (0, 1)


def test_a_means_difference_is_over_the_seeds_of_either_mean() -> None:
    """The baseline's mean is over its seed 0 alone, which its second set lacks a seed 1 for."""
    quarter, most = ({(n, 0): n < share for n in range(4)} for share in (1, 3))
    a, b = ({(f"{name}{text[0]}", *text): v for text, v in quarter.items()} for name in "ab")
    more = {(f"a{text[0]}", *text): v for text, v in most.items()}
    assert contrast([({0: a, 1: a}, {0: a, 1: more}), ({0: b, 1: b}, {0: b})]).difference == 0
    assert math.isnan(contrast([({0: a}, {0: a}), ({0: b}, {1: b})]).difference)


def test_sets_count_alike_whatever_their_size() -> None:
    assert balanced_differences([{"a": [1], "b": [-1, -1]}]) == [2, -2]
    first, second = {f"a{n}": [1] for n in range(100)}, {f"b{n}": [-1] for n in range(50)}
    assert balanced_differences([first, second]) == [8] * 100 + [-16] * 50


def test_the_mean_of_sets_of_one_seed_adds_squares() -> None:
    sets = [Estimate(0.5, 0.4, 0.7), Estimate(0.1, 0.1, 0.1)]
    assert mean_of_sets(sets) == pytest.approx((0.3, 0.25, 0.4))
    assert mean_of_sets([sets[0], sets[0]]) == pytest.approx((0.5, 0.5 - 0.02**0.5 / 2, 0.5 + 0.08**0.5 / 2))


def drawn(
    rng: np.random.Generator, skill: Any, spread: float, seeds: int, name: str = "p"
) -> dict[int, dict[Any, bool | None]]:
    """Verdicts by seed and text of a procedure whose runs differ by `spread` logits."""
    chance = 1 / (1 + np.exp(-(skill + rng.normal(0, spread, (seeds, 1)))))
    rows = rng.random(chance.shape) < chance
    return {seed: {(f"{name}{i}", 0): bool(v) for i, v in enumerate(row)} for seed, row in enumerate(rows)}


def test_the_mean_of_sets_over_seeds_is_of_all_sets_together() -> None:
    """Sets that vary apart vary less in the mean: half the variance, where averaged bounds had it all."""
    rng = np.random.default_rng(0)
    sets = [drawn(rng, rng.normal(0, 1.5, 200), 0.0, 5, name) for name in "abcd"]
    apart, together = mean_of_sets([share(one) for one in sets]), share(*sets)
    assert together.value == pytest.approx(apart.value)
    assert together.high - together.low < 1.3 * (apart.high - apart.low)


@pytest.mark.parametrize("spread", [0.3, 0.6])
@pytest.mark.parametrize(("seeds", "prompts"), [(2, 100), (3, 200), (5, 300)])
def test_equal_procedures_get_a_star_in_at_most_6_percent(seeds: int, prompts: int, spread: float) -> None:
    """Two procedures whose runs differ: flipping signs over prompts alone stars a fifth to two thirds of these."""
    rng, stars = np.random.default_rng(seeds), 0
    for _ in range(100):
        skill = rng.normal(0, 1.5, prompts)
        stars += contrast([(drawn(rng, skill, spread, seeds), drawn(rng, skill, spread, seeds))]).p < 0.05
    assert stars / 100 <= 0.06


def split(run: dict[Any, bool], part: int, parts: int) -> dict[Any, bool]:
    """One of so many parts of a run, each with its share of every goal."""
    return dict(list(run.items())[part::parts])


@pytest.mark.parametrize("sets", [1, 4])
@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_runs_get_a_star_in_at_most_6_percent_where_prompts_share_a_goal(sets: int, seeds: int) -> None:
    """50 goals that fare differently in either run, each with four prompts, in one set or in four of a mean.

    As if prompts were independent, 16 % of the single seeds would have a star.
    """
    rng, stars = np.random.default_rng(0), 0
    for _ in range(300):
        arms = []
        for _ in range(2):
            skill = np.repeat(rng.normal(0, 2, 50), 4)
            rows = rng.random((seeds, 200)) < 1 / (1 + np.exp(-skill))
            runs = [{(n // 4, n, 0): bool(verdict) for n, verdict in enumerate(row)} for row in rows]
            arms.append([dict(enumerate(split(run, k, sets) for run in runs)) for k in range(sets)])
        stars += contrast(list(zip(*arms, strict=True))).p < 0.05
    assert stars / 300 <= 0.06


def test_prompts_of_a_goal_flip_together() -> None:
    """Six goals that all changed say as much in one prompt each, in four, and in two sets with two of each."""
    before = {(n // 4, n, 0): True for n in range(24)}
    one = contrast([({0: {(n, 0): False for n in range(6)}}, {0: {(n, 0): True for n in range(6)}})])
    assert one.p == 2 * 0.5**6
    for sets in (1, 2):
        parts = [split(before, k, sets) for k in range(sets)]
        found = contrast([({0: dict.fromkeys(part, False)}, {0: part}) for part in parts])
        assert found[:2] == one[:2]
        assert found.detectable == pytest.approx(one.detectable, rel=0.2)


def test_what_differs_gets_its_star_with_three_seeds() -> None:
    """One logit more, with runs that differ by .3: what the test is for."""
    rng, stars = np.random.default_rng(3), 0
    for _ in range(60):
        skill = rng.normal(0, 1.5, 300)
        stars += contrast([(drawn(rng, skill + 1.5, 0.3, 3), drawn(rng, skill, 0.0, 1))]).p < 0.05
    assert stars / 60 > 0.8


def test_a_test_over_seeds_is_never_less_strict_than_the_one_over_prompts() -> None:
    """Five prompts that all changed are too few, however many seeds agree."""
    base = {0: {(f"p{n}", 0): True for n in range(5)}}
    safe = {seed: {(f"p{n}", 0): False for n in range(5)} for seed in range(3)}
    assert contrast([(safe, base)]).p == sign_flip([-3] * 5) == 0.0625
    assert contrast([(safe, {0: {("p0", 0): None}})]).p != contrast([(safe, base)]).p


def test_the_mean_of_sets_is_over_the_seeds_with_a_value_in_each() -> None:
    first, second = {0: {("a", "p", 0): False}, 1: {("a", "p", 0): True}}, {0: {("b", "p", 0): False}}
    assert share(first, second) == mean_of_sets([Estimate(0.0, *wilson(0, 1))] * 2)
    assert math.isnan(share(first, {2: {("b", "p", 0): False}}).value)
    baseline = {0: {("a", "p", 0): False}}, {0: {("b", "p", 0): False}}
    assert contrast(list(zip((first, second), baseline, strict=True))).difference == 0
    assert math.isnan(contrast([(first, baseline[0]), ({2: second[0]}, baseline[1])]).difference)


def test_a_seed_without_values_says_nothing() -> None:
    tokens = {seed: {(f"p{n}", "b", 0): 10.0 + n + 4 * seed for n in range(3)} for seed in (0, 1)}
    assert mean({**tokens, 2: {}}) == mean(tokens)
    assert mean({**tokens, 2: {("p0", "b", 0): None}}) == mean(tokens)
    own = {seed: {(f"p{n}", 0): n < 9 + seed for n in range(20)} for seed in (0, 1)}
    base = {0: {(f"p{n}", 0): n < 3 for n in range(20)}}
    undecided = {(f"p{n}", 0): None for n in range(20)}
    assert contrast([(own, {**base, 2: undecided})]) == contrast([(own, base)])


def test_a_seed_that_is_undecided_on_some_prompts_moves_no_difference() -> None:
    """Its verdicts equal the baseline's wherever it has one: five of ten prompts, all of them answered."""
    base = {0: {(f"p{n}", 0): n < 5 for n in range(10)}}
    own = {**base, 1: {(f"p{n}", 0): True if n < 5 else None for n in range(10)}}
    found = contrast([(own, base)])
    assert found.difference == 0
    assert found.p == 1


# --- the main table ---


def add_metric(folder: Path, name: str, value: float) -> None:
    """One more number of a judged benchmark."""
    mend(folder, lambda record: record["metrics"].append({**record["metrics"][0], "metric": name, "value": value}))


def paper_like(runs: Path, refused: int = 100, **given: Any) -> None:
    """No-train and AltTrain on two safety sets, over-refusal and two reasoning sets, 100 prompts each."""
    given = {"means": MEANS, **given}
    harmful = {name: (measure, "y" * 83 + "n" * 17) for name, measure in SAFETY.items()}
    reasoning = dict.fromkeys(("gsm8k", "math500"), ("accuracy", "y" * 58 + "n" * 42))
    no_train(runs, {**harmful, "xstest_safe": ("over_refusal_rate", "n" * 100), **reasoning}, **given)
    safe = {name: (measure, "y" * 5 + "n" * 95) for name, measure in SAFETY.items()}
    xstest = {"xstest_safe": ("over_refusal_rate", "y" * (100 - refused) + "n" * refused)}
    make_run(runs, {**safe, **xstest, **reasoning}, **given)


def test_the_main_table_has_our_numbers_beside_the_published(tmp_path: Path) -> None:
    paper_like(tmp_path)
    main = made(tmp_path)["main"]
    assert heads(main) == [
        ("harmful ↓", "jailbreakbench_harmful", "by judge"),
        ("harmful ↓", "strongreject", "by judge"),
        ("harmful ↓", "mean of 2", "by judge"),
        ("over-refusal ↓", "xstest_safe", "by judge"),
        ("accuracy ↑", "mean of 2", "by judge"),
    ]
    base, safe = (cell(main, method, "harmful_rate", "mean") for method in ("No-train", "AltTrain"))
    assert (base.value, base.published, base.covered, base.n, base.seeds) == (0.83, 0.835, True, 200, 1)
    assert (safe.value, safe.published, safe.covered) == (0.05, 0.048, True)
    assert (safe.best, base.best, safe.differs, base.differs) == (True, False, True, False)
    assert safe.difference == pytest.approx(-0.78)
    refused = cell(main, "AltTrain", "over_refusal_rate")
    assert (refused.value, refused.published, refused.covered) == (0.0, 0.14, False)
    assert refused.source.startswith("arXiv")
    assert cell(main, "AltTrain", "accuracy", "mean").p == 1.0
    assert set(main.query("kind == 'rate'").published_why) == {"mean only", ""}


def test_tests_are_adjusted_over_the_report_and_too_few_prompts_are_told(tmp_path: Path) -> None:
    paper_like(tmp_path, refused=92)
    main = made(tmp_path)["main"]
    assert main.p.notna().sum() == 5
    refused = cell(main, "AltTrain", "over_refusal_rate")
    assert refused.p == pytest.approx(2 * 0.5**8)
    assert refused.p_holm == pytest.approx(4 * refused.p)  # of the four that are left; three are of reasoning
    assert (refused.differs, refused.few) == (True, False)
    same = cell(main, "AltTrain", "accuracy", "mean")
    assert (same.differs, same.few) == (False, True)
    assert same.detectable == pytest.approx(detectable_difference(200, 2 / 102))


def test_a_small_difference_is_marked_as_too_little_data(tmp_path: Path) -> None:
    paper_like(tmp_path, refused=98)
    found = cell(made(tmp_path)["main"], "AltTrain", "over_refusal_rate")
    assert (found.differs, found.few) == (False, True)
    assert found.detectable == pytest.approx(detectable_difference(100, 4 / 102))
    assert [line for line in legend(made(tmp_path)["main"]) if line.startswith("† not enough data: were the true")]


def test_seeds_make_one_row_with_an_interval_over_seeds_and_prompts(tmp_path: Path) -> None:
    letters = ("yyyynnnnnn", "yyynnnnnnn")
    for seed, own in enumerate(letters):
        make_run(tmp_path, {"strongreject": ("harmful_rate", own)}, seed=seed)
    no_train(tmp_path, {"strongreject": ("harmful_rate", "y" * 10)})
    found = cell(made(tmp_path)["main"], "AltTrain", "harmful_rate")
    verdicts = {s: {f"p{n}": letter == "y" for n, letter in enumerate(own)} for s, own in enumerate(letters)}
    assert (found.value, found.low, found.high) == pytest.approx(rate_over_seeds(verdicts))
    assert (found.n, found.seeds, found.undecided) == (20, 2, 0)
    assert found.difference == pytest.approx(-0.65)
    assert found.p == pytest.approx(sign_flip([-2] * 6 + [-1]))  # so few prompts decide more than seeds do


def test_hashes_never_share_a_column_nor_a_mean(tmp_path: Path) -> None:
    sets = {name: (measure, "yn") for name, measure in SAFETY.items()}
    for method in ("alttrain", "plain"):
        make_run(tmp_path, sets, method=method)
    make_run(tmp_path, sets, method="direct_refusal", hashed="other")
    main = made(tmp_path)["main"]
    assert [heading[-1] for heading in heads(main)] == [
        "h-jailbreakbench_harmful",
        "other-jailbreakbench_harmful",
        "h-strongreject",
        "other-strongreject",
        "by judge",
    ]
    means = {one.method: one.known for one in main.itertuples() if one.kind == "mean"}
    assert means == {"DirectRefusal": False, "plain": True, "AltTrain": True, label_and_order("no_train")[0]: False}


def test_columns_that_a_setting_tells_apart_are_headed_by_it(tmp_path: Path) -> None:
    for method, tokens in (("alttrain", 1024), ("plain", 128), ("direct_refusal", 64)):
        own = make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, method=method, hashed=method)
        changed = {"backbone.source": ["hub/name", f"/{method}"], "protocol.judged": ["answer", "both"]}
        if tokens != 1024:
            changed["protocol.decoding.max_new_tokens"] = [1024, tokens]  # type: ignore[list-item]
        own /= "evaluation/strongreject.alttrain"
        mend(own, lambda record, changed=changed: record["provenance"].update(changed=changed))  # type: ignore[misc]
    expected = [("by judge", f"max_new_tokens={tokens}") for tokens in (1024, 64, 128)]
    main = made(tmp_path)["main"]
    write_csv(tmp_path / "main.csv", main)
    for table in (main, add_marks(read_csv(tmp_path / "main.csv"))):
        assert sorted(one[2:] for one in heads(table) if one[1:2] == ("strongreject",)) == sorted(expected)


def test_a_judge_and_a_text_of_another_backbone_are_no_setting_of_a_column(tmp_path: Path) -> None:
    for method, prompt in (("alttrain", None), ("plain", "You are one of many"), ("direct_refusal", "Be brief")):
        own = make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, method=method, hashed=method)
        changed: dict[str, list[Any]] = {"benchmark.judge.name": ["refusal", method]}
        if method == "plain":
            changed["benchmark.judge.threshold"] = [5, 4]
        if prompt is not None:
            changed["protocol.system_prompt"] = ["You are the backbone", prompt]
        own /= "evaluation/strongreject.alttrain"
        mend(own, lambda record, changed=changed: record["provenance"].update(changed=changed))  # type: ignore[misc]
    ends = {one[3] for one in heads(made(tmp_path)["main"]) if one[1:2] == ("strongreject",)}
    texts = {"published": 5, "You are one of many": 4, "Be brief": 5}
    prompt = "protocol.system_prompt"
    assert ends == {f"benchmark.judge.threshold={value}, {prompt}={text}" for text, value in texts.items()}


def test_columns_that_no_setting_tells_apart_are_headed_by_their_hash(tmp_path: Path) -> None:
    changed = {"protocol.decoding.max_new_tokens": [1024, 64]}
    for method in ("alttrain", "plain"):
        own = make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, method=method, hashed=method)
        mend(own / "evaluation/strongreject.alttrain", lambda record: record["provenance"].update(changed=changed))
    ends = {one[2:] for one in heads(made(tmp_path)["main"]) if one[1:2] == ("strongreject",)}
    assert ends == {("by judge", f"{method}-strongreject") for method in ("alttrain", "plain")}


def test_another_part_is_a_measure_of_its_own_and_has_no_agreement(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}) / "evaluation" / "strongreject.alttrain"
    other = {"metric": "harmful_rate.thought", "judge": "judge", "part": "thought", "counted": True, "says": "unsafe"}

    def change(record: dict[str, Any]) -> None:
        record["analysis"]["others"] = [other | {"protocol_hash": "t"}]
        record["metrics"].append(record["metrics"][0] | {"metric": "harmful_rate.thought", "value": 0.25})

    mend(folder, change)
    (one,) = evaluations(tmp_path)
    ((name, view),) = one.views().items()
    assert (name, view.measure, view.judge, view.key[2]) == ("harmful_rate.thought", name, "judge", "t")
    assert view.decider == one.decider._replace(measure=name, part="thought")
    assert [(metric["metric"], metric["value"]) for metric in view.metrics_json["metrics"]] == [(name, 0.25)]
    assert view.provenance is one.provenance  # the judge that decides
    mend(folder, lambda record: record["metrics"].pop())
    assert [one.views() for one in evaluations(tmp_path)] == [{}]


def test_another_judges_verdicts_stand_beside_with_their_agreement_and_in_a_column_of_this_judge(
    tmp_path: Path,
) -> None:
    sets = {"strongreject": ("harmful_rate", "yynn")}
    run = make_run(tmp_path, sets)
    beside(run, "strongreject", "yyyn", "g-strongreject", 0.5)
    other = make_run(tmp_path, {"strongreject": ("harmful_rate", "ynnn")}, method="plain", hashed="g")
    decided_by_another(other, "strongreject")
    found = made(tmp_path)
    both = [("harmful ↓", "strongreject", f"by {judge}") for judge in ("other", "judge")]
    agreed = ("agreement (kappa)", "strongreject", "by judge and other")
    assert heads(found["judges"]) == [*both, agreed]
    assert heads(found["main"]) == both
    assert rows(found["judges"]) == {"r1_llama_8b": ["AltTrain"]}
    grid = pivot(found["main"]).map(lambda cell: cell.value, na_action="ignore").droplevel("backbone")
    assert grid.loc["AltTrain"].tolist() == [0.75, 0.5]
    assert grid.loc["plain"].tolist()[0] == 0.25
    why = {one.judge: one.published_why for one in found["overview"].itertuples() if one.method == "AltTrain"}
    assert (why["judge"], why["other"]) == ("mean only", "changed")  # no figure stands beside another judge's number
    kappa = cell(found["judges"], "AltTrain", "kappa")
    assert (kappa.value, kappa.low, kappa.high, kappa.n) == (0.5, 0.1, 0.9, 4)
    assert "by judge and other" in latex("x", found["judges"]).replace(r" \ ", " ")
    assert "0.50 0.10–0.90 n=4" in markdown("x", found["judges"])
    assert found["judges"].judge.unique().tolist() == ["other", "judge", "judge and other"]


def test_a_column_says_that_a_guard_was_of_several_versions(tmp_path: Path) -> None:
    """A guard without a revision is what the hub has on the day."""
    sets = {"strongreject": ("harmful_rate", "yynn"), "jailbreakbench_harmful": ("harmful_rate", "ynnn")}
    for seed, commit in enumerate("aab"):
        run = make_run(tmp_path, sets, seed=seed, means=MEANS)
        for name in sets:
            served = {"judge": [f"hub@{commit if name == 'strongreject' else 'a'}"], "beside": [f"hub@{seed}"]}
            mend(run / "evaluation" / f"{name}.alttrain", lambda record, served=served: record.update(served=served))  # type: ignore[misc]
    table = made(tmp_path)["main"]
    judges = {"jailbreakbench_harmful": "by judge", "strongreject": "by judge, of several versions"}
    assert [head[1:] for head in heads(table)] == [*judges.items(), ("mean of 2", judges["strongreject"])]
    assert sum("`served` in metrics.json" in line for line in legend(table)) == 1
    assert not any(
        "`served` in metrics.json" in line for line in legend(table[table.benchmark == "jailbreakbench_harmful"])
    )


def test_seeds_that_other_judges_decide_have_one_number_and_its_star(tmp_path: Path) -> None:
    """Both judges read both seeds. Value, star and legend are over the same seeds, and a benchmark counts once."""
    runs = [make_run(tmp_path, {"strongreject": ("harmful_rate", "n" * 60)})]
    runs.append(make_run(tmp_path, {"strongreject": ("harmful_rate", "y" * 30 + "n" * 30)}, seed=1, hashed="g"))
    baseline = no_train(tmp_path, {"strongreject": ("harmful_rate", "y" * 60)})
    cut = decided_by_another(runs[1], "strongreject")
    for number, folder in enumerate((runs[0] / "evaluation" / "strongreject.alttrain", cut)):
        change_rows(folder, lambda row, n: {"finish": "length"} if n < 4 else {}, "generations")
        letters, name, way = [("n" * 60, "other", "g"), ("y" * 30 + "n" * 30, "judge", "h")][number]
        beside(folder.parent.parent, "strongreject", letters, f"{way}-strongreject", 0.5, name)
    found = made(tmp_path)
    main = found["main"][found["main"].method == "AltTrain"]
    assert main.kind.tolist() == ["rate", "rate"]  # no mean of one benchmark by two judges
    by_judge = {one.judge: one for one in main.itertuples()}
    one = by_judge["judge"]
    assert (one.value, one.seeds, one.difference) == (0.25, 2, -0.75)
    assert one.differs
    assert by_judge["other"].value == 0.25
    assert any("with several seeds the methods differ" in line for line in legend(found["main"]))
    assert not any("with one seed" in line for line in legend(found["main"]))
    assert [(row.run, row.seeds, row.value) for row in compared(tmp_path)] == [(runs[0].name, 2, 0)]
    assert baseline.name == compared(tmp_path)[0].baseline
    pooled = found["overview"].query("method == 'AltTrain' and measure == 'adherence_rate'")
    assert [(one.benchmark, one.n, one.truncated) for one in pooled.itertuples()][-1:] == [("strongreject", 120, 8)]


def test_an_intervention_on_seeds_that_other_judges_decide_has_no_star(tmp_path: Path) -> None:
    """The number is over both seeds, the test over the one that the same judge decides with and without it."""
    both = {"strongreject": ("harmful_rate", "n" * 60), "strongreject+cut": ("harmful_rate", "y" * 60)}
    for seed, way in ((0, "h"), (1, "g")):
        run = make_run(tmp_path, both, seed=seed, hashed=way)
        intervene(run / "evaluation" / "strongreject+cut.alttrain", "strongreject", share=0.5)
    (one,) = [
        one
        for one in report_of(evaluations(tmp_path)).tables["interventions"].itertuples()
        if one.method.endswith("cut")
    ]
    assert (one.seeds, one.differs) == (1, True)
    for name, (_, letters) in both.items():
        decided_by_another(run, name)
        beside(run, name, letters, f"h-{name}", 0.5, "judge")
    cells = report_of(evaluations(tmp_path)).tables["interventions"].itertuples()
    (one,) = [one for one in cells if one.method.endswith("cut") and one.known]
    assert (one.seeds, one.differs, math.isnan(one.difference)) == (2, False, True)


@pytest.mark.parametrize("base", ["absent", "decided by another"])
def test_an_intervention_on_a_seed_that_has_nothing_to_compare_it_with_has_no_star(tmp_path: Path, base: str) -> None:
    """The number is over both seeds, the test over the one that the same judge decides without the cut."""
    for seed, letter in enumerate("yn"):
        sets = {"strongreject": ("harmful_rate", "n" * 60), "strongreject+cut": ("harmful_rate", letter * 60)}
        if seed and base == "absent":
            del sets["strongreject"]
        run = make_run(tmp_path, sets, seed=seed)
        intervene(run / "evaluation" / "strongreject+cut.alttrain", "strongreject", share=0.5)
    if base != "absent":
        folder = decided_by_another(run, "strongreject")
        mend(folder, lambda record: record["provenance"].update(protocol_hash="g-strongreject"))
        beside(run, "strongreject", "n" * 60, "h-strongreject", 0.5, "judge")
    cells = report_of(evaluations(tmp_path)).tables["interventions"].itertuples()
    (one,) = [one for one in cells if one.method.endswith("cut") and one.known]
    assert (one.value, one.seeds, one.differs, math.isnan(one.difference)) == (0.5, 2, False, True)


def test_a_label_names_what_says_most_of_a_change() -> None:
    changed = {key: (None, key) for key in ("a._target_", "a.b", "c.name")}
    assert changes(changed) == "c.name=c.name, a.b=a.b and 1 more"


def corrected(run: Path, value: float, n: int) -> None:
    """Add a rate that human labels correct."""
    number = {"value": value, "low": value / 2, "high": value * 2, "n": n, "undecided": 0, "truncated": 0}
    own = {"metric": "harmful_rate.corrected", **number}
    mend(run / "evaluation" / "strongreject.alttrain", lambda record: record["metrics"].append(own))


def test_a_corrected_rate_has_a_column_of_its_own_beside_the_judges(tmp_path: Path) -> None:
    """Runs without labels have no number there, nor has a mean over seeds of which one has no labels."""
    sets = {"strongreject": ("harmful_rate", "yynu")}
    corrected(make_run(tmp_path / "runs", sets), 0.4, 12)
    for seed in (0, 1):
        run = make_run(tmp_path / "runs", sets, method="star1", seed=seed)
    corrected(run, 0.2, 6)
    for seed in (0, 1):
        corrected(make_run(tmp_path / "runs", sets, method="plain", seed=seed), 0.2 + seed / 10, 6)
    make_run(tmp_path / "runs", sets, method="direct_refusal")
    found = made(tmp_path / "runs")
    both = [("harmful ↓", "strongreject", "by judge"), ("harmful ↓", "corrected", "strongreject", "by judge")]
    assert heads(found["judges"]) == both
    assert rows(found["judges"]) == {"r1_llama_8b": ["plain", "STAR-1", "AltTrain"]}
    assert heads(found["main"]) == both[:1]
    assert heads(found["overview"])[:2] == both
    for table in (found["judges"], found["overview"]):
        apparent, own = (cell(table, "AltTrain", f"harmful_rate{end}") for end in ("", ".corrected"))
        assert (apparent.value, apparent.n, own.value, own.low, own.high, own.n) == (2 / 3, 3, 0.4, 0.2, 0.8, 12)
        plain = cell(table, "plain", "harmful_rate.corrected")
        assert (plain.value, plain.n, plain.seeds) == (pytest.approx(0.25), 12, 2)
        assert not cell(table, "STAR-1", "harmful_rate.corrected").known
    assert not cell(found["overview"], "DirectRefusal", "harmful_rate.corrected").known
    assert "40.0 20.0–80.0 n=12" in markdown("x", found["judges"])
    assert any(line.startswith("corrected: ") for line in legend(found["judges"]))
    assert not any(line.startswith("corrected: ") for line in legend(found["main"]))
    frame = results(tmp_path)
    told = frame[frame.metric == "harmful_rate.corrected"].set_index("run")
    assert told.loc["r1_llama_8b-alttrain-s0", ["value", "n", "judge"]].tolist() == [0.4, 12, "judge"]
    assert len(told) == 4


def test_the_mean_is_over_the_sets_most_rows_have(tmp_path: Path) -> None:
    sets = {name: (measure, "yn") for name, measure in SAFETY.items()}
    for method in ("alttrain", "plain"):
        make_run(tmp_path, sets, method=method)
    make_run(tmp_path, {**sets, "advbench": ("harmful_rate", "yy")}, method="direct_refusal")
    means = made(tmp_path)["main"].query("kind == 'mean' and known")
    assert set(means.benchmark) == {"jailbreakbench_harmful + strongreject"}
    assert means.value.tolist() == [0.5, 0.5, 0.5]


def test_the_mean_is_the_protocols_and_a_row_without_a_set_says_so(tmp_path: Path) -> None:
    """The mean is over the sets that the protocol names, though most rows have others."""
    wanted = {"harmful_rate": ["advbench", *SAFETY]}
    sets = {name: (measure, "yn") for name, measure in SAFETY.items()}
    for method in ("plain", "star1", "direct_refusal"):
        make_run(tmp_path, {**sets, "harmbench": ("harmful_rate", "yn")}, method=method, means=wanted)
    make_run(tmp_path, {**sets, "advbench": ("harmful_rate", "yy")}, means=wanted)
    main = made(tmp_path)["main"]
    whole = cell(main, "AltTrain", "harmful_rate", "mean")
    assert whole.benchmark == "advbench + jailbreakbench_harmful + strongreject"
    assert (whole.value, whole.published) == (pytest.approx(2 / 3), 0.048)
    lacks = cell(main, "plain", "harmful_rate", "mean")
    assert (lacks.known, lacks.lacking, lacks.notes) == (False, "advbench", ["without advbench"])
    assert "without: the sets that a row lacks, and so has no mean." in legend(main)


def test_a_mean_is_over_the_seeds_that_all_its_sets_have(tmp_path: Path) -> None:
    means = {"harmful_rate": ["a", "b"]}
    both = {"a": ("harmful_rate", "nnnn"), "b": ("harmful_rate", "nynn")}
    no_train(tmp_path, both, means=means)
    make_run(tmp_path, both, means=means)
    make_run(tmp_path, {"a": ("harmful_rate", "yyyy")}, means=means, seed=1)
    for seed, name in enumerate(both):
        make_run(tmp_path, {name: ("harmful_rate", "yyyy")}, means=means, seed=seed, method="plain")
    main = made(tmp_path)["main"]
    found = cell(main, "AltTrain", "harmful_rate", "mean")
    assert (found.value, found.n, found.seeds, found.difference) == (0.125, 8, 1, 0)
    assert not cell(main, "plain", "harmful_rate", "mean").known


def test_a_mean_takes_of_a_set_judged_in_two_ways_the_one_that_most_rows_have(tmp_path: Path) -> None:
    means, both = {"harmful_rate": ["a", "b"]}, {"a": ("harmful_rate", "nn"), "b": ("harmful_rate", "nn")}
    for method in ("alttrain", "plain"):
        make_run(tmp_path, both, means=means, method=method)
    make_run(tmp_path, both, means=means, method="star1")
    for seed, way in enumerate("0129xyz", start=1):
        make_run(tmp_path, {"a": ("harmful_rate", "nn")}, means=means, method="star1", hashed=way, seed=seed)
    (found,) = {one.protocol_hash for one in made(tmp_path)["main"].itertuples() if one.kind == "mean"}
    assert found == "h-a + h-b"


@pytest.mark.parametrize("means", [{}, {"harmful_rate": ["a", "b"]}])
def test_a_mean_of_seeds_that_two_judges_decide_is_by_one_judge(tmp_path: Path, means: dict[str, list[str]]) -> None:
    """The hashes do not say whose they are: those of one judge are the first on a and the last on b."""
    for seed, letters in enumerate(("nnnn", "yyyy")):
        run = make_run(tmp_path, dict.fromkeys("ab", ("harmful_rate", letters)), seed=seed, means=means)
        for name, ways in (("a", "12"), ("b", "21")):
            folder = decided_by_another(run, name) if seed else run / "evaluation" / f"{name}.alttrain"
            mend(folder, lambda record, way=ways[seed]: record["provenance"].update(protocol_hash=way))
    mean = cell(made(tmp_path)["main"], "AltTrain", "harmful_rate", "mean")
    assert (mean.judge, mean.value, mean.protocol_hash) == ("judge", 0, "1 + 2")
    pooled = pool(variants(evaluations(tmp_path)), "alttrain")
    assert [key[1:] for key in pooled] == [("a", "1"), ("b", "2")]


def test_the_sets_of_a_mean_are_compared_with_one_baseline(tmp_path: Path) -> None:
    """The unmodified one has but one set, the changed one both."""
    means = {"harmful_rate": ["a", "b"]}
    own = {"a": ("harmful_rate", "nnnn"), "b": ("harmful_rate", "nnnn")}
    make_run(tmp_path, own, means=means)
    no_train(tmp_path, {"a": ("harmful_rate", "yyyy")}, means=means)
    halves = dict.fromkeys(own, ("harmful_rate", "yynn"))
    no_train(tmp_path, halves, means=means, changed={"backbone.dtype": ["bfloat16", "float32"]})
    main = made(tmp_path)["main"]
    assert cell(main, "AltTrain", "harmful_rate", "mean").difference == -0.5


def test_an_undecided_seed_is_no_seed(tmp_path: Path) -> None:
    no_train(tmp_path, {"a": ("harmful_rate", "y" * 20)})
    for seed, letter in enumerate("nu"):
        make_run(tmp_path, {"a": ("harmful_rate", letter * 20)}, seed=seed)
    found = cell(made(tmp_path)["main"], "AltTrain", "harmful_rate")
    assert (found.value, found.n, found.seeds, found.undecided) == (0, 20, 1, 20)
    assert [one.seeds for one in compared(tmp_path)] == [1, 1]


def test_a_mean_counts_the_texts_of_the_seeds_that_it_is_over(tmp_path: Path) -> None:
    """One of its two sets is undecided with seed 1, whose texts it leaves out; the other set by itself has both."""
    for seed, letters in enumerate(("yn", "uu")):
        sets = {"a": ("harmful_rate", "ynyn"), "b": ("harmful_rate", letters)}
        run = make_run(tmp_path, sets, seed=seed, means={"harmful_rate": ["a", "b"]})
        change_rows(run / "evaluation" / "a.alttrain", lambda row, n: {"finish": "length"}, "generations")
        mend(run / "evaluation" / "a.alttrain", lambda record: record["metrics"][0].update(truncated=4))
    main = made(tmp_path)["main"]
    mean_of_both = cell(main, "AltTrain", "harmful_rate", "mean")
    of_a = cell(main[main.benchmark == "a"], "AltTrain", "harmful_rate")
    assert (mean_of_both.n, mean_of_both.undecided, mean_of_both.truncated, mean_of_both.seeds) == (6, 0, 4, 1)
    assert (of_a.n, of_a.truncated, of_a.seeds) == (8, 8, 2)


def test_texts_of_one_prompt_say_no_more_than_one_of_them(tmp_path: Path) -> None:
    resample(no_train(tmp_path, {"a": ("harmful_rate", "nnnn")}) / "evaluation" / "a.alttrain", 4)
    resample(make_run(tmp_path, {"a": ("harmful_rate", "yyyy")}) / "evaluation" / "a.alttrain", 4)
    (row,) = compared(tmp_path)
    (_, low, high), _ = compare({"a": False}, {"a": True})
    assert (row.difference, row.low, row.high, row.p) == (1, low, high, 1)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_mean_of_sets_with_the_same_goals_is_as_wide_as_one_of_them(tmp_path: Path, seeds: int) -> None:
    sets = dict.fromkeys("ab", ("harmful_rate", "y" * 10 + "n" * 20))
    runs = [make_run(tmp_path, sets, seed=seed, means={"harmful_rate": ["a", "b"]}) for seed in range(seeds)]
    apart = cell(made(tmp_path)["main"], "AltTrain", "harmful_rate", "mean")
    for folder in (run / "evaluation" / f"{name}.alttrain" for run in runs for name in sets):
        change_rows(folder, lambda row, n: {"goal": f"Goal {n}."}, "generations")
    main = made(tmp_path)["main"]
    found = cell(main, "AltTrain", "harmful_rate", "mean")
    one = next(main.query("kind == 'rate' and known").itertuples())
    assert found.value == apart.value == one.value
    assert (found.low, found.high) == pytest.approx((one.low, one.high))
    assert apart.high - apart.low < 0.8 * (found.high - found.low)


def test_a_live_attack_on_dialogues_is_compared_with_these(tmp_path: Path) -> None:
    """Its goal is the dialogue's last message."""
    run = make_run(tmp_path, {"h": ("harmful_rate", "ynyn"), "h+crescendo": ("harmful_rate", "yyyy")})
    base, attacked = (run / "evaluation" / f"{name}.alttrain" for name in ("h", "h+crescendo"))
    change_rows(base, lambda row, n: {"turns": ("Hi.",), "prompt": f"Prompt {n}?"}, "generations")
    change_rows(attacked, lambda row, n: {"goal": f"Prompt {n}?"}, "generations")
    intervene(attacked, "h", "crescendo", _target_="x.Crescendo")
    (row,) = report_of(evaluations(tmp_path)).frames["interventions"].itertuples()
    assert (row.n, row.gained, row.value) == (4, 2, 1.0)


def test_a_mean_of_sets_that_other_seeds_decided_is_unknown(tmp_path: Path) -> None:
    for seed, letters in enumerate(("yu", "uy")):
        sets = {name: ("harmful_rate", 4 * letter) for name, letter in zip("ab", letters, strict=True)}
        make_run(tmp_path, sets, seed=seed, means={"harmful_rate": ["a", "b"]})
    found = cell(made(tmp_path)["main"], "AltTrain", "harmful_rate", "mean")
    assert not found.known
    assert (found.n, found.undecided, found.seeds) == (8, 8, 1)


def test_a_prompt_counts_once_however_many_of_its_texts_are_decided(tmp_path: Path) -> None:
    """Four texts of each of four prompts, of which three are undecided: a quarter, in every number."""
    own, base = "yyyy" + 3 * "nuuu", "n" * 16
    resample(no_train(tmp_path, {"a": ("harmful_rate", base)}) / "evaluation" / "a.alttrain", 4)
    run = make_run(tmp_path, {"a": ("harmful_rate", own), "a+cut": ("harmful_rate", own)})
    for name in ("a", "a+cut"):
        resample(run / "evaluation" / f"{name}.alttrain", 4)
    intervene(run / "evaluation" / "a+cut.alttrain", "a", share=0.5)
    report = report_of(evaluations(tmp_path))
    found = cell(report.tables["main"], "AltTrain", "harmful_rate")
    assert (found.value, found.difference) == (0.25, 0.25)
    (row,) = report.frames["comparisons"].itertuples()
    assert (row.value, row.difference) == (0.25, 0.25)
    (cut,) = report.frames["interventions"].itertuples()
    assert (cut.value, cut.rate_low, cut.rate_high) == (0.25, found.low, found.high)
    resample(make_run(tmp_path, {"a": ("harmful_rate", own)}, seed=1) / "evaluation" / "a.alttrain", 4)
    both = cell(made(tmp_path)["main"], "AltTrain", "harmful_rate")
    assert (both.value, both.difference) == (0.25, 0.25)


def test_without_any_row_that_has_all_sets_each_set_stands_beside_the_missing_mean(tmp_path: Path) -> None:
    wanted = {"harmful_rate": [*SAFETY, "gcg", "jbc", "pair"]}
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, method="alttrain_500", means=wanted)
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, method="alttrain_3000", means=wanted)
    found = made(tmp_path)["data_size"]
    assert [heading[1] for heading in heads(found)] == ["strongreject", "mean of 5"]
    lacks = cell(found, "3K", "harmful_rate", "mean")
    assert (lacks.lacking, lacks.published) == ("gcg + jailbreakbench_harmful + jbc + pair", 0.047)
    assert lacks.notes == ["without gcg, jailbreakbench_harmful and 2 more"]


def test_undecided_rates_are_said_and_compared_with_nothing(tmp_path: Path) -> None:
    no_train(tmp_path, {"strongreject": ("harmful_rate", "yyyy")})
    make_run(tmp_path, {"strongreject": ("harmful_rate", "uuuu")})
    found = cell(made(tmp_path)["main"], "AltTrain", "harmful_rate")
    assert (found.known, found.notes, math.isnan(found.p)) == (False, ["undecided 4/4"], True)


# --- other tables ---


def test_only_tables_with_data_are_made(tmp_path: Path) -> None:
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")})
    assert list(made(tmp_path)) == ["overview", "main", "adherence", "efficiency", "published"]


def test_ablations_stand_in_the_papers_order_with_its_figures(tmp_path: Path) -> None:
    sets = {name: (measure, "yn") for name, measure in SAFETY.items()}
    no_train(tmp_path, sets, means=MEANS)
    for method in ("alttrain_rephrased", "alttrain_without_pu", "alttrain", "alttrain_by_gpt4o"):
        make_run(tmp_path, sets, method=method, means=MEANS)
    make_run(tmp_path, sets, method="alttrain_without_pu", backbone="r1_qwen_7b", means=MEANS)
    found = made(tmp_path)
    ablation = found["ablation_structure"]
    assert rows(ablation)["r1_llama_8b"] == ["No-train", "AltTrain", "without PU", "CR rephrased"]
    assert cell(ablation, "without PU", "harmful_rate", "mean").published == 0.016
    assert rows(found["main"])["r1_llama_8b"] == ["No-train", "AltTrain"]
    assert list(rows(ablation)) == ["r1_llama_8b"]  # the other has but one row
    assert rows(found["teacher_swap"]) == {"r1_llama_8b": ["No-train", "AltTrain", "by gpt4o"]}
    assert len(rows(found["overview"])["r1_llama_8b"]) == 5


def test_a_contrast_has_one_p_wherever_it_is_shown(tmp_path: Path) -> None:
    sets = {name: (measure, "y" * 9 + "n") for name, measure in SAFETY.items()}
    no_train(tmp_path, sets)
    safe = {name: (measure, "yy" + "n" * 8) for name, measure in SAFETY.items()}
    for method in ("alttrain", "alttrain_without_pu", "plain"):
        for seed in (0, 1):
            make_run(tmp_path, safe, method=method, seed=seed)
    found = made(tmp_path)
    shown: dict[tuple[str, str, str], set[tuple[float, float]]] = {}
    for name in ("overview", "main", "ablation_structure"):
        for one in found[name].itertuples():
            if not math.isnan(one.p):
                shown.setdefault((one.method, one.kind, one.benchmark), set()).add((one.p, one.p_holm))
    labels = {"alttrain": "AltTrain", "alttrain_without_pu": "without PU", "plain": "plain"}
    for row in compared(tmp_path):
        method = row.run.split("-")[1]
        shown[labels[method], "rate", row.benchmark].add((row.p, row.p_holm))
    assert len(shown) == 9  # three methods on two sets, and in their mean
    assert all(len(own) == 1 for own in shown.values())
    (sets_p,) = {p for (_, kind, _), own in shown.items() if kind == "rate" for p, _ in own}
    assert sets_p >= sign_flip([-2] * 7)
    adjusted = [p_holm for own in shown.values() for _, p_holm in own]
    assert adjusted == pytest.approx(list(holm({key: p for key, own in shown.items() for p, _ in own}).values()))


def test_amounts_of_data_stand_in_their_order(tmp_path: Path) -> None:
    for size in (3000, 500):
        sets = {name: (measure, "yn") for name, measure in SAFETY.items()}
        make_run(tmp_path, sets, dataset=f"alttrain_{size}", method=f"alttrain_{size}", means=MEANS)
    found = made(tmp_path)
    assert rows(found["data_size"]) == {"r1_llama_8b": ["0.5K", "3K"]}
    assert cell(found["data_size"], "3K", "harmful_rate", "mean").published == 0.047
    assert "main" not in found
    assert "benign_amount" not in found


APART: dict[str, dict[str, Any]] = {
    "nq_open": {"tables": ["general"], "labels": {"accuracy": "exact match", "score": "F1"}},
    "cmmlu": {"tables": ["general"]},
    "cnn_dailymail": {"tables": ["general"], "labels": {"score": "ROUGE"}},
    "ifeval": {"tables": ["general"], "labels": {"accuracy": "strict", "score": "loose"}},
    "safemt_attack_600": {"tables": ["multi_turn"]},
    "multijail_en": {"tables": ["multilingual"]},
}
"""What the YAML files of benchmarks say about their place in tables."""


def test_the_benchmarks_yaml_says_where_they_stand() -> None:
    conf = Path(__file__).parent.parent / "conf" / "benchmark"
    found = {path.stem: yaml.safe_load(path.read_text()) for path in conf.glob("*.yaml")}
    said = {name: {key: one[key] for key in ("tables", "labels") if key in one} for name, one in found.items()}
    names = {"multijail": "multijail_en"}
    assert {names.get(name, name): own for name, own in said.items() if own} == APART


def test_what_was_not_generated_spends_no_tokens_and_assesses_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yyn")})
    (one,) = evaluations(tmp_path)
    texts = {(subject_of(row), one.benchmark, row.id, row.sample) for row in one.asked()}
    first = one.asked()[0]
    gone = msgspec.structs.replace(first, finish="error", thought_tokens=0, answer_tokens=0)
    one.asked = lambda: [gone]  # type: ignore[method-assign]
    found = values_of(one)
    assert not any(found.get(measure) for measure in TOKENS)
    text = (subject_of(first), one.benchmark, first.id, first.sample)
    assert text in texts
    assert all(text not in found.get(measure, {}) for measure in ASSESSING)


def test_general_ability_and_multi_turn_stand_apart(tmp_path: Path) -> None:
    sets = {"nq_open": ("accuracy", "yyn"), "cmmlu": ("accuracy", "yn"), "safemt_attack_600": ("harmful_rate", "yn")}
    run = make_run(tmp_path, {**sets, "cnn_dailymail": ("accuracy", "yn")}, shown=APART)
    for name, score in (("nq_open", 0.7), ("cnn_dailymail", 0.25)):
        add_metric(run / "evaluation" / f"{name}.alttrain", "score", score)
    make_run(tmp_path, {"gsm8k": ("accuracy", "yn")}, method="plain")
    found = made(tmp_path)
    general = found["general"]
    assert heads(general) == [
        ("accuracy ↑", "cmmlu", "by judge"),
        ("exact match ↑", "nq_open", "by judge"),
        ("ROUGE ↑", "cnn_dailymail", "by judge"),
        ("F1 ↑", "nq_open", "by judge"),
    ]
    assert rows(general) == {"r1_llama_8b": ["AltTrain"]}
    assert general.published_why.tolist() == ["not known", "not reported", "not known", "not known"]
    assert general.value.tolist() == pytest.approx([0.5, 2 / 3, 0.25, 0.7])
    assert [heading[1] for heading in heads(found["multi_turn"])] == ["safemt_attack_600"]
    assert [heading[1] for heading in heads(found["main"])] == ["gsm8k"]


def test_a_benchmark_keeps_its_own_label_beside_other_protocols(tmp_path: Path) -> None:
    for protocol in ("offline", "alttrain"):
        sets = {"riddles": ("accuracy", "yn")}
        shown = {"riddles": {"tables": ["main", "general"], "labels": {"accuracy": "solved"}}}
        make_run(tmp_path, sets, protocol=protocol, shown=shown, seed=len(protocol))
    own = made(tmp_path)
    assert [set(own[name].called) for name in ("main", "general", "overview")][:2] == [{"solved"}, {"solved"}]
    assert "## Protocol alttrain\n\n| method | solved ↑ riddles by judge |" in markdown("x", own["general"]).replace(
        "backbone | ", ""
    )


def test_an_interval_that_allows_for_no_other_seeds_says_so(tmp_path: Path) -> None:
    for seed, rate in enumerate((0.1, 0.9)):
        run = no_train(tmp_path, {"strongreject": ("harmful_rate", "yn" * 50)}, seed=seed)
        folder = run / "evaluation" / "strongreject.alttrain"
        add_metric(folder, "recognised_rate", rate)
        add_metric(folder, "harmful_rate.corrected", rate)
    found = made(tmp_path)
    allows = "Of several seeds the interval allows for other seeds, too."
    told = {name: [allows in legend(found[name]), SEEDS_APART in legend(found[name])] for name in ("main", "judges")}
    assert told == {"main": [True, False], "judges": [True, True]}
    assert [allows in legend(found["recognition"]), SEEDS_APART in legend(found["recognition"])] == [False, True]


def test_what_untrained_backbones_recognise_is_a_table(tmp_path: Path) -> None:
    base = no_train(tmp_path, {"strongreject": ("harmful_rate", "yn"), "xstest_safe": ("over_refusal_rate", "nn")})
    make_run(tmp_path, {"strongreject": ("harmful_rate", "nn")})
    assert "recognition" not in made(tmp_path)
    for name, value in (("opening_pu_rate", 0.9), ("recognised_rate", 0.8), ("recognised_answered_rate", 0.6)):
        add_metric(base / "evaluation" / "strongreject.alttrain", name, value)
    found = made(tmp_path)
    recognition = found["recognition"]
    assert heads(recognition) == [
        ("opening holds a PU", "strongreject"),
        ("harm recognised", "strongreject"),
        ("recognised, yet answered", "strongreject", "by judge"),
    ]
    assert rows(recognition) == {"r1_llama_8b": ["No-train"]}
    assert recognition.value.tolist() == [0.9, 0.8, 0.6]
    assert not found["overview"].measure.isin(RECOGNISING).any()


def test_all_known_figures_are_a_table_by_source(tmp_path: Path) -> None:
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")})
    entries = made(tmp_path)["published"]
    assert entries.protocol.unique().tolist() == ["alttrain", "thinking_tokens_suite"]
    thinksafe = entries[entries.method == label_and_order("thinksafe")[0]]
    known = {(one.protocol, one.backbone, one.measure): one for one in thinksafe.itertuples()}
    found = known["thinking_tokens_suite", "qwen3_8b", "harmful_rate"]
    assert (found.value, found.source.startswith("arXiv 2606.25013")) == (0.309, True)
    assert entries[entries.protocol == "thinking_tokens_suite"].known.sum() == 40
    text = markdown("Published", entries)
    assert "- Protocol thinking_tokens_suite: arXiv 2606.25013." in text
    assert "published" not in text.split("The CSV")[0].partition("\n")[2]


def test_failures_are_split_by_what_the_assessment_said(tmp_path: Path) -> None:
    make_run(tmp_path, {"strongreject": ("harmful_rate", "ynnu"), "xstest_safe": ("over_refusal_rate", "yyn")})
    own = made(tmp_path)["adherence"]
    shares = {one.measure: (one.value, one.n) for one in own.itertuples() if one.known}
    assert shares["adherence_rate"] == (1.0, 7)
    assert shares["recall"] == (1.0, 4)
    assert shares["false_alarms"] == (0.0, 3)
    assert shares["answered_disobeyed"] == (pytest.approx(1 / 3), 3)
    assert shares["answered_misjudged"] == (0.0, 3)
    assert shares["refused_disobeyed"] == (pytest.approx(2 / 3), 3)


def test_pools_count_undecided_and_truncated_texts(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"strongreject": ("harmful_rate", "ynnu"), "xstest_safe": ("over_refusal_rate", "yyn")})
    make_run(tmp_path, {"strongreject": ("harmful_rate", "uu"), "xstest_safe": ("over_refusal_rate", "u")}, seed=1)
    cut = run / "evaluation" / "strongreject.alttrain"
    change_rows(cut, lambda row, n: {"finish": "length" if n < 2 else "stop"}, "generations")
    found = made(tmp_path)
    counts = {one.measure: (one.n, one.undecided, one.truncated, one.seeds) for one in found["adherence"].itertuples()}
    assert counts["recall"] == (6, 0, 2, 2)
    assert counts["answered_disobeyed"] == (3, 3, 2, 1)
    assert counts["refused_disobeyed"] == (3, 1, 0, 1)
    tokens = cell(found["efficiency"], "AltTrain", "query_tokens", "pool")
    assert (tokens.n, tokens.undecided, tokens.truncated) == (10, 0, 2)


def test_what_training_and_a_query_cost(tmp_path: Path) -> None:
    record = {"examples": 1000, "tokens": 2_505_000, "seconds": 3600.0, "device": "cuda"}
    make_run(tmp_path, {"gsm8k": ("accuracy", "yn")}, trained=record)
    make_run(tmp_path, {"gsm8k": ("accuracy", "yn")}, trained=record | {"devices": 2}, seed=1)
    make_run(tmp_path, {"gsm8k": ("accuracy", "yn")}, trained=record | {"device": "cpu"}, method="plain")
    found = made(tmp_path)["efficiency"]
    hours = cell(found, "AltTrain", "training_hours", "training")
    assert (hours.value, hours.published, hours.seeds) == (1.5, 1.0, 2)
    assert not cell(found, "plain", "training_hours", "training").known
    assert cell(found, "plain", "training_seconds", "training").value == 3600
    assert cell(found, "AltTrain", "training_seconds", "training").value == 3600
    assert cell(found, "AltTrain", "query_tokens", "pool").value == 15


# --- what is missing ---


def test_rows_and_cells_that_are_missing_are_there_and_say_so(tmp_path: Path) -> None:
    sets = {name: (measure, "yn") for name, measure in SAFETY.items()}
    for method in ("plain", "alttrain"):
        make_run(tmp_path, sets, method=method, backbone="r1_qwen_7b", means=MEANS)
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, means=MEANS)
    main = made(tmp_path)["main"]
    base = label_and_order("no_train")[0]
    assert rows(main)["r1_llama_8b"] == [base, "plain", "AltTrain"]
    own = main[(main.backbone == "r1_llama_8b") & (main.method == "AltTrain")]
    assert (own.known.tolist(), own.missing.tolist()) == ([False, True, False], [True, False, True])
    assert cell(main, "plain", "harmful_rate", "mean").missing
    found = cell(main, base, "harmful_rate", "mean")
    assert (found.published, found.covered, found.missing) == (0.835, None, True)
    assert "| – published 83.5 |" in markdown("x", main)


def test_phrase_judgements_ask_for_no_published_rows(tmp_path: Path) -> None:
    make_run(tmp_path, {"xstest_safe": ("over_refusal_rate", "yn")}, protocol="offline")
    main = made(tmp_path)["main"]
    assert [(one.method, math.isnan(one.published)) for one in main.itertuples()] == [("AltTrain", True)]
    assert legend(main)[-1] == "No published figure: ᵖ figures were made by another protocol."


# --- how tables are written ---


def test_markdown_is_exact(tmp_path: Path) -> None:
    no_train(tmp_path, {"xstest_safe": ("over_refusal_rate", "n" * 20)}, protocol="offline")
    sets = {"xstest_safe": ("over_refusal_rate", "y" * 19 + "n")}
    make_run(tmp_path, sets, protocol="offline", method="ab", label="a|b")
    assert markdown("Backbones", made(tmp_path)["main"]).splitlines() == [
        "# Backbones",
        "",
        "| backbone | method | over-refusal ↓ xstest_safe by judge |",
        "| --- | --- | --- |",
        "| r1_llama_8b | No-train | **0.0** 0.0–16.1 n=20 ᵖ |",
        "| r1_llama_8b | a\\|b | 95.0\\* 76.4–99.1 n=20 ᵖ |",
        "",
        "- Percent with its 95 % interval, and the n texts it is over; ↓ lower is better.",
        "- Bold: best of its backbone in the column.",
        "- \\* differs from No-train (5 %, Holm over the report's contrasts): with one seed these weights differ, not "
        "yet the methods: other seeds were not tried (exact paired test).",
        "- No published figure: ᵖ figures were made by another protocol.",
    ]


def test_a_table_survives_its_csv(tmp_path: Path) -> None:
    paper_like(tmp_path / "runs")
    main = made(tmp_path / "runs")["main"]
    write_csv(tmp_path / "main.csv", main[CELLS])
    again = add_marks(read_csv(tmp_path / "main.csv"))
    pd.testing.assert_frame_equal(again, main)
    assert markdown("x", again) == markdown("x", main)


def test_protocols_are_parts_of_a_table(tmp_path: Path) -> None:
    for protocol in ("offline", "star1"):
        make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, protocol=protocol, seed=len(protocol))
    main = made(tmp_path)["main"]
    assert main.protocol.unique().tolist() == ["offline", "star1"]
    text = markdown("x", main)
    assert text.index("## Protocol offline") < text.index("## Protocol star1")


def test_latex_has_no_letter_that_latex_would_take_for_its_own() -> None:
    assert latex_text("a_b & 5 % #1 {x} ~^\\ <>") == (
        r"a\_b \& 5 \% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}\textgreater{}"
    )
    assert latex_text("12.5*† 1–2 n=3×2 ✓") == (
        r"12.5\textsuperscript{*}\textsuperscript{\dag} 1--2 n=3$\times$2 \ding{51}"
    )
    assert latex_text("名é") == "?é"


@pytest.mark.slow
@pytest.mark.skipif(not has_latex(), reason="pdflatex or a package of our tables is not installed")
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_a_paper_inputs_every_table_as_it_is(tmp_path: Path, columns: str) -> None:
    """In the text and in its own environment, with the packages that the tables name, and no line too wide."""
    paper_like(tmp_path / "runs")
    runs = tmp_path / "runs"
    make_run(runs, {"strongreject": ("harmful_rate", "yn")}, protocol="star1", method="mine", label="r_1 & {co}")
    apart = {"nq_open": "accuracy", "safemt_attack_600": "harmful_rate", "multijail_en": "harmful_rate"}
    make_run(runs, {name: (measure, "yyn") for name, measure in apart.items()}, method="star1", shown=APART)
    for method in ("alttrain_without_ha", "alttrain_by_gpt4o"):
        make_run(runs, {name: (measure, "yun") for name, measure in SAFETY.items()}, method=method)
    for method in ("alttrain_500", "alttrain_3000", "alttrain_benign_0", "alttrain_benign_900"):
        run = make_run(runs, {"strongreject": ("harmful_rate", "yn")}, method=method)
    beside(run, "strongreject", "yy", "g-strongreject", 0.5)
    found = made(runs)
    assert found.keys() == TABLES.keys() - {"recognition", "interventions"}
    texts = {name: latex(f"100 % {name}", entries) for name, entries in found.items()}
    packages = {line[2:] for text in texts.values() for line in text.splitlines() if "usepackage" in line}
    body = []
    for name, text in texts.items():
        (tmp_path / f"{name}.tex").write_text(text)
        own = rf"\input{{{name}}}"
        body += [own, rf"\begin{{table*}}\caption{{A}}\label{{{name}}}{own}\end{{table*}}", r"\clearpage"]
    done = compile_article(tmp_path, columns, [*packages, r"\begin{document}", "Text.", *body])
    assert "Overfull \\hbox" not in done
    assert "Underfull \\hbox" not in done


def test_a_number_that_nothing_undecided_explains_is_undefined(tmp_path: Path) -> None:
    """Of judges that judge all texts alike there is no kappa."""
    run = make_run(tmp_path, {"strongreject": ("harmful_rate", "yyyy")})
    beside(run, "strongreject", "yyyy", "o", 0.5)
    unknown = dict.fromkeys(("value", "low", "high"))
    mend(run / "evaluation" / "strongreject.alttrain", lambda record: record["metrics"][-1].update(unknown))
    shown = made(tmp_path)["judges"]
    assert cell(shown, "AltTrain", "kappa").notes == ["undefined"]
    assert any("undefined if both judge all of them alike" in line for line in legend(shown))


def test_a_label_is_no_markup_on_the_console(tmp_path: Path) -> None:
    make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")}, label="Our\x1b[own] [/b]")
    shown = made(tmp_path)["overview"].assign(called="harm [done]")
    screen = Console(width=80, markup=False, emoji=False)
    with screen.capture() as captured:
        for part in console("runs", shown):
            screen.print(part)
    assert "Our [own] [/b]" in captured.get()
    assert "[done]" in captured.get()


def test_the_console_fits_80_columns(tmp_path: Path) -> None:
    benchmarks = {"embedded_harmful": "harmful_rate", "embedded_benign": "over_refusal_rate"}
    benchmarks |= {"embedded_short_answer": "accuracy"}
    for method in ("no_train", "alttrain"):
        training = "none" if method == "no_train" else "demo"
        for seed in (0, 1):
            own = {name: (measure, "y" * 100) for name, measure in benchmarks.items()}
            names = {"backbone": "smollm2_135m", "dataset": "embedded", "method": method, "training": training}
            names |= {"rewrite": "none"} if method == "no_train" else {}
            make_run(tmp_path, own, protocol="offline", seed=seed, **names)
    screen = Console(width=80)
    with screen.capture() as captured:
        for part in console("runs", made(tmp_path)["overview"]):
            screen.print(part)
    text = captured.get()
    assert "runs of smollm2_135m" in text
    assert text.count("harmful ↓") == 1
    assert text.count("96.3–100.0") == 6
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
