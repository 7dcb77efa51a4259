"""Judge agreement equals its references, human labels are read strictly, and corrected rates cover the truth."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from alttrain.evaluation.agreement import (
    Confusion,
    cohen_kappa,
    confusions,
    corrected_rate,
    judge_report,
    krippendorff_alpha,
    nominal_alpha,
)
from alttrain.evaluation.labels import HumanLabels, read_labels
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
    assert close(found.coefficient, (0.4, expected.kappa_low, expected.kappa_upp))
    assert (found.agreed, found.n, found.undecided) == (0.7, 50, 0)


def test_kappa_leaves_undecided_verdicts_out_and_counts_them() -> None:
    found = cohen_kappa(verdicts("++--?+?"), verdicts("+---+??"))
    assert found.coefficient.value == pytest.approx(cohen_kappa(verdicts("++--"), verdicts("+---")).coefficient.value)
    assert (found.agreed, found.n, found.undecided) == (0.75, 4, 3)


@pytest.mark.parametrize(
    ("first", "second", "agreed", "n"), [("+++", "+++", 1.0, 3), ("---", "-?-", 1.0, 2), ("??", "+-", math.nan, 0)]
)
def test_agreement_without_two_kinds_of_verdict_is_nan(first: str, second: str, agreed: float, n: int) -> None:
    for found in (
        cohen_kappa(verdicts(first), verdicts(second)),
        krippendorff_alpha({"a": verdicts(first), "b": verdicts(second)}, 0),
    ):
        assert all(map(math.isnan, found.coefficient))
        assert (found.agreed, found.n) == pytest.approx((agreed, n), nan_ok=True)


def test_judges_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="judge second has no verdict entry for 1 ids, such as 'x2'"):
        cohen_kappa(verdicts("++-"), verdicts("++"))
    with pytest.raises(ValueError, match="judge a has no verdict entry for 2 ids, such as 'x1'"):
        krippendorff_alpha({"a": verdicts("+"), "b": verdicts("+--")}, 0)
    with pytest.raises(ValueError, match="agreement of 1 judges: expected at least two"):
        krippendorff_alpha({"a": verdicts("+")}, 0)


JUDGES = {"a": "+-++-?-+--+", "b": "+-+--+-?--+", "c": "+++--?--?-+", "d": "?-+--?-?+-?"}


def test_alpha_equals_the_package_with_missing_values() -> None:
    judges = {name: verdicts(marks) for name, marks in JUDGES.items()}
    table = [[math.nan if value is None else float(value) for value in own.values()] for own in judges.values()]
    found = krippendorff_alpha(judges, 3)
    assert found.coefficient.value == pytest.approx(
        krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")
    )
    assert found.coefficient.low < found.coefficient.value < found.coefficient.high <= 1
    assert (found.n, found.undecided) == (10, 1)  # x5 has one decided verdict
    assert found.agreed == pytest.approx(6 / 10)
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


def test_alpha_interval_covers() -> None:
    """Two judges that each err in 10 % of verdicts on even classes: alpha is 0.64 in the long run."""
    rng, held = np.random.default_rng(5), 0
    for seed in range(300):
        truth = rng.random(150) < 0.5
        judges = {name: {str(i): bool(v) for i, v in enumerate(truth ^ (rng.random(150) < 0.1))} for name in ("a", "b")}
        _, low, high = krippendorff_alpha(judges, seed, resamples=500).coefficient
        held += low <= 0.64 <= high
    assert 0.92 <= held / 300 <= 0.98


# --- human labels ---


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_labels_are_read_by_id(tmp_path: Path) -> None:
    rows = (
        {"id": "a", "refused": True},
        "",
        {"id": "b", "refused": None, "note": "odd"},
        {"id": "c", "refused": False},
    )
    labels = read_labels(write(tmp_path / "labels.jsonl", *rows))
    assert labels == HumanLabels("refused", {"a": True, "b": None, "c": False})
    assert read_labels(write(tmp_path / "labels.jsonl", {"id": "a", "harmful": True})).says == "harmful"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not a JSON object"),
        ("[]", "line 2: expected an object with a string 'id'"),
        ({"id": 3, "refused": True}, "line 2: expected an object with a string 'id'"),
        ({"id": "b"}, "line 2: id 'b': expected one of 'refused' and 'harmful', found none"),
        ({"id": "b", "refused": True, "harmful": False}, "'harmful', found refused and harmful"),
        ({"id": "b", "refused": "yes"}, "line 2: id 'b': 'refused' is 'yes'; expected true, false or null"),
        ({"id": "b", "refused": 1}, "'refused' is 1; expected true, false or null"),
        ({"id": "a", "refused": False}, "line 2: id 'a' again"),
        (
            {"id": "b", "harmful": False},
            r"'refused' \(line 1\) and 'harmful' \(line 2\) in one file: label one of them",
        ),
    ],
)
def test_bad_label_is_named(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"labels\.jsonl: .*{message}"):
        read_labels(write(tmp_path / "labels.jsonl", {"id": "a", "refused": True}, line))


def test_many_bad_labels_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1: .*; line 5: .*; and 2 more$"):
        read_labels(write(tmp_path / "labels.jsonl", *["{"] * 7))
    with pytest.raises(ValueError, match="no labels; expected lines such as"):
        read_labels(write(tmp_path / "labels.jsonl"))
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "absent.jsonl")


# --- against human labels ---

HUMAN, JUDGE = verdicts("+++++---?-?+"), verdicts("+++--+--+??+")
CATEGORY = {name: "fraud" if index < 6 else "" for index, name in enumerate(HUMAN)}


def test_confusion_by_category() -> None:
    assert confusions(HUMAN, JUDGE, CATEGORY) == [
        Confusion("all", both=4, judge_only=1, human_only=2, neither=2, undecided=1, unclear=2),
        Confusion("", both=1, judge_only=0, human_only=0, neither=2, undecided=1, unclear=2),
        Confusion("fraud", both=3, judge_only=1, human_only=2, neither=0, undecided=0, unclear=0),
    ]
    assert confusions(HUMAN, JUDGE) == confusions(HUMAN, JUDGE, CATEGORY)[:1]


def test_scores_of_a_confusion() -> None:
    found = confusions(HUMAN, JUDGE)[0]
    assert found.precision == (4 / 5, *wilson(4, 5))
    assert found.recall == (4 / 6, *wilson(4, 6))
    assert found.specificity == (2 / 3, *wilson(2, 3))
    low, high = wilson(4, 7)
    assert found.f1 == pytest.approx((2 * 4 / (2 * 4 + 1 + 2), 2 * low / (1 + low), 2 * high / (1 + high)))


def test_labels_are_matched_by_id_only_where_both_have_one() -> None:
    assert confusions(HUMAN, dict(list(JUDGE.items())[:3]))[0] == Confusion("all", 3, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="none of 12 labelled ids was judged"):
        confusions(HUMAN, {"y": True})


# --- corrected rates ---


def test_corrected_rate_is_rogan_and_gladens() -> None:
    """40 of 100 judged True, sensitivity 0.9, specificity 0.8: (0.4 - 0.2) / 0.7."""
    found = corrected_rate(verdicts("+" * 40 + "-" * 60 + "?" * 7), Confusion("all", 45, 10, 5, 40, 3, 0))
    assert found.apparent == (0.4, *wilson(40, 100))
    assert found.corrected.value == pytest.approx(0.2 / 0.7)
    assert found.corrected.low < 0.2 / 0.7 < found.corrected.high
    assert found.corrected.high - found.corrected.low > found.apparent.high - found.apparent.low
    assert (found.n, found.undecided) == (100, 7)


def test_corrected_rate_stays_within_its_interval_and_0_to_1() -> None:
    nothing = corrected_rate(verdicts("-" * 50), Confusion("all", 9, 3, 1, 27, 0, 0)).corrected
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    everything = corrected_rate(verdicts("+" * 50), Confusion("all", 9, 3, 1, 27, 0, 0)).corrected
    assert (everything.value, everything.high) == (1.0, 1.0)


def test_judge_without_errors_corrects_nothing() -> None:
    found = corrected_rate(verdicts("+" * 30 + "-" * 70), Confusion("all", 20, 0, 0, 30, 0, 0))
    assert found.corrected.value == pytest.approx(0.3)


@pytest.mark.parametrize("measured", [Confusion("all", 5, 5, 5, 5, 0, 0), Confusion("all", 1, 9, 9, 1, 0, 0)])
def test_judge_no_better_than_chance_is_refused(measured: Confusion) -> None:
    with pytest.raises(ValueError, match="add up to no more than 1: against these labels the judge is no better than"):
        corrected_rate(verdicts("+-"), measured)


@pytest.mark.parametrize(
    ("marks", "measured"),
    [("??", (5, 1, 1, 5)), ("+-", (0, 1, 0, 5)), ("+-", (5, 0, 1, 0))],
)
def test_errors_that_were_not_measured_correct_nothing(marks: str, measured: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="both kinds are needed"):
        corrected_rate(verdicts(marks), Confusion("all", *measured, 0, 0))


@pytest.mark.parametrize(
    ("share", "sensitivity", "specificity"), [(0.1, 0.9, 0.95), (0.5, 0.8, 0.9), (0.05, 0.95, 0.98)]
)
def test_corrected_intervals_cover(share: float, sensitivity: float, specificity: float) -> None:
    """400 simulated benchmarks of 300 rows, errors measured on 50 + 50 labels; Lang and Reiczigel's is conservative."""
    rng, held = np.random.default_rng(8), 0
    for _ in range(400):
        found, cleared = rng.binomial(50, sensitivity), rng.binomial(50, specificity)
        true = rng.binomial(300, share * sensitivity + (1 - share) * (1 - specificity))
        measured = Confusion("all", found, 50 - cleared, 50 - found, cleared, 0, 0)
        low, high = corrected_rate(verdicts("+" * true + "-" * (300 - true)), measured).corrected[1:]
        held += low <= share <= high
    assert held / 400 >= 0.94


def test_corrected_interval_is_the_delta_methods_in_the_long_run() -> None:
    """With many rows and labels the shrinkage vanishes and Rogan and Gladen's own variance is left."""
    n, share = 40_000, 0.3
    apparent = share * 0.9 + (1 - share) * 0.05
    marks = "+" * round(n * apparent) + "-" * round(n * (1 - apparent))
    found = corrected_rate(verdicts(marks), Confusion("all", 18_000, 1_000, 2_000, 19_000, 0, 0)).corrected
    errors = share**2 * 0.9 * 0.1 / 20_000 + (1 - share) ** 2 * 0.95 * 0.05 / 20_000
    half = 1.959964 * math.sqrt(apparent * (1 - apparent) / n + errors) / 0.85
    assert found == pytest.approx((share, share - half, share + half), abs=2e-4)


# --- the report ---


def test_report_holds_every_figure_as_json() -> None:
    judges = {name: verdicts(marks) for name, marks in JUDGES.items()}
    report = judge_report(judges, 3, verdicts("+-+--+----+"), CATEGORY)
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert report["judges"]["a"]["undecided"] == 1
    assert [(row["first"], row["second"]) for row in report["kappa"]][:2] == [("a", "b"), ("a", "c")]
    assert report["kappa"][0]["coefficient"]["value"] == cohen_kappa(judges["a"], judges["b"]).coefficient.value
    assert report["alpha"]["coefficient"]["value"] == krippendorff_alpha(judges, 3).coefficient.value
    assert [row["category"] for row in report["human"]["a"]["by_category"]] == ["all", "", "fraud"]
    assert report["human"]["b"]["corrected"]["corrected"]["value"] == pytest.approx(4 / 10)


def test_report_says_why_a_rate_is_not_corrected() -> None:
    report = judge_report({"a": verdicts("+-+-")}, 0, verdicts("-+-+"))
    assert report["kappa"] == []
    assert report["alpha"] is None
    assert report["human"]["a"]["corrected"] is None
    assert "no better than chance" in report["human"]["a"]["not_corrected"]
    assert "human" not in judge_report({"a": verdicts("+")}, 0)
