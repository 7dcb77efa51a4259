"""Judge agreement equals its references, human labels are read strictly, and corrected rates cover the truth."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.regression.linear_model import WLS
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from alttrain.evaluation.agreement import (
    cohen_kappa,
    confusions,
    corrected_rate,
    judge_report,
    kappa,
    krippendorff_alpha,
    nominal_alpha,
    weighted_rate,
)
from alttrain.evaluation.labels import HumanLabels, Label, read_labels
from alttrain.evaluation.statistics import wilson

MARKS = {"+": True, "-": False, "?": None}


def verdicts(marks: str) -> dict[str, bool | None]:
    """Verdicts of x0, x1, ... from a string: + True, - False, ? undecided."""
    return {f"x{index}": MARKS[mark] for index, mark in enumerate(marks)}


def close(found: Sequence[float], expected: Sequence[float]) -> bool:
    return found == pytest.approx(expected, rel=1e-9, nan_ok=True)


# --- between judges ---


def test_kappa_equals_statsmodels() -> None:
    """20 and 15 alike, 5 and 10 apart: 0.4 by hand, (0.7 - 0.5) / (1 - 0.5)."""
    first, second = verdicts("+" * 25 + "-" * 25), verdicts("+" * 20 + "-" * 5 + "+" * 10 + "-" * 15)
    expected = cohens_kappa(np.array([[15, 10], [5, 20]]))
    found = cohen_kappa(first, second)
    assert close(found["coefficient"], (0.4, expected.kappa_low, expected.kappa_upp))
    assert (found["agreed"], found["n"], found["undecided"]) == (0.7, 50, 0)


def test_kappa_leaves_undecided_verdicts_out_and_counts_them() -> None:
    found = cohen_kappa(verdicts("++--?+?"), verdicts("+---+??"))
    assert found["coefficient"].value == pytest.approx(
        cohen_kappa(verdicts("++--"), verdicts("+---"))["coefficient"].value
    )
    assert (found["agreed"], found["n"], found["undecided"]) == (0.75, 4, 3)


def test_kappa_of_judges_that_agree_on_all_is_certain_however_its_variance_is_rounded() -> None:
    several = [kappa([(k, k) for k in range(3) for _ in range(n + k)], range(3 * n + 3)) for n in range(1, 30)]
    assert several == [pytest.approx((1, 1, 1), abs=1e-6)] * len(several)


@pytest.mark.parametrize(
    ("first", "second", "agreed", "n"), [("+++", "+++", 1.0, 3), ("---", "-?-", 1.0, 2), ("??", "+-", math.nan, 0)]
)
def test_agreement_without_two_kinds_of_verdict_is_nan(first: str, second: str, agreed: float, n: int) -> None:
    for found in (
        cohen_kappa(verdicts(first), verdicts(second)),
        krippendorff_alpha({"a": verdicts(first), "b": verdicts(second)}, 0),
    ):
        assert all(map(math.isnan, found["coefficient"]))
        assert (found["agreed"], found["n"]) == pytest.approx((agreed, n), nan_ok=True)


JUDGES = {"a": "+-++-?-+--+", "b": "+-+--+-?--+", "c": "+++--?--?-+", "d": "?-+--?-?+-?"}


def test_alpha_equals_the_package_with_missing_values() -> None:
    judges = {name: verdicts(marks) for name, marks in JUDGES.items()}
    table = [[math.nan if value is None else float(value) for value in own.values()] for own in judges.values()]
    found = krippendorff_alpha(judges, 3)
    assert found["coefficient"].value == pytest.approx(
        krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")
    )
    assert found["coefficient"].low < found["coefficient"].value < found["coefficient"].high <= 1
    assert (found["n"], found["undecided"]) == (10, 1)  # x5 has one decided verdict
    assert found["agreed"] == pytest.approx(6 / 10)
    assert found == krippendorff_alpha(judges, 3)


def test_resampled_alpha_is_the_packages_alpha_of_the_resample() -> None:
    kinds = np.array([[0, 2], [1, 1], [3, 0], [2, 2]])
    numbers = np.random.default_rng(0).integers(1, 9, (20, 4))
    expected = [
        krippendorff.alpha(value_counts=np.repeat(kinds, row, axis=0), level_of_measurement="nominal")
        for row in numbers
    ]
    assert close(nominal_alpha(kinds, numbers), expected)
    assert math.isnan(nominal_alpha(kinds, np.array([[5, 0, 0, 0]]))[0])


def test_alpha_interval_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two judges that each err in 10 % of verdicts on even classes: alpha is 0.64 in the long run."""
    monkeypatch.setattr("alttrain.evaluation.agreement.RESAMPLES", 500)
    rng, held = np.random.default_rng(5), 0
    for seed in range(300):
        truth = rng.random(150) < 0.5
        judges = {name: {str(i): bool(v) for i, v in enumerate(truth ^ (rng.random(150) < 0.1))} for name in ("a", "b")}
        _, low, high = krippendorff_alpha(judges, seed)["coefficient"]
        held += low <= 0.64 <= high
    assert 0.92 <= held / 300 <= 0.98


# --- several texts of a prompt ---


def repeated(marks: str, texts: int) -> dict[tuple[str, int], bool | None]:
    """The same verdict on each of a prompt's texts, as if there were only one."""
    return {(name, sample): verdict for name, verdict in verdicts(marks).items() for sample in range(texts)}


def test_copies_of_a_text_narrow_no_interval() -> None:
    """Ten prompts, judged True for five and six: eight like texts of each say no more than one."""
    marks = {"a": "+++++-----", "b": "++++++----"}
    one, eight = (judge_report({name: repeated(own, n) for name, own in marks.items()}, 0) for n in (1, 8))
    assert one["judges"]["a"]["rate"] == {"value": 0.5, "low": wilson(5, 10)[0], "high": wilson(5, 10)[1]}
    for figure in (lambda report: report["judges"]["a"]["rate"], lambda report: report["alpha"]["coefficient"]):
        assert list(figure(eight).values()) == pytest.approx(list(figure(one).values()), abs=0.06)
    assert eight["kappa"][0]["coefficient"]["value"] == pytest.approx(0.8)
    assert eight["kappa"][0]["coefficient"]["low"] < 0.45  # 0.71 as if texts were independent; 0.43 of one text each
    assert (eight["kappa"][0]["n"], eight["judges"]["a"]["n"]) == (80, 80)
    apparent = corrected_rate(repeated(marks["a"], 8), {("x0", 0): True})["apparent"]
    assert list(apparent) == pytest.approx(list(eight["judges"]["a"]["rate"].values()))


def test_prompts_are_resampled_whole() -> None:
    """Against a plain bootstrap of 40 prompts with one to five texts each, by the packages' own coefficients."""
    rng = np.random.default_rng(2)
    texts = [(f"p{prompt}", sample) for prompt in range(40) for sample in range(rng.integers(1, 6))]
    leaning = dict(zip(dict(texts), rng.random((40, 2)) < 0.15, strict=True))
    first = {name: int(name[0][1:]) % 2 == 0 for name in texts}
    second = {name: bool(first[name] ^ leaning[name[0]][0] ^ (rng.random() < 0.05)) for name in texts}
    by_prompt = [[(first[name], second[name]) for name in texts if name[0] == prompt] for prompt in leaning]
    expected = []
    for _ in range(1500):
        drawn = np.array([pair for number in rng.integers(0, 40, 40) for pair in by_prompt[number]])
        alpha = krippendorff.alpha(reliability_data=drawn.T.astype(float), level_of_measurement="nominal")
        expected.append((cohen_kappa_score(*drawn.T), alpha))
    bounds = np.percentile(expected, (2.5, 97.5), axis=0).T.tolist()
    kappa_found, alpha_found = cohen_kappa(first, second), krippendorff_alpha({"a": first, "b": second}, 0)
    of_texts = cohen_kappa_score(list(first.values()), list(second.values()))
    assert kappa_found["coefficient"].value == pytest.approx(of_texts)
    assert list(kappa_found["coefficient"][1:]) == pytest.approx(bounds[0], abs=0.03)
    assert list(alpha_found["coefficient"][1:]) == pytest.approx(bounds[1], abs=0.03)
    assert kappa_found == cohen_kappa(first, second)


def test_texts_of_one_prompt_give_no_interval() -> None:
    judges = {"a": {("p", n): n < 3 for n in range(5)}, "b": {("p", n): n < 2 for n in range(5)}}
    assert cohen_kappa(judges["a"], judges["b"])["coefficient"][1:] == (-1, 1)
    assert all(map(math.isnan, krippendorff_alpha(judges, 0)["coefficient"][1:]))


# --- human labels ---


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def row(name: str, **told: Any) -> dict[str, Any]:
    return {"id": name, "hash": f"h-{name}", **told}


def test_labels_are_read_from_json_lines_and_from_csv(tmp_path: Path) -> None:
    rows = (row("a", refused=True), "", row("b", refused=None, note="odd", sample=2), row("c", refused=False, weight=3))
    labels = read_labels(write(tmp_path / "labels.jsonl", *rows))
    expected = (
        Label(("a", 0), "h-a", True),
        Label(("b", 2), "h-b", None),
        Label(("c", 0), "h-c", False, 3.0),
    )
    assert labels == HumanLabels("refused", expected)
    lines = ("id,sample,hash,weight,refused", "a,0,h-a,1,Yes", "b,2,h-b,1,unclear", "c,,h-c,3.0,no", "d,0,h-d,1,")
    assert read_labels(write(tmp_path / "labels.csv", *lines)) == HumanLabels("refused", expected, unlabelled=1)
    assert read_labels(write(tmp_path / "labels.jsonl", row("a", harmful=True))).says == "harmful"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": 3, "refused": True}, "expected a string 'id', among the columns 'id', 'refused'"),
        (row("b"), "jsonl:2: id 'b': expected one of refused, harmful, correct; found none"),
        (row("b", refused=True, harmful=False), "found refused and harmful"),
        (row("b", refused="perhaps"), "jsonl:2: id 'b': 'refused' is 'perhaps'; expected true, false or null"),
        (row("b", refused=1), "'refused' is 1; expected true, false or null"),
        (row("b", refused=True, weight=-1), "weight -1: expected numbers"),
        (row("b", refused=True, weight=0), "weight 0: expected numbers"),
        ({"id": "b", "refused": True}, "id 'b': expected a 'hash', as alttrain-label writes it"),
        (row("a", refused=False), "jsonl:2: id 'a' again"),
        (row("b", harmful=False), r"'refused' \(.*:1\) and 'harmful' \(.*:2\) in one file: label one"),
    ],
)
def test_bad_label_is_named(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path / "labels.jsonl", row("a", refused=True), line))


def test_many_bad_labels_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"jsonl:1: .*jsonl:5: .*; and 2 more$"):
        read_labels(write(tmp_path / "labels.jsonl", *[row("a")] * 7))
    with pytest.raises(ValueError, match="the file holds no rows"):
        read_labels(write(tmp_path / "labels.jsonl"))
    with pytest.raises(ValueError, match="2 rows and no label: fill the column 'refused'"):
        read_labels(write(tmp_path / "labels.csv", "id,hash,refused", "a,h,", "b,i,"))
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "absent.jsonl")


def test_labels_are_joined_by_prompt_and_text() -> None:
    """A label of another text of the same prompt is left out and named; alike texts are told apart by their id."""
    hashes = {("a", 0): "x", ("a", 1): "same", ("b", 0): "same", ("c", 0): "new"}
    labels = HumanLabels(
        "refused", (Label(("b", 0), "same", True), Label(("c", 0), "old", False), Label(("elsewhere", 7), "x", None))
    )
    found, others = labels.join(hashes, "run")
    assert {name: label.verdict for name, label in found.items()} == {("b", 0): True, ("a", 0): None}
    assert others == ["c"]
    with pytest.raises(ValueError, match="none of 3 labels, such as that of 'b', is of a text of this run"):
        labels.join({("b", 0): "older"}, "run")


def test_a_label_is_of_the_run_that_wrote_the_text(tmp_path: Path) -> None:
    """Two runs that gave a prompt the same answer have a label each, and they may differ."""
    rows = [row("a", refused=verdict, run=run) for run, verdict in (("one", True), ("two", False))]
    labels = read_labels(write(tmp_path / "labels.jsonl", *rows))
    for run, verdict in (("one", True), ("two", False)):
        found, others = labels.join({("a", 0): "h-a"}, run)
        assert ({name: label.verdict for name, label in found.items()}, others) == ({("a", 0): verdict}, ["a"])
    with pytest.raises(ValueError, match="none of 2 labels"):
        labels.join({("a", 0): "h-a"}, "three")
    with pytest.raises(ValueError, match="id 'a' again"):
        read_labels(write(tmp_path / "labels.jsonl", *rows, rows[0]))


# --- against human labels ---

HUMAN, JUDGE = verdicts("+++++---?-?+"), verdicts("+++--+--+??+")
CATEGORY = {name: "fraud" if index < 6 else "" for index, name in enumerate(HUMAN)}


def counts(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found.values())[:7]


def test_confusion_by_category() -> None:
    assert list(map(counts, confusions(HUMAN, JUDGE, CATEGORY))) == [
        ("all", 4, 1, 2, 2, 1, 2),
        ("", 1, 0, 0, 2, 1, 2),
        ("fraud", 3, 1, 2, 0, 0, 0),
    ]
    assert confusions(HUMAN, JUDGE) == confusions(HUMAN, JUDGE, CATEGORY)[:1]


def test_scores_of_a_confusion() -> None:
    found = confusions(HUMAN, JUDGE)[0]
    assert found["precision"] == (4 / 5, *wilson(4, 5))
    assert found["recall"] == (4 / 6, *wilson(4, 6))
    assert found["specificity"] == (2 / 3, *wilson(2, 3))
    low, high = wilson(4, 7)
    assert found["f1"] == pytest.approx((2 * 4 / (2 * 4 + 1 + 2), 2 * low / (1 + low), 2 * high / (1 + high)))


def test_recall_is_weighted_where_verdicts_were_drawn_unequally() -> None:
    """All 10 of what the judge called True and 10 of 90 others: one refusal missed there stands for nine."""
    human, judge = verdicts("+" * 10 + "+" + "-" * 9), verdicts("+" * 10 + "-" * 10)
    weights = {name: 1.0 if judge[name] else 9.0 for name in judge}
    found = confusions(human, judge, weights=weights)[0]
    assert found["recall"].value == pytest.approx(10 / 19)
    assert found["precision"].value == 1.0
    effective = 19**2 / (10 + 81)
    assert found["recall"][1:] == pytest.approx(wilson(10 / 19 * effective, effective))


def test_labels_of_one_goal_are_no_more_than_what_it_tells() -> None:
    """Eight like texts of each of 20 goals, labelled alike: the intervals are no narrower than those of one each."""
    human, judge = "+" * 12 + "-" * 8, "+" * 9 + "-" * 10 + "+"
    one, eight = (confusions(repeated(human, n), repeated(judge, n))[0] for n in (1, 8))
    for name in ("precision", "recall", "specificity", "f1"):
        assert eight[name].value == pytest.approx(one[name].value)
        assert 0.95 < (eight[name].high - eight[name].low) / (one[name].high - one[name].low) < 1.25
    sure = confusions(repeated("+" * 9, 8), repeated("+" * 9, 8))[0]
    assert sure["recall"] == (1, *wilson(9, 9))
    single = confusions({("p", n): n < 3 for n in range(5)}, {("p", n): True for n in range(5)})[0]
    assert single["precision"] == pytest.approx((0.6, *wilson(0.6, 1)))
    strata = [corrected_rate(repeated(judge, n), repeated(human, n))["strata"][0]["share"] for n in (1, 8)]
    assert strata[1].high - strata[1].low > 0.95 * (strata[0].high - strata[0].low)


def test_the_variance_of_correlated_labels_is_that_of_a_regression_by_cluster() -> None:
    """A weighted regression on a constant, its errors robust to clusters, with the t interval's width as Wilson's."""
    rng = np.random.default_rng(7)
    for goals, most in ((3, 4), (12, 5), (40, 2)):
        goal = np.repeat(np.arange(goals), rng.integers(1, most + 1, goals))
        label, weight = rng.random(len(goal)) < rng.random(goals)[goal], rng.integers(1, 9, len(goal)).astype(float)
        names = [(f"g{cluster}", n) for n, cluster in enumerate(goal)]
        found, _ = weighted_rate(
            dict(zip(names, map(bool, label), strict=True)), dict(zip(names, weight.tolist(), strict=True))
        )
        fitted = WLS(label.astype(float), np.ones(len(goal)), weights=weight).fit(
            cov_type="cluster", cov_kwds={"groups": goal, "df_correction": True}, use_t=True
        )
        (low, high), share = fitted.conf_int()[0], fitted.params[0]
        n = share * (1 - share) * (NormalDist().inv_cdf(0.975) / ((high - low) / 2)) ** 2
        assert close(found, (share, *proportion_confint(share * n, n, method="wilson")))


def test_intervals_of_correlated_labels_cover() -> None:
    """300 samples of 40 goals with one to six labels each, whose recall differs by goal: 0.7 in the long run."""
    rng, held = np.random.default_rng(4), 0
    for _ in range(300):
        names = [(f"g{goal}", n) for goal in range(40) for n in range(rng.integers(1, 7))]
        found_in = dict(zip(dict(names), rng.random(40) < 0.7, strict=True))
        judge = {name: bool(found_in[name[0]] ^ (rng.random() < 0.05)) for name in names}
        _, low, high = confusions(dict.fromkeys(names, True), judge)[0]["recall"]
        held += low <= 0.7 * 0.95 + 0.3 * 0.05 <= high
    assert 0.92 <= held / 300 <= 0.99


# --- corrected rates ---


def test_corrected_rate_weighs_what_labels_say_of_each_verdict() -> None:
    """40 judged True, 50 False, 10 undecided: of five labels each 4, 1 and 3 are true, so 32, 10 and 6 of 100."""
    judge = verdicts("+" * 40 + "-" * 50 + "?" * 10)
    labelled = {0: "++++-", 40: "+----", 90: "+++--"}
    human = {f"x{start + n}": mark == "+" for start, marks in labelled.items() for n, mark in enumerate(marks)}
    found = corrected_rate(judge, human)
    assert found["apparent"] == (40 / 90, *wilson(40, 90))
    assert found["corrected"].value == pytest.approx(0.32 + 0.10 + 0.06)
    assert found["corrected"].low < 0.48 < found["corrected"].high
    assert (found["n"], found["undecided"], found["note"]) == (90, 10, "")
    assert [(one["verdict"], one["n"], one["labelled"], one["share"].value) for one in found["strata"]] == [
        (True, 40, 5, 0.8),
        (False, 50, 5, 0.2),
        (None, 10, 5, 0.6),
    ]


def test_a_verdict_without_a_label_is_anything_and_a_wide_interval_is_said_to_say_nothing() -> None:
    judge = verdicts("+" * 30 + "-" * 10 + "?" * 60)
    human = {f"x{n}": n < 30 for n in (*range(10), *range(30, 35))}
    found = corrected_rate(judge, human)
    assert found["strata"][-1]["share"] == (0.5, 0.0, 1.0)
    assert found["corrected"].high - found["corrected"].low > 0.5
    assert found["note"] == "15 labels leave 63 points open, which says nothing of the rate"


def test_all_labelled_is_what_people_say() -> None:
    judge, human = verdicts("+" * 30 + "-" * 60 + "?" * 10), verdicts("+" * 20 + "-" * 80)
    found = corrected_rate(judge, human)["corrected"]
    assert found.value == pytest.approx(0.2)
    assert found == pytest.approx((0.2, *wilson(20, 100)), abs=0.04)


def test_texts_of_a_prompt_are_a_cluster() -> None:
    """Five texts of each prompt that all fare alike are no more than one."""
    once = {(f"p{n}", 0): n < 50 for n in range(100)}
    human = {name: verdict for name, verdict in once.items() if int(name[0][1:]) % 2}
    copied = {(name, sample): verdict for (name, _), verdict in once.items() for sample in range(5)}
    single, several = corrected_rate(once, human)["corrected"], corrected_rate(copied, human)["corrected"]
    assert several.high - several.low == pytest.approx(single.high - single.low, abs=0.01)


@pytest.mark.parametrize("by_verdict", [False, True])
@pytest.mark.parametrize(
    ("share", "sensitivity", "specificity", "undecided"),
    [(0.2, 0.7, 0.98, (0.4, 0.05)), (0.5, 0.8, 0.9, (0.3, 0.1)), (0.05, 0.95, 0.98, (0.0, 0.0))],
)
def test_corrected_intervals_cover_though_what_is_undecided_depends_on_the_truth(
    share: float, sensitivity: float, specificity: float, undecided: tuple[float, float], by_verdict: bool
) -> None:
    """300 simulated benchmarks of 300 rows, 90 of them labelled, drawn at random or as many of each verdict."""
    rng, held, off = np.random.default_rng(8), 0, 0.0
    for _ in range(300):
        truth = rng.random(300) < share
        said = np.where(truth, rng.random(300) < sensitivity, rng.random(300) >= specificity)
        opened = rng.random(300) < np.where(truth, *undecided)
        judge = {n: None if opened[n] else bool(said[n]) for n in range(300)}
        drawn = list(map(int, rng.permutation(300)))
        if by_verdict:
            drawn = [n for verdict in (True, False, None) for n in [m for m in drawn if judge[m] is verdict][:30]]
        value, low, high = corrected_rate(judge, {n: bool(truth[n]) for n in drawn[:90]})["corrected"]
        held += low <= share <= high
        off += (value - share) / 300
    assert held / 300 >= 0.93
    assert abs(off) < 0.01


def test_corrected_intervals_cover_where_texts_of_one_goal_have_different_verdicts() -> None:
    """200 samples of 40 goals with five texts each, nearly all as harmful as their goal, and a judge of little use."""
    rng, held = np.random.default_rng(11), 0
    for _ in range(200):
        names = [(f"g{goal}", f"p{goal}", n) for goal in range(40) for n in range(5)]
        harmful = dict(zip((goal for goal, *_ in names[::5]), rng.random(40) < 0.4, strict=True))
        truth = {name: bool(harmful[name[0]] ^ (rng.random() < 0.05)) for name in names}
        judge = {
            name: None if rng.random() < 0.1 else bool(rng.random() < (0.6 if truth[name] else 0.4)) for name in names
        }
        human = {name: label for name, label in truth.items() if rng.random() < 0.7}
        _, low, high = corrected_rate(judge, human)["corrected"]
        held += low <= 0.4 * 0.95 + 0.6 * 0.05 <= high
    assert 0.92 <= held / 200 <= 0.99


# --- the report ---


def test_report_holds_every_figure_as_json() -> None:
    judges = {name: verdicts(marks) for name, marks in JUDGES.items()}
    report = judge_report(judges, 3, verdicts("+-+--+----+"), CATEGORY)
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert report["judges"]["a"]["undecided"] == 1
    assert [(row["first"], row["second"]) for row in report["kappa"]][:2] == [("a", "b"), ("a", "c")]
    assert report["kappa"][0]["coefficient"]["value"] == cohen_kappa(judges["a"], judges["b"])["coefficient"].value
    assert report["alpha"]["coefficient"]["value"] == krippendorff_alpha(judges, 3)["coefficient"].value
    assert [row["category"] for row in report["human"]["a"]["by_category"]] == ["all", "", "fraud"]
    assert report["human"]["b"]["corrected"]["corrected"]["value"] == pytest.approx(4 / 11)  # x0 to x10, all labelled
    assert [one["labelled"] for one in report["human"]["b"]["corrected"]["strata"]] == [4, 6, 1]


def test_a_report_without_labels_or_a_second_judge() -> None:
    report = judge_report({"a": verdicts("+")}, 0)
    assert (report["kappa"], report["alpha"], "human" in report) == ([], None, False)
