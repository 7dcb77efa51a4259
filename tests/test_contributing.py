"""The documentation's commands compose, and CONTRIBUTING.md's files work from a folder outside the package."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alttrain.config import expand_arguments, preview, register
from alttrain.config.identity import SEARCH_PATH
from alttrain.config.trust import TRUSTED, take_trusted
from alttrain.generation import Decoding
from alttrain.generation.engine import Completion, Prompt
from alttrain.records import Example, Generation, Segment
from alttrain.run.assembly import Run, assemble
from alttrain.run.stages.judge import _provenance

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = re.findall(r"^`(mine/[\w./]+)`(?:, further)?:\n\n```\w+\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^`(?:PYTHONPATH=mine )?alttrain (--config-dir=mine .*)`$", PAGE, re.MULTILINE)


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run of the command that chooses the test's part, its files laid out as the page says."""
    for name, text in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUSTED, "")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    register()
    (command,) = [shlex.split(command) for command in COMMANDS if request.param in command]
    _, *overrides = take_trusted(command)
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    monkeypatch.setenv(SEARCH_PATH, search)
    found, configs = preview([search, *overrides])
    assert [str(fault) for fault in found] == []
    return assemble(configs[0])


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if "judge@" in one])
def test_a_command_works_as_printed(command: str, tmp_path: Path) -> None:
    assert f"`PYTHONPATH=mine alttrain {command}`" in PAGE
    for name, text in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text)
    done = subprocess.run(
        [Path(sys.executable).with_name("alttrain"), *shlex.split(command), "stages=[check]"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "mine"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def chosen(part: str) -> Any:
    return pytest.mark.parametrize("run", [part], indirect=True)


def test_every_part_is_tried() -> None:
    assert len(COMMANDS) == 7
    assert len(FILES) == 12


@chosen("backbone=")
def test_a_backbone(run: Run) -> None:
    assert (run.backbone.name, run.backbone.source, run.backbone.template.end) == ("my_model", "ORG/NAME", "<|im_end|>")


@chosen("method=careful")
def test_a_method(run: Run) -> None:
    assert (run.name, run.method.label) == ("smollm2_135m-careful-s0", "AltTrain, two epochs")
    assert (run.training.epochs, run.structure.name, dict(run.changed.treatment)) == (2, "alttrain", {})


@chosen("+benchmark@")
def test_a_benchmark(run: Run) -> None:
    (riddles,) = [one for one in run.benchmarks if one.name == "riddles"]
    (row,) = riddles.rows.examples(0)
    assert (row.prompt, row.gold) == ("What has hands but cannot clap?", ("clock",))
    assert (riddles.tables, riddles.labels) == (["general"], {"accuracy": "solved"})
    assert _provenance(run, riddles)["labels"] == {"accuracy": "solved"}


@chosen("judge@")
def test_a_judge(run: Run) -> None:
    judge = run.protocol.judges["harmful_rate"]
    said = Generation("a", "p", "harmful", "", (), "Sorry, no.", "", "Sorry, no.", True, "stop", 0, 3)
    (verdict,) = judge.judge([said], SimpleNamespace(progress=lambda count: None))
    assert (verdict.judge, verdict.verdict) == ("sorry", True)


@chosen("rewrite=")
def test_a_structure(run: Run) -> None:
    made = run.structure.rewrite(Example("a", "p", "benign", thought=(Segment("reasoning", "T."),), answer="A"), 0)
    assert isinstance(made, Example)
    assert [segment.text for segment in made.thought] == ["Let me be careful.", "T."]


@chosen("generation=")
def test_an_engine(run: Run) -> None:
    model: Any = SimpleNamespace(adapter=None)
    with run.generation.start(model) as engine:
        ((number, written),) = engine.generate([Prompt([], "Hi?", "1")], Decoding(5))
    assert isinstance(written, Completion)
    assert (number, written.text, written.finish) == (0, "Hi?", "stop")


@chosen("intervention=")
def test_an_intervention(run: Run) -> None:
    (calm,) = {one.intervention for one in run.intervened_benchmarks}
    begun = calm.begin(run.benchmarks[0].examples[0], None, None)
    assert begun.thought == run.benchmarks[0].examples[0].prompt.split()[0]
    assert {one.base_name for one in run.intervened_benchmarks} == {one.name for one in run.benchmarks}


def documented() -> list[str]:
    """Every command of the README and docs that starts or checks runs, on one line."""
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))]
    lines = "\n".join(pages).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0] for line in lines if re.match(r"alttrain (?!--).*=", line)]


@pytest.mark.slow
def test_the_documented_commands_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setenv(TRUSTED, "")
    commands = documented()
    assert len(commands) > 20
    refused = {}
    for command in commands:
        words = take_trusted(shlex.split(command)[1:])
        overrides = expand_arguments([word for word in words if word != "-m"])
        if found := preview(overrides)[0]:
            refused[command] = [str(fault) for fault in found]
        parsed = OverridesParser.create().parse_overrides(overrides)
        if "-m" not in words and any(one.is_sweep_override() for one in parsed):
            refused[command] = ["a sweep without -m"]
    assert refused == {}
