"""Progress: lines where there is no terminal, notes for `alttrain-status`, and the time left after a resume."""

import json
import logging
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from alttrain.run import progress
from alttrain.run.status import Log, state_of
from hydra_plugins.alttrain_jobs import PARENT


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, that a bar sees."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def test_a_line_a_minute_and_the_time_left_by_the_speed_of_this_process(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "alttrain"), progress.bar("training", 1000, 400) as advance:
        for second in range(1, 151):
            clock[0] = second
            advance(2, f"loss {second}")
    assert [record.message.strip() for record in caplog.records] == [
        "training 522 of 1000, loss 61, 3 min 59 s left",
        "training 644 of 1000, loss 122, 2 min 58 s left",
    ]


def test_parallel_jobs_have_lines_with_their_names(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also on a terminal, where the bars of several would overwrite each other."""
    monkeypatch.setenv(PARENT, "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for name in ("a-s0", "a-100%-s1"):  # one process does jobs one after the other
        progress.log_to_console(f"{name}  ")
        with progress.bar("training", 10) as advance:
            clock[0] += 61
            advance(1)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [" ".join(line) for line in lines] == [
        f"{name} training 1 of 10, 9 min 09 s left" for name in ("a-s0", "a-100%-s1")
    ]


def test_the_status_of_a_run_has_its_progress_until_the_stage_ends(clock: list[float], tmp_path: Path) -> None:
    with Log(tmp_path) as status:
        status.stage("generate")
        with progress.bar("xstest", 10) as advance:
            for second in range(1, 8):
                clock[0] = second
                advance(1)
        assert state_of(tmp_path).note == "xstest 6 of 10, 4 s left"
        status.stage("judge")
        assert state_of(tmp_path).note == ""
    assert state_of(tmp_path).state == "done"
    assert progress.listeners == []


def test_a_process_that_goes_on_from_a_status_keeps_its_stage(tmp_path: Path) -> None:
    with Log(tmp_path) as status:
        status.stage("train")
        found = state_of(tmp_path)
        Log(tmp_path, found).ended(ValueError("no room"))
        failed = state_of(tmp_path)
    assert (failed.state, failed.stage, failed.error) == ("failed", "train", "no room")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59.6, "1 min 00 s"), (599, "9 min 59 s"), (630, "10 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert progress.duration(seconds) == shown


def test_the_command_watches_until_it_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a-run"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    status = {"state": "failed", "stage": "train", "error": "it was full", "changed": "2026-01-01T00:00:00+00:00"}
    (folder / "status.json").write_text(json.dumps(status))
    command = [sys.executable, "-m", "alttrain.run.status", str(tmp_path), "--watch", "0.1"]
    # a shell that starts the tests in the background lets them ignore SIGINT, and their children too
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heard) as watching:
        assert watching.stdout is not None
        assert any("it was full" in line for line in watching.stdout)
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=30)
    assert watching.returncode == 130
