"""What a config says of generation: how a next token is chosen, and the engine that does it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from alttrain.backbone.config import Dtype


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. `max_new_tokens` caps thought and answer together.

    `temperature` 0 is greedy. Otherwise a token is drawn from the `top_k` likeliest (None: all), and of these from the
    likeliest that together reach `top_p`, `samples` times a prompt; a draw depends on `seed`, the row and the sample
    alone, never on the batch. `repetition_penalty` is CTRL's (Keskar et al., 2019) over prompt and response, as vLLM
    and transformers have it.

    `context` is the length of prompt and response at which a response is cut, as vLLM cuts it at max_model_len;
    "backbone" is the backbone's own. None cuts nothing: a prompt that leaves no room for `max_new_tokens` is refused.
    """

    max_new_tokens: Annotated[int, Gt(0)]
    temperature: Annotated[float, Ge(0)] = 0.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    repetition_penalty: Annotated[float, Ge(1)] = 1.0
    samples: Annotated[int, Gt(0)] = 1
    seed: int = 0
    top_k: Annotated[int, Gt(0)] | None = None
    context: Annotated[int, Gt(0)] | Literal["backbone"] | None = None

    def cut_at(self, context_length: int) -> int | None:
        """Tokens of prompt and response at which a response is cut, for a backbone of this context."""
        if self.context is None:
            return None
        return context_length if self.context == "backbone" else min(self.context, context_length)

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"samples={self.samples} with temperature=0 would be the same text; set a temperature")


@dataclass(frozen=True)
class InProcess:
    """Decoding in this process.

    `slots` sequences decode at once; a finished one leaves and the next prompt takes its slot. `chunk` prompts are
    written together: an interrupted run repeats at most one chunk. Keys and values take at most `memory_gib` GiB (None:
    four fifths of what is free once the weights are loaded); with less than all slots need, there are fewer of them.
    `steps` is how a decode step is launched: kernel by kernel ("eager"), recorded as a CUDA graph ("recorded", which
    "auto" is on CUDA), or recorded with compiled layers ("compiled", whose first steps take some seconds longer).
    """

    slots: Annotated[int, Gt(0)] = 64
    chunk: Annotated[int, Gt(0)] = 128
    dtype: Dtype = "auto"
    memory_gib: Annotated[float, Gt(0)] | None = None
    steps: Literal["auto", "eager", "recorded", "compiled"] = "auto"
