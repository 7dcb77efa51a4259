"""Weights in 4 bits and 8-bit AdamW on a CPU: they train, resume and generate; what they lack is told first."""

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import RECIPE, padded_reference, sequences
from tiny import LORA
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from alttrain.backbone import Weights
from alttrain.backbone.device import check_kernels
from alttrain.backbone.weights import add_lora, load_model
from alttrain.training import Hardware
from alttrain.training.batches import pack
from alttrain.training.fit import fit
from alttrain.training.module import SFTModule

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
RUN = "tiny-embedded-alttrain-r1_act-s0"


@pytest.fixture(scope="module")
def wide_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny backbone with rows of 64 and 128 numbers: a block of 4-bit weights has 64."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    described = AutoConfig.from_pretrained(tiny_folder, hidden_size=64, intermediate_size=128, head_dim=16)
    AutoModelForCausalLM.from_config(described).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


@needs_bitsandbytes
def test_packed_training_over_quantised_weights_equals_the_padded_reference(wide_folder: Path) -> None:
    model = add_lora(load_model(Weights(wide_folder, "local"), torch.float32, "cpu", "packed", "nf4"), LORA, 0)
    frozen = [name for name, module in model.named_modules() if type(module).__module__.startswith("bitsandbytes")]
    assert len(frozen) == 2 * 7
    assert model.get_base_model().lm_head.weight.dtype == torch.float32
    model.train()
    loss = SFTModule(model, RECIPE, 4).loss(pack(sequences()))
    loss.backward()
    model.get_base_model().set_attn_implementation("eager")
    assert abs(loss.item() - padded_reference(model, sequences()).item()) < 1e-4
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_B" in name)


@needs_bitsandbytes
def test_a_resumed_training_with_8_bit_adamw_ends_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of 32 x 256 numbers a layer: moments of fewer than 4,096 stay in 32 bits
    lora, moments = replace(LORA, rank=256), []
    recipe = replace(RECIPE, optimizer="adamw_8bit")
    step = SFTModule.training_step

    def trained(folder: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
        def watched(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
            if self.global_step == stop:
                raise RuntimeError("killed")
            moments[:] = [state["state1"].dtype for state in self.optimizers().optimizer.state.values()]
            return step(self, batch, index)

        monkeypatch.setattr(SFTModule, "training_step", watched)
        model = add_lora(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu"), lora, seed=0)
        hardware = Hardware(accelerator="cpu", precision="float32", checkpoint_every=2)
        return fit(model, sequences(), recipe, hardware, 3, folder, False, False).weights

    whole = trained(tmp_path / "whole")
    assert set(moments) == {torch.uint8}
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "cut", stop=3)
    resumed = trained(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@needs_bitsandbytes
def test_r1_acts_treatment_runs_whole_on_a_cpu(wide_folder: Path, tiny_arguments: list[str], tmp_path: Path) -> None:
    """QLoRA with 8-bit AdamW trains, and generates beside the 4-bit weights."""
    arguments = [argument for argument in tiny_arguments if not argument.startswith("training")]
    arguments += [f"backbone.source={wide_folder}", "adapter=qlora", "training=r1_act", "training.epochs=1"]
    command = [sys.executable, "-m", "alttrain", *arguments, "stages=[check,rewrite,train,generate]"]
    environment = {**os.environ, "ALTTRAIN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("nf4 weights are slow on a CPU") == 1
    assert "kernels-community" not in done.stderr
    run = tmp_path / "outputs" / "runs" / RUN
    assert json.loads((run / "train.json").read_text())["steps"] == 2
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    assert len((run / "evaluation" / "embedded_harmful" / "generations.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("key", "arguments"),
    [("backbone.quantization=nf4", ("nf4", "packed")), ("training.optimizer=adamw_8bit", ("none", "packed"))],
)
def test_what_bitsandbytes_lacks_is_told(key: str, arguments: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = key.partition("training.optimizer=")[2] or "adamw"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"{key} needs the package bitsandbytes: pip install 'alttrain\[quantiz"):
        check_kernels(*arguments, cuda=True, optimizer=optimizer)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.49.2")
    with pytest.raises(ValueError, match=rf"{key} needs a CUDA GPU, .* or bitsandbytes 0\.50, and 0\.49\.2 is inst"):
        check_kernels(*arguments, cuda=False, optimizer=optimizer)
    check_kernels(*arguments, cuda=True, optimizer=optimizer)
