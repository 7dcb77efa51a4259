"""files.md of a run's folder names every field of the rows."""

import dataclasses
import re
from importlib import resources

from alttrain.evaluation import Adherence
from alttrain.records import Example, Generation, Judgement, Segment


def test_every_field_is_described() -> None:
    text = resources.files("alttrain.run").joinpath("files.md").read_text("utf-8")
    sections = text.split("\n## ")
    rows = {"originals.jsonl": (Example, Segment), "generations.jsonl": (Generation,)}
    rows |= {"judgements.jsonl": (Judgement,), "adherence.jsonl": (Adherence,)}
    for file, types in rows.items():
        (section,) = (one for one in sections if file in one.splitlines()[0])
        named = set(re.findall(r"`(\w+)`", section)) | {"checksum", "id", "sample", "label"}
        fields = {field.name for kind in types for field in dataclasses.fields(kind)}
        assert fields <= named, f"{file}: {sorted(fields - named)}"
