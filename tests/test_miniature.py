"""The paper in miniature: experiment=main with every method that trains in its own way, twice, without a hand on it.

The data has its upstream form, the backbone R1's tokenizer cut down and two random layers, GPT-4o and the judge are a
stub server. Settings are the true ones, but for the amounts of data: where they differ, no published figure is shown.
"""

import csv
import json
from pathlib import Path

import pytest
from miniature import build
from packages import needs
from processes import alttrain
from stub_server import Say, Serve, Stub, right

from alttrain.evaluation.sandbox import bubblewrap_fault

TOKENIZER = Path(__file__).parent / "fixtures" / "tokenizers" / "r1_distill_qwen"
AS_PUBLISHED = ["no_train", "intention_analysis", "direct_refusal", "safechain", "star1", "r1_act"]
AS_PUBLISHED += ["safepath_qwen", "safekey"]
WRITING_ITSELF = ["thinksafe"]
WITH_LESS = ["plain", "alttrain"]
SETS = ["jailbreakbench_harmful", "strongreject", "wildjailbreak_safechain", "jbb_gcg", "jbb_jbc", "jbb_pair"]
SETS += ["xstest_safe", "gsm8k", "math500", "aime_2024", "humaneval"]

pytestmark = [
    needs("walledeval"),
    pytest.mark.skipif(bool(bubblewrap_fault()), reason=f"HumanEval needs its sandbox: {bubblewrap_fault()}"),
]


@pytest.fixture
def stub(serve: Serve) -> Stub:
    """GPT-4o: a teacher's sentence, or a judge's class."""

    def behave(prompt: str, before: int) -> Say:
        return right(prompt) if "<request>" in prompt else Say("full_refusal" if len(prompt) % 2 else "full_compliance")

    server = serve(behave)
    server.models = ["gpt-4o-2024-08-06", "gpt-4o-2024-11-20"]
    return server


def sweep(folder: Path, stub: Stub, *overrides: str) -> str:
    """Run experiment=main; what it said on the way."""
    environment = {
        "HF_HUB_CACHE": str(folder / "hub"),
        "ALTTRAIN_CACHE": str(folder / "cache"),
        "OPENAI_API_KEY": "not-a-key",
        "PLANTED": f"from huggingface_hub import constants\nconstants.HF_HUB_CACHE = {str(folder / 'hub')!r}",
    }
    command = ["-m", "experiment=main", "trainer=cpu", "backbone=r1_qwen_7b", "seed=0"]
    command += [
        f"data_dir={folder / 'data'}",
        f"output_dir={folder / 'outputs'}",
        f"teacher.writer.base_url={stub.url}",
    ]
    command += [f"protocol.judges.over_refusal_rate.writer.base_url={stub.url}", "page_texts=none", *overrides]
    done = alttrain(command, **environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def table(folder: Path) -> list[dict[str, str]]:
    """The cells of the table of all runs."""
    with (folder / "outputs" / "report" / "tables" / "overview.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_method_of_the_paper_runs_to_its_table_and_runs_again_without_work(tmp_path: Path, stub: Stub) -> None:
    build(tmp_path, TOKENIZER)
    commands = [
        [f"method={','.join(AS_PUBLISHED)}"],
        [f"method={','.join(WRITING_ITSELF)}", "rewrite.may_lose=1.0"],  # a random backbone ends few thoughts
        [f"method={','.join(WITH_LESS)}", "dataset.size=20", "dataset.harmful_share=0.8"],
    ]
    for command in commands[:-1]:
        sweep(tmp_path, stub, *command, "stages=[check,rewrite,train,generate,judge]")
    sweep(tmp_path, stub, *commands[-1])  # and reports on all

    runs = {
        json.loads(path.read_text())["method"]: path.parent for path in (tmp_path / "outputs/runs").glob("*/run.json")
    }
    assert sorted(runs) == sorted(AS_PUBLISHED + WRITING_ITSELF + WITH_LESS)
    for folder in runs.values():
        assert {path.name.partition(".")[0] for path in (folder / "evaluation").iterdir()} == set(SETS)
        assert (folder / "train.json").exists() == (folder / "rewrite.json").exists()
    shapes = json.loads((runs["r1_act"] / "rewrite.json").read_text())["shapes"]
    assert set(shapes) == {"thought_only", "answer_only"}
    assert json.loads((runs["alttrain"] / "run.json").read_text())["changed"]["dataset.size"] == [1000, 20]

    cells = table(tmp_path)
    assert len({one["method"] for one in cells}) == len(runs)
    assert not [one for one in cells if one["published"]]  # the sets have fewer rows than the published ones
    changed = [one for one in cells if one["method"].startswith("AltTrain, changed: ")]
    assert {one["published_why"] for one in changed if one["measure"] == "over_refusal_rate"} == {"changed"}
    metrics = json.loads((runs["no_train"] / "evaluation/strongreject.alttrain/metrics.json").read_text())
    assert metrics["provenance"]["changed"] == {"rows": [313, 2]}

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs/runs").rglob("*.jsonl")}
    asked = len(stub.requests)
    again = "".join(sweep(tmp_path, stub, *command) for command in commands[1:])  # these write and ask most
    assert not [line for line in again.splitlines() if line.startswith(("train ", "generate ", "judge ", "rewrite "))]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(stub.requests) == asked
