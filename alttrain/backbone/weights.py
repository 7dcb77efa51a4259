"""Load tokenizers and models from a resolved folder, and put adapters on them. Heavy: imports torch and transformers.

An adapter folder holds adapter_model.safetensors, adapter_config.json, the tokenizer with our chat template, and a
model card: with the backbone's name it is all that is needed to use the adapter elsewhere.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from alttrain.backbone import attention
from alttrain.backbone.config import Backbone, LoRA
from alttrain.backbone.source import Weights
from alttrain.records import write_json

attention.register()
log = logging.getLogger(__name__)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a backbone or adapter folder."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_model(weights: Weights, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """The causal language model with packed attention, in evaluation mode, its own weights frozen."""
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        weights.folder,
        dtype=dtype,
        attn_implementation=attention.NAME,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model.to(device).eval().requires_grad_(False)  # type: ignore[no-any-return]


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices natively: any recent GPU, a CPU with AVX512-BF16 or AMX."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16 "))


def choose_dtype(requested: str, device: str) -> torch.dtype:
    """The torch dtype of a config's name; "auto" is bfloat16 where the device does it well, else float32."""
    if requested == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return getattr(torch, requested)  # type: ignore[no-any-return]


def choose_device(accelerator: str) -> str:
    """ "cuda" or "cpu". Raises ValueError where a GPU is asked for and there is none."""
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU; set it to auto or cpu")
    return "cuda" if accelerator == "gpu" else "cpu"


def add_lora(model: torch.nn.Module, lora: LoRA, seed: int) -> Any:
    """The model with fresh LoRA layers, in float32, whose first values only `seed` decides."""
    from peft import LoraConfig, get_peft_model

    from alttrain.backbone.lora import fuse

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    absent = [name for name in lora.target_modules if name not in names]
    if absent:
        linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ValueError(f"adapter.target_modules names {absent[0]!r}, which this backbone has not; it has {linear}")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    fuse(adapted)
    return adapted


def save_adapter(model: Any, tokenizer: PreTrainedTokenizerFast, backbone: Backbone, card: str, folder: Path) -> None:
    """Write the adapter folder under a temporary name and rename it when whole."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = backbone.source
    model.save_pretrained(temporary, save_embedding_layers=False)
    described = json.loads((temporary / "adapter_config.json").read_text(encoding="utf-8"))
    described["target_modules"].sort()  # peft writes a set, in another order each time
    write_json(temporary / "adapter_config.json", described)
    tokenizer.chat_template = backbone.template.jinja()
    tokenizer.save_pretrained(temporary)
    (temporary / "README.md").write_text(card, encoding="utf-8")
    temporary.rename(folder)


def merge_adapter(model: torch.nn.Module, adapter: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The model with the adapter's update added to its weights; the sum is made in float32, then cast to `dtype`."""
    from peft import PeftModel

    merged = PeftModel.from_pretrained(model.float(), adapter).merge_and_unload()
    return merged.to(dtype).eval().requires_grad_(False)  # type: ignore[no-any-return]
