"""What a run tells its tracker: who it is, and once it is judged its metrics and each benchmark's samples."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from alttrain.evaluation import Adherence, Benchmark
from alttrain.records import Generation, Judgement, Texts, read_metrics, read_rows, withholds
from alttrain.run.assembly import Run
from alttrain.run.folder import evaluation_folder
from alttrain.training.trackers import Table, Tracked
from alttrain.training.tracking import Tracking

COLUMNS = ("id", "sample", "label", "verdict", "assessment", "finish", "thought_tokens", "answer_tokens")
TEXTS = ("prompt", "thought", "answer")
"""Columns that stand in a table only where the tracker is to get texts."""


def tracked(run: Run) -> Tracked:
    """The run as its tracker knows it."""
    return Tracked(run.name, run.folder, sweep(run), run.config)


def sweep(run: Run) -> str:
    """What the runs of a sweep have in common: the experiment's name, else the output folder's; "" outside of one."""
    if not HydraConfig.initialized():
        return ""
    hydra = HydraConfig.get()
    experiment = hydra.runtime.choices.get("experiment")
    return str(experiment or (run.output_dir.name if hydra.mode == RunMode.MULTIRUN else ""))


def tell(run: Run) -> None:
    """Give the tracker what was judged."""
    tracking = Tracking(run.tracker, tracked(run))
    try:
        if tracking.on:
            tables = {benchmark.name: samples(run, benchmark, run.tracker.texts) for benchmark in run.benchmarks}
            tracking.judged(metrics(run), tables)
    finally:
        tracking.close()


def metrics(run: Run) -> dict[str, float]:
    """Every number of metrics.json, by benchmark/metric."""
    found = {}
    for benchmark in run.benchmarks:
        path = evaluation_folder(run, benchmark) / "metrics.json"
        for metric in read_metrics(path)["metrics"]:
            if metric["value"] is not None:
                found[f"{benchmark.name}/{metric['metric']}"] = float(metric["value"])
    return found


def samples(run: Run, benchmark: Benchmark, texts: Texts) -> Table:
    """Verdict, assessment and lengths of each sample, and those texts that the tracker is to get."""
    folder = evaluation_folder(run, benchmark)
    decides = (benchmark.judge.name, run.protocol.judged)
    verdicts = {
        (row.id, row.sample): row.verdict
        for row in read_rows(folder / "judgements.jsonl", Judgement)
        if (row.judge, row.part) == decides
    }
    assessed = {(row.id, row.sample): row.assessment for row in read_rows(folder / "adherence.jsonl", Adherence)}
    rows = []
    for one in read_rows(folder / "generations.jsonl", Generation):
        key = (one.id, one.sample)
        row = [one.id, one.sample, one.label, verdicts.get(key), assessed.get(key), one.finish]
        row += [one.thought_tokens, one.answer_tokens]
        if texts != "none":
            held = withholds(texts, one.label == "harmful" or benchmark.measure == "harmful_rate")
            row += ["", "", ""] if held else [one.prompt, one.thought, one.answer]
        rows.append(row)
    return Table(COLUMNS if texts == "none" else (*COLUMNS, *TEXTS), rows)
