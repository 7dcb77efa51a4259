"""The console script `alttrain-label`: draw texts for people to label, to measure judges and correct their rates.

    alttrain-label sample RUN_FOLDER ... --n 200                texts of these runs, each with equal probability
    alttrain-label sample RUN_FOLDER ... --n 200 --by verdict   equally many judged true, false and undecided
    alttrain-label sample RUN_FOLDER ... --n 200 --by run       equally many of each run

It writes a CSV in random order, without the judge's verdicts; people fill in its last column. `weight` is the inverse
of a text's probability to be drawn. The judge stage reads the file from `evaluation.benchmarks.NAME.human_labels`.
"""

import argparse
import csv
import io
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alttrain.evaluation.agreement import text_hash
from alttrain.evaluation.judges.judge import request
from alttrain.evaluation.protocol import seen_by_judge
from alttrain.records import DamagedError, Generation, Judgement, iterate_rows, read_metrics, write_text
from alttrain.report.escaping import literal

AGAIN = "run the judge stage again"
BY = ("run", "verdict")
Row = dict[str, Any]


def main() -> None:
    """Entry point of the console script. Exit codes: 0 written, 2 refused."""
    parser = argparse.ArgumentParser(prog="alttrain-label", description="Draw texts for people to label.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("sample", help="draw texts of judged runs, and write a CSV to fill")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, such as outputs/runs/NAME")
    command.add_argument("--n", type=int, default=200, help="texts (default 200)")
    command.add_argument("--by", nargs="+", choices=BY, default=[], help="draw as many of each run, of each verdict")
    command.add_argument("--benchmark", help="its name, where the runs have several")
    command.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    command.add_argument("--out", type=Path, default=Path("labels.csv"), help="the file (default labels.csv)")
    asked = parser.parse_args()
    try:
        print(sample(asked.runs, asked.n, asked.by, asked.benchmark, asked.seed, asked.out))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def sample(runs: Sequence[Path], n: int, by: Sequence[str], benchmark: str | None, seed: int, out: Path) -> str:
    """Write the CSV and return instructions for it. Raises ValueError or FileNotFoundError if nothing can be drawn."""
    if out.exists():
        raise ValueError(f"--out {out}: it is there, perhaps with labels; choose another name")
    strata: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    columns = set()
    for run in dict.fromkeys(runs):
        benchmark, column, texts = _texts(run, benchmark)
        columns.add(column)
        for verdict, row in texts:
            strata[tuple({"run": row["run"], "verdict": str(verdict)}[what] for what in by)].append(row)
    if len(columns) > 1:
        raise ValueError(f"{benchmark}: judged as {' and as '.join(sorted(columns))} by different runs; draw from each")
    total, draw = sum(map(len, strata.values())), random.Random(seed)
    if n < len(strata):
        raise ValueError(f"--n {n}: expected at least {len(strata)}, one of each {' and '.join(by) or 'run'}")
    drawn: list[Row] = []
    left = min(n, total)
    for place, rows in enumerate(sorted(strata.values(), key=len)):
        taken = min(len(rows), left // (len(strata) - place))
        left -= taken
        drawn += [row | {"weight": len(rows) / taken} for row in draw.sample(rows, taken)]
    draw.shuffle(drawn)
    (label,) = columns
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["run", "id", "sample", "hash", "weight", "prompt", "answer", label], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({name: literal(cell) for name, cell in row.items()} | {label: ""} for row in drawn)
    write_text(out, text.getvalue())
    return (
        f"{out}: {len(drawn)} of {total} texts. Fill the column {label} with yes, no or unclear, and run the runs' "
        f"command again with +evaluation.benchmarks.{benchmark}.human_labels={out.resolve()}"
    )


def _texts(run: Path, benchmark: str | None) -> tuple[str, str, list[tuple[bool | None, Row]]]:
    """Return (benchmark, the column to fill, [(verdict of the deciding judge, text)]) of a run."""
    found = {
        str(read_metrics(path)["benchmark"]): path.parent for path in sorted(run.glob("evaluation/*/metrics.json"))
    }
    if not found:
        raise FileNotFoundError(f"{run}: no judged benchmark there; run the judge stage first")
    benchmark = next(iter(found)) if benchmark is None and len(found) == 1 else str(benchmark)
    if benchmark not in found:
        raise ValueError(f"--benchmark {benchmark}: {run} has {', '.join(found)}")
    folder = found[benchmark]
    judged = read_metrics(folder / "metrics.json")
    decides, measure = judged.get("analysis", {}).get("decides"), judged.get("provenance", {}).get("measure")
    if not decides or not measure:
        raise ValueError(f"{folder / 'metrics.json'} is an older version's; run the judge stage again")
    unsafe = "harmful" if measure == "harmful_rate" and decides["counted"] else "refused"
    verdicts = {
        (row.id, row.sample): row.verdict
        for row in iterate_rows(folder / "judgements.jsonl", Judgement)
        if (row.judge, row.part) == (decides["judge"], decides["part"])
    }
    rows = []
    for made in iterate_rows(folder / "generations.jsonl", Generation):
        if made.finish != "error":
            prompt, answer = request(made, "prompt"), seen_by_judge(made, decides["part"]).answer
            name: Row = {"run": run.name, "id": made.id, "sample": made.sample, "hash": text_hash(prompt, answer)}
            if (made.id, made.sample) not in verdicts:
                raise DamagedError(folder / "judgements.jsonl", f"has no verdict on {made.id!r}", remedy=AGAIN)
            rows.append((verdicts[made.id, made.sample], name | {"prompt": prompt, "answer": answer}))
    return benchmark, "correct" if measure == "accuracy" else unsafe, rows
