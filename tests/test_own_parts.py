"""One part of each kind from outside: a package and a config folder of a user's own, run end to end."""

import json
import subprocess
from pathlib import Path

import processes
import pytest

from alttrain.records import Example, Generation, Judgement, read_rows

PACKAGE = '''
from contextlib import contextmanager
from dataclasses import dataclass, replace

from alttrain.generation.engine import Completion, EngineConfig
from alttrain.records import Judgement, Segment
from alttrain.rewrite import Teacher, Untouched


@dataclass(frozen=True)
class Counted(Untouched):
    """A structure: the thought counts the request's words, and the teacher assesses them."""

    answer: str = "So be it."
    teacher: Teacher | None = None

    def rewrite(self, example, seed, assessment=None, understanding=None):
        counted = Segment("reasoning", f"The request has {len(example.prompt.split())} words.", "counted")
        return replace(super().rewrite(example, seed), thought=(counted, assessment), answer=self.answer)


class Terse(Teacher):
    """A teacher: it says the label."""

    name = "terse"

    def assess(self, examples, seed, context):
        for row in examples:
            context.progress(1)
            yield row.id, Segment("assessment", f"It is {row.label}.", f"teacher:{self.name}")


@dataclass(frozen=True)
class Echo(EngineConfig):
    """An engine: it repeats the prompt's name."""

    chunk: int = 64

    @contextmanager
    def start(self, model):
        yield Echoing(bool(model.adapter))


class Echoing:
    streams = False

    def __init__(self, adapted):
        self.adapted = adapted

    def generate(self, prompts, decoding, advance=lambda count: None):
        for number, prompt in enumerate(prompts):
            advance(1)
            yield number, Completion(f"It is {prompt.name}.\\n</think>\\n\\nAdapted: {self.adapted}.", "stop")


class Mentions:
    """A judge: an answer with this word in it is a refusal."""

    says, needs_goal, needs_gold, servers = "refused", False, False, ()

    def __init__(self, name: str, word: str) -> None:
        self.name, self.word = name, word

    def check(self, where, model_fault):
        return

    def judge(self, generations, context):
        for row in generations:
            context.progress(1)
            yield Judgement(row.id, self.name, self.word in row.answer, evidence=self.word, sample=row.sample)
'''
OPTIONS = {
    "backbone/own": "defaults:\n  - hub\nname: own\nsource: {tiny}\ncontext_length: 512\nuntrained_thought: absent\n",
    "rewrite/counted": "_target_: mypackage.Counted\nname: counted\nteacher:\n  _target_: mypackage.Terse\n",
    "generation/echo": "_target_: mypackage.Echo\nchunk: 64\n",
    "judge/mentions": "_target_: mypackage.Mentions\nname: mentions\nword: Adapted\n",
    "dataset/own": "defaults:\n  - local\nname: own\npath: {folder}/rows.jsonl\n",
    "benchmark/own": (
        "_target_: alttrain.evaluation.Benchmark\nname: own\nkind: over_refusal\nmeasure: over_refusal_rate\n"
        "judge: ${{protocol.judges.over_refusal_rate}}\nrows:\n  _target_: alttrain.dataset.Rows\n  name: own\n"
        "  path: {folder}/asked.jsonl\n"
    ),
}


def rows(path: Path, word: str, count: int) -> None:
    """Rows that share no eight words in a row between two words."""
    lines = [{"id": f"{word}{n}", "prompt": f"{word} {n} {word} {n}?", "label": "benign"} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def own(tmp_path: Path, tiny_folder: Path) -> Path:
    """A folder with the package, the config folder and the data."""
    (tmp_path / "mypackage.py").write_text(PACKAGE)
    for option, text in OPTIONS.items():
        path = tmp_path / "conf" / f"{option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(tiny=tiny_folder, folder=tmp_path))
    rows(tmp_path / "rows.jsonl", "kettle", 6)
    rows(tmp_path / "asked.jsonl", "violin", 3)
    return tmp_path


def alttrain(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command with one own part of each kind, in a process of its own."""
    parts = ["backbone=own", "dataset=own", "rewrite=counted", "generation=echo", "evaluation=none", "training=demo"]
    parts += ["+benchmark@evaluation.benchmarks.own=own", "judge@protocol.judges.over_refusal_rate=mentions"]
    parts += ["trainer.accelerator=cpu", "trainer.precision=float32", "trainer.threads=1", "training.epochs=1"]
    parts += [f"output_dir={folder / 'outputs'}", "protocol.decoding.max_new_tokens=8", *arguments]
    found = {"PLANTED": f"import sys\nsys.path.insert(0, {str(folder)!r})", "ALTTRAIN_CACHE": str(folder / "cache")}
    return processes.alttrain([f"--config-dir={folder / 'conf'}", *parts], **found)


def test_a_part_of_each_kind_from_outside_runs_end_to_end(own: Path) -> None:
    done = alttrain(own, "trusted=[mypackage]")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = own / "outputs" / "runs" / "own-own-counted-demo-s0"
    trained = read_rows(folder / "train.jsonl", Example)
    assert sorted(row.id for row in trained) == [f"kettle{n}" for n in range(6)]
    assert {(*(segment.text for segment in row.thought), row.answer) for row in trained} == {
        ("The request has 4 words.", "It is benign.", "So be it.")
    }
    assert json.loads((folder / "train.json").read_text())["examples"] == 6
    made = read_rows(folder / "evaluation" / "own" / "generations.jsonl", Generation)
    assert [(row.thought, row.answer) for row in made] == [(f"It is violin{n}#0.", "Adapted: True.") for n in range(3)]
    judged = read_rows(folder / "evaluation" / "own" / "judgements.jsonl", Judgement)
    assert [(row.judge, row.verdict, row.evidence) for row in judged] == [("mentions", True, "Adapted")] * 3
    assert " GiB (weights " in done.stderr  # of the shape in the backbone's config.json
    assert "own-own-counted-demo-s0" in (own / "outputs" / "report" / "metrics.csv").read_text()


def test_parts_from_outside_are_refused_until_they_are_trusted(own: Path) -> None:
    done = alttrain(own)
    assert done.returncode == 2
    keys = ["rewrite", "generation", "evaluation.benchmarks.own.judge", "protocol.judges.over_refusal_rate"]
    assert all(f"{key}._target_=" in done.stderr for key in keys), done.stderr
    assert "trusted=[mypackage]" in done.stderr
    assert not (own / "outputs").exists()
