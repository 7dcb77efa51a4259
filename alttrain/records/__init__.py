"""The rows that pass between stages, and their JSON lines on disk.

Every arrow between stages is a file of one of these frozen dataclasses, one JSON object a line, in UTF-8:

- `Example`    train.jsonl: a prompt with its label, the thought as an ordered tuple of named segments, and the answer
- `Generation` evaluation/<benchmark>/generations.jsonl: what a model wrote for one benchmark prompt
- `Judgement`  evaluation/<benchmark>/judgements.jsonl: one judge's verdict on one generation

Files are written whole and renamed into place (`write_rows`) or grown by whole lines (`append_rows`); a last line torn
by a kill is cut off by `repair_rows` before a stage goes on. No torch here.
"""

from alttrain.records.files import UNFINISHED, alone, clear_unfinished, write_json, write_text
from alttrain.records.lines import (
    Row,
    append_rows,
    build,
    decode,
    encode,
    iterate_rows,
    names_of,
    read_rows,
    repair_rows,
    sort_lines,
    sort_rows,
    write_rows,
)
from alttrain.records.rows import (
    Example,
    Generation,
    Judgement,
    Label,
    Rejected,
    Segment,
    Shape,
    Step,
    Texts,
    shape_of,
    withholds,
)

__all__ = [
    "UNFINISHED",
    "Example",
    "Generation",
    "Judgement",
    "Label",
    "Rejected",
    "Row",
    "Segment",
    "Shape",
    "Step",
    "Texts",
    "alone",
    "append_rows",
    "build",
    "clear_unfinished",
    "decode",
    "encode",
    "iterate_rows",
    "names_of",
    "read_rows",
    "repair_rows",
    "shape_of",
    "sort_lines",
    "sort_rows",
    "withholds",
    "write_json",
    "write_rows",
    "write_text",
]
