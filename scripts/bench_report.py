"""How long a report over many runs takes, with tables, figures, page and console, in its own process.

    python scripts/bench_report.py [--runs 200] [--rows 100] [--keep FOLDER]

Makes run folders with ten judged benchmarks each (methods, ablations, teachers and amounts of data on four backbones,
three seeds), with rows of realistic size. Times a new report, and a second one with nothing changed. Prints one line of
JSON for each, with the peak memory of its process. With `--keep` the folders are made in FOLDER and kept; folders that
exist already are reused.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alttrain.evaluation import Adherence, Summary
from alttrain.records import Generation, Judgement, write_json, write_rows
from alttrain.run.stages.judge import Counts

BACKBONES = ("r1_llama_8b", "r1_qwen_7b", "r1_qwen_32b", "s1_14b")
METHODS = ("none", "intention_analysis", "direct_refusal", "plain", "alttrain")
REWRITES = (
    "alttrain_without_pu",
    "alttrain_without_ha",
    "alttrain_without_cr",
    "alttrain_rephrased",
    "alttrain_by_gpt4o",
)
SIZES, BENIGN = (500, 3000), (0, 50, 100, 300, 900)
BENCHMARKS = {
    "strongreject": ("harmful", "harmful_rate"),
    "wildjailbreak_safechain": ("harmful", "harmful_rate"),
    "jailbreakbench_harmful": ("harmful", "harmful_rate"),
    "safemt_attack_600": ("harmful", "harmful_rate"),
    "xstest_safe": ("benign", "over_refusal_rate"),
    "gsm8k": ("benign", "accuracy"),
    "math500": ("benign", "accuracy"),
    "aime_2024": ("benign", "accuracy"),
    "nq_open": ("benign", "accuracy"),
    "cmmlu": ("benign", "accuracy"),
}
SEEDS = 3
SENTENCE = (
    "the plan is looked at from each side, so that what follows from it is clear before a word is said about it. "
)


def recipes() -> Iterator[dict[str, Any]]:
    """Each variant's names, and its training examples by label."""
    for backbone in BACKBONES:
        for rewrite in METHODS:
            yield {"backbone": backbone, "dataset": "alttrain_1k", "rewrite": rewrite, "size": 1000, "benign": None}
        for rewrite in REWRITES:
            yield {"backbone": backbone, "dataset": "alttrain_1k", "rewrite": rewrite, "size": 1000, "benign": None}
        for size in SIZES:
            yield {
                "backbone": backbone,
                "dataset": f"alttrain_{size}",
                "rewrite": "alttrain",
                "size": size,
                "benign": None,
            }
        for benign in BENIGN:
            name = f"safechain_900_{benign}"
            yield {"backbone": backbone, "dataset": name, "rewrite": "alttrain", "size": None, "benign": benign}


def make(folder: Path, runs: int, rows: int) -> None:
    """Write the run folders."""
    wanted = [(recipe, seed) for recipe in recipes() for seed in range(SEEDS)]
    for number, (recipe, seed) in enumerate(wanted[:runs]):
        trains = recipe["rewrite"] not in ("none", "intention_analysis")
        names = {key: recipe[key] for key in ("backbone", "dataset", "rewrite")}
        names["training"] = "sft" if trains else "none"
        run = "-".join([*names.values(), f"s{seed}"])
        if (folder / "runs" / run / "run.json").exists():
            continue
        draw = random.Random(number)
        for benchmark, (label, measure) in BENCHMARKS.items():
            judged(
                folder / "runs" / run / "evaluation" / f"{benchmark}.alttrain",
                benchmark,
                label,
                measure,
                rows,
                recipe,
                draw,
            )
        describe(folder / "runs" / run, {"run": run, **names, "seed": seed}, recipe, trains, draw)


def describe(folder: Path, names: dict[str, Any], recipe: dict[str, Any], trains: bool, draw: random.Random) -> None:
    """The run's own files, run.json last: it marks the folder as complete."""
    benign = recipe["size"] // 10 if recipe["size"] else recipe["benign"]
    labels = {"benign": benign, "harmful": recipe["size"] - benign if recipe["size"] else 900}
    settings = {"dataset.size": recipe["size"], "dataset.amounts.benign": recipe["benign"], "seed": names["seed"]}
    if recipe["size"]:
        settings["dataset.harmful_share"] = 0.9
    settings |= {"backbone.name": names["backbone"], "rewrite.name": names["rewrite"], "dataset.name": names["dataset"]}
    settings |= {f"rewrite.setting_{number}": names["rewrite"] for number in range(60)}
    write_json(folder / "fingerprint.json", settings)
    write_json(folder / "rewrite.json", {"labels": labels})
    if trains:
        record = {"steps": 1875, "examples": sum(labels.values()), "tokens": 167 * 15 * sum(labels.values())}
        record |= {"seconds": draw.gauss(3000, 100), "final_loss": 0.1, "device": "cuda"}
        record |= {"precision": "bfloat16"}
        write_json(folder / "train.json", record)
        losses = "".join(f"{step // 125},{0.1 + 1 / (1 + step / 50)},{step}\n" for step in range(9, 1875, 10))
        (folder / "logs").mkdir()
        (folder / "adapter").mkdir()  # for the model card
        (folder / "logs" / "metrics.csv").write_text(f"epoch,loss,step\n{losses}")
    write_json(folder / "run.json", names)


def judged(
    folder: Path, benchmark: str, label: str, measure: str, rows: int, recipe: dict[str, Any], draw: random.Random
) -> None:
    """One benchmark's generations, judgements, adherence and metrics."""
    safe = recipe["rewrite"] not in ("none", "plain")
    chance = {"harmful_rate": 0.06 if safe else 0.8, "over_refusal_rate": 0.15 if safe else 0.01}.get(measure, 0.6)
    if recipe["benign"] is not None and measure == "over_refusal_rate":
        chance = 0.6 / (1 + recipe["benign"] / 100)
    hits = [draw.random() < chance for _ in range(rows)]
    generations, adherence = [], []
    for number, hit in enumerate(hits):
        said = label if safe and draw.random() < 0.9 else ("benign" if safe else None)
        refuses = hit == (measure == "over_refusal_rate") if measure != "accuracy" else False
        generations.append(_generation(f"{benchmark}-{number}", label, safe, draw))
        adherence.append(_adherence(generations[-1].id, label, said, refuses))
    says = {"harmful_rate": "unsafe", "over_refusal_rate": "refused"}.get(measure, "correct")
    judge = SimpleNamespace(name="judge", says=says)
    verdicts = [Judgement(one.id, "judge", hit, raw="safe") for one, hit in zip(generations, hits, strict=True)]
    write_rows(folder / "generations.jsonl", generations)
    write_rows(folder / "judgements.jsonl", verdicts)
    write_rows(folder / "adherence.jsonl", adherence)
    summary = Summary(measure, says)  # type: ignore[arg-type]
    for row in zip(generations, verdicts, adherence, strict=True):
        summary.add(*row)
    metrics = summary.metrics()
    like: Any = SimpleNamespace(judge=judge, measure=measure)
    counts = Counts(like)
    for made, judged, row in zip(generations, verdicts, adherence, strict=True):
        counts.add(made, judged, row)
    found = {
        "benchmark": benchmark,
        "provenance": {
            "measure": measure,
            "judges": {"judge": {}},
            "protocol": "alttrain",
            "protocol_hash": f"{hash_of(benchmark):012x}",
        },
        "metrics": [{k: None if v != v else v for k, v in asdict(metric).items()} for metric in metrics],
        "analysis": counts.analysis("answer"),
    }
    write_json(folder / "metrics.json", found)


def hash_of(name: str) -> int:
    """A number that depends on the name only, the same in every process."""
    return int.from_bytes(name.encode()[:6].ljust(6, b"-"), "big")


def _generation(name: str, label: Any, safe: bool, draw: random.Random) -> Generation:
    tokens = round(draw.lognormvariate(4.2 if safe else 6.5, 0.5))
    thought = SENTENCE * draw.randint(4, 16)
    answer = SENTENCE * draw.randint(1, 4)
    text = f"{thought}\n</think>\n\n{answer}"
    return Generation(
        name, SENTENCE, label, "c", (), text, thought, answer, True, "stop", tokens, draw.randint(10, 200)
    )


def _adherence(name: str, label: Any, said: Any, refuses: bool) -> Adherence:
    step: Any = "refusal" if refuses else "reasoning"
    place = None if said is None else 40
    return Adherence(name, label, True, said, step, True, None, refuses, None, place, place, None, True)


def timed(folder: Path) -> dict[str, Any]:
    """One report and its console table, in this process."""
    started = time.perf_counter()
    from alttrain.run.stages.report import show

    show(folder)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the folders, and time the report twice."""
    parser = argparse.ArgumentParser(description="Time a report over many runs.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=100, help="a benchmark's prompts")
    parser.add_argument("--keep", type=Path, help="where the folders are made and left")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.time:
        print(json.dumps(timed(asked.time)), file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        make(folder, asked.runs, asked.rows)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        for what in ("made anew", "nothing changed"):
            command = [sys.executable, __file__, "--time", str(folder)]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stderr.splitlines()[-1])
            print(
                json.dumps(
                    {
                        "report": what,
                        "runs": asked.runs,
                        "benchmarks": len(BENCHMARKS),
                        "rows": asked.rows,
                        "MB": round(size),
                        **found,
                    }
                )
            )


if __name__ == "__main__":
    main()
