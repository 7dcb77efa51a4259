"""The plan of a sweep: its treatments, its benchmarks, and the cost of its jobs.

Writes OUTPUT_DIR/.sweep/plan.json, which tells `alttrain-status` what is pending, and plan.md with three tables:

- methods     data, rewrite, teacher, recipe, adapter, system prompt: one row for each treatment
- benchmarks  prompts, decoding, system prompt, judge: one row for each protocol and benchmark
- jobs        state, memory, training tokens, generations, hours, requests to each teacher's and judge's server

Hours are estimated from the speed of earlier trainings in the output folder, of the same backbone and kind of adapter.
Without one they are estimated from rates measured elsewhere (`RATES`), on a CPU by its speed. Lengths of answers are
assumed (`TYPICAL`).
"""

import functools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alttrain.backbone.device import GIB, Device, detect_device
from alttrain.config import STAGES
from alttrain.evaluation import Benchmark, Judge
from alttrain.evaluation.judges import requests_of
from alttrain.generation import InProcess
from alttrain.records import Example, RunDocument, TrainDocument, json_or_none, write_json, write_text
from alttrain.report.escaping import escape_markdown
from alttrain.rewrite import lacks_original, lacks_understanding
from alttrain.run.assembly import Run
from alttrain.run.folder import source_texts
from alttrain.run.stages.generate import benchmark_samples, count_unanswered
from alttrain.run.stages.judge import is_judged, judges_of
from alttrain.run.stages.needs import guessed_rows, needs_of, shape_known
from alttrain.run.status import PLAN, read_status
from alttrain.training import SupervisedFineTuning

log = logging.getLogger(__name__)

RATES = {"cuda": (4.0e14, 4.6e13), "cpu": (2.7e11, 4.6e10)}
"""By device, (training's useful FLOP per second, generation's tokens per second times the backbone's parameters).

Measured on an H100 with an 8B backbone (12,355 tok/s of LoRA training, 5,808 tok/s of generation), and on two CPU cores
with a 135M backbone (500 and 340 tok/s).
"""
TYPICAL = {"harm": 600, "over_refusal": 600, "maths": 3000, "code": 3000, "knowledge": 1000, "summary": 800}
ORIGINAL = 600
"""Assumed tokens of an answer with its thought, by the benchmark's kind, and of an original. Limits still apply."""
CORES, CORE_FLOPS = 2, 6.0e10
"""Of the CPU behind `RATES`: its cores, and FLOP per second of one core in numpy's product of float32 matrices."""
MEASURED_S = 10.0  # seconds of training from which its rate counts
LISTED = 30  # number of runs named on the console; plan.json has all
Row = dict[str, str]  # a row of a table, by column


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    run: str
    overrides: tuple[str, ...]
    state: str  # "new", "goes on" or "done"
    gib: float | None  # memory of the stage that needs most, in GiB per device; None if unknown
    fits: bool | None  # whether that much is free; None if unknown
    devices: int  # of the training, over all nodes
    training_tokens: int  # of all training steps; 0 if it is done
    generations: int  # answers and originals that are left, without those that an earlier job of the sweep generates
    # device-hours of these two on this machine, without what a running server generates; None: backbone's size unknown
    hours: float | None
    calls: Mapping[str, int]  # requests to each server of a teacher, guard or judge, without repairs, if none is cached


def job_of(run: Run, overrides: Sequence[str], rows: Sequence[Example], earlier_work: set[str] | None = None) -> Job:
    """Estimate what is left of one run. `rows` are its training rows before the rewrite.

    They are empty if it trains nothing, or if another job of the sweep trains it. `earlier_work` has what the sweep's
    earlier jobs generate and judge (`_work_key`), whose answers and verdicts this job takes; its own is added.
    """
    earlier_work = set() if earlier_work is None else earlier_work
    device = detect_device(run.hardware.accelerator, run.hardware.memory_gib)
    peak = max((need.total for need in needs_of(run, rows, device)), default=None)
    due = STAGES if {*run.stages} <= {"check", "report"} else run.stages  # a check tells what the others would take
    structure, recipe, calls, is_left = run.structure, run.training, Counter[str](), run.needs_training

    def is_first(work: str) -> bool:
        is_new = work not in earlier_work
        earlier_work.add(work)
        return is_new

    to_rewrite = rows if "rewrite" in due and run.needs_training and not run.is_rewritten else ()
    lacking_original = [row.id for row in to_rewrite if lacks_original(structure, row)]
    original_tokens = min(ORIGINAL, structure.original.tokens) if structure.original else 0
    training_tokens = 0
    if recipe.trains and run.needs_training and rows and "train" in due:
        written = dict.fromkeys(lacking_original, original_tokens)
        known = zip(rows, guessed_rows(rows, recipe.max_length), strict=True)
        lengths = [min(recipe.max_length, length + written.get(row.id, 0)) for row, length in known]
        training_tokens = sum(lengths) * recipe.batch_size * recipe.steps(len(lengths)) // len(lengths)
    shaping = [run.config["backbone"], run.config["generation"], repr(structure.original)]
    originals = json.dumps(["originals", *shaping, sorted(lacking_original)], sort_keys=True)
    generated = len(lacking_original) if is_first(originals) else 0
    generated_tokens = generated * original_tokens
    for benchmark in run.all_benchmarks:
        work = _work_key(run, benchmark)
        lacking = count_unanswered(run, benchmark) if "generate" in due else 0
        is_unjudged = "judge" in due and not is_judged(run, benchmark)
        is_left |= lacking > 0 or is_unjudged
        if "generate" in due and is_first(f"generate {work}"):
            responses = lacking * (benchmark.intervention.responses if benchmark.intervention else 1)
            generated += responses
            most_tokens = run.protocol.decoding_for(benchmark).max_new_tokens
            generated_tokens += responses * min(TYPICAL[benchmark.kind], most_tokens)
            if benchmark.intervention and benchmark.intervention.requests:
                calls[f"attack {benchmark.intervention_name}"] += lacking * benchmark.intervention.requests
        if "judge" in due and is_first(f"judge {work}") and is_unjudged:
            texts = len(benchmark_samples(run, benchmark)) * len(run.protocol.parts_of(benchmark))
            for judge in judges_of(run, benchmark).values():
                calls[f"judge {_judge_text(judge)}"] += texts * requests_of(judge)
    not_understood = sum(lacks_understanding(structure, row, run.backbone.untrained_thought) for row in to_rewrite)
    for writer, count in ((structure.teacher, len(to_rewrite)), (structure.understander, not_understood)):
        if writer and writer.servers:
            calls[f"teacher {writer}"] += count
    if structure.guard:
        calls[f"guard {structure.guard.name}"] += len(lacking_original) * requests_of(structure.guard)
    is_done = not is_left and (status := read_status(run.folder)) is not None and status.state == "done"
    state = "new" if not run.folder.exists() else "done" if is_done else "goes on"
    gib = None if peak is None else round(peak / GIB, 2)
    fits = None if peak is None or device.free is None else peak <= device.free
    hours = _hours(run, device, training_tokens, generated_tokens if run.generation.loads_weights else 0)
    devices, words = run.hardware.world_size, tuple(overrides)
    return Job(run.name, words, state, gib, fits, devices, training_tokens, generated, hours, dict(+calls))


def _work_key(run: Run, benchmark: Benchmark) -> str:
    """Return what decides the answers and verdicts of an evaluation. Jobs with the same one share them.

    These are jobs of one run, and those of an untrained backbone that differ in the seed, whose answers are cached.
    """
    model: Any = str(run.folder)
    if not run.training.trains and isinstance(run.generation, InProcess):
        model = {key: value for key, value in run.fingerprint.items() if key != "seed"}
    settings = [run.config.get(key) for key in ("generation", "protocol", "intervention")]
    settings.append(run.config["evaluation"]["benchmarks"][benchmark.base_name])
    return json.dumps([model, benchmark.name, *settings], sort_keys=True)


def _hours(run: Run, device: Device, training_tokens: int, generated_tokens: int) -> float | None:
    """Estimate the device-hours of a run; None if the backbone's size is unknown."""
    if (shape := shape_known(run)) is None:
        return None
    kind = "cpu" if device.name == "cpu" else "cuda"
    flops, words = (rate / shape.parameters for rate in RATES[kind])
    flops /= 4 if run.adapter.freezes else 6  # passes: frozen weights need no weight gradients
    tokens, seconds = _measured(run.output_dir, run.backbone.name, run.adapter.folder, kind)
    if seconds >= MEASURED_S:
        speed = tokens / seconds / flops
    else:
        speed = _cpu_speed(run.hardware.threads) if kind == "cpu" else 1.0
    return (training_tokens / flops + generated_tokens / words) / speed / 3600


@functools.cache
def _measured(output_dir: Path, backbone: str, trained: str, kind: str) -> tuple[int, float]:
    """Return the tokens and device-seconds of an output folder's trainings of a backbone, on a "cpu" or "cuda".

    `trained` is the folder of what such a training leaves, which tells adapters from whole models.
    """
    tokens, seconds = 0, 0.0
    for path in output_dir.glob("runs/*/train.json"):
        record, names = json_or_none(path, TrainDocument), json_or_none(path.with_name("run.json"), RunDocument)
        is_comparable = record and names and (names["backbone"], record["device"]) == (backbone, kind)
        if is_comparable and path.with_name(trained).is_dir():
            tokens += record["tokens"]
            seconds += record["seconds"] * record["devices"]
    return tokens, seconds


@functools.cache
def _cpu_speed(threads: int | None) -> float:
    """Return this CPU's speed relative to the one behind `RATES`, by two products of matrices (0.1 s)."""
    import numpy

    matrix = numpy.ones((1024, 1024), numpy.float32)
    began = time.process_time()  # of all threads, so that other processes do not count
    _ = matrix @ matrix @ matrix
    flops = 2 * 2 * len(matrix) ** 3 / (time.process_time() - began)
    return flops / CORE_FLOPS * (threads or os.cpu_count() or 1) / CORES


def method_row(run: Run, rows: Sequence[Example]) -> Row:
    """Describe a method in words: one row of the table of methods."""
    labels = ", ".join(f"{count:,} {label}" for label, count in sorted(Counter(row.label for row in rows).items()))
    teacher, quantization = run.structure.teacher, run.backbone.quantization
    on_quantized = f" on {quantization} weights" if run.adapter.trains and quantization != "none" else ""
    evaluation_prompt = run.method.evaluation_prompt if run.method.name else run.backbone.system_prompt
    return {
        "method": run.method.name or run.structure.name,
        "changed": ", ".join(run.changed.treatment),
        "data": f"{run.dataset.name}: {labels}" if run.training.trains else "",
        "rewrite": run.structure.name,
        "teacher": str(teacher or ""),
        "recipe": _recipe_text(run.training) if run.training.trains else "",
        "adapter": f"{run.adapter}{on_quantized}",
        "system prompt": run.structure.system or _system_text(run, evaluation_prompt),
        "trained with": _system_text(run, run.backbone.system_prompt or "") if run.training.trains else "",
        "prompt": "" if run.structure.prompt_form == "{prompt}" and not run.structure.system else "its own form",
    }


def _recipe_text(recipe: SupervisedFineTuning) -> str:
    length = f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.max_steps} steps"
    warmup = f"{recipe.warmup_steps} steps" if recipe.warmup_share is None else f"{recipe.warmup_share:.0%}"
    schedule, objective = recipe.schedule.replace("_", " "), type(recipe.objective).__name__
    text = (
        f"{recipe.name}; {length}; lr {recipe.learning_rate:g} {schedule}; warm-up {warmup}; "
        f"batch {recipe.batch_size}; {recipe.optimizer}; betas {recipe.betas[0]:g}/{recipe.betas[1]:g}; "
        f"weight decay {recipe.weight_decay:g}; clip {recipe.gradient_clip}; length {recipe.max_length:,}"
    )
    return text if objective == "ResponseLoss" else f"{text}; {objective}"


def _system_text(run: Run, prompt: str | None, otherwise: str = "the protocol's") -> str:
    default = "the template's default" if run.backbone.template.without_system else "none"
    return otherwise if prompt is None else prompt or default


def benchmark_row(run: Run, benchmark: Benchmark) -> Row:
    """Describe how a benchmark's number is made: one row of the table of benchmarks."""
    protocol, decoding = run.protocol, run.protocol.decoding_for(benchmark)
    system_prompt = protocol.system_prompt_for(benchmark)
    identity, precision = bool(system_prompt) and system_prompt == run.backbone.identity, protocol.quantization
    return {
        "protocol": protocol.name,
        "benchmark": benchmark.name,
        "kind": benchmark.kind,
        "n": f"{len(benchmark.examples):,}",
        "new tokens": f"{decoding.max_new_tokens:,}",
        "temperature": f"{decoding.temperature:g}",
        "top_p": f"{decoding.top_p:g}",
        "top_k": str(decoding.top_k or ""),
        "samples": str(decoding.samples),
        "penalty": f"{decoding.repetition_penalty:g}",
        "system prompt": "the backbone's identity" if identity else _system_text(run, system_prompt, "the backbone's"),
        "weights": {None: "the backbone's", "none": "not quantised"}.get(precision, str(precision)),
        "judged": protocol.parts_of(benchmark)[0],
        "judge": ", ".join(_judge_text(judge) for judge in judges_of(run, benchmark).values()),
        "hash": run.protocol_hash(benchmark, texts=source_texts(run, benchmark)),
    }


def _judge_text(judge: Judge) -> str:
    model = getattr(judge, "model", None) or getattr(getattr(judge, "writer", None), "model_name", "")
    return f"{judge.name} ({model})" if model else judge.name


def write_plan(
    output_dir: Path, jobs: Sequence[Job], runs: Sequence[Run], rows: Mapping[str, Sequence[Example]]
) -> None:
    """Write plan.json and plan.md of a sweep. `runs` differ in more than their seeds; `rows` are by `Run.data`.

    A method's row names its backbones if it does not apply to all of them.
    """
    write_json(output_dir / PLAN, {"jobs": [asdict(job) for job in jobs]})
    backbones: dict[tuple[tuple[str, str], ...], list[str]] = {}  # by the method's row
    for run in runs:
        backbones.setdefault(tuple(method_row(run, rows.get(run.data, ())).items()), []).append(run.backbone.name)
    whole = {run.backbone.name for run in runs}
    methods = [
        dict(row) | {"backbones": "" if {*own} == whole else ", ".join(dict.fromkeys(own))}
        for row, own in backbones.items()
    ]
    benchmarks = dict.fromkeys(tuple(benchmark_row(run, each).items()) for run in runs for each in run.all_benchmarks)
    costs = [
        {
            "run": job.run,
            "state": job.state,
            "GiB a device": "" if job.gib is None else f"{job.gib:.1f}",
            "fits": {True: "yes", False: "no", None: ""}[job.fits],
            "devices": str(job.devices),
            "training tokens": f"{job.training_tokens:,}",
            "generations": f"{job.generations:,}",
            "device-hours": "" if job.hours is None else f"{job.hours:.1f}",
            "calls": _calls_text(job.calls),
        }
        for job in jobs
    ]
    tables = {"Methods": methods, "Benchmarks": list(map(dict, benchmarks)), "Jobs": costs}
    parts = [f"# {name}\n\n{_table(table)}" for name, table in tables.items()]
    write_text((output_dir / PLAN).with_suffix(".md"), "\n\n".join([*parts, totals(jobs)]) + "\n")


def totals(jobs: Sequence[Job]) -> str:
    """Return a sentence with the total cost of all jobs that are not done."""
    unfinished = [job for job in jobs if job.state != "done"]
    known = [job.hours for job in unfinished if job.hours is not None]
    hours = sum(known)
    amount = f"about {hours:,.1f} device-hours" if hours >= 1 else f"about {60 * hours:.0f} device-minutes"
    amount = f"{amount} on this machine" if known or not unfinished else "an unknown time"
    if 0 < len(known) < len(unfinished):
        amount += f" for {len(known)} of them"
    calls = sum((Counter(job.calls) for job in unfinished), Counter[str]())
    generations = sum(job.generations for job in unfinished)
    too_large = sum(job.fits is False for job in unfinished)
    warning = f" {too_large} need more memory than there is." if too_large else ""
    return (
        f"{len(unfinished)} of {len(jobs)} jobs are left: {amount}, {generations:,} generations, and "
        f"{_calls_text(calls) or 'no calls'} to teachers' and judges' servers.{warning}"
    )


def log_plan(jobs: Sequence[Job]) -> None:
    """Log the jobs by run, their states, memory and total cost."""
    runs: dict[str, list[Job]] = {}
    for job in jobs:
        runs.setdefault(job.run, []).append(job)
    trainings = "" if len(runs) == len(jobs) else f"{len(runs)} training{'s' if len(runs) > 1 else ''}, "
    states = ", ".join(f"{count} {state}" for state, count in Counter(job.state for job in jobs).items())
    log.info("plan      %s%d jobs: %s", trainings, len(jobs), states)
    for run, jobs_of_run in list(runs.items())[:LISTED]:
        unfinished = [job for job in jobs_of_run if job.state != "done"]
        state = unfinished[0].state if unfinished else "done"
        gib = max((job.gib for job in unfinished if job.gib is not None), default=None)
        log.info("          %-8s %s%s", state, run, "" if gib is None else f"  ~{gib:g} GiB")
        shared = set.intersection(*(set(job.overrides) for job in jobs_of_run))
        for job in jobs_of_run if len(jobs_of_run) > 1 else ():
            log.info("            %s", " ".join(override for override in job.overrides if override not in shared))
    if len(runs) > LISTED:
        log.info("          and %d more", len(runs) - LISTED)
    log.info("          %s plan.md has all.", totals(jobs))


def _calls_text(calls: Mapping[str, int]) -> str:
    return " and ".join(f"at most {count:,} calls of {name}" for name, count in calls.items())


def _table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, without empty columns."""
    columns = [column for column in (rows[0] if rows else ()) if any(row[column] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([escape_markdown(row[column]) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) if columns else "none"
