"""Sweeps: planned and checked whole, side by side by every launcher, with one job that fails and what runs again."""

import gc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from made_runs import TRAINED, UNNAMED
from processes import alttrain, has_ended
from rich.console import Console
from stub_server import Say, Serve

from alttrain.backbone import FullFineTuning
from alttrain.backbone.memory import training_bytes
from alttrain.config import RunError, register
from alttrain.config.overrides import applicable_overrides, overrides_of
from alttrain.records import Generation, write_json, write_rows, write_sealed, write_text
from alttrain.report.results import read_csv
from alttrain.run.app import main
from alttrain.run.assembly import Run, assemble
from alttrain.run.execution import execute
from alttrain.run.folder import evaluation_folder
from alttrain.run.plan import Job, job_of, totals
from alttrain.run.stages import report
from alttrain.run.stages.needs import fit_hardware, shape_known
from alttrain.run.status import ENDED, PLAN, Log, lock_folder, read_status, state_of, statuses, table
from alttrain.run.sweep import SWEEP, Sweep, plan, run_job
from hydra_plugins.alttrain_jobs import PARENT, JobSweeper

LAUNCHERS = {"basic": "", "joblib": "hydra_plugins.hydra_joblib_launcher", "ray": "ray"}
LAUNCHERS |= {"submitit": "hydra_plugins.hydra_submitit_launcher"}


def sweep(arguments: list[str], folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """A sweep in a process of its own."""
    command = ["-m", *arguments, f"output_dir={folder}", *more]
    own = {"ALTTRAIN_CACHE": str(folder.parent / "cache"), "COLUMNS": "200"}
    if "launcher=ray" not in more:  # which starts servers, as no forked process should
        return alttrain(command, **own)
    command = [sys.executable, "-m", "alttrain", *command]
    return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False, timeout=600)


def without(arguments: list[str], *keys: str) -> list[str]:
    return [argument for argument in arguments if not argument.startswith(keys)]


def metrics(folder: Path) -> list[tuple[str, str, str, str]]:
    cells = read_csv(folder / "report" / "metrics.csv").itertuples()
    return sorted((cell.run, cell.benchmark, cell.metric, f"{cell.value:.12g}") for cell in cells)


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str, str, str]]]:
    """The metrics of the same sweep by the basic launcher, made once."""
    return {}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_makes_the_same_metrics(
    tiny_arguments: list[str], tmp_path: Path, launcher: str, basic: dict[str, list[tuple[str, str, str, str]]]
) -> None:
    if LAUNCHERS[launcher] and not importlib.util.find_spec(LAUNCHERS[launcher]):
        pytest.skip(f"{LAUNCHERS[launcher]} is not installed")
    arguments = [*without(tiny_arguments, "dataset.amounts.b", "training.epochs"), "training.epochs=1"]
    arguments += ["dataset.amounts.borderline=0", "dataset.amounts.benign=0"]
    arguments += ["rewrite=alttrain_without_ha,alttrain_without_cr"]
    more = [] if launcher == "basic" else [f"launcher={launcher}"]
    done = sweep(arguments, tmp_path / launcher, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "plan      2 jobs: 2 new" in done.stderr
    found = metrics(tmp_path / launcher)
    assert len({run for run, *_ in found}) == 2
    assert basic.setdefault("metrics", found) == found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a second passes before a worker knows")
@pytest.mark.parametrize("launcher", ["joblib", "submitit", "ray"])
def test_what_a_killed_sweep_started_ends_and_its_folders_are_free(
    tiny_arguments: list[str], tmp_path: Path, launcher: str
) -> None:
    if not importlib.util.find_spec(LAUNCHERS[launcher]):
        pytest.skip(f"{LAUNCHERS[launcher]} is not installed")
    arguments = [*tiny_arguments, "training.epochs=100000", "seed=0,1", f"launcher={launcher}"]
    environment = {**os.environ, "ALTTRAIN_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "alttrain", "-m", *arguments]

    def training() -> list[int]:
        found = map(read_status, (tmp_path / "outputs" / "runs").glob("*"))
        return [status.process for status in found if status and status.stage == "train"]

    with (tmp_path / "told").open("wb") as told:
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
    while process.poll() is None and len(training()) < 2:
        time.sleep(0.2)
    workers = training()
    process.kill()
    process.wait()
    assert len(workers) == 2, (tmp_path / "told").read_text()[-3000:]
    assert process.pid not in workers
    assert all(map(has_ended, workers))
    for folder in (tmp_path / "outputs" / "runs").iterdir():
        assert state_of(folder).state == "stopped"
        with lock_folder(folder):
            pass


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_what_fails_in_its_check_is_failed_and_told_once(
    tiny_arguments: list[str], tmp_path: Path, launcher: str
) -> None:
    """Its folder does not exist then."""
    if LAUNCHERS[launcher] and not importlib.util.find_spec(LAUNCHERS[launcher]):
        pytest.skip(f"{LAUNCHERS[launcher]} is not installed")
    folder, more = tmp_path / "outputs", [] if launcher == "basic" else [f"launcher={launcher}"]
    arguments = [*without(tiny_arguments, "training", "rewrite", "dataset"), "method=no_train", "seed=0,1"]
    done = sweep([*arguments, "backbone.context_length=20"], folder, *more)
    assert done.returncode == 1
    assert not (folder / "runs").exists()
    assert "failed    2 of 2: tiny-no_train-s0, tiny-no_train-s1" in done.stderr
    assert done.stderr.count("it passes backbone.context_length=20") == 2  # once a job
    assert not re.search("Traceback|Error executing|HYDRA_FULL_ERROR", done.stderr)
    assert {status.state for status in statuses(folder).values()} == {"failed"}
    command = [sys.executable, "-m", "alttrain.run.status", str(folder)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "400"})
    assert (shown.returncode, shown.stdout.count("it passes backbone.context_length=20")) == (1, 2)


def test_a_run_that_fails_is_told_once(tiny_arguments: list[str], tmp_path: Path) -> None:
    done = alttrain([*tiny_arguments, "backbone.context_length=20"], ALTTRAIN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert done.stderr.count("it passes backbone.context_length=20") == 1
    assert not re.search("Traceback|Error executing|HYDRA_FULL_ERROR", done.stderr)


def test_a_sweep_stops_at_any_exception(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a GPU's memory, which is no error of the config; a run that ends later is not failed any more.

    Another sweep in the folder does not stop.
    """

    def execute(config: object, reports: bool) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("alttrain.run.sweep.execute", execute)
    register()
    memory = "RuntimeError: CUDA out of memory"
    for own, seed, told in (("a", 0, memory), ("a", 1, "not started, because tiny-.*-s0 failed"), ("b", 0, memory)):
        monkeypatch.setenv(SWEEP, own)
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            config = compose("run", overrides=[*tiny_arguments, "keep_going=false", f"seed={seed}"])
        with pytest.raises(RunError, match=told):
            run_job(config, [f"seed={seed}"])
    folder, run = tmp_path / "outputs", "tiny-embedded-alttrain-demo-s0"
    (ended,) = (folder / ENDED).iterdir()
    assert (statuses(folder)[run].state, statuses(folder)[run].error) == ("failed", "RuntimeError: CUDA out of memory")
    os.utime(ended, (0, 0))
    write_json(folder / "runs" / run / "run.json", {})
    Log(folder / "runs" / run).ended(None)
    assert statuses(folder)[run].state == "done"


def test_what_a_failed_job_held_is_free_for_the_next(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model on a GPU: Hydra keeps the error of each job until the sweep ends."""

    class Model:
        pass

    held: list[weakref.ref[Model]] = []

    def execute(config: object, reports: bool) -> None:
        model = Model()
        held.append(weakref.ref(model))
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("alttrain.run.sweep.execute", execute)
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=tiny_arguments)
    with pytest.raises(RunError, match="CUDA out of memory"):  # which is kept
        run_job(config, [])
    gc.collect()
    assert held[0]() is None


def test_a_failing_job_stops_no_other_and_alone_runs_again(tiny_arguments: list[str], tmp_path: Path) -> None:
    """The third seed's folder cannot be written: a file stands where it would be."""
    folder = tmp_path / "outputs"
    arguments = [*without(tiny_arguments, "training", "rewrite"), "method=no_train", "seed=0,1,2"]
    planted = folder / "runs" / "tiny-no_train-s1" / "evaluation"
    planted.parent.mkdir(parents=True)
    planted.write_text("in the way")
    done = sweep(arguments, folder)
    assert done.returncode == 1
    assert re.search(r"failed +tiny-no_train-s1: .*evaluation", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    states = {run: status.state for run, status in statuses(folder).items()}
    assert states == {f"tiny-no_train-s{seed}": "failed" if seed == 1 else "done" for seed in (0, 1, 2)}
    assert "evaluation" in statuses(folder)["tiny-no_train-s1"].error
    assert sorted(read_csv(folder / "report" / "metrics.csv").run.unique()) == ["tiny-no_train-s0", "tiny-no_train-s2"]
    assert done.stderr.index(f"report    {folder / 'report'}") < done.stderr.index("failed    1 of 3: tiny-no_train-s1")
    shown = subprocess.run(
        [sys.executable, "-m", "alttrain.run.status", str(folder)], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert "1 failed" in shown.stdout
    assert "2 done" in shown.stdout
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*s[02]/**/*") if path.suffix == ".jsonl"}
    planted.unlink()
    done = sweep(arguments, folder)
    assert done.returncode == 0, done.stderr
    assert "plan      3 jobs: 2 done, 1 goes on" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read_csv(folder / "report" / "metrics.csv").run.nunique() == 3


@pytest.mark.parametrize("failed", [True, False])
@pytest.mark.parametrize(("stages", "made"), [("rewrite,train,report", [True]), ("rewrite,train", [])])
def test_a_sweep_makes_a_report_if_that_is_among_its_stages(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch, failed: bool, stages: str, made: list[bool]
) -> None:
    """Also if one of its jobs failed."""
    register()
    swept = plan([*tiny_arguments, "seed=0,1", f"stages=[{stages}]"], multirun=True)
    assert swept is not None
    shown: list[bool] = []
    monkeypatch.setattr(report, "show", lambda *unused: shown.append(True) or True)
    assert swept.show(failed)
    assert shown == made


def test_a_sweep_may_stop_at_the_first_failure(tiny_arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    arguments = [*without(tiny_arguments, "training", "rewrite"), "method=no_train", "seed=0,1"]
    planted = folder / "runs" / "tiny-no_train-s0" / "evaluation"
    planted.parent.mkdir(parents=True)
    planted.write_text("in the way")
    done = sweep(arguments, folder, "keep_going=false")
    assert done.returncode == 1
    assert not (folder / "runs" / "tiny-no_train-s1").exists()
    assert statuses(folder)["tiny-no_train-s1"].state == "pending"
    assert "pending   1 of 2: tiny-no_train-s1" in done.stderr
    (stopped,) = folder.glob(".sweep/stopped.*")
    assert stopped.read_text() == "tiny-no_train-s0"
    planted.unlink()
    done = sweep(arguments, folder, "keep_going=false")
    assert done.returncode == 0, done.stderr
    assert not stopped.exists()


@pytest.mark.parametrize("asked", [[], ["stages=[train,generate,report]"]])
def test_a_job_of_several_devices_has_the_stages_of_its_config(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """Those of its experiment, too; the report is the sweep's."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# @package _global_\nstages: [rewrite, train, report]\n")
    commands: list[list[str]] = []

    def started(command: list[str], env: dict[str, str], **unused: object) -> Any:
        commands.append(command)
        assert env[PARENT] == str(os.getpid())
        return nullcontext(SimpleNamespace(wait=lambda: 0, returncode=0))

    monkeypatch.setattr("alttrain.run.sweep.subprocess.Popen", started)
    overrides = [f"hydra.searchpath=['file://{tmp_path}']", "experiment=own", "trainer.devices=2", *asked]
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        run_job(compose("run", overrides=[*tiny_arguments, *overrides]), overrides)
    (command,) = commands
    chosen = "[train,generate]" if asked else "[rewrite,train]"
    assert [part for part in command if part.startswith("stages=")] == [f"stages={chosen}"]
    assert command[3:6] == overrides[:3]


JOB = """#!{python}
import signal, sys, time
signals = []
signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
print("begun", flush=True)
while not signals:
    time.sleep(0.1)
time.sleep(0.5)  # the step that it finishes
print(len(signals), "saved", flush=True)
"""
STARTS = """
import signal, sys
from types import SimpleNamespace
from alttrain.run import sweep
# a shell that starts the tests in the background lets them ignore SIGINT
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
sweep.run_name, sys.executable = lambda config: "r", {job!r}
sweep._run_in_own_process(SimpleNamespace(stages=["train"], output_dir="."), [])
"""


@pytest.mark.parametrize("how", ["Ctrl-C", "terminate"])
def test_an_interrupted_job_of_several_devices_finishes_its_step(tmp_path: Path, how: str) -> None:
    """A terminal signals the sweep and what it started, a scheduler perhaps the sweep alone. A second signal kills."""
    job = tmp_path / "job"
    job.write_text(JOB.format(python=sys.executable))
    job.chmod(0o700)
    command = [sys.executable, "-c", STARTS.format(job=str(job))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT) if how == "Ctrl-C" else process.terminate()
        assert process.stdout.read() == "1 saved\n"
    assert process.returncode == -signal.SIGINT  # it was interrupted


# --- before it starts ---


def test_faults_of_all_jobs_are_told_before_any_runs(tiny_arguments: list[str], tmp_path: Path) -> None:
    done = sweep([*tiny_arguments, "backbone.source=/no/such/a,/no/such/b", "seed=0,1"], tmp_path / "outputs")
    assert done.returncode == 2
    assert done.stderr.count("no such folder") == 2
    assert "in 2 of 4 jobs: " in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_keys_of_a_training_change_only_the_jobs_that_train(tmp_path: Path) -> None:
    arguments = ["experiment=demo", "method=no_train,demo_alttrain", "training.epochs=2,3", "adapter.rank=8"]
    done = sweep(arguments, tmp_path / "outputs", "stages=[check]")
    assert done.returncode == 0, done.stderr
    planned = json.loads((tmp_path / "outputs" / PLAN).read_text())["jobs"]
    own = [[one for one in job["overrides"] if one.startswith(("method", "training", "adapter"))] for job in planned]
    assert own == [
        ["method=no_train"],
        ["method=demo_alttrain", "training.epochs=2", "adapter.rank=8"],
        ["method=demo_alttrain", "training.epochs=3", "adapter.rank=8"],
    ]
    assert done.stderr.startswith("plan      checking 3 jobs before the first starts\n")  # which may take a minute
    told = "training.epochs=2,3 adapter.rank=8: not for smollm2_135m-no_train-s0, which trains nothing"
    assert told in done.stderr


def test_a_swept_option_may_have_keys_that_the_default_lacks(tiny_arguments: list[str], tmp_path: Path) -> None:
    """Hydra itself composes the command line without what it sweeps."""
    arguments = without(tiny_arguments, "training", "rewrite", "generation")
    own = ["method=no_train", "teacher=backbone,server", "teacher.repairs=2", "tag=a,b", "teacher.writer.max_tokens=9"]
    done = sweep([*arguments, *own], tmp_path / "outputs", "stages=[generate]", "limit=2")
    assert done.returncode == 0, done.stderr
    assert {status.state for status in statuses(tmp_path / "outputs").values()} == {"done"}


def test_a_run_that_does_not_think_is_left_out_of_a_sweep_of_thoughts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not if one of the interventions is for no job: that may be a mistake."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "alttrain")
    register()
    arguments = ["experiment=demo", "intervention=cut", "method=no_train,demo_alttrain", "seed=0,1"]
    swept = plan(arguments, multirun=True)
    assert swept is not None
    assert [job.run for job in swept.jobs] == [f"smollm2_135m-demo_alttrain-s{seed}" for seed in (0, 1)]
    assert [(run.method.name, count) for run, count in swept.runs] == [("demo_alttrain", 2)]
    told = "left out, since it does not think: method=no_train experiment=demo intervention=cut"
    assert caplog.text.count(told) == 1
    with pytest.raises(RunError, match=r"none applies to smollm2_135m-no_train-s0.*\n +in 2 of 2 jobs"):
        plan(["experiment=demo", "intervention=cut", "method=no_train", "seed=0,1"], multirun=True)


def test_a_sweep_without_a_training_refuses_its_keys(tmp_path: Path) -> None:
    done = sweep(["experiment=demo", "method=no_train", "training.epochs=2"], tmp_path / "outputs", "stages=[check]")
    assert done.returncode == 2
    assert "training.epochs='2': there is no such key; accepted: name, thought; the method trains" in done.stderr


def test_jobs_that_would_be_one_run_are_refused(tiny_arguments: list[str], tmp_path: Path) -> None:
    register()
    arguments = [*tiny_arguments, "training.learning_rate=0.001,0.002"]
    with pytest.raises(RunError, match=r"2 jobs would be one run, tiny-embedded-alttrain-demo-s0; give them tags"):
        plan(arguments, multirun=True)
    with pytest.raises(RunError, match=r"2 jobs would be one run, .*; give them tags"):
        plan([*tiny_arguments, "trainer.precision=float32,bfloat16"], multirun=True)


def test_experiments_that_sweep_themselves_are_not_swept_over(tiny_arguments: list[str], tmp_path: Path) -> None:
    """Hydra reads what is swept before it knows the experiment, and would sweep nothing of it."""
    register()
    arguments = [*without(tiny_arguments, "training", "generation"), "seed=0,1", "experiment=demo,causal"]
    with pytest.raises(RunError, match=r"do not sweep their own method; give each its own comm(.|\n)*in 4 of 4 jobs"):
        plan(arguments, multirun=True)
    assert plan([*arguments, "method=demo_alttrain,demo_without_ha"], multirun=True) is not None
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    fields = "hydra: {sweeper: {params: {training.learning_rate: '0.1,0.2'}}}"
    (own / "rates.yaml").write_text(f"# @package _global_\n{fields}\n")
    arguments = [*without(arguments, "experiment", "rewrite"), f"hydra.searchpath=[file://{own.parent}]"]
    swept = plan([*arguments, "experiment=rates", "method=no_train"], multirun=True)
    assert swept is not None  # what it sweeps is of a training, and this method has none


def test_jobs_of_one_command_on_slurm_take_the_same_devices(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its launcher is made for the first of them."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    register()
    arguments = [*without(tiny_arguments, "training", "trainer.a"), "training=none,demo", "trainer.most_devices=2"]
    arguments.append("launcher=slurm")
    with pytest.raises(RunError, match=r"the same devices for all jobs, and these take \[1, 2\](.|\n)*in 2 of 2 jobs"):
        plan([*arguments, "trainer.memory_gib=0.0001"], multirun=True)
    assert plan([*arguments, "trainer.memory_gib=40"], multirun=True) is not None
    monkeypatch.setattr(Run, "needs_training", property(lambda run: run.seed == 1))  # the other goes on after training
    arguments = [*without(arguments, "training=none"), "training=demo", "seed=0,1", "trainer.memory_gib=0.0001"]
    swept = plan(arguments, multirun=True)
    assert swept is not None
    assert [job.devices for job in swept.jobs] == [2, 2]


def test_a_job_runs_with_the_devices_that_its_training_was_planned_for(tiny_arguments: list[str]) -> None:
    """A launcher leases them before the job starts."""
    register()
    arguments = [*without(tiny_arguments, "trainer.a"), "trainer.most_devices=4", "seed=0,1"]
    for gib, fitted in ((40, ()), (1e-4, ("recompute=true", "examples_per_pass=1", "devices=4", "strategy=fsdp"))):
        swept = plan([*arguments, f"trainer.memory_gib={gib}", "stages=[check]"], multirun=True)
        assert swept is not None
        for job in swept.jobs:
            assert {word for word in job.overrides if word.startswith("++")} == {f"++trainer.{key}" for key in fitted}
            with initialize_config_module("alttrain.conf", version_base="1.3"):
                run = assemble(compose("run", overrides=[*job.overrides]))
            assert run.hardware == fit_hardware(run).hardware


def test_the_source_of_each_jobs_intervention_is_looked_for(tiny_arguments: list[str], tmp_path: Path) -> None:
    """The first job of a run has none; jobs that differ in interventions share the run."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    for name, fields in {"a": "none", "b": "prefill_thought"}.items():
        text = f"# @package _global_\ndefaults: [{{override /intervention: {fields}}}]\n"
        text += "intervention: {prefill_thought: {source: nobody}}\n" if name == "b" else ""
        (tmp_path / "own" / "experiment" / f"{name}.yaml").write_text(text)
    register()
    arguments = [*tiny_arguments, f"hydra.searchpath=[file://{tmp_path / 'own'}]", "experiment=a,b"]
    with pytest.raises(RunError, match=r"prefill_thought\.source=nobody: .* has no such run"):
        plan(arguments, multirun=True)


@pytest.mark.parametrize("asked", ["generation.slots=2,4", "protocol.system_prompt=Yes,No"])
def test_evaluations_of_one_run_that_would_overwrite_each_other_are_refused(
    tiny_arguments: list[str], asked: str
) -> None:
    register()
    says = "2 jobs would write one evaluation, embedded_harmful of tiny-.*; give them tags, or other protocols"
    with pytest.raises(RunError, match=says):
        plan([*tiny_arguments, asked], multirun=True)


@pytest.fixture
def protocols(tiny_arguments: list[str], tmp_path: Path) -> list[str]:
    """A sweep of two protocols over one run: `brief` is as `offline`, but for half as many tokens."""
    (tmp_path / "own" / "protocol").mkdir(parents=True)
    (tmp_path / "own" / "protocol" / "brief.yaml").write_text("defaults: [offline, _self_]\nname: brief\n")
    return [f"--config-dir={tmp_path / 'own'}", *tiny_arguments, "protocol=brief,offline"]


def test_evaluations_of_one_run_train_it_once(protocols: list[str], tmp_path: Path) -> None:
    """Side by side if that launcher is there."""
    folder = tmp_path / "outputs"
    more = ["launcher=joblib"] if importlib.util.find_spec(LAUNCHERS["joblib"]) else []
    done = sweep(protocols, folder, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "plan      1 training, 2 jobs: 2 new" in done.stderr
    assert re.search(r"\n +new +tiny-embedded-alttrain-demo-s0 .*\n +protocol=brief\n +protocol=offline\n", done.stderr)
    (run,) = (folder / "runs").iterdir()
    log = (run / "run.log").read_text()
    assert len(re.findall(r"train +\d+ steps in", log)) == 1
    found = {path.name for path in (run / "evaluation").iterdir()}
    names = ("embedded_harmful", "embedded_benign", "embedded_short_answer")
    assert found == {name + suffix for name in names for suffix in ("", ".brief")}
    assert all((run / "evaluation" / name / "metrics.json").exists() for name in found)
    assert {status.state for status in statuses(folder).values()} == {"done"}
    done = sweep(protocols, folder)  # by the basic launcher, which has no workers to start
    assert "plan      1 training, 2 jobs: 2 done" in done.stderr
    assert (run / "run.log").read_text().count("generate ") == log.count("generate ")


def test_a_run_is_failed_as_long_as_one_of_its_evaluations_is(protocols: list[str], tmp_path: Path) -> None:
    folder, run = tmp_path / "outputs", "tiny-no_train-s0"
    arguments = [*without(protocols, "training", "rewrite"), "method=no_train"]
    planted = folder / "runs" / run / "evaluation" / "embedded_harmful.brief"
    planted.parent.mkdir(parents=True)
    planted.write_text("in the way")
    done = sweep(arguments, folder)
    assert done.returncode == 1
    assert (planted.parent / "embedded_harmful" / "metrics.json").exists()
    status = statuses(folder)[run]
    assert status.state == "failed"
    assert "embedded_harmful.brief" in status.error
    assert len(re.findall(rf"failed +{run}: .*brief", done.stderr)) == 1
    planted.unlink()
    assert sweep(arguments, folder).returncode == 0
    assert statuses(folder)[run].state == "done"


def test_an_earlier_jobs_error_is_recorded_before_the_next_job_of_its_training_begins(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would come after the next job's own status, and replace it."""
    held, recorded = [False], []

    @contextmanager
    def alone(path: Path) -> Iterator[None]:
        held[0] = True
        yield
        held[0] = False

    monkeypatch.setattr("alttrain.run.sweep.exclusive", alone)
    monkeypatch.setattr("alttrain.run.sweep.execute", lambda config, reports: None)
    monkeypatch.setattr(Log, "ended", lambda self, error: recorded.append((str(error), *held)))
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=tiny_arguments)
    write_text(tmp_path / "outputs" / ENDED / "tiny-embedded-alttrain-demo-s0.other", "it failed")
    run_job(config, [])
    assert recorded == [("it failed", True)]


def test_a_run_is_pending_as_long_as_one_of_its_evaluations_is(tmp_path: Path) -> None:
    write_json(tmp_path / "runs" / "r" / "run.json", {})
    write_json(tmp_path / PLAN, {"jobs": [{"run": "r"}, {"run": "r"}]})
    Log(tmp_path / "runs" / "r").ended(None)
    for ended, state in ((1, "pending"), (2, "done")):
        write_text(tmp_path / ENDED / f"r.{ended}", "")
        assert statuses(tmp_path)["r"].state == state


def test_what_a_job_left_behind_that_cannot_be_read_hides_no_state(tmp_path: Path) -> None:
    write_json(tmp_path / "runs" / "r" / "run.json", {})
    Log(tmp_path / "runs" / "r").ended(None)
    (tmp_path / ENDED).mkdir(parents=True)
    (tmp_path / ENDED / "r.1").write_bytes(b"\xff")
    assert statuses(tmp_path)["r"].state == "done"


def test_a_plan_says_what_is_left_and_what_it_takes(tiny_arguments: list[str]) -> None:
    register()
    arguments = [*tiny_arguments, "seed=0,1"]
    swept = plan(arguments, multirun=True)
    assert swept is not None
    assert [(job.state, job.overrides[-1]) for job in swept.jobs] == [("new", "seed=0"), ("new", "seed=1")]
    assert all(job.gib is not None and 0 < job.gib < 0.1 for job in swept.jobs)
    written = json.loads((swept.run.output_dir / ".sweep" / "plan.json").read_text())
    assert [job["run"] for job in written["jobs"]] == [job.run for job in swept.jobs]
    assert {status.state for status in statuses(swept.run.output_dir).values()} == {"pending"}
    assert plan(tiny_arguments, multirun=False) is None
    assert plan([*tiny_arguments[:3], "experiment=demo"], multirun=False) is not None
    tagged = plan([*arguments, "tag=of_${seed}"], multirun=True)
    assert tagged is not None
    assert [job.run for job in tagged.jobs] == [f"tiny-embedded-alttrain-demo-s{seed}-of_{seed}" for seed in (0, 1)]
    both = plan([*without(tiny_arguments, "training"), "training=none,demo"], multirun=True)
    assert both is not None
    assert [bool(job.training_tokens) for job in both.jobs] == [False, True]  # of the same data set


@pytest.mark.parametrize("stages", ["check,rewrite,train,generate,judge", "check"])
def test_a_run_is_not_done_that_another_judge_or_benchmark_is_asked_of(
    stages: str, tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    register()
    arguments = [*without(tiny_arguments, "training", "rewrite"), "method=no_train"]
    others = [argument for argument in arguments if re.match(r".*embedded_(benign|short)", argument)]
    first = [*(argument for argument in arguments if argument not in others), "evaluation=none"]
    first.append("+benchmark@evaluation.benchmarks.embedded_harmful=embedded_harmful")

    def left(*asked: str) -> tuple[str, str]:
        swept = plan([*asked, f"stages=[{stages}]"], multirun=True)
        assert swept is not None
        return swept.jobs[0].state, totals(swept.jobs)

    with initialize_config_module("alttrain.conf", version_base="1.3"):
        execute(compose("run", overrides=first), reports=False)
    assert left(*first)[0] == "done"
    state, told = left(*arguments)
    assert state == "goes on"
    assert "1 of 1 jobs are left" in told
    assert "8 generations" in told
    writer = {"base_url": serve(lambda *_: Say("")).url, "key_variable": "null", "model_name": "m"}
    judge = [f"protocol.judges.harmful_rate.writer.{key}={value}" for key, value in writer.items()]
    judge.append("judge@protocol.judges.harmful_rate=harm_score")
    state, told = left(*first, *judge)
    assert state == "goes on"
    assert "0 generations, and at most 4 calls of judge" in told


def test_the_hours_of_a_sweep_are_of_what_is_left_and_of_each_training_once(protocols: list[str]) -> None:
    """Two protocols evaluate one training; what is trained or generated is not done again."""
    register()
    own, *arguments = protocols
    arguments = [f"hydra.searchpath=[file://{own.partition('=')[2]}]", *arguments, "seed=0,1"]

    def planned() -> tuple[Sweep, list[Job]]:
        swept = plan(arguments, multirun=True)
        assert swept is not None
        minutes = 60 * sum(job.hours or 0.0 for job in swept.jobs)
        assert f"4 jobs are left: about {minutes:.0f} device-minutes on this machine, " in totals(swept.jobs)
        return swept, sorted(swept.jobs, key=lambda job: job.run != swept.run.name)

    swept, (whole, part, *others) = planned()
    assert whole.run == part.run != others[0].run
    assert [job.training_tokens for job in others] == [whole.training_tokens, part.training_tokens]
    assert [job.generations for job in (whole, part, *others)] == [12, 12, 16, 12]  # the first has four originals
    untouched = others[0].hours
    assert part.training_tokens == 0 < whole.training_tokens
    assert whole.hours is not None
    assert part.hours is not None
    assert 0 < part.hours < whole.hours
    run, benchmark = swept.run, swept.run.benchmarks[0]
    write_sealed(run.folder / "train.json", TRAINED)
    fields: dict[str, Any] = {"text": "", "thought": "", "answer": "", "thought_tokens": 0, "answer_tokens": 0}
    fields |= {"category": "", "gold": (), "closed": True, "finish": "stop"}
    rows = [Generation(one.id, one.prompt, one.label, **fields) for one in benchmark.examples]
    write_rows(evaluation_folder(run, benchmark) / "generations.jsonl", rows[1:])
    assert planned()[1][0].generations == 9  # not those of the whole chunk
    write_rows(evaluation_folder(run, benchmark) / "generations.jsonl", rows)
    _, (first, second, *others) = planned()
    assert [first.training_tokens, second.training_tokens] == [0, 0]
    assert [first.generations, second.generations] == [8, 12]
    assert first.hours
    assert first.hours < part.hours == second.hours
    assert others[0].hours == untouched


def test_a_plan_counts_what_jobs_share_once(tiny_arguments: list[str], tmp_path: Path, serve: Serve) -> None:
    """Jobs of one run share its evaluations, and seeds of the untrained backbone the cache of its answers."""
    register()
    (tmp_path / "own" / "evaluation").mkdir(parents=True)
    half = "defaults:\n  - /benchmark@benchmarks.embedded_harmful: embedded_harmful\n"
    (tmp_path / "own" / "evaluation" / "half.yaml").write_text(half)
    own = [f"hydra.searchpath=[file://{tmp_path / 'own'}]", *without(tiny_arguments, "evaluation"), "limit=4"]

    def generations(*more: str) -> list[int]:
        swept = plan([*own, "evaluation=half,embedded", *more], multirun=True)
        assert swept is not None
        assert {job.state for job in swept.jobs} == {"new"}
        return [job.generations for job in swept.jobs]

    assert generations() == [8, 8]  # the first with four originals
    assert generations("seed=0,1") == [8, 4, 8, 8]
    own = [*without(own, "training", "rewrite"), "method=no_train"]
    assert generations("seed=0,1") == [4, 0, 8, 0]
    served = ["generation=server", f"generation.base_url={serve(lambda *_: Say('')).url}", "generation.model_name=m"]
    own = without(own, "generation")
    assert generations("seed=0,1", "stages=[generate]", *served) == [4, 4, 8, 8]  # it caches nothing


def test_a_job_that_only_judges_is_counted_after_one_that_only_generates(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    planned, asked = set[str](), [*tiny_arguments, "judge@protocol.judges.harmful_rate=harm_score", "limit=4"]
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        runs = [assemble(compose("run", overrides=[*asked, f"stages=[{stage}]"])) for stage in ("generate", "judge")]
    first, second, third = (job_of(run, (), (), planned) for run in [*runs, runs[0]])
    assert [first.generations > 0, bool(first.calls)] == [True, False]
    assert [second.generations, *second.calls.values()] == [0, 4]
    assert third.generations == 0
    done = set[str]()
    with monkeypatch.context() as patch:
        patch.setattr("alttrain.run.plan.count_unanswered", lambda *_: 0)
        patch.setattr("alttrain.run.plan.is_judged", lambda *_: True)
        for run in runs:
            job_of(run, (), (), done)
    for run in runs:  # what an earlier job has done is not left to a later one
        later = job_of(run, (), (), done)
        assert [later.generations, later.calls] == [0, {}]


@pytest.mark.parametrize(
    ("stages", "rewritten", "calls"),
    [
        (["check"], False, {"judge": 4, "teacher": 16}),
        (["rewrite", "train", "judge"], True, {"judge": 4}),
        (["rewrite", "generate"], False, {"teacher": 16}),
    ],
)
def test_a_plan_counts_the_calls_that_are_left(
    stages: list[str], rewritten: bool, calls: dict[str, int], tiny_arguments: list[str]
) -> None:
    register()
    asked = ["judge@protocol.judges.harmful_rate=harm_score", "teacher=server", "teacher.writer.model_name=m"]
    asked += ["teacher.writer.base_url=http://localhost:1/v1", f"stages=[{','.join(stages)}]"]
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        run = assemble(compose("run", overrides=[*tiny_arguments, *asked]))
    if rewritten:
        for name in ("train.jsonl", "rewrite.json"):
            write_text(run.folder / name, "")
    found = job_of(run, (), run.rows)
    assert {what.partition(" ")[0]: count for what, count in found.calls.items()} == calls
    assert bool(found.training_tokens) == bool({"check", "train"} & set(stages))


def test_a_plan_is_of_the_stages_asked_and_of_this_machine(tiny_arguments: list[str], serve: Serve) -> None:
    """A check alone is of all stages. What a running server generates takes none of this machine's time."""
    register()

    def planned(stages: str, *more: str) -> Job:
        asked = [*without(tiny_arguments, *(["generation"] if more else [])), f"stages=[{stages}]", *more]
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            run = assemble(compose("run", overrides=asked))
        return job_of(run, (), ())

    whole, training = planned("check"), planned("check,rewrite,train")
    assert (bool(whole.generations), bool(whole.hours)) == (True, True)
    assert (training.generations, training.hours) == (0, 0.0)
    address = serve(lambda *_: Say("")).url
    served = planned("check", "generation=server", f"generation.base_url={address}", "generation.model_name=m")
    assert (served.generations, served.hours) == (whole.generations, 0.0)


def test_a_plan_counts_originals_once_and_what_a_guard_is_asked(tiny_arguments: list[str]) -> None:
    register()
    jobs = []
    earlier = set[str]()
    served = ["rewrite.guard.base_url=http://localhost:1/v1"]
    for asked in (["seed=0"], ["seed=1"], ["rewrite.traces=backbone"], ["rewrite=thinksafe", *served]):
        kept = [
            one for one in without(tiny_arguments, "evaluation") if "thinksafe" not in asked[0] or "short" not in one
        ]
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            run = assemble(compose("run", overrides=[*kept, "evaluation=none", *asked]))
        fixed = run.rows if not jobs else jobs[0][1]  # the rows of one seed
        jobs.append((job_of(run, (), fixed, earlier), fixed))
    benign = sum(row.label == "benign" for row in jobs[0][1])
    assert [job.generations for job, _ in jobs] == [benign, 0, 0, len(jobs[0][1])]
    assert all(job.hours for job, _ in jobs)
    assert jobs[0][0].calls == {}
    assert jobs[3][0].calls == {"guard llama_guard_3": 2 * len(jobs[0][1])}  # the verdict and its category
    assert jobs[3][0].training_tokens > jobs[0][0].training_tokens  # longer rows: an original may have 600 tokens


def test_the_disk_of_a_sweep_holds_each_training_once_and_one_checkpoint(
    protocols: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    own, *arguments = protocols
    arguments = [f"hydra.searchpath=[file://{own.partition('=')[2]}]", *arguments, "seed=0,1"]
    free = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr("alttrain.run.stages.needs.shutil.disk_usage", lambda folder: free)

    def refused() -> None:
        said = r"output_dir=.*: what is trained takes about .* GiB with a checkpoint, and .* are free there; make room"
        with pytest.raises(RunError, match=said):
            plan(arguments, multirun=True)

    swept = plan(arguments, multirun=True)
    assert swept is not None
    shape = shape_known(swept.run)
    assert shape is not None
    parts = training_bytes(shape, 2, lengths=[], **swept.run.adapter.footprint(2))
    adapter, checkpoint = parts["adapter"], parts["gradients"] + parts["optimizer"]
    free.free = 2 * adapter + checkpoint
    plan(arguments, multirun=True)
    free.free -= 1
    refused()
    write_sealed(swept.run.folder / "train.json", TRAINED)  # one of the two is trained
    free.free = adapter + checkpoint
    plan(arguments, multirun=True)
    free.free -= 1
    refused()
    arguments += ["adapter=full", "tag=whole"]
    parts = training_bytes(shape, 2, lengths=[], **FullFineTuning("float32").footprint(2))
    free.free = 2 * 2 * shape.parameters + parts["gradients"] + parts["optimizer"]
    plan(arguments, multirun=True)
    free.free -= 1
    refused()


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (0.25, "about 30 device-minutes on this machine,"),
        (1.5, "about 3.0 device-hours on this machine,"),
        (None, "an unknown time,"),
    ],
)
def test_a_plans_total_is_in_minutes_or_hours_with_the_calls_of_each(hours: float | None, said: str) -> None:
    job = Job("r", (), "new", None, None, 1, 0, 0, hours, {"judge guard (m)": 1500, "teacher t": 2})
    told = totals([job, job, replace(job, state="done")])
    assert said in told
    assert "at most 3,000 calls of judge guard (m) and at most 4 calls of teacher t" in told
    assert "and no calls to teachers' and judges' servers" in totals([replace(job, calls={})])


def test_a_plans_total_says_how_many_jobs_it_is_of() -> None:
    jobs = [Job("r", (), "new", None, None, 1, 0, 0, hours, {}) for hours in (0.25, None, 0.25)]
    assert "3 of 3 jobs are left: about 30 device-minutes on this machine for 2 of them, " in totals(jobs)


def test_hours_follow_earlier_trainings_of_the_same_kind(tiny_arguments: list[str], tmp_path: Path) -> None:
    """An adapter and a whole model of one backbone do not train at one speed."""
    register()

    def hours(*tokens: tuple[str, int]) -> float:
        output_dir = tmp_path / "-".join(kind for kind, _ in tokens)
        for kind, count in tokens:
            folder = output_dir / "runs" / kind
            (folder / kind).mkdir(parents=True)
            names = {"run": kind, "backbone": "tiny", "dataset": "d", "rewrite": "r", "training": "t", "seed": 0}
            write_json(folder / "run.json", UNNAMED | names)
            write_sealed(folder / "train.json", TRAINED | {"tokens": count, "seconds": 100.0})
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            run = assemble(compose("run", overrides=[*tiny_arguments, f"output_dir={output_dir}"]))
        found = job_of(run, (), run.rows).hours
        assert found is not None
        return found

    alone = hours(("adapter", 1000))
    assert hours(("adapter", 1000), ("model", 10)) == alone
    assert hours(("model", 10)) < alone / 10


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        (["experiment=demo", "hydra.sweeper.params.method=no_train"], ["method=no_train"]),
        (
            ["hydra.searchpath=[file://{folder}]", "experiment=mine", "tag=a,b"],
            [f"method={method} tag={tag}" for method in ("no_train", "demo_alttrain") for tag in "ab"],
        ),
        (  # the first option of all has no writer
            ["teacher=gpt4o,server", "teacher.writer.model_name=X"],
            [f"teacher={teacher} teacher.writer.model_name=X" for teacher in ("gpt4o", "server")],
        ),
        (
            ["experiment=demo", "training.epochs=2,3"],
            ["method=no_train", *(f"method=demo_alttrain training.epochs={epochs}" for epochs in (2, 3))],
        ),
    ],
)
def test_the_jobs_of_a_sweep_are_those_of_its_experiment_and_its_command(
    arguments: list[str], jobs: list[str], tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {method: 'no_train,demo_alttrain'}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    register()
    with initialize_config_module(config_module="alttrain.conf", version_base="1.3"):
        found = overrides_of([argument.format(folder=tmp_path) for argument in arguments], multirun=True)
    own = [[one for one in job if not one.startswith(("hydra", "experiment"))] for job in found]
    assert [" ".join(job) for job in own] == jobs


def test_a_method_on_the_prompts_side_keeps_keys_of_its_rewrite() -> None:
    register()
    form = "rewrite.prompt_form=x{prompt}"
    with initialize_config_module(config_module="alttrain.conf", version_base="1.3"):
        own = ["method=intention_analysis", form, "adapter.rank=8"]
        assert applicable_overrides(own) == ["method=intention_analysis", form]
        own = ["method=no_train", "training/objective=safekey", "judge@rewrite.guard=llama_guard_3", "seed=1"]
        assert applicable_overrides(own) == ["method=no_train", "seed=1"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["training.thought=open"], ["training.thought=open"]),
        (["training.thought=open", "training.epochs=2"], ["training.thought=open"]),
        (["rewrite=safety_prompt", "rewrite.system=x"], ["rewrite=safety_prompt", "rewrite.system=x"]),
        (["rewrite=intention_analysis", "adapter.rank=8"], ["rewrite=intention_analysis"]),
        (["rewrite=plain", "teacher=gpt4o"], []),
    ],
)
def test_a_job_without_training_takes_what_a_single_run_of_it_takes(given: list[str], taken: list[str]) -> None:
    register()
    with initialize_config_module(config_module="alttrain.conf", version_base="1.3"):
        assert applicable_overrides(["method=no_train", *given]) == ["method=no_train", *taken]


def test_a_report_alone_of_a_sweep_on_several_devices_needs_no_process(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.run.sweep._run_in_own_process", lambda *given: pytest.fail("a process was started"))
    register()
    with initialize_config_module(config_module="alttrain.conf", version_base="1.3"):
        config = compose("run", [*tiny_arguments, "stages=[report]", "trainer.devices=2", "trainer.strategy=ddp"])
    run_job(config, [])


@pytest.mark.parametrize(("size", "batches"), [(None, [3]), (2, [2, 1])])
@pytest.mark.parametrize("ends", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_the_sweeper_launches_the_planned_jobs_in_batches(
    size: int | None, batches: list[int], ends: JobStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, also if a job of the first batch failed."""
    launched: list[tuple[int, list[list[str]]]] = []
    planned = [("hydra.sweeper.max_batch_size=2", f"seed={seed}") for seed in range(3)]
    monkeypatch.setattr(JobSweeper, "jobs", planned)

    class Launcher:
        def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[SimpleNamespace]:
            launched.append((initial_job_idx, batch))
            return [SimpleNamespace(status=ends) for _ in batch]

    sweeper = JobSweeper(size, None)
    sweeper.launcher = Launcher()  # type: ignore[assignment]
    with nullcontext() if ends is JobStatus.COMPLETED else pytest.raises(SystemExit, match="1"):
        assert list(map(len, sweeper.sweep([]))) == batches
    assert [job for _, batch in launched for job in batch] == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert [first for first, _ in launched] == [0, 2][: len(batches)]


@pytest.mark.parametrize(("keep_going", "ran"), [(True, [0, 2]), (False, [])])
def test_a_worker_that_is_killed_fails_its_job_alone(
    keep_going: bool, ran: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """joblib then ends all jobs of the batch: they go on one at a time."""
    monkeypatch.setattr(JobSweeper, "jobs", [(f"seed={seed}",) for seed in range(3)])
    done: list[int] = []

    class TerminatedWorkerError(Exception):
        pass

    class Launcher:
        def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[SimpleNamespace]:
            if ["seed=1"] in batch:
                raise TerminatedWorkerError("SIGKILL(-9)")
            done.append(initial_job_idx)
            return [SimpleNamespace(status=JobStatus.COMPLETED) for _ in batch]

    sweeper = JobSweeper(None, None)
    sweeper.launcher, sweeper.keep_going = Launcher(), keep_going  # type: ignore[assignment]
    with pytest.raises(SystemExit, match="1"):
        sweeper.sweep([])
    assert done == ran
    assert capsys.readouterr().err.count("SIGKILL(-9)") == (2 if keep_going else 1)


# --- the lock and the status ---


def test_a_folder_in_use_is_refused_and_who_has_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    status = Log(tmp_path)
    with lock_folder(tmp_path):
        status.stage("train")
        code = (
            "import sys\nfrom pathlib import Path\nfrom alttrain.config import RunError\n"
            "from alttrain.run.status import lock_folder\n"
            f"try:\n    with lock_folder(Path({str(tmp_path)!r})):\n        sys.exit('got in')\n"
            "except RunError as error:\n    print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert re.search(rf"is in use by process {os.getpid()} on .+ since 20.*tag=NAME", done.stdout), done.stdout
        assert state_of(tmp_path).state == "running" or os.name == "nt"
    status.ended(None)
    assert state_of(tmp_path).state == "done"
    status.ended(RunError("first line\nlast line"))
    assert (state_of(tmp_path).state, state_of(tmp_path).error) == ("failed", "first line last line")


def test_a_preempted_run_is_stopped(tmp_path: Path) -> None:
    """submitit exits in its handler of the signal, and the job is submitted again."""
    status = Log(tmp_path)
    status.stage("train")
    with pytest.raises(SystemExit), status:
        sys.exit(-1)
    found = state_of(tmp_path)
    assert (found.state, found.stage, found.error) == ("stopped", "train", "SystemExit")


def test_a_killed_run_is_shown_as_stopped(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom alttrain.run.status import Log, lock_folder\n"
        f"folder = Path({str(tmp_path)!r})\nwith lock_folder(folder):\n"
        "    Log(folder).stage('generate')\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        assert state_of(tmp_path).state == "running"
        process.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    assert (state_of(tmp_path).state, state_of(tmp_path).stage) == ("stopped", "generate")
    write_json(tmp_path / "status.json", {"state": "odd"})
    assert read_status(tmp_path) is None


def test_an_error_is_shown_letter_by_letter(tmp_path: Path) -> None:
    """Advice holds brackets, which are no markup; nothing controls the terminal."""
    folder = tmp_path / "runs" / "a[b]-s0"
    write_json(folder / "run.json", {})
    Log(folder).ended(RunError("run 'stages=[rewrite,train]' first [/red] \x1b]0;title\x07"))
    screen = Console(width=200, record=True)
    screen.print(table(statuses(tmp_path)))
    text = screen.export_text()
    assert "a[b]-s0" in text
    assert "run 'stages=[rewrite,train]' first [/red]" in text
    assert not {"\x1b", "\x07"} & set(text)


@pytest.mark.parametrize("plan", ["", "{", "[]", "null", '{"jobs": 3}', '{"jobs": [[]]}', "[" * 100_000, "\0"])
def test_a_plan_that_is_none_hides_no_state(plan: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(tmp_path / "runs" / "a" / "run.json", {})
    Log(tmp_path / "runs" / "a").ended(None)
    write_text(tmp_path / PLAN, plan)
    assert {run: status.state for run, status in statuses(tmp_path).items()} == {"a": "done"}
    assert str(tmp_path / PLAN) in caplog.text


@pytest.mark.parametrize("arguments", [["seed=0"], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_report_that_cannot_be_made_ends_a_run_and_a_sweep_alike(
    tiny_arguments: list[str],
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_json(tmp_path / "outputs" / "runs" / "a" / "evaluation" / "b" / "metrics.json", {})
    monkeypatch.setattr("alttrain.run.stages.report._digest", lambda *unused: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["alttrain", *arguments, *tiny_arguments, "stages=[report]"])
    monkeypatch.setattr("logging.root.handlers", [])
    monkeypatch.setenv(PARENT, str(os.getpid()))  # restored, like Hydra's config, which `main` sets
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "no report was made: division by zero" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["seed=0"], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_report_alone_plans_nothing(
    tmp_path: Path,
    arguments: list[str],
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It needs the runs alone: no data, no server, no memory for a model. What a sweep was planned for stays."""
    stub = serve(lambda prompt, asked: Say("5"))
    write_text(tmp_path / "outputs" / PLAN, "{}")
    own = [f"output_dir={tmp_path / 'outputs'}", "stages=[report]", "dataset=local", "dataset.path=/no/such.jsonl"]
    own += ["judge@protocol.judges.harmful_rate=harm_score", "generation=server", f"generation.base_url={stub.url}"]
    for module in ("plan", "stages.needs"):
        monkeypatch.setattr(f"alttrain.run.{module}.detect_device", lambda *unused: pytest.fail("memory was estimated"))
    monkeypatch.setattr(sys, "argv", ["alttrain", *arguments, *own, "generation.model_name=m"])
    monkeypatch.setattr("logging.root.handlers", [])
    monkeypatch.setenv(PARENT, str(os.getpid()))
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().err == f"report    no judged run in {tmp_path / 'outputs' / 'runs'}\n"
    assert [path.name for path in (tmp_path / "outputs").rglob("*")] == [".sweep", "plan.json"]
    assert (stub.gets, stub.requests) == ([], [])


def test_a_link_in_place_of_a_sweeps_folder_is_not_followed(tiny_arguments: list[str], tmp_path: Path) -> None:
    write_text(tmp_path / "mine" / "ended" / "a", "mine")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / ".sweep").symlink_to(tmp_path / "mine")
    register()
    with pytest.raises(RunError, match="is a link, which leads out of"):
        plan([*tiny_arguments, "seed=0,1"], True)
    assert (tmp_path / "mine" / "ended" / "a").read_text() == "mine"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """A folder that somebody sent, or one that cannot be written to: the state is what it says."""
    Log(tmp_path / "run").stage("train")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    assert state_of(tmp_path / "run").state == "running"
    assert (tmp_path / "mine").read_text() == "mine"
