"""Originals that the backbone is asked for: how, what is kept, what stops a run, and what a guard sorts out."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from stub_server import HARMLESS, Say, Serve

from alttrain.config import RunError, register, shaping
from alttrain.dataset import embedded_rows
from alttrain.generation import Decoding
from alttrain.generation.engine import Completion, Prompt
from alttrain.records import Example, Generation, Judgement, Rejected, read_rows
from alttrain.rewrite import render
from alttrain.rewrite.original import whole_sentences
from alttrain.run.assembly import assemble
from alttrain.run.execution import execute
from alttrain.run.session import Session

ROWS = 20
"""Every other one harmful; prompt n is "Say n"."""
Says = Callable[[int], str | None]
"""What the backbone writes to prompt n; None and the run is killed."""


def whole(number: int) -> str:
    return f"The user wants {number}. So be it.\n</think>\n\nIt is {number}."


class Backbone:
    """Stands in for the backbone of every session, and keeps how it was asked."""

    streams = False

    def __init__(self, says: Says) -> None:
        self.says = says
        self.texts: list[str] = []
        self.decoding: Decoding | None = None

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None]
    ) -> Iterator[tuple[int, Completion]]:
        self.decoding = decoding
        for number, prompt in enumerate(prompts):
            (asked,) = re.findall(r"Say (\d+)", prompt.text)
            if (said := self.says(int(asked))) is None:
                raise KeyboardInterrupt
            self.texts.append(prompt.text)
            yield number, Completion(said, "stop" if "</think>" in said else "length")


class Flag:
    """A guard that calls unsafe what says so, and cannot decide on what is unclear."""

    says, servers = "unsafe", ()

    def __init__(self, name: str, **ignored: Any) -> None:
        self.name = name

    def check(self, where: str, model_fault: Any) -> None:
        assert where.startswith("rewrite.guard")

    def judge(self, generations: Sequence[Generation], context: Any) -> Iterator[Judgement]:
        for made in generations:
            assert made.answer.startswith("<think>\nThe user wants")
            error = "the server refuses the prompt (HTTP 400)" if "refused" in made.answer else ""
            undecided = error or "unclear" in made.answer
            yield Judgement(made.id, self.name, None if undecided else "unsafe" in made.answer, error=error)


@pytest.fixture
def arguments(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A rewrite of ROWS prompts without traces by a backbone that reasons."""
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALTTRAIN_TRUSTED", __name__)
    register()
    rows = tmp_path / "rows.jsonl"
    kinds = (("harmful", "privacy"), ("benign", "everyday"))
    lines = [
        {"id": f"r{n}", "prompt": f"Say {n}", "label": kinds[n % 2][0], "category": kinds[n % 2][1]}
        for n in range(ROWS)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        f"backbone.source={tiny_folder}",
        "backbone.name=tiny",
        "backbone.context_length=32768",
        "backbone.untrained_thought=open",
        f"output_dir={tmp_path / 'outputs'}",
        "trainer.accelerator=cpu",
        "generation.dtype=float32",
        "dataset=local",
        f"dataset.path={rows}",
        "dataset.decontaminate=[]",
        "training.max_length=2000",
        "stages=[rewrite]",
    ]


@pytest.fixture
def speaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Says], Backbone]:
    def speaking(says: Says) -> Backbone:
        backbone = Backbone(says)

        @contextmanager
        def started(session: Session, *unused: object) -> Iterator[Backbone]:
            yield backbone

        monkeypatch.setattr(Session, "_started", started)
        return backbone

    return speaking


Speaks = Callable[[Says], Backbone]


def run(arguments: list[str]) -> tuple[list[Example], dict[str, Any], list[Rejected]]:
    """The rows to train on in order, the counts, and the rows left out."""
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        folder = execute(compose("run", overrides=arguments)).folder
    rows = sorted(read_rows(folder / "train.jsonl", Example), key=lambda row: int(row.id[1:]))
    return rows, json.loads((folder / "rewrite.json").read_text()), read_rows(folder / "rejects.jsonl", Rejected)


def test_a_reasoning_backbone_is_given_the_room_a_thought_takes(arguments: list[str], speaks: Speaks) -> None:
    backbone = speaks(lambda n: "Well, let me think." if n == 3 else whole(n))
    rows, counts, left_out = run(arguments)
    assert backbone.decoding == Decoding(8192, 0.6, 0.95)
    assert backbone.texts[0] == "<|im_start|>user\nSay 1<|im_end|>\n<|im_start|>assistant\n<think>\n"
    benign = {row.id: row for row in rows if row.label == "benign"}
    assert [segment.text for segment in benign["r5"].thought][::2] == ["The user wants 5.", "So be it."]
    assert {segment.origin for segment in benign["r5"].thought} == {"trace:backbone", "teacher:template"}
    assert benign["r5"].answer == "It is 5."
    assert left_out == [Rejected("r3", "the backbone's thought did not end within the cap")]
    assert counts["shapes"] == {"thought_and_answer": 19}


def test_a_label_that_loses_more_than_a_tenth_stops_the_run(
    arguments: list[str], speaks: Speaks, tmp_path: Path
) -> None:
    speaks(lambda n: "Well, let me think." if n in (3, 7) else whole(n))
    with pytest.raises(RunError) as told:
        run(arguments)
    message = str(told.value)
    assert "larger share of a label's rows than rewrite.may_lose=0.1" in message
    assert "2 of 10 benign rows" in message
    assert "2: the backbone's thought did not end within the cap" in message
    assert "raise rewrite.original.reasoning.tokens=8192" in message
    assert "harmful" not in message
    assert not list((tmp_path / "outputs").rglob("train.jsonl"))
    rows, counts, _ = run([*arguments, "rewrite.may_lose=0.2"])
    assert (len(rows), counts["left_out"]) == (18, {"the backbone's thought did not end within the cap": 2})


def test_a_context_too_short_for_a_thought_is_told_before_anything_is_asked(
    arguments: list[str], speaks: Speaks
) -> None:
    backbone = speaks(whole)
    with pytest.raises(RunError, match=r"with 8192 more \(rewrite\.original\.reasoning\.tokens\) it passes"):
        run([*arguments, "backbone.context_length=4096", "stages=[check,rewrite]", "training.max_length=2000"])
    assert backbone.texts == []


@pytest.mark.parametrize("traces", ["dataset", "backbone"])
def test_traces_are_the_data_sets_or_the_backbones_own(
    arguments: list[str], speaks: Speaks, tmp_path: Path, traces: str
) -> None:
    path = tmp_path / "rows.jsonl"
    given = {"response": "The user wants a trace. Here.\n</think>\n\nGiven."}
    path.write_text("".join(json.dumps(json.loads(line) | given) + "\n" for line in path.read_text().splitlines()))
    backbone = speaks(whole)
    columns = ["+dataset.columns.response=response", "dataset.thought_tags=['<think>','</think>']"]
    rows, _, _ = run([*arguments, *columns, f"rewrite.traces={traces}"])
    own = traces == "backbone"
    assert len(backbone.texts) == (10 if own else 0)
    assert {row.answer for row in rows if row.label == "benign"} == (
        {f"It is {n}." for n in range(1, ROWS, 2)} if own else {"Given."}
    )
    assert {row.thought[0].text for row in rows if row.label == "harmful"} == {"The user wants a trace."}


def with_fields(path: Path, fields: Callable[[int], dict[str, Any]]) -> None:
    """Add fields to row n of a file of rows."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line | fields(n)) + "\n" for n, line in enumerate(lines)))


def test_an_answer_without_a_thought_is_never_the_backbones(
    arguments: list[str], speaks: Speaks, tmp_path: Path
) -> None:
    with_fields(tmp_path / "rows.jsonl", lambda n: {"answer": f"Mine {n}."})
    backbone = speaks(whole)
    arguments = [*arguments, "+dataset.columns.answer=answer"]
    with pytest.raises(
        RunError, match=r"10 of 10 benign rows(.|\n)*an answer and no thought(.|\n)*set rewrite\.traces=backbone"
    ):
        run(arguments)
    rows, _, _ = run([*arguments, "rewrite=alttrain_without_cr", "tag=short"])
    assert [row.answer for row in rows if row.label == "benign"] == [f"Mine {n}." for n in range(1, ROWS, 2)]
    assert backbone.texts == []
    rows, _, _ = run([*arguments, "rewrite.traces=backbone", "tag=own"])
    assert [row.answer for row in rows if row.label == "benign"] == [f"It is {n}." for n in range(1, ROWS, 2)]


def test_a_dialogue_is_asked_as_it_is_trained_on(
    arguments: list[str], speaks: Speaks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    with_fields(path, lambda n: {"talk": [f"Turn {n}.", f"Say {n}"]})
    path.write_text(path.read_text().replace('"prompt"', '"last"'))
    seen: list[str] = []
    judge = Flag.judge

    def judging(flag: Flag, generations: Sequence[Generation], context: Any) -> Iterator[Judgement]:
        seen.extend(made.prompt for made in generations)
        return judge(flag, generations, context)

    monkeypatch.setattr(Flag, "judge", judging)
    backbone = speaks(whole)
    rows, _, _ = run([*arguments, *THINKSAFE, "+dataset.columns.dialogue=talk"])
    assert {row.turns for row in rows} == {(f"Turn {n}.",) for n in range(ROWS)}
    assert "<|im_start|>user\nTurn 1.<|im_end|>\n<|im_start|>user\nSay 1<|im_end|>" in "".join(backbone.texts)
    assert sorted(seen) == sorted(f"Turn {n}.\n\nSay {n}" for n in range(ROWS))


def test_the_backbones_own_trace_is_not_asked_for_an_understanding(
    arguments: list[str], speaks: Speaks, serve: Serve
) -> None:
    speaks(whole)
    stub = serve(lambda prompt, asked: Say("The user wants a number."))
    understander = "+teacher@rewrite.understander=server"
    asking = [f"rewrite.understander.writer.{key}" for key in (f"base_url={stub.url}", "model_name=m")]
    rows, _, _ = run([*arguments, understander, *asking])
    assert stub.asked.total() == ROWS / 2  # the harmful ones
    assert {row.thought[0].origin for row in rows if row.label == "benign"} == {"trace:backbone"}
    assert {row.thought[0].origin for row in rows if row.label == "harmful"} == {"teacher:server"}


def test_rows_that_a_model_makes_are_proved_before_they_are_trained_on(arguments: list[str], speaks: Speaks) -> None:
    speaks(lambda n: f"The user wants {n}. So.\n</think>\n\nIt </think> is {n}.")
    faults = r"^10 of 20 rows would not be trained as they are prompted:\n  row r\d+: "
    with pytest.raises(RunError, match=faults + r"(?s:.*)\ndelete their lines in .*train\.jsonl, or choose"):
        run([*arguments, "stages=[check,rewrite,train]"])


def test_a_reply_that_is_cut_needs_more_tokens(arguments: list[str], speaks: Speaks, serve: Serve) -> None:
    speaks(whole)
    stub = serve(lambda prompt, asked: Say("The request", finish="length"))
    teacher = ["teacher=server", "teacher.writer.model_name=m", f"teacher.writer.base_url={stub.url}"]
    remedy = r"-> raise teacher\.writer\.max_tokens, or switch its thinking off \(teacher\.writer\.extra\)"
    with pytest.raises(RunError, match=remedy):
        run([*arguments, *teacher])


def test_a_kill_costs_one_chunk_of_originals(
    arguments: list[str], speaks: Speaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*arguments, "rewrite.original.reasoning.chunk=4"]
    dying = speaks(lambda n: None if len(dying.texts) == 6 else whole(n))
    with pytest.raises(KeyboardInterrupt):
        run(arguments)
    living = speaks(whole)
    rows, _, _ = run(arguments)
    assert len(living.texts) == 6
    again = speaks(whole)
    assert run([*arguments, "tag=again"])[0] == rows
    assert again.texts == []
    monkeypatch.setattr("alttrain.run.session.version", lambda package: "0.0")
    assert run([*arguments, "tag=upgraded"])[0] == rows
    assert len(again.texts) == 10  # another torch may write other texts


THINKSAFE = ["rewrite=thinksafe", "rewrite.guard._target_=test_originals.Flag"]


def test_thinksafe_trains_on_what_a_guard_lets_pass(arguments: list[str], speaks: Speaks) -> None:
    """Steered where the prompt is harmful, plain where it is not; the steering is no part of the row."""

    def says(number: int) -> str:
        word = {0: "unsafe", 1: "unclear", 2: "I must refuse", 3: "I must refuse"}.get(number, "fine")
        return f"The user wants {number}. {word}.\n</think>\n\nI cannot help with that, it is {word}."

    backbone = speaks(lambda n: "The user wants this." if n == 4 else says(n))
    rows, counts, left_out = run([*arguments, *THINKSAFE])
    assert backbone.decoding == Decoding(16384, 0.6, 0.95)
    steered = {int(re.findall(r"Say (\d+)", text)[0]): "harmful" in text for text in backbone.texts}
    assert steered == {n: n % 2 == 0 for n in range(ROWS)}
    assert {row.id for row in left_out} == {"r0", "r4"}
    assert {row.prompt for row in rows} == {f"Say {n}" for n in range(ROWS) if n not in (0, 4)}
    assert render(rows[0].thought) == "The user wants 1. unclear."
    assert counts["guard"] == {
        "harmful": {"kept": 8, "unsafe": 1, "undecided": 0},
        "benign": {"kept": 10, "unsafe": 0, "undecided": 1},
    }
    assert counts["left_out"]["the backbone's thought did not end within the cap"] == 1
    assert counts["left_out"]["the guard calls it unsafe"] == 1


FLAGS = ",".join(f"{name}:{{_target_:test_originals.Flag,name:{name}}}" for name in "ab")
PANEL = f"+rewrite.guard={{_target_:alttrain.evaluation.judges.Majority,quorum:1,judges:{{{FLAGS}}}}}"


@pytest.mark.parametrize(
    ("guard", "names"), [([], ["llama_guard_3"]), (["~rewrite.guard", PANEL], ["a", "b"])], ids=["one", "majority"]
)
def test_a_kill_loses_no_verdict_of_a_guard(
    guard: list[str],
    names: list[str],
    arguments: list[str],
    speaks: Speaks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speaks(whole)
    chosen = [*arguments, *(["rewrite=thinksafe", *guard] if guard else THINKSAFE)]
    asked, judge, killed_at = list[tuple[str, str]](), Flag.judge, 12

    def judges(flag: Flag, generations: Sequence[Generation], context: Any) -> Iterator[Judgement]:
        for verdict in judge(flag, generations, context):
            if sum(name == names[-1] for name, _ in asked) == killed_at:
                raise KeyboardInterrupt
            asked.append((flag.name, verdict.id))
            yield verdict

    monkeypatch.setattr(Flag, "judge", judges)
    with pytest.raises(KeyboardInterrupt):
        run(chosen)
    killed_at = -1
    rows, _, _ = run(chosen)
    assert len(rows) == ROWS
    assert sorted(asked) == sorted((name, f"r{n}") for name in names for n in range(ROWS))
    assert not list(tmp_path.rglob("guard.jsonl"))


def test_a_guard_that_judges_nearly_nothing_stops_the_run(arguments: list[str], speaks: Speaks) -> None:
    """Else all that it did not look at would be trained on."""
    speaks(lambda n: f"The user wants {n}.\n</think>\n\nIt is {'fine' if n == 5 else 'refused'}.")
    with pytest.raises(RunError, match=r"guard=\w+: 19 of 20 judgements failed \(the server refuses .*HTTP 400\)\)"):
        run([*arguments, *THINKSAFE])


def test_a_guard_that_is_not_at_hand_is_told_before_anything_is_asked(arguments: list[str], speaks: Speaks) -> None:
    backbone = speaks(whole)
    with pytest.raises(RunError, match=r"rewrite\.guard\.model=/no/such/guard: "):
        run([*arguments, "rewrite=thinksafe", "rewrite.guard.model=/no/such/guard"])
    assert backbone.texts == []


def test_rows_that_a_blind_teacher_disagrees_with_are_left_out(
    arguments: list[str], speaks: Speaks, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backbone = speaks(whole)
    stub = serve(lambda prompt, asked: Say(HARMLESS))
    teacher = ["teacher=server", "teacher.writer.model_name=m", "teacher.tell_label=false"]
    asking = [*arguments, *teacher, f"teacher.writer.base_url={stub.url}"]
    with pytest.raises(RunError, match=r"10 of 10 harmful rows(.|\n)*its verdict disagrees(.|\n)*tell_label=true"):
        run(asking)
    assert backbone.texts == []
    assert "the teacher judges 10 of 10 harmful rows otherwise" in caplog.text
    assert "the teacher judges 0 of 10 benign rows otherwise" in caplog.text
    _, counts, left_out = run([*asking, "rewrite.may_lose=1"])
    assert list(counts["left_out"].values()) == [10]
    assert {label: numbers["share"] for label, numbers in counts["disagreements"].items()} == {
        "harmful": 1,
        "benign": 0,
    }
    assert {row.id for row in left_out} == {f"r{n}" for n in range(0, ROWS, 2)}


def test_how_a_server_is_asked_is_no_part_of_a_runs_identity() -> None:
    register()
    asked = ["teacher=gpt4o", "+teacher@rewrite.understander=gpt4o"]
    writers = ("teacher.writer", "rewrite.understander.writer")
    keys = [f"{writer}.{key}" for writer in writers for key in ("concurrency", "timeout_s")]

    def identity(*overrides: str) -> dict[str, Any]:
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            plain = OmegaConf.to_container(compose("run", overrides=[*asked, *overrides]), resolve=True)
        return shaping(plain)  # type: ignore[arg-type]

    assert identity(*(f"{key}=3" for key in keys)) == identity()
    assert identity("rewrite.understander.writer.temperature=1.0") != identity()


def test_which_weights_a_local_guard_has_is_part_of_a_runs_identity(tiny_folder: Path, tmp_path: Path) -> None:
    register()
    guard, found = shutil.copytree(tiny_folder, tmp_path / "guard"), set()
    for options in ("{}", '{"rope_theta": 500.0}'):
        (guard / "config.json").write_text(options)
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            config = compose("run", overrides=["rewrite=thinksafe", f"rewrite.guard.model={guard}"])
        found.add(assemble(config).fingerprint["rewrite.guard.model weights"])
    assert len(found) == 2


def test_data_the_template_teacher_has_no_reason_for_are_refused_before_weights(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace("privacy", "vanilla_harmful"))
    monkeypatch.setattr(Session, "weights", property(lambda session: pytest.fail("weights were looked for")))
    with pytest.raises(
        RunError, match=r"no reason for 10 of 20 rows: 10 harmful of 'vanilla_harmful'; .*teacher=gpt4o"
    ):
        run(arguments)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Mix the flour. Then add", "Mix the flour."),
        ("Is it? Yes! And th", "Is it? Yes!"),
        ("It weighs 3.5 gra", ""),
        ("It opened in the U.S. Senate. Then", "It opened in the U.S. Senate."),
        ("It was 2016. Then", "It was 2016."),
        ("Mix it. It costs 3.", "Mix it."),
        ("Do this:\n\n1.", ""),
        ("See `a.` and ```x. y.", ""),
        ("Dr. Smith is here. ok", "Dr. Smith is here."),
        ("Buy it. iPhones are", "Buy it."),
        ("```x = 1```\nRun it. Then", "```x = 1```\nRun it."),
        ("1. ok", ""),
    ],
)
def test_an_answer_is_cut_after_its_last_whole_sentence(answer: str, kept: str) -> None:
    assert whole_sentences(answer) == kept


def test_what_decontamination_drops_is_told(arguments: list[str], speaks: Speaks, tmp_path: Path) -> None:
    speaks(whole)
    file = embedded_rows("evaluation_benign").read(None).examples
    copied = [{"id": f"c{n}", "prompt": file[n].prompt, "label": "benign", "category": "everyday"} for n in range(2)]
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.writelines(json.dumps(row) + "\n" for row in copied)
    kept = [argument for argument in arguments if not argument.startswith("dataset.decontaminate")]
    run(kept)
    (log,) = (tmp_path / "outputs" / "runs").glob("*/run.log")
    told = f"2 of {ROWS + 2} rows of the dataset are too like prompts of embedded_benign (2), and left out; "
    assert told + f"{log.with_name('rewrite.json')} lists them\n" in log.read_text()


def test_without_contamination_nothing_is_told_of_it(arguments: list[str], speaks: Speaks, tmp_path: Path) -> None:
    speaks(whole)
    run(arguments)
    (log,) = (tmp_path / "outputs" / "runs").glob("*/run.log")
    assert "too like prompts" not in log.read_text()
