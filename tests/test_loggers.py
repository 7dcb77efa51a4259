"""Loggers on the tiny backbone: what they hold, that it is the same in all, and that none of them stops a run."""

import csv
import errno
import importlib.util
import json
import logging
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.loggers import WandbLogger

from alttrain.config import RunError, register
from alttrain.records import Example, Generation, Judgement, read_rows
from alttrain.run.assembly import assemble
from alttrain.run.execution import execute
from alttrain.run.loggers import COLUMNS, TEXTS, describe_run
from alttrain.training import Csv, LoggedRun, Mlflow, TensorBoard, Wandb
from alttrain.training.guarded_loggers import GuardedLogger

MLFLOW = os.environ.get("MLFLOW_PYTHON", sys.executable)
"""A Python whose mlflow has a server; mlflow-skinny has none."""
TRACKIO = """
import logging, pathlib, sys
from functools import partial
from alttrain.training import LoggedRun, Trackio
from alttrain.training.guarded_loggers import GuardedLogger

logging.basicConfig()
run = LoggedRun("r-1", "r", pathlib.Path(sys.argv[1]), "s", {"seed": 3})
for steps in (range(2), range(2, 3)):
    logger = GuardedLogger("trackio", partial(Trackio("p").open, run), 300)
    for step in steps:
        logger.log_metrics({"loss": float(step)}, step)
    logger.log_table("set", ["id", "verdict"], [["a", None], ["b", True]])
    logger.close()

from trackio import Api
from trackio.sqlite_storage import SQLiteStorage
rows = SQLiteStorage.get_logs("p", "r-1")
told = [(row["step"], row["loss"]) for row in rows if "loss" in row]
tables = [row["samples/set"]["_value"][1]["verdict"] for row in rows if "samples/set" in row]
print([run.name for run in Api().runs("p")], told, tables)
"""
RUN = "tiny-embedded-alttrain-demo-s0"
TRAIN = "stages=[rewrite,train]"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    register()


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the loggers warn of; a run takes the root's handlers, caplog's among them, away."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("alttrain.training").addHandler(handler)
    yield found
    logging.getLogger("alttrain.training").removeHandler(handler)


def run(arguments: list[str]) -> Path:
    """Run the stages in this process; returns the run's folder."""
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=arguments)
    return execute(config).folder


def in_two(arguments: list[str], *logger: str) -> Path:
    """A run that is trained by one job and judged by the next."""
    own = [*arguments, "trainer.log_every=1", *logger]
    run([*own, TRAIN])
    return run([*own, "stages=[generate,judge]"])


def losses(folder: Path) -> dict[int, float]:
    """Loss by step, as logs/metrics.csv has it."""
    with (folder / "logs" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Each scalar by step, as logs/metrics.csv has it."""
    with (folder / "logs" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() - {"step"}
    return {name: {int(row["step"]): float(row[name]) for row in rows if row[name]} for name in names}


def numbers(folder: Path) -> dict[str, float]:
    """Metrics by benchmark/metric, as the metrics.json have them."""
    judged = [json.loads(path.read_text()) for path in folder.glob("evaluation/*/metrics.json")]
    return {
        f"{one['benchmark']}/{metric['metric']}": metric["value"]
        for one in judged
        for metric in one["metrics"]
        if metric["value"] is not None
    }


def texts(folder: Path, label: str) -> set[str]:
    """Prompts and outputs of a label's samples, and the prompts trained on."""
    generated = [one for path in folder.rglob("generations.jsonl") for one in read_rows(path, Generation)]
    found = {text for one in generated if one.label == label for text in (one.prompt, one.thought, one.answer)}
    found |= {one.prompt for one in read_rows(folder / "train.jsonl", Example) if one.label == label}
    return {text for text in found if len(text) > 3}


def everything(folder: Path) -> bytes:
    """The content of all files of a folder."""
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# --- the csv ---


def test_a_training_that_goes_on_keeps_the_losses_before(tmp_path: Path) -> None:
    """The interrupted process logged two steps more than it saved."""
    run = LoggedRun("r", "r", tmp_path, "", {})
    with Csv().open(run) as first:
        for step in range(6):
            first.log_metrics({"loss": 1.5 if step < 4 else 9.0, "epoch": 0}, step)
    with Csv().open(run) as second:
        for step in (4, 5, 6):
            second.log_metrics({"loss": 0.5, "epoch": 1}, step)
    before, after = [f"0,1.5,{step}" for step in range(4)], [f"1,0.5,{step}" for step in (4, 5, 6)]
    assert (tmp_path / "logs" / "metrics.csv").read_text().splitlines() == ["epoch,loss,step", *before, *after]


def test_a_resumed_training_whose_first_row_cannot_be_written_loses_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LoggedRun("r", "r", tmp_path, "", {})
    with Csv().open(run) as first:
        for step in range(3):
            first.log_metrics({"loss": 1.5}, step)

    def full(*unused: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pytorch_lightning.loggers.csv_logs.ExperimentWriter.save", full)
        with Csv().open(run) as second, pytest.raises(OSError, match="No space"):
            second.log_metrics({"loss": 0.5}, 3)
    with Csv().open(run) as third:
        third.log_metrics({"loss": 0.25}, 3)
    assert losses(tmp_path) == {0: 1.5, 1: 1.5, 2: 1.5, 3: 0.25}
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["metrics.csv"]


def test_tensorboard_has_each_step_of_a_resumed_training_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = LoggedRun("r", "r", tmp_path, "", {})
    for steps, loss in ((range(6), 1.0), (range(4, 8), 0.5)):
        with TensorBoard().open(run) as logger:
            for step in steps:
                logger.log_metrics({"loss": loss}, step)
    with TensorBoard().open(run) as logger:
        logger.log_metrics({"set/accuracy": 0.5}, 0)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        *((step, 1.0) for step in range(4)),
        *((step, 0.5) for step in range(4, 8)),
    ]


def test_an_mlflow_run_ends_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.tracking import MlflowClient

    run, uri = LoggedRun("r", "r", tmp_path, "s", {"long": "x" * 600}), str(tmp_path / "mlruns")
    client = MlflowClient(uri)
    for fails in (False, True):
        with suppress(ZeroDivisionError), Mlflow(uri).open(run) as logger:
            (found,) = client.search_runs([client.get_experiment_by_name("s").experiment_id])
            assert found.info.status == "RUNNING"
            logger.log_metrics({"loss": 1 / 0 if fails else 1.0}, 0)
    (found,) = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert (found.info.status, found.data.tags["sweep"]) == ("FINISHED", "s")
    config = Path(found.info.artifact_uri.removeprefix("file://")) / "config.json"
    assert json.loads(config.read_text()) == run.config


def served(port: int, folder: Path) -> "subprocess.Popen[bytes]":
    """An MLflow server that answers."""
    command = [MLFLOW, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri={folder / 'store'}", f"--default-artifact-root={folder / 'files'}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 600
    while server.poll() is None and time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30):
            return server
        time.sleep(0.2)
    pytest.fail("the server does not start")


def test_an_mlflow_server_that_goes_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    """Down at the start, there for the next training, gone in its middle, and there for the resumed one."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    if subprocess.run([MLFLOW, "-c", "import mlflow.server"], capture_output=True, check=False).returncode:
        pytest.skip(f"{MLFLOW} has no mlflow with a server; MLFLOW_PYTHON may name a Python that has")
    from mlflow.tracking import MlflowClient

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, run = f"http://127.0.0.1:{port}", LoggedRun("r-1", "r", tmp_path, "s", {"seed": 3})

    def training(steps: range, goes: Callable[[], object] = lambda: None) -> None:
        logger, sent = GuardedLogger("mlflow", partial(Mlflow(uri).open, run), 300), queue.SimpleQueue[Any]()
        for step in steps:
            logger.log_metrics({"loss": float(step)}, step)
            if step == 1:
                logger._calls.put(sent.put)
                sent.get(timeout=60)
                goes()
        logger.close()

    def told_once() -> None:
        assert told.pop().startswith("logger    mlflow failed, and the run goes on without it: ")
        assert told == []

    def kill() -> None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    training(range(4, 6))
    told_once()
    server = served(port, tmp_path)
    try:
        training(range(4), kill)
        told_once()
        server = served(port, tmp_path)
        training(range(2, 6))
        assert told == []
        client = MlflowClient(uri)
        (found,) = client.search_runs([client.get_experiment_by_name("s").experiment_id])
        steps = [one.step for one in client.get_metric_history(found.info.run_id, "loss")]
        assert (found.info.status, sorted(steps)) == ("FINISHED", list(range(6)))
    finally:
        kill()


def test_a_trackio_run_is_continued(tmp_path: Path) -> None:
    if not importlib.util.find_spec("trackio"):
        pytest.skip("trackio is not installed")
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO, str(tmp_path)],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "kept")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    assert done.stdout.splitlines()[-1] == "['r-1'] [(0, 0.0), (1, 1.0), (2, 2.0)] [True, True]"


# --- wandb ---

HEAD, BLOCK = 7, 1 << 15


def offline_records(folder: Path) -> list[Any]:
    """The records of a wandb run that waits to be synced: its file is a LevelDB log, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    content, place, whole, found = path.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while place + HEAD <= len(content):
        if BLOCK - place % BLOCK < HEAD:  # a head does not stand across blocks
            place += BLOCK - place % BLOCK
            continue
        _, length, part = struct.unpack("<IHB", content[place : place + HEAD])
        whole += content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if part in (1, 4):  # whole, or the last of its parts
            found.append(Record.FromString(whole))
            whole = b""
    return found


def items(update: Any) -> dict[str, Any]:
    """Keys and values of a history, summary or config record."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


def test_all_loggers_hold_the_same_scalars_of_one_run(tiny_arguments: list[str], tmp_path: Path) -> None:
    """One process trains, another one judges."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    names = "logger=[csv,tensorboard,wandb,mlflow]"
    more = ["logger.wandb.group=g", "logger.wandb.tags=[t]", "logger.mlflow.experiment=e"]
    folder = in_two(tiny_arguments, names, *more)
    steps = json.loads((folder / "train.json").read_text())["steps"]
    trained = scalars(folder)
    assert trained.keys() == {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "epoch"}
    assert all(len(points) == steps > 2 for points in trained.values())
    assert trained["learning_rate"][0] < trained["learning_rate"][1]
    hold_wandb(folder, trained)
    hold_tensorboard(folder, trained)
    hold_mlflow(folder, tmp_path / "outputs" / "mlruns", trained)
    content = b"".join(
        everything(one) for one in (folder / "wandb", folder / "tensorboard", folder.parents[1] / "mlruns")
    )
    assert not [text for text in texts(folder, "harmful") | texts(folder, "benign") if text.encode() in content]


def hold_wandb(folder: Path, expected: dict[str, dict[int, float]]) -> None:
    first, second = sorted((folder / "wandb").glob("offline-run-*"))
    trained, judged = offline_records(first), offline_records(second)
    runs = [record.run for record in (*trained, *judged) if record.HasField("run")]
    assert {one.run_id for one in runs} == {first.name.split("-", 3)[3]} == {second.name.split("-", 3)[3]}
    assert {one.run_id.rpartition("-")[0] for one in runs} == {RUN}
    assert {(one.display_name, one.run_group, tuple(one.tags)) for one in runs} == {(RUN, "g", ("t",))}
    settings: dict[str, Any] = {}
    for record in trained:
        settings |= items(record.config.update) | items(record.run.config.update)
    assert (settings["seed"], settings["training"]["epochs"]) == (0, 2)
    history = [items(record.history.item) for record in trained if record.HasField("history")]
    for name, points in expected.items():
        assert {row["trainer/global_step"]: row[name] for row in history if name in row} == pytest.approx(points)
    found: dict[str, Any] = {}
    for record in judged:
        if record.HasField("history"):
            found |= items(record.history.item)
    assert {key: found[key] for key in numbers(folder)} == pytest.approx(numbers(folder))
    tables = list(second.rglob("*.table.json"))
    assert {path.name.split("_")[1] for path in tables} >= {"harmful", "benign"}
    assert len(tables) == 3
    verdicts = {}
    for path in tables:
        table = json.loads(path.read_text())
        assert (tuple(table["columns"]), len(table["data"])) == (COLUMNS, 4)
        verdicts |= {row[0]: row[COLUMNS.index("verdict")] for row in table["data"]}
    judged_rows = [row for path in folder.rglob("judgements.jsonl") for row in read_rows(path, Judgement)]
    assert verdicts == {row.id: row.verdict for row in judged_rows}
    assert {False, None} <= set(verdicts.values())  # an undecided verdict is not a negative one


def hold_tensorboard(folder: Path, expected: dict[str, dict[int, float]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    for name, points in expected.items():
        assert found.pop(name) == pytest.approx(points)
    assert {tag: own[0] for tag, own in found.items()} == pytest.approx(numbers(folder))
    assert "seed: 0" in (folder / "tensorboard" / "hparams.yaml").read_text()


def hold_mlflow(folder: Path, runs: Path, expected: dict[str, dict[int, float]]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(str(runs))
    experiment = client.get_experiment_by_name("e")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (RUN, "FINISHED")
    assert (found.data.params["training/epochs"], found.data.params["backbone/name"]) == ("2", "tiny")
    for name, points in expected.items():
        history = client.get_metric_history(found.info.run_id, name)
        assert {one.step: one.value for one in history} == pytest.approx(points)
    judged = {name: value for name, value in found.data.metrics.items() if name not in expected}
    assert judged == pytest.approx(numbers(folder))
    with (Path(found.info.artifact_uri.removeprefix("file://")) / "samples" / "embedded_harmful.csv").open() as file:
        rows = list(csv.reader(file))
    assert (tuple(rows[0]), len(rows)) == (COLUMNS, 5)


def test_harmful_texts_are_sent_only_when_all_are_asked_for(tiny_arguments: list[str]) -> None:
    folder = in_two(tiny_arguments, "logger=wandb", "logger.texts=benign")
    tables = {path.name.split("_")[1]: json.loads(path.read_text()) for path in folder.rglob("*.table.json")}
    assert all(tuple(table["columns"]) == (*COLUMNS, *TEXTS) for table in tables.values())
    assert all(row[-3:] == ["", "", ""] for row in tables["harmful"]["data"])
    assert all(row[-3] and row[-2] for row in tables["benign"]["data"])
    content = everything(folder / "wandb")
    assert not [text for text in texts(folder, "harmful") - texts(folder, "benign") if text.encode() in content]


# --- what goes wrong ---


def test_a_logger_that_fails_is_told_once_and_stops_nothing(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    asked: list[Any] = []

    def log_metrics(self: WandbLogger, metrics: dict[str, float], step: int) -> None:
        asked.append(step)
        raise ConnectionError("the server\nis gone")

    monkeypatch.setattr(WandbLogger, "log_metrics", log_metrics)
    folder = run([*tiny_arguments, "trainer.log_every=1", "logger=[csv,wandb]", TRAIN])
    assert (folder / "train.json").exists()
    assert len(losses(folder)) == json.loads((folder / "train.json").read_text())["steps"]
    assert asked == [0]
    assert told == ["logger    wandb failed, and the run goes on without it: the server is gone"]


def test_the_first_step_of_a_short_training_is_logged(tiny_arguments: list[str]) -> None:
    found = scalars(run([*tiny_arguments, "trainer.log_every=10", TRAIN]))
    assert found.keys() == {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "epoch"}
    assert all(points.keys() == {0} for points in found.values())
    assert found["tokens_per_second"][0] > 0


def test_without_a_logger_a_run_trains_and_judges(tiny_arguments: list[str]) -> None:
    folder = run([*tiny_arguments, "logger=none"])
    assert numbers(folder)
    assert not {"logs", "wandb", "tensorboard"} & {path.name for path in folder.iterdir()}


class Slow:
    """A logger that takes its time to open and over each call."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls: list[str] = []

    @contextmanager
    def open(self) -> Iterator["Slow"]:
        time.sleep(self.seconds)
        yield self
        self.calls.append("closed")

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        time.sleep(self.seconds)
        self.calls.append(f"{metrics['loss']} at {step}")


def test_a_hanging_logger_holds_nothing_up(told: list[str]) -> None:
    slow = Slow(1.0)
    guarded = GuardedLogger("slow", slow.open, patience_s=0.1)
    started = time.monotonic()
    for step in range(2):
        guarded.log_metrics({"loss": 1.5}, step)
    guarded.close()
    assert time.monotonic() - started < 1
    assert told == ["logger    slow does not end; the run goes on without waiting for it"]
    for _ in range(200):
        if slow.calls[-1:] == ["closed"]:
            break
        time.sleep(0.05)
    assert slow.calls == ["1.5 at 0", "1.5 at 1", "closed"]


def test_a_logger_that_cannot_be_opened_stops_nothing(told: list[str]) -> None:
    @contextmanager
    def refused() -> Iterator[None]:
        raise PermissionError
        yield

    guarded = GuardedLogger("own", refused)
    guarded.log_metrics({"loss": 1.5}, 0)
    guarded.log_table("set", ["id"], [[1]])
    guarded.close()
    assert told == ["logger    own failed, and the run goes on without it: PermissionError"]


ONLINE = """
import logging, pathlib
from functools import partial
from alttrain.training import LoggedRun, Wandb
from alttrain.training.guarded_loggers import GuardedLogger
import alttrain.training.guarded_loggers as loggers

logging.basicConfig()
loggers.PATIENCE_S = 1.0
wandb = Wandb("p", "online")
wandb.check()
logger = GuardedLogger("wandb", partial(wandb.open, LoggedRun("r", "r", pathlib.Path(), "", {"seed": 3})), 300)
logger.log_metrics({"loss": 1.0}, 0)
logger.close()
"""


def test_an_online_run_that_reaches_no_server_is_logged_offline(tmp_path: Path) -> None:
    there = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}  # and its service
    command = [sys.executable, "-c", ONLINE]
    done = subprocess.run(command, cwd=tmp_path, env=clean | there, capture_output=True, text=True, check=True)
    assert "wandb cannot be reached, so this run is logged offline" in done.stderr
    assert "the run goes on without it" not in done.stderr
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert [items(one.history.item)["loss"] for one in offline_records(folder) if one.HasField("history")] == [1.0]


@pytest.mark.parametrize(("option", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_missing_package_is_told_before_anything_loads(
    option: str, package: str, tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(RunError) as told:
        run([*tiny_arguments, f"logger={option}"])
    assert str(told.value) == f"logger={option} needs {package}: pip install 'alttrain[{option}]', or choose logger=csv"
    assert not (tmp_path / "outputs").exists()


def test_an_online_run_needs_a_key_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"logger\.wandb\.mode=online needs a key: set WANDB_API_KEY"):
        Wandb("p", "online").check()
    for logger in (Wandb("p", "offline"), Csv()):
        logger.check()


@pytest.mark.parametrize("logger", ["none", "csv", "tensorboard", "[csv,tensorboard]"])
def test_texts_need_a_logger_that_shows_samples(logger: str) -> None:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=[f"logger={logger}", "logger.texts=benign"])
    with pytest.raises(RunError, match=r"logger\.texts=benign: logger=\[.*\] holds no samples"):
        assemble(config)


# --- names ---


def test_an_id_is_the_same_for_the_same_run_and_short_enough(tmp_path: Path) -> None:
    def made(*overrides: str) -> LoggedRun:
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            return describe_run(
                assemble(compose("run", overrides=[f"output_dir={tmp_path}", f"tag={'n' * 60}", *overrides]))
            )

    before = made()
    assert (before.id, len(before.id)) == (made("logger=none", "trainer.devices=2").id, 64)
    before.folder.mkdir(parents=True)
    (before.folder / "fingerprint.json").write_text("{}")
    assert made().id != before.id


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["experiment=main", "backbone=r1_qwen_7b", "method=plain"], "main"),
        (["hydra.mode=MULTIRUN", "output_dir=elsewhere/swept"], "swept"),
        ([], ""),
    ],
)
def test_runs_are_grouped_by_sweep(overrides: list[str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=overrides, return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        own = compose("run", overrides=[one for one in overrides if not one.startswith("hydra")])
    assert describe_run(assemble(own)).sweep == name


def test_loggers_call_the_method_as_the_report_does() -> None:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        own = compose("run", overrides=["backbone=r1_qwen_7b", "method=star1", "training.epochs=7"])
    assert describe_run(assemble(own)).config["method_name"] == "STAR-1, changed: training.epochs=7"
