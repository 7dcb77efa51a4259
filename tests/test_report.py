"""Report run by run: run folders -> tidy cells and their CSV, the table of all runs, comparisons, the structure."""

import csv
import json
import logging
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from made_runs import (
    UNNAMED,
    change_rows,
    compared,
    intervene,
    make_run,
    mend,
    metrics_of,
    no_train,
    write_metrics,
    write_texts,
)

import alttrain
from alttrain.config import RunError, preview, register
from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.metrics import Summary
from alttrain.evaluation.statistics import detectable_difference, rate, rate_by_item, rate_over_seeds
from alttrain.records import (
    DamagedError,
    Generation,
    Judgement,
    append_rows,
    checksum,
    read_rows,
    write_json,
    write_rows,
    write_sealed,
    write_text,
)
from alttrain.records.files import literal
from alttrain.report.contrasts import DECISION_COLUMNS, comparisons, decision_places
from alttrain.report.escaping import latex_text
from alttrain.report.estimates import (
    AGREEMENT,
    CATEGORIES,
    INTERVAL,
    JUDGED,
    PAIRS,
    USES,
    structure,
    structure_agreement,
    thoughts,
    token_use,
)
from alttrain.report.estimates import numbers as numbers_of
from alttrain.report.evaluation import Evaluation
from alttrain.report.formats import markdown
from alttrain.report.measures import MEASURES
from alttrain.report.page import write_page
from alttrain.report.processes import second_process
from alttrain.report.results import COLUMNS, METRICS, evaluations, read_csv, results, tidy, write_csv
from alttrain.report.tables import finish_table, report_of
from alttrain.report.variants import Column, variants
from alttrain.run.stages.report import report, show, write_report

NAN = math.nan
DRAWN = pytest.param("figures/tradeoff.svg", marks=pytest.mark.slow)
HEADER = "run,backbone,dataset,rewrite,training,seed,benchmark,metric,value,low,high,n,undecided,truncated,"
HEADER += "protocol,protocol_hash,method,changed,judge"


def names(run: str) -> dict[str, Any]:
    """What run.json holds."""
    return {"run": run, "backbone": "tiny", "dataset": "all", "rewrite": "alttrain", "training": "sft", "seed": 0}


def cell(run: str, benchmark: str, metric: str, value: float, **fields: Any) -> dict[str, Any]:
    """One number, its interval 0.1 wide unless told."""
    given = {"low": value - 0.05, "high": value + 0.05, "n": 100, "undecided": 0, "truncated": 0, **fields}
    empty = dict.fromkeys(("protocol", "protocol_hash", "method", "changed", "judge"), "")
    return {**names(run), **empty, "benchmark": benchmark, "metric": metric, "value": value, **given}


def frame(*cells: dict[str, Any]) -> pd.DataFrame:
    """The tidy table of these numbers."""
    return pd.DataFrame(cells, columns=METRICS)


def table(*cells: dict[str, Any]) -> list[str]:
    """The lines of a table: heads, and a row a run."""
    whole = {"kind": "rate", "unit": "share", "seeds": 1}
    found = [
        {**one, **whole, "method": one["run"], "measure": (name := one["metric"]), "called": MEASURES[name].label}
        | {"n": one["n"] - one["undecided"]}
        for one in cells
    ]
    text = markdown("Runs", finish_table("overview", found))
    return [line for line in text.splitlines() if line.startswith("| ") and "| ---" not in line]


def numbers(metric: str, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    """One metric as metrics.json holds it."""
    return {"metric": metric, "value": value, "low": low, "high": high, "n": 4, "undecided": 1, "truncated": 2}


def write_run(runs: Path, run: str, benchmarks: dict[str, list[dict[str, Any]]]) -> None:
    """A judged run's folder."""
    for benchmark, metrics in benchmarks.items():
        folder = runs / run / "evaluation" / benchmark
        write_metrics(folder, metrics_of(benchmark, metrics, True))
    write_json(runs / run / "run.json", UNNAMED | names(run) | {"tag": run})


# --- the tidy table, and its CSV ---


def test_numbers_come_sorted_by_run_and_benchmark(tmp_path: Path) -> None:
    metrics = [numbers("harmful_rate", 0.5, 0.25, 0.75), numbers("adherence_rate", 1.0, 0.5, 1.0)]
    write_run(tmp_path / "runs", "b", {"y": metrics, "x": metrics[:1]})
    write_run(tmp_path / "runs", "a", {"x": metrics[:1]})
    found = results(tmp_path)
    assert list(found[["run", "benchmark", "metric"]].itertuples(index=False, name=None)) == [
        ("a", "x", "harmful_rate"),
        ("b", "x", "harmful_rate"),
        ("b", "y", "harmful_rate"),
        ("b", "y", "adherence_rate"),
    ]
    first = found.iloc[0].to_dict()
    assert first == {**cell("a", "x", "harmful_rate", 0.5), **numbers("harmful_rate", 0.5, 0.25, 0.75)} | {
        "method": "alttrain a",  # nothing else distinguishes it from b
        "order": 1000,
        "called": "harmful",
        "judge": "judge",
        "protocol": "offline",
        "protocol_hash": "h",
    }
    assert alttrain.results(str(tmp_path)).equals(found)
    with pytest.raises(FileNotFoundError, match="none/runs is not there: give the output folder"):
        results(tmp_path / "none")


@pytest.mark.usefixtures("no_figures")
def test_a_report_of_sets_that_are_in_no_main_table_is_made(tmp_path: Path) -> None:
    shown = {"x": {"tables": ["multi_turn"]}}
    make_run(tmp_path / "runs", {"x": ("harmful_rate", "ynu")}, backbone="b", shown=shown)
    write_report(tmp_path)
    assert (tmp_path / "report" / "metrics.csv").exists()
    assert (tmp_path / "report" / "page.html").exists()


def test_each_text_comes_with_its_verdict_and_the_steps_of_its_thought(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", {"x": ("harmful_rate", "ynu"), "y": ("over_refusal_rate", "yn")}, backbone="b")
    found = alttrain.samples(tmp_path)
    assert list(found.groupby("benchmark").size()) == [3, 2]
    assert list(found.counts) == [True, False, None, True, False]
    assert list(found.says) == ["unsafe"] * 3 + ["refused"] * 2
    assert list(found.verdict) == list(found.counts)
    assert set(found.run) == {path.name for path in (tmp_path / "runs").iterdir()}
    assert not found[["prompt", "answer", "understanding", "finish"]].isna().any(axis=None)
    with pytest.raises(FileNotFoundError, match="none/runs is not there"):
        alttrain.samples(tmp_path / "none")


@pytest.mark.usefixtures("no_figures")
def test_rates_by_category(tmp_path: Path) -> None:
    """Each category's rate over all seeds, with its counts; benchmarks of one category, and of questions, have none."""
    for seed, letters in enumerate(("y" * 30 + "nnnu", "y" * 15 + "n" * 19)):
        sets = {"x": ("harmful_rate", letters), "one": ("harmful_rate", "yn"), "q": ("accuracy", letters)}
        run = make_run(tmp_path / "runs", sets | {"y": ("over_refusal_rate", "n" * 30 + "yn")}, seed=seed)
        for name in ("x", "y", "q"):
            path = run / "evaluation" / f"{name}.alttrain" / "generations.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            told = [one | {"category": "theft" if n < 30 else "=fraud"} for n, one in enumerate(rows)]
            told[0]["finish"] = "length"
            path.write_text("".join(json.dumps(one) + "\n" for one in told))
            mend(path.parent)
    write_report(tmp_path)
    found = read_csv(tmp_path / "report" / "categories.csv")
    assert list(found.columns) == CATEGORIES
    counts = ["metric", "benchmark", "category", "n", "seeds", "undecided", "truncated", "prompts", "small"]
    assert found[counts].to_numpy().tolist() == [
        ["harmful_rate", "x", "=fraud", 7, 2, 1, 0, 4, True],
        ["harmful_rate", "x", "theft", 60, 2, 0, 2, 30, False],
        ["over_refusal_rate", "y", "=fraud", 4, 2, 0, 0, 2, True],
        ["over_refusal_rate", "y", "theft", 60, 2, 0, 2, 30, False],
    ]
    assert found.value.tolist() == pytest.approx([0, 0.75, 0.5, 0])
    values = [{f"p{n}": seed == 0 or n < 15 for n in range(30)} for seed in (0, 1)]
    expected = rate_over_seeds(dict(enumerate(values)))
    assert (found.low[1], found.high[1]) == pytest.approx(expected[1:])


def test_thoughts_whose_answers_have_no_verdict_are_counted(tmp_path: Path) -> None:
    make_run(tmp_path, {"x": ("harmful_rate", "uu")})
    (found,) = thoughts(evaluations(tmp_path)).itertuples()
    assert (found.n, found.assessed, found.harmful_undecided, found.harmful_answered) == (0, 0, 2, 0)
    assert math.isnan(found.follows)


def test_thoughts_that_refuse_and_answers_that_do_not(tmp_path: Path) -> None:
    """All five thoughts refuse, two answers do not, and one has no verdict; that text was cut at the limit."""
    folder = make_run(tmp_path, {"x": ("harmful_rate", "yynnu")}) / "evaluation" / "x.alttrain"
    change_rows(folder, lambda row, n: {"refuses": True}, "adherence")
    change_rows(folder, lambda row, n: {"finish": "length"} if row.id == "p4" else {}, "generations")
    found = thoughts(evaluations(tmp_path)).iloc[0]
    assert found[["n", "undecided", "truncated", "safe_thought", "safe_answer"]].tolist() == [4, 1, 1, 2, 0]
    ends = ("_share", "_low", "_high")  # Wilson's interval of 2 and of 0 of 4
    assert [found[f"safe_thought{end}"] for end in ends] == pytest.approx([0.5, 0.150, 0.850], abs=1e-3)
    assert [found[f"safe_answer{end}"] for end in ends] == pytest.approx([0, 0, 0.490], abs=1e-3)


CUTS: dict[float, tuple[str, tuple[int | None, ...]]] = {
    0.0: ("yyyyynu", (None,) * 7),
    0.25: ("nynyyny", (None, None, 3, 3, None, 2, None)),
    0.5: ("nnynyny", (7, 7, 7, 3, None, 2, None)),
    1.0: ("nnnnnny", (7, 7, 7, 7, None, 2, None)),
}
"""Seven thoughts by the share that a cut keeps: a verdict a letter, and the words before the assessment found there.

The first turns before the assessment, the second with it and the third, after two other changes, after it. What the
fourth keeps when it turns has another sentence for its assessment. The fifth turns and has none, the sixth stays as it
is, and the seventh lacks a verdict.
"""


def cut_run(runs: Path, samples: int = 1, cuts: Mapping[float, tuple[str, Sequence[int | None]]] = CUTS) -> Any:
    """The row of decided.csv of a run with these cuts and so many samples of each; p1 and p6 are truncated."""
    run = make_run(runs, {f"h+cut_{share:g}": ("harmful_rate", letters) for share, (letters, _) in cuts.items()})
    for share, (_, places) in cuts.items():
        folder = run / "evaluation" / f"h+cut_{share:g}.alttrain"
        for name in ("adherence", "generations", "judgements"):
            rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
            for one, place in zip(rows, places, strict=True):
                one |= {"position_words": place} if name == "adherence" else {}
                one |= {"finish": "length"} if name == "generations" and share and one["id"] in ("p1", "p6") else {}
            more = [one | {"sample": sample} for sample in range(samples) for one in rows]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in more))
        told = {"name": f"cut_{share:g}", "of": "h", "of_hash": "0", "left_out": 0}
        told["settings"] = {"_target_": "x.Cut", "share": share}
        mend(folder, lambda record, told=told: record["provenance"].update(intervention=told))  # type: ignore[misc]
    found = decision_places(variants(evaluations(runs)))
    assert list(found.columns) == DECISION_COLUMNS
    (row,) = found.itertuples()
    return row


def test_where_in_the_thought_an_outcome_is_decided(tmp_path: Path) -> None:
    row = cut_run(tmp_path)
    assert (row.cuts, row.n, row.undecided, row.truncated) == (4, 6, 1, 2)
    assert (row.changing, row.changing_unassessed) == (4, 1)
    # of 0.25, 0.5, 1, 0.5, 1 and 0 as shares: Wilson's interval, which stays within 0 and 1
    assert (row.share, row.low, row.high) == pytest.approx((3.25 / 6, 0.203, 0.846), abs=1e-3)

    def told(name: str) -> list[float]:
        return [getattr(row, f"{name}{end}") for end in INTERVAL]

    # 1, 1, 3, 1, 1 and 0 changes: the mean's variance is 9667 / 6, and t is 2.571 with 5 degrees of freedom
    assert told("flips") == pytest.approx([700 / 6, 13.5, 219.8], abs=0.1)
    assert told("moved") == pytest.approx([5 / 6, 0.436, 0.970], abs=1e-3)
    assert told("before_assessment") == pytest.approx([2 / 4, 0.150, 0.850], abs=1e-3)
    assert told("in_assessment") == pytest.approx([1 / 4, 0.046, 0.699], abs=1e-3)
    assert told("after_assessment") == told("in_assessment")


def test_samples_of_a_prompt_do_not_narrow_where_it_is_decided(tmp_path: Path) -> None:
    """Twice the same texts of the same prompts tell as much as once."""
    once, twice = (cut_run(tmp_path / str(samples), samples) for samples in (1, 2))
    assert (twice.n, twice.undecided, twice.changing) == (12, 2, 8)
    assert (twice.flips, twice.flips_low, twice.flips_high) == (once.flips, once.flips_low, once.flips_high)
    assert twice.moved_high - twice.moved_low > once.moved_high - once.moved_low
    width = twice.before_assessment_high - twice.before_assessment_low
    assert width > once.before_assessment_high - once.before_assessment_low


def test_thoughts_that_never_change_have_no_place(tmp_path: Path) -> None:
    row = cut_run(tmp_path, cuts={0.0: ("nn", (None, None)), 1.0: ("nn", (7, 7))})
    assert (row.n, row.changing, row.changing_unassessed, row.flips, row.flips_high) == (2, 0, 0, 0, 0)
    assert math.isnan(row.in_assessment)
    assert math.isnan(row.in_assessment_high)


def test_the_place_of_the_assessment_is_that_of_all_thoughts(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"x": ("harmful_rate", "uuuy")}) / "evaluation" / "x.alttrain"
    change_rows(folder, lambda row, n: {"position_share": 0.1 if n == 3 else 0.5}, "adherence")
    (found,) = thoughts(evaluations(tmp_path)).itertuples()
    assert (found.assessed, found.assessed_at) == (1, pytest.approx(0.4))


def judged_thoughts(run: Path, measure: str, says: str) -> Path:
    """A run whose judge also judged the thoughts of its five texts, one of them without a verdict."""
    folder = run / "evaluation" / "x.alttrain"
    verdicts = [False, True, False, None, True]
    told = [Judgement(f"p{n}", "judge", verdict, part="thought") for n, verdict in enumerate(verdicts)]
    append_rows(folder / "judgements.jsonl", [*told, Judgement("p0", "another", True, part="thought")])
    other = {"metric": f"{measure}.thought", "judge": "judge", "part": "thought", "counted": True, "says": says}
    mend(folder, lambda record: record["analysis"].update(others=[other | {"protocol_hash": "t"}]))
    return folder


def test_a_judge_of_refusals_says_nothing_of_safe_thoughts(tmp_path: Path) -> None:
    judged_thoughts(make_run(tmp_path, {"x": ("over_refusal_rate", "nnyyu")}), "over_refusal_rate", "refused")
    assert "judged" not in thoughts(evaluations(tmp_path))


def test_thoughts_and_answers_that_one_judge_judged_are_paired(tmp_path: Path) -> None:
    """The thought's verdict against the answer's: of five texts one lacks the answer's and one the thought's."""
    runs = tmp_path / "runs"
    folder = judged_thoughts(make_run(runs, {"x": ("harmful_rate", "yynnu")}), "harmful_rate", "unsafe")
    make_run(runs, {"x": ("harmful_rate", "yynnu")}, method="plain")
    found = thoughts(evaluations(runs)).set_index("run").loc[folder.parent.parent.name]
    assert found[["judged", "judged_undecided", *PAIRS]].tolist() == [3, 2, 1, 1, 0, 1]
    share = rate_by_item([True, False, False], "abc")
    assert found[["safe_unsafe_share", "safe_unsafe_low", "safe_unsafe_high"]].tolist() == pytest.approx([*share])
    unjudged = thoughts(evaluations(runs)).iloc[1]
    assert unjudged[JUDGED].isna().all()  # not 0 of so many
    write_csv(tmp_path / "x.csv", thoughts(evaluations(runs)))
    judged, not_judged = (tmp_path / "x.csv").read_text().splitlines()[1:]
    assert ",3,2,1," in judged
    assert "," * len(JUDGED) in not_judged
    page = write_page(tmp_path, "all", report_of(evaluations(runs)))
    assert "NA" not in page.read_text().partition("Whether thought and answer agree")[2].partition("</table>")[0]


def test_tokens_by_outcome(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"x": ("harmful_rate", "ynnu")}, thought_tokens=10)
    found = token_use(evaluations(tmp_path))
    assert list(found.columns) == USES
    assert found[["run", "outcome", "n", "thought", "answer", "total", "total_high"]].to_numpy().tolist() == [
        [run.name, outcome, n, 10, 5, 15, 15]
        for outcome, n in [("all", 4), ("unsafe", 1), ("safe", 2), ("undecided", 1)]
    ]


def test_a_judge_of_structure_is_beside_the_parser(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"x": ("harmful_rate", "yn")}) / "evaluation" / "x.alttrain"
    make_run(tmp_path, {"x": ("harmful_rate", "yn")}, method="plain")
    half = {"value": 0.5, "low": 0.1, "high": 0.9}
    fields = {
        "assessment": {"n": 2, "agreed": half, "kappa": half},
        "sentence": {"n": 0, "agreed": None, "kappa": None},
    }
    write_json(folder / "structure.json", {"structure": {"undecided": 1, "fields": fields}})
    mend(folder)
    found = structure_agreement(evaluations(tmp_path))
    assert list(found.columns) == AGREEMENT
    assert found[["judge", "field", "n", "undecided"]].to_numpy().tolist() == [
        ["structure", "assessment", 2, 1],
        ["structure", "sentence", 0, 1],
    ]
    assert found.iloc[0, -6:].tolist() == [0.5, 0.1, 0.9] * 2
    assert found.iloc[1, -6:].isna().all()
    write_json(folder / "structure.json", {"structure": {"undecided": 1, "fields": {"assessment": 1}}})
    mend(folder)
    with pytest.raises(DamagedError, match=r"structure\.json"):
        structure_agreement(evaluations(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_structure_json_that_is_back_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", {"x": ("harmful_rate", "yn")})
    path = run / "evaluation" / "x.alttrain" / "structure.json"
    write_json(path, {"structure": {"undecided": 1, "fields": {}}})
    mend(path.parent)
    assert len(write_report(tmp_path))
    content = path.read_bytes()
    path.unlink()
    assert write_report(tmp_path).empty
    path.write_bytes(content)
    assert len(write_report(tmp_path))


def test_importing_alttrain_imports_no_pandas() -> None:
    code = "import sys, alttrain, alttrain.report, alttrain.report.card; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unjudged_and_foreign_folders_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "unjudged", {})
    (tmp_path / "foreign" / "evaluation" / "x").mkdir(parents=True)
    (tmp_path / "foreign" / "evaluation" / "x" / "metrics.json").write_text('{"metrics": []}')
    (tmp_path / "notes.txt").write_text("x")
    assert evaluations(tmp_path) == []
    assert list(tidy([]).columns) == COLUMNS


def test_a_copy_of_a_run_beside_it_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also if it comes first by name; a run whose folder was renamed is read, once."""
    run = make_run(tmp_path, {"x": ("harmful_rate", "yn")})
    renamed = make_run(tmp_path, {"x": ("harmful_rate", "yn")}, method="plain").rename(tmp_path / "renamed")
    for copy in ("a_copy", "z_copy"):
        shutil.copytree(run, tmp_path / copy)
    shutil.copytree(renamed, tmp_path / "renamed_copy")
    assert [one.folder.parent.parent for one in evaluations(tmp_path)] == [run, renamed]
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == [
        f"report    left out {name}" for name in ("a_copy", "renamed_copy", "z_copy")
    ]


def test_null_is_nan(tmp_path: Path) -> None:
    write_run(tmp_path, "a", {"x": [numbers("accuracy", None, None, None)]})
    (found,) = tidy(evaluations(tmp_path)).itertuples()
    assert all(map(math.isnan, (found.value, found.low, found.high)))
    assert (found.n, found.undecided, found.truncated) == (4, 1, 2)


def test_csv_is_exact(tmp_path: Path) -> None:
    """The header, a row a number, and an empty cell for what cannot be computed."""
    found = frame(
        cell("a,b", "x", "harmful_rate", 0.5, low=0.25, high=0.75, undecided=3, truncated=7),
        cell("c", "y", "accuracy", NAN, n=2, undecided=2),
        cell("d", "y", "accuracy", 0.0, low=0.0, high=0.25, n=0),
    )
    write_csv(tmp_path / "new" / "metrics.csv", found[METRICS])
    assert (tmp_path / "new" / "metrics.csv").read_text(encoding="utf-8") == (
        f"{HEADER}\n"
        '"a,b",tiny,all,alttrain,sft,0,x,harmful_rate,0.5,0.25,0.75,100,3,7,,,,,\n'
        "c,tiny,all,alttrain,sft,0,y,accuracy,,,,2,2,0,,,,,\n"
        "d,tiny,all,alttrain,sft,0,y,accuracy,0.0,0.0,0.25,0,0,0,,,,,\n"
    )
    write_csv(tmp_path / "metrics.csv", frame()[METRICS])
    assert (tmp_path / "metrics.csv").read_text() == f"{HEADER}\n"


# --- tables ---


@pytest.mark.parametrize(
    ("undecided", "truncated", "marks"),
    [
        (0, 0, ""),
        (5, 5, ""),
        (6, 0, " undecided 6"),
        (0, 6, " truncated 6"),
        (6, 100, " undecided 6 truncated 100"),
    ],
)
def test_more_than_five_percent_is_marked(undecided: int, truncated: int, marks: str) -> None:
    row = table(cell("a", "x", "harmful_rate", 0.5, undecided=undecided, truncated=truncated))[1]
    assert row == f"| tiny | a | 50.0 45.0–55.0 n={100 - undecided}{marks} |"


# --- comparisons and structure ---


def judge_run(runs: Path, run: str, verdicts: str, hashed: str = "h", **named: Any) -> None:
    """A run judged on the benchmark x: a verdict a letter, r(efused), a(nswered) or u(ndecided)."""
    folder = runs / run / "evaluation" / "x"
    write_json(runs / run / "run.json", UNNAMED | names(run) | {"tag": run.partition("-s")[0]} | named)
    told = {"r": True, "a": False, "u": None}
    rows = [Judgement(f"p{n}", "phrases", told[letter]) for n, letter in enumerate(verdicts)]
    others = [Judgement(row.id, "other", True) for row in rows] + [replace(row, part="thought") for row in rows]
    write_rows(folder / "judgements.jsonl", [*others, *rows])
    write_texts(folder, [row.id for row in rows], "harmful")
    counts = {"harmful_as_harmful": verdicts.count("r"), "harmful_as_benign": verdicts.count("a")}
    counts |= {"harmful_unassessed": verdicts.count("u"), "answered_misjudged": verdicts.count("a")}
    counts |= {"answered_disobeyed": 1, "harmful_n": 8, "undecided": 2}
    metric = numbers("harmful_rate", 0.5, 0.25, 0.75)
    judged = metrics_of("x", [metric], False, "phrases", protocol_hash=hashed)
    judged["analysis"]["counts"] |= counts
    write_metrics(folder, judged)


UNTRAINED = {"rewrite": "none", "training": "none"}


def test_runs_are_compared_with_the_untrained_backbone_prompt_by_prompt(tmp_path: Path) -> None:
    judge_run(tmp_path, "base", "a" * 20 + "au", **UNTRAINED)
    judge_run(tmp_path, "safe", "r" * 20 + "ur")
    judge_run(tmp_path, "same", "a" * 20 + "ra")
    judge_run(tmp_path, "other-protocol", "r" * 22, hashed="elsewhere")
    judge_run(tmp_path, "other-backbone", "r" * 22, backbone="huge")
    safe, same = compared(tmp_path)
    assert (safe.run, safe.baseline, safe.benchmark, safe.metric) == ("safe", "base", "x", "harmful_rate")
    assert (safe.baseline_value, safe.value, safe.difference, safe.n) == (1.0, 0.0, -1.0, 20)
    assert (safe.gained, safe.lost, safe.undecided) == (0, 20, 2)
    assert safe.p == pytest.approx(2 * 0.5**20)
    assert safe.p_holm == pytest.approx(2 * safe.p)
    assert (safe.seeds, safe.detectable) == (1, pytest.approx(detectable_difference(20, 1.0)))
    assert (same.value, same.lost, same.p, same.p_holm) == (20 / 21, 1, 1.0, 1.0)


def test_a_baseline_of_the_same_seed_is_preferred(tmp_path: Path) -> None:
    judge_run(tmp_path, "base-s0", "aa", **UNTRAINED)
    judge_run(tmp_path, "base-s1", "rr", **UNTRAINED, seed=1)
    for seed in (1, 2):
        judge_run(tmp_path, f"safe-s{seed}", "rr", seed=seed)
    assert [one.baseline for one in compared(tmp_path)] == ["base-s1", "base-s0"]


def test_comparisons_survive_their_file(tmp_path: Path) -> None:
    judge_run(tmp_path, "base", "aauu", **UNTRAINED)
    judge_run(tmp_path, "safe", "uurr")
    (found,) = compared(tmp_path)
    assert (found.n, math.isnan(found.difference), math.isnan(found.p_holm)) == (0, True, True)
    rows = comparisons(variants(evaluations(tmp_path)))[0]
    write_csv(tmp_path / "c.csv", rows)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "c.csv"), rows)


BENIGN = ("over_refusal_rate", "nn")


def assessed(run: Path, benchmark: str, verdicts: list[Any], texts: int = 1) -> None:
    """Give a benchmark's thoughts these assessments, with as many texts of each prompt."""
    (judged,) = (one for one in evaluations(run.parent) if one.benchmark == benchmark)
    folder, summary = judged.folder, Summary(judged.measure, judged.decider.says)  # type: ignore[arg-type]

    def named(rows: list[Any]) -> list[Any]:
        return [replace(row, id=f"p{n // texts}", sample=n % texts) for n, row in enumerate(rows)]

    made = [replace(row, prompt=f"Prompt {row.id} of {benchmark}?") for row in named(judged.generations())]
    told = named(judged.judgements())
    rows = named(read_rows(folder / "adherence.jsonl", Adherence))
    read = [replace(row, assessment=verdict) for row, verdict in zip(rows, verdicts, strict=True)]
    for name, content in (("generations", made), ("judgements", told), ("adherence", read)):
        write_rows(folder / f"{name}.jsonl", content)
    for row in zip(made, told, read, strict=True):
        summary.add(*row)
    mend(folder, lambda record: record["analysis"].update(summary.analysis()))


def test_counts_of_the_structure_add_up_over_benchmarks(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"x": ("harmful_rate", "nnnyyu"), "y": ("harmful_rate", "ny"), "z": BENIGN})
    assessed(run, "x", ["harmful", "harmful", "harmful", "benign", "benign", None])
    assessed(run, "y", ["harmful", "harmful"])
    assessed(run, "z", ["harmful", "benign"])
    (found,) = structure(evaluations(tmp_path)).itertuples()
    assert (found.harmful_as_harmful, found.harmful_as_benign, found.harmful_unassessed) == (5, 2, 1)
    assert (found.precision, found.precision_low, found.precision_high) == rate(5, 6)
    assert (found.recall, found.recall_low, found.recall_high) == rate(5, 8)
    assert (found.false_alarms, found.false_alarms_low, found.false_alarms_high) == rate(1, 2)
    assert (found.answered_misjudged, found.answered_disobeyed, found.harmful_n, found.undecided) == (2, 1, 7, 1)


def test_structure_has_the_intervals_of_the_table_of_adherence(tmp_path: Path) -> None:
    """Eight texts of each of ten prompts, half of which are assessed rightly."""
    run = make_run(tmp_path, {"x": ("harmful_rate", "n" * 80)})
    assessed(run, "x", ["harmful"] * 40 + ["benign"] * 40, texts=8)
    judged = evaluations(tmp_path)
    (found,), (variant,) = structure(judged).itertuples(), variants(judged)
    column = Column("recall", "alttrain", (judged[0].key,), "pool")
    assert (found.recall, found.recall_low, found.recall_high) == numbers_of([variant], [column])[variant, column][:3]
    assert found.recall_high - found.recall_low > 0.5


# --- the stage ---


def outputs(folder: Path) -> Path:
    """An output folder of two judged runs."""
    sets = {"embedded_harmful": ("harmful_rate", "ynny"), "embedded_benign": ("over_refusal_rate", "ynn")}
    no_train(folder / "runs", sets, protocol="offline")
    make_run(folder / "runs", sets, protocol="offline")
    return folder


def files(folder: Path) -> dict[str, int]:
    """Every file of a report, and when it was written."""
    found = (path for path in (folder / "report").rglob("*") if path.is_file())
    return {path.relative_to(folder / "report").as_posix(): path.stat().st_mtime_ns for path in found}


def test_a_report_is_whole_and_is_made_once(tmp_path: Path) -> None:
    shown = write_report(outputs(tmp_path))
    assert set(shown.table) == {"overview"}
    made = files(tmp_path)
    assert {"metrics.csv", "comparisons.csv", "structure.csv", "page.html"} <= made.keys()
    assert {f"tables/main.{form}" for form in ("csv", "md", "tex")} <= made.keys()
    page = (tmp_path / "report" / "page.html").read_text()
    assert "none: other protocol" in page[page.index('<section id="published"') :]
    assert {f"figures/tradeoff.{form}" for form in ("png", "svg", "pdf")} <= made.keys()
    assert set(json.loads((tmp_path / "report" / ".stamp").read_text())["files"]) == made.keys() - {".stamp"}
    pd.testing.assert_frame_equal(write_report(tmp_path), shown)
    assert files(tmp_path) == made


@pytest.mark.usefixtures("no_figures")
def test_interventions_are_shown_after_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"x": ("harmful_rate", "n" * 12), "x+turn": ("harmful_rate", "y" * 12)}
    run = make_run(tmp_path / "runs", sets, protocol="offline")
    told = {"name": "turn", "of": "x", "of_hash": "h-x", "left_out": 0, "settings": {"_target_": "x.Step"}}
    mend(run / "evaluation" / "x+turn.offline", lambda record: record["provenance"].update(intervention=told))
    assert list(write_report(tmp_path).table.unique()) == ["overview", "interventions"]
    show(tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    runs, _, interventions = shown.partition("interventions of r1_llama_8b")
    assert "runs of r1_llama_8b" in runs
    assert "AltTrain, turn 100.0*" in interventions
    assert "* differs from no intervention" in interventions


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.csv", DRAWN])
def test_a_file_of_the_report_that_somebody_changed_is_made_anew(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not name.startswith("figures"):
        request.getfixturevalue("no_figures")
    shown = write_report(outputs(tmp_path))
    path = tmp_path / "report" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    pd.testing.assert_frame_equal(write_report(tmp_path), shown)
    assert path.read_bytes() == content


@pytest.mark.slow
def test_what_is_lost_or_changed_is_made_anew_and_what_is_stale_goes(tmp_path: Path) -> None:
    write_report(outputs(tmp_path))
    page = (tmp_path / "report" / "page.html").read_bytes()
    (tmp_path / "report" / "page.html").unlink()
    write_report(tmp_path)
    assert (tmp_path / "report" / "page.html").read_bytes() == page
    shutil.rmtree(tmp_path / "runs" / "r1_llama_8b-no_train-s0")
    for evaluation in (tmp_path / "runs").glob("*/evaluation/embedded_benign*"):
        shutil.rmtree(evaluation)
    write_report(tmp_path)
    assert not (tmp_path / "report" / "figures" / "tradeoff.svg").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_the_page_holds_the_texts_that_were_asked_for(tmp_path: Path) -> None:
    outputs(tmp_path)
    told = "The texts of samples with a harmful prompt were left out of this page"
    for texts, withheld in (("all", False), ("benign", True), ("all", False)):
        write_report(tmp_path, texts)  # type: ignore[arg-type]
        assert (told in (tmp_path / "report" / "page.html").read_text()) is withheld


def test_without_a_judged_run_there_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "runs" / "unjudged").mkdir(parents=True)
    assert write_report(tmp_path).empty
    assert not (tmp_path / "report").exists()


def test_page_texts_is_checked_with_the_config() -> None:
    register()
    assert [str(fault) for fault in preview(["page_texts=harmless"])[0]] == [
        "page_texts='harmless': accepted: all, benign, none"
    ]
    assert preview(["page_texts=benign"])[0] == []


def test_a_row_that_is_none_is_told_with_its_file(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"x": ("accuracy", "yn")}) / "evaluation" / "x.alttrain"
    path = folder / "generations.jsonl"
    whole = path.read_text()
    (one,) = evaluations(tmp_path)
    for bad in (whole.replace("Prompt p1 of x.alttrain?", "\\ud83d"), whole.splitlines()[0] + '\n{"id": 3}\n'):
        path.write_text(bad)
        one.metrics_json["made_from"][path.name] = checksum(path)
        with pytest.raises(ValueError, match=r"generations\.jsonl line 2: .*run the same command again"):
            one.asked()
    path.write_text(whole.splitlines()[0] + "\n" + whole)
    one.metrics_json["made_from"][path.name] = checksum(path)
    with pytest.raises(ValueError, match=r"generations\.jsonl line 2: the row of line 1 again"):
        one.asked()


# --- in two processes ---


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a second process is forked on Linux only")


@LINUX
@pytest.mark.slow
def test_a_second_process_makes_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"x": ("harmful_rate", "yyn"), "y": ("over_refusal_rate", "yn"), "z": ("accuracy", "yn")}
    no_train(tmp_path / "runs", sets)
    for method in ("plain", "alttrain"):
        for seed in (0, 1):
            make_run(tmp_path / "runs", sets, method=method, seed=seed)

    def made() -> dict[str, bytes]:
        write_report(tmp_path)
        return {name: (tmp_path / "report" / name).read_bytes() for name in files(tmp_path) if name != ".stamp"}

    alone = made()
    shutil.rmtree(tmp_path / "report")
    for place in ("figures", "results", "tables"):
        monkeypatch.setattr(f"alttrain.report.{place}.MANY", 1)
    began, fork = list[int](), os.fork
    monkeypatch.setattr(os, "fork", lambda: (began.append(1), fork())[1])
    assert made() == alone
    assert len(began) == 3


@LINUX
def test_a_second_process_that_fails_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.getpid()

    def fails() -> int:
        if os.getpid() != here:
            raise RuntimeError
        return here

    def locks_up() -> int:
        time.sleep(60 * (os.getpid() != here))
        return here

    def slow() -> int:
        time.sleep(0.5)
        return os.getpid()

    monkeypatch.setattr("alttrain.report.processes.PATIENCE_S", 0.5)
    with second_process([slow] * 4, True) as results:
        pids = results()
    assert (len(pids), len({*pids}), here in pids) == (4, 2, True)
    for job in (fails, locks_up):
        with second_process([os.getpid, job], True) as results:
            time.sleep(0.5)  # until the second process has both
            assert results() == [here, here]
    with second_process([lambda: 1 // 0], True) as results, pytest.raises(ZeroDivisionError):
        results()
    with second_process([os.getpid], False) as results:
        assert results() == [here]

    def refuses() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuses)
    with second_process([os.getpid], True) as results:
        assert results() == [here]


def test_a_second_process_ends_with_the_first(tmp_path: Path) -> None:
    source = """
import os, signal
from alttrain.report.processes import second_process

def much():
    open("began", "w").write(str(os.getpid()))
    return bytes(1 << 20)  # more than a pipe holds

with second_process([much], True) as results:
    while not (os.path.exists("began") and open("began").read()):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", source], cwd=tmp_path, check=False)

    def ended() -> bool:
        with suppress(OSError):
            return "State:\tZ" in Path(f"/proc/{(tmp_path / 'began').read_text()}/status").read_text()
        return True

    until = time.monotonic() + 20
    while not ended() and time.monotonic() < until:
        time.sleep(0.1)
    assert ended()


# --- beside others, and of a folder that somebody sent ---

REPORTS = """
import os, sys
from pathlib import Path
from alttrain.run.stages.report import write_report

folder = Path(sys.argv[1])
for _ in range(2):
    assert len(write_report(folder))
    os.utime(next(folder.glob("runs/*/run.json")))  # so that the next one is made anew
"""
JUDGE = """
import sys, time
from pathlib import Path
from alttrain.records import Judgement, append_rows, read_rows, write_rows, write_text

kept = {}
for place in Path(sys.argv[1]).glob("runs/*/evaluation/*"):
    kept[place] = read_rows(place / "judgements.jsonl", Judgement), (place / "metrics.json").read_text()
print("ready", flush=True)
while True:
    for place, (rows, metrics) in kept.items():
        write_rows(place / "judgements.jsonl", [])
        for row in rows:
            append_rows(place / "judgements.jsonl", [row])
        write_text(place / "metrics.json", metrics)
        time.sleep(0.01)
"""


@pytest.mark.slow
def test_reports_side_by_side_and_beside_a_judge_are_whole(tmp_path: Path) -> None:
    outputs(tmp_path)
    with subprocess.Popen([sys.executable, "-c", JUDGE, str(tmp_path)], stdout=subprocess.PIPE) as judge:
        assert judge.stdout is not None
        assert judge.stdout.readline() == b"ready\n"
        command = [sys.executable, "-c", REPORTS, str(tmp_path)]
        made = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        told = [process.communicate()[1] for process in made]
        judge.kill()
    assert [process.returncode for process in made] == [0] * 2, told
    assert "delete" not in "".join(told)
    assert (tmp_path / "report" / "page.html").read_text().rstrip().endswith("</html>")
    for figure in (tmp_path / "report" / "figures").iterdir():
        ends = {".png": b"IEND\xaeB`\x82", ".svg": b"</svg>\n", ".pdf": b"%%EOF\n"}
        assert figure.read_bytes().endswith(ends[figure.suffix]), figure
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "report", ".report.lock"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("fault", ["torn", "fewer", "another judge's"])
def test_what_is_being_judged_is_left_out_and_named(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("alttrain.report.results.PAUSE_S", 0)
    (folder, *_) = sorted(outputs(tmp_path).glob("runs/*/evaluation/embedded_harmful*"))
    path = folder / "judgements.jsonl"
    if fault == "another judge's":
        (folder / "judges.json").write_text('{"judge": {"model": "another"}}')
    else:
        path.write_bytes(
            path.read_bytes()[:-5] if fault == "torn" else b"".join(path.read_bytes().splitlines(True)[1:])
        )
    write_report(tmp_path)
    assert caplog.messages == [f"report    left out, being written or damaged (its command judges it again): {folder}"]
    assert len(read_csv(tmp_path / "report" / "metrics.csv").groupby(["run", "benchmark"])) == 3


@pytest.mark.usefixtures("no_figures")
def test_a_report_is_begun_again_when_a_run_is_judged_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder, *_) = sorted(outputs(tmp_path).glob("runs/*/evaluation/embedded_harmful*"))
    packed, begun = Evaluation.pack_texts, list[Path]()

    def judged_anew(evaluation: Evaluation) -> bytes:
        begun.append(evaluation.folder)
        if len(begun) == 1:
            rows = read_rows(folder / "judgements.jsonl", Judgement)
            write_rows(folder / "judgements.jsonl", [replace(row, evidence="another") for row in rows])
            mend(folder)
        return packed(evaluation)

    monkeypatch.setattr(Evaluation, "pack_texts", judged_anew)
    write_report(tmp_path)
    assert begun.count(folder) == 2
    assert caplog.messages == []
    assert len(read_csv(tmp_path / "report" / "metrics.csv").groupby(["run", "benchmark"])) == 4


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_evaluation_of_a_run_that_is_training_is_left_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (run, *_) = sorted(outputs(tmp_path).glob("runs/*"))
    (run / "evaluation" / "embedded_harmful.offline" / "adherence.jsonl").write_text("edited")
    (run / "logs").mkdir(exist_ok=True)
    packed, begun = Evaluation.pack_texts, list[Path]()

    def training(evaluation: Evaluation) -> bytes:
        with (run / "logs" / "metrics.csv").open("a") as log:
            log.write("1,0.5\n")
        begun.append(evaluation.folder)
        return packed(evaluation)

    monkeypatch.setattr(Evaluation, "pack_texts", training)
    write_report(tmp_path)
    assert len(begun) < 8  # the report is begun twice, not again for each line of the log
    assert [message.startswith(f"report    left out {run.name}: ") for message in caplog.messages] == [True]


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_report_that_fails_fails_no_run_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    write_report(outputs(tmp_path))
    made = files(tmp_path)
    run: Any = SimpleNamespace(output_dir=tmp_path, config={"page_texts": "benign"}, stages=("judge", "report"))
    monkeypatch.setattr("alttrain.report.tables.tables", lambda *unused: 1 / 0)
    report(run, cast(Any, None))
    show(tmp_path, "benign")
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "report    no report was made: division by zero"
    ] * 2
    run.stages = ("report",)
    with pytest.raises(RunError, match="no report was made: division by zero"):
        report(run, cast(Any, None))
    assert files(tmp_path) == made
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "report", ".report.lock"}


@pytest.mark.slow
def test_a_received_folder_writes_and_removes_nothing_outside(tmp_path: Path) -> None:
    """Names of files in its stamp, of backbones and protocols, and links where the report and its cards are written."""
    outside = tmp_path / "outside"
    for name in ("a.txt", "figures/main.svg", "card/README.md", "page.html"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("mine")
    folder = tmp_path / "received"
    sets = {"embedded_harmful": ("harmful_rate", "ynny"), "embedded_benign": ("over_refusal_rate", "ynn")}
    climbing = "../../../outside/x"
    run = make_run(folder / "runs", sets, protocol="offline", trained={})
    write_json(run / "run.json", json.loads((run / "run.json").read_text()) | {"backbone": climbing})
    for place in (run / "evaluation").iterdir():
        mend(place, lambda record: record["provenance"].update(protocol=climbing))
    healthy = make_run(folder / "runs", sets, protocol="offline", seed=1, trained={})
    for one in (run, healthy):
        (one / "adapter").symlink_to(outside / "card")
    stamped = {name: [1, 2, 3] for name in ("../../outside/a.txt", str(outside / "a.txt"), "figures/main.svg", "\0")}
    for place in (folder / "report", folder / "report" / "deep"):
        place.mkdir()
    (folder / "report" / ".stamp").write_text(json.dumps({"digest": "d", "files": stamped}))
    (folder / "report" / "figures").symlink_to(outside / "figures")
    (folder / "report" / "page.html").symlink_to(outside / "page.html")
    (folder / "report" / "deep" / "own.txt").write_text("kept")
    (folder / ".report.x.part").symlink_to(outside)
    os.utime(folder / ".report.x.part", (0, 0), follow_symlinks=False)
    before = {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")}
    write_report(folder)
    assert {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "received"}
    assert (folder / "report" / "deep" / "own.txt").read_text() == "kept"
    assert not (folder / "report" / "page.html").is_symlink()
    assert list((folder / "report" / "figures").glob("*.svg")), [path.name for path in (folder / "report").rglob("*")]
    shutil.rmtree(folder / "report")
    (folder / "report").symlink_to(outside)
    write_report(folder)
    assert {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")} == before
    assert not (folder / "report").is_symlink()


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("stamp", ["[" * 100_000, '{"files": 3}', '{"digest": [], "files": [[]]}', "\0", None])
def test_a_stamp_that_is_none_is_made_anew(stamp: str | None, tmp_path: Path) -> None:
    """Nor is any read that is no file."""
    outputs(tmp_path)
    (tmp_path / "report").mkdir()
    if stamp is None:
        os.mkfifo(tmp_path / "report" / ".stamp")
        os.mkfifo(next((tmp_path / "runs").iterdir()) / "train.json")
    else:
        (tmp_path / "report" / ".stamp").write_text(stamp)
    assert len(write_report(tmp_path))
    assert len(json.loads((tmp_path / "report" / ".stamp").read_text())["digest"]) == 64


def interrupt_at_move(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a report that a signal ends before its files' `number`-th move into report/. The stamp's are moves too."""
    moved, replace_file = list[str](), os.replace

    def interrupted(source: str, target: str) -> None:
        if Path(target).is_relative_to(folder / "report"):
            moved.append(target)
            if len(moved) == number:
                raise KeyboardInterrupt
        replace_file(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_report(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_own_files_stay_and_a_report_whose_move_was_interrupted_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(outputs(tmp_path))
    report = tmp_path / "report"
    made = {name: (report / name).read_bytes() for name in files(tmp_path) if name != ".stamp"}
    (report / "stale.csv").write_text("stale")
    stamp = json.loads((report / ".stamp").read_text())
    (report / ".stamp").write_text(json.dumps(stamp | {"files": stamp["files"] | {"stale.csv": [1, 2, 3]}}))
    for own in ("notes.md", "tables/notes.md"):
        (report / own).write_text("own")
    (report / "link").symlink_to("notes.md")

    interrupt_at_move(6, tmp_path, monkeypatch)
    write_report(tmp_path)
    assert not (report / "stale.csv").exists()
    assert (report / "link").is_symlink()
    assert [(report / own).read_text() for own in ("notes.md", "tables/notes.md", "link")] == ["own"] * 3
    assert {name: (report / name).read_bytes() for name in made} == made


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@a", "'a", "-", "＝1+1"])
def test_a_cell_is_no_formula_and_is_read_as_it_was(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", frame(cell(text, "b", "accuracy", -0.5)))
    with (tmp_path / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["run"][0] not in "=+-@\t\n＝"
    assert row["value"] == "-0.5"
    assert read_csv(tmp_path / "a.csv").run.tolist() == [text.replace("\r", "\n")]


@pytest.mark.parametrize("text", ["012345678901", "12e456789012", "12E5", "1,5", "-1e3", "'7"])
def test_a_text_like_a_number_stays_a_text(text: str, tmp_path: Path) -> None:
    """Also for a reader that goes by what a cell looks like, such as a spreadsheet."""
    write_csv(tmp_path / "a.csv", frame(cell("a", "b", "accuracy", -0.5, protocol_hash=text)))
    assert pd.read_csv(tmp_path / "a.csv")[["value", "protocol_hash"]].to_numpy().tolist() == [[-0.5, f"'{text}"]]
    assert read_csv(tmp_path / "a.csv").protocol_hash.tolist() == [text]
    assert literal("12e4f5678901") == "12e4f5678901"


def test_names_break_no_table() -> None:
    name = "a|b\n| <img src=x> `c` [d](e) *f* _g_ h_i ~~j~~ k & l &lt;"
    heads, row = table(cell(name, "x|y", "accuracy", 0.5))
    assert row.startswith(r"| tiny | a\|b \| \<img src=x> \`c\` \[d](e) \*f\* \_g\_ h_i \~\~j\~\~ k & l \&lt; | 50.0 ")
    assert r"accuracy ↑ x\|y" in heads
    assert latex_text("[3pt] a\n\nb\0") == "{[}3pt] a b "


@pytest.mark.usefixtures("no_figures")
def test_a_files_mode_is_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "a")
        write_report(outputs(tmp_path))
        os.umask(0o022)
        write_text(tmp_path / "open", "a")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "report").rglob("*")} == {0o600, 0o700}
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("private", "open")] == [0o600, 0o644]


BAD: dict[str, tuple[str, str]] = {
    "run.json": ("", "run.json"),
    "evaluation/embedded_benign.offline/metrics.json": ('{"benchmark": "emb', "metrics.json"),
    "evaluation/embedded_harmful.offline/judgements.jsonl": ('{"id": "p0"}\n' * 4, "judgements.jsonl line 1"),
    "evaluation/embedded_harmful.offline/generations.jsonl": ("", "generations.jsonl"),
    "train.json": ("null", "train.json"),
    (LOGGED := "logs/metrics.csv"): ("step,loss\n0,none\n", "metrics.csv"),
}


@pytest.mark.slow
@pytest.mark.parametrize("names", [[name for name in BAD if name != LOGGED], [LOGGED]])
def test_damaged_runs_are_named_and_the_rest_is_reported(
    names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    if names != [LOGGED]:  # only a figure reads these
        request.getfixturevalue("no_figures")
    healthy, mixed = outputs(tmp_path / "healthy"), outputs(tmp_path / "mixed")
    sets = {"embedded_harmful": ("harmful_rate", "yyny"), "embedded_benign": ("over_refusal_rate", "yyn")}
    told: dict[str, str] = {}
    for seed, name in enumerate(names):
        bad = make_run(mixed / "runs", sets, protocol="offline", method="plain", seed=1 + seed)
        content, told[bad.name] = BAD[name]
        (bad / name).parent.mkdir(exist_ok=True)
        (bad / name).write_text(content)
        if "judgements" in name:  # else it would be left out as being judged
            mend((bad / name).parent)
    expected = write_report(healthy)
    pd.testing.assert_frame_equal(write_report(mixed), expected)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == len(names)
    for run, file in told.items():
        (said,) = [warning for warning in warned if run in warning]
        assert file in said
    for file in files(healthy):
        own = (healthy / "report" / file).read_bytes()
        assert own == (mixed / "report" / file).read_bytes() or file in (".stamp", "page.html")
    assert files(healthy).keys() == files(mixed).keys()


@pytest.mark.usefixtures("no_figures")
def test_each_damaged_run_is_named_once_in_a_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the report is begun again: for rows only, after all run.json and metrics.json were read."""
    monkeypatch.setattr("alttrain.report.results.PAUSE_S", 0)
    outputs(tmp_path)
    damaged = [*[name for name in BAD if not name.startswith("logs")], "evaluation/embedded_benign.offline/judges.json"]
    sets = {"embedded_harmful": ("harmful_rate", "yyny"), "embedded_benign": ("over_refusal_rate", "yyn")}
    for seed, name in enumerate(damaged, start=1):
        run = make_run(tmp_path / "runs", sets, protocol="offline", method="plain", seed=seed, trained={})
        (run / "adapter").mkdir()
        (run / name).write_text(BAD.get(name, ["{}"])[0])
        if name.endswith("judgements.jsonl"):  # else it would be left out as being judged
            mend((run / name).parent)
    write_report(tmp_path)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    named = [re.findall(r"plain-s(\d)/", line)[0] for line in said]
    assert sorted(named) == [str(seed) for seed in range(1, 1 + len(damaged))]
    assert len(read_csv(tmp_path / "report" / "metrics.csv").groupby(["run", "benchmark"])) == 5


OWN = "evaluation/x.alttrain"
LACKING: list[tuple[str, str]] = [
    *(("run.json", key) for key in ("method", "label", "order", "tables", "changed", "digest", "tag")),
    *(("train.json", key) for key in ("examples", "seconds", "devices", "device", "weights", "files", "checksum")),
    *((f"{OWN}/metrics.json", key) for key in ("provenance", "analysis", "made_from", "contaminated", "checksum")),
    *((f"{OWN}/metrics.json", f"provenance {key}") for key in ("protocol", "means", "judges", "changed")),
    *((f"{OWN}/metrics.json", f"provenance {key}") for key in ("tables", "labels", "intervention")),
    *((f"{OWN}/metrics.json", f"analysis {key}") for key in ("decides", "others", "counts")),
    *((f"{OWN}/metrics.json", f"analysis decides {key}") for key in ("judge", "part", "counted", "says")),
    *((name, "") for name in (f"{OWN}/adherence.jsonl", "fingerprint.json")),
]
"""Files of a run, and a key without which one is not taken; "" for the file itself."""


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_lacks_what_this_version_writes_is_left_out_and_named_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.run.stages.report.draw_all", lambda *unused: nullcontext(list))
    make_run(tmp_path / "runs", {"x": ("harmful_rate", "yn")})
    told: list[str] = []
    for seed, (name, key) in enumerate(LACKING):
        sets = {"x": ("harmful_rate", "yn")}
        bad = make_run(tmp_path / "runs", sets, method="plain", hashed="other", trained={}, seed=seed)
        if key:
            record = json.loads((bad / name).read_text())
            *outer, last = key.split()
            del reduce(dict.__getitem__, outer, record)[last]
            (write_json if name == "run.json" or key == "checksum" else write_sealed)(bad / name, record)
        else:
            (bad / name).unlink()
        fault = f"not the JSON expected (Object missing required field `{key.split()[-1]}`" if key else "is not there"
        told.append(f"report    left out {bad.name}: {tmp_path}/runs/{bad.name}/{name}: {fault}")
    write_report(tmp_path)
    warned = sorted(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    for warning, start in zip(warned, sorted(told), strict=True):
        assert warning.startswith(start)
        remedy = "; (delete the file and run the same command|run the (same command|judge stage)) again$"
        assert re.search(remedy, warning)
    assert set(read_csv(tmp_path / "report" / "metrics.csv").method) == {"AltTrain"}


@pytest.mark.usefixtures("no_figures")
def test_a_folder_of_damaged_runs_alone_has_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for run in (outputs(tmp_path) / "runs").iterdir():
        (run / "run.json").write_text("[]")
    assert write_report(tmp_path).empty
    assert sum("left out" in record.getMessage() for record in caplog.records) == 2


# --- odd input ---


@pytest.mark.usefixtures("no_figures")
def test_an_intervention_with_other_texts_has_a_row_of_its_own(tmp_path: Path) -> None:
    for seed, digest in enumerate(("t1", "t2")):
        sets = {"x": ("harmful_rate", "nnyn"), "x+turn": ("harmful_rate", "yyyn")}
        run = make_run(tmp_path / "runs", sets, seed=seed)
        told = {"name": "turn", "of": "x", "of_hash": "h-x", "left_out": 0, "settings": {"_target_": "x.Step"}}
        mend(
            run / "evaluation" / "x+turn.alttrain",
            lambda record, digest=digest, told=told: record["provenance"].update(  # type: ignore[misc]
                intervention=told, protocol_hash=digest
            ),
        )
    write_report(tmp_path)
    methods = read_csv(tmp_path / "report" / "tables" / "interventions.csv").method.unique()
    assert sorted(methods) == ["AltTrain, no intervention", "AltTrain, turn", "AltTrain, turn t2"]


def test_cuts_with_other_settings_are_another_group(tmp_path: Path) -> None:
    """Without a system prompt nothing is decided by the thought; with it, the whole thought decides."""
    cuts = {"x+cut_0": ("nn", 0.0, None), "x+cut_1": ("yy", 1.0, None), "x+bare_0": ("yy", 0.0, "")}
    cuts |= {"x+bare_1": ("yy", 1.0, "")}
    sets = {name: ("harmful_rate", letters) for name, (letters, *_) in cuts.items()}
    run = make_run(tmp_path, {"x": ("harmful_rate", "yy")} | sets)
    for name, (_, share, system) in cuts.items():
        intervene(run / "evaluation" / f"{name}.alttrain", "x", name, share=share, system=system)
    found = decision_places(variants(evaluations(tmp_path)))
    rows = found[["cuts", "n", "share", "moved"]].itertuples(index=False, name=None)
    assert sorted(rows) == [(2, 2, 0.0, 0.0), (2, 2, 1.0, 1.0)]
    assert found.settings.nunique() == 2


@pytest.mark.usefixtures("no_figures")
def test_rows_without_a_category_are_those_of_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", {"x": ("harmful_rate", "yyynnn")})
    path = run / "evaluation" / "x.alttrain" / "generations.jsonl"
    categories = ["", "none", "theft"] * 2
    rows = zip(read_rows(path, Generation), categories, strict=True)
    write_rows(path, [replace(row, category=category) for row, category in rows])
    mend(path.parent)
    write_report(tmp_path)
    found = read_csv(tmp_path / "report" / "categories.csv")
    assert dict(zip(found.category, found.prompts, strict=True)) == {"none": 4, "theft": 2}


@pytest.mark.usefixtures("no_figures")
def test_without_a_run_that_is_left_the_console_shows_nothing(tmp_path: Path) -> None:
    assert len(write_report(outputs(tmp_path)))
    for run in (tmp_path / "runs").iterdir():
        (run / "run.json").write_text("[]")
    assert write_report(tmp_path).empty
    assert (tmp_path / "report" / "page.html").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_what_a_killed_move_left_goes_with_the_next_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, report = tmp_path / "runs", tmp_path / "report"
    run = make_run(runs, {"x": ("harmful_rate", "nnyn"), "x+turn": ("harmful_rate", "yyyn")})
    told = {"name": "turn", "of": "x", "of_hash": "h-x", "left_out": 0, "settings": {"_target_": "x.Step"}}
    mend(run / "evaluation" / "x+turn.alttrain", lambda record: record["provenance"].update(intervention=told))
    interrupt_at_move(10, tmp_path, monkeypatch)
    assert (report / "interventions.csv").exists()
    shutil.rmtree(run / "evaluation" / "x+turn.alttrain")
    write_report(tmp_path)
    assert not (report / "interventions.csv").exists()
    assert set(json.loads((report / ".stamp").read_text())["files"]) == files(tmp_path).keys() - {".stamp"}
