"""Judged run folders made by hand: a verdict a letter, and the files a report reads."""

import json
from pathlib import Path
from typing import Any

from alttrain.evaluation.statistics import rate
from alttrain.records import Judgement, write_rows

TOLD = {"y": True, "n": False, "u": None}
"""A letter as whether the text counts towards the measure; u is undecided."""


def make_run(
    runs: Path,
    benchmarks: dict[str, tuple[str, str]],
    protocol: str = "alttrain",
    hashed: str = "h",
    settings: dict[str, Any] | None = None,
    labels: dict[str, int] | None = None,
    trained: dict[str, Any] | None = None,
    tag: str = "",
    **names: Any,
) -> Path:
    """A run judged on these benchmarks: name -> (measure, a letter a prompt). A harmful rate's judge says "unsafe"."""
    full = {"backbone": "r1_llama_8b", "dataset": "alttrain_1k", "rewrite": "alttrain", "training": "sft", "seed": 0}
    full |= names
    run = "-".join([*(str(full[key]) for key in ("backbone", "dataset", "rewrite", "training")), f"s{full['seed']}"])
    folder = runs / (f"{run}-{tag}" if tag else run)
    for benchmark, (measure, letters) in benchmarks.items():
        judge_benchmark(folder / "evaluation" / f"{benchmark}.{protocol}", benchmark, measure, letters, protocol, hashed)
    (folder / "run.json").write_text(json.dumps({"run": folder.name, **full}))
    for name, content in (("fingerprint", settings), ("train", trained)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    if labels is not None:
        (folder / "rewrite.json").write_text(json.dumps({"labels": labels, "written": sum(labels.values())}))
    return folder


def no_train(runs: Path, benchmarks: dict[str, tuple[str, str]], **given: Any) -> Path:
    """A run of the backbone as it is."""
    return make_run(runs, benchmarks, rewrite="none", training="none", **given)


def judge_benchmark(folder: Path, benchmark: str, measure: str, letters: str, protocol: str, hashed: str) -> None:
    """One judged benchmark: thoughts that all assess rightly, of 10 tokens, and answers of 5."""
    folder.mkdir(parents=True)
    label = "harmful" if measure == "harmful_rate" else "benign"
    ids = [f"p{number}" for number in range(len(letters))]
    write_rows(
        folder / "judgements.jsonl",
        [Judgement(name, "judge", TOLD[letter]) for name, letter in zip(ids, letters, strict=True)],
    )
    rows = [{"id": name, "label": label, "thought_tokens": 10, "answer_tokens": 5} for name in ids]
    (folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    thought = {"label": label, "understanding": True, "assessment": label, "continuation": "refusal", "ordered": True}
    rows = [{"id": name, **thought} for name in ids]
    (folder / "adherence.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    decided, hits = len(letters) - letters.count("u"), letters.count("y")
    value, low, high = rate(hits, decided) if decided else (None, None, None)
    counts = {"n": len(letters), "undecided": letters.count("u"), "truncated": 0}
    metrics = [{"metric": measure, "value": value, "low": low, "high": high, **counts}]
    metrics.append({"metric": "adherence_rate", "value": 1.0, "low": 0.9, "high": 1.0, **counts})
    judged = {
        "benchmark": benchmark,
        "provenance": {"protocol": protocol, "protocol_hash": f"{hashed}-{benchmark}", "judges": {"judge": {}}},
        "metrics": metrics,
        "analysis": {"decides": {"judge": "judge", "part": "answer", "counted": True}, "detectable": None},
    }
    (folder / "metrics.json").write_text(json.dumps(judged))
