"""The JSON documents of a run, checked against the TypedDicts below when they are read.

The types name the keys that are read. A document without one of them is damaged. `checksum` is the SHA-256 of all
other keys, which `write_sealed` writes and `read_document` checks.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from alttrain.records.files import DamagedError, read_json, read_utf8, write_json

Count = Annotated[int, Meta(ge=0, lt=2**53)]
Label = Literal["harmful", "benign"]
LOSS = "loss"  # the column of logs/metrics.csv, and the name in every logger


class RunDocument(TypedDict):
    """run.json. `method` is "" for a free composition, and `digest` and `tag` for runs whose name has none."""

    run: str
    backbone: str
    dataset: str
    rewrite: str
    training: str
    seed: int
    method: str
    label: str
    order: Count
    tables: list[str]
    changed: dict[str, tuple[Any, Any]]
    digest: str
    tag: str


class RewriteDocument(TypedDict):
    """rewrite.json. `files` has the SHA-256 of the files of rows that were written with it."""

    labels: dict[str, Count]
    origins: dict[str, Count]
    written: Count
    files: dict[str, str]
    checksum: str


class TrainDocument(TypedDict):
    """train.json. `files` and `tokenizer` have the SHA-256 of the files that the training read and wrote."""

    steps: Count
    tokens: Count
    examples: Count
    seconds: float
    devices: Count
    device: str
    precision: str
    weights: str
    final_loss: float | None
    files: dict[str, str | None]
    tokenizer: dict[str, str | None]
    checksum: str


class MetricEntry(TypedDict):
    """A metric; null if it cannot be computed."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: Count
    undecided: Count
    truncated: Count


class InterventionEntry(TypedDict):
    """An intervention: its name, the benchmark it is on, and the number of texts that it does not apply to.

    `of_hash` is the protocol's hash of that benchmark without it.
    """

    name: str
    of: str
    of_hash: str
    left_out: Count
    settings: dict[str, Any]


class Provenance(TypedDict):
    """How numbers were made, the tables that show the benchmark, and the names of its measures there, if it has own."""

    measure: str
    protocol: str
    protocol_hash: str
    means: dict[str, list[str]]
    tables: list[str]
    labels: dict[str, str]
    intervention: InterventionEntry | None
    judges: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]


class DeciderEntry(TypedDict):
    """The judge and the part that decide the rate, the verdict that counts, and what the judge's True says."""

    judge: str
    part: str
    counted: bool
    says: Literal["refused", "correct", "unsafe"]


class OtherRate(DeciderEntry):
    """Another judge, or part, with the name of its rate, and the hash that its numbers would have if it decided."""

    metric: str
    protocol_hash: str


class TokenUse(TypedDict):
    """Mean tokens of the queries of an outcome: (value, low, high) of the thought, of the answer and of both."""

    outcome: str
    n: Count
    thought: tuple[float, float, float]
    answer: tuple[float, float, float]
    total: tuple[float, float, float]


class Analysis(TypedDict):
    """What metrics.json says beyond the metrics."""

    decides: DeciderEntry
    others: list[OtherRate]
    counts: dict[str, Count]
    tokens: list[TokenUse]


class MetricsDocument(TypedDict):
    """metrics.json. `made_from` has the SHA-256 of the files of rows; null for absent files.

    `unsettled` counts the texts without a verdict because of a server.
    """

    benchmark: str
    metrics: Annotated[list[MetricEntry], Meta(min_length=1)]
    provenance: Provenance
    analysis: Analysis
    contaminated: list[Any]
    unsettled: Count
    made_from: dict[str, str | None]
    checksum: str


def write_sealed(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document with its checksum."""
    document = json.loads(json.dumps(document))  # as it will be read
    write_json(path, {**document, "checksum": _checksum(document)})


def read_document(path: Path, schema: Any = dict[str, Any]) -> dict[str, Any]:
    """Read a document and check its checksum, if the schema has one. Raises DamagedError, also if there is no file."""
    try:
        document: dict[str, Any] = read_json(path, schema)
    except FileNotFoundError as error:
        raise DamagedError(path, "is not there", remedy="run the same command again") from error
    if "checksum" in document and document["checksum"] != _checksum(document):
        raise DamagedError(path, "its checksum is another: it is not what was written")
    return document


def read_if_there(path: Path, schema: Any = dict[str, Any]) -> dict[str, Any]:
    """Return what `read_document` does, or {} if there is no file."""
    return read_document(path, schema) if path.exists() else {}


def _checksum(document: Mapping[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_metrics(path: Path) -> dict[str, Any]:
    """Read metrics.json, as `read_document` does."""
    return read_document(path, MetricsDocument)


def read_losses(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (step, row) of each row of logs/metrics.csv that has a step. Raises DamagedError, also without a file."""
    try:
        rows = csv.DictReader(io.StringIO(read_utf8(path), newline=""))
        steps = [(int(row["step"]), row) for row in rows if row.get("step")]
        for _, row in steps:
            float(row.get(LOSS) or 0)
        return steps
    except DamagedError:
        raise
    except (FileNotFoundError, csv.Error, TypeError, ValueError) as error:
        raise DamagedError(path, f"not steps and losses ({error})") from error
