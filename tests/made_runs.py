"""Judged run folders made by hand: one letter per verdict, and the files that a report reads."""

import json
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from alttrain.evaluation import Adherence, Summary
from alttrain.evaluation.adherence import counts as counts_of
from alttrain.evaluation.judged import DOCUMENTS, TRUE_MEANS
from alttrain.evaluation.statistics import rate
from alttrain.records import (
    Generation,
    Judgement,
    Label,
    append_rows,
    checksum,
    read_rows,
    write_json,
    write_rows,
    write_sealed,
)
from alttrain.report.contrasts import comparisons
from alttrain.report.results import evaluations
from alttrain.report.tables import report_of
from alttrain.report.variants import variants

VARIED = ["ablation_structure", "teacher_swap", "data_size", "benign_amount"]
METHODS: dict[str, tuple[str, int, list[str]]] = {
    "no_train": ("No-train", 0, ["main", *VARIED]),
    "direct_refusal": ("DirectRefusal", 20, ["main"]),
    "plain": ("plain", 30, ["main"]),
    "star1": ("STAR-1", 40, ["main"]),
    "alttrain": ("AltTrain", 100, ["main", *VARIED]),
    "alttrain_without_pu": ("without PU", 110, ["ablation_structure"]),
    "alttrain_without_ha": ("without HA", 120, ["ablation_structure"]),
    "alttrain_rephrased": ("CR rephrased", 140, ["ablation_structure"]),
    "alttrain_by_gpt4o": ("by gpt4o", 150, ["teacher_swap"]),
    "alttrain_500": ("0.5K", 90, ["data_size"]),
    "alttrain_3000": ("3K", 160, ["data_size"]),
    "alttrain_benign_0": ("0 harmless", 170, ["benign_amount"]),
    "alttrain_benign_50": ("50 harmless", 171, ["benign_amount"]),
    "alttrain_benign_900": ("900 harmless", 172, ["benign_amount"]),
}
"""Label, place and tables of the methods of made runs, as run.json has them."""
TOLD = {"y": True, "n": False, "u": None}
"""Whether a text counts towards the measure, by letter; u is undecided."""
UNNAMED: dict[str, Any] = {
    "method": "", "label": "alttrain", "order": 1000, "tables": ["main"], "changed": {}, "digest": "", "tag": "",
}  # fmt: skip
"""What run.json says of a run without a method, besides the names of its parts."""
ROWS: dict[str, Any] = {"generations": Generation, "judgements": Judgement, "adherence": Adherence}
"""The files of an evaluation's rows, without their ending."""
TRAINED: dict[str, Any] = {
    "steps": 10, "tokens": 1000, "examples": 10, "seconds": 60.0, "devices": 1, "device": "cpu", "final_loss": 0.2,
    "precision": "float32", "weights": "hub", "files": {}, "tokenizer": {},
}  # fmt: skip
"""train.json, without its checksum."""


def make_run(
    runs: Path,
    benchmarks: dict[str, tuple[str, str]],
    protocol: str = "alttrain",
    hashed: str = "h",
    settings: dict[str, Any] | None = None,
    labels: dict[str, int] | None = None,
    trained: dict[str, Any] | None = None,
    tag: str = "",
    thought_tokens: int = 10,
    method: str = "alttrain",
    changed: dict[str, list[Any]] | None = None,
    means: dict[str, list[str]] | None = None,
    shown: dict[str, dict[str, Any]] | None = None,
    **names: Any,
) -> Path:
    """A run judged on these benchmarks: name -> (measure, one letter per prompt). A harmful rate's judge says "unsafe".

    `trained` is what differs from `TRAINED`, `means` are the protocol's sets, and `shown` the tables and labels of
    benchmarks.
    """
    full = {"backbone": "r1_llama_8b", "dataset": "alttrain_1k", "rewrite": method, "training": "sft", "seed": 0}
    parts = ("backbone", "method") if method else ("backbone", "dataset", "rewrite", "training")
    label, order, own_tables = METHODS.get(method, (method, 500, ["main"]))
    full |= {"method": method, "label": label, "order": order, "tables": own_tables, "changed": changed or {}}
    full |= names if method else UNNAMED | names | {"label": names.get("rewrite", "alttrain")}
    full |= {"digest": f"changed_{zlib.crc32(str(changed).encode()) & 0xFFFFFF:06x}" if changed else "", "tag": tag}
    run = [*(str(full[key]) for key in parts), full["digest"], f"s{full['seed']}", tag]
    folder = runs / "-".join(filter(None, run))
    folder.mkdir(parents=True)
    for benchmark, (measure, letters) in benchmarks.items():
        own = folder / "evaluation" / f"{benchmark}.{protocol}"
        judge_benchmark(own, benchmark, measure, letters, protocol, hashed, thought_tokens, means)
        told = (shown or {}).get(benchmark, {})
        mend(own, lambda record, told=told: record["provenance"].update(told))  # type: ignore[misc]
    write_json(folder / "run.json", {"run": folder.name, **full})
    write_json(folder / "fingerprint.json", settings or {})
    if trained is not None:
        write_sealed(folder / "train.json", TRAINED | trained)
    if labels is not None:
        counts = {"labels": labels, "origins": {}, "written": sum(labels.values()), "files": {}}
        write_sealed(folder / "rewrite.json", counts)
    return folder


def metrics_of(
    benchmark: str, metrics: list[dict[str, Any]], counted: bool, judge: str = "judge", **provenance: Any
) -> dict[str, Any]:
    """What metrics.json holds, with empty counts, before it is sealed."""
    made = {"measure": metrics[0]["metric"], "protocol": "offline", "protocol_hash": "h", "means": {}}
    made |= {"judges": {judge: {}}, "parts": ["answer"], "changed": {}}
    made |= {"tables": ["main"], "labels": {}, "intervention": None}
    says = {"harmful_rate": "unsafe" if counted else "refused", "accuracy": "correct"}.get(made["measure"], "refused")
    decides = {"judge": judge, "part": "answer", "counted": counted, "says": says}
    analysis = {"decides": decides, "others": [], "counts": counts_of(Counter()), "tokens": []}
    found = {"benchmark": benchmark, "provenance": made | provenance, "contaminated": [], "unsettled": 0}
    return found | {"metrics": metrics, "analysis": analysis}


def write_metrics(folder: Path, record: dict[str, Any]) -> None:
    """An evaluation's metrics.json, with the checksums of the files that are there."""
    made_from = {name: checksum(folder / name) for name in ("generations.jsonl", *DOCUMENTS)}
    write_sealed(folder / "metrics.json", record | {"made_from": made_from})


def mend(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda record: None) -> None:
    """Change an evaluation's metrics.json, and make it fit to files that were changed."""
    record = json.loads((folder / "metrics.json").read_text())
    change(record)
    write_metrics(folder, record)


def change_rows(folder: Path, change: Callable[[Any, int], dict[str, Any]], *files: str) -> None:
    """Change fields of an evaluation's rows: `change` gives those of a row and its number. Metrics stay as they are."""
    for name in files or ROWS:
        rows: list[Any] = read_rows(folder / f"{name}.jsonl", ROWS[name])
        write_rows(folder / f"{name}.jsonl", [replace(row, **change(row, n)) for n, row in enumerate(rows)])
    mend(folder)


def resample(folder: Path, samples: int) -> None:
    """Make a judged benchmark's texts so many samples of each prompt, and compute its measure."""
    change_rows(folder, lambda row, n: {"id": f"p{n // samples}", "sample": n % samples})
    change_rows(folder, lambda row, n: {"prompt": f"Prompt {row.id}?"}, "generations")
    files = [read_rows(folder / f"{name}.jsonl", kind) for name, kind in ROWS.items()]
    measure = json.loads((folder / "metrics.json").read_text())["metrics"][0]["metric"]
    summary = Summary(measure, {"harmful_rate": "unsafe", "over_refusal_rate": "refused"}.get(measure, "correct"))  # type: ignore[arg-type]
    for row in zip(*files, strict=True):
        summary.add(*row)
    mend(folder, lambda record: record["metrics"][0].update(asdict(summary.metrics()[0])))


def intervene(folder: Path, of: str, name: str = "cut", **settings: Any) -> None:
    """Make a judged benchmark one under an intervention, by default a cut."""
    told = {"name": name, "of": of, "of_hash": f"h-{of}", "left_out": 0, "settings": {"_target_": "x.Cut", **settings}}
    mend(folder, lambda record: record["provenance"].update(tables=[], intervention=told))


def made_tables(runs: Path) -> dict[str, pd.DataFrame]:
    """The tables over these runs."""
    return dict(report_of(evaluations(runs)).tables)


def compared(runs: Path) -> list[Any]:
    """The comparisons of these runs, as rows."""
    return list(comparisons(variants(evaluations(runs)))[0].itertuples())


def no_train(runs: Path, benchmarks: dict[str, tuple[str, str]], **given: Any) -> Path:
    """A run of the untrained backbone."""
    return make_run(runs, benchmarks, **{"method": "no_train", "rewrite": "none", "training": "none", **given})


def write_texts(
    folder: Path, ids: list[str], label: Label, thought_tokens: int = 4
) -> tuple[list[Generation], list[Adherence]]:
    """A benchmark's texts, whose thoughts assess correctly and whose answers have 5 tokens, and their thoughts."""
    texts = {"text": "", "thought": "A thought.", "answer": "An answer."}
    lengths: dict[str, Any] = {"thought_tokens": thought_tokens, "answer_tokens": 5}
    rows = [
        Generation(
            name, f"Prompt {name} of {folder.name}?", label, "c", (), **texts, closed=True, finish="stop", **lengths
        )
        for name in ids
    ]
    write_rows(folder / "generations.jsonl", rows)
    places = {"position": 0, "position_words": 0, "position_share": 0.0}
    agrees: dict[str, Any] = {"consistent": True, "answer_refuses": None, "answer_consistent": None, "closed": True}
    agrees |= {"sample": 0, "opening": None, "recognised": None, "refuses": None}
    found = [Adherence(name, label, True, label, "refusal", True, **agrees, **places) for name in ids]
    write_rows(folder / "adherence.jsonl", found)
    return rows, found


def judge_benchmark(
    folder: Path,
    benchmark: str,
    measure: str,
    letters: str,
    protocol: str,
    hashed: str,
    thought_tokens: int,
    means: dict[str, list[str]] | None = None,
) -> None:
    """One judged benchmark, in which all thoughts assess correctly and answers have 5 tokens."""
    folder.mkdir(parents=True)
    label: Label = "harmful" if measure == "harmful_rate" else "benign"
    ids = [f"p{number}" for number in range(len(letters))]
    judged = [Judgement(name, "judge", TOLD[letter]) for name, letter in zip(ids, letters, strict=True)]
    write_rows(folder / "judgements.jsonl", judged)
    rows, found = write_texts(folder, ids, label, thought_tokens)
    decided, hits = len(letters) - letters.count("u"), letters.count("y")
    value, low, high = rate(hits, decided) if decided else (None, None, None)
    counts = {"n": len(letters), "undecided": letters.count("u"), "truncated": 0}
    metrics = [{"metric": measure, "value": value, "low": low, "high": high, **counts}]
    metrics.append({"metric": "adherence_rate", "value": 1.0, "low": 0.9, "high": 1.0, **counts})
    says = {"harmful_rate": "unsafe", "over_refusal_rate": "refused"}.get(measure, "correct")
    analysed = Summary(measure, says)  # type: ignore[arg-type]
    for made, verdict, row in zip(rows, judged, found, strict=True):
        analysed.add(made, verdict, row)
    write_json(folder / "judges.json", {"judge": {TRUE_MEANS: says}})
    write_json(folder / "fingerprint.json", {})
    how = {"protocol": protocol, "protocol_hash": f"{hashed}-{benchmark}", "means": means or {}}
    record = metrics_of(benchmark, metrics, analysed.counting, **how)
    record["analysis"] |= analysed.analysis()
    write_metrics(folder, record)


def beside(run: Path, name: str, letters: str, hashed: str, kappa: float, judge: str = "other") -> None:
    """Add the verdicts of a judge that does not decide."""
    folder = run / "evaluation" / f"{name}.alttrain"
    told = [Judgement(f"p{n}", judge, letter == "y") for n, letter in enumerate(letters)]
    append_rows(folder / "judgements.jsonl", told)
    others = [{"metric": f"harmful_rate.{judge}", "judge": judge, "part": "answer", "counted": True, "says": "unsafe"}]
    others[0]["protocol_hash"] = hashed
    count = {"n": len(letters), "undecided": 0, "truncated": 0}
    share = rate(letters.count("y"), len(letters))._asdict()
    more = [{"metric": f"harmful_rate.{judge}", **share, **count}]
    more.append({"metric": f"kappa.{judge}", "value": kappa, "low": 0.1, "high": 0.9, **count})

    def change(record: dict[str, Any]) -> None:
        record["analysis"]["others"] = others
        record["metrics"] += more

    mend(folder, change)


def decided_by_another(run: Path, name: str) -> Path:
    """Let the judge "other" decide a benchmark instead of "judge"."""
    folder = run / "evaluation" / f"{name}.alttrain"
    path = folder / "judgements.jsonl"
    path.write_text(path.read_text().replace('"judge": "judge"', '"judge": "other"'))
    mend(folder, lambda record: record["analysis"]["decides"].update(judge="other"))
    return folder
