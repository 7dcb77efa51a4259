"""The model card of a trained adapter or model, in the hub's format: README.md in adapter/ or model/.

card.md is the template. The card is made from the run's folder alone: run.json, fingerprint.json, rewrite.json,
train.json, and evaluation/*/metrics.json once the run is judged. The same folder gives the same card. The card contains
no paths of the machine.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from alttrain.records import (
    RewriteDocument,
    RunDocument,
    TrainDocument,
    checksum,
    read_document,
    read_if_there,
    read_metrics,
    write_text,
)
from alttrain.report.escaping import escape_markdown
from alttrain.report.measures import MEASURES, WORTH_SAYING

TRAINED = ("adapter", "model")  # folders that a run may contain: LoRA weights, or the whole model
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def card(run_folder: Path, record: Mapping[str, Any] | None = None) -> str:
    """The card's text. `record` is the content of train.json if that is not written yet; then there are no results."""
    names = read_document(run_folder / "run.json", RunDocument)
    settings = read_document(run_folder / "fingerprint.json")
    trained = dict(record) if record is not None else read_if_there(run_folder / "train.json", TrainDocument)
    counts = read_if_there(run_folder / "rewrite.json", RewriteDocument)
    paths = sorted(run_folder.glob("evaluation/*/metrics.json")) if record is None else []
    documents = {path: read_metrics(path) for path in paths}
    judged = {path: metrics for path, metrics in documents.items() if not metrics["provenance"]["intervention"]}
    results = [result for path, metrics in judged.items() for result in _results(metrics, path.parent)]
    source = str(settings.get("backbone.source", ""))
    on_hub = HUB_ID.fullmatch(source) and not str(trained.get("weights")).startswith("local")
    hubs = {str(value) for key, value in settings.items() if re.fullmatch(r"dataset\.sources\.[^.]+\.hub", key)}
    recipe = {key: value for key, value in settings.items() if key.startswith(("training.", "adapter."))}
    return _template().render(
        **{key: names[key] for key in ("run", "dataset", "rewrite", "seed")},
        base=source if on_hub else str(names["backbone"]),
        lora=not str(settings.get("adapter._target_", "")).endswith("FullFineTuning"),
        hubs=sorted(filter(HUB_ID.fullmatch, hubs)),
        trained=trained,
        written=counts.get("written", 0),
        labels=[f"{count:,} {label}" for label, count in sorted(counts.get("labels", {}).items())],
        origins=[f"{origin}, {count:,}" for origin, count in sorted(counts.get("origins", {}).items())],
        recipe={key: value for key, value in recipe.items() if not key.endswith(("._target_", ".name"))},
        results=results,
        measured=[result for result in results if result["first"] and result["value"] is not None],
        judged=list(judged.values()),
        worth_saying=WORTH_SAYING,
    )


@cache
def _template() -> Template:
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"plain": escape_markdown, "json": json.dumps}
    environment.tests["hub_id"] = HUB_ID.fullmatch
    return environment.from_string(files("alttrain.report").joinpath("card.md").read_text("utf-8"))


def rewrite_card(run_folder: Path) -> bool:
    """Rewrite the card if it has changed. Returns whether it was written.

    Nothing is written if training is not finished, nor through a link that leads out of the folder of runs.
    """
    folders = [run_folder / name for name in TRAINED if (run_folder / name).is_dir()]
    runs = run_folder.parent.resolve()
    paths = [folder / "README.md" for folder in folders if folder.resolve().is_relative_to(runs)]
    if not paths or not (run_folder / "train.json").exists():
        return False
    text = card(run_folder)
    stale = [path for path in paths if checksum(path) != hashlib.sha256(text.encode()).hexdigest()]
    for path in stale:
        write_text(path, text)
    return bool(stale)


def _results(judged: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A benchmark's own measure and its adherence rate. `judged` is the metrics.json in the evaluation's folder."""
    provenance, benchmark = judged["provenance"], str(judged["benchmark"])
    protocol, judge = provenance["protocol"], judged["analysis"]["decides"]["judge"]
    names = {"benchmark": benchmark, "made": f"{protocol} {provenance['protocol_hash']}"}
    settings = read_if_there(folder / "fingerprint.json")
    names["hub"] = str(settings.get(f"benchmark.{benchmark}.rows.hub") or benchmark)
    results = []
    for metric in judged["metrics"]:
        if (first := metric is judged["metrics"][0]) or metric["metric"] == "adherence_rate":
            measure = MEASURES[metric["metric"]]
            by_judge = f" by {judge}" if first else ""
            heading, name = f"{measure.heading()}{by_judge}", f"{measure.label}, %, protocol {protocol}{by_judge}"
            results.append({**names, **metric, "first": first, "heading": heading, "named": name})
    return results
