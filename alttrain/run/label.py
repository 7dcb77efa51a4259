"""The console script `alttrain-label`: draw texts for people to label, to measure judges and correct their rates.

    alttrain-label sample RUN_FOLDER ... --n 200                texts of these runs, each with equal probability
    alttrain-label sample RUN_FOLDER ... --n 200 --by verdict   equally many judged true, false and undecided
    alttrain-label sample RUN_FOLDER ... --n 200 --by run       equally many of each run

It writes a CSV in random order, without the judge's verdicts; people fill in its last column. `weight` is the inverse
of a text's probability to be drawn. The judge stage reads the file from `evaluation.benchmarks.NAME.human_labels`;
docs/judges.md shows the whole path.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd

from alttrain.evaluation.judges.judge import request
from alttrain.evaluation.labels import text_hash
from alttrain.evaluation.protocol import seen_by_judge
from alttrain.report.evaluation import Evaluation
from alttrain.report.results import evaluations_of, write_csv
from alttrain.run import console_script

HEADS = ("run", "id", "sample", "hash", "weight", "prompt", "answer")
Row = dict[str, Any]


@console_script()
def main() -> None:
    """Entry point of the console script. Exit codes: 0 written, 2 refused, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="alttrain-label", description="Draw texts for people to label.")
    parser.add_argument("command", choices=["sample"], help="draw texts of judged runs, and write a CSV to fill")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, such as outputs/runs/NAME")
    parser.add_argument("--n", type=int, default=200, help="texts (default 200)")
    by_help = "draw as many of each run, of each verdict"
    parser.add_argument("--by", nargs="+", choices=("run", "verdict"), default=[], help=by_help)
    parser.add_argument("--benchmark", help="its name, where the runs have several")
    parser.add_argument("--protocol", help="its name, where the runs have the benchmark by several")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--out", type=Path, default=Path("labels.csv"), help="the file (default labels.csv)")
    print(sample(parser.parse_args()))


def sample(arguments: argparse.Namespace) -> str:
    """Write the CSV and return instructions for it. Raises ValueError or FileNotFoundError if nothing can be drawn."""
    if (out := arguments.out).exists():
        raise ValueError(f"--out {out}: it is there, perhaps with labels; choose another name")
    strata: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    columns, benchmark, protocol = {}, arguments.benchmark, arguments.protocol
    for run in dict.fromkeys(arguments.runs):
        benchmark, protocol, column, rows = _texts(run, benchmark, protocol)
        columns[column] = ""
        for row in rows:
            strata[tuple(str(row[attribute]) for attribute in arguments.by)].append(row)
    if len(columns) > 1:
        raise ValueError(f"{benchmark}: judged as {' and as '.join(sorted(columns))} by different runs; draw from each")
    if arguments.n < len(strata):
        expected = f"expected at least {len(strata)}, one of each {' and '.join(arguments.by) or 'run'}"
        raise ValueError(f"--n {arguments.n}: {expected}")
    sampled, generator, total = [], random.Random(arguments.seed), sum(map(len, strata.values()))
    remaining = min(arguments.n, total)
    for index, rows in enumerate(sorted(strata.values(), key=len)):
        count = min(len(rows), remaining // (len(strata) - index))
        remaining -= count
        sampled += [row | {"weight": len(rows) / count} | columns for row in generator.sample(rows, count)]
    generator.shuffle(sampled)
    write_csv(out, pd.DataFrame(sampled, columns=[*HEADS, *columns]))
    return (
        f"{out}: {len(sampled)} of {total} texts. Fill the column {column} with yes, no or unclear, and run the "
        f"runs' command again, by the same protocol ({protocol}), with "
        + quote(f"+evaluation.benchmarks.{benchmark}.human_labels={out.resolve()}")
    )


def _texts(run: Path, benchmark: str | None, protocol: str | None) -> tuple[str, str, str, list[Row]]:
    """Return (benchmark, protocol, the column to fill, the texts with the deciding judge's verdict) of a run.

    Without a `benchmark` or `protocol`, the run has one. Under an intervention no text is labelled.
    """
    evaluations: dict[str, dict[str, Evaluation]] = defaultdict(dict)
    for evaluation in evaluations_of(run) if (run / "run.json").exists() else []:
        if not evaluation.intervention:
            evaluations[evaluation.benchmark][evaluation.protocol] = evaluation
    if not evaluations:
        raise FileNotFoundError(f"{run}: no judged benchmark there; run the judge stage first")
    benchmark = _only("benchmark", benchmark, evaluations, f"{run} has")
    protocol = _only("protocol", protocol, evaluations[benchmark], f"{run} has {benchmark} by")
    evaluation, rows = evaluations[benchmark][protocol], list[Row]()
    texts, deciding = evaluation.texts(), evaluation.decider
    for generation in evaluation.generations():
        if generation.finish != "error":
            prompt, answer = request(generation, "prompt"), seen_by_judge(generation, deciding.part).answer
            row: Row = {"run": evaluation.run, "id": generation.id, "sample": generation.sample}
            row |= {"hash": text_hash(prompt, answer), "prompt": prompt, "answer": answer}
            rows.append(row | {"verdict": texts[generation.id, generation.sample].verdict})
    if not rows:
        raise ValueError(f"{run}: no text of {benchmark} was generated")
    return benchmark, protocol, "harmful" if deciding.says == "unsafe" else deciding.says, rows


def _only(option: str, given: str | None, found: Mapping[str, object], has: str) -> str:
    """Return what an option names, or without it the only one that was found. Raises ValueError if there are others."""
    name = given or (next(iter(found)) if len(found) == 1 else "NAME")
    if name not in found:
        raise ValueError(f"--{option} {name}: {has} {', '.join(found)}")
    return name
