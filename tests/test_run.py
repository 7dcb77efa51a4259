"""The whole pipeline on the tiny backbone: run twice, interrupted and resumed, refused on change, logged offline."""

import csv
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_overrides
from hydra import compose, initialize_config_module
from processes import Command, alttrain
from safetensors import safe_open
from safetensors.torch import save_file
from stub_server import RESET, Serve, right

from alttrain.backbone import Weights
from alttrain.config import RunError, register
from alttrain.dataset.sources import embedded_rows
from alttrain.evaluation.agreement import judge_report
from alttrain.evaluation.labels import text_hash
from alttrain.records import (
    Example,
    Generation,
    Judgement,
    checksum,
    read_metrics,
    read_rows,
    write_json,
    write_rows,
    write_sealed,
)
from alttrain.report.figures import draw_all
from alttrain.report.results import read_csv
from alttrain.rewrite import render
from alttrain.run import ask, label, opinions
from alttrain.run.assembly import assemble
from alttrain.run.execution import execute
from alttrain.run.folder import check_belongs, check_weights, environment, open_folder
from alttrain.run.progress import bar
from alttrain.run.session import Session, clear_shelf
from alttrain.run.stages import judge as judge_stage
from alttrain.training import fit as training

RUN, UNTRAINED = "tiny-embedded-alttrain-demo-s0", "tiny-no_train-s0"
DRAW = "alttrain.run.stages.report.draw_all"
METRICS = 10
"""Numbers of one benchmark: its measure, adherence, tokens, and what the thoughts hold."""
RECOGNITION = 3
"""More of a harmful one: whether its thoughts recognise the harm."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(DRAW, lambda *unused: nullcontext(list))  # figures take most of a report's time
    register()


def run(arguments: list[str]) -> Path:
    """Run the stages in this process; returns the run's folder."""
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=arguments)
    return execute(config).folder


def without(arguments: list[str], *groups: str) -> list[str]:
    """The overrides outside some groups, whose keys another option of the group does not have."""
    return [argument for argument in arguments if not argument.startswith(groups)]


def no_train(arguments: list[str]) -> list[str]:
    """The overrides of the No-train baseline."""
    return [*without(arguments, "training", "rewrite"), "method=no_train"]


def ended(name: str, tiny_folder: Path, root: Path) -> Path:
    """A folder with the outputs and the cache of a run that has ended: the trained one, or the No-train baseline."""
    arguments = tiny_overrides(tiny_folder, root)
    register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALTTRAIN_CACHE", str(root / "cache"))
        patch.setattr(DRAW, lambda *unused: nullcontext(list))
        folder = run(arguments if name == RUN else no_train(arguments))
    assert folder == root / "outputs" / "runs" / name
    return root


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run, for all tests that only read it."""
    return ended(RUN, tiny_folder, tmp_path_factory.mktemp("whole")) / "outputs" / "runs" / RUN


@pytest.fixture(scope="module")
def baseline(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The No-train run, for all tests that only read it."""
    return ended(UNTRAINED, tiny_folder, tmp_path_factory.mktemp("baseline")) / "outputs" / "runs" / UNTRAINED


def copied(folder: Path, to: Path) -> Path:
    """The run with its cache below another folder."""
    shutil.copytree(folder.parents[2], to, dirs_exist_ok=True)
    return to / "outputs" / "runs" / folder.name


TIMED = {"run.log", "status.json", ".lock"}
"""What tells when a run took place and in which process."""


def hashes(folder: Path) -> dict[str, str]:
    """Content of every file of a run but its log, its status and its lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in TIMED)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_sample_answers_in_training_change_nothing_that_is_trained(tiny_arguments: list[str]) -> None:
    arguments = [*tiny_arguments, "stages=[rewrite,train]"]
    plain = run(arguments)
    sampled = run([*arguments, "tag=sampled", "trainer.samples_every=3", "logger=none"])
    weights = "adapter/adapter_model.safetensors"
    assert (plain / weights).read_bytes() == (sampled / weights).read_bytes()
    rows = [json.loads(line) for line in (sampled / "logs" / "samples.jsonl").read_text().splitlines()]
    steps = json.loads((sampled / "train.json").read_text())["steps"]
    assert [row["step"] for row in rows[::3]] == [1, *range(3, steps + 1, 3)]
    assert {row["id"] for row in rows} == {row.id for row in embedded_rows("development_benign", 3).examples(None)}
    assert all(row["text"] for row in rows)
    assert len({row["text"] for row in rows}) > 3  # the model that is trained answers
    assert not (plain / "logs" / "samples.jsonl").exists()


def test_end_to_end_then_again_without_work(tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DRAW, draw_all)
    folder = run(tiny_arguments)
    assert folder.name == RUN
    examples = read_rows(folder / "train.jsonl", Example)
    counts = json.loads((folder / "rewrite.json").read_text())
    assert counts["read"] == 16
    assert counts["written"] == len(examples) == 16 - sum(counts["left_out"].values())
    assert {e.label for e in examples} >= {"harmful"}
    assert all([s.step for s in e.thought][:2] == ["understanding", "assessment"] for e in examples)
    record = json.loads((folder / "train.json").read_text())
    assert record["steps"] == 2 * -(-len(examples) // 4)
    with safe_open(folder / "adapter" / "adapter_model.safetensors", "pt") as adapter:
        assert max(adapter.get_tensor(name).abs().max() for name in adapter.keys() if "lora_B" in name) > 0  # noqa: SIM118
    assert "think" in (folder / "adapter" / "chat_template.jinja").read_text()
    assert not (folder / "checkpoints").exists()
    for name in ("embedded_harmful", "embedded_benign", "embedded_short_answer"):
        evaluation = folder / "evaluation" / name
        generations = read_rows(evaluation / "generations.jsonl", Generation)
        judgements = read_rows(evaluation / "judgements.jsonl", Judgement)
        metrics = json.loads((evaluation / "metrics.json").read_text())["metrics"]
        assert [g.id for g in generations] == [j.id for j in judgements]
        assert [m["n"] for m in metrics] == [4] * (METRICS + RECOGNITION * (name == "embedded_harmful"))
        assert metrics[0]["undecided"] == sum(j.verdict is None for j in judgements)
        assert metrics[0]["truncated"] == sum(g.finish == "length" for g in generations)
    report = folder.parent.parent / "report"
    assert (report / "metrics.csv").read_text().count("\n") == 1 + 3 * METRICS + RECOGNITION
    assert RUN in (report / "page.html").read_text()

    before = hashes(folder.parent.parent)

    def load(self: Session, *arguments: object, **named: object) -> None:
        raise AssertionError("a finished run loaded a model")

    monkeypatch.setattr(Session, "model", load)
    monkeypatch.setattr(Session, "renderer", property(load))
    run(tiny_arguments)
    assert hashes(folder.parent.parent) == before


def test_all_weights_can_be_trained_and_are_what_generates(
    tiny_arguments: list[str], tiny_folder: Path, whole: Path
) -> None:
    folder = run([*tiny_arguments, "adapter=full", "trainer.recompute=true"])
    assert not (folder / "adapter").exists()
    with (
        safe_open(folder / "model/model.safetensors", "pt") as new,
        safe_open(tiny_folder / "model.safetensors", "pt") as old,
    ):
        names = list(new.keys())
        assert names == list(old.keys())
        moved = [name for name in names if not torch.equal(new.get_tensor(name).float(), old.get_tensor(name))]
        assert moved == names
        assert {new.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert "fine-tuned whole" in (folder / "model/README.md").read_text()
    name = "evaluation/embedded_benign/generations.jsonl"
    assert (folder / name).read_bytes() != (whole / name).read_bytes()


def test_same_seed_in_a_fresh_folder_gives_the_same_bytes(tiny_arguments: list[str], whole: Path) -> None:
    second = run(tiny_arguments)
    same = ["train.jsonl", *(str(p.relative_to(whole)) for p in whole.rglob("generations.jsonl"))]
    assert len(same) == 4
    for name in same:
        assert (whole / name).read_bytes() == (second / name).read_bytes(), name


def test_no_train_baseline_prompts_as_the_backbone_is(baseline: Path) -> None:
    assert not (baseline / "train.jsonl").exists()
    assert not (baseline / "adapter").exists()
    generations = read_rows(baseline / "evaluation/embedded_benign/generations.jsonl", Generation)
    assert all(g.closed and not g.thought and g.thought_tokens == 0 for g in generations)


def test_no_train_runs_of_a_folder_generate_once(
    tiny_arguments: list[str], tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = copied(baseline, tmp_path)

    def load(self: Session, *arguments: object, **named: object) -> None:
        raise AssertionError("what is kept was generated again")

    monkeypatch.setattr(Session, "model", load)
    clear_shelf()
    second = run([*no_train(tiny_arguments), "seed=1"])
    assert second != first
    for path in first.rglob("generations.jsonl"):
        assert (second / path.relative_to(first)).read_bytes() == path.read_bytes()
    with pytest.raises(AssertionError, match="generated again"):
        run([*no_train(tiny_arguments), "seed=2", "protocol.decoding.max_new_tokens=13"])


def test_adapters_of_one_backbone_need_it_loaded_once(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*tiny_arguments, "stages=[rewrite,train]"]
    for seed in (0, 1):
        run([*arguments, f"seed={seed}"])
    loaded: list[str] = []
    model = Session.model

    def load(self: Session, *arguments: Any, **named: Any) -> Any:
        loaded.append(self.run.name)
        return model(self, *arguments, **named)

    monkeypatch.setattr(Session, "model", load)
    clear_shelf()
    folders = [run([*tiny_arguments, f"seed={seed}", "stages=[generate]"]) for seed in (0, 1)]
    assert loaded == [RUN]
    name = "evaluation/embedded_harmful/generations.jsonl"
    one, other = ((folder / name).read_bytes() for folder in folders)
    assert one != other
    (folders[1] / name).unlink()
    clear_shelf()
    run([*tiny_arguments, "seed=1", "stages=[generate]"])
    assert (folders[1] / name).read_bytes() == other


def test_direct_refusal_trains_on_its_own_rows(tiny_arguments: list[str], tmp_path: Path) -> None:
    rows = [{"refusal": f"Question: How? {n}\nAnswer: I will not. {n}"} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["dataset=direct_refusal", "dataset.sources.direct_refusal.file=rows.jsonl", f"data_dir={tmp_path}"]
    arguments = [*without(tiny_arguments, "rewrite", "dataset"), "rewrite=direct_refusal", *own]
    folder = run([*arguments, "stages=[rewrite]"])
    examples = sorted(read_rows(folder / "train.jsonl", Example), key=lambda row: row.id)
    assert [row.answer for row in examples] == [f"I will not. {n}" for n in range(5)]
    assert {render(row.thought) for row in examples} == {"I should not answer this question!"}
    assert json.loads((folder / "rewrite.json").read_text())["shapes"] == {"thought_and_answer": 5}


def test_r1_acts_rows_are_trained_on_in_their_shapes(tiny_arguments: list[str], tmp_path: Path) -> None:
    """A set of another shape is refused before anything is tokenised, with the rows counted and a remedy."""
    refused = [{"instruction": f"How? {n}", "response": f"They want {n}. This is harmful.\n</think>"} for n in range(6)]
    plain = [{"instruction": f"What? {n}", "response": f"It is {n}."} for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*refused, *plain]))
    own = ["dataset=r1_act", "dataset.sources.r1_act.file=rows.jsonl", f"data_dir={tmp_path}"]
    arguments = without(tiny_arguments, "rewrite", "dataset")
    folder = run([*arguments, *own, "rewrite=r1_act", "stages=[check,rewrite,train]"])
    counts = json.loads((folder / "rewrite.json").read_text())
    assert counts["shapes"] == {"answer_only": 2, "thought_only": 6}
    assert counts["labels"] == {"harmful": 6, "benign": 2}
    assert json.loads((folder / "train.json").read_text())["steps"] == 4
    with pytest.raises(RunError, match=r"6 of 6 harmful rows:(.|\n)*a thought without an answer(.|\n)*belongs to this"):
        run([*arguments, *own, "rewrite=star1", "stages=[check]"])


def test_a_changed_setting_is_refused_by_name(tiny_arguments: list[str]) -> None:
    folder = run([*tiny_arguments, "stages=[rewrite]"])
    before = hashes(folder)
    with pytest.raises(RunError, match=r"training\.learning_rate: 0\.001 -> 0\.5(.|\n)*tag=NAME"):
        run([*tiny_arguments, "training.learning_rate=0.5"])
    assert hashes(folder) == before
    assert run([*tiny_arguments, "training.learning_rate=0.5", "tag=hot", "stages=[rewrite]"]) != folder


def test_a_folder_that_another_process_made_since_the_check_is_left_as_it_is(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run([*tiny_arguments, "stages=[rewrite]"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("alttrain.run.stages.check.check_belongs", lambda run: None)  # the folder was not there
    with pytest.raises(RunError, match=r"training\.learning_rate: 0\.001 -> 0\.5"):
        run([*tiny_arguments, "training.learning_rate=0.5"])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["run.log", "evaluation", "logs/deep", "wandb", "."])
def test_a_link_out_of_a_received_run_is_not_written_through(
    tiny_arguments: list[str], tmp_path: Path, name: str
) -> None:
    """It would be made at a place of its reader's. The output folder is a link of its user's, and wandb makes some."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to("disk")
    folder, outside = tmp_path / "outputs" / "runs" / RUN, tmp_path / "outside"
    outside.mkdir()
    core = folder / "wandb" / "run-x" / "logs" / "debug-core.log"
    if name not in ("wandb", "."):
        core.parent.mkdir(parents=True)
        core.symlink_to(outside / "core.log")
        (folder / "wandb" / "latest-run").symlink_to("run-x")
        (folder / "submitit").mkdir()
        (folder / "submitit" / "submission_file_5.sh").symlink_to(outside / "gone.sh")
    arguments = [*tiny_arguments, "stages=[rewrite]"]
    link = folder / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "run.log" if "log" in link.suffix else outside)
    with pytest.raises(RunError, match=f"{RUN}.*is a link, which leads out of "):
        run(arguments)
    assert list(outside.iterdir()) == []
    link.unlink()
    assert run(arguments).resolve() == folder.resolve()


def test_changed_generation_is_refused_and_a_new_judge_is_not(
    tiny_arguments: list[str], tmp_path: Path, baseline: Path
) -> None:
    arguments = no_train(tiny_arguments)
    folder = copied(baseline, tmp_path)
    generations = folder / "evaluation/embedded_benign/generations.jsonl"
    before = generations.read_bytes()
    with pytest.raises(RunError, match=r"protocol\.decoding\.max_new_tokens: 12 -> 13"):
        run([*arguments, "protocol.decoding.max_new_tokens=13"])
    run([*arguments, "protocol.judges.over_refusal_rate.name=other"])
    assert generations.read_bytes() == before
    judgements = read_rows(folder / "evaluation/embedded_benign/judgements.jsonl", Judgement)
    assert {judgement.judge for judgement in judgements} == {"refusal", "other"}  # the first judge's verdicts stay


def test_limit_takes_so_many_prompts_of_every_benchmark_and_says_so(tiny_arguments: list[str]) -> None:
    folder = run([*without(no_train(tiny_arguments), "evaluation.benchmarks"), "limit=2"])
    found = [read_metrics(path) for path in sorted(folder.glob("evaluation/*/metrics.json"))]
    assert [metrics["metrics"][0]["n"] for metrics in found] == [2, 2, 2]
    assert all(metrics["provenance"]["changed"]["benchmark.rows.limit"] == [None, 2] for metrics in found)


def test_rows_lost_and_torn_are_made_again_the_same(
    tiny_arguments: list[str], tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar goes on from the whole chunks of three rows."""
    bars: list[tuple[int, ...]] = []

    @contextmanager
    def shown(label: str, *counts: int) -> Iterator[Callable[..., None]]:
        bars.append(counts)
        with bar(label, *counts) as advance:
            yield advance

    arguments = no_train(tiny_arguments)
    folder = copied(baseline, tmp_path)
    path = folder / "evaluation/embedded_harmful/generations.jsonl"
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    monkeypatch.setattr("alttrain.run.stages.generate.bar", shown)
    for kept, done in ((2, 0), (3, 3)):
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:17])
        (folder / "evaluation/embedded_harmful/metrics.json").unlink()
        run(arguments)
        assert path.read_bytes() == before
        assert bars.pop() == (4, done)


def test_interrupted_anywhere_ends_with_the_same_bytes(tiny_arguments: list[str], tmp_path: Path) -> None:
    """By Ctrl-C; `test_kill` kills."""
    arguments = [*tiny_arguments, "training.epochs=6"]
    whole = hashes(run([*arguments, f"output_dir={tmp_path / 'whole'}"]))
    environment = {"ALTTRAIN_CACHE": str(tmp_path / "cache")}
    folder = tmp_path / "outputs" / "runs" / RUN
    moments = [folder / "rewrite.json", folder / "checkpoints" / "last.ckpt", folder / "evaluation" / "embedded_benign"]
    for moment in moments:
        with Command(arguments, **environment) as command:
            while command.process.is_alive() and not moment.exists():
                time.sleep(0.01)
            with suppress(ProcessLookupError):
                os.kill(command.process.pid, signal.SIGINT)
            done = command.wait()
        if moment == moments[0] or done.returncode != 0:  # a later one may come too late
            assert done.returncode == 130, done.stderr
            assert "the same command goes on from here" in done.stderr
    done = alttrain(arguments, **environment)
    assert done.returncode == 0, done.stderr
    ended = hashes(folder)
    volatile = {"config.yaml", "train.json", "adapter/README.md"}  # the folder's path and the seconds it took
    logs = {name for name in whole if name.startswith("logs/")}
    for name in whole.keys() - volatile - logs:
        assert ended[name] == whole[name], name


def test_a_sweep_runs_both_methods_and_shows_one_table(tiny_arguments: list[str], tmp_path: Path) -> None:
    arguments = [*without(tiny_arguments, "training", "rewrite", "dataset.amounts.b"), "dataset.amounts.borderline=0"]
    arguments += ["dataset.amounts.benign=0"]  # the random backbone has no answer to them
    done = alttrain(["experiment=demo", *arguments], ALTTRAIN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("harmful ↓") == 1
    changed, untrained = sorted(path.name for path in (tmp_path / "outputs" / "runs").iterdir())
    assert untrained == "tiny-no_train-s0"
    assert re.fullmatch("tiny-demo_alttrain-changed_[0-9a-f]{6}-s0", changed)  # by the tiny amounts of data
    names = [json.loads((tmp_path / "outputs" / "runs" / run / "run.json").read_text()) for run in (changed, untrained)]
    assert [(one["digest"], one["tag"]) for one in names] == [(changed.split("-")[2], ""), ("", "")]
    compared = read_csv(tmp_path / "outputs" / "report" / "comparisons.csv")
    assert set(zip(compared.run, compared.baseline, strict=True)) == {(changed, untrained)}
    assert len(compared) == 3
    told = read_csv(tmp_path / "outputs" / "report" / "structure.csv")
    assert (told.harmful_as_harmful + told.harmful_as_benign + told.harmful_unassessed).tolist() == [4, 4]


def test_wandb_offline_needs_no_network_and_gets_no_text(tiny_arguments: list[str]) -> None:
    folder = run([*tiny_arguments, "logger=wandb"])
    logged = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert logged
    prompts = [example.prompt for example in read_rows(folder / "train.jsonl", Example)]
    answers = [g.text for p in folder.rglob("generations.jsonl") for g in read_rows(p, Generation)]
    content = b"".join(path.read_bytes() for path in (folder / "wandb").rglob("*") if path.is_file())
    assert b"embedded_benign/over_refusal_rate" in content or b"over_refusal_rate" in content
    for text in [*prompts, *answers]:
        assert text.encode() not in content


def test_a_prompt_longer_than_the_context_is_refused(tiny_arguments: list[str], tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"prompt": "a " * 400, "label": "harmful", "category": "privacy"}) + "\n")
    local = without(tiny_arguments, "dataset")
    with pytest.raises(RunError, match=r"dataset, row long-1 \(long\.jsonl:1\): the prompt has 8\d\d tokens"):
        run([*local, "dataset=local", f"dataset.path={data}"])
    assert not (tmp_path / "outputs").exists()


def test_a_benchmarks_prompt_longer_than_the_context_is_refused_without_the_check_too(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "model", lambda *unused: pytest.fail("weights were loaded"))
    own = without(no_train(tiny_arguments), "protocol.decoding")
    says = r"benchmark embedded_harmful, row .*: the prompt has \d+ tokens, and with 500 more \(protocol\.decoding"
    for stages in ("[check,generate]", "[generate,judge]", "[train,generate]"):
        with pytest.raises(RunError, match=says):
            run([*own, "protocol.decoding.max_new_tokens=500", f"stages={stages}"])


def test_a_diverged_training_fails_the_run_and_leaves_nothing_to_evaluate(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.training.module.response_loss", lambda hidden, *unused: hidden.sum() * float("nan"))
    with pytest.raises(RunError, match=r"diverged at step 1 of \d+: loss nan, gradient norm nan, learning rate"):
        run(tiny_arguments)
    (folder,) = (Path(argument.partition("=")[2]) for argument in tiny_arguments if argument.startswith("output_dir"))
    folder = folder / "runs" / RUN
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert not {"adapter", "train.json", "evaluation", "checkpoints"} & {path.name for path in folder.iterdir()}


def test_an_adapter_without_its_tensors_is_not_evaluated(
    tiny_arguments: list[str], tmp_path: Path, whole: Path
) -> None:
    folder = copied(whole, tmp_path)
    shutil.rmtree(folder / "evaluation")
    save_file({}, folder / "adapter" / "adapter_model.safetensors")
    record = json.loads((folder / "train.json").read_text())
    name = "adapter/adapter_model.safetensors"
    record["files"][name] = checksum(folder / name)
    write_sealed(folder / "train.json", record)
    with pytest.raises(RunError, match=r"adapter_model\.safetensors holds an update of zero"):
        run(tiny_arguments)
    assert not list(folder.glob("evaluation/*/generations.jsonl"))


@pytest.mark.parametrize(
    "name", ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model/model.safetensors"]
)
def test_what_was_trained_is_trained_again_where_it_is_spoiled_and_its_texts_with_it(
    tiny_arguments: list[str], tmp_path: Path, whole: Path, name: str
) -> None:
    """A changed digit or bit would give other texts under the trained model's name."""
    arguments = [*tiny_arguments, *(["adapter=full"] if name.startswith("model") else [])]
    folder = run(arguments) if name.startswith("model") else copied(whole, tmp_path)
    paths = [folder / name, *folder.rglob("generations.jsonl")]
    before = [path.read_bytes() for path in paths]
    at = re.search(rb'"r": (\d)', before[0]).start(1) if name.endswith("json") else len(before[0]) - 9  # type: ignore[union-attr]
    paths[0].write_bytes(before[0][:at] + bytes([before[0][at] ^ 1]) + before[0][at + 1 :])
    paths[1].unlink()
    with pytest.raises(RunError, match=f"{name} is not what was trained"):
        run([*arguments, "stages=[generate]"])
    run(arguments)
    assert [path.read_bytes() for path in paths] == before


def test_other_rows_are_trained_on(tiny_arguments: list[str], tmp_path: Path, whole: Path) -> None:
    folder = copied(whole, tmp_path)
    rows, adapter = folder / "train.jsonl", folder / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    rows.write_text(rows.read_text().replace('"answer": "', '"answer": "Well. '))
    run([*tiny_arguments, "stages=[train]", "trainer.log_every=7"])
    assert adapter.read_bytes() != before
    trained_by = yaml.safe_load((folder / "config.yaml").read_text())
    assert (trained_by["stages"], trained_by["trainer"]["log_every"]) == (["train"], 7)


def test_a_training_that_starts_keeps_no_texts_of_an_earlier_one(
    tiny_arguments: list[str], tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(whole, tmp_path)
    (folder / "train.json").unlink()  # as the message on a damaged one advises
    run([*tiny_arguments, "stages=[train]"])
    assert not list(folder.glob("evaluation/*/generations.jsonl"))
    assert "texts of an earlier training" in caplog.text


def test_rows_that_are_edited_during_a_training_are_not_what_it_was_made_from(
    tiny_arguments: list[str], tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(whole, tmp_path)
    (folder / "train.json").unlink()
    rows, fit = folder / "train.jsonl", training.fit

    def edited(*arguments: Any, **named: Any) -> Any:
        rows.write_text(rows.read_text().replace('"answer": "', '"answer": "Well. '))
        return fit(*arguments, **named)

    monkeypatch.setattr(training, "fit", edited)
    with pytest.raises(RunError, match=r"train\.jsonl is not what was trained"):
        run([*tiny_arguments, "stages=[train,generate]"])


def test_a_run_is_of_one_backbones_weights(tiny_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    arguments = no_train(tiny_overrides(model, tmp_path))
    folder = run(arguments)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-9] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    says = r"was made with other weights than backbone\.source=.*\n  model\.safetensors: .*\n.*tag=NAME"
    for stages in ("[rewrite,train,generate,judge]", "[generate]"):
        with pytest.raises(RunError, match=says):
            run([*arguments, f"stages={stages}"])
    with pytest.raises(RunError, match=says):
        ask.load(folder).ask("Why?")
    run([*arguments, "stages=[judge,report]"])  # needs none
    (model / "model.safetensors").unlink()
    run(arguments)  # nor does what is done


def test_a_runs_revision_may_be_set_to_the_commit_that_it_used(tiny_arguments: list[str], tmp_path: Path) -> None:
    """The hub's newest version is another one now: the run goes on with the one that it began with."""
    arguments = [*no_train(tiny_arguments), "stages=[rewrite]"]
    folder = run(arguments)
    write_json(folder / "weights.json", {"origin": "hub@1a2b3c"})
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        same, other = (
            assemble(compose("run", [*arguments, f"backbone.revision={name}"])) for name in ("1a2b3c", "4d5e")
        )
    made = json.loads((folder / "fingerprint.json").read_text())
    write_json(folder / "fingerprint.json", made | {"rewrite.guard.model weights": "of a folder that is gone"})
    check_belongs(same)
    with pytest.raises(RunError, match=r"backbone\.revision: .*4d5e"):
        check_belongs(other)
    with pytest.raises(RunError, match=r"set backbone\.revision=1a2b3c, or use tag=NAME"):
        check_weights(same, Weights(tmp_path, "hub@4d5e"))


def test_config_and_versions_of_a_folder_are_those_of_the_command_that_trained(
    tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier one may have rewritten the rows, with another version of torch."""
    register()

    def kept(threads: int) -> tuple[Path, int, int]:
        monkeypatch.setattr("alttrain.run.folder.environment", lambda: {"packages": {"torch": threads}})
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            opened = assemble(compose("run", [*tiny_arguments, f"trainer.threads={threads}"]))
        open_folder(opened)
        versions = json.loads((opened.folder / "environment.json").read_text())["packages"]
        config = yaml.safe_load((opened.folder / "config.yaml").read_text())
        return opened.folder, config["trainer"]["threads"], versions["torch"]

    assert [kept(threads)[1:] for threads in (1, 3)] == [(1, 1), (3, 3)]
    folder, *_ = kept(2)
    write_json(folder / "train.json", {})
    assert kept(1)[1:] == (2, 2)


def test_the_commit_is_of_this_checkout_and_git_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package may lie in a checkout of its user's own project."""
    own = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*own, "init", "--quiet"], check=True)
    subprocess.run([*own, "commit", "--quiet", "--allow-empty", "--message=x"], check=True)
    installed = tmp_path / ".venv" / "lib" / "alttrain" / "run" / "folder.py"
    installed.parent.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("alttrain.run.folder.__file__", str(installed))
        assert environment()["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] is None


def test_an_earlier_turn_that_is_in_a_benchmark_is_counted(
    tiny_arguments: list[str], tmp_path: Path, whole: Path
) -> None:
    folder = copied(whole, tmp_path)
    first, *others = read_rows(folder / "train.jsonl", Example)
    asked = embedded_rows("evaluation_benign").examples(None)[1].prompt
    write_rows(folder / "train.jsonl", [replace(first, turns=(asked,)), *others])
    metrics = folder / "evaluation" / "embedded_benign" / "metrics.json"
    metrics.unlink()
    run([*tiny_arguments, "stages=[judge]"])
    found = json.loads(metrics.read_text())["contaminated"]
    assert [(match["id"], match["row"], match["how"]) for match in found] == [(first.id, 2, "exact")]


def test_a_finished_training_has_one_precision(tiny_arguments: list[str], tmp_path: Path, whole: Path) -> None:
    copied(whole, tmp_path)
    with pytest.raises(RunError, match=r"trainer\.precision=bfloat16: .* was trained in float32; .*tag=NAME"):
        run([*tiny_arguments, "trainer.precision=bfloat16"])
    run([*tiny_arguments, "trainer.precision=auto", "stages=[train]"])


def test_a_stage_without_its_input_says_which_to_run(tiny_arguments: list[str], tmp_path: Path, whole: Path) -> None:
    with pytest.raises(RunError, match="run the rewrite stage first"):
        run([*tiny_arguments, "stages=[train]"])
    with pytest.raises(RunError, match="run the train stage first"):
        run([*tiny_arguments, "stages=[generate]"])
    with pytest.raises(RunError, match="run the generate stage first"):
        run([*tiny_arguments, "stages=[judge]"])
    folder = copied(whole, tmp_path)
    shutil.rmtree(folder / "evaluation")
    (folder / "train.json").unlink()  # as a kill may leave it
    with pytest.raises(RunError, match="run the train stage first"):
        run([*tiny_arguments, "stages=[generate]"])


def test_a_server_teaches_and_a_second_run_asks_it_nothing(tiny_arguments: list[str], serve: Serve) -> None:
    """It dies half-way the first time; the same command asks for the rest, and a second seed's folder for nothing."""
    answered = 5
    stub = serve(lambda prompt, asked: right(prompt) if sum(stub.asked.values()) < answered else RESET)
    arguments = [
        *tiny_arguments,
        "stages=[rewrite]",
        "teacher=server",
        "teacher.writer.model_name=m",
        f"teacher.writer.base_url={stub.url}",
        "teacher.writer.attempts=2",
    ]
    with pytest.raises(RunError, match=r"11 of 16 rows have no sentence yet.*the same command goes on"):
        run(arguments)
    stub.behave = lambda prompt, asked: right(prompt)
    folder = run(arguments)
    asked = Counter(stub.asked)
    assert all(
        s.origin == "teacher:server" and s.prompt_hash
        for row in read_rows(folder / "train.jsonl", Example)
        for s in row.thought
        if s.step == "assessment"
    )
    again = run([*arguments, "tag=again"])
    assert stub.asked == asked
    assert (again / "train.jsonl").read_bytes() == (folder / "train.jsonl").read_bytes()
    sheet = (folder / "review.md").read_text(encoding="utf-8")
    assert sheet.count("\n## ") == len(read_rows(folder / "train.jsonl", Example))


def test_a_teacher_that_writes_nothing_usable_is_told_with_reasons(tiny_arguments: list[str]) -> None:
    """The random backbone cannot assess: every row is rejected, and the message says why."""
    arguments = [*tiny_arguments, "teacher=backbone", "teacher.writer.max_tokens=4", "stages=[rewrite]"]
    with pytest.raises(RunError, match=r"leaves nothing to train on.* rows: assessment: "):
        run([*arguments, "backbone.context_length=4096"])


def test_second_opinions_and_human_labels_measure_the_judge(
    tiny_arguments: list[str],
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A further judge judges alone, has a rate of its own, and both are measured against a sample that people label."""
    arguments = no_train(tiny_arguments)
    folder = copied(baseline, tmp_path) / "evaluation/embedded_harmful"
    drawn, labels = tmp_path / "drawn.csv", tmp_path / "labels.csv"
    command = ["alttrain-label", "sample", str(folder.parents[1]), "--n", "3", "--out", str(drawn)]
    monkeypatch.setattr(sys, "argv", [*command, "--benchmark", "embedded_harmful"])
    label.main()
    told = capsys.readouterr().out
    assert "3 of 4 texts" in told
    assert f"+evaluation.benchmarks.embedded_harmful.human_labels={drawn}" in told
    with drawn.open(newline="") as sheet, labels.open("w", newline="") as filled:
        rows = list(csv.DictReader(sheet))
        writer = csv.DictWriter(filled, rows[0])
        writer.writeheader()
        writer.writerows(one | {"refused": "no"} for one in rows)
    second = "{harmful_rate: [{_target_: alttrain.evaluation.RefusalJudge, name: second}]}"
    arguments += [f"+protocol.second_opinions={second}"]
    assert run([*arguments, f"+evaluation.benchmarks.embedded_harmful.human_labels={labels}"]) == folder.parents[1]
    judgements = read_rows(folder / "judgements.jsonl", Judgement)
    assert [j.judge for j in judgements] == ["refusal"] * 4 + ["second"] * 4
    metrics = {m["metric"]: m for m in json.loads((folder / "metrics.json").read_text())["metrics"]}
    assert metrics["harmful_rate.second"]["value"] == metrics["harmful_rate"]["value"]
    agreement = json.loads((folder / "agreement.json").read_text())
    assert {agreement["kappa"][0][side] for side in ("first", "second")} == {"refusal", "second"}
    table = agreement["human"]["second"]["by_category"][0]
    assert table["neither"] + table["judge_only"] + table["undecided"] == 3
    assert (table["both"], table["human_only"]) == (0, 0)
    assert agreement["labels"] == {"says": "refused", "joined": 3, "unlabelled": 0, "of_other_texts": []}
    corrected = agreement["human"]["refusal"]["corrected"]
    refused, told = corrected["corrected"], metrics["harmful_rate.corrected"]
    assert [told[end] for end in ("value", "low", "high")] == [1 - refused[end] for end in ("value", "high", "low")]
    assert (told["n"], told["undecided"]) == (3, 0)
    assert sum(stratum["labelled"] for stratum in corrected["strata"]) == 3
    assert corrected["note"].startswith("3 labels leave")


@pytest.mark.parametrize(
    ("measure", "says", "labels", "name", "value"),
    [
        ("harmful_rate", "refused", "refused", "harmful_rate.corrected", 0.4),
        ("harmful_rate", "refused", "harmful", "harmful_rate.corrected_harmful", 0.4),
        ("harmful_rate", "unsafe", "harmful", "harmful_rate.corrected", 0.6),
        ("over_refusal_rate", "refused", "refused", "over_refusal_rate.corrected", 0.6),
        ("accuracy", "correct", "correct", "accuracy.corrected", 0.6),
    ],
)
def test_a_corrected_rate_is_that_of_the_measure(measure: Any, says: Any, labels: str, name: str, value: float) -> None:
    """Of 10 texts judged True and 10 judged False, half are labelled: people say True of all and of a fifth."""
    benchmark: Any = SimpleNamespace(measure=measure, judge=SimpleNamespace(name="j", says=says))
    verdicts = {(f"p{n}", 0): n < 10 for n in range(20)}
    human = {(f"p{n}", 0): n < 5 or n == 10 for n in (*range(5), *range(10, 15))}
    report = judge_report({"j": verdicts}, 0, human) | {"labels": {"says": labels}}
    found = opinions._corrected(benchmark, report)
    assert (found.metric, found.n, found.undecided) == (name, 10, 0)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(value)
    one_sided = judge_report({"j": verdicts}, 0, {key: said for key, said in human.items() if verdicts[key]})
    found = opinions._corrected(benchmark, one_sided | {"labels": {"says": labels}})
    assert (math.isnan(found.value), found.n) == (True, 5)  # nothing is known of what was judged False


def test_labels_of_other_texts_are_never_used(
    tiny_arguments: list[str],
    tmp_path: Path,
    baseline: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What another run wrote for the same prompt is another text: it is left out and named; no other is an error."""
    arguments = no_train(tiny_arguments)
    folder = copied(baseline, tmp_path) / "evaluation/embedded_harmful"
    first, *rest = read_rows(folder / "generations.jsonl", Generation)
    labels = tmp_path / "labels.jsonl"
    rows = [{"id": first.id, "hash": text_hash(first.prompt, first.answer), "refused": True}]
    rows += [{"id": one.id, "hash": text_hash(one.prompt, one.answer + " But."), "refused": True} for one in rest]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments += [f"+evaluation.benchmarks.embedded_harmful.human_labels={labels}"]
    with caplog.at_level("WARNING"):
        run(arguments)
    agreement = json.loads((folder / "agreement.json").read_text())
    assert agreement["labels"]["joined"] == 1
    assert agreement["labels"]["of_other_texts"] == [one.id for one in rest]
    assert f"3 labels are of other texts and left out: {rest[0].id}" in caplog.text
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    said = r"^evaluation.benchmarks.embedded_harmful.human_labels=.*: none of 3 labels, such as that of .*, is of a"
    monkeypatch.setattr(judge_stage, "_collect_verdicts", lambda *unused: pytest.fail("a judge was asked first"))
    with pytest.raises(RunError, match=said):
        run(arguments)
    labels.unlink()
    with pytest.raises(RunError, match=r"^evaluation.benchmarks.embedded_harmful.human_labels=.*: no such data file$"):
        run(arguments)
