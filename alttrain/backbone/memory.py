"""Estimates the memory of a stage from a backbone's shape. All sizes are in bytes; no torch is imported.

Not counted: the CUDA context (about 0.5 GiB), fragmentation in the allocator, biases and head norms (under 0.01 % of
the weights), and padding in packed attention (at most a third of its queries, keys and values).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Gt

Quantization = Literal["none", "nf4"]
Attention = Literal["packed", "sdpa", "eager", "flash_attention_2"]
Optimizer = Literal["adamw", "adamw_8bit"]
Strategy = Literal["ddp", "fsdp"]
Positive = Annotated[int, Gt(0)]

# per weight: 4 bits, an 8-bit scale per 64 weights, and a float32 scale per 256 scales (QLoRA)
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
UNFUSED_BYTES = 7  # that peft's LoRA forward pass keeps per projection input: 5.5 in float32, 6.7 in bfloat16, measured
SHORT = 256  # longest sequence, in tokens, attended to by plain products, whose memory grows with its square
CHUNK = 320  # positions whose logits are in memory at once during training
CACHE_SHARE = 0.8  # of the memory left after loading the weights, that the key-value cache may take
PREFILL_TOKENS = 4096  # prompt tokens per prefill, which limits its activations; a single longer prompt may exceed it


@dataclass(frozen=True)
class Shape:
    """Dimensions of a decoder with grouped-query attention and a gated MLP. If `tied`, the head is the embeddings."""

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
        """(in, out) of each linear layer in a decoder layer, by the names that LoRA targets use."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, inner = self.hidden, self.intermediate
        attention = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        mlp = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
        return attention | {"o_proj": (queries, hidden)} | mlp

    @property
    def linear_parameters(self) -> int:
        """Number of projection weights in all layers. These are the weights that quantisation shrinks."""
        return self.layers * sum(rows * columns for rows, columns in self.projections.values())

    @property
    def parameters(self) -> int:
        """Number of all weights: projections, embeddings, head, two norms per layer, and the final norm."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.linear_parameters + embeddings + (2 * self.layers + 1) * self.hidden


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Return the shape in a transformers config.json; None if the estimates do not cover the architecture."""
    if any("expert" in key and value for key, value in config.items()):
        return None
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        kv_heads, head_dim = config.get("num_key_value_heads") or heads, config.get("head_dim") or hidden // heads
        inner, tied = config["intermediate_size"], bool(config.get("tie_word_embeddings"))
        return Shape(config["num_hidden_layers"], hidden, heads, kv_heads, head_dim, inner, config["vocab_size"], tied)
    except KeyError:
        return None


def weight_bytes(shape: Shape, width: int, quantization: Quantization = "none") -> int:
    """Return the size of the backbone's weights at `width` bytes each. Only the projections are quantised."""
    unquantised = shape.parameters - shape.linear_parameters
    return int(shape.linear_parameters * (NF4_BYTES if quantization == "nf4" else width)) + unquantised * width


class Footprint(TypedDict):
    """Those arguments of `training_bytes` that say what is trained."""

    rank: int
    targets: Sequence[str]
    dropout: bool
    kept: int


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
    optimizer: Optimizer = "adamw",
    kept: int = 4,
) -> dict[str, int]:
    """Return the memory by part of one training step on sequences of these lengths, in tokens.

    With a `rank`, LoRA on `targets` is trained, otherwise all weights, with copies of `width` if they are wider.
    Trained weights, gradients and AdamW's two moments take `kept` bytes per number; an 8-bit moment takes one, and a
    float32 scale per 256. For the backward pass a layer keeps, per token, the inputs of its projections (shared by q,
    k, v and by gate, up), queries, keys, values, the attention output, the gate before and after its activation, the up
    projection, LoRA's inner products, and the norms' inputs in float32. With dropout or quantised weights, peft also
    keeps copies of the projections' inputs. Per head, packed attention keeps a length x length matrix for each short
    sequence, eager attention one for the whole row. With `recompute`, layers keep only their input, and one everything.
    """
    tokens, projections = sum(lengths), shape.projections
    heads = shape.head_dim * (3 * shape.heads + 2 * shape.kv_heads)
    per_token = width * (2 * shape.hidden + heads + 4 * shape.intermediate + 7 * rank) + 2 * 4 * shape.hidden
    if dropout or quantization != "none":
        per_token += UNFUSED_BYTES * sum(inputs for inputs, _ in projections.values())
    activations = tokens * shape.layers * per_token
    if attention == "packed":
        activations += shape.layers * shape.heads * width * sum(length**2 for length in lengths if length <= SHORT)
    if attention == "eager":
        activations += shape.layers * shape.heads * tokens**2 * (4 + (width if width < 4 else 0))
    if recompute:
        activations = activations // shape.layers + shape.layers * tokens * shape.hidden * width
    adapter_weights = shape.layers * rank * sum(sum(size) for name, size in projections.items() if name in targets)
    trained = adapter_weights if rank else shape.parameters
    trained_bytes = (kept + (width if width < kept else 0)) * trained
    return {
        "weights": weight_bytes(shape, width, quantization) if rank else trained_bytes,
        "adapter": kept * trained if rank else 0,
        "gradients": kept * trained,
        "optimizer": int(2 * trained * (kept if optimizer == "adamw" else 1 + 4 / 256)),
        "activations": activations + tokens * width * (3 * shape.intermediate + 4 * shape.hidden),
        "loss": CHUNK * shape.vocabulary * (4 + width),
    }


def device_bytes(parts: Mapping[str, int], shape: Shape, strategy: Strategy, devices: int) -> dict[str, int]:
    """Return the memory of a training step on each of several devices, which divide the sharded parts among them.

    Sharded weights are gathered two layers at a time, embeddings and head for the whole step; so are the gradients of
    those that are trained.
    """
    sharded = () if strategy == "ddp" else ("weights", "adapter", "gradients", "optimizer")
    sizes = {name: size // devices if name in sharded else size for name, size in parts.items()}
    if sharded and devices > 1:
        layer_share = shape.linear_parameters / shape.parameters
        for name in ("weights",) if parts["adapter"] else ("weights", "gradients"):
            sizes[name] += int(2 * parts[name] * layer_share / shape.layers)
            sizes[name] += int(parts[name] * (1 - layer_share) * (1 - 1 / devices))
    return sizes


def cache_bytes(shape: Shape, width: int, slots: int, length: int) -> int:
    """Return the size of the keys and values of `slots` sequences of `length` tokens, over all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * width * slots * length


def generation_bytes(
    shape: Shape, width: int, slots: int, prompt: int, new_tokens: int, weights: int, free: int | None = None
) -> dict[str, int]:
    """Return the memory of weights, a cache of `slots` x (longest prompt + new tokens), a prefill, a step's logits.

    `weights` is their size. The cache is what fits into its share of `free`, at least one slot; None sets no limit.
    """
    cache, slot = (cache_bytes(shape, width, count, prompt + new_tokens) for count in (slots, 1))
    activations = max(PREFILL_TOKENS, prompt) * width * (4 * shape.hidden + 3 * shape.intermediate)
    logits = slots * shape.vocabulary * (4 + width)
    if free is not None:
        cache = max(slot, min(cache, int(CACHE_SHARE * (free - weights - activations - logits))))
    return {"weights": weights, "cache": cache, "activations": activations, "logits": logits}
