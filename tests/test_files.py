"""files.md of a run's folder names every field of the rows."""

import dataclasses
import re
from importlib import resources
from typing import Any

import pytest

from alttrain.evaluation import Adherence, Summary
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


@pytest.mark.parametrize("measure", ["harmful_rate", "over_refusal_rate", "accuracy"])
def test_every_metric_is_described(measure: Any) -> None:
    text = resources.files("alttrain.run").joinpath("files.md").read_text("utf-8")
    row = Generation("a", "Hi?", "benign", "", (), "", "", "Yes.", True, "stop", 3, 5)
    summary = Summary(measure, "correct" if measure == "accuracy" else "refused")
    summary.add(row, Judgement("a", "judge", True, value=0.5), Adherence.of(row))
    assert [metric.metric for metric in summary.metrics() if f"`{metric.metric}`" not in text] == []
