"""A protocol: how a number is made. Decoding, system prompt, precision, the text that is judged, each measure's judge.

The same benchmark names hide several protocols in public code. Each is a preset in conf/protocol; what shapes a number
is hashed (`protocol_hash`), the hash stands beside the number, and two hashes never share a column.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_type_hints

from alttrain.evaluation.benchmark import KINDS, Benchmark, Measure
from alttrain.evaluation.judges.judge import Judge
from alttrain.generation import Decoding
from alttrain.records import Generation

Part = Literal["answer", "thought", "both"]
"""Which text a judge sees: the answer, the thought, or the whole response with the thought in it."""

SETTINGS: Mapping[str, Any] = {**get_type_hints(Decoding, include_extras=True), "system_prompt": str | None}
"""What `settings` may change for a kind of benchmark, or for one, and of which type it is."""


@dataclass(frozen=True)
class Protocol:
    """One way to generate and judge. `judges` has the judge of each measure a benchmark may leave to its protocol, and
    of a benchmark by its name, which comes before its measure.

    `judged` is the text that decides the benchmark's rate; each part in `also_judged` gets a rate of its own, named
    "harmful_rate.thought" and so on. `second_opinions` are further judges of a measure: their rates carry their name,
    and how far the judges agree is told. `system_prompt` None is the backbone's own, "" is none.

    `settings` says what differs from `decoding` and `system_prompt`, for a kind of benchmark or for one by its name,
    which comes before its kind. `means` names the benchmarks that each measure's mean is over. `quantization` is that
    of the weights that are evaluated; None is the backbone's.
    """

    name: str
    decoding: Decoding
    judges: Mapping[str, Judge]
    judged: Part = "answer"
    also_judged: Sequence[Part] = ()
    second_opinions: Mapping[Measure, Sequence[Judge]] = field(default_factory=dict)
    system_prompt: str | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    means: Mapping[Measure, Sequence[str]] = field(default_factory=dict)
    quantization: Literal["none", "nf4", "int8"] | None = None

    def __post_init__(self) -> None:
        if len({self.judged, *self.also_judged}) <= len(self.also_judged):
            raise ValueError(
                f"protocol {self.name}: also_judged={list(self.also_judged)} names a part twice, or {self.judged!r}, "
                "which is judged anyway"
            )
        for key, changed in self.settings.items():
            self._check(key, changed)
        for measure, names in self.means.items():
            if twice := sorted({name for name in names if list(names).count(name) > 1}):
                raise ValueError(f"protocol {self.name}: means.{measure}={list(names)} names {twice[0]} twice")

    def _check(self, key: str, changed: Mapping[str, Any]) -> None:
        """Raise ValueError for a setting that no benchmark could take."""
        from pydantic import TypeAdapter, ValidationError

        where = f"protocol {self.name}: settings.{key}"
        if not re.fullmatch(r"[\w-]+", key):
            raise ValueError(f"{where}: accepted: {', '.join(KINDS)}, or the name of a benchmark")
        for name, value in changed.items():
            if name not in SETTINGS:
                close = difflib.get_close_matches(name, SETTINGS, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"{where}.{name}={value!r}: accepted: {', '.join(SETTINGS)}{meant}")
            try:
                TypeAdapter(SETTINGS[name]).validate_python(value, strict=True)
            except ValidationError as error:
                told = "; ".join(dict.fromkeys(fault["msg"] for fault in error.errors()))
                raise ValueError(f"{where}.{name}={value!r}: {told}") from error

    def decoding_for(self, benchmark: Benchmark) -> Decoding:
        """How a benchmark's prompts are decoded. Raises ValueError where its settings contradict each other."""
        changed = {name: value for name, (_, value) in self._settings(benchmark).items() if name != "system_prompt"}
        try:
            return replace(self.decoding, **changed)
        except ValueError as error:
            raise ValueError(f"protocol {self.name}, benchmark {benchmark.name}: {error}") from error

    def system_prompt_for(self, benchmark: Benchmark) -> str | None:
        """The system prompt of a benchmark's prompts; None is the backbone's own."""
        _, system = self._settings(benchmark).get("system_prompt", ("", self.system_prompt))
        return system  # type: ignore[no-any-return]

    def key_for(self, benchmark: Benchmark, name: str) -> str:
        """The config's key that decides a field of a benchmark's decoding."""
        setting = self._settings(benchmark).get(name)
        return f"protocol.settings.{setting[0]}.{name}" if setting else f"protocol.decoding.{name}"

    def _settings(self, benchmark: Benchmark) -> dict[str, tuple[str, Any]]:
        """What differs for a benchmark: field -> (the kind or name that says so, value)."""
        return {
            name: (key, value)
            for key in (benchmark.kind, benchmark.name)
            for name, value in self.settings.get(key, {}).items()
        }

    @property
    def parts(self) -> tuple[Part, ...]:
        """All judged parts, the deciding one first."""
        return (self.judged, *self.also_judged)


def seen_by_judge(generation: Generation, part: Part) -> Generation:
    """The generation as a judge is given it, with the judged text in `answer`."""
    if part == "answer":
        return generation
    return replace(generation, answer=generation.thought if part == "thought" else generation.text)


def protocol_hash(shaping: Mapping[str, Any]) -> str:
    """12 hex digits over everything that shapes a number, as flat keys."""
    return hashlib.sha256(json.dumps(dict(shaping), sort_keys=True).encode()).hexdigest()[:12]
