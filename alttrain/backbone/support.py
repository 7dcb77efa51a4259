"""Which models can be used here, with sequences packed: tried without weights. Imports transformers."""

import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from alttrain.backbone import attention
from alttrain.backbone.memory import Attention
from alttrain.records import read_json

ATTENTION_LAYERS = {"attention", "full_attention", "sliding_attention", "chunked_attention"}
"""Layers in a config's `layer_types` that carry no state along the row."""
Purpose = Literal["judging", "generation", "training"]


def why_unsupported(folder: Path, kernel: Attention = "packed", purpose: Purpose = "generation") -> str:
    """Return why a model cannot be used here, or would compute packed rows wrongly with this kernel, or "".

    No weights load. The model is built without memory, and a row of two tokens goes through it. A layer without
    attention, such as a recurrent one, would carry a sequence's state on into the next sequence of the row. Attention
    in chunks is computed as full attention, which is the same only for prompts as short as a judge's.
    """
    config = read_json(folder / "config.json")
    kind, quantized = config.get("model_type"), config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        known = f"that transformers {transformers.__version__} knows; choose another, or a transformers that knows it"
        return f"its model_type is {kind!r}, which is no causal language model {known}"
    if (folder / "adapter_config.json").exists():
        fault = "an adapter lies beside the weights, and transformers would load both as one model"
        return f"{fault}; merge it into them, or move adapter_config.json elsewhere"
    trial = _trial(folder)
    remedy = "have a server generate (generation=vllm or server)"
    if trial is None or not trial.packable:
        fault = f"not all layers of this model ({kind}) have attention that can be packed"
        why = "a sequence would see the ones before it in the row, so that it cannot be trained or decoded here"
        return f"{fault}: {why}; {remedy}"
    if trial.chunked and purpose != "judging":
        fault = f"this model ({kind}) has attention in chunks, which would be computed as full attention"
        return f"{fault}, so that it cannot be trained or decoded here; {remedy}"
    if kernel in ("packed", "sdpa") and trial.other_kind:
        fault = f"its attention takes {trial.other_kind}, which {kernel} attention does not compute"
        return f"{fault}: set backbone.attention=eager for training, and {remedy}"
    if kernel == "packed" and trial.misfit:
        return f"its attention {trial.misfit}: set backbone.attention=eager for training, and {remedy}"
    # packed attention raises when it meets what it lacks; sdpa would compute without it
    if kernel == "sdpa" and not trial.ran:
        return f"what this model's attention ({kind}) takes is not known before it runs: set backbone.attention=packed"
    # MXFP4 is of experts alone, which LoRA does not reach. An update of other weights would be added to their codes
    if purpose == "training" and quantized and method != "mxfp4":
        fault = f"its weights are quantised ({method}), so that it cannot be trained here"
        return f"{fault}; give the model in bfloat16, which backbone.quantization=nf4 quantises for training"
    if purpose == "training" and not trial.plain_head:
        fault = f"this model ({kind}) scales, caps or shifts the logits of its head, which the loss does not"
        return f"{fault}, so that it cannot be trained here; choose another, or method=no_train"
    return ""


class _Trial(NamedTuple):
    """What a trial of a model shows."""

    ran: bool  # whether it came to its end
    packable: bool  # whether every layer has attention that can be replaced, and no state along the row
    chunked: bool  # whether a layer has attention in chunks
    other_kind: str  # one of what `attention.other_kind` returns for the layers, or ""
    misfit: str  # why packed attention would fail, or ""
    plain_head: bool  # whether the logits are the last hidden states times the head's weights, as far as it ran


@functools.cache
def _trial(folder: Path) -> _Trial | None:
    """Return what a row of two tokens through a model without memory shows; None if its attention cannot be replaced.

    If the model fails on the row, `packable` is what the architecture says of itself.
    """
    kinds, misfits = list[str](), set[str]()

    def record(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, packed: object = None, **others: object
    ) -> tuple[Any, None]:
        kinds.append(attention.other_kind(module, others))
        if packed is None:
            misfits.add("is not told which tokens belong together")
        elif value.shape[3] != query.shape[3]:
            misfits.add("has values of another size than its keys")
        return query.new_empty((1, query.shape[2], query.shape[1], value.shape[3])), None

    attention.register("alttrain_trial", record)
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder, trust_remote_code=False),
                dtype=torch.float32,
                attn_implementation="alttrain_trial",
                experts_implementation="batched_mm",  # the one that looks at no values
            )
        except KeyError:  # the architecture has a list of its own of attention kernels
            return None
        head = model.get_output_embeddings()
        passed = list[Any]()  # what comes out of the decoder, into the head, and out of it
        model.get_decoder().register_forward_hook(lambda module, taken, given: passed.append(given[0]))
        head.register_forward_hook(lambda module, taken, given: passed.extend((taken[0], given)))
        row, mask = torch.zeros((1, 2), dtype=torch.long), torch.zeros((1, 1, 2, 2))
        plain_head = getattr(head, "bias", None) is None
        try:
            given = model(row, attention_mask=mask, position_ids=row, use_cache=False, packed=object())
            hidden, taken, logits = passed
            same = hidden.untyped_storage()._cdata == taken.untyped_storage()._cdata and logits is given.logits
            plain_head, ran = plain_head and same, True
        except TypeError:  # it takes no further arguments
            return None
        except (KeyError, ValueError, RuntimeError, NotImplementedError):  # code that looks at values: meta has none
            ran = False
    text_config = model.config.get_text_config()
    attends = len(kinds) >= text_config.num_hidden_layers if ran else model._supports_attention_backend
    layers = getattr(text_config, "layer_types", None) or ()
    only_attention = bool(layers) and ATTENTION_LAYERS.issuperset(layers)
    packable = attends and (only_attention or not model._is_stateful)
    other_kind, misfit = min({*kinds} - {""}, default=""), min(misfits, default="")
    return _Trial(ran, packable, "chunked_attention" in layers, other_kind, misfit, plain_head)


def shared_context(folder: Path) -> int | None:
    """Return the tokens beyond which a sequence changes how the others in its row are computed; None: no such length.

    Dynamic RoPE and LongRoPE scale the positions of a whole row by its longest sequence.
    """
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    limits = {"dynamic": config.max_position_embeddings, "longrope": ropes.get("original_max_position_embeddings")}
    return limits.get(ropes.get("rope_type", ""))
