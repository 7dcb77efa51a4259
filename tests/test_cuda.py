"""Training and decoding on a CUDA GPU, against references on the CPU. `make test-cuda` runs these and the benchmarks.

No hub is needed, because weights are random. ALTTRAIN_TEST_DEVICE=cpu runs the same comparisons on a CPU, with a
smaller model; memory is measured only on a GPU.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import RECIPE, gradients, padded_reference
from tiny import LORA
from transformers import AutoModelForCausalLM, LlamaConfig

from alttrain import tokenization
from alttrain.backbone import Weights
from alttrain.backbone.memory import generation_bytes, shape_of, training_bytes, weight_bytes
from alttrain.backbone.weights import add_lora, load_model
from alttrain.generation import Decoding
from alttrain.generation.decoder import Decoder, draw
from alttrain.generation.engine import Prompt
from alttrain.training import Hardware
from alttrain.training.batches import pack
from alttrain.training.fit import fit
from alttrain.training.module import ROW_MULTIPLE, SFTModule, compile_for_training

DEVICE = os.environ.get("ALTTRAIN_TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.slow,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
on_gpu = pytest.mark.skipif(not ON_GPU, reason="measures the memory of a GPU")
needs_bitsandbytes = pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs bitsandbytes")

VOCABULARY = 32_000
SIZE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16}
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
HARDWARE = Hardware(accelerator="gpu" if ON_GPU else "cpu", precision="float32", compiled="off")


@pytest.fixture(scope="module", autouse=True)
def exact_float32() -> None:
    """Multiply float32 as float32: TF32 has bfloat16's precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Seeded random weights, in a folder."""
    torch.manual_seed(0)
    size = SIZE if ON_GPU else SMALL
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=size["num_attention_heads"] // 2, **size)
    path = tmp_path_factory.mktemp("random")
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return Weights(path, "local")


def rows(count: int, longest: int = 200) -> list[tokenization.Sequence]:
    """Random rows of many lengths."""
    draws = torch.Generator().manual_seed(2)

    def tokens(most: int) -> list[int]:
        length = int(torch.randint(2, most, (1,), generator=draws))
        return torch.randint(3, VOCABULARY, (length,), generator=draws).tolist()

    return [tokenization.Sequence(f"r{number}", tokens(60), tokens(longest)) for number in range(count)]


def adapted(
    weights: Weights, dtype: torch.dtype, device: str, kernel: Any = "packed", quantization: Any = "none"
) -> Any:
    """The model with an adapter that is not zero, in training mode."""
    model = add_lora(load_model(weights, dtype, device, kernel, quantization), LORA, 0).train()
    draws = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.02)
    return model


def step(model: Any, batch: list[tokenization.Sequence], multiple: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of one packed step, and its gradients, moved to the CPU."""
    loss = SFTModule(model, RECIPE, 1).loss(pack(batch, multiple).to(DEVICE))
    loss.backward()
    return loss.item(), {name: gradient.float().cpu() for name, gradient in gradients(model).items()}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of all gradients, as a share of the expected norm."""
    assert found.keys() == expected.keys()
    off = sum(float((found[name] - gradient).norm()) ** 2 for name, gradient in expected.items())
    return (off / sum(float(gradient.norm()) ** 2 for gradient in expected.values())) ** 0.5


@pytest.fixture(scope="module")
def reference(folder: Weights) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a padded batch in float32 on the CPU, by transformers."""
    model = adapted(folder, torch.float32, "cpu", "sdpa")
    loss = padded_reference(model, rows(8))
    loss.backward()
    return loss.item(), {name: gradient.float() for name, gradient in gradients(model).items()}


@pytest.mark.parametrize(("dtype", "loss_off", "gradient_off"), [("float32", 1e-4, 1e-3), ("bfloat16", 0.02, 0.05)])
def test_a_packed_step_equals_the_padded_reference_on_a_cpu(
    folder: Weights, reference: tuple[float, dict[str, torch.Tensor]], dtype: str, loss_off: float, gradient_off: float
) -> None:
    loss, found = step(adapted(folder, getattr(torch, dtype), DEVICE), rows(8))
    assert abs(loss - reference[0]) < loss_off
    assert distance(found, reference[1]) < gradient_off


def test_compiled_layers_give_the_same_step(folder: Weights, reference: tuple[float, dict[str, torch.Tensor]]) -> None:
    model = adapted(folder, torch.float32, DEVICE)
    compile_for_training(model)
    loss, found = step(model, rows(8), ROW_MULTIPLE)
    assert abs(loss - reference[0]) < 1e-4
    assert distance(found, reference[1]) < 1e-3


@needs_bitsandbytes
def test_qlora_equals_its_padded_reference_and_trains(folder: Weights, tmp_path: Path) -> None:
    model = adapted(folder, torch.bfloat16, DEVICE, quantization="nf4")
    loss, found = step(model, rows(8))
    model.zero_grad()
    model.get_base_model().set_attn_implementation("sdpa")
    with torch.device(DEVICE):
        padded = padded_reference(model, rows(8))
    padded.backward()
    assert abs(loss - padded.item()) < 0.02
    assert distance(found, {name: gradient.float().cpu() for name, gradient in gradients(model).items()}) < 0.05
    model = add_lora(load_model(folder, torch.bfloat16, DEVICE, "packed", "nf4"), LORA, 0)
    before = SFTModule(model, RECIPE, 1).loss(pack(rows(8)).to(DEVICE)).item()
    recipe = replace(RECIPE, optimizer="adamw_8bit", max_length=512)
    fit(model, rows(8), recipe, HARDWARE, 3, tmp_path, [], False)
    model.to(DEVICE)
    assert SFTModule(model, RECIPE, 1).loss(pack(rows(8)).to(DEVICE)).item() < before


def test_a_resumed_training_ends_as_an_uninterrupted_one(
    folder: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, max_length=512)

    def trained(name: str) -> dict[str, torch.Tensor]:
        model = add_lora(load_model(folder, torch.float32, DEVICE), LORA, 0)
        return fit(
            model, rows(10), recipe, replace(HARDWARE, checkpoint_every=2), 3, tmp_path / name, [], False
        ).weights

    whole, make_step = trained("whole"), SFTModule.training_step

    def killed(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 3:
            raise RuntimeError("killed")
        return make_step(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        trained("cut")
    monkeypatch.setattr(SFTModule, "training_step", make_step)
    assert distance(trained("cut"), whole) < (1e-3 if ON_GPU else 1e-12)  # a GPU adds in no fixed order


def test_the_decoder_writes_what_transformers_writes(folder: Weights) -> None:
    """64 greedy answers of 48 tokens in float32, in 16 slots that are filled again, against one prompt at a time."""
    prompts = [row.prompt + row.response[:40] for row in rows(64)]
    decoder = Decoder(load_model(folder, torch.float32, DEVICE), -1, 16, DEVICE)
    decoder.ends = set()
    ours = decoder.generate([Prompt(ids, "", "") for ids in prompts], Decoding(48))
    model = load_model(folder, torch.float32, DEVICE, "sdpa")
    options = {"max_new_tokens": 48, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    equal = 0
    for prompt, answer in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt], device=DEVICE)
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **options)  # type: ignore[operator]
        equal += theirs[0, len(prompt) :].tolist() == answer
    assert equal == len(prompts)


def test_sampling_draws_the_same_tokens_as_on_a_cpu() -> None:
    logits = torch.randn(256, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    numbers = torch.rand(256, generator=torch.Generator().manual_seed(1))
    for top_p, top_k in ((1.0, None), (0.95, None), (0.9, 50)):
        expected = draw(logits, top_p, numbers, top_k)
        found = draw(logits.to(DEVICE), top_p, numbers.to(DEVICE), top_k).cpu()
        assert (found == expected).float().mean() > 0.99  # a draw near a token's edge may go to its neighbour


@on_gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_training_takes_the_memory_that_was_estimated(folder: Weights, tmp_path: Path, recompute: bool) -> None:
    long = [tokenization.Sequence(f"l{n}", [5] * 40, [7] * (400 + 60 * n)) for n in range(16)]
    model = add_lora(load_model(folder, torch.bfloat16, DEVICE), LORA, 0)
    recipe = replace(RECIPE, epochs=1, batch_size=16, max_length=4096)
    torch.cuda.reset_peak_memory_stats()
    hardware = replace(HARDWARE, precision="bfloat16", recompute=recompute)
    fit(model, long, recipe, hardware, 0, tmp_path, [], True)
    shape = shape_of(model.get_base_model().config.to_dict())
    assert shape is not None
    parts = training_bytes(shape, 2, LORA.rank, LORA.target_modules, [len(row) for row in long], recompute=recompute)
    assert torch.cuda.max_memory_allocated() == pytest.approx(sum(parts.values()), rel=0.15)


@on_gpu
def test_generation_takes_the_memory_that_was_estimated(folder: Weights) -> None:
    model = load_model(folder, torch.bfloat16, DEVICE)
    prompts = [Prompt([5 + n] * 100, "", "") for n in range(512)]
    torch.cuda.reset_peak_memory_stats()
    decoder = Decoder(model, -1, 256, DEVICE)
    decoder.ends = set()
    decoder.generate(prompts, Decoding(400))
    shape = shape_of(model.config.to_dict())
    assert shape is not None
    parts = generation_bytes(shape, 2, 256, 100, 400, weight_bytes(shape, 2))
    assert torch.cuda.max_memory_allocated() == pytest.approx(sum(parts.values()), rel=0.15)


def test_a_whole_run(tiny_arguments: list[str], tmp_path: Path) -> None:
    """check, rewrite, train, generate, judge and report, in bfloat16."""
    kept = [each for each in tiny_arguments if not each.startswith(("trainer", "generation.dtype"))]
    kept += [f"trainer.accelerator={'gpu' if ON_GPU else 'cpu'}", "trainer.precision=bfloat16"]
    command = [sys.executable, "-m", "alttrain", *kept, "generation.dtype=bfloat16"]
    environment = {**os.environ, "ALTTRAIN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert json.loads((run / "train.json").read_text())["steps"] > 0
    assert (run / "evaluation" / "embedded_harmful" / "metrics.json").exists()
    assert json.loads((run / "train.json").read_text())["precision"] == "bfloat16"
