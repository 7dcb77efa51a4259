"""One judged benchmark of one run: its files of rows, read as far as they are needed, and its metrics by each judge."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

import msgspec

from alttrain.evaluation.adherence import Adherence, Continuation, answer_refused, cause_of
from alttrain.evaluation.protocol import Part
from alttrain.records import DamagedError, Generation, Judgement, Label, parse_rows, read_bytes, read_json, subject_of
from alttrain.report.escaping import one_line
from alttrain.report.measures import MEASURES, base_measure, by_judge

AGREEMENTS = "structure.json"
REMEDY = "run the judge stage again"
Row = TypeVar("Row")
BenchmarkKey = tuple[str, str, str]  # (protocol, benchmark, protocol hash)
Text = tuple[str, int]  # the key of a verdict: (id of the prompt, sample)
Verdicts = dict[tuple[str, str, int], bool | None]  # by (subject, id of the prompt, sample)


class Tokens(msgspec.Struct, gc=False):
    """A row of generations.jsonl, without its texts."""

    id: str
    label: Label
    thought_tokens: int
    answer_tokens: int
    sample: int
    finish: Literal["stop", "length", "error"]
    category: str


class Asked(Tokens, gc=False):
    """A row of generations.jsonl with what was asked."""

    prompt: str
    turns: tuple[str, ...] = ()
    goal: str = ""


class TextRecord(Tokens, array_like=True, gc=False):
    """All that is known of a text, without its words: its row, the deciding judgement, and its thought's record.

    - `subject`  what the user is after (`subject_of`)
    - `verdict`  the deciding verdict; None if undecided
    - `says`     what a judgement of True means (`Decider.says`)
    - `refused`  whether the answer refused, or what else the protocol judges (`answer_refused`); None if undecided
    - `adheres`  and the fields below are the thought's (`Adherence`)
    """

    subject: str
    verdict: bool | None
    value: float | None
    says: str
    refused: bool | None
    adheres: bool
    understanding: bool
    assessment: Label | None
    continuation: Continuation | None
    ordered: bool
    consistent: bool | None
    answer_consistent: bool | None
    position_words: int | None
    position_share: float | None
    refuses: bool | None

    @classmethod
    def of(cls, row: Any, judgement: Judgement, thought: Adherence, says: str) -> "TextRecord":
        """What is known of a text whose row has the fields of `Asked`."""
        verdict, value = judgement.verdict, judgement.value
        of_both: Any = subject_of(row), verdict, value, says, answer_refused(says, verdict, thought)
        return cls(*_OF_ROW(row), *of_both, *_OF_THOUGHT(thought))

    @property
    def item(self) -> tuple[str, str]:
        """The prompt, with what its cluster is (`statistics.cluster_of`)."""
        return self.subject, self.id

    @property
    def generated(self) -> bool:
        """Whether there is a text: the server did not refuse the prompt."""
        return self.finish != "error"

    @property
    def truncated(self) -> bool:
        return self.finish == "length"

    @property
    def cause(self) -> str | None:
        """Why the outcome is wrong (`cause_of`); None if undecided."""
        return cause_of(self.label, self.assessment, self.refused)


class AgreedField(TypedDict):
    """A field of structure.json: the thoughts, the share on which judge and parser agree, and kappa."""

    n: int
    agreed: dict[str, float] | None
    kappa: dict[str, float] | None


class Agreement(TypedDict):
    """What structure.json has of a judge (`StructureAgreement.report`)."""

    undecided: int
    fields: dict[str, AgreedField]


_OF_ROW, _OF_THOUGHT = attrgetter(*Tokens.__struct_fields__), attrgetter(*TextRecord.__struct_fields__[12:])
_PACKED = msgspec.msgpack.Decoder(list[TextRecord])


class Decider(NamedTuple):
    """The judge and the part that decide a benchmark's measure.

    `counted` is the verdict that counts towards it, and `says` what the judge's True means: correct, unsafe or refused.
    """

    measure: str
    judge: str
    part: Part
    counted: bool
    says: str


def _decides(measure: str, entry: Mapping[str, Any]) -> Decider:
    return Decider(measure, entry["judge"], entry["part"], entry["counted"], entry["says"])


class Evaluation:
    """One judged benchmark of one run, whose rows are in `folder`.

    - `names`                   run.json; `run` is the run's name, and `seed` its seed
    - `method`                  what the run's method is called everywhere (`name_methods`)
    - `metrics_json`            its content; `measure` is the benchmark's own measure, the first in it
    - `key`                     how the numbers were made; those with different keys never share a column
    - `setting`                 the settings in which this way differs from others of the same name (`name_settings`)
    - `provenance`, `analysis`  of metrics.json
    - `intervention`            its name and settings; empty without one
    - `served`                  the models that answered for each judge, or which weights a guard had
    - `tables`, `labels`        the tables that show the benchmark, and the names of its measures there, if it has any
    - `decider`                 what decides the measure; of an agreement, what decides the benchmark's measure
    - `judge`                   the judge that decides it; of an agreement, both judges
    - `packed_texts`            what was read of the texts, by what decides
    """

    def __init__(self, names: dict[str, Any], folder: Path, judged: dict[str, Any]) -> None:
        self.names, self.folder, self.metrics_json = names, folder, judged
        self.run, self.seed = str(names["run"]), int(names["seed"])
        self.benchmark, self.measure = str(judged["benchmark"]), str(judged["metrics"][0]["metric"])
        self.provenance: dict[str, Any] = judged["provenance"]
        self.analysis: dict[str, Any] = judged["analysis"]
        self.intervention: Mapping[str, Any] = self.provenance["intervention"] or {}
        self.protocol = str(self.provenance["protocol"])
        self.key: BenchmarkKey = self.protocol, self.benchmark, str(self.provenance["protocol_hash"])
        self.method = self.setting = ""
        self.served: Mapping[str, Sequence[str]] = judged.get("served", {})
        self.tables: Sequence[str] = self.provenance["tables"]
        self.labels = {measure: one_line(label) for measure, label in self.provenance["labels"].items()}
        self.decider = _decides(self.measure, self.analysis["decides"])
        self.judge = self.decider.judge
        self.packed_texts: dict[Decider, bytes] = {}  # packed, since rows take ten times as much memory

    def names_of_row(self) -> dict[str, str]:
        """The columns that name this evaluation in the rows of CSV files."""
        protocol, benchmark, digest = self.key
        names = {"run": self.run, "benchmark": benchmark, "protocol": protocol}
        return names | {"protocol_hash": digest, "judge": self.judge}

    def label_of(self, measure: str) -> str:
        known = MEASURES.get(base_measure(measure))
        return self.labels.get(measure) or known.label if known else measure

    def metric(self, name: str) -> dict[str, Any] | None:
        return next((metric for metric in self.metrics_json["metrics"] if metric["metric"] == name), None)

    def views(self) -> dict[str, "Evaluation"]:
        """The metrics by other judges or of other parts, and agreements, each as an evaluation with it as its measure.

        `key` is as if that judge and part decided: a judge's numbers share a column whether it decides or not.
        """
        metrics, views = {metric["metric"]: metric for metric in self.metrics_json["metrics"]}, dict[str, Evaluation]()
        for entry in self.analysis["others"]:
            name, judge, digest = entry["metric"], entry["judge"], entry["protocol_hash"]
            same_part = entry["part"] == self.decider.part
            decides = _decides(self.measure if same_part else f"{self.measure}.{entry['part']}", entry)
            if name in metrics:
                views[name] = self._view(metrics[name], decides.measure, digest, judge, decides)
            if same_part and f"kappa.{judge}" in metrics:
                judges, digests = zip(*sorted([(self.judge, self.key[2]), (judge, digest)]), strict=True)
                both = " ".join(digests), " and ".join(judges)
                views[f"kappa.{judge}"] = self._view(metrics[f"kappa.{judge}"], "kappa", *both, self.decider)
        return views

    def _view(
        self, metric: dict[str, Any], measure: str, protocol_hash: str, judge: str, decides: Decider
    ) -> "Evaluation":
        view = copy.copy(self)
        view.measure, view.judge, view.decider = measure, judge, decides
        view.key = *self.key[:2], protocol_hash
        view.analysis = {**self.analysis, "others": []}
        view.metrics_json = {**self.metrics_json, "metrics": [{**metric, "metric": measure}]}
        if decides.judge != self.judge:  # published figures are of the judge that decides
            changed = {**self.provenance["changed"], "judge": (self.judge, judge)}
            view.provenance = {**self.provenance, "changed": changed}
        return view

    def judge_of(self, metric: str) -> str:
        """The judge that a metric depends on; "" if none."""
        return self.judge if by_judge(metric) else ""

    def parser_agreement(self) -> dict[str, "Agreement"]:
        """Each judge of structure's agreement with the offline parser (structure.json); empty without such a judge."""
        if self.metrics_json["made_from"].get(AGREEMENTS) is None:
            return {}
        self._content(AGREEMENTS)
        agreements: dict[str, Agreement] = read_json(self.folder / AGREEMENTS, dict[str, Agreement], REMEDY)
        return agreements

    def judgements(self) -> list[Judgement]:
        return self._rows("judgements.jsonl", Judgement)

    def counts(self, verdict: bool | None) -> bool | None:
        """Whether a text with this verdict of the deciding judge counts towards the measure; None if undecided."""
        return verdict if verdict is None else verdict is self.decider.counted

    def verdicts(self, texts: Mapping[Text, TextRecord] | None = None) -> Verdicts:
        """Whether each text counts towards the measure. `texts` are those of `texts()`, if they are at hand."""
        read_texts = self.texts() if texts is None else texts
        return {(*read.item, read.sample): self.counts(read.verdict) for read in read_texts.values()}

    def texts(self) -> dict[Text, TextRecord]:
        """Each text without its words, with what was read of it. Raises DamagedError if a file lacks its row.

        The files are read once, and later changes to them are not noticed.
        """
        if self.decider not in self.packed_texts:
            self.packed_texts[self.decider] = self.pack_texts()
        return {(read.id, read.sample): read for read in _PACKED.decode(self.packed_texts[self.decider])}

    def pack_texts(self) -> bytes:
        """What `texts` returns, in the form that `packed_texts` holds."""
        thoughts = {(row.id, row.sample): row for row in self._rows("adherence.jsonl", Adherence)}
        decides = self.decider.judge, self.decider.part
        judgements = {(row.id, row.sample): row for row in self.judgements() if (row.judge, row.part) == decides}
        rows = {(row.id, row.sample): row for row in self.asked()}
        for name, file_rows in (("judgements.jsonl", judgements), ("adherence.jsonl", thoughts)):
            if lacking := rows.keys() - file_rows.keys():
                raise DamagedError(self.folder / name, f"has no row for {min(lacking)}", remedy=REMEDY)
        read = [TextRecord.of(row, judgements[text], thoughts[text], self.decider.says) for text, row in rows.items()]
        return msgspec.msgpack.encode(read)

    def generations(self) -> list[Generation]:
        return self._rows("generations.jsonl", Generation)

    def asked(self) -> list[Asked]:
        return self._rows("generations.jsonl", Asked)

    def select_rows(self, name: str, row_type: type[Row], wanted: Sequence[bool]) -> list[Row]:
        """The selected rows of a file with all their fields. `wanted` has one entry per row."""
        if not any(wanted):
            return []
        lines = filter(bytes.strip, self._content(name).split(b"\n"))
        selected = b"\n".join(line for line, is_wanted in zip(lines, wanted, strict=True) if is_wanted)
        return parse_rows(selected, row_type, self.folder / name)

    def _rows(self, name: str, row_type: type[Row]) -> list[Row]:
        return parse_rows(self._content(name), row_type, self.folder / name)

    def _content(self, name: str) -> bytes:
        """The content of a file of rows. Raises DamagedError if metrics.json was made from another version of it."""
        path = self.folder / name
        try:
            content = read_bytes(path)
        except FileNotFoundError as error:
            raise DamagedError(path, "is not there", remedy=REMEDY) from error
        if hashlib.sha256(content).hexdigest() != self.metrics_json["made_from"].get(name):
            raise DamagedError(path, "is not what metrics.json was made from", remedy=REMEDY)
        return content
