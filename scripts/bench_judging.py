"""How fast saved generations are judged, read and summarised, and in how much memory.

    python scripts/bench_judging.py [--rows 100000] [--judged 10000]

Makes generations of realistic lengths (an understanding, an assessment, reasoning; English text), writes them to a
temporary folder, and times, each in a process of its own: judging by phrases with the adherence of every thought, and
reading a judged file and summarising it. Prints one line of JSON for each, with the peak memory of that process.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alttrain.evaluation import Adherence, RefusalPhrases, summarise
from alttrain.evaluation.judges.desk import JudgeDesk
from alttrain.records import Generation, Judgement, iterate_rows, read_rows, write_rows

SENTENCE = "the user asks about a plan and wants it to be clear so that every step is checked before it is made"
WORDS = SENTENCE.split()
OPENINGS = ("The user wants to know how a thing is made.", "Okay, so the user is asking about a thing.")
VERDICTS = ("This request is harmful, because people could be hurt.", "The request is harmless: it is ordinary.")
ANSWERS = ("I'm sorry, but I can't help with that.", "Here is what I know about it, as far as it goes.")


def generations(count: int) -> list[Generation]:
    """Rows whose thoughts hold 20 to 300 words after understanding and assessment."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        kind = number % 2
        reasoning = (
            ". ".join(" ".join(draw.choices(WORDS, k=12)).capitalize() for _ in range(draw.randint(2, 25))) + "."
        )
        thought = f"{draw.choice(OPENINGS)}\n\n{VERDICTS[kind]}\n\n{reasoning}"
        answer = f"{ANSWERS[kind]} {reasoning[:200]}" if kind else ANSWERS[kind]
        text = f"{thought}\n</think>\n\n{answer}"
        label = "harmful" if kind == 0 else "benign"
        finish = "stop"
        rows.append(
            Generation(f"r{number}", f"Request {number}?", label, "c", (), text, thought, answer, True, finish, 150, 20)  # type: ignore[arg-type]
        )
    return rows


def judge(folder: Path) -> int:
    """Judge by phrases, and find every thought's adherence."""
    rows = read_rows(folder / "judged.jsonl", Generation)
    verdicts = list(RefusalPhrases().judge(rows, JudgeDesk(folder)))
    write_rows(folder / "judgements.jsonl", verdicts)
    write_rows(folder / "adherence.jsonl", [Adherence.of(row, v) for row, v in zip(rows, verdicts, strict=True)])
    return len(rows)


def read(folder: Path) -> int:
    """Read generations and judgements that stand on disk, and summarise them."""
    rows = read_rows(folder / "rows.jsonl", Generation)
    verdicts = read_rows(folder / "verdicts.jsonl", Judgement)
    adherence = list(iterate_rows(folder / "thoughts.jsonl", Adherence))
    summarise("harmful_rate", rows, verdicts, adherence)
    return len(rows)


def peak_mb() -> int:
    """The most memory this process held. Linux's own figure: getrusage's counts the parent's, before exec, too."""
    status = Path("/proc/self/status").read_text()
    return round(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024)


def main() -> None:
    """Make the files, then time each task in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--judged", type=int, default=10_000)
    parser.add_argument("--task", choices=("judge", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        started = time.perf_counter()
        count = {"judge": judge, "read": read}[asked.task](asked.folder)
        seconds = round(time.perf_counter() - started, 2)
        peak = peak_mb()
        print(json.dumps({"task": asked.task, "rows": count, "seconds": seconds, "peak_mb": peak}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = generations(asked.rows)
        write_rows(folder / "judged.jsonl", rows[: asked.judged])
        write_rows(folder / "rows.jsonl", rows)
        verdicts = list(RefusalPhrases().judge(rows, JudgeDesk(folder)))
        write_rows(folder / "verdicts.jsonl", verdicts)
        write_rows(folder / "thoughts.jsonl", [Adherence.of(row, v) for row, v in zip(rows, verdicts, strict=True)])
        for task in ("judge", "read"):
            subprocess.run([sys.executable, __file__, "--task", task, "--folder", name], check=True)


if __name__ == "__main__":
    main()
