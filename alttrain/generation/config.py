"""What a config says of generation."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from alttrain.backbone.config import Dtype


@dataclass(frozen=True)
class InProcess:
    """Greedy decoding in this process.

    `max_new_tokens` caps thought and answer together. `slots` sequences decode at once; a finished one leaves and the
    next prompt takes its slot. `chunk` prompts are written together: an interrupted run repeats at most one chunk.
    """

    max_new_tokens: Annotated[int, Gt(0)]
    slots: Annotated[int, Gt(0)] = 64
    chunk: Annotated[int, Gt(0)] = 128
    dtype: Dtype = "auto"
