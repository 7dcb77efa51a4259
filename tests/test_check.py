"""The check stage: rendering proved on every row, memory estimated and refused with a remedy, all without weights."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from tiny import LORA, backbone

from alttrain.backbone import FullFineTuning, NoAdapter, Shape
from alttrain.backbone.device import Device
from alttrain.backbone.memory import training_bytes, weight_bytes
from alttrain.config import RunError, register
from alttrain.evaluation import Protocol
from alttrain.generation import Decoding, InProcess, Server
from alttrain.records import Example, Generation, Rejected, Segment, write_rows
from alttrain.rewrite import SelfTrace, TemplateTeacher, ThinkSafe
from alttrain.rewrite.structures import Structure
from alttrain.run.assembly import Run, assemble
from alttrain.run.execution import execute
from alttrain.run.stages import check as check_stage
from alttrain.run.stages import needs
from alttrain.run.stages.check import check as stage
from alttrain.training import Hardware, SafeKeyLoss, SupervisedFineTuning

check_module = sys.modules["alttrain.run.stages.check"]
CONF = Path(__file__).parents[1] / "conf"
BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml") if path.stem != "hub")
TRACED = Example("a", "Hi?", "harmful", thought=(Segment("reasoning", "T.", "trace"),), answer="No.", source="s")
RECIPE = SupervisedFineTuning("sft", 1, 1e-4, batch_size=4, warmup_steps=0, max_length=200)
GIB = 1 << 30
SECONDS = 4
"""CPU seconds of a first check: it takes under two, and this machine may be busy. Further ones take less than one."""


class AsIs(Structure):
    """A structure that trains rows as they are, with the teacher's assessment in front."""

    continues = ("benign",)

    def __init__(self, teacher: Any = None) -> None:
        self.teacher = teacher

    def rewrite(self, example: Example, seed: int, assessment: Segment | None) -> Example:
        return example if assessment is None else replace(example, thought=(assessment, *example.thought))


class FakeRun(SimpleNamespace):
    """A run of parts that a test gives."""

    needs_training, is_rewritten = Run.needs_training, Run.is_rewritten


def a_run(folder: Path, tiny: Path, rows: Sequence[Example], stages: Sequence[str] = ("check",), **parts: Any) -> Any:
    source, gone = SimpleNamespace(examples=lambda seed: list(rows)), Rejected("gone", "no prompt")
    defaults = {
        "folder": folder,
        "seed": 0,
        "stages": stages,
        "backbone": backbone(tiny),
        "rows": list(rows),
        "structure": AsIs(),
        "method": SimpleNamespace(system_prompt=None, evaluation_prompt=None),
        "adapter": LORA,
        "training": RECIPE,
        "hardware": Hardware(accelerator="cpu", precision="float32"),
        "generation": InProcess(slots=4, dtype="float32"),
        "protocol": Protocol("p", Decoding(max_new_tokens=8), judges={}),
        "benchmarks": (
            SimpleNamespace(
                name="b",
                base_name="b",
                kind="harm",
                intervention=None,
                rows=source,
                examples=list(rows),
                message=lambda row: row.prompt,
                rejected=lambda: [gone],
            ),
        ),
    }
    made = FakeRun(**defaults | parts)
    made.intervened_benchmarks, made.all_benchmarks = (), made.benchmarks
    return made


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))


def free(monkeypatch: pytest.MonkeyPatch, gib: float, name: str = "cpu") -> None:
    monkeypatch.setattr(needs, "detect_device", lambda accelerator, planned: Device(name, int(gib * GIB)))


def test_rows_are_proved_and_long_ones_named(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    long = replace(TRACED, id="long", answer="x" * 200)
    stage(a_run(tmp_path, tiny_folder, [TRACED, long]), SimpleNamespace())
    assert "b: 1 rows left out (gone: no prompt)" in caplog.text
    assert "rendering proved on 1 rows" in caplog.text
    assert "1 rows are longer than training.max_length=200: long" in caplog.text
    assert "generate needs about 0.00 GiB" in caplog.text


def test_broken_rows_are_named_and_counted(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [replace(TRACED, id=f"r{i}", answer="a</think>b" if i else "fine") for i in range(8)]
    with pytest.raises(RunError) as refused:
        stage(a_run(tmp_path, tiny_folder, rows), SimpleNamespace())
    head, *named, more, _ = str(refused.value).splitlines()
    assert head.startswith("7 of 8 rows would not be trained as they are prompted")
    assert named == [f"  row r{i}: the thought is not closed exactly once" for i in range(1, 6)]
    assert more == "  and 2 more"


def test_safekeys_objective_wants_key_sentences(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = replace(RECIPE, objective=SafeKeyLoss(0.2, 0.2, 0.5, last_epochs=1))
    thought = (Segment("reasoning", "The user asks. That hurts."),)
    marked = replace(TRACED, id="marked", thought=thought, key_sentence="That hurts.")
    stage(a_run(tmp_path, tiny_folder, [TRACED, marked], training=recipe), SimpleNamespace())
    assert "a key sentence in 1 of 2 rows" in caplog.text
    with pytest.raises(RunError, match=r"objective=safekey: no row has a key sentence; choose dataset=safekey"):
        stage(a_run(tmp_path, tiny_folder, [TRACED], training=recipe), SimpleNamespace())


def test_train_jsonl_is_what_is_proved(tiny_folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [replace(TRACED, id="written", answer="</think>")])
    rows = [TRACED, replace(TRACED, id="b")]
    with pytest.raises(RunError, match="1 of 1 rows"):
        stage(a_run(tmp_path, tiny_folder, rows), SimpleNamespace())
    stage(a_run(tmp_path, tiny_folder, rows, ["check", "rewrite"]), SimpleNamespace())  # rewrite.json is to be made
    (tmp_path / "rewrite.json").write_text("{}")
    with pytest.raises(RunError, match="1 of 1 rows"):
        stage(a_run(tmp_path, tiny_folder, rows, ["check", "rewrite"]), SimpleNamespace())


def test_rows_are_rewritten_where_it_takes_no_model(tiny_folder: Path, tmp_path: Path) -> None:
    untraced = replace(TRACED, id="b", label="benign", thought=(), answer="")
    known = replace(TRACED, category="privacy")
    made = check_module.examples_without_model(
        a_run(tmp_path, tiny_folder, [known], structure=AsIs(TemplateTeacher())), [known]
    )
    assert [segment.step for segment in made[0].thought] == ["assessment", "reasoning"]
    run = a_run(tmp_path, tiny_folder, [TRACED])
    assert check_module.examples_without_model(run, [TRACED, untraced]) is None
    asks = a_run(tmp_path, tiny_folder, [TRACED], structure=AsIs(teacher=SimpleNamespace(offline=False)))
    assert check_module.examples_without_model(asks, [TRACED]) is None


def test_a_prompt_without_room_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [replace(TRACED, id="p", prompt="x" * 480)]
    with pytest.raises(RunError, match=r"benchmark b, row p \(s\): the prompt has 5\d\d tokens, and with 8 more"):
        stage(a_run(tmp_path, tiny_folder, rows), SimpleNamespace())


def test_an_original_is_asked_for_in_its_form_which_takes_room(tiny_folder: Path, tmp_path: Path) -> None:
    """The prompt alone would fit, and with the words around it does not."""
    row = Example("p", "x" * 395, "harmful", source="s")
    form, config = "Decline this request, please: {prompt}", {"rewrite": {"original": {}}}
    structure = ThinkSafe("t", SelfTrace(80, harmful_form=form), SimpleNamespace(says="unsafe"))
    run = a_run(tmp_path, tiny_folder, [row], benchmarks=(), structure=structure, config=config)
    with pytest.raises(RunError, match=r"dataset, row p \(s\): .* with 80 more \(rewrite\.original\.tokens\)"):
        stage(run, SimpleNamespace())


def test_layers_that_a_packed_row_would_confuse_are_refused_without_weights(tiny_folder: Path, tmp_path: Path) -> None:
    import transformers

    def described(kind: str, **fields: Any) -> Path:
        """A folder with the tiny tokenizer and another architecture's config, without weights."""
        folder = shutil.copytree(tiny_folder, tmp_path / kind, ignore=shutil.ignore_patterns("*.safetensors"))
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
        getattr(transformers, kind)(vocab_size=300, pad_token_id=0, **sizes, **fields).save_pretrained(folder)
        return folder

    def checked(folder: Path, **parts: Any) -> None:
        stage(a_run(tmp_path, folder, [TRACED], **parts), SimpleNamespace())

    hybrid = described("Qwen3_5TextConfig", layer_types=["linear_attention", "full_attention"])
    sinks = described("GptOssConfig", num_local_experts=2)
    unknown = shutil.copytree(hybrid, tmp_path / "unknown")
    (unknown / "config.json").write_text('{"model_type": "unheard_of"}')
    eager = replace(backbone(sinks), attention="eager")
    served, alone = {"generation": Server("http://localhost/v1", "m")}, {"benchmarks": ()}
    for folder, parts, fault in (
        (hybrid, {}, r"not all layers of this model \(qwen3_5_text\)"),
        (
            hybrid,
            served | {"backbone": replace(backbone(hybrid), attention="eager")},
            "not all layers of",
        ),
        (sinks, alone, "its attention takes s_aux, .* set backbone.attention=eager for training"),
        (sinks, {"backbone": eager}, "its attention takes s_aux"),  # to generate
        (unknown, {}, "its model_type is 'unheard_of', which is no causal"),
    ):
        with pytest.raises(RunError, match=f"^backbone.source={re.escape(str(folder))}: {fault}"):
            checked(folder, **parts)
    checked(sinks, **alone, backbone=eager)
    checked(sinks, **served, backbone=eager)
    (tmp_path / "train.json").write_text("{}")
    checked(sinks, **served)  # once it is trained, the kernel of its training does not matter


@pytest.mark.parametrize(("method", "refused"), [("fp8", True), ("bitsandbytes", True), ("mxfp4", False)])
def test_weights_that_come_quantised_are_not_trained(
    method: str, refused: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    """An update would be added to the codes of FP8 weights, whatever their scales. MXFP4 is of experts alone."""
    folder = shutil.copytree(tiny_folder, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(config))
    fault = rf"^backbone.source={re.escape(str(folder))}: its weights are quantised \({method}\), so that .* bfloat16"
    with pytest.raises(RunError, match=fault) if refused else nullcontext():
        stage(a_run(tmp_path, folder, [TRACED]), SimpleNamespace())
    (tmp_path / "train.json").write_text("{}")  # nothing is left to train
    stage(a_run(tmp_path, folder, [TRACED]), SimpleNamespace())


def test_weights_that_come_quantised_take_what_is_stored(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the width of an unquantised model a run or a judge would be refused that fits."""
    folder = tmp_path / "fp8"
    folder.mkdir()
    sizes = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
    sizes |= {"intermediate_size": 14336, "vocab_size": 128256}
    (folder / "config.json").write_text(json.dumps(sizes | {"quantization_config": {"quant_method": "fp8"}}))
    run = a_run(tmp_path, folder, [TRACED], ["generate"], adapter=NoAdapter())
    free(monkeypatch, 7, "GPU")
    (need,) = needs.needs_of(run, [TRACED], Device("GPU", 0))
    assert need.parts["weights"] == weight_bytes(LARGE, 2, "nf4")  # before it is downloaded
    assert needs.too_large(run, run.backbone, "bfloat16") == ""
    for name, gib in (("model-1.safetensors", 5), ("model-2.safetensors", 4), ("consolidated.safetensors", 9)):
        with (folder / name).open("wb") as file:
            file.truncate(gib * GIB)
    (need,) = needs.needs_of(run, [TRACED], Device("GPU", 0))
    assert need.parts["weights"] == 9 * GIB
    assert all("quantization" not in override for override, _ in need.remedies())
    assert needs.too_large(run, run.backbone, "bfloat16").startswith("its weights take 9.0 GiB, and GPU has 7.0 free")


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("dynamic", 2048),
        ("longrope", 512),
        ("yarn", None),
    ],
)
def test_a_context_in_which_a_sequence_changes_its_neighbours_is_refused(
    kind: str, limit: int | None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alttrain.backbone.support import shared_context

    folder = shutil.copytree(tiny_folder, tmp_path / "scaled")
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 512}
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    rope |= {"short_factor": [1.0] * half, "long_factor": [2.0] * half} if kind == "longrope" else {}
    config |= {"rope_parameters": rope, "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    assert shared_context(folder) == limit
    long = replace(backbone(folder), context_length=4096)
    shorter = RECIPE if limit is None else replace(RECIPE, max_length=limit)
    decodes = a_run(tmp_path, folder, [TRACED], backbone=long, training=shorter)
    served = Server("http://localhost/v1", "m")
    trains = a_run(tmp_path, folder, [TRACED], training=replace(RECIPE, max_length=4096), generation=served)
    for key, own, run in (("backbone.context_length", "generate", decodes), ("training.max_length", "train", trains)):
        for stages, checks in ((["check"], stage), ([own], check_module.check_prompts)):  # also without the stage
            run.stages = stages
            fault = rf"^{key}=4096: accepted: at most {limit}; a longer"
            with pytest.raises(RunError, match=fault) if limit else nullcontext():
                checks(run, SimpleNamespace())
    stage(a_run(tmp_path, folder, [TRACED], backbone=long, training=shorter, generation=served), SimpleNamespace())
    rewrites = a_run(tmp_path, folder, [TRACED], backbone=long, training=shorter, benchmarks=())
    stage(rewrites, SimpleNamespace())
    for part, name, value in (
        (check_stage.needs, "lacks_originals", lambda run, rows: True),  # the backbone writes them
        (AsIs, "understander", SimpleNamespace(asks_backbone=True)),
    ):
        with monkeypatch.context() as patch, pytest.raises(RunError) if limit else nullcontext() as refused:
            patch.setattr(part, name, value)
            stage(rewrites, SimpleNamespace())
        fault = f"backbone.context_length=4096: accepted: at most {limit};"
        assert refused is None or str(refused.value).startswith(fault)


def test_tokenizer_without_weights_is_enough(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_folder / name, bare / name)
    stage(a_run(tmp_path, bare, [TRACED]), SimpleNamespace())
    assert "rendering proved on 1 rows" in caplog.text
    assert "no memory estimate" in caplog.text


def test_without_a_tokenizer_it_says_what_is_left_open(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    far = replace(backbone(tiny_folder), source="nobody/nothing-there")
    stage(a_run(tmp_path, tiny_folder, [TRACED], backbone=far), SimpleNamespace())
    assert (
        "will be proved once the tokenizer is there: nobody/nothing-there is not at hand (HF_HUB_OFFLINE" in caplog.text
    )


@pytest.mark.parametrize(
    ("template", "told"),
    [("{{ messages[0]['content'] }}", "Why?"), ("{{ raise_exception('no system') }}", "TemplateError: no system")],
)
def test_a_template_unlike_the_tokenizers_own_is_told(
    template: str, told: str, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "own")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    reasoning = replace(backbone(folder), untrained_thought="open")
    stage(a_run(tmp_path, folder, [TRACED], backbone=reasoning), SimpleNamespace())
    assert f"but the tokenizer's own template '{told}'" in caplog.text


LARGE = Shape(32, 4096, 32, 8, 128, 14336, 128256, tied=False)


def large(tiny_folder: Path, **fields: Any) -> Any:
    return replace(backbone(tiny_folder), source="nobody/nothing-there", shape=LARGE, **fields)


@pytest.mark.parametrize(
    ("stages", "device", "gib", "remedy"),
    [
        (["generate"], "cpu", 31, "set protocol.decoding.max_new_tokens=625"),
        (["generate"], "cpu", 20, "choose a smaller backbone"),
        (["train", "generate"], "GPU", 20, "set backbone.quantization=nf4"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_remedy(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: list[str],
    device: str,
    gib: float,
    remedy: str,
) -> None:
    free(monkeypatch, gib, device)
    protocol = Protocol("p", Decoding(max_new_tokens=5000), judges={})
    run = a_run(tmp_path, tiny_folder, [TRACED], ["check", *stages], backbone=large(tiny_folder), protocol=protocol)
    with pytest.raises(RunError) as refused:
        stage(run, SimpleNamespace())
    lines = str(refused.value).splitlines()
    assert [line.split()[0] for line in lines] == stages
    assert all(f"and {device} has {gib:.1f} free" in line and "weights 29.9" in line for line in lines)
    assert remedy in lines[-1]


def test_slots_are_what_there_is_room_for(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """64 slots would take 39 GiB of keys and values; four fifths of what is free are taken, and none is refused."""
    caplog.set_level(logging.INFO)
    protocol = Protocol("p", Decoding(max_new_tokens=5000), judges={})
    run = a_run(tmp_path, tiny_folder, [TRACED], ["check", "generate"], backbone=large(tiny_folder), protocol=protocol)
    run.generation = InProcess(slots=64, dtype="bfloat16")
    free(monkeypatch, 25)
    *_, line = needs.refuse_too_large(run, [TRACED], ["generate"], needs.Sizes(10))
    found = re.search(r"about (\S+) GiB \(weights (\S+), cache (\S+), activations (\S+), logits (\S+)\)", line)
    assert found, line
    total, weights, cache, activations, logits = map(float, found.groups())
    assert cache == pytest.approx(0.8 * (25 - weights - activations - logits), abs=0.1)
    assert total < 25


def test_rows_that_are_too_long_ask_for_smaller_passes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = needs.Sizes(10, 10, rows=(1000, 900, 800, 700), counted=True)
    run = a_run(tmp_path, tiny_folder, [TRACED], ["train"], backbone=large(tiny_folder))
    shape_bytes = training_bytes(LARGE, 4, LORA.rank, LORA.target_modules, [1900])
    free(monkeypatch, sum(shape_bytes.values()) / GIB + 0.01)
    with pytest.raises(RunError, match=r"train needs .* set trainer\.recompute=true"):
        needs.refuse_too_large(run, [TRACED], run.stages, sizes)
    run.hardware = replace(run.hardware, recompute=True)
    recomputed = training_bytes(LARGE, 4, LORA.rank, LORA.target_modules, [1800], recompute=True)
    assert sum(recomputed.values()) < sum(shape_bytes.values())
    free(monkeypatch, sum(recomputed.values()) / GIB + 0.01)
    with pytest.raises(RunError, match=r"train needs .* set trainer\.recompute=true trainer\.examples_per_pass=1"):
        needs.refuse_too_large(run, [TRACED], run.stages, sizes)


def test_a_step_is_divided_among_devices_and_passes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest rows are dealt out; a whole model in float32 is offered shards where one GPU is too small."""
    sizes = needs.Sizes(10, 10, rows=(700, 800, 900, 1000), counted=True)
    run = a_run(tmp_path, tiny_folder, [TRACED], ["train"], backbone=large(tiny_folder))
    need = lambda: needs.needs_of(run, [TRACED], Device("GPU", 0), sizes)[0]  # noqa: E731
    for hardware, rows in (
        ({"devices": 2}, [1000, 800]),
        ({"devices": 2, "examples_per_pass": 1}, [1000]),
        ({"examples_per_pass": 3}, [1000, 800]),
    ):
        run.hardware = replace(Hardware(accelerator="cpu", precision="bfloat16"), **hardware)
        assert need().parts == training_bytes(LARGE, 2, LORA.rank, LORA.target_modules, rows)
    run.hardware = Hardware(precision="bfloat16")
    for adapter, optimizer, kept in (
        (FullFineTuning("float32"), "adamw", 4),
        (FullFineTuning("bfloat16"), "adamw_8bit", 2),
    ):
        run.adapter, run.training = adapter, replace(RECIPE, optimizer=optimizer)
        rows = [1000, 900, 800, 700]
        whole = training_bytes(LARGE, 2, 0, (), rows, optimizer=optimizer, kept=kept)  # type: ignore[arg-type]
        assert need().parts == whole
    run.adapter, run.training = FullFineTuning("float32"), RECIPE
    free(monkeypatch, 60, "GPU")
    remedy = r"set trainer\.devices=4 trainer\.strategy=fsdp trainer\.recompute=true"
    with pytest.raises(RunError, match=remedy):
        needs.refuse_too_large(run, [TRACED], run.stages, sizes)


@pytest.mark.parametrize("finished", [False, True])
def test_memory_is_refused_only_for_stages_to_come(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, finished: bool
) -> None:
    caplog.set_level(logging.INFO)
    free(monkeypatch, 1)
    if finished:
        (tmp_path / "train.json").write_text("{}")
    run = a_run(tmp_path, tiny_folder, [TRACED], ["check", "train"] if finished else ["check"], benchmarks=())
    run.backbone = large(tiny_folder)
    told = needs.refuse_too_large(run, [TRACED], run.stages, needs.Sizes(1, 1, (10,)))
    assert ["and cpu has 1.0 free" in line for line in told] == ([] if finished else [True])


def test_memory_is_not_asked_for_what_was_generated(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that were made on a larger machine can be judged on a small one."""
    free(monkeypatch, 1)
    (tmp_path / "train.json").write_text("{}")
    run = a_run(tmp_path, tiny_folder, [TRACED], ["generate"], backbone=large(tiny_folder))
    with pytest.raises(RunError, match="generate needs about"):
        needs.refuse_too_large(run, [TRACED], run.stages)
    made = Generation("a", "Hi?", "harmful", "", (), "No.", "", "No.", True, "stop", 0, 1)
    write_rows(tmp_path / "evaluation" / "b.p" / "generations.jsonl", [made])
    assert needs.refuse_too_large(run, [TRACED], run.stages) == []


@pytest.mark.slow
def test_every_backbone_passes_offline_without_torch(tmp_path: Path) -> None:
    """All in one process, so that the packages load once."""
    overrides = ["stages=[check]", f"data_dir={tmp_path}", f"output_dir={tmp_path / 'out'}"]
    code = (
        "import logging, sys\nfrom hydra import compose, initialize_config_module\n"
        "from alttrain.config import register\nfrom alttrain.run.execution import execute\n"
        "register()\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "for name in sys.argv[1].split(','):\n"
        "    print(f'>>> {name}', file=sys.stderr, flush=True)\n"
        "    with initialize_config_module('alttrain.conf', version_base='1.3'):\n"
        "        own = ['backbone.template.without_system=S'] if name.startswith(('magistral', 'phi')) else []\n"
        "        execute(compose('run', overrides=[f'backbone={name}', *own, *sys.argv[2:]]))\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "ALTTRAIN_CACHE": str(tmp_path)}
    before, command = os.times().children_user, [sys.executable, "-c", code, ",".join(BACKBONES), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    told = dict(part.split("\n", 1) for part in done.stderr.split(">>> ")[1:] if "\n" in part)
    unproved = "will be proved once the tokenizer is there"
    assert [name for name in BACKBONES if unproved not in told.get(name, "")] == []
    assert os.times().children_user - before < SECONDS + len(BACKBONES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stages", ["[rewrite]", "[rewrite,train]", "[generate]"])
def test_without_the_check_a_prompt_is_bounded_all_the_same(
    stages: str, tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.run.session.Session.model", lambda *unused: pytest.fail("weights were loaded"))
    path = tmp_path / "rows.jsonl"
    rows = [
        {"id": f"r{n}", "prompt": f"Say {n}" + "!" * (500_000 * (n == 3)), "label": "benign", "category": "everyday"}
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [one for one in tiny_arguments if not one.startswith(("dataset", "evaluation"))]
    arguments += [f"stages={stages}", "dataset=local", f"dataset.path={path}", "evaluation=none"]
    if "generate" in stages:
        arguments = [one for one in arguments if not one.startswith("training")]
        arguments += [
            "training=none",
            "adapter=none",
            "+benchmark@evaluation.benchmarks.embedded_benign=embedded_benign",
        ]
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=arguments)
        if "generate" in stages:
            rows_of = {"_target_": "alttrain.dataset.Rows", "name": "b", "path": str(path)}
            config.evaluation.benchmarks.embedded_benign.rows = rows_of
        with pytest.raises(RunError, match=r"row r3 .*: the prompt has 500\d\d\d tokens, .* backbone\.context_length"):
            execute(config)


def test_a_server_of_ones_own_needs_only_the_tokenizer_here(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    arguments = ["experiment=demo", "method=no_train", "backbone=qwen3_32b", f"output_dir={tmp_path}"]
    arguments += ["generation.model_name=x", "generation.base_url=http://127.0.0.1:9/v1"]
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        served = assemble(compose("run", [*arguments, "generation=server", "stages=[check]"]))
    monkeypatch.setattr(check_stage, "why_absent", lambda backbone: "it is far")
    monkeypatch.setattr(check_stage, "offline_tokenizer", lambda backbone: tiny_folder)
    assert not check_stage.all_ready([(served, 1)])  # no server answers there
    monkeypatch.setattr("alttrain.generation.server.Server.check_served", lambda *asked: None)
    assert check_stage.all_ready([(served, 1)])
    monkeypatch.setattr(check_stage, "offline_tokenizer", lambda backbone: None)
    assert not check_stage.all_ready([(served, 1)])
