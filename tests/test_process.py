"""What a process of `alttrain` sets before torch loads, that the user's settings are kept, and how Ctrl-C ends it."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from alttrain.run import ask, label, probe, show, status

SHOWN = ("GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
SHOW = f"""
import os, sys
print("begun", flush=True)
import alttrain.run.app as app
app._app = lambda: print(sys.argv[1:], *(os.environ.get(name) for name in {SHOWN}), "torch" in sys.modules)
from alttrain.__main__ import main
main()
"""


def shown(own: dict[str, str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in SHOWN} | own
    command = [sys.executable, "-c", SHOW, "--cfg", "all"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_threads_and_products_are_set_before_torch_loads() -> None:
    assert shown({}) == "begun\n['--cfg', 'all'] 10000 64 64 False\n"


def test_own_settings_are_kept() -> None:
    own = dict(zip(SHOWN, ("7", "8", "9"), strict=True))
    assert shown(own) == "begun\n['--cfg', 'all'] 7 8 9 False\n"


def test_an_interrupt_while_a_class_is_made_exits_with_130(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import sys\n"
        "from alttrain.run import app\n"
        "app._app = lambda: exec('raise KeyboardInterrupt')  # as in dataclasses, whose code is text\n"
        "sys.argv[1:] = ['--hydra-help']\n"
        "app.main()\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted; the same command goes on from here\n")


def interrupt(*unused: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", [ask, label, probe, show, status])
def test_an_interrupt_ends_the_other_commands_quietly(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupt)
    with pytest.raises(SystemExit, match=r"^130$"):
        command.main()
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_ends_the_watching_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["alttrain-status", str(tmp_path), "--watch", "1"])
    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(SystemExit, match=r"^130$"):
        status.main()
    assert capsys.readouterr().err == ""


def test_status_of_a_folder_without_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["alttrain-status", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        status.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"{tmp_path} is not the output_dir of runs, the folder that holds runs/\n"
