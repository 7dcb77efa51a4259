"""How much memory a stage needs, by arithmetic on a backbone's shape. Bytes throughout; no torch.

Counted are the tensors that grow with the model or the batch. Not counted: the CUDA context (about 0.5 GiB), the
allocator's fragmentation, biases and head norms (under 0.01 % of the weights), and the padding inside packed attention
(at most a third of its queries, keys and values).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt

Quantization = Literal["none", "nf4", "int8"]
Attention = Literal["packed", "sdpa", "eager", "flash_attention_2"]
Moments = Literal["whole", "8bit"]
Strategy = Literal["ddp", "fsdp", "deepspeed_stage_2", "deepspeed_stage_3", "deepspeed_stage_3_offload"]
Positive = Annotated[int, Gt(0)]

WEIGHT_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Of a quantised weight. nf4: 4 bits, an 8-bit scale per 64 weights, a float32 scale per 256 of those (QLoRA)."""
UNFUSED_BYTES = 7
"""What peft's own LoRA forward keeps for each input of a projection, measured: 5.5 in float32, 6.7 in bfloat16."""
SHORT = 256
"""`attention.SHORT`: tokens of the longest sequence whose attention is kept whole."""
LOSS_CHUNK = 320
"""`fused.CHUNK`: positions whose logits exist at one time in training."""
CACHE_SHARE = 0.8
"""Share of the free memory, the weights loaded, that keys and values may take where no bound is set."""
PREFILL_TOKENS = 4096
"""Prompt tokens of one prefill, which bounds its activations; more where a single prompt is longer."""


@dataclass(frozen=True)
class Shape:
    """The dimensions of a decoder with grouped-query attention and a gated MLP. `tied`: embeddings are the head too."""

    layers: Positive
    hidden: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    intermediate: Positive
    vocabulary: Positive
    tied: bool

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear map of a layer, by the name that LoRA targets have."""
        queries, keys, hidden, inner = self.queries, self.keys, self.hidden, self.intermediate
        attention = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        mlp = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
        return attention | {"o_proj": (queries, hidden)} | mlp

    @property
    def queries(self) -> int:
        """Size of a token's queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Size of a token's keys."""
        return self.kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Weights of all layers' projections, which quantisation shrinks."""
        return self.layers * sum(rows * columns for rows, columns in self.projections.values())

    @property
    def parameters(self) -> int:
        """All weights: projections, embeddings and head, two norms a layer and the last one."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.linear_parameters + embeddings + (2 * self.layers + 1) * self.hidden


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The shape in a transformers config.json; None for an architecture these formulas do not hold for."""
    if any("expert" in key and value for key, value in config.items()):
        return None
    try:
        heads = config["num_attention_heads"]
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError:
        return None


def weight_bytes(shape: Shape, width: int, quantization: Quantization = "none") -> int:
    """The backbone's weights, `width` bytes each; quantisation shrinks the projections alone."""
    rest = shape.parameters - shape.linear_parameters
    return int(shape.linear_parameters * WEIGHT_BYTES.get(quantization, width)) + rest * width


def adapter_parameters(shape: Shape, rank: int, targets: Sequence[str]) -> int:
    """LoRA's weights: rank x (in + out) for each target of each layer. Unknown names count nothing."""
    return shape.layers * rank * sum(sum(size) for name, size in shape.projections.items() if name in targets)


def activation_bytes(shape: Shape, width: int, rank: int, fused: bool = True) -> int:
    """What the backward pass keeps for one token in all layers, without what grows with the length.

    A layer keeps the inputs of its projections (q, k and v share one; gate and up share one), queries, keys, values
    and the attention's output, the gate before and after its activation and the up projection, the adapters' inner
    products, and the norms' inputs in float32. Where LoRA is not `fused` (dropout, a quantised weight), peft keeps
    float32 copies of every projection's input, and dropout masks.
    """
    kept = width * (2 * shape.hidden + 3 * shape.queries + 2 * shape.keys + 4 * shape.intermediate + 7 * rank)
    unfused = 0 if fused else UNFUSED_BYTES * sum(rows for rows, _ in shape.projections.values())
    return shape.layers * (kept + 2 * 4 * shape.hidden + unfused)


def training_bytes(
    shape: Shape,
    width: int,
    rank: int,
    targets: Sequence[str],
    lengths: Sequence[int],
    quantization: Quantization = "none",
    attention: Attention = "packed",
    dropout: bool = False,
    recompute: bool = False,
    moments: Moments = "whole",
) -> dict[str, int]:
    """A step of training an adapter on sequences of these lengths in tokens.

    The adapter, its gradients and AdamW's two moments are float32. Packed attention keeps the square of each short
    length for each head, eager attention that of the whole row. `recompute` keeps only each layer's input, and all of
    one layer. The backward pass works on one layer at a time. The loss needs the logits of `LOSS_CHUNK` positions in
    float32 and in `width`.
    """
    trained, tokens = adapter_parameters(shape, rank, targets), sum(lengths)
    kept = tokens * activation_bytes(shape, width, rank, fused=not dropout and quantization == "none")
    if attention == "packed":
        kept += shape.layers * shape.heads * width * sum(length**2 for length in lengths if length <= SHORT)
    if attention == "eager":
        kept += shape.layers * shape.heads * tokens**2 * (4 + (width if width < 4 else 0))
    if recompute:
        kept = kept // shape.layers + shape.layers * tokens * shape.hidden * width
    return {
        "weights": weight_bytes(shape, width, quantization),
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": _moment_bytes(trained, 4, moments),
        "activations": kept + tokens * width * (3 * shape.intermediate + 4 * shape.hidden),
        "loss": LOSS_CHUNK * shape.vocabulary * (4 + width),
    }


def full_training_bytes(
    shape: Shape,
    width: int,
    lengths: Sequence[int],
    attention: Attention = "packed",
    recompute: bool = False,
    kept: int = 4,
    moments: Moments = "whole",
) -> dict[str, int]:
    """`training_bytes` where all weights are trained: they, their gradients and two moments take `kept` bytes each.

    Products in half precision (`width` 2) use copies of float32 weights, which are kept until the backward pass.
    """
    parts = training_bytes(shape, width, 0, (), lengths, "none", attention, recompute=recompute)
    copies = width * shape.parameters if width < kept else 0
    trained = {"weights": kept * shape.parameters + copies, "gradients": kept * shape.parameters}
    return parts | trained | {"optimizer": _moment_bytes(shape.parameters, kept, moments)}


def _moment_bytes(parameters: int, width: int, moments: Moments) -> int:
    """AdamW's two moments: as wide as the weights, or 8 bits and a float32 scale for every 256 numbers."""
    return int(2 * parameters * (width if moments == "whole" else 1 + 4 / 256))


def device_bytes(parts: Mapping[str, int], shape: Shape, strategy: Strategy, devices: int) -> dict[str, int]:
    """A training step's parts on each of several devices: what the strategy shards, divided.

    Of sharded weights two layers at a time are whole, and by fsdp the embeddings and the head always. Offloaded weights
    and their optimizer are in the machine's memory.
    """
    every = ("weights", "adapter", "gradients", "optimizer")
    sharded = {"ddp": (), "deepspeed_stage_2": every[2:]}.get(strategy, every)
    own = {name: size // devices if name in sharded else size for name, size in parts.items()}
    if "weights" in sharded and devices > 1:
        layers = shape.linear_parameters / shape.parameters
        own["weights"] += int(2 * parts["weights"] * layers / shape.layers)
        if strategy == "fsdp":
            own["weights"] += int(parts["weights"] * (1 - layers) * (1 - 1 / devices))
    if strategy == "deepspeed_stage_3_offload":
        own |= {"weights": own["weights"] - parts["weights"] // devices, "optimizer": 0}
    return own


def cache_bytes(shape: Shape, width: int, slots: int, length: int) -> int:
    """Keys and values of `slots` sequences of `length` tokens in all layers."""
    return 2 * shape.layers * shape.keys * width * slots * length


def generation_bytes(
    shape: Shape, width: int, slots: int, prompt: int, new_tokens: int, quantization: Quantization = "none"
) -> dict[str, int]:
    """Decoding: weights, a cache of `slots` x (longest prompt + new tokens), one prefill, and the logits of a step."""
    return {
        "weights": weight_bytes(shape, width, quantization),
        "cache": cache_bytes(shape, width, slots, prompt + new_tokens),
        "activations": max(PREFILL_TOKENS, prompt) * width * (4 * shape.hidden + 3 * shape.intermediate),
        "logits": slots * shape.vocabulary * (4 + width),
    }
