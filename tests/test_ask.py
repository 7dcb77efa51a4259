"""`alttrain-ask` and `alttrain.load`: the answers of a run's model, as the run generates them."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from conftest import tiny_overrides
from hydra import compose, initialize_config_module

import alttrain
from alttrain.config import RunError, register
from alttrain.config.trust import TRUSTED
from alttrain.records import DamagedError, Generation, Segment, read_rows
from alttrain.run import ask
from alttrain.run.assembly import assemble
from alttrain.run.folder import open_folder


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("asked")
    tiny_arguments = tiny_overrides(tiny_folder, tmp_path)
    processes.alttrain([*tiny_arguments, "stages=[rewrite,train,generate]"]).check_returncode()
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    return folder


@pytest.mark.slow
def test_a_run_answers_as_it_generates(run: Path) -> None:
    rows = read_rows(run / "evaluation" / "embedded_harmful" / "generations.jsonl", Generation)
    model = alttrain.load(run)
    found = model.ask([row.prompt for row in rows])
    assert [(one.thought, one.answer) for one in found] == [(row.thought.strip(), row.answer.strip()) for row in rows]
    assert [one.cut for one in found] == [row.finish == "length" for row in rows]
    assert model.ask(rows[0].prompt) == found[:1]
    with pytest.raises(ValueError, match="no room for a response in the backbone's context, 512 tokens; shorten it"):
        model.ask("Why? " * 200)
    assert model.ask([]) == []


@pytest.mark.slow
def test_a_protocol_that_cuts_at_the_context_cuts_what_is_asked(run: Path) -> None:
    model = alttrain.load(run)
    decoding = replace(model.run.protocol.decoding, max_new_tokens=10_000, context=100)
    model.run = replace(model.run, protocol=replace(model.run.protocol, decoding=decoding))
    (answer,) = model.ask("Why?")
    assert answer.cut
    assert len(answer.thought + answer.answer) < 100


@pytest.mark.slow
def test_a_bar_counts_the_answers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
        bars.append((label, total, []))
        yield bars[-1][2].append

    monkeypatch.setattr(ask, "bar", bar)
    alttrain.load(run).ask(["Why?", "How?"])
    ((label, total, counts),) = bars
    assert (label, total, sum(counts)) == ("answers of at most 12 tokens", 2, 2)


@pytest.mark.slow
def test_the_command_shows_thought_and_answer(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["alttrain-ask", str(run), "Why is the sky blue?"])
    ask.main()
    shown = capfd.readouterr()
    assert shown.out.startswith("Why is the sky blue?\n[")
    assert "[answer]" in shown.out
    assert "answers of at most" not in shown.out + shown.err  # there is no terminal


@pytest.mark.slow
def test_a_run_is_asked_where_it_lies_and_only_if_it_is_what_was_trained(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "copies" / "mine"
    shutil.copytree(run, moved)
    assert alttrain.load(moved).run.trained_folder == moved / "adapter"
    config = moved / "adapter" / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(RunError, match=r"adapter_config\.json is not what was trained"):
        alttrain.load(moved)


def test_a_prompt_may_begin_like_a_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[list[str]] = []
    loaded = SimpleNamespace(ask=lambda prompts: asked.append(prompts) or [])
    monkeypatch.setattr(ask, "load", lambda folder: loaded)
    monkeypatch.delenv(TRUSTED, raising=False)
    monkeypatch.setattr(sys, "argv", ["alttrain-ask", "a-run", "trusted=[os] what does it mean?"])
    ask.main()
    assert asked == [["trusted=[os] what does it mean?"]]
    assert TRUSTED not in os.environ


def test_a_terminal_obeys_nothing_in_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (Segment("refusal", "I\x1b[2Jcannot.", "parser"),)
    told = ask.Answer("Hi?", "I\x1b[2Jcannot.", "No\x1b]52;c;eA==\x1b\\.", steps, closed=True, cut=False)
    monkeypatch.setattr(ask, "load", lambda folder: SimpleNamespace(ask=lambda prompts: [told]))
    monkeypatch.setattr(sys, "argv", ["alttrain-ask", "a-run", "Hi?"])
    ask.main()
    assert capsys.readouterr().out == "Hi?\n[refusal]\nI\ufffd[2Jcannot.\n[answer]\nNo\ufffd]52;c;eA==\ufffd\\.\n"


def test_a_run_of_a_users_method_has_the_name_that_it_was_given(tiny_arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "own" / "method").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [custom, override /training: demo]\nmethod: {name: mine, label: Mine}\n"
    (tmp_path / "own" / "method" / "mine.yaml").write_text(text)
    search = f"hydra.searchpath=['file://{tmp_path / 'own'}']"
    kept = [one for one in tiny_arguments if not one.startswith(("training", "dataset", "rewrite"))]
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALTTRAIN_SEARCH_PATH", search)
        made = assemble(compose("run", [search, *kept, "method=mine"]))
    open_folder(made)
    assert ask.run_of(made.folder).name == made.name == made.folder.name == "tiny-mine-s0"


def test_a_text_that_looks_like_an_interpolation_is_read_back_as_it_was(
    tiny_arguments: list[str], tmp_path: Path
) -> None:
    register()
    text = r"protocol.system_prompt='Say \${seed}, and \\\${HOME}, in C:\d.'"
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        made = assemble(compose("run", [*tiny_arguments, text]))
    assert "${seed}" in made.config["protocol"]["system_prompt"]
    open_folder(made)
    assert ask.run_of(made.folder).config["protocol"] == made.config["protocol"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"such as outputs/runs/NAME: .*config\.yaml is not there"):
        alttrain.load(tmp_path)
    (tmp_path / "config.yaml").write_text("backbone: {_target_: os.system, command: ls}")
    with pytest.raises(RunError, match=r"trusted=\[os\]"):
        alttrain.load(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0")
    with pytest.raises(RunError, match=r"intervention='\?\?\?': a value is needed here"):
        alttrain.load(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(DamagedError, match="is not the config of a run"):
        alttrain.load(tmp_path)


@pytest.mark.slow
def test_turns_of_a_defence_are_asked_first(tiny_arguments: list[str], tmp_path: Path) -> None:
    kept = [one for one in tiny_arguments if not one.startswith(("training", "dataset", "rewrite"))]
    command = [*kept, "method=intention_analysis", "training.thought=open", "stages=[generate]"]
    processes.alttrain(command).check_returncode()
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    rows = read_rows(folder / "evaluation" / "embedded_harmful" / "generations.jsonl", Generation)
    assert all(row.earlier for row in rows)
    found = alttrain.load(folder).ask([row.prompt for row in rows])
    assert [one.answer for one in found] == [row.answer.strip() for row in rows]
