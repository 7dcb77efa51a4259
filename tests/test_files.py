"""Files that describe a run's folder: files.md names every field of the rows, commands.txt the commands."""

import dataclasses
import re
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig

from alttrain.config import register
from alttrain.config.trust import TRUSTED
from alttrain.evaluation import Adherence
from alttrain.records import Example, Generation, Judgement, Segment
from alttrain.run.folder import record_command


def test_every_field_is_described() -> None:
    text = resources.files("alttrain.run").joinpath("files.md").read_text("utf-8")
    sections = text.split("\n## ")
    rows = {"originals.jsonl": (Example, Segment), "generations.jsonl": (Generation,)}
    rows |= {"judgements.jsonl": (Judgement,), "adherence.jsonl": (Adherence,)}
    for file, types in rows.items():
        (section,) = (one for one in sections if file in one.splitlines()[0])
        named = set(re.findall(r"`(\w+)`", section)) | {"checksum", "id", "sample", "label"}
        fields = {field.name for kind in types for field in dataclasses.fields(kind)}
        assert fields <= named, f"{file}: {sorted(fields - named)}"


def test_a_folder_keeps_its_commands_each_once_without_keys_and_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_KEY", "lab-planted-key-0123456789")
    monkeypatch.setenv(TRUSTED, "mypackage,base_url=http://lab:1/v1")
    register()
    (tmp_path / "secret_place" / "mine").mkdir(parents=True)
    searched = f"hydra.searchpath=[file://{tmp_path / 'secret_place' / 'mine'}]"
    run: Any = SimpleNamespace(folder=tmp_path)

    def command(*given: str) -> None:
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            config = compose("run", overrides=[searched, *given], return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        record_command(run)

    first = ["stages=[train]", "tag=lab-planted-key-0123456789", "output_dir=sk-proj-planted0key0123456789"]
    command(*first)
    command("seed=1")
    command(*first)
    assert (tmp_path / "commands.txt").read_text() == (
        "alttrain --config-dir=mine 'trusted=[mypackage]' 'stages=[train]' 'tag=***' 'output_dir=***'\n"
        "alttrain --config-dir=mine 'trusted=[mypackage]' seed=1\n"
    )
