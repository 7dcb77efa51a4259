"""What a launcher or an option needs and this machine has not is told in one line, before anything heavy loads."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from processes import has_ended

from alttrain.config import RunError, register
from alttrain.config.identity import SEARCH_PATH
from alttrain.config.overrides import search_path
from alttrain.run import app
from alttrain.run.execution import execute
from alttrain.run.stages.check import check_light
from hydra_plugins.alttrain_jobs import PARENT, RayLauncher, work

BLOCKED = """
import sys

blocked = sys.argv.pop(1).split(",")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in blocked:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocked())
from alttrain.run.app import main
main()
"""
PLUGINS = "hydra_plugins.hydra_joblib_launcher,hydra_plugins.hydra_submitit_launcher,ray"
SECONDS = 4


@pytest.mark.parametrize(
    ("launcher", "extra"), [("joblib", "joblib"), ("submitit", "submitit"), ("slurm", "submitit"), ("ray", "ray")]
)
def test_a_launcher_that_is_not_installed_is_told_in_one_line(launcher: str, extra: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, PLUGINS, "-m", f"launcher={launcher}", "seed=0,1"]
    before = os.times().children_user  # another test may have both cores: the time of a processor counts
    done = subprocess.run(
        [*command, f"output_dir={tmp_path}/outputs"],
        env={**os.environ, "ALTTRAIN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert f"pip install 'alttrain[{extra}]'" in line
    assert done.stdout == ""
    assert os.times().children_user - before < SECONDS
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("asked", ["trainer.compiled=on"])
@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_for_a_gpu_is_refused_without_one_before_weights_load(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, gpu: bool
) -> None:
    """And where there is one that trainer.accelerator=cpu leaves alone."""
    monkeypatch.setattr(sys.modules[check_light.__module__], "has_gpu_driver", lambda: gpu)
    monkeypatch.setattr("alttrain.run.session.Session.model", lambda *unused: pytest.fail("weights were loaded"))
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=[*tiny_arguments, "trainer.accelerator=cpu", asked])
    with pytest.raises(RunError, match=rf"{asked} is for a GPU, .*; set {asked.split('=')[0]}=auto"):
        execute(config)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("how", ["config-dir", "searchpath", "+searchpath", "++searchpath", "both"])
def test_another_process_finds_the_configs_of_a_config_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What a sweep hands on to its workers: a blank, a comma and quotes in the folder's name are part of it."""
    folders = [tmp_path / f'my, o\'wn "é" {name}' for name in "ab"]
    for folder in folders:
        (folder / "rewrite").mkdir(parents=True)
        (folder / "rewrite" / f"own_{folder.name[-1]}.yaml").write_text("defaults:\n  - plain\nname: mine\n")
    (searched,) = search_path([f"file://{folders[0]}"])
    given = [f"{how.removesuffix('searchpath')}{searched}" if "searchpath" in how else f"--config-dir={folders[0]}"]
    given += search_path([f"file://{folders[1]}"]) if how == "both" else []
    checked: list[list[str]] = []
    monkeypatch.setattr(app, "_check", lambda overrides, multirun: checked.append(overrides))
    monkeypatch.setattr(app, "_app", lambda: None)
    monkeypatch.setenv(SEARCH_PATH, "")
    monkeypatch.setenv(PARENT, str(os.getpid()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["alttrain", *given, "rewrite=own_a"])
    app.main()
    found: list[str] = []
    monkeypatch.setattr("alttrain.run.sweep.run_job", lambda config, overrides: found.append(config.rewrite.name))
    settings = {SEARCH_PATH: os.environ[SEARCH_PATH]}
    for name in "ab" if how == "both" else "a":
        assert work([f"rewrite=own_{name}"], str(tmp_path), settings) == ""
    assert set(found) == {"mine"}
    assert checked == [[os.environ[SEARCH_PATH], "rewrite=own_a"]]
    assert not any(word.startswith("+") for word in sys.argv)  # Hydra would look in no folder


def test_a_job_of_ray_leases_what_a_machine_of_its_cluster_has_and_works_as_the_sweep_does(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine may have no GPU; and a worker has neither its folder nor its variables."""
    leased: list[tuple[float, list[object]]] = []

    class Ray:
        exceptions = SimpleNamespace(RayError=KeyError)
        init = shutdown = staticmethod(lambda **unused: None)
        get = staticmethod(lambda future: "")

        @staticmethod
        def nodes() -> list[dict[str, object]]:
            return [{"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": True, "Resources": {"GPU": 4.0}}]

        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"GPU": 4.0}

        @staticmethod
        def remote(num_gpus: float, **unused: object) -> Callable[[object], SimpleNamespace]:
            return lambda task: SimpleNamespace(remote=lambda *given: leased.append((num_gpus, [*given])))

    monkeypatch.setitem(sys.modules, "ray", Ray)
    monkeypatch.setenv("ALTTRAIN_TRUSTED", "mine")
    monkeypatch.setenv(PARENT, str(os.getpid()))
    monkeypatch.chdir(tmp_path)
    register()
    arguments = [one for one in tiny_arguments if not one.startswith("trainer.accelerator")]

    def load_sweep_config(config: object, overrides: list[str]) -> DictConfig:
        return compose("run", overrides=[*arguments, *overrides], return_hydra_config=True)

    with initialize_config_module("alttrain.conf", version_base="1.3"):
        launcher, context = RayLauncher(None, 1), SimpleNamespace(config_loader=SimpleNamespace())
        context.config_loader.load_sweep_config = load_sweep_config
        launcher.setup(hydra_context=context, task_function=None, config=load_sweep_config(None, []))  # type: ignore
        asked = ["trainer.devices=2", "trainer.devices=8", "trainer.accelerator=cpu"]
        launcher.launch([[one] for one in asked], 0)
    assert [gpus for gpus, _ in leased] == [2, 4, 0]  # more than any machine has would be waited for forever
    for overrides, (_, (given, folder, settings)) in zip(asked, leased, strict=True):
        assert (given, folder) == ([overrides], str(tmp_path))
        assert isinstance(settings, dict)
        assert settings["ALTTRAIN_TRUSTED"] == "mine"
        assert PARENT not in settings
    seen: list[object] = []
    monkeypatch.setattr(
        "alttrain.run.sweep.run_job", lambda *unused: seen.extend([os.getcwd(), os.environ["ALTTRAIN_TRUSTED"]])
    )
    monkeypatch.delenv("ALTTRAIN_TRUSTED")
    monkeypatch.chdir("/")
    assert work(tiny_arguments, str(tmp_path), {"ALTTRAIN_TRUSTED": "mine"}) == ""
    assert seen == [str(tmp_path), "mine"]


def test_libraries_speak_on_the_console_only_when_something_is_wrong() -> None:
    code = (
        "import logging\nfrom alttrain.run.progress import log_to_console\nlog_to_console()\n"
        "for name in ('httpx2', 'alttrain.run'):\n    logging.getLogger(name).info('info of %s', name)\n"
        "    logging.getLogger(name).warning('warning of %s', name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["warning of httpx2", "info of alttrain.run", "warning of alttrain.run"]


WORKER = """
import os, time
from hydra_plugins.alttrain_jobs import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""
SWEEP = """
import os, subprocess, sys, time
from hydra_plugins.alttrain_jobs import PARENT
between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
subprocess.Popen([sys.executable, "-c", between, sys.argv[1]], env={**os.environ, PARENT: str(os.getpid())})
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="a process there cannot ask")
@pytest.mark.parametrize("waited", [False, True])
def test_a_worker_ends_with_the_sweep_that_was_killed(waited: bool) -> None:
    """Another process may stand between them, and live on."""
    command = [sys.executable, "-c", SWEEP, WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        time.sleep(1.5)
        os.kill(worker, 0)  # it is there as long as the sweep is
        process.kill()
        if waited:
            process.wait()
        assert has_ended(worker)  # even while nobody has waited for the killed sweep
