"""Reads a LoRA adapter and checks that it is complete and fits the backbone before it is used.

With missing or wrong tensors, the backbone's own texts would be reported as the trained model's. Every fault raises
ValueError naming the file, what was found and what is accepted.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alttrain.records import read_json

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# options of peft with which the update is not scale B A; other variants show up as differently named tensors
NOT_PLAIN = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "modules_to_save",
)
REMEDY = "remove the folder and train.json beside it, and train again"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter. `pairs` maps linear layers to A (rank, in) and B (out, rank); a layer's update is scale B A."""

    folder: Path
    described: Mapping[str, Any]
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def scale(self) -> float:
        return float(self.described["lora_alpha"] / self.described["r"])

    def fits(self, model: torch.nn.Module) -> "Adapter":
        """Return the adapter itself if it fits `model`.

        Raises ValueError unless exactly the layers that the config targets have pairs, each of the right shape.
        """
        linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        layers, named = self.described.get("layers_to_transform"), set()
        for name in linear:  # by peft's rules
            number = re.search(r"\.(\d+)\.", name)
            within = layers is None or (number is not None and int(number[1]) in layers)
            if within and any(f".{name}".endswith(f".{target}") for target in self.described["target_modules"]):
                named.add(name)
        for wrong, what in ((named - self.pairs.keys(), "lacks"), (self.pairs.keys() - named, "has")):
            if wrong:
                raise self.fault(
                    f"{what} tensors for {_some(wrong)}; {CONFIG} names {len(named)} layers of this backbone, and each "
                    "must have lora_A and lora_B, and no other may"
                )
        for name, (down, up) in self.pairs.items():
            shape, wanted = (up.shape[0], down.shape[1]), (linear[name].out_features, linear[name].in_features)
            if shape != wanted:
                raise self.fault(f"is another backbone's: its B A for {name} is {shape}, and the weight is {wanted}")
        return self

    def fault(self, found: str) -> ValueError:
        """Return an error about the tensor file."""
        return ValueError(f"{self.folder / TENSORS} {found}; {REMEDY}")


def read_adapter(folder: Path) -> Adapter:
    """Read a plain LoRA adapter.

    Raises ValueError unless all pairs are complete, finite and of the config's rank, and at least one update is not
    zero. `Adapter.fits` checks whether it fits a backbone.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    described = _described(folder / CONFIG)
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / TENSORS}: {error}; it holds no adapter; {REMEDY}") from error
    pairs, odd = {}, set(tensors)
    for module in sorted({name.rpartition(".lora_")[0] for name in tensors}):
        both = (f"{module}.lora_A.weight", f"{module}.lora_B.weight")
        if module.startswith(PREFIX) and tensors.keys() >= set(both):
            pairs[module.removeprefix(PREFIX)] = (tensors[both[0]], tensors[both[1]])
            odd -= set(both)
    adapter, rank = Adapter(folder, described, pairs), described["r"]
    if odd or not pairs:
        found = f"{_some(odd)} without the other of its pair" if odd else "no LoRA tensors"
        raise adapter.fault(f"holds {found}; it must hold NAME.lora_A.weight and NAME.lora_B.weight for each layer")
    for name, (down, up) in pairs.items():
        wrong = ""
        if not (down.is_floating_point() and up.is_floating_point() and down.ndim == up.ndim == 2):
            wrong = f"tensors for {name} that are no matrices of floating-point numbers"
        elif (down.shape[0], up.shape[1]) != (rank, rank):
            wrong = f"A {tuple(down.shape)} and B {tuple(up.shape)} for {name}, and {CONFIG} says rank {rank}"
        elif not (down.isfinite().all() and up.isfinite().all()):
            wrong = f"numbers for {name} that are not finite: the training diverged, or it is spoiled"
        if wrong:
            raise adapter.fault(f"holds {wrong}")
    if not any(down.any() and up.any() for down, up in pairs.values()):
        raise adapter.fault("holds an update of zero for every layer, as before any training: it would change nothing")
    return adapter


def _described(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(path, remedy=REMEDY)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there; {REMEDY}") from error
    is_lora = found.get("peft_type") == "LORA"
    if not is_lora or any(map(found.get, NOT_PLAIN)):
        what = ", ".join(f"{key}={found[key]!r}" for key in NOT_PLAIN if found.get(key)) if is_lora else "no LoRA"
        raise ValueError(f"{path}: only plain LoRA adapters can be used here, and this is {what}")
    wanted = {
        "r": type(found.get("r")) is int and found["r"] > 0,
        "lora_alpha": type(found.get("lora_alpha")) in (int, float) and 0 < found["lora_alpha"] < math.inf,
        "target_modules": isinstance(found.get("target_modules"), list),
        "layers_to_transform": isinstance(found.get("layers_to_transform"), list | None),
    }
    for key in (key for key, right in wanted.items() if not right):
        raise ValueError(f"{path}: {key}={found.get(key)!r}; accepted is what peft writes for a LoRA; {REMEDY}")
    return found


def _some(names: set[str]) -> str:
    """Return the first name and the number of the others."""
    return min(names) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
