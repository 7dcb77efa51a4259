"""What people say of generations. Reads a file of human labels.

It is JSON lines, each with the generation's `id` and one of `refused` or `harmful`, the same in every row: true, false,
or null where the annotator could not tell. Other fields (a note, the annotator) are ignored.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from alttrain.evaluation.statistics import Verdicts

SHOWN = 5
"""Bad rows that one error names."""


@dataclass(frozen=True)
class HumanLabels:
    """A person's verdicts by id, and what True means in them."""

    says: Literal["refused", "harmful"]
    verdicts: Verdicts


def read_labels(path: Path) -> HumanLabels:
    """The human labels in a JSON lines file. Raises ValueError that names the bad rows, or FileNotFoundError."""
    verdicts: dict[str, bool | None] = {}
    kinds: dict[str, int] = {}
    bad = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, kind, value = _label(line)
            if name in verdicts:
                raise ValueError(f"id {name!r} again")
            verdicts[name] = value
            kinds.setdefault(kind, number)
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if len(kinds) > 1:
        lines = " and ".join(f"{kind!r} (line {number})" for kind, number in kinds.items())
        bad.append(f"{lines} in one file: label one of them")
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(f"{path}: {'; '.join(bad[:SHOWN])}{more}")
    if not verdicts:
        raise ValueError(f'{path}: no labels; expected lines such as {{"id": "x1", "refused": true}}')
    return HumanLabels(cast(Literal["refused", "harmful"], next(iter(kinds))), verdicts)


def _label(line: str) -> tuple[str, str, bool | None]:
    """(id, kind, value) of one line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON object: {error.msg}") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise ValueError("expected an object with a string 'id'")
    kinds = [kind for kind in ("refused", "harmful") if kind in row]
    if len(kinds) != 1:
        raise ValueError(
            f"id {row['id']!r}: expected one of 'refused' and 'harmful', found {' and '.join(kinds) or 'none'}"
        )
    value = row[kinds[0]]
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"id {row['id']!r}: {kinds[0]!r} is {value!r}; expected true, false or null")
    return row["id"], kinds[0], value
