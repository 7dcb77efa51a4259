"""The engine that runs vLLM in this process, if it is installed: continuous batching and paged memory on a GPU.

vLLM applies the adapter separately from the weights. Results differ from those of merged weights by rounding.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Gt, Le

from alttrain.backbone.memory import Quantization
from alttrain.generation.engine import Decoding, EngineConfig, Model, Prompt, Written, unwatched
from alttrain.llm import Failure

ABSENT = "generation=vllm_in_process needs vLLM: pip install 'alttrain[vllm]', or choose generation=in_process"


@dataclass(frozen=True)
class InProcessVllm(EngineConfig):
    """vLLM may use the share `memory_share` of the GPU's memory. `max_lora_rank` limits an adapter's rank.

    `options` are passed to vllm.LLM unchanged.
    """

    memory_share: Annotated[float, Gt(0), Le(1)] = 0.9
    max_lora_rank: Annotated[int, Gt(0)] = 64
    chunk: Annotated[int, Gt(0)] = 4096
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        super().check(quantization, gpu)
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(ABSENT)

    @contextmanager
    def start(self, model: Model) -> Iterator["VllmEngine"]:
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ValueError(ABSENT) from error
        loaded = LLM(
            model=str(model.weights()),
            gpu_memory_utilization=self.memory_share,
            enable_lora=model.adapter is not None,
            max_lora_rank=self.max_lora_rank,
            trust_remote_code=False,
            **self.options,
        )
        request = LoRARequest("adapter", 1, str(model.adapter.resolve())) if model.adapter else None
        yield VllmEngine(loaded, request, model.renderer)


@dataclass(frozen=True)
class VllmEngine:
    """An engine around a loaded vllm.LLM."""

    loaded: Any
    adapter: Any
    renderer: Any

    streams = False

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = unwatched
    ) -> Iterator[tuple[int, Written | Failure]]:
        from vllm import SamplingParams

        sampled = decoding.temperature > 0
        sampling = [
            SamplingParams(
                temperature=decoding.temperature,
                top_p=decoding.top_p if sampled else 1.0,
                top_k=decoding.top_k if sampled and decoding.top_k else 0,
                repetition_penalty=decoding.repetition_penalty,
                max_tokens=prompt.most(decoding),
                seed=decoding.seed_of(prompt.name) if sampled else None,
                stop_token_ids=[self.renderer.end_id],
                skip_special_tokens=False,
            )
            for prompt in prompts
        ]
        asked = [{"prompt_token_ids": prompt.ids} for prompt in prompts]
        outputs = self.loaded.generate(asked, sampling, lora_request=self.adapter, use_tqdm=False)
        for number, output in enumerate(outputs):
            (answer,) = output.outputs
            advance(1)
            text = self.renderer.decode(list(answer.token_ids))
            yield number, Written(text, "length" if answer.finish_reason == "length" else "stop")
