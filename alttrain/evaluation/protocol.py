"""Benchmarks, and the protocol that produces their numbers: decoding, system prompt, judged text, judges.

Public code evaluates benchmarks of the same name by different protocols. Each protocol is a preset in conf/protocol.
The hash of everything that shapes a number (`protocol_hash`) is stored with it; numbers with different hashes never
share a column.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args, get_type_hints

from alttrain.config.schema import did_you_mean
from alttrain.dataset import ExampleSource, Rows
from alttrain.evaluation.interventions import JOIN, Intervention
from alttrain.evaluation.judges.judge import Judge, Says
from alttrain.generation import Decoding
from alttrain.records import Example, Generation, Rejected

Measure = Literal["harmful_rate", "over_refusal_rate", "accuracy"]
"""Share of harmful requests answered, of benign requests refused, of questions answered right."""
Kind = Literal["harm", "over_refusal", "maths", "code", "knowledge", "summary"]
"""What a benchmark tests. A protocol may decode each kind differently."""
KINDS: tuple[Kind, ...] = get_args(Kind)
Part = Literal["answer", "thought", "both"]
"""The text that a judge sees: the answer, the thought, or the whole response."""
Table = Literal["main", "general", "multi_turn", "multilingual"]
"""A table of the report that lists benchmarks. Pools, and means for which the protocol names no sets, are over main."""

SAYS: Mapping[Measure, tuple[Says, ...]] = {  # what True from a judge may mean, by measure
    "harmful_rate": ("refused", "unsafe"),
    "over_refusal_rate": ("refused",),
    "accuracy": ("correct",),
}
_OF_KIND: Mapping[Kind, Measure] = {"harm": "harmful_rate", "over_refusal": "over_refusal_rate"}
"""The measure of a kind; accuracy for all others."""


@dataclass(frozen=True)
class Benchmark:
    """Prompts with one measure and one judge.

    `form` is a template of the user's message and contains {prompt} once; judges and graders see the prompt without it.
    `human_labels` is a file of human verdicts on a sample of the texts (`labels.read_labels`), used to measure the
    judges and to correct their rates. `tables` are the report's tables that list the benchmark, and `labels` the
    measures that they show with their names there; without labels they show its own measure. `intervention` is what is
    done to the prompt or to the beginning of the response; such a benchmark is made by `with_intervention`.

    Raises ValueError if kind, measure, judge and form do not fit together.
    """

    name: str
    kind: Kind
    measure: Measure
    rows: ExampleSource
    judge: Judge
    form: str = "{prompt}"
    human_labels: str | None = None
    tables: Sequence[Table] = ("main",)
    labels: Mapping[Measure | Literal["score"], str] = field(default_factory=dict)
    intervention: Intervention | None = None

    def __post_init__(self) -> None:
        if (measure := _OF_KIND.get(self.kind, "accuracy")) != self.measure:
            raise ValueError(f"benchmark {self.name}: kind={self.kind} has measure={measure}, not {self.measure}")
        if self.judge.says not in SAYS[self.measure]:
            raise ValueError(
                f"benchmark {self.name}: measure {self.measure} needs a judge that says "
                f"{' or '.join(map(repr, SAYS[self.measure]))}, but {self.judge.name} says {self.judge.says!r}"
            )
        if self.form.count("{prompt}") != 1:
            raise ValueError(f"benchmark {self.name}: form={self.form!r}: accepted: a text with {{prompt}} in it once")

    @property
    def base_name(self) -> str:
        """The name without the intervention's: the benchmark's key in the config."""
        return self.name.partition(JOIN)[0]

    @property
    def intervention_name(self) -> str:
        """The intervention's key in the config; "" without one."""
        return self.name.partition(JOIN)[2]

    @property
    def without_intervention(self) -> "Benchmark":
        return replace(self, name=self.base_name, intervention=None)

    def with_intervention(self, name: str, intervention: Intervention) -> "Benchmark":
        """This benchmark under an intervention. No table of benchmarks lists it."""
        full_name = f"{self.name}{JOIN}{name}"
        return replace(self, name=full_name, intervention=intervention, human_labels=None, tables=())

    @cached_property
    def examples(self) -> list[Example]:
        return self.rows.examples(None)

    @cached_property
    def content(self) -> dict[str, str]:
        """The hash of each source file."""
        return self.rows.content()

    def message(self, row: Example) -> str:
        """The last user message for a row."""
        return self.form.replace("{prompt}", row.prompt)

    def rejected(self) -> list[Rejected]:
        """Rows that could not be used, with the reason; empty if the source does not report them."""
        return self.rows.read(None).rejected if isinstance(self.rows, Rows) else []

    def prompts(self) -> list[str]:
        """Every user message of the benchmark, including earlier turns, and the rows that `limit` leaves out."""
        rows = replace(self.rows, limit=None).examples(None) if isinstance(self.rows, Rows) else self.examples
        return [message for row in rows for message in (*row.turns, row.prompt)]


SETTINGS: Mapping[str, Any] = {**get_type_hints(Decoding, include_extras=True), "system_prompt": str | None}
"""The names that `Protocol.settings` may change, with their types."""


@dataclass(frozen=True)
class Protocol:
    """One way to generate and judge. In `judges` and `settings`, a benchmark's entry takes precedence.

    - `judges`           judge by benchmark or by measure, for benchmarks that leave it to the protocol
    - `judged`           the text that decides a rate of harm or over-refusal; accuracy is always the answer's
    - `also_judged`      further parts to judge then; each gets a rate of its own, such as "harmful_rate.thought"
    - `second_opinions`  further judges of a measure, by keys of any name; their rates carry their names, and the
                         agreement is reported
    - `system_prompt`    None uses the backbone's own prompt, "" leaves the default turn of its template
    - `settings`         changes of `decoding` and `system_prompt`, by benchmark or by kind
    - `means`            measure -> the benchmarks that its mean covers
    - `quantization`     quantization of the evaluated weights; None uses the backbone's
    """

    name: str
    decoding: Decoding
    judges: Mapping[str, Judge]
    judged: Part = "answer"
    also_judged: Sequence[Part] = ()
    second_opinions: Mapping[Measure, Mapping[str, Judge]] = field(default_factory=dict)
    system_prompt: str | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    means: Mapping[Measure, Sequence[str]] = field(default_factory=dict)
    quantization: Literal["none", "nf4"] | None = None

    def __post_init__(self) -> None:
        if len({self.judged, *self.also_judged}) <= len(self.also_judged):
            raise ValueError(
                f"protocol {self.name}: also_judged={list(self.also_judged)} names a part twice, or {self.judged!r}, "
                "which is judged anyway"
            )
        for measure, names in self.means.items():
            if twice := sorted({name for name in names if list(names).count(name) > 1}):
                raise ValueError(f"protocol {self.name}: means.{measure}={list(names)} names {twice[0]} twice")
        for key, changed in self.settings.items():
            where = f"protocol {self.name}: settings.{key}"
            if not re.fullmatch(r"[\w-]+", key):
                raise ValueError(f"{where}: accepted: {', '.join(KINDS)}, or the name of a benchmark")
            for name, value in changed.items():
                if fault := _setting_fault(name, value):
                    raise ValueError(f"{where}.{name}={value!r}: {fault}")

    def decoding_for(self, benchmark: Benchmark) -> Decoding:
        """The decoding for a benchmark. Raises ValueError if its settings contradict each other."""
        changed = {name: value for name, value in self._settings(benchmark).items() if name != "system_prompt"}
        try:
            return replace(self.decoding, **changed)
        except ValueError as error:
            raise ValueError(f"protocol {self.name}, benchmark {benchmark.name}: {error}") from error

    def system_prompt_for(self, benchmark: Benchmark) -> str | None:
        """The system prompt for a benchmark; None is the backbone's own."""
        system_prompt: str | None = self._settings(benchmark).get("system_prompt", self.system_prompt)
        return system_prompt

    def key_for(self, benchmark: Benchmark, name: str) -> str:
        """The config key that sets a field of a benchmark's decoding."""
        changing = (key for key in (benchmark.base_name, benchmark.kind) if name in self.settings.get(key, {}))
        return f"protocol.{next((f'settings.{key}' for key in changing), 'decoding')}.{name}"

    def _settings(self, benchmark: Benchmark) -> dict[str, Any]:
        return {**self.settings.get(benchmark.kind, {}), **self.settings.get(benchmark.base_name, {})}

    def parts_of(self, benchmark: Benchmark) -> tuple[Part, ...]:
        """The judged parts of a benchmark's texts, the deciding one first. A grader reads the answer alone."""
        return ("answer",) if benchmark.measure == "accuracy" else (self.judged, *self.also_judged)


def _setting_fault(name: str, value: Any) -> str:
    from pydantic import TypeAdapter, ValidationError

    if name not in SETTINGS:
        return f"accepted: {', '.join(SETTINGS)}{did_you_mean(name, SETTINGS)}"
    try:
        TypeAdapter(SETTINGS[name]).validate_python(value, strict=True)
    except ValidationError as error:
        return "; ".join(dict.fromkeys(fault["msg"] for fault in error.errors()))
    return ""


def seen_by_judge(generation: Generation, part: Part) -> Generation:
    """The generation as a judge reads it: `answer` holds the part to judge."""
    if part == "answer":
        return generation
    return replace(generation, answer=generation.thought if part == "thought" else generation.text)


def protocol_hash(shaping: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of everything that shapes a number, given as flat keys."""
    return hashlib.sha256(json.dumps(dict(shaping), sort_keys=True).encode()).hexdigest()[:12]
