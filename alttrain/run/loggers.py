"""Log a run: its training as it proceeds, then the metrics and samples of each benchmark."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from alttrain.evaluation import Benchmark
from alttrain.records import read_metrics, withholds
from alttrain.report.evaluation import Evaluation
from alttrain.run.assembly import Run
from alttrain.run.folder import evaluation_folder, run_document
from alttrain.training import LoggedRun
from alttrain.training.distributed import is_follower

COLUMNS = ("id", "sample", "label", "verdict", "assessment", "finish", "thought_tokens", "answer_tokens")
TEXTS = ("prompt", "thought", "answer")  # columns of the samples' table that need `logger.texts`


@contextmanager
def open_loggers(run: Run, held: str) -> Iterator[Sequence[Any]]:
    """Open the run's loggers that hold `held` ("training" or "evaluation"), and close them at the end.

    Each is guarded, so that its failure does not stop the run. Yields none in processes other than the leader.
    """
    chosen = {} if is_follower() else {name: logger for name, logger in run.loggers.items() if held in logger.holds}
    if not chosen:
        yield []
        return
    from alttrain.training.guarded_loggers import GuardedLogger

    opened = [GuardedLogger(name, partial(logger.open, describe_run(run))) for name, logger in chosen.items()]
    try:
        yield opened
    finally:
        for logger in opened:
            logger.close()


def describe_run(run: Run) -> LoggedRun:
    """Return the description of a run for its loggers. Its id is the run's name and a hash of name and fingerprint.

    Its sweep is the name of the experiment, or in a sweep without one, of the output folder. `method_name` in its
    config is what the report calls the method.
    """
    from alttrain.report.results import method_name  # imports pandas

    path = run.folder / "fingerprint.json"
    digest = sha256(run.name.encode() + (path.read_bytes() if path.exists() else b"")).hexdigest()[:8]
    sweep = ""
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        folder = run.output_dir.name if hydra.mode == RunMode.MULTIRUN else ""
        sweep = str(hydra.runtime.choices.get("experiment") or folder)
    config = {**run.config, "method_name": method_name(run_document(run))}
    return LoggedRun(f"{run.name[:55]}-{digest}", run.name, run.folder, sweep, config)  # wandb's ids have at most 64


def log_evaluation(run: Run) -> None:
    """Log every number of metrics.json as benchmark/metric, and the samples of each benchmark."""
    with open_loggers(run, "evaluation") as loggers:
        if not loggers:
            return
        metrics = {}
        for benchmark in run.all_benchmarks:
            path = evaluation_folder(run, benchmark) / "metrics.json"
            for metric in read_metrics(path)["metrics"] if path.exists() else ():
                if metric["value"] is not None:
                    metrics[f"{benchmark.name}/{metric['metric']}"] = float(metric["value"])
        tables = {benchmark.name: _samples(run, benchmark) for benchmark in run.benchmarks}
        for logger in loggers:
            logger.log_metrics(metrics, 0)
            for name, rows in tables.items():
                logger.log_table(name, COLUMNS if run.texts == "none" else (*COLUMNS, *TEXTS), rows)


def _samples(run: Run, benchmark: Benchmark) -> list[list[Any]]:
    """Return verdict, assessment and lengths of each sample, and its texts if `logger.texts` permits."""
    folder, rows = evaluation_folder(run, benchmark), []
    evaluation = Evaluation(run_document(run), folder, read_metrics(folder / "metrics.json"))
    texts = evaluation.texts()
    for generation in evaluation.generations():
        text = texts[generation.id, generation.sample]
        row = [generation.id, generation.sample, generation.label, text.verdict, text.assessment, generation.finish]
        row += [generation.thought_tokens, generation.answer_tokens]
        if run.texts != "none":
            is_withheld = withholds(run.texts, generation.label == "harmful" or benchmark.measure == "harmful_rate")
            row += ["", "", ""] if is_withheld else [generation.prompt, generation.thought, generation.answer]
        rows.append(row)
    return rows
