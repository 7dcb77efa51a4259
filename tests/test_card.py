"""Model cards as the hub reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from made_runs import judge_benchmark, make_run, mend

from alttrain.records import DamagedError, write_sealed
from alttrain.report.card import card, rewrite_card

SETTINGS = {
    "backbone.source": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "backbone.name": "r1_llama_8b",
    "adapter._target_": "alttrain.backbone.LoRA",
    "adapter.rank": 16,
    "training._target_": "alttrain.training.SupervisedFineTuning",
    "training.learning_rate": 1e-5,
    "dataset.sources.star1.hub": "UCSC-VLAA/STAR-1",
    "dataset.sources.local.path": "/data/private.jsonl",
}
TRAINED = {"steps": 10, "tokens": 2_505_000, "precision": "bfloat16", "seconds": 60.0, "final_loss": 0.2}
TRAINED |= {"device": "cuda", "examples": 1000}
SETS = {"strongreject": ("harmful_rate", "ynnnu"), "xstest_safe": ("over_refusal_rate", "ynnn")}


def trained(runs: Path, settings: dict[str, Any] = SETTINGS, name: str = "adapter", sets: Any = SETS) -> Path:
    """A judged run with what it trained."""
    folder = make_run(runs, sets, settings=settings, labels={"harmful": 900, "benign": 100}, trained=TRAINED)
    (folder / name).mkdir()
    (folder / name / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def metadata(text: str) -> dict[str, Any]:
    """The front matter, as YAML."""
    start, front, _ = text.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def rates(folder: Path) -> dict[str, dict[str, Any]]:
    """Benchmark -> its measure in metrics.json."""
    found = [json.loads(path.read_text()) for path in folder.glob("evaluation/*/metrics.json")]
    return {one["benchmark"]: one["metrics"][0] for one in found}


def section(text: str, name: str) -> str:
    """A section of the card, without those after it."""
    return text.partition(f"## {name}\n")[2].partition("\n## ")[0]


def test_the_front_matter_is_what_the_hub_wants(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    text = card(folder)
    told = metadata(text)
    assert told["base_model"] == SETTINGS["backbone.source"]
    assert (told["library_name"], told["pipeline_tag"]) == ("peft", "text-generation")
    assert told["datasets"] == ["UCSC-VLAA/STAR-1"]
    assert {"alttrain", "lora"} <= set(told["tags"])
    read = ModelCard(text).data  # what the hub's own reader makes of it
    assert (read.base_model, read.library_name) == (told["base_model"], "peft")
    results = {one.dataset_name: one for one in read.eval_results}
    assert {name: one.metric_value for name, one in results.items()} == {
        name: round(100 * metric["value"], 1) for name, metric in rates(folder).items()
    }
    assert results["strongreject"].metric_type == "harmful_rate"


def test_a_result_has_its_own_benchmarks_data_set(tmp_path: Path) -> None:
    """Though another's name begins as its does, and it stands there under another protocol too."""
    sets = dict.fromkeys(("xstest_safe", "xstest_safe2"), ("over_refusal_rate", "ynnn"))
    folder = trained(tmp_path, sets=sets)
    judge_benchmark(folder / "evaluation" / "xstest_safe", "xstest_safe", "over_refusal_rate", "yy", "offline", "h", 9)
    for own in (folder / "evaluation").iterdir():
        name, _, protocol = own.name.partition(".")
        hub = f"{protocol or 'offline'}/{name}"
        (own / "fingerprint.json").write_text(json.dumps({f"benchmark.{name}.rows.hub": hub}))
    told = metadata(card(folder))["model-index"][0]["results"]
    assert {(one["dataset"]["type"], one["dataset"]["name"]) for one in told} == {
        ("offline/xstest_safe", "xstest_safe"),
        ("alttrain/xstest_safe", "xstest_safe"),
        ("alttrain/xstest_safe2", "xstest_safe2"),
    }


def test_results_are_those_of_metrics_json(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    told = section(card(folder), "Results")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("|")]
    found = {row[0]: row for row in rows[2:] if "adherence" not in row[2]}
    for benchmark, metric in rates(folder).items():
        *_, value, interval, n, undecided, truncated = found[benchmark]
        assert value == f"{100 * metric['value']:.1f}"
        assert interval == f"{100 * metric['low']:.1f}–{100 * metric['high']:.1f}"
        assert int(n) == metric["n"] - metric["undecided"]  # what the value is over
        assert [undecided, truncated] == [str(metric[key]) for key in ("undecided", "truncated")]
    assert "One seed" in told


def test_limits_say_what_the_numbers_do_not(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    limits = section(card(folder), "Limits")
    assert "no guarantee" in limits
    assert "strongreject: 1 of 5 texts were undecided." in limits
    own = folder / "evaluation" / "xstest_safe.alttrain"
    mend(own, lambda record: record.update(contaminated=[{}, {}]))
    mend(own, lambda record: record["provenance"].update(judges={"refusal": {}}))
    limits = section(card(folder), "Limits")
    assert "xstest_safe: 2 training prompts are also in it, or nearly." in limits
    assert "judged by a small linear model" in limits
    assert "Not evaluated yet." in section(card(trained(tmp_path / "unjudged", sets={})), "Limits")


def test_data_and_recipe_are_told_and_paths_are_not(tmp_path: Path) -> None:
    text = card(trained(tmp_path))
    training = section(text, "Training")
    assert "1,000 examples (100 benign, 900 harmful), drawn from UCSC-VLAA/STAR-1" in training
    assert "10 steps over 2,505,000 tokens in bfloat16" in training
    assert "| training.learning_rate | 1e-05 |" in training
    assert "| adapter.rank | 16 |" in training
    assert "/data/" not in text
    assert str(tmp_path) not in text


def test_a_whole_model_is_no_adapter_and_a_folder_no_hub_id(tmp_path: Path) -> None:
    settings = SETTINGS | {"adapter._target_": "alttrain.backbone.FullFineTuning", "backbone.source": "/models/mine"}
    text = card(trained(tmp_path, settings, "model"))
    told = metadata(text)
    assert told["library_name"] == "transformers"
    assert "base_model" not in told
    assert "full-fine-tuning" in told["tags"]
    assert "/models" not in text


def test_a_backbone_read_from_a_folder_goes_by_its_name_and_is_asked_of_the_reader(tmp_path: Path) -> None:
    """Though its relative folder looks like an id of the hub's."""
    folder = trained(tmp_path, SETTINGS | {"backbone.source": "models/mine"})
    record = json.loads((folder / "train.json").read_text())
    write_sealed(folder / "train.json", record | {"weights": "local"})
    text = card(folder)
    assert "models/mine" not in text
    assert "base_model" not in metadata(text)
    assert "PeftModel.from_pretrained(Model.from_pretrained(BACKBONE), FOLDER)" in section(text, "Use")
    assert "BACKBONE" not in card(trained(tmp_path / "hub"))


def test_a_card_is_written_where_it_changed(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    assert rewrite_card(folder)
    assert (folder / "adapter" / "README.md").read_text() == card(folder)
    assert not rewrite_card(folder)
    (folder / "train.json").unlink()
    assert not rewrite_card(folder)


def test_a_card_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"run\.json: is not there"):
        card(tmp_path)
