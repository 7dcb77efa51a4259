"""The model card of what a run trained, in the hub's format: README.md in adapter/ or model/.

Made from the run's folder alone: run.json, fingerprint.json, rewrite.json, train.json, and once it is judged
evaluation/*/metrics.json. The same folder gives the same card. Paths of the machine it was made on are not in it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alttrain.records import Names, Rewritten, Trained, checksum, read_metrics, read_sealed, write_text
from alttrain.report.aside import inside
from alttrain.report.columns import MEASURES
from alttrain.report.forms import plain

TRAINED = ("adapter", "model")
"""Folders a run may leave: LoRA weights, or the whole model."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
WORTH_SAYING = 0.05
NOT_RECIPE = ("_target_", "name")


def card(run_folder: Path, record: Mapping[str, Any] | None = None) -> str:
    """The card. `record` is what train.json will hold, where training has only just ended."""
    names = _json(run_folder / "run.json", Names)
    if not names:
        raise FileNotFoundError(f"{run_folder / 'run.json'} is not there: a card is made of a run's folder")
    settings = _json(run_folder / "fingerprint.json")
    trained = dict(record) if record is not None else _json(run_folder / "train.json", Trained)
    paths = sorted(run_folder.glob("evaluation/*/metrics.json"))
    judged = [read_metrics(path) | {"asked": _json(path.with_name("fingerprint.json"))} for path in paths]
    lora = not str(settings.get("adapter._target_", "")).endswith("FullFineTuning")
    base = _base(names, settings, trained)
    what = f"A LoRA adapter for {base}" if lora else f"{base}, fine-tuned whole"
    parts = [
        _front_matter(base, names, settings, judged, lora),
        f"# {plain(names['run'])}",
        f"{what}, trained by alttrain with the reasoning structure `{names['rewrite']}`.",
        _use(lora, base),
        _made(run_folder, names, settings, trained),
        _results(judged),
        _limits(judged),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rewrite_card(run_folder: Path, source: Path | None = None) -> bool:
    """Write the card anew where it has changed; whether it had. `source` is a snapshot of the run, if there is one.

    Nothing is written where training is not finished, nor through a link that leads out of the folder of runs.
    """
    folders = [run_folder / name for name in TRAINED if (run_folder / name).is_dir()]
    paths = [folder / "README.md" for folder in folders if inside(run_folder.parent, folder)]
    if not paths or not (run_folder / "train.json").exists():
        return False
    text = card(source or run_folder)
    stale = [path for path in paths if checksum(path) != hashlib.sha256(text.encode()).hexdigest()]
    for path in stale:
        write_text(path, text)
    return bool(stale)


def _json(path: Path, schema: Any = dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = read_sealed(path, schema) if path.exists() else {}
    return found


def _base(names: Mapping[str, Any], settings: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """The backbone's id on the hub, or its name where it was read from a folder."""
    source, local = str(settings.get("backbone.source", "")), trained.get("weights") == "local"
    return source if HUB_ID.fullmatch(source) and not local else str(names["backbone"])


def _hubs(settings: Mapping[str, Any]) -> list[str]:
    """The data sets on the hub that the training set was drawn from."""
    found = {str(value) for key, value in settings.items() if re.fullmatch(r"dataset\.sources\.[^.]+\.hub", key)}
    return sorted(one for one in found if HUB_ID.fullmatch(one))


def _front_matter(
    base: str, names: Mapping[str, Any], settings: Mapping[str, Any], judged: list[dict[str, Any]], lora: bool
) -> str:
    """The hub's metadata. JSON strings are YAML strings."""
    lines = [f"base_model: {json.dumps(base)}"] if HUB_ID.fullmatch(base) else []
    lines += [f"library_name: {'peft' if lora else 'transformers'}", "pipeline_tag: text-generation"]
    lines.append(f"tags: [alttrain, safety, reasoning, {'lora' if lora else 'full-fine-tuning'}]")
    lines += [f"datasets: {json.dumps(hubs)}"] if (hubs := _hubs(settings)) else []
    results = [line for one in judged for line in _index(one)]
    if results:
        lines += ["model-index:", f"- name: {json.dumps(names['run'])}", "  results:", *results]
    return "\n".join(["---", *lines, "---"])


def _index(judged: Mapping[str, Any]) -> list[str]:
    """One benchmark's measure as an entry of the hub's model index, in percent."""
    metric, benchmark = judged["metrics"][0], str(judged["benchmark"])
    if metric["value"] is None:
        return []
    hub = judged["asked"].get(f"benchmark.{benchmark}.rows.hub") or benchmark
    protocol = judged.get("provenance", {}).get("protocol", "")
    name = f"{MEASURES[metric['metric']].label}, %, protocol {protocol}"
    return [
        "  - task: {type: text-generation}",
        f"    dataset: {{type: {json.dumps(str(hub))}, name: {json.dumps(benchmark)}}}",
        f"    metrics: [{{type: {metric['metric']}, value: {100 * metric['value']:.1f}, name: {json.dumps(name)}}}]",
    ]


def _use(lora: bool, base: str) -> str:
    model = "Model.from_pretrained(FOLDER)"
    loader = "from transformers import AutoModelForCausalLM as Model"
    if lora and HUB_ID.fullmatch(base):
        loader = "from peft import AutoPeftModelForCausalLM as Model"
    elif lora:  # the adapter cannot say where its backbone is
        loader += "\nfrom peft import PeftModel"
        model = "PeftModel.from_pretrained(Model.from_pretrained(BACKBONE), FOLDER)"
    return f"""## Use

```python
{loader}
from transformers import AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), {model}
prompt = tokenizer.apply_chat_template([{{"role": "user", "content": "..."}}], add_generation_prompt=True)
```

The chat template is saved with the tokenizer; it opens the thought that the model was trained to write.
Special tokens that a message spells, such as an end of turn, become these tokens there: take them out of messages that
you do not trust."""


def _made(run_folder: Path, names: Mapping[str, Any], settings: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """Data, structure and recipe."""
    counts = _json(run_folder / "rewrite.json", Rewritten)
    labels = ", ".join(f"{count:,} {label}" for label, count in sorted(counts.get("labels", {}).items()))
    hubs = f", drawn from {', '.join(_hubs(settings))}" if _hubs(settings) else ""
    origins = "; ".join(f"{origin}, {count:,}" for origin, count in sorted(counts.get("origins", {}).items()))
    recipe = {
        key: value
        for key, value in settings.items()
        if key.split(".")[0] in ("training", "adapter") and key.rpartition(".")[2] not in NOT_RECIPE
    }
    rows = [f"| {key} | {plain(str(value))} |" for key, value in recipe.items()]
    return "\n".join(
        [
            "## Training",
            "",
            f"- **Data**: dataset `{names['dataset']}`, {counts.get('written', 0):,} examples ({labels}){hubs}.",
            f"- **Structure**: as `rewrite={names['rewrite']}` writes it" + (f": {origins}." if origins else "."),
            f"- **Training**: {trained['steps']:,} steps over {trained['tokens']:,} tokens in {trained['precision']}, "
            f"seed {names['seed']}; final loss {trained['final_loss']}.",
            "",
            "| recipe | value |",
            "|---|---|",
            *rows,
        ]
    )


def _results(judged: list[dict[str, Any]]) -> str:
    """Each benchmark's measure, and how often the thought holds the structure."""
    if not judged:
        return ""
    heads = ["benchmark", "protocol", "measure", "%", "95 % interval", "n", "undecided", "truncated"]
    lines = ["## Results", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in judged:
        provenance = one.get("provenance", {})
        protocol = f"{provenance.get('protocol', '')} {provenance.get('protocol_hash', '')}".strip()
        names = [plain(one["benchmark"]), plain(protocol)]
        for metric in one["metrics"]:
            if metric is one["metrics"][0] or metric["metric"] == "adherence_rate":
                heading = MEASURES[metric["metric"]].heading
                known = metric["value"] is not None
                value = f"{100 * metric['value']:.1f}" if known else "undecided"
                interval = f"{100 * metric['low']:.1f}–{100 * metric['high']:.1f}" if known else ""
                counts = [str(metric["n"] - metric["undecided"]), str(metric["undecided"]), str(metric["truncated"])]
                lines.append("| " + " | ".join([*names, heading, value, interval, *counts]) + " |")
    lines += ["", "One seed; ↓ lower is better, ↑ higher is better. Undecided rows are in no rate."]
    return "\n".join(lines)


def _limits(judged: list[dict[str, Any]]) -> str:
    lines = [
        "A refusal learned from examples is no guarantee: measure it on your own prompts, over-refusal and ability",
        "included. It inherits what its base model knows and gets wrong.",
    ]
    found = []
    judges = {name for one in judged for name in one.get("provenance", {}).get("judges", {})}
    if "refusal" in judges:
        found.append("Refusals were judged by a small linear model of English; docs/judges.md says how often it errs.")
    for one in judged:
        metric = one["metrics"][0]
        for what in ("undecided", "truncated"):
            if metric[what] > WORTH_SAYING * metric["n"]:
                found.append(f"{one['benchmark']}: {metric[what]} of {metric['n']} texts were {what}.")
        if one.get("contaminated"):
            found.append(f"{one['benchmark']}: {len(one['contaminated'])} training prompts are also in it, or nearly.")
    if not judged:
        found.append("Not evaluated yet.")
    return "\n".join(["## Limits", "", *lines, *([""] if found else []), *(f"- {line}" for line in found)])
