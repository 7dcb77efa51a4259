"""alttrain-show: a batch with its supervised tokens marked, and a row's old thought against its new one."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from alttrain.config import register
from alttrain.records import Example, Segment, write_rows
from alttrain.run import show

OLD = Example(
    "a",
    "Hi?",
    "harmful",
    category="violence",
    thought=(Segment("reasoning", "They greet. Then more.", "trace"),),
    answer="Old.",
    source="star1",
)
NEW = replace(
    OLD,
    thought=(
        Segment("understanding", "They greet.", "trace"),
        Segment("assessment", "It is harmful.", "teacher:t", "abc123"),
    ),
    answer="No.",
)
UNTRACED = replace(NEW, id="b", prompt="Yes?", thought=NEW.thought[1:])


@pytest.fixture
def run(tiny_folder: Path, tmp_path: Path) -> Path:
    template = {"_target_": "alttrain.backbone.ChatTemplate", "system": "{content}", "user": "U{content}|"}
    template |= {"assistant": "A", "think_open": "<t>", "think_close": "</t>", "end": "<|im_end|>"}
    backbone = {"_target_": "alttrain.backbone.Backbone", "name": "tiny", "source": str(tiny_folder)}
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        whole: Any = OmegaConf.to_container(compose("run", ["experiment=demo", "method=demo_alttrain"]), resolve=True)
    whole["method"]["system_prompt"] = "Be kind"  # of the training, instead of the backbone's
    config = whole | {
        "backbone": {**backbone, "context_length": 512, "template": template},
        "training": {"_target_": "alttrain.training.SupervisedFineTuning", "name": "t", "epochs": 2, "batch_size": 2}
        | {"learning_rate": 1.0, "warmup_steps": 0, "max_length": 60},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    write_rows(tmp_path / "train.jsonl", [NEW, UNTRACED, replace(NEW, id="long", answer="x" * 99)])
    write_rows(tmp_path / "originals.jsonl", [OLD])
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["alttrain-show", *arguments])
    code = 0
    try:
        show.main()
    except SystemExit as end:
        code = int(end.code or 0)
    output = capsys.readouterr()
    return code, output.out + output.err


def test_batch_marks_exactly_the_supervised_text(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = printed(capsys, monkeypatch, str(run), "--batch")
    assert code == 0
    assert text.startswith("step 0 of 2: 2 examples, ")
    assert "1 rows of the run are left out as too long" in text
    assert "Be kindUHi?|A<t>[[They greet.\n\nIt is harmful.</t>No.<|im_end|>]]\n" in text
    assert "Be kindUYes?|A<t>[[It is harmful.</t>No.<|im_end|>]]\n" in text
    assert "a: 51 tokens, 35 supervised" in text.replace("\n", " ")


def test_styles_stand_for_marks_on_a_terminal(run: Path) -> None:
    _, _, example, *_ = show.show_batch(run, 0, styled=True)
    assert "[[" not in example.plain
    assert [span.style for span in example.spans] == ["dim", "green"]


def test_row_shows_old_against_new(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = printed(capsys, monkeypatch, str(run), "--row", "a")
    assert code == 0
    assert "a: harmful, violence, star1" in text
    assert "old thought, 22 characters, trace\nThey greet. Then more.\n" in text
    assert "[understanding: trace]\nThey greet.\n" in text
    assert "[assessment: teacher:t, prompt abc123]\nIt is harmful.\n" in text
    assert "old answer\nOld.\n\nnew answer\nNo.\n" in text


def test_row_without_an_original_says_so(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = printed(capsys, monkeypatch, str(run), "--row", "b")
    assert code == 0
    assert "no old thought: the row had no trace before the rewrite" in text


@pytest.mark.parametrize("arguments", [["--row", "a"], ["--batch"]])
def test_a_terminal_obeys_nothing_in_a_row(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    write_rows(run / "train.jsonl", [replace(NEW, id=name, prompt="\x1b[2J\x9bm\nHi") for name in "ab"])
    code, text = printed(capsys, monkeypatch, str(run), *arguments)
    assert code == 0
    assert "\ufffd[2J\ufffdm\nHi" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--row", ""], "train.jsonl has no row with id ''"),
        (["--row", "zz"], "train.jsonl has no row with id 'zz'"),
        (["--batch", "9"], "--batch 9: this run has steps 0 to 1"),
    ],
)
def test_what_is_not_there_is_told(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    code, text = printed(capsys, monkeypatch, str(run), *arguments)
    assert code == 2
    assert message in text


def test_a_folder_that_is_no_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = printed(capsys, monkeypatch, str(tmp_path), "--batch")
    assert code == 2
    assert f"{tmp_path} is not the folder of a run, such as outputs/runs/NAME" in text
