"""The rows that pass between stages, and their JSON lines on disk.

Every arrow between stages is a file of one of these frozen dataclasses, one JSON object a line, in UTF-8:

- `Example`    train.jsonl: a prompt with its label, the thought as an ordered tuple of named segments, and the answer
- `Generation` evaluation/<benchmark>/generations.jsonl: what a model wrote for one benchmark prompt
- `Judgement`  evaluation/<benchmark>/judgements.jsonl: one judge's verdict on one generation

Files are written whole and renamed into place (`write_rows`) or grown by whole lines (`append_rows`); a last line torn
by a kill is cut off by `repair_rows` before a stage goes on. Every file of a run, a cache or a folder from others is
read by `reading`, which names what is damaged and what to do. No torch here.
"""

from alttrain.records.documents import (
    Names,
    Rewritten,
    Trained,
    read_losses,
    read_metrics,
    read_sealed,
    write_sealed,
)
from alttrain.records.files import (
    UNFINISHED,
    alone,
    append,
    clear_unfinished,
    full_disk,
    replacing,
    write_json,
    write_text,
)
from alttrain.records.lines import (
    Row,
    append_rows,
    build,
    decode,
    encode,
    iterate_rows,
    named_lines,
    parse_rows,
    read_rows,
    repair_rows,
    sort_lines,
    sort_rows,
    unchanged,
    write_rows,
)
from alttrain.records.reading import (
    DamagedError,
    checksum,
    from_cache,
    kept_json,
    opened,
    read_bytes,
    read_json,
    read_utf8,
    seal,
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
    "DamagedError",
    "Example",
    "Generation",
    "Judgement",
    "Label",
    "Names",
    "Rejected",
    "Rewritten",
    "Row",
    "Segment",
    "Shape",
    "Step",
    "Texts",
    "Trained",
    "alone",
    "append",
    "append_rows",
    "build",
    "checksum",
    "clear_unfinished",
    "decode",
    "encode",
    "from_cache",
    "full_disk",
    "iterate_rows",
    "kept_json",
    "named_lines",
    "opened",
    "parse_rows",
    "read_bytes",
    "read_json",
    "read_losses",
    "read_metrics",
    "read_rows",
    "read_sealed",
    "read_utf8",
    "repair_rows",
    "replacing",
    "seal",
    "shape_of",
    "sort_lines",
    "sort_rows",
    "unchanged",
    "withholds",
    "write_json",
    "write_rows",
    "write_sealed",
    "write_text",
]
