"""What a user gets wrong ends in a short message and a failing exit code, before anything is written."""

from pathlib import Path

import processes
import pytest

GOOD = '{"prompt": "How do I bake bread?", "label": "benign"}\n'
DATA = {
    "malformed.jsonl": GOOD + '{"prompt": "b",\n',
    "questions.jsonl": '{"Q": "How do I bake bread?", "label": "benign"}\n',
}
LONGEST = 900  # characters; the longest is a list of accepted names
MOST_LINES = 7


def alttrain(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and everything printed, with no network and no weights to fall back on."""
    done = processes.alttrain(
        arguments, folder=folder, ALTTRAIN_CACHE=str(folder.parent / "cache"), COLUMNS="200", PIP_NO_INDEX="1"
    )
    return done.returncode, done.stdout + done.stderr


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with bad data files, and a file where a folder might be expected."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name, text in DATA.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "a_file").write_text("mine", encoding="utf-8")
    return folder


def local(name: str) -> list[str]:
    return ["dataset=local", f"dataset.path={name}", "output_dir=out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backbone.source=/no/such/model", "output_dir=out"], ["backbone.source=/no/such/model", "give a model"]),
        (local("."), [": no such data file"]),
        (local("malformed.jsonl"), ["malformed.jsonl:2: malformed JSON"]),
        (
            [*local("questions.jsonl"), "dataset.columns.promt=Q"],
            ["columns.promt='Q': no such field", "accepted: id, prompt", "did you mean 'prompt'?"],
        ),
        (["benchmark=mine", "output_dir=out"], ["+benchmark@evaluation.benchmarks.mine=mine; there are: advbench,"]),
        ([*local("a_file"), "+dataset.colums={prompt: q}"], ["dataset.colums", "did you mean 'columns'"]),
        (["output_dir=a_file"], ["output_dir=a_file", "is not a folder", "set output_dir"]),
        (
            ["-m", "seed=0,1", "output_dir=a_file/x"],
            ["output_dir=a_file/x", "a_file is not a folder", "set output_dir"],
        ),
        (["tag=../up", "stages=[report]", "output_dir=out"], ["tag='../up'", "folder name"]),
        (
            ["evaluation=safety", "output_dir=out", "data_dir=data"],
            ["data/strongreject/strongreject_dataset.csv: no such data file"],
        ),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_mistake_is_told_shortly_and_nothing_is_written(work: Path, arguments: list[str], words: list[str]) -> None:
    before = snapshot(work)
    code, printed = alttrain(work, *arguments)
    assert code in (1, 2), printed
    assert "Traceback" not in printed
    assert [word for word in words if word not in printed] == [], printed
    assert len(printed) < LONGEST
    assert len(printed.splitlines()) <= MOST_LINES
    assert snapshot(work) == before


def test_sweep_with_only_bad_jobs_writes_nothing(work: Path) -> None:
    before = snapshot(work)
    code, printed = alttrain(work, "-m", "tag=a/b,c/d", "stages=[judge]", "output_dir=out")
    assert code in (1, 2), printed
    assert "Traceback" not in printed
    assert "tag='a/b'" in printed
    assert snapshot(work) == before


def test_node_without_target_has_no_traceback(work: Path) -> None:
    code, printed = alttrain(work, "~training._target_", "stages=[check]", "output_dir=out")
    assert code in (1, 2), printed
    assert "Traceback" not in printed
    assert "training" in printed


def test_a_check_alone_ends_with_ready_or_with_what_is_not_here(work: Path) -> None:
    """Exit code 1 if a later stage could not run: weights out of reach, no GPU, too little memory."""
    rows = [*local("questions.jsonl"), "dataset.columns.prompt=Q", "evaluation=none", "stages=[check]"]
    code, said = alttrain(work, *rows, "training=demo", "adapter=lora", "rewrite=none")
    assert (code, said.splitlines()[-1]) == (0, "ready     smollm2_135m-local-none-demo-s0"), said
    code, said = alttrain(work, *rows, "backbone=qwen3_32b", "rewrite=none", "backbone.shape.layers=4096")
    reasons = [line for line in said.splitlines() if line.startswith("not ready ")]
    assert code == 1, said
    assert reasons[0].startswith("not ready backbone.source=Qwen/Qwen3-32B: not in the hub's cache, and the hub cannot")
    assert "train needs about " in reasons[-1]
    sweep = ["-m", "experiment=demo", "trainer=gpu_80gb", "stages=[check]", "output_dir=out"]
    code, said = alttrain(work, *sweep)
    assert code == 1, said
    assert "not ready trainer.accelerator=gpu, and there is no GPU here; " in said
    assert "(in 2 of 2 jobs)" in said
    code, said = alttrain(
        work, "-m", "experiment=demo", "generation=vllm", "seed=0,1", "stages=[check]", "output_dir=out"
    )
    assert code == 1, said
    assert "not ready generation.command: 'vllm' cannot be started" in said
    assert "(in 4 of 4 jobs)" in said
