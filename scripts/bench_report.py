"""How long a report over many runs takes, with tables, figures, page and console, in its own process.

    python scripts/bench_report.py [--runs 200] [--rows 100] [--keep FOLDER]

Makes run folders with ten judged benchmarks each (methods, ablations, teachers and amounts of data on four backbones,
three seeds), with rows of realistic size. Times a new report, and a second one with nothing changed. Prints one line of
JSON for each, with the processor seconds and the peak memory of its process, and of the second process that it starts.
With `--keep` the folders are made in FOLDER and kept; folders that exist already are reused.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alttrain.evaluation import Adherence, Summary
from alttrain.evaluation.judged import DOCUMENTS, TRUE_MEANS
from alttrain.records import Generation, Judgement, checksum, write_json, write_rows, write_sealed

BACKBONES = ("r1_llama_8b", "r1_qwen_7b", "r1_qwen_32b", "s1_14b")
METHODS = {
    **dict.fromkeys(("no_train", "intention_analysis", "direct_refusal", "plain"), ("main",)),
    "alttrain": ("main", "ablation_structure", "teacher_swap", "data_size", "benign_amount"),
    **dict.fromkeys(("alttrain_without_pu", "alttrain_without_ha", "alttrain_without_cr"), ("ablation_structure",)),
    "alttrain_rephrased": ("ablation_structure",),
    "alttrain_by_another": ("teacher_swap",),
    **dict.fromkeys(("alttrain_500", "alttrain_3000"), ("data_size",)),
    **{f"alttrain_benign_{amount}": ("benign_amount",) for amount in (0, 50, 100, 300, 900)},
}
"""Each method's tables. The last part of a name is its number of examples, or of harmless ones."""
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
APART = {"safemt_attack_600": ["multi_turn"], "nq_open": ["general"], "cmmlu": ["general"]}
"""The tables of benchmarks that are not in main."""
SEEDS = 3
SENTENCE = (
    "the plan is looked at from each side, so that what follows from it is clear before a word is said about it. "
)


def make(folder: Path, runs: int, rows: int) -> None:
    """Write the run folders."""
    wanted = [(backbone, method, seed) for backbone in BACKBONES for method in METHODS for seed in range(SEEDS)]
    for number, (backbone, method, seed) in enumerate(wanted[:runs]):
        run, draw = folder / "runs" / f"{backbone}-{method}-s{seed}", random.Random(number)
        if not (run / "run.json").exists():
            for benchmark, (label, measure) in BENCHMARKS.items():
                judged(run / "evaluation" / f"{benchmark}.alttrain", benchmark, label, measure, rows, method, draw)
            describe(run, backbone, method, seed, draw)


def describe(folder: Path, backbone: str, method: str, seed: int, draw: random.Random) -> None:
    """The run's own files, run.json last: it marks the folder as complete."""
    amount = int(method.rpartition("_")[2]) if method[-1].isdigit() else 1000
    benign = amount if "benign" in method else amount // 10
    labels = {"benign": benign, "harmful": 900 if "benign" in method else amount - benign}
    trains = method not in ("no_train", "intention_analysis")
    write_json(folder / "fingerprint.json", {f"rewrite.setting_{number}": method for number in range(60)})
    if trains:
        counts = {"labels": labels, "origins": {}, "written": sum(labels.values()), "files": {}}
        write_sealed(folder / "rewrite.json", counts)
        record = {"steps": 1875, "examples": sum(labels.values()), "tokens": 167 * 15 * sum(labels.values())}
        record |= {"seconds": draw.gauss(3000, 100), "devices": 1, "device": "cuda", "precision": "bfloat16"}
        record |= {"final_loss": 0.1, "weights": "hub", "files": {}, "tokenizer": {}}
        write_sealed(folder / "train.json", record)
        losses = "".join(f"{step // 125},{0.1 + 1 / (1 + step / 50)},{step}\n" for step in range(9, 1875, 10))
        (folder / "logs").mkdir()
        (folder / "adapter").mkdir()  # for the model card
        (folder / "logs" / "metrics.csv").write_text(f"epoch,loss,step\n{losses}")
    names = {"run": folder.name, "backbone": backbone, "method": method, "label": method, "seed": seed}
    names |= {"order": list(METHODS).index(method), "tables": METHODS[method], "dataset": "made", "changed": {}}
    names |= {"digest": "", "tag": ""}
    names |= {"rewrite": "alttrain", "training": "sft"} if trains else {"rewrite": "none", "training": "none"}
    write_json(folder / "run.json", names)


def judged(folder: Path, benchmark: str, label: str, measure: str, rows: int, method: str, draw: random.Random) -> None:
    """One benchmark's generations, judgements, adherence and metrics."""
    safe = method not in ("no_train", "intention_analysis", "plain")
    chance = {"harmful_rate": 0.06 if safe else 0.8, "over_refusal_rate": 0.15 if safe else 0.01}.get(measure, 0.6)
    hits = [draw.random() < chance for _ in range(rows)]
    generations, adherence = [], []
    for number, hit in enumerate(hits):
        said = label if safe and draw.random() < 0.9 else ("benign" if safe else None)
        refuses = hit == (measure == "over_refusal_rate") if measure != "accuracy" else False
        generations.append(_generation(f"{benchmark}-{number}", label, safe, draw))
        adherence.append(_adherence(generations[-1].id, label, said, refuses))
    write_evaluation(folder, benchmark, measure, generations, hits, adherence)


def write_evaluation(
    folder: Path,
    benchmark: str,
    measure: str,
    generations: Sequence[Generation],
    hits: Sequence[bool],
    adherence: Sequence[Adherence],
) -> None:
    """The files of a judged benchmark. `hits` tells which texts count towards the measure."""
    says: Any = {"harmful_rate": "unsafe", "over_refusal_rate": "refused"}.get(measure, "correct")
    verdicts = [Judgement(one.id, "judge", hit, raw="safe") for one, hit in zip(generations, hits, strict=True)]
    write_rows(folder / "generations.jsonl", generations)
    write_rows(folder / "judgements.jsonl", verdicts)
    write_rows(folder / "adherence.jsonl", adherence)
    write_json(folder / "judges.json", {"judge": {TRUE_MEANS: says}})
    write_json(folder / "fingerprint.json", {})
    summary = Summary(measure, says)
    for row in zip(generations, verdicts, adherence, strict=True):
        summary.add(*row)
    decides = {"judge": "judge", "part": "answer", "counted": summary.counting, "says": says}
    provenance = {"measure": measure, "judges": {"judge": {}}, "protocol": "alttrain", "means": {}, "changed": {}}
    provenance |= {"protocol_hash": f"{hash_of(benchmark):012x}", "tables": APART.get(benchmark, ["main"])}
    provenance |= {"labels": {}, "intervention": None}
    made_from = {name: checksum(folder / name) for name in ("generations.jsonl", *DOCUMENTS)}
    metrics = [{k: None if v != v else v for k, v in asdict(metric).items()} for metric in summary.metrics()]
    found = {"benchmark": benchmark, "provenance": provenance, "made_from": made_from, "contaminated": []}
    found["unsettled"] = 0
    analysis = {"decides": decides, "others": [], **summary.analysis()}
    write_sealed(folder / "metrics.json", {**found, "metrics": metrics, "analysis": analysis})


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
    unread = 0, None, None, None
    return Adherence(name, label, True, said, step, True, None, refuses, None, place, place, None, True, *unread)


def timed(folder: Path) -> dict[str, Any]:
    """One report and its console table, in this process."""
    started = time.perf_counter()
    from alttrain.run.stages.report import show

    show(folder)
    found = {"seconds": round(time.perf_counter() - started, 2)}
    for name, whose in (("", resource.RUSAGE_SELF), ("second_", resource.RUSAGE_CHILDREN)):
        used = resource.getrusage(whose)
        found[f"{name}processor_seconds"] = round(used.ru_utime + used.ru_stime, 2)
        found[f"{name}peak_MiB"] = round(used.ru_maxrss / 1024)
    return found


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
            made = {"report": what, "runs": asked.runs, "benchmarks": len(BENCHMARKS), "rows": asked.rows}
            print(json.dumps({**made, "MB": round(size), **found}))


if __name__ == "__main__":
    main()
