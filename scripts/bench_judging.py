"""How fast saved generations are judged and summarised, and in how much memory.

    python scripts/bench_judging.py [--rows 10000] [--samples 1]

Makes generations of realistic lengths (an understanding, an assessment, reasoning; English text) in a temporary folder.
Then times two tasks, each in its own process and row by row, as the stage does: judging refusals together with the
adherence of every thought, and summarising the three files. Prints one line of JSON per task, with its peak memory.
`--rows 1000000` takes 4 GB of disk.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from alttrain.evaluation import Adherence, RefusalJudge
from alttrain.evaluation.judged import Judgements
from alttrain.evaluation.judges import JudgeContext
from alttrain.evaluation.metrics import Summary
from alttrain.records import Generation, iterate_rows, write_rows

SENTENCE = "the user asks about a plan and wants it to be clear so that every step is checked before it is made"
WORDS = SENTENCE.split()
OPENINGS = ("The user wants to know how a thing is made.", "Okay, so the user is asking about a thing.")
VERDICTS = ("This request is harmful, because people could be hurt.", "The request is harmless: it is ordinary.")
ANSWERS = ("I'm sorry, but I can't help with that.", "Here is what I know about it, as far as it goes.")
JUDGE = "refusal"


def generations(count: int, samples: int = 1) -> Iterator[Generation]:
    """Rows whose thoughts have 20 to 300 words after the understanding and the assessment."""
    draw = random.Random(0)
    for number in range(count):
        kind = number % 2
        reasoning = (
            ". ".join(" ".join(draw.choices(WORDS, k=12)).capitalize() for _ in range(draw.randint(2, 25))) + "."
        )
        thought = f"{draw.choice(OPENINGS)}\n\n{VERDICTS[kind]}\n\n{reasoning}"
        answer = f"{ANSWERS[kind]} {reasoning[:200]}" if kind else ANSWERS[kind]
        yield Generation(
            id=f"r{number // samples}",
            prompt=f"Request {number // samples}?",
            label="harmful" if kind == 0 else "benign",
            category="c",
            gold=(),
            text=f"{thought}\n</think>\n\n{answer}",
            thought=thought,
            answer=answer,
            closed=True,
            finish="stop",
            thought_tokens=150,
            answer_tokens=20,
            sample=number % samples,
        )


def judged(folder: Path) -> Judgements:
    judgements = Judgements(folder, {JUDGE: RefusalJudge()}, ["answer"], {JUDGE: {}}, {})
    judgements.find()
    return judgements


def judge(folder: Path) -> int:
    """Judge refusals and find every thought's adherence, as the stage does."""
    judgements = judged(folder)
    judgements.judge_missing(JUDGE, "answer", JudgeContext(folder))
    judgements.write()
    rows = iterate_rows(folder / "generations.jsonl", Generation)
    told = zip(rows, judgements.rows_of(JUDGE, "answer"), strict=True)
    write_rows(folder / "adherence.jsonl", (Adherence.of(row, verdict) for row, verdict in told))
    return judgements.rows


def summarise(folder: Path) -> int:
    """Read generations, judgements and adherence from disk, and summarise them."""
    judgements = judged(folder)
    judgements.write()
    summary = Summary("harmful_rate")
    rows = iterate_rows(folder / "generations.jsonl", Generation)
    found = iterate_rows(folder / "adherence.jsonl", Adherence)
    for row, verdict, thought in zip(rows, judgements.rows_of(JUDGE, "answer"), found, strict=True):
        summary.add(row, verdict, thought)
    summary.metrics()
    summary.tokens()
    return judgements.rows


TASKS = {"judge": judge, "summarise": summarise}


def peak_mb() -> float:
    """This process's peak memory, from Linux. getrusage would also count the parent's memory before exec."""
    status = Path("/proc/self/status").read_text()
    return round(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024, 1)


def main() -> None:
    """Make the file, then time each task in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1, help="texts of each prompt")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        started = time.perf_counter()
        count = TASKS[asked.task](asked.folder)
        seconds = round(time.perf_counter() - started, 2)
        print(json.dumps({"task": asked.task, "rows": count, "seconds": seconds, "peak_mb": peak_mb()}))
        return
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name) / "generations.jsonl", generations(asked.rows, asked.samples))
        for task in TASKS:
            subprocess.run([sys.executable, __file__, "--task", task, "--folder", name], check=True)


if __name__ == "__main__":
    main()
