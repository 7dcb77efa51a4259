"""Runs that cannot succeed, as a user would type them, are refused before any weights load.

The message names the key or file, the value and what is accepted. No case here needs a network.
"""

import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from stub_server import Say, Serve, Stub
from tiny import LORA

from alttrain import hub
from alttrain.backbone import source
from alttrain.backbone.device import Device
from alttrain.config import RunError, register
from alttrain.generation import InProcessVllm, Server
from alttrain.run import app
from alttrain.run.assembly import assemble
from alttrain.run.execution import execute
from alttrain.run.session import _SHELF, Session
from alttrain.run.stages.check import check_light
from alttrain.training import Hardware

ROW = '{"prompt": "How do I bake bread?", "label": "benign", "response": "Mix flour and water."}\n'
FILES = {
    "rows.jsonl": ROW + ROW.replace("bread", "cake"),
    "answered.jsonl": ROW.replace("response", "answer"),
    "empty.jsonl": "",
    "questions.jsonl": ROW.replace("prompt", "Q"),
}
TINY = (
    "backbone.name=tiny backbone.context_length=512 output_dir=outputs trainer=cpu training=demo limit=4 "
    "protocol.decoding.max_new_tokens=12 rewrite.original.short.tokens=4 backbone.source="
)
"""Overrides of a run that would succeed, before the folder of the tiny backbone. Few, since Hydra composes slowly."""
NOWHERE = "http://127.0.0.1:9/v1"
LOCAL = "dataset=local dataset.path="
JUDGE = "judge@protocol.judges.harmful_rate=harm_score"
WRITER = "protocol.judges.harmful_rate.writer"


Alttrain = Callable[[str], tuple[int, str]]
"""Takes a command line, and returns the exit code and what was printed."""


@pytest.fixture(scope="module")
def offered() -> Iterator[Stub]:
    """A server that offers the model `mine` alone."""
    stub = Stub(lambda prompt, asked: Say("5"))
    stub.models = ["mine"]
    threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
    yield stub
    stub.shutdown()
    stub.server_close()


@pytest.fixture
def alttrain(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Alttrain]:
    """The console script in this process and an own working folder, where no weights may load."""
    overrides = f"{TINY}{tiny_folder}".split()
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(app.signal, "signal", lambda *unused: None)
    monkeypatch.setattr(app, "end_with_parent", lambda: None)
    for name in ("model", "_started", "_decoder"):
        monkeypatch.setattr(Session, name, lambda *unused, **named: pytest.fail("weights were to load"))
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = root.handlers

    def run(line: str) -> tuple[int, str]:
        own = line.split()
        keys = [one.partition("=")[0] for one in own if one[0] not in "-+~"]
        replaced = tuple(part for key in keys for part in (f"{key}=", f"{key}."))
        kept = [one for one in overrides if not one.startswith(replaced)]
        monkeypatch.setattr(sys, "argv", ["alttrain", *own, *kept])
        root.handlers = []
        with pytest.raises(SystemExit) as ended:
            app.main()
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return int(ended.value.code or 0), printed.out + printed.err

    with patch.dict(os.environ, {"ALTTRAIN_CACHE": str(tmp_path / "cache")}):
        for variable in ("OPENAI_API_KEY", "WANDB_API_KEY", "ALTTRAIN_TRUSTED"):
            os.environ.pop(variable, None)
        yield run
    root.handlers = handlers
    root.setLevel(level)
    GlobalHydra.instance().clear()


def refuses(alttrain: Alttrain, line: str, *words: str) -> str:
    code, said = alttrain(line)
    assert code in (1, 2), said
    assert [word for word in words if word not in said] == [], said
    assert not list(Path("outputs").glob("runs/*/train.jsonl")), "a stage began"
    return said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "trainer.samples_every=5 backbone.attention=flash_attention_2",
            ["trainer.samples_every=5 needs backbone.attention=packed, or null"],
        ),
        # servers
        (f"generation=server generation.base_url={NOWHERE}", ["generation.base_url=", "no server answers"]),
        (
            "generation=server generation.base_url={url} generation.key_variable=MINE",
            ["key_variable=MINE", "export it"],
        ),
        (
            "generation=server generation.base_url={url} training=none adapter=none",
            ["generation.model_name=", "offers mine"],
        ),
        (
            f"{JUDGE} {WRITER}.base_url={NOWHERE} {WRITER}.key_variable=null",
            [f"{WRITER}.base_url=", "no server answers"],
        ),
        (JUDGE, [f"{WRITER}.key_variable=OPENAI_API_KEY: the environment has no such variable", "export it"]),
        (
            f"{JUDGE} {WRITER}.base_url={{url}} {WRITER}.key_variable=null",
            [f"{WRITER}.model_name=gpt-4o", "offers mine"],
        ),
        ("teacher=gpt4o", ["teacher.writer.key_variable=OPENAI_API_KEY", "export it"]),
        (
            "teacher=server teacher.writer.base_url={url} teacher.writer.model_name=other",
            ["teacher.writer.model_name=other", "offers mine"],
        ),
        ("logger=[csv,wandb] logger.wandb.mode=online", ["logger.wandb.mode=online", "WANDB_API_KEY", "offline"]),
        # models
        ("backbone=qwen3_32b", ["backbone.source=Qwen/Qwen3-32B: not in the hub's cache", "connect, or set it"]),
        ("judge@protocol.judges.harmful_rate=llama_guard_3", ["protocol.judges.harmful_rate.model=", "hub's cache"]),
        ("backbone.source=./pickled", ["backbone.source=./pickled", "safetensors"]),
        ("backbone.source=./nowhere", ["backbone.source=./nowhere: no such folder", "give a model folder"]),
        (
            "backbone.source=./truncated training=none adapter=none",
            ["truncated/model.safetensors: no safetensors file", "fetch the backbone again"],
        ),
        ("backbone.source=./badtokens", ["badtokens: its tokenizer cannot be loaded (", "fetch the model again"]),
        ("backbone.source=./unknown", ["its model_type is 't5', which is no causal language model", "choose"]),
        ("--config-dir=nowhere", ["--config-dir=nowhere: no such folder"]),
        ("backbone/template=r1", ["backbone.template.end='<｜end▁of▁sentence｜>' is not one token", "of its family"]),
        ("backbone.source=./tokenless", ["backbone.source=./tokenless: the folder lacks the tokenizer's files"]),
        ("adapter.target_modules=[query_proj]", ["adapter.target_modules=['query_proj']", "it has down_proj, gate_p"]),
        # what is installed, and devices
        ("generation=vllm_in_process", ["generation=vllm_in_process needs vLLM", "choose generation=in_process"]),
        ("generation=vllm", ["generation.command: 'vllm' cannot be started", "install it"]),
        ("backbone.quantization=nf4", ["backbone.quantization=nf4", "alttrain[quantization]", "=none"]),
        ("training.optimizer=adamw_8bit", ["training.optimizer=adamw_8bit", "alttrain[quantization]", "=adamw"]),
        ("backbone.attention=flash_attention_2", ["backbone.attention=flash_attention_2", "=packed"]),
        ("trainer.accelerator=gpu", ["trainer.accelerator=gpu", "there is no GPU", "trainer=auto or cpu"]),
        # parts that do not go together
        ("generation=transformers_serve", ["generation.with_adapter=[]", "generation=in_process"]),
        ("+protocol.quantization=nf4 generation=vllm_in_process", ["protocol.quantization=nf4", "=in_process"]),
        ("adapter=none", ["adapter=none", "choose adapter=lora, or training=none"]),
        (
            "training/objective=safekey training.epochs=3 backbone.attention=flash_attention_2",
            ["backbone.attention=flash_attention_2 with training/objective=safekey", "set backbone.attention=packed"],
        ),
        (
            "backbone/template=s1 generation=server generation.base_url={url} generation.model_name=mine training=none",
            [
                "the delimiter '<|im_start|>' between thought and answer",
                "skip_special_tokens: false in extra",
            ],
        ),
        (
            "judge@protocol.judges.harmful_rate=short_answer",
            ["measure harmful_rate needs a judge that says", "'unsafe'"],
        ),
        (
            "+protocol.second_opinions={harmful_rate:[{_target_:alttrain.evaluation.RefusalJudge}]}",
            [
                "protocol.second_opinions.harmful_rate.0.name=refusal: protocol.judges.harmful_rate has the same name",
                "give each",
            ],
        ),
        (
            "+protocol.second_opinions={harmful_rate:[{_target_:alttrain.evaluation.RefusalJudge,name:corrected_2}]}",
            ["harmful_rate.0.name=corrected_2: rates corrected by labels are called so; give another name"],
        ),
        (
            "intervention=prefill_thought intervention.prefill_thought.source=nobody",
            ["intervention.prefill_thought.source=nobody: outputs/runs has no such run; give one that has generated"],
        ),
        (
            "-m intervention=prefill_thought intervention.prefill_thought.source=nobody seed=0,1",
            ["intervention.prefill_thought.source=nobody: outputs/runs has no such run; give", "in 2 of 2 jobs"],
        ),
        (
            "+evaluation.benchmarks.embedded_harmful.human_labels=nowhere.csv",
            ["evaluation.benchmarks.embedded_harmful.human_labels=nowhere.csv: nowhere.csv: no such data file"],
        ),
        ("protocol.decoding.samples=4", ["samples", "temperature"]),
        # data
        (f"{LOCAL}empty.jsonl", ["empty.jsonl: the file holds no rows"]),
        (f"{LOCAL}questions.jsonl dataset.columns.prompt=Frage", ["'Frage'", "columns: Q, label"]),
        (
            f"{LOCAL}rows.jsonl +dataset.where.label=harmful",
            ["rows.jsonl: no row passes the filter {'label': 'harmful'}"],
        ),
        (
            "dataset.amounts.harmful=0 dataset.amounts.borderline=0 dataset.amounts.benign=0",
            ["dataset=embedded: it selects no rows to train on", "dataset.amounts"],
        ),
        (f"{LOCAL}rows.jsonl rewrite=direct_refusal", ["2 of 2 benign rows", "rewrite.may_lose"]),
        ("evaluation=safety", ["set data_dir to a folder that holds strongreject"]),
        (
            "evaluation.benchmarks.embedded_short_answer.rows.file=evaluation_harmful",
            ["judge short_answer compares with a gold answer, and none of 4 rows has one", "rows.columns.gold"],
        ),
        # lengths
        (f"{LOCAL}answered.jsonl rewrite=none training.max_length=3", ["training.max_length=3", "raise it"]),
        ("backbone.context_length=20", ["backbone.context_length=20", "the prompt has", "tokens"]),
        # folders
        ("stages=[generate,judge]", ["holds nothing trained", "stages=[rewrite,train,generate]"]),
        ("stages=[train]", ["train.jsonl is not there", "stages=[rewrite,train]"]),
        ("tag=other", ["was made with other settings", "adapter.rank", "use tag=NAME"]),
        ("output_dir=rows.jsonl/x", ["output_dir=rows.jsonl/x", "is not a folder"]),
        # what a stranger's config might do
        ("rewrite._target_=os.system", ["rewrite", "os.system", "trusted=[os]"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_doomed_run_is_refused(
    alttrain: Alttrain,
    offered: Stub,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    words: Sequence[str],
) -> None:
    shutil.copytree(tiny_folder, "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    Path("pickled/pytorch_model.bin").write_bytes(b"x")
    shutil.copytree(tiny_folder, "tokenless", ignore=shutil.ignore_patterns("tokenizer*"))
    for name, file in {
        "truncated": "model.safetensors",
        "badtokens": "tokenizer.json",
        "unknown": "config.json",
    }.items():
        path = Path(shutil.copytree(tiny_folder, name)) / file
        path.write_bytes({"badtokens": b"{}", "unknown": b'{"model_type": "t5"}'}.get(name) or path.read_bytes()[:999])
    other = Path("outputs/runs/tiny-embedded-alttrain-demo-s0-other")
    other.mkdir(parents=True)
    (other / "fingerprint.json").write_text(json.dumps({"adapter.rank": 99}))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    refuses(alttrain, line.replace("{url}", offered.url), *words)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, ["gated on the hub: accept its licence", "hf auth login"]),
        (RepositoryNotFoundError, ["the hub does not give it", "check the id and the revision"]),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_told_once_a_sweep(
    alttrain: Alttrain, monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: Sequence[str]
) -> None:
    asked: list[str] = []

    def head(url: str, **unused: Any) -> None:
        asked.append(url)
        raise error("no", response=httpx.Response(404, request=httpx.Request("HEAD", url)))  # type: ignore[call-arg]

    monkeypatch.setattr(hub, "check_reachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", head)
    source._hub_fault.cache_clear()
    line = f"-m backbone=qwen3_8b backbone.source=lab/far tag=a,b {LOCAL}rows.jsonl seed=0,1"
    said = refuses(alttrain, line, "this sweep cannot run", "backbone.source=lab/far: ", *words)
    assert said.count("lab/far: ") == 1
    assert "in 4 of 4 jobs" in said
    assert len(asked) == 1


def test_each_fault_of_a_sweep_is_told_once_with_all_jobs_that_have_it(alttrain: Alttrain, serve: Serve) -> None:
    """One server for two models; half of the jobs have a further fault."""
    stub = serve(lambda prompt, asked: Say("5"))
    stub.models = ["mine"]
    line = f"-m generation=server generation.base_url={stub.url} generation.model_name=a,b tag=s,t training=none "
    line += "adapter=none backbone.attention=packed,flash_attention_2"
    told = [line.strip() for line in refuses(alttrain, line, "this sweep cannot run").splitlines()]
    for model in "ab":
        fault = f"generation.model_name={model}: the server at {stub.url} does not offer it; it offers mine"
        assert told.count(fault) == 1
        assert told[told.index(fault) + 1].startswith("in 4 of 8 jobs: ")
    (place,) = (number for number, line in enumerate(told) if line.startswith("backbone.attention="))
    assert told[place + 1].startswith("in 4 of 8 jobs: ")
    assert stub.gets == ["/v1/models"]


def test_a_plan_asks_a_server_once_and_the_next_plan_again(alttrain: Alttrain, serve: Serve) -> None:
    """Also one that gives no list, since the key is wrong."""
    stub = serve(lambda prompt, asked: Say("5"))
    for status, fault in ((401, "the server refuses the key in it (HTTP 401)"), (200, "it offers mine")):
        stub.models, stub.gets, stub.list_status = ["mine"], [], status
        line = f"-m generation=server generation.base_url={stub.url} generation.model_name=other training=none "
        said = refuses(alttrain, f"{line} adapter=none seed=0,1 tag=s,t", fault)
        assert "in 4 of 4 jobs: " in said
        assert stub.gets == ["/v1/models"]


def test_a_trained_adapter_must_be_served_and_its_backbone_need_not(offered: Stub) -> None:
    server = Server(offered.url, "other", adapter_name="mine")
    own = replace(server, adapter_name="my-{run}")
    server.check_served("r", LORA, trained=True)
    own.check_served("r", LORA, trained=False)
    replace(own, loads_adapters=True).check_served("r", LORA, trained=True)
    with pytest.raises(ValueError, match=r"generation\.model_name=other: .* does not offer it; it offers mine"):
        server.check_served("r", None, trained=False)
    with pytest.raises(ValueError, match=r"generation\.adapter_name=my-r: .* does not offer it; it offers mine"):
        own.check_served("r", LORA, trained=True)
    with pytest.raises(ValueError, match=r"generation\.max_lora_rank=2: at least 4 for adapter\.rank=4"):
        InProcessVllm(max_lora_rank=2).check_served("r", LORA, trained=False)


def test_what_does_not_fit_on_the_disk_is_refused(alttrain: Alttrain, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter of 16 ranks on the tiny backbone takes 59 kB, and its checkpoint three times as much."""
    free = SimpleNamespace(free=100_000)
    monkeypatch.setattr("alttrain.run.stages.needs.shutil.disk_usage", lambda folder: free)
    words = ("output_dir=", "what is trained takes about", "with a checkpoint", "are free there; make room")
    refuses(alttrain, "adapter.rank=16", *words)
    free.free = 300_000  # one run fits, and three do not
    refuses(alttrain, "-m adapter.rank=16 seed=0,1,2", *words)


def test_a_judges_model_that_does_not_fit_is_refused(
    alttrain: Alttrain, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine: a launcher may run the jobs on others. A model on the shelf makes way."""
    monkeypatch.setattr(
        "alttrain.run.stages.needs.detect_device", lambda *unused: Device("cpu", 60_000 if _SHELF else 80_000)
    )
    judge = f"protocol.judges.harmful_rate.model={tiny_folder} protocol.judges.harmful_rate.dtype="
    line = f"stages=[judge] training=none adapter=none judge@protocol.judges.harmful_rate=llama_guard_3 {judge}"
    fault = f"protocol.judges.harmful_rate.model={tiny_folder}: its weights take 0.00 GiB, and cpu has 0.00 free; "
    refuses(alttrain, f"{line}float32", fault)
    monkeypatch.setitem(_SHELF, ("judge",), None)
    assert fault not in refuses(alttrain, f"{line}bfloat16", "generations")
    assert not _SHELF
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", f"{TINY}{tiny_folder} {line}float32".split())
    check_light(assemble(config), here=False)
    with pytest.raises(RunError) as failed:  # as a job of a sweep, beside others that hold memory
        execute(config)
    assert fault not in str(failed.value)


def test_more_devices_than_there_are_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alttrain.training.gpu_count", lambda: 1)
    with pytest.raises(ValueError, match=r"trainer\.devices=4: this machine has 1 GPU$"):
        Hardware(devices=4).check_gpus()
    Hardware(devices=4, accelerator="cpu").check_gpus()
    Hardware().check_gpus()


def test_sample_answers_need_whole_weights() -> None:
    fault = r"trainer\.samples_every=5: no device has all weights with trainer\.strategy=fsdp"
    with pytest.raises(ValueError, match=fault):
        Hardware(samples_every=5, devices=2, strategy="fsdp").check()
    Hardware(samples_every=5, devices=2).check()
    Hardware(samples_every=5, strategy="fsdp").check()
