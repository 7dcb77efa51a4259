"""Loads tokenizers and models, and adds, saves and merges adapters. Imports torch and transformers.

An adapter folder has adapter_model.safetensors, adapter_config.json, the tokenizer with our chat template, and a model
card. It contains no local path: a backbone from a local folder is recorded by its name.

The caller has compared the files with the training's checksums. Two faults remain, and both are refused here: an
adapter without an update, and one of another backbone. Either would report the backbone's own texts as the trained
model's.
"""

import functools
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from alttrain.backbone import attention
from alttrain.backbone.config import Backbone, LoRA
from alttrain.backbone.device import check_kernels, dtype_name
from alttrain.backbone.memory import Attention, Quantization
from alttrain.backbone.source import Weights, public_name
from alttrain.backbone.support import Purpose, why_unsupported
from alttrain.records import read_json, write_json

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
REMEDY = "remove the folder and train.json beside it, and train again"

attention.register()
log = logging.getLogger(__name__)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it also logs on import, and peft imports it for any adapter


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer of a backbone or adapter folder. Raises ValueError if its files are damaged.

    A tokenizer.json next to Mistral's tekken.json may split words in another way than the model was trained with.
    `fix_mistral_regex` makes transformers mend that, and take no tokenizer of mistral-common's where that is installed.
    """
    options = {"fix_mistral_regex": True} if (folder / "tekken.json").is_file() else {}
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except ImportError:  # of a package that this kind of tokenizer needs
        raise
    except Exception as error:  # a damaged file leads to any
        fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{folder}: its tokenizer cannot be loaded ({fault}); fetch the model again") from error


def load_model(
    weights: Weights,
    dtype: torch.dtype,
    device: str,
    kernel: Attention = "packed",
    quantization: Quantization = "none",
    purpose: Purpose = "generation",
) -> torch.nn.Module:
    """Load a causal language model in evaluation mode, with frozen weights.

    `kernel` is the attention kernel; the slot decoder needs "packed". On the device "meta" the weights have shapes and
    no memory. A quantised model computes in `dtype`; its head is not quantised.

    Raises ValueError if a package or GPU is missing, if the model would compute wrongly for this `purpose`
    (`why_unsupported`), or if the files lack weights.
    """
    check_kernels(quantization, kernel, device.startswith("cuda"))
    if fault := why_unsupported(weights.folder, kernel, purpose):
        raise ValueError(f"{weights.folder}: {fault}")
    if quantization != "none" and device == "cpu":
        _log_slow(quantization)
    transformers_logging.disable_progress_bar()
    options: dict[str, Any] = {"device_map": {"": device}} if quantization != "none" or device == "meta" else {}
    if quantization != "none":  # nf4 with QLoRA's settings, which R1-Act's backbones also use
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, **nf4)
    model, loading = AutoModelForCausalLM.from_pretrained(
        weights.folder,
        output_loading_info=True,
        dtype=dtype,
        attn_implementation=attention.NAME if kernel == "packed" else kernel,
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )
    if absent := loading["missing_keys"]:  # transformers only warns, and initialises them randomly
        fault = f"its safetensors lack {len(absent)} weights that its config.json has, such as {min(absent)}"
        raise ValueError(f"{weights.folder}: {fault}; give the whole model of that config")
    model = model.to(device) if quantization == "none" else model
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


@functools.cache
def _log_slow(quantization: Quantization) -> None:
    log.info("backbone  %s weights are slow on a CPU: they save memory, not time", quantization)


def choose_dtype(requested: str, device: str) -> torch.dtype:
    return getattr(torch, dtype_name(requested, device != "cpu"))  # type: ignore[no-any-return]


def add_lora(model: torch.nn.Module, lora: LoRA, seed: int) -> Any:
    """Add LoRA layers in float32 to the model, initialised from `seed` alone. Linear layers are fused where possible.

    Raises ValueError if the model's layers have no module of a target's name. Embeddings and head are in no layer.
    """
    from peft import LoraConfig, get_peft_model

    from alttrain.backbone.fused import fuse

    layers = model.get_decoder().layers.named_modules()  # type: ignore[operator]
    kinds = {name.rpartition(".")[2]: type(module) for name, module in layers}
    if absent := [name for name in lora.target_modules if name not in kinds]:
        linear = sorted(name for name, kind in kinds.items() if issubclass(kind, torch.nn.Linear))
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


def save_trained(
    model: Any, weights: Mapping[str, torch.Tensor], tokenizer: Any, backbone: Backbone, card: str, folder: Path
) -> None:
    """Write the folder of an adapter, or of a whole model in bfloat16. It has a temporary name until it is complete."""
    from peft import PeftModel

    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = public_name(backbone)
        model.save_pretrained(temporary, state_dict=dict(weights), save_embedding_layers=False)
        adapter_config = json.loads((temporary / CONFIG).read_text(encoding="utf-8"))
        adapter_config["target_modules"].sort()  # peft writes a set, whose order varies
        write_json(temporary / CONFIG, adapter_config)
    else:
        half = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
        model.to(torch.bfloat16).save_pretrained(temporary, state_dict=half)
    save_tokenizer(tokenizer, backbone, temporary)
    (temporary / "README.md").write_text(card, encoding="utf-8")
    temporary.rename(folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, backbone: Backbone, folder: Path) -> None:
    """Write the tokenizer's files and the chat template."""
    tokenizer.chat_template = backbone.template.jinja(backbone.system_prompt)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter. `pairs` maps linear layers to A (rank, in) and B (out, rank); a layer's update is scale B A."""

    folder: Path
    lora: LoRA
    scale: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def check_fit(self, model: torch.nn.Module) -> "Adapter":
        """Return the adapter itself. Raises ValueError unless each targeted layer, and no other, has a fitting pair."""
        shapes = {
            name: (module.out_features, module.in_features)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in self.lora.target_modules
        }
        updates = {name: (up.shape[0], down.shape[1]) for name, (down, up) in self.pairs.items()}
        for name in sorted(shapes.keys() | updates.keys()):
            if (update := updates.get(name)) != (weight := shapes.get(name)):
                fault = f"is another backbone's: its B A for {name} is {update}, and the weight is {weight}"
                raise ValueError(f"{self.folder / TENSORS} {fault}; {REMEDY}")
        return self


def read_adapter(folder: Path) -> Adapter:
    """Read the LoRA adapter of a training whose checksums hold. `Adapter.check_fit` checks whether it fits a backbone.

    Raises ValueError if the files cannot be read, or if every update is zero, as after one step at a rate of zero.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config, path = read_json(folder / CONFIG, remedy=REMEDY), folder / TENSORS
    try:
        tensors = load_file(path)
        pairs = {
            name.removeprefix(PREFIX).removesuffix(DOWN): (down, tensors[name.removesuffix(DOWN) + UP])
            for name, down in tensors.items()
            if name.endswith(DOWN)
        }
        lora = LoRA(config["r"], config["lora_alpha"], config["target_modules"])
        scale = lora.alpha / lora.rank
    except (SafetensorError, OSError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {error}; it holds no adapter; {REMEDY}") from error
    if not any(down.any() and up.any() for down, up in pairs.values()):
        raise ValueError(f"{path} holds an update of zero for every layer, as before any training; {REMEDY}")
    return Adapter(folder, lora, scale, pairs)


def attach_adapter(model: torch.nn.Module, adapter: Adapter) -> torch.nn.Module:
    """Return the model with the adapter applied but not merged, for quantised weights, which cannot be updated.

    peft does not read the folder: a stranger's adapter_config.json can name a module, which it would import.
    """
    adapter.check_fit(model)
    adapted = add_lora(model, adapter.lora, seed=0).eval().requires_grad_(False)
    for name, (down, up) in adapter.pairs.items():
        layer = adapted.get_submodule(PREFIX + name)
        layer.lora_A["default"].weight.copy_(down)
        layer.lora_B["default"].weight.copy_(up)
    return adapted  # type: ignore[no-any-return]


class Base:
    """A loaded backbone into which adapters are merged, one at a time.

    Sums are in float32, so a backbone in bfloat16 gets the weights of one that was merged in float32 and then rounded.
    The original weights are kept in system memory, so that the next adapter needs no reloading.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._originals: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def merge(self, adapter: Adapter | None) -> torch.nn.Module:
        """Return the model with only this adapter merged; None restores the backbone.

        Raises ValueError if the adapter does not fit the backbone, or the backbone's weights came quantised: an update
        would be added to their codes, whatever their scales. The model is then the plain backbone.
        """
        for name, weight in self._originals.items():
            self.model.get_parameter(name).copy_(weight)
        self._originals = {}
        if adapter is not None:
            pairs = adapter.check_fit(self.model).pairs
            if any(self.model.get_parameter(f"{name}.weight").element_size() < 2 for name in pairs):
                raise ValueError(f"{adapter.folder}: its backbone's weights are quantised; train one in bfloat16")
            for name, (down, up) in pairs.items():
                weight = self.model.get_parameter(f"{name}.weight")
                self._originals[f"{name}.weight"] = weight.to("cpu", copy=True)
                update = up.float() @ down.float() * adapter.scale
                weight.copy_(weight.float() + update.to(weight.device))
        return self.model
