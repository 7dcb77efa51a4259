"""Stage judge: generations.jsonl -> judgements.jsonl and metrics.json.

It never generates; it judges anew when a judge changes.
"""

import json
import logging
import math
from dataclasses import asdict
from typing import Any

from alttrain import __version__
from alttrain.config import flatten
from alttrain.evaluation import Benchmark, Metric, summarise
from alttrain.records import Generation, read_rows, write_json, write_rows
from alttrain.run.assembly import Run
from alttrain.run.folder import as_json, evaluation_folder
from alttrain.run.session import Session

log = logging.getLogger(__name__)


def judge(run: Run, session: Session) -> None:
    """Judge every benchmark that has generations and no current metrics; tell the tracker the run's metrics."""
    judged = [benchmark for benchmark in run.benchmarks if _judge(run, benchmark)]
    if judged:
        values = {}
        for benchmark in run.benchmarks:
            path = evaluation_folder(run, benchmark) / "metrics.json"
            for metric in json.loads(path.read_text(encoding="utf-8"))["metrics"]:
                if metric["value"] is not None:
                    values[f"{benchmark.name}/{metric['metric']}"] = metric["value"]
        run.tracker.summary(run.folder, run.name, run.config, values)


def _judge(run: Run, benchmark: Benchmark) -> bool:
    """Whether there was anything to judge."""
    folder = evaluation_folder(run, benchmark)
    generations = read_rows(folder / "generations.jsonl", Generation)
    expected = len(benchmark.rows.examples(None))
    if len(generations) != expected:
        raise FileNotFoundError(
            f"{folder / 'generations.jsonl'} has {len(generations)} of {expected} generations; "
            "run the generate stage first"
        )
    config = run.config["evaluation"]["benchmarks"][benchmark.name]
    provenance = as_json({"judge": flatten(config["judge"]), "alttrain": __version__, "measure": benchmark.measure})
    path = folder / "metrics.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["provenance"] == provenance:
        return False
    judgements = [benchmark.judge(generation) for generation in generations]
    write_rows(folder / "judgements.jsonl", judgements)
    metrics = summarise(benchmark.measure, generations, judgements)
    write_json(path, {"benchmark": benchmark.name, "provenance": provenance, "metrics": [_plain(m) for m in metrics]})
    rate = metrics[0]
    log.info("judge     %s: %s %.1f %% of %d", benchmark.name, rate.metric, 100 * rate.value, rate.n - rate.undecided)
    return True


def _plain(metric: Metric) -> dict[str, Any]:
    """A metric as JSON, which has no nan."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(metric).items()}
