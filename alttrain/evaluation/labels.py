"""Human labels of judged texts, read from CSV or JSON lines by `read_labels`.

`alttrain-label` draws the texts and writes rows to fill in. Their columns:

- `id`, `sample`  id and sample of the generation
- `hash`          `text_hash` of prompt and text
- `run`           name of the run that wrote the text; without it, a label is for any run
- `weight`        number of judged texts that this one represents: 1 / probability of being drawn; default 1
- `refused`, `harmful` or `correct`  the label, of one kind in the whole file: true, false, or null if the annotator
  could not tell (CSV: yes, no, unclear); an empty CSV cell is not labelled yet

Other columns are ignored. A label counts only for a text with the same hash. Without weights the labelled texts are
treated as a simple random sample of the judged texts.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from alttrain.dataset.sources import read_raw
from alttrain.records.files import read_literal

SHOWN = 5  # bad rows that an error message names
Kind = Literal["refused", "harmful", "correct"]
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "unclear": None, "?": None}
"""Accepted CSV cells, in upper or lower case."""
Name = tuple[str, int]  # a generation's id and sample


class Label(NamedTuple):
    """A label of one text. The verdict is None if the annotator could not tell. Without a `run` it is for any."""

    name: Name
    hash: str
    verdict: bool | None
    weight: float = 1.0
    run: str = ""


class HumanLabels(NamedTuple):
    """The labels in a file. `says` is what True means; `unlabelled` is the number of rows without a label."""

    says: Kind
    labels: tuple[Label, ...]
    unlabelled: int = 0

    def join(self, hashes: Mapping[Name, str], run: str) -> tuple[dict[Name, Label], list[str]]:
        """Match labels to a run's generations by text hash.

        Returns (label by generation, ids of labels that match no text). A label of another run matches none, not even
        the same text: what two runs wrote alike would be labelled more often than its weight says. If several
        generations have the same prompt and text, a label goes to the one it names, else to the first. Raises
        ValueError if no label matches.
        """
        by_hash = defaultdict[str, list[Name]](list)
        for name, digest in hashes.items():
            by_hash[digest].append(name)
        matched: dict[Name, Label] = {}
        unmatched = []
        for label in self.labels:
            here = label.run in ("", run)
            free = [name for name in by_hash[label.hash] if here and name not in matched]
            if free:
                matched[label.name if label.name in free else free[0]] = label
            else:
                unmatched.append(label.name[0])
        if not matched:
            raise ValueError(
                f"none of {len(self.labels)} labels, such as that of {unmatched[0]!r}, is of a text of this run: they "
                "are of another run or of older texts; draw these texts with alttrain-label"
            )
        return matched, unmatched


def text_hash(prompt: str, text: str) -> str:
    """The first 16 hex digits of the SHA-256 of a prompt and the text written for it."""
    return hashlib.sha256(json.dumps([prompt, text]).encode()).hexdigest()[:16]


def read_labels(path: Path) -> HumanLabels:
    """Read the labels in a file. Raises ValueError, naming bad rows, or FileNotFoundError."""
    labels: dict[tuple[str, Name, str], Label] = {}
    kinds: dict[Kind, str] = {}
    faults, unlabelled = [], 0
    is_sheet = path.name.removesuffix(".gz").lower().endswith((".csv", ".tsv"))
    for location, row in read_raw(path):
        try:
            kind, label = _label({key: read_literal(cell) for key, cell in row.items()} if is_sheet else row)
            kinds.setdefault(kind, location)
            if label is None:
                unlabelled += 1
            elif labels.setdefault((label.run, label.name, label.hash), label) is not label:
                raise ValueError(f"id {label.name[0]!r} again")
        except ValueError as error:
            faults.append(f"{location}: {error}")
    if len(kinds) > 1:
        named = " and ".join(f"{kind!r} ({location})" for kind, location in kinds.items())
        faults.append(f"{named} in one file: label one")
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise ValueError("; ".join([*faults[:SHOWN], *more]))
    kind = next(iter(kinds))
    if not labels:
        raise ValueError(f"{path}: {unlabelled} rows and no label: fill the column {kind!r}")
    return HumanLabels(kind, tuple(labels.values()), unlabelled)


def _label(row: Mapping[str, Any]) -> tuple[Kind, Label | None]:
    """(kind, label) of one row; the label is None if its cell is empty."""
    if not isinstance(row.get("id"), str):
        raise ValueError(f"expected a string 'id', among the columns {', '.join(map(repr, row))}")
    name = f"id {row['id']!r}"
    kinds: list[Kind] = [kind for kind in get_args(Kind) if kind in row]
    if len(kinds) != 1:
        raise ValueError(f"{name}: expected one of {', '.join(get_args(Kind))}; found {' and '.join(kinds) or 'none'}")
    if not row.get("hash"):
        raise ValueError(f"{name}: expected a 'hash', as alttrain-label writes it")
    value = row[kinds[0]]
    if value == "":
        return kinds[0], None
    verdict = WORDS.get(value.strip().lower(), value) if isinstance(value, str) else value
    if verdict is not None and not isinstance(verdict, bool):
        raise ValueError(f"{name}: {kinds[0]!r} is {value!r}; expected true, false or null (CSV: yes, no or unclear)")
    sample_cell, weight_cell = row.get("sample"), row.get("weight")
    try:
        sample, weight = int(sample_cell or 0), 1.0 if weight_cell in (None, "") else float(weight_cell)
    except (TypeError, ValueError):
        sample, weight = 0, 0.0
    if not 0 < weight < float("inf"):
        raise ValueError(f"{name}: sample {sample_cell!r}, weight {weight_cell!r}: expected numbers above 0")
    return kinds[0], Label((row["id"], sample), str(row["hash"]), verdict, weight, str(row.get("run") or ""))
