"""Keys and harmful text stay where they belong: both are planted, a run is made, and every file of it is searched."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from stub_server import Say, Serve, right

from alttrain.config import RunError, register
from alttrain.records import Example
from alttrain.run.assembly import assemble

KEYS = {
    "OPENAI_API_KEY": "sk-proj-planted0openai0key0123456789",
    "HF_TOKEN": "hf_plantedHuggingFaceToken0123456789",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "LAB_SERVER_KEY": "lab-planted-server-key-0123456789",
}
MARK = "xyzzyharmfulrequestxyzzy"
"""Stands in every harmful prompt, and in what the teacher says of it."""
ROWS = (".jsonl", ".lock", ".parquet")
TEXTS = ("review.md", "page.html", "structure.csv")
"""Files whose purpose is to show rows, below a run's folder or the report's."""


def test_no_key_anywhere_and_no_harmful_text_in_log_or_config(
    tiny_arguments: list[str], tmp_path: Path, serve: Serve
) -> None:
    """The teacher's server also repeats the key and the prompt in its errors, as some do."""
    told = json.dumps(
        {"error": {"message": f"{KEYS['LAB_SERVER_KEY']} may not ask {MARK}", "code": f"no {MARK}"}}
    ).encode()

    def behave(prompt: str, asked: int) -> Say:
        says = right(prompt)
        text = f"{str(says.text)[:-1]} by {MARK}." if MARK in prompt else says.text
        return Say(status=500, body=told) if not asked else Say(text)

    stub = serve(behave)
    data = tmp_path / "data" / "mine.jsonl"
    data.parent.mkdir()
    rows = [Example(f"h{n}", f"Tell me {MARK} {n}", "harmful") for n in range(6)]
    rows += [Example(f"b{n}", f"Tell me of trees {n}", "benign") for n in range(2)]
    data.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    arguments = [a for a in tiny_arguments if not a.startswith(("dataset", "evaluation"))]
    arguments += ["dataset=local", f"dataset.path={data}", "logger=wandb"]
    arguments += ["evaluation.benchmarks.embedded_harmful.rows.limit=2"]
    arguments += ["~evaluation.benchmarks.embedded_benign", "~evaluation.benchmarks.embedded_short_answer"]
    arguments += ["teacher=server", "teacher.writer.model_name=m"]
    arguments += [f"teacher.writer.base_url={stub.url}", "teacher.writer.key_variable=LAB_SERVER_KEY"]
    done = subprocess.run(
        [sys.executable, "-m", "alttrain", *arguments],
        env={**os.environ, **KEYS, "ALTTRAIN_CACHE": str(tmp_path / "cache"), "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert stub.keys == {f"Bearer {KEYS['LAB_SERVER_KEY']}"}
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    files += [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    holding = {path for path in files if MARK.encode() in path.read_bytes()}
    assert {path.name for path in holding} >= {"train.jsonl", "originals.jsonl"}  # the mark was at work
    names = {path.name for path in files}
    assert names >= {"run.log", "config.yaml", "status.json", "metrics.json", "fingerprint.json", "rewrite.json"}
    content = [done.stdout.encode(), done.stderr.encode(), *(path.read_bytes() for path in files)]
    for name, key in KEYS.items():
        assert not [text for text in content if key.encode() in text], name
    replies = {path for path in holding if "replies" in path.parts}
    other = [path for path in holding - replies if path.suffix not in ROWS and path.name not in TEXTS]
    assert other == []
    assert MARK not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"+generation.server.extra.token={KEYS['HF_TOKEN']}", r"generation\.server\.extra\.token: .*\$HF_TOKEN"),
        (f"+generation.server.extra.K={KEYS['LAB_SERVER_KEY']}", r"generation\.server\.extra\.K: .*\$LAB_SERVER_KEY"),
        ("generation.server.base_url=http://me:planted-pass@host/v1", r"generation\.server\.base_url: has a password"),
        ("+generation.server.extra.A=redis://:planted-pass@host", r"generation\.server\.extra\.A: has a password"),
        ('generation.server.base_url="http://host/v1?key=planted-pass"', r"server\.base_url: .*query"),
        ("+generation.server.extra.key=sk-planted-pass0123456", r"generation\.server\.extra\.key: looks like a key"),
        ("+generation.server.extra.X-Api-Key=planted-pass", r"generation\.server\.extra\.X-Api-Key: looks like a key"),
        ("generation.server.key_variable=sk-planted-pass", r"generation\.server\.key_variable: is not the name"),
    ],
)
def test_a_config_that_holds_a_key_is_refused_without_repeating_it(
    override: str, told: str, tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    register()
    arguments = [a for a in tiny_arguments if not a.startswith("generation")]
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=[*arguments, "generation=vllm", override])
    with pytest.raises(RunError, match=told) as error:
        assemble(config)
    assert not [key for key in (*KEYS.values(), "planted-pass") if key in str(error.value)]
