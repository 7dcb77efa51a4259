"""alttrain-label: what is drawn of judged runs, with which weights, and what a person is given."""

import csv
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_runs import change_rows, judge_benchmark, make_run, mend

from alttrain.evaluation.labels import read_labels, text_hash
from alttrain.report.results import write_csv
from alttrain.run import label

SETS = {"strongreject": ("harmful_rate", "y" * 10 + "n" * 60 + "u" * 4)}


def draw(out: Path, *arguments: object) -> list[dict[str, str]]:
    """The rows that the command writes."""
    sys.argv = ["alttrain-label", "sample", *map(str, arguments), "--out", str(out)]
    label.main()
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def _arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])


def test_a_simple_sample_stands_for_all_texts_alike(tmp_path: Path) -> None:
    run = make_run(tmp_path, SETS)
    rows = draw(tmp_path / "a.csv", run, "--n", 37)
    assert list(rows[0]) == ["run", "id", "sample", "hash", "weight", "prompt", "answer", "harmful"]
    assert len({row["id"] for row in rows}) == 37
    assert {float(row["weight"]) for row in rows} == {2.0}
    assert {row["hash"] == text_hash(row["prompt"], row["answer"]) for row in rows} == {True}
    assert text_hash("Hi?", "No.") != text_hash("Hi?No", ".")
    assert {row["harmful"] for row in rows} == {""}
    assert draw(tmp_path / "b.csv", run, "--n", 37) == rows
    assert draw(tmp_path / "c.csv", run, "--n", 37, "--seed", 1) != rows
    assert len(draw(tmp_path / "d.csv", run, "--n", 1000)) == 74


def test_as_many_of_each_verdict_are_weighed_by_their_number(tmp_path: Path) -> None:
    run = make_run(tmp_path, SETS)
    rows = draw(tmp_path / "a.csv", run, "--n", 24, "--by", "verdict")
    strata = {"yes": range(10), "no": range(10, 70), "undecided": range(70, 74)}
    drawn = {name: [row for row in rows if int(row["id"][1:]) in ids] for name, ids in strata.items()}
    assert {name: len(own) for name, own in drawn.items()} == {"yes": 10, "no": 10, "undecided": 4}
    assert {name: {float(row["weight"]) for row in own} for name, own in drawn.items()} == {
        "yes": {1.0},
        "no": {6.0},
        "undecided": {1.0},
    }
    assert [row["id"] for row in rows] != sorted((row["id"] for row in rows), key=lambda name: int(name[1:]))


def test_runs_are_drawn_together_or_as_many_of_each(tmp_path: Path) -> None:
    small = make_run(tmp_path, {"strongreject": ("harmful_rate", "y" * 10)}, seed=1)
    runs = (make_run(tmp_path, SETS), small)
    rows = draw(tmp_path / "a.csv", *runs, "--n", 20, "--by", "run")
    weights = {(row["run"], float(row["weight"])) for row in rows}
    assert weights == {(runs[0].name, 7.4), (small.name, 1.0)}
    rows = draw(tmp_path / "b.csv", *runs, "--n", 42)
    assert {float(row["weight"]) for row in rows} == {2.0}


def test_what_two_runs_answered_alike_is_labelled_for_each(tmp_path: Path) -> None:
    runs = make_run(tmp_path, SETS), make_run(tmp_path, SETS, seed=1)
    rows = draw(tmp_path / "a.csv", *runs, "--n", 148)
    assert len({row["hash"] for row in rows}) == 74
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace(",\n", ",no\n"))
    labels = read_labels(tmp_path / "a.csv")
    for run in runs:
        found, others = labels.join({(row["id"], 0): row["hash"] for row in rows}, run.name)
        assert (len(found), len(others), {label.run for label in found.values()}) == (74, 74, {run.name})


def test_an_id_and_a_hash_of_digits_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spreadsheet would make them numbers, which are those of no text."""
    run = make_run(tmp_path, {"strongreject": ("harmful_rate", "yn")})
    change_rows(run / "evaluation" / "strongreject.alttrain", lambda row, n: {"id": f"0{n}"})
    monkeypatch.setattr(label, "text_hash", lambda prompt, text: "0123456789012345")
    rows = draw(tmp_path / "a.csv", run, "--n", 2)
    assert {(row["id"], row["hash"]) for row in rows} == {(f"'0{n}", "'0123456789012345") for n in range(2)}
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace(",\n", ",no\n"))
    texts = {(f"0{n}", 0): "0123456789012345" for n in range(2)}
    found, others = read_labels(tmp_path / "a.csv").join(texts, run.name)
    assert {name: one.name for name, one in found.items()} == {name: name for name in texts}
    assert not others


def test_an_apostrophe_of_a_text_is_kept(tmp_path: Path) -> None:
    """It is an escape in a sheet alone, and there only before what a spreadsheet would change."""
    rows = [{"id": name, "hash": "a", "refused": verdict} for name, verdict in (("'7", True), ("'a", False))]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_csv(tmp_path / "a.csv", pd.DataFrame(rows).replace({True: "yes", False: "no"}))
    for name in ("a.jsonl", "a.csv"):
        assert [one.name[0] for one in read_labels(tmp_path / name).labels] == ["'7", "'a"]


def test_a_filled_sheet_is_read_back(tmp_path: Path) -> None:
    draw(tmp_path / "a.csv", make_run(tmp_path, SETS), "--n", 3, "--by", "verdict")
    sheet = tmp_path / "a.csv"
    filled = sheet.read_text().replace(",\n", ",unclear\n", 1).replace(",\n", ",No\n", 1)
    sheet.write_text(filled)
    found = read_labels(sheet)
    assert (found.says, found.unlabelled, [one.verdict for one in found.labels]) == ("harmful", 1, [None, False])
    assert sorted(one.weight for one in found.labels)[-1] in (10, 60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "2", "--by", "verdict"], "--n 2: expected at least 3, one of each verdict"),
        (["--n", "0"], "--n 0: expected at least 1"),
        (["--benchmark", "other"], "--benchmark other: .* has strongreject, xstest_safe"),
        ([], "--benchmark NAME: .* has strongreject, xstest_safe"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = SETS if "--n" in arguments else {**SETS, "xstest_safe": ("over_refusal_rate", "yn")}
    with pytest.raises(SystemExit, match="2"):
        draw(tmp_path / "a.csv", make_run(tmp_path, sets), *arguments)
    assert re.search(message, capsys.readouterr().err)


def test_texts_by_one_of_two_protocols_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, SETS)
    folder = run / "evaluation" / "strongreject.brief"
    judge_benchmark(folder, "strongreject", "harmful_rate", "yn", "brief", "h", 10)
    with pytest.raises(SystemExit, match="2"):
        draw(tmp_path / "a.csv", run)
    assert re.search("--protocol NAME: .* has strongreject by alttrain, brief$", capsys.readouterr().err.strip())
    assert len(draw(tmp_path / "a.csv", run, "--protocol", "alttrain")) == 74
    assert len(draw(tmp_path / "b.csv", run, "--protocol", "brief")) == 2
    told = capsys.readouterr().out
    assert "by the same protocol (alttrain), with +evaluation.benchmarks.strongreject.human_labels=" in told
    assert "by the same protocol (brief), with +evaluation.benchmarks.strongreject.human_labels=" in told


def test_texts_under_an_intervention_are_not_drawn(tmp_path: Path) -> None:
    under = {"name": "cut", "of": "strongreject", "of_hash": "h", "left_out": 0, "settings": {}}
    sets = {**SETS, "strongreject+cut": ("harmful_rate", "yy")}
    run = make_run(tmp_path, sets, shown={"strongreject+cut": {"intervention": under}})
    assert len(draw(tmp_path / "a.csv", run)) == 74


def test_a_run_that_lacks_a_key_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, SETS)
    mend(run / "evaluation" / "strongreject.alttrain", lambda record: record.pop("analysis"))
    with pytest.raises(SystemExit, match="2"):
        draw(tmp_path / "a.csv", run)
    told = r".*metrics\.json: .*missing required field `analysis`.*; delete the file and run the same command again\n"
    assert re.fullmatch(told, capsys.readouterr().err)


def test_texts_that_lack_their_verdict_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path, SETS) / "evaluation" / "strongreject.alttrain"
    rows = (folder / "judgements.jsonl").read_text().splitlines(keepends=True)
    (folder / "judgements.jsonl").write_text("".join(rows[:3] + rows[4:]))
    for told in ("is not what metrics.json was made from", r"has no row for \('p3', 0\)"):
        with pytest.raises(SystemExit, match="2"):
            draw(tmp_path / "a.csv", folder.parents[1])
        assert re.search(rf"judgements\.jsonl: {told}; run the judge stage again$", capsys.readouterr().err)
        mend(folder)


def test_a_sheet_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("somebody's work")
    with pytest.raises(SystemExit):
        draw(tmp_path / "a.csv", make_run(tmp_path, SETS))
    assert "it is there, perhaps with labels" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        draw(tmp_path / "b.csv", tmp_path / "nowhere")
    assert "no judged benchmark there" in capsys.readouterr().err


def test_a_benchmark_without_a_text_is_no_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, SETS)
    change_rows(run / "evaluation" / "strongreject.alttrain", lambda row, n: {"finish": "error"}, "generations")
    with pytest.raises(SystemExit):
        draw(tmp_path / "a.csv", run)
    assert "no text of strongreject was generated" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()
