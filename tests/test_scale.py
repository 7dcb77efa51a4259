"""A million rows: judged row by row, in memory that grows by names and numbers and never by texts."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from alttrain.evaluation import JudgeContext, RefusalJudge, judged
from alttrain.evaluation.judged import Judgements, working_file_name
from alttrain.evaluation.judges.judge import NO_REPLY
from alttrain.llm import GIVEN_UP
from alttrain.records import Generation, Judgement, read_rows, write_rows

BENCH = Path(__file__).parents[1] / "scripts" / "bench_judging.py"
MILLION = 1_000_000
MOST_MB = 1000


def made(count: int, samples: int = 1) -> list[Generation]:
    draw = random.Random(0)
    answers = ("I'm sorry, but I can't help with that.", "Here is what I know about it.", "")
    return [
        Generation(
            *(f"r{number // samples}", "Why?", "harmful" if number % 2 else "benign", "c", ()),
            *("text", "The request is harmful. I should not answer.", draw.choice(answers), True),
            *(draw.choice(("stop", "stop", "length", "error")), draw.randint(1, 900), draw.randint(1, 90)),
            sample=number % samples,
        )
        for number in range(count)
    ]


def judgements(folder: Path, rows: Sequence[Generation]) -> Judgements:
    if not (folder / "generations.jsonl").exists():
        write_rows(folder / "generations.jsonl", rows)
    return Judgements(
        folder, {"refusal": RefusalJudge()}, ["answer", "thought"], {"refusal": {}}, {"refusal": "refusal"}
    )


def finish(made: Judgements, folder: Path) -> bytes:
    for part in ("answer", "thought"):
        made.judge_missing("refusal", part, JudgeContext(folder))
    made.write()
    return made.path.read_bytes()


@pytest.mark.parametrize("samples", [1, 3])
def test_batches_and_interruptions_leave_the_same_file(
    samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made(60, samples)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    first = judgements(whole, rows)
    first.find()
    expected = finish(first, whole)
    assert [(row.part, row.id, row.sample) for row in read_rows(first.path, Judgement)] == [
        (part, row.id, row.sample) for part in ("answer", "thought") for row in rows
    ]
    monkeypatch.setattr(judged, "JUDGE_BATCH", 7)
    lines = expected.splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    again = judgements(torn, rows)
    again.path.parent.mkdir()
    own = again.path.parent / working_file_name("answer", {})
    own.write_bytes(b"".join(lines[:50]) + lines[3] + lines[50][:20])  # one twice, and one torn
    (torn / "judgements.jsonl").write_bytes(b"".join(lines[40:70]) + lines[45] + lines[70][:20])
    again.find()
    assert 0 < again.count_missing("refusal", "answer") < 60
    assert finish(again, torn) == expected


@pytest.mark.parametrize("named", ["", "guard: "])  # a majority names the judge whose server it is
def test_a_server_that_is_given_up_is_not_asked_batch_after_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    asked: list[int] = []

    class Dead:
        name, says, servers = "dead", "refused", ("http://dead",)

        def judge(self, rows: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
            asked.append(len(rows))
            yield from (Judgement(row.id, "dead", None, error=f"{NO_REPLY}{named}{GIVEN_UP}") for row in rows)

    monkeypatch.setattr(judged, "JUDGE_BATCH", 10)
    rows = [replace(row, finish="stop") for row in made(35)]
    write_rows(tmp_path / "generations.jsonl", rows)
    told = Judgements(tmp_path, {"dead": Dead()}, ["answer"], {"dead": {}}, {})  # type: ignore[dict-item]
    told.find()
    told.judge_missing("dead", "answer", JudgeContext(tmp_path))
    assert asked == [10]
    assert len(read_rows(tmp_path / "judging" / working_file_name("answer", {}), Judgement)) == 35
    again = Judgements(tmp_path, {"dead": Dead()}, ["answer"], {"dead": {}}, {})  # type: ignore[dict-item]
    again.find()
    assert again.count_missing("dead", "answer") == 35


@pytest.mark.parametrize("end", [OSError("a sandbox did not start"), KeyboardInterrupt()])
def test_what_was_judged_before_an_error_is_not_judged_again(end: BaseException, tmp_path: Path) -> None:
    class Ends:
        name, says, servers = "ends", "correct", ()

        def judge(self, rows: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
            yield from (Judgement(row.id, "ends", True) for row in rows[:20])
            raise end

    write_rows(tmp_path / "generations.jsonl", [replace(row, finish="stop") for row in made(35)])
    for kept in (20, 35):
        judging = Judgements(tmp_path, {"ends": Ends()}, ["answer"], {"ends": {}}, {})  # type: ignore[dict-item]
        judging.find()
        with pytest.raises(type(end)):
            judging.judge_missing("ends", "answer", JudgeContext(tmp_path))
        assert len(read_rows(tmp_path / "judging" / working_file_name("answer", {}), Judgement)) == kept


def test_a_million_rows_would_take_less_than_a_gigabyte() -> None:
    """Measured on two sizes: what a row takes in memory is far less than its texts, and a million of them fit."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")

    def peaks(rows: int) -> dict[str, float]:
        command = [sys.executable, str(BENCH), "--rows", str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {told["task"]: told["peak_mb"] for told in map(json.loads, done.stdout.splitlines())}

    few, many = 3_000, 24_000
    small, large = peaks(few), peaks(many)
    for task, peak in large.items():
        assert peak + (peak - small[task]) / (many - few) * (MILLION - many) < MOST_MB, task
