"""Run folders -> judged benchmarks, their rows, and one tidy table of all numbers.

`results("outputs")` is the table behind a report: one row for each run, benchmark and measure, with `n`, `undecided`,
`truncated`, the value and its 95 % interval. `Evaluation` reads the files of rows, and only the fields that it needs.
"""

import copy
import hashlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import pandas as pd
import yaml

from alttrain.config import name_fault
from alttrain.evaluation.adherence import Adherence, Continuation, answer_refused, cause_of
from alttrain.evaluation.interventions import JOIN
from alttrain.evaluation.protocol import Part
from alttrain.records import (
    DamagedError,
    Generation,
    Judgement,
    Label,
    Names,
    checksum,
    parse_rows,
    read_bytes,
    read_document,
    read_metrics,
    write_text,
)
from alttrain.report.escaping import literal, read_literal
from alttrain.report.measures import MEASURES, base, by_judge
from alttrain.report.processes import MANY, second_process

log = logging.getLogger(__name__)

METRICS = [
    "run", "backbone", "dataset", "rewrite", "training", "seed", "benchmark", "metric", "value", "low", "high", "n",
    "undecided", "truncated", "protocol", "protocol_hash", "method", "changed", "judge",
]  # fmt: skip
"""The columns of metrics.csv. `judge` is empty for a number that depends on none."""
COLUMNS = [*METRICS, "order", "called"]
"""The columns of `results`. `order` is the method's place in tables, `called` the measure's name there."""
TIDY = [*COLUMNS, "measure", "setting"]
"""The columns of `tidy`. Unlike `metric`, `measure` does not name the judge. `setting` is the evaluation's."""
SAMPLES = [
    "run", "backbone", "method", "seed", "benchmark", "protocol", "id", "sample", "label", "category", "prompt",
    "thought", "answer", "closed", "finish", "thought_tokens", "answer_tokens", "measure", "judge", "part", "says",
    "verdict", "counts", "understanding", "assessment", "continuation", "ordered", "refuses",
]  # fmt: skip
"""The columns of `samples`."""
TEXTS = [
    "run", "backbone", "dataset", "rewrite", "training", "benchmark", "metric", "method", "changed", "baseline",
    "protocol", "protocol_hash", "table", "measure", "called", "kind", "unit", "published_why", "source", "note",
    "lacking", "evaluated", "judge", "judges", "category", "setting",
]  # fmt: skip
"""Text columns in a report's CSV files."""
NO_TRAIN = "no_train"  # the method that is the unmodified backbone
NAMING = ("backbone", "dataset", "rewrite", "training", "method", "tag", "digest")  # what is in a run's name
LAST = 10**6  # the order of a row that has none of its own
JUDGED = ("judgements.jsonl", "judges.json")  # what the judge stage writes before metrics.json
TRIES, PAUSE_S = 20, 0.05  # how often metrics.json is read while these are written, and the seconds between
SHOWN_KEYS, LONGEST = 2, 24  # number of changed keys that a label names, and of characters of a value that it shows
NAMES_JUDGE = (".judge.name", ".judge._target_")  # what a column's heading says already
WEIGHTS, DECODING = "backbone.source", "protocol.decoding."  # a changed key that shapes no hash; what names leave out
REMEDY = "run the judge stage again"
Row = TypeVar("Row")
Made = tuple[str, str, str]  # how a number was made: (protocol, benchmark, protocol hash)
Text = tuple[str, int]  # the key of a verdict: (id of the prompt, sample)
Verdicts = dict[Text, bool | None]


class Tokens(msgspec.Struct, gc=False):
    """A row of generations.jsonl, without its texts."""

    id: str
    label: Label
    thought_tokens: int
    answer_tokens: int
    sample: int
    finish: Literal["stop", "length", "error"]
    category: str


class Read(Tokens, array_like=True, gc=False):
    """All that is known of a text, without its words: its row, the deciding judgement, and its thought's record.

    - `verdict`  the deciding verdict; None if undecided
    - `says`     what a judgement of True means (`Decides.says`)
    - `refused`  whether the answer refused; None if undecided
    - `adheres`  and the fields below are the thought's (`Adherence`)
    """

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
    def of(cls, row: Any, judged: Judgement, thought: Adherence, says: str) -> "Read":
        """What is known of a text whose row has the fields of `Tokens`."""
        verdicts: Any = judged.verdict, judged.value, says, answer_refused(says, judged.verdict, thought)
        return cls(*_OF_ROW(row), *verdicts, *_OF_THOUGHT(thought))

    @property
    def generated(self) -> bool:
        """Whether there is a text: the server did not refuse the prompt."""
        return self.finish != "error"

    @property
    def cause(self) -> str | None:
        """Why the outcome is wrong (`cause_of`); None if undecided."""
        return cause_of(self.label, self.assessment, self.refused)


_OF_ROW, _OF_THOUGHT = attrgetter(*Tokens.__struct_fields__), attrgetter(*Read.__struct_fields__[11:])
_PACKED = msgspec.msgpack.Decoder(list[Read])


class Decides(NamedTuple):
    """The judge and the part that decide a benchmark's measure.

    `counted` is the verdict that counts towards it, and `says` what the judge's True means: correct, unsafe or refused.
    """

    measure: str
    judge: str
    part: Part
    counted: bool
    says: str


def _decides(measure: str, told: Mapping[str, Any]) -> Decides:
    """What decides a measure, from an entry of metrics.json."""
    return Decides(measure, told["judge"], told["part"], told["counted"], told["says"])


@cache
def option(group: str, name: str) -> Mapping[str, Any]:
    """The content of an option of our configs; {} if there is none of this name."""
    path = resources.files("alttrain.conf") / group / f"{name}.yaml"
    return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}


class Evaluation:
    """One judged benchmark of one run, whose rows are in `folder`.

    - `names`                   run.json; `run` is the run's name, and `seed` its seed
    - `method`                  what the run's method is called everywhere (`name_methods`)
    - `judged`                  metrics.json; `measure` is the benchmark's own measure, the first in it
    - `made`                    how the numbers were made; numbers made in different ways never share a column
    - `setting`                 the settings that tell this way from others of the same name (`name_settings`)
    - `provenance`, `analysis`  of metrics.json
    - `intervention`            its name and settings; empty without one
    - `tables`, `labels`        the tables that show the benchmark, and the names of its measures there, if it has own
    - `decides`                 what decides the measure; of an agreement, what decides the benchmark's
    - `judge`                   who decides it. Of an agreement, both judges
    - `read`                    what was read of the texts, by what decides
    """

    def __init__(self, names: dict[str, Any], folder: Path, judged: dict[str, Any]) -> None:
        self.names, self.folder, self.judged = names, folder, judged
        self.run, self.seed = str(names["run"]), int(names["seed"])
        self.method = method_name(names)
        self.benchmark, self.measure = str(judged["benchmark"]), str(judged["metrics"][0]["metric"])
        self.provenance: dict[str, Any] = judged["provenance"]
        self.analysis: dict[str, Any] = judged["analysis"]
        self.intervention: Mapping[str, Any] = self.provenance["intervention"] or {}
        self.protocol = str(self.provenance["protocol"])
        self.made: Made = self.protocol, self.benchmark, str(self.provenance["protocol_hash"])
        self.setting = ""
        self.tables: Sequence[str] = self.provenance["tables"]
        self.labels: Mapping[str, str] = self.provenance["labels"]
        self.decides = _decides(self.measure, self.analysis["decides"])
        self.judge = self.decides.judge
        self.read: dict[Decides, bytes] = {}  # packed, since rows take ten times as much memory

    def called(self, measure: str) -> str:
        """A measure's name in tables."""
        return self.labels.get(measure) or MEASURES[base(measure)].label if base(measure) in MEASURES else measure

    def metric(self, name: str) -> dict[str, Any] | None:
        """A metric by name, as in metrics.json."""
        return next((metric for metric in self.judged["metrics"] if metric["metric"] == name), None)

    def beside(self) -> dict[str, "Evaluation"]:
        """The metrics by other judges or of other parts, and agreements, each as an evaluation with it as its measure.

        `made` is as if that judge and part decided, so that a judge's numbers share a column whether it decides or not.
        """
        metrics, found = {one["metric"]: one for one in self.judged["metrics"]}, dict[str, Evaluation]()
        for one in self.analysis["others"]:
            judge, made = one["judge"], one["protocol_hash"]
            alike = one["part"] == self.decides.part
            decides = _decides(self.measure if alike else f"{self.measure}.{one['part']}", one)
            found[one["metric"]] = self._view(metrics[one["metric"]], decides.measure, made, judge, decides)
            if alike:
                names, hashes = zip(*sorted([(self.judge, self.made[2]), (judge, made)]), strict=True)
                both = " ".join(hashes), " and ".join(names)
                found[f"kappa.{judge}"] = self._view(metrics[f"kappa.{judge}"], "kappa", *both, self.decides)
        return found

    def _view(
        self, metric: dict[str, Any], measure: str, protocol_hash: str, judge: str, decides: Decides
    ) -> "Evaluation":
        """This evaluation with one of its metrics as its measure."""
        view = copy.copy(self)
        view.measure, view.judge, view.decides = measure, judge, decides
        view.made = *self.made[:2], protocol_hash
        view.analysis = {**self.analysis, "others": []}
        view.judged = {**self.judged, "metrics": [{**metric, "metric": measure}]}
        if decides.judge != self.judge:  # published figures are of the judge that decides
            changed = {**self.provenance["changed"], "judge": (self.judge, judge)}
            view.provenance = {**self.provenance, "changed": changed}
        return view

    def judge_of(self, metric: str) -> str:
        """The judge that a metric depends on; "" if none."""
        return self.judge if by_judge(metric) else ""

    def judgements(self) -> list[Judgement]:
        """All verdicts of all judges."""
        return self._rows("judgements.jsonl", Judgement)

    def deciding(self) -> dict[Text, Judgement]:
        """The judgement of each text that decides the measure."""
        decides = self.decides.judge, self.decides.part
        return {(row.id, row.sample): row for row in self.judgements() if (row.judge, row.part) == decides}

    def counts(self, verdict: bool | None) -> bool | None:
        """Whether a text with this verdict of the deciding judge counts towards the measure; None if undecided."""
        return verdict if verdict is None else verdict is self.decides.counted

    def verdicts(self) -> Verdicts:
        """Whether each text counts towards the measure."""
        found: Mapping[Text, Any] = self.texts() if self.decides in self.read else self.deciding()
        return {text: self.counts(one.verdict) for text, one in found.items()}

    def texts(self) -> dict[Text, Read]:
        """Each text without its words, with what was read of it. Raises DamagedError if a file lacks its row.

        The files are read once, and later changes to them are not noticed.
        """
        if self.decides not in self.read:
            self.read[self.decides] = self.packed()
        return {(read.id, read.sample): read for read in _PACKED.decode(self.read[self.decides])}

    def packed(self) -> bytes:
        """What `texts` returns, as it is kept in `read`."""
        thoughts = {(row.id, row.sample): row for row in self._rows("adherence.jsonl", Adherence)}
        judged = self.deciding()
        rows = {(row.id, row.sample): row for row in self.tokens()}
        for name, there in (("judgements.jsonl", judged), ("adherence.jsonl", thoughts)):
            if lacking := rows.keys() - there.keys():
                raise DamagedError(self.folder / name, f"has no row for {min(lacking)}", remedy=REMEDY)
        read = [Read.of(row, judged[text], thoughts[text], self.decides.says) for text, row in rows.items()]
        return msgspec.msgpack.encode(read)

    def generations(self) -> list[Generation]:
        """Each text with all its fields."""
        return self._rows("generations.jsonl", Generation)

    def tokens(self) -> list[Tokens]:
        """The token counts of each text."""
        return self._rows("generations.jsonl", Tokens)

    def whole(self, name: str, row_type: type[Row], wanted: Sequence[bool]) -> list[Row]:
        """The selected rows of a file with all their fields. `wanted` has one entry per row."""
        if not any(wanted):
            return []
        lines = filter(bytes.strip, self._content(name).split(b"\n"))
        chosen = b"\n".join(line for line, one in zip(lines, wanted, strict=True) if one)
        return parse_rows(chosen, row_type, self.folder / name)

    def _rows(self, name: str, row_type: type[Row]) -> list[Row]:
        return parse_rows(self._content(name), row_type, self.folder / name)

    def _content(self, name: str) -> bytes:
        """The content of a file of rows. Raises DamagedError if metrics.json was made from another version of it."""
        path = self.folder / name
        try:
            content = read_bytes(path)
        except FileNotFoundError as error:
            raise DamagedError(path, "is not there", remedy=REMEDY) from error
        if hashlib.sha256(content).hexdigest() != self.judged["made_from"].get(name):
            raise DamagedError(path, "is not what metrics.json was made from", remedy=REMEDY)
        return content


def evaluations(runs: Path, left_out: Collection[Path] = ()) -> list[Evaluation]:
    """All judged benchmarks of all run folders except those in `left_out`, sorted by run and benchmark.

    A run with a damaged file, or with a name that would place a report file outside its folder, is also left out and
    named in the log.
    """
    found: list[Evaluation] = []
    for record in sorted(path for path in runs.glob("*/run.json") if path.parent not in left_out):
        try:
            found += evaluations_of(record.parent)
        except DamagedError as error:
            warn_left_out(record.parent, error)
    name_methods(found)
    name_settings(found)
    return found


def read_texts(judged: Sequence[Evaluation]) -> None:
    """Read the rows of judged benchmarks. If they are many, a second process reads half of them."""
    with second_process([one.packed for one in judged[1::2]], len(judged) >= MANY) as results:
        packed = [one.packed() for one in judged[::2]], results()
    for place, found in enumerate(packed):
        for one, own in zip(judged[place::2], found, strict=True):
            one.read[one.decides] = own


def evaluations_of(run: Path) -> list[Evaluation]:
    """The judged benchmarks of a run's folder, without those that are being judged. Raises DamagedError."""
    names, found = read_document(run / "run.json", Names), list[Evaluation]()
    _check_names(run / "run.json", run=names["run"], backbone=names["backbone"])
    for path in sorted(run.glob("evaluation/*/metrics.json")):
        if judged := _metrics(path):
            found.append(one := Evaluation(names, path.parent, judged))
            _check_names(path, benchmark=one.benchmark.replace(JOIN, "_"), protocol=one.protocol)
    return found


def _metrics(path: Path) -> dict[str, Any]:
    """metrics.json; {}, with a warning, if the verdicts remain others than those that it was made from."""
    for again in range(TRIES):
        time.sleep(PAUSE_S if again else 0)
        judged = read_metrics(path)
        if all(checksum(path.with_name(name)) == judged["made_from"].get(name) for name in JUDGED):
            return judged
    log.warning("report    left out, being written or damaged (its command judges it again): %s", path.parent)
    return {}


def method_name(names: Mapping[str, Any]) -> str:
    """What a run's method is called everywhere, from run.json: its label and its changes."""
    untrained = not names["method"] and names["rewrite"] == names["training"] == "none"
    label = option("method", NO_TRAIN)["method"]["label"] if untrained else names["label"]
    return f"{label}, changed: {changes(changed)}" if (changed := names["changed"]) else str(label)


def name_methods(found: Sequence[Evaluation]) -> None:
    """Add to methods of one backbone that are called the same what distinguishes them: data, training, tag or hash."""
    alike = defaultdict[tuple[str, str], list[Evaluation]](list)
    for one in found:
        alike[str(one.names["backbone"]), one.method].append(one)
    for own in alike.values():
        parts = [[one.names[key] for key in ("dataset", "training", "tag", "digest", "method")] for one in own]
        differs = [len(set(values)) > 1 for values in zip(*parts, strict=True)]
        for one, values in zip(own, parts, strict=True):
            told = [value for value, tells in zip(values, differs, strict=True) if tells and value]
            one.method = " ".join([one.method, *told])


def name_settings(found: Sequence[Evaluation]) -> None:
    """Say of evaluations of one benchmark that a protocol made in several ways in which settings the ways differ."""
    alike = defaultdict[tuple[str, str], dict[str, list[Evaluation]]](lambda: defaultdict(list))
    for one in found:
        alike[one.made[:2]][one.made[2]].append(one)
    for ways in alike.values():
        changes_of = {way: _shared([one.provenance["changed"] for one in own]) for way, own in ways.items()}
        published = {key: _published(pair[0]) for changed in changes_of.values() for key, pair in changed.items()}
        whole = {way: published | changed for way, changed in changes_of.items()}
        same = {*_shared([*whole.values()]), WEIGHTS}
        for way, own in ways.items():
            differ = {key.removeprefix(DECODING): pair for key, pair in whole[way].items() if key not in same}
            differ = {key: pair for key, pair in differ.items() if not key.endswith(NAMES_JUDGE)}
            for one in own:
                one.setting = changes(differ)


def _published(value: Any) -> tuple[Any, Any]:
    """The pair of a setting that was not changed. A text may depend on the backbone, and is not shown."""
    return value, "published" if isinstance(value, str) and " " in value else value


def _shared(found: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, Sequence[Any]]:
    """The changes that are in all of these, by key."""
    first, *others = found
    return {key: pair for key, pair in first.items() if all(key in one and one[key][1] == pair[1] for one in others)}


def _check_names(path: Path, **names: str) -> None:
    """Raise DamagedError for names that cannot be part of a report's file names."""
    for key, name in names.items():
        if fault := name_fault(name):
            raise DamagedError(path, f"{key}={name!r}: {fault}", remedy="delete the folder, or put the name right")


def warn_left_out(run: Path, error: DamagedError) -> None:
    """Log which run is left out of the report, and why."""
    log.warning("report    left out %s: %s", run.name, error)


def results(output_dir: str | Path = "outputs") -> pd.DataFrame:
    """All numbers of an output folder: a row for each run, benchmark and measure, sorted by run and benchmark.

    Rates are shares of 1. `value`, `low` and `high` are nan if every text is undecided. Raises FileNotFoundError if the
    folder has no runs/.
    """
    return tidy(evaluations(_runs(output_dir)))[COLUMNS]


def _runs(output_dir: str | Path) -> Path:
    runs = Path(output_dir) / "runs"
    if not runs.is_dir():
        raise FileNotFoundError(f"{runs} is not there: give the output folder of your runs, such as outputs")
    return runs


def samples(output_dir: str | Path = "outputs") -> pd.DataFrame:
    """Every judged text of an output folder: a row for each run, benchmark, prompt and sample (`SAMPLES`: the columns).

    `verdict` is the deciding judge's, whose True means `says`; `counts` says whether the text counts towards the
    benchmark's own measure. Both are None if undecided. The columns from `understanding` on are what the offline parser
    reads in the thought. Raises FileNotFoundError if the folder has no runs/.
    """
    rows = []
    for one in evaluations(_runs(output_dir)):
        read, decides = one.texts(), one.decides
        made = {**one.names, "method": one.method, "benchmark": one.benchmark, "protocol": one.protocol}
        made |= decides._asdict()
        for text in one.generations():
            known = read[text.id, text.sample]
            verdicts = {"verdict": known.verdict, "counts": one.counts(known.verdict)}
            rows.append(msgspec.structs.asdict(known) | made | vars(text) | verdicts)
    return pd.DataFrame(rows, columns=SAMPLES)


def tidy(judged: Iterable[Evaluation]) -> pd.DataFrame:
    """The numbers of judged benchmarks, in the given order."""
    rows = []
    for one in judged:
        beside, changed = one.beside(), changes(one.names["changed"])
        for metric in one.judged["metrics"]:
            name = metric["metric"]
            own = beside.get(name)  # by another judge, or of another part
            judge, measure = (own.judge, own.measure) if own else (one.judge_of(name), name)
            made = dict(zip(("protocol", "benchmark", "protocol_hash"), (own or one).made, strict=True))
            names = {**one.names, "method": one.method, "changed": changed, "called": one.called(name)}
            rows.append({**names, **metric, **made, "setting": one.setting, "judge": judge, "measure": measure})
    return pd.DataFrame(rows, columns=TIDY).astype(dict.fromkeys(("value", "low", "high"), float))


def changes(changed: Mapping[str, Sequence[Any]]) -> str:
    """The changes from the published method: up to two keys with this run's values, and the number of further keys."""
    values = {key: own if isinstance(own, str) else json.dumps(own) for key, (_, own) in changed.items()}
    ordered = sorted(
        values.items(), key=lambda pair: (pair[0].endswith("._target_"), not pair[0].endswith(".name"), pair)
    )
    shown = [f"{k}={v if len(v) <= LONGEST else v[:LONGEST] + '…'}" for k, v in ordered[:SHOWN_KEYS]]
    more = len(changed) - SHOWN_KEYS
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV. A nan is an empty cell, and no text can act as a formula."""
    words = frame.select_dtypes(exclude=["number", "bool"]).columns
    frame = frame.assign(**{name: frame[name].map(literal) for name in words})
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""])
    return frame.assign(**{name: frame[name].fillna("").map(read_literal) for name in TEXTS if name in frame})
