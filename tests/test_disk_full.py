"""A disk that fills up: every earlier row stays, one line says what happened where, and the same command goes on."""

import errno
import logging
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import alttrain

from alttrain.config import RunError
from alttrain.records import Example, Generation, append_rows, iterate_rows, read_rows, write_json, write_rows
from alttrain.records.files import _mount
from alttrain.run import status
from alttrain.run.progress import log_to_file

ROW = Example("a", "Why is the sky blue? " * 50, "benign")


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes: what fits is written and the rest fails, as on a disk that is full. Python
    ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [1, 700, 1200, 2300])
def test_rows_that_do_not_fit_are_taken_back_whole(room: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [ROW, ROW])
    before = path.read_bytes()
    with full_at(len(before) + room), pytest.raises(OSError, match=re.escape(str(path))):
        append_rows(path, [ROW, ROW, ROW])
    assert path.read_bytes() == before
    append_rows(path, [ROW])
    assert list(iterate_rows(path, Example)) == [ROW] * 3


def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [ROW])
    before = path.read_bytes()
    with full_at(len(before) + 10), pytest.raises(OSError, match=re.escape(str(path))):
        write_rows(path, [ROW] * 5)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_run_on_a_full_disk_keeps_its_rows_and_goes_on(tiny_arguments: list[str], tmp_path: Path) -> None:
    """The disk is full within the second chunk of a benchmark's generations."""
    arguments = [a for a in tiny_arguments if not a.startswith(("training", "rewrite"))]
    arguments += ["method=no_train", "stages=[generate]", "generation.chunk=4"]
    arguments += ["protocol.decoding.max_new_tokens=400", "protocol.decoding.context=backbone"]
    arguments.append("evaluation.benchmarks.embedded_harmful.rows.limit=8")  # more bytes than the other files have
    cache = str(tmp_path / "cache")
    own = [*arguments, f"output_dir={tmp_path / 'outputs'}"]
    name = "runs/tiny-no_train-s0/evaluation/embedded_harmful/generations.jsonl"
    assert alttrain([*arguments, f"output_dir={tmp_path / 'whole'}"], ALTTRAIN_CACHE=cache).returncode == 0
    whole = (tmp_path / "whole" / name).read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 8
    size = sum(map(len, lines[:6])) - 20
    limited = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    full = alttrain(own, ALTTRAIN_CACHE=cache, PLANTED=limited)
    assert full.returncode == 1
    told = [line for line in full.stderr.splitlines() if "generations.jsonl" in line and "File too large" in line]
    assert len(told) == 1, full.stderr
    assert "Traceback" not in full.stderr
    path = tmp_path / "outputs" / name
    assert path.read_bytes() == b"".join(lines[:4])
    assert len(read_rows(path, Generation)) == 4
    assert alttrain(own, ALTTRAIN_CACHE=cache).returncode == 0
    assert path.read_bytes() == whole


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*unused: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "rows.jsonl"
    for write in (write_rows, append_rows):
        with pytest.raises(OSError, match=r"the disk mounted at /.* is full: '.*rows\.jsonl'"):
            write(path, [ROW])
    assert read_rows(path, Example) == []


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no second file system")
def test_a_full_disk_is_named_that_a_link_leads_to(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as there:
        (tmp_path / "outputs").symlink_to(there)
        assert _mount(tmp_path / "outputs" / "runs" / "rows.jsonl") == Path("/dev/shm")


@pytest.mark.parametrize("before", ["running", "done"])
def test_status_says_that_a_run_failed_on_a_full_disk(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = status.Log(tmp_path)
    log.stage("train") if before == "running" else log.ended(None)

    def full(path: Path, value: object) -> None:
        if path.exists():  # without the older one, there is room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_json(path, value)

    monkeypatch.setattr(status, "write_json", full)
    status.Log(tmp_path).ended(RunError("generations.jsonl: no space"))
    found = status.read_status(tmp_path)
    assert found is not None
    assert (found.state, found.error) == ("failed", "generations.jsonl: no space")
    monkeypatch.undo()
    log.stage("train")
    with full_at(10):  # nor is there room in the file itself
        log.ended(RunError("x"))
    assert status.state_of(tmp_path).state == "stopped"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_that_cannot_be_written_is_told_of_once(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with log_to_file(Path("/dev/full")):
        for number in range(3):
            logging.getLogger("alttrain").warning("line %d", number)
    assert "Logging error" not in capsys.readouterr().err
    assert [record.getMessage() for record in caplog.records if "/dev/full" in record.getMessage()] == [
        "this is not logged any more in /dev/full: [Errno 28] No space left on device"
    ]


def test_states_are_shown_where_nothing_can_be_written(tmp_path: Path) -> None:
    """The lock cannot be tried there, so a state is what was written."""
    status.Log(tmp_path).stage("train")
    (tmp_path / ".lock").mkdir()
    assert status.state_of(tmp_path).state == "running"
