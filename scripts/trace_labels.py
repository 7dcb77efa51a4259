"""Read tests/trace_labels.jsonl: reasoning traces that people labelled sentence by sentence.

A line has `id`, `source`, `split`, `sha256` of the thought, `sentences` (start, end, letters of `LETTERS`), `verdict`,
`decision` and `main` (the number of the sentence that states the verdict best). Thoughts that were written for this
project are in the file. The others are read from a data folder by id and checked by hash.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS = Path(__file__).parents[1] / "tests" / "trace_labels.jsonl"
SHARED = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class LabelledTrace:
    """One labelled trace; `letters` has a string for each of `spans`. `decision` is refuse, answer or none."""

    id: str
    source: str
    split: str
    thought: str
    spans: tuple[tuple[int, int], ...]
    letters: tuple[str, ...]
    verdict: str
    decision: str
    main: int | None

    @property
    def texts(self) -> list[str]:
        """Its sentences."""
        return [self.thought[start:end] for start, end in self.spans]


def labelled_traces(path: Path = LABELS, shared: Path = SHARED) -> list[LabelledTrace]:
    """The traces of a file of labels. Raises ValueError if a thought is absent or has another hash."""
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    texts = {} if all("thought" in row for row in rows) else shared_thoughts(shared)
    return [_joined(row, texts) for row in rows]


def _joined(row: dict[str, Any], texts: dict[str, str]) -> LabelledTrace:
    thought = row.get("thought", texts.get(row["id"]))
    if thought is None or hashlib.sha256(thought.encode()).hexdigest() != row["sha256"]:
        raise ValueError(f"{row['id']}: the thought is {'absent' if thought is None else 'another than was labelled'}")
    return LabelledTrace(
        id=row["id"],
        source=row["source"],
        split=row["split"],
        thought=thought,
        spans=tuple((start, end) for start, end, _ in row["sentences"]),
        letters=tuple(letters for *_, letters in row["sentences"]),
        verdict=row["verdict"],
        decision=row["decision"],
        main=row["main"],
    )


def shared_thoughts(shared: Path) -> dict[str, str]:
    """Thoughts by id: those of STAR-1, of Sky-T1 on maths, and of a tool caller."""
    found = {}
    star1 = json.loads((shared / "star1" / "STAR-1.json").read_text(encoding="utf-8"))
    for row in star1:
        found[f"star1/{row['id']}"] = row["response"].removeprefix("<think>").partition("</think>")[0].strip()
    traces = shared / "benign_traces"
    for number, row in enumerate(_lines(traces / "skyt1_27b_minerva_math.jsonl")):
        thought = row["code"][0].rpartition("<|begin_of_thought|>")[2].partition("<|end_of_thought|>")[0]
        found[f"minerva/{number}"] = thought.strip("\n")
    for number, row in enumerate(_lines(traces / "reason_tool_use_demo_50.jsonl")):
        said = [part["value"] for part in row["messages"][2]["content"] if part["type"] == "reasoning"]
        found[f"tool/{number}"] = "".join(said[:1]).strip()
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.open(encoding="utf-8"))
