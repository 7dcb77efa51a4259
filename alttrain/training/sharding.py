"""The backbone's layers sharded over the devices (FSDP2), for adapters of backbones that no device holds alone.

Each layer's weights are gathered when it is due and given up again; embeddings, head and the last norm stay whole on
every device. Checkpoints are one file with the adapter alone, as those of one device are.
"""

from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict


class Sharded(ModelParallelStrategy):  # type: ignore[misc]
    """Lightning's strategy for FSDP2, over all devices, that leaves frozen weights out of checkpoints."""

    def __init__(self, devices: int) -> None:
        super().__init__(data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trainable weights, whole, on the first device; nothing on the others."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)


def shard(language_model: Any, mesh: Any) -> None:
    """Shard every decoder layer over the mesh."""
    from torch.distributed.fsdp import fully_shard

    decoder = language_model.get_decoder()
    layers = {parameter for layer in decoder.layers for parameter in layer.parameters()}
    others = {parameter for parameter in decoder.parameters() if parameter not in layers}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh, ignored_params=others)


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter's full value on the CPU, gathered where it is sharded: all devices must ask."""
    full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return full.detach().cpu()
