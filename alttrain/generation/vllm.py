"""The engine that is vLLM in this process, where it is installed: continuous batching and paged memory on a GPU.

The adapter stays beside the weights, as vLLM has it; results differ from merged ones by rounding.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Le

from alttrain.generation.config import Decoding
from alttrain.generation.engines import Prompt, Written
from alttrain.llm import Failure


@dataclass(frozen=True)
class InProcessVllm:
    """`memory_share` of the GPU is vLLM's, `max_lora_rank` bounds adapters, `options` go to vllm.LLM as they are."""

    memory_share: Annotated[float, Gt(0), Le(1)] = 0.9
    max_lora_rank: Annotated[int, Gt(0)] = 64
    chunk: Annotated[int, Gt(0)] = 4096
    options: Mapping[str, Any] = field(default_factory=dict)

    def engine(self, model: Path, adapter: Path | None, renderer: Any) -> "VllmEngine":
        """Load the model. Raises ValueError where vLLM is not installed."""
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ValueError(
                "generation=vllm_in_process needs vLLM: pip install 'alttrain[vllm]', or choose generation=in_process"
            ) from error
        loaded = LLM(
            model=str(model),
            gpu_memory_utilization=self.memory_share,
            enable_lora=adapter is not None,
            max_lora_rank=self.max_lora_rank,
            trust_remote_code=False,
            **self.options,
        )
        request = LoRARequest("adapter", 1, str(adapter.resolve())) if adapter else None
        return VllmEngine(loaded, request, renderer)


@dataclass(frozen=True)
class VllmEngine:
    """Writes through a loaded vllm.LLM."""

    loaded: Any
    adapter: Any
    renderer: Any

    streams = False

    def write(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = lambda count: None
    ) -> Iterator[tuple[int, Written | Failure]]:
        """All answers, in the prompts' order."""
        from vllm import SamplingParams

        sampling = [
            SamplingParams(
                temperature=decoding.temperature,
                top_p=decoding.top_p if decoding.temperature else 1.0,
                top_k=(decoding.temperature and decoding.top_k) or 0,
                repetition_penalty=decoding.repetition_penalty,
                max_tokens=prompt.most(decoding),
                seed=_seed(decoding.seed, prompt.name) if decoding.temperature else None,
                stop_token_ids=[self.renderer.end_id],
                skip_special_tokens=False,
            )
            for prompt in prompts
        ]
        asked = [{"prompt_token_ids": prompt.ids} for prompt in prompts]
        for number, output in enumerate(
            self.loaded.generate(asked, sampling, lora_request=self.adapter, use_tqdm=False)
        ):
            tokens = list(output.outputs[0].token_ids)
            advance(1)
            finish = "length" if output.outputs[0].finish_reason == "length" else "stop"
            yield number, Written(self.renderer.decode(tokens), finish)  # type: ignore[arg-type]


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()[:4]) >> 1
