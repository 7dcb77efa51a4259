"""A protocol: how a number is made. Decoding, system prompt, the text that is judged, and the judge of each measure.

The same benchmark names hide several protocols in public code. Each is a preset in conf/protocol; what shapes a number
is hashed (`protocol_hash`), the hash stands beside the number, and two hashes never share a column.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from alttrain.evaluation.benchmark import Measure
from alttrain.evaluation.judges.desk import Judge
from alttrain.generation import Decoding
from alttrain.records import Generation

Part = Literal["answer", "thought", "both"]
"""Which text a judge sees: the answer, the thought, or the whole response with the thought in it."""


@dataclass(frozen=True)
class Protocol:
    """One way to generate and judge. `judges` has the judge of each measure a benchmark may leave to its protocol.

    `judged` is the text that decides the benchmark's rate; each part in `also_judged` gets a rate of its own, named
    "harmful_rate.thought" and so on. `second_opinions` are further judges of a measure: their rates carry their name,
    and how far the judges agree is told. `system_prompt` None is the backbone's own, "" is none.
    """

    name: str
    decoding: Decoding
    judges: Mapping[Measure, Judge]
    judged: Part = "answer"
    also_judged: Sequence[Part] = ()
    second_opinions: Mapping[Measure, Sequence[Judge]] = field(default_factory=dict)
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        if len({self.judged, *self.also_judged}) <= len(self.also_judged):
            raise ValueError(
                f"protocol {self.name}: also_judged={list(self.also_judged)} names a part twice, or {self.judged!r}, "
                "which is judged anyway"
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        """All judged parts, the deciding one first."""
        return (self.judged, *self.also_judged)


def seen_by_judge(generation: Generation, part: Part) -> Generation:
    """The generation with the judged text where a judge looks for it, in `answer`."""
    if part == "answer":
        return generation
    return replace(generation, answer=generation.thought if part == "thought" else generation.text)


def protocol_hash(shaping: Mapping[str, Any]) -> str:
    """12 hex digits over everything that shapes a number, as flat keys."""
    return hashlib.sha256(json.dumps(dict(shaping), sort_keys=True).encode()).hexdigest()[:12]
